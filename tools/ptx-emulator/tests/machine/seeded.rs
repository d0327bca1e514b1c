//! Faults that are made by deleting or moving one instruction of a kernel that works: the checker names the kind and the line.

use ptx_emulator::checker::{Report, ReportKind};
use ptx_emulator::machine::grid::Limits;

use super::corpus;

/// The instruction of a number among those whose line holds a text.
#[derive(Clone, Copy, Debug)]
struct Nth(&'static str, usize);

impl Nth {
    /// Its line, from 0.
    fn line(self, lines: &[&str]) -> usize {
        let Nth(text, number) = self;
        let holds = |(_, line): &(usize, &&str)| line.contains(text) && !line.trim_start().starts_with("//");
        let found = lines.iter().enumerate().filter(holds).nth(number);
        found.unwrap_or_else(|| panic!("there is no {number}th `{text}`")).0
    }
}

/// What is done to the instruction of a number among those whose line holds a text. Lines keep their numbers.
#[derive(Clone, Copy, Debug)]
enum Edit {
    Delete(&'static str, usize),
    /// A part of the instruction's text becomes another.
    Replace(&'static str, usize, &'static str, &'static str),
}

impl Edit {
    fn apply(self, text: &str) -> String {
        let mut lines: Vec<String> = text.lines().map(String::from).collect();
        let original: Vec<&str> = text.lines().collect();
        match self {
            Edit::Delete(holds, number) => lines[Nth(holds, number).line(&original)].clear(),
            Edit::Replace(holds, number, from, to) => {
                let line = &mut lines[Nth(holds, number).line(&original)];
                assert!(line.contains(from), "{line}");
                *line = line.replacen(from, to, 1);
            }
        }
        lines.join("\n")
    }
}

use Edit::{Delete, Replace};
use ReportKind::{Divergence, NotAwaited, NotCommitted, ProxyFence, Race, Registers, TensorFence, Uninitialized};

/// Faults of a kernel: what is done to it, and the kind and the line of a report that there has to be.
type Seeds = (&'static str, &'static [(Edit, ReportKind, Nth)]);

const SEEDS: &[Seeds] = &[
    (
        "softmax_f32.sm80.ptx",
        &[
            (Delete("bar.sync", 1), Race, Nth("ld.shared", 0)),
            (Replace("%r110, %r111, %r17", 0, "%r110, %r111, %r17", "%r110, 0, %r17"), Race, Nth("st.global", 0)),
        ],
    ),
    (
        "layernorm_f16.sm80.ptx",
        &[
            (Delete("bar.sync", 0), Race, Nth("ld.shared", 0)),
            (Delete("st.shared", 0), Uninitialized, Nth("ld.shared", 0)),
            (Replace("%rd14, %r1, 4", 0, "%r1", "0"), Race, Nth("st.global", 0)),
        ],
    ),
    ("scan_sort_i32.sm80.ptx", &[(Delete("bar.sync", 5), Race, Nth("[%r166]", 0))]),
    ("matmul_bf16_ptr.sm80.ptx", &[(Delete("cp.async.wait_group", 0), NotAwaited, Nth("ldmatrix", 0))]),
    ("matmul_tf32_ptr.sm80.ptx", &[(Delete("bar.sync", 2), Race, Nth("[ %r157 + 0 ]", 0))]),
    ("flash_f16_d64_full_ptr.sm80.ptx", &[(Delete("cp.async.wait_group", 0), NotAwaited, Nth("[%r456+16384]", 0))]),
    (
        "vadd_f32.sm80.ptx",
        &[
            (Delete("ld.param", 0), Uninitialized, Nth("ld.global", 0)),
            (Delete("add.f32", 0), Uninitialized, Nth("st.global", 0)),
            (Delete("mov.u32", 0), Uninitialized, Nth("ld.global", 0)),
        ],
    ),
    ("matmul_bf16_ptr.sm90.ptx", &[(Delete("fence.proxy.async", 0), ProxyFence, Nth("wgmma.mma_async", 0))]),
    ("flash_f16_d128_full_ptr.sm90.ptx", &[(Delete("fence.proxy.async", 0), ProxyFence, Nth("wgmma.mma_async", 0))]),
    (
        "matmul_bf16_tma.sm90.ptx",
        &[
            (Delete("bra.uni", 0), NotAwaited, Nth("wgmma.mma_async", 0)),
            (Delete("fence.proxy.async", 0), ProxyFence, Nth("tensor.2d.global", 0)),
            (Delete("bulk.wait_group", 0), NotCommitted, Nth("tensor.2d.global", 0)),
            (Delete("bulk.commit_group", 0), NotCommitted, Nth("tensor.2d.global", 0)),
            (Delete("wgmma.wait_group", 0), NotAwaited, Nth("tensor.2d.shared", 4)),
            (Replace("wgmma.wait_group", 0, " 1;", " 3;"), NotAwaited, Nth("tensor.2d.shared", 4)),
            (Delete("wgmma.wait_group", 1), Registers, Nth("cvt.rn.bf16x2", 0)),
            (Delete("wgmma.fence", 0), Registers, Nth("wgmma.mma_async", 0)),
            (Delete("wgmma.commit_group", 0), NotCommitted, Nth("wgmma.mma_async", 3)),
            (Replace("stmatrix", 0, "stmatrix", "@%p11 stmatrix"), Divergence, Nth("stmatrix", 0)),
            (Replace("wgmma.wait_group", 1, "wgmma", "@%p11 wgmma"), Divergence, Nth("wgmma.wait_group", 1)),
        ],
    ),
    ("matmul_bf16_tma_persistent.sm90.ptx", &[(Delete("bulk.wait_group", 2), NotAwaited, Nth("stmatrix", 0))]),
    (
        "flash_bf16_d64_full_tma.sm90.ptx",
        &[
            (Delete("wgmma.fence", 1), Registers, Nth("wgmma.mma_async", 4)),
            (Delete("wgmma.wait_group", 0), Registers, Nth("max.f32", 0)),
        ],
    ),
    (
        "matmul_bf16_ptr.sm100.ptx",
        &[
            (Delete("fence.proxy.async", 0), ProxyFence, Nth("tcgen05.mma", 0)),
            (Delete("fence.proxy.async", 1), ProxyFence, Nth("tcgen05.mma", 4)),
        ],
    ),
    (
        "matmul_bf16_tma.sm100.ptx",
        &[
            (Delete("bra.uni waitLoop", 0), NotAwaited, Nth("tcgen05.mma", 0)),
            (Delete("bra.uni waitLoop", 2), NotAwaited, Nth("tcgen05.mma", 4)),
            (Delete("bra.uni waitLoop", 1), NotAwaited, Nth("tensor.2d.shared", 6)),
            (Delete("bra.uni waitLoop", 3), NotAwaited, Nth("tcgen05.ld", 0)),
            (Delete("tcgen05.wait::st", 0), NotAwaited, Nth("tcgen05.mma", 0)),
            // A kernel that has one of the fences of tcgen05 is held to it everywhere.
            (
                Replace("tcgen05.ld", 0, "tcgen05.ld", "tcgen05.fence::after_thread_sync; tcgen05.ld"),
                TensorFence,
                Nth("tcgen05.mma", 0),
            ),
        ],
    ),
    (
        "matmul_bf16_tma_ws.sm100.ptx",
        &[
            (Delete("bra.uni waitLoop", 4), NotAwaited, Nth("tcgen05.mma", 4)),
            (Delete("bra.uni waitLoop", 3), NotAwaited, Nth("tensor.2d.shared", 0)),
        ],
    ),
    ("flash_bf16_d64_causal_tma.sm100.ptx", &[(Delete("tcgen05.wait::ld", 1), NotAwaited, Nth("tcgen05.st", 2))]),
];

#[test]
fn every_seeded_fault_is_reported_with_its_line() {
    let mut missed = vec![];
    let seeds = SEEDS.iter().flat_map(|(file, seeds)| seeds.iter().map(move |seed| (file, seed)));
    for (file, (edit, kind, at)) in seeds {
        let text = corpus::source(file);
        let line = at.line(&text.lines().collect::<Vec<_>>()) + 1;
        let (outcome, reports) = corpus::check(file, &edit.apply(&text));
        if !reports.iter().any(|report| report.kind == *kind && report.place.line as usize == line) {
            let earlier = |report: &Report| report.earlier.as_ref().map(|place| place.line);
            let found: Vec<_> = reports.iter().map(|one| (one.kind, one.place.line, earlier(one))).collect();
            missed.push(format!("{file}: {edit:?}: no {kind:?} at line {line}, but {outcome:?}\n{found:?}"));
        }
    }
    assert!(missed.is_empty(), "{} missed\n\n{}", missed.len(), missed.join("\n\n"));
}

/// The same kernels as they are, with their warps in other orders.
#[test]
fn no_order_of_the_warps_makes_a_report() {
    for (file, _) in SEEDS {
        let text = corpus::source(file);
        for seed in [1, 6] {
            let (outcome, reports) = corpus::check_within(file, &text, Limits::NONE, seed).unwrap();
            outcome.unwrap_or_else(|fault| panic!("{file}, seed {seed}: {fault}"));
            assert_eq!(reports, [], "{file}, seed {seed}");
        }
    }
}
