//! Which tokens of which sequences go into the next step.

use tessera_runtime::pages::{PageTable, Pages, PagesError, SequenceId};

use super::FinishReason;

/// The inputs of `@step`, on the host. T tokens, B sequences, P pages a sequence, R rows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    /// Token ids, T. Tokens of one sequence are consecutive and in order.
    pub tokens: Vec<i32>,
    /// Each token's position in its sequence, T.
    pub positions: Vec<i32>,
    /// Each token's sequence: a row of the page table, T.
    pub sequences: Vec<i32>,
    /// The cache pages of each sequence, B × P.
    pub page_table: PageTable,
    /// The tokens whose logits are wanted, R: at least one, in increasing order.
    pub rows: Vec<i32>,
}

impl Step {
    /// One whole sequence from its beginning, in the pages 0, 1, …, with the logits of every token.
    pub fn whole_sequence(ids: &[u32], page_size: usize) -> Self {
        let count = ids.len() as i32;
        let pages = ids.len().div_ceil(page_size.max(1));
        Self {
            tokens: ids.iter().map(|&id| id as i32).collect(),
            positions: (0..count).collect(),
            sequences: vec![0; ids.len()],
            page_table: PageTable { entries: (0..pages as i32).collect(), shape: [1, pages as u64] },
            rows: (0..count).collect(),
        }
    }
}

/// A sequence that is being generated.
#[derive(Debug)]
pub(super) struct Sequence {
    /// The request it belongs to.
    pub request: usize,
    /// Prompt and new tokens.
    pub tokens: Vec<u32>,
    /// How many of them are the prompt.
    pub prompt: usize,
    /// How many of them have keys and values in the cache.
    pub cached: usize,
    /// Its pages, enough from the beginning for all that it may become. So the shape of the page table stays the same from
    /// step to step, and with it everything that is planned for that shape.
    pub pages: SequenceId,
    /// Set when it has ended.
    pub finish: Option<FinishReason>,
}

impl Sequence {
    pub fn new(request: usize, tokens: Vec<u32>, pages: SequenceId) -> Self {
        Self { request, prompt: tokens.len(), tokens, cached: 0, pages, finish: None }
    }

    pub fn new_tokens(&self) -> usize {
        self.tokens.len() - self.prompt
    }
}

/// A step, and what it means to the sequences.
#[derive(Debug)]
pub(super) struct PlannedStep {
    pub inputs: Step,
    /// For each row of logits, the sequence it continues (an index into the active sequences); none where no row is wanted.
    pub sampled: Vec<usize>,
    /// How many of the tokens are prompt tokens.
    pub prompt_tokens: usize,
}

/// Plans the next step: every decoding sequence's one token first, so that prompts never starve them, then prompt chunks in
/// order up to the limit. Counts the tokens as cached.
pub(super) fn plan_step(active: &mut [Sequence], pages: &Pages, limit: usize) -> Result<PlannedStep, PagesError> {
    let mut budget = limit;
    let mut taken: Vec<(usize, usize)> = Vec::new();
    for decoding in [true, false] {
        for (slot, sequence) in active.iter().enumerate() {
            let pending = sequence.tokens.len() - sequence.cached;
            if (sequence.cached >= sequence.prompt) == decoding && budget > 0 {
                let count = pending.min(budget);
                budget -= count;
                taken.push((slot, count));
            }
        }
    }

    let holders: Vec<SequenceId> = taken.iter().map(|(slot, _)| active[*slot].pages).collect();
    let page_table = pages.table(&holders)?;
    let mut inputs = Step { tokens: vec![], positions: vec![], sequences: vec![], page_table, rows: vec![] };
    let mut sampled = Vec::new();
    let mut prompt_tokens = 0;
    for (row, &(slot, count)) in taken.iter().enumerate() {
        let sequence = &mut active[slot];
        let chunk = sequence.cached..sequence.cached + count;
        prompt_tokens += chunk.end.min(sequence.prompt).saturating_sub(chunk.start);
        for position in chunk.clone() {
            inputs.tokens.push(sequence.tokens[position] as i32);
            inputs.positions.push(position as i32);
            inputs.sequences.push(row as i32);
        }
        sequence.cached = chunk.end;
        if chunk.end == sequence.tokens.len() {
            inputs.rows.push(inputs.tokens.len() as i32 - 1);
            sampled.push(slot);
        }
    }
    if inputs.rows.is_empty() && !inputs.tokens.is_empty() {
        // A step has at least one row; where only the middles of prompts are fed, nobody looks at it.
        inputs.rows.push(inputs.tokens.len() as i32 - 1);
    }
    Ok(PlannedStep { inputs, sampled, prompt_tokens })
}
