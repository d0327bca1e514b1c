//! Small models without a compiler.

use std::process::Command;
use std::sync::OnceLock;

use tessera_runtime::Artifact;
use tessera_runtime::artifact::{Code, Target};
use tessera_runtime::plan::{
    Argument, Balance, BufferReference, CacheSpecification, Check, ElementType, Extent, Guard, Kernel, Launch,
    ParameterKind, ParameterSpecification, Partition, Plan, Slot, TensorSpecification,
};
use tessera_runtime::weights::Weights;

/// `kernels.c` as a shared object.
pub fn library() -> &'static [u8] {
    static LIBRARY: OnceLock<Vec<u8>> = OnceLock::new();
    LIBRARY.get_or_init(|| {
        let folder = tempfile::tempdir().unwrap();
        let (source, object) = (folder.path().join("kernels.c"), folder.path().join("host.so"));
        std::fs::write(&source, include_str!("kernels.c")).unwrap();
        let status = Command::new("cc").args(["-O2", "-shared", "-fPIC", "-o"]).arg(&object).arg(source).status();
        assert!(status.expect("cc is needed for these tests").success());
        std::fs::read(object).unwrap()
    })
}

pub fn kernel(name: &str, parameters: &str, partition: Partition) -> Kernel {
    let kind = |letter| match letter {
        'b' => ParameterKind::Buffer,
        'i' => ParameterKind::Integer,
        _ => ParameterKind::Float,
    };
    Kernel {
        name: name.into(),
        hash: String::new(),
        parameters: parameters.chars().map(kind).collect(),
        partition,
        block_threads: 1,
        dynamic_shared_bytes: 0,
        scratch_bytes: 8192,
    }
}

pub fn tensor(name: &str, element: ElementType, shape: impl Into<Vec<Extent>>) -> TensorSpecification {
    TensorSpecification { name: name.into(), element, shape: shape.into() }
}

pub fn artifact(plan: Plan) -> Artifact {
    Artifact::new("test", Target::native_host(), vec![plan], Code::Host(library().into()), vec![]).unwrap()
}

pub const WIDTH: u64 = 24;
pub const COLUMNS: u64 = 10;

/// `y[T, 10] = (2 x[T, 24] + bias) · weightᵀ`, in two launches by way of a slot.
///
/// The matmul comes in two variants: up to four tokens in equal shares, more in chunks.
pub fn linear_plan() -> Plan {
    let mut plan = Plan::new("linear", "main");
    let tokens = Extent::symbol(plan.intern_symbol("T"));
    plan.inputs.push(tensor("x", ElementType::F32, [tokens.clone(), WIDTH.into()]));
    plan.outputs.push(tensor("y", ElementType::F32, [tokens.clone(), COLUMNS.into()]));
    let parameter = |name: &str, shape: &[u64]| ParameterSpecification {
        name: name.into(),
        element: ElementType::F32,
        shape: shape.into(),
        layout: None,
    };
    plan.parameters = vec![parameter("bias", &[WIDTH]), parameter("weight", &[COLUMNS, WIDTH])];
    plan.slots.push(Slot { bytes: tokens.clone() * WIDTH * 4 });
    let mut few = kernel("matmul", "bbbi", Partition { grain: 3, balance: Balance::Dynamic });
    plan.kernels = vec![kernel("scale_add", "bbbif", Partition::default()), few.clone()];
    few.partition = Partition { grain: 1, balance: Balance::Static };
    plan.launches.push(Launch {
        kernel: 0,
        grid: [tokens.clone(), 1.into(), 1.into()],
        arguments: vec![
            Argument::buffer(BufferReference::Input(0)),
            Argument::buffer(BufferReference::Parameter(0)),
            Argument::buffer(BufferReference::Slot(0)),
            Argument::Integer(WIDTH.into()),
            Argument::Float(2.0),
        ],
        guard: None,
        label: "scale + add (bias)".into(),
    });
    for (minimum, maximum) in [(0, 4), (5, u64::MAX)] {
        plan.launches.push(Launch {
            kernel: 1,
            grid: [COLUMNS.into(), tokens.clone(), 1.into()],
            arguments: vec![
                Argument::buffer(BufferReference::Slot(0)),
                Argument::buffer(BufferReference::Parameter(1)),
                Argument::buffer(BufferReference::Output(0)),
                Argument::Integer(WIDTH.into()),
            ],
            guard: Some(Guard { extent: tokens.clone(), minimum, maximum }),
            label: format!("matmul (weight), {minimum} to {maximum} tokens"),
        });
    }
    plan
}

pub fn floats(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_le_bytes()).collect()
}

/// Numbers that are exact in `f32`, and so are their sums of products.
pub fn numbers(count: u64, seed: u64) -> Vec<f32> {
    (0..count).map(|index| ((index * 7 + seed * 5) % 13) as f32 - 6.0).collect()
}

