//! Text that parses prints as text that parses to the same module.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    if let Ok(module) = tessera_ir::parse_module(text) {
        let printed = module.to_string();
        let again = tessera_ir::parse_module(&printed).expect("what is printed parses");
        assert!(again == module && again.to_string() == printed);
    }
});
