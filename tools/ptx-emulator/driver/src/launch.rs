//! What streams and graphs do: launches first of all.

use std::ffi::{c_int, c_uint, c_void};
use std::sync::Arc;

use ptx_emulator::checker::{Report, Reports};
use ptx_emulator::machine::fault::{Fault, FaultKind};
use ptx_emulator::machine::grid::{Advance, Execution, Grid, Limits};
use ptx_emulator::machine::kernel::Kernel;
use ptx_emulator::tensor_core::accumulation::Accumulation;

use crate::capture::issue;
use crate::copy::{Copy, Set};
use crate::error::{Answer, CUresult, get, list};
use crate::function::Function;
use crate::graph::Step;
use crate::module::complain;
use crate::state::{CHECK_VARIABLE, checks, driver, instruction_limit, seed};
use crate::stream::{StreamCallback, WordOperation};

/// How many reports of the checker end a launch.
const MOST_REPORTS: usize = 16;

/// A piece of work: what a call puts into a stream, and what a node of a graph does.
#[derive(Clone)]
pub enum Work {
    /// Runs a kernel.
    Launch(Arc<Launch>),
    /// Copies a box.
    Copy(Copy),
    /// Sets rows.
    Set(Set),
    /// Calls the program.
    Host(HostCall),
    /// Does the steps of another graph; its handle is what programs ask for it by.
    Graph(u64, Arc<Vec<Step>>),
    /// Nothing.
    Nothing,
    /// Calls the program, as older programs ask for it.
    Callback(StreamCallback),
    /// Writes a word of memory.
    WriteWord(WordOperation),
    /// Waits for a word of memory.
    WaitWord(WordOperation),
    /// An event to wait for.
    Wait(u64),
    /// An event that happens.
    Record(u64),
    /// Frees memory.
    Free(u64),
}

impl Work {
    /// `CUgraphNodeType`
    pub fn kind(&self) -> c_int {
        match self {
            Work::Launch(_) => 0,
            Work::Copy(_) => 1,
            Work::Set(_) => 2,
            Work::Host(_) | Work::Callback(_) => 3,
            Work::Graph(..) => 4,
            Work::Nothing | Work::WriteWord(_) | Work::WaitWord(_) => 5,
            Work::Wait(_) => 6,
            Work::Record(_) => 7,
            Work::Free(_) => 11,
        }
    }

    /// Does what never waits.
    pub fn run(&self) -> Answer<()> {
        match self {
            // SAFETY: CUDA's contract: the program keeps its memory valid until the copy has happened.
            Work::Copy(copy) => unsafe { copy.run() },
            Work::Set(set) => set.run(),
            Work::Host(call) => {
                call.run();
                Ok(())
            }
            Work::Callback(callback) => {
                callback.run();
                Ok(())
            }
            Work::WriteWord(word) => word.write(),
            // The queue does these by itself.
            Work::Launch(_) | Work::Graph(..) | Work::Nothing | Work::Wait(_) | Work::WaitWord(_) => Ok(()),
            Work::Record(event) => crate::event::happen(*event),
            Work::Free(address) => crate::memory::free(*address),
        }
    }
}

/// `CUDA_HOST_NODE_PARAMS`: a function of the program's, and what to give it.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct HostCall {
    function: Option<unsafe extern "C" fn(*mut c_void)>,
    data: *mut c_void,
}

// SAFETY: CUDA's contract: the function may be called with this on any thread.
unsafe impl Send for HostCall {}
// SAFETY: as above.
unsafe impl Sync for HostCall {}

impl HostCall {
    /// Refuses a call of nothing.
    pub fn validate(&self) -> Answer<()> {
        self.function.map(drop).ok_or(CUresult::INVALID_VALUE)
    }

    fn run(&self) {
        if let Some(function) = self.function {
            // SAFETY: the program's function with the program's data.
            unsafe { function(self.data) }
        }
    }
}

/// What all ways to launch have in common.
#[derive(Clone, Copy, Debug, Default)]
pub struct Shape {
    /// CTAs.
    pub extent: [u32; 3],
    /// Threads of a CTA.
    pub block: [u32; 3],
    /// CTAs of a cluster, if the launch says.
    pub cluster: Option<[u32; 3]>,
    /// Dynamic shared memory.
    pub shared: u32,
    /// Whether all CTAs have to be there at once.
    pub cooperative: bool,
    /// The stream.
    pub stream: u64,
    /// An event that happens with the launch, or 0.
    pub event: u64,
}

