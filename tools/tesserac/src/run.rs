//! `tesserac run`.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use miette::{IntoDiagnostic, Result, WrapErr, miette};
use serde_json::json;
use tessera_compiler::comparison::{Difference, Inputs, Tolerance, difference, random_inputs, unpacked};
use tessera_compiler::driver::{CompileOptions, compile};
use tessera_compiler::target::Target;
use tessera_ir::evaluate::{self, Parameters, Symbols, Tensor, Value};
use tessera_ir::{Dim, Function, Graph, Module, Name, NodeKind, Storage, Type, ValueId};
use tessera_runtime::artifact::Target as Signature;
use tessera_runtime::device::{self, Device};
use tessera_runtime::plan::{ElementType, Plan};
use tessera_runtime::{Artifact, Executable, KvCache, Session, TensorView, Weights};

use crate::arguments::{Compare, Run};
use crate::compile::{pick_function, with_function};
use crate::source::Source;
use crate::{files, npy};
use tessera_terminal::Progress;

/// Runs a function, and compares its outputs if that is asked for.
pub fn run(arguments: &Run, progress: &Progress) -> Result<()> {
    let device = device::open(&arguments.device).into_diagnostic()?;
    match is_artifact(&arguments.file)? {
        true => run_artifact(arguments, &device, progress),
        false => run_module(arguments, &device, progress),
    }
}

/// Whether a file is an artifact, which is a zip archive.
pub fn is_artifact(path: &Path) -> Result<bool> {
    use std::io::Read;
    let mut start = [0u8; 4];
    let mut file =
        std::fs::File::open(path).into_diagnostic().wrap_err_with(|| format!("cannot read {}", path.display()))?;
    let count = file.read(&mut start).into_diagnostic().wrap_err_with(|| format!("cannot read {}", path.display()))?;
    Ok(start[..count].starts_with(b"PK") || path.extension().is_some_and(|extension| extension == "tsr"))
}

/// What a function is run on.
struct Call {
    /// Tensors by the names of the inputs.
    inputs: Vec<(String, Tensor)>,
    /// Pages of each cache.
    pages: Vec<u64>,
    weights: Weights,
}

/// What came out.
struct Outcome {
    outputs: Vec<(String, Tensor)>,
    /// The contents of the caches afterwards, each as a vector.
    caches: Vec<(String, Tensor)>,
    profile: Vec<(String, String, f64)>,
}

fn run_artifact(arguments: &Run, device: &Arc<dyn Device>, progress: &Progress) -> Result<()> {
    if arguments.compare.is_some() {
        return Err(miette!(
            help = "give the .ir file that it was compiled from",
            "an artifact holds no graph to evaluate, so there is nothing to compare with"
        ));
    }
    let artifact = Artifact::open(&arguments.file).into_diagnostic()?;
    let names: Vec<&str> = artifact.functions().iter().map(|plan| plan.function.as_str()).collect();
    let function = pick_function(&names, arguments.function.as_deref())?;
    let plan = artifact.function(function).into_diagnostic()?;
    if let Some((symbol, _)) = arguments.dim.first() {
        return Err(miette!(
            help = "the inputs' shapes bind all symbols",
            "--dim {symbol}: the inputs of an artifact are not made up"
        ));
    }
    let mut inputs = Vec::new();
    for input in &plan.inputs {
        let Some((_, path)) = arguments.input.iter().find(|(name, _)| *name == input.name) else {
            let described = format!("{}: {}", input.name, input.describe(&plan.symbols));
            let help = format!("give it with --input {}=FILE.npy", input.name);
            return Err(miette!(help = help, "the input {described} of @{function} is missing"));
        };
        inputs.push((input.name.clone(), npy::read(path, storage_of(input.element)?)?));
    }
    check_names("input", &arguments.input, plan.inputs.iter().map(|input| input.name.as_str()))?;
    // As many pages as the page table of a cache names.
    let pages = |cache: usize| {
        let table = inputs.iter().find(|(name, _)| Some(name.as_str()) == plan.page_table(cache));
        let largest = table.and_then(|(_, table)| table.to_integers().iter().copied().max());
        largest.map_or(1, |page| page.max(0) as u64 + 1)
    };
    let pages = (0..plan.caches.len()).map(pages).collect();
    let weights = match &arguments.weights {
        Some(path) => open_weights(path)?,
        None if plan.parameters.is_empty() => Weights::in_memory(),
        None => {
            let help = "give the safetensors file with --weights";
            return Err(miette!(help = help, "@{function} needs {} weights", plan.parameters.len()));
        }
    };
    let call = Call { inputs, pages, weights };
    let outcome = execute(&artifact, function, &call, arguments, device, progress)?;
    write_outputs(arguments, &outcome)?;
    show(arguments, &outcome, &[])
}

