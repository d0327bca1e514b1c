//! Tensor memory: allocated, moved to and from registers in every shape, filled from shared memory, and shifted, against the layouts that
//! the ISA draws.

use super::Run;
use super::trial::{Draw, Kind, Matrix, Trial};
use super::warpgroup::Layout;

/// What `coverage` runs again.
pub const TESTS: &[fn()] = &[
    tensor_memory_keeps_what_is_stored,
    tensor_memory_has_to_be_given_back,
    registers_meet_lanes_and_columns_in_every_shape,
    matrices_are_copied_from_shared_memory,
    lanes_are_shifted,
    commits_arrive_in_several_ctas,
];

#[test]
fn tensor_memory_keeps_what_is_stored() {
    let body = "mov.u32 %r1, cell; tcgen05.alloc.cta_group::1.sync.aligned.shared::cta.b32 [%r1], 32; ld.shared.u32 %r2, [cell];\n\
        add.u32 %r3, %r0, 100; tcgen05.st.sync.aligned.32x32b.x2.b32 [%r2], {%r0, %r3}; tcgen05.wait::st.sync.aligned;\n\
        tcgen05.ld.sync.aligned.32x32b.x2.b32 {%r4, %r5}, [%r2]; tcgen05.wait::ld.sync.aligned; sub.u32 %r5, %r5, %r4;\n\
        tcgen05.dealloc.cta_group::1.sync.aligned.b32 %r2, 32;\n\
        mad.wide.u32 %rd1, %r0, 8, %rd0; cvt.u64.u32 %rd2, %r5; st.global.u64 [%rd1], %rd2;";
    assert_eq!(Run::new(body).declare(".shared .b32 cell;").words(32), [100; 32]);
    let used = "mov.u32 %r2, 0; tcgen05.ld.sync.aligned.32x32b.x1.b32 {%r4}, [%r2];";
    assert!(Run::new(used).fault().contains("are not all allocated"));
}

#[test]
fn tensor_memory_has_to_be_given_back() {
    let body = "mov.u32 %r1, cell; tcgen05.alloc.cta_group::1.sync.aligned.shared::cta.b32 [%r1], 64;";
    let message = Run::new(body).declare(".shared .b32 cell;").fault();
    assert!(message.contains("64 columns of tensor memory are allocated when the CTA ends"), "{message}");
    let twice = format!("{body} ld.shared.u32 %r2, [cell]; tcgen05.dealloc.cta_group::1.sync.aligned.b32 %r2, 32;");
    assert!(Run::new(&twice).declare(".shared .b32 cell;").fault().contains("were not allocated so"));
}

/// The lane and the column, from the address on, of a thread's register: figures of section 9.7.16.2.3.
fn place(shape: &str, thread: usize, register: usize, second: usize) -> (usize, usize) {
    let quad = thread / 4;
    match shape {
        "32x32b" => (thread, register),
        "16x32bx2" => (thread % 16, register + if thread < 16 { 0 } else { second }),
        // Even threads have rows 0 to 7, odd ones 8 to 15.
        "16x64b" => (quad + 8 * (thread % 2), 2 * register + thread / 2 % 2),
        // One register of a row, one of the row 8 below.
        "16x128b" => (quad + 8 * (register % 2), 4 * (register / 2) + thread % 4),
        // Two registers of a row, two of the row 8 below.
        _ => (quad + 8 * (register / 2 % 2), 8 * (register / 4) + 2 * (thread % 4) + register % 2),
    }
}

