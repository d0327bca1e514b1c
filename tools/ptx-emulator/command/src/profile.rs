//! What a kernel does, in counts.

use std::collections::{BTreeMap, HashMap};
use std::fmt::Write;

use miette::{IntoDiagnostic, Result};
use ptx_emulator::machine::fault::Fault;
use ptx_emulator::machine::grid::{Grid, Summary};
use ptx_emulator::machine::kernel::Kernel;
use ptx_emulator::machine::observer::{Access, Direction, Moment, Observer};
use ptx_emulator::memory::access::Space;
use serde::Serialize;

/// The counts of a launch.
#[derive(Debug, Default, Serialize)]
pub struct Profile {
    /// The kernel's name.
    kernel: String,
    /// Instructions of warps, and of threads.
    instructions: Instructions,
    /// By the class that the ISA puts them into.
    classes: BTreeMap<String, Instructions>,
    /// By memory, and whether it is read, written or updated.
    memory: BTreeMap<String, Traffic>,
    /// By line of the module, in its order.
    lines: Vec<Line>,
}

/// Executed instructions.
#[derive(Clone, Copy, Debug, Default, Serialize)]
struct Instructions {
    /// Of warps.
    warps: u64,
    /// Of threads: those of lanes whose guard held.
    threads: u64,
}

/// What passes between threads and a memory.
#[derive(Clone, Copy, Debug, Default, Serialize)]
struct Traffic {
    /// Bytes, of all lanes.
    bytes: u64,
    /// Instructions of warps that access it lane by lane.
    requests: u64,
    /// Of global memory: sectors of 32 bytes that those touch.
    #[serde(skip_serializing_if = "is_zero")]
    sectors: u64,
    /// Of shared memory: passes over the 32 banks that those take.
    #[serde(skip_serializing_if = "is_zero")]
    passes: u64,
    /// Passes beyond what the same bytes take without two words in one bank.
    #[serde(skip_serializing_if = "is_zero")]
    conflicts: u64,
}

fn is_zero(count: &u64) -> bool {
    *count == 0
}

/// A line of the module.
#[derive(Clone, Debug, Serialize)]
struct Line {
    line: u32,
    text: String,
    class: &'static str,
    #[serde(flatten)]
    instructions: Instructions,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    memory: BTreeMap<String, Traffic>,
}

/// Classes by the start of the section of the ISA that describes an instruction.
const CLASSES: [(&str, &str); 13] = [
    ("9.7.1.", "integer"),
    ("9.7.2.", "integer"),
    ("9.7.3.", "floating point"),
    ("9.7.4.", "half precision"),
    ("9.7.5.", "mixed precision"),
    ("9.7.6.", "comparison and selection"),
    ("9.7.7.", "comparison and selection"),
    ("9.7.8.", "logic and shift"),
    ("9.7.12.", "control flow"),
    ("9.7.13.", "synchronization"),
    ("9.7.14.", "matrix, of a warp"),
    ("9.7.15.", "matrix, of a warpgroup"),
    ("9.7.16.", "matrix, in tensor memory"),
];

/// The class of an instruction by its section, `9.7.9.8 ld`.
fn class(section: &str) -> &'static str {
    if let Some((_, class)) = CLASSES.iter().find(|(start, _)| section.starts_with(start)) {
        return class;
    }
    if !section.starts_with("9.7.9.") {
        return "other";
    }
    let name = section.split(' ').nth(1).unwrap_or_default();
    match name.split('.').next().unwrap_or_default() {
        "cp" if name.contains("async") => "asynchronous copy",
        "cvt" | "mov" | "shfl" | "prmt" | "cvta" | "isspacep" | "mapa" | "getctarank" => "movement and conversion",
        _ => "load and store",
    }
}

/// Traffic by memory and what is done to it.
type Memory = HashMap<(Space, Direction), Traffic>;

/// Counts of one host thread, by place in the source.
#[derive(Default)]
struct Counts {
    places: HashMap<u32, (Instructions, Memory)>,
    /// What the running instruction accesses.
    accesses: Vec<Access>,
}

impl Observer for Counts {
    fn executed(&mut self, moment: &Moment<'_>) {
        if moment.is_done() {
            let (instructions, memory) = self.places.entry(moment.instruction.place).or_default();
            instructions.warps += 1;
            instructions.threads += u64::from(moment.mask.count_ones());
            tally(&self.accesses, memory);
        }
        self.accesses.clear();
    }

    fn accessed(&mut self, access: &Access) {
        self.accesses.push(*access);
    }
}

/// Bytes that count as one lane's: a row of a matrix, or a chunk of `cp.async`, which one lane asks for.
const LANE_BYTES: usize = 16;

