//! The text form of tile programs.

use std::fmt::{self, Display, Formatter};

use super::program::{
    Access, Argument, ArgumentIndex, BinaryOperation, Block, Coordinate, Dimension, Element, GridExtent, Instruction,
    Literal, Operation, Predicate, Program, Reduction, TileType, UnaryOperation, Value,
};

/// Names of the enumerations in the text form: the printer and the parser both read this table.
macro_rules! names {
    ($($kind:ident { $($variant:ident = $name:literal),* $(,)? })*) => {$(
        impl $kind {
            /// Every variant.
            pub const ALL: &'static [Self] = &[$(Self::$variant),*];

            /// The name in the text form.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name),* }
            }
        }
    )*};
}

names! {
    UnaryOperation {
        Negate = "negate", Absolute = "absolute", Exp = "exp", Exp2 = "exp2", Log = "log", Log2 = "log2", Sqrt = "sqrt",
        Rsqrt = "rsqrt", Tanh = "tanh", Erf = "erf", Sin = "sin", Cos = "cos", Floor = "floor", Not = "not",
    }
    BinaryOperation {
        Add = "add", Subtract = "subtract", Multiply = "multiply", Divide = "divide", Remainder = "remainder",
        Maximum = "maximum", Minimum = "minimum", Power = "power", And = "and", Or = "or", Xor = "xor",
        ShiftLeft = "shift_left", ShiftRightLogical = "shift_right_logical", MultiplyHighUnsigned = "multiply_high_unsigned",
    }
    Predicate {
        Equal = "equal", NotEqual = "not_equal", Less = "less", LessEqual = "less_equal", Greater = "greater",
        GreaterEqual = "greater_equal",
    }
    Element {
        F64 = "f64", F32 = "f32", F16 = "f16", BF16 = "bf16", Fp8E4M3 = "fp8_e4m3", Fp8E5M2 = "fp8_e5m2", I64 = "i64", I32 = "i32",
        U32 = "u32", I16 = "i16", I8 = "i8", U8 = "u8", Bool = "bool",
    }
    Reduction { Sum = "sum", Maximum = "maximum", Minimum = "minimum" }
    Access { Read = "read", Write = "write", ReadWrite = "read_write" }
}

impl Display for Value {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "%{}", self.0)
    }
}

impl Display for TileType {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        for extent in &self.shape {
            write!(f, "{extent}x")?;
        }
        f.write_str(self.element.name())
    }
}

impl Display for Literal {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Self::Float(value) => write!(f, "{value:?}"),
            Self::Integer(value) => write!(f, "{value}"),
        }
    }
}

/// A program with what is needed to print a part of it.
struct Printer<'a>(&'a Program);

