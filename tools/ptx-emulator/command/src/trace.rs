//! The instructions that a warp runs.

use std::fmt::Write;

use miette::{IntoDiagnostic, Result, miette};
use ptx_emulator::machine::fault::Fault;
use ptx_emulator::machine::grid::Summary;
use ptx_emulator::machine::kernel::{Destination, Register};
use ptx_emulator::machine::observer::{Access, Moment, Observer};
use ptx_emulator::machine::row::LANES;
use ptx_emulator::machine::warp::WarpState;

use crate::arguments;
use crate::launch::Launch;

/// How a launch ended, and the trace.
type Traced = (Result<Summary, Box<Fault>>, String);

/// Runs a launch, and writes down what a warp does.
pub fn trace(launch: &Launch, arguments: &arguments::Trace) -> Result<Traced> {
    let grid = launch.grid();
    let warps = grid.threads().div_ceil(LANES as u32);
    if arguments.warp >= warps {
        return Err(miette!("a CTA of {} threads has warps 0 to {}", grid.threads(), warps.saturating_sub(1)));
    }
    if (0..3).any(|axis| arguments.cta.0[axis] >= grid.extent[axis]) {
        return Err(miette!("the grid has {:?} CTAs, and there is none at {:?}", grid.extent, arguments.cta.0));
    }
    // One host thread, so that one observer sees all of the warp.
    let one = rayon::ThreadPoolBuilder::new().num_threads(1).build().into_diagnostic()?;
    let new =
        || Trace { cta: arguments.cta.0, warp: arguments.warp, left: arguments.limit, more: 0, text: String::new() };
    let (outcome, traces) = one.install(|| grid.run_observed(new));
    let mut text = String::new();
    for trace in traces {
        text.push_str(&trace.text);
        if trace.more > 0 {
            let _ = writeln!(text, "and {} more instructions", trace.more);
        }
    }
    Ok((outcome, text))
}

struct Trace {
    cta: [u32; 3],
    warp: u32,
    left: usize,
    more: u64,
    text: String,
}

impl Observer for Trace {
    fn executed(&mut self, moment: &Moment<'_>) {
        let waits = !moment.is_done() && moment.step != ptx_emulator::machine::instruction::Step::Fault;
        if moment.cta != self.cta || moment.warp.number != self.warp || waits {
            return;
        }
        if self.left == 0 {
            self.more += 1;
            return;
        }
        self.left -= 1;
        let place = moment.instruction.place as usize;
        let source = &moment.kernel.places[place];
        let _ = writeln!(self.text, "{:6}  {:08x}  {}", source.line, moment.mask, source.text);
        if moment.is_done() && moment.mask != 0 {
            for destination in &moment.kernel.destinations[place] {
                let values = values(destination, &source.text, moment.warp, moment.mask);
                let _ = writeln!(self.text, "{:18}{} = {}", "", destination.name, shortened(&values));
            }
        }
    }

    fn accessed(&mut self, _: &Access) {}
}

/// How bits are shown: as the first of an instruction's types says, which is its destination's.
fn shown(text: &str, bytes: u32, bits: u64) -> String {
    let mnemonic = text.split_whitespace().find(|word| !word.starts_with('@')).unwrap_or_default();
    let numbered = |word: &&str| {
        word.starts_with(['u', 's', 'f', 'b']) && word[1..].parse::<u32>().is_ok_and(|bits| bits.is_power_of_two())
    };
    let kind = mnemonic.trim_end_matches(';').split('.').skip(1).find(numbered).unwrap_or("b32");
    match (kind.as_bytes()[0], bytes) {
        (b'f', 8) => format!("{:?}", f64::from_bits(bits)),
        (b'f', 4) if kind == "f32" => format!("{:?}", f32::from_bits(bits as u32)),
        // An address, most likely.
        (b'u' | b's', 8) if (1 << 40..u64::MAX >> 1).contains(&bits) => format!("0x{bits:x}"),
        (b'u', _) => bits.to_string(),
        (b's', 8) => (bits as i64).to_string(),
        (b's', 2) => (bits as i16).to_string(),
        (b's', _) => (bits as i32).to_string(),
        _ => format!("0x{bits:x}"),
    }
}

