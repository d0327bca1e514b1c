//! A module as it is written: names are not resolved, instructions are not understood.

use std::collections::HashMap;

use super::lexer::Span;
use crate::diagnostic::Problem;

/// A PTX module.
#[derive(Clone, Debug)]
pub struct Module<'a> {
    /// `.version`: major and minor.
    pub version: (u32, u32),
    /// The first name of `.target`: `sm_90a`.
    pub target: &'a str,
    /// Variables outside of functions, in order.
    pub variables: Vec<Variable<'a>>,
    /// Kernels and functions, in order; a function that is declared and then defined is here twice.
    pub functions: Vec<Function<'a>>,
    /// `.alias`: other names of functions, in order.
    pub aliases: Vec<Alias<'a>>,
}

/// Another name of a function: `.alias name, function;`.
#[derive(Clone, Debug)]
pub struct Alias<'a> {
    /// The other name, which is declared.
    pub name: &'a str,
    /// The function's own name.
    pub function: &'a str,
    /// Where it is.
    pub span: Span,
}

impl<'a> Module<'a> {
    /// What functions' names stand for: the last of that name, as a definition comes after its declaration, and for an alias the
    /// function that it names.
    pub fn function_numbers(&self) -> Result<HashMap<&'a str, usize>, Problem> {
        let mut numbers: HashMap<&str, usize> =
            self.functions.iter().zip(0..).map(|(function, number)| (function.name, number)).collect();
        for Alias { name, function, span } in &self.aliases {
            let problem = |message: String| Err(Problem::new(span.clone(), message));
            let Some(number) = numbers.get(function).copied().filter(|at| self.functions[*at].body.is_some()) else {
                return problem(format!("`{name}` is an alias of `{function}`, which is not defined here"));
            };
            let aliased = &self.functions[number];
            let Some(declared) = numbers.get(name).map(|at| &self.functions[*at]) else {
                return problem(format!("the alias `{name}` is not declared: a `.func` of that name comes before it"));
            };
            if aliased.entry || declared.entry {
                return problem(format!(
                    "`{name}` is an alias of `{function}`; only functions have aliases, not kernels"
                ));
            }
            if declared.body.is_some() {
                return problem(format!("`{name}` has a body, and cannot be an alias"));
            }
            if declared.signature() != aliased.signature() {
                return problem(format!("`{name}` and `{function}` have other parameters or results"));
            }
            numbers.insert(*name, number);
        }
        Ok(numbers)
    }
}

/// The width and kind of a register's or variable's element. Arithmetic reads more than that into a type; here only the size matters,
/// and whether it is a predicate.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Width {
    /// One bit.
    Predicate,
    /// 1, 2, 4, 8 or 16 bytes.
    Bytes(u32),
}

impl Width {
    /// The width named by a type, without its point.
    pub fn of_type(name: &str) -> Option<Width> {
        Some(Width::Bytes(match name {
            "pred" => return Some(Width::Predicate),
            "b8" | "u8" | "s8" | "e4m3" | "e5m2" | "ue8m0" => 1,
            "b16" | "u16" | "s16" | "f16" | "bf16" | "e4m3x2" | "e5m2x2" => 2,
            "b32" | "u32" | "s32" | "f32" | "f16x2" | "bf16x2" | "tf32" | "u16x2" | "s16x2" => 4,
            "b64" | "u64" | "s64" | "f64" | "f32x2" => 8,
            "b128" => 16,
            _ => return None,
        }))
    }

    /// How many bytes a variable of this width takes.
    pub fn bytes(self) -> u32 {
        match self {
            Width::Predicate => 1,
            Width::Bytes(bytes) => bytes,
        }
    }
}

/// Where a variable lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Space {
    /// `.reg`
    Register,
    /// `.global`
    Global,
    /// `.const`
    Constant,
    /// `.shared`
    Shared,
    /// `.local`
    Local,
    /// `.param`
    Parameter,
}

/// How a name is seen from other modules.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Linkage {
    /// Only in this module.
    #[default]
    Internal,
    /// `.visible`, `.weak`, `.common`
    Visible,
    /// `.extern`: defined elsewhere, or sized at launch.
    External,
}

/// A declared variable, register or parameter.
#[derive(Clone, Debug)]
pub struct Variable<'a> {
    /// How it is seen.
    pub linkage: Linkage,
    /// Where it lives.
    pub space: Space,
    /// `.align`, in bytes.
    pub alignment: Option<u32>,
    /// The element's width.
    pub width: Width,
    /// `.v2`, `.v4`, `.v8`: how many components an element has, else 1.
    pub components: u32,
    /// The name.
    pub name: &'a str,
    /// `%r<226>`: how many registers of that name, numbered from 0.
    pub numbered: Option<u32>,
    /// `[4][8]`; an open dimension is 0.
    pub dimensions: Vec<u64>,
    /// `= …`
    pub initializer: Option<Initializer<'a>>,
    /// Where it is declared.
    pub span: Span,
}

