//! The instructions: how each is written, and what it does.
//!
//! A file has the forms of one part of the ISA. To add an instruction, add a form to its file's table; the decoder, the messages
//! about unknown instructions and the table of what is emulated follow.

/// An instruction that makes each lane of its destination from the same lane of its sources.
///
/// `lanes!(builder; (a: u32, b: u32) -> u32 { a.wrapping_add(b) })` reads a destination and the sources of these types, in order.
macro_rules! lanes {
    ($builder:expr; ($($source:ident: $type:ty),*) -> $result:ty { $($body:tt)* }) => {{
        fn execute(context: &mut $crate::machine::context::Context<'_>, instruction: &$crate::machine::instruction::Instruction)
            -> $crate::machine::instruction::Step
        {
            let mut operand = 0;
            $(operand += 1; let $source: [$type; 32] = context.read(instruction.operands[operand]);)*
            let _ = operand;
            let mut result = [<$result>::default(); 32];
            for lane in 0..32 {
                $(let $source: $type = $source[lane];)*
                result[lane] = { $($body)* };
            }
            context.write::<$result>(instruction.operands[0], &result);
            $crate::machine::instruction::Step::Next
        }
        $builder.destination::<$result>()?;
        $($builder.source::<$type>()?;)*
        Ok(execute as $crate::machine::instruction::Execute)
    }};
}

pub mod arithmetic;
pub mod atomic;
pub mod barrier;
pub mod call;
pub mod compare;
pub mod control;
pub mod convert;
pub mod float;
pub mod integer;
pub mod logic;
pub mod memory;
pub mod mixed;
pub mod movement;
pub mod multimem;
pub mod packed;
pub mod warp;

use crate::decode::form::Form;

/// Every form, in the order of the ISA's sections.
pub fn forms() -> impl Iterator<Item = &'static Form> {
    [
        integer::FORMS,
        arithmetic::FORMS,
        float::FORMS,
        packed::FORMS,
        mixed::FORMS,
        compare::FORMS,
        logic::FORMS,
        movement::FORMS,
        convert::FORMS,
        memory::FORMS,
        control::FORMS,
        call::FORMS,
        barrier::FORMS,
        warp::FORMS,
        atomic::FORMS,
        multimem::FORMS,
        crate::asynchronous::copy::FORMS,
        crate::asynchronous::mbarrier::FORMS,
        crate::asynchronous::remote::FORMS,
        crate::asynchronous::cluster_launch::FORMS,
        crate::asynchronous::tensor_copy::FORMS,
        crate::tensor_core::matrix::FORMS,
        crate::tensor_core::mma::FORMS,
        crate::tensor_core::quad_pairs::FORMS,
        crate::tensor_core::block_scaled::FORMS,
        crate::tensor_core::sparse::FORMS,
        crate::tensor_core::wmma::FORMS,
        crate::tensor_core::wgmma::FORMS,
        crate::tensor_core::tcgen05::FORMS,
        crate::tensor_core::tensor_memory_access::FORMS,
        crate::tensor_core::tensor_product::FORMS,
    ]
    .into_iter()
    .flatten()
}
