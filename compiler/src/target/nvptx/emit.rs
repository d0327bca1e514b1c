//! Building the kernel's MLIR: one method for each operation of the `llvm` dialect that the lowering needs.
//!
//! Constants live in the entry block and pure functions of the thread index in the block after it, so that both dominate every use and are made once.

use std::collections::HashMap;

use melior::Context;
use melior::dialect::llvm::r#type as llvm_type;
use melior::ir::RegionLike;
use melior::ir::ValueLike;
use melior::ir::attribute::{
    DenseI32ArrayAttribute, DenseI64ArrayAttribute, FlatSymbolRefAttribute, FloatAttribute, IntegerAttribute,
    StringAttribute, TypeAttribute,
};
use melior::ir::block::BlockLike;
use melior::ir::operation::{OperationBuilder, OperationLike};
use melior::ir::r#type::IntegerType;
use melior::ir::{Attribute, Block, BlockRef, Identifier, Location, Module, Region, RegionRef, Type, Value};

pub(super) use super::scalar::{FloatPredicate, IntegerPredicate, Scalar};

/// A value of the kernel under construction.
pub(super) type Val<'a> = Value<'a, 'a>;

/// Address spaces of PTX.
pub(super) const GLOBAL: u32 = 1;
pub(super) const SHARED: u32 = 3;

/// Name of the dynamic shared memory.
const SHARED_SYMBOL: &str = "shared_memory";

/// The kernel under construction.
pub(super) struct Emitter<'a> {
    context: &'a Context,
    location: Location<'a>,
    region: RegionRef<'a, 'a>,
    entry: BlockRef<'a, 'a>,
    preamble: BlockRef<'a, 'a>,
    current: BlockRef<'a, 'a>,
    constants: HashMap<(Scalar, u64), Val<'a>>,
    contract: Attribute<'a>,
}

