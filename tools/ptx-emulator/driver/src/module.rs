//! Modules and their kernels.

use std::ffi::{CStr, c_char, c_int, c_uint, c_void};
use std::sync::Arc;

use ptx_emulator::decode::Module;

use crate::error::{Answer, CUresult, list, put, put_if_wanted, text};
use crate::function::Function;
use crate::state::{Object, driver};

/// The options of `cuModuleLoadDataEx` that have an answer: where to put messages, and how long they may be.
const INFO_LOG_BYTES: c_int = 4;
const ERROR_LOG: c_int = 5;
const ERROR_LOG_BYTES: c_int = 6;

/// Loads the text of a module; what is wrong with it goes to the log.
pub fn load_text(file: &str, image: &[u8], log: &mut dyn FnMut(&str)) -> Answer<u64> {
    let device = driver().device()?;
    if image.starts_with(b"\x7fELF") || image.starts_with(&[0x50, 0xed, 0x55, 0xba]) {
        log("this is a GPU binary (cubin or fatbin); the emulator runs PTX, so load the PTX text instead");
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
pub unsafe fn image_bytes<'a>(image: *const c_void) -> Answer<&'a [u8]> {
    if image.is_null() {
        return Err(CUresult::INVALID_VALUE);
    }
    // SAFETY: the caller's.
    Ok(unsafe { CStr::from_ptr(image.cast()) }.to_bytes())
}

pub fn complain(message: &str) {
    eprintln!("ptx-emulator: {message}");
}

/// A kernel of a module by name; the same handle each time.
fn function(module: u64, name: &str) -> Answer<u64> {
    let loaded = driver().module(module)?;
    let mut tables = driver().tables();
    if let Some(function) = tables.functions.get(&(module, name.into())) {
        return Ok(*function);
    }
    let kernel = loaded.kernel(name).ok_or(CUresult::NOT_FOUND)?.clone();
    let handle = tables.keep(Object::Function(Arc::new(Function::new(kernel, loaded, module))));
    tables.functions.insert((module, name.into()), handle);
    Ok(handle)
}

/// Drops a module and its kernels' handles.
fn unload(module: u64) -> Answer<()> {
    driver().module(module)?;
    let mut gone = vec![module];
    driver().tables().functions.retain(|(owner, _), function| {
        if *owner == module {
            gone.push(*function);
        }
        *owner != module
    });
    gone.into_iter().try_for_each(|handle| driver().forget(handle).map(drop))
}

/// Some kernels of a module, in the order of their names.
///
/// # Safety
/// `into` is null or has room for `count` handles.
unsafe fn enumerate(into: *mut u64, count: c_uint, module: u64) -> Answer<()> {
    let loaded = driver().module(module)?;
    if into.is_null() {
        return Err(CUresult::INVALID_VALUE);
    }
    let mut names: Vec<&String> = loaded.kernels.keys().collect();
    names.sort();
    for (at, name) in names.into_iter().take(count as usize).enumerate() {
        // SAFETY: the caller's.
        unsafe { put(into.add(at), function(module, name)?)? };
    }
    Ok(())
}

/// A variable by name.
///
/// # Safety
/// The pointers are null or valid.
unsafe fn variable(address: *mut u64, bytes: *mut usize, module: u64, name: *const c_char) -> Answer<()> {
    let module = driver().module(module)?;
    // SAFETY: the caller's.
    unsafe {
        let (found, length) = *module.variables.get(text(name)?).ok_or(CUresult::NOT_FOUND)?;
        put_if_wanted(address, found)?;
        put_if_wanted(bytes, length as usize)
    }
}

/// Loads a module from a file.
fn load_file(path: &str) -> Answer<u64> {
    let image = std::fs::read(path).map_err(|error| {
        complain(&format!("{path}: {error}"));
        CUresult::FILE_NOT_FOUND
    })?;
    // A text in memory may end with a NUL, and so may one in a file.
    let text = image.strip_suffix(b"\0").unwrap_or(&image);
    load_text(path, text, &mut complain)
}

/// Loads a module from text, with the options that have an answer.
///
/// # Safety
/// As the driver API says of its pointers.
unsafe fn load_with_options(
    image: *const c_void,
    count: c_uint,
    options: *const c_int,
    values: *mut *mut c_void,
) -> Answer<u64> {
    // SAFETY: the caller's.
    let (image, options) = unsafe { (image_bytes(image)?, list(options, count as usize)?) };
    if count > 0 && values.is_null() {
        return Err(CUresult::INVALID_VALUE);
    }
    let option = |wanted: c_int| {
        // SAFETY: there are as many values as options.
        options.iter().position(|option| *option == wanted).map(|at| unsafe { values.add(at) })
    };
    // There is nothing to say about a module that loads.
    if let Some(length) = option(INFO_LOG_BYTES) {
        // SAFETY: the value of this option is written.
        unsafe { put(length, std::ptr::null_mut())? };
    }
    let (buffer, length) = (option(ERROR_LOG), option(ERROR_LOG_BYTES));
    load_text("module", image, &mut |message| {
        // SAFETY: the values of these options are a place, and how much room is there.
        let written = unsafe {
            let buffer = buffer.map(|value| value.read_unaligned().cast::<u8>()).filter(|buffer| !buffer.is_null());
            let room = length.map_or(0, |length| length.read_unaligned() as usize as u32 as usize);
            match (buffer, length) {
                (Some(buffer), Some(length)) if room > 0 => {
                    let count = message.len().min(room - 1);
                    std::ptr::copy_nonoverlapping(message.as_ptr(), buffer, count);
                    buffer.add(count).write(0);
                    length.write_unaligned(count as *mut c_void);
                    true
                }
                _ => false,
            }
        };
        if !written {
            complain(message);
        }
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
    fn cuModuleLoadDataEx(module: *mut u64, image: *const c_void, count: c_uint, options: *const c_int, values: *mut *mut c_void) {
        put(module, load_with_options(image, count, options, values)?)
    }

    /// Loads a module from a file.
    fn cuModuleLoad(module: *mut u64, path: *const c_char) {
        put(module, load_file(text(path)?)?)
    }

    /// Loads a library: its kernels serve every context of the current device.
    fn cuLibraryLoadData(
        library: *mut u64, image: *const c_void, options: *const c_int, values: *mut *mut c_void, count: c_uint,
        _library_options: *const c_int, _library_values: *const *mut c_void, _library_count: c_uint
    ) {
        put(library, load_with_options(image, count, options, values)?)
    }

    /// Loads a library from a file.
    fn cuLibraryLoadFromFile(
        library: *mut u64, path: *const c_char, _options: *const c_int, _values: *mut *mut c_void, _count: c_uint,
        _library_options: *const c_int, _library_values: *const *mut c_void, _library_count: c_uint
    ) {
        put(library, load_file(text(path)?)?)
    }

    /// Unloads a module; its kernels' handles go with it.
    fn cuModuleUnload(module: u64) {
        unload(module)
    }

    /// Unloads a library; its kernels' handles go with it.
    fn cuLibraryUnload(library: u64) {
        unload(library)
    }

    /// A library's module in the current context.
    fn cuLibraryGetModule(module: *mut u64, library: u64) {
        driver().module(library)?;
        put(module, library)
    }

    /// A kernel by name.
    fn cuModuleGetFunction(handle: *mut u64, module: u64, name: *const c_char) {
        put(handle, function(module, text(name)?)?)
    }

    /// A kernel by name.
    fn cuLibraryGetKernel(handle: *mut u64, library: u64, name: *const c_char) {
        put(handle, function(library, text(name)?)?)
    }

    /// A variable by name.
    fn cuModuleGetGlobal_v2(address: *mut u64, bytes: *mut usize, module: u64, name: *const c_char) {
        variable(address, bytes, module, name)
    }

    /// A variable by name.
    fn cuLibraryGetGlobal(address: *mut u64, bytes: *mut usize, library: u64, name: *const c_char) {
        variable(address, bytes, library, name)
    }

    /// How many kernels a module has.
    fn cuModuleGetFunctionCount(count: *mut c_uint, module: u64) {
        put(count, driver().module(module)?.kernels.len() as c_uint)
    }

    /// How many kernels a library has.
    fn cuLibraryGetKernelCount(count: *mut c_uint, library: u64) {
        put(count, driver().module(library)?.kernels.len() as c_uint)
    }

    /// The kernels of a module.
    fn cuModuleEnumerateFunctions(functions: *mut u64, count: c_uint, module: u64) {
        enumerate(functions, count, module)
    }

    /// The kernels of a library.
    fn cuLibraryEnumerateKernels(kernels: *mut u64, count: c_uint, library: u64) {
        enumerate(kernels, count, library)
    }

    /// Kernels need no loading of their own.
    fn cuModuleGetLoadingMode(mode: *mut c_int) {
        put(mode, 1)
    }
}
