//! `cuGetProcAddress`: the driver's functions by name and version.

use std::ffi::{CStr, c_char, c_int, c_void};

use crate::error::{CUresult, put};

/// The address of an exported function of this library.
///
/// # Safety
/// `name` ends with a NUL.
unsafe fn address(name: &CStr) -> *mut c_void {
    let mut own = libc::Dl_info {
        dli_fname: std::ptr::null(),
        dli_fbase: std::ptr::null_mut(),
        dli_sname: std::ptr::null(),
        dli_saddr: std::ptr::null_mut(),
    };
    // SAFETY: the address of a function of this library, and a place for the answer.
    if unsafe { libc::dladdr(crate::device::cuInit as *const c_void, &mut own) } == 0 || own.dli_fname.is_null() {
        return std::ptr::null_mut();
    }
    // SAFETY: this library is loaded already: this only finds it again.
    let library = unsafe { libc::dlopen(own.dli_fname, libc::RTLD_NOW | libc::RTLD_NOLOAD) };
    if library.is_null() {
        return std::ptr::null_mut();
    }
    // SAFETY: the library is loaded, and stays loaded by whoever loaded it first.
    unsafe {
        let found = libc::dlsym(library, name.as_ptr());
        libc::dlclose(library);
        found
    }
}

/// # Safety
/// As the driver API says.
unsafe fn find(symbol: *const c_char, into: *mut *mut c_void) -> Result<bool, CUresult> {
    if symbol.is_null() {
        return Err(CUresult::INVALID_VALUE);
    }
    // SAFETY: the caller's.
    let name = unsafe { CStr::from_ptr(symbol) };
    // The newest version of a function has the highest suffix.
    let mut found = std::ptr::null_mut();
    for suffix in ["_v4", "_v3", "_v2", ""] {
        let Ok(versioned) = std::ffi::CString::new([name.to_bytes(), suffix.as_bytes()].concat()) else { continue };
        // SAFETY: it ends with a NUL.
        found = unsafe { address(&versioned) };
        if !found.is_null() {
            break;
        }
    }
    // SAFETY: the caller's.
    unsafe { put(into, found)? };
    Ok(!found.is_null())
}

calls! {
    /// A function by name.
    fn cuGetProcAddress_v2(symbol: *const c_char, into: *mut *mut c_void, _version: c_int, _flags: u64, status: *mut c_int) {
        let found = find(symbol, into)?;
        if !status.is_null() {
            put(status, if found { 0 } else { 1 })?;
        }
        if found { Ok(()) } else { Err(CUresult::NOT_FOUND) }
    }

    /// A function by name.
    fn cuGetProcAddress(symbol: *const c_char, into: *mut *mut c_void, _version: c_int, _flags: u64) {
        if find(symbol, into)? { Ok(()) } else { Err(CUresult::NOT_FOUND) }
    }
}
