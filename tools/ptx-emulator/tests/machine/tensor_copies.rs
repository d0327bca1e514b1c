//! Copies of boxes of tensors, against what their definition says, element by element.

use ptx_emulator::asynchronous::im2col::{Pixels, Unrolling};
use ptx_emulator::asynchronous::tensor_map::{MapElement, Swizzle, TensorMap};

use super::Run;

/// What `coverage` runs again.
pub const TESTS: &[fn()] = &[
    tiles_of_every_rank_are_loaded,
    swizzles_permute_chunks,
    four_rows_are_gathered_and_scattered,
    tiles_are_stored_and_reduced,
    boxes_of_every_rank_are_stored_and_reduced,
    pixels_are_loaded_and_stored,
    pixels_along_the_width_have_halos,
    copies_to_several_ctas,
    padding_of_packed_elements_is_not_counted,
    maps_are_built_field_by_field,
];

/// 4096 elements of 32 bits, which hold their own number from 1 on.
const ELEMENTS: usize = 4096;
const NAN: u32 = 0x7fff_ffff;

/// A dense tensor of 32-bit floats.
fn tensor(dimensions: &[u64], extents: &[u32]) -> TensorMap {
    let mut map = TensorMap {
        address: 0,
        rank: dimensions.len(),
        element: MapElement(7),
        swizzle: Swizzle::default(),
        fill_nan: false,
        dimensions: [1; 5],
        strides: [0; 4],
        box_extents: [1; 5],
        element_strides: [1; 5],
        pixels: None,
    };
    map.dimensions[..dimensions.len()].copy_from_slice(dimensions);
    map.box_extents[..extents.len()].copy_from_slice(extents);
    let mut bytes = 4;
    for (stride, dimension) in map.strides.iter_mut().zip(&dimensions[..dimensions.len() - 1]) {
        bytes *= dimension;
        *stride = bytes;
    }
    map
}

/// The element at some place, or nothing outside.
fn element(map: &TensorMap, at: [i64; 5]) -> Option<u32> {
    let mut number = 0;
    for dimension in (0..map.rank).rev() {
        let index = u64::try_from(at[dimension]).ok().filter(|index| *index < map.dimensions[dimension])?;
        number = number * map.dimensions[dimension] + index;
    }
    Some(number as u32 + 1)
}

/// Runs a program on a tensor and its map, whose address it sets. `%rd1` is the map, `%rd2` the tensor, `%rd3` where shared memory of
/// 4 KiB at `tile` goes in the end; gives those words, and the tensor's after it.
fn copied(map: &TensorMap, body: &str) -> (Vec<u32>, Vec<u32>) {
    let (run, mut words) = prepared(map, body);
    run.try_on(&mut words).unwrap_or_else(|fault| panic!("{body}\n{fault}"));
    let halves = |words: &[u64]| words.iter().flat_map(|word| [*word as u32, (*word >> 32) as u32]).collect();
    (halves(&words[16 + ELEMENTS / 2..]), halves(&words[16..16 + ELEMENTS / 2]))
}

/// The program, and the buffer that it runs on.
fn prepared(map: &TensorMap, body: &str) -> (Run, Vec<u64>) {
    let mut words: Vec<u64> =
        map.encode(false, 0).chunks_exact(8).map(|one| u64::from_le_bytes(one.try_into().unwrap())).collect();
    words.extend((0..ELEMENTS as u64 / 2).map(|pair| (2 * pair + 1) | (2 * pair + 2) << 32));
    words.resize(words.len() + 512, 0);
    let body = format!(
        "mov.u64 %rd1, %rd0; add.u64 %rd2, %rd0, 128; add.u64 %rd3, %rd0, {}; setp.eq.u32 %p1, %r0, 0; mov.u32 %r1, tile; mov.u32 %r2, bar;\n\
         mad.lo.u32 %r3, %r0, 128, %r1; mov.u32 %r4, 0;\n\
         CLEAR: shl.b32 %r5, %r4, 3; add.u32 %r5, %r5, %r3; st.shared.u64 [%r5], 0; add.u32 %r4, %r4, 1; setp.lt.u32 %p2, %r4, 16; @%p2 bra CLEAR;\n\
         fence.proxy.async; bar.sync 0; @!%p1 bra WAIT;\n\
         tensormap.replace.tile.global_address.global.b1024.b64 [%rd1], %rd2; fence.proxy.tensormap::generic.acquire.gpu [%rd1], 128;\n\
         mbarrier.init.shared::cta.b64 [%r2], 1; mbarrier.arrive.expect_tx.shared::cta.b64 _, [%r2], BYTES;\n\
         {body}\n\
         WAIT: bar.sync 0;\nPOLL: mbarrier.try_wait.parity.shared::cta.b64 %p2, [%r2], 0; @!%p2 bra POLL;\n\
         mov.u32 %r4, 0; mad.wide.u32 %rd4, %r0, 128, %rd3;\n\
         OUT: shl.b32 %r5, %r4, 3; add.u32 %r6, %r5, %r3; ld.shared.u64 %rd6, [%r6]; cvt.u64.u32 %rd7, %r5; add.u64 %rd7, %rd7, %rd4;\n\
         st.global.u64 [%rd7], %rd6; add.u32 %r4, %r4, 1; setp.lt.u32 %p2, %r4, 16; @%p2 bra OUT;",
        128 + 4 * ELEMENTS
    );
    let rows = map.pixels.map_or_else(
        || (1..5).map(|at| map.box_extents[at].div_ceil(map.element_strides[at])).product(),
        |pixels| pixels.count,
    );
    let bytes = 4 * map.box_extents[0] * rows * if body.contains("gather4") { 4 } else { 1 };
    let body = body.replace("BYTES", &bytes.to_string());
    let declarations = ".shared .align 1024 .b8 tile[4096]; .shared .align 8 .b64 bar;";
    (Run::new(&body).declare(declarations), words)
}

