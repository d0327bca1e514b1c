//! The layout of every tile of a program, and how its dots and their operands are made.
//!
//! Tiles that flow into each other elementwise share a layout, so that no element moves between threads. A group that holds the accumulator of a
//! dot takes the layout of the tensor-core fragments; another takes that of its widest memory access; what is reduced from a group or broadcast into it takes
//! the group's layout less a dimension. *Virtual* tiles have no layout of their own: constants, index tiles and operands of dots are computed in
//! whatever layout they are asked for.

use std::collections::{HashMap, HashSet};

use smallvec::SmallVec;

use super::access::{AccessShape, access_shape_of};
use super::analysis::{Analysis, Use, tile_dimensions};
use super::dot_plan::{DotMethod, DotPlan, WarpSplit, fragments, multiply_add, word_run};
use super::error::Error;
use super::fragments::COLUMNS;
use super::layout::Layout;
use super::origins::{is_dequantized, is_elementwise, is_rearranged, staged_root, virtual_operands};
use crate::target::Chip;
use crate::tile::{Access, Block, Coordinate, Element, Instruction, Operation, Value};

/// A load that goes to shared memory, for dots to read.
#[derive(Clone, Debug)]
pub(super) struct Staging {
    /// How global memory is read.
    pub access: AccessShape,
    /// Which thread copies what.
    pub layout: Layout,
    /// By `cp.async`; otherwise through registers.
    pub asynchronous: bool,
}

/// Layouts of a program.
pub(super) struct Plan {
    pub warps: usize,
    virtuals: Vec<bool>,
    homes: Vec<Option<Layout>>,
    pub staged: HashMap<Value, Staging>,
    /// Loads that go to registers in the layout that they are wanted in, an iteration ahead.
    pub ahead: HashSet<Value>,
    pub dots: HashMap<Value, DotPlan>,
    /// Results of dots in loops and of these loops, of which every warp has a part until the loop has ended.
    pub split_sums: HashSet<Value>,
}

impl Plan {
    pub fn new(analysis: &Analysis<'_>, chip: Chip) -> Result<Self, Error> {
        let program = analysis.program;
        let warps = program.schedule.warps.trailing_zeros() as usize;
        let mut instructions = Vec::new();
        collect(&program.body, &mut instructions);
        let mut planner = Planner {
            analysis,
            warps,
            cheap: vec![false; program.types.len()],
            dot_only: vec![false; program.types.len()],
            plan: Plan {
                warps,
                virtuals: vec![false; program.types.len()],
                homes: vec![None; program.types.len()],
                staged: HashMap::new(),
                ahead: HashSet::new(),
                dots: HashMap::new(),
                split_sums: HashSet::new(),
            },
            groups: (0..program.types.len() as u32).collect(),
        };
        planner.classify(&instructions);
        planner.group(&program.body);
        planner.plan_dots(&instructions, chip)?;
        planner.assign(&instructions);
        Ok(planner.plan)
    }

    /// Whether a value is computed wherever and in whatever layout it is wanted.
    pub fn is_virtual(&self, value: Value) -> bool {
        self.virtuals[value.0 as usize]
    }

    /// The layout that a value has where the program defines it.
    pub fn home(&self, value: Value) -> Option<&Layout> {
        self.homes[value.0 as usize].as_ref()
    }
}

fn collect<'p>(block: &'p Block, into: &mut Vec<&'p Instruction>) {
    for instruction in &block.instructions {
        into.push(instruction);
        if let Operation::For { body, .. } = &instruction.operation {
            collect(body, into);
        }
    }
}

/// Steps of K that are worth a warp of its own: those of a lane are one access.
const DEEP: u32 = 64;

struct Planner<'r, 'p> {
    analysis: &'r Analysis<'p>,
    warps: usize,
    cheap: Vec<bool>,
    dot_only: Vec<bool>,
    plan: Plan,
    groups: Vec<u32>,
}

