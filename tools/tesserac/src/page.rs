//! A page to browse a compiled graph: functions, kernels, the operations in them, and what flows between, in one HTML file that needs nothing else.

use std::collections::HashMap;
use std::fmt::Write;

use tessera_compiler::target::Target;
use tessera_ir::{Attribute, Function, Graph, Module, NodeKind, Operation, Type, ValueId};
use tessera_runtime::Artifact;
use tessera_runtime::plan::{Argument, BufferReference, Plan};

use crate::inspect::{grid, launched, memory, size, weight_bytes};
use crate::picture::{Box, Picture};

/// What a page shows.
pub struct Page {
    title: String,
    subtitle: String,
    functions: Vec<Section>,
}

/// A function.
struct Section {
    name: String,
    facts: Vec<(String, String)>,
    cards: Vec<Card>,
}

/// A kernel.
struct Card {
    title: String,
    detail: String,
    reads: Vec<Flow>,
    writes: Vec<Flow>,
    /// The operations inside, where they are known.
    operations: Picture,
    code: String,
}

/// A value that a kernel reads or writes.
struct Flow {
    name: String,
    detail: String,
    /// The card that computes it.
    from: Option<usize>,
}

impl Page {
    /// A module cut into kernels.
    pub fn of_module(module: &Module, title: &str, target: Target) -> Page {
        let functions = module.functions.iter().map(Section::of_function).collect();
        Page { title: title.to_owned(), subtitle: format!("module @{}, compiled for {target}", module.name), functions }
    }

    /// An artifact.
    pub fn of_artifact(artifact: &Artifact, title: &str) -> Page {
        Page {
            title: title.to_owned(),
            subtitle: format!("artifact for {}, made by {}", artifact.target(), artifact.producer()),
            functions: artifact.functions().iter().map(Section::of_plan).collect(),
        }
    }
}

/// The name of a kernel of a scheduled graph.
pub fn kernel_name(operation: &Operation) -> String {
    match operation.attribute("label") {
        Some(Attribute::Text(label)) => label.as_str().to_owned(),
        _ => operation.op().name().to_owned(),
    }
}

/// The schedule of a kernel of a scheduled graph.
pub fn schedule_text(operation: &Operation) -> Option<String> {
    match operation.attribute("schedule") {
        Some(Attribute::Text(schedule)) => Some(schedule.as_str().to_owned()),
        _ => None,
    }
}

/// An argument of a launch for people.
pub fn argument(plan: &Plan, argument: &Argument) -> String {
    match argument {
        Argument::Buffer { reference, byte_offset } => match byte_offset.constant() {
            Some(0) => buffer_name(plan, *reference),
            _ => format!("{} + {}", buffer_name(plan, *reference), byte_offset.display(&plan.symbols)),
        },
        Argument::Integer(extent) => extent.display(&plan.symbols).to_string(),
        Argument::Float(value) => format!("{value:?}"),
    }
}

fn buffer_name(plan: &Plan, reference: BufferReference) -> String {
    let name = |name: Option<&String>| name.cloned().unwrap_or_default();
    match reference {
        BufferReference::Input(index) => name(plan.inputs.get(index).map(|input| &input.name)),
        BufferReference::Output(index) => name(plan.outputs.get(index).map(|output| &output.name)),
        BufferReference::Parameter(index) => name(plan.parameters.get(index).map(|parameter| &parameter.name)),
        BufferReference::Cache(index) => name(plan.caches.get(index).map(|cache| &cache.name)),
        BufferReference::Slot(index) => format!("slot {index}"),
        BufferReference::Constant(index) => format!("constant {index}"),
    }
}

/// Bytes of a type with no symbols.
fn bytes(ty: &Type) -> Option<u64> {
    let tensor = ty.as_tensor()?;
    Some(tensor.storage().bytes(tensor.shape.element_count()?))
}

fn detail(ty: &Type) -> String {
    match bytes(ty) {
        Some(bytes) => format!("{ty}, {}", size(bytes)),
        None => ty.to_string(),
    }
}

