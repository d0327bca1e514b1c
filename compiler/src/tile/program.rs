//! The data structures of a tile program.

use serde::{Deserialize, Serialize};
use smallvec::SmallVec;

/// The type of one element of a tile or of a tensor in memory.
///
/// Only what can be addressed by bytes; sub-byte formats are loaded as [`Element::U8`] and unpacked by the program.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Element {
    /// IEEE binary64.
    F64,
    /// IEEE binary32.
    F32,
    /// IEEE binary16.
    F16,
    /// bfloat16.
    BF16,
    /// 8-bit float, 4 exponent bits, no infinities (OCP E4M3).
    Fp8E4M3,
    /// 8-bit float, 5 exponent bits (OCP E5M2).
    Fp8E5M2,
    /// Signed 64-bit integer.
    I64,
    /// Signed 32-bit integer; arithmetic wraps, as that of all integers here.
    I32,
    /// Unsigned 32-bit integer; arithmetic wraps.
    U32,
    /// Signed 16-bit integer.
    I16,
    /// Signed 8-bit integer.
    I8,
    /// Unsigned 8-bit integer.
    U8,
    /// Truth value; one byte in memory, 0 or 1.
    Bool,
}

impl Element {
    /// Bytes that one element fills in memory.
    pub const fn bytes(self) -> usize {
        match self {
            Self::F64 | Self::I64 => 8,
            Self::F32 | Self::I32 | Self::U32 => 4,
            Self::F16 | Self::BF16 | Self::I16 => 2,
            Self::Fp8E4M3 | Self::Fp8E5M2 | Self::I8 | Self::U8 | Self::Bool => 1,
        }
    }

    /// Least and largest value of an integer element, or of Bool; none for floats.
    pub const fn integer_range(self) -> Option<(i64, i64)> {
        match self {
            Self::I64 => Some((i64::MIN, i64::MAX)),
            Self::I32 => Some((i32::MIN as i64, i32::MAX as i64)),
            Self::U32 => Some((0, u32::MAX as i64)),
            Self::I16 => Some((i16::MIN as i64, i16::MAX as i64)),
            Self::I8 => Some((i8::MIN as i64, i8::MAX as i64)),
            Self::U8 => Some((0, u8::MAX as i64)),
            Self::Bool => Some((0, 1)),
            Self::F64 | Self::F32 | Self::F16 | Self::BF16 | Self::Fp8E4M3 | Self::Fp8E5M2 => None,
        }
    }

    /// Whether this is a floating-point format.
    pub const fn is_float(self) -> bool {
        matches!(self, Self::F64 | Self::F32 | Self::F16 | Self::BF16 | Self::Fp8E4M3 | Self::Fp8E5M2)
    }
}

/// Shape and element type of a value. Rank zero is a scalar, the same in all threads of a program.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct TileType {
    /// Extents, outermost first. The PTX target wants powers of two; the host takes any.
    pub shape: SmallVec<[u32; 3]>,
    /// Element type.
    pub element: Element,
}

impl TileType {
    /// A tile of the given shape.
    pub fn new(shape: &[u32], element: Element) -> Self {
        Self { shape: SmallVec::from_slice(shape), element }
    }

    /// A scalar.
    pub fn scalar(element: Element) -> Self {
        Self::new(&[], element)
    }

    /// Number of elements; 1 for a scalar.
    pub fn len(&self) -> usize {
        self.shape.iter().fold(1, |product: usize, &extent| product.saturating_mul(extent as usize))
    }

    /// Whether the tile has no elements. No valid program has such a tile.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether this is a scalar.
    pub fn is_scalar(&self) -> bool {
        self.shape.is_empty()
    }
}

/// An SSA value of a program: an index into [`Program::types`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Value(pub u32);

/// Position of an argument in [`Program::arguments`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct ArgumentIndex(pub u32);

/// An extent or stride of a tensor argument: known when compiled, or the value of an integer argument at launch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Dimension {
    /// Known when compiled.
    Constant(u64),
    /// The value of the integer argument at this position.
    Argument(ArgumentIndex),
}

/// How a program uses a tensor argument.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Access {
    /// Only loaded; nothing writes it while the kernel runs, so it may be cached as read-only data.
    Read,
    /// Only stored.
    Write,
    /// Loaded and stored.
    ReadWrite,
}

