//! `CUresult` and how calls answer.

use std::ffi::{CStr, c_char, c_int};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;

use ptx_emulator::machine::fault::FaultKind;

/// A result of the driver API.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CUresult(pub c_int);

macro_rules! results {
    ($($name:ident = $value:literal, $text:literal;)*) => {
        impl CUresult {
            $(#[doc = $text] pub const $name: CUresult = CUresult($value);)*
        }

        /// Name and text of every result that this driver gives.
        const RESULTS: &[(c_int, &CStr, &CStr)] = &[$(($value, named(concat!("CUDA_ERROR_", stringify!($name), "\0")), named(concat!($text, "\0")))),*];
    };
}

const fn named(text: &'static str) -> &'static CStr {
    match CStr::from_bytes_with_nul(text.as_bytes()) {
        Ok(text) => text,
        Err(_) => c"",
    }
}

results! {
    INVALID_VALUE = 1, "invalid argument";
    OUT_OF_MEMORY = 2, "out of memory";
    NOT_INITIALIZED = 3, "cuInit has not been called";
    INVALID_DEVICE = 101, "there is no device of this number";
    INVALID_IMAGE = 200, "this is not PTX; the emulator cannot run GPU binaries, load the PTX text instead";
    INVALID_CONTEXT = 201, "no context is current";
    NO_BINARY_FOR_GPU = 209, "the module is for another chip than the emulated one";
    INVALID_PTX = 218, "the PTX cannot be loaded; standard error says why";
    FILE_NOT_FOUND = 301, "the file cannot be read";
    INVALID_HANDLE = 400, "this handle is not known";
    NOT_FOUND = 500, "there is nothing of this name";
    NOT_READY = 600, "the work is not done yet";
    ILLEGAL_ADDRESS = 700, "a kernel accessed memory that is not allocated";
    LAUNCH_OUT_OF_RESOURCES = 701, "a block has more threads or registers than the kernel or the chip allows";
    LAUNCH_TIMEOUT = 702, "the kernel cannot finish: all its threads wait";
    PEER_ACCESS_ALREADY_ENABLED = 704, "access to this peer is enabled already";
    PEER_ACCESS_NOT_ENABLED = 705, "access to this peer is not enabled";
    ASSERT = 710, "a device-side assertion failed";
    HOST_MEMORY_ALREADY_REGISTERED = 712, "part of this memory is known to the driver already";
    HOST_MEMORY_NOT_REGISTERED = 713, "this memory is not registered";
    ILLEGAL_INSTRUCTION = 715, "an instruction with operands that it does not allow";
    MISALIGNED_ADDRESS = 716, "a kernel accessed a misaligned address";
    LAUNCH_FAILED = 719, "the kernel failed";
    COOPERATIVE_LAUNCH_TOO_LARGE = 720, "a cooperative grid does not fit on the chip at once";
    NOT_SUPPORTED = 801, "the emulated driver does not have this";
    STREAM_CAPTURE_UNSUPPORTED = 900, "not permitted while a stream is captured";
    STREAM_CAPTURE_INVALIDATED = 901, "an earlier call made this capture invalid";
    STREAM_CAPTURE_MERGE = 902, "two captures cannot become one";
    STREAM_CAPTURE_UNMATCHED = 903, "the capture did not begin in this stream";
    STREAM_CAPTURE_UNJOINED = 904, "the capture has forked to a stream that it has not joined again";
    STREAM_CAPTURE_ISOLATION = 905, "a captured stream would wait for work outside of its capture";
    STREAM_CAPTURE_IMPLICIT = 906, "the legacy stream would wait for a captured stream";
    CAPTURED_EVENT = 907, "the event was recorded in a captured stream";
    GRAPH_EXEC_UPDATE_FAILURE = 910, "the graph differs too much from the instantiated one";
    INVALID_CLUSTER_SIZE = 912, "clusters of this size are not possible";
    UNKNOWN = 999, "a fault inside of the emulator, please report it";
}

impl From<FaultKind> for CUresult {
    fn from(kind: FaultKind) -> CUresult {
        match kind {
            FaultKind::IllegalAddress => CUresult::ILLEGAL_ADDRESS,
            FaultKind::MisalignedAddress => CUresult::MISALIGNED_ADDRESS,
            FaultKind::IllegalInstruction => CUresult::ILLEGAL_INSTRUCTION,
            FaultKind::InvalidLaunch => CUresult::INVALID_VALUE,
            FaultKind::Trap => CUresult::LAUNCH_FAILED,
            FaultKind::Assertion => CUresult::ASSERT,
            FaultKind::Deadlock | FaultKind::Limit => CUresult::LAUNCH_TIMEOUT,
            FaultKind::Reported => CUresult::LAUNCH_FAILED,
        }
    }
}

/// What the parts of a call give.
pub type Answer<T> = Result<T, CUresult>;

/// Runs a call: an error becomes its number, and a panic does not unwind into the program.
pub fn answer(call: impl FnOnce() -> Answer<()>) -> c_int {
    match catch_unwind(AssertUnwindSafe(call)) {
        Ok(Ok(())) => 0,
        Ok(Err(CUresult(code))) => code,
        Err(_) => CUresult::UNKNOWN.0,
    }
}

/// Declares functions of the driver API: each answers with what its body gives.
macro_rules! calls {
    ($($(#[$doc:meta])* fn $name:ident($($argument:ident: $type:ty),* $(,)?) $body:block)*) => {$(
        $(#[$doc])*
        ///
        /// # Safety
        /// As the driver API says of its pointers.
        #[unsafe(no_mangle)]
        pub unsafe extern "C" fn $name($($argument: $type),*) -> std::ffi::c_int {
            // SAFETY: the caller's, where the body follows its pointers.
            #[allow(unused_unsafe, reason = "some bodies follow none")]
            $crate::error::answer(|| unsafe { $body })
        }
    )*};
}

/// Says once that a program uses what is not there.
pub fn unsupported(name: &str) -> CUresult {
    static SAID: Mutex<Vec<String>> = Mutex::new(Vec::new());
    let mut said = SAID.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    if !said.iter().any(|other| other == name) {
        said.push(name.into());
        eprintln!("ptx-emulator: {name} is not there; it answers CUDA_ERROR_NOT_SUPPORTED");
    }
    CUresult::NOT_SUPPORTED
}

/// Writes a result through a pointer of the program's; a null pointer is an error.
///
/// # Safety
/// The pointer is null or valid for a write of a `T`.
pub unsafe fn put<T>(pointer: *mut T, value: T) -> Answer<()> {
    if pointer.is_null() {
        return Err(CUresult::INVALID_VALUE);
    }
    // SAFETY: the caller's.
    unsafe { pointer.write_unaligned(value) };
    Ok(())
}

/// Writes a result through a pointer of the program's, where it gives one.
///
/// # Safety
/// As [`put`].
pub unsafe fn put_if_wanted<T>(pointer: *mut T, value: T) -> Answer<()> {
    // SAFETY: the caller's.
    if pointer.is_null() { Ok(()) } else { unsafe { put(pointer, value) } }
}

/// Reads what a pointer of the program's points to; a null pointer is an error.
///
/// # Safety
/// The pointer is null or valid for a read of a `T`.
pub unsafe fn get<T: Copy>(pointer: *const T) -> Answer<T> {
    // SAFETY: the caller's.
    if pointer.is_null() { Err(CUresult::INVALID_VALUE) } else { Ok(unsafe { pointer.read_unaligned() }) }
}

/// A text of the program's.
///
/// # Safety
/// `text` is null or ends with a NUL.
pub unsafe fn text<'a>(text: *const c_char) -> Answer<&'a str> {
    if text.is_null() {
        return Err(CUresult::INVALID_VALUE);
    }
    // SAFETY: the caller's.
    unsafe { CStr::from_ptr(text) }.to_str().map_err(|_| CUresult::INVALID_VALUE)
}

/// A list of the program's.
///
/// # Safety
/// `list` is null or has `count` elements.
pub unsafe fn list<T: Copy>(list: *const T, count: usize) -> Answer<Vec<T>> {
    if count == 0 {
        return Ok(vec![]);
    }
    if list.is_null() || count > MOST_ELEMENTS {
        return Err(CUresult::INVALID_VALUE);
    }
    // SAFETY: the caller's.
    Ok((0..count).map(|at| unsafe { list.add(at).read_unaligned() }).collect())
}

/// Lists that programs give are shorter than this; what is longer is taken for a mistake.
const MOST_ELEMENTS: usize = 1 << 24;

/// Writes a list as the driver API does: where there is no place for it, its length alone; else as many elements as there is place for.
///
/// # Safety
/// `count` is null or valid; `into` is null or has as many places as `count` says.
pub unsafe fn put_list<T: Copy>(into: *mut T, count: *mut usize, list: &[T]) -> Answer<()> {
    // SAFETY: the caller's.
    let places = unsafe { get(count)? };
    if !into.is_null() {
        for (at, value) in list.iter().take(places).enumerate() {
            // SAFETY: the caller's.
            unsafe { into.add(at).write_unaligned(*value) };
        }
    }
    // SAFETY: the caller's.
    unsafe { put(count, if into.is_null() { list.len() } else { list.len().min(places) }) }
}

/// # Safety
/// `text` is null or valid for a write.
unsafe fn describe(
    code: c_int,
    text: *mut *const c_char,
    pick: fn(&(c_int, &'static CStr, &'static CStr)) -> &'static CStr,
) -> c_int {
    let found = if code == 0 { None } else { RESULTS.iter().find(|(known, ..)| *known == code) };
    let name = match (code, found) {
        (0, _) => c"CUDA_SUCCESS",
        (_, Some(found)) => pick(found),
        _ => return CUresult::INVALID_VALUE.0,
    };
    // SAFETY: the caller's.
    answer(|| unsafe { put(text, name.as_ptr()) })
}

/// The text of a result.
///
/// # Safety
/// As the driver API says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuGetErrorString(code: c_int, text: *mut *const c_char) -> c_int {
    // SAFETY: the caller's.
    unsafe { describe(code, text, |(_, _, text)| text) }
}

/// The name of a result.
///
/// # Safety
/// As the driver API says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuGetErrorName(code: c_int, text: *mut *const c_char) -> c_int {
    // SAFETY: the caller's.
    unsafe { describe(code, text, |(_, name, _)| name) }
}
