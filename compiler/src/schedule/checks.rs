//! Which inputs of a function hold indices, and of what: the checks of its plan.
//!
//! An index that comes straight from an input, or through ops that only pick and reorder elements, is checked before anything runs. What is
//! computed is not: kernels bound what they gather by it.

use std::collections::HashMap;

use tessera_ir::{Graph, NodeKind, Storage, ValueId, ops};
use tessera_runtime::plan::{Check, Extent};

use super::symbols::Symbols;

/// Where a value's elements come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// An input of the plan.
    Input(usize),
    /// A cache; the symbol that counts its pages.
    Cache(usize),
}

/// The checks of a graph whose inputs are these; each holds for all its ops.
pub fn checks(graph: &Graph, symbols: &Symbols, inputs: &[Option<Source>]) -> Vec<Check> {
    let mut found = Vec::new();
    collect(graph, symbols, inputs, &mut found);
    found
}

/// Collects the checks of a graph. Returns where its outputs come from.
fn collect(graph: &Graph, symbols: &Symbols, inputs: &[Option<Source>], found: &mut Vec<Check>) -> Vec<Option<Source>> {
    // Of the values of operations whose elements are some of an input's, or that are states of a cache.
    let mut known: HashMap<ValueId, Source> = HashMap::new();
    let source = |value: ValueId, known: &HashMap<ValueId, Source>| match graph.node(value.node).kind() {
        NodeKind::Input(input) => inputs.get(*input).copied().flatten(),
        NodeKind::Operation(_) => known.get(&value).copied(),
        NodeKind::Parameter(_) => None,
    };
    for (node, operation) in graph.operations() {
        let operands = graph.operands(node);
        let sources: Vec<Option<Source>> = operands.iter().map(|operand| source(*operand, &known)).collect();
        let results = match operation.op() {
            _ if let Some(region) = operation.region() => collect(region, symbols, &sources, found),
            ops::GATHER | ops::RESHAPE | ops::SLICE | ops::TRANSPOSE | ops::BROADCAST | ops::KV_APPEND => {
                sources.first().copied().into_iter().collect()
            }
            _ => Vec::new(),
        };
        let results =
            results.into_iter().zip(0..).filter_map(|(source, result)| Some((ValueId { node, result }, source?)));
        known.extend(results);
        // The runtime looks at indices of these types only; no model has others.
        let is_read = |operand: usize| {
            let ty = operands.get(operand).and_then(|operand| graph.value_type(*operand).as_tensor());
            ty.is_some_and(|ty| matches!(ty.storage(), Storage::I32 | Storage::I64))
        };
        let extent = |operand: usize, axis: usize| {
            let ty = operands.get(operand).and_then(|operand| graph.value_type(*operand).as_tensor());
            ty.and_then(|ty| ty.shape.get(axis)).map(|dim| symbols.extent(dim))
        };
        let window = match operation.op() {
            ops::EMBEDDING | ops::GATHER => {
                let axis = operation.downcast().map_or(0, |ops::Gather { axis }| axis);
                if let (Some(Source::Input(input)), Some(limit)) = (sources[1], extent(0, axis))
                    && is_read(1)
                {
                    add(Check::Indices { input, limit }, found);
                }
                continue;
            }
            ops::TAKE | ops::GROUPED_MATMUL => {
                let (indices, axis) = if operation.is(ops::TAKE) { (1, None) } else { (2, Some(0)) };
                let table = if operation.is(ops::TAKE) { 0 } else { 1 };
                let rank = graph.value_type(operands[table]).as_tensor().map_or(0, |ty| ty.rank());
                let axis = axis.unwrap_or(rank.saturating_sub(1));
                if let (Some(Source::Input(input)), Some(limit)) = (sources[indices], extent(table, axis))
                    && is_read(indices)
                {
                    add(Check::Indices { input, limit }, found);
                }
                continue;
            }
            // A token is written to one page, and looks at those before it too.
            ops::KV_APPEND => Some(1),
            ops::PAGED_ATTENTION => operation.downcast().and_then(|ops::PagedAttention { window, .. }| window),
            _ => continue,
        };
        let (cache, first) = if operation.is(ops::KV_APPEND) { (0, 3) } else { (1, 2) };
        let page_size = graph.value_type(operands[cache]).as_cache().map(|ty| ty.page_size);
        if let [Some(Source::Input(positions)), Some(Source::Input(sequences)), Some(Source::Input(table))] =
            sources[first..first + 3]
            && let (Some(Source::Cache(pages)), Some(page_size)) = (sources[cache], page_size)
            && (first..first + 3).all(is_read)
        {
            let pages = Extent::symbol(pages);
            add(Check::Pages { positions, sequences, table, page_size, window, pages }, found);
        }
    }
    graph.outputs().iter().map(|output| source(*output, &known)).collect()
}