fn run_module(arguments: &Run, device: &Arc<dyn Device>, progress: &Progress) -> Result<()> {
    let source = Source::open(&arguments.file)?;
    let module = source.module()?;
    let names: Vec<&str> = module.functions.iter().map(|function| function.name.as_str()).collect();
    let name = pick_function(&names, arguments.function.as_deref())?;
    let module = with_function(&module, name);
    let Some(function) = module.function(name) else { return Err(miette!("there is no function `{name}`")) };
    let inputs = inputs_of(arguments, &module, function)?;

    let mut options = CompileOptions::new(target_of(device.as_ref())?);
    options.cache = tessera_terminal::cache_folder();
    let compiled = progress
        .during(&format!("compiling @{name}"), || compile(&module, &options))
        .map_err(|error| source.compile_error(error))?;
    let call = Call {
        inputs: (function.inputs().zip(&inputs.inputs))
            .filter_map(|((name, _), value)| Some((name.to_owned(), value.as_tensor()?.clone())))
            .collect(),
        pages: inputs.inputs.iter().filter_map(Value::as_cache).map(|cache| cache.pages() as u64).collect(),
        weights: match &arguments.weights {
            Some(path) => open_weights(path)?,
            None => made_up_weights(&inputs.parameters)?,
        },
    };
    let mut outcome = execute(&compiled.artifact, name, &call, arguments, device, progress)?;
    // What becomes of a cache that is not returned is nobody's business.
    let states: Vec<&str> = function.graph.outputs().iter().filter_map(|v| cache_name(&function.graph, *v)).collect();
    outcome.caches.retain(|(name, _)| states.contains(&name.as_str()));
    write_outputs(arguments, &outcome)?;
    let compared = match arguments.compare {
        Some(Compare::Reference) => {
            let expected = progress
                .during("computing the reference", || {
                    evaluate::evaluate(&module, name, &inputs.inputs, &inputs.parameters)
                })
                .into_diagnostic()
                .wrap_err("the reference evaluation refuses these inputs")?;
            compare(arguments, function, &expected, &outcome)?
        }
        None => Vec::new(),
    };
    show(arguments, &outcome, &compared)?;
    let wrong = compared.iter().filter(|compared| !compared.admitted).count();
    match wrong {
        0 => Ok(()),
        _ => Err(miette!("{wrong} of {} results differ by more than the tolerance", compared.len())),
    }
}

/// The best code that a device runs.
fn target_of(device: &dyn Device) -> Result<Target> {
    let mut chips: Vec<Target> = Target::ALL.into_iter().filter(|target| target.chip().is_some()).collect();
    chips.sort_by_key(|target| target.chip().map(|chip| (chip.capability, chip.specific)));
    let runs = |target: &Target| device.check(&Signature::Cuda { architecture: target.to_string() }).is_ok();
    match device.check(&Signature::native_host()) {
        Ok(()) => Ok(Target::Host),
        Err(_) => chips
            .into_iter()
            .rev()
            .find(runs)
            .ok_or_else(|| miette!("this compiler has no target for {} ({})", device.name(), device.description())),
    }
}

