//! Integers, floating-point numbers, conversions, bits.

use super::evaluate;

/// What `coverage` runs again.
pub const TESTS: &[fn()] = &[integers, fields_and_bytes, carries, floats, conversions, selection_and_sets];

fn f(value: f32) -> u64 {
    u64::from(value.to_bits())
}

#[test]
fn integers() {
    let two = |text: &str, a: u32, b: u32| evaluate(text, 32, &[(32, a.into()), (32, b.into())]) as u32;
    assert_eq!(two("add.u32 d, a, b", u32::MAX, 2), 1);
    assert_eq!(two("add.sat.s32 d, a, b", i32::MAX as u32, 2), i32::MAX as u32);
    assert_eq!(two("sub.sat.s32 d, a, b", i32::MIN as u32, 1), i32::MIN as u32);
    assert_eq!(two("mul.hi.s32 d, a, b", -3i32 as u32, 5), u32::MAX);
    assert_eq!(two("mul.hi.u32 d, a, b", 1 << 31, 6), 3);
    assert_eq!(two("mul24.lo.s32 d, a, b", 0xff_ffff, 7), -7i32 as u32);
    assert_eq!(two("div.s32 d, a, b", -7i32 as u32, 2), -3i32 as u32);
    assert_eq!(two("rem.s32 d, a, b", -7i32 as u32, 2), -1i32 as u32);
    assert_eq!(two("div.s32 d, a, b", i32::MIN as u32, -1i32 as u32), i32::MIN as u32);
    assert_eq!(two("max.s32 d, a, b", -7i32 as u32, 2), 2);
    assert_eq!(two("max.u32 d, a, b", -7i32 as u32, 2), -7i32 as u32);
    assert_eq!(two("add.u16x2 d, a, b", 0xffff_0001, 0x0001_ffff), 0);
    assert_eq!(two("max.s16x2 d, a, b", 0xffff_0001, 0x0001_ffff), 0x0001_0001);
    let one = |text: &str, a: u32| evaluate(text, 32, &[(32, a.into())]) as u32;
    assert_eq!(one("abs.s32 d, a", -5i32 as u32), 5);
    assert_eq!(one("popc.b32 d, a", 0xf0f0), 8);
    assert_eq!(one("clz.b32 d, a", 1), 31);
    assert_eq!(one("bfind.u32 d, a", 0x8000), 15);
    assert_eq!(one("bfind.s32 d, a", -1i32 as u32), u32::MAX);
    assert_eq!(one("bfind.shiftamt.u32 d, a", 0x8000), 16);
    assert_eq!(one("brev.b32 d, a", 1), 1 << 31);
    assert_eq!(evaluate("mul.wide.s32 d, a, b", 64, &[(32, -2i32 as u32 as u64), (32, 3)]) as i64, -6);
    assert_eq!(evaluate("mad.wide.u32 d, a, b, c", 64, &[(32, u32::MAX.into()), (32, 2), (64, 1)]), 0x1_ffff_ffff);
    assert_eq!(evaluate("mul.hi.u64 d, a, b", 64, &[(64, 1 << 63), (64, 6)]), 3);
    assert_eq!(evaluate("sad.s32 d, a, b, c", 32, &[(32, 3), (32, -4i32 as u32 as u64), (32, 10)]), 17);
}

#[test]
fn fields_and_bytes() {
    let three = |text: &str, a: u32, b: u32, c: u32| {
        evaluate(text, 32, &[(32, a.into()), (32, b.into()), (32, c.into())]) as u32
    };
    assert_eq!(three("bfe.u32 d, a, b, c", 0xabcd_1234, 8, 8), 0x12);
    assert_eq!(three("bfe.s32 d, a, b, c", 0x0000_8000, 8, 8), 0xffff_ff80);
    assert_eq!(three("bfe.s32 d, a, b, c", 0x8000_0000, 24, 16), 0xffff_ff80);
    assert_eq!(three("bfe.u32 d, a, b, c", 0xabcd_1234, 40, 8), 0);
    assert_eq!(three("bfi.b32 d, a, b, 4, c", 0xf, 0, 4), 0xf0);
    assert_eq!(three("prmt.b32 d, a, b, c", 0x0302_0180, 0x0706_0504, 0x7208), 0x0702_80ff);
    assert_eq!(three("prmt.b32.rc16 d, a, b, c", 0x0302_0100, 0, 1), 0x0302_0302);
    assert_eq!(three("lop3.b32 d, a, b, c, 0xe8", 0b1100, 0b1010, 0b0110), 0b1110);
    assert_eq!(three("shf.l.wrap.b32 d, a, b, c", 0x8000_0000, 1, 33), 3);
    assert_eq!(three("shf.r.clamp.b32 d, a, b, c", 1, 0xdead_beef, 40), 0xdead_beef);
    assert_eq!(three("dp4a.s32.u32 d, a, b, c", 0xff01_ff01, 0x0102_0304, 10), 10 - 1 + 2 - 3 + 4);
    assert_eq!(three("fns.b32 d, a, b, c", 0b1011_0100, 3, 2), 5);
    assert_eq!(three("fns.b32 d, a, b, c", 0b1011_0100, 3, -1i32 as u32), 2);
    let two = |text: &str, a: u32, b: u32| evaluate(text, 32, &[(32, a.into()), (32, b.into())]) as u32;
    assert_eq!(two("shl.b32 d, a, b", 1, 32), 0);
    assert_eq!(two("shr.s32 d, a, b", 1 << 31, 99), u32::MAX);
    assert_eq!(two("bmsk.clamp.b32 d, a, b", 4, 8), 0xff0);
    assert_eq!(two("szext.clamp.s32 d, a, b", 0x80, 8), 0xffff_ff80);
}

