//! Threads of a warp exchange values: against the rules of each instruction, lane by lane.

use super::Run;

/// What `coverage` runs again.
pub const TESTS: &[fn()] =
    &[shuffles, votes, matches, reductions_of_integers, reductions_of_floats, one_thread_is_elected, masks_make_groups];

/// Runs instructions on a word of each lane, in `%r1` and `%f1`; `%rd1` is where the lane's word is. Gives `%r2`, and whether `%p1`.
fn exchange(text: &str, values: [u64; 32]) -> [(u32, bool); 32] {
    let mut buffer = values;
    let body = format!(
        "mad.wide.u32 %rd1, %r0, 8, %rd0; ld.global.b64 %rd2, [%rd1]; ld.global.b32 %r1, [%rd1]; mov.b32 %f1, %r1;\n\
         setp.ne.u32 %p1, %r0, %r0; setp.ne.u32 %p2, %r1, 0; mov.b32 %r2, 0; {text}\n\
         selp.u32 %r3, 1, 0, %p1; st.global.v2.b32 [%rd1], {{%r2, %r3}};"
    );
    Run::new(&body).try_on(&mut buffer).unwrap_or_else(|fault| panic!("{text}\n{fault}"));
    buffer.map(|word| (word as u32, word >> 32 != 0))
}

/// The lane that a lane gets its value from, if there is one: the steps of section 9.7.9.6.
fn source(mode: &str, lane: i32, by: i32, clamp: i32, segments: i32) -> Option<i32> {
    let (lowest, highest) = (lane & segments, lane & segments | clamp & !segments);
    let (from, inside) = match mode {
        "up" => (lane - by, lane - by >= highest),
        "down" => (lane + by, lane + by <= highest),
        "bfly" => (lane ^ by, lane ^ by <= highest),
        _ => (lowest | by & !segments, lowest | by & !segments <= highest),
    };
    inside.then_some(from)
}

#[test]
fn shuffles() {
    let values: [u64; 32] = std::array::from_fn(|lane| 1000 + 7 * lane as u64);
    for mode in ["up", "down", "bfly", "idx"] {
        // Segments of 32, 16 and 4 lanes, of which all or only the first lanes count.
        for (segments, clamps) in [(0, [31, 20]), (0x10, [15, 9]), (0x1c, [3, 2])] {
            for (by, clamp) in [0, 1, 2, 5, 17].into_iter().flat_map(|by| clamps.map(|clamp| (by, clamp))) {
                let clamp = if mode == "up" { 0 } else { clamp };
                let text = format!("shfl.sync.{mode}.b32 %r2|%p1, %r1, {by}, {}, -1;", segments << 8 | clamp);
                for (lane, found) in exchange(&text, values).into_iter().enumerate() {
                    let from = source(mode, lane as i32, by, clamp, segments);
                    let value = values[from.map_or(lane, |from| from as usize)] as u32;
                    assert_eq!(found, (value, from.is_some()), "{text} lane {lane}");
                }
            }
        }
    }
}

#[test]
fn votes() {
    for votes in [0u32, 1 << 31, 0x5555_5555, u32::MAX, u32::MAX >> 1] {
        let values = std::array::from_fn(|lane| u64::from(votes >> lane & 1));
        for (negated, votes) in [("", votes), ("!", !votes)] {
            for (mode, holds) in
                [("all", votes == u32::MAX), ("any", votes != 0), ("uni", votes == u32::MAX || votes == 0)]
            {
                let text = format!("vote.sync.{mode}.pred %p1, {negated}%p2, -1;");
                assert_eq!(exchange(&text, values), [(0, holds); 32], "{text} {votes:#x}");
            }
            let text = format!("vote.sync.ballot.b32 %r2, {negated}%p2, -1;");
            assert_eq!(exchange(&text, values), [(votes, false); 32], "{text}");
        }
    }
}

