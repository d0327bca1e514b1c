//! Writes MLIR of the `llvm` dialect, one typed value at a time.
//!
//! Control flow is structured where it is written ([`Emitter::for_range`], [`Emitter::branch`]) and becomes basic blocks at once, so that
//! no conversion pass stands between a tile program and LLVM.

use std::cell::Cell;

use melior::{
    Context,
    ir::{
        Attribute, Block, BlockLike, BlockRef, Identifier, Location, Region, RegionLike, Type, Value,
        attribute::{
            DenseElementsAttribute, DenseI32ArrayAttribute, FloatAttribute, IntegerAttribute, StringAttribute,
            TypeAttribute,
        },
        operation::OperationBuilder,
        r#type::IntegerType,
    },
};

/// Type of one lane in a machine register.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Machine {
    I1,
    I8,
    I16,
    I32,
    I64,
    /// binary16, only on the way to and from f32.
    F16,
    /// bfloat16, only on the way to a dot product.
    BF16,
    F32,
    F64,
    Pointer,
}

impl Machine {
    pub(super) const fn is_float(self) -> bool {
        matches!(self, Self::F16 | Self::BF16 | Self::F32 | Self::F64)
    }

    /// Bytes in memory.
    pub(super) const fn bytes(self) -> u32 {
        match self {
            Self::I1 | Self::I8 => 1,
            Self::I16 | Self::F16 | Self::BF16 => 2,
            Self::I32 | Self::F32 => 4,
            Self::I64 | Self::F64 | Self::Pointer => 8,
        }
    }
}

/// A value in a register: one lane (a scalar) or a vector of several.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ssa<'a> {
    pub(super) raw: Value<'a, 'a>,
    pub(super) machine: Machine,
    pub(super) lanes: u32,
}

impl Ssa<'_> {
    /// Identity of the value, for memo tables.
    pub(super) fn identity(self) -> usize {
        use melior::ir::ValueLike;
        self.raw.to_raw().ptr as usize
    }
}

/// How two values compare. Integers as signed, unless `Below` (unsigned less).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Comparison {
    Equal,
    NotEqual,
    Less,
    LessEqual,
    Greater,
    GreaterEqual,
    Below,
    /// Floats: either is NaN.
    Unordered,
}

/// Appends operations at the end of a current block.
pub(super) struct Emitter<'a> {
    context: &'a Context,
    location: Location<'a>,
    region: &'a Region<'a>,
    block: Cell<BlockRef<'a, 'a>>,
}

impl<'a> Emitter<'a> {
    /// Starts a function body with the given parameters.
    pub(super) fn new(
        context: &'a Context,
        region: &'a Region<'a>,
        parameters: &[(Machine, u32)],
    ) -> (Self, Vec<Ssa<'a>>) {
        let location = Location::unknown(context);
        let types: Vec<_> =
            parameters.iter().map(|&(machine, lanes)| (machine_type(context, machine, lanes), location)).collect();
        let block = region.append_block(Block::new(&types));
        let values = parameters
            .iter()
            .enumerate()
            .map(|(position, &(machine, lanes))| block_argument(block, position, machine, lanes))
            .collect();
        (Self { context, location, region, block: Cell::new(block) }, values)
    }