/// What the lanes of a warp ask of a memory with one instruction: addresses and bytes.
#[derive(Default)]
struct Request {
    /// By lane; no bytes where a lane asks for nothing.
    lanes: [(u64, u64); 32],
    /// Rows and chunks, in their order.
    rows: Vec<(u64, u64)>,
}

impl Request {
    fn add(&mut self, access: &Access) {
        let (start, bytes) = (access.address, access.bytes as u64);
        let Some((address, length)) = access.lane.and_then(|lane| self.lanes.get_mut(lane)) else {
            return self.rows.push((start, bytes));
        };
        match *length {
            0 => (*address, *length) = (start, bytes),
            // The elements of a vector follow each other.
            _ if *address + *length == start => *length += bytes,
            _ => self.rows.push((start, bytes)),
        }
    }

    fn all(&self) -> Vec<(u64, u64)> {
        self.lanes.iter().chain(&self.rows).copied().filter(|(_, bytes)| *bytes > 0).collect()
    }
}

fn tally(accesses: &[Access], memory: &mut Memory) {
    let mut requests: Vec<((Space, Direction), Request)> = vec![];
    for access in accesses {
        let key = (access.space, access.direction);
        memory.entry(key).or_default().bytes += access.bytes as u64;
        if access.lane.is_none() && access.bytes > LANE_BYTES {
            continue;
        }
        let at = requests.iter().position(|(other, _)| *other == key).unwrap_or_else(|| {
            requests.push((key, Request::default()));
            requests.len() - 1
        });
        requests[at].1.add(access);
    }
    for (key, request) in requests {
        let Some(traffic) = memory.get_mut(&key) else { continue };
        let lanes = request.all();
        traffic.requests += 1;
        match key.0 {
            Space::Global => traffic.sectors += sectors(&lanes),
            Space::Shared => {
                let (passes, least) = passes(&lanes);
                traffic.passes += passes;
                traffic.conflicts += passes.saturating_sub(least);
            }
            _ => {}
        }
    }
}

/// How many sectors of 32 bytes stretches touch.
fn sectors(stretches: &[(u64, u64)]) -> u64 {
    let mut touched: Vec<u64> =
        stretches.iter().flat_map(|(start, bytes)| start / 32..=(start + bytes - 1) / 32).collect();
    touched.sort_unstable();
    touched.dedup();
    touched.len() as u64
}

/// How many passes over 32 banks of 4 bytes stretches take, and how many they would take at least.
///
/// A pass serves 128 bytes: all lanes where each has 4 bytes or fewer, half of them with 8, a quarter with 16. Lanes that want the same
/// word share it; different words of one bank take a pass each.
fn passes(stretches: &[(u64, u64)]) -> (u64, u64) {
    let widest = stretches.iter().map(|(_, bytes)| (*bytes).clamp(4, 16)).max().unwrap_or(4);
    let (mut passes, mut least) = (0, 0);
    for group in stretches.chunks(128 / widest as usize) {
        let mut words: Vec<u64> = group.iter().flat_map(|(start, bytes)| start / 4..=(start + bytes - 1) / 4).collect();
        words.sort_unstable();
        words.dedup();
        let mut banks = [0u64; 32];
        words.iter().for_each(|word| banks[(word % 32) as usize] += 1);
        passes += banks.into_iter().max().unwrap_or(0);
        least += (words.len() as u64).div_ceil(32);
    }
    (passes, least)
}

impl std::ops::AddAssign for Instructions {
    fn add_assign(&mut self, other: Instructions) {
        self.warps += other.warps;
        self.threads += other.threads;
    }
}

impl std::ops::AddAssign for Traffic {
    fn add_assign(&mut self, other: Traffic) {
        self.bytes += other.bytes;
        self.requests += other.requests;
        self.sectors += other.sectors;
        self.passes += other.passes;
        self.conflicts += other.conflicts;
    }
}

/// The name of what is counted: `global read`.
fn name(space: Space, direction: Direction) -> String {
    format!("{space:?} {direction:?}").to_lowercase()
}

/// Runs a launch and counts what it does; after a fault what it did so far.
pub fn profile(grid: &Grid<'_>) -> (Result<Summary, Box<Fault>>, Profile) {
    let (outcome, counts) = grid.run_observed(Counts::default);
    (outcome, Profile::new(grid.kernel, counts))
}

