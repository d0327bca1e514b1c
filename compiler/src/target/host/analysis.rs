//! What is known of a program before code is written: which tiles need memory, what is used how far, what stays the same along the grid.

use smallvec::SmallVec;

use super::dot::STREAMED_ROWS;
use crate::tile::{
    Access, Argument, ArgumentIndex, BinaryOperation, Block, Coordinate, Dimension, Element, GridExtent, Instruction,
    Literal, Operation, Program, TensorArgument, UnaryOperation, Value,
};

/// How much of a tile dimension is ever looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Demand {
    /// Nothing yet.
    None,
    /// The part from the front that lies inside a tensor of this extent when the tile starts at `start`.
    Inside {
        /// Scalar index of the tile's first element in the tensor.
        start: Value,
        /// Extent of the tensor.
        extent: Dimension,
    },
    /// All of it.
    Full,
}

impl Demand {
    fn join(self, other: Self) -> Self {
        match (self, other) {
            (Self::None, demand) | (demand, Self::None) => demand,
            (a, b) if a == b => a,
            _ => Self::Full,
        }
    }
}

/// Values that are no function of others: coordinates of the grid and counters of loops.
pub(super) type Origins = SmallVec<[Value; 4]>;

/// Facts about every value of a program.
pub(super) struct Analysis<'p> {
    program: &'p Program,
    definitions: Vec<Option<&'p Operation>>,
    /// Whether the tile is computed once into memory; others are recomputed where they are used.
    materialized: Vec<bool>,
    /// Whether the value may differ between programs that differ in their first grid coordinate alone.
    varies_along_x: Vec<bool>,
    /// The coordinates of the grid and the counters of loops that the value is made of; `None` if of something else that changes too.
    origins: Vec<Option<Origins>>,
    /// Whether the tile is computed into memory once for all programs that it is the same for.
    kept: Vec<bool>,
    demands: Vec<SmallVec<[Demand; 3]>>,
    /// Bounds of integer scalars, where known.
    ranges: Vec<Option<(i64, i64)>>,
    uses: Vec<u32>,
}

/// Adds the values that are missing.
pub(super) fn join(values: &mut Origins, more: &[Value]) {
    for &value in more {
        if !values.contains(&value) {
            values.push(value);
        }
    }
}

/// Work per element of recomputing an operation, in simple operations.
fn cost(operation: &Operation, element: Element) -> u32 {
    match operation {
        Operation::Unary(kind, _) => match kind {
            UnaryOperation::Negate | UnaryOperation::Absolute | UnaryOperation::Not | UnaryOperation::Floor => 1,
            UnaryOperation::Sqrt | UnaryOperation::Rsqrt => 6,
            _ => 16,
        },
        Operation::Binary(kind, ..) => match kind {
            BinaryOperation::Divide if element.is_float() => 6,
            BinaryOperation::Divide => 8,
            BinaryOperation::Remainder | BinaryOperation::Power => 32,
            _ => 1,
        },
        Operation::Cast(_) => match element {
            Element::Fp8E4M3 | Element::Fp8E5M2 => 10,
            Element::F16 | Element::BF16 => 4,
            _ => 1,
        },
        Operation::Load { coordinates, .. } => {
            if coordinates.iter().any(|coordinate| matches!(coordinate, Coordinate::Gather(_))) { 4 } else { 1 }
        }
        Operation::Compare(..) | Operation::Select(..) => 1,
        _ => 0,
    }
}

/// A tile whose recomputation costs at least this much is computed once if it is used more than once.
const EXPENSIVE: u32 = 12;

impl<'p> Analysis<'p> {
    pub(super) fn new(program: &'p Program) -> Self {
        let count = program.types.len();
        let mut analysis = Self {
            program,
            definitions: vec![None; count],
            materialized: vec![false; count],
            varies_along_x: vec![false; count],
            origins: vec![None; count],
            kept: vec![false; count],
            demands: program.types.iter().map(|tile| SmallVec::from_elem(Demand::None, tile.shape.len())).collect(),
            ranges: vec![None; count],
            uses: vec![0; count],
        };
        analysis.forward(&program.body);
        analysis.choose_materialized();
        analysis.spread_demand(&program.body);
        analysis.choose_kept(&program.body);
        analysis
    }

