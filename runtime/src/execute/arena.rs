//! Where the slots of a plan lie in one block of memory.

use std::ops::Range;

use crate::plan::{Argument, BUFFER_ALIGNMENT, BufferReference, Plan};

/// The launches, by index, between which each slot is alive; empty for one that no launch names.
pub(super) fn lifetimes(plan: &Plan) -> Vec<Range<usize>> {
    let mut lifetimes = vec![0..0; plan.slots.len()];
    for (index, launch) in plan.launches.iter().enumerate() {
        for argument in &launch.arguments {
            if let Argument::Buffer { reference: BufferReference::Slot(slot), .. } = argument {
                let lifetime = &mut lifetimes[*slot];
                let start = if never(lifetime) { index } else { lifetime.start };
                *lifetime = start..index + 1;
            }
        }
    }
    lifetimes
}

/// Whether a slot is never alive.
fn never(lifetime: &Range<usize>) -> bool {
    lifetime.start == lifetime.end
}

/// Slots in memory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Layout {
    /// Where each slot starts.
    pub offsets: Vec<u64>,
    /// The size of it all.
    pub bytes: u64,
}

/// Lays slots out so that those alive together do not overlap, the largest first, each at the lowest place that is free for as
/// long as it lives. `None` where the sizes overflow.
pub(super) fn lay_out(sizes: &[u64], lifetimes: &[Range<usize>]) -> Option<Layout> {
    let mut order: Vec<_> = (0..sizes.len()).filter(|slot| !never(&lifetimes[*slot])).collect();
    order.sort_by_key(|slot| std::cmp::Reverse(sizes[*slot]));
    let mut offsets = vec![0; sizes.len()];
    let mut bytes = 0;
    // Slots already placed, by their offset.
    let mut placed: Vec<usize> = Vec::with_capacity(order.len());
    for slot in order {
        let size = sizes[slot].max(1).checked_next_multiple_of(BUFFER_ALIGNMENT)?;
        let (born, dies) = (lifetimes[slot].start, lifetimes[slot].end);
        let mut offset: u64 = 0;
        for other in placed.iter().copied() {
            let together = lifetimes[other].start < dies && born < lifetimes[other].end;
            if !together {
                continue;
            }
            if offset.checked_add(size)? <= offsets[other] {
                break;
            }
            let end = offsets[other] + sizes[other].max(1).next_multiple_of(BUFFER_ALIGNMENT);
            offset = offset.max(end);
        }
        offsets[slot] = offset;
        bytes = bytes.max(offset.checked_add(size)?);
        let position = placed.partition_point(|other| offsets[*other] <= offset);
        placed.insert(position, slot);
    }
    Some(Layout { offsets, bytes })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn slots_that_are_not_alive_together_share_memory() {
        let layout = lay_out(&[1000, 1000, 500], &[0..2, 1..3, 2..4]).unwrap();
        assert_eq!(layout.offsets[0], layout.offsets[2]);
        assert_eq!(layout.bytes, 2048);
        assert_eq!(lay_out(&[u64::MAX], &vec![0..1; 1]), None);
        assert_eq!(lay_out(&[5], &vec![0..0; 1]), Some(Layout { offsets: vec![0], bytes: 0 }));
    }

    proptest! {
        #[test]
        fn slots_alive_together_never_overlap(
            slots in prop::collection::vec((0..5000u64, 0..10usize, 1..6usize), 1..40),
        ) {
            let sizes: Vec<_> = slots.iter().map(|slot| slot.0).collect();
            let lifetimes: Vec<_> = slots.iter().map(|slot| slot.1..slot.1 + slot.2).collect();
            let layout = lay_out(&sizes, &lifetimes).unwrap();
            for a in 0..slots.len() {
                prop_assert_eq!(layout.offsets[a] % BUFFER_ALIGNMENT, 0);
                prop_assert!(layout.offsets[a] + sizes[a] <= layout.bytes);
                for b in 0..a {
                    let together = lifetimes[a].start < lifetimes[b].end && lifetimes[b].start < lifetimes[a].end;
                    let apart = layout.offsets[a] + sizes[a] <= layout.offsets[b]
                        || layout.offsets[b] + sizes[b] <= layout.offsets[a];
                    prop_assert!(!together || apart);
                }
            }
        }
    }
}
