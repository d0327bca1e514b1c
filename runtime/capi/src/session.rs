//! Sessions.

use std::ffi::{CString, c_char, c_void};

use tessera_runtime::plan::ElementType;
use tessera_runtime::{Session, TensorView};

use crate::model::{TesseraCache, TesseraModel, c_names};
use crate::pointer::{give, place, reference, reference_mut, slice, take_back, text};
use crate::status::{Failure, TesseraStatus, guard};

/// `TESSERA_MAXIMUM_RANK`
pub const TESSERA_MAXIMUM_RANK: usize = 8;

/// `tessera_session`
pub struct TesseraSession {
    session: Session,
    outputs: Vec<CString>,
}

/// `tessera_tensor`
#[repr(C)]
pub struct TesseraTensor {
    name: *const c_char,
    data: *const c_void,
    /// A `tessera_element`; C may put any number here.
    element: u32,
    rank: u32,
    shape: [u64; TESSERA_MAXIMUM_RANK],
}

/// `tessera_cache_argument`
#[repr(C)]
pub struct TesseraCacheArgument {
    name: *const c_char,
    cache: *mut TesseraCache,
}

/// `tessera_session_open`
///
/// # Safety
///
/// As `tessera.h` says: `model` is null or a live model, `session` has room for a pointer.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tessera_session_open(
    model: *const TesseraModel,
    session: *mut *mut TesseraSession,
) -> TesseraStatus {
    // SAFETY: `tessera.h`.
    guard(|| unsafe {
        let place = place(session, "session")?;
        let executable = &reference(model, "model")?.executable;
        let outputs = c_names(executable.plan().outputs.iter().map(|output| &output.name));
        give(TesseraSession { session: Session::new(executable), outputs }, place);
        Ok(())
    })
}

/// `tessera_session_close`
///
/// # Safety
///
/// As `tessera.h` says: `session` is null or from [`tessera_session_open`], and not used again.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tessera_session_close(session: *mut TesseraSession) {
    guard(|| {
        // SAFETY: `tessera.h`.
        unsafe { take_back(session) };
        Ok(())
    });
}

/// The array that C describes.
///
/// # Safety
///
/// The data has as many bytes as element type and shape say, and lives for `'a`.
unsafe fn view<'a>(name: &str, tensor: &'a TesseraTensor) -> Result<TensorView<'a>, Failure> {
    let element = ElementType::all().nth(tensor.element as usize);
    let unknown = || Failure::argument(format!("input `{name}`: {} is no element type", tensor.element));
    let element = element.ok_or_else(unknown)?;
    let Some(shape) = tensor.shape.get(..tensor.rank as usize) else {
        return Err(Failure::argument(format!(
            "input `{name}`: {} dimensions, at most {TESSERA_MAXIMUM_RANK} are allowed",
            tensor.rank
        )));
    };
    let elements = shape.iter().try_fold(1u64, |product, size| product.checked_mul(*size));
    let bytes = elements.and_then(|elements| element.bytes(elements)).and_then(|bytes| isize::try_from(bytes).ok());
    let too_large = || Failure::argument(format!("input `{name}`: {shape:?} is too large"));
    // SAFETY: the caller's.
    let bytes = unsafe { slice(tensor.data.cast::<u8>(), bytes.ok_or_else(too_large)? as usize, "data of an input")? };
    Ok(TensorView::from_bytes(element, shape, bytes)?)
}

/// `tessera_session_run`
///
/// # Safety
///
/// As `tessera.h` says: `session` is null or a live session that no other thread uses; there are as many inputs and caches as the
/// counts say; the data of the inputs is as large as they say; the caches are live and no other thread uses them.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tessera_session_run(
    session: *mut TesseraSession,
    inputs: *const TesseraTensor,
    input_count: usize,
    caches: *const TesseraCacheArgument,
    cache_count: usize,
) -> TesseraStatus {
    // SAFETY: `tessera.h`.
    guard(|| unsafe {
        let session = reference_mut(session, "session")?;
        let mut views = Vec::with_capacity(input_count);
        for input in slice(inputs, input_count, "inputs")? {
            let name = text(input.name, "name of an input")?;
            views.push((name, view(name, input)?));
        }
        let caches = slice(caches, cache_count, "caches")?;
        // Two mutable references to one cache must not be made, not even to be refused.
        for (index, argument) in caches.iter().enumerate() {
            if caches[..index].iter().any(|earlier| std::ptr::eq(earlier.cache, argument.cache)) {
                return Err(Failure::argument("a cache is passed twice"));
            }
        }
        let mut borrowed = Vec::with_capacity(cache_count);
        for argument in caches {
            let name = text(argument.name, "name of a cache")?;
            borrowed.push((name, &mut reference_mut(argument.cache, "cache")?.0));
        }
        session.session.run(&views, &mut borrowed)?;
        Ok(())
    })
}

/// `tessera_session_output`
///
/// # Safety
///
/// As `tessera.h` says: `session` is null or a live session, `output` has room for a tensor.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tessera_session_output(
    session: *const TesseraSession,
    index: usize,
    output: *mut TesseraTensor,
) -> TesseraStatus {
    // SAFETY: `tessera.h`.
    guard(|| unsafe {
        let place = place(output, "output")?;
        let session = reference(session, "session")?;
        let outputs = session.session.outputs();
        let outputs = outputs.ok_or_else(|| Failure::argument("the session has not run, or its last run failed"))?;
        let view = outputs.at(index)?;
        let mut shape = [0; TESSERA_MAXIMUM_RANK];
        let rank = view.shape().len();
        let Some(head) = shape.get_mut(..rank) else {
            return Err(Failure::argument(format!(
                "output {index} has {rank} dimensions, more than a tessera_tensor can have"
            )));
        };
        head.copy_from_slice(view.shape());
        let name = session.outputs.get(index).map_or(std::ptr::null(), |name| name.as_ptr());
        let data = view.bytes().as_ptr().cast();
        place.put(TesseraTensor { name, data, element: view.element() as u32, rank: rank as u32, shape });
        Ok(())
    })
}
