//! Containing panics of a library that is not ours.
//!
//! The `tokenizers` crate panics on some malformed files (it `expect`s helper structures to deserialize). A damaged file must be
//! an error here, so calls into it go through [`contained`].

use std::any::Any;
use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind, set_hook, take_hook};
use std::sync::Once;

thread_local! {
    static CONTAINING: Cell<bool> = const { Cell::new(false) };
}

/// Runs `call`; a panic in it becomes an `Err` with its message, and is not reported on standard error.
///
/// What `call` mutates may be half-changed afterwards, so pass closures that only read, or that build what they return.
pub(crate) fn contained<T>(call: impl FnOnce() -> T) -> Result<T, String> {
    static SILENCE: Once = Once::new();
    SILENCE.call_once(|| {
        let report = take_hook();
        set_hook(Box::new(move |panic| {
            if !CONTAINING.get() {
                report(panic);
            }
        }));
    });
    let outer = CONTAINING.replace(true);
    let result = catch_unwind(AssertUnwindSafe(call));
    CONTAINING.set(outer);
    result.map_err(|payload| message(&*payload))
}

fn message(payload: &(dyn Any + Send)) -> String {
    match (payload.downcast_ref::<String>(), payload.downcast_ref::<&str>()) {
        (Some(text), _) => text.clone(),
        (_, Some(text)) => (*text).to_owned(),
        _ => "unknown failure".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_becomes_its_message() {
        assert_eq!(contained(|| 3), Ok(3));
        assert_eq!(contained(|| -> u32 { panic!("lost") }), Err("lost".to_owned()));
        assert_eq!(contained(|| -> u32 { panic!("lost {}", 2) }), Err("lost 2".to_owned()));
    }
}
