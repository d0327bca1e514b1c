//! Launches of the kernels of `tests/corpus`, as `launch.json` describes them, on small tensors of random numbers.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

use ptx_emulator::asynchronous::tensor_map::{MapElement, Swizzle, TensorMap};
use ptx_emulator::checker::Report;
use ptx_emulator::decode::Module;
use ptx_emulator::machine::fault::Fault;
use ptx_emulator::machine::grid::{Grid, Limits, Summary};
use ptx_emulator::memory::global::Memory;
use serde_json::Value;

/// A folder of kernels.
fn folder() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/corpus"))
}

/// A kernel's text.
pub fn source(file: &str) -> String {
    std::fs::read_to_string(folder().join(file)).unwrap()
}

/// What `launch.json` says of a kernel.
fn record(file: &str) -> Value {
    let records: Value = serde_json::from_str(&std::fs::read_to_string(folder().join("launch.json")).unwrap()).unwrap();
    let found = records.as_array().unwrap().iter().find(|record| record["file"] == file);
    found.unwrap_or_else(|| panic!("no {file} in launch.json")).clone()
}

/// Numbers between -1 and 1 of an element type, or bytes.
fn fill(kind: &str, count: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15u64;
    let mut bits = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 32) as u32
    };
    let mut bytes = vec![];
    for _ in 0..count {
        let number = bits() as i32 as f32 / 2f32.powi(31);
        match kind {
            "fp32" => bytes.extend(number.to_le_bytes()),
            "bf16" => bytes.extend(half::bf16::from_f32(number).to_le_bytes()),
            "fp16" => bytes.extend(half::f16::from_f32(number).to_le_bytes()),
            "i32" => bytes.extend(bits().to_le_bytes()),
            // Of fp8 those below 1; of scales and pairs of fp4 those near 1.
            "u8" => bytes.push(0x78 + (bits() & 7) as u8),
            _ => bytes.push(bits() as u8 & 0xb7),
        }
    }
    bytes
}

fn bytes_of(kind: &str) -> usize {
    match kind {
        "fp32" | "i32" => 4,
        "bf16" | "fp16" => 2,
        _ => 1,
    }
}

/// The integer arguments of a kernel, and its grid: a tile or two in each direction, and four steps along K.
fn sizes(record: &Value) -> (HashMap<&'static str, i64>, [u32; 3]) {
    let constant = |name: &str| record["constexpr"][name].as_i64().unwrap_or(0);
    let ctas = record["num_ctas"].as_u64().unwrap() as u32;
    let (m, n, k) = (constant("BM"), constant("BN"), 4 * constant("BK"));
    let wide = constant("BLOCK") + 16;
    let sizes = match record["entry"].as_str().unwrap() {
        "softmax" => ([("rows", 3), ("cols", wide - 40), ("xs", wide), ("os_", wide)].to_vec(), [2, 1, 1]),
        "layernorm" => ([("N", wide), ("stride", wide)].to_vec(), [2, 1, 1]),
        "flash_ptr" | "flash_tma" => ([("S", 3 * m)].to_vec(), [3, 1, 1]),
        entry if entry.starts_with('m') && entry != "math" => {
            let strides = [("sam", k), ("sbk", n), ("sbn", k), ("scm", n)];
            // A persistent kernel does both tiles in one CTA.
            let m = if entry.ends_with("persistent") { 2 * m } else { m };
            ([("M", m), ("N", n), ("K", k)].into_iter().chain(strides).collect(), [ctas, 1, 1])
        }
        _ => ([("n", constant("BLOCK"))].to_vec(), [1, 1, 1]),
    };
    (sizes.0.into_iter().collect(), sizes.1)
}

/// What a launch did, and the checker's reports.
pub type Checked = (Result<Summary, Box<Fault>>, Vec<Report>);

/// Runs a kernel of the corpus, or a text that was made from one, with the checker on.
pub fn check(file: &str, text: &str) -> Checked {
    check_within(file, text, Limits::NONE, 0).unwrap_or_else(|message| panic!("{message}"))
}

