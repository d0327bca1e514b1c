//! Experts' matrices that the plan wants laid out for a GPU's tensor cores.

use std::collections::BTreeMap;

use tessera_ir::evaluate::{Parameters, Tensor, Value, evaluate};
use tessera_ir::{Module, Name, Storage, parse_module};
use tessera_runtime::plan::Launch;

use super::{Numbers, check_given, check_lowered, lowered, random, targets};
use crate::graph::{Context, Pipeline};
use crate::tile::{Access, Argument};

/// Rows of tokens that meet experts: tokens, experts, experts of a token, and of those that are chosen the number.
#[derive(Clone, Copy)]
struct Case {
    tokens: usize,
    experts: usize,
    chosen: usize,
    limit: u64,
    inner: usize,
    columns: usize,
}

/// What is made of the product.
const GATED: &str = "%z = swiglu(%y) {style = interleaved, alpha = 1.702, offset = 1.0, limit = 7.0} return %z";
const PLAIN: &str = "return %y";

impl Case {
    fn module(self, rest: &str) -> Module {
        let Case { tokens, experts, chosen, inner, columns, .. } = self;
        let blocks = inner.div_ceil(32);
        let text = format!(
            "module @m {{
               param @elements : tensor<{experts}x{columns}x{blocks}x16xu8>
               param @scales : tensor<{experts}x{columns}x{blocks}xu8>
               func @f(%x: tensor<{tokens}x{inner}xbf16>, %e: tensor<{tokens}x{chosen}xi32>, %b: tensor<{experts}x{columns}xbf16>) {{
                 %w = block_scaled(@elements, @scales) : tensor<{experts}x{columns}x{inner}xmxfp4>
                 %y = grouped_matmul(%x, %w, %e, %b) : tensor<{tokens}x{chosen}x{columns}xf32>
                 {rest}
               }}
             }}"
        );
        parse_module(&text).unwrap_or_else(|error| panic!("{error}\n{text}"))
    }

    fn check(self, rest: &str) {
        let module = self.module(rest);
        let Case { tokens, experts, chosen, limit, inner, columns } = self;
        let mut numbers = Numbers::new(17);
        let inputs = [
            (Storage::Bf16, vec![tokens, inner], 0),
            (Storage::I32, vec![tokens, chosen], limit),
            (Storage::Bf16, vec![experts, columns], 0),
        ];
        let inputs = inputs.map(|(storage, shape, limit)| Value::Tensor(random(storage, &shape, limit, &mut numbers)));
        let blocks = inner.div_ceil(32);
        let elements = random(Storage::U8, &[experts, columns, blocks, 16], 256, &mut numbers);
        // 2⁻⁶ to 2¹.
        let scales = random(Storage::U8, &[experts, columns, blocks], 8, &mut numbers);
        let scales = scales.to_integers().iter().map(|byte| byte + 121).collect();
        let scales = Tensor::from_integers(Storage::U8, [experts, columns, blocks], scales).unwrap();
        let parameters: BTreeMap<Name, Tensor> =
            [(Name::from("elements"), elements), (Name::from("scales"), scales)].into();
        check(&module, &inputs, &parameters, 2e-2);
    }
}

/// Compares what the kernels of a module give with its reference evaluation, each operation by itself and fused.
fn check(module: &Module, inputs: &[Value], parameters: &Parameters, tolerance: f64) {
    check_given(module, inputs, parameters, tolerance, "");
    let function = &module.functions[0];
    let expected = evaluate(module, &function.name, inputs, parameters).unwrap();
    for target in targets() {
        let mut fused = module.clone();
        Pipeline::default().run(&mut fused, &mut Context::new(target), |_, _| ()).unwrap();
        let (lowered, _) = lowered(&fused, target, "");
        let given = (inputs, parameters);
        check_lowered(lowered, target, function, given, (&expected, tolerance), &format!("{target}: {fused}"));
    }
}

/// Widths that fill tiles and that do not, experts without rows, every height of tiles.
#[test]
fn packed_matrices_give_the_same_products() {
    for (tokens, experts, chosen, limit) in [(1, 4, 2, 4), (7, 5, 2, 5), (33, 3, 2, 2), (129, 2, 1, 2)] {
        for (inner, columns) in [(64, 32), (96, 200), (192, 40)] {
            Case { tokens, experts, chosen, limit, inner, columns }.check(PLAIN);
        }
    }
    Case { tokens: 70, experts: 2, chosen: 2, limit: 1, inner: 33, columns: 17 }.check(PLAIN);
    // Long sums of few rows are split over warps.
    for tokens in [1, 2, 8] {
        Case { tokens, experts: 3, chosen: 2, limit: 2, inner: 832, columns: 72 }.check(PLAIN);
    }
}

