//! `clusterlaunchcontrol`: clusters that take over the work of others, which are then not launched.
//!
//! The response is 16 bytes: whether a cluster was cancelled, and the place of its first CTA.

use std::sync::atomic::Ordering;

use super::bulk::issue_load;
use super::mbarrier;
use crate::decode::builder::Builder;
use crate::decode::form::Form;
use crate::diagnostic::Problem;
use crate::machine::context::{Context, lanes};
use crate::machine::instruction::{Execute, Instruction, Step};
use crate::machine::row::Kind;
use crate::memory::access::{Space, shared};

/// The forms.
pub const FORMS: &[Form] = &[
    Form {
        pattern: "clusterlaunchcontrol.try_cancel.async[.shared::cta].mbarrier::complete_tx::bytes[.multicast::cluster::all].b128",
        section: "9.7.13.17 clusterlaunchcontrol.try_cancel",
        build: try_cancel,
    },
    Form {
        pattern: "clusterlaunchcontrol.query_cancel.is_canceled.pred.b128",
        section: "9.7.13.18 clusterlaunchcontrol.query_cancel",
        build: |b| {
            b.predicate_destination()?;
            b.source::<u128>()?;
            Ok(|context, instruction| {
                let responses: [u128; 32] = context.read(instruction.operands[1]);
                let cancelled = (0..32).fold(0, |all, lane| all | (responses[lane] as u32 & 1) << lane);
                context.set_predicate(instruction.predicate(0), cancelled);
                Step::Next
            })
        },
    },
    Form {
        pattern: "clusterlaunchcontrol.query_cancel.get_first_ctaid.v4.b32.b128",
        section: "9.7.13.18 clusterlaunchcontrol.query_cancel",
        build: |b| {
            b.registers(4, 4, Kind::Integer, true)?;
            first_cta(b)
        },
    },
    Form {
        pattern: "clusterlaunchcontrol.query_cancel.get_first_ctaid::x|get_first_ctaid::y|get_first_ctaid::z.b32.b128",
        section: "9.7.13.18 clusterlaunchcontrol.query_cancel",
        build: |b| {
            b.registers(1, 4, Kind::Integer, true)?;
            b.made.immediate = match b.modifier(1) {
                "get_first_ctaid::y" => 1,
                "get_first_ctaid::z" => 2,
                _ => 0,
            };
            first_cta(b)
        },
    },
];

const ALL_CTAS: u32 = 1;

fn try_cancel(b: &mut Builder<'_, '_>) -> Result<Execute, Problem> {
    b.listed_address()?;
    b.listed_address()?;
    if b.has("multicast::cluster::all") {
        b.made.modifiers = ALL_CTAS;
    }
    Ok(|context, instruction| {
        let list = context.list(instruction);
        for lane in lanes(context.mask) {
            let (to, barrier) = (context.listed_address(list, lane), context.listed_address(&list[3..], lane));
            let response = cancel(context).to_le_bytes();
            let targets = if instruction.modifiers & ALL_CTAS != 0 { context.cluster.ctas.len() } else { 1 };
            for rank in 0..targets as u64 {
                let place = |address: u64| match targets {
                    1 => shared(address),
                    _ => shared(address) & 0xff_ffff | rank << 24,
                };
                issue_load(context, lane, place(barrier));
                if let Err(refused) = context.copy_in(Space::Shared, place(to), &response) {
                    return context.refuse(lane, refused, "write");
                }
                if let Err(step) = mbarrier::complete(context, lane, place(barrier), response.len()) {
                    return step;
                }
            }
        }
        Step::Next
    })
}

/// Takes the next cluster of the grid, if there is one that has not started.
fn cancel(context: &mut Context<'_>) -> u128 {
    let grid = context.grid;
    let clusters = grid.extent.map(u64::from).iter().product::<u64>() / u64::from(grid.cluster_ctas());
    let next = context.cluster.next.fetch_add(1, Ordering::Relaxed);
    if next >= clusters {
        return 0;
    }
    let [x, y, z] = grid.cta(next, 0).map(u128::from);
    1 | x << 32 | y << 64 | z << 96
}

/// Coordinates of a response, from one on, to as many registers as there are.
fn first_cta(b: &mut Builder<'_, '_>) -> Result<Execute, Problem> {
    b.source::<u128>()?;
    Ok(|context: &mut Context<'_>, instruction: &Instruction| {
        let responses: [u128; 32] = context.read(instruction.operands[0]);
        for (at, slot) in context.list(instruction).iter().take(3).enumerate() {
            let shift = 32 * (instruction.immediate as usize + at + 1);
            context.write(*slot, &responses.map(|response| (response >> shift) as u32));
        }
        Step::Next
    })
}
