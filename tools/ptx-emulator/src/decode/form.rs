//! How instructions are declared.
//!
//! A [`Form`] says how an instruction is written, where the PTX ISA describes it, and what it does. The decoder and the table of
//! what the emulator knows are both made from the forms.

use std::collections::{HashMap, HashSet};
use std::sync::OnceLock;

use super::builder::Builder;
use crate::diagnostic::Problem;
use crate::machine::instruction::{Execute, Undefined};

/// A way to write an instruction.
pub struct Form {
    /// The name and its modifiers: `add[.sat].s32|u32`. Modifiers stand in this order; one in brackets may be missing; `|` separates
    /// alternatives, of which one that ends with `*` stands for all that start so. [`SETS`] names alternatives that many forms share.
    pub pattern: &'static str,
    /// The section of the PTX ISA, version 9.1.
    pub section: &'static str,
    /// Reads the operands, and picks what runs.
    pub build: fn(&mut Builder<'_, '_>) -> Result<Execute, Problem>,
}

/// Alternatives by name.
pub const SETS: [(&str, &str); 12] = [
    ("BITS", "b16|b32|b64"),
    ("INTEGER", "u16|s16|u32|s32|u64|s64"),
    ("MEMORY", "b8|u8|s8|b16|u16|s16|b32|u32|s32|f32|b64|u64|s64|f64|b128"),
    ("NUMBER", "u8|s8|u16|s16|u32|s32|u64|s64|f16|bf16|f32|f64"),
    ("ROUNDING", "rn|rz|rm|rp"),
    ("SCOPE", "cta|cluster|gpu|sys"),
    ("SPACE", "global|shared|shared::cta|shared::cluster|local|param|param::entry|param::func|const"),
    ("WORD", "u32|s32"),
    (
        "BUFFER",
        "collector::b0::fill|collector::b0::use|collector::b0::lastuse|collector::b0::discard|collector::b1::fill|collector::b1::use|collector::b1::lastuse|collector::b1::discard|collector::b2::fill|collector::b2::use|collector::b2::lastuse|collector::b2::discard|collector::b3::fill|collector::b3::use|collector::b3::lastuse|collector::b3::discard",
    ),
    ("MULTIMEM", "b32|b64|u32|u64|s32|s64|f16|f16x2|bf16|bf16x2|f32|f64|e5m2|e5m2x2|e5m2x4|e4m3|e4m3x2|e4m3x4"),
    ("COMPARISON", "eq|ne|lt|le|gt|ge|lo|ls|hi|hs"),
    ("FLOAT_COMPARISON", "eq|ne|lt|le|gt|ge|equ|neu|ltu|leu|gtu|geu|num|nan"),
];

/// A modifier's place in a pattern.
#[derive(Debug, PartialEq, Eq)]
struct Segment {
    optional: bool,
    alternatives: Vec<&'static str>,
}

/// A form whose pattern is taken apart.
pub struct Prepared {
    /// The form.
    pub form: &'static Form,
    /// The instruction's name.
    pub name: &'static str,
    /// What it does with values that nothing has written, unless its own builder says something else.
    pub undefined: Undefined,
    segments: Vec<Segment>,
}

impl Prepared {
    fn new(form: &'static Form, undefined: Undefined) -> Prepared {
        let mut rest = form.pattern;
        let end = rest.find(['.', '[']).unwrap_or(rest.len());
        let name = &rest[..end];
        rest = &rest[end..];
        let mut segments = Vec::new();
        while !rest.is_empty() {
            let optional = rest.starts_with('[');
            let start = if optional { 2 } else { 1 };
            let end = if optional { rest.find(']') } else { rest[1..].find(['.', '[']).map(|end| end + 1) };
            let end = end.unwrap_or(rest.len());
            let alternatives = rest[start.min(end)..end].split('|').flat_map(|alternative| {
                let set = SETS.iter().find(|(name, _)| *name == alternative);
                set.map_or(alternative, |(_, alternatives)| alternatives).split('|')
            });
            segments.push(Segment { optional, alternatives: alternatives.collect() });
            rest = &rest[(end + usize::from(optional)).min(rest.len())..];
        }
        Prepared { form, name, undefined, segments }
    }

    /// Whether instructions of its family make their results from registers alone, and do nothing else.
    pub fn only_reads(&self) -> bool {
        matches!(self.undefined, Undefined::Spreads | Undefined::Combines)
    }

    /// The modifier that stands at each place of the pattern, or nothing where one is missing; `None` if the pattern is another.
    pub fn matches<'m>(&self, modifiers: &[&'m str]) -> Option<Vec<&'m str>> {
        let mut chosen = Vec::with_capacity(self.segments.len());
        Prepared::walk(&self.segments, modifiers, &mut chosen).then_some(chosen)
    }

    fn walk<'m>(segments: &[Segment], modifiers: &[&'m str], chosen: &mut Vec<&'m str>) -> bool {
        let Some((segment, rest)) = segments.split_first() else { return modifiers.is_empty() };
        if let Some((first, others)) = modifiers.split_first()
            && segment.alternatives.iter().any(|alternative| alternative_is(alternative, first))
        {
            chosen.push(first);
            if Prepared::walk(rest, others, chosen) {
                return true;
            }
            chosen.pop();
        }
        if segment.optional {
            chosen.push("");
            if Prepared::walk(rest, modifiers, chosen) {
                return true;
            }
            chosen.pop();
        }
        false
    }
}