/// The same within limits, in an order of the warps; a message where the text cannot be loaded.
pub fn check_within(file: &str, text: &str, limits: Limits, seed: u64) -> Result<Checked, String> {
    let record = record(file);
    let (sizes, extent) = sizes(&record);
    let memory = Arc::new(Memory::followed());
    let module = Module::load(file, text, &memory, 0).map_err(|error| error.to_string())?;
    let kernel = module.kernel(record["entry"].as_str().unwrap()).ok_or("the entry has another name")?;
    let size = |name: &str| sizes.get(name).copied().unwrap_or_else(|| panic!("{file}: no size {name}")) as u64;
    // Rows and columns of a tensor.
    let shape = |name: &str| match name {
        "a" => [size("M"), size("K")],
        "b" => [size("N"), size("K")],
        "c" => [size("M"), size("N")],
        _ => [size("S"), record["constexpr"]["D"].as_u64().unwrap()],
    };
    let allocate = |kind: &str, count: usize| {
        let address = memory.allocate((count * bytes_of(kind)) as u64, Some(0)).unwrap();
        memory.view().copy_in(address, &fill(kind, count)).unwrap();
        address
    };
    let mut parameters: Vec<u8> = vec![];
    let mut push = |bytes: &[u8], alignment: usize| {
        parameters.resize(parameters.len().next_multiple_of(alignment), 0);
        parameters.extend(bytes);
    };
    let mut maps = record["tensordesc_meta"].as_array().unwrap().iter();
    for argument in record["args"].as_array().unwrap() {
        let (name, kind) = argument.as_str().unwrap().split_once(':').unwrap();
        if let Some(kind) = kind.strip_prefix('*') {
            // Large enough for every tensor of these sizes.
            push(&allocate(kind, 1 << 18).to_le_bytes(), 8);
        } else if let Some(kind) = kind.strip_prefix("tensordesc<") {
            let kind = kind.split('[').next().unwrap();
            let (meta, [rows, columns]) = (maps.next().unwrap(), shape(name));
            let block: Vec<u32> =
                meta["block_size"].as_array().unwrap().iter().map(|extent| extent.as_u64().unwrap() as u32).collect();
            let mut map = TensorMap {
                pixels: None,
                address: allocate(kind, (rows * columns) as usize),
                rank: 2,
                element: MapElement(meta["elem_type"].as_u64().unwrap() as u32),
                swizzle: Swizzle { mode: meta["swizzle"].as_u64().unwrap() as u32, atomicity: 0 },
                fill_nan: false,
                dimensions: [1; 5],
                strides: [0; 4],
                box_extents: [1; 5],
                element_strides: [1; 5],
            };
            (map.dimensions[0], map.dimensions[1]) = (columns, rows);
            map.strides[0] = columns * bytes_of(kind) as u64;
            (map.box_extents[0], map.box_extents[1]) = (block[1], block[0]);
            push(&map.encode(false, 0), 64);
            for extent in [rows, columns] {
                push(&(extent as u32).to_le_bytes(), 4);
            }
            for stride in [columns, 1] {
                push(&stride.to_le_bytes(), 8);
            }
        } else if kind == "fp32" {
            push(&0.125f32.to_le_bytes(), 4);
        } else {
            push(&(size(name) as u32).to_le_bytes(), 4);
        }
    }
    let scratch = record["scratch"].as_u64().unwrap();
    let scratch = if scratch == 0 { 0 } else { allocate("fp8", 1 << 16) };
    push(&scratch.to_le_bytes(), 8);
    push(&0u64.to_le_bytes(), 8);
    let grid = Grid {
        kernel,
        extent,
        block: [32 * record["num_warps"].as_u64().unwrap() as u32, 1, 1],
        cluster: [record["num_ctas"].as_u64().unwrap() as u32, 1, 1],
        dynamic_shared: record["shared"].as_u64().unwrap() as u32,
        parameters,
        memory: memory.view(),
        multiprocessors: 32,
        seed,
        accumulation: Default::default(),
        limits,
    };
    Ok(grid.run_checked(16))
}
