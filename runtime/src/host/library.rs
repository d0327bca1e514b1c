//! Native kernels: a shared object that never touches the disk.

use std::fs::File;
use std::io::Write;
use std::os::fd::AsRawFd;

use rustix::fs::MemfdFlags;

use super::HostError;

/// Bytes at the start of a thread's scratch memory that are 0 when it first calls a kernel of a launch, for kernels that note there what
/// they have left behind it in an earlier call.
pub const CLEARED_SCRATCH_BYTES: u64 = 2048;

/// A kernel's entry point: arguments and the three grid sizes in 8-byte slots, the first program, the one after the last, and
/// this thread's scratch memory, which is its own from its first call of a launch to the last, and starts with [`CLEARED_SCRATCH_BYTES`] zeros then.
pub(super) type Entry = unsafe extern "C" fn(*const u64, u64, u64, *mut u8);

/// A loaded shared object.
#[derive(Debug)]
pub(super) struct Library {
    // Unloaded before the file is closed: the loader knows the object by the path of the open file, which a later file would
    // otherwise share.
    library: libloading::Library,
    _file: File,
}

impl Library {
    /// Loads a shared object from memory, by way of an anonymous file.
    pub fn load(object: &[u8]) -> Result<Library, HostError> {
        let failed = |error: std::io::Error| HostError::Load(error.to_string());
        let descriptor =
            rustix::fs::memfd_create("tessera-kernels", MemfdFlags::CLOEXEC).map_err(|error| failed(error.into()))?;
        let mut file = File::from(descriptor);
        file.write_all(object).map_err(failed)?;
        let path = format!("/proc/self/fd/{}", file.as_raw_fd());
        // SAFETY: the object is a kernel library that the compiler wrote; it has no initializers. That it is not damaged has been
        // checked by its checksum; that it can be trusted is the user's say, as with any program (see `artifact`).
        let library = unsafe { libloading::Library::new(path) };
        let library = library.map_err(|error| HostError::Load(error.to_string()))?;
        Ok(Library { library, _file: file })
    }

    /// The entry point of a kernel. It may be called while this library lives.
    pub fn entry(&self, kernel: &str) -> Result<Entry, HostError> {
        // SAFETY: every symbol that a plan names as a kernel has this signature; it is the artifact format's calling convention.
        let symbol = unsafe { self.library.get::<Entry>(kernel.as_bytes()) };
        symbol.map(|symbol| *symbol).map_err(|_| HostError::MissingKernel(kernel.into()))
    }
}