fn load(map: &TensorMap, mode: &str, coordinates: &[i64]) -> Vec<u32> {
    copied(map, &load_text(map, mode, coordinates, "")).0
}

fn load_text(map: &TensorMap, mode: &str, coordinates: &[i64], offsets: &str) -> String {
    let list: Vec<String> = coordinates.iter().map(i64::to_string).collect();
    let rank = map.rank;
    format!(
        "cp.async.bulk.tensor.{rank}d.shared::cta.global{mode}.mbarrier::complete_tx::bytes [%r1], [%rd1, {{{}}}], [%r2]{offsets};",
        list.join(", ")
    )
}

#[test]
fn tiles_of_every_rank_are_loaded() {
    let cases: [(&[u64], &[u32], &[i64]); 7] = [
        (&[64], &[16], &[8]),
        (&[64], &[16], &[-3]),
        (&[64, 16], &[8, 4], &[60, 14]),
        (&[64, 16], &[8, 4], &[-2, -1]),
        (&[8, 4, 16], &[4, 3, 2], &[4, 2, 15]),
        (&[8, 4, 4, 8], &[4, 2, 2, 3], &[2, 1, -1, 6]),
        (&[8, 4, 4, 4, 4], &[4, 2, 2, 2, 2], &[6, 3, 1, 3, -1]),
    ];
    for (dimensions, extents, coordinates) in cases {
        for fill_nan in [false, true] {
            for step in [1, 2] {
                let mut map = TensorMap { fill_nan, ..tensor(dimensions, extents) };
                if map.rank > 1 {
                    map.element_strides[1] = step;
                }
                let along: Vec<u32> = (0..5).map(|at| map.box_extents[at].div_ceil(map.element_strides[at])).collect();
                let total: u32 = along.iter().product();
                let found = load(&map, "", coordinates);
                for number in 0..total {
                    let (mut rest, mut at) = (number, [0; 5]);
                    for dimension in 0..map.rank {
                        let step = i64::from(map.element_strides[dimension]);
                        at[dimension] = coordinates[dimension] + step * i64::from(rest % along[dimension]);
                        rest /= along[dimension];
                    }
                    let wanted = element(&map, at).unwrap_or(if fill_nan { NAN } else { 0 });
                    assert_eq!(found[number as usize], wanted, "{dimensions:?} {extents:?} {coordinates:?} {number}");
                }
                assert!(found[total as usize..].iter().all(|word| *word == 0));
            }
        }
    }
}

