//! Statements as LLVM, Triton, nvcc and hands write them.

use super::ast::{Operand, Statement};
use super::module;

fn body(text: &str) -> Vec<Statement<'static>> {
    let source = format!(".version 8.7\n.target sm_90a\n.address_size 64\n.visible .entry k()\n{{\n{text}\n}}");
    let module = module(Box::leak(source.into_boxed_str())).unwrap();
    module.functions.into_iter().next().unwrap().body.unwrap()
}

fn operands(text: &str) -> Vec<Operand<'static>> {
    match body(text).remove(0) {
        Statement::Instruction(instruction) => instruction.operands,
        other => panic!("{other:?}"),
    }
}

#[test]
fn operands_of_every_shape() {
    use Operand::*;
    assert_eq!(operands("mov.u32 %r1, %tid.x;"), [Name("%r1"), Component("%tid", "x")]);
    assert_eq!(operands("elect.sync _|%p1, -1;"), [Pair(Box::new(Sink), Box::new(Name("%p1"))), Integer(-1)]);
    assert_eq!(operands("ld.shared.b32 %r, [smem+98516];"), [Name("%r"), Address(vec![Offset("smem", 98516)])]);
    assert_eq!(
        operands("x [%r1], [%rd4, {%r2, 3}], [%r5];"),
        [
            Address(vec![Name("%r1")]),
            Address(vec![Name("%rd4"), Vector(vec![Name("%r2"), Integer(3)])]),
            Address(vec![Name("%r5")])
        ]
    );
    assert_eq!(operands("mov.f32 a, -0f3F800000;"), [Name("a"), Single(0xBF80_0000)]);
    assert_eq!(operands("mov.f64 a, 1.5;"), [Name("a"), Double(1.5)]);
    assert_eq!(operands("mov.b32 a, (2+3)*-4;"), [Name("a"), Integer(-20)]);
    assert_eq!(operands("mov.b32 a, 0x8000000000000000U;"), [Name("a"), Integer(1 << 63)]);
    assert_eq!(operands("mov.b32 a, 017;"), [Name("a"), Integer(15)]);
    assert_eq!(
        operands("call.uni (r), f, (a, b);"),
        [Group(vec![Name("r")]), Name("f"), Group(vec![Name("a"), Name("b")])]
    );
    assert_eq!(operands("and.pred p, q, !r;")[2], Not(Box::new(Name("r"))));
}

#[test]
fn guards_labels_scopes_and_targets() {
    let body = body(
        "{ .reg .pred complete;\n wait:\n @!complete bra.uni wait; }\n\
         table: .branchtargets a, b;\n .loc 1 20 3\n .pragma \"nounroll\";\n .reg .b32 %r<4>, x;",
    );
    let Statement::Scope(scope) = &body[0] else { panic!("{body:?}") };
    assert!(matches!(scope[1], Statement::Label("wait", _)));
    assert!(matches!(&scope[2], Statement::Instruction(branch) if branch.guard == Some(("complete", true))));
    assert!(matches!(&body[1], Statement::BranchTargets("table", targets) if *targets == ["a", "b"]));
    assert!(matches!(&body[2], Statement::Variable(register) if register.numbered == Some(4)));
    assert!(matches!(&body[3], Statement::Variable(register) if register.name == "x" && register.numbered.is_none()));
}

#[test]
fn module_level_declarations() {
    let text = ".version 9.0\n.target sm_100a, debug\n.address_size 64\n.file 1 \"a.cu\"\n\
        .extern .shared .align 16 .b8 smem[];\n.global .align 4 .b8 table[4] = {1, 2};\n.const .f32 one = 0f3F800000;\n\
        .section .debug_abbrev { .b8 1\n .b64 label+4 }\n\
        .visible .func (.param .b32 result) f(.param .b64 a) ;\n\
        .visible .entry k(.param .u64 .ptr .global .align 16 p, .param .align 64 .b8 map[128])\n\
        .reqntid 128, 2\n.maxnreg 64\n.explicitcluster\n.reqnctapercluster 2\n{ ret; }";
    let module = module(text).unwrap();
    assert_eq!((module.version, module.target), ((9, 0), "sm_100a"));
    assert_eq!(module.variables.iter().map(|v| v.bytes()).collect::<Vec<_>>(), [0, 4, 4]);
    let kernel = &module.functions[1];
    assert_eq!(kernel.parameters.iter().map(|v| (v.bytes(), v.aligned())).collect::<Vec<_>>(), [(8, 8), (128, 64)]);
    assert_eq!(kernel.requirements.block, Some([128, 2, 1]));
    assert_eq!(kernel.requirements.cluster, Some([2, 1, 1]));
}

#[test]
fn problems_say_where() {
    let text = ".version 8.0\n.target sm_80\n.entry k() {\n add.s32 a b;\n}";
    let error = module(text).unwrap_err().of("k.ptx", text);
    assert!(error.to_string().starts_with("k.ptx:4: expected `,` or `;`, found `b`"), "{error}");
    for (text, message) in [
        ("", "the module has no .version"),
        (".version 8.0 .target sm_80 .entry k() {", "expected a statement, found the end"),
        (".version 8.0 .target sm_80 .global .b99 x;", "`.b99` is not a type of a variable"),
        ("\u{7f}ELF", "is not PTX"),
        (".version 8.0 .target sm_80 .global .b8 x[99999999999999999999];", "does not fit in 64 bits"),
    ] {
        let problem = module(text).unwrap_err();
        assert!(problem.message.contains(message), "{}", problem.message);
    }
    let deep = format!(".version 8.0 .target sm_80 .entry k() {}", "{".repeat(10_000));
    assert!(module(&deep).unwrap_err().message.contains("deep"));
}
