//! Kernels: their attributes, and how many of their CTAs fit.

use std::ffi::{CString, c_char, c_int, c_uint, c_void};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use ptx_emulator::decode::Module;
use ptx_emulator::machine::grid::REGISTERS;
use ptx_emulator::machine::kernel::Kernel;

use crate::error::{Answer, CUresult, put, put_if_wanted};
use crate::launch::{Config, Shape};
use crate::state::driver;

/// A kernel as programs hold it.
pub struct Function {
    /// The kernel.
    pub kernel: Arc<Kernel>,
    /// Keeps the kernel's variables.
    _module: Arc<Module>,
    /// The handle of its module.
    module: u64,
    name: CString,
    /// How much dynamic shared memory a launch may have.
    dynamic_shared: AtomicU32,
    /// Whether clusters may be larger than every chip's.
    large_clusters: AtomicU32,
}

/// Shared memory that a block has without asking.
const SHARED_WITHOUT_ASKING: u32 = 48 << 10;
/// What the system keeps of the shared memory of each block.
const RESERVED_SHARED: usize = 1 << 10;
/// The largest cluster of every chip that has clusters.
pub const PORTABLE_CLUSTER: u32 = 8;
/// The largest cluster that may be asked for.
const LARGEST_CLUSTER: u32 = 16;

impl Function {
    /// A kernel of the module of a handle.
    pub fn new(kernel: Arc<Kernel>, loaded: Arc<Module>, module: u64) -> Function {
        let name = CString::new(kernel.name.as_str()).unwrap_or_default();
        let dynamic_shared = SHARED_WITHOUT_ASKING.saturating_sub(kernel.static_shared).into();
        Function { kernel, _module: loaded, module, name, dynamic_shared, large_clusters: 0.into() }
    }

    /// Threads of a block at most.
    pub fn threads(&self) -> u32 {
        let requirements = &self.kernel.requirements;
        let required = requirements.block.map(|block| block.iter().product());
        // As many warps as the registers of a multiprocessor are enough for.
        let fit = requirements.maximum_registers.map_or(1024, |registers| REGISTERS / registers.max(1) / 32 * 32);
        required.or(requirements.maximum_threads).unwrap_or(1024).min(fit)
    }

    /// Dynamic shared memory of a launch at most.
    pub fn dynamic_shared(&self) -> u32 {
        self.dynamic_shared.load(Ordering::Relaxed)
    }

    /// CTAs of a cluster at most.
    pub fn cluster(&self) -> u32 {
        match driver().chip().capability.0 {
            ..9 => 1,
            _ if self.large_clusters.load(Ordering::Relaxed) != 0 => LARGEST_CLUSTER,
            _ => PORTABLE_CLUSTER,
        }
    }

    /// Dynamic shared memory that the chip has for a block of this kernel.
    fn available_shared(&self) -> u32 {
        driver().chip().shared_per_block.saturating_sub(self.kernel.static_shared)
    }

    /// How many of its CTAs fit on a multiprocessor by threads and shared memory; registers are not known.
    pub fn occupancy(&self, threads: usize, shared: usize) -> usize {
        let chip = driver().chip();
        if threads == 0 || threads > self.threads() as usize {
            return 0;
        }
        let by_threads = chip.threads_per_multiprocessor as usize / threads.next_multiple_of(32);
        let each = shared.saturating_add(self.kernel.static_shared as usize + RESERVED_SHARED);
        let by_shared = chip.shared_per_multiprocessor as usize / each;
        by_threads.min(by_shared).min(chip.blocks_per_multiprocessor() as usize)
    }

    fn attribute(&self, number: c_int) -> Answer<c_int> {
        let kernel = &self.kernel;
        let (major, minor) = driver().chip().capability;
        let cluster = |axis: usize| kernel.requirements.cluster.map_or(0, |cluster| cluster[axis]);
        Ok(match number {
            // MAX_THREADS_PER_BLOCK
            0 => self.threads() as c_int,
            1 => kernel.static_shared as c_int,
            3 => kernel.local_bytes as c_int,
            // NUM_REGS: PTX does not say; what the kernel allows at most.
            4 => kernel.requirements.maximum_registers.unwrap_or(255) as c_int,
            // PTX_VERSION, BINARY_VERSION
            5 | 6 => (major * 10 + minor) as c_int,
            8 => self.dynamic_shared() as c_int,
            // Whether a cluster has to be given, and which; whether it may be large
            10 => c_int::from(kernel.requirements.explicit_cluster && kernel.requirements.cluster.is_none()),
            11..=13 => cluster(number as usize - 11) as c_int,
            14 => self.large_clusters.load(Ordering::Relaxed) as c_int,
            // Constants, caches, carve-out, scheduling, updates from devices
            2 | 7 | 9 | 15 | 16 => 0,
            _ => return Err(CUresult::INVALID_VALUE),
        })
    }

