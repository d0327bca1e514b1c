//! What a running kernel shows to those who look on: traces, profiles.
//!
//! A launch without an observer runs code that knows of none, but for a test where memory is accessed.

use super::instruction::{Instruction, Step};
use super::kernel::Kernel;
use super::warp::WarpState;
use crate::memory::access::{Space, specific};

/// Somebody who looks on. Each of a launch's host threads has one of its own, so that none waits for another.
pub trait Observer: Send {
    /// A warp has run an instruction. What the instruction accessed was shown before.
    ///
    /// An instruction that waits is shown each time that it is tried; [`Moment::is_done`] tells the last of them.
    fn executed(&mut self, moment: &Moment<'_>);

    /// The running instruction accesses memory: for a lane, or, where it copies, for all of its warp.
    fn accessed(&mut self, access: &Access);
}

/// An instruction, just after it ran.
pub struct Moment<'a> {
    /// The kernel.
    pub kernel: &'a Kernel,
    /// The instruction.
    pub instruction: &'a Instruction,
    /// The CTA.
    pub cta: [u32; 3],
    /// The warp, with the registers as they are now.
    pub warp: &'a WarpState,
    /// The lanes that it ran for: none where its guard holds for none.
    pub mask: u32,
    /// What comes next.
    pub step: Step,
}

impl Moment<'_> {
    /// Whether the instruction had its effect, rather than has to be tried again.
    pub fn is_done(&self) -> bool {
        !matches!(self.step, Step::Wait | Step::Converge | Step::Fault)
    }
}

/// What an access does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Direction {
    /// It reads.
    Read,
    /// It writes.
    Write,
    /// It reads and writes in one step.
    Update,
}

/// An access to memory that was allowed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Access {
    /// What it does.
    pub direction: Direction,
    /// Where: never [`Space::Generic`].
    pub space: Space,
    /// The lane; `None` for a stretch that a copy or a matrix instruction reads or writes.
    pub lane: Option<usize>,
    /// The address in its space.
    pub address: u64,
    /// How many bytes.
    pub bytes: usize,
}

impl Access {
    /// Of a lane; a generic address is resolved.
    pub fn of_lane(direction: Direction, space: Space, lane: usize, address: u64, bytes: usize) -> Access {
        let (space, address) = if space == Space::Generic { specific(address) } else { (space, address) };
        Access { direction, space, lane: Some(lane), address, bytes }
    }

    /// Of a whole warp, or of a copy that it started.
    pub fn of_warp(direction: Direction, space: Space, address: u64, bytes: usize) -> Access {
        Access { lane: None, ..Access::of_lane(direction, space, 0, address, bytes) }
    }
}