/// What is stored in a shape is found lane by lane and column by column, and comes back in that shape.
#[test]
fn registers_meet_lanes_and_columns_in_every_shape() {
    for (shape, each) in [("32x32b", 1), ("16x64b", 1), ("16x128b", 2), ("16x256b", 4), ("16x32bx2", 1)] {
        for number in [1usize, 2, 4, 8, 16, 32, 64, 128] {
            let count = number * each;
            if count > 128 {
                continue;
            }
            for packed in [false, true] {
                let (pack, unpack) = if packed { (".pack::16b", ".unpack::16b") } else { ("", "") };
                let names: Vec<String> = (0..count).map(|at| format!("v{at}")).collect();
                let split = if shape == "16x32bx2" { ", 256" } else { "" };
                let mut body = format!(
                    ".reg .b32 v<{count}>; mov.u32 %r1, cell; tcgen05.alloc.cta_group::1.sync.aligned.shared::cta.b32 [%r1], 512;\n\
                     ld.shared.u32 %r2, [cell]; mov.u32 %r3, 0;\n"
                );
                for (at, name) in names.iter().enumerate() {
                    body.push_str(&format!("mad.lo.u32 {name}, %r0, 0x2000301, {at};\n"));
                }
                body.push_str(&format!(
                    "tcgen05.st.sync.aligned.{shape}.x{number}{unpack}.b32 [%r2]{split}, {{{0}}}; tcgen05.wait::st.sync.aligned;\n",
                    names.join(", ")
                ));
                names.iter().for_each(|name| body.push_str(&format!("mov.b32 {name}, 0;\n")));
                body.push_str(&format!(
                    "tcgen05.ld.sync.aligned.{shape}.x{number}{pack}.b32 {{{0}}}, [%r2]{split}; tcgen05.wait::ld.sync.aligned;\n",
                    names.join(", ")
                ));
                for (at, name) in names.iter().enumerate() {
                    body.push_str(&format!(
                        "mad.lo.u32 %r4, %r0, 0x2000301, {at}; xor.b32 {name}, {name}, %r4; or.b32 %r3, %r3, {name};\n"
                    ));
                }
                // Whether what came back is another, and then all columns of the lanes.
                body.push_str(
                    "mad.wide.u32 %rd1, %r0, 2056, %rd0; st.global.u32 [%rd1], %r3; mov.u32 %r5, 0;\n\
                     next: add.u32 %r6, %r2, %r5; tcgen05.ld.sync.aligned.32x32b.x1.b32 {%r7}, [%r6]; tcgen05.wait::ld.sync.aligned;\n\
                     st.global.u32 [%rd1+8], %r7; add.u64 %rd1, %rd1, 4; add.u32 %r5, %r5, 1; setp.lt.u32 %p1, %r5, 512; @%p1 bra next;\n\
                     tcgen05.dealloc.cta_group::1.sync.aligned.b32 %r2, 512;",
                );
                let words = Run::new(&body).declare(".shared .b32 cell;").words(257 * 32);
                let half =
                    |lane: usize, column: usize| (words[257 * lane + 1 + column / 2] >> (32 * (column % 2))) as u32;
                for thread in 0..32 {
                    assert_eq!(words[257 * thread] as u32, 0, "{shape}.x{number}{pack} of thread {thread}");
                    for register in 0..count {
                        let value = (thread as u32).wrapping_mul(0x0200_0301) + register as u32;
                        if packed {
                            // Two halves of a register are the low halves of two columns that follow each other.
                            let (lane, column) = place(shape, thread, register, 0);
                            let column = 2 * column + if shape == "16x32bx2" && thread >= 16 { 256 } else { 0 };
                            assert_eq!(
                                (half(lane, column), half(lane, column + 1)),
                                (value & 0xffff, value >> 16),
                                "{shape}.x{number}{unpack}"
                            );
                        } else {
                            let (lane, column) = place(shape, thread, register, 256);
                            assert_eq!(
                                half(lane, column),
                                value,
                                "{shape}.x{number}: thread {thread}, register {register}"
                            );
                        }
                    }
                }
            }
        }
    }
}

