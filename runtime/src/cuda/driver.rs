//! Finding the CUDA driver, `libcuda.so.1`, before anything calls it.
//!
//! cudarc opens the driver on its first call and panics where there is none, so every path into it starts with [`load`].

use std::ffi::{CString, c_char, c_int};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use cudarc::driver::{DriverError, sys};
use libloading::os::unix::{Library, RTLD_GLOBAL, RTLD_NOW, Symbol};

/// The environment variable that names the driver library to use instead of the system's.
pub const LIBRARY_VARIABLE: &str = "TESSERA_LIBCUDA";

/// What the emulated driver exports to pick the chip it emulates: takes the name (`sm_90a`), returns 0 where it knows it. It is
/// called before `cuInit`.
pub const SELECT_CHIP_SYMBOL: &str = "ptx_emulator_select_chip";

/// Why CUDA cannot do what it was asked.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CudaError {
    /// There is no driver.
    #[error(
        "no NVIDIA driver on this machine: libcuda.so.1 is not where the loader looks; install the driver, or use `--device host`, or \
         name an emulated driver in {LIBRARY_VARIABLE}"
    )]
    NoDriver,
    /// There is no emulated driver.
    #[error(
        "no emulated driver: {LIBRARY_VARIABLE} is not set and {} does not exist; build it with `make emulator`",
        beside.display()
    )]
    NoEmulator {
        /// Where it was looked for.
        beside: PathBuf,
    },
    /// The driver library cannot be loaded.
    #[error("{}: cannot load this driver: {problem}", path.display())]
    Library {
        /// The library.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
    /// A process can have one driver only.
    #[error(
        "this process already uses another CUDA driver; a process can have one, so use either `cuda` or `emulated` devices in it"
    )]
    OtherDriver,
    /// The emulated driver does not know the chip.
    #[error("the emulated driver cannot be a `{0}`; it may not know the chip, or be another one already")]
    Chip(String),
    /// There is no GPU of that ordinal.
    #[error("there is no GPU {ordinal}: this machine has {count}")]
    NoDevice {
        /// The ordinal that was asked for.
        ordinal: usize,
        /// How many there are.
        count: usize,
    },
    /// A call into the driver failed.
    #[error("{call} failed: {error}")]
    Call {
        /// What was being done.
        call: String,
        /// The driver's name and text for the error.
        error: String,
    },
    /// The driver does not accept the PTX of a kernel.
    #[error("the driver refuses the PTX of kernel `{kernel}`: {log}")]
    Ptx {
        /// The kernel.
        kernel: String,
        /// What the driver's compiler says.
        log: String,
    },
    /// A kernel needs more shared memory than the GPU has.
    #[error(
        "kernel `{kernel}` needs {bytes} bytes of shared memory a block, the GPU has {limit}; compile the model for this GPU"
    )]
    SharedMemory {
        /// The kernel.
        kernel: String,
        /// What it needs.
        bytes: u32,
        /// What there is.
        limit: u32,
    },
}

impl CudaError {
    /// A failed call, with the driver's own words.
    pub(super) fn call(what: impl Into<String>, error: DriverError) -> CudaError {
        let text = |text: Result<&std::ffi::CStr, DriverError>| {
            text.map_or_else(|_| format!("error {}", error.0 as u32), |text| text.to_string_lossy().into_owned())
        };
        let error = format!("{} ({})", text(error.error_name()), text(error.error_string()));
        CudaError::Call { call: what.into(), error }
    }
}

