//! Running a function again and again.

use std::sync::Arc;
use std::time::Duration;

use super::binding::{self, Binding};
use super::executable::Loaded;
use super::{Executable, KvCache, RunError, TensorView, indices, symbols};
use crate::device::{Device, Memory};
use crate::plan::BufferReference;

/// How many sets of symbol values a session keeps planned. Serving alternates between a few shapes.
const KEPT_BINDINGS: usize = 16;

/// Runs an [`Executable`], and keeps what one run can leave to the next: the arena, output buffers, planned launches.
///
/// One session runs one call at a time; sessions of one executable share its weights and are independent otherwise.
#[derive(Debug)]
pub struct Session {
    loaded: Arc<Loaded>,
    arena: Option<Box<dyn Memory>>,
    bindings: Vec<Binding>,
    /// Counts runs, to know which binding was used longest ago.
    clock: u64,
    /// The binding of the last run, while its outputs are there.
    last: Option<usize>,
    /// Copies of inputs that the device cannot read where they are.
    inputs: Vec<Option<Box<dyn Memory>>>,
    outputs: Vec<Option<Box<dyn Memory>>>,
    /// Outputs of such a device, copied back.
    downloads: Vec<Vec<u64>>,
}

/// How long one launch took.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LaunchTime {
    /// The graph ops it computes.
    pub label: String,
    /// Its kernel's name.
    pub kernel: String,
    /// The time, with all that launching it alone costs.
    pub time: Duration,
}

/// What a run has computed. It lasts until the session runs again.
#[derive(Debug)]
pub struct Outputs<'a> {
    session: &'a Session,
    binding: usize,
}

impl Session {
    /// A session of an executable.
    pub fn new(executable: &Executable) -> Session {
        let loaded = executable.loaded.clone();
        let none = |count: usize| (0..count).map(|_| None).collect();
        Session {
            arena: None,
            bindings: Vec::new(),
            clock: 0,
            last: None,
            inputs: none(loaded.plan.inputs.len()),
            outputs: none(loaded.plan.outputs.len()),
            downloads: vec![Vec::new(); loaded.plan.outputs.len()],
            loaded,
        }
    }

    /// Runs the function on named inputs and caches, in any order. The symbols of the shapes get their values from these.
    pub fn run(
        &mut self,
        inputs: &[(&str, TensorView<'_>)],
        caches: &mut [(&str, &mut KvCache)],
    ) -> Result<Outputs<'_>, RunError> {
        let binding = self.bind(inputs, caches)?;
        // SAFETY: `bind` has put live memory of the right sizes in place of every address: weights and constants, which `loaded`
        // owns; the arena and the outputs, which the session owns and borrows exclusively here; inputs, which are borrowed; caches,
        // which are borrowed exclusively. All of them outlive the run, which `download_outputs` waits for.
        let ran = unsafe { self.bindings[binding].recording.run() };
        let downloaded = self.download_outputs(binding);
        ran?;
        downloaded?;
        self.last = Some(binding);
        Ok(Outputs { session: self, binding })
    }

    /// What the last run has computed; `None` before the first, and after one that failed.
    pub fn outputs(&self) -> Option<Outputs<'_>> {
        self.last.map(|binding| Outputs { session: self, binding })
    }

