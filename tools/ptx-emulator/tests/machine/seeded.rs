//! Faults that are made by deleting or moving one instruction of a kernel that works: the checker names the kind and the line.

use ptx_emulator::checker::ReportKind;

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

/// What is done to a kernel. Lines keep their numbers.
#[derive(Clone, Copy, Debug)]
enum Edit {
    Delete(Nth),
}

impl Edit {
    fn apply(self, text: &str) -> String {
        let mut lines: Vec<String> = text.lines().map(String::from).collect();
        let original: Vec<&str> = text.lines().collect();
        match self {
            Edit::Delete(which) => lines[which.line(&original)].clear(),
        }
        lines.join("\n")
    }
}

/// A fault: what is done to which kernel, and the kind and the line of a report that there has to be.
struct Seed {
    file: &'static str,
    edit: Edit,
    kind: ReportKind,
    at: Nth,
}

const fn seed(file: &'static str, edit: Edit, kind: ReportKind, at: Nth) -> Seed {
    Seed { file, edit, kind, at }
}

use Edit::Delete;
use ReportKind::{NotCommitted, ProxyFence, Race, Uninitialized};

const SEEDS: &[Seed] = &[
    // Barriers between generic accesses.
    seed("softmax_f32.sm80.ptx", Delete(Nth("bar.sync", 1)), Race, Nth("st.shared", 0)),
    seed("layernorm_f16.sm80.ptx", Delete(Nth("st.shared", 0)), Uninitialized, Nth("ld.shared", 0)),
    // A buffer that is stored from: the fence before, the wait after.
    seed("matmul_bf16_tma.sm90.ptx", Delete(Nth("fence.proxy.async", 0)), ProxyFence, Nth("tensor.2d.global", 0)),
    seed("matmul_bf16_tma.sm90.ptx", Delete(Nth("bulk.wait_group", 0)), NotCommitted, Nth("tensor.2d.global", 0)),
];

#[test]
fn every_seeded_fault_is_reported_with_its_line() {
    let mut missed = vec![];
    for (number, Seed { file, edit, kind, at }) in SEEDS.iter().enumerate() {
        let text = corpus::source(file);
        let line = at.line(&text.lines().collect::<Vec<_>>()) + 1;
        let (outcome, reports) = corpus::check(file, &edit.apply(&text));
        if !reports.iter().any(|report| report.kind == *kind && report.place.line as usize == line) {
            let found: Vec<String> = reports.iter().map(|report| report.to_string()).collect();
            let found = found.join("\n");
            missed.push(format!("{number}: {file}: {edit:?}: no {kind:?} at line {line}, but {outcome:?}\n{found}"));
        }
    }
    assert!(missed.is_empty(), "{} of {} missed\n\n{}", missed.len(), SEEDS.len(), missed.join("\n\n"));
}
