//! Pointers from C.

use std::ffi::{CStr, c_char};

use crate::status::Failure;

fn null(what: &str) -> Failure {
    Failure::argument(format!("{what} is NULL"))
}

/// The text at `pointer`.
///
/// # Safety
///
/// `pointer` is null or the address of text that ends with a zero byte, which lives and stays as it is for `'a`.
pub unsafe fn text<'a>(pointer: *const c_char, what: &str) -> Result<&'a str, Failure> {
    if pointer.is_null() {
        return Err(null(what));
    }
    // SAFETY: the caller's.
    let text = unsafe { CStr::from_ptr(pointer) };
    text.to_str().map_err(|_| Failure::argument(format!("{what} is not UTF-8")))
}

/// The value at `pointer`.
///
/// # Safety
///
/// `pointer` is null or the address of a `T` that lives, and is not changed, for `'a`.
pub unsafe fn reference<'a, T>(pointer: *const T, what: &str) -> Result<&'a T, Failure> {
    // SAFETY: the caller's.
    unsafe { pointer.as_ref() }.ok_or_else(|| null(what))
}

/// The value at `pointer`, to be changed.
///
/// # Safety
///
/// `pointer` is null or the address of a `T` that lives, and is not used otherwise, for `'a`.
pub unsafe fn reference_mut<'a, T>(pointer: *mut T, what: &str) -> Result<&'a mut T, Failure> {
    // SAFETY: the caller's.
    unsafe { pointer.as_mut() }.ok_or_else(|| null(what))
}

/// The `count` values at `pointer`, which may be null where there are none.
///
/// # Safety
///
/// `pointer` is null or the address of `count` values that live, and are not changed, for `'a`.
pub unsafe fn slice<'a, T>(pointer: *const T, count: usize, what: &str) -> Result<&'a [T], Failure> {
    if count == 0 {
        return Ok(&[]);
    }
    if pointer.is_null() {
        return Err(null(what));
    }
    // SAFETY: the caller's.
    Ok(unsafe { std::slice::from_raw_parts(pointer, count) })
}

/// A place for a result. It need not hold a value yet.
///
/// # Safety
///
/// `pointer` is null or the address of memory for a `T`, which nothing else uses until it is written.
pub unsafe fn place<T>(pointer: *mut T, what: &str) -> Result<Place<T>, Failure> {
    if pointer.is_null() { Err(null(what)) } else { Ok(Place(pointer)) }
}

/// Memory that a result goes to.
pub struct Place<T>(*mut T);

impl<T> Place<T> {
    /// Writes the result.
    pub fn put(self, value: T) {
        // SAFETY: by the contract of `place` the memory is there and nobody else's. What it held is C's and needs no drop.
        unsafe { self.0.write(value) };
    }
}

/// Writes results to an array of C's.
///
/// # Safety
///
/// `pointer` is null or the address of memory for as many values as there are, which nothing else uses meanwhile.
pub unsafe fn put_all<T: Copy>(pointer: *mut T, values: &[T], what: &str) -> Result<(), Failure> {
    if values.is_empty() {
        return Ok(());
    }
    if pointer.is_null() {
        return Err(null(what));
    }
    // SAFETY: the caller's; memory that only C has cannot overlap a slice of ours.
    unsafe { pointer.copy_from_nonoverlapping(values.as_ptr(), values.len()) };
    Ok(())
}

/// Gives C a value of its own.
pub fn give<T>(value: T, place: Place<*mut T>) {
    place.put(Box::into_raw(Box::new(value)));
}

/// Drops what [`give`] gave; null is nothing.
///
/// # Safety
///
/// `pointer` is null or came from [`give`], and is not used again.
pub unsafe fn take_back<T>(pointer: *mut T) {
    if !pointer.is_null() {
        // SAFETY: the caller's.
        drop(unsafe { Box::from_raw(pointer) });
    }
}