/// The attributes of a launch that change something.
const COOPERATIVE: c_uint = 2;
const CLUSTER_DIMENSION: c_uint = 4;
const PROGRAMMATIC_EVENT: c_uint = 7;
const COMPLETION_EVENT: c_uint = 12;
/// There are this many attributes; more is a mistake.
const MOST_ATTRIBUTES: usize = 64;

/// `CUlaunchConfig`.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Config {
    extent: [c_uint; 3],
    block: [c_uint; 3],
    shared: c_uint,
    stream: u64,
    attributes: *const Attribute,
    count: c_uint,
}

/// `CUlaunchAttribute`.
#[repr(C, align(8))]
#[derive(Clone, Copy, Debug)]
pub struct Attribute {
    id: c_uint,
    _padding: [u8; 4],
    value: AttributeValue,
}

/// `CUlaunchAttributeValue`, a union of 64 bytes.
pub type AttributeValue = [u32; 16];

impl Shape {
    /// What `CUlaunchConfig` says.
    ///
    /// # Safety
    /// The pointer is null or valid, and its attributes are as many as it says.
    pub unsafe fn of_config(config: *const Config) -> Answer<Shape> {
        // SAFETY: the caller's.
        let Config { extent, block, shared, stream, attributes, count } = unsafe { get(config)? };
        if count as usize > MOST_ATTRIBUTES {
            return Err(CUresult::INVALID_VALUE);
        }
        let mut shape = Shape { extent, block, shared, stream, ..Shape::default() };
        // SAFETY: the caller's.
        for attribute in unsafe { list(attributes, count as usize)? } {
            shape.set_attribute(attribute.id, &attribute.value);
        }
        Ok(shape)
    }

    /// Sets an attribute; those that are about time change nothing.
    pub fn set_attribute(&mut self, id: c_uint, value: &AttributeValue) {
        match id {
            COOPERATIVE => self.cooperative = value[0] != 0,
            CLUSTER_DIMENSION => self.cluster = Some([value[0], value[1], value[2]]),
            PROGRAMMATIC_EVENT | COMPLETION_EVENT => {
                self.event = u64::from(value[0]) | u64::from(value[1]) << 32;
            }
            _ => {}
        }
    }

    /// An attribute; zeros for those that change nothing.
    pub fn attribute(&self, id: c_uint) -> AttributeValue {
        let mut value = AttributeValue::default();
        match id {
            COOPERATIVE => value[0] = u32::from(self.cooperative),
            CLUSTER_DIMENSION => value[..3].copy_from_slice(&self.cluster.unwrap_or_default()),
            _ => {}
        }
        value
    }

    /// Threads of a CTA.
    pub fn threads(&self) -> Answer<u32> {
        let threads = self.block.iter().try_fold(1u32, |all, one| all.checked_mul(*one));
        threads.filter(|threads| *threads > 0).ok_or(CUresult::INVALID_VALUE)
    }
}

/// A kernel with everything a launch says.
pub struct Launch {
    /// The kernel.
    pub function: Arc<Function>,
    /// Its handle.
    pub handle: u64,
    /// The rest, but for the stream.
    pub shape: Shape,
    parameters: Vec<u8>,
    /// Where each parameter's bytes are, for programs that ask.
    addresses: Vec<u64>,
}

impl Launch {
    /// Checks a launch as the driver does when it is issued.
    ///
    /// # Safety
    /// As [`gather`].
    pub unsafe fn new(
        handle: u64,
        shape: Shape,
        parameters: *const *const c_void,
        extra: *const *const c_void,
    ) -> Answer<Launch> {
        driver().device()?;
        let function = driver().function(handle)?;
        // SAFETY: the caller's.
        let parameters = unsafe { gather(&function.kernel, parameters, extra)? };
        Launch::checked(function, handle, shape, parameters)
    }

    /// The same launch of another shape.
    pub fn reshaped(&self, shape: Shape) -> Answer<Launch> {
        Launch::checked(self.function.clone(), self.handle, shape, self.parameters.clone())
    }

    fn checked(function: Arc<Function>, handle: u64, shape: Shape, parameters: Vec<u8>) -> Answer<Launch> {
        let start = parameters.as_ptr() as u64;
        let addresses = function.kernel.parameters.iter().map(|(offset, _)| start + u64::from(*offset)).collect();
        let launch = Launch { function, handle, shape, parameters, addresses };
        launch.validate()?;
        Ok(launch)
    }

    /// The addresses of the parameters' bytes, which stay for as long as the launch does.
    pub fn addresses(&self) -> &[u64] {
        &self.addresses
    }

    fn cluster(&self) -> [u32; 3] {
        self.shape.cluster.or(self.function.kernel.requirements.cluster).unwrap_or([1; 3])
    }

