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
    INVALID_DEVICE = 101, "there is no device of this number";
    INVALID_IMAGE = 200, "this is not PTX; the emulator cannot run GPU binaries, load the PTX text instead";
    INVALID_CONTEXT = 201, "no context is current";
    NO_BINARY_FOR_GPU = 209, "the module is for another chip than the emulated one";
    INVALID_PTX = 218, "the PTX cannot be loaded; standard error says why";
    INVALID_HANDLE = 400, "this handle is not known";
    NOT_FOUND = 500, "there is nothing of this name";
    ILLEGAL_ADDRESS = 700, "a kernel accessed memory that is not allocated";
    LAUNCH_TIMEOUT = 702, "the kernel cannot finish: all its threads wait";
    ASSERT = 710, "a device-side assertion failed";
    ILLEGAL_INSTRUCTION = 715, "an instruction with operands that it does not allow";
    MISALIGNED_ADDRESS = 716, "a kernel accessed a misaligned address";
    LAUNCH_FAILED = 719, "the kernel failed";
    NOT_SUPPORTED = 801, "the emulated driver does not have this";
    STREAM_CAPTURE_UNSUPPORTED = 900, "not permitted while a stream is captured";
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
            FaultKind::Deadlock => CUresult::LAUNCH_TIMEOUT,
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
