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
    /// For each KV cache, the pages of each sequence, B × P.
    pub page_tables: Vec<PageTable>,
    /// The tokens whose logits are wanted, R: at least one, in increasing order.
    pub rows: Vec<i32>,
}

impl Step {
    /// One whole sequence from its beginning, in the pages 0, 1, … of every cache, with the logits of every token.
    pub fn whole_sequence(ids: &[u32], page_size: usize, caches: usize) -> Self {
        let count = ids.len() as i32;
        let pages = ids.len().div_ceil(page_size.max(1));
        let table = PageTable { entries: (0..pages as i32).collect(), shape: [1, pages as u64] };
        Self {
            tokens: ids.iter().map(|&id| id as i32).collect(),
            positions: (0..count).collect(),
            sequences: vec![0; ids.len()],
            page_tables: vec![table; caches],
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

/// Plans a step that feeds so many tokens of some running sequences, and counts them as cached. Their pages have them already.
pub(super) fn plan_step(
    running: &mut [Running],
    taken: &[(usize, usize)],
    pages: &Pages,
    widest_table: u64,
) -> Result<PlannedStep, PagesError> {
    let mut inputs = Step { tokens: vec![], positions: vec![], sequences: vec![], page_tables: vec![], rows: vec![] };
    let mut sampled = Vec::new();
    let mut prompt_tokens = 0;
    for (row, &(slot, count)) in taken.iter().enumerate() {
        let running = &mut running[slot];
        let chunk = running.cached..running.cached + count;
        prompt_tokens += chunk.end.min(running.sequence.prompt).saturating_sub(chunk.start);
        inputs.tokens.extend(running.sequence.tokens[chunk.clone()].iter().map(|token| *token as i32));
        inputs.positions.extend(chunk.clone().map(|position| position as i32));
        inputs.sequences.resize(inputs.tokens.len(), row as i32);
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
    let holders: Vec<SequenceId> = taken.iter().map(|(slot, _)| running[*slot].pages).collect();
    inputs.page_tables = pages.tables(&holders)?.into_iter().map(|table| widened(table, widest_table)).collect();
    Ok(PlannedStep { inputs, sampled, prompt_tokens })
}

/// The table with columns up to the next multiple of [`TABLE_STEP`], but not beyond the widest there may be. No token reads them.
fn widened(table: PageTable, widest: u64) -> PageTable {
    let [rows, columns] = table.shape;
    let wide = columns.next_multiple_of(TABLE_STEP).min(widest).max(columns);
    let entries = table
        .entries
        .chunks(columns.max(1) as usize)
        .flat_map(|row| row.iter().copied().chain(std::iter::repeat_n(-1, (wide - columns) as usize)));
    PageTable { entries: entries.collect(), shape: [rows, wide] }
}