    pub(super) fn definition(&self, value: Value) -> Option<&'p Operation> {
        self.definitions[value.0 as usize]
    }

    pub(super) fn is_materialized(&self, value: Value) -> bool {
        self.materialized[value.0 as usize]
    }

    pub(super) fn varies_along_x(&self, value: Value) -> bool {
        self.varies_along_x[value.0 as usize]
    }

    /// Whether a tile is computed into memory once for all programs that it is the same for.
    pub(super) fn is_kept(&self, value: Value) -> bool {
        self.kept[value.0 as usize]
    }

    /// How many tiles are.
    pub(super) fn kept_values(&self) -> u64 {
        self.kept.iter().map(|&kept| u64::from(kept)).sum()
    }

    /// The coordinates of the grid and the counters of loops that a value, and how much of it is computed, depends on. `None` if there is something else.
    pub(super) fn origins(&self, value: Value) -> Option<Origins> {
        let mut origins = self.origins[value.0 as usize].clone()?;
        for demand in &self.demands[value.0 as usize] {
            if let Demand::Inside { start, .. } = demand {
                join(&mut origins, self.origins[start.0 as usize].as_deref()?);
            }
        }
        Some(origins)
    }

    pub(super) fn is_used(&self, value: Value) -> bool {
        self.uses[value.0 as usize] > 0
    }

    pub(super) fn demand(&self, value: Value, dimension: usize) -> Demand {
        self.demands[value.0 as usize][dimension]
    }

    /// The integer that a scalar always is, if it is known.
    pub(super) fn constant(&self, value: Value) -> Option<i64> {
        self.ranges[value.0 as usize].filter(|(low, high)| low == high).map(|(low, _)| low)
    }

    /// Whether `length` indices from `start` lie inside an extent for certain.
    pub(super) fn always_inside(&self, start: Value, length: u32, extent: Dimension) -> bool {
        match (self.ranges[start.0 as usize], extent) {
            (Some((low, high)), Dimension::Constant(extent)) => {
                low >= 0 && u64::try_from(high).is_ok_and(|high| high + u64::from(length) <= extent)
            }
            _ => false,
        }
    }

    /// Whether a single index always lies inside: by its range, or because it counts the programs along that very extent.
    pub(super) fn always_at(&self, index: Value, extent: Dimension) -> bool {
        let counts = |instruction: &Instruction| {
            let Operation::ProgramId(axis) = instruction.operation else { return false };
            instruction.results.contains(&index)
                && self.program.grid[usize::from(axis)] == GridExtent::Tiles { dimension: extent, block: 1 }
        };
        self.always_inside(index, 1, extent) || self.program.body.instructions.iter().any(counts)
    }

    /// Whether an instruction leaves memory outside the kernel as it is and could run earlier.
    pub(super) fn is_pure(&self, instruction: &Instruction) -> bool {
        match &instruction.operation {
            Operation::Store { .. } => false,
            Operation::Load { tensor, .. } => self.tensor(*tensor).access == Access::Read,
            Operation::For { body, .. } => body.instructions.iter().all(|inner| self.is_pure(inner)),
            _ => true,
        }
    }

    /// The tensor argument at an index. The verifier has seen that it is one.
    pub(super) fn tensor(&self, index: ArgumentIndex) -> &'p TensorArgument {
        match &self.program.arguments[index.0 as usize] {
            Argument::Tensor(tensor) => tensor,
            _ => unreachable!("verified: accesses name tensor arguments"),
        }
    }

    fn forward(&mut self, block: &'p Block) {
        for instruction in &block.instructions {
            let operation = &instruction.operation;
            let mut varies = matches!(operation, Operation::ProgramId(0));
            for operand in operation.operands() {
                varies |= self.varies_along_x[operand.0 as usize];
                self.uses[operand.0 as usize] += 1;
            }
            for &result in &instruction.results {
                self.definitions[result.0 as usize] = Some(operation);
            }
            if let Operation::For { lower, upper, step, body, .. } = operation {
                let bounds_vary = self.varies_along_x[lower.0 as usize] || self.varies_along_x[upper.0 as usize];
                varies |= self.loop_varies(body, varies);
                for parameter in body.parameters.iter().skip(1) {
                    self.varies_along_x[parameter.0 as usize] = varies;
                }
                if let Some(&induction) = body.parameters.first() {
                    self.origins[induction.0 as usize] = Some(SmallVec::from_elem(induction, 1));
                    self.varies_along_x[induction.0 as usize] = bounds_vary;
                    if let (Some((low, _)), Some((_, high))) =
                        (self.ranges[lower.0 as usize], self.ranges[upper.0 as usize])
                    {
                        let step = i64::from(*step);
                        let trips = (high - 1 - low).max(0) / step;
                        self.ranges[induction.0 as usize] = Some((low, low + trips * step));
                    }
                }
                self.forward(body);
                for &value in &body.yields {
                    self.uses[value.0 as usize] += 1;
                }
            }
            for &result in &instruction.results {
                self.varies_along_x[result.0 as usize] = varies;
                self.origins[result.0 as usize] = self.origins_of(operation, result);
                self.ranges[result.0 as usize] = self.range(operation);
            }
        }
    }

    fn origins_of(&self, operation: &Operation, result: Value) -> Option<Origins> {
        match operation {
            Operation::ProgramId(_) => return Some(SmallVec::from_elem(result, 1)),
            Operation::For { .. } => return None,
            Operation::Load { tensor, .. } if self.tensor(*tensor).access != Access::Read => return None,
            _ => {}
        }
        let mut origins = Origins::new();
        for operand in operation.operands() {
            join(&mut origins, self.origins[operand.0 as usize].as_deref()?);
        }
        Some(origins)
    }

    /// Whether anything inside a loop differs along x, given whether its operands do.
    fn loop_varies(&self, body: &Block, varies: bool) -> bool {
        varies
            || body.instructions.iter().any(|instruction| match &instruction.operation {
                Operation::ProgramId(0) => true,
                Operation::For { body, .. } => self.loop_varies(body, false),
                _ => false,
            })
            || body.instructions.iter().any(|instruction| {
                instruction.operation.operands().iter().any(|operand| self.varies_along_x[operand.0 as usize])
            })
            || body.yields.iter().any(|value| self.varies_along_x[value.0 as usize])
    }

    fn range(&self, operation: &Operation) -> Option<(i64, i64)> {
        let of = |value: &Value| self.ranges[value.0 as usize];
        match operation {
            Operation::Constant(Literal::Integer(value)) => Some((*value, *value)),
            Operation::ProgramId(axis) => match self.program.grid[usize::from(*axis)] {
                GridExtent::Tiles { dimension: Dimension::Constant(extent), block } => {
                    Some((0, (extent.div_ceil(u64::from(block)) as i64 - 1).max(0)))
                }
                GridExtent::Tiles { .. } => None,
            },
            Operation::Binary(kind, a, b) => {
                // A minimum or maximum with a number bounds what is not known.
                let (a, b) = match kind {
                    BinaryOperation::Minimum | BinaryOperation::Maximum => {
                        let any = Some((i32::MIN.into(), i32::MAX.into()));
                        (of(a).or(of(b).and(any))?, of(b).or(any)?)
                    }
                    _ => (of(a)?, of(b)?),
                };
                let ((a_low, a_high), (b_low, b_high)) = (a, b);
                match kind {
                    BinaryOperation::Add => Some((a_low.checked_add(b_low)?, a_high.checked_add(b_high)?)),
                    BinaryOperation::Subtract => Some((a_low.checked_sub(b_high)?, a_high.checked_sub(b_low)?)),
                    BinaryOperation::Multiply if a_low >= 0 && b_low >= 0 => {
                        Some((a_low.checked_mul(b_low)?, a_high.checked_mul(b_high)?))
                    }
                    BinaryOperation::Divide if a_low >= 0 && b_low > 0 => Some((a_low / b_high, a_high / b_low)),
                    BinaryOperation::Remainder if a_low >= 0 && b_low > 0 => Some((0, a_high.min(b_high - 1))),
                    BinaryOperation::Minimum => Some((a_low.min(b_low), a_high.min(b_high))),
                    BinaryOperation::Maximum => Some((a_low.max(b_low), a_high.max(b_high))),
                    _ => None,
                }
            }
            _ => None,
        }
        .filter(|&(low, high)| i32::try_from(low).is_ok() && i32::try_from(high).is_ok())
    }

    fn choose_materialized(&mut self) {
        let count = self.program.types.len();
        let mut tree_cost = vec![0u32; count];
        let mut evaluations = vec![0u32; count];
        self.forward_costs(&self.program.body, &mut tree_cost);
        self.backward_evaluations(&self.program.body, &tree_cost, &mut evaluations);
    }

    fn forward_costs(&self, block: &Block, tree_cost: &mut [u32]) {
        for instruction in &block.instructions {
            let operation = &instruction.operation;
            if let Operation::For { body, .. } = operation {
                self.forward_costs(body, tree_cost);
                continue;
            }
            let Some(&result) = instruction.results.first() else { continue };
            let element = self.program.type_of(result).element;
            let operands = operation.operands().iter().fold(0u32, |sum, operand| {
                if self.program.type_of(*operand).is_scalar() {
                    sum
                } else {
                    sum.saturating_add(tree_cost[operand.0 as usize])
                }
            });
            tree_cost[result.0 as usize] = match operation {
                Operation::Reduce { .. } | Operation::Dot { .. } => 0,
                _ => operands.saturating_add(cost(operation, element)),
            };
        }
    }

    /// Walks from uses to definitions, counting how often each tile would be recomputed. `evaluations` counts loops by weight.
    fn backward_evaluations(&mut self, block: &Block, tree_cost: &[u32], evaluations: &mut [u32]) {
        for &value in &block.yields {
            evaluations[value.0 as usize] += 1;
            if !self.program.type_of(value).is_scalar() {
                self.materialized[value.0 as usize] = true;
            }
        }
        for instruction in block.instructions.iter().rev() {
            let operation = &instruction.operation;
            if let Operation::For { body, initial, .. } = operation {
                for &value in initial {
                    evaluations[value.0 as usize] += 1;
                }
                let before = evaluations.to_vec();
                self.backward_evaluations(body, tree_cost, evaluations);
                // What comes from outside is recomputed in every iteration.
                for (count, before) in evaluations.iter_mut().zip(before) {
                    *count = before.saturating_add((*count - before).saturating_mul(8));
                }
                continue;
            }
            let Some(&result) = instruction.results.first() else {
                for operand in operation.operands() {
                    evaluations[operand.0 as usize] += 1;
                }
                continue;
            };
            let position = result.0 as usize;
            let scalar = self.program.type_of(result).is_scalar();
            let must = match operation {
                Operation::Reduce { .. } | Operation::Dot { .. } => true,
                Operation::Load { tensor, .. } => self.tensor(*tensor).access != Access::Read,
                Operation::Transpose(_) | Operation::Broadcast { .. } | Operation::Constant(_) | Operation::Iota => {
                    false
                }
                // Eight times as large as what it is made of.
                Operation::Dequantize { .. } => false,
                _ => evaluations[position] > 1 && tree_cost[position] >= EXPENSIVE,
            };
            if must && !scalar {
                self.materialized[position] = true;
            }
            let times = if scalar || self.materialized[position] { 1 } else { evaluations[position] };
            let repetition = match operation {
                // A row or column is recomputed along the other dimension.
                Operation::Broadcast { .. } => 4,
                Operation::Dot { .. } => 2,
                _ => 1,
            };
            for operand in operation.operands() {
                let count = &mut evaluations[operand.0 as usize];
                *count = count.saturating_add(times.saturating_mul(repetition));
            }
        }
    }

    /// Keeps what the left-hand sides of products with few rows are made of.
    fn choose_kept(&mut self, block: &'p Block) {
        for instruction in &block.instructions {
            match &instruction.operation {
                Operation::For { body, .. } => self.choose_kept(body),
                Operation::Dot { lhs, .. } if self.program.type_of(*lhs).shape[0] <= STREAMED_ROWS => self.keep(*lhs),
                _ => {}
            }
        }
    }

    fn keep(&mut self, value: Value) {
        if self.program.type_of(value).is_scalar() || self.kept[value.0 as usize] {
            return;
        }
        let Some(operation) = self.definition(value) else { return };
        if matches!(operation, Operation::For { .. } | Operation::Dot { .. }) {
            return;
        }
        self.kept[value.0 as usize] = self.is_materialized(value) && self.origins(value).is_some();
        for operand in operation.operands() {
            self.keep(operand);
        }
    }

    fn demand_on(&mut self, value: Value, dimension: usize, demand: Demand) -> bool {
        let slot = &mut self.demands[value.0 as usize][dimension];
        let joined = slot.join(demand);
        let changed = *slot != joined;
        *slot = joined;
        changed
    }

    fn demand_all(&mut self, value: Value, demands: &[Demand]) -> bool {
        demands
            .iter()
            .enumerate()
            .fold(false, |changed, (dimension, &demand)| self.demand_on(value, dimension, demand) | changed)
    }

    /// Hands demand from results to operands, from the end of a block to its start; loops until nothing changes.
    fn spread_demand(&mut self, block: &'p Block) -> bool {
        let mut changed = false;
        for instruction in block.instructions.iter().rev() {
            changed |= match &instruction.operation {
                Operation::For { initial, body, .. } => self.spread_loop(instruction, initial, body),
                Operation::Store { tensor, coordinates, mask, value } => {
                    self.spread_store(*tensor, coordinates, *mask, *value)
                }
                operation => match instruction.results.first() {
                    Some(&result) => self.spread_result(operation, result),
                    None => false,
                },
            };
        }
        changed
    }

    fn spread_loop(&mut self, instruction: &Instruction, initial: &[Value], body: &'p Block) -> bool {
        let mut changed_ever = false;
        loop {
            let mut changed = false;
            let carried = instruction.results.iter().zip(body.parameters.iter().skip(1));
            for ((&result, &parameter), (&next, &first)) in carried.zip(body.yields.iter().zip(initial)) {
                for wanted in [result, parameter] {
                    let demands = self.demands[wanted.0 as usize].clone();
                    changed |= self.demand_all(next, &demands);
                    changed |= self.demand_all(first, &demands);
                }
            }
            changed |= self.spread_demand(body);
            changed_ever |= changed;
            if !changed {
                return changed_ever;
            }
        }
    }

    fn spread_store(
        &mut self,
        tensor: ArgumentIndex,
        coordinates: &[Coordinate],
        mask: Option<Value>,
        value: Value,
    ) -> bool {
        let extents = &self.tensor(tensor).extents;
        let mut demands: SmallVec<[Demand; 4]> = SmallVec::new();
        let mut changed = false;
        for (coordinate, &extent) in coordinates.iter().zip(extents) {
            match *coordinate {
                Coordinate::At(_) => {}
                Coordinate::Block { start, length } if self.always_inside(start, length, extent) => {
                    demands.push(Demand::Full);
                }
                Coordinate::Block { start, .. } => demands.push(Demand::Inside { start, extent }),
                Coordinate::Gather(indices) => {
                    changed |= self.demand_on(indices, 0, Demand::Full);
                    demands.push(Demand::Full);
                }
            }
        }
        if let Some(mask) = mask {
            changed |= self.demand_all(mask, &demands);
        }
        self.demand_all(value, &demands) | changed
    }

    fn spread_result(&mut self, operation: &Operation, result: Value) -> bool {
        let demands = self.demands[result.0 as usize].clone();
        match operation {
            Operation::Transpose(value) => self.demand_all(*value, &[demands[1], demands[0]]),
            Operation::Broadcast { value, axes } => {
                let picked: SmallVec<[Demand; 3]> = axes.iter().map(|&axis| demands[usize::from(axis)]).collect();
                self.demand_all(*value, &picked)
            }
            Operation::Reduce { value, axis, .. } => {
                let mut spread = demands;
                spread.insert(usize::from(*axis), Demand::Full);
                self.demand_all(*value, &spread)
            }
            Operation::Dequantize { elements, scales } => {
                let mut spread = demands;
                if let Some(last) = spread.last_mut() {
                    *last = Demand::Full;
                }
                self.demand_all(*elements, &spread) | self.demand_all(*scales, &spread)
            }
            Operation::Dot { lhs, rhs, accumulator } => {
                self.demand_all(*lhs, &[demands[0], Demand::Full])
                    | self.demand_all(*rhs, &[Demand::Full, demands[1]])
                    | self.demand_all(*accumulator, &demands)
            }
            Operation::Load { coordinates, mask, .. } => {
                let mut changed = false;
                let mut dimension = 0;
                for coordinate in coordinates {
                    match *coordinate {
                        Coordinate::At(_) => {}
                        Coordinate::Block { .. } => dimension += 1,
                        Coordinate::Gather(indices) => {
                            changed |= self.demand_on(indices, 0, demands[dimension]);
                            dimension += 1;
                        }
                    }
                }
                if let Some(mask) = mask {
                    changed |= self.demand_all(*mask, &demands);
                }
                changed
            }
            elementwise => elementwise.operands().iter().fold(false, |changed, &operand| {
                let rank = self.program.type_of(operand).shape.len();
                (rank == demands.len() && self.demand_all(operand, &demands)) | changed
            }),
        }
    }
}
