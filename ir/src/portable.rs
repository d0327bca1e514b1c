//! The serde form of graphs: a list of nodes in topological order that refer to each other by
//! position. Reading one checks every operation, so that no malformed graph can come of it.

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::collections::HashMap;

use crate::attribute::Attribute;
use crate::graph::{Graph, NodeId, NodeKind, ValueId};
use crate::name::Name;
use crate::operation::Operation;
use crate::ops;
use crate::types::Type;

/// Position of the defining node in the list, and result index.
type Reference = (usize, u32);

#[derive(Serialize, Deserialize)]
struct GraphForm {
    nodes: Vec<NodeForm>,
    outputs: Vec<Reference>,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
enum NodeForm {
    Input {
        name: Name,
        r#type: Type,
    },
    Parameter {
        name: Name,
        r#type: Type,
    },
    Operation {
        op: String,
        operands: Vec<Reference>,
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        attributes: Vec<(String, Attribute)>,
        results: Vec<ResultForm>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        region: Option<Graph>,
    },
}

#[derive(Serialize, Deserialize)]
struct ResultForm {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    name: Option<Name>,
    r#type: Type,
}

impl Serialize for Graph {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let order = self.topological_order();
        let positions: HashMap<NodeId, usize> =
            order.iter().enumerate().map(|(position, id)| (*id, position)).collect();
        let references = |values: &[ValueId]| {
            let reference = |value: &ValueId| {
                let position = positions.get(&value.node).copied();
                position.map(|position| (position, value.result))
            };
            values
                .iter()
                .map(reference)
                .collect::<Option<Vec<Reference>>>()
                .ok_or_else(|| serde::ser::Error::custom("the graph has a cycle"))
        };
        let mut nodes = Vec::with_capacity(order.len());
        for id in &order {
            let node = self.node(*id);
            let result =
                |(index, ty): (usize, &Type)| ResultForm { name: node.name(index).cloned(), r#type: ty.clone() };
            let first_type = || node.results().first().cloned();
            nodes.push(match (node.kind(), first_type()) {
                (NodeKind::Input(_), Some(ty)) => {
                    NodeForm::Input { name: node.name(0).cloned().unwrap_or_default(), r#type: ty }
                }
                (NodeKind::Parameter(name), Some(ty)) => NodeForm::Parameter { name: name.clone(), r#type: ty },
                (NodeKind::Operation(operation), _) => NodeForm::Operation {
                    op: operation.op().name().to_owned(),
                    operands: references(&self.operands(*id))?,
                    attributes: operation
                        .written_attributes()
                        .map(|(name, attribute)| (name.to_owned(), attribute.clone()))
                        .collect(),
                    results: node.results().iter().enumerate().map(result).collect(),
                    region: operation.region().cloned(),
                },
                _ => return Err(serde::ser::Error::custom("a node has no result")),
            });
        }
        GraphForm { nodes, outputs: references(self.outputs())? }.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Graph {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let form = GraphForm::deserialize(deserializer)?;
        let mut graph = Graph::new();
        let mut ids: Vec<NodeId> = Vec::with_capacity(form.nodes.len());
        for node in form.nodes {
            let id = match node {
                NodeForm::Input { name, r#type } => graph.input(name, r#type).node,
                NodeForm::Parameter { name, r#type } => graph.parameter(name, r#type).node,
                NodeForm::Operation { op, operands, attributes, results, region } => {
                    let definition =
                        ops::find(&op).ok_or_else(|| serde::de::Error::custom(format!("unknown op `{op}`")))?;
                    let mut operation =
                        Operation::from_named_attributes(definition, attributes).map_err(serde::de::Error::custom)?;
                    if let Some(region) = region {
                        operation = operation.with_region(region);
                    }
                    let operands = values::<D>(&graph, &ids, &operands)?;
                    let types: Vec<Type> = results.iter().map(|result| result.r#type.clone()).collect();
                    let id = graph.add(operation, &operands, &types).map_err(serde::de::Error::custom)?;
                    for (index, result) in results.into_iter().enumerate() {
                        if let Some(name) = result.name {
                            graph.set_name(ValueId { node: id, result: index as u32 }, name);
                        }
                    }
                    id
                }
            };
            ids.push(id);
        }
        let outputs = values::<D>(&graph, &ids, &form.outputs)?;
        graph.set_outputs(outputs);
        Ok(graph)
    }
}

fn values<'de, D: Deserializer<'de>>(
    graph: &Graph,
    ids: &[NodeId],
    references: &[Reference],
) -> Result<Vec<ValueId>, D::Error> {
    let value = |(position, result): &Reference| {
        let node = *ids.get(*position)?;
        let exists = (*result as usize) < graph.node(node).results().len();
        exists.then_some(ValueId { node, result: *result })
    };
    references
        .iter()
        .map(value)
        .collect::<Option<Vec<ValueId>>>()
        .ok_or_else(|| serde::de::Error::custom("a value is used before its definition"))
}