impl Section {
    fn of_function(function: &Function) -> Section {
        let graph = &function.graph;
        let operations: Vec<_> = graph.operations().collect();
        let card_of: HashMap<_, usize> = operations.iter().enumerate().map(|(card, (node, _))| (*node, card)).collect();
        let flow = |value: ValueId| Flow {
            name: value_name(graph, value),
            detail: detail(graph.value_type(value)),
            from: card_of.get(&value.node).copied(),
        };
        let cards = operations
            .iter()
            .map(|(node, operation)| {
                let results = graph.node(*node).results().len() as u32;
                let names: Vec<String> = graph.operands(*node).iter().map(|value| value_name(graph, *value)).collect();
                Card {
                    title: kernel_name(operation),
                    detail: schedule_text(operation).unwrap_or_default(),
                    reads: graph.operands(*node).iter().map(|operand| flow(*operand)).collect(),
                    writes: (0..results).map(|result| flow(ValueId { node: *node, result })).collect(),
                    operations: operation.region().map(|region| picture_of(region, &names)).unwrap_or_default(),
                    code: operation.region().map(Graph::to_string).unwrap_or_default(),
                }
            })
            .collect();
        let weights: u64 = graph.parameters().filter_map(|(_, value)| bytes(graph.value_type(value))).sum();
        let inputs: Vec<String> = function.inputs().map(|(name, ty)| format!("{name}: {ty}")).collect();
        let outputs: Vec<String> = function.outputs().map(ToString::to_string).collect();
        let facts = vec![
            ("inputs".to_owned(), inputs.join("\n")),
            ("outputs".to_owned(), outputs.join("\n")),
            ("weights".to_owned(), format!("{} tensors, {}", graph.parameters().len(), size(weights))),
            ("kernels".to_owned(), operations.len().to_string()),
        ];
        Section { name: function.name.to_string(), facts, cards }
    }

    fn of_plan(plan: &Plan) -> Section {
        let mut writer: HashMap<BufferReference, usize> = HashMap::new();
        let mut cards = Vec::new();
        for (index, launch) in plan.launches.iter().enumerate() {
            let kernel = &plan.kernels[launch.kernel];
            let buffers = launch.arguments.iter().filter_map(|argument| match argument {
                Argument::Buffer { reference, .. } => Some(*reference),
                _ => None,
            });
            let mut card = Card {
                title: launch.label.clone(),
                detail: format!("{} on a grid of {}", kernel.name, grid(&launch.grid, &plan.symbols)),
                reads: Vec::new(),
                writes: Vec::new(),
                operations: Picture::default(),
                code: launch.arguments.iter().map(|given| argument(plan, given) + "\n").collect(),
            };
            if let Some(guard) = &launch.guard {
                let extent = guard.extent.display(&plan.symbols);
                let _ = write!(card.detail, ", if {extent} in {}..={}", guard.minimum, guard.maximum);
            }
            for reference in buffers {
                let flow = Flow {
                    name: buffer_name(plan, reference),
                    detail: buffer_detail(plan, reference),
                    from: writer.get(&reference).copied(),
                };
                // A plan does not say what a launch writes; what is writable may be written.
                match reference {
                    BufferReference::Input(_) | BufferReference::Parameter(_) | BufferReference::Constant(_) => {
                        card.reads.push(flow)
                    }
                    _ => {
                        card.writes.push(flow);
                        writer.insert(reference, index);
                    }
                }
            }
            cards.push(card);
        }
        let inputs: Vec<String> =
            plan.inputs.iter().map(|input| format!("{}: {}", input.name, input.describe(&plan.symbols))).collect();
        let outputs: Vec<String> =
            plan.outputs.iter().map(|output| format!("{}: {}", output.name, output.describe(&plan.symbols))).collect();
        let facts = vec![
            ("inputs".to_owned(), inputs.join("\n")),
            ("outputs".to_owned(), outputs.join("\n")),
            ("weights".to_owned(), format!("{} tensors, {}", plan.parameters.len(), size(weight_bytes(plan)))),
            ("memory".to_owned(), memory(plan)),
            ("kernels".to_owned(), format!("{}, {}", plan.kernels.len(), launched(plan))),
        ];
        Section { name: plan.function.clone(), facts, cards }
    }
}