    fn set_attribute(&self, number: c_int, value: c_int) -> Answer<()> {
        match number {
            8 => {
                let value = u32::try_from(value).map_err(|_| CUresult::INVALID_VALUE)?;
                if value > self.available_shared() && driver().chip_is_chosen() {
                    return Err(CUresult::INVALID_VALUE);
                }
                self.dynamic_shared.store(value, Ordering::Relaxed);
                Ok(())
            }
            // The carve-out and the scheduling of clusters change nothing.
            9 | 15 => Ok(()),
            14 => {
                self.large_clusters.store(u32::from(value != 0), Ordering::Relaxed);
                Ok(())
            }
            _ => Err(CUresult::INVALID_VALUE),
        }
    }

    fn parameter(&self, index: usize) -> Answer<(usize, usize)> {
        let (offset, size) = *self.kernel.parameters.get(index).ok_or(CUresult::INVALID_VALUE)?;
        Ok((offset as usize, size as usize))
    }

    /// The largest block of which the most threads fit on a multiprocessor, and how many CTAs fill the chip.
    fn best_block(&self, limit: usize, shared: impl Fn(usize) -> usize) -> (usize, usize) {
        let most = if limit == 0 { self.threads() as usize } else { limit.min(self.threads() as usize) };
        let mut best = (0, 0, 0);
        for threads in (1..=most.div_ceil(32)).map(|warps| (warps * 32).min(most)) {
            let blocks = self.occupancy(threads, shared(threads));
            if blocks * threads >= best.0 {
                best = (blocks * threads, threads, blocks);
            }
        }
        (best.2 * driver().chip().multiprocessors as usize, best.1)
    }
}

/// `CUoccupancyB2DSize`
type SharedOfBlock = Option<unsafe extern "C" fn(c_int) -> usize>;

/// # Safety
/// The pointers are null or valid, and the function is as the driver API says.
unsafe fn potential_block(
    grid: *mut c_int,
    block: *mut c_int,
    function: u64,
    shared_of: SharedOfBlock,
    shared: usize,
    limit: c_int,
) -> Answer<()> {
    let function = driver().function(function)?;
    let limit = usize::try_from(limit).map_err(|_| CUresult::INVALID_VALUE)?;
    // SAFETY: the program's own function.
    let shared = |threads: usize| shared_of.map_or(shared, |shared_of| unsafe { shared_of(threads as c_int) });
    let (blocks, threads) = function.best_block(limit, shared);
    // SAFETY: the caller's.
    unsafe {
        put(grid, blocks as c_int)?;
        put(block, threads as c_int)
    }
}

fn occupancy(function: u64, threads: c_int, shared: usize) -> Answer<c_int> {
    let function = driver().function(function)?;
    let threads = usize::try_from(threads).ok().filter(|threads| *threads > 0).ok_or(CUresult::INVALID_VALUE)?;
    Ok(function.occupancy(threads, shared) as c_int)
}

