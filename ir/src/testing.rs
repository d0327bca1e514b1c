//! Random modules, for property tests: of this crate's text form, and of passes and targets, which must
//! not change what a module computes.
//!
//! A module is determined by a seed, so that a failing one can be made again. Its graphs keep their
//! values finite and of moderate size: divisors and arguments of logarithms stay away from 0, and
//! products have a bounded factor. What chooses among experts is not computed.

use crate::attribute::ConstantValue;
use crate::builder::Builder;
use crate::definition::OpError;
use crate::evaluate::{KvCache, Parameters, Tensor, TensorError, Value};
use crate::graph::{Graph, ValueId};
use crate::module::{Function, Module};
use crate::ops::{self, Approximation, Predicate};
use crate::shape;
use crate::storage::Storage;
use crate::types::{Dim, TensorType, Type};

/// Rows of embedding tables; the integers among [`random_values`] are less.
const VOCABULARY: u64 = 16;
/// Length of the heads of attention.
const HEAD: u64 = 8;

/// The seeds of a test that draws random cases: the same in every run unless the environment says otherwise, as it does to proptest:
/// another `PROPTEST_RNG_SEED` begins elsewhere, `PROPTEST_CASES` takes the place of `cases`.
pub fn seeds(cases: u64) -> std::ops::Range<u64> {
    let number = |name: &str| std::env::var(name).ok()?.parse::<u64>().ok();
    let first = number("PROPTEST_RNG_SEED").unwrap_or(0) << 32;
    first..first + number("PROPTEST_CASES").unwrap_or(cases)
}

/// SplitMix64 (Steele, Lea and Flood, "Fast Splittable Pseudorandom Number Generators"): small, and the
/// same everywhere.
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    /// A generator that starts from `seed`.
    pub fn new(seed: u64) -> Random {
        Random(seed)
    }

    /// The next 64 random bits.
    pub fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut bits = self.0;
        bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        bits ^ (bits >> 31)
    }

    /// A number from 0 to before `limit`, which is at least 1.
    pub fn below(&mut self, limit: usize) -> usize {
        (self.bits() % limit as u64) as usize
    }

    /// One of `items`, of which there is at least one.
    pub fn pick<T: Clone>(&mut self, items: &[T]) -> T {
        items[self.below(items.len())].clone()
    }

    /// A number from -1 to 1.
    pub fn real(&mut self) -> f64 {
        (self.bits() >> 11) as f64 / (1u64 << 52) as f64 - 1.0
    }
}

/// What [`random_module`] may use.
#[derive(Clone, Debug)]
pub struct Limits {
    /// How many steps of a few operations each.
    pub steps: usize,
    /// Whether values are rounded to bf16 now and then: a rounding turns the small differences that a
    /// reordered sum makes into larger ones.
    pub narrow: bool,
}

impl Default for Limits {
    fn default() -> Self {
        Limits { steps: 8, narrow: false }
    }
}

/// A module whose function `@main` computes on tokens `T` and returns every value that it makes and
/// does not use.
///
/// # Panics
/// A recipe breaks the rules of an op: a defect of this generator.
pub fn random_module(seed: u64, limits: &Limits) -> Module {
    let mut generator = Generator {
        random: Random::new(seed),
        module: Module::new("random"),
        graph: Graph::new(),
        values: Vec::new(),
        positions: None,
    };
    let width = 8 * (1 + generator.random.below(3) as u64);
    for index in 0..1 + generator.random.below(2) {
        let ty = TensorType::new(shape!["T", width], Storage::F32);
        let input = generator.graph.input(format!("x{index}"), ty);
        generator.values.push(input);
    }
    for _ in 0..limits.steps {
        if let Err(error) = generator.step(limits) {
            panic!("seed {seed}: {error}");
        }
    }
    generator.finish()
}

struct Generator {
    random: Random,
    module: Module,
    graph: Graph,
    values: Vec<ValueId>,
    positions: Option<ValueId>,
}

