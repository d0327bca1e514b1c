//! What a compilation has to say about itself.

use std::fmt;
use std::time::{Duration, Instant};

use tessera_runtime::Artifact;

use crate::graph::Remark;

/// How long something took.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StageTime {
    /// The pass or stage.
    pub name: String,
    /// Its time.
    pub elapsed: Duration,
}

/// A kernel of the artifact.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KernelReport {
    /// Its name.
    pub name: String,
    /// What it computes, and its schedule.
    pub summary: Vec<String>,
    /// Launches that use it.
    pub launches: usize,
    /// Dynamic shared memory of a block in bytes.
    pub dynamic_shared_bytes: u32,
}

/// Times, kernels and remarks of a compilation.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// Whether the artifact came from the cache; there is nothing else to report then.
    pub from_cache: bool,
    /// Time of every graph pass.
    pub passes: Vec<StageTime>,
    /// Time of every stage.
    pub stages: Vec<StageTime>,
    /// Time of all of it.
    pub total: Duration,
    /// The kernels.
    pub kernels: Vec<KernelReport>,
    /// What the graph passes did, and what they left, and why.
    pub remarks: Vec<Remark>,
    /// Values inside of fusions that were put into memory all the same, and why.
    pub cuts: Vec<String>,
}

impl Report {
    pub(super) fn cached(artifact: &Artifact) -> Report {
        let kernels = artifact.functions().iter().flat_map(|plan| &plan.kernels);
        let kernels = kernels.map(|kernel| KernelReport {
            name: kernel.name.clone(),
            summary: Vec::new(),
            launches: 0,
            dynamic_shared_bytes: kernel.dynamic_shared_bytes,
        });
        Report { from_cache: true, kernels: kernels.collect(), ..Report::default() }
    }

    pub(super) fn stage(&mut self, name: &str, start: Instant) {
        self.stages.push(StageTime { name: name.to_string(), elapsed: start.elapsed() });
    }
}

impl fmt::Display for Report {
    /// A line for each pass and stage with its time.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for StageTime { name, elapsed } in &self.passes {
            writeln!(f, "{:>9.2} ms  pass {name}", elapsed.as_secs_f64() * 1e3)?;
        }
        for StageTime { name, elapsed } in &self.stages {
            writeln!(f, "{:>9.2} ms  {name}", elapsed.as_secs_f64() * 1e3)?;
        }
        write!(
            f,
            "{:>9.2} ms  in all{}",
            self.total.as_secs_f64() * 1e3,
            if self.from_cache { ", from the cache" } else { "" }
        )
    }
}