/// Gates and what they gate are columns of fragments of their own.
#[test]
fn packed_pairs_are_gated() {
    for (tokens, experts, chosen, limit) in [(1, 4, 2, 4), (7, 5, 2, 5), (33, 3, 2, 2), (129, 2, 1, 2)] {
        for (inner, columns) in [(64, 64), (160, 136), (576, 72)] {
            Case { tokens, experts, chosen, limit, inner, columns }.check(GATED);
        }
    }
}

/// Only what is read by nothing else is packed, and both tensors of it or none.
#[test]
fn weights_that_others_read_stay_as_they_are() {
    let case = Case { tokens: 3, experts: 2, chosen: 1, limit: 2, inner: 64, columns: 32 };
    let layouts = |rest: &str, target| {
        let (lowered, _) = lowered(&case.module(rest), target, "");
        lowered.plans[0].parameters.iter().filter(|parameter| parameter.layout.is_some()).count()
    };
    for target in targets() {
        let packed = if target.chip().is_some() { 2 } else { 0 };
        assert_eq!(layouts(PLAIN, target), packed, "{target}");
        assert_eq!(layouts("%s = cast(@scales) {to = f32} return %y, %s", target), 0, "{target}");
        assert_eq!(layouts("%d = cast(%w) {to = f32} return %y, %d", target), 0, "{target}");
    }
}

/// Rows are put in the order of their experts once for all products that have the same, and anew for others.
#[test]
fn products_of_the_same_choice_share_an_order() {
    let product = |name: &str, rows: &str, experts: &str| {
        format!(
            "%w{name} = block_scaled(@elements, @scales) : tensor<3x64x64xmxfp4>
             %{name} = grouped_matmul(%{rows}, %w{name}, %{experts}) : tensor<Tx2x64xbf16>"
        )
    };
    let text = format!(
        "module @m {{
           param @elements : tensor<3x64x2x16xu8>
           param @scales : tensor<3x64x2xu8>
           func @f(%x: tensor<Tx64xbf16>, %e: tensor<Tx2xi32>, %d: tensor<Tx2xi32>) {{
             {} {} {} {} return %b, %h
           }}
         }}",
        product("a", "x", "e"),
        product("b", "a", "e"),
        product("g", "x", "d"),
        product("h", "g", "d"),
    );
    let module = parse_module(&text).unwrap_or_else(|error| panic!("{error}\n{text}"));
    for target in targets().into_iter().filter(|target| target.chip().is_some()) {
        let (lowered, _) = lowered(&module, target, "");
        let plan = &lowered.plans[0];
        let writes = |launch: &&Launch| {
            let program = lowered.programs.iter().find(|program| program.name == plan.kernels[launch.kernel].name);
            let tensors = program.into_iter().flat_map(|program| &program.arguments);
            tensors.into_iter().any(|argument| {
                matches!(argument, Argument::Tensor(tensor) if tensor.name == "order" && tensor.access == Access::Write)
            })
        };
        // For few rows and for many.
        assert_eq!(plan.launches.iter().filter(writes).count(), 2 * 2, "{target}");
    }
    let mut numbers = Numbers::new(3);
    let elements = random(Storage::U8, &[3, 64, 2, 16], 256, &mut numbers);
    let scales = Tensor::from_integers(Storage::U8, [3, 64, 2], vec![120; 384]).unwrap();
    let parameters: BTreeMap<Name, Tensor> =
        [(Name::from("elements"), elements), (Name::from("scales"), scales)].into();
    for tokens in [1, 5, 70] {
        let shapes =
            [(Storage::Bf16, vec![tokens, 64]), (Storage::I32, vec![tokens, 2]), (Storage::I32, vec![tokens, 2])];
        let inputs = shapes.map(|(storage, shape)| Value::Tensor(random(storage, &shape, 3, &mut numbers)));
        check(&module, &inputs, &parameters, 5e-2);
    }
}
