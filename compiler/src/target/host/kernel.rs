//! One kernel: a tile program as an MLIR module of two functions.
//!
//! The outer function has the kernel ABI and only unpacks its argument slots. The inner one takes them as parameters, because there LLVM can be told
//! that tensors do not overlap.

use melior::{
    Context,
    ir::{
        Attribute, BlockLike, Identifier, Location, Module, Region, RegionLike,
        attribute::{StringAttribute, TypeAttribute},
        operation::OperationBuilder,
    },
};

use super::{
    emitter::{Emitter, Machine, Ssa},
    features::CpuFeatures,
    lower,
};
use crate::tile::{Argument, Program};

/// Slots after the arguments: the grid.
const GRID_SLOTS: usize = 3;

/// Builds the module of a verified program; also the scratch bytes that the kernel needs.
pub(super) fn build<'a>(program: &Program, features: &CpuFeatures, context: &'a Context) -> (Module<'a>, u64) {
    let module = Module::new(Location::unknown(context));
    let inner = format!("{}.programs", program.name);
    let region = Region::new();
    let scratch_bytes = lower::lower(program, features, context, &region);
    let function = Function { context, name: &inner, internal: true };
    let parameters = lower::parameters(program);
    module.body().append_operation(function.build(&parameters, Some(program), region));
    let region = Region::new();
    unpack(program, &inner, context, &region);
    let outer = [(Machine::Pointer, 1), (Machine::I64, 1), (Machine::I64, 1), (Machine::Pointer, 1)];
    let function = Function { context, name: &program.name, internal: false };
    module.body().append_operation(function.build(&outer, None, region));
    (module, scratch_bytes)
}

/// `NAME(arguments: *const u64, program_begin, program_end, scratch)`: loads the slots and calls the inner function.
fn unpack<'a>(program: &Program, inner: &str, context: &'a Context, region: &'a Region<'a>) {
    let parameters = [(Machine::Pointer, 1), (Machine::I64, 1), (Machine::I64, 1), (Machine::Pointer, 1)];
    let (e, values) = Emitter::new(context, region, &parameters);
    let slot =
        |position: usize, machine: Machine| e.load(e.offset(values[0], e.index(8 * position as i64)), machine, 1);
    let mut operands: Vec<Ssa<'a>> = Vec::new();
    for (position, argument) in program.arguments.iter().enumerate() {
        operands.push(match argument {
            Argument::Tensor(_) => slot(position, Machine::Pointer),
            Argument::Integer { .. } => slot(position, Machine::I64),
            Argument::Float { .. } => slot(position, Machine::F32),
        });
    }
    for axis in 0..GRID_SLOTS {
        operands.push(slot(program.arguments.len() + axis, Machine::I64));
    }
    operands.extend(&values[1..]);
    e.call(inner, &operands);
    e.finish();
}

struct Function<'n, 'a> {
    context: &'a Context,
    name: &'n str,
    internal: bool,
}

impl<'a> Function<'_, 'a> {
    fn parse(&self, text: &str) -> Attribute<'a> {
        Attribute::parse(self.context, text).expect("attributes written out here are well formed")
    }

    fn build(
        &self,
        parameters: &[(Machine, u32)],
        program: Option<&Program>,
        region: Region<'a>,
    ) -> melior::ir::Operation<'a> {
        let types: Vec<&str> = parameters
            .iter()
            .map(|(machine, _)| match machine {
                Machine::Pointer => "!llvm.ptr",
                Machine::F32 => "f32",
                _ => "i64",
            })
            .collect();
        let signature = melior::ir::Type::parse(self.context, &format!("!llvm.func<void ({})>", types.join(", ")))
            .expect("the parameter types above are well formed");
        let linkage = if self.internal { "#llvm.linkage<internal>" } else { "#llvm.linkage<external>" };
        // No call may appear that no object defines, and vectors are to have the width they are written with.
        let mut passthrough =
            vec![r#""no-builtins""#, r#"["prefer-vector-width", "512"]"#, r#"["min-legal-vector-width", "512"]"#];
        if self.internal {
            passthrough.push(r#""noinline""#);
        }
        let name = |name: &str| Identifier::new(self.context, name);
        let mut attributes = vec![
            (name("sym_name"), StringAttribute::new(self.context, self.name).into()),
            (name("function_type"), TypeAttribute::new(signature).into()),
            (name("linkage"), self.parse(linkage)),
            (name("passthrough"), self.parse(&format!("[{}, \"nounwind\"]", passthrough.join(", ")))),
        ];
        if let Some(program) = program {
            let mut parts: Vec<&str> = program
                .arguments
                .iter()
                .map(|argument| match argument {
                    Argument::Tensor(_) => "{llvm.noalias}",
                    _ => "{}",
                })
                .collect();
            parts.extend(["{}"; 5]);
            parts.push("{llvm.noalias}");
            attributes.push((name("arg_attrs"), self.parse(&format!("[{}]", parts.join(", ")))));
        }
        debug_assert!(region.first_block().is_some());
        OperationBuilder::new("llvm.func", Location::unknown(self.context))
            .add_attributes(&attributes)
            .add_regions([region])
            .build()
            .expect("a function with its attributes and region builds")
    }
}
