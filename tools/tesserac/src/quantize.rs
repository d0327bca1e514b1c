//! `tesserac quantize`.

use std::collections::BTreeMap;
use std::fmt::Write;

use miette::{IntoDiagnostic, Result, WrapErr};
use tessera_models::quantize::{Quantized, Target, quantize};
use tessera_terminal::{Progress, output};

use crate::arguments::Quantize;

pub fn run(arguments: &Quantize, progress: &Progress) -> Result<()> {
    let target = Target { experts: arguments.experts, matrices: arguments.matrices };
    let report = progress
        .during("quantizing", || quantize(&arguments.model, &arguments.output, target))
        .into_diagnostic()
        .wrap_err_with(|| format!("cannot quantize {}", arguments.model.display()))?;
    output::write(table(&report, arguments.each).as_bytes())
}

/// Sums over tensors of one kind.
#[derive(Default)]
struct Kind {
    from: String,
    to: String,
    tensors: u64,
    elements: u64,
    squares: f64,
    squared_error: f64,
    largest: f64,
}

impl Kind {
    fn add(&mut self, tensor: &Quantized) {
        let elements = tensor.elements as f64;
        (self.from, self.to) = (tensor.from.to_string(), tensor.to.to_string());
        self.tensors += 1;
        self.elements += tensor.elements;
        self.squares += tensor.magnitude * tensor.magnitude * elements;
        self.squared_error += tensor.error * tensor.error * elements;
        self.largest = self.largest.max(tensor.largest_error);
    }

    fn line(&self, name: &str) -> String {
        let root = |sum: f64| (sum / self.elements.max(1) as f64).sqrt();
        let (magnitude, error) = (root(self.squares), root(self.squared_error));
        let relative = if magnitude > 0.0 { 100.0 * error / magnitude } else { 0.0 };
        format!(
            "{name:<56} {:>7} {:>13} {:>9} → {:<9} {magnitude:>10.3e} {error:>10.3e} {relative:>7.3} % {:>10.3e}",
            self.tensors, self.elements, self.from, self.to, self.largest
        )
    }
}

/// A line for each tensor, or for the tensors of all layers that have one name but for the layer's number; and the total.
fn table(report: &[Quantized], each: bool) -> String {
    let mut kinds: BTreeMap<String, Kind> = BTreeMap::new();
    let mut total = Kind::default();
    for tensor in report {
        let name = if each { tensor.name.clone() } else { without_numbers(&tensor.name) };
        kinds.entry(name).or_default().add(tensor);
        total.add(tensor);
    }
    if kinds.len() > 1 {
        total.to = if kinds.values().all(|kind| kind.to == total.to) { total.to } else { "several".to_owned() };
    }
    let mut text = format!(
        "{:<56} {:>7} {:>13} {:>9}   {:<9} {:>10} {:>10} {:>9} {:>10}\n",
        "tensors", "number", "elements", "from", "to", "rms", "rms error", "relative", "largest"
    );
    for (name, kind) in &kinds {
        // Writing to a string does not fail.
        let _ = writeln!(text, "{}", kind.line(name));
    }
    let _ = writeln!(text, "{}", total.line("total"));
    text
}

/// A name with `*` in place of its parts that are numbers.
fn without_numbers(name: &str) -> String {
    let is_number = |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
    name.split('.').map(|part| if is_number(part) { "*" } else { part }).collect::<Vec<_>>().join(".")
}
