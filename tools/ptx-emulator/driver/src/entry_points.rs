//! `cuGetProcAddress`: the driver's functions by name and version.

use std::ffi::{CStr, CString, c_char, c_int, c_void};

use crate::error::{Answer, CUresult, put, put_if_wanted, text};

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

/// The functions that had other signatures before: which one programs of a version mean, from the first version that has it.
const VERSIONS: &[(&str, &[(c_int, &CStr)])] = &[
    ("cuCtxCreate", &[(3020, c"cuCtxCreate_v2"), (11040, c"cuCtxCreate_v3"), (12050, c"cuCtxCreate_v4")]),
    ("cuCtxGetDevice", &[(2000, c"cuCtxGetDevice")]),
    ("cuCtxSynchronize", &[(2000, c"cuCtxSynchronize")]),
    ("cuEventElapsedTime", &[(2000, c"cuEventElapsedTime"), (12080, c"cuEventElapsedTime_v2")]),
    ("cuGetProcAddress", &[(11030, c"cuGetProcAddress"), (12000, c"cuGetProcAddress_v2")]),
    ("cuGraphAddDependencies", &[(10000, c"cuGraphAddDependencies"), (12030, c"cuGraphAddDependencies_v2")]),
    ("cuGraphAddKernelNode", &[(10000, c"cuGraphAddKernelNode"), (12000, c"cuGraphAddKernelNode_v2")]),
    ("cuGraphAddNode", &[(12020, c"cuGraphAddNode"), (12030, c"cuGraphAddNode_v2")]),
    (
        "cuGraphExecKernelNodeSetParams",
        &[(10010, c"cuGraphExecKernelNodeSetParams"), (12000, c"cuGraphExecKernelNodeSetParams_v2")],
    ),
    ("cuGraphExecUpdate", &[(10020, c"cuGraphExecUpdate"), (12000, c"cuGraphExecUpdate_v2")]),
    ("cuGraphGetEdges", &[(10000, c"cuGraphGetEdges"), (12030, c"cuGraphGetEdges_v2")]),
    ("cuGraphInstantiate", &[(11000, c"cuGraphInstantiate_v2"), (12000, c"cuGraphInstantiateWithFlags")]),
    (
        "cuGraphKernelNodeGetParams",
        &[(10000, c"cuGraphKernelNodeGetParams"), (12000, c"cuGraphKernelNodeGetParams_v2")],
    ),
    (
        "cuGraphKernelNodeSetParams",
        &[(10000, c"cuGraphKernelNodeSetParams"), (12000, c"cuGraphKernelNodeSetParams_v2")],
    ),
    (
        "cuGraphNodeGetDependencies",
        &[(10000, c"cuGraphNodeGetDependencies"), (12030, c"cuGraphNodeGetDependencies_v2")],
    ),
    (
        "cuGraphNodeGetDependentNodes",
        &[(10000, c"cuGraphNodeGetDependentNodes"), (12030, c"cuGraphNodeGetDependentNodes_v2")],
    ),
    ("cuGraphRemoveDependencies", &[(10000, c"cuGraphRemoveDependencies"), (12030, c"cuGraphRemoveDependencies_v2")]),
    ("cuMemAdvise", &[(8000, c"cuMemAdvise"), (12020, c"cuMemAdvise_v2")]),
    ("cuMemPrefetchAsync", &[(8000, c"cuMemPrefetchAsync"), (12020, c"cuMemPrefetchAsync_v2")]),
    ("cuStreamBeginCapture", &[(10000, c"cuStreamBeginCapture"), (10010, c"cuStreamBeginCapture_v2")]),
    (
        "cuStreamGetCaptureInfo",
        &[
            (10010, c"cuStreamGetCaptureInfo"),
            (11030, c"cuStreamGetCaptureInfo_v2"),
            (12030, c"cuStreamGetCaptureInfo_v3"),
        ],
    ),
    (
        "cuStreamUpdateCaptureDependencies",
        &[(11030, c"cuStreamUpdateCaptureDependencies"), (12030, c"cuStreamUpdateCaptureDependencies_v2")],
    ),
];

/// `CUdriverProcAddressQueryResult`
#[derive(Clone, Copy, PartialEq, Eq)]
enum Found {
    Yes = 0,
    No = 1,
    OnlyLater = 2,
}

/// # Safety
/// As the driver API says.
unsafe fn find(symbol: *const c_char, into: *mut *mut c_void, version: c_int) -> Answer<Found> {
    // SAFETY: the caller's.
    let name = unsafe { text(symbol)? };
    let (mut found, mut only_later) = (std::ptr::null_mut(), false);
    if let Some((_, versions)) = VERSIONS.iter().find(|(other, _)| *other == name) {
        match versions.iter().rev().find(|(since, _)| *since <= version) {
            // SAFETY: it ends with a NUL.
            Some((_, symbol)) => found = unsafe { address(symbol) },
            None => only_later = true,
        }
    } else {
        // The newest form of a function has the highest suffix; the earlier ones differ by the width of sizes alone.
        for suffix in ["_v3", "_v2", ""] {
            let Ok(versioned) = CString::new(format!("{name}{suffix}")) else { continue };
            // SAFETY: it ends with a NUL.
            found = unsafe { address(&versioned) };
            if !found.is_null() {
                break;
            }
        }
    }
    // SAFETY: the caller's.
    unsafe { put(into, found)? };
    Ok(if only_later {
        Found::OnlyLater
    } else if found.is_null() {
        Found::No
    } else {
        Found::Yes
    })
}

calls! {
    /// A function by name.
    fn cuGetProcAddress_v2(symbol: *const c_char, into: *mut *mut c_void, version: c_int, _flags: u64, status: *mut c_int) {
        let found = find(symbol, into, version)?;
        put_if_wanted(status, found as c_int)?;
        if found == Found::Yes { Ok(()) } else { Err(CUresult::NOT_FOUND) }
    }

    /// A function by name.
    fn cuGetProcAddress(symbol: *const c_char, into: *mut *mut c_void, version: c_int, _flags: u64) {
        if find(symbol, into, version)? == Found::Yes { Ok(()) } else { Err(CUresult::NOT_FOUND) }
    }
}
