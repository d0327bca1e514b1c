//! Integer arithmetic.

use crate::decode::form::Form;
use crate::machine::instruction::Undefined;

/// An instruction of integers that is the same for all of the types in `INTEGER`.
macro_rules! integers {
    ($builder:ident; ($($source:ident),*) { $($body:tt)* }) => {
        match $builder.last() {
            "u16" => lanes!($builder; ($($source: u16),*) -> u16 { $($body)* }),
            "s16" => lanes!($builder; ($($source: i16),*) -> i16 { $($body)* }),
            "u32" => lanes!($builder; ($($source: u32),*) -> u32 { $($body)* }),
            "s32" => lanes!($builder; ($($source: i32),*) -> i32 { $($body)* }),
            "u64" => lanes!($builder; ($($source: u64),*) -> u64 { $($body)* }),
            _ => lanes!($builder; ($($source: i64),*) -> i64 { $($body)* }),
        }
    };
}

/// The forms.
pub const FORMS: &[Form] = &[
    Form { pattern: "add.INTEGER", section: "9.7.1.1 add", build: |b| integers!(b; (x, y) { x.wrapping_add(y) }) },
    Form {
        pattern: "add.sat.s32",
        section: "9.7.1.1 add",
        build: |b| lanes!(b; (x: i32, y: i32) -> i32 { x.saturating_add(y) }),
    },
    Form { pattern: "sub.INTEGER", section: "9.7.1.2 sub", build: |b| integers!(b; (x, y) { x.wrapping_sub(y) }) },
    Form {
        pattern: "sub.sat.s32",
        section: "9.7.1.2 sub",
        build: |b| lanes!(b; (x: i32, y: i32) -> i32 { x.saturating_sub(y) }),
    },
    Form { pattern: "mul.lo.INTEGER", section: "9.7.1.3 mul", build: |b| integers!(b; (x, y) { x.wrapping_mul(y) }) },
    Form {
        pattern: "mul.hi.INTEGER",
        section: "9.7.1.3 mul",
        build: |b| match b.last() {
            "u16" => lanes!(b; (x: u16, y: u16) -> u16 { ((u32::from(x) * u32::from(y)) >> 16) as u16 }),
            "s16" => lanes!(b; (x: i16, y: i16) -> i16 { ((i32::from(x) * i32::from(y)) >> 16) as i16 }),
            "u32" => lanes!(b; (x: u32, y: u32) -> u32 { ((u64::from(x) * u64::from(y)) >> 32) as u32 }),
            "s32" => lanes!(b; (x: i32, y: i32) -> i32 { ((i64::from(x) * i64::from(y)) >> 32) as i32 }),
            "u64" => lanes!(b; (x: u64, y: u64) -> u64 { ((u128::from(x) * u128::from(y)) >> 64) as u64 }),
            _ => lanes!(b; (x: i64, y: i64) -> i64 { ((i128::from(x) * i128::from(y)) >> 64) as i64 }),
        },
    },
    Form {
        pattern: "mul.wide.u16|s16|u32|s32",
        section: "9.7.1.3 mul",
        build: |b| match b.last() {
            "u16" => lanes!(b; (x: u16, y: u16) -> u32 { u32::from(x) * u32::from(y) }),
            "s16" => lanes!(b; (x: i16, y: i16) -> i32 { i32::from(x) * i32::from(y) }),
            "u32" => lanes!(b; (x: u32, y: u32) -> u64 { u64::from(x) * u64::from(y) }),
            _ => lanes!(b; (x: i32, y: i32) -> i64 { i64::from(x) * i64::from(y) }),
        },
    },
    Form {
        pattern: "mad.lo.INTEGER",
        section: "9.7.1.4 mad",
        build: |b| integers!(b; (x, y, z) { x.wrapping_mul(y).wrapping_add(z) }),
    },
    Form {
        pattern: "mad.hi.INTEGER",
        section: "9.7.1.4 mad",
        build: |b| match b.last() {
            "u16" => {
                lanes!(b; (x: u16, y: u16, z: u16) -> u16 { (((u32::from(x) * u32::from(y)) >> 16) as u16).wrapping_add(z) })
            }
            "s16" => {
                lanes!(b; (x: i16, y: i16, z: i16) -> i16 { (((i32::from(x) * i32::from(y)) >> 16) as i16).wrapping_add(z) })
            }
            "u32" => {
                lanes!(b; (x: u32, y: u32, z: u32) -> u32 { (((u64::from(x) * u64::from(y)) >> 32) as u32).wrapping_add(z) })
            }
            "s32" => {
                lanes!(b; (x: i32, y: i32, z: i32) -> i32 { (((i64::from(x) * i64::from(y)) >> 32) as i32).wrapping_add(z) })
            }
            "u64" => {
                lanes!(b; (x: u64, y: u64, z: u64) -> u64 { (((u128::from(x) * u128::from(y)) >> 64) as u64).wrapping_add(z) })
            }
            _ => {
                lanes!(b; (x: i64, y: i64, z: i64) -> i64 { (((i128::from(x) * i128::from(y)) >> 64) as i64).wrapping_add(z) })
            }
        },
    },
    Form {
        pattern: "mad.hi.sat.s32",
        section: "9.7.1.4 mad",
        build: |b| lanes!(b; (x: i32, y: i32, z: i32) -> i32 { (((i64::from(x) * i64::from(y)) >> 32) as i32).saturating_add(z) }),
    },
    Form {
        pattern: "mad.wide.u16|s16|u32|s32",
        section: "9.7.1.4 mad",
        build: |b| match b.last() {
            "u16" => lanes!(b; (x: u16, y: u16, z: u32) -> u32 { (u32::from(x) * u32::from(y)).wrapping_add(z) }),
            "s16" => lanes!(b; (x: i16, y: i16, z: i32) -> i32 { (i32::from(x) * i32::from(y)).wrapping_add(z) }),
            "u32" => lanes!(b; (x: u32, y: u32, z: u64) -> u64 { (u64::from(x) * u64::from(y)).wrapping_add(z) }),
            _ => lanes!(b; (x: i32, y: i32, z: i64) -> i64 { (i64::from(x) * i64::from(y)).wrapping_add(z) }),
        },
    },
    Form {
        pattern: "mul24.lo|hi.u32|s32",
        section: "9.7.1.5 mul24",
        build: |b| match (b.modifier(0), b.last()) {
            ("lo", "u32") => lanes!(b; (x: u32, y: u32) -> u32 { (x & 0xff_ffff).wrapping_mul(y & 0xff_ffff) }),
            ("lo", _) => lanes!(b; (x: i32, y: i32) -> i32 { (x << 8 >> 8).wrapping_mul(y << 8 >> 8) }),
            (_, "u32") => {
                lanes!(b; (x: u32, y: u32) -> u32 { high24(x, y) })
            }
            _ => {
                lanes!(b; (x: i32, y: i32) -> i32 { signed_high24(x, y) })
            }
        },
    },
    Form {
        pattern: "mad24.lo|hi.u32|s32",
        section: "9.7.1.6 mad24",
        build: |b| match (b.modifier(0), b.last()) {
            ("lo", "u32") => {
                lanes!(b; (x: u32, y: u32, z: u32) -> u32 { (x & 0xff_ffff).wrapping_mul(y & 0xff_ffff).wrapping_add(z) })
            }
            ("lo", _) => {
                lanes!(b; (x: i32, y: i32, z: i32) -> i32 { (x << 8 >> 8).wrapping_mul(y << 8 >> 8).wrapping_add(z) })
            }
            (_, "u32") => lanes!(b; (x: u32, y: u32, z: u32) -> u32 { high24(x, y).wrapping_add(z) }),
            _ => lanes!(b; (x: i32, y: i32, z: i32) -> i32 { signed_high24(x, y).wrapping_add(z) }),
        },
    },
    Form {
        pattern: "mad24.hi.sat.s32",
        section: "9.7.1.6 mad24",
        build: |b| lanes!(b; (x: i32, y: i32, z: i32) -> i32 { signed_high24(x, y).saturating_add(z) }),
    },
    Form {
        pattern: "sad.INTEGER",
        section: "9.7.1.7 sad",
        build: |b| match b.last() {
            "u16" => lanes!(b; (x: u16, y: u16, z: u16) -> u16 { z.wrapping_add(x.abs_diff(y)) }),
            "s16" => lanes!(b; (x: i16, y: i16, z: i16) -> i16 { z.wrapping_add(x.abs_diff(y) as i16) }),
            "u32" => lanes!(b; (x: u32, y: u32, z: u32) -> u32 { z.wrapping_add(x.abs_diff(y)) }),
            "s32" => lanes!(b; (x: i32, y: i32, z: i32) -> i32 { z.wrapping_add(x.abs_diff(y) as i32) }),
            "u64" => lanes!(b; (x: u64, y: u64, z: u64) -> u64 { z.wrapping_add(x.abs_diff(y)) }),
            _ => lanes!(b; (x: i64, y: i64, z: i64) -> i64 { z.wrapping_add(x.abs_diff(y) as i64) }),
        },
    },
    // A division by zero is unspecified; all ones is what the hardware's sequence gives.
    Form {
        pattern: "div.INTEGER",
        section: "9.7.1.8 div",
        build: |b| integers!(b; (x, y) { if y == 0 { !0 } else { x.wrapping_div(y) } }),
    },
    Form {
        pattern: "rem.INTEGER",
        section: "9.7.1.9 rem",
        build: |b| integers!(b; (x, y) { if y == 0 { x } else { x.wrapping_rem(y) } }),
    },
    Form {
        pattern: "abs.s16|s32|s64",
        section: "9.7.1.10 abs",
        build: |b| match b.last() {
            "s16" => lanes!(b; (x: i16) -> i16 { x.wrapping_abs() }),
            "s32" => lanes!(b; (x: i32) -> i32 { x.wrapping_abs() }),
            _ => lanes!(b; (x: i64) -> i64 { x.wrapping_abs() }),
        },
    },
    Form {
        pattern: "neg.s16|s32|s64",
        section: "9.7.1.11 neg",
        build: |b| match b.last() {
            "s16" => lanes!(b; (x: i16) -> i16 { x.wrapping_neg() }),
            "s32" => lanes!(b; (x: i32) -> i32 { x.wrapping_neg() }),
            _ => lanes!(b; (x: i64) -> i64 { x.wrapping_neg() }),
        },
    },
    Form { pattern: "min.INTEGER", section: "9.7.1.12 min", build: |b| integers!(b; (x, y) { x.min(y) }) },
    Form {
        pattern: "min.relu.s32",
        section: "9.7.1.12 min",
        build: |b| lanes!(b; (x: i32, y: i32) -> i32 { x.min(y).max(0) }),
    },
    Form { pattern: "max.INTEGER", section: "9.7.1.13 max", build: |b| integers!(b; (x, y) { x.max(y) }) },
    Form {
        pattern: "max.relu.s32",
        section: "9.7.1.13 max",
        build: |b| lanes!(b; (x: i32, y: i32) -> i32 { x.max(y).max(0) }),
    },
    Form {
        pattern: "popc.b32|b64",
        section: "9.7.1.14 popc",
        build: |b| match b.last() {
            "b32" => lanes!(b; (x: u32) -> u32 { x.count_ones() }),
            _ => lanes!(b; (x: u64) -> u32 { x.count_ones() }),
        },
    },
    Form {
        pattern: "clz.b32|b64",
        section: "9.7.1.15 clz",
        build: |b| match b.last() {
            "b32" => lanes!(b; (x: u32) -> u32 { x.leading_zeros() }),
            _ => lanes!(b; (x: u64) -> u32 { x.leading_zeros() }),
        },
    },
    Form {
        pattern: "bfind[.shiftamt].u32|s32|u64|s64",
        section: "9.7.1.16 bfind",
        build: |b| match (b.has("shiftamt"), b.last()) {
            (false, "u32") => lanes!(b; (x: u32) -> u32 { x.checked_ilog2().unwrap_or(!0) }),
            (false, "s32") => lanes!(b; (x: i32) -> u32 { ((x ^ x >> 31) as u32).checked_ilog2().unwrap_or(!0) }),
            (false, "u64") => lanes!(b; (x: u64) -> u32 { x.checked_ilog2().unwrap_or(!0) }),
            (false, _) => lanes!(b; (x: i64) -> u32 { ((x ^ x >> 63) as u64).checked_ilog2().unwrap_or(!0) }),
            (true, "u32") => lanes!(b; (x: u32) -> u32 { if x == 0 { !0 } else { x.leading_zeros() } }),
            (true, "s32") => {
                lanes!(b; (x: i32) -> u32 { let x = (x ^ x >> 31) as u32; if x == 0 { !0 } else { x.leading_zeros() } })
            }
            (true, "u64") => lanes!(b; (x: u64) -> u32 { if x == 0 { !0 } else { x.leading_zeros() } }),
            (true, _) => {
                lanes!(b; (x: i64) -> u32 { let x = (x ^ x >> 63) as u64; if x == 0 { !0 } else { x.leading_zeros() } })
            }
        },
    },
    Form {
        pattern: "fns.b32",
        section: "9.7.1.17 fns",
        build: |b| lanes!(b; (mask: u32, base: u32, offset: i32) -> u32 { find_nth_set(mask, base, offset) }),
    },
    Form {
        pattern: "brev.b32|b64",
        section: "9.7.1.18 brev",
        build: |b| match b.last() {
            "b32" => lanes!(b; (x: u32) -> u32 { x.reverse_bits() }),
            _ => lanes!(b; (x: u64) -> u64 { x.reverse_bits() }),
        },
    },
    Form {
        pattern: "bfe.u32|s32|u64|s64",
        section: "9.7.1.19 bfe",
        build: |b| match b.last() {
            "u32" => {
                lanes!(b; (x: u32, at: u32, length: u32) -> u32 { extract(u64::from(x), at, length, 32, false) as u32 })
            }
            "s32" => {
                lanes!(b; (x: u32, at: u32, length: u32) -> u32 { extract(u64::from(x), at, length, 32, true) as u32 })
            }
            "u64" => lanes!(b; (x: u64, at: u32, length: u32) -> u64 { extract(x, at, length, 64, false) }),
            _ => lanes!(b; (x: u64, at: u32, length: u32) -> u64 { extract(x, at, length, 64, true) }),
        },
    },
    Form {
        pattern: "bfi.b32|b64",
        section: "9.7.1.20 bfi",
        build: |b| {
            b.traits.undefined = Undefined::Combines;
            match b.last() {
                "b32" => lanes!(b; (x: u32, into: u32, at: u32, length: u32) -> u32 {
                    let mask = field(at, length) as u32;
                    into & !mask | (u64::from(x) << (at & 0xff).min(63)) as u32 & mask
                }),
                _ => lanes!(b; (x: u64, into: u64, at: u32, length: u32) -> u64 {
                    let mask = field(at, length);
                    into & !mask | x.checked_shl(at & 0xff).unwrap_or(0) & mask
                }),
            }
        },
    },
    Form {
        pattern: "szext.clamp|wrap.u32|s32",
        section: "9.7.1.21 szext",
        build: |b| match (b.modifier(0), b.last()) {
            ("wrap", "u32") => {
                lanes!(b; (x: u32, n: u32) -> u32 { let n = n & 31; if n == 0 { 0 } else { x << (32 - n) >> (32 - n) } })
            }
            ("wrap", _) => {
                lanes!(b; (x: i32, n: u32) -> i32 { let n = n & 31; if n == 0 { 0 } else { x << (32 - n) >> (32 - n) } })
            }
            (_, "u32") => {
                lanes!(b; (x: u32, n: u32) -> u32 { if n == 0 { 0 } else if n > 31 { x } else { x << (32 - n) >> (32 - n) } })
            }
            _ => {
                lanes!(b; (x: i32, n: u32) -> i32 { if n == 0 { 0 } else if n > 31 { x } else { x << (32 - n) >> (32 - n) } })
            }
        },
    },
    Form {
        pattern: "bmsk.clamp|wrap.b32",
        section: "9.7.1.22 bmsk",
        build: |b| match b.modifier(0) {
            "wrap" => lanes!(b; (at: u32, length: u32) -> u32 { field(at & 31, length & 31) as u32 }),
            _ => lanes!(b; (at: u32, length: u32) -> u32 { field(at.min(32), length.min(32)) as u32 }),
        },
    },
    Form {
        pattern: "dp4a.u32|s32.u32|s32",
        section: "9.7.1.23 dp4a",
        build: |b| match (b.modifier(0), b.modifier(1)) {
            ("u32", "u32") => lanes!(b; (x: u32, y: u32, z: u32) -> u32 { dot4(x, y, z, false, false) }),
            ("u32", _) => lanes!(b; (x: u32, y: u32, z: u32) -> u32 { dot4(x, y, z, false, true) }),
            (_, "u32") => lanes!(b; (x: u32, y: u32, z: u32) -> u32 { dot4(x, y, z, true, false) }),
            _ => lanes!(b; (x: u32, y: u32, z: u32) -> u32 { dot4(x, y, z, true, true) }),
        },
    },
    Form {
        pattern: "dp2a.lo|hi.u32|s32.u32|s32",
        section: "9.7.1.24 dp2a",
        build: |b| match (b.modifier(0), b.modifier(1), b.modifier(2)) {
            ("lo", "u32", "u32") => lanes!(b; (x: u32, y: u32, z: u32) -> u32 { dot2(x, y, z, false, false) }),
            ("lo", "u32", _) => lanes!(b; (x: u32, y: u32, z: u32) -> u32 { dot2(x, y, z, false, true) }),
            ("lo", _, "u32") => lanes!(b; (x: u32, y: u32, z: u32) -> u32 { dot2(x, y, z, true, false) }),
            ("lo", ..) => lanes!(b; (x: u32, y: u32, z: u32) -> u32 { dot2(x, y, z, true, true) }),
            (_, "u32", "u32") => lanes!(b; (x: u32, y: u32, z: u32) -> u32 { dot2(x, y >> 16, z, false, false) }),
            (_, "u32", _) => lanes!(b; (x: u32, y: u32, z: u32) -> u32 { dot2(x, y >> 16, z, false, true) }),
            (_, _, "u32") => lanes!(b; (x: u32, y: u32, z: u32) -> u32 { dot2(x, y >> 16, z, true, false) }),
            _ => lanes!(b; (x: u32, y: u32, z: u32) -> u32 { dot2(x, y >> 16, z, true, true) }),
        },
    },
];