impl Generator {
    fn finish(mut self) -> Module {
        let unused: Vec<ValueId> =
            self.values.iter().copied().filter(|value| self.graph.use_count(*value) == 0).collect();
        self.graph.set_outputs(unused);
        self.module.functions.push(Function { name: "main".into(), graph: self.graph });
        self.module
    }

    fn ty(&self, value: ValueId) -> TensorType {
        // Every value of the generator is a tensor.
        self.graph.value_type(value).as_tensor().cloned().unwrap_or_else(|| TensorType::scalar(Storage::F32))
    }

    fn build(&mut self) -> Builder<'_> {
        self.graph.builder()
    }

    /// A value of rank `rank`, if there is one.
    fn value_of_rank(&mut self, rank: usize) -> Option<ValueId> {
        let fitting: Vec<ValueId> =
            self.values.iter().copied().filter(|value| self.ty(*value).rank() == rank).collect();
        if fitting.is_empty() { None } else { Some(self.random.pick(&fitting)) }
    }

    /// A value of the type of `value`: most often another.
    fn alike(&mut self, value: ValueId) -> ValueId {
        let ty = self.ty(value);
        let alike: Vec<ValueId> =
            self.values.iter().copied().filter(|other| self.ty(*other).agrees_with(&ty)).collect();
        self.random.pick(&alike)
    }

    fn parameter(&mut self, shape: crate::Shape) -> ValueId {
        let name = format!("p{}", self.module.parameters.len());
        let ty = TensorType::new(shape, Storage::F32);
        self.module.parameters.insert(name.as_str().into(), ty.clone());
        self.graph.parameter(name, ty)
    }

    fn filled(&mut self, like: ValueId, number: f64) -> Result<ValueId, OpError> {
        let ty = self.ty(like);
        self.build().constant(ops::Constant { value: ConstantValue::from(number) }, ty)
    }

    /// i32 inputs, `[T]`: token ids, and positions for rotary embedding.
    fn positions(&mut self) -> ValueId {
        let graph = &mut self.graph;
        *self.positions.get_or_insert_with(|| graph.input("positions", TensorType::new(shape!["T"], Storage::I32)))
    }

    /// Adds a few operations. A step that needs a value there is not adds none.
    fn step(&mut self, limits: &Limits) -> Result<(), OpError> {
        let value = self.random.pick(&self.values.clone());
        let made = match self.random.below(17) {
            0..3 => Some(self.unary(value)?),
            3..6 => Some(self.binary(value)?),
            6 => self.row_bias()?,
            7..9 => self.matmul()?,
            9 => self.norm()?,
            10 => self.reduce_and_expand()?,
            11 => self.rearrange()?,
            12 => self.cut_and_join()?,
            13 => Some(self.embedding()?),
            14 => self.attention()?,
            15 => self.mixture()?,
            _ if limits.narrow => {
                let narrow = self.build().cast(value, ops::Cast { to: Storage::Bf16 })?;
                Some(self.build().cast(narrow, ops::Cast { to: Storage::F32 })?)
            }
            _ => Some(self.choose(value)?),
        };
        self.values.extend(made);
        Ok(())
    }

    fn unary(&mut self, x: ValueId) -> Result<ValueId, OpError> {
        let approximate = self.random.pick(&[Approximation::None, Approximation::Tanh]);
        let kind = self.random.below(14);
        let one = if kind < 4 { Some(self.filled(x, 1.0)?) } else { None };
        let mut build = self.build();
        if let Some(one) = one {
            let magnitude = build.abs(x)?;
            let positive = build.add(magnitude, one)?;
            return match kind {
                0 => build.log(positive),
                1 => build.sqrt(positive),
                2 => build.rsqrt(positive),
                _ => {
                    let negative = build.neg(magnitude)?;
                    build.exp(negative)
                }
            };
        }
        match kind {
            4 => build.neg(x),
            5 => build.abs(x),
            6 => build.tanh(x),
            7 => build.sigmoid(x),
            8 => build.sin(x),
            9 => build.cos(x),
            10 => build.relu(x),
            11 => build.gelu(x, ops::Gelu { approximate }),
            12 => build.silu(x),
            _ => build.erf(x),
        }
    }

    fn binary(&mut self, x: ValueId) -> Result<ValueId, OpError> {
        let y = self.alike(x);
        let one = self.filled(y, 1.0)?;
        let kind = self.random.below(7);
        let mut build = self.build();
        match kind {
            0 | 1 => build.add(x, y),
            2 => build.sub(x, y),
            3 => {
                let bounded = build.tanh(y)?;
                build.mul(x, bounded)
            }
            4 => build.maximum(x, y),
            5 => build.minimum(x, y),
            _ => {
                let magnitude = build.abs(y)?;
                let divisor = build.add(magnitude, one)?;
                build.div(x, divisor)
            }
        }
    }

    fn choose(&mut self, x: ValueId) -> Result<ValueId, OpError> {
        let y = self.alike(x);
        let zero = self.filled(x, 0.0)?;
        let predicate = self.random.pick(&[Predicate::Less, Predicate::GreaterEqual, Predicate::NotEqual]);
        let mut build = self.build();
        let condition = build.compare(x, zero, ops::Compare { predicate })?;
        build.select(condition, x, y)
    }

    fn row_bias(&mut self) -> Result<Option<ValueId>, OpError> {
        let Some(x) = self.value_of_rank(2) else { return Ok(None) };
        let ty = self.ty(x);
        let Some(width) = ty.shape[1].as_static() else { return Ok(None) };
        let bias = self.parameter(shape![width]);
        let mut build = self.build();
        let bias = build.broadcast(bias, ops::Broadcast { axes: vec![1] }, ty)?;
        build.add(x, bias).map(Some)
    }

    fn matmul(&mut self) -> Result<Option<ValueId>, OpError> {
        let Some(x) = self.value_of_rank(2) else { return Ok(None) };
        let Some(inner) = self.ty(x).shape[1].as_static() else { return Ok(None) };
        let outer = self.random.pick(&[8u64, 16, 24, 40]);
        let transpose_rhs = self.random.below(2) == 0;
        let weight = match transpose_rhs {
            true => self.parameter(shape![outer, inner]),
            false => self.parameter(shape![inner, outer]),
        };
        self.build().matmul(x, weight, ops::Matmul { transpose_rhs }).map(Some)
    }

    fn norm(&mut self) -> Result<Option<ValueId>, OpError> {
        let x = self.random.pick(&self.values.clone());
        let ty = self.ty(x);
        let Some(width) = ty.shape.last().and_then(Dim::as_static) else { return Ok(None) };
        match self.random.below(3) {
            0 => self.build().softmax(x, ops::Softmax { axis: ty.rank() - 1 }).map(Some),
            1 => {
                let scale = self.parameter(shape![width]);
                self.build().rms_norm(x, scale, ops::RmsNorm::default()).map(Some)
            }
            _ => {
                let (scale, bias) = (self.parameter(shape![width]), self.parameter(shape![width]));
                self.build().layer_norm(x, scale, bias, ops::LayerNorm::default()).map(Some)
            }
        }
    }

    /// Reduces the last dimension, and half of the time repeats the result along it again.
    fn reduce_and_expand(&mut self) -> Result<Option<ValueId>, OpError> {
        let x = self.random.pick(&self.values.clone());
        let ty = self.ty(x);
        if ty.rank() < 2 {
            return Ok(None);
        }
        let axes = vec![ty.rank() - 1];
        let (kind, expand) = (self.random.below(4), self.random.below(2) == 0);
        let mut build = self.build();
        let reduced = match kind {
            0 => build.reduce_sum(x, ops::ReduceSum { axes })?,
            1 => build.reduce_max(x, ops::ReduceMax { axes })?,
            2 => build.reduce_min(x, ops::ReduceMin { axes })?,
            _ => build.reduce_mean(x, ops::ReduceMean { axes })?,
        };
        if !expand {
            return Ok(Some(reduced));
        }
        let axes = (0..ty.rank() - 1).collect();
        let wide = build.broadcast(reduced, ops::Broadcast { axes }, ty)?;
        build.sub(x, wide).map(Some)
    }

    /// Transposes, or splits or joins the last dimensions.
    fn rearrange(&mut self) -> Result<Option<ValueId>, OpError> {
        let x = self.random.pick(&self.values.clone());
        let ty = self.ty(x);
        let last = ty.shape.last().and_then(Dim::as_static);
        match (self.random.below(2), ty.rank(), last) {
            (0, 2, Some(width)) if width % HEAD == 0 => {
                let split = ty.with_shape([ty.shape[0].clone(), (width / HEAD).into(), HEAD.into()]);
                self.build().reshape(x, split).map(Some)
            }
            (0, 3, Some(width)) => match ty.shape[1].as_static() {
                Some(heads) => {
                    let joined = ty.with_shape([ty.shape[0].clone(), (heads * width).into()]);
                    self.build().reshape(x, joined).map(Some)
                }
                None => Ok(None),
            },
            (_, 3, _) => self.build().transpose(x, ops::Transpose { permutation: vec![1, 0, 2] }).map(Some),
            _ => Ok(None),
        }
    }

    /// Joins the halves of the last dimension the other way round.
    fn cut_and_join(&mut self) -> Result<Option<ValueId>, OpError> {
        let Some(x) = self.value_of_rank(2) else { return Ok(None) };
        let ty = self.ty(x);
        let Some(width) = ty.shape[1].as_static() else { return Ok(None) };
        let middle = width / 2;
        let slice = |from: u64, to: u64| ops::Slice {
            starts: vec![0, from as usize],
            limits: vec![ty.shape[0].clone(), to.into()],
        };
        let mut build = self.build();
        let (left, right) = (build.slice(x, slice(0, middle))?, build.slice(x, slice(middle, width))?);
        build.concat(&[right, left], ops::Concat { axis: 1 }).map(Some)
    }

    fn embedding(&mut self) -> Result<ValueId, OpError> {
        let width = self.random.pick(&[8u64, 16, 24]);
        let table = self.parameter(shape![VOCABULARY, width]);
        let positions = self.positions();
        self.build().embedding(table, positions)
    }

    /// A mixture of experts. What chooses them comes from a table as it is: a computed near-tie would be turned by another rounding.
    fn mixture(&mut self) -> Result<Option<ValueId>, OpError> {
        let Some(x) = self.value_of_rank(2) else { return Ok(None) };
        let (tokens, width) = (self.ty(x).shape[0].clone(), self.ty(x).shape[1].as_static());
        let Some(width) = width.filter(|_| tokens == Dim::symbol("T")) else { return Ok(None) };
        let experts = self.random.pick(&[2u64, 5, 8]);
        let k = 1 + self.random.below(experts.min(4) as usize) as u64;
        let (inner, outer) = (self.random.pick(&[8u64, 16, 32]), self.random.pick(&[8u64, 24]));
        let style = self.random.pick(&[ops::SwigluStyle::SplitHalf, ops::SwigluStyle::Interleaved]);
        let bias = |generator: &mut Self, columns: u64| match generator.random.below(2) {
            0 => Some(generator.parameter(shape![experts, columns])),
            _ => None,
        };
        let router = self.parameter(shape![VOCABULARY, experts]);
        let (up, up_bias) = (self.parameter(shape![experts, 2 * inner, width]), bias(self, 2 * inner));
        let (down, down_bias) = (self.parameter(shape![experts, outer, inner]), bias(self, outer));
        let positions = self.positions();
        let mut build = self.build();
        let logits = build.embedding(router, positions)?;
        let chosen = build.top_k(logits, ops::TopK { k })?;
        let taken = build.take(logits, chosen)?;
        let weights = build.softmax(taken, ops::Softmax { axis: 1 })?;
        let gated = build.grouped_matmul(x, up, chosen, up_bias)?;
        // The limit keeps the products of what is gated moderate.
        let hidden = build.swiglu(gated, ops::Swiglu { style, alpha: 1.702, offset: 1.0, limit: Some(2.0) })?;
        let parts = build.grouped_matmul(hidden, down, chosen, down_bias)?;
        build.combine(parts, weights).map(Some)
    }

    /// Attention of a value over itself, with rotated heads half of the time.
    fn attention(&mut self) -> Result<Option<ValueId>, OpError> {
        let Some(x) = self.value_of_rank(2) else { return Ok(None) };
        let ty = self.ty(x);
        let (tokens, width) = (ty.shape[0].clone(), ty.shape[1].as_static());
        let Some(width) = width.filter(|width| width % HEAD == 0 && tokens == Dim::symbol("T")) else {
            return Ok(None);
        };
        let rotated = self.random.below(2) == 0;
        let causal = self.random.below(4) > 0;
        let window = if self.random.below(3) == 0 { Some(3) } else { None };
        let sinks = if self.random.below(3) == 0 { Some(self.parameter(shape![width / HEAD])) } else { None };
        let positions = self.positions();
        let heads = ty.with_shape([tokens, (width / HEAD).into(), HEAD.into()]);
        let mut build = self.build();
        let x = build.reshape(x, heads)?;
        let key = if rotated { build.rope(x, positions, ops::Rope::default())? } else { x };
        let scale = 1.0 / (HEAD as f64).sqrt();
        let attended = build.attention(key, key, x, sinks, ops::Attention { causal, scale, window })?;
        build.reshape(attended, ty).map(Some)
    }
}

