//! `cuLink`: what programs use to turn PTX into a binary. The binary here is the PTX, so one text links to itself.

use std::ffi::{c_char, c_int, c_uint, c_void};
use std::sync::{Arc, Mutex};

use crate::error::{Answer, CUresult, put, put_if_wanted, text, unsupported};
use crate::module::image_bytes;
use crate::state::{Object, driver, lock};

/// `CU_JIT_INPUT_PTX`
const PTX: c_int = 1;

/// What was added so far: the text, with its NUL.
#[derive(Default)]
pub struct Linker {
    image: Option<Vec<u8>>,
}

fn add(linker: u64, kind: c_int, image: &[u8]) -> Answer<()> {
    let linker = driver().linker(linker)?;
    if kind != PTX {
        crate::module::complain("cuLink takes PTX alone; a GPU binary cannot be run");
        return Err(CUresult::INVALID_IMAGE);
    }
    let mut linker = lock(&linker);
    if linker.image.is_some() {
        return Err(unsupported("cuLink of several modules"));
    }
    linker.image = Some([image.strip_suffix(b"\0").unwrap_or(image), b"\0"].concat());
    Ok(())
}

calls! {
    /// Begins to link.
    fn cuLinkCreate_v2(_count: c_uint, _options: *const c_int, _values: *const *mut c_void, linker: *mut u64) {
        driver().device()?;
        put(linker, driver().keep(Object::Linker(Arc::new(Mutex::new(Linker::default())))))
    }

    /// Adds a module from memory.
    fn cuLinkAddData_v2(
        linker: u64, kind: c_int, data: *const c_void, bytes: usize, _name: *const c_char, _count: c_uint, _options: *const c_int,
        _values: *const *mut c_void
    ) {
        // Texts end with a NUL, whatever their length is said to be.
        let image = image_bytes(data)?;
        add(linker, kind, &image[..image.len().min(bytes)])
    }

    /// Adds a module from a file.
    fn cuLinkAddFile_v2(
        linker: u64, kind: c_int, path: *const c_char, _count: c_uint, _options: *const c_int, _values: *const *mut c_void
    ) {
        add(linker, kind, &std::fs::read(text(path)?).map_err(|_| CUresult::FILE_NOT_FOUND)?)
    }

    /// The linked image, for as long as the linker is there.
    fn cuLinkComplete(linker: u64, image: *mut *const c_void, bytes: *mut usize) {
        let linker = driver().linker(linker)?;
        let linker = lock(&linker);
        let linked = linker.image.as_ref().ok_or(CUresult::INVALID_VALUE)?;
        put(image, linked.as_ptr().cast())?;
        put_if_wanted(bytes, linked.len())
    }

    /// Ends linking.
    fn cuLinkDestroy(linker: u64) {
        driver().linker(linker)?;
        driver().forget(linker).map(drop)
    }
}
