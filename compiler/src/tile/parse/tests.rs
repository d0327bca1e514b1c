use proptest::prelude::*;

use super::instruction::OTHER_OPERATIONS;
use super::*;
use crate::tile::arbitrary::{self, Operations};
use crate::tile::interpret::{ArgumentData, TensorData, interpret};
use crate::tile::parts::noise;
use crate::tile::{BinaryOperation, UnaryOperation};

/// Adds a row of numbers to each row of a matrix.
const ADD_ROW: &str = "\
// Adds a row to each row of a matrix.
//
//   output = x + row
kernel @add_row(
  @m: integer divisor 1,
  @x: tensor f32[@m, 64] strides [64, 1] read align 16,
  @row.data: tensor bf16[64] strides [1] read align 16,
  @factor: float,
  @output: tensor f32[@m, 64] strides [64, 1] write align 16,
) grid [@m / 4, 1 / 1, 1 / 1] warps 4 stages 2 {
  %0 = program_id 0 : i32
  %1 = constant 4 : i32
  %2 = multiply %0, %1 : i32
  %3 = constant 0 : i32
  %4 = constant 64 : i32
  %5 = constant -inf : f32
  %6 = argument @factor : f32
  for %7 in %3..%4 step 32 {
    %8 = load @x[%2:4, %7:32] other 0.0 : 4x32xf32
    %9 = load @row.data[%7:32] other 0.0 : 32xbf16
    %10 = cast %9 : 32xf32
    %11 = broadcast %10 [1] : 4x32xf32
    %12 = add %8, %11 : 4x32xf32
    store @output[%2:4, %7:32], %12
  }
  %14 = for %13 in %3..%4 step 1 with (%15 = %6 : f32) {
    %16 = maximum %15, %5 : f32
    yield %16
  }
}
";

#[test]
fn a_kernel_reads_as_it_prints() {
    let programs = parse(ADD_ROW).unwrap();
    assert_eq!(programs.len(), 1);
    assert_eq!(programs[0].to_string(), ADD_ROW);
    assert_eq!(programs[0].summary, ["Adds a row to each row of a matrix.", "", "  output = x + row"]);
}

#[test]
fn the_example_of_the_documentation_is_right() {
    let documentation = include_str!("mod.rs").lines().map_while(|line| line.strip_prefix("//!"));
    let example = documentation.map(str::trim_start).skip_while(|line| *line != "```text").skip(1);
    let text: Vec<&str> = example.take_while(|line| *line != "```").collect();
    let programs = parse(&text.join("\n")).unwrap();
    let x: Vec<f64> = (0..6 * 64).map(|position| f64::from(position / 64)).collect();
    let mut arguments = [
        ArgumentData::Integer(6),
        ArgumentData::Tensor(TensorData::from_floats(Element::BF16, &x)),
        ArgumentData::Tensor(TensorData::unwritten(Element::F32, 6)),
    ];
    interpret(&programs[0], &mut arguments).unwrap();
    assert_eq!(arguments[2].tensor().unwrap().floats(), [0.0, 64.0, 128.0, 192.0, 256.0, 320.0]);
}

#[test]
fn a_file_holds_many_kernels_and_comments() {
    let second = ADD_ROW.replace("@add_row(", "@add_row_again(").replace("  %0", "  // the program\n  %0");
    let file = format!("// All kernels of a plan.\n\n{ADD_ROW}\n// Not a summary.\n\n{second}// The end.\n");
    let programs = parse(&file).unwrap();
    let names: Vec<&str> = programs.iter().map(|program| program.name.as_str()).collect();
    assert_eq!(names, ["add_row", "add_row_again"]);
    assert_eq!(programs[0].summary.len(), 3);
    assert_eq!(parse("").unwrap(), []);
}

#[test]
fn what_is_written_by_hand_may_have_names_and_leave_out_what_is_usual() {
    let text = "kernel @k(@x: tensor f32[8] strides [1] read_write align 4) grid [1/1, 1/1, 1/1] warps 1 stages 1 {
        %start = constant 0 : i32
        %x = load @x[%start:8] : 8xf32
        %5 = constant 1 : 8xf32
        %sum = add %x, %5 : 8xf32
        store @x[%start:8], %sum
    }";
    let program = &parse(text).unwrap()[0];
    let again = &parse(&program.to_string()).unwrap()[0];
    assert_eq!(program, again);
    // %5 keeps its number.
    assert!(program.to_string().contains("%5 = constant 1.0 : 8xf32"));
}

/// The error of [`ADD_ROW`] after a replacement, with what stands at its span.
fn error_of(from: &str, to: &str) -> String {
    assert!(ADD_ROW.contains(from), "{from}");
    let text = ADD_ROW.replacen(from, to, 1);
    let error = parse(&text).unwrap_err();
    format!("{error} | {}", &text[error.span.clone()])
}

