//! Which tokens of which sequences go into the next step.

use tessera_runtime::pages::{PageTable, Pages, PagesError, SequenceId};

use super::sequence::Running;

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

/// A step, and what it means to the sequences.
#[derive(Debug)]
pub(super) struct PlannedStep {
    pub inputs: Step,
    /// For each row of logits, the sequence it continues (an index into the running sequences); none where no row is wanted.
    pub sampled: Vec<usize>,
    /// How many of the tokens are prompt tokens.
    pub prompt_tokens: usize,
}

/// Pages by which the page table grows. Everything that is planned for a shape of it then serves for many steps.
const TABLE_STEP: u64 = 16;

/// Plans the next step: every decoding sequence's one token first, so that prompts never starve them, then prompt chunks in
/// order up to the limit. Counts the tokens as cached. Every sequence has pages for all its tokens.
pub(super) fn plan_step(
    running: &mut [Running],
    pages: &Pages,
    limit: usize,
    widest_table: u64,
) -> Result<PlannedStep, PagesError> {
    let mut budget = limit;
    let mut taken: Vec<(usize, usize)> = Vec::new();
    for decoding in [true, false] {
        for (slot, sequence) in running.iter().enumerate() {
            if sequence.is_decoding() == decoding && budget > 0 {
                let count = sequence.pending().min(budget);
                budget -= count;
                taken.push((slot, count));
            }
        }
    }

    let holders: Vec<SequenceId> = taken.iter().map(|(slot, _)| running[*slot].pages).collect();
    let page_table = widened(pages.table(&holders)?, widest_table);
    let mut inputs = Step { tokens: vec![], positions: vec![], sequences: vec![], page_table, rows: vec![] };
    let mut sampled = Vec::new();
    let mut prompt_tokens = 0;
    for (row, &(slot, count)) in taken.iter().enumerate() {
        let running = &mut running[slot];
        let chunk = running.cached..running.cached + count;
        prompt_tokens += chunk.end.min(running.sequence.prompt).saturating_sub(chunk.start);
        for position in chunk.clone() {
            inputs.tokens.push(running.sequence.tokens[position] as i32);
            inputs.positions.push(position as i32);
            inputs.sequences.push(row as i32);
        }
        running.cached = chunk.end;
        if running.pending() == 0 {
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

/// The table with columns up to the next multiple of [`TABLE_STEP`], but not beyond the widest there may be. No token reads them.
fn widened(table: PageTable, widest: u64) -> PageTable {
    let [rows, columns] = table.shape;
    let wide = columns.next_multiple_of(TABLE_STEP).min(widest).max(columns);
    let entries = table
        .entries
        .chunks(columns.max(1) as usize)
        .flat_map(|row| row.iter().copied().chain(std::iter::repeat_n(0, (wide - columns) as usize)));
    PageTable { entries: entries.collect(), shape: [rows, wide] }
}
