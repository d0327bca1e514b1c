use super::*;
use crate::tile::{BinaryOperation, Builder, parse};

/// The problem that the verifier finds in a kernel with these arguments and this body, written over one line or several.
fn problem(arguments: &str, body: &str) -> String {
    let text = format!("kernel @k({arguments}) grid [4 / 1, 1 / 1, 1 / 1] warps 1 stages 1 {{ {body} }}");
    match parse(&text) {
        Ok(_) => "no problem".into(),
        Err(error) => error.message,
    }
}

/// Values that the bodies of these tests begin with.
const VALUES: &str = "
    %zero = constant 0 : i32
    %scalar = constant 0 : f32
    %row = constant 0 : 4xf32
    %matrix = constant 0 : 4x8xf32
    %half = constant 0 : 4x8xf16
    %int = constant 0 : 4xi32
    %wide = constant 0 : i64
    %bool = constant 0 : 4xbool
    %indices = iota : 4xi32
";

const TENSORS: &str = "@n: integer divisor 1, @s: float, @x: tensor f32[8, @n] strides [@n, 1] read align 4,
    @y: tensor f32[8] strides [1] write align 4, @z: tensor i32[8] strides [1] read_write align 4";

/// The problem of one instruction after [`VALUES`], which take the numbers %0 to %8.
fn instruction(text: &str) -> String {
    problem(TENSORS, &format!("{VALUES}\n{text}"))
}

#[test]
fn results_have_the_type_that_their_operation_gives() {
    let cases = [
        ("%r = program_id 0 : i64", "%9 is i64 where i32 is needed"),
        ("%r = program_id 3 : i32", "a grid has no axis 3"),
        ("%r = argument @n : f32", "%9 is f32 where i32 is needed"),
        ("%r = argument @s : i32", "%9 is i32 where f32 is needed"),
        ("%r = argument @x : f32", "argument 2 is not a scalar"),
        ("%r = constant 1.5 : i32", "1.5 is no constant of i32"),
        ("%r = constant 256 : u8", "256 is no constant of u8"),
        ("%r = constant -1 : u32", "-1 is no constant of u32"),
        ("%r = constant 0 : 4x0xf32", "%9 has no elements"),
        ("%r = iota : 4xf32", "iota gives i32 of rank 1, not 4xf32"),
        ("%r = iota : i32", "iota gives i32 of rank 1, not i32"),
        ("%r = exp %int : 4xi32", "exp does not take i32"),
        ("%r = negate %bool : 4xbool", "negate does not take bool"),
        ("%r = not %int : 4xi32", "not does not take i32"),
        ("%r = exp %row : f32", "%2 is 4xf32 and %9 is f32"),
        ("%r = power %int, %int : 4xi32", "power does not take i32"),
        ("%r = and %row, %row : 4xf32", "and does not take f32"),
        ("%r = shift_left %bool, %bool : 4xbool", "shift_left does not take bool"),
        ("%r = multiply_high_unsigned %wide, %wide : i64", "multiply_high_unsigned does not take i64"),
        ("%r = add %bool, %bool : 4xbool", "add does not take bool"),
        ("%r = add %row, %scalar : 4xf32", "%1 is f32 and %9 is 4xf32"),
        ("%r = compare less %row, %int : 4xbool", "%2 is 4xf32 and %5 is 4xi32"),
        ("%r = compare less %row, %row : 4xi32", "%9 is 4xi32 where 4xbool is needed"),
        ("%r = select %int, %row, %row : 4xf32", "%5 is 4xi32 where 4xbool is needed"),
        ("%r = select %bool, %row, %int : 4xf32", "%5 is 4xi32 and %9 is 4xf32"),
        ("%r = cast %row : 8xi32", "%9 is 8xi32 where 4xi32 is needed"),
        ("%r = bitcast %row : 4xi64", "4xf32 and 4xi64 differ in width"),
        ("%r = bitcast %bool : 4xu8", "bool has no bits of its own: cast it"),
        ("%r = bitcast %row : 2xi32", "%9 is 2xi32 where 4xi32 is needed"),
    ];
    for (text, expected) in cases {
        assert_eq!(instruction(text), expected, "{text}");
    }
}

