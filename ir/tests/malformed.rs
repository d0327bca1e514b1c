//! Text in error: what a person reads, and that nothing at all makes the parser panic.

use proptest::prelude::*;
use tessera_ir::testing::{Limits, Random, random_module};
use tessera_ir::{Module, parse_module, parse_type};

use crate::text::EVERYTHING;

/// The errors of a function body over `%x: tensor<4x8xf32>`, `%i: tensor<4xi32>` and the parameter `@w`.
fn errors(body: &str) -> String {
    let text = format!(
        "module @m {{\nparam @w : tensor<8x16xf32>\nfunc @f(%x: tensor<4x8xf32>, %i: tensor<4xi32>) {{\n{body}\n}}\n}}"
    );
    parse_module(&text).expect_err("an error is expected").to_string()
}

#[test]
fn misspelt_names_get_suggestions() {
    assert_eq!(errors("%y = matmull(%x, @w) return %y"), "4:6: there is no op `matmull` (did you mean `matmul`?)");
    assert_eq!(
        errors("%total = exp(%x) return %totel"),
        "4:25: there is no value `%totel` here (did you mean `%total`?)"
    );
    assert_eq!(
        errors("%y = matmul(%x, %w) return %y"),
        "4:17: there is no value `%w` here (parameters are written `@w`)"
    );
    assert_eq!(
        errors("%y = matmul(%x, @w) {transpose_lhs = true} return %y"),
        "4:22: matmul has no attribute `transpose_lhs` (did you mean `transpose_rhs`?)"
    );
    assert_eq!(
        errors("%y = gelu(%x) {approximate = tahn} return %y"),
        "4:30: `approximate` is none or tanh, not `tahn` (did you mean `tanh`?)"
    );
    assert_eq!(
        errors("%y = cast(%x) {to = fp8_e4m4} return %y"),
        "4:21: unknown element type `fp8_e4m4` (did you mean `fp8_e4m3`?)"
    );
}

#[test]
fn operations_that_do_not_fit_say_why() {
    assert_eq!(
        errors("%y = matmul(%x, %x) return %y"),
        "4:17: matmul: 8 columns of `lhs` meet 4 rows of `rhs` (did you mean transpose_rhs = true?)"
    );
    assert_eq!(
        errors("%y = add(%x, @w) return %y"),
        "4:14: add: the operands tensor<4x8xf32> and tensor<8x16xf32> differ (nothing is broadcast unasked; use `broadcast`)"
    );
    assert_eq!(errors("%y = exp(%x, %x) return %y"), "4:6: exp: 1 operand expected, 2 given (the operands are (x))");
    assert_eq!(errors("%y = exp(%i) return %y"), "4:10: exp: `x` must be a tensor of floats, not tensor<4xi32>");
    assert_eq!(
        errors("%y = exp(%x) : tensor<8x4xf32> return %y"),
        "4:16: exp: the result's type is tensor<4x8xf32>, not tensor<8x4xf32>"
    );
    assert_eq!(
        errors("%y = softmax(%x) {axis = 2} return %y"),
        "4:26: softmax: tensor<4x8xf32> has no dimension 2 (dimensions count from 0, outermost first)"
    );
    assert_eq!(
        errors("%y = softmax(%x) return %y"),
        "4:6: softmax: attribute `axis` is missing (axis is a natural number)"
    );
    assert_eq!(
        errors("%y = reshape(%x) return %y"),
        "4:6: reshape: the result's type cannot be inferred (write it after the operation, as in `… : tensor<4x8xf32>`)"
    );
    assert_eq!(errors("%y, %z = exp(%x) return %y"), "4:10: exp has 1 results, 2 names are given");
}

#[test]
fn every_broken_line_is_reported_once() {
    assert_eq!(
        errors(
            "%a = expp(%x)\n%b = add(%a, %x)\n%c = exp(%x) : tensor<4x8xf31>\n%d = exp(%x)\n%d = log(%c)\nreturn %d, %e"
        ),
        "4:6: there is no op `expp` (did you mean `exp`?)\n\
         6:27: unknown element type `f31` (did you mean `f32`?)\n\
         8:1: `%d` is defined twice (every name stands for one value; choose another)\n\
         9:12: there is no value `%e` here (did you mean `%a`?)"
    );
}

#[test]
fn a_broken_function_does_not_hide_the_next() {
    let text = "module @m {
  func @f(%x: tensor<4xf32>) {
    %y = exp(%x
    return %y
  }
  func @g(%x: tensor<4xf32>) {
    %y = fusion(%a = %x) { %b = what(%a) return %b }
    return %y
  }
  func @h(%x: tensor<4xf64 @accum(f32)>) -> (tensor<4xf32>) { return %x }
}";
    assert_eq!(
        parse_module(text).unwrap_err().to_string(),
        "4:5: `,` or `)` is expected here, not `return`\n\
         7:33: there is no op `what`\n\
         10:15: f64 needs an accumulator of f64; found @accum(f32)"
    );
}

