//! How a block of each op's result is computed from blocks of its operands.
//!
//! One entry for each op, in [`Emitter::compute`]. To add an op, say here where its operands are needed and what is done with
//! them; every kernel that it can be fused into follows from that.

use smallvec::SmallVec;
use tessera_ir::{ConstantValue, NodeKind, Op, OpAttributes, Operation, Storage, TensorType, ValueId, ops};

use super::access::{Memory, element_of};
use super::arguments::Buffer;
use super::emitter::{Block, Emitter, Key, Part, arithmetic_element};
use super::error::Cut;
use super::index::{Index, Position};
use crate::tile::{BinaryOperation, Dimension, Element, Literal, Predicate, Reduction, UnaryOperation};

/// An operation of the region, and where its result is wanted.
pub struct Site<'s> {
    /// The wanted value.
    pub value: ValueId,
    /// The operation that defines it.
    pub operation: &'s Operation,
    /// Its operands.
    pub operands: SmallVec<[ValueId; 4]>,
    /// Where.
    pub position: &'s [Index],
}

impl Site<'_> {
    /// The typed attributes.
    pub fn attributes<A: OpAttributes>(&self) -> Result<A, Cut> {
        self.operation.downcast().ok_or_else(|| Cut::never(self.value, "an attribute is out of range"))
    }
}