#[test]
fn errors_say_what_and_where() {
    let cases = [
        (
            "maximum %15, %5",
            "maximun %15, %5",
            "line 27, column 11: there is no operation `maximun`; did you mean `maximum`? | maximun",
        ),
        ("add %8, %11", "add %8 %11", "line 23, column 18: `,` is needed here, not `%11` | %11"),
        ("add %8, %11", "add %8, %99", "line 23, column 19: %99 is not defined above this | %99"),
        ("%12 = add", "%8 = add", "line 23, column 5: %8 is defined above this already | %8"),
        (
            "4x32xf32",
            "4x32xf33",
            "line 19, column 43: `4x32xf33` is no type; types look like `f32` and `4x8xf32` | 4x32xf33",
        ),
        (
            "argument @factor",
            "argument @factors",
            "line 17, column 17: the kernel has no argument @factors above this | @factors",
        ),
        (
            "read align",
            "rw align",
            "line 6, column 42: `rw` is no kind of access: these are read, write, read_write | rw",
        ),
        ("warps 4", "warps 4.5", "line 10, column 37: 4.5 is no number of warps | 4.5"),
        ("%6 = argument", "argument", "line 17, column 3: this operation has one result, not 0 | argument"),
        ("%14 = for", "for", "line 26, column 7: the loop carries 1 values and has 0 results | %13"),
        ("    store", "    %20 = store", "line 24, column 5: a store has no result | %20"),
        ("grid [@m / 4, ", "grid [", "line 10, column 8: a grid has three extents | ["),
        ("%4 = constant", "$ = constant", "line 15, column 3: `$` begins no word here | $"),
        ("kernel", "kern", "line 4, column 1: `kernel` is needed here, not `kern` | kern"),
        ("  %0", "  yield %0", "line 11, column 9: %0 is not defined above this | %0"),
        // Rules of the IR are reported at the instruction.
        ("%8, %11 : 4x32xf32", "%8, %8 : 32xf32", "line 23, column 5: %8 is 4x32xf32 and %12 is 32xf32 | %12"),
    ];
    for (from, to, expected) in cases {
        assert_eq!(error_of(from, to), expected);
    }
}

#[test]
fn deep_nesting_and_large_numbers_are_refused() {
    let nested = format!(
        "kernel @k() grid [1/1, 1/1, 1/1] warps 1 stages 1 {{ %0 = constant 0 : i32 {}",
        (1..100_000).map(|number| format!("for %{number} in %0..%0 step 1 {{\n")).collect::<String>()
    );
    assert_eq!(parse(&nested).unwrap_err().message, "loops are nested more than 64 deep");
    let huge = "kernel @k() grid [1/1, 1/1, 1/1] warps 1 stages 1 { %0 = iota : 4294967295x4294967295xi32 }";
    assert_eq!(parse(huge).unwrap_err().message, "%0 has more than 16777216 elements");
    let far = "kernel @k() grid [1/1, 1/1, 1/1] warps 1 stages 1 { %4294967295 = constant 0 : i32 }";
    assert_eq!(parse(far).unwrap()[0].types.len(), 1);
}

#[test]
fn random_programs_have_every_operation() {
    let mut texts = String::new();
    for seed in 1..300 {
        let choices: Vec<u16> = noise(200, seed).into_iter().map(|value| (value * 32768.0) as i32 as u16).collect();
        texts += &arbitrary::program(&choices, Operations::Any).to_string();
    }
    let elementwise = UnaryOperation::ALL.iter().map(|operation| operation.name());
    let elementwise = elementwise.chain(BinaryOperation::ALL.iter().map(|operation| operation.name()));
    for name in elementwise.chain(OTHER_OPERATIONS) {
        assert!(texts.lines().any(|line| line.split([' ', '=']).any(|word| word == name)), "{name}");
    }
}

proptest! {
    #[test]
    fn random_programs_are_valid_read_as_they_print_and_run(choices in prop::collection::vec(any::<u16>(), 0..200), n in 0usize..9) {
        let program = arbitrary::program(&choices, Operations::Any);
        prop_assert_eq!(crate::tile::verify(&program), Ok(()));
        let printed = program.to_string();
        let parsed = parse(&printed);
        prop_assert_eq!(parsed.as_deref(), Ok(std::slice::from_ref(&program)), "{}", printed);
        prop_assert_eq!(&parsed.unwrap()[0].to_string(), &printed);

        let mut arguments = arbitrary::arguments(&program, n, 1);
        prop_assert_eq!(interpret(&program, &mut arguments), Ok(()), "{}", printed);
    }

    #[test]
    fn no_text_makes_it_panic(
        choices in prop::collection::vec(any::<u16>(), 0..60),
        edits in prop::collection::vec((any::<prop::sample::Index>(), 0usize..6, "[ -~\n%@{}é]{0,4}"), 1..6),
    ) {
        let mut text = arbitrary::program(&choices, Operations::Any).to_string();
        for (at, removed, inserted) in edits {
            let positions: Vec<usize> = text.char_indices().map(|(position, _)| position).collect();
            if positions.is_empty() {
                break;
            }
            let start = positions[at.index(positions.len())];
            let end = text[start..].char_indices().nth(removed).map_or(text.len(), |(offset, _)| start + offset);
            text.replace_range(start..end, &inserted);
        }
        if let Err(error) = parse(&text) {
            prop_assert!(text.get(error.span.clone()).is_some(), "{:?}", error);
        }
    }
}
