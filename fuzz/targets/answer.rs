//! A model's answer in harmony: no stream of tokens is refused.
#![no_main]

use libfuzzer_sys::fuzz_target;
use tessera_models::chat::{ChatFormat, harmony::Harmony};

fuzz_target!(|bytes: &[u8]| {
    let format = ChatFormat::Harmony(Harmony::load().expect("the vocabulary is built in"));
    let mut parser = format.parser().expect("a parser begins");
    for token in bytes.chunks(3) {
        // The first byte decides between special tokens, which make the form, and any other.
        let token = token.iter().rev().fold(0, |number, byte| number << 8 | u32::from(*byte));
        parser.push(if token & 1 == 0 { 200_000 + (token >> 1) % 16 } else { token >> 1 }, "");
    }
    parser.finish(None, "");
});