    fn type_of(&self, machine: Machine, lanes: u32) -> Type<'a> {
        machine_type(self.context, machine, lanes)
    }

    fn name(&self, name: &str) -> Identifier<'a> {
        Identifier::new(self.context, name)
    }

    fn integer_attribute(&self, bits: u32, value: i64) -> Attribute<'a> {
        IntegerAttribute::new(IntegerType::new(self.context, bits).into(), value).into()
    }

    fn i32_array(&self, values: &[i32]) -> Attribute<'a> {
        DenseI32ArrayAttribute::new(self.context, values).into()
    }

    /// Appends an operation; the result, if it has one.
    fn append(
        &self,
        name: &str,
        operands: &[Value<'a, 'a>],
        result: Option<(Machine, u32)>,
        attributes: &[(Identifier<'a>, Attribute<'a>)],
        successors: &[BlockRef<'a, 'a>],
    ) -> Option<Ssa<'a>> {
        let mut builder = OperationBuilder::new(name, self.location).add_operands(operands).add_attributes(attributes);
        if let Some((machine, lanes)) = result {
            builder = builder.add_results(&[self.type_of(machine, lanes)]);
        }
        for successor in successors {
            builder = builder.add_successors(&[successor]);
        }
        let operation = builder.build().expect("operations without inferred results always build");
        let operation = self.block.get().append_operation(operation);
        result.map(|(machine, lanes)| Ssa {
            raw: operation.result(0).expect("the result type was given").into(),
            machine,
            lanes,
        })
    }

    fn produce(
        &self,
        name: &str,
        operands: &[Ssa<'a>],
        result: (Machine, u32),
        attributes: &[(Identifier<'a>, Attribute<'a>)],
    ) -> Ssa<'a> {
        let operands: Vec<_> = operands.iter().map(|operand| operand.raw).collect();
        self.append(name, &operands, Some(result), attributes, &[]).expect("a result type was given")
    }

    // Constants.

    pub(super) fn integer(&self, machine: Machine, lanes: u32, value: i64) -> Ssa<'a> {
        let bits = match machine {
            Machine::I1 => 1,
            Machine::I8 => 8,
            Machine::I16 => 16,
            Machine::I32 => 32,
            _ => 64,
        };
        let scalar = self.integer_attribute(bits, value);
        self.constant(machine, lanes, scalar)
    }

    pub(super) fn float(&self, machine: Machine, lanes: u32, value: f64) -> Ssa<'a> {
        let scalar = FloatAttribute::new(self.context, self.type_of(machine, 1), value).into();
        self.constant(machine, lanes, scalar)
    }

    /// A float or integer constant, by the machine type.
    pub(super) fn number(&self, machine: Machine, lanes: u32, value: f64) -> Ssa<'a> {
        if machine.is_float() { self.float(machine, lanes, value) } else { self.integer(machine, lanes, value as i64) }
    }

    fn constant(&self, machine: Machine, lanes: u32, scalar: Attribute<'a>) -> Ssa<'a> {
        let value = if lanes == 1 {
            scalar
        } else {
            DenseElementsAttribute::new(self.type_of(machine, lanes), &[scalar]).expect("vectors are shaped").into()
        };
        self.produce("llvm.mlir.constant", &[], (machine, lanes), &[(self.name("value"), value)])
    }

    /// A 64-bit index.
    pub(super) fn index(&self, value: i64) -> Ssa<'a> {
        self.integer(Machine::I64, 1, value)
    }

    /// The vector 0, 1, 2, …
    pub(super) fn iota(&self, machine: Machine, lanes: u32) -> Ssa<'a> {
        let values: Vec<i64> = (0..i64::from(lanes)).collect();
        self.integers(machine, &values)
    }

    /// A vector of these integers.
    pub(super) fn integers(&self, machine: Machine, values: &[i64]) -> Ssa<'a> {
        let bits = 8 * machine.bytes();
        let lanes: Vec<_> = values.iter().map(|&value| self.integer_attribute(bits, value)).collect();
        self.vector(machine, &lanes)
    }

    /// A vector of these floats.
    pub(super) fn floats(&self, machine: Machine, values: &[f64]) -> Ssa<'a> {
        let ty = self.type_of(machine, 1);
        let lanes: Vec<_> = values.iter().map(|&value| FloatAttribute::new(self.context, ty, value).into()).collect();
        self.vector(machine, &lanes)
    }

    fn vector(&self, machine: Machine, values: &[Attribute<'a>]) -> Ssa<'a> {
        let lanes = values.len() as u32;
        let value =
            DenseElementsAttribute::new(self.type_of(machine, lanes), values).expect("vectors are shaped").into();
        self.produce("llvm.mlir.constant", &[], (machine, lanes), &[(self.name("value"), value)])
    }

    pub(super) fn poison(&self, machine: Machine, lanes: u32) -> Ssa<'a> {
        self.produce("llvm.mlir.poison", &[], (machine, lanes), &[])
    }

    // Arithmetic.

    /// Makes both operands vectors if one of them is.
    pub(super) fn level(&self, a: Ssa<'a>, b: Ssa<'a>) -> (Ssa<'a>, Ssa<'a>) {
        let lanes = a.lanes.max(b.lanes);
        (self.splat(a, lanes), self.splat(b, lanes))
    }

    /// A binary operation of the dialect on values of one type; a scalar operand is repeated to fit a vector.
    fn binary(&self, name: &str, a: Ssa<'a>, b: Ssa<'a>) -> Ssa<'a> {
        let (a, b) = self.level(a, b);
        debug_assert_eq!(a.machine, b.machine, "{name}");
        self.produce(name, &[a, b], (a.machine, a.lanes), &[])
    }

    pub(super) fn add(&self, a: Ssa<'a>, b: Ssa<'a>) -> Ssa<'a> {
        self.binary(if a.machine.is_float() { "llvm.fadd" } else { "llvm.add" }, a, b)
    }

    pub(super) fn subtract(&self, a: Ssa<'a>, b: Ssa<'a>) -> Ssa<'a> {
        self.binary(if a.machine.is_float() { "llvm.fsub" } else { "llvm.sub" }, a, b)
    }

    pub(super) fn multiply(&self, a: Ssa<'a>, b: Ssa<'a>) -> Ssa<'a> {
        self.binary(if a.machine.is_float() { "llvm.fmul" } else { "llvm.mul" }, a, b)
    }

    /// Floats: quotient. Integers: signed, towards zero; the caller excludes zero divisors and overflow.
    pub(super) fn divide(&self, a: Ssa<'a>, b: Ssa<'a>) -> Ssa<'a> {
        self.binary(if a.machine.is_float() { "llvm.fdiv" } else { "llvm.sdiv" }, a, b)
    }

    pub(super) fn unsigned_divide(&self, a: Ssa<'a>, b: Ssa<'a>) -> Ssa<'a> {
        self.binary("llvm.udiv", a, b)
    }

    pub(super) fn and(&self, a: Ssa<'a>, b: Ssa<'a>) -> Ssa<'a> {
        self.binary("llvm.and", a, b)
    }

    pub(super) fn or(&self, a: Ssa<'a>, b: Ssa<'a>) -> Ssa<'a> {
        self.binary("llvm.or", a, b)
    }

    pub(super) fn xor(&self, a: Ssa<'a>, b: Ssa<'a>) -> Ssa<'a> {
        self.binary("llvm.xor", a, b)
    }

    pub(super) fn shift_left(&self, a: Ssa<'a>, b: Ssa<'a>) -> Ssa<'a> {
        self.binary("llvm.shl", a, b)
    }

    pub(super) fn shift_right_logical(&self, a: Ssa<'a>, b: Ssa<'a>) -> Ssa<'a> {
        self.binary("llvm.lshr", a, b)
    }

    pub(super) fn shift_right_arithmetic(&self, a: Ssa<'a>, b: Ssa<'a>) -> Ssa<'a> {
        self.binary("llvm.ashr", a, b)
    }

    /// a · b + c, fused where the machine can and never a library call.
    pub(super) fn multiply_add(&self, a: Ssa<'a>, b: Ssa<'a>, c: Ssa<'a>) -> Ssa<'a> {
        let lanes = a.lanes.max(b.lanes).max(c.lanes);
        let operands = [self.splat(a, lanes), self.splat(b, lanes), self.splat(c, lanes)];
        self.intrinsic("llvm.fmuladd", &operands, (a.machine, lanes))
    }

    pub(super) fn negate(&self, a: Ssa<'a>) -> Ssa<'a> {
        if a.machine.is_float() {
            self.produce("llvm.fneg", &[a], (a.machine, a.lanes), &[])
        } else {
            self.subtract(self.integer(a.machine, a.lanes, 0), a)
        }
    }

    /// Smaller of two signed integers.
    pub(super) fn integer_minimum(&self, a: Ssa<'a>, b: Ssa<'a>) -> Ssa<'a> {
        let (a, b) = self.level(a, b);
        self.intrinsic("llvm.smin", &[a, b], (a.machine, a.lanes))
    }

    /// Larger of two signed integers.
    pub(super) fn integer_maximum(&self, a: Ssa<'a>, b: Ssa<'a>) -> Ssa<'a> {
        let (a, b) = self.level(a, b);
        self.intrinsic("llvm.smax", &[a, b], (a.machine, a.lanes))
    }

    pub(super) fn compare(&self, comparison: Comparison, a: Ssa<'a>, b: Ssa<'a>) -> Ssa<'a> {
        let (a, b) = self.level(a, b);
        let float = a.machine.is_float();
        // Codes of LLVM's ICmpPredicate and FCmpPredicate attributes.
        let code = match (comparison, float) {
            (Comparison::Equal, false) => 0,
            (Comparison::NotEqual, false) => 1,
            (Comparison::Less, false) => 2,
            (Comparison::LessEqual, false) => 3,
            (Comparison::Greater, false) => 4,
            (Comparison::GreaterEqual, false) => 5,
            (Comparison::Below | Comparison::Unordered, false) => 6,
            (Comparison::Equal, true) => 1,
            (Comparison::Greater, true) => 2,
            (Comparison::GreaterEqual, true) => 3,
            (Comparison::Less | Comparison::Below, true) => 4,
            (Comparison::LessEqual, true) => 5,
            (Comparison::Unordered, true) => 14,
            (Comparison::NotEqual, true) => 13,
        };
        let name = if float { "llvm.fcmp" } else { "llvm.icmp" };
        let predicate = (self.name("predicate"), self.integer_attribute(64, code));
        self.produce(name, &[a, b], (Machine::I1, a.lanes), &[predicate])
    }

    pub(super) fn select(&self, condition: Ssa<'a>, a: Ssa<'a>, b: Ssa<'a>) -> Ssa<'a> {
        let (a, b) = self.level(a, b);
        let lanes = a.lanes.max(condition.lanes);
        let (a, b) = (self.splat(a, lanes), self.splat(b, lanes));
        self.produce("llvm.select", &[condition, a, b], (a.machine, lanes), &[])
    }

    // Conversions.

    /// A conversion of the dialect (`sext`, `fptrunc`, `bitcast`, …) to lanes of another machine type.
    pub(super) fn convert(&self, name: &str, value: Ssa<'a>, machine: Machine) -> Ssa<'a> {
        self.produce(&format!("llvm.{name}"), &[value], (machine, value.lanes), &[])
    }

    /// The same bits as other lanes; `lanes` may change where the whole width does not.
    pub(super) fn bitcast(&self, value: Ssa<'a>, machine: Machine, lanes: u32) -> Ssa<'a> {
        if (value.machine, value.lanes) == (machine, lanes) {
            return value;
        }
        self.produce("llvm.bitcast", &[value], (machine, lanes), &[])
    }

    /// Signed integer of another width.
    pub(super) fn resize_signed(&self, value: Ssa<'a>, machine: Machine) -> Ssa<'a> {
        match machine.bytes().cmp(&value.machine.bytes()) {
            _ if machine == value.machine => value,
            std::cmp::Ordering::Less => self.convert("trunc", value, machine),
            _ => self.convert("sext", value, machine),
        }
    }

    /// An integer argument as I32; a float one stays.
    pub(super) fn resize_signed_or_float(&self, value: Ssa<'a>) -> Ssa<'a> {
        if value.machine.is_float() { value } else { self.resize_signed(value, Machine::I32) }
    }

    /// f32 of binary16 bits, by the processor.
    pub(super) fn half_extend(&self, bits: Ssa<'a>) -> Ssa<'a> {
        self.convert("fpext", self.bitcast(bits, Machine::F16, bits.lanes), Machine::F32)
    }

    /// binary16 bits of f32, by the processor.
    pub(super) fn half_truncate(&self, value: Ssa<'a>) -> Ssa<'a> {
        self.bitcast(self.convert("fptrunc", value, Machine::F16), Machine::I16, value.lanes)
    }

    /// sum + Σ of the products of the two bf16 in each 32-bit lane. The operands are f32 lanes that hold pairs.
    pub(super) fn dot_bf16_pairs(&self, sum: Ssa<'a>, a: Ssa<'a>, b: Ssa<'a>) -> Ssa<'a> {
        let pairs = |x: Ssa<'a>| self.bitcast(x, Machine::BF16, 2 * x.lanes);
        self.intrinsic("llvm.x86.avx512bf16.dpbf16ps.512", &[sum, pairs(a), pairs(b)], (Machine::F32, sum.lanes))
    }

    // Vectors.

    /// Repeats a scalar over `lanes`; vectors pass through.
    pub(super) fn splat(&self, value: Ssa<'a>, lanes: u32) -> Ssa<'a> {
        if value.lanes == lanes {
            return value;
        }
        debug_assert_eq!(value.lanes, 1);
        let zero = self.integer(Machine::I64, 1, 0);
        let vector = self.poison(value.machine, lanes);
        let first = self.produce("llvm.insertelement", &[vector, value, zero], (value.machine, lanes), &[]);
        self.shuffle(first, first, &vec![0; lanes as usize])
    }

    /// Lanes of `a` followed by those of `b`, picked by `mask`.
    pub(super) fn shuffle(&self, a: Ssa<'a>, b: Ssa<'a>, mask: &[i32]) -> Ssa<'a> {
        let mask_attribute = (self.name("mask"), self.i32_array(mask));
        self.produce("llvm.shufflevector", &[a, b], (a.machine, mask.len() as u32), &[mask_attribute])
    }

    pub(super) fn extract(&self, vector: Ssa<'a>, lane: u32) -> Ssa<'a> {
        if vector.lanes == 1 {
            return vector;
        }
        let lane = self.integer(Machine::I64, 1, i64::from(lane));
        self.produce("llvm.extractelement", &[vector, lane], (vector.machine, 1), &[])
    }

    pub(super) fn insert(&self, vector: Ssa<'a>, lane: u32, value: Ssa<'a>) -> Ssa<'a> {
        if vector.lanes == 1 {
            return value;
        }
        let lane = self.integer(Machine::I64, 1, i64::from(lane));
        self.produce("llvm.insertelement", &[vector, value, lane], (vector.machine, vector.lanes), &[])
    }

    // Calls.

    /// Calls an LLVM intrinsic; overloads are resolved from the types.
    pub(super) fn intrinsic(&self, name: &str, operands: &[Ssa<'a>], result: (Machine, u32)) -> Ssa<'a> {
        let attributes = self.intrinsic_attributes(name, operands.len());
        self.produce("llvm.call_intrinsic", operands, result, &attributes)
    }

    /// Calls an LLVM intrinsic that returns nothing.
    pub(super) fn intrinsic_effect(&self, name: &str, operands: &[Ssa<'a>]) {
        let attributes = self.intrinsic_attributes(name, operands.len());
        let operands: Vec<_> = operands.iter().map(|operand| operand.raw).collect();
        self.append("llvm.call_intrinsic", &operands, None, &attributes, &[]);
    }

    fn intrinsic_attributes(&self, name: &str, operands: usize) -> [(Identifier<'a>, Attribute<'a>); 3] {
        [
            (self.name("intrin"), StringAttribute::new(self.context, name).into()),
            (self.name("op_bundle_sizes"), self.i32_array(&[])),
            (self.name("operandSegmentSizes"), self.i32_array(&[operands as i32, 0])),
        ]
    }

    // Memory. Alignment is that of one lane unless said otherwise.

    /// The pointer `offset` bytes further.
    pub(super) fn offset(&self, pointer: Ssa<'a>, offset: Ssa<'a>) -> Ssa<'a> {
        let attributes = [
            (self.name("rawConstantIndices"), self.i32_array(&[i32::MIN])),
            (self.name("elem_type"), TypeAttribute::new(self.type_of(Machine::I8, 1)).into()),
        ];
        self.produce(
            "llvm.getelementptr",
            &[pointer, offset],
            (Machine::Pointer, pointer.lanes.max(offset.lanes)),
            &attributes,
        )
    }

    pub(super) fn load(&self, pointer: Ssa<'a>, machine: Machine, lanes: u32) -> Ssa<'a> {
        let alignment = (self.name("alignment"), self.integer_attribute(64, i64::from(machine.bytes())));
        self.produce("llvm.load", &[pointer], (machine, lanes), &[alignment])
    }

    pub(super) fn store(&self, value: Ssa<'a>, pointer: Ssa<'a>) {
        let alignment = (self.name("alignment"), self.integer_attribute(64, i64::from(value.machine.bytes())));
        self.append("llvm.store", &[value.raw, pointer.raw], None, &[alignment], &[]);
    }

    fn lane_alignment(&self, machine: Machine) -> (Identifier<'a>, Attribute<'a>) {
        (self.name("alignment"), self.integer_attribute(32, i64::from(machine.bytes())))
    }

    pub(super) fn masked_load(&self, pointer: Ssa<'a>, mask: Ssa<'a>, other: Ssa<'a>) -> Ssa<'a> {
        let result = (other.machine, other.lanes);
        self.produce("llvm.intr.masked.load", &[pointer, mask, other], result, &[self.lane_alignment(other.machine)])
    }

    pub(super) fn masked_store(&self, value: Ssa<'a>, pointer: Ssa<'a>, mask: Ssa<'a>) {
        let operands = [value.raw, pointer.raw, mask.raw];
        self.append("llvm.intr.masked.store", &operands, None, &[self.lane_alignment(value.machine)], &[]);
    }

    /// The value, of whose making the optimizer knows nothing.
    pub(super) fn opaque(&self, value: Ssa<'a>) -> Ssa<'a> {
        let text = |text: &str| StringAttribute::new(self.context, text).into();
        let attributes = [(self.name("asm_string"), text("")), (self.name("constraints"), text("=x,0"))];
        self.produce("llvm.inline_asm", &[value], (value.machine, value.lanes), &attributes)
    }

    /// Loads each lane from its own pointer where the mask holds.
    pub(super) fn gather(&self, pointers: Ssa<'a>, mask: Ssa<'a>, other: Ssa<'a>) -> Ssa<'a> {
        let result = (other.machine, other.lanes);
        self.produce("llvm.intr.masked.gather", &[pointers, mask, other], result, &[self.lane_alignment(other.machine)])
    }

    /// Stores each lane to its own pointer where the mask holds.
    pub(super) fn scatter(&self, value: Ssa<'a>, pointers: Ssa<'a>, mask: Ssa<'a>) {
        let operands = [value.raw, pointers.raw, mask.raw];
        self.append("llvm.intr.masked.scatter", &operands, None, &[self.lane_alignment(value.machine)], &[]);
    }

    // Control flow.

    fn new_block(&self, parameters: &[Ssa<'a>]) -> (BlockRef<'a, 'a>, Vec<Ssa<'a>>) {
        let types: Vec<_> =
            parameters.iter().map(|value| (self.type_of(value.machine, value.lanes), self.location)).collect();
        let block = self.region.append_block(Block::new(&types));
        let arguments = parameters
            .iter()
            .enumerate()
            .map(|(position, value)| block_argument(block, position, value.machine, value.lanes))
            .collect();
        (block, arguments)
    }

    fn jump(&self, target: BlockRef<'a, 'a>, operands: &[Ssa<'a>]) {
        let operands: Vec<_> = operands.iter().map(|operand| operand.raw).collect();
        self.append("llvm.br", &operands, None, &[], &[target]);
    }

    fn jump_if(
        &self,
        condition: Ssa<'a>,
        then: (BlockRef<'a, 'a>, &[Ssa<'a>]),
        otherwise: (BlockRef<'a, 'a>, &[Ssa<'a>]),
    ) {
        let mut operands = vec![condition.raw];
        operands.extend(then.1.iter().chain(otherwise.1).map(|operand| operand.raw));
        let segments = [1, then.1.len() as i32, otherwise.1.len() as i32];
        let attribute = (self.name("operandSegmentSizes"), self.i32_array(&segments));
        self.append("llvm.cond_br", &operands, None, &[attribute], &[then.0, otherwise.0]);
    }

    /// `for i in (lower..upper).step_by(step)`, with values carried from one iteration to the next; their last values.
    pub(super) fn for_range(
        &self,
        lower: Ssa<'a>,
        upper: Ssa<'a>,
        step: Ssa<'a>,
        initial: &[Ssa<'a>],
        body: impl FnOnce(Ssa<'a>, &[Ssa<'a>]) -> Vec<Ssa<'a>>,
    ) -> Vec<Ssa<'a>> {
        let entry: Vec<_> = std::iter::once(lower).chain(initial.iter().copied()).collect();
        let (header, arguments) = self.new_block(&entry);
        let (inside, _) = self.new_block(&[]);
        self.jump(header, &entry);
        self.block.set(header);
        // The exit block comes after the body's blocks, for the reader of dumps.
        let (induction, carried) = arguments.split_first().expect("the induction variable is an argument");
        let condition = self.compare(Comparison::Less, *induction, upper);
        self.block.set(inside);
        let yields = body(*induction, carried);
        let mut next = vec![self.add(*induction, step)];
        next.extend(yields);
        self.jump(header, &next);
        let (exit, results) = self.new_block(initial);
        self.block.set(header);
        self.jump_if(condition, (inside, &[]), (exit, carried));
        self.block.set(exit);
        results
    }

    /// Runs `then` where the condition holds, else `otherwise`; both hand back values of the same types.
    pub(super) fn branch(
        &self,
        condition: Ssa<'a>,
        then: impl FnOnce() -> Vec<Ssa<'a>>,
        otherwise: impl FnOnce() -> Vec<Ssa<'a>>,
    ) -> Vec<Ssa<'a>> {
        let (then_block, _) = self.new_block(&[]);
        let (otherwise_block, _) = self.new_block(&[]);
        self.jump_if(condition, (then_block, &[]), (otherwise_block, &[]));
        self.block.set(then_block);
        let values = then();
        let (exit, results) = self.new_block(&values);
        self.jump(exit, &values);
        self.block.set(otherwise_block);
        let values = otherwise();
        self.jump(exit, &values);
        self.block.set(exit);
        results
    }

    /// Runs `then` where the condition holds.
    pub(super) fn when(&self, condition: Ssa<'a>, then: impl FnOnce()) {
        self.branch(
            condition,
            || {
                then();
                vec![]
            },
            Vec::new,
        );
    }

    /// Calls a function of this module that returns nothing.
    pub(super) fn call(&self, callee: &str, operands: &[Ssa<'a>]) {
        let symbol = melior::ir::attribute::FlatSymbolRefAttribute::new(self.context, callee);
        let attributes = [
            (self.name("callee"), symbol.into()),
            (self.name("op_bundle_sizes"), self.i32_array(&[])),
            (self.name("operandSegmentSizes"), self.i32_array(&[operands.len() as i32, 0])),
        ];
        let operands: Vec<_> = operands.iter().map(|operand| operand.raw).collect();
        self.append("llvm.call", &operands, None, &attributes, &[]);
    }

    /// Ends the function.
    pub(super) fn finish(&self) {
        self.append("llvm.return", &[], None, &[], &[]);
    }
}

fn machine_type(context: &Context, machine: Machine, lanes: u32) -> Type<'_> {
    let scalar = match machine {
        Machine::I1 => IntegerType::new(context, 1).into(),
        Machine::I8 => IntegerType::new(context, 8).into(),
        Machine::I16 => IntegerType::new(context, 16).into(),
        Machine::I32 => IntegerType::new(context, 32).into(),
        Machine::I64 => IntegerType::new(context, 64).into(),
        Machine::F16 => Type::float16(context),
        Machine::BF16 => Type::bfloat16(context),
        Machine::F32 => Type::float32(context),
        Machine::F64 => Type::float64(context),
        Machine::Pointer => melior::dialect::llvm::r#type::pointer(context, 0),
    };
    if lanes == 1 { scalar } else { Type::vector(&[u64::from(lanes)], scalar) }
}

fn block_argument<'a>(block: BlockRef<'a, 'a>, position: usize, machine: Machine, lanes: u32) -> Ssa<'a> {
    Ssa { raw: block.argument(position).expect("the block was made with this argument").into(), machine, lanes }
}