#[test]
fn swizzles_permute_chunks() {
    // The chunk of 16 bytes that stands at each place of the first rows, as the tables of section 5.5.7 give them.
    let tables: [(u32, u32, &[[u32; 8]]); 5] = [
        (1, 0, &[[0, 1, 2, 3, 4, 5, 6, 7], [1, 0, 3, 2, 5, 4, 7, 6]]),
        (
            2,
            0,
            &[[0, 1, 2, 3, 4, 5, 6, 7], [1, 0, 3, 2, 5, 4, 7, 6], [2, 3, 0, 1, 6, 7, 4, 5], [3, 2, 1, 0, 7, 6, 5, 4]],
        ),
        (
            3,
            0,
            &[
                [0, 1, 2, 3, 4, 5, 6, 7],
                [1, 0, 3, 2, 5, 4, 7, 6],
                [2, 3, 0, 1, 6, 7, 4, 5],
                [3, 2, 1, 0, 7, 6, 5, 4],
                [4, 5, 6, 7, 0, 1, 2, 3],
                [5, 4, 7, 6, 1, 0, 3, 2],
                [6, 7, 4, 5, 2, 3, 0, 1],
                [7, 6, 5, 4, 3, 2, 1, 0],
            ],
        ),
        (
            3,
            1,
            &[[0, 1, 2, 3, 4, 5, 6, 7], [2, 3, 0, 1, 6, 7, 4, 5], [4, 5, 6, 7, 0, 1, 2, 3], [6, 7, 4, 5, 2, 3, 0, 1]],
        ),
        (3, 3, &[[0, 1, 2, 3, 4, 5, 6, 7], [4, 5, 6, 7, 0, 1, 2, 3]]),
    ];
    for (mode, atomicity, table) in tables {
        let width = 4 << mode;
        let rows = 32 * 16 / width;
        let map = TensorMap {
            swizzle: Swizzle { mode, atomicity },
            ..tensor(&[u64::from(width), u64::from(rows)], &[width, rows])
        };
        let found = load(&map, ".tile", &[0, 0]);
        for line in 0..16 {
            for (place, chunk) in table[line % table.len()].iter().enumerate() {
                let first = 32 * line as u32 + 4 * chunk;
                assert_eq!(
                    found[32 * line + 4 * place],
                    first + 1,
                    "mode {mode}.{atomicity}, line {line}, chunk {place}"
                );
            }
        }
    }
}

#[test]
fn four_rows_are_gathered_and_scattered() {
    let map = tensor(&[64, 16], &[8, 1]);
    let prefetch = "cp.async.bulk.prefetch.tensor.2d.L2.global.tile::gather4 [%rd1, {4, 9, 2, 20, 0}];";
    let found = copied(&map, &format!("{prefetch} {}", load_text(&map, ".tile::gather4", &[4, 9, 2, 20, 0], ""))).0;
    for (number, row) in [9, 2, 20, 0].into_iter().enumerate() {
        for column in 0..8 {
            let wanted = element(&map, [4 + column, row, 0, 0, 0]).unwrap_or(0);
            assert_eq!(found[8 * number + column as usize], wanted);
        }
    }
    // Rows 1 and 5 go to rows 7 and 3; those outside go nowhere.
    let body = "cp.async.bulk.tensor.2d.shared::cta.global.tile::gather4.mbarrier::complete_tx::bytes [%r1], [%rd1, {0, 1, 5, 20, 6}], [%r2];\n\
        OWN: mbarrier.try_wait.parity.shared::cta.b64 %p2, [%r2], 0; @!%p2 bra OWN;\n\
        cp.async.bulk.tensor.2d.global.shared::cta.tile::scatter4.bulk_group [%rd1, {8, 7, 3, -1, 16}], [%r1];\n\
        cp.async.bulk.commit_group; cp.async.bulk.wait_group 0;";
    let (_, after) = copied(&map, body);
    for (at, word) in after.iter().take(1024).enumerate() {
        let (row, column) = (at / 64, at % 64);
        let wanted = match row {
            7 if (8..16).contains(&column) => 64 + column - 8,
            3 if (8..16).contains(&column) => 5 * 64 + column - 8,
            _ => at,
        };
        assert_eq!(*word, wanted as u32 + 1);
    }
}