impl Printer<'_> {
    fn argument(&self, index: ArgumentIndex) -> String {
        self.0.arguments.get(index.0 as usize).map_or_else(|| format!("@?{}", index.0), |a| format!("@{}", a.name()))
    }

    fn dimension(&self, dimension: Dimension) -> String {
        match dimension {
            Dimension::Constant(value) => value.to_string(),
            Dimension::Argument(index) => self.argument(index),
        }
    }

    fn dimensions(&self, dimensions: &[Dimension]) -> String {
        dimensions.iter().map(|&dimension| self.dimension(dimension)).collect::<Vec<_>>().join(", ")
    }

    fn coordinates(&self, coordinates: &[Coordinate]) -> String {
        let texts: Vec<String> = coordinates
            .iter()
            .map(|coordinate| match coordinate {
                Coordinate::At(value) => value.to_string(),
                Coordinate::Block { start, length } => format!("{start}:{length}"),
                Coordinate::Gather(value) => format!("gather {value}"),
            })
            .collect();
        texts.join(", ")
    }

    fn block(&self, f: &mut Formatter<'_>, block: &Block, depth: usize) -> fmt::Result {
        for instruction in &block.instructions {
            self.instruction(f, instruction, depth)?;
        }
        Ok(())
    }

    fn instruction(&self, f: &mut Formatter<'_>, instruction: &Instruction, depth: usize) -> fmt::Result {
        let pad = "  ".repeat(depth);
        f.write_str(&pad)?;
        if !instruction.results.is_empty() {
            write!(f, "{} = ", list(&instruction.results))?;
        }
        let mask = |mask: &Option<Value>| mask.map(|value| format!(" mask {value}")).unwrap_or_default();
        write!(f, "{}", instruction.operation.name())?;
        match &instruction.operation {
            Operation::ProgramId(axis) => write!(f, " {axis}")?,
            Operation::Argument(index) => write!(f, " {}", self.argument(*index))?,
            Operation::Constant(literal) => write!(f, " {literal}")?,
            Operation::Iota => {}
            Operation::Unary(_, value)
            | Operation::Cast(value)
            | Operation::Bitcast(value)
            | Operation::Transpose(value) => write!(f, " {value}")?,
            Operation::Binary(_, a, b) => write!(f, " {a}, {b}")?,
            Operation::Compare(predicate, a, b) => write!(f, " {} {a}, {b}", predicate.name())?,
            Operation::Select(condition, a, b) => write!(f, " {condition}, {a}, {b}")?,
            Operation::Broadcast { value, axes } => {
                let axes: Vec<String> = axes.iter().map(u8::to_string).collect();
                write!(f, " {value} [{}]", axes.join(", "))?;
            }
            Operation::Rearrange { value, extents, permutation } => {
                let extents: Vec<String> = extents.iter().map(u32::to_string).collect();
                let permutation: Vec<String> = permutation.iter().map(u8::to_string).collect();
                write!(f, " {value} [{}] permuted [{}]", extents.join(", "), permutation.join(", "))?;
            }
            Operation::Reduce { reduction, value, axis } => write!(f, " {} {value} axis {axis}", reduction.name())?,
            Operation::Dequantize { elements, scales } => write!(f, " {elements}, {scales}")?,
            Operation::Dot { lhs, rhs, accumulator } => write!(f, " {lhs}, {rhs}, {accumulator}")?,
            Operation::Load { tensor, coordinates, mask: condition, other } => {
                let (tensor, coordinates) = (self.argument(*tensor), self.coordinates(coordinates));
                write!(f, " {tensor}[{coordinates}]{} other {other}", mask(condition))?;
            }
            Operation::Store { tensor, coordinates, mask: condition, value } => {
                let (tensor, coordinates) = (self.argument(*tensor), self.coordinates(coordinates));
                return writeln!(f, " {tensor}[{coordinates}], {value}{}", mask(condition));
            }
            Operation::For { lower, upper, step, initial, body } => {
                let (induction, carried) = body.parameters.split_first().ok_or(fmt::Error)?;
                write!(f, " {induction} in {lower}..{upper} step {step}")?;
                if !carried.is_empty() {
                    let pairs: Vec<String> = carried
                        .iter()
                        .zip(initial)
                        .map(|(value, from)| format!("{value} = {from} : {}", self.0.type_of(*value)))
                        .collect();
                    write!(f, " with ({})", pairs.join(", "))?;
                }
                writeln!(f, " {{")?;
                self.block(f, body, depth + 1)?;
                if !body.yields.is_empty() {
                    writeln!(f, "{pad}  yield {}", list(&body.yields))?;
                }
                return writeln!(f, "{pad}}}");
            }
        }
        match instruction.results.first() {
            Some(result) => writeln!(f, " : {}", self.0.type_of(*result)),
            None => writeln!(f),
        }
    }
}

fn list(values: &[Value]) -> String {
    values.iter().map(Value::to_string).collect::<Vec<_>>().join(", ")
}

impl Display for Program {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let printer = Printer(self);
        for line in &self.summary {
            writeln!(f, "{}", format!("// {line}").trim_end())?;
        }
        writeln!(f, "kernel @{}(", self.name)?;
        for argument in &self.arguments {
            match argument {
                Argument::Tensor(tensor) => writeln!(
                    f,
                    "  @{}: tensor {}[{}] strides [{}] {} align {},",
                    tensor.name,
                    tensor.element.name(),
                    printer.dimensions(&tensor.extents),
                    printer.dimensions(&tensor.strides),
                    tensor.access.name(),
                    tensor.alignment,
                )?,
                Argument::Integer { name, divisor } => writeln!(f, "  @{name}: integer divisor {divisor},")?,
                Argument::Float { name } => writeln!(f, "  @{name}: float,")?,
            }
        }
        let grid: Vec<String> = self
            .grid
            .iter()
            .map(|GridExtent::Tiles { dimension, block }| format!("{} / {block}", printer.dimension(*dimension)))
            .collect();
        writeln!(f, ") grid [{}] warps {} stages {} {{", grid.join(", "), self.schedule.warps, self.schedule.stages)?;
        printer.block(f, &self.body, 1)?;
        writeln!(f, "}}")
    }
}