    fn validate(&self) -> Answer<()> {
        let (chip, function, shape) = (driver().chip(), &self.function, &self.shape);
        let refuse = |error: CUresult, message: String| {
            complain(&format!("kernel {}: {message}", function.kernel.name));
            Err(error)
        };
        let threads = shape.threads()?;
        let [x, y, z] = shape.extent;
        if shape.extent.contains(&0) || x > i32::MAX as u32 || y > 65535 || z > 65535 || shape.block[2] > 64 {
            return Err(CUresult::INVALID_VALUE);
        }
        if threads > 1024 {
            return Err(CUresult::INVALID_VALUE);
        }
        if threads > function.threads() {
            let most = function.threads();
            return refuse(
                CUresult::LAUNCH_OUT_OF_RESOURCES,
                format!("{threads} threads a block; its .reqntid, .maxntid or .maxnreg allows {most}"),
            );
        }
        if shape.shared > function.dynamic_shared() {
            return refuse(
                CUresult::INVALID_VALUE,
                format!(
                    "{} bytes of dynamic shared memory; cuFuncSetAttribute(MAX_DYNAMIC_SHARED_SIZE_BYTES) allows {}",
                    shape.shared,
                    function.dynamic_shared()
                ),
            );
        }
        let cluster = self.cluster();
        let ctas = cluster.iter().try_fold(1u32, |all, one| all.checked_mul(*one)).unwrap_or(0);
        if ctas == 0 || ctas > function.cluster().max(if driver().chip_is_chosen() { 1 } else { 16 }) {
            let most = function.cluster();
            return refuse(
                CUresult::INVALID_CLUSTER_SIZE,
                format!("clusters of {cluster:?} CTAs; {} has clusters of up to {most} for it", chip.name),
            );
        }
        if shape.cooperative {
            let resident = function.occupancy(threads as usize, shape.shared as usize) as u64;
            let blocks = shape.extent.iter().map(|one| u64::from(*one)).product::<u64>();
            if blocks > resident * u64::from(chip.multiprocessors) {
                return Err(CUresult::COOPERATIVE_LAUNCH_TOO_LARGE);
            }
        }
        Ok(())
    }

    /// Begins it.
    pub fn begin(&self) -> Answer<Begun> {
        let reports = checks().then(|| Arc::new(Reports::new(MOST_REPORTS)));
        let execution = self.grid().begin(reports.clone()).map_err(|fault| report(&fault))?;
        Ok(Begun { execution, reports })
    }

    /// Runs it for a while; `last` where nothing else happens any more, so that a deadlock is one.
    pub fn advance(&self, begun: &mut Begun, last: bool) -> Answer<Advance> {
        let grid = self.grid();
        let outcome = match last {
            true => grid.conclude(&mut begun.execution).map(|()| Advance::Finished),
            false => grid.advance(&mut begun.execution),
        };
        if let Ok(Advance::Suspended { .. }) = outcome {
            return Ok(Advance::Suspended { moved: outcome == Ok(Advance::Suspended { moved: true }) });
        }
        let reports = begun.reports.as_ref().map(|reports| reports.list()).unwrap_or_default();
        conclude(outcome.map(drop), &reports)?;
        if self.shape.event != 0 {
            crate::event::happen(self.shape.event)?;
        }
        Ok(Advance::Finished)
    }

    fn grid(&self) -> Grid<'_> {
        Grid {
            kernel: &self.function.kernel,
            extent: self.shape.extent,
            block: self.shape.block,
            cluster: self.cluster(),
            dynamic_shared: self.shape.shared,
            parameters: self.parameters.clone(),
            memory: driver().memory.view(),
            multiprocessors: driver().chip().multiprocessors,
            seed: seed(),
            accumulation: Accumulation::from_environment(),
            limits: Limits { shared_bytes: driver().chip().shared_per_block, instructions: instruction_limit() },
        }
    }
}

/// A launch that has begun.
pub struct Begun {
    execution: Execution,
    reports: Option<Arc<Reports>>,
}

/// How a launch ended: it fails for what the checker reports, too.
fn conclude(outcome: Result<(), Box<Fault>>, reports: &[Report]) -> Answer<()> {
    for report in reports {
        eprintln!("ptx-emulator: {report}");
    }
    if reports.is_empty() {
        return outcome.map_err(|fault| report(&fault));
    }
    eprintln!("ptx-emulator: the launch fails for what the checker reported; {CHECK_VARIABLE}=0 turns it off");
    driver().tables().sticky = Some(CUresult::LAUNCH_FAILED);
    Err(CUresult::LAUNCH_FAILED)
}

