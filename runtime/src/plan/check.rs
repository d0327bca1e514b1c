//! What a plan asks of the integers among its inputs before anything is launched: kernels take indices as they are.

use serde::{Deserialize, Serialize};

use super::Extent;

/// A condition on the contents of inputs; inputs are named by their index in the plan's.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Check {
    /// Every element is an index: at least 0 and below `limit`.
    Indices {
        /// The input.
        input: usize,
        /// What all are below.
        limit: Extent,
    },
    /// The pages that tokens reach lie in the cache. Token t belongs to row `sequences`[t] of the page table and reaches the pages of the
    /// positions up to `positions`[t], all or the last `window` of them. Other entries of the table may be anything.
    Pages {
        /// `[tokens]`: a place in its sequence for each token.
        positions: usize,
        /// `[tokens]`: a row of the table for each token.
        sequences: usize,
        /// `[sequences, pages]`: pages of the cache.
        table: usize,
        /// Tokens in one page.
        page_size: u64,
        /// How many positions a token reaches, its own the last; all up to its own where it is not given.
        window: Option<u64>,
        /// Pages of the cache.
        pages: Extent,
    },
}

impl Check {
    /// The inputs whose contents it is about.
    pub fn inputs(&self) -> Vec<usize> {
        match self {
            Check::Indices { input, .. } => vec![*input],
            Check::Pages { positions, sequences, table, .. } => vec![*positions, *sequences, *table],
        }
    }

    /// The bound in it.
    pub fn limit(&self) -> &Extent {
        match self {
            Check::Indices { limit, .. } => limit,
            Check::Pages { pages, .. } => pages,
        }
    }
}
