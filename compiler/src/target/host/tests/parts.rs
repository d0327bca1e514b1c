//! The parts that schedules compose: attention of ragged batches over paged keys, and sampling.

use super::{EXACT, Tolerance, check};
use crate::tile::parts::{attention, sampling};

#[test]
fn attention_over_paged_keys() {
    for (program, arguments) in attention::tests::examples() {
        check(&program, &arguments, Tolerance { relative: 2e-5, absolute: 2e-6 });
    }
}

#[test]
fn sampling_draws_the_same_tokens() {
    let (program, arguments) = sampling::tests::example();
    check(&program, &arguments, EXACT);
}