/// Adds a check. Of two that differ in nothing but the window the wider one stays.
fn add(check: Check, found: &mut Vec<Check>) {
    if found.contains(&check) {
        return;
    }
    if let Check::Pages { window: wanted, .. } = &check {
        for known in found.iter_mut() {
            let mut widened = check.clone();
            if let (Check::Pages { window: here, .. }, Check::Pages { window, .. }) = (&*known, &mut widened) {
                let widest = here.zip(*wanted).map(|(one, other)| one.max(other));
                *window = *here;
                if widened == *known {
                    if let Check::Pages { window, .. } = known {
                        *window = widest;
                    }
                    return;
                }
            }
        }
    }
    found.push(check);
}

#[cfg(test)]
mod tests {
    use super::super::lower::symbols_of;
    use super::*;
    use tessera_ir::parse_module;

    fn checks_of(text: &str) -> Vec<Check> {
        let module = parse_module(text).unwrap();
        let function = &module.functions[0];
        let symbols = symbols_of(function);
        let sources: Vec<_> = (0..function.graph.inputs().len())
            .map(|input| match function.inputs().nth(input).unwrap() {
                ("cache", _) => Some(Source::Cache(symbols.position("pages of cache").unwrap_or(0))),
                _ => Some(Source::Input(input)),
            })
            .collect();
        checks(&function.graph, &symbols, &sources)
    }

    #[test]
    fn what_picks_rows_is_bounded_by_them() {
        let checks = checks_of(
            "module @m {
               param @table : tensor<9x4xf32>
               func @f(%ids: tensor<Txi32>, %rows: tensor<Rxi32>, %scores: tensor<Txi32>) -> (tensor<Rx4xf32>, tensor<Txi32>) {
                 %some = gather(%ids, %rows) : tensor<Rxi32>
                 %x = embedding(@table, %some) : tensor<Rx4xf32>
                 %sum = add(%scores, %scores) : tensor<Txi32>
                 return %x, %sum
               }
             }",
        );
        let limit = Extent::from(9);
        assert_eq!(checks.len(), 2);
        assert!(matches!(&checks[0], Check::Indices { input: 1, limit: Extent::Symbol(_) }), "{checks:?}");
        assert_eq!(checks[1], Check::Indices { input: 0, limit });
    }

    /// As many paths lead to the last value of a deep model as two to the power of its layers.
    #[test]
    fn values_that_are_used_twice_are_followed_once() {
        let layers: String = (0..64)
            .map(|layer| {
                format!(
                    "%x{} = fusion(%a = %x{layer}, %b = %x{layer}) {{label = \"add\"}} : tensor<Txf32> {{
                       %sum = add(%a, %b) : tensor<Txf32>
                       return %sum
                     }}\n",
                    layer + 1
                )
            })
            .collect();
        let text = format!("module @m {{ func @f(%x0: tensor<Txf32>) -> (tensor<Txf32>) {{\n{layers}return %x64 }} }}");
        assert_eq!(checks_of(&text), []);
    }

    #[test]
    fn pages_are_bounded_for_the_widest_window() {
        let text = |windows: [&str; 2]| {
            let attention = |layer: usize| {
                let window = windows[layer];
                format!(
                    "%a{layer} = paged_attention(%q, %new, %positions, %sequences, %page_table) \
                     {{layer = {layer}, scale = 1.0{window}}} : tensor<Tx1x4xf32>\n"
                )
            };
            format!(
                "module @m {{
                   func @f(%q: tensor<Tx1x4xf32>, %positions: tensor<Txi32>, %sequences: tensor<Txi32>, %page_table: tensor<BxPxi32>, \
                           %cache: kv_cache<layers=2, heads=1, dim=4, page=8, f32>) -> (tensor<Tx1x4xf32>, tensor<Tx1x4xf32>) {{
                     %new = kv_append(%cache, %q, %q, %positions, %sequences, %page_table) {{layer = 0}} \
                       : kv_cache<layers=2, heads=1, dim=4, page=8, f32>
                     {}{}return %a0, %a1
                   }}
                 }}",
                attention(0),
                attention(1)
            )
        };
        for (windows, widest) in
            [(["", ""], None), (["", ", window = 5"], None), ([", window = 5", ", window = 3"], Some(5))]
        {
            let checks = checks_of(&text(windows));
            let [Check::Pages { positions: 1, sequences: 2, table: 3, page_size: 8, window, .. }] = checks[..] else {
                panic!("{checks:?}")
            };
            assert_eq!(window, widest);
        }
    }
}