/// A tensor in memory that a program loads from or stores to.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct TensorArgument {
    /// Name, for the reader of dumps.
    pub name: String,
    /// Element type in memory.
    pub element: Element,
    /// Extents, outermost first.
    pub extents: SmallVec<[Dimension; 4]>,
    /// Strides in elements, outermost first, as many as extents.
    pub strides: SmallVec<[Dimension; 4]>,
    /// How it is used.
    pub access: Access,
    /// Power of two that divides the byte address of its first element.
    pub alignment: u32,
}

/// A parameter of the kernel.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Argument {
    /// A tensor; passed as a pointer.
    Tensor(TensorArgument),
    /// An integer (an extent, an offset): passed as i64 to host kernels, .s32 to PTX; must fit in 31 bits.
    Integer {
        /// Name, for the reader of dumps.
        name: String,
        /// Power of two that is known to divide it.
        divisor: u32,
    },
    /// A 32-bit float.
    Float {
        /// Name, for the reader of dumps.
        name: String,
    },
}

/// Number of programs along one axis of the grid.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum GridExtent {
    /// ⌈dimension / block⌉ programs.
    Tiles {
        /// What is cut into blocks.
        dimension: Dimension,
        /// Elements of a block.
        block: u32,
    },
}

impl GridExtent {
    /// A fixed number of programs.
    pub const fn fixed(count: u64) -> Self {
        Self::Tiles { dimension: Dimension::Constant(count), block: 1 }
    }
}

/// A compile-time scalar.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub enum Literal {
    /// For float elements.
    Float(f64),
    /// For integer elements and Bool (0 or 1).
    Integer(i64),
}

/// Elementwise operation of one operand. Float elements, unless it says otherwise.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum UnaryOperation {
    /// −x; integers too.
    Negate,
    /// |x|; integers too.
    Absolute,
    /// eˣ
    Exp,
    /// 2ˣ
    Exp2,
    /// ln x
    Log,
    /// log₂ x
    Log2,
    /// √x
    Sqrt,
    /// 1/√x
    Rsqrt,
    /// Hyperbolic tangent.
    Tanh,
    /// Error function.
    Erf,
    /// Sine, x in radians, any finite magnitude up to 1e6 with full relative accuracy of the argument's f32 value.
    Sin,
    /// Cosine, as [`UnaryOperation::Sin`].
    Cos,
    /// Largest integer not above x.
    Floor,
    /// Logical negation of Bool.
    Not,
}

/// Elementwise operation of two operands of one type.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum BinaryOperation {
    /// a + b
    Add,
    /// a − b
    Subtract,
    /// a · b
    Multiply,
    /// a / b; integers: towards zero, and a zero divisor yields zero.
    Divide,
    /// Remainder with the sign of a; integers: a zero divisor yields zero.
    Remainder,
    /// The larger; NaN if either is NaN.
    Maximum,
    /// The smaller; NaN if either is NaN.
    Minimum,
    /// aᵇ of floats.
    Power,
    /// Bitwise and; integers and Bool.
    And,
    /// Bitwise or; integers and Bool.
    Or,
    /// Bitwise exclusive or; integers and Bool.
    Xor,
    /// a << b; integers; b below the width.
    ShiftLeft,
    /// a >> b with zeros shifted in; integers; b below the width.
    ShiftRightLogical,
    /// The high 32 bits of the unsigned 64-bit product; I32 only (Philox needs it).
    MultiplyHighUnsigned,
}

/// Comparison; integers compare as their element is signed or unsigned.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Predicate {
    /// a = b
    Equal,
    /// a ≠ b (true for NaN)
    NotEqual,
    /// a < b
    Less,
    /// a ≤ b
    LessEqual,
    /// a > b
    Greater,
    /// a ≥ b
    GreaterEqual,
}

/// How [`Operation::Reduce`] combines elements. The order of combination is the target's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Reduction {
    /// Sum.
    Sum,
    /// Maximum; NaN propagates.
    Maximum,
    /// Minimum; NaN propagates.
    Minimum,
}

/// Where an access lies along one dimension of its tensor. Indices are I32.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Coordinate {
    /// The scalar index, inside the tensor where anything is accessed; adds no dimension to the tile.
    At(Value),
    /// `length` consecutive indices from the scalar `start`; adds a dimension.
    Block {
        /// First index.
        start: Value,
        /// Number of indices.
        length: u32,
    },
    /// The indices held by a rank-1 tile; adds a dimension. Negative ones count as outside the tensor.
    Gather(Value),
}

/// A list of instructions with the values that enter and leave it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Block {
    /// Values that the enclosing operation defines at entry: of a loop, the induction variable and then the carried ones.
    pub parameters: Vec<Value>,
    /// Instructions in order.
    pub instructions: Vec<Instruction>,
    /// Values handed back: of a loop, the carried ones of the next iteration.
    pub yields: Vec<Value>,
}

