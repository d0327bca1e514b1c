//! Modules and their kernels.

use std::ffi::{CStr, c_char, c_int, c_uint, c_void};
use std::sync::Arc;

use ptx_emulator::decode::Module;

use crate::error::{Answer, CUresult, put};
use crate::state::{Object, driver};

/// The options of `cuModuleLoadDataEx` that have an answer: where to put messages, and how long they may be.
const INFO_LOG_BYTES: c_int = 4;
const ERROR_LOG: c_int = 5;
const ERROR_LOG_BYTES: c_int = 6;

/// Loads the text of a module; what is wrong with it goes to the log.
fn load_text(file: &str, image: &[u8], log: &mut dyn FnMut(&str)) -> Answer<u64> {
    let device = driver().device()?;
    if image.starts_with(b"\x7fELF") || image.starts_with(&[0x50, 0xed, 0x55, 0xba]) {
        log("this is a GPU binary; the emulator runs PTX, so load the PTX text instead");
        return Err(CUresult::INVALID_IMAGE);
    }
    let Ok(source) = std::str::from_utf8(image) else {
        log("the module is not text");
        return Err(CUresult::INVALID_IMAGE);
    };
    let module = Module::load(file, source, &driver().memory, device).map_err(|error| {
        log(&error.to_string());
        CUresult::INVALID_PTX
    })?;
    if driver().chip_is_chosen()
        && let Err(message) = driver().chip().runs(&module.target)
    {
        log(&message);
        return Err(CUresult::NO_BINARY_FOR_GPU);
    }
    Ok(driver().keep(Object::Module(Arc::new(module))))
}

/// The bytes of an image: text up to its NUL, or as much as tells a binary.
///
/// # Safety
/// `image` is null, or text that ends with a NUL, or a binary with a header.
unsafe fn image_bytes<'a>(image: *const c_void) -> Answer<&'a [u8]> {
    if image.is_null() {
        return Err(CUresult::INVALID_VALUE);
    }
    // SAFETY: the caller's.
    Ok(unsafe { CStr::from_ptr(image.cast()) }.to_bytes())
}

fn complain(message: &str) {
    eprintln!("ptx-emulator: {message}");
}

/// A kernel of a module by name; the same handle each time.
fn function(module: u64, name: &str) -> Answer<u64> {
    if let Some(function) = driver().tables().functions.get(&(module, name.into())) {
        return Ok(*function);
    }
    let Object::Module(loaded) = driver().find(module)? else { return Err(CUresult::INVALID_HANDLE) };
    let kernel = loaded.kernel(name).ok_or(CUresult::NOT_FOUND)?.clone();
    let handle = driver().keep(Object::Function(kernel, loaded));
    driver().tables().functions.insert((module, name.into()), handle);
    Ok(handle)
}

/// # Safety
/// `text` is null or ends with a NUL.
unsafe fn text<'a>(text: *const c_char) -> Answer<&'a str> {
    if text.is_null() {
        return Err(CUresult::INVALID_VALUE);
    }
    // SAFETY: the caller's.
    unsafe { CStr::from_ptr(text) }.to_str().map_err(|_| CUresult::INVALID_VALUE)
}

/// An attribute of a kernel by its number in `CUfunction_attribute`.
fn attribute(function: u64, number: c_int) -> Answer<c_int> {
    let Object::Function(kernel, _) = driver().find(function)? else { return Err(CUresult::INVALID_HANDLE) };
    let (major, minor) = driver().chip().capability;
    Ok(match number {
        // MAX_THREADS_PER_BLOCK
        0 => kernel.requirements.block.map_or(1024, |block| block.iter().product()) as c_int,
        1 => kernel.static_shared as c_int,
        2 => 0,
        3 => kernel.local_bytes as c_int,
        // NUM_REGS: PTX does not say; what the kernel allows at most.
        4 => kernel.requirements.maximum_registers.unwrap_or(255) as c_int,
        5 | 6 => (major * 10 + minor) as c_int,
        8 => driver().chip().shared_per_block as c_int - kernel.static_shared as c_int,
        // Cluster dimensions that the kernel requires
        11..=13 => kernel.requirements.cluster.map_or(0, |cluster| cluster[number as usize - 11]) as c_int,
        _ => 0,
    })
}