impl<'a> Emitter<'a> {
    /// Starts a kernel of the given name and parameter types in a module. Returns it with its parameters.
    pub fn new(
        context: &'a Context,
        module: &'a Module<'a>,
        name: &str,
        parameters: &[Parameter],
        threads: u32,
        minimum_blocks: Option<u32>,
    ) -> (Self, Vec<Val<'a>>) {
        let location = Location::unknown(context);
        let identifier = |name: &str| Identifier::new(context, name);
        let types: Vec<Type> = parameters
            .iter()
            .map(|parameter| match parameter {
                Parameter::Global { .. } => llvm_type::pointer(context, GLOBAL),
                Parameter::Integer => IntegerType::new(context, 32).into(),
                Parameter::Float => Type::float32(context),
            })
            .collect();
        let byte: Type = IntegerType::new(context, 8).into();
        module.body().append_operation(
            OperationBuilder::new("llvm.mlir.global", location)
                .add_attributes(&[
                    (identifier("sym_name"), StringAttribute::new(context, SHARED_SYMBOL).into()),
                    (identifier("global_type"), TypeAttribute::new(llvm_type::array(byte, 0)).into()),
                    (identifier("linkage"), parse(context, "#llvm.linkage<external>")),
                    (identifier("addr_space"), integer(context, 32, i64::from(SHARED))),
                    (identifier("alignment"), integer(context, 64, 16)),
                ])
                .add_regions([Region::new()])
                .build()
                .expect("the operation and its attributes are registered"),
        );
        let mut attributes = vec![
            (identifier("sym_name"), StringAttribute::new(context, name).into()),
            (
                identifier("function_type"),
                TypeAttribute::new(llvm_type::function(llvm_type::void(context), &types, false)).into(),
            ),
            (identifier("nvvm.kernel"), Attribute::unit(context)),
            (identifier("nvvm.reqntid"), DenseI32ArrayAttribute::new(context, &[threads as i32]).into()),
        ];
        if let Some(blocks) = minimum_blocks {
            attributes.push((identifier("nvvm.minctasm"), integer(context, 32, i64::from(blocks))));
        }
        let function = module.body().append_operation(
            OperationBuilder::new("llvm.func", location)
                .add_attributes(&attributes)
                .add_attributes(&[(identifier("arg_attrs"), parameter_attributes(context, parameters))])
                .add_regions([Region::new()])
                .build()
                .expect("the operation and its attributes are registered"),
        );
        let region = function.region(0).expect("llvm.func has a region");
        let arguments: Vec<_> = types.iter().map(|&r#type| (r#type, location)).collect();
        let entry = region.append_block(Block::new(&arguments));
        let preamble = region.append_block(Block::new(&[]));
        let current = region.append_block(Block::new(&[]));
        let parameters = (0..types.len()).map(|index| entry.argument(index).expect("declared above").into()).collect();
        let emitter = Self {
            context,
            location,
            region,
            entry,
            preamble,
            current,
            constants: HashMap::new(),
            contract: parse(context, "#llvm.fastmath<contract>"),
        };
        (emitter, parameters)
    }

    /// Ends the kernel.
    pub fn finish(mut self, first: BlockRef<'a, 'a>) {
        self.operation("llvm.return", &[], &[], &[]);
        self.current = self.entry;
        self.branch(self.preamble, &[]);
        self.current = self.preamble;
        self.branch(first, &[]);
    }

    /// Goes on in the block that dominates the whole kernel; what is emitted there may use constants, parameters and other values of that block only. Returns
    /// the block to come back to.
    pub fn enter_preamble(&mut self) -> BlockRef<'a, 'a> {
        std::mem::replace(&mut self.current, self.preamble)
    }

    /// Runs `body` in the preamble.
    pub fn preamble<T>(&mut self, body: impl FnOnce(&mut Self) -> T) -> T {
        let previous = self.enter_preamble();
        let result = body(self);
        self.enter(previous);
        result
    }

    /// The block that operations are appended to.
    pub fn block(&self) -> BlockRef<'a, 'a> {
        self.current
    }

    /// Appends a block with parameters to the kernel.
    pub fn new_block(&mut self, types: &[Type<'a>]) -> (BlockRef<'a, 'a>, Vec<Val<'a>>) {
        let arguments: Vec<_> = types.iter().map(|&r#type| (r#type, self.location)).collect();
        let block = self.region.append_block(Block::new(&arguments));
        let values = (0..types.len()).map(|index| block.argument(index).expect("declared above").into()).collect();
        (block, values)
    }

    /// Goes on in another block.
    pub fn enter(&mut self, block: BlockRef<'a, 'a>) {
        self.current = block;
    }

    fn attribute(&self, name: &str, attribute: Attribute<'a>) -> (Identifier<'a>, Attribute<'a>) {
        (Identifier::new(self.context, name), attribute)
    }

    fn operation(
        &mut self,
        name: &str,
        operands: &[Val<'a>],
        results: &[Type<'a>],
        attributes: &[(Identifier<'a>, Attribute<'a>)],
    ) -> Option<Val<'a>> {
        let operation = OperationBuilder::new(name, self.location)
            .add_operands(operands)
            .add_results(results)
            .add_attributes(attributes)
            .build()
            .expect("the operation and its attributes are registered");
        let operation = self.current.append_operation(operation);
        (!results.is_empty()).then(|| operation.result(0).expect("declared above").into())
    }

    fn value(
        &mut self,
        name: &str,
        operands: &[Val<'a>],
        result: Type<'a>,
        attributes: &[(Identifier<'a>, Attribute<'a>)],
    ) -> Val<'a> {
        self.operation(name, operands, &[result], attributes).expect("one result was asked for")
    }

    // Types

    pub fn scalar_type(&self, scalar: Scalar) -> Type<'a> {
        match scalar {
            Scalar::F16 => Type::float16(self.context),
            Scalar::BF16 => Type::bfloat16(self.context),
            Scalar::F32 => Type::float32(self.context),
            Scalar::F64 => Type::float64(self.context),
            _ => IntegerType::new(self.context, scalar.bits()).into(),
        }
    }

    pub fn vector_type(&self, length: usize, scalar: Scalar) -> Type<'a> {
        Type::vector(&[length as u64], self.scalar_type(scalar))
    }

    pub fn pointer_type(&self, space: u32) -> Type<'a> {
        llvm_type::pointer(self.context, space)
    }

    pub fn struct_type(&self, length: usize, scalar: Scalar) -> Type<'a> {
        llvm_type::r#struct(self.context, &vec![self.scalar_type(scalar); length], false)
    }

    // Constants

