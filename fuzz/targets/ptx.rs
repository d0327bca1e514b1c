//! Any text as a PTX module: loaded or refused, never a panic.
#![no_main]

use std::sync::Arc;

use libfuzzer_sys::fuzz_target;
use ptx_emulator::decode::Module;
use ptx_emulator::memory::global::Memory;

fuzz_target!(|text: &str| {
    let _ = Module::load("fuzz.ptx", text, &Arc::new(Memory::default()), 0);
});
