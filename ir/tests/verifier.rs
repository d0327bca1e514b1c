//! What the verifier finds in modules that passes have spoilt.

use tessera_ir::{Mesh, Module, Sharding, Storage, TensorType, ValueId, verify};

use crate::text::{EVERYTHING, parse};

fn module() -> Module {
    parse(
        "module @m {
          mesh [tp=2]
          param @w : tensor<4x4xf32>
          func @f(%x: tensor<Tx4xf32>) {
            %y = matmul(%x, @w)
            %z = exp(%y)
            return %z
          }
        }",
    )
}

/// The errors after `spoil` has had its way.
fn errors(spoil: impl FnOnce(&mut Module)) -> Vec<String> {
    let mut module = module();
    spoil(&mut module);
    verify(&module).expect_err("an error is expected").iter().map(ToString::to_string).collect()
}

/// The value named `name`.
fn named(module: &Module, name: &str) -> ValueId {
    let graph = &module.functions[0].graph;
    let mut values = graph.node_ids().map(ValueId::first);
    values.find(|value| graph.value_name(*value).is_some_and(|given| given == name)).unwrap()
}

#[test]
fn sound_modules_pass() {
    assert_eq!(verify(&module()), Ok(()));
    assert_eq!(verify(&parse(EVERYTHING)), Ok(()));
}

#[test]
fn a_type_that_inference_does_not_give_is_found() {
    let found = errors(|module| {
        let y = named(module, "y");
        module.functions[0].graph.set_value_type(y, TensorType::new([3, 4], Storage::F32));
    });
    assert_eq!(
        found,
        [
            "@f, %y: matmul: the result's type is tensor<Tx4xf32>, not tensor<3x4xf32>",
            "@f, %z: exp: the result's type is tensor<3x4xf32>, not tensor<Tx4xf32>"
        ]
    );
}

#[test]
fn a_cycle_is_found() {
    let found = errors(|module| {
        let (y, z) = (named(module, "y"), named(module, "z"));
        module.functions[0].graph.set_operand(y.node, 0, z);
    });
    assert_eq!(found, ["@f: the operations form a cycle"]);
}

#[test]
fn parameters_must_be_those_of_the_module() {
    assert_eq!(errors(|module| module.parameters.clear()), ["@f, @w: the module declares no such parameter"]);
    let wider = TensorType::new([4, 8], Storage::F32);
    let found = errors(|module| module.parameters["w"] = wider);
    assert_eq!(found, ["@f, @w: the module declares it as tensor<4x8xf32>"]);
}

#[test]
fn shardings_must_fit_the_mesh() {
    let sharded = |axes: &[&str]| Sharding {
        dimensions: vec![axes.iter().map(|axis| (*axis).into()).collect(), Vec::new()],
        partial: Vec::new(),
    };
    let with = |sharding: Sharding| {
        errors(|module| {
            let z = named(module, "z");
            let ty = module.functions[0].graph.value_type(z).as_tensor().unwrap().clone();
            module.functions[0].graph.set_value_type(z, TensorType { sharding: Some(sharding), ..ty });
        })
    };
    assert_eq!(with(sharded(&["dp"])), ["@f, %z: the mesh [tp=2] has no axis `dp`"]);
    assert_eq!(with(sharded(&["tp", "tp"])), ["@f, %z: axis `tp` is used twice in one sharding"]);
    let short = Sharding { dimensions: vec![Vec::new()], partial: vec!["tp".into()] };
    assert_eq!(with(short), ["@f, %z: the sharding lists 1 dimensions, the tensor has 2"]);
    let found = errors(|module| module.mesh = Mesh { axes: vec![module.mesh.axes[0].clone(); 2] });
    assert_eq!(found, ["mesh axis `tp` is declared twice"]);
}

#[test]
fn errors_inside_regions_say_where() {
    let mut module = parse(
        "module @m { func @f(%x: tensor<4xf32>) {
           %y = fusion(%a = %x) { %b = exp(%a) %c = exp(%b) return %c }
           return %y
         } }",
    );
    let graph = &mut module.functions[0].graph;
    let id = graph.operations().next().unwrap().0;
    let region = graph.operation_mut(id).unwrap().region_mut().unwrap();
    let inner = region.operations().next().unwrap().0;
    region.set_value_type(ValueId::first(inner), TensorType::new([5], Storage::F32));
    let found = verify(&module).unwrap_err();
    assert!(found[0].to_string().starts_with("@f, fusion, %b: exp: the result's type is tensor<4xf32>"), "{found:?}");
    assert!(found[0].span.is_some());
}

#[test]
fn a_spoilt_graph_is_not_evaluated() {
    use tessera_ir::evaluate::{Parameters, Tensor, evaluate};
    let mut module = module();
    let y = named(&module, "y");
    module.functions[0].graph.set_value_type(y, TensorType::new([3, 4], Storage::F32));
    let inputs = [Tensor::zeros(Storage::F32, [3, 4]).unwrap().into()];
    let parameters = Parameters::from([("w".into(), Tensor::zeros(Storage::F32, [4, 4]).unwrap())]);
    let error = evaluate(&module, "f", &inputs, &parameters).unwrap_err().to_string();
    assert!(error.starts_with("the graph is not well formed: matmul: the result's type is"), "{error}");
}
