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
pub mod narrow;
pub mod packed;
pub mod stack;
pub mod video;
pub mod warp;

use crate::decode::form::Form;
use crate::machine::instruction::Undefined;

/// Every form, in the order of the ISA's sections, with what those of its family do with values that nothing has written. Where a
/// form differs from its family, its builder says so.
pub fn forms() -> impl Iterator<Item = (&'static Form, Undefined)> {
    use Undefined::{Combines, Decides, Spreads, Vanishes};
    [
        (integer::FORMS, Spreads),
        (arithmetic::FORMS, Spreads),
        (float::FORMS, Spreads),
        (packed::FORMS, Spreads),
        (mixed::FORMS, Spreads),
        (compare::FORMS, Spreads),
        (logic::FORMS, Spreads),
        (movement::FORMS, Combines),
        (convert::FORMS, Combines),
        (narrow::FORMS, Combines),
        (memory::FORMS, Decides),
        (control::FORMS, Decides),
        (call::FORMS, Decides),
        (barrier::FORMS, Decides),
        (warp::FORMS, Vanishes),
        (atomic::FORMS, Decides),
        (multimem::FORMS, Decides),
        (stack::FORMS, Decides),
        (video::FORMS, Spreads),
        (crate::asynchronous::copy::FORMS, Decides),
        (crate::asynchronous::bulk::FORMS, Decides),
        (crate::asynchronous::bulk_reduction::FORMS, Decides),
        (crate::asynchronous::mbarrier::FORMS, Decides),
        (crate::asynchronous::remote::FORMS, Decides),
        (crate::asynchronous::cluster_launch::FORMS, Decides),
        (crate::asynchronous::tensor_copy::FORMS, Decides),
        (crate::tensor_core::matrix::FORMS, Vanishes),
        (crate::tensor_core::mma::FORMS, Vanishes),
        (crate::tensor_core::quad_pairs::FORMS, Vanishes),
        (crate::tensor_core::block_scaled::FORMS, Vanishes),
        (crate::tensor_core::sparse::FORMS, Vanishes),
        (crate::tensor_core::wmma::FORMS, Vanishes),
        (crate::tensor_core::wgmma::FORMS, Vanishes),
        (crate::tensor_core::tcgen05::FORMS, Vanishes),
        (crate::tensor_core::tensor_memory_access::FORMS, Vanishes),
        (crate::tensor_core::tensor_product::FORMS, Vanishes),
    ]
    .into_iter()
    .flat_map(|(forms, undefined)| forms.iter().map(move |form| (form, undefined)))
}
