//! `tesserac inspect`.

use std::collections::BTreeMap;
use std::fmt::Write;

use miette::{IntoDiagnostic, Result, miette};
use serde_json::json;
use tessera_compiler::graph::{Context, Pipeline};
use tessera_compiler::schedule::{self, Library, Machine, Overrides};
use tessera_ir::Module;
use tessera_runtime::Artifact;
use tessera_runtime::artifact::Code;
use tessera_runtime::plan::{Extent, Guard, Plan};

use crate::arguments::Inspect;
use crate::files;
use crate::page::{self, Page};
use crate::run::is_artifact;
use crate::source::Source;
use tessera_terminal::Progress;

/// Shows an artifact or a module.
pub fn run(arguments: &Inspect, progress: &Progress) -> Result<()> {
    if is_artifact(&arguments.file)? {
        let artifact = Artifact::open(&arguments.file).into_diagnostic()?;
        if let Some(path) = &arguments.html {
            return files::write(path, Page::of_artifact(&artifact, &title(arguments)).html());
        }
        return files::print(match arguments.json {
            true => format!("{:#}\n", describe_json(&artifact)),
            false => describe(&artifact, arguments.launches),
        });
    }
    if arguments.json || arguments.launches {
        return Err(miette!(
            help = "compile it first: tesserac compile MODEL.ir -o OUT.tsr",
            "{} is a module; --json and --launches show artifacts",
            arguments.file.display()
        ));
    }
    let source = Source::open(&arguments.file)?;
    let scheduled = progress.during("forming kernels", || scheduled(&source, arguments))?;
    match &arguments.html {
        Some(path) => files::write(path, Page::of_module(&scheduled, &title(arguments), arguments.target).html()),
        None => files::print(describe_module(&scheduled)),
    }
}

fn title(arguments: &Inspect) -> String {
    arguments.file.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
}

/// The module after all passes, cut into kernels with their schedules.
fn scheduled(source: &Source, arguments: &Inspect) -> Result<Module> {
    let mut module = source.module()?;
    let mut context = Context::new(arguments.target);
    Pipeline::default().run(&mut module, &mut context, |_, _| {}).map_err(|error| source.pipeline_error(error))?;
    let mut library = Library::new(Machine::native(arguments.target), Overrides::default());
    for function in &mut module.functions {
        let symbols = schedule::symbols_of(function);
        *function = schedule::form(function, &symbols, &mut library).into_diagnostic()?.function;
    }
    Ok(module)
}

/// A number of bytes for people.
pub fn size(bytes: u64) -> String {
    let mut value = bytes as f64;
    for unit in ["B", "KiB", "MiB"] {
        if value < 1024.0 {
            return if unit == "B" { format!("{bytes} B") } else { format!("{value:.1} {unit}") };
        }
        value /= 1024.0;
    }
    format!("{value:.1} GiB")
}

/// Bytes of the weights of a plan.
pub fn weight_bytes(plan: &Plan) -> u64 {
    plan.parameters.iter().filter_map(|parameter| parameter.bytes()).sum()
}

/// The temporary buffers of a plan, equal ones together. Those that are not in use at once share memory.
pub fn memory(plan: &Plan) -> String {
    let mut slots: BTreeMap<String, usize> = BTreeMap::new();
    plan.slots.iter().for_each(|slot| *slots.entry(slot.bytes.display(&plan.symbols).to_string()).or_default() += 1);
    let slots: Vec<String> = slots.into_iter().map(|(bytes, count)| format!("{count} × {bytes} bytes")).collect();
    if slots.is_empty() { "none".to_owned() } else { slots.join(", ") }
}

/// A grid for people: without axes of one program.
pub fn grid(extents: &[Extent; 3], symbols: &[String]) -> String {
    let last = extents.iter().rposition(|extent| extent.constant() != Some(1)).map_or(1, |last| last + 1);
    extents[..last].iter().map(|extent| extent.display(symbols).to_string()).collect::<Vec<_>>().join(" × ")
}

/// How many launches a run makes. Of the variants of a step, which its guards tell apart, one is run.
pub fn launched(plan: &Plan) -> String {
    let (mut least, mut most) = (0, 0);
    let mut rest = plan.launches.as_slice();
    while let Some(first) = rest.first() {
        // The variants of a step follow one another: their guards bound one number, and no two overlap.
        let mut variants: Vec<(&Guard, usize)> = Vec::new();
        for launch in rest {
            let Some(guard) = &launch.guard else { break };
            let overlaps = |(known, _): &(&Guard, usize)| {
                known.extent != guard.extent || known.minimum.max(guard.minimum) <= known.maximum.min(guard.maximum)
            };
            if let Some((_, count)) = variants.last_mut().filter(|(known, _)| *known == guard) {
                *count += 1;
            } else if variants.iter().any(overlaps) {
                break;
            } else {
                variants.push((guard, 1));
            }
        }
        let counts = variants.iter().map(|(_, count)| *count);
        let taken = if first.guard.is_none() { 1 } else { counts.clone().sum() };
        least += counts.clone().min().unwrap_or(1);
        most += counts.max().unwrap_or(1);
        rest = &rest[taken..];
    }
    match least == most {
        true => format!("{least} launches in a run"),
        false => format!("{least} to {most} launches in a run, by its sizes"),
    }
}