    /// Runs the function as [`Session::run`] does, one launch at a time, and says how long each took.
    pub fn profile(
        &mut self,
        inputs: &[(&str, TensorView<'_>)],
        caches: &mut [(&str, &mut KvCache)],
    ) -> Result<Vec<LaunchTime>, RunError> {
        let binding = self.bind(inputs, caches)?;
        let binding = &mut self.bindings[binding];
        // SAFETY: as in `run`; `profile` itself waits for every launch.
        let times = unsafe { binding.recording.profile() };
        self.loaded.device.synchronize()?;
        let plan = &self.loaded.plan;
        let timed = binding.launches.iter().zip(times?).map(|(index, time)| {
            let launch = &plan.launches[*index];
            LaunchTime { label: launch.label.clone(), kernel: plan.kernels[launch.kernel].name.clone(), time }
        });
        Ok(timed.collect())
    }

    /// Bytes of temporary memory the session holds.
    pub fn arena_bytes(&self) -> u64 {
        self.arena.as_ref().map_or(0, |arena| arena.bytes())
    }

    /// Gets everything ready to run: checks the arguments, plans or finds the launches, and fills in the addresses.
    fn bind(
        &mut self,
        inputs: &[(&str, TensorView<'_>)],
        caches: &mut [(&str, &mut KvCache)],
    ) -> Result<usize, RunError> {
        self.last = None;
        let loaded = self.loaded.clone();
        let plan = &loaded.plan;
        let input_names = plan.inputs.iter().map(|input| input.name.as_str());
        let views: Vec<_> = arrange("input", input_names, inputs.iter().map(|(name, view)| (*name, view)))?;
        let cache_names = plan.caches.iter().map(|cache| cache.name.as_str());
        let caches: Vec<_> = arrange("cache", cache_names, caches.iter().map(|(name, cache)| (*name, &**cache)))?;
        for (cache, specification) in caches.iter().zip(&plan.caches) {
            if !cache.fits(specification, &loaded.device) {
                return Err(RunError::Cache(specification.name.clone()));
            }
        }
        let pages: Vec<_> = caches.iter().map(|cache| cache.pages()).collect();
        let symbols = symbols::deduce(plan, &views, &pages)?;
        indices::check(plan, &views, &symbols)?;
        let binding = match self.bindings.iter().position(|binding| binding.symbols == symbols) {
            Some(index) => index,
            None => self.add_binding(symbols)?,
        };
        self.clock += 1;
        self.bindings[binding].used = self.clock;
        let device = &loaded.device;
        let in_place = |view: &TensorView<'_>| device.reads_host_memory() && view.is_aligned();
        for (view, memory) in views.iter().zip(&mut self.inputs).filter(|(view, _)| !in_place(view)) {
            let memory = at_least(memory, view.bytes().len() as u64, device)?;
            device.upload(view.bytes(), memory.as_mut())?;
        }
        for (bytes, memory) in self.bindings[binding].output_bytes.iter().zip(&mut self.outputs) {
            at_least(memory, *bytes, device)?;
        }
        let (inputs, outputs) = (&self.inputs, &self.outputs);
        let address = |memory: &Option<Box<dyn Memory>>| memory.as_ref().map_or(0, |memory| memory.address());
        self.bindings[binding].patch(|reference| match reference {
            BufferReference::Input(index) if in_place(views[index]) => views[index].bytes().as_ptr() as u64,
            BufferReference::Input(index) => address(&inputs[index]),
            BufferReference::Output(index) => address(&outputs[index]),
            BufferReference::Cache(index) => caches[index].address(),
            // These never change, and are never patched.
            BufferReference::Slot(_) | BufferReference::Parameter(_) | BufferReference::Constant(_) => 0,
        });
        Ok(binding)
    }

    /// Plans the launches for new symbol values.
    fn add_binding(&mut self, symbols: Vec<u64>) -> Result<usize, RunError> {
        let sizes = binding::measure(&self.loaded, &symbols)?;
        let needed = sizes.layout.bytes;
        if self.arena_bytes() < needed {
            // The old arena goes first, and the launches that point into it. An eighth more keeps a slowly growing shape from
            // growing the arena every time.
            self.bindings.clear();
            self.arena = None;
            self.arena = Some(self.loaded.device.allocate(needed.saturating_add(needed / 8))?);
        }
        let arena = self.arena.as_ref().map_or(0, |arena| arena.address());
        let binding = Binding::new(&self.loaded, symbols, sizes, arena)?;
        if self.bindings.len() == KEPT_BINDINGS {
            let oldest = self.bindings.iter().enumerate().min_by_key(|(_, binding)| binding.used);
            if let Some(oldest) = oldest.map(|(index, _)| index) {
                self.bindings.swap_remove(oldest);
            }
        }
        self.bindings.push(binding);
        Ok(self.bindings.len() - 1)
    }

    /// Waits for the run, and copies outputs that the host cannot read in place.
    fn download_outputs(&mut self, binding: usize) -> Result<(), RunError> {
        let sizes = &self.bindings[binding].output_bytes;
        for ((bytes, memory), download) in sizes.iter().zip(&self.outputs).zip(&mut self.downloads) {
            let Some(memory) = memory else { continue };
            if memory.host_bytes().is_none() {
                download.resize(bytes.div_ceil(8) as usize, 0);
                let destination = &mut bytemuck::cast_slice_mut(download)[..*bytes as usize];
                self.loaded.device.download(memory.as_ref(), destination)?;
            }
        }
        Ok(self.loaded.device.synchronize()?)
    }
}

impl<'a> Outputs<'a> {
    /// The output of that name.
    pub fn get(&self, name: &str) -> Result<TensorView<'a>, RunError> {
        let outputs = &self.session.loaded.plan.outputs;
        match outputs.iter().position(|output| output.name == name) {
            Some(index) => self.at(index),
            None => self.unknown(name),
        }
    }

    /// The output at that place of the function's results (caches not counted).
    pub fn at(&self, index: usize) -> Result<TensorView<'a>, RunError> {
        let Some(output) = self.session.loaded.plan.outputs.get(index) else { return self.unknown(&index.to_string()) };
        let binding = &self.session.bindings[self.binding];
        let memory = self.session.outputs[index].as_ref();
        let bytes = memory.and_then(|memory| memory.host_bytes());
        let bytes = bytes.unwrap_or(bytemuck::cast_slice(&self.session.downloads[index]));
        let bytes = &bytes[..binding.output_bytes[index] as usize];
        TensorView::from_bytes(output.element, &binding.output_shapes[index], bytes)
    }

    fn unknown(&self, name: &str) -> Result<TensorView<'a>, RunError> {
        Err(RunError::Unknown { what: "output", name: name.into(), known: self.names().map(Into::into).collect() })
    }

    /// The names of the outputs, in the function's order.
    pub fn names(&self) -> impl Iterator<Item = &'a str> {
        self.session.loaded.plan.outputs.iter().map(|output| output.name.as_str())
    }
}