#[test]
fn tiles_are_stored_and_reduced() {
    type Combine = fn(u32, u32) -> u32;
    let operations: [(&str, &str, Combine); 9] = [
        ("cp.async.bulk.tensor.2d.global.shared::cta", ".tile", |_, new| new),
        ("cp.reduce.async.bulk.tensor.2d.global.shared::cta.add", ".tile", |old, new| old + new),
        ("cp.reduce.async.bulk.tensor.2d.global.shared::cta.min", "", u32::min),
        ("cp.reduce.async.bulk.tensor.2d.global.shared::cta.max", "", u32::max),
        ("cp.reduce.async.bulk.tensor.2d.global.shared::cta.and", "", |old, new| old & new),
        ("cp.reduce.async.bulk.tensor.2d.global.shared::cta.or", "", |old, new| old | new),
        ("cp.reduce.async.bulk.tensor.2d.global.shared::cta.xor", "", |old, new| old ^ new),
        ("cp.reduce.async.bulk.tensor.2d.global.shared::cta.inc", "", |old, new| if old >= new { 0 } else { old + 1 }),
        ("cp.reduce.async.bulk.tensor.2d.global.shared::cta.dec", "", |old, new| {
            if old == 0 || old > new { new } else { old - 1 }
        }),
    ];
    for (instruction, mode, combine) in operations {
        let map = TensorMap { element: MapElement(2), ..tensor(&[64, 16], &[8, 4]) };
        // The box at (0, 0) goes to (60, 14): only its corner is inside.
        let body = format!(
            "cp.async.bulk.prefetch.tensor.2d.L2.global{mode} [%rd1, {{0, 0}}];\n\
             cp.async.bulk.tensor.2d.shared::cluster.global{mode}.mbarrier::complete_tx::bytes [%r1], [%rd1, {{0, 0}}], [%r2];\n\
             OWN: mbarrier.try_wait.parity.shared::cta.b64 %p2, [%r2], 0; @!%p2 bra OWN;\n\
             {instruction}{mode}.bulk_group [%rd1, {{60, 14}}], [%r1]; cp.async.bulk.commit_group; cp.async.bulk.wait_group.read 0;"
        );
        let (_, after) = copied(&map, &body);
        for (at, word) in after.iter().take(1024).enumerate() {
            let (row, column) = (at / 64, at % 64);
            let old = at as u32 + 1;
            let inside = row >= 14 && column >= 60;
            let wanted = if inside { combine(old, ((row - 14) * 64 + column - 60) as u32 + 1) } else { old };
            assert_eq!(*word, wanted, "{instruction} at {row}, {column}");
        }
    }
}

/// A box of each rank is loaded from one place, and stored and added at another, with hints and prefetches, which change nothing.
#[test]
fn boxes_of_every_rank_are_stored_and_reduced() {
    let cases: [(&[u64], &[u32], [i64; 5]); 5] = [
        (&[4096], &[16], [4088, 0, 0, 0, 0]),
        (&[64, 64], &[8, 4], [60, 62, 0, 0, 0]),
        (&[16, 16, 16], &[8, 4, 2], [12, 14, 3, 0, 0]),
        (&[8, 8, 8, 8], &[4, 2, 3, 2], [2, 7, -1, 6, 0]),
        (&[8, 4, 4, 4, 8], &[4, 2, 2, 2, 2], [-2, 3, 1, -1, 7]),
    ];
    for (dimensions, extents, to) in cases {
        for (name, reduces) in [("cp.async.bulk.tensor", false), ("cp.reduce.async.bulk.tensor", true)] {
            for (hint, policy) in [("", ""), (".L2::cache_hint", ", %rd8")] {
                let map = TensorMap { element: MapElement(2), ..tensor(dimensions, extents) };
                let rank = map.rank;
                let list = |at: &[i64]| at[..rank].iter().map(i64::to_string).collect::<Vec<_>>().join(", ");
                let operation = if reduces { ".add" } else { "" };
                let body = format!(
                    "createpolicy.fractional.L2::evict_first.b64 %rd8;\n\
                     cp.async.bulk.prefetch.tensor.{rank}d.L2.global.tile{hint} [%rd1, {{{0}}}]{policy};\n\
                     cp.async.bulk.tensor.{rank}d.shared::cta.global.tile.mbarrier::complete_tx::bytes{hint} [%r1], [%rd1, {{{0}}}], [%r2]{policy};\n\
                     OWN: mbarrier.try_wait.parity.shared::cta.b64 %p2, [%r2], 0; @!%p2 bra OWN;\n\
                     {name}.{rank}d.global.shared::cta{operation}.bulk_group{hint} [%rd1, {{{1}}}], [%r1]{policy};\n\
                     cp.async.bulk.commit_group; cp.async.bulk.wait_group 0;",
                    list(&[0; 5]),
                    list(&to)
                );
                let (_, after) = copied(&map, &body);
                for (number, word) in after.iter().enumerate() {
                    // The element's place in the tensor, and in the box that is stored.
                    let (mut rest, mut within, mut at) = (number as i64, true, [0; 5]);
                    for dimension in 0..rank {
                        at[dimension] = rest % dimensions[dimension] as i64 - to[dimension];
                        rest /= dimensions[dimension] as i64;
                        within &= (0..i64::from(extents[dimension])).contains(&at[dimension]);
                    }
                    let (old, source) = (number as u32 + 1, element(&map, at));
                    let wanted = match (within && rest == 0, reduces) {
                        (false, _) => old,
                        (true, false) => source.unwrap_or(0),
                        (true, true) => old + source.unwrap_or(0),
                    };
                    assert_eq!(*word, wanted, "{name}.{rank}d at element {number}");
                }
            }
        }
    }
}