/// Given inputs, and made-up ones for the rest.
fn inputs_of(arguments: &Run, module: &Module, function: &Function) -> Result<Inputs> {
    let input_names: Vec<&str> = function.inputs().map(|(name, _)| name).collect();
    check_names("input", &arguments.input, input_names.iter().copied())?;
    let mut symbols: Symbols =
        arguments.dim.iter().map(|(symbol, extent)| (Name::from(symbol.as_str()), *extent)).collect();
    let mut given = Vec::new();
    for (position, (name, ty)) in function.inputs().enumerate() {
        let Some((_, path)) = arguments.input.iter().find(|(given, _)| given == name) else { continue };
        let Type::Tensor(ty) = ty else {
            return Err(miette!("the input %{name} is a cache, which starts empty; it cannot be given"));
        };
        let tensor = npy::read(path, ty.storage())?;
        if tensor.shape().len() != ty.rank() {
            return Err(miette!("{}: shape {:?} is given, and %{name} is {ty}", path.display(), tensor.shape()));
        }
        for (dim, extent) in ty.shape.iter().zip(tensor.shape()) {
            let expected = match dim {
                Dim::Static(expected) => *expected,
                Dim::Symbol(symbol) => *symbols.entry(symbol.clone()).or_insert(*extent as u64),
            };
            if expected != *extent as u64 {
                let path = path.display();
                return Err(miette!(
                    "{path}: shape {:?} is given, and %{name} is {ty} with {dim} = {expected}",
                    tensor.shape()
                ));
            }
        }
        given.push((position, tensor));
    }
    let mut inputs = random_inputs(module, function.name.as_str(), &symbols, arguments.seed).into_diagnostic()?;
    for (position, tensor) in given {
        inputs.inputs[position] = tensor.into();
    }
    if let Some(path) = &arguments.weights {
        inputs.parameters = parameters_of(module, &open_weights(path)?)?;
    }
    Ok(inputs)
}

fn check_names<'a>(what: &str, given: &[(String, PathBuf)], known: impl Iterator<Item = &'a str>) -> Result<()> {
    let known: Vec<&str> = known.collect();
    match given.iter().find(|(name, _)| !known.contains(&name.as_str())) {
        Some((name, _)) => {
            Err(miette!(help = format!("there are {}", known.join(", ")), "there is no {what} `{name}`"))
        }
        None => Ok(()),
    }
}

fn open_weights(path: &Path) -> Result<Weights> {
    Weights::open(path).into_diagnostic()
}

/// The weights as the reference evaluation takes them.
fn parameters_of(module: &Module, weights: &Weights) -> Result<Parameters> {
    let stored = |name: &str| -> Result<Tensor> {
        let weight = weights.get(name).ok_or_else(|| miette!("{} has no tensor {name}", weights.origin()))?;
        let shape: Vec<usize> = weight.shape.iter().map(|extent| *extent as usize).collect();
        Tensor::from_bytes(storage_of(weight.element)?, shape, weight.bytes.as_slice()).into_diagnostic()
    };
    let mut parameters = Parameters::new();
    for (name, ty) in &module.parameters {
        let tensor = match ty.storage().blocks() {
            None => stored(name)?,
            Some(format) => {
                let [elements, scales] = format.names(name);
                let shape = ty.shape.iter().filter_map(|dim| dim.as_static()).map(|extent| extent as usize);
                let (elements, scales) = (stored(&elements)?, stored(&scales)?);
                Tensor::from_blocks(ty.storage(), shape.collect::<Vec<_>>(), &elements, &scales).into_diagnostic()?
            }
        };
        if tensor.storage() != ty.storage() {
            return Err(miette!("{name} is {} in {}, and the module wants {ty}", tensor.storage(), weights.origin()));
        }
        parameters.insert(name.clone(), tensor);
    }
    Ok(parameters)
}

/// Made-up weights as the runtime takes them.
fn made_up_weights(parameters: &Parameters) -> Result<Weights> {
    let mut weights = Weights::in_memory();
    for (name, tensor) in &unpacked(parameters).into_diagnostic()? {
        let shape = tensor.shape().iter().map(|extent| *extent as u64).collect();
        let bytes = tensor.to_bytes().into_diagnostic()?;
        weights.insert(name.as_str(), element_of(tensor.storage())?, shape, bytes).into_diagnostic()?;
    }
    Ok(weights)
}

fn storage_of(element: ElementType) -> Result<Storage> {
    element.name().parse().into_diagnostic()
}

fn element_of(storage: Storage) -> Result<ElementType> {
    storage.name().parse().into_diagnostic()
}