/// One operation and the values that it defines.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Instruction {
    /// Defined values; their types are in [`Program::types`].
    pub results: SmallVec<[Value; 1]>,
    /// What is done.
    pub operation: Operation,
}

/// What an instruction does. Result types are those of the result values.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Operation {
    /// Position of this program in the grid along an axis (0, 1, 2): I32 scalar.
    ProgramId(u8),
    /// Value of an integer argument (I32 scalar) or float argument (F32 scalar).
    Argument(ArgumentIndex),
    /// Every element equal to the literal.
    Constant(Literal),
    /// 0, 1, 2, … : rank-1 tile of I32.
    Iota,
    /// Elementwise.
    Unary(UnaryOperation, Value),
    /// Elementwise.
    Binary(BinaryOperation, Value, Value),
    /// Elementwise; Bool result.
    Compare(Predicate, Value, Value),
    /// Elementwise: the second where the first (Bool) holds, else the third.
    Select(Value, Value, Value),
    /// Numeric conversion to the result's element: to nearest even; into fp8 saturating; float to integer towards zero, saturating,
    /// NaN to zero; to a narrower integer by dropping high bits, to a wider one by its source's sign; to Bool: whether it is not zero.
    Cast(Value),
    /// The same bits as another element of equal width; neither is Bool.
    Bitcast(Value),
    /// Operand dimension `i` becomes result dimension `axes[i]` (increasing); the rest is repeated.
    Broadcast {
        /// What is repeated.
        value: Value,
        /// A result dimension for each operand dimension.
        axes: SmallVec<[u8; 3]>,
    },
    /// Swap of the two dimensions of a rank-2 tile.
    Transpose(Value),
    /// The elements in another order: the operand, seen as a tile of these extents, with its dimensions permuted, seen as a tile of the
    /// result's shape; all three row-major. It gives data that memory holds in tiles the shape that they are tiles of.
    Rearrange {
        /// What is rearranged.
        value: Value,
        /// Extents that the operand's elements are seen in.
        extents: SmallVec<[u32; 8]>,
        /// Which of them each dimension is, outermost first, after the permutation.
        permutation: SmallVec<[u8; 8]>,
    },
    /// Combines the elements along an axis, which the result lacks.
    Reduce {
        /// How.
        reduction: Reduction,
        /// What.
        value: Value,
        /// Along which dimension.
        axis: u8,
    },
    /// The numbers that block-scaled elements stand for: each element times the scale of its block, rounded to the result's float.
    ///
    /// Elements lie along the last dimension: two E2M1 to a byte of U8, the earlier in its low half; eight of them to a word of U32, as
    /// [`E2M1_WORD`](super::E2M1_WORD) says; or one of fp8 or I8. The scales divide the
    /// result's last dimension into as many equal blocks as they are: floats, or E8M0 in U8 (the byte b is 2^(b − 127), 255 is NaN).
    Dequantize {
        /// [.., K / 2] of U8, [.., K / 8] of U32, or [.., K].
        elements: Value,
        /// [.., blocks]
        scales: Value,
    },
    /// accumulator[M,N] + lhs[M,K] · rhs[K,N]; lhs and rhs share an element type; the accumulator is F32 (F64 for F64 operands). Products are
    /// exact (F32: FMA), sums in the accumulator's precision, in any order.
    Dot {
        /// [M,K]
        lhs: Value,
        /// [K,N]
        rhs: Value,
        /// [M,N]
        accumulator: Value,
    },
    /// Reads a tile of a tensor argument. The result's element is the tensor's.
    Load {
        /// A tensor argument.
        tensor: ArgumentIndex,
        /// One for each dimension of the tensor.
        coordinates: SmallVec<[Coordinate; 4]>,
        /// Bool tile of the result's shape: where false nothing is read. None reads all that lies inside.
        mask: Option<Value>,
        /// Value of what is not read.
        other: Literal,
    },
    /// Writes a tile to a tensor argument.
    Store {
        /// A tensor argument.
        tensor: ArgumentIndex,
        /// One for each dimension of the tensor.
        coordinates: SmallVec<[Coordinate; 4]>,
        /// Bool tile of the value's shape: where false nothing is written.
        mask: Option<Value>,
        /// What is written; its element is the tensor's.
        value: Value,
    },
    /// for i in (lower..upper).step_by(step): the carried values go through the body. Bounds are I32 scalars, step a positive constant.
    For {
        /// First value of the induction variable.
        lower: Value,
        /// Bound that the induction variable stays below.
        upper: Value,
        /// Added in every iteration.
        step: u32,
        /// Carried values at entry.
        initial: Vec<Value>,
        /// Parameters: induction variable (I32 scalar), carried values. Yields: the carried values.
        body: Block,
    },
}