calls! {
    /// An attribute of a kernel.
    fn cuFuncGetAttribute(value: *mut c_int, number: c_int, function: u64) {
        put(value, driver().function(function)?.attribute(number)?)
    }

    /// An attribute of a kernel.
    fn cuKernelGetAttribute(value: *mut c_int, number: c_int, function: u64, _device: c_int) {
        put(value, driver().function(function)?.attribute(number)?)
    }

    /// Sets an attribute of a kernel.
    fn cuFuncSetAttribute(function: u64, number: c_int, value: c_int) {
        driver().function(function)?.set_attribute(number, value)
    }

    /// Sets an attribute of a kernel.
    fn cuKernelSetAttribute(number: c_int, value: c_int, function: u64, _device: c_int) {
        driver().function(function)?.set_attribute(number, value)
    }

    /// Cache preferences change nothing.
    fn cuFuncSetCacheConfig(function: u64, _config: c_int) {
        driver().function(function).map(drop)
    }

    /// Cache preferences change nothing.
    fn cuKernelSetCacheConfig(function: u64, _config: c_int, _device: c_int) {
        driver().function(function).map(drop)
    }

    /// Bank sizes change nothing.
    fn cuFuncSetSharedMemConfig(function: u64, _config: c_int) {
        driver().function(function).map(drop)
    }

    /// A kernel's name, for as long as its module is loaded.
    fn cuFuncGetName(name: *mut *const c_char, function: u64) {
        put(name, driver().function(function)?.name.as_ptr())
    }

    /// A kernel's name, for as long as its library is loaded.
    fn cuKernelGetName(name: *mut *const c_char, function: u64) {
        put(name, driver().function(function)?.name.as_ptr())
    }

    /// The module of a kernel.
    fn cuFuncGetModule(module: *mut u64, function: u64) {
        put(module, driver().function(function)?.module)
    }

    /// The library of a kernel.
    fn cuKernelGetLibrary(library: *mut u64, function: u64) {
        put(library, driver().function(function)?.module)
    }

    /// A kernel of a library is the same in every context.
    fn cuKernelGetFunction(handle: *mut u64, function: u64) {
        driver().function(function)?;
        put(handle, function)
    }

    /// Where a parameter is.
    fn cuFuncGetParamInfo(function: u64, index: usize, offset: *mut usize, size: *mut usize) {
        let found = driver().function(function)?.parameter(index)?;
        put(offset, found.0)?;
        put_if_wanted(size, found.1)
    }

    /// Where a parameter is.
    fn cuKernelGetParamInfo(function: u64, index: usize, offset: *mut usize, size: *mut usize) {
        let found = driver().function(function)?.parameter(index)?;
        put(offset, found.0)?;
        put_if_wanted(size, found.1)
    }

    /// How many parameters a kernel has.
    fn cuFuncGetParamCount(function: u64, count: *mut usize) {
        put(count, driver().function(function)?.kernel.parameters.len())
    }

    /// How many parameters a kernel has.
    fn cuKernelGetParamCount(function: u64, count: *mut usize) {
        put(count, driver().function(function)?.kernel.parameters.len())
    }

    /// Kernels are loaded with their modules.
    fn cuFuncIsLoaded(state: *mut c_int, function: u64) {
        driver().function(function)?;
        put(state, 1)
    }

    /// As [`cuFuncIsLoaded`].
    fn cuFuncLoad(function: u64) {
        driver().function(function).map(drop)
    }

    /// How many CTAs fit on a multiprocessor.
    fn cuOccupancyMaxActiveBlocksPerMultiprocessor(blocks: *mut c_int, function: u64, threads: c_int, shared: usize) {
        put(blocks, occupancy(function, threads, shared)?)
    }

    /// The same with flags.
    fn cuOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(
        blocks: *mut c_int, function: u64, threads: c_int, shared: usize, _flags: c_uint
    ) {
        put(blocks, occupancy(function, threads, shared)?)
    }

    /// The block that fills multiprocessors best.
    fn cuOccupancyMaxPotentialBlockSize(
        grid: *mut c_int, block: *mut c_int, function: u64, shared_of: SharedOfBlock, shared: usize, limit: c_int
    ) {
        potential_block(grid, block, function, shared_of, shared, limit)
    }

    /// The same with flags.
    fn cuOccupancyMaxPotentialBlockSizeWithFlags(
        grid: *mut c_int, block: *mut c_int, function: u64, shared_of: SharedOfBlock, shared: usize, limit: c_int, _flags: c_uint
    ) {
        potential_block(grid, block, function, shared_of, shared, limit)
    }

    /// Dynamic shared memory of each of some CTAs of a multiprocessor.
    fn cuOccupancyAvailableDynamicSMemPerBlock(bytes: *mut usize, function: u64, blocks: c_int, threads: c_int) {
        let function = driver().function(function)?;
        let blocks = usize::try_from(blocks).ok().filter(|blocks| *blocks > 0).ok_or(CUresult::INVALID_VALUE)?;
        let threads = usize::try_from(threads).ok().filter(|threads| *threads > 0).ok_or(CUresult::INVALID_VALUE)?;
        if function.occupancy(threads, 0) < blocks {
            return Err(CUresult::INVALID_VALUE);
        }
        let each = driver().chip().shared_per_multiprocessor as usize / blocks;
        let own = function.kernel.static_shared as usize + RESERVED_SHARED;
        put(bytes, each.saturating_sub(own).min(function.available_shared() as usize))
    }

    /// How many clusters of a launch fit on the chip.
    fn cuOccupancyMaxActiveClusters(clusters: *mut c_int, function: u64, config: *const Config) {
        let function = driver().function(function)?;
        let shape = Shape::of_config(config)?;
        let cluster = shape.cluster.or(function.kernel.requirements.cluster).unwrap_or([1; 3]);
        let ctas = cluster.iter().try_fold(1u32, |all, one| all.checked_mul(*one)).ok_or(CUresult::INVALID_VALUE)?;
        if ctas == 0 || ctas > LARGEST_CLUSTER {
            return Err(CUresult::INVALID_CLUSTER_SIZE);
        }
        let each = function.occupancy(shape.threads()? as usize, shape.shared as usize);
        put(clusters, (each * driver().chip().multiprocessors as usize / ctas as usize) as c_int)
    }

    /// The largest cluster that may be launched.
    fn cuOccupancyMaxPotentialClusterSize(size: *mut c_int, function: u64, _config: *const c_void) {
        put(size, driver().function(function)?.cluster() as c_int)
    }
}