calls! {
    /// Loads a module from text.
    fn cuModuleLoadData(module: *mut u64, image: *const c_void) {
        put(module, load_text("module", image_bytes(image)?, &mut complain)?)
    }

    /// The same; binaries are refused.
    fn cuModuleLoadFatBinary(module: *mut u64, image: *const c_void) {
        put(module, load_text("module", image_bytes(image)?, &mut complain)?)
    }

    /// Loads a module from text, with logs.
    fn cuModuleLoadDataEx(module: *mut u64, image: *const c_void, count: c_uint, options: *mut c_int, values: *mut *mut c_void) {
        let option = |wanted: c_int| {
            (0..count as usize).find(|at| !options.is_null() && *options.add(*at) == wanted).map(|at| values.add(at))
        };
        // There is nothing to say about a module that loads.
        if let Some(length) = option(INFO_LOG_BYTES) {
            *length = std::ptr::null_mut();
        }
        let buffer = option(ERROR_LOG).map(|value| (*value).cast::<u8>()).filter(|buffer| !buffer.is_null());
        let length = option(ERROR_LOG_BYTES);
        let room = length.map_or(0, |length| *length as usize as u32 as usize);
        let loaded = load_text("module", image_bytes(image)?, &mut |message| {
            let written = message.len().min(room.saturating_sub(1));
            match (buffer, length) {
                (Some(buffer), Some(length)) if room > 0 => {
                    // SAFETY: the program says that its buffer has this room; the message and its NUL fit.
                    std::ptr::copy_nonoverlapping(message.as_ptr(), buffer, written);
                    *buffer.add(written) = 0;
                    *length = written as *mut c_void;
                }
                _ => complain(message),
            }
        });
        put(module, loaded?)
    }

    /// Loads a module from a file.
    fn cuModuleLoad(module: *mut u64, path: *const c_char) {
        let path = text(path)?;
        let image = std::fs::read(path).map_err(|error| {
            complain(&format!("{path}: {error}"));
            CUresult::NOT_FOUND
        })?;
        put(module, load_text(path, &image, &mut complain)?)
    }

    /// Unloads a module; its kernels' handles go with it.
    fn cuModuleUnload(module: u64) {
        let Object::Module(_) = driver().find(module)? else { return Err(CUresult::INVALID_HANDLE) };
        driver().forget(module)?;
        let mut gone = Vec::new();
        driver().tables().functions.retain(|(owner, _), function| {
            if *owner == module {
                gone.push(*function);
            }
            *owner != module
        });
        for function in gone {
            driver().forget(function)?;
        }
        Ok(())
    }

    /// A kernel by name.
    fn cuModuleGetFunction(handle: *mut u64, module: u64, name: *const c_char) {
        put(handle, function(module, text(name)?)?)
    }

    /// A variable by name.
    fn cuModuleGetGlobal_v2(address: *mut u64, bytes: *mut usize, module: u64, name: *const c_char) {
        let Object::Module(module) = driver().find(module)? else { return Err(CUresult::INVALID_HANDLE) };
        let (found, length) = *module.variables.get(text(name)?).ok_or(CUresult::NOT_FOUND)?;
        if !address.is_null() {
            put(address, found)?;
        }
        if bytes.is_null() { Ok(()) } else { put(bytes, length as usize) }
    }

    /// How many kernels a module has.
    fn cuModuleGetFunctionCount(count: *mut c_uint, module: u64) {
        let Object::Module(module) = driver().find(module)? else { return Err(CUresult::INVALID_HANDLE) };
        put(count, module.kernels.len() as c_uint)
    }

    /// Kernels need no loading of their own.
    fn cuModuleGetLoadingMode(mode: *mut c_int) {
        put(mode, 1)
    }

    /// An attribute of a kernel.
    fn cuFuncGetAttribute(value: *mut c_int, number: c_int, function: u64) {
        put(value, attribute(function, number)?)
    }

    /// Sets an attribute of a kernel: shared memory is checked against the chip, the rest changes nothing.
    fn cuFuncSetAttribute(function: u64, number: c_int, value: c_int) {
        let Object::Function(kernel, _) = driver().find(function)? else { return Err(CUresult::INVALID_HANDLE) };
        let limit = i64::from(driver().chip().shared_per_block);
        if number == 8 && (value < 0 || driver().chip_is_chosen() && i64::from(value) + i64::from(kernel.static_shared) > limit) {
            return Err(CUresult::INVALID_VALUE);
        }
        Ok(())
    }

    /// Cache preferences change nothing.
    fn cuFuncSetCacheConfig(_function: u64, _config: c_int) {
        Ok(())
    }

    /// The module of a kernel is known by its handle only.
    fn cuFuncGetName(name: *mut *const c_char, function: u64) {
        let Object::Function(..) = driver().find(function)? else { return Err(CUresult::INVALID_HANDLE) };
        put(name, c"kernel".as_ptr())
    }

    /// How many CTAs fit on a multiprocessor by threads and shared memory.
    fn cuOccupancyMaxActiveBlocksPerMultiprocessor(blocks: *mut c_int, function: u64, threads: c_int, shared: usize) {
        put(blocks, occupancy(function, threads, shared)?)
    }

    /// The same with flags.
    fn cuOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(
        blocks: *mut c_int, function: u64, threads: c_int, shared: usize, _flags: c_uint
    ) {
        put(blocks, occupancy(function, threads, shared)?)
    }

    /// How many clusters fit on the chip: those of all multiprocessors.
    fn cuOccupancyMaxActiveClusters(clusters: *mut c_int, function: u64, _config: *const c_void) {
        let Object::Function(..) = driver().find(function)? else { return Err(CUresult::INVALID_HANDLE) };
        put(clusters, driver().chip().multiprocessors as c_int / 2)
    }

    /// The largest cluster that may be launched.
    fn cuOccupancyMaxPotentialClusterSize(size: *mut c_int, function: u64, _config: *const c_void) {
        let Object::Function(..) = driver().find(function)? else { return Err(CUresult::INVALID_HANDLE) };
        put(size, 8)
    }
}

fn occupancy(function: u64, threads: c_int, shared: usize) -> Answer<c_int> {
    let Object::Function(kernel, _) = driver().find(function)? else { return Err(CUresult::INVALID_HANDLE) };
    let chip = driver().chip();
    if threads < 1 {
        return Err(CUresult::INVALID_VALUE);
    }
    let by_threads = chip.threads_per_multiprocessor as usize / (threads as usize).next_multiple_of(32);
    let each = shared + kernel.static_shared as usize + 1024;
    Ok(by_threads.min(chip.shared_per_multiprocessor as usize / each).min(32) as c_int)
}