/// Inputs of a function and parameters of its module, determined by `seed`: floats of moderate size,
/// matrices with entries of about `1/√rows`, integers from 0 to before 16. Each symbol is `extent`.
///
/// # Errors
/// A tensor is larger than memory.
pub fn random_values(
    module: &Module,
    function: &Function,
    extent: u64,
    seed: u64,
) -> Result<(Vec<Value>, Parameters), TensorError> {
    let mut random = Random::new(seed);
    let mut inputs = Vec::new();
    for (_, ty) in function.inputs() {
        inputs.push(match ty {
            Type::Tensor(ty) => Value::Tensor(random_tensor(ty, extent, &mut random)?),
            Type::KvCache(ty) => Value::Cache(KvCache::new(ty.clone(), VOCABULARY as usize)?),
        });
    }
    let mut parameters = Parameters::new();
    for (name, ty) in &module.parameters {
        parameters.insert(name.clone(), random_tensor(ty, extent, &mut random)?);
    }
    Ok((inputs, parameters))
}

/// A random tensor of type `ty`, as in [`random_values`].
///
/// # Errors
/// The tensor is larger than memory.
pub fn random_tensor(ty: &TensorType, extent: u64, random: &mut Random) -> Result<Tensor, TensorError> {
    let shape: Vec<usize> = ty.shape.iter().map(|dim| dim.as_static().unwrap_or(extent) as usize).collect();
    let zeros = Tensor::zeros(ty.storage(), shape.clone())?;
    let count = zeros.len();
    match ty.storage() {
        Storage::Bool => {
            Tensor::from_integers(Storage::Bool, shape, (0..count).map(|_| random.below(2) as i64).collect())
        }
        storage if storage.is_integer() => {
            let elements = (0..count).map(|_| random.below(VOCABULARY as usize) as i64).collect();
            Tensor::from_integers(storage, shape, elements)
        }
        storage => {
            let scale = match shape.as_slice() {
                [rows, _] if *rows > 0 && ty.shape[0].as_static().is_some() => (3.0 / *rows as f64).sqrt(),
                _ => 1.5,
            };
            Tensor::from_floats(storage, shape, (0..count).map(|_| scale * random.real()).collect())
        }
    }
}