/// Which driver a device wants.
pub(super) enum Wanted<'a> {
    /// [`LIBRARY_VARIABLE`]'s, else the system's.
    System,
    /// The library at this path.
    Library(&'a Path),
    /// [`LIBRARY_VARIABLE`]'s, else the one beside this program, as the given chip.
    Emulated(Option<&'a str>),
}

/// The driver this process uses, once it uses one: its path, or `None` for the system's.
static LOADED: Mutex<Option<Option<PathBuf>>> = Mutex::new(None);

/// Makes sure that cudarc will find the wanted driver.
pub(super) fn load(wanted: &Wanted<'_>) -> Result<(), CudaError> {
    let named = std::env::var_os(LIBRARY_VARIABLE).filter(|name| !name.is_empty()).map(PathBuf::from);
    let path = match wanted {
        Wanted::System => named,
        Wanted::Library(path) => Some(path.into()),
        Wanted::Emulated(_) => Some(named.map_or_else(beside_this_program, Ok)?),
    };
    let mut loaded = LOADED.lock().unwrap_or_else(PoisonError::into_inner);
    match loaded.as_ref() {
        Some(before) if *before != path => return Err(CudaError::OtherDriver),
        Some(_) => {}
        None => {
            match &path {
                Some(path) => load_library(path)?,
                None => {
                    // SAFETY: this loads the system's driver library, as the first call would.
                    if !unsafe { sys::is_culib_present() } {
                        return Err(CudaError::NoDriver);
                    }
                }
            }
            *loaded = Some(path.clone());
        }
    }
    match (wanted, path) {
        (Wanted::Emulated(Some(chip)), Some(path)) => select_chip(&path, chip),
        _ => Ok(()),
    }
}

/// `libcuda.so.1` in the folder of this program: where a build of the workspace puts the emulated driver.
fn beside_this_program() -> Result<PathBuf, CudaError> {
    let program = std::env::current_exe().unwrap_or_default();
    let beside = program.with_file_name("libcuda.so.1");
    if beside.is_file() { Ok(beside) } else { Err(CudaError::NoEmulator { beside }) }
}

/// Loads a driver library so that cudarc, which asks the loader for `libcuda.so.1`, gets this one: the loader knows a library it has
/// loaded by its SONAME.
pub(super) fn load_library(path: &Path) -> Result<(), CudaError> {
    let problem = |problem: String| CudaError::Library { path: path.into(), problem };
    // SAFETY: loading runs the library's initializers. The user named it as the driver, and trusts it as such.
    let library = unsafe { Library::open(Some(path), RTLD_NOW | RTLD_GLOBAL) };
    let library = library.map_err(|error| problem(error.to_string()))?;
    // SAFETY: only the address is looked at.
    let ours = unsafe { library.get::<unsafe extern "C" fn()>(b"cuInit") }.map(Symbol::into_raw);
    let ours = ours.map_err(|_| problem("it has no cuInit, so it is not a CUDA driver".into()))?;
    // It stays loaded for as long as the process lives: cudarc keeps pointers into it.
    std::mem::forget(library);
    // SAFETY: as above; cudarc finds the library that was just loaded, or another one of that name.
    let theirs = unsafe {
        if !sys::is_culib_present() {
            return Err(problem("its SONAME is not libcuda.so.1".into()));
        }
        sys::culib().get::<unsafe extern "C" fn()>(b"cuInit").map(|symbol| symbol.into_raw().into_raw())
    };
    match theirs {
        Ok(theirs) if theirs == ours => Ok(()),
        _ => Err(problem(
            "the loader finds another libcuda.so first; put this one's folder into LD_LIBRARY_PATH, as libcuda.so"
                .into(),
        )),
    }
}

/// Has the emulated driver be the given chip.
fn select_chip(path: &Path, chip: &str) -> Result<(), CudaError> {
    let refused = || CudaError::Chip(chip.into());
    let name = CString::new(chip).map_err(|_| refused())?;
    // SAFETY: the library is loaded already; this only finds it again. The symbol has this signature wherever it is exported.
    let status = unsafe {
        let library = Library::open(Some(path), RTLD_NOW).map_err(|_| refused())?;
        let select = library.get::<unsafe extern "C" fn(*const c_char) -> c_int>(SELECT_CHIP_SYMBOL.as_bytes());
        select.map_err(|_| refused())?(name.as_ptr())
    };
    if status == 0 { Ok(()) } else { Err(refused()) }
}