impl Emitter<'_> {
    /// The tensor type of a value.
    pub fn tensor_type(&self, value: ValueId) -> Result<&TensorType, Cut> {
        let ty = self.graph.value_type(value).as_tensor();
        ty.ok_or_else(|| Cut::never(value, "a cache is not a tensor"))
    }

    /// The element that a value is stored in.
    pub fn storage_element(&self, value: ValueId) -> Result<Element, Cut> {
        let storage = self.tensor_type(value)?.storage();
        element_of(storage).ok_or_else(|| Cut::never(value, format!("there are no kernels for {storage} yet")))
    }

    /// The block of a value at a position: one index for each dimension. Its element is the storage of the value or the one that
    /// arithmetic on it is done in.
    pub fn emit(&mut self, value: ValueId, position: &[Index]) -> Result<Block, Cut> {
        let key = Key { value, part: Part::Whole, position: SmallVec::from(position) };
        if let Some(block) = self.known(&key) {
            return Ok(block);
        }
        let graph = self.graph;
        let block = match graph.node(value.node).kind() {
            NodeKind::Input(input) => {
                let memory = self.input_memory(value, *input)?;
                self.load(value, &memory, position)?
            }
            NodeKind::Parameter(name) => {
                return Err(Cut::never(
                    value,
                    format!("parameter `{name}` is used inside a kernel without being passed to it"),
                ));
            }
            NodeKind::Operation(operation) => {
                let operands = graph.operands(value.node);
                let site = Site { value, operation, operands, position };
                if is_worth_keeping(operation.op()) {
                    return self.once(key, |emitter| emitter.compute(&site));
                }
                self.compute(&site)?
            }
        };
        self.remember(key, block.clone());
        Ok(block)
    }

    /// Where an input of the region is.
    pub fn input_memory(&self, value: ValueId, input: usize) -> Result<Memory, Cut> {
        let element = self.storage_element(value)?;
        let extents = self.extents(&self.tensor_type(value)?.shape);
        let alignment = self.inputs.get(input).map_or(1, |input| input.alignment);
        Ok(Memory { buffer: Buffer::Input(input), element, extents, alignment })
    }

    /// The block of an operand at a position, in the element for arithmetic.
    pub fn operand(&mut self, site: &Site, operand: usize, position: &[Index]) -> Result<Block, Cut> {
        let block = self.emit(site.operands[operand], position)?;
        Ok(self.wide(&block))
    }

    /// Computes what [`prepare`](Emitter::prepare) was asked for.
    pub fn produce(&mut self, key: &Key) -> Result<Block, Cut> {
        match key.part {
            Part::Whole => self.emit(key.value, &key.position),
            part => self.statistic(key.value, part, &key.position),
        }
    }

    /// Computes blocks ahead of their use; matrix products of the same rows share one loop.
    pub fn prepare(&mut self, wanted: &[Key]) -> Result<(), Cut> {
        let graph = self.graph;
        let is_matmul =
            |key: &Key| key.part == Part::Whole && graph.operation(key.value.node).is_some_and(|op| op.is(ops::MATMUL));
        let mut products: Vec<Key> = Vec::new();
        for key in wanted.iter().filter(|key| is_matmul(key)) {
            if self.known(key).is_none() && !products.contains(key) {
                products.push(key.clone());
            }
        }
        while let Some(first) = products.first() {
            let (first, rest) = (first.clone(), products.clone());
            let (together, others): (Vec<Key>, Vec<Key>) =
                rest.into_iter().partition(|key| self.shares_loop(&first, key));
            self.matrix_products(&together)?;
            products = others;
        }
        for key in wanted.iter().filter(|key| !is_matmul(key)) {
            if self.known(key).is_none() {
                self.produce(key)?;
            }
        }
        Ok(())
    }

    /// The table: what each op computes.
    fn compute(&mut self, site: &Site) -> Result<Block, Cut> {
        use BinaryOperation as B;
        use UnaryOperation as U;
        match site.operation.op() {
            // One operand.
            ops::NEG => self.map(site, |e, x| e.unary(U::Negate, x)),
            ops::ABS => self.map(site, |e, x| e.unary(U::Absolute, x)),
            ops::EXP => self.map(site, |e, x| e.unary(U::Exp, x)),
            ops::LOG => self.map(site, |e, x| e.unary(U::Log, x)),
            ops::SQRT => self.map(site, |e, x| e.unary(U::Sqrt, x)),
            ops::RSQRT => self.map(site, |e, x| e.unary(U::Rsqrt, x)),
            ops::SIN => self.map(site, |e, x| e.unary(U::Sin, x)),
            ops::COS => self.map(site, |e, x| e.unary(U::Cos, x)),
            ops::TANH => self.map(site, |e, x| e.unary(U::Tanh, x)),
            ops::ERF => self.map(site, |e, x| e.unary(U::Erf, x)),
            ops::SIGMOID => self.map(site, Self::sigmoid),
            ops::SILU => self.map(site, |e, x| {
                let sigmoid = e.sigmoid(x);
                e.multiply(x, &sigmoid)
            }),
            ops::RELU => self.map(site, |e, x| {
                let zero = e.number(0.0, e.element(x));
                e.maximum(x, &zero)
            }),
            ops::GELU => {
                let ops::Gelu { approximate } = site.attributes()?;
                self.map(site, |e, x| e.gelu(x, approximate))
            }
            ops::NOT => self.map(site, |e, x| match e.element(x) {
                Element::Bool => e.unary(U::Not, x),
                element => {
                    let ones = e.number(-1.0, element);
                    e.binary(B::Xor, x, &ones)
                }
            }),
            ops::CAST => self.convert(site),
            // Two operands.
            ops::ADD => self.combine(site, B::Add),
            ops::SUB => self.combine(site, B::Subtract),
            ops::MUL => self.combine(site, B::Multiply),
            ops::DIV => self.combine(site, B::Divide),
            ops::MAXIMUM => self.combine(site, B::Maximum),
            ops::MINIMUM => self.combine(site, B::Minimum),
            ops::POWER => self.combine(site, B::Power),
            ops::REMAINDER => self.combine(site, B::Remainder),
            ops::AND => self.combine(site, B::And),
            ops::OR => self.combine(site, B::Or),
            ops::XOR => self.combine(site, B::Xor),
            ops::COMPARE => {
                let ops::Compare { predicate } = site.attributes()?;
                let [a, b] = self.pair(site)?;
                Ok(self.compare(comparison(predicate), &a, &b))
            }
            ops::SELECT => {
                let condition = self.emit(site.operands[0], site.position)?;
                let a = self.operand(site, 1, site.position)?;
                let b = self.operand(site, 2, site.position)?;
                Ok(self.select(&condition, &a, &b))
            }
            // Made from nothing.
            ops::CONSTANT => self.fill(site),
            ops::IOTA => {
                let ops::Iota { axis } = site.attributes()?;
                let index = self.lower(&site.position[axis]);
                let element = arithmetic_element(self.storage_element(site.value)?);
                Ok(self.cast(&index, element))
            }
            // Moved.
            ops::BROADCAST => {
                let ops::Broadcast { axes } = site.attributes()?;
                let shape = self.tensor_type(site.operands[0])?.shape.clone();
                let position: Position = (axes.iter().zip(shape.iter()))
                    .map(|(axis, dim)| match dim.as_static() {
                        Some(1) => Index::default(),
                        _ => site.position[*axis].clone(),
                    })
                    .collect();
                self.emit(site.operands[0], &position)
            }
            ops::RESHAPE => {
                let source = self.tensor_type(site.operands[0])?.shape.clone();
                let result = self.tensor_type(site.value)?.shape.clone();
                let position = self.reshaped(&source, &result, site.position);
                self.emit(site.operands[0], &position)
            }
            ops::TRANSPOSE => {
                let ops::Transpose { permutation } = site.attributes()?;
                let mut position: Position = SmallVec::from_elem(Index::default(), permutation.len());
                for (result, operand) in permutation.iter().enumerate() {
                    position[*operand] = site.position[result].clone();
                }
                self.emit(site.operands[0], &position)
            }
            ops::SLICE => {
                let ops::Slice { starts, .. } = site.attributes()?;
                let moved = site.position.iter().zip(&starts).map(|(index, start)| index.offset_by(*start as i64));
                self.emit(site.operands[0], &moved.collect::<Position>())
            }
            ops::CONCAT => self.concatenate(site),
            ops::GATHER => {
                let ops::Gather { axis } = site.attributes()?;
                self.gather(site, axis)
            }
            ops::EMBEDDING => self.gather(site, 0),
            // Combined along dimensions.
            ops::REDUCE_SUM => {
                let ops::ReduceSum { axes } = site.attributes()?;
                self.reduction(site, Reduction::Sum, &axes)
            }
            ops::REDUCE_MAX => {
                let ops::ReduceMax { axes } = site.attributes()?;
                self.reduction(site, Reduction::Maximum, &axes)
            }
            ops::REDUCE_MIN => {
                let ops::ReduceMin { axes } = site.attributes()?;
                self.reduction(site, Reduction::Minimum, &axes)
            }
            ops::REDUCE_MEAN => {
                let ops::ReduceMean { axes } = site.attributes()?;
                let sum = self.reduction(site, Reduction::Sum, &axes)?;
                self.per_element(site.operands[0], &axes, &sum)
            }
            ops::ARGMAX => self.argmax(site),
            ops::SOFTMAX => self.softmax(site),
            ops::LAYER_NORM => self.layer_norm(site),
            ops::RMS_NORM => self.rms_norm(site),
            // Products.
            ops::GROUPED_MATMUL if self.expert_rows.is_some() => self.grouped_product(site),
            ops::MATMUL | ops::GROUPED_MATMUL => self.matrix_product(site),
            ops::DEQUANTIZE => self.dequantize(site),
            ops::BLOCK_SCALED => match self.load_blocks(site)? {
                Some(block) => Ok(block),
                None => self.unscaled(site),
            },
            // Mixtures of experts.
            ops::TOP_K => self.top_k(site),
            ops::TAKE => self.take(site),
            ops::SWIGLU => self.swiglu(site),
            ops::COMBINE => self.weighted_sum(site),
            // Transformers.
            ops::ROPE => self.rope(site),
            ops::ATTENTION | ops::PAGED_ATTENTION => self.attention(site),
            ops::SAMPLE => self.sample(site),
            other => Err(Cut::never(site.value, format!("there is no kernel for `{}`", other.name()))),
        }
    }

    /// A matrix product that nothing else shares a loop with.
    fn matrix_product(&mut self, site: &Site) -> Result<Block, Cut> {
        if self.is_repeated() {
            return Err(Cut::at(site.value, "a matrix product would be computed again and again"));
        }
        let position = SmallVec::from(site.position);
        let key = Key { value: site.value, part: Part::Whole, position };
        self.matrix_products(std::slice::from_ref(&key))?;
        self.known(&key).ok_or_else(|| Cut::at(site.value, "a matrix product is wanted in another place"))
    }

    fn map(&mut self, site: &Site, function: impl FnOnce(&mut Self, &Block) -> Block) -> Result<Block, Cut> {
        let x = self.operand(site, 0, site.position)?;
        Ok(function(self, &x))
    }

    fn pair(&mut self, site: &Site) -> Result<[Block; 2], Cut> {
        Ok([self.operand(site, 0, site.position)?, self.operand(site, 1, site.position)?])
    }

    fn combine(&mut self, site: &Site, operation: BinaryOperation) -> Result<Block, Cut> {
        let [a, b] = self.pair(site)?;
        Ok(self.binary(operation, &a, &b))
    }

    /// 1 / (1 + e⁻ˣ)
    pub fn sigmoid(&mut self, x: &Block) -> Block {
        let negated = self.unary(UnaryOperation::Negate, x);
        let power = self.unary(UnaryOperation::Exp, &negated);
        let below = self.shift(&power, 1.0);
        let one = self.number(1.0, self.element(x));
        self.divide(&one, &below)
    }

    fn gelu(&mut self, x: &Block, approximation: ops::Approximation) -> Block {
        let bent = match approximation {
            ops::Approximation::None => {
                let scaled = self.scale(x, std::f64::consts::FRAC_1_SQRT_2);
                self.unary(UnaryOperation::Erf, &scaled)
            }
            ops::Approximation::Tanh => {
                // √(2/π) · x · (1 + 0.044715 x²)
                let square = self.multiply(x, x);
                let cubic = self.scale(&square, 0.044715);
                let factor = self.shift(&cubic, 1.0);
                let argument = self.multiply(x, &factor);
                let argument = self.scale(&argument, (2.0 / std::f64::consts::PI).sqrt());
                self.unary(UnaryOperation::Tanh, &argument)
            }
        };
        let raised = self.shift(&bent, 1.0);
        let half = self.scale(x, 0.5);
        self.multiply(&half, &raised)
    }

    /// The rounding of a cast is asked for, so it is done also where the result stays in registers.
    fn convert(&mut self, site: &Site) -> Result<Block, Cut> {
        let from = self.tensor_type(site.operands[0])?.storage();
        let block = self.emit(site.operands[0], site.position)?;
        let element = self.storage_element(site.value)?;
        // What is to be cast is the number as the operand's storage holds it, if that could make a difference.
        let block = match (element_of(from), element.is_float() || from == Storage::Bool) {
            (Some(stored), false) if stored.is_float() => self.cast(&block, stored),
            _ => block,
        };
        let block = self.wide(&block);
        Ok(self.cast(&block, element))
    }

    fn fill(&mut self, site: &Site) -> Result<Block, Cut> {
        let ops::Constant { value } = site.attributes()?;
        let element = arithmetic_element(self.storage_element(site.value)?);
        let literal = match &value {
            ConstantValue::Float(elements) if elements.len() == 1 => Literal::Float(elements[0]),
            ConstantValue::Integer(elements) if elements.len() == 1 => Literal::Integer(elements[0]),
            ConstantValue::Boolean(elements) if elements.len() == 1 => Literal::Integer(elements[0].into()),
            _ => {
                return Err(Cut::never(
                    site.value,
                    "a list of numbers is used inside a kernel without being passed to it",
                ));
            }
        };
        // The number as its storage holds it.
        let stored = self.storage_element(site.value)?;
        let block = self.literal(literal, element);
        if stored == element {
            return Ok(block);
        }
        let block = self.cast(&block, stored);
        Ok(self.cast(&block, element))
    }

    fn concatenate(&mut self, site: &Site) -> Result<Block, Cut> {
        let ops::Concat { axis } = site.attributes()?;
        let mut start = Index::default();
        let mut joined: Option<Block> = None;
        for operand in site.operands.iter().copied() {
            let extent = self.symbols.extent(&self.tensor_type(operand)?.shape[axis]);
            let extent = self.dimension(&extent);
            let own = site.position[axis].plus(&start.times(-1));
            if let Dimension::Constant(extent) = extent {
                // Wholly inside or outside of this operand, as far as can be told now.
                let (low, high) = own.range();
                if low >= extent as i64 || high.is_some_and(|high| high < 0) {
                    start = start.offset_by(extent as i64);
                    continue;
                }
                if own.is_within(extent) {
                    let mut position: Position = SmallVec::from(site.position);
                    position[axis] = own;
                    let block = self.emit(operand, &position)?;
                    return Ok(self.wide(&block));
                }
            }
            let mut position: Position = SmallVec::from(site.position);
            position[axis] = self.clamped(site.value, &own, extent)?;
            let block = self.emit(operand, &position)?;
            let block = self.wide(&block);
            joined = Some(match joined {
                None => block,
                Some(before) => {
                    let (here, from) = (self.lower(&site.position[axis]), self.lower(&start));
                    let is_before = self.compare(Predicate::Less, &here, &from);
                    self.select(&is_before, &before, &block)
                }
            });
            start = start.plus(&self.extent(extent));
        }
        joined.ok_or_else(|| Cut::never(site.value, "a position outside of all operands"))
    }

    /// result[…, i, …] = x[…, indices[i], …]
    fn gather(&mut self, site: &Site, axis: usize) -> Result<Block, Cut> {
        let [table, indices] = [site.operands[0], site.operands[1]];
        let rank = self.tensor_type(indices)?.rank();
        let extent = self.symbols.extent(&self.tensor_type(table)?.shape[axis]);
        let extent = self.dimension(&extent);
        let chosen = self.emit(indices, &site.position[axis..axis + rank])?;
        let index = self
            .index_of(&chosen)
            .ok_or_else(|| Cut::at(indices, "its elements select along two dimensions at once"))?;
        // A single place is accessed unchecked, and this number comes from outside.
        let index = if chosen.axes.is_empty() { self.clamped(site.value, &index, extent)? } else { index };
        let mut position: Position = SmallVec::from(&site.position[..axis]);
        position.push(index);
        position.extend(site.position[axis + rank..].iter().cloned());
        self.emit(table, &position)
    }

    fn dequantize(&mut self, site: &Site) -> Result<Block, Cut> {
        let weight = self.operand(site, 0, site.position)?;
        let scale = self.dequantization_scale(site.value, site.position)?;
        // Integers are multiplied as the floats that their scales are.
        let weight = self.cast(&weight, self.element(&scale));
        Ok(self.multiply(&weight, &scale))
    }

    /// The factor of the element at `position` of a `dequantize`.
    pub fn dequantization_scale(&mut self, value: ValueId, position: &[Index]) -> Result<Block, Cut> {
        let graph = self.graph;
        let scale = graph.operands(value.node)[1];
        let attributes = graph.operation(value.node).and_then(|operation| operation.downcast::<ops::Dequantize>());
        let position: Position = match (self.tensor_type(scale)?.rank(), attributes.and_then(|found| found.axis)) {
            (0, _) => SmallVec::new(),
            (1, Some(axis)) if axis < position.len() => SmallVec::from_elem(position[axis].clone(), 1),
            _ => return Err(Cut::never(value, "scales for blocks have no kernels yet")),
        };
        let block = self.emit(scale, &position)?;
        Ok(self.wide(&block))
    }
}

/// Ops whose results are kept out of loops that do not change them.
fn is_worth_keeping(op: Op) -> bool {
    const LIST: [Op; 11] = [
        ops::REDUCE_SUM,
        ops::REDUCE_MAX,
        ops::REDUCE_MIN,
        ops::REDUCE_MEAN,
        ops::ARGMAX,
        ops::MATMUL,
        ops::GROUPED_MATMUL,
        ops::TOP_K,
        ops::ATTENTION,
        ops::PAGED_ATTENTION,
        ops::SAMPLE,
    ];
    LIST.contains(&op)
}

fn comparison(predicate: ops::Predicate) -> Predicate {
    match predicate {
        ops::Predicate::Equal => Predicate::Equal,
        ops::Predicate::NotEqual => Predicate::NotEqual,
        ops::Predicate::Less => Predicate::Less,
        ops::Predicate::LessEqual => Predicate::LessEqual,
        ops::Predicate::Greater => Predicate::Greater,
        ops::Predicate::GreaterEqual => Predicate::GreaterEqual,
    }
}
