//! The serde form.

use proptest::prelude::*;
use tessera_ir::Module;
use tessera_ir::testing::{Limits, random_module};

use crate::text::{EVERYTHING, parse};

#[test]
fn a_module_goes_through_json_unchanged() {
    let module = parse(EVERYTHING);
    let json = serde_json::to_string_pretty(&module).unwrap();
    let again: Module = serde_json::from_str(&json).unwrap();
    assert_eq!(again, module);
    assert_eq!(again.to_string(), EVERYTHING);
}

#[test]
fn json_that_breaks_a_rule_is_refused() {
    let json = serde_json::to_string(&parse(EVERYTHING)).unwrap();
    let refused = |from: &str, to: &str| {
        assert!(json.contains(from), "{from}\n{json}");
        serde_json::from_str::<Module>(&json.replacen(from, to, 1)).expect_err(to).to_string()
    };
    assert!(refused("\"op\":\"gelu\"", "\"op\":\"glue\"").contains("unknown op `glue`"));
    assert!(refused("{\"keyword\":\"tanh\"}", "{\"keyword\":\"cosh\"}").contains("`approximate` must be none or tanh"));
    assert!(refused("\"outputs\":[[", "\"outputs\":[[9").contains("used before its definition"));
    assert!(refused("\"storage\":\"i64\"", "\"storage\":\"f64\"").contains("constant"));
}

proptest! {
    #[test]
    fn random_modules_go_through_json_unchanged(seed in any::<u64>()) {
        let module = random_module(seed, &Limits::default());
        let json = serde_json::to_string(&module).unwrap();
        let again: Module = serde_json::from_str(&json).unwrap();
        prop_assert_eq!(again.to_string(), module.to_string());
        prop_assert_eq!(again, module);
    }
}