/// Puts named arguments in the order of `wanted`.
fn arrange<'a, T: Copy>(
    what: &'static str,
    wanted: impl Iterator<Item = &'a str> + Clone,
    passed: impl Iterator<Item = (&'a str, T)> + Clone,
) -> Result<Vec<T>, RunError> {
    let mut count = 0;
    for (name, _) in passed.clone() {
        if !wanted.clone().any(|known| known == name) {
            return Err(RunError::Unknown { what, name: name.into(), known: wanted.map(Into::into).collect() });
        }
        count += 1;
    }
    let mut arranged = Vec::with_capacity(count);
    for name in wanted {
        let mut matching = passed.clone().filter(|(passed, _)| *passed == name);
        let (_, value) = matching.next().ok_or_else(|| RunError::Missing { what, name: name.into() })?;
        if matching.next().is_some() {
            return Err(RunError::Twice { what, name: name.into() });
        }
        arranged.push(value);
    }
    Ok(arranged)
}

/// Memory of at least `bytes` bytes: the old, or new in its place.
fn at_least<'a>(
    memory: &'a mut Option<Box<dyn Memory>>,
    bytes: u64,
    device: &Arc<dyn Device>,
) -> Result<&'a mut Box<dyn Memory>, RunError> {
    if memory.as_ref().is_none_or(|memory| memory.bytes() < bytes) {
        *memory = None;
        *memory = Some(device.allocate(bytes.saturating_add(bytes / 8))?);
    }
    memory.as_mut().ok_or_else(|| RunError::Missing { what: "memory", name: bytes.to_string() })
}