/// The operations of a region and what flows between them. `names` are those of its operands outside.
fn picture_of(graph: &Graph, names: &[String]) -> Picture {
    let mut picture = Picture::default();
    let mut box_of = HashMap::new();
    for (node, operation) in graph.operations() {
        let here = picture.boxes.len();
        box_of.insert(node, here);
        let mut given = Vec::new();
        for operand in graph.operands(node) {
            match box_of.get(&operand.node) {
                Some(from) => picture.arrows.push((*from, here)),
                None => given.push(match graph.node(operand.node).kind() {
                    NodeKind::Input(input) => names.get(*input).cloned().unwrap_or_default(),
                    _ => value_name(graph, operand),
                }),
            }
        }
        let mut lines: Vec<String> = graph.node(node).results().iter().map(ToString::to_string).collect();
        if !given.is_empty() {
            lines.insert(0, format!("of {}", given.join(", ")));
        }
        picture.boxes.push(Box { title: operation.op().name().to_owned(), lines, link: None });
    }
    picture
}

fn value_name(graph: &Graph, value: ValueId) -> String {
    match graph.node(value.node).kind() {
        NodeKind::Parameter(name) => format!("@{name}"),
        _ => graph.value_name(value).map_or_else(|| format!("%{}", value.node.index()), |name| format!("%{name}")),
    }
}

fn buffer_detail(plan: &Plan, reference: BufferReference) -> String {
    let symbols = &plan.symbols;
    match reference {
        BufferReference::Input(index) => plan.inputs.get(index).map(|input| input.describe(symbols)),
        BufferReference::Output(index) => plan.outputs.get(index).map(|output| output.describe(symbols)),
        BufferReference::Parameter(index) => {
            plan.parameters.get(index).map(|parameter| format!("{} {:?}", parameter.element, parameter.shape))
        }
        BufferReference::Cache(_) => Some("KV cache".to_owned()),
        BufferReference::Slot(index) => {
            plan.slots.get(index).map(|slot| format!("{} bytes", slot.bytes.display(symbols)))
        }
        BufferReference::Constant(index) => plan.constants.get(index).map(|constant| size(constant.bytes)),
    }
    .unwrap_or_default()
}

/// Text as HTML.
pub fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

