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
    /// The name and its modifiers: `add[.sat].s32|u32`. One in brackets may be missing; `|` separates alternatives, of which one that
    /// ends with `*` stands for all that start so. [`SETS`] names alternatives that many forms share. The order is the ISA's; as for
    /// ptxas, modifiers may stand in another, see [`Prepared::matches`].
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

impl Segment {
    fn takes(&self, modifier: &str) -> bool {
        self.alternatives.iter().any(|alternative| alternative_is(alternative, modifier))
    }

    /// Whether it is a word of the instruction's name, as the title of its section in the ISA has it.
    fn is_word(&self, section: &str) -> bool {
        let mut words = section.split(['.', ',', ' ']);
        let movable = |word: &str| is_space(word) || word == "sync";
        !self.optional && words.any(|word| self.takes(word) && !movable(word))
    }
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
    /// How many places at the start are words of the name.
    words: usize,
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
        let words = segments.iter().take_while(|segment: &&Segment| segment.is_word(form.section)).count();
        Prepared { form, name, undefined, segments, words }
    }

    /// Whether instructions of its family make their results from registers alone, and do nothing else.
    pub fn only_reads(&self) -> bool {
        matches!(self.undefined, Undefined::Spreads | Undefined::Combines)
    }

    /// The modifier that stands at each place of the pattern, or nothing where one is missing; `None` if the pattern is another.
    ///
    /// In any order, two modifiers are in the pattern's if both are types, or spaces, or if one could stand at the other's place: a
    /// conversion's two types, a product's `.row.col`. So are the words that make up the name, as `arrive` in `mbarrier.arrive`.
    pub fn matches<'m>(&self, modifiers: &[&'m str], order: Order) -> Option<Vec<&'m str>> {
        let mut chosen = Vec::with_capacity(self.segments.len());
        if !self.walk(modifiers, order, &mut chosen) {
            return None;
        }
        Some(chosen.into_iter().map(|at| at.map_or("", |at: usize| modifiers[at])).collect())
    }

    /// Chooses a modifier's number for each further place.
    fn walk(&self, modifiers: &[&str], order: Order, chosen: &mut Vec<Option<usize>>) -> bool {
        let place = chosen.len();
        let Some(segment) = self.segments.get(place) else { return chosen.iter().flatten().count() == modifiers.len() };
        let last = chosen.iter().flatten().max().map_or(0, |last| last + 1);
        for at in 0..modifiers.len() {
            let follows = match order {
                Order::Pattern => at == last,
                Order::Any if place < self.words => at == place,
                Order::Any => {
                    !chosen.contains(&Some(at))
                        && (0..place).all(|other| {
                            chosen[other]
                                .is_none_or(|before| before < at || self.swaps(modifiers, (other, before), (place, at)))
                        })
                }
            };
            if follows && segment.takes(modifiers[at]) {
                chosen.push(Some(at));
                if self.walk(modifiers, order, chosen) {
                    return true;
                }
                chosen.pop();
            }
        }
        if segment.optional {
            chosen.push(None);
            if self.walk(modifiers, order, chosen) {
                return true;
            }
            chosen.pop();
        }
        false
    }

    /// Whether two modifiers, each given by its place in the pattern and its number, may stand in another order than the pattern's.
    fn swaps(&self, modifiers: &[&str], first: (usize, usize), second: (usize, usize)) -> bool {
        let (one, other) = (modifiers[first.1], modifiers[second.1]);
        let (spaces, types) = (is_space(one) && is_space(other), is_type(one) && is_type(other));
        !(spaces || types || self.segments[first.0].takes(other) || self.segments[second.0].takes(one))
    }
}

/// In which order modifiers are looked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// That of the pattern.
    Pattern,
    /// Any that says the same.
    Any,
}

/// Finds the form of an instruction: one whose pattern has this order, or else any.
pub fn find<'m>(forms: &'static [Prepared], modifiers: &[&'m str]) -> Option<(&'static Prepared, Vec<&'m str>)> {
    let with = |order| forms.iter().find_map(|form| Some((form, form.matches(modifiers, order)?)));
    with(Order::Pattern).or_else(|| with(Order::Any))
}