/// Section 5.5.5 of the PTX ISA: of W alone, from image to image, and a halo of what comes next.
#[test]
fn pixels_along_the_width_have_halos() {
    let dimensions = [8u64, 9, 2, 28];
    for (unrolling, count, halo) in [(Unrolling::Width, 40, 3), (Unrolling::Width128, 128, 2)] {
        for (lower, upper, offset, step, first) in
            [(0i64, 0i64, 0, 1, 3i64), (-1, 0, 0, 2, -1), (-1, 0, 1, 2, -1), (-1, -1, 2, 3, 2), (2, -2, 0, 1, 0)]
        {
            let pixels = Pixels { lower: [lower as i32, 0, 0], upper: [upper as i32, 0, 0], count, unrolling };
            let mut map = TensorMap { pixels: Some(pixels), fill_nan: true, ..tensor(&dimensions, &[4]) };
            map.element_strides[1] = step as u32;
            // The places along W and the images, one after the other.
            let mut places: Vec<(i64, i64)> = (first..9 + upper).step_by(step).map(|x| (x, 1)).collect();
            for image in 2..60 {
                places.extend((lower..9 + upper).step_by(step).map(|x| (x, image)));
            }
            let parts = if unrolling == Unrolling::Width128 { 4 } else { 1 };
            let part = count as usize / parts;
            let order: Vec<usize> = (0..parts).flat_map(|number| part * number..part * (number + 1) + halo).collect();
            let mode = unrolling.name();
            let body = format!(
                "mov.u16 %rs1, {halo}; mov.u16 %rs2, {offset};\n\
                 mbarrier.expect_tx.relaxed.cta.shared::cta.b64 [%r2], {};\n\
                 cp.async.bulk.prefetch.tensor.4d.L2.global.{mode} [%rd1, {{4, {first}, 1, 1}}], {{%rs1, %rs2}};\n\
                 cp.async.bulk.tensor.4d.shared::cta.global.{mode}.mbarrier::complete_tx::bytes [%r1], [%rd1, {{4, {first}, 1, 1}}], [%r2], {{%rs1, %rs2}};",
                16 * halo * parts
            );
            let (found, _) = copied(&map, &body);
            for (row, pixel) in order.into_iter().enumerate() {
                let (x, image) = places[pixel];
                for channel in 0..4 {
                    let wanted = element(&map, [4 + channel, x + offset, 1, image, 0]).unwrap_or(NAN);
                    assert_eq!(
                        found[4 * row + channel as usize],
                        wanted,
                        "{mode} {lower} {step} row {row}, pixel {pixel}"
                    );
                }
            }
        }
    }
    let pixels = Pixels { lower: [0; 3], upper: [0; 3], count: 8, unrolling: Unrolling::Width };
    let map = TensorMap { pixels: Some(pixels), ..tensor(&dimensions, &[4]) };
    let load = |mode: &str| {
        let text = load_text(&map, mode, &[0, 0, 0, 0], ", {%rs1, %rs1}");
        let (run, mut words) = prepared(&map, &format!("mov.u16 %rs1, 512; {text}"));
        run.try_on(&mut words).expect_err("a fault").to_string()
    };
    assert!(load(".im2col::w").contains("a halo of 512 pixels: there can be 511 at most"));
    assert!(
        load(".im2col::w::128").contains("is encoded for im2col::w mode, the instruction is for im2col::w::128 mode")
    );
}

