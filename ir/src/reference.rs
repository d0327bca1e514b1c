//! The reference page of the ops, from their declarations.

use std::fmt::Write;

use crate::definition::{Arity, AttributeDefinition, OpDefinition};
use crate::ops;

/// The whole reference page, in Markdown.
pub fn reference_page() -> String {
    let mut page = String::from(
        "# Ops of the graph IR\n\n\
         Every op computes in f32 or wider (integers exactly) and rounds once, to the storage of its result. \
         Nothing is broadcast unasked. Attributes with a default may be left out.\n",
    );
    for family in ops::FAMILIES {
        let _ = write!(page, "\n## {}\n\n{}", family.title, prose(family.doc));
        for definition in family.ops {
            let _ = write!(page, "\n{}", op_reference(definition));
        }
    }
    page
}

/// The part of the reference page about one op, in Markdown.
pub fn op_reference(definition: &OpDefinition) -> String {
    let mut text = format!("### {}\n\n```\n{}\n```\n\n{}", definition.op, signature(definition), prose(definition.doc));
    let mut items = Vec::new();
    for operand in definition.operands {
        let class = match operand.arity {
            Arity::Any => format!("any number, each {}", operand.class),
            Arity::Optional => format!("{}, may be left out", operand.class),
            Arity::One => operand.class.to_string(),
        };
        items.push(format!("- `{}` ({class}): {}", operand.name, operand.doc.trim()));
    }
    for attribute in definition.attributes {
        let default = default_text(attribute).map(|default| format!(", default {default}")).unwrap_or_default();
        let optional = if attribute.optional { ", may be left out" } else { "" };
        let AttributeDefinition { name, kind, doc, .. } = attribute;
        items.push(format!("- `{name}` = {kind}{default}{optional}: {}", doc.trim()));
    }
    if !items.is_empty() {
        let _ = write!(text, "\n{}\n", items.join("\n"));
    }
    if definition.adjoint.is_some() && !definition.operands.is_empty() {
        text.push_str("\nHas a gradient.\n");
    }
    text
}

/// How an operation of the op is written.
fn signature(definition: &OpDefinition) -> String {
    let operands: Vec<String> = definition
        .operands
        .iter()
        .map(|operand| match (operand.arity, definition.has_region) {
            (Arity::Any, true) => format!("%inside = %{}, …", operand.name),
            (Arity::Any, false) => format!("%{}, …", operand.name),
            (Arity::Optional, _) => format!("%{}?", operand.name),
            (Arity::One, _) => format!("%{}", operand.name),
        })
        .collect();
    let mut text = format!("%result = {}({})", definition.op, operands.join(", "));
    if !definition.attributes.is_empty() {
        let attribute = |attribute: &AttributeDefinition| {
            let mark = if attribute.is_required() { "" } else { "?" };
            format!("{}{mark} = …", attribute.name)
        };
        let attributes: Vec<String> = definition.attributes.iter().map(attribute).collect();
        let _ = write!(text, " {{{}}}", attributes.join(", "));
    }
    if definition.result_written {
        text.push_str(" : type");
    }
    if definition.has_region {
        text.push_str(" { … return … }");
    }
    text
}

fn default_text(attribute: &AttributeDefinition) -> Option<String> {
    let default = attribute.default?;
    default().map(|default| format!("`{default}`"))
}

/// Documentation text as paragraphs: without the space that comment markers leave before each line.
fn prose(doc: &str) -> String {
    let lines: Vec<&str> = doc.trim().lines().map(|line| line.strip_prefix(' ').unwrap_or(line)).collect();
    format!("{}\n", lines.join("\n"))
}