const STYLE: &str = "
:root { color-scheme: light dark; --line: #8884; --soft: #8882; --accent: #2563eb; }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 70rem; margin: 2rem auto; padding: 0 1rem; }
h1 { margin-bottom: 0; } h2 { margin-top: 2.5rem; border-bottom: 1px solid var(--line); }
.subtitle { opacity: .7; margin-top: 0; }
table { border-collapse: collapse; } td, th { padding: .15rem .8rem .15rem 0; vertical-align: top; text-align: left; }
td { white-space: pre-wrap; font-family: ui-monospace, monospace; font-size: 13px; }
details.card { border: 1px solid var(--line); border-radius: 6px; margin: .5rem 0; padding: .4rem .8rem; }
details.card:target { outline: 2px solid var(--accent); }
summary { cursor: pointer; } summary b { font-family: ui-monospace, monospace; }
summary .detail { opacity: .7; font-size: 13px; margin-left: .6rem; }
pre { background: var(--soft); padding: .6rem; border-radius: 4px; overflow-x: auto; font-size: 13px; }
input { font: inherit; width: 100%; padding: .4rem .6rem; box-sizing: border-box; margin: 1rem 0 0; }
details.graph, details.card { overflow-x: auto; } details.graph { margin: 1rem 0; }
svg.picture { display: block; margin: .5rem auto; max-width: none; }
svg.picture path { fill: none; stroke: #888; stroke-width: 1.3; } svg.picture path.head { fill: #888; stroke: none; }
svg.picture rect { fill: #8881; stroke: #888; } svg.picture a:hover rect { stroke: var(--accent); stroke-width: 2; }
svg.picture text { font: 11px ui-monospace, monospace; text-anchor: middle; fill: currentColor; opacity: .75; }
svg.picture text.title { font-weight: 600; font-size: 12.5px; opacity: 1; }
a { color: var(--accent); text-decoration: none; } .number { opacity: .5; margin-right: .5rem; }
";

const SCRIPT: &str = "
const filter = document.getElementById('filter');
filter.addEventListener('input', () => {
  const wanted = filter.value.toLowerCase();
  for (const card of document.querySelectorAll('details.card'))
    card.hidden = !card.textContent.toLowerCase().includes(wanted);
});
const show = () => { const card = document.querySelector(location.hash || 'none'); if (card) card.open = true; };
addEventListener('hashchange', show); show();
";

impl Page {
    /// The page as one HTML file.
    pub fn html(&self) -> String {
        let mut html = String::new();
        let title = escape(&self.title);
        let _ = write!(
            html,
            "<!doctype html>\n<html lang=\"en\">\n<meta charset=\"utf-8\">\n<meta name=\"viewport\" content=\"width=device-width\">\n\
             <title>{title}</title>\n<style>{STYLE}</style>\n<h1>{title}</h1>\n<p class=\"subtitle\">{}</p>\n\
             <input id=\"filter\" type=\"search\" placeholder=\"Show kernels that mention …\" aria-label=\"Filter\">\n",
            escape(&self.subtitle)
        );
        for (index, section) in self.functions.iter().enumerate() {
            let _ = write!(html, "<h2>@{}</h2>\n<table>\n", escape(&section.name));
            for (name, value) in &section.facts {
                let _ = writeln!(html, "<tr><th>{}</th><td>{}</td></tr>", escape(name), escape(value));
            }
            html += "</table>\n";
            let picture = section.picture(index).svg();
            if !picture.is_empty() {
                let _ = writeln!(
                    html,
                    "<details class=\"graph\" open><summary>Graph of kernels</summary>\n{picture}</details>"
                );
            }
            for (number, card) in section.cards.iter().enumerate() {
                card.write(&mut html, index, number);
            }
        }
        let _ = write!(html, "<script>{SCRIPT}</script>\n</html>\n");
        html
    }
}

impl Section {
    /// The kernels and what flows between them. `section` is the number that the links have.
    fn picture(&self, section: usize) -> Picture {
        let mut picture = Picture::default();
        for (number, card) in self.cards.iter().enumerate() {
            let flows = || card.reads.iter().chain(&card.writes);
            picture.arrows.extend(flows().filter_map(|flow| flow.from).map(|from| (from, number)));
            let given: Vec<&str> =
                card.reads.iter().filter(|flow| flow.from.is_none()).map(|flow| &*flow.name).collect();
            let (weights, inputs): (Vec<&str>, Vec<&str>) = given.iter().partition(|name| name.starts_with('@'));
            let mut lines = Vec::new();
            if !inputs.is_empty() {
                lines.push(format!("of {}", inputs.join(", ")));
            }
            match weights.as_slice() {
                [] => {}
                [weight] => lines.push((*weight).to_owned()),
                several => lines.push(format!("{} weights", several.len())),
            }
            // A line for each variant.
            lines.extend(card.detail.split("; ").filter(|variant| !variant.is_empty()).map(str::to_owned));
            // Of an artifact it is known where results lie, and not which launch makes them.
            let made = card.writes.iter().filter(|flow| flow.from.is_none_or(|from| from == number));
            lines.extend(made.map(|flow| format!("→ {}", flow.detail)));
            let title = format!("{number}  {}", card.title);
            picture.boxes.push(Box { title, lines, link: Some(format!("#k{section}-{number}")) });
        }
        picture
    }
}

impl Card {
    fn write(&self, html: &mut String, section: usize, number: usize) {
        let _ = write!(
            html,
            "<details class=\"card\" id=\"k{section}-{number}\"><summary><span class=\"number\">{number}</span><b>{}</b>\
             <span class=\"detail\">{}</span></summary>\n<table>\n",
            escape(&self.title),
            escape(&self.detail)
        );
        for (what, flows) in [("reads", &self.reads), ("writes", &self.writes)] {
            for flow in flows {
                let name = escape(&flow.name);
                let link = match flow.from {
                    Some(from) if from != number => format!("<a href=\"#k{section}-{from}\">{name}</a>"),
                    _ => name,
                };
                let _ = writeln!(html, "<tr><th>{what}</th><td>{link}</td><td>{}</td></tr>", escape(&flow.detail));
            }
        }
        html.push_str("</table>\n");
        html.push_str(&self.operations.svg());
        if !self.code.is_empty() {
            let _ = writeln!(html, "<pre>{}</pre>", escape(&self.code));
        }
        html.push_str("</details>\n");
    }
}