#[test]
fn matches() {
    for (kind, register, high) in [("b32", "%r1", 0), ("b64", "%rd2", 1u64 << 40)] {
        let mixed: [u64; 32] = std::array::from_fn(|lane| lane as u64 % 3 + if lane > 20 { high } else { 0 });
        for values in [mixed, [5; 32], std::array::from_fn(|lane| if lane == 7 { 6 + high } else { 5 })] {
            let same = |lane: usize| {
                (0..32).filter(|other| values[*other] == values[lane]).fold(0, |all, other| all | 1u32 << other)
            };
            let any = exchange(&format!("match.any.sync.{kind} %r2, {register}, -1;"), values);
            assert_eq!(any, std::array::from_fn(|lane| (same(lane), false)), "{kind}");
            let all = exchange(&format!("match.all.sync.{kind} %r2|%p1, {register}, -1;"), values);
            let equal = same(0) == u32::MAX;
            assert_eq!(all, [(if equal { u32::MAX } else { 0 }, equal); 32], "{kind}");
        }
    }
}

#[test]
fn reductions_of_integers() {
    type Reduce = fn(u32, u32) -> u32;
    let operations: [(&str, Reduce); 9] = [
        ("add.u32", u32::wrapping_add),
        ("add.s32", u32::wrapping_add),
        ("min.u32", u32::min),
        ("max.u32", u32::max),
        ("min.s32", |x, y| (x as i32).min(y as i32) as u32),
        ("max.s32", |x, y| (x as i32).max(y as i32) as u32),
        ("and.b32", |x, y| x & y),
        ("or.b32", |x, y| x | y),
        ("xor.b32", |x, y| x ^ y),
    ];
    let words: [u32; 32] = std::array::from_fn(|lane| (lane as u32 + 3).wrapping_mul(0x9e37_79b9));
    for (name, reduce) in operations {
        let (operation, kind) = name.split_once('.').unwrap();
        let expected = words.into_iter().reduce(reduce).unwrap();
        let text = format!("redux.sync.{operation}.{kind} %r2, %r1, -1;");
        assert_eq!(exchange(&text, words.map(u64::from)), [(expected, false); 32], "{name}");
    }
}

#[test]
fn reductions_of_floats() {
    let finite: [f32; 32] = std::array::from_fn(|lane| (lane as f32 - 20.0) * 0.75);
    let mut with_nan = finite;
    with_nan[9] = f32::NAN;
    for values in [finite, with_nan, [f32::NAN; 32]] {
        for (operation, absolute, nan) in [
            ("min", "", ""),
            ("max", "", ""),
            ("min", ".abs", ""),
            ("max", ".abs", ""),
            ("min", "", ".NaN"),
            ("max", "", ".NaN"),
            ("min", ".abs", ".NaN"),
            ("max", ".abs", ".NaN"),
        ] {
            let numbers = values
                .iter()
                .filter(|value| !value.is_nan())
                .map(|value| if absolute.is_empty() { *value } else { value.abs() });
            let reduced = if operation == "min" { numbers.reduce(f32::min) } else { numbers.reduce(f32::max) };
            // NaN wins where it is asked for, and is what is left where there is nothing else.
            let any_nan = values.iter().any(|value| value.is_nan());
            let expected = if nan.is_empty() || !any_nan { reduced } else { None };
            let expected = expected.map_or(0x7fff_ffff, f32::to_bits);
            let text = format!("redux.sync.{operation}{absolute}{nan}.f32 %f2, %f1, -1; mov.b32 %r2, %f2;");
            assert_eq!(exchange(&text, values.map(|value| value.to_bits().into())), [(expected, false); 32], "{text}");
        }
    }
}

#[test]
fn one_thread_is_elected() {
    let found = exchange("elect.sync %r2|%p1, -1;", [0; 32]);
    let leader = found[0].0 as usize;
    assert_eq!(found, std::array::from_fn(|lane| (leader as u32, lane == leader)));
}

/// Even and odd lanes are groups of their own.
#[test]
fn masks_make_groups() {
    let values = std::array::from_fn(|lane| lane as u64);
    let text = "and.b32 %r4, %r0, 1; setp.eq.u32 %p3, %r4, 0; selp.b32 %r5, 0x55555555, 0xaaaaaaaa, %p3;";
    let found = exchange(&format!("{text} redux.sync.add.u32 %r2, %r1, %r5;"), values);
    assert_eq!((found[0].0, found[1].0, found[30].0), (240, 256, 240));
    let found = exchange(&format!("{text} vote.sync.all.pred %p1, %p3, %r5;"), values);
    assert_eq!((found[0].1, found[1].1), (true, false));
}