impl Profile {
    fn new(kernel: &Kernel, counts: Vec<Counts>) -> Profile {
        let mut profile = Profile { kernel: kernel.name.clone(), ..Profile::default() };
        // Several places may be in one line, and those of a function that is called are in the order of the calls.
        let mut lines: BTreeMap<u32, Line> = BTreeMap::new();
        for (place, (instructions, memory)) in counts.into_iter().flat_map(|counts| counts.places) {
            let (source, class) = (&kernel.places[place as usize], class(kernel.sections[place as usize]));
            profile.instructions += instructions;
            *profile.classes.entry(class.into()).or_default() += instructions;
            let line = lines.entry(place).or_insert_with(|| Line {
                line: source.line,
                text: source.text.clone(),
                class,
                instructions: Instructions::default(),
                memory: BTreeMap::new(),
            });
            line.instructions += instructions;
            for ((space, direction), traffic) in memory {
                *line.memory.entry(name(space, direction)).or_default() += traffic;
                *profile.memory.entry(name(space, direction)).or_default() += traffic;
            }
        }
        profile.lines = lines.into_values().collect();
        profile.lines.sort_by_key(|line| line.line);
        profile
    }

    /// Everything, for programs.
    pub fn json(&self) -> Result<String> {
        Ok(serde_json::to_string_pretty(self).into_diagnostic()? + "\n")
    }

    /// A page, with the lines that run most.
    pub fn text(&self, lines: usize) -> String {
        let mut text = String::new();
        let Instructions { warps, threads } = self.instructions;
        let lanes = threads as f64 / warps.max(1) as f64;
        let _ = writeln!(text, "kernel {}\n", self.kernel);
        let _ = writeln!(text, "{warps} instructions of warps, {threads} of threads: {lanes:.1} lanes at a time\n");
        let _ = writeln!(text, "{:>14} {:>14}  class", "warps", "threads");
        let mut classes: Vec<_> = self.classes.iter().collect();
        classes.sort_by_key(|(_, instructions)| std::cmp::Reverse(instructions.warps));
        for (class, Instructions { warps, threads }) in classes {
            let _ = writeln!(text, "{warps:>14} {threads:>14}  {class}");
        }
        if !self.memory.is_empty() {
            let _ = writeln!(text, "\n{:>14} {:>14}  memory", "bytes", "requests");
        }
        for (name, traffic) in &self.memory {
            let _ = writeln!(text, "{:>14} {:>14}  {name}{}", traffic.bytes, traffic.requests, traffic.remark());
        }
        let mut most: Vec<&Line> = self.lines.iter().collect();
        most.sort_by_key(|line| (std::cmp::Reverse(line.instructions.warps), line.line));
        most.truncate(lines);
        most.sort_by_key(|line| line.line);
        if !most.is_empty() {
            let _ = writeln!(text, "\n{:>14} {:>14}  line", "warps", "threads");
        }
        for Line { line, text: source, instructions: Instructions { warps, threads }, memory, .. } in most {
            let _ = writeln!(text, "{warps:>14} {threads:>14}  {line}: {source}");
            for (name, traffic) in memory {
                let _ = writeln!(text, "{:31}{} bytes, {name}{}", "", traffic.bytes, traffic.remark());
            }
        }
        text
    }
}

impl Traffic {
    /// What is worth saying about requests.
    fn remark(&self) -> String {
        let each = |count: u64| count as f64 / self.requests.max(1) as f64;
        if self.sectors > 0 {
            format!(": {:.1} sectors of 32 bytes a request", each(self.sectors))
        } else if self.passes > 0 {
            let conflicts = self.conflicts;
            format!(": {:.1} passes a request, {conflicts} for bank conflicts", each(self.passes))
        } else {
            String::new()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sectors_and_passes() {
        let lanes = |stride: u64, bytes: u64| (0..32).map(|lane| (lane * stride, bytes)).collect::<Vec<_>>();
        assert_eq!(sectors(&lanes(4, 4)), 4);
        assert_eq!(sectors(&lanes(32, 4)), 32);
        assert_eq!(sectors(&[(30, 4)]), 2);
        assert_eq!(passes(&lanes(4, 4)), (1, 1));
        assert_eq!(passes(&lanes(8, 4)), (2, 1));
        assert_eq!(passes(&lanes(128, 4)), (32, 1));
        // All lanes want one word.
        assert_eq!(passes(&lanes(0, 4)), (1, 1));
        assert_eq!(passes(&lanes(16, 16)), (4, 4));
        assert_eq!(passes(&lanes(128, 16)), (32, 4));
    }

    #[test]
    fn classes_follow_the_sections() {
        for (section, expected) in [
            ("9.7.1.1 add", "integer"),
            ("9.7.9.8 ld", "load and store"),
            ("9.7.9.21 cvt", "movement and conversion"),
            ("9.7.9.25.4.1 cp.async.bulk", "asynchronous copy"),
            ("9.7.14.5.14 mma", "matrix, of a warp"),
            ("9.7.19.5 trap", "other"),
        ] {
            assert_eq!(class(section), expected);
        }
    }
}