/// Whether a modifier is a state space.
fn is_space(modifier: &str) -> bool {
    let name = modifier.split("::").next().unwrap_or_default();
    ["global", "shared", "local", "param", "const"].contains(&name)
}

/// Whether a modifier is a type: a letter or two and the bits, or the bits of a format's exponent and fraction.
fn is_type(modifier: &str) -> bool {
    let digits = modifier.trim_start_matches(|letter: char| letter.is_ascii_lowercase());
    let letters = &modifier[..modifier.len() - digits.len()];
    // `.f4e` and `.b4e` are modes of `prmt`.
    ["u", "s", "b", "f", "bf", "tf", "e", "ue"].contains(&letters)
        && digits.starts_with(|digit: char| digit.is_ascii_digit())
        && !digits.ends_with('e')
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
        let Some((prepared, chosen)) = forms.and_then(|forms| find(forms, &modifiers)) else { continue };
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
        named("", pattern)
    }

    fn named(section: &'static str, pattern: &'static str) -> Prepared {
        fn build(_: &mut Builder<'_, '_>) -> Result<Execute, Problem> {
            Err(Problem::new(0..0, "not built"))
        }
        Prepared::new(Box::leak(Box::new(Form { pattern, section, build })), Undefined::Spreads)
    }

    #[test]
    fn patterns_match_in_order() {
        let add = prepare("add[.ROUNDING][.ftz][.sat].f32");
        assert_eq!(add.name, "add");
        for order in [Order::Pattern, Order::Any] {
            assert_eq!(add.matches(&["f32"], order), Some(vec!["", "", "", "f32"]));
            assert_eq!(add.matches(&["rz", "sat", "f32"], order), Some(vec!["rz", "", "sat", "f32"]));
            assert_eq!(add.matches(&["f64"], order), None);
            assert_eq!(add.matches(&["rz", "rz", "f32"], order), None);
            assert_eq!(prepare("ret[.uni]").matches(&[], order), Some(vec![""]));
            assert_eq!(prepare("ret[.uni]").matches(&["uni", "uni"], order), None);
            assert_eq!(prepare("bar.sync|arrive").matches(&["arrive"], order), Some(vec!["arrive"]));
        }
        assert_eq!(add.matches(&["sat", "rz", "f32"], Order::Pattern), None);
    }

    #[test]
    fn patterns_match_in_other_orders_that_say_the_same() {
        let matches = |pattern, modifiers: &str| {
            let chosen = prepare(pattern).matches(&modifiers.split('.').collect::<Vec<_>>(), Order::Any)?;
            Some(chosen.join("."))
        };
        assert_eq!(matches("add[.ROUNDING][.ftz][.sat].f32", "f32.sat.rz"), Some("rz..sat.f32".into()));
        // What a conversion makes of what, where a copy goes, which of two matrices is transposed.
        assert_eq!(matches("cvt.rn|rz.f16.f32", "f16.rn.f32"), Some("rn.f16.f32".into()));
        assert_eq!(matches("cvt.rn|rz.f16.f32", "rn.f32.f16"), None);
        assert_eq!(
            matches("cp.async.ca|cg.shared.global", "async.shared.global.cg"),
            Some("async.cg.shared.global".into())
        );
        assert_eq!(matches("cp.async.ca|cg.shared.global", "async.global.shared.cg"), None);
        assert_eq!(matches("mma.sync.row|col.row|col.f32", "f32.row.col.sync"), Some("sync.row.col.f32".into()));
        assert_eq!(matches("createpolicy.fractional.L2::a|L2::b[.L2::b].b64", "fractional.L2::b.L2::a.b64"), None);
        // The name comes first.
        let arrive = named("9.7.13 mbarrier.arrive", "mbarrier.arrive|arrive_drop[.noComplete].b64");
        assert!(arrive.matches(&["arrive", "b64", "noComplete"], Order::Any).is_some());
        assert!(arrive.matches(&["b64", "arrive"], Order::Any).is_none());
        // A mode of `prmt` is no type.
        assert_eq!(matches("prmt.b32[.f4e|b4e]", "f4e.b32"), Some("b32.f4e".into()));
    }
}
