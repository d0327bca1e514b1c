//! The table of instructions in the README, and modules that are damaged.

use std::path::Path;
use std::sync::Arc;

use ptx_emulator::decode::Module;
use ptx_emulator::decode::form::coverage;
use ptx_emulator::memory::global::Memory;

#[test]
fn the_table_of_instructions_is_current() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("README.md");
    let readme = std::fs::read_to_string(&path).unwrap();
    let (start, end) = ("<!-- instructions -->\n", "<!-- end of instructions -->");
    let (before, rest) = readme.split_once(start).unwrap();
    let (table, after) = rest.split_once(end).unwrap();
    let current = format!("\n{}\n", coverage());
    if std::env::var_os("TESSERA_BLESS").is_some() {
        std::fs::write(&path, format!("{before}{start}{current}{end}{after}")).unwrap();
    } else {
        assert!(table == current, "the table is out of date: TESSERA_BLESS=1 cargo test -p ptx-emulator current");
    }
}

/// Numbers that look random, the same in every run.
struct Draw(u64);

impl Draw {
    fn below(&mut self, limit: usize) -> usize {
        self.0 = self.0.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (self.0 >> 33) as usize % limit.max(1)
    }
}

#[test]
fn damaged_modules_are_refused_or_loaded_but_never_panic() {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/corpus");
    let names =
        ["vadd_f32.sm80", "matmul_bf16_tma.sm90", "matmul_bf16_tma_ws.sm100", "mxfp4_ptr.sm120", "math_f32.sm80"];
    let mut draw = Draw(20);
    for name in names {
        let text = std::fs::read_to_string(corpus.join(format!("{name}.ptx"))).unwrap();
        let memory = Arc::new(Memory::default());
        Module::load(name, &text, &memory, 0).unwrap_or_else(|error| panic!("{error}"));
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
            let _ = Module::load(name, &damaged.concat(), &memory, 0);
        }
        let end = draw.below(text.len());
        let _ = Module::load(name, &text[..end], &memory, 0);
    }
}
