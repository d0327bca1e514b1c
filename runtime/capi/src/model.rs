//! Models and caches.

use std::ffi::{CString, c_char};

use tessera_runtime::{Artifact, Executable, KvCache, Weights, device};

use crate::pointer::{give, place, reference, take_back, text};
use crate::status::{TesseraStatus, guard, guard_value};

/// `tessera_model`
pub struct TesseraModel {
    pub(crate) executable: Executable,
    inputs: Vec<CString>,
    outputs: Vec<CString>,
    caches: Vec<CString>,
    page_tables: Vec<Option<CString>>,
}

/// `tessera_cache`
pub struct TesseraCache(pub(crate) KvCache);

/// Names as C reads them. A zero byte, which no compiler writes into a name, would end it.
pub(crate) fn c_names<'a>(names: impl Iterator<Item = &'a String>) -> Vec<CString> {
    names.map(|name| CString::new(name.replace('\0', " ")).unwrap_or_default()).collect()
}

/// `tessera_model_open`
///
/// # Safety
///
/// As `tessera.h` says: texts end with a zero byte, `model` has room for a pointer.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tessera_model_open(
    artifact: *const c_char,
    function: *const c_char,
    weights: *const c_char,
    device: *const c_char,
    model: *mut *mut TesseraModel,
) -> TesseraStatus {
    // SAFETY: `tessera.h`.
    guard(|| unsafe {
        let place = place(model, "model")?;
        let (artifact, device) = (text(artifact, "artifact")?, text(device, "device")?);
        let function = if function.is_null() { None } else { Some(text(function, "function")?) };
        let weights = if weights.is_null() { None } else { Some(text(weights, "weights")?) };
        let device = device::open(device)?;
        let artifact = Artifact::open(artifact)?;
        let weights = weights.map_or_else(|| Ok(Weights::in_memory()), Weights::open)?;
        let executable = match function {
            Some(function) => Executable::load_function(&artifact, function, &weights, &device)?,
            None => Executable::load(&artifact, &weights, &device)?,
        };
        let plan = executable.plan();
        let inputs = c_names(plan.inputs.iter().map(|input| &input.name));
        let outputs = c_names(plan.outputs.iter().map(|output| &output.name));
        let caches = c_names(plan.caches.iter().map(|cache| &cache.name));
        let table = |cache| plan.page_table(cache).and_then(|name| c_names([name.to_owned()].iter()).pop());
        let page_tables = (0..caches.len()).map(table).collect();
        give(TesseraModel { executable, inputs, outputs, caches, page_tables }, place);
        Ok(())
    })
}

/// `tessera_model_close`
///
/// # Safety
///
/// As `tessera.h` says: `model` is null or from [`tessera_model_open`], and not used again.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tessera_model_close(model: *mut TesseraModel) {
    guard(|| {
        // SAFETY: `tessera.h`.
        unsafe { take_back(model) };
        Ok(())
    });
}

/// Defines the functions that count and name a model's arguments of one sort.
macro_rules! names {
    ($count:ident, $name:ident, $field:ident) => {
        #[doc = concat!("`", stringify!($count), "`")]
        ///
        /// # Safety
        ///
        /// As `tessera.h` says: `model` is null or a live model.
        #[unsafe(no_mangle)]
        pub unsafe extern "C" fn $count(model: *const TesseraModel) -> usize {
            // SAFETY: `tessera.h`.
            guard_value(0, || unsafe { Ok(reference(model, "model")?.$field.len()) })
        }

        #[doc = concat!("`", stringify!($name), "`")]
        ///
        /// # Safety
        ///
        /// As `tessera.h` says: `model` is null or a live model.
        #[unsafe(no_mangle)]
        pub unsafe extern "C" fn $name(model: *const TesseraModel, index: usize) -> *const c_char {
            // SAFETY: `tessera.h`.
            guard_value(std::ptr::null(), || unsafe {
                let names = &reference(model, "model")?.$field;
                Ok(names.get(index).map_or(std::ptr::null(), |name| name.as_ptr()))
            })
        }
    };
}

names!(tessera_model_inputs, tessera_model_input_name, inputs);
names!(tessera_model_outputs, tessera_model_output_name, outputs);
names!(tessera_model_caches, tessera_model_cache_name, caches);

/// `tessera_model_page_table_name`
///
/// # Safety
///
/// As `tessera.h` says: `model` is null or a live model.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tessera_model_page_table_name(model: *const TesseraModel, cache: usize) -> *const c_char {
    // SAFETY: `tessera.h`.
    guard_value(std::ptr::null(), || unsafe {
        let names = &reference(model, "model")?.page_tables;
        Ok(names.get(cache).and_then(Option::as_ref).map_or(std::ptr::null(), |name| name.as_ptr()))
    })
}

/// `tessera_cache_open`
///
/// # Safety
///
/// As `tessera.h` says: `model` is null or a live model, `name` is text, `cache` has room for a pointer.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tessera_cache_open(
    model: *const TesseraModel,
    name: *const c_char,
    pages: u64,
    cache: *mut *mut TesseraCache,
) -> TesseraStatus {
    // SAFETY: `tessera.h`.
    guard(|| unsafe {
        let place = place(cache, "cache")?;
        let model = reference(model, "model")?;
        give(TesseraCache(KvCache::new(&model.executable, text(name, "name")?, pages)?), place);
        Ok(())
    })
}

/// `tessera_cache_close`
///
/// # Safety
///
/// As `tessera.h` says: `cache` is null or from [`tessera_cache_open`], and not used again.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tessera_cache_close(cache: *mut TesseraCache) {
    guard(|| {
        // SAFETY: `tessera.h`.
        unsafe { take_back(cache) };
        Ok(())
    });
}

/// `tessera_cache_pages`
///
/// # Safety
///
/// As `tessera.h` says: `cache` is null or a live cache.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tessera_cache_pages(cache: *const TesseraCache) -> u64 {
    // SAFETY: `tessera.h`.
    guard_value(0, || unsafe { Ok(reference(cache, "cache")?.0.pages()) })
}

/// `tessera_cache_page_size`
///
/// # Safety
///
/// As `tessera.h` says: `cache` is null or a live cache.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tessera_cache_page_size(cache: *const TesseraCache) -> u64 {
    // SAFETY: `tessera.h`.
    guard_value(0, || unsafe { Ok(reference(cache, "cache")?.0.page_size()) })
}

/// `tessera_cache_window`
///
/// # Safety
///
/// As `tessera.h` says: `cache` is null or a live cache.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tessera_cache_window(cache: *const TesseraCache) -> u64 {
    // SAFETY: `tessera.h`.
    guard_value(0, || unsafe { Ok(reference(cache, "cache")?.0.window().unwrap_or(0)) })
}