#[test]
fn module_level_mistakes_are_explained() {
    let error = |text: &str| parse_module(text).expect_err("an error is expected").to_string();
    assert_eq!(error(""), "1:1: `module` is expected here, not the end of the text");
    assert_eq!(
        error("module @m { parm @w : tensor<f32> }"),
        "1:13: a module holds mesh, symbol, param and func, not `parm` (did you mean `param`?)"
    );
    assert_eq!(
        error("module @m { mesh [tp=2] param @w : tensor<4x8xf32 @shard([tp], [dp])> }"),
        "1:36: the mesh [tp=2] has no axis `dp`"
    );
    assert_eq!(
        error("module @m { param @w : tensor<4xf32> param @w : tensor<4xf32> }"),
        "1:44: parameter `@w` is declared twice"
    );
    assert_eq!(
        error("module @m { param @w : tensor<99999999999999999999xf32> }"),
        "1:31: 99999999999999999999 is too large"
    );
    assert_eq!(error("module @m { param @w : tensor<4xt> }"), "1:33: unknown element type `t`");
    assert_eq!(error("module @m { # }"), "1:13: '#' has no place here (comments begin with //)");
    assert_eq!(
        error("module @m { func @f() { %x = iota() : tensor<Txi32> return %x } }"),
        "1:25: @f, %x: nothing binds the symbol T (a symbol gets its value from the shape of an input or parameter)"
    );
    assert_eq!(
        error("module @m { func @f(%x: tensor<4xbf16 @accum(f16)>) { return %x } }"),
        "1:25: bf16 needs an accumulator of f32 or f64; found @accum(f16)"
    );
}

#[test]
fn nesting_is_limited() {
    let nested = |depth: usize| {
        let open = "%y = fusion(%x = %x) { ".repeat(depth);
        let close = "return %y } ".repeat(depth);
        format!("module @m {{ func @f(%x: tensor<4xf32>) {{ {open} %y = exp(%x) {close} return %y }} }}")
    };
    assert!(parse_module(&nested(16)).is_ok());
    assert!(parse_module(&nested(17)).unwrap_err().to_string().contains("regions nest more than 16 deep"));
    assert!(parse_module(&nested(100_000)).is_err());
    assert!(parse_module(&"[".repeat(1_000_000)).is_err());
}

/// Text with a few characters changed: bytes dropped, doubled, swapped, or taken from elsewhere.
fn damaged(text: &str, seed: u64) -> String {
    let mut random = Random::new(seed);
    let mut characters: Vec<char> = text.chars().collect();
    for _ in 0..1 + random.below(4) {
        let (at, other) = (random.below(characters.len()), random.below(characters.len()));
        let length = 1 + random.below(12.min(characters.len() - at));
        match random.below(4) {
            0 => drop(characters.drain(at..at + length)),
            1 => {
                let copy = characters[at..at + length].to_vec();
                characters.splice(other..other, copy);
            }
            2 => characters.swap(at, other),
            _ => characters[at] = random.pick(&['{', '}', '"', '@', '%', '\\', '<', '-', '9', 'é', '\n', '\0']),
        }
        if characters.is_empty() {
            break;
        }
    }
    characters.into_iter().collect()
}

/// What parses also prints, and reads back as the same module.
fn check_if_accepted(text: &str) {
    match parse_module(text) {
        Ok(module) => {
            let printed = module.to_string();
            let again = parse_module(&printed).unwrap_or_else(|errors| panic!("{errors}\n{printed}\nfrom\n{text}"));
            assert_eq!(again, module, "{text}");
            assert_eq!(again.to_string(), printed);
        }
        Err(errors) => {
            assert!(!errors.errors.is_empty());
            for error in errors.errors {
                assert!(error.span.is_none_or(|span| span.start <= span.end && span.end <= text.len()));
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn damaged_modules_never_panic(seed in any::<u64>()) {
        check_if_accepted(&damaged(EVERYTHING, seed));
    }

    #[test]
    fn damaged_random_modules_never_panic(seed in any::<u64>()) {
        let module = random_module(seed % 64, &Limits { steps: 6, narrow: true });
        check_if_accepted(&damaged(&module.to_string(), seed));
    }

    #[test]
    fn arbitrary_text_never_panics(text in ".{0,200}") {
        check_if_accepted(&text);
        let _ = parse_type(&text);
        check_if_accepted(&format!("module @m {{ func @f() {{ {text} }} }}"));
    }

    #[test]
    fn damaged_json_never_panics(seed in any::<u64>()) {
        let module: Module = parse_module(EVERYTHING).unwrap();
        let json = serde_json::to_string(&module).unwrap();
        let _ = serde_json::from_str::<Module>(&damaged(&json, seed));
    }
}