/// The first CTA of four loads a row for each CTA of a mask. Which barrier is told is the row's own CTA's, or with `.cta_group::2` that of
/// its pair whose rank is even or odd as the barrier's that the instruction names.
#[test]
fn copies_to_several_ctas() {
    let map = tensor(&[64, 64], &[16, 1]);
    for (group, mask, barrier_of, told) in [
        ("", 0b1011u32, 0u32, [64, 64, 0, 64]),
        (".cta_group::1", 0b0101, 0, [64, 0, 64, 0]),
        (".cta_group::2", 0b1111, 0, [128, 0, 128, 0]),
        (".cta_group::2", 0b1110, 1, [0, 64, 0, 128]),
    ] {
        for (hint, policy) in [("", ""), (".L2::cache_hint", ", %rd8")] {
            let list: Vec<String> = told
                .iter()
                .enumerate()
                .map(|(rank, bytes)| format!("setp.eq.u32 %p3, %r3, {rank}; @%p3 mov.u32 %r4, {bytes};"))
                .collect();
            let body = format!(
                "mov.u64 %rd1, %rd0; add.u64 %rd2, %rd0, 128; mov.u32 %r1, tile; mov.u32 %r2, bar; mov.u32 %r3, %cluster_ctarank; mov.u32 %r4, 0;\n\
                 {} setp.eq.u32 %p1, %r0, 0; mad.lo.u32 %r5, %r0, 4, %r1; st.shared.u32 [%r5], 0; fence.proxy.async;\n\
                 @%p1 mbarrier.init.shared::cta.b64 [%r2], 1; @%p1 mbarrier.arrive.expect_tx.shared::cta.b64 _, [%r2], %r4;\n\
                 fence.mbarrier_init.release.cluster; createpolicy.fractional.L2::evict_last.b64 %rd8;\n\
                 barrier.cluster.arrive.aligned; barrier.cluster.wait.aligned; setp.eq.and.u32 %p2, %r3, 0, %p1; @!%p2 bra WAIT;\n\
                 tensormap.replace.tile.global_address.global.b1024.b64 [%rd1], %rd2; fence.proxy.tensormap::generic.acquire.gpu [%rd1], 128;\n\
                 mov.b16 %rs1, {mask}; mov.u32 %r6, {barrier_of}; mapa.shared::cluster.u32 %r7, %r2, %r6;\n\
                 cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes.multicast::cluster{group}{hint} [%r1], [%rd1, {{16, 5}}], [%r7], %rs1{policy};\n\
                 WAIT: mbarrier.try_wait.parity.shared::cta.b64 %p3, [%r2], 0; @!%p3 bra WAIT;\n\
                 barrier.cluster.arrive.aligned; barrier.cluster.wait.aligned; ld.shared.u32 %r8, [%r5];\n\
                 mad.lo.u32 %r9, %r3, 16, %r0; mad.wide.u32 %rd3, %r9, 4, %rd0; setp.lt.u32 %p4, %r0, 16;\n\
                 @%p4 st.global.u32 [%rd3+16512], %r8; barrier.cluster.arrive.aligned; barrier.cluster.wait.aligned;",
                list.concat()
            );
            let (_, mut words) = prepared(&map, "");
            let run = Run::new(&body)
                .declare(".shared .align 1024 .b8 tile[128]; .shared .align 8 .b64 bar;")
                .shape(4, 32, 4);
            run.try_on(&mut words).unwrap_or_else(|fault| panic!("{group}: {fault}"));
            for at in 0..64usize {
                let found = (words[16 + ELEMENTS / 2 + at / 2] >> (32 * (at % 2))) as u32;
                let wanted = element(&map, [16 + at as i64 % 16, 5, 0, 0, 0]).filter(|_| mask >> (at / 16) & 1 != 0);
                assert_eq!(found, wanted.unwrap_or(0), "{group} mask {mask:#b}: CTA {}, element {}", at / 16, at % 16);
            }
        }
    }
    // The barrier of the even CTA of a pair is told of what the odd one loads for itself.
    for (group, barrier_of) in [(".cta_group::1", 1), (".cta_group::2", 0)] {
        let body = format!(
            "mov.u64 %rd1, %rd0; add.u64 %rd2, %rd0, 128; mov.u32 %r1, tile; mov.u32 %r2, bar; mov.u32 %r3, %cluster_ctarank; setp.eq.u32 %p1, %r0, 0;\n\
             setp.eq.and.u32 %p2, %r3, {barrier_of}, %p1; @%p1 mbarrier.init.shared::cta.b64 [%r2], 1;\n\
             @%p2 mbarrier.arrive.expect_tx.shared::cta.b64 _, [%r2], 64; fence.mbarrier_init.release.cluster;\n\
             barrier.cluster.arrive.aligned; barrier.cluster.wait.aligned; setp.eq.and.u32 %p3, %r3, 1, %p1; @!%p3 bra WAIT;\n\
             tensormap.replace.tile.global_address.global.b1024.b64 [%rd1], %rd2; fence.proxy.tensormap::generic.acquire.gpu [%rd1], 128;\n\
             mov.u32 %r6, {barrier_of}; mapa.shared::cluster.u32 %r7, %r2, %r6;\n\
             cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes{group} [%r1], [%rd1, {{16, 5}}], [%r7];\n\
             WAIT: setp.ne.u32 %p4, %r3, {barrier_of}; @%p4 bra DONE;\n\
             POLL: mbarrier.try_wait.parity.shared::cta.b64 %p4, [%r2], 0; @!%p4 bra POLL; mov.u32 %r6, 1; mapa.shared::cluster.u32 %r7, %r1, %r6;\n\
             ld.shared::cluster.u32 %r8, [%r7+60]; @%p1 st.global.u32 [%rd0+16512], %r8;\n\
             DONE: barrier.cluster.arrive.aligned; barrier.cluster.wait.aligned;"
        );
        let (_, mut words) = prepared(&map, "");
        let run =
            Run::new(&body).declare(".shared .align 1024 .b8 tile[128]; .shared .align 8 .b64 bar;").shape(2, 32, 2);
        run.try_on(&mut words).unwrap_or_else(|fault| panic!("{group}: {fault}"));
        assert_eq!(Some(words[16 + ELEMENTS / 2] as u32), element(&map, [31, 5, 0, 0, 0]), "{group}");
    }
}