#[test]
fn carries() {
    let carried =
        evaluate("{ .reg .b32 t; add.cc.u32 t, a, b; addc.u32 d, a, 0; }", 32, &[(32, u32::MAX.into()), (32, 1)]);
    assert_eq!(carried, 0);
    let borrowed = evaluate("{ .reg .b32 t; sub.cc.u32 t, a, b; subc.u32 d, b, 0; }", 32, &[(32, 1), (32, 2)]);
    assert_eq!(borrowed, 1);
    let product = evaluate(
        "{ .reg .b32 l, h; mad.lo.cc.u32 l, a, b, a; madc.hi.u32 h, a, b, 0; mov.b64 d, {l, h}; }",
        64,
        &[(32, u32::MAX.into()), (32, u32::MAX.into())],
    );
    assert_eq!(product, u64::from(u32::MAX) * u64::from(u32::MAX) + u64::from(u32::MAX));
}

#[test]
fn floats() {
    let two = |text: &str, a: f32, b: f32| f32::from_bits(evaluate(text, 32, &[(32, f(a)), (32, f(b))]) as u32);
    assert_eq!(two("add.rz.f32 d, a, b", 1.0, -1e-30), 1f32.next_down());
    assert_eq!(two("add.rp.f32 d, a, b", 1.0, 1e-30), 1f32.next_up());
    assert_eq!(two("add.sat.f32 d, a, b", 1.0, 7.0), 1.0);
    assert_eq!(two("mul.ftz.f32 d, a, b", 1e-39, 1e10), 0.0);
    assert_eq!(two("min.f32 d, a, b", f32::NAN, 3.0), 3.0);
    assert!(two("min.NaN.f32 d, a, b", f32::NAN, 3.0).is_nan());
    assert_eq!(two("max.xorsign.abs.f32 d, a, b", -5.0, 3.0), -5.0);
    assert!(two("max.f32 d, a, b", -0.0, 0.0).is_sign_positive());
    assert_eq!(two("div.rm.f32 d, a, b", 1.0, 3.0), (1f32 / 3.0).next_down());
    assert_eq!(two("copysign.f32 d, a, b", -1.0, 3.0), -3.0);
    assert_eq!(evaluate("add.f32 d, a, b", 32, &[(32, f(f32::INFINITY)), (32, f(f32::NEG_INFINITY))]), 0x7fff_ffff);
    let one = |text: &str, a: f32| f32::from_bits(evaluate(text, 32, &[(32, f(a))]) as u32);
    assert_eq!(one("rcp.rn.f32 d, a", 3.0), 1.0 / 3.0);
    assert_eq!(one("sqrt.rn.f32 d, a", 2.0), 2f32.sqrt());
    assert_eq!(one("rsqrt.approx.f32 d, a", 4.0), 0.5);
    assert_eq!(one("ex2.approx.ftz.f32 d, a", 3.0), 8.0);
    assert_eq!(one("lg2.approx.f32 d, a", 8.0), 3.0);
    assert_eq!(one("ex2.approx.ftz.f32 d, a", -140.0), 0.0);
    let pair = |low: f32, high: f32| f(low) | f(high) << 32;
    let sum =
        evaluate("fma.rn.f32x2 d, a, b, c", 64, &[(64, pair(1.0, 2.0)), (64, pair(3.0, 4.0)), (64, pair(0.5, 0.25))]);
    assert_eq!(sum, pair(3.5, 8.25));
    // 2^-24 + 2^-24·(1 + 2^-11) in f16 is rounded once.
    assert_eq!(evaluate("fma.rn.f16 d, a, b, c", 16, &[(16, 0x3c01), (16, 0x3c01), (16, 0x0001)]), 0x3c02);
    assert_eq!(evaluate("add.bf16x2 d, a, b", 32, &[(32, 0x3f80_4000), (32, 0x3f80_c000)]), 0x4000_0000);
    assert_eq!(evaluate("fma.rn.relu.f16 d, a, b, c", 16, &[(16, 0xbc00), (16, 0x3c00), (16, 0)]), 0);
}