/// The high 32 of the 48 bits of a product of 24 bits.
fn high24(x: u32, y: u32) -> u32 {
    ((u64::from(x & 0xff_ffff) * u64::from(y & 0xff_ffff)) >> 16) as u32
}

/// The same with signs.
fn signed_high24(x: i32, y: i32) -> i32 {
    ((i64::from(x << 8 >> 8) * i64::from(y << 8 >> 8)) >> 16) as i32
}

/// Bits `at..at + length`.
fn field(at: u32, length: u32) -> u64 {
    let (at, length) = (at & 0xff, length & 0xff);
    let ones: u64 = if length >= 64 { !0 } else { (1 << length) - 1 };
    ones.checked_shl(at).unwrap_or(0)
}

fn extract(value: u64, at: u32, length: u32, width: u32, signed: bool) -> u64 {
    let (at, length) = (at & 0xff, length & 0xff);
    let taken = value.checked_shr(at).unwrap_or(0) & field(0, length);
    // The sign is the field's top bit, or the operand's where the field goes beyond it.
    let top = (at + length.max(1) - 1).min(width - 1);
    if !signed || length == 0 || value >> top & 1 == 0 {
        taken
    } else {
        taken | !field(0, length.min(width.saturating_sub(at)))
    }
}

fn find_nth_set(mask: u32, base: u32, offset: i32) -> u32 {
    let base = base & 31;
    if offset == 0 {
        return if mask >> base & 1 != 0 { base } else { !0 };
    }
    let step = offset.signum();
    let (mut left, mut at) = (offset.unsigned_abs(), base as i32);
    while (0..32).contains(&at) {
        left -= u32::from(mask >> at & 1 != 0);
        if left == 0 {
            return at as u32;
        }
        at += step;
    }
    !0
}

fn dot4(x: u32, y: u32, z: u32, x_signed: bool, y_signed: bool) -> u32 {
    let part = |value: u32, at: usize, signed: bool| {
        let byte = value.to_le_bytes()[at];
        if signed { i32::from(byte as i8) } else { i32::from(byte) }
    };
    (0..4).fold(z, |sum, at| sum.wrapping_add((part(x, at, x_signed) * part(y, at, y_signed)) as u32))
}

fn dot2(x: u32, y: u32, z: u32, x_signed: bool, y_signed: bool) -> u32 {
    (0..2).fold(z, |sum, at| {
        let half = (x >> (16 * at)) as u16;
        let byte = (y >> (8 * at)) as u8;
        let half = if x_signed { i32::from(half as i16) } else { i32::from(half) };
        let byte = if y_signed { i32::from(byte as i8) } else { i32::from(byte) };
        sum.wrapping_add(half.wrapping_mul(byte) as u32)
    })
}