/// Instructions of 128 threads around one of tensor memory, which thread 0 of the first CTA issues. Before and after it, operand `$1` is
/// all that is in as many columns, from the address in `%r6` on.
pub fn around(group: &str, columns: usize, prepare: &str, issue: &str) -> String {
    format!(
        ".shared .align 16 .b8 cell[16];\nmov.u32 %r5, cell; setp.ge.u32 %p4, %r0, 32; @%p4 bra ready;\n\
         tcgen05.alloc.{group}.sync.aligned.shared::cta.b32 [%r5], {columns};\n\
         tcgen05.relinquish_alloc_permit.{group}.sync.aligned; mbarrier.init.shared::cta.b64 [%r5+8], 1;\n\
         ready: bar.sync 0; ld.shared.u32 %r6, [%r5]; and.b32 %r7, %r0, 96; shl.b32 %r7, %r7, 16; add.u32 %r7, %r7, %r6;\n\
         tcgen05.st.sync.aligned.32x32b.x{columns}.b32 [%r7], $1; tcgen05.wait::st.sync.aligned;\n\
         tcgen05.fence::before_thread_sync; bar.sync 0; barrier.cluster.arrive.aligned; barrier.cluster.wait.aligned;\n\
         tcgen05.fence::after_thread_sync; {prepare}\n\
         setp.ne.u32 %p3, %r40, 0; @%p3 bra done;\n\
         {issue}\n\
         tcgen05.commit.{group}.mbarrier::arrive::one.shared::cluster.b64 [%r5+8];\n\
         wait: mbarrier.try_wait.parity.shared::cta.b64 %p7, [%r5+8], 0; @!%p7 bra wait;\n\
         done: tcgen05.fence::before_thread_sync; bar.sync 0; barrier.cluster.arrive.aligned; barrier.cluster.wait.aligned;\n\
         tcgen05.fence::after_thread_sync;\n\
         tcgen05.ld.sync.aligned.32x32b.x{columns}.b32 $1, [%r7]; tcgen05.wait::ld.sync.aligned;\n\
         bar.sync 0; @%p4 bra end; tcgen05.dealloc.{group}.sync.aligned.b32 %r6, {columns}; end:\n"
    )
}

/// The swizzles of a descriptor, and what else it always says: none, 32, 64 and 128 bytes.
pub const SWIZZLES: [u64; 4] = [1 << 46, 6 << 61 | 1 << 46, 4 << 61 | 1 << 46, 2 << 61 | 1 << 46];

/// Puts the address of a matrix that starts somewhere in shared memory, and the rest of its descriptor, into a register.
pub fn descriptor(register: &str, start: usize, fields: u64) -> String {
    format!(
        "add.u32 %r12, %r1, {start}; shr.u32 %r12, %r12, 4; cvt.u64.u32 {register}, %r12; or.b64 {register}, {register}, {};\n",
        fields as i64
    )
}

/// Columns of tensor memory in these tests, and what is in them at first.
const COLUMNS: usize = 32;

fn before(column: usize, thread: usize) -> u32 {
    (column * 1000 + thread) as u32
}

/// What is in tensor memory after an instruction: for each column, each CTA's lanes.
fn after(pair: bool, prepare: &str, issue: &str, shared: &[u32]) -> Vec<Vec<u32>> {
    let (group, ctas) = if pair { ("cta_group::2", 2) } else { ("cta_group::1", 1) };
    let text = around(group, COLUMNS, prepare, &issue.replace("cta_group", group));
    let operands =
        [(0..COLUMNS).map(|column| (0..128 * ctas).map(|thread| before(column, thread)).collect()).collect()];
    Trial { target: "sm_100a", operands: &operands, ctas, ..Trial::of_warpgroup(&text, shared) }.run()
}

#[test]
fn matrices_are_copied_from_shared_memory() {
    // Rows of the matrix, its words, and the row that a lane gets.
    type Row = fn(usize) -> Option<usize>;
    let shapes: [(&str, usize, usize, Row); 9] = [
        ("128x256b", 128, 8, Some),
        ("4x256b", 4, 8, |lane| (lane % 32 == 0).then_some(lane / 32)),
        ("128x128b", 128, 4, Some),
        ("64x128b.warpx2::02_13", 64, 4, |lane| Some(lane % 64)),
        ("warpx2::02_13.64x128b", 64, 4, |lane| Some(lane % 64)),
        ("64x128b.warpx2::01_23", 64, 4, |lane| Some(lane / 64 * 32 + lane % 32)),
        ("warpx2::01_23.64x128b", 64, 4, |lane| Some(lane / 64 * 32 + lane % 32)),
        ("32x128b.warpx4", 32, 4, |lane| Some(lane % 32)),
        ("warpx4.32x128b", 32, 4, |lane| Some(lane % 32)),
    ];
    for (shape, rows, words, row_of) in shapes {
        for (span, pair) in [16, 32, 64, 128].into_iter().flat_map(|span| [false, true].map(|pair| (span, pair))) {
            let layout = Layout { span, transposed: false };
            let mut draw = Draw(span as u64);
            let (mut shared, mut matrices, mut place) = (vec![], vec![], (0, 0));
            for _ in 0..if pair { 2 } else { 1 } {
                let (matrix, mut image) = (Matrix::draw(rows, 4 * words, Kind::Integer(8, false), &mut draw), vec![]);
                place = layout.put(&matrix, 8, &mut image, SWIZZLES);
                image.resize(image.len().next_multiple_of(128), 0);
                shared.extend(image);
                matrices.push(matrix);
            }
            let issue = format!("add.u32 %r13, %r6, 8; tcgen05.cp.cta_group.{shape} [%r13], %rd4;");
            let found = after(pair, &descriptor("%rd4", place.0, place.1), &issue, &shared);
            for (column, thread) in
                (0..COLUMNS).flat_map(|column| (0..found[0].len()).map(move |thread| (column, thread)))
            {
                let (cta, lane) = (thread / 128, thread % 128);
                let copied = row_of(lane).filter(|_| (8..8 + words).contains(&column));
                let wanted = copied.map(|row| {
                    let byte = |at: usize| matrices[cta].at(row, 4 * (column - 8) + at).0 << (8 * at);
                    (0..4).map(byte).sum()
                });
                let wanted = wanted.unwrap_or(before(column, thread));
                assert_eq!(
                    found[column][thread], wanted,
                    "{shape}, span {span}: column {column}, lane {lane} of CTA {cta}"
                );
            }
        }
    }
}