/// Sixteen elements of 4 or 6 bits go to 16 bytes of shared memory each; the barrier is told of 8 or 12.
#[test]
fn padding_of_packed_elements_is_not_counted() {
    for (number, bits) in [(12, 4usize), (13, 6)] {
        let mut map = tensor(&[128, 4], &[128, 2]);
        (map.element, map.strides[0]) = (MapElement(number), 16 * bits as u64);
        let text = load_text(&map, "", &[0, 1], "");
        let (run, mut words) = prepared(&map, &text);
        let run = Run {
            body: run.body.replace(&format!("[%r2], {};", 4 * 128 * 2), &format!("[%r2], {};", 32 * bits)),
            ..run
        };
        let bytes: Vec<u8> = words[16..].iter().flat_map(|word| word.to_le_bytes()).collect();
        run.try_on(&mut words).unwrap_or_else(|fault| panic!("{fault}"));
        let found: Vec<u8> = words[16 + ELEMENTS / 2..].iter().flat_map(|word| word.to_le_bytes()).collect();
        for (at, byte) in found.into_iter().enumerate().take(256) {
            let (row, group, within) = (at / 128, at / 16 % 8, at % 16);
            let wanted = if within < 2 * bits { bytes[(row + 1) * 16 * bits + group * 2 * bits + within] } else { 0 };
            assert_eq!(byte, wanted, "{bits} bits, byte {at}");
        }
    }
}

#[test]
fn pixels_are_loaded_and_stored() {
    // The first example of section 5.5.4.1 of the PTX ISA, on a smaller image: a 3x3 filter with a border of one.
    let dimensions = [16u64, 9, 7, 4];
    let pixels = Pixels { lower: [-1, -1, 0], upper: [-1, -1, 0], count: 64, unrolling: Unrolling::Filter };
    for (offsets, step) in [([0i64, 0], 1), ([1, 1], 1), ([2, 1], 1), ([1, 2], 2)] {
        let mut map = TensorMap { pixels: Some(pixels), fill_nan: true, ..tensor(&dimensions, &[8]) };
        (map.element_strides[1], map.element_strides[2]) = (step, step);
        // The places of the filter's base, in order: all of an image's, then those of the next image.
        let (mut bases, step) = (vec![], step as usize);
        for image in 0..5i64 {
            for y in (-1..=5i64).step_by(step) {
                bases.extend((-1..=7i64).step_by(step).map(|x| [x, y, image]));
            }
        }
        let start = [3i64, 5, 1];
        let first = bases.iter().position(|base| *base == start).unwrap();
        let list = format!(", {{{}, {}}}", "%rs1", "%rs2");
        let body = format!(
            "mov.u16 %rs1, {}; mov.u16 %rs2, {};\n\
             cp.async.bulk.prefetch.tensor.4d.L2.global.im2col [%rd1, {{8, 3, 5, 1}}]{list};\n\
             cp.async.bulk.tensor.4d.shared::cta.global.im2col.mbarrier::complete_tx::bytes [%r1], [%rd1, {{8, 3, 5, 1}}], [%r2]{list};",
            offsets[0], offsets[1]
        );
        let (found, _) = copied(&map, &body);
        for pixel in 0..64 {
            let base = bases.get(first + pixel).copied().unwrap_or([0, 0, 99]);
            for channel in 0..8 {
                let at = [8 + channel, base[0] + offsets[0], base[1] + offsets[1], base[2], 0];
                let wanted = element(&map, at).unwrap_or(NAN);
                assert_eq!(found[8 * pixel + channel as usize], wanted, "{offsets:?} {step} pixel {pixel} {base:?}");
            }
        }
    }
    // A column of pixels goes back to other channels of the same pixels.
    let pixels = Pixels { lower: [0; 3], upper: [0; 3], count: 63, unrolling: Unrolling::Filter };
    let map = TensorMap { pixels: Some(pixels), element: MapElement(2), ..tensor(&dimensions, &[8]) };
    let body = "mov.u16 %rs1, 0;\n\
        cp.async.bulk.tensor.4d.shared::cta.global.im2col.mbarrier::complete_tx::bytes [%r1], [%rd1, {0, 0, 0, 0}], [%r2], {%rs1, %rs1};\n\
        OWN: mbarrier.try_wait.parity.shared::cta.b64 %p2, [%r2], 0; @!%p2 bra OWN;\n\
        cp.async.bulk.tensor.4d.global.shared::cta.im2col_no_offs.bulk_group [%rd1, {8, 0, 0, 1}], [%r1];\n\
        cp.reduce.async.bulk.tensor.4d.global.shared::cta.add.im2col_no_offs.bulk_group [%rd1, {8, 0, 0, 2}], [%r1];\n\
        cp.async.bulk.commit_group; cp.async.bulk.wait_group 0;";
    let (_, after) = copied(&map, body);
    for (at, word) in after.iter().take(4 * 63 * 16).enumerate() {
        let (image, pixel, channel) = (at / (63 * 16), at / 16 % 63, at % 16);
        let (old, source) = (at as u32 + 1, (pixel * 16 + channel) as u32 + 1);
        let wanted = match image {
            1 if channel >= 8 => source - 8,
            2 if channel >= 8 => old + source - 8,
            _ => old,
        };
        assert_eq!(*word, wanted, "image {image}, pixel {pixel}, channel {channel}");
    }
    let tiled = tensor(&dimensions, &[8]);
    let (run, mut words) = prepared(&tiled, &load_text(&tiled, ".im2col", &[0, 0, 0, 0], ", {%rs1, %rs1}"));
    let message = run.try_on(&mut words).expect_err("a fault").to_string();
    assert!(message.contains("is encoded for tile mode, the instruction is for im2col mode"), "{message}");
}

