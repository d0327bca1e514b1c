//! What the checker found.

use std::collections::HashSet;
use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

use crate::machine::fault::Place;

/// A mistake that the checker found: a kernel that has one may work on one run and fail on the next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// What kind of mistake.
    pub kind: ReportKind,
    /// What happened, what is missing, and what to do.
    pub message: String,
    /// The kernel.
    pub kernel: String,
    /// The instruction that showed the mistake.
    pub place: Place,
    /// The earlier instruction that it conflicts with.
    pub earlier: Option<Place>,
    /// The CTA.
    pub cta: [u32; 3],
    /// The thread, or the first of several.
    pub thread: [u32; 3],
}

/// The kinds of mistakes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ReportKind {
    /// Memory is read that nobody has written.
    Uninitialized,
    /// Two threads access the same place, one of them writes, and nothing orders them.
    Race,
    /// The async proxy accesses what was written through the generic proxy, without a proxy fence in between.
    ProxyFence,
    /// Another thread's work on tensor memory is ordered, and not by the fences of `tcgen05`, which the kernel has elsewhere.
    TensorFence,
    /// What an asynchronous operation reads or writes is used before anybody has waited for it.
    NotAwaited,
    /// A register of a `wgmma` under way is used, or one that it uses was written without a `wgmma.fence`.
    Registers,
    /// A `wgmma` or a copy that no group was committed for, or that was not waited for before the exit.
    NotCommitted,
    /// An mbarrier that is used without synchronization after its initialization, or whose memory is overwritten.
    Mbarrier,
    /// Lanes of a warp are missing at an instruction that wants all of them.
    Divergence,
}

impl fmt::Display for Report {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Report { kernel, message, place, cta: [x, y, z], thread: [i, j, k], .. } = self;
        write!(formatter, "kernel {kernel}: {message}\n    at {}:{}: {}", place.file, place.line, place.text)?;
        if let Some(earlier) = &self.earlier {
            write!(formatter, "\n    after {}:{}: {}", earlier.file, earlier.line, earlier.text)?;
        }
        write!(formatter, "\n    in CTA ({x}, {y}, {z}), thread ({i}, {j}, {k})")
    }
}

/// What was found so far.
#[derive(Debug, Default)]
struct Found {
    reports: Vec<Report>,
    /// The lines that there is a report of, by kind.
    known: HashSet<(ReportKind, u32)>,
}

/// The reports of a launch.
#[derive(Debug)]
pub struct Reports {
    limit: usize,
    found: Mutex<Found>,
    full: AtomicBool,
}

impl Reports {
    /// Room for a number of reports, after which the launch ends.
    pub fn new(limit: usize) -> Reports {
        Reports { limit, found: Mutex::default(), full: AtomicBool::new(limit == 0) }
    }

    /// Adds a report, unless there is one of this kind for either of the two lines: a mistake shows at many instructions, and is
    /// reported once.
    pub fn add(&self, report: impl FnOnce() -> Report, kind: ReportKind, line: u32, earlier: u32) {
        let mut found = self.found.lock().unwrap_or_else(PoisonError::into_inner);
        let is_new = !found.known.contains(&(kind, line)) && !found.known.contains(&(kind, earlier));
        if found.reports.len() < self.limit && is_new {
            found.known.insert((kind, line));
            if earlier != 0 {
                found.known.insert((kind, earlier));
            }
            found.reports.push(report());
        }
        if found.reports.len() >= self.limit {
            self.full.store(true, Ordering::Relaxed);
        }
    }

    /// Whether there is no room for more.
    pub fn full(&self) -> bool {
        self.full.load(Ordering::Relaxed)
    }

    /// The reports, in the order in which they were found.
    pub fn list(&self) -> Vec<Report> {
        self.found.lock().unwrap_or_else(PoisonError::into_inner).reports.clone()
    }
}