impl Variable<'_> {
    /// The bytes of all elements.
    pub fn bytes(&self) -> u64 {
        let element = u64::from(self.width.bytes()) * u64::from(self.components);
        self.dimensions.iter().fold(element, |bytes, dimension| bytes.saturating_mul(*dimension))
    }

    /// Its alignment, which is the element's where none is given.
    pub fn aligned(&self) -> u32 {
        self.alignment.unwrap_or(self.width.bytes() * self.components.next_power_of_two())
    }
}

/// A variable's value.
#[derive(Clone, Debug)]
pub enum Initializer<'a> {
    /// One element.
    Value(Operand<'a>),
    /// Elements of a dimension; missing ones are zero.
    List(Vec<Initializer<'a>>),
}

/// A kernel or a function.
#[derive(Clone, Debug)]
pub struct Function<'a> {
    /// Whether it is a kernel.
    pub entry: bool,
    /// How it is seen.
    pub linkage: Linkage,
    /// The name.
    pub name: &'a str,
    /// What a function returns.
    pub results: Vec<Variable<'a>>,
    /// What it takes.
    pub parameters: Vec<Variable<'a>>,
    /// What it asks of a launch.
    pub requirements: Requirements,
    /// The statements, or `None` for a declaration.
    pub body: Option<Vec<Statement<'a>>>,
    /// Where its name is.
    pub span: Span,
}

/// Bytes and alignment of variables.
pub type Sizes = Vec<(u32, u32)>;

impl Function<'_> {
    /// Bytes and alignment of its parameters, and of its results.
    pub fn signature(&self) -> (Sizes, Sizes) {
        let sizes = |variables: &[Variable<'_>]| {
            variables.iter().map(|variable| (variable.bytes() as u32, variable.aligned())).collect()
        };
        (sizes(&self.parameters), sizes(&self.results))
    }
}

/// The performance-tuning directives that a launch must honour.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Requirements {
    /// `.reqntid`
    pub block: Option<[u32; 3]>,
    /// `.maxntid`, as a product.
    pub maximum_threads: Option<u32>,
    /// `.maxnreg`
    pub maximum_registers: Option<u32>,
    /// `.explicitcluster`
    pub explicit_cluster: bool,
    /// `.reqnctapercluster`
    pub cluster: Option<[u32; 3]>,
    /// `.maxclusterrank`
    pub maximum_cluster: Option<u32>,
}

/// A statement of a body.
#[derive(Clone, Debug)]
pub enum Statement<'a> {
    /// A register or a variable.
    Variable(Variable<'a>),
    /// `name:`
    Label(&'a str, Span),
    /// `name: .branchtargets a, b;`
    BranchTargets(&'a str, Vec<&'a str>),
    /// `name: .callprototype …;` or `.calltargets`: what a call through a register may reach.
    CallPrototype(&'a str),
    /// An instruction.
    Instruction(Instruction<'a>),
    /// `{ … }`
    Scope(Vec<Statement<'a>>),
}

/// An instruction as it is written.
#[derive(Clone, Debug)]
pub struct Instruction<'a> {
    /// `@%p` or `@!%p`: the predicate, and whether it is negated.
    pub guard: Option<(&'a str, bool)>,
    /// `add`
    pub name: &'a str,
    /// `.s32` and so on, without their points.
    pub modifiers: Vec<&'a str>,
    /// What stands after it.
    pub operands: Vec<Operand<'a>>,
    /// All of it.
    pub span: Span,
}

/// An operand as it is written.
#[derive(Clone, Debug, PartialEq)]
pub enum Operand<'a> {
    /// A register, special register, variable, label or function.
    Name(&'a str),
    /// `%tid.x`, `%v.y`
    Component(&'a str, &'a str),
    /// `variable + 4`
    Offset(&'a str, i64),
    /// `generic(variable)`, in initializers.
    Generic(&'a str),
    /// A whole number; the sign is in the high half.
    Integer(i128),
    /// The bits of an f32.
    Single(u32),
    /// An f64, which stands for a narrower float too where one is wanted.
    Double(f64),
    /// `!%p`
    Not(Box<Operand<'a>>),
    /// `-%r1`, of `vmad`.
    Negated(Box<Operand<'a>>),
    /// `a|b`: two destinations.
    Pair(Box<Operand<'a>>, Box<Operand<'a>>),
    /// `{a, b}`
    Vector(Vec<Operand<'a>>),
    /// `[base+4]`, `[map, {x, y}]`: the address and what else stands in the brackets.
    Address(Vec<Operand<'a>>),
    /// `(a, b)`: of a call.
    Group(Vec<Operand<'a>>),
    /// `_`
    Sink,
}