#[test]
fn conversions() {
    let to_int = |text: &str, a: f32| evaluate(text, 32, &[(32, f(a))]) as i32;
    assert_eq!(to_int("cvt.rni.s32.f32 d, a", 2.5), 2);
    assert_eq!(to_int("cvt.rzi.s32.f32 d, a", -2.5), -2);
    assert_eq!(to_int("cvt.rmi.s32.f32 d, a", -2.5), -3);
    assert_eq!(to_int("cvt.rpi.s32.f32 d, a", 2.1), 3);
    assert_eq!(to_int("cvt.rzi.s32.f32 d, a", 1e20), i32::MAX);
    assert_eq!(to_int("cvt.rzi.u32.f32 d, a", -1.0), 0);
    assert_eq!(to_int("cvt.rzi.s32.f32 d, a", f32::NAN), 0);
    assert_eq!(f32::from_bits(to_int("cvt.rni.f32.f32 d, a", 3.5) as u32), 4.0);
    assert_eq!(evaluate("cvt.rz.f32.u32 d, a", 32, &[(32, 0xffff_ffff)]), f(4294967040.0));
    assert_eq!(evaluate("cvt.rn.f32.u64 d, a", 32, &[(64, 0x8000_0080_0000_0001)]), f(9223373136366403584.0));
    assert_eq!(evaluate("cvt.rn.f64.s64 d, a", 64, &[(64, -1i64 as u64)]), (-1f64).to_bits());
    assert_eq!(evaluate("cvt.s32.s8 d, a", 32, &[(16, 0x80)]) as i32, -128);
    assert_eq!(evaluate("cvt.u8.u32 d, a", 32, &[(32, 0x1234)]), 0x34);
    assert_eq!(evaluate("cvt.sat.u8.s32 d, a", 32, &[(32, 300)]), 255);
    assert_eq!(evaluate("cvt.rn.f16.f32 d, a", 16, &[(32, f(65520.0))]), 0x7c00);
    assert_eq!(evaluate("cvt.rn.satfinite.e4m3x2.f32 d, a, b", 16, &[(32, f(1000.0)), (32, f(-1.0))]), 0x7eb8);
    assert_eq!(evaluate("cvt.rn.f16x2.e4m3x2 d, a", 32, &[(16, 0x7e38)]), 0x5f00_3c00);
    assert_eq!(evaluate("cvt.rna.tf32.f32 d, a", 32, &[(32, f(1.0 + 1.0 / 2048.0))]), f(1.0 + 1.0 / 1024.0));
    assert_eq!(evaluate("cvt.pack.sat.s16.s32 d, a, b", 32, &[(32, 100_000), (32, -5i32 as u32 as u64)]), 0x7fff_fffb);
    assert_eq!(evaluate("cvt.rn.bf16x2.f32 d, a, b", 32, &[(32, f(1.0)), (32, f(-2.0))]), 0x3f80_c000);
    assert_eq!(evaluate("cvt.rp.satfinite.ue8m0x2.f32 d, a, b", 16, &[(32, f(3.0)), (32, f(1.0))]), 0x817f);
}

#[test]
fn selection_and_sets() {
    assert_eq!(evaluate("selp.b32 d, a, b, p", 32, &[(32, 1), (32, 2)]), 1);
    assert_eq!(evaluate("set.lt.f32.s32 d, a, b", 32, &[(32, -1i32 as u32 as u64), (32, 2)]), f(1.0));
    assert_eq!(evaluate("set.geu.u32.f32 d, a, b", 32, &[(32, f(f32::NAN)), (32, 0)]), u64::from(u32::MAX));
    assert_eq!(evaluate("slct.b32.s32 d, a, b, c", 32, &[(32, 1), (32, 2), (32, u32::MAX.into())]), 2);
    let joined = "{ .reg .pred q, r; setp.lt.and.s32 q|r, a, b, p; selp.b32 d, 1, 0, r; }";
    assert_eq!(evaluate(joined, 32, &[(32, 5), (32, 2)]), 1);
}