impl Planner<'_, '_> {
    fn shape(&self, value: Value) -> &[u32] {
        &self.analysis.program.type_of(value).shape
    }

    fn is_tile(&self, value: Value) -> bool {
        !self.shape(value).is_empty()
    }

    /// Finds virtual values and staged loads.
    fn classify(&mut self, instructions: &[&Instruction]) {
        for instruction in instructions {
            let Some(&result) = instruction.results.first() else { continue };
            self.cheap[result.0 as usize] = match &instruction.operation {
                Operation::Constant(_) | Operation::Iota => true,
                Operation::Broadcast { value, .. } if !self.is_tile(*value) => true,
                operation if is_elementwise(operation) || matches!(operation, Operation::Broadcast { .. }) => {
                    self.is_tile(result)
                        && operation
                            .operands()
                            .iter()
                            .all(|&operand| self.cheap[operand.0 as usize] || !self.is_tile(operand))
                }
                _ => false,
            } && self.is_tile(result);
        }
        for instruction in instructions.iter().rev() {
            let Some(&result) = instruction.results.first() else { continue };
            self.dot_only[result.0 as usize] = self.is_tile(result)
                && self.analysis.uses(result).iter().all(|r#use| match r#use {
                    Use::Operation(user) => match &user.operation {
                        Operation::Dot { lhs, rhs, accumulator } => {
                            (*lhs == result || *rhs == result) && *accumulator != result
                        }
                        operation
                            if is_elementwise(operation)
                                || matches!(
                                    operation,
                                    Operation::Transpose(_)
                                        | Operation::Rearrange { .. }
                                        | Operation::Dequantize { .. }
                                ) =>
                        {
                            self.dot_only[user.results[0].0 as usize]
                        }
                        _ => false,
                    },
                    Use::Carried => false,
                })
                && !self.analysis.uses(result).is_empty();
        }
        for instruction in instructions {
            let Some(&result) = instruction.results.first() else { continue };
            let index = result.0 as usize;
            if self.is_ahead(&instruction.operation, result) {
                self.plan.ahead.insert(result);
                self.plan.virtuals[index] = true;
                continue;
            }
            if let Some(staging) = self.staging(&instruction.operation, result) {
                self.plan.staged.insert(result, staging);
                self.plan.virtuals[index] = true;
                continue;
            }
            let reads_staged = || {
                self.dot_only[index]
                    && (is_elementwise(&instruction.operation)
                        || matches!(instruction.operation, Operation::Transpose(_)))
                    && instruction
                        .operation
                        .operands()
                        .iter()
                        .any(|&operand| self.plan.virtuals[operand.0 as usize] && !self.cheap[operand.0 as usize])
            };
            // Broadcasts and rearrangements are choices of registers.
            let broadcast = self.is_tile(result)
                && matches!(instruction.operation, Operation::Broadcast { .. } | Operation::Rearrange { .. });
            let dequantized = matches!(instruction.operation, Operation::Dequantize { .. }) && self.dot_only[index];
            self.plan.virtuals[index] = self.cheap[index] || broadcast || dequantized || reads_staged();
        }
    }

    /// Whether a load goes to registers, ahead of the dots which want it: scales, which are too few bytes of a row to copy them asynchronously,
    /// what lies in memory as fragments do, and few rows that meet such fragments.
    fn is_ahead(&self, operation: &Operation, result: Value) -> bool {
        let Operation::Load { tensor, .. } = operation else { return false };
        let is_read = self.analysis.program.tensor(*tensor).is_some_and(|tensor| tensor.access == Access::Read);
        let is_weight = || {
            self.dot_only[result.0 as usize]
                && self.is_used_by(result, &|user| match user.operation {
                    Operation::Dequantize { scales, .. } => scales == result,
                    Operation::Rearrange { .. } => true,
                    _ => false,
                })
        };
        is_read && (is_weight() || self.meets_fragments(result))
    }

    /// Whether a value is the right operand of dots alone, of no more columns than an instruction has, whose left operands lie in memory as
    /// fragments do.
    fn meets_fragments(&self, value: Value) -> bool {
        self.is_used_by(value, &|user| match user.operation {
            Operation::Transpose(_) | Operation::Broadcast { .. } => {
                user.results.iter().all(|&result| self.meets_fragments(result))
            }
            Operation::Dot { lhs, rhs, .. } => {
                rhs == value && lhs != value && self.shape(rhs)[1] <= COLUMNS && is_rearranged(self.analysis, lhs)
            }
            _ => false,
        })
    }

    /// Whether all that uses a value are instructions of a sort.
    fn is_used_by(&self, value: Value, holds: &dyn Fn(&Instruction) -> bool) -> bool {
        let uses = self.analysis.uses(value);
        !uses.is_empty()
            && uses.iter().all(|r#use| match r#use {
                Use::Operation(user) => holds(user),
                Use::Carried => false,
            })
    }

    /// How a load goes to shared memory, if all that wants it are dots.
    fn staging(&self, operation: &Operation, result: Value) -> Option<Staging> {
        let Operation::Load { tensor, coordinates, mask, other } = operation else { return None };
        let argument = self.analysis.program.tensor(*tensor)?;
        let shape = self.shape(result);
        if !self.dot_only[result.0 as usize] || shape.len() != 2 || argument.access != Access::Read {
            return None;
        }
        let access = access_shape_of(self.analysis, *tensor, coordinates, *mask)?;
        let bytes = access.vector * argument.element.bytes() as u32;
        let zero = match other {
            crate::tile::Literal::Float(value) => *value == 0.0,
            crate::tile::Literal::Integer(value) => *value == 0,
        };
        let layout = Layout::blocked(shape, access.fastest, access.vector, self.warps);
        Some(Staging { access, layout, asynchronous: bytes >= 4 && zero })
    }

    /// Unites values that flow into each other elementwise.
    fn group(&mut self, block: &Block) {
        for instruction in &block.instructions {
            let operation = &instruction.operation;
            match operation {
                Operation::For { initial, body, .. } => {
                    for (position, &result) in instruction.results.iter().enumerate() {
                        self.unite(result, initial[position]);
                        self.unite(result, body.parameters[position + 1]);
                        self.unite(result, body.yields[position]);
                    }
                    self.group(body);
                }
                Operation::Dot { accumulator, .. } => self.unite(instruction.results[0], *accumulator),
                Operation::Load { mask: Some(mask), .. } => self.unite(instruction.results[0], *mask),
                Operation::Store { mask: Some(mask), value, .. } => self.unite(*value, *mask),
                operation if is_elementwise(operation) => {
                    for operand in operation.operands() {
                        self.unite(instruction.results[0], operand);
                    }
                }
                _ => {}
            }
        }
    }

    fn unite(&mut self, a: Value, b: Value) {
        if self.has_home(a) && self.has_home(b) {
            let (a, b) = (self.group_of(a), self.group_of(b));
            self.groups[a as usize] = b;
        }
    }

    fn has_home(&self, value: Value) -> bool {
        self.is_tile(value) && !self.plan.virtuals[value.0 as usize]
    }

    fn group_of(&mut self, value: Value) -> u32 {
        let mut group = value.0;
        while self.groups[group as usize] != group {
            let parent = self.groups[group as usize];
            self.groups[group as usize] = self.groups[parent as usize];
            group = parent;
        }
        group
    }

    fn layout_of(&mut self, value: Value) -> Option<Layout> {
        let group = self.group_of(value);
        self.plan.homes[group as usize].clone()
    }

    fn set_layout(&mut self, value: Value, layout: Layout) -> bool {
        if !self.has_home(value) {
            return false;
        }
        let group = self.group_of(value) as usize;
        if self.plan.homes[group].is_some() {
            return false;
        }
        self.plan.homes[group] = Some(layout);
        true
    }

    fn plan_dots(&mut self, instructions: &[&Instruction], chip: Chip) -> Result<(), Error> {
        // The left operand of a dot that comes from registers stays there if every warp holds whole rows of it.
        let rows_in_warps = instructions.iter().any(|instruction| match &instruction.operation {
            Operation::Dot { lhs, .. } => !self.plan.is_virtual(*lhs),
            _ => false,
        });
        for instruction in instructions {
            let Operation::Dot { lhs, rhs, accumulator } = &instruction.operation else { continue };
            let element = self.analysis.program.type_of(*lhs).element;
            let (m, k, n) = (self.shape(*lhs)[0], self.shape(*lhs)[1], self.shape(*rhs)[1]);
            let result = instruction.results[0];
            let fits = |depth: u32| k >= depth && n >= 8;
            let method = match element {
                Element::F16 | Element::BF16 if fits(16) => DotMethod::TensorCore(element),
                Element::Fp8E4M3 | Element::Fp8E5M2 if chip.multiplies_fp8() && fits(32) => {
                    DotMethod::TensorCore(element)
                }
                Element::Fp8E4M3 | Element::Fp8E5M2 if fits(16) => DotMethod::TensorCore(Element::F16),
                element if element.is_float() => DotMethod::MultiplyAdd,
                element => {
                    return Err(Error::Unsupported {
                        value: result,
                        what: format!("a dot of {} operands", element.name()),
                    });
                }
            };
            let plan = match method {
                DotMethod::TensorCore(element) => {
                    let converts = element.bytes() == 2
                        && [(*lhs, 1), (*rhs, 0)].iter().any(|&(operand, k)| self.is_narrow_along(operand, k))
                        && self.plan.is_virtual(*lhs);
                    let [left, right] =
                        [*lhs, *rhs].map(|side| self.plan.is_virtual(side) && is_dequantized(self.analysis, side));
                    let packed = left || right;
                    // Few columns are many bytes of weights for each: warps share out the inner dimension, so that there are more of them.
                    let is_deep = n <= COLUMNS && k >> self.warps >= DEEP && is_rearranged(self.analysis, *lhs);
                    let split = match rows_in_warps || left {
                        true if left && is_deep => WarpSplit::Depth,
                        true => WarpSplit::Rows,
                        false if right => WarpSplit::Columns,
                        false => WarpSplit::Even,
                    };
                    let run = match word_run(element.bytes() as u32) {
                        // Sixteen elements are half a block, eight bytes of E2M1 and two accesses to the other operand.
                        _ if packed && element.bytes() == 2 => (k.trailing_zeros() - 2).min(4),
                        _ if converts => 2,
                        run => run,
                    };
                    fragments([m, k, n], run, self.warps, split)
                }
                DotMethod::MultiplyAdd => multiply_add(m, n, self.warps),
            };
            let plan = DotPlan { method, ..plan };
            self.set_layout(*accumulator, plan.accumulator.clone());
            self.set_layout(result, plan.accumulator.clone());
            self.plan.dots.insert(result, plan);
        }
        for instruction in instructions {
            self.find_split_sums(instruction);
        }
        Ok(())
    }

    /// Finds the sums of a loop that its warps can keep apart until the loop has ended: dots add to them, and nothing else looks at them.
    fn find_split_sums(&mut self, instruction: &Instruction) {
        let Operation::For { body, .. } = &instruction.operation else { return };
        for (position, &sum) in body.parameters.iter().skip(1).enumerate() {
            let &[Use::Operation(Instruction { results, operation: Operation::Dot { accumulator, .. } })] =
                self.analysis.uses(sum)
            else {
                continue;
            };
            let (next, total) = (results[0], instruction.results[position]);
            let is_split = self.plan.dots.get(&next).is_some_and(|plan| plan.is_split);
            let is_carried = matches!(self.analysis.uses(next), [Use::Carried]);
            if is_split && is_carried && *accumulator == sum && body.yields[position] == next {
                self.plan.split_sums.extend([next, total]);
            }
        }
    }

    /// Whether an operand comes from a tile of 8-bit elements in shared memory that is contiguous along one of the operand's dimensions.
    fn is_narrow_along(&self, operand: Value, dimension: usize) -> bool {
        staged_root(self.analysis, operand).is_some_and(|(root, transposed)| {
            let narrow = self.analysis.program.type_of(root).element.bytes() == 1;
            let along = if transposed { 1 - dimension } else { dimension };
            narrow && self.plan.staged.get(&root).is_some_and(|staging| staging.access.fastest == along)
        })
    }

    /// Gives every group a layout.
    fn assign(&mut self, instructions: &[&Instruction]) {
        loop {
            while self.propagate(instructions) {}
            let Some((value, layout)) = self.next_anchor(instructions) else { break };
            self.set_layout(value, layout);
        }
        for index in 0..self.groups.len() as u32 {
            let value = Value(index);
            if self.has_home(value) && self.layout_of(value).is_none() {
                let shape = self.shape(value).to_vec();
                let layout = self.blocked(&shape, AccessShape { fastest: shape.len() - 1, vector: 4 });
                self.set_layout(value, layout);
            }
        }
        for index in 0..self.groups.len() as u32 {
            let layout = if !self.is_tile(Value(index)) {
                Some(Layout::dealt(&[], 0, self.warps))
            } else if self.has_home(Value(index)) {
                self.layout_of(Value(index))
            } else {
                None
            };
            self.plan.homes[index as usize] = layout;
        }
    }

    fn blocked(&self, shape: &[u32], access: AccessShape) -> Layout {
        let threads = 32 << self.warps;
        let share = (shape.iter().product::<u32>() / threads).max(1);
        Layout::blocked(shape, access.fastest, access.vector.min(share), self.warps)
    }

    /// Hands layouts on through operations that are not elementwise. True if any group got one.
    fn propagate(&mut self, instructions: &[&Instruction]) -> bool {
        let mut changed = false;
        for instruction in instructions {
            let results: SmallVec<[Value; 1]> = instruction.results.clone();
            changed |= self.demand_operands(instruction);
            match &instruction.operation {
                Operation::Reduce { value, axis, .. } => {
                    if let Some(layout) = self.layout_of(*value) {
                        let layout = layout.reduce(self.shape(*value), usize::from(*axis));
                        changed |= self.set_layout(results[0], layout);
                    }
                }
                Operation::Transpose(value) => {
                    if let Some(layout) = self.layout_of(results[0]) {
                        let layout = layout.transpose(self.shape(results[0]));
                        changed |= self.set_layout(*value, layout);
                    } else if let Some(layout) = self.layout_of(*value) {
                        let layout = layout.transpose(self.shape(*value));
                        changed |= self.set_layout(results[0], layout);
                    }
                }
                Operation::Load { coordinates, .. } => {
                    let layout = match self.plan.staged.get(&results[0]) {
                        Some(staging) => Some(staging.layout.clone()),
                        None => self.layout_of(results[0]),
                    };
                    changed |= self.propagate_gather(coordinates, results[0], layout);
                }
                Operation::Store { coordinates, value, .. } => {
                    let layout = self.layout_of(*value);
                    changed |= self.propagate_gather(coordinates, *value, layout);
                }
                _ => {}
            }
        }
        changed
    }

    /// Asks the operands of an instruction for the layouts that it reads them in.
    fn demand_operands(&mut self, instruction: &Instruction) -> bool {
        let mut changed = false;
        match &instruction.operation {
            Operation::Dot { lhs, rhs, .. } => {
                let layouts = self.plan.dots.get(&instruction.results[0]).and_then(|plan| match plan.method {
                    DotMethod::TensorCore(_) => Some([plan.lhs.clone(), plan.rhs.clone()]),
                    DotMethod::MultiplyAdd => None,
                });
                for (&operand, layout) in [lhs, rhs].into_iter().zip(layouts.into_iter().flatten()) {
                    // Tiles of their own keep away from fragments; what is broadcast into them does not matter as much.
                    if self.plan.is_virtual(operand) {
                        changed |= self.demand(operand, &layout);
                    }
                }
            }
            Operation::Store { value, mask, .. } => {
                if let (Some(layout), Some(mask)) = (self.layout_of(*value), mask) {
                    changed |= self.demand(*mask, &layout);
                }
            }
            operation if is_elementwise(operation) || matches!(operation, Operation::Load { .. }) => {
                if let Some(layout) = self.layout_of(instruction.results[0]) {
                    for operand in operation.operands() {
                        if self.shape(operand) == self.shape(instruction.results[0]) {
                            changed |= self.demand(operand, &layout);
                        }
                    }
                }
            }
            _ => {}
        }
        changed
    }

    /// Asks a value for a layout: one that has none yet and is no virtual one takes it.
    fn demand(&mut self, value: Value, layout: &Layout) -> bool {
        if !self.is_tile(value) {
            return false;
        }
        if self.has_home(value) {
            return self.set_layout(value, layout.clone());
        }
        virtual_operands(self.analysis, value, layout)
            .into_iter()
            .fold(false, |changed, (operand, layout)| self.demand(operand, &layout) | changed)
    }

    fn propagate_gather(&mut self, coordinates: &[Coordinate], tile: Value, layout: Option<Layout>) -> bool {
        let Some(layout) = layout else { return false };
        let mut changed = false;
        for (coordinate, dimension) in coordinates.iter().zip(tile_dimensions(coordinates)) {
            if let (Coordinate::Gather(indices), Some(dimension)) = (coordinate, dimension) {
                let layout = layout.project(self.shape(tile), &[dimension]);
                changed |= self.set_layout(*indices, layout);
            }
        }
        changed
    }

    /// The widest memory access of the largest group that has no layout yet.
    fn next_anchor(&mut self, instructions: &[&Instruction]) -> Option<(Value, Layout)> {
        let mut best: Option<(usize, u32, Value, AccessShape)> = None;
        for instruction in instructions {
            let (value, access) = match &instruction.operation {
                Operation::Load { tensor, coordinates, mask, .. } => {
                    (instruction.results[0], access_shape_of(self.analysis, *tensor, coordinates, *mask))
                }
                Operation::Store { tensor, coordinates, mask, value } => {
                    (*value, access_shape_of(self.analysis, *tensor, coordinates, *mask))
                }
                _ => continue,
            };
            let Some(access) = access else { continue };
            if !self.has_home(value) || self.layout_of(value).is_some() {
                continue;
            }
            let elements = self.shape(value).iter().product::<u32>() as usize;
            if best.is_none_or(|(most, vector, ..)| (elements, access.vector) > (most, vector)) {
                best = Some((elements, access.vector, value, access));
            }
        }
        // A group without an access that is larger goes first: what it is reduced to should follow it.
        let unanchored = instructions.iter().flat_map(|instruction| instruction.results.clone()).find(|&value| {
            self.has_home(value)
                && self.layout_of(value).is_none()
                && self.shape(value).len() > 1
                && best.is_none_or(|(most, ..)| self.shape(value).iter().product::<u32>() as usize > most)
        });
        if let Some(value) = unanchored {
            let shape = self.shape(value).to_vec();
            return Some((value, self.blocked(&shape, AccessShape { fastest: shape.len() - 1, vector: 4 })));
        }
        best.map(|(_, _, value, access)| (value, self.blocked(self.shape(value), access)))
    }
}