/// A register's values in all lanes; nothing in those that did not write it.
fn values(destination: &Destination, text: &str, warp: &WarpState, mask: u32) -> Vec<Option<String>> {
    let lane = |lane: usize| match destination.register {
        Register::Predicate(number) => (warp.predicates[number as usize] >> lane & 1).to_string(),
        Register::Rows { row, bytes } => {
            let at = |row: u32, index: usize| u64::from(warp.registers[row as usize].0[index]);
            // A wide register's 64-bit lanes lie in two rows one after the other.
            let wide = |row: u32| {
                let (row, index) = (row + (lane as u32 / 16), 2 * (lane % 16));
                at(row, index) | at(row, index + 1) << 32
            };
            match bytes {
                16 => format!("0x{:x}", u128::from(wide(row)) | u128::from(wide(row + 2)) << 64),
                8 => shown(text, bytes, wide(row)),
                4 => shown(text, bytes, at(row, lane)),
                _ => shown(text, bytes, at(row, lane) & ((1 << (8 * bytes)) - 1)),
            }
        }
    };
    (0..LANES).map(|number| (mask >> number & 1 != 0).then(|| lane(number))).collect()
}

/// The step of whole numbers that all differ by the same.
fn step(values: &[&str]) -> Option<i128> {
    let number = |text: &&str| match text.strip_prefix("0x") {
        Some(digits) => i128::from_str_radix(digits, 16).ok(),
        None => text.parse().ok(),
    };
    let numbers: Vec<i128> = values.iter().map(number).collect::<Option<_>>()?;
    let step = numbers.get(1)?.checked_sub(numbers[0])?;
    numbers.windows(2).all(|pair| pair[1].checked_sub(pair[0]) == Some(step)).then_some(step)
}

/// One value where all lanes have the same, the ends of a sequence, else runs of equal ones with how many there are.
fn shortened(values: &[Option<String>]) -> String {
    let written: Vec<&str> = values.iter().flatten().map(String::as_str).collect();
    if let [first, rest @ ..] = written.as_slice()
        && rest.iter().all(|value| value == first)
    {
        return (*first).into();
    }
    if let [first, second, .., last] = written.as_slice()
        && written.len() == LANES
        && step(&written).is_some()
    {
        return format!("{first} {second} … {last}");
    }
    let mut parts: Vec<(&str, usize)> = vec![];
    for value in values {
        let value = value.as_deref().unwrap_or("-");
        match parts.last_mut() {
            Some((last, count)) if *last == value => *count += 1,
            _ => parts.push((value, 1)),
        }
    }
    let part = |(value, count): &(&str, usize)| if *count > 1 { format!("{value}×{count}") } else { (*value).into() };
    parts.iter().map(part).collect::<Vec<String>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_shown_as_their_type_says() {
        assert_eq!(shown("add.s32 %r1, %r2, %r3;", 4, 0xffff_ffff), "-1");
        assert_eq!(shown("@%p1 cvt.rn.f32.s32 %f1, %r1;", 4, 0x3f80_0000), "1.0");
        assert_eq!(shown("and.b32 %r1, %r1, %r2;", 4, 255), "0xff");
        assert_eq!(shown("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {", 4, 0), "0.0");
        let some = |values: &[&str]| values.iter().map(|value| Some((*value).into())).collect::<Vec<_>>();
        assert_eq!(shortened(&some(&["7", "7"])), "7");
        let lanes: Vec<String> = (0..32).map(|lane| (4 * lane + 1).to_string()).collect();
        assert_eq!(shortened(&some(&lanes.iter().map(String::as_str).collect::<Vec<_>>())), "1 5 … 125");
        assert_eq!(shortened(&[some(&["1", "2", "2"]), vec![None]].concat()), "1 2×2 -");
    }
}