/// Whether a modifier is one of a pattern's: the same, or what stands for it up to a `*`.
fn alternative_is(alternative: &str, modifier: &str) -> bool {
    alternative.strip_suffix('*').map_or(alternative == modifier, |start| modifier.starts_with(start))
}

/// All forms, by the instruction's name.
pub fn prepared() -> &'static HashMap<&'static str, Vec<Prepared>> {
    static PREPARED: OnceLock<HashMap<&'static str, Vec<Prepared>>> = OnceLock::new();
    PREPARED.get_or_init(|| {
        let mut by_name: HashMap<&'static str, Vec<Prepared>> = HashMap::new();
        for (form, undefined) in crate::instructions::forms() {
            let prepared = Prepared::new(form, undefined);
            by_name.entry(prepared.name).or_default().push(prepared);
        }
        by_name
    })
}

/// What of the forms none of some instructions uses: `form: alternative`. An instruction is as it is written, with its guard and
/// operands. A form's modifiers count each by itself: each alternative of each has to be in some instruction.
pub fn unused<'t>(instructions: impl Iterator<Item = &'t str>) -> Vec<String> {
    let mut used: HashMap<(&str, usize), HashSet<&str>> = HashMap::new();
    for text in instructions {
        let written = text.split_whitespace().find(|word| !word.starts_with('@')).unwrap_or_default();
        let mut parts = written.trim_end_matches(';').split('.');
        let forms = parts.next().and_then(|name| prepared().get(name));
        let modifiers: Vec<&str> = parts.collect();
        let matching = forms.into_iter().flatten().find_map(|prepared| Some((prepared, prepared.matches(&modifiers)?)));
        let Some((prepared, chosen)) = matching else { continue };
        used.entry((prepared.form.pattern, prepared.segments.len())).or_default();
        for (place, (modifier, segment)) in chosen.into_iter().zip(&prepared.segments).enumerate() {
            let alternatives = segment.alternatives.iter().filter(|one| alternative_is(one, modifier));
            used.entry((prepared.form.pattern, place)).or_default().extend(alternatives);
        }
    }
    let mut missing = Vec::new();
    for prepared in prepared().values().flatten() {
        let pattern = prepared.form.pattern;
        if !used.contains_key(&(pattern, prepared.segments.len())) {
            missing.push(format!("{pattern}: all of it"));
            continue;
        }
        for (place, segment) in prepared.segments.iter().enumerate() {
            let used = used.get(&(pattern, place));
            let lacking = segment.alternatives.iter().filter(|one| !used.is_some_and(|used| used.contains(**one)));
            missing.extend(lacking.map(|one| format!("{pattern}: .{one}")));
        }
    }
    missing.sort();
    missing
}

/// What the emulator knows, as a table in Markdown: a row for each section of the PTX ISA, made from the forms.
pub fn coverage() -> String {
    let mut sections: Vec<(Vec<u32>, &str, Vec<&str>)> = Vec::new();
    for (form, _) in crate::instructions::forms() {
        match sections.iter_mut().find(|(_, section, _)| *section == form.section) {
            Some((.., patterns)) => patterns.push(form.pattern),
            None => {
                let number = form.section.split(' ').next().unwrap_or_default();
                let order = number.split('.').filter_map(|part| part.parse().ok()).collect();
                sections.push((order, form.section, vec![form.pattern]));
            }
        }
    }
    sections.sort();
    let mut table = String::from("| PTX ISA | written as |\n|---|---|\n");
    for (_, section, patterns) in sections {
        let patterns: Vec<String> =
            patterns.iter().map(|pattern| format!("`{}`", pattern.replace('|', "\\|"))).collect();
        table.push_str(&format!("| {section} | {} |\n", patterns.join("<br>")));
    }
    table.push_str("\nIn these, a word in capitals stands for several modifiers:\n\n| word | modifiers |\n|---|---|\n");
    for (name, alternatives) in SETS {
        table.push_str(&format!("| {name} | {} |\n", alternatives.replace('|', " ")));
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    fn prepare(pattern: &'static str) -> Prepared {
        fn build(_: &mut Builder<'_, '_>) -> Result<Execute, Problem> {
            Err(Problem::new(0..0, "not built"))
        }
        Prepared::new(Box::leak(Box::new(Form { pattern, section: "", build })), Undefined::Spreads)
    }

    #[test]
    fn patterns_match_in_order() {
        let add = prepare("add[.ROUNDING][.ftz][.sat].f32");
        assert_eq!(add.name, "add");
        assert_eq!(add.matches(&["f32"]), Some(vec!["", "", "", "f32"]));
        assert_eq!(add.matches(&["rz", "sat", "f32"]), Some(vec!["rz", "", "sat", "f32"]));
        assert_eq!(add.matches(&["sat", "rz", "f32"]), None);
        assert_eq!(add.matches(&["f64"]), None);
        assert_eq!(prepare("ret[.uni]").matches(&[]), Some(vec![""]));
        assert_eq!(prepare("ret[.uni]").matches(&["uni", "uni"]), None);
        assert_eq!(prepare("bar.sync|arrive").matches(&["arrive"]), Some(vec!["arrive"]));
    }
}