/// Of the 32 lanes from an address on, each but the last gets what the next one had in 8 columns.
#[test]
fn lanes_are_shifted() {
    for (pair, first) in [(false, 0), (false, 32), (true, 96)] {
        let issue = format!("add.u32 %r13, %r6, {}; tcgen05.shift.cta_group.down [%r13];", first << 16 | 16);
        let found = after(pair, "", &issue, &[]);
        for (column, thread) in (0..COLUMNS).flat_map(|column| (0..found[0].len()).map(move |thread| (column, thread)))
        {
            let lane = thread % 128;
            let shifted = (16..24).contains(&column) && (first..first + 31).contains(&lane);
            assert_eq!(
                found[column][thread],
                before(column, thread + usize::from(shifted)),
                "column {column}, lane {lane}"
            );
        }
    }
    let body = "mov.u32 %r1, cell; tcgen05.alloc.cta_group::1.sync.aligned.shared::cta.b32 [%r1], 32; ld.shared.u32 %r2, [cell];\n\
        add.u32 %r2, %r2, 0x100000; setp.eq.u32 %p1, %r0, 0; @%p1 tcgen05.shift.cta_group::1.down [%r2];";
    let message = Run::new(body).declare(".shared .b32 cell;").fault();
    assert!(message.contains("starts at lane 16: it has to be a multiple of 32"), "{message}");
}

/// The first CTA commits for those of a mask.
#[test]
fn commits_arrive_in_several_ctas() {
    for group in ["cta_group::1", "cta_group::2"] {
        for mask in [0b1010u64, 0b0001, 0b1111] {
            let body = format!(
                "mov.u32 %r1, cell; mov.u32 %r2, %cluster_ctarank; setp.eq.u32 %p1, %r0, 0; setp.eq.and.u32 %p2, %r2, 0, %p1;\n\
                 @%p1 mbarrier.init.shared::cta.b64 [%r1], 1; fence.mbarrier_init.release.cluster; mov.b16 %rs1, {mask};\n\
                 barrier.cluster.arrive.aligned; barrier.cluster.wait.aligned;\n\
                 @%p2 tcgen05.commit.{group}.mbarrier::arrive::one.shared::cluster.multicast::cluster.b64 [%r1], %rs1;\n\
                 barrier.cluster.arrive.aligned; barrier.cluster.wait.aligned;\n\
                 mbarrier.test_wait.parity.shared::cta.b64 %p3, [%r1], 0; selp.u64 %rd1, 1, 0, %p3;\n\
                 mad.wide.u32 %rd2, %r2, 8, %rd0; st.global.u64 [%rd2], %rd1;"
            );
            let words = Run::new(&body).declare(".shared .b64 cell;").shape(4, 32, 4).words(4);
            assert_eq!(words, (0..4).map(|rank| mask >> rank & 1).collect::<Vec<_>>(), "{group} {mask:#b}");
        }
    }
}