fn describe(artifact: &Artifact, launches: bool) -> String {
    let mut text = String::new();
    let code = match artifact.code() {
        Code::Host(object) => format!("a shared object of {}", size(object.len() as u64)),
        Code::Ptx(kernels) => format!("{} PTX files", kernels.len()),
    };
    let _ = writeln!(text, "target     {}", artifact.target());
    let _ = writeln!(text, "made by    {}", artifact.producer());
    let _ = writeln!(text, "code       {code}");
    let _ = writeln!(text, "constants  {}", size(artifact.constants().len() as u64));
    for plan in artifact.functions() {
        describe_function(&mut text, plan, launches);
    }
    text
}

fn describe_function(text: &mut String, plan: &Plan, launches: bool) {
    let _ = writeln!(text, "\nfunction @{} of module @{}", plan.function, plan.module);
    for input in &plan.inputs {
        let _ = writeln!(text, "  input    {}: {}", input.name, input.describe(&plan.symbols));
    }
    for cache in &plan.caches {
        let window = cache.window.map_or(String::new(), |window| format!(", windows of {window}"));
        let _ = writeln!(
            text,
            "  cache    {}: {} layers, {} heads of {}, pages of {} tokens{window}, {}",
            cache.name, cache.layers, cache.heads, cache.head_dimension, cache.page_size, cache.element
        );
    }
    for output in &plan.outputs {
        let _ = writeln!(text, "  output   {}: {}", output.name, output.describe(&plan.symbols));
    }
    let weights = size(weight_bytes(plan));
    let _ = writeln!(text, "  weights  {} tensors, {weights}", plan.parameters.len());
    let _ = writeln!(text, "  memory   {}", memory(plan));
    let _ = writeln!(text, "  kernels  {}, {}", plan.kernels.len(), launched(plan));
    let mut uses: BTreeMap<usize, usize> = BTreeMap::new();
    plan.launches.iter().for_each(|launch| *uses.entry(launch.kernel).or_default() += 1);
    for (index, kernel) in plan.kernels.iter().enumerate() {
        let shared = match kernel.dynamic_shared_bytes {
            0 => String::new(),
            bytes => format!(", {} shared", size(bytes.into())),
        };
        let threads =
            if kernel.block_threads > 1 { format!(", {} threads", kernel.block_threads) } else { String::new() };
        let count = uses.get(&index).copied().unwrap_or(0);
        let _ = writeln!(text, "    {count:>4} × {}{threads}{shared}", kernel.name);
    }
    if launches {
        let _ = writeln!(text, "  launches");
        for (index, launch) in plan.launches.iter().enumerate() {
            let guard = match &launch.guard {
                Some(guard) => {
                    let extent = guard.extent.display(&plan.symbols);
                    format!(" if {extent} in {}..={}", guard.minimum, guard.maximum)
                }
                None => String::new(),
            };
            let grid = grid(&launch.grid, &plan.symbols);
            let _ = writeln!(text, "    {index:>4} {} [{grid}]{guard}", launch.label);
            let arguments = launch.arguments.iter().map(|argument| page::argument(plan, argument));
            let _ = writeln!(
                text,
                "         {}({})",
                plan.kernels[launch.kernel].name,
                arguments.collect::<Vec<_>>().join(", ")
            );
        }
    }
}

fn describe_json(artifact: &Artifact) -> serde_json::Value {
    json!({
        "target": artifact.target(),
        "producer": artifact.producer(),
        "constants_bytes": artifact.constants().len(),
        "functions": artifact.functions(),
    })
}

/// A line for each kernel of a scheduled module.
fn describe_module(module: &Module) -> String {
    let mut text = String::new();
    for function in &module.functions {
        let _ = writeln!(text, "function @{}", function.name);
        for (node, operation) in function.graph.operations() {
            let kernel = page::kernel_name(operation);
            let types: Vec<String> = function.graph.node(node).results().iter().map(ToString::to_string).collect();
            let schedule = page::schedule_text(operation).unwrap_or_default();
            let _ = writeln!(text, "  {kernel:40} {schedule}\n      -> {}", types.join(", "));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use tessera_runtime::plan::Launch;

    use super::*;

    #[test]
    fn of_variants_one_is_launched() {
        let mut plan = Plan::new("m", "f");
        let tokens = Extent::symbol(plan.intern_symbol("T"));
        let few = Guard { extent: tokens.clone(), minimum: 0, maximum: 8 };
        let many = Guard { extent: tokens, minimum: 9, maximum: u64::MAX };
        let mut launched_under = |guards: &[Option<&Guard>]| {
            let launch = |guard: &Option<&Guard>| Launch {
                kernel: 0,
                grid: [1.into(), 1.into(), 1.into()],
                arguments: Vec::new(),
                guard: guard.cloned(),
                label: "step".into(),
            };
            plan.launches = guards.iter().map(launch).collect();
            launched(&plan)
        };
        assert_eq!(launched_under(&[None, None]), "2 launches in a run");
        assert_eq!(launched_under(&[None, Some(&few), Some(&many), None]), "3 launches in a run");
        // A step of which few tokens take two kernels, and the next one, which has the same guards.
        let steps = [Some(&few), Some(&few), Some(&many), Some(&few), Some(&many)];
        assert_eq!(launched_under(&steps), "2 to 3 launches in a run, by its sizes");
    }
}
