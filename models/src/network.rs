//! What the graphs of all models share: the serving step's inputs and outputs, the sampling function, and compositions of ops.

use tessera_ir::{
    ConstantValue, Dim, Function, KvCacheType, Module, Name, NumericPolicy, Sharding, Storage, SymbolRange, TensorType,
    Type, ValueId, ops,
};

use crate::error::{ModelError, Result};

/// Tokens in one page of the KV cache.
pub const PAGE_SIZE: u64 = 16;

/// The function that feeds tokens and returns logits.
///
/// `@step(%tokens[T] i32, %positions[T] i32, %sequences[T] i32, %page_table[B, P] i32, %rows[R] i32, %cache)` returns the
/// logits `[R, V]` f32 of the tokens that `rows` picks, and the cache with the tokens' keys and values. Tokens of one sequence
/// are consecutive and in order; `rows` is strictly increasing.
///
/// A model with attention of two kinds has a cache and a page table for each ([`CACHES`]): after `%page_table` it takes
/// `%window_table[B, P] i32`, and after `%cache`, `%window_cache`, which keeps the window of its layers only and is returned last.
pub const STEP: &str = "step";

/// The inputs of [`STEP`] that are caches, each with its page table: that of a model's only kind of attention, or of the layers that see
/// all keys; and that of layers which see a window of them.
pub const CACHES: [(&str, &str); 2] = [("cache", "page_table"), ("window_cache", "window_table")];

/// The function that draws tokens from logits: the op `sample` and nothing else.
///
/// `@sample(%logits[R, V] f32, %temperature[R] f32, %top_k[R] i32, %top_p[R] f32, %seed[R] i64, %counter[R] i32)` returns
/// `[R]` i32.
pub const SAMPLE: &str = "sample";

/// The symbols of the serving step, and what they count.
pub mod symbol {
    /// Tokens of the step.
    pub const TOKENS: &str = "T";
    /// Sequences of the step: rows of the page table.
    pub const SEQUENCES: &str = "B";
    /// Pages a sequence: columns of the page table.
    pub const PAGES: &str = "P";
    /// Rows of logits.
    pub const ROWS: &str = "R";
}

/// A vector of one number for each token of the step, and the tokens' places.
///
/// The last block of a model computes only the rows that are asked for, so a block is given the places of the tokens that
/// its queries belong to.
#[derive(Clone)]
pub(crate) struct Tokens {
    /// How many there are: `T` or `R`.
    pub count: Dim,
    pub positions: ValueId,
    pub sequences: ValueId,
}

impl From<u64> for CacheLayer {
    /// A layer of a model's only cache.
    fn from(layer: u64) -> Self {
        Self { cache: 0, layer }
    }
}

/// A serving step under construction.
pub(crate) struct Network {
    module: Module,
    step: Function,
    pub tokens: ValueId,
    pub all: Tokens,
    rows: ValueId,
    caches: Vec<CacheState>,
}

/// A cache as the step has left it so far.
struct CacheState {
    name: &'static str,
    value: ValueId,
    page_table: ValueId,
}

/// Where the keys and values of a layer are.
#[derive(Clone, Copy)]
pub(crate) struct CacheLayer {
    /// Which of the step's caches.
    pub cache: usize,
    /// Which of that cache's layers.
    pub layer: u64,
}

/// The numbers of one attention.
pub(crate) struct AttentionShape {
    pub layer: CacheLayer,
    pub heads: u64,
    pub head_dim: u64,
    pub scale: f64,
    /// How many keys a token sees; all if absent.
    pub window: Option<u64>,
    /// The logits of attention sinks, one for each head.
    pub sinks: Option<ValueId>,
    /// Whether flash attention is wanted.
    pub online: bool,
}