#[test]
fn shapes_agree() {
    let cases = [
        ("%r = broadcast %row [1] : 8x4xi32", "4xf32 becomes 8x4xi32"),
        ("%r = broadcast %row [] : 8x4xf32", "0 axes for 4xf32"),
        ("%r = broadcast %row [0] : 8x4xf32", "dimension of 4 does not fit axis 0 of 8x4xf32"),
        ("%r = broadcast %row [2] : 8x4xf32", "dimension of 4 does not fit axis 2 of 8x4xf32"),
        ("%r = broadcast %matrix [1, 0] : 8x4xf32", "axes must increase"),
        ("%r = transpose %row : 4xf32", "4xf32 has not two dimensions"),
        (
            "%r = rearrange %matrix [4, 4, 4] permuted [0, 2, 1] : 4x8xf32",
            "4x8xf32, the extents [4, 4, 4] and 4x8xf32 differ in their number of elements",
        ),
        (
            "%r = rearrange %matrix [4, 4, 2] permuted [0, 2, 2] : 8x4xf32",
            "[0, 2, 2] is no permutation of 3 dimensions",
        ),
        ("%r = rearrange %matrix [4, 4, 2] permuted [0, 2, 1] : 8x4xf16", "4x8xf32 becomes 8x4xf16"),
        ("%r = rearrange %matrix [4, 4, 2] permuted [0, 2, 1] : 8x4xf32", "no problem"),
        ("%r = transpose %matrix : 4x8xf32", "%9 is 4x8xf32 where 8x4xf32 is needed"),
        ("%r = reduce sum %row axis 1 : f32", "4xf32 has no axis 1"),
        ("%r = reduce sum %bool axis 0 : bool", "bool does not reduce: cast it"),
        ("%r = reduce sum %matrix axis 0 : 4xf32", "%9 is 4xf32 where 8xf32 is needed"),
        ("%r = dot %matrix, %matrix, %matrix : 4x8xf32", "4x8xf32 times 4x8xf32 does not add to 4x8xf32"),
        (
            "%t = transpose %half : 8x4xf16 %sum = constant 0 : 4x4xf16 %r = dot %half, %t, %sum : 4x4xf16",
            "no dot of f16 and f16 into f16",
        ),
        (
            "%t = transpose %half : 8x4xf16 %sum = constant 0 : 4x4xf32 %r = dot %matrix, %t, %sum : 4x4xf32",
            "no dot of f32 and f16 into f32",
        ),
    ];
    for (text, expected) in cases {
        assert_eq!(instruction(text), expected, "{text}");
    }
}

#[test]
fn accesses_fit_their_tensors() {
    let cases = [
        ("%r = load @n[] : f32", "argument 0 is not a tensor"),
        ("%r = load @y[%zero:4] : 4xf32", "@y is declared write"),
        ("store @x[%zero, %zero:4], %row", "@x is declared read"),
        ("%r = load @x[%zero] : f32", "@x has 2 dimensions, the access 1"),
        ("%r = load @x[%wide, %zero] : f32", "%6 is i64 where i32 is needed"),
        ("%r = load @x[%zero, %wide:4] : 4xf32", "%6 is i64 where i32 is needed"),
        ("%r = load @x[%zero, gather %row] : 4xf32", "%2 is 4xf32 where 4xi32 is needed"),
        ("%r = load @x[%zero, gather %zero] : f32", "%0 gathers and is i32, not of rank 1"),
        ("%r = load @x[%zero:4, %zero:8] mask %bool : 4x8xf32", "%7 is 4xbool where 4x8xbool is needed"),
        ("%r = load @z[%zero] other 1.5 : i32", "1.5 is no constant of i32"),
        ("%r = load @x[%zero:4, %zero] : 4xf16", "%9 is 4xf16 where 4xf32 is needed"),
        ("store @y[%zero:8], %row", "%2 is 4xf32 where 8xf32 is needed"),
        ("store @z[%zero:4], %row", "%2 is 4xf32 where 4xi32 is needed"),
        ("store @z[gather %indices], %int", "no problem"),
    ];
    for (text, expected) in cases {
        assert_eq!(instruction(text), expected, "{text}");
    }
}