/// Choices of the cost model that a target needs besides the tile shapes.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Schedule {
    /// Warps of a GPU program. Ignored on the host.
    pub warps: u32,
    /// Shared-memory buffers of each pipelined load; 1 is no pipelining. Ignored on the host.
    pub stages: u32,
}

impl Default for Schedule {
    fn default() -> Self {
        Self { warps: 4, stages: 1 }
    }
}

/// A kernel: what one instance of the grid computes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Program {
    /// Symbol name of the kernel: letters, digits and underscores.
    pub name: String,
    /// What it computes, for people: lines of the comment that heads the PTX file.
    pub summary: Vec<String>,
    /// Parameters in launch order.
    pub arguments: Vec<Argument>,
    /// Programs along x, y and z.
    pub grid: [GridExtent; 3],
    /// Choices of the cost model.
    pub schedule: Schedule,
    /// Type of every value.
    pub types: Vec<TileType>,
    /// Instructions.
    pub body: Block,
}

impl Program {
    /// Type of a value of this program.
    pub fn type_of(&self, value: Value) -> &TileType {
        &self.types[value.0 as usize]
    }

    /// The tensor argument at a position, if it is one.
    pub fn tensor(&self, index: ArgumentIndex) -> Option<&TensorArgument> {
        match self.arguments.get(index.0 as usize) {
            Some(Argument::Tensor(tensor)) => Some(tensor),
            _ => None,
        }
    }
}

impl Argument {
    /// Name, for the reader of dumps.
    pub fn name(&self) -> &str {
        match self {
            Self::Tensor(tensor) => &tensor.name,
            Self::Integer { name, .. } | Self::Float { name } => name,
        }
    }
}

impl Operation {
    /// The word for it in the text form.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::ProgramId(_) => "program_id",
            Self::Argument(_) => "argument",
            Self::Constant(_) => "constant",
            Self::Iota => "iota",
            Self::Unary(operation, _) => operation.name(),
            Self::Binary(operation, ..) => operation.name(),
            Self::Compare(..) => "compare",
            Self::Select(..) => "select",
            Self::Cast(_) => "cast",
            Self::Bitcast(_) => "bitcast",
            Self::Broadcast { .. } => "broadcast",
            Self::Transpose(_) => "transpose",
            Self::Rearrange { .. } => "rearrange",
            Self::Reduce { .. } => "reduce",
            Self::Dequantize { .. } => "dequantize",
            Self::Dot { .. } => "dot",
            Self::Load { .. } => "load",
            Self::Store { .. } => "store",
            Self::For { .. } => "for",
        }
    }

    /// Values that the operation reads, less those inside a loop's body.
    pub fn operands(&self) -> SmallVec<[Value; 4]> {
        let mut operands = SmallVec::new();
        let mut access = |coordinates: &[Coordinate], mask: &Option<Value>| {
            for coordinate in coordinates {
                operands.push(match *coordinate {
                    Coordinate::At(value) | Coordinate::Gather(value) => value,
                    Coordinate::Block { start, .. } => start,
                });
            }
            operands.extend(*mask);
        };
        match self {
            Self::ProgramId(_) | Self::Argument(_) | Self::Constant(_) | Self::Iota => {}
            Self::Unary(_, value) | Self::Cast(value) | Self::Bitcast(value) | Self::Transpose(value) => {
                operands.push(*value);
            }
            Self::Broadcast { value, .. } | Self::Rearrange { value, .. } | Self::Reduce { value, .. } => {
                operands.push(*value);
            }
            Self::Binary(_, a, b) | Self::Compare(_, a, b) => operands.extend([*a, *b]),
            Self::Select(condition, a, b) => operands.extend([*condition, *a, *b]),
            Self::Dequantize { elements, scales } => operands.extend([*elements, *scales]),
            Self::Dot { lhs, rhs, accumulator } => operands.extend([*lhs, *rhs, *accumulator]),
            Self::Load { coordinates, mask, .. } => access(coordinates, mask),
            Self::Store { coordinates, mask, value, .. } => {
                access(coordinates, mask);
                operands.push(*value);
            }
            Self::For { lower, upper, initial, .. } => {
                operands.extend([*lower, *upper]);
                operands.extend(initial.iter().copied());
            }
        }
        operands
    }
}
