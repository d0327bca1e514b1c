//! `multimem`: accesses of all copies of a multicast object.
//!
//! The emulator's memory has one copy of everything, which a multimem address is the address of: a reduction over all copies is that of
//! one, and a store to all of them is one store.

use super::{atomic, memory};
use crate::decode::form::Form;

/// The forms.
pub const FORMS: &[Form] = &[
    Form {
        pattern: "multimem.ld_reduce[.weak|relaxed|acquire][.SCOPE][.global].add|min|max|and|or|xor[.acc::f32|acc::f16][.v2|v4|v8].MULTIMEM",
        section: "9.7.9.14 multimem.ld_reduce, multimem.st, multimem.red",
        build: |b| memory::load(b, 6, 3),
    },
    Form {
        pattern: "multimem.st[.weak|relaxed|release][.SCOPE][.global][.v2|v4|v8].MULTIMEM",
        section: "9.7.9.14 multimem.ld_reduce, multimem.st, multimem.red",
        build: |b| memory::store(b, 4, 3),
    },
    Form {
        pattern: "multimem.red[.relaxed|release][.SCOPE][.global].add|min|max|and|or|xor.b32|b64|u32|u64|s32|s64|f16x2|bf16x2|f32|f64",
        section: "9.7.9.14 multimem.ld_reduce, multimem.st, multimem.red",
        build: |b| atomic::atomic(b, false),
    },
    Form {
        pattern: "multimem.red[.relaxed|release][.SCOPE][.global].add.v2|v4|v8.f16|f16x2|bf16|bf16x2|f32",
        section: "9.7.9.14 multimem.ld_reduce, multimem.st, multimem.red",
        build: |b| atomic::vector(b, false),
    },
];
