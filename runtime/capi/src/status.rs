//! Errors, as C sees them.

use std::cell::RefCell;
use std::ffi::{CString, c_char};
use std::panic::{AssertUnwindSafe, catch_unwind};

use tessera_runtime::artifact::ArtifactError;
use tessera_runtime::device::DeviceError;
use tessera_runtime::execute::RunError;
use tessera_runtime::pages::PagesError;
use tessera_runtime::weights::WeightsError;

/// `tessera_status`.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TesseraStatus {
    /// `TESSERA_OK`
    Ok = 0,
    /// `TESSERA_ERROR_ARGUMENT`
    Argument = 1,
    /// `TESSERA_ERROR_ARTIFACT`
    Artifact = 2,
    /// `TESSERA_ERROR_WEIGHTS`
    Weights = 3,
    /// `TESSERA_ERROR_DEVICE`
    Device = 4,
    /// `TESSERA_ERROR_INPUT`
    Input = 5,
    /// `TESSERA_ERROR_FULL`
    Full = 6,
    /// `TESSERA_ERROR_INTERNAL`
    Internal = 7,
}

/// A failure: its status and what to say of it.
#[derive(Debug)]
pub(crate) struct Failure {
    status: TesseraStatus,
    message: String,
}

impl Failure {
    /// Something is wrong with an argument.
    pub fn argument(message: impl Into<String>) -> Failure {
        Failure { status: TesseraStatus::Argument, message: message.into() }
    }
}

impl From<ArtifactError> for Failure {
    fn from(error: ArtifactError) -> Failure {
        Failure { status: TesseraStatus::Artifact, message: error.to_string() }
    }
}

impl From<WeightsError> for Failure {
    fn from(error: WeightsError) -> Failure {
        Failure { status: TesseraStatus::Weights, message: error.to_string() }
    }
}

impl From<DeviceError> for Failure {
    fn from(error: DeviceError) -> Failure {
        let status = match error {
            DeviceError::Target(_) => TesseraStatus::Artifact,
            _ => TesseraStatus::Device,
        };
        Failure { status, message: error.to_string() }
    }
}

impl From<RunError> for Failure {
    fn from(error: RunError) -> Failure {
        match error {
            RunError::Device(error) => error.into(),
            RunError::Artifact(error) => error.into(),
            RunError::Weights(error) => error.into(),
            error => Failure { status: TesseraStatus::Input, message: error.to_string() },
        }
    }
}

impl From<PagesError> for Failure {
    fn from(error: PagesError) -> Failure {
        let status = match error {
            PagesError::Full { .. } => TesseraStatus::Full,
            _ => TesseraStatus::Argument,
        };
        Failure { status, message: error.to_string() }
    }
}

thread_local! {
    static LAST_ERROR: RefCell<CString> = RefCell::default();
}

fn remember(message: &str) {
    // A zero byte would end the text early; there is none in ours, but names from C may be quoted.
    let text = CString::new(message.replace('\0', " ")).unwrap_or_default();
    LAST_ERROR.with(|error| *error.borrow_mut() = text);
}

/// Runs a function's body, and turns what becomes of it into a status. A panic is `TESSERA_ERROR_INTERNAL`.
pub(crate) fn guard(body: impl FnOnce() -> Result<(), Failure>) -> TesseraStatus {
    let failure = match catch_unwind(AssertUnwindSafe(body)) {
        Ok(Ok(())) => return TesseraStatus::Ok,
        Ok(Err(failure)) => failure,
        Err(panic) => {
            let text = panic.downcast_ref::<String>().cloned();
            let text = text.or_else(|| panic.downcast_ref::<&str>().map(|text| text.to_string())).unwrap_or_default();
            Failure { status: TesseraStatus::Internal, message: format!("a mistake in Tessera: {text}") }
        }
    };
    remember(&failure.message);
    failure.status
}

/// Runs the body of a function that gives a value and has one for failure.
pub(crate) fn guard_value<T>(failed: T, body: impl FnOnce() -> Result<T, Failure>) -> T {
    let mut value = failed;
    guard(|| {
        value = body()?;
        Ok(())
    });
    value
}

/// `tessera_error`
#[unsafe(no_mangle)]
pub extern "C" fn tessera_error() -> *const c_char {
    LAST_ERROR.with(|error| error.borrow().as_ptr())
}

/// `tessera_version`
#[unsafe(no_mangle)]
pub extern "C" fn tessera_version() -> *const c_char {
    concat!(env!("CARGO_PKG_VERSION"), "\0").as_ptr().cast()
}