impl Network {
    /// A step for sequences of up to `context` tokens, with one or two caches.
    pub fn new(name: &str, context: u64, caches: Vec<KvCacheType>) -> Self {
        let mut module = Module::new(name);
        let page_size = caches.iter().map(|cache| cache.page_size).min().unwrap_or(PAGE_SIZE);
        let pages = context.div_ceil(page_size.max(1));
        let anything = i32::MAX as u64;
        for (symbol, maximum) in [
            (symbol::TOKENS, anything),
            (symbol::SEQUENCES, anything),
            (symbol::PAGES, pages),
            (symbol::ROWS, anything),
        ] {
            module.symbols.insert(Name::from(symbol), SymbolRange { minimum: 1, maximum });
        }
        let mut step = Function::new(STEP);
        let integers = |shape: &[&str]| {
            TensorType::new(shape.iter().map(|name| Dim::from(*name)).collect::<Vec<_>>(), Storage::I32)
        };
        let graph = &mut step.graph;
        let tokens = graph.input("tokens", integers(&[symbol::TOKENS]));
        let positions = graph.input("positions", integers(&[symbol::TOKENS]));
        let sequences = graph.input("sequences", integers(&[symbol::TOKENS]));
        let caches: Vec<_> = CACHES.into_iter().zip(caches).collect();
        let table = |((_, name), _): &((_, &'static str), KvCacheType)| {
            graph.input(*name, integers(&[symbol::SEQUENCES, symbol::PAGES]))
        };
        let page_tables: Vec<ValueId> = caches.iter().map(table).collect();
        let rows = graph.input("rows", integers(&[symbol::ROWS]));
        let state = |(((name, _), ty), page_table)| CacheState { name, value: graph.input(name, ty), page_table };
        let caches = caches.into_iter().zip(page_tables).map(state).collect();
        let all = Tokens { count: Dim::from(symbol::TOKENS), positions, sequences };
        Self { module, step, tokens, all, rows, caches }
    }

    pub fn module_mut(&mut self) -> &mut Module {
        &mut self.module
    }

    /// The parameter `name`, declared on first use.
    pub fn parameter(
        &mut self,
        name: &str,
        shape: &[u64],
        policy: impl Into<NumericPolicy>,
        sharding: Option<Sharding>,
    ) -> Result<ValueId> {
        let mut ty = TensorType::new(shape.iter().copied().map(Dim::Static).collect::<Vec<_>>(), policy);
        ty.sharding = sharding;
        if !self.module.parameters.contains_key(name) {
            self.module.add_parameter(name, ty.clone())?;
        }
        Ok(self.step.graph.parameter(name, ty))
    }

    /// Appends an operation whose result type is inferred.
    pub fn op(&mut self, operation: impl Into<tessera_ir::Operation>, operands: &[ValueId]) -> Result<ValueId> {
        Ok(self.step.graph.builder().append(operation, operands)?)
    }

    /// Appends an operation whose result has this type.
    pub fn op_as(
        &mut self,
        operation: impl Into<tessera_ir::Operation>,
        operands: &[ValueId],
        ty: TensorType,
    ) -> Result<ValueId> {
        Ok(self.step.graph.builder().returning(ty).append(operation, operands)?)
    }

    /// Appends an operation and converts its result to a storage, if it has another.
    pub fn op_rounded(
        &mut self,
        operation: impl Into<tessera_ir::Operation>,
        operands: &[ValueId],
        storage: Storage,
    ) -> Result<ValueId> {
        let result = self.op(operation, operands)?;
        self.cast(result, storage)
    }

    /// Appends an operation that rounds its result, of the shape of its first operand, to the storage that is asked for.
    pub fn op_in(
        &mut self,
        operation: impl Into<tessera_ir::Operation>,
        operands: &[ValueId],
        storage: Storage,
    ) -> Result<ValueId> {
        let shape = operands.first().map(|first| self.shape(*first)).unwrap_or_default();
        self.op_as(operation, operands, TensorType::new(shape, storage))
    }

    /// Names a value for the text form.
    pub fn name(&mut self, value: ValueId, name: impl Into<Name>) -> ValueId {
        self.step.graph.set_name(value, name);
        value
    }

    /// The type of one row of `width` for each element of `ids`.
    pub fn rows_of(&self, ids: ValueId, width: u64, policy: NumericPolicy) -> TensorType {
        let mut shape = self.shape(ids);
        shape.push(Dim::Static(width));
        TensorType::new(shape, policy)
    }

    fn shape(&self, value: ValueId) -> Vec<Dim> {
        match self.step.graph.value_type(value) {
            Type::Tensor(tensor) => tensor.shape.to_vec(),
            Type::KvCache(_) => Vec::new(),
        }
    }

    fn storage(&self, value: ValueId) -> Option<Storage> {
        self.step.graph.value_type(value).as_tensor().map(TensorType::storage)
    }

    /// The value in another storage; itself where it has it already.
    pub fn cast(&mut self, value: ValueId, storage: Storage) -> Result<ValueId> {
        if self.storage(value) == Some(storage) {
            return Ok(value);
        }
        self.op(ops::Cast { to: storage }, &[value])
    }

    /// `x[N, K] · w`, where the weight is `[K, M]`, or `[M, K]` if `transposed`.
    pub fn matmul(&mut self, x: ValueId, weight: ValueId, transposed: bool, policy: NumericPolicy) -> Result<ValueId> {
        let (mut shape, weight_shape) = (self.shape(x), self.shape(weight));
        if let (Some(last), Some(columns)) = (shape.last_mut(), weight_shape.get(if transposed { 0 } else { 1 })) {
            *last = columns.clone();
        }
        self.op_as(ops::Matmul { transpose_rhs: transposed }, &[x, weight], TensorType::new(shape, policy))
    }

    /// The product of rows with the matrices of the experts chosen for them, and the experts' biases: `[N, chosen, M]`.
    pub fn grouped_matmul(
        &mut self,
        x: ValueId,
        weight: ValueId,
        experts: ValueId,
        bias: ValueId,
        storage: Storage,
    ) -> Result<ValueId> {
        let mut shape = self.shape(experts);
        shape.extend(self.shape(weight).get(1).cloned());
        self.op_as(ops::GroupedMatmul {}, &[x, weight, experts, bias], TensorType::new(shape, storage))
    }

    /// A gated activation, whose rows are half as long as those of `x`, in this storage.
    pub fn halved(&mut self, activation: ops::Swiglu, x: ValueId, storage: Storage) -> Result<ValueId> {
        let mut shape = self.shape(x);
        if let Some(Dim::Static(last)) = shape.last_mut() {
            *last /= 2;
        }
        self.op_as(activation, &[x], TensorType::new(shape, storage))
    }

    /// Adds a vector `[M]` to every row of `x[N, M]`; the sum is rounded to this storage.
    pub fn add_bias(&mut self, x: ValueId, bias: ValueId, rounded: Storage) -> Result<ValueId> {
        let storage = self.storage(x).unwrap_or(rounded);
        let bias = self.cast(bias, storage)?;
        let ty = TensorType::new(self.shape(x), storage);
        let rows = self.op_as(ops::Broadcast { axes: vec![1] }, &[bias], ty)?;
        self.op_rounded(ops::Add {}, &[x, rows], rounded)
    }

    /// A number as a tensor of the type of `like`.
    pub fn filled(&mut self, number: f64, like: ValueId) -> Result<ValueId> {
        let ty = TensorType::new(self.shape(like), self.storage(like).unwrap_or(Storage::F32));
        self.op_as(ops::Constant { value: ConstantValue::from(number) }, &[], ty)
    }

    /// Columns `from` to `from + count` of `x[N, M]`.
    pub fn columns(&mut self, x: ValueId, from: u64, count: u64) -> Result<ValueId> {
        let mut shape = self.shape(x);
        let limits = vec![shape[0].clone(), Dim::Static(from + count)];
        shape.truncate(1);
        self.op(ops::Slice { starts: vec![0, from as usize], limits }, &[x])
    }

    /// `x[N, H·D]` as `[N, H, D]`.
    pub fn split_heads(&mut self, x: ValueId, heads: u64, head_dim: u64) -> Result<ValueId> {
        let mut shape = self.shape(x);
        shape.truncate(1);
        shape.extend([Dim::Static(heads), Dim::Static(head_dim)]);
        let ty = TensorType::new(shape, self.storage(x).unwrap_or(Storage::F32));
        self.op_as(ops::Reshape {}, &[x], ty)
    }

    /// The rows that the step's caller asked for of a tensor of one row a token.
    pub fn at_rows(&mut self, x: ValueId) -> Result<ValueId> {
        let rows = self.rows;
        self.op(ops::Gather { axis: 0 }, &[x, rows])
    }

    /// The tokens that the step's caller asked for.
    pub fn wanted(&mut self) -> Result<Tokens> {
        let all = self.all.clone();
        let positions = self.at_rows(all.positions)?;
        let sequences = self.at_rows(all.sequences)?;
        Ok(Tokens { count: Dim::from(symbol::ROWS), positions, sequences })
    }

    /// The cache, its page table and its name.
    fn cache(&self, layer: CacheLayer) -> Result<&CacheState> {
        let missing = || ModelError::InvalidConfig(format!("the step has no KV cache {}", layer.cache));
        self.caches.get(layer.cache).ok_or_else(missing)
    }

    /// Appends every token's key and value `[T, Hk, D]` to a layer of a cache.
    pub fn append_to_cache(&mut self, layer: CacheLayer, key: ValueId, value: ValueId) -> Result<()> {
        let &CacheState { name, value: cache, page_table } = self.cache(layer)?;
        let operands = [cache, key, value, self.all.positions, self.all.sequences, page_table];
        let cache = self.op(ops::KvAppend { layer: layer.layer as usize }, &operands)?;
        self.name(cache, name);
        self.caches[layer.cache].value = cache;
        Ok(())
    }

    /// Attention of the queries `[N, H, D]` of `tokens` over the cache; `[N, H·D]`.
    pub fn attend(&mut self, shape: &AttentionShape, query: ValueId, tokens: &Tokens) -> Result<ValueId> {
        let &CacheState { value: cache, page_table, .. } = self.cache(shape.layer)?;
        let mut operands = vec![query, cache, tokens.positions, tokens.sequences, page_table];
        operands.extend(shape.sinks);
        let AttentionShape { scale, window, online, .. } = *shape;
        let layer = shape.layer.layer as usize;
        let attended = self.op(ops::PagedAttention { layer, scale, window, online }, &operands)?;
        self.name(attended, "attention");
        let merged = vec![tokens.count.clone(), Dim::Static(shape.heads * shape.head_dim)];
        let ty = TensorType::new(merged, self.storage(attended).unwrap_or(Storage::F32));
        self.op_as(ops::Reshape {}, &[attended], ty)
    }

    /// Ends the step with its logits, adds the sampling function, and gives the module.
    pub fn finish(mut self, logits: ValueId, vocabulary: u64) -> Result<Module> {
        self.name(logits, "logits");
        self.step.graph.set_outputs(std::iter::once(logits).chain(self.caches.iter().map(|cache| cache.value)));
        self.module.add_function(self.step)?;
        self.module.add_function(sampling_function(vocabulary)?)?;
        Ok(self.module)
    }
}

fn sampling_function(vocabulary: u64) -> Result<Function> {
    let mut function = Function::new(SAMPLE);
    let graph = &mut function.graph;
    let per_row = |storage: Storage| TensorType::new([Dim::from(symbol::ROWS)], storage);
    let operands = [
        graph.input("logits", TensorType::new([Dim::from(symbol::ROWS), Dim::Static(vocabulary)], Storage::F32)),
        graph.input("temperature", per_row(Storage::F32)),
        graph.input("top_k", per_row(Storage::I32)),
        graph.input("top_p", per_row(Storage::F32)),
        graph.input("seed", per_row(Storage::I64)),
        graph.input("counter", per_row(Storage::I32)),
    ];
    let tokens = graph.builder().append(ops::Sample {}, &operands)?;
    graph.set_name(tokens, "tokens");
    graph.set_outputs([tokens]);
    Ok(function)
}