fn execute(
    artifact: &Artifact,
    function: &str,
    call: &Call,
    arguments: &Run,
    device: &Arc<dyn Device>,
    progress: &Progress,
) -> Result<Outcome> {
    let executable = progress
        .during("loading", || Executable::load_function(artifact, function, &call.weights, device))
        .into_diagnostic()?;
    let plan: &Plan = executable.plan();
    check_names("output", &arguments.output, plan.outputs.iter().map(|output| output.name.as_str()))?;
    let mut bytes = Vec::new();
    for (name, tensor) in &call.inputs {
        let shape: Vec<u64> = tensor.shape().iter().map(|extent| *extent as u64).collect();
        bytes.push((name.as_str(), element_of(tensor.storage())?, shape, tensor.to_bytes().into_diagnostic()?));
    }
    let views = bytes
        .iter()
        .map(|(name, element, shape, bytes)| Ok((*name, TensorView::from_bytes(*element, shape, bytes)?)))
        .collect::<Result<Vec<_>, tessera_runtime::execute::RunError>>()
        .into_diagnostic()?;
    let caches = |executable: &Executable| -> Result<Vec<(String, KvCache)>> {
        let names = executable.plan().caches.iter().map(|cache| cache.name.clone());
        let pages = names.zip(&call.pages);
        pages
            .map(|(name, pages)| Ok((name.clone(), KvCache::new(executable, &name, *pages).into_diagnostic()?)))
            .collect()
    };
    let mut session = Session::new(&executable);
    let mut profile = Vec::new();
    if let Some(runs) = arguments.profile {
        let mut own = caches(&executable)?;
        let mut own: Vec<(&str, &mut KvCache)> = own.iter_mut().map(|(name, cache)| (name.as_str(), cache)).collect();
        session.run(&views, &mut own).into_diagnostic()?;
        let runs = (0..runs.get()).map(|_| session.profile(&views, &mut own)).collect::<Result<Vec<_>, _>>();
        let runs = runs.into_diagnostic()?;
        for (index, launch) in runs.first().into_iter().flatten().enumerate() {
            let mut times: Vec<_> = runs.iter().map(|run| run[index].time).collect();
            times.sort_unstable();
            let median = times[times.len() / 2].as_secs_f64() * 1e6;
            profile.push((launch.label.clone(), launch.kernel.clone(), median));
        }
    }
    let mut own = caches(&executable)?;
    let mut own: Vec<(&str, &mut KvCache)> = own.iter_mut().map(|(name, cache)| (name.as_str(), cache)).collect();
    let found = progress.during("running", || session.run(&views, &mut own)).into_diagnostic()?;
    let mut outputs = Vec::new();
    for (index, name) in found.names().enumerate() {
        let view = found.at(index).into_diagnostic()?;
        let shape: Vec<usize> = view.shape().iter().map(|extent| *extent as usize).collect();
        let tensor = Tensor::from_bytes(storage_of(view.element())?, shape, view.bytes()).into_diagnostic()?;
        outputs.push((name.to_owned(), tensor));
    }
    let mut caches = Vec::new();
    for ((name, cache), specification) in own.iter().zip(&executable.plan().caches) {
        let bytes = cache.read().into_diagnostic()?;
        let storage = storage_of(specification.element)?;
        let count = (bytes.len() as u64 * 8 / u64::from(storage.bits())) as usize;
        caches.push(((*name).to_owned(), Tensor::from_bytes(storage, [count], &bytes).into_diagnostic()?));
    }
    Ok(Outcome { outputs, caches, profile })
}

fn write_outputs(arguments: &Run, outcome: &Outcome) -> Result<()> {
    for (name, path) in &arguments.output {
        if let Some((_, tensor)) = outcome.outputs.iter().find(|(output, _)| output == name) {
            npy::write(path, tensor)?;
        }
    }
    Ok(())
}

/// How an output or a cache compares.
struct Compared {
    difference: Difference,
    tolerance: Tolerance,
    admitted: bool,
}