#[test]
fn loops_carry_what_they_yield() {
    let cases = [
        ("for %i in %zero..%wide step 1 { }", "%6 is i64 where i32 is needed"),
        ("for %i in %zero..%zero step 0 { }", "the step is zero"),
        (
            "%r = for %i in %zero..%zero step 1 with (%c = %row : 4xf32) { }",
            "carried values, initial values, yields and results differ in number: [1, 1, 0, 1]",
        ),
        ("%r = for %i in %zero..%zero step 1 with (%c = %row : 8xf32) { yield %c }", "%10 is 8xf32 and %2 is 4xf32"),
        ("%r = for %i in %zero..%zero step 1 with (%c = %row : 4xf32) { yield %int }", "%10 is 4xf32 and %5 is 4xi32"),
        // What a body defines ends with it.
        ("for %i in %zero..%zero step 1 { %in = constant 0 : i32 } %r = negate %in : i32", "%10 is not defined here"),
        ("for %i in %zero..%zero step 1 { } %r = negate %i : i32", "%9 is not defined here"),
    ];
    for (text, expected) in cases {
        assert_eq!(instruction(text), expected, "{text}");
    }
}

#[test]
fn arguments_are_well_formed() {
    let cases = [
        ("@x: tensor f32[8] strides [1, 1] read align 4", "@x has 1 extents and 2 strides"),
        ("@x: tensor f32[8] strides [1] read align 3", "@x: alignment is not a power of two"),
        ("@n: integer divisor 6", "@n: divisor is not a power of two"),
        (
            "@s: float, @x: tensor f32[@s] strides [1] read align 4",
            "argument 0 is used as an extent and is not an integer",
        ),
    ];
    for (arguments, expected) in cases {
        assert_eq!(problem(arguments, ""), expected, "{arguments}");
    }
    let text = "kernel @k() grid [4 / 0, 1 / 1, 1 / 1] warps 1 stages 1 { }";
    assert_eq!(parse(text).unwrap_err().message, "a grid block is empty");
    let text = "kernel @k() grid [4 / 1, 1 / 1, 1 / 1] warps 0 stages 1 { }";
    assert_eq!(parse(text).unwrap_err().message, "warps and stages are at least 1");
    let text = "kernel @2k() grid [4 / 1, 1 / 1, 1 / 1] warps 1 stages 1 { }";
    let expected = "`2k` is no symbol: a name is letters, digits and underscores, no digit first";
    assert_eq!(parse(text).unwrap_err().message, expected);
}

/// What the text form cannot even say.
#[test]
fn built_programs_are_checked_too() {
    let verified = |build: fn(&mut Builder)| {
        let mut b = Builder::new("k");
        build(&mut b);
        verify(&b.finish()).map_err(|error| error.to_string())
    };
    let error = |text: &str| Err(format!("kernel @k: {text}"));
    assert_eq!(
        verified(|b| {
            let a = b.index(0);
            b.add(a, Value(7));
        }),
        error("%1: %7 has no type")
    );
    assert_eq!(
        verified(|b| {
            b.float("x");
            b.float("x");
        }),
        error("header: there are two arguments @x")
    );
    assert_eq!(
        verified(|b| {
            b.float("a b");
        }),
        error("header: `a b` names no argument: a name is letters, digits, underscores and single dots between them")
    );
    assert_eq!(
        verified(|b| {
            b.summary("one\ntwo");
        }),
        error("header: a line of the summary contains a line break")
    );
    let mut program = Builder::new("k").finish();
    let instruction = Instruction { results: [Value(0)].into(), operation: Operation::Iota };
    program.types.push(TileType::new(&[4], Element::I32));
    program.body.instructions = vec![instruction.clone(), instruction];
    assert_eq!(verify(&program).map_err(|error| error.to_string()), error("%0: %0 is defined twice"));
    let constant = Operation::Constant(Literal::Integer(0));
    let binary = Operation::Binary(BinaryOperation::Add, Value(0), Value(0));
    program.body.instructions[0].operation = constant;
    program.body.instructions[1] = Instruction { results: SmallVec::new(), operation: binary };
    assert_eq!(verify(&program).map_err(|error| error.to_string()), error("add: 0 results where there is one"));
}