    /// An integer constant; also the way to make i1 constants.
    pub fn integer(&mut self, scalar: Scalar, value: i64) -> Val<'a> {
        let r#type = self.scalar_type(scalar);
        self.constant(scalar, value as u64, |_| IntegerAttribute::new(r#type, value).into())
    }

    pub fn i32(&mut self, value: i64) -> Val<'a> {
        self.integer(Scalar::I32, value)
    }

    pub fn i64(&mut self, value: i64) -> Val<'a> {
        self.integer(Scalar::I64, value)
    }

    pub fn boolean(&mut self, value: bool) -> Val<'a> {
        self.integer(Scalar::I1, i64::from(value))
    }

    pub fn float(&mut self, scalar: Scalar, value: f64) -> Val<'a> {
        let r#type = self.scalar_type(scalar);
        self.constant(scalar, value.to_bits(), |context| FloatAttribute::new(context, r#type, value).into())
    }

    pub fn f32(&mut self, value: f64) -> Val<'a> {
        self.float(Scalar::F32, value)
    }

    fn constant(&mut self, scalar: Scalar, bits: u64, attribute: impl FnOnce(&'a Context) -> Attribute<'a>) -> Val<'a> {
        if let Some(&value) = self.constants.get(&(scalar, bits)) {
            return value;
        }
        let attributes = [self.attribute("value", attribute(self.context))];
        let current = std::mem::replace(&mut self.current, self.entry);
        let value = self.value("llvm.mlir.constant", &[], self.scalar_type(scalar), &attributes);
        self.current = current;
        self.constants.insert((scalar, bits), value);
        value
    }

    // Arithmetic

    /// An operation of two operands and a result of one type: `llvm.add`, `llvm.fmul`, `llvm.intr.maximum`, …
    pub fn binary(&mut self, name: &str, scalar: Scalar, a: Val<'a>, b: Val<'a>) -> Val<'a> {
        let r#type = self.scalar_type(scalar);
        let contract = [self.attribute("fastmathFlags", self.contract)];
        let attributes: &[_] = if matches!(name, "llvm.fadd" | "llvm.fsub" | "llvm.fmul") { &contract } else { &[] };
        self.value(name, &[a, b], r#type, attributes)
    }

    pub fn add(&mut self, a: Val<'a>, b: Val<'a>) -> Val<'a> {
        self.binary("llvm.add", Scalar::I32, a, b)
    }

    pub fn sub(&mut self, a: Val<'a>, b: Val<'a>) -> Val<'a> {
        self.binary("llvm.sub", Scalar::I32, a, b)
    }

    pub fn and(&mut self, a: Val<'a>, b: Val<'a>) -> Val<'a> {
        self.binary("llvm.and", Scalar::I32, a, b)
    }

    pub fn xor(&mut self, a: Val<'a>, b: Val<'a>) -> Val<'a> {
        self.binary("llvm.xor", Scalar::I32, a, b)
    }

    pub fn shl(&mut self, a: Val<'a>, bits: u32) -> Val<'a> {
        if bits == 0 {
            return a;
        }
        let bits = self.i32(i64::from(bits));
        self.binary("llvm.shl", Scalar::I32, a, bits)
    }

    pub fn lshr(&mut self, a: Val<'a>, bits: u32) -> Val<'a> {
        if bits == 0 {
            return a;
        }
        let bits = self.i32(i64::from(bits));
        self.binary("llvm.lshr", Scalar::I32, a, bits)
    }

    pub fn fadd(&mut self, a: Val<'a>, b: Val<'a>) -> Val<'a> {
        self.binary("llvm.fadd", Scalar::F32, a, b)
    }

    pub fn fsub(&mut self, a: Val<'a>, b: Val<'a>) -> Val<'a> {
        self.binary("llvm.fsub", Scalar::F32, a, b)
    }

    pub fn fmul(&mut self, a: Val<'a>, b: Val<'a>) -> Val<'a> {
        self.binary("llvm.fmul", Scalar::F32, a, b)
    }

    /// a · b + c, rounded once.
    pub fn fma(&mut self, scalar: Scalar, a: Val<'a>, b: Val<'a>, c: Val<'a>) -> Val<'a> {
        let r#type = self.scalar_type(scalar);
        self.value("llvm.intr.fma", &[a, b, c], r#type, &[])
    }

    /// Disjunction or conjunction of truth values.
    pub fn and_all(&mut self, conditions: &[Val<'a>]) -> Option<Val<'a>> {
        let mut result: Option<Val<'a>> = None;
        for &condition in conditions {
            result = Some(match result {
                None => condition,
                Some(previous) => self.binary("llvm.and", Scalar::I1, previous, condition),
            });
        }
        result
    }

    pub fn compare_integers(&mut self, predicate: IntegerPredicate, a: Val<'a>, b: Val<'a>) -> Val<'a> {
        let attributes = [self.attribute("predicate", integer(self.context, 64, predicate as i64))];
        let r#type = self.scalar_type(Scalar::I1);
        self.value("llvm.icmp", &[a, b], r#type, &attributes)
    }

    pub fn compare_floats(&mut self, predicate: FloatPredicate, a: Val<'a>, b: Val<'a>) -> Val<'a> {
        let attributes = [self.attribute("predicate", integer(self.context, 64, predicate as i64))];
        let r#type = self.scalar_type(Scalar::I1);
        self.value("llvm.fcmp", &[a, b], r#type, &attributes)
    }

    pub fn select(&mut self, scalar: Scalar, condition: Val<'a>, a: Val<'a>, b: Val<'a>) -> Val<'a> {
        let r#type = self.scalar_type(scalar);
        self.value("llvm.select", &[condition, a, b], r#type, &[])
    }

    /// A choice between values of any one type.
    pub fn select_like(&mut self, condition: Val<'a>, a: Val<'a>, b: Val<'a>) -> Val<'a> {
        let r#type = a.r#type();
        self.value("llvm.select", &[condition, a, b], r#type, &[])
    }

    /// A conversion: `llvm.sext`, `llvm.fptrunc`, `llvm.bitcast`, `llvm.inttoptr`, …
    pub fn convert(&mut self, name: &str, value: Val<'a>, to: Type<'a>) -> Val<'a> {
        self.value(name, &[value], to, &[])
    }

    pub fn bitcast(&mut self, value: Val<'a>, to: Scalar) -> Val<'a> {
        let r#type = self.scalar_type(to);
        self.convert("llvm.bitcast", value, r#type)
    }

    pub fn unary(&mut self, name: &str, scalar: Scalar, value: Val<'a>) -> Val<'a> {
        let r#type = self.scalar_type(scalar);
        self.value(name, &[value], r#type, &[])
    }

    /// Calls an LLVM intrinsic by name.
    pub fn intrinsic(&mut self, name: &str, operands: &[Val<'a>], result: Type<'a>) -> Val<'a> {
        self.call_intrinsic(name, operands, &[result]).expect("one result was asked for")
    }

    /// Calls an LLVM intrinsic that has no result.
    pub fn effect(&mut self, name: &str, operands: &[Val<'a>]) {
        self.call_intrinsic(name, operands, &[]);
    }

    fn call_intrinsic(&mut self, name: &str, operands: &[Val<'a>], results: &[Type<'a>]) -> Option<Val<'a>> {
        let attributes = [
            self.attribute("intrin", StringAttribute::new(self.context, name).into()),
            self.attribute("op_bundle_sizes", DenseI32ArrayAttribute::new(self.context, &[]).into()),
            self.attribute(
                "operandSegmentSizes",
                DenseI32ArrayAttribute::new(self.context, &[operands.len() as i32, 0]).into(),
            ),
        ];
        self.operation("llvm.call_intrinsic", operands, results, &attributes)
    }

    /// Four bytes out of eight, chosen by the low four nibbles of a selector (`prmt`).
    pub fn permute_bytes(&mut self, low: Val<'a>, high: Val<'a>, selector: Val<'a>) -> Val<'a> {
        let word = self.scalar_type(Scalar::I32);
        self.intrinsic("llvm.nvvm.prmt", &[low, high, selector], word)
    }

    /// Inline PTX; `effects` keeps it where it is.
    pub fn assembly(
        &mut self,
        text: &str,
        constraints: &str,
        operands: &[Val<'a>],
        result: Option<Type<'a>>,
        effects: bool,
    ) -> Option<Val<'a>> {
        let mut attributes = vec![
            self.attribute("asm_string", StringAttribute::new(self.context, text).into()),
            self.attribute("constraints", StringAttribute::new(self.context, constraints).into()),
        ];
        if effects {
            attributes.push(self.attribute("has_side_effects", Attribute::unit(self.context)));
        }
        let results: Vec<_> = result.into_iter().collect();
        self.operation("llvm.inline_asm", operands, &results, &attributes)
    }

    // Aggregates

    pub fn extract_field(&mut self, aggregate: Val<'a>, index: usize, scalar: Scalar) -> Val<'a> {
        let position = DenseI64ArrayAttribute::new(self.context, &[index as i64]).into();
        let attributes = [self.attribute("position", position)];
        let r#type = self.scalar_type(scalar);
        self.value("llvm.extractvalue", &[aggregate], r#type, &attributes)
    }

    pub fn extract_element(&mut self, vector: Val<'a>, index: usize, scalar: Scalar) -> Val<'a> {
        let index = self.i32(index as i64);
        let r#type = self.scalar_type(scalar);
        self.value("llvm.extractelement", &[vector, index], r#type, &[])
    }

    /// A vector of scalars.
    pub fn vector(&mut self, scalar: Scalar, elements: &[Val<'a>]) -> Val<'a> {
        let r#type = self.vector_type(elements.len(), scalar);
        let mut vector = self.value("llvm.mlir.poison", &[], r#type, &[]);
        for (index, &element) in elements.iter().enumerate() {
            let index = self.i32(index as i64);
            vector = self.value("llvm.insertelement", &[vector, element, index], r#type, &[]);
        }
        vector
    }

    /// The bits of scalars, one after the other from the lowest, as 32-bit words. Narrower totals give one narrower integer.
    pub fn pack(&mut self, scalar: Scalar, elements: &[Val<'a>]) -> Vec<Val<'a>> {
        let bits = elements.len() as u32 * scalar.bits();
        if scalar == Scalar::I32 {
            return elements.to_vec();
        }
        if bits <= 32 {
            let r#type = match bits {
                8 => self.scalar_type(Scalar::I8),
                16 => self.scalar_type(Scalar::I16),
                _ => self.scalar_type(Scalar::I32),
            };
            let source = if elements.len() == 1 { elements[0] } else { self.vector(scalar, elements) };
            return vec![if elements.len() == 1 && matches!(scalar, Scalar::I8 | Scalar::I16) {
                source
            } else {
                self.convert("llvm.bitcast", source, r#type)
            }];
        }
        if scalar.bits() == 64 {
            let words = self.vector_type(2, Scalar::I32);
            return elements
                .iter()
                .flat_map(|&element| {
                    let pair = self.convert("llvm.bitcast", element, words);
                    [self.extract_element(pair, 0, Scalar::I32), self.extract_element(pair, 1, Scalar::I32)]
                })
                .collect();
        }
        elements.chunks((32 / scalar.bits()) as usize).flat_map(|word| self.pack(scalar, word)).collect()
    }

    /// The inverse of [`Self::pack`]: `count` scalars out of words.
    pub fn unpack(&mut self, scalar: Scalar, words: &[Val<'a>], count: usize) -> Vec<Val<'a>> {
        if scalar == Scalar::I32 {
            return words.to_vec();
        }
        if scalar.bits() == 64 {
            return words
                .chunks(2)
                .map(|pair| {
                    let pair = self.vector(Scalar::I32, pair);
                    self.bitcast(pair, scalar)
                })
                .collect();
        }
        let per_word = (count / words.len()).max(1);
        words
            .iter()
            .flat_map(|&word| {
                if per_word == 1 {
                    return if matches!(scalar, Scalar::I8 | Scalar::I16) {
                        vec![word]
                    } else {
                        vec![self.bitcast(word, scalar)]
                    };
                }
                let r#type = self.vector_type(per_word, scalar);
                let vector = self.convert("llvm.bitcast", word, r#type);
                (0..per_word).map(|index| self.extract_element(vector, index, scalar)).collect::<Vec<_>>()
            })
            .collect()
    }

    // Memory

    /// `pointer` plus a 64-bit number of bytes.
    pub fn offset(&mut self, pointer: Val<'a>, space: u32, bytes: Val<'a>) -> Val<'a> {
        let byte = TypeAttribute::new(self.scalar_type(Scalar::I8)).into();
        let attributes = [
            self.attribute("elem_type", byte),
            self.attribute("rawConstantIndices", DenseI32ArrayAttribute::new(self.context, &[i32::MIN]).into()),
        ];
        let r#type = self.pointer_type(space);
        self.value("llvm.getelementptr", &[pointer, bytes], r#type, &attributes)
    }

    /// A shared-memory pointer from its 32-bit address.
    pub fn shared_pointer(&mut self, address: Val<'a>) -> Val<'a> {
        let r#type = self.pointer_type(SHARED);
        self.convert("llvm.inttoptr", address, r#type)
    }

    /// The 32-bit address of the dynamic shared memory.
    pub fn shared_base(&mut self) -> Val<'a> {
        let attributes =
            [self.attribute("global_name", FlatSymbolRefAttribute::new(self.context, SHARED_SYMBOL).into())];
        let pointer = self.pointer_type(SHARED);
        let address = self.value("llvm.mlir.addressof", &[], pointer, &attributes);
        let word = self.scalar_type(Scalar::I32);
        self.convert("llvm.ptrtoint", address, word)
    }

    /// Loads a value; `invariant` says that nothing writes there while the kernel runs.
    pub fn load(&mut self, pointer: Val<'a>, r#type: Type<'a>, alignment: u32, invariant: bool) -> Val<'a> {
        let mut attributes = vec![self.attribute("alignment", integer(self.context, 64, i64::from(alignment)))];
        if invariant {
            attributes.push(self.attribute("invariant", Attribute::unit(self.context)));
        }
        self.value("llvm.load", &[pointer], r#type, &attributes)
    }

    pub fn store(&mut self, value: Val<'a>, pointer: Val<'a>, alignment: u32) {
        let attributes = [self.attribute("alignment", integer(self.context, 64, i64::from(alignment)))];
        self.operation("llvm.store", &[value, pointer], &[], &attributes);
    }

    pub fn barrier(&mut self) {
        let zero = self.i32(0);
        self.effect("llvm.nvvm.barrier.cta.sync.aligned.all", &[zero]);
    }

    // Control flow

    pub fn branch(&mut self, target: BlockRef<'a, 'a>, arguments: &[Val<'a>]) {
        let operation = OperationBuilder::new("llvm.br", self.location)
            .add_operands(arguments)
            .add_successors(&[&target])
            .build()
            .expect("the operation and its attributes are registered");
        self.current.append_operation(operation);
    }

    pub fn branch_if(
        &mut self,
        condition: Val<'a>,
        (yes, yes_arguments): (BlockRef<'a, 'a>, &[Val<'a>]),
        (no, no_arguments): (BlockRef<'a, 'a>, &[Val<'a>]),
    ) {
        let segments = [1, yes_arguments.len() as i32, no_arguments.len() as i32];
        let operation = OperationBuilder::new("llvm.cond_br", self.location)
            .add_operands(&[condition])
            .add_operands(yes_arguments)
            .add_operands(no_arguments)
            .add_attributes(&[(
                Identifier::new(self.context, "operandSegmentSizes"),
                DenseI32ArrayAttribute::new(self.context, &segments).into(),
            )])
            .add_successors(&[&yes, &no])
            .build()
            .expect("the operation and its attributes are registered");
        self.current.append_operation(operation);
    }
}

/// A kernel parameter.
pub(super) enum Parameter {
    /// A pointer to global memory.
    Global {
        /// Power of two that divides it.
        alignment: u32,
        /// Nothing is written through it.
        read_only: bool,
    },
    /// A 32-bit integer.
    Integer,
    /// A 32-bit float.
    Float,
}

fn parameter_attributes<'a>(context: &'a Context, parameters: &[Parameter]) -> Attribute<'a> {
    let entries: Vec<String> = parameters
        .iter()
        .map(|parameter| match parameter {
            Parameter::Global { alignment, read_only } => format!(
                "{{llvm.align = {alignment} : i64, llvm.noalias{}}}",
                if *read_only { ", llvm.readonly" } else { "" }
            ),
            Parameter::Integer | Parameter::Float => "{}".into(),
        })
        .collect();
    parse(context, &format!("[{}]", entries.join(", ")))
}

fn integer(context: &Context, bits: u32, value: i64) -> Attribute<'_> {
    IntegerAttribute::new(IntegerType::new(context, bits).into(), value).into()
}

fn parse<'a>(context: &'a Context, text: &str) -> Attribute<'a> {
    Attribute::parse(context, text).expect("the attribute's text is fixed above")
}