#[test]
fn maps_are_built_field_by_field() {
    let map = TensorMap {
        address: 0x7000_1234_5670,
        element: MapElement(10),
        swizzle: Swizzle { mode: 3, atomicity: 1 },
        fill_nan: true,
        strides: [64, (1 << 39) + 16, 0, 0],
        element_strides: [1, 2, 8, 1, 1],
        ..tensor(&[32, 1 << 31, 7], &[16, 256, 3])
    };
    for (space, scope) in [
        (".global", ""),
        (".shared::cta", "cta"),
        (".shared::cta", "cluster"),
        (".shared::cta", "gpu"),
        (".shared::cta", "sys"),
    ] {
        let mut body = String::from("mov.u64 %rd1, %rd0; mov.u32 %r1, own; cvt.u64.u32 %rd2, %r1;\n");
        let address = if space == ".global" { "%rd1" } else { "%rd2" };
        for word in 0..16 {
            body.push_str(&format!("st{space}.u64 [{address}+{}], 0;\n", 8 * word));
        }
        let mut replace = |field: &str, index: &str, value: u64| {
            let bits = if matches!(field, "global_address" | "global_stride") { 64 } else { 32 };
            let value = if matches!(
                field,
                "elemtype" | "swizzle_mode" | "swizzle_atomicity" | "fill_mode" | "interleave_layout"
            ) {
                value.to_string()
            } else {
                body.push_str(&format!("mov.b{bits} {}, {value};\n", if bits == 64 { "%rd5" } else { "%r5" }));
                String::from(if bits == 64 { "%rd5" } else { "%r5" })
            };
            body.push_str(&format!(
                "tensormap.replace.tile.{field}{space}.b1024.b{bits} [{address}]{index}, {value};\n"
            ));
        };
        replace("global_address", "", map.address);
        replace("rank", "", 2);
        replace("elemtype", "", 10);
        replace("interleave_layout", "", 0);
        replace("swizzle_mode", "", 3);
        replace("swizzle_atomicity", "", 1);
        replace("fill_mode", "", 1);
        for at in 0..5 {
            replace("box_dim", &format!(", {at}"), u64::from(map.box_extents[at]));
            replace("global_dim", &format!(", {at}"), map.dimensions[at]);
            replace("element_stride", &format!(", {at}"), u64::from(map.element_strides[at]));
            if at < 4 {
                replace("global_stride", &format!(", {at}"), map.strides[at]);
            }
        }
        if space != ".global" {
            body.push_str(&format!(
                "tensormap.cp_fenceproxy.global.shared::cta.tensormap::generic.release.{scope}.sync.aligned [%rd1], [%rd2], 128;"
            ));
        }
        let run = Run::new(&body).declare(".shared .align 128 .b8 own[128];");
        let bytes: Vec<u8> = run.words(16).into_iter().flat_map(u64::to_le_bytes).collect();
        assert_eq!(TensorMap::decode(bytes.as_slice().try_into().unwrap()), map, "{space}");
    }
}
