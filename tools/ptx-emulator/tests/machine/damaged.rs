//! Damaged kernels: what cannot be loaded is refused, what can be loaded runs to its end, a fault or a limit, and nothing panics.

use std::sync::Arc;

use ptx_emulator::decode::Module;
use ptx_emulator::machine::grid::Limits;
use ptx_emulator::memory::global::Memory;

use super::corpus;

/// Numbers that look random, the same in every run.
struct Draw(u64);

impl Draw {
    fn below(&mut self, limit: usize) -> usize {
        self.0 = self.0.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (self.0 >> 33) as usize % limit.max(1)
    }
}

#[test]
fn damaged_words_are_refused_or_loaded() {
    let mut draw = Draw(20);
    for file in [
        "vadd_f32.sm80.ptx",
        "matmul_bf16_tma.sm90.ptx",
        "matmul_bf16_tma_ws.sm100.ptx",
        "mxfp4_ptr.sm120.ptx",
        "math_f32.sm80.ptx",
    ] {
        let text = corpus::source(file);
        let memory = Arc::new(Memory::default());
        Module::load(file, &text, &memory, 0).unwrap_or_else(|error| panic!("{error}"));
        let words: Vec<&str> = text.split_inclusive([' ', '\t', '\n', ',', ';', '.']).collect();
        for _ in 0..60 {
            let mut damaged = words.clone();
            for _ in 0..1 + draw.below(3) {
                let (at, other) = (draw.below(damaged.len()), draw.below(words.len()));
                match draw.below(3) {
                    0 => drop(damaged.remove(at)),
                    1 => damaged.insert(at, words[other]),
                    _ => damaged[at] = words[other],
                }
            }
            let _ = Module::load(file, &damaged.concat(), &memory, 0);
        }
        let end = draw.below(text.len());
        let _ = Module::load(file, &text[..end], &memory, 0);
    }
}

#[test]
fn damaged_programs_end() {
    let limits = Limits { shared_bytes: 228 << 10, instructions: 20_000 };
    let mut draw = Draw(33);
    let (mut loaded, mut failed) = (0, 0);
    for file in [
        "vadd_f32.sm80.ptx",
        "scan_sort_i32.sm80.ptx",
        "matmul_bf16_ptr.sm80.ptx",
        "matmul_bf16_tma.sm90.ptx",
        "matmul_bf16_tma.sm100.ptx",
        "mxfp4_ptr.sm120.ptx",
    ] {
        let text = corpus::source(file);
        let lines: Vec<&str> = text.lines().collect();
        // Lines of the kernel that are instructions.
        let is_instruction =
            |line: &&str| line.starts_with('\t') && line.trim_end().ends_with(';') && !line.contains(".reg");
        let instructions: Vec<usize> =
            lines.iter().enumerate().filter(|(_, line)| is_instruction(line)).map(|(at, _)| at).collect();
        for _ in 0..20 {
            let mut damaged: Vec<String> = lines.iter().map(|line| line.to_string()).collect();
            for _ in 0..1 + draw.below(2) {
                let at = instructions[draw.below(instructions.len())];
                let other = instructions[draw.below(instructions.len())];
                match draw.below(4) {
                    0 => damaged[at].clear(),
                    1 => damaged.swap(at, other),
                    2 => damaged[at] = lines[other].into(),
                    // Another register, offset or number.
                    _ => {
                        let digit = char::from(b'0' + draw.below(10) as u8);
                        let place = damaged[at].rfind(|letter: char| letter.is_ascii_digit());
                        if let Some(place) = place {
                            damaged[at].replace_range(place..=place, &digit.to_string());
                        }
                    }
                }
            }
            if let Ok((outcome, reports)) = corpus::check_within(file, &damaged.join("\n"), limits, 0) {
                loaded += 1;
                failed += usize::from(outcome.is_err() || !reports.is_empty());
            }
        }
    }
    // Enough of them got far enough for the test to mean something.
    assert!(loaded > 60 && failed > 30, "{loaded} loaded, {failed} of them failed");
}
