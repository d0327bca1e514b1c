//! A kernel while it is decoded: instructions so far, and where registers, constants, variables and frames are.

use std::collections::HashMap;

use crate::machine::instruction::{CARRY, Instruction};
use crate::machine::kernel::{Callable, Frame, Preset, Register};
use crate::machine::row::{LANES, Row, Slot};
use crate::parse::ast::Sizes;

/// A kernel while it is decoded.
#[derive(Debug, Default)]
pub struct Draft {
    /// Instructions so far. Branch targets are labels' numbers until the end.
    pub code: Vec<Instruction>,
    /// Operands beyond those inside of instructions.
    pub list: Vec<Slot>,
    /// Constants so far.
    pub constants: Vec<Row>,
    /// Rows of registers so far.
    pub rows: u32,
    /// Predicates so far.
    pub predicates: u32,
    /// Rows that are set at the start.
    pub presets: Vec<(u32, Preset)>,
    /// Where labels are, once they are seen.
    pub labels: Vec<Option<u32>>,
    /// Tables of labels.
    pub tables: Vec<Vec<u32>>,
    /// Bytes of local memory so far.
    pub local_bytes: u32,
    /// Whether there are instructions of `wgmma` that multiply.
    pub has_products: bool,
    /// Whether it has `tcgen05.fence::before_thread_sync`, and `after_thread_sync`.
    pub tensor_fences: [bool; 2],
    /// Functions that are called: their number, and what a call of them needs. Their entries are labels until the end.
    pub called: HashMap<usize, Callable>,
    /// Whether there are calls through registers.
    pub calls_through_registers: bool,
    /// The row that holds how much of the stack is in use.
    pub stack_pointer: u32,
    constant_rows: HashMap<(u64, bool), u32>,
    preset_rows: HashMap<Preset, u32>,
    /// The rows of `_`.
    pub sink: Option<u32>,
}

impl Draft {
    /// A draft with the predicates that every kernel has: the constants and the carry.
    pub fn new() -> Draft {
        Draft { predicates: CARRY + 1, rows: 1, ..Draft::default() }
    }

    /// New rows of registers.
    pub fn new_rows(&mut self, count: u32) -> u32 {
        let row = self.rows;
        self.rows += count;
        row
    }

    /// A new label.
    pub fn new_label(&mut self) -> u32 {
        self.labels.push(None);
        self.labels.len() as u32 - 1
    }

    /// Stretches of local memory.
    pub fn new_local(&mut self, bytes: u32, alignment: u32) -> u32 {
        stretch(&mut self.local_bytes, bytes, alignment)
    }

    /// What a call of a function needs to know.
    pub fn callable(&mut self, number: usize, (parameters, results): (Sizes, Sizes), frames: bool) -> Callable {
        if let Some(callable) = self.called.get(&number) {
            return callable.clone();
        }
        let mut frame_bytes = 0;
        let mut place = |list: Sizes| -> Vec<(u32, u32)> {
            let place = |(bytes, alignment): (u32, u32)| {
                let offset =
                    if frames { stretch(&mut frame_bytes, bytes, alignment) } else { self.new_local(bytes, alignment) };
                (offset, bytes)
            };
            list.into_iter().map(place).collect()
        };
        let (parameters, results) = (place(parameters), place(results));
        let (entry, link) = (self.new_label(), self.new_rows(1));
        let frame = frames.then(|| {
            let base = self.new_rows(1);
            let registers = [link, base].map(|row| Register::Rows { row, bytes: 4 });
            Frame { base, bytes: frame_bytes, registers: registers.to_vec() }
        });
        let callable = Callable { entry, link, parameters, results, frame };
        self.called.insert(number, callable.clone());
        callable
    }

    /// A constant's slot.
    pub fn constant(&mut self, bits: u64, wide: bool) -> Slot {
        let row = *self.constant_rows.entry((bits, wide)).or_insert_with(|| {
            let row = self.constants.len() as u32;
            if wide {
                let halves = |lane: usize| if lane.is_multiple_of(2) { bits as u32 } else { (bits >> 32) as u32 };
                let both = Row(std::array::from_fn(halves));
                self.constants.extend([both, both]);
            } else {
                self.constants.push(Row([bits as u32; LANES]));
            }
            row
        });
        Slot::constant(row)
    }

    /// The slot of a register that is set at the start.
    pub fn preset(&mut self, preset: Preset) -> Slot {
        if let Some(row) = self.preset_rows.get(&preset) {
            return Slot::register(*row);
        }
        let wide = matches!(preset, Preset::WideSpecial(_) | Preset::WideShared(_));
        let row = self.new_rows(if wide { 2 } else { 1 });
        self.preset_rows.insert(preset, row);
        self.presets.push((row, preset));
        Slot::register(row)
    }
}

/// The offset of a stretch that is put after others.
pub fn stretch(end: &mut u32, bytes: u32, alignment: u32) -> u32 {
    let offset = end.next_multiple_of(alignment.max(1));
    *end = offset.saturating_add(bytes);
    offset
}

/// The rows of a register.
pub fn rows_of(bytes: u32) -> u32 {
    bytes.div_ceil(4).max(1)
}