/// Compares every output, then every cache.
fn compare(arguments: &Run, function: &Function, expected: &[Value], outcome: &Outcome) -> Result<Vec<Compared>> {
    let results: Vec<(&Value, ValueId)> = expected.iter().zip(function.graph.outputs().iter().copied()).collect();
    let tensors = results.iter().filter(|(value, _)| value.as_tensor().is_some());
    let mut pairs = Vec::new();
    for ((expected, _), (name, found)) in tensors.zip(&outcome.outputs) {
        pairs.push((name, (*expected).clone(), found));
    }
    // A cache is changed in place: the plan names it as the input that it comes from.
    for (name, found) in &outcome.caches {
        let states = results.iter().filter(|(_, output)| cache_name(&function.graph, *output) == Some(name.as_str()));
        for cache in states.filter_map(|(value, _)| value.as_cache()) {
            let elements = Tensor::from_floats(cache.ty().storage, found.shape(), cache.elements().to_vec());
            pairs.push((name, Value::Tensor(elements.into_diagnostic()?), found));
        }
    }
    pairs
        .into_iter()
        .map(|(name, expected, found)| {
            let difference = difference(&expected, &Value::Tensor(found.clone()))
                .ok_or_else(|| miette!("{name} has shape {:?}, which the reference has not", found.shape()))?;
            let tolerance = match arguments.tolerance {
                Some(largest) => Tolerance::of_largest(largest),
                None => Tolerance::of_function(function, found.storage()),
            };
            Ok(Compared { difference, tolerance, admitted: tolerance.admits(&difference) })
        })
        .collect()
}

/// The name of the input that a cache is a later state of.
fn cache_name(graph: &Graph, mut state: ValueId) -> Option<&str> {
    graph.value_type(state).as_cache()?;
    loop {
        match graph.node(state.node).kind() {
            NodeKind::Input(_) => return graph.value_name(state).map(Name::as_str),
            // Every op that gives a cache takes the one before as its first operand that is one.
            _ => {
                let operands = graph.operands(state.node);
                state = operands.into_iter().find(|operand| graph.value_type(*operand).as_cache().is_some())?;
            }
        }
    }
}

fn show(arguments: &Run, outcome: &Outcome, compared: &[Compared]) -> Result<()> {
    if arguments.json {
        return files::print(format!("{:#}\n", as_json(outcome, compared)));
    }
    let mut text = String::new();
    let caches = outcome.caches.iter().filter(|_| !compared.is_empty());
    let results: Vec<_> = outcome.outputs.iter().chain(caches).collect();
    let width = results.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
    for (index, (name, tensor)) in results.into_iter().enumerate() {
        let extents: String = tensor.shape().iter().map(|extent| format!("{extent}x")).collect();
        text += &format!("{name:width$}  {extents}{}", tensor.storage());
        if let Some(Compared { difference, tolerance, admitted }) = compared.get(index) {
            let verdict = if *admitted { "within" } else { "OUTSIDE" };
            text += &format!("  {difference}: {verdict} the tolerance {tolerance}");
        }
        text += "\n";
    }
    let total: f64 = outcome.profile.iter().map(|(_, _, time)| time).sum();
    for (label, kernel, time) in &outcome.profile {
        text += &format!("{time:>10.1} µs {:>5.1} %  {label} ({kernel})\n", 100.0 * time / total);
    }
    if !outcome.profile.is_empty() {
        text += &format!("{total:>10.1} µs          {} launches\n", outcome.profile.len());
    }
    files::print(text)
}

fn as_json(outcome: &Outcome, compared: &[Compared]) -> serde_json::Value {
    let finite = |number: f64| if number.is_finite() { json!(number) } else { json!(number.to_string()) };
    let described = |(index, (name, tensor)): (usize, &(String, Tensor))| {
        let comparison = compared.get(index).map(|Compared { difference, tolerance, admitted }| {
            json!({
                "max_abs": finite(difference.maximum_absolute),
                "max_rel": finite(difference.maximum_relative),
                "rms": finite(difference.root_mean_square),
                "scale": finite(difference.scale),
                "tolerance": tolerance.maximum,
                "tolerance_rms": tolerance.root_mean_square,
                "within": admitted,
            })
        });
        json!({ "name": name, "shape": tensor.shape(), "type": tensor.storage().name(), "comparison": comparison })
    };
    let results: Vec<_> = outcome.outputs.iter().chain(&outcome.caches).enumerate().map(described).collect();
    let (outputs, caches) = results.split_at(outcome.outputs.len());
    let profile = outcome
        .profile
        .iter()
        .map(|(label, kernel, time)| json!({ "label": label, "kernel": kernel, "microseconds": time }));
    json!({ "outputs": outputs, "caches": caches, "profile": profile.collect::<Vec<_>>() })
}