/// Says what went wrong; errors of threads stop the context.
fn report(fault: &Fault) -> CUresult {
    complain(&fault.to_string());
    let error = CUresult::from(fault.kind);
    if fault.kind != FaultKind::InvalidLaunch {
        driver().tables().sticky = Some(error);
    }
    error
}

/// Gathers the parameters' bytes.
///
/// # Safety
/// `parameters` is null, or has a pointer for each parameter of the kernel to as many bytes as it has; or `extra` is as the driver
/// API says.
unsafe fn gather(kernel: &Kernel, parameters: *const *const c_void, extra: *const *const c_void) -> Answer<Vec<u8>> {
    let mut bytes = vec![0; kernel.parameter_bytes as usize];
    if kernel.parameters.is_empty() {
        return Ok(bytes);
    }
    if !parameters.is_null() {
        for (at, (offset, length)) in kernel.parameters.iter().enumerate() {
            // SAFETY: the caller's.
            let from = unsafe { parameters.add(at).read_unaligned() };
            if from.is_null() {
                return Err(CUresult::INVALID_VALUE);
            }
            let into = &mut bytes[*offset as usize..(*offset + *length) as usize];
            // SAFETY: the caller's.
            unsafe { std::ptr::copy_nonoverlapping(from.cast(), into.as_mut_ptr(), into.len()) };
        }
        return Ok(bytes);
    }
    if extra.is_null() {
        return Err(CUresult::INVALID_VALUE);
    }
    // A list of keys and values: 1 is the buffer, 2 its size, 0 ends it.
    let (mut buffer, mut size, mut at) = (std::ptr::null(), 0, 0);
    loop {
        // SAFETY: the caller's; a value follows every key but the last.
        let key = unsafe { extra.add(at).read_unaligned() } as usize;
        if key == 0 {
            break;
        }
        // SAFETY: as above.
        let value = unsafe { extra.add(at + 1).read_unaligned() };
        match key {
            1 => buffer = value.cast::<u8>(),
            // SAFETY: the caller's.
            2 => size = unsafe { get(value.cast::<usize>())? },
            _ => return Err(CUresult::INVALID_VALUE),
        }
        at += 2;
    }
    if buffer.is_null() || size < bytes.len() {
        return Err(CUresult::INVALID_VALUE);
    }
    // SAFETY: the caller's.
    unsafe { std::ptr::copy_nonoverlapping(buffer, bytes.as_mut_ptr(), bytes.len()) };
    Ok(bytes)
}

/// # Safety
/// As [`gather`].
unsafe fn launch(
    function: u64,
    shape: Shape,
    parameters: *const *const c_void,
    extra: *const *const c_void,
) -> Answer<()> {
    // SAFETY: the caller's.
    let launch = unsafe { Launch::new(function, shape, parameters, extra)? };
    issue(shape.stream, Work::Launch(Arc::new(launch)))
}

calls! {
    /// Launches a kernel.
    fn cuLaunchKernel(
        function: u64, grid_x: c_uint, grid_y: c_uint, grid_z: c_uint, block_x: c_uint, block_y: c_uint, block_z: c_uint,
        shared: c_uint, stream: u64, parameters: *const *const c_void, extra: *const *const c_void
    ) {
        let (extent, block) = ([grid_x, grid_y, grid_z], [block_x, block_y, block_z]);
        launch(function, Shape { extent, block, shared, stream, ..Shape::default() }, parameters, extra)
    }

    /// Launches a kernel with attributes.
    fn cuLaunchKernelEx(config: *const Config, function: u64, parameters: *const *const c_void, extra: *const *const c_void) {
        launch(function, Shape::of_config(config)?, parameters, extra)
    }

    /// Launches a kernel whose CTAs may wait for each other, so that all have to fit.
    fn cuLaunchCooperativeKernel(
        function: u64, grid_x: c_uint, grid_y: c_uint, grid_z: c_uint, block_x: c_uint, block_y: c_uint, block_z: c_uint,
        shared: c_uint, stream: u64, parameters: *const *const c_void
    ) {
        let (extent, block) = ([grid_x, grid_y, grid_z], [block_x, block_y, block_z]);
        let shape = Shape { extent, block, shared, stream, cooperative: true, ..Shape::default() };
        launch(function, shape, parameters, std::ptr::null())
    }

    /// Runs a function of the program's, in a stream.
    fn cuLaunchHostFunc(stream: u64, function: Option<unsafe extern "C" fn(*mut c_void)>, data: *mut c_void) {
        let call = HostCall { function, data };
        call.validate()?;
        issue(stream, Work::Host(call))
    }
}