pub fn linear_weights() -> Weights {
    let mut weights = Weights::in_memory();
    weights.insert("bias", ElementType::F32, vec![WIDTH], floats(&numbers(WIDTH, 1))).unwrap();
    let weight = floats(&numbers(COLUMNS * WIDTH, 2));
    weights.insert("weight", ElementType::F32, vec![COLUMNS, WIDTH], weight).unwrap();
    weights
}

/// What [`linear_plan`] computes.
pub fn linear_reference(x: &[f32]) -> Vec<f32> {
    let (bias, weight) = (numbers(WIDTH, 1), numbers(COLUMNS * WIDTH, 2));
    let mut y = Vec::new();
    for row in x.chunks(WIDTH as usize) {
        for column in weight.chunks(WIDTH as usize) {
            y.push(row.iter().zip(&bias).zip(column).map(|((x, bias), weight)| (2.0 * x + bias) * weight).sum());
        }
    }
    y
}

/// Adds `x[t]` to the first element of page `pages[t]` of a cache and returns the sums.
pub fn accumulating_plan() -> Plan {
    let mut plan = Plan::new("accumulate", "main");
    let tokens = Extent::symbol(plan.intern_symbol("T"));
    plan.inputs.push(tensor("pages", ElementType::I32, [tokens.clone()]));
    plan.inputs.push(tensor("x", ElementType::F32, [tokens.clone()]));
    plan.outputs.push(tensor("sums", ElementType::F32, [tokens.clone()]));
    let pages = plan.intern_symbol("PAGES");
    plan.caches.push(CacheSpecification {
        name: "cache".into(),
        element: ElementType::F32,
        layers: 1,
        heads: 1,
        head_dimension: 1,
        page_size: 1,
        window: None,
        pages,
    });
    plan.kernels.push(kernel("accumulate", "bbbbi", Partition::default()));
    plan.launches.push(Launch {
        kernel: 0,
        grid: [1.into(), 1.into(), 1.into()],
        arguments: vec![
            Argument::buffer(BufferReference::Cache(0)),
            Argument::buffer(BufferReference::Input(0)),
            Argument::buffer(BufferReference::Input(1)),
            Argument::buffer(BufferReference::Output(0)),
            Argument::Integer(tokens),
        ],
        guard: None,
        label: "accumulate".into(),
    });
    plan
}

pub const VOCABULARY: u64 = 11;

/// A serving step with the interface of a GPT's. The likeliest next token is the sum of the sequence so far, modulo 11.
pub fn step_plan() -> Plan {
    let mut plan = Plan::new("sums", "step");
    let [tokens, batch, pages, rows] = ["T", "B", "P", "R"].map(|name| Extent::symbol(plan.intern_symbol(name)));
    for name in ["tokens", "positions", "sequences"] {
        plan.inputs.push(tensor(name, ElementType::I32, [tokens.clone()]));
    }
    plan.inputs.push(tensor("page_table", ElementType::I32, [batch, pages.clone()]));
    plan.inputs.push(tensor("rows", ElementType::I32, [rows.clone()]));
    plan.outputs.push(tensor("logits", ElementType::F32, [rows.clone(), VOCABULARY.into()]));
    let cache_pages = plan.intern_symbol("PAGES");
    plan.caches.push(CacheSpecification {
        name: "cache".into(),
        element: ElementType::F32,
        layers: 1,
        heads: 1,
        head_dimension: 1,
        page_size: 4,
        window: None,
        pages: cache_pages,
    });
    plan.checks.push(Check::Pages {
        positions: 1,
        sequences: 2,
        table: 3,
        page_size: 4,
        window: None,
        pages: Extent::symbol(cache_pages),
    });
    plan.kernels.push(kernel("step", "bbbbbbbiiiii", Partition::default()));
    let mut arguments: Vec<_> = (0..5).map(|index| Argument::buffer(BufferReference::Input(index))).collect();
    arguments.push(Argument::buffer(BufferReference::Cache(0)));
    arguments.push(Argument::buffer(BufferReference::Output(0)));
    arguments.extend([tokens, pages, rows, VOCABULARY.into(), 4.into()].map(Argument::Integer));
    plan.launches.push(Launch {
        kernel: 0,
        grid: [1.into(), 1.into(), 1.into()],
        arguments,
        guard: None,
        label: "step".into(),
    });
    plan
}

/// What greedy generation with [`step_plan`] gives.
pub fn step_reference(prompt: &[i32], count: usize) -> Vec<i32> {
    let mut sum: i32 = prompt.iter().sum();
    let next = || {
        let token = sum % VOCABULARY as i32;
        sum += token;
        token
    };
    std::iter::repeat_with(next).take(count).collect()
}
