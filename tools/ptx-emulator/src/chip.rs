//! The chips that the emulator can be.

/// A chip: what programs ask the driver about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Chip {
    /// `sm_90a`
    pub name: &'static str,
    /// What the driver calls it.
    pub marketing_name: &'static str,
    /// Compute capability.
    pub capability: (u32, u32),
    /// How many multiprocessors it has.
    pub multiprocessors: u32,
    /// Shared memory that a CTA can have, with opting in.
    pub shared_per_block: u32,
    /// Shared memory of a multiprocessor.
    pub shared_per_multiprocessor: u32,
    /// Threads of a multiprocessor.
    pub threads_per_multiprocessor: u32,
    /// The clock in kHz, for programs that compute peaks from it.
    pub clock: u32,
}

/// All chips; the first is the one that is emulated where none is asked for.
pub const CHIPS: [Chip; 8] = [
    chip("sm_90a", "H100", (9, 0), 132, 227, 228, 2048, 1_980_000),
    chip("sm_80", "A100", (8, 0), 108, 163, 164, 2048, 1_410_000),
    chip("sm_86", "RTX A6000", (8, 6), 84, 99, 100, 1536, 1_800_000),
    chip("sm_89", "L40S", (8, 9), 142, 99, 100, 1536, 2_520_000),
    chip("sm_100a", "B200", (10, 0), 148, 227, 228, 2048, 1_965_000),
    chip("sm_103a", "B300", (10, 3), 148, 227, 228, 2048, 1_920_000),
    chip("sm_120a", "RTX PRO 6000", (12, 0), 188, 99, 100, 1536, 2_600_000),
    chip("sm_121a", "GB10", (12, 1), 48, 99, 100, 1536, 2_400_000),
];

#[expect(clippy::too_many_arguments, reason = "a row of the table above")]
const fn chip(
    name: &'static str,
    marketing_name: &'static str,
    capability: (u32, u32),
    multiprocessors: u32,
    block_kib: u32,
    multiprocessor_kib: u32,
    threads: u32,
    clock: u32,
) -> Chip {
    Chip {
        name,
        marketing_name,
        capability,
        multiprocessors,
        shared_per_block: block_kib << 10,
        shared_per_multiprocessor: multiprocessor_kib << 10,
        threads_per_multiprocessor: threads,
        clock,
    }
}

impl Chip {
    /// The chip of a name; `sm_90` is `sm_90a`.
    pub fn named(name: &str) -> Option<&'static Chip> {
        CHIPS.iter().find(|chip| chip.name == name || chip.name.trim_end_matches('a') == name)
    }

    /// How many CTAs a multiprocessor holds at most.
    pub fn blocks_per_multiprocessor(&self) -> u32 {
        match self.capability {
            (8, 0) | (9 | 10, _) => 32,
            (8, 9) | (12, _) => 24,
            _ => 16,
        }
    }

    /// The chip that a module's target needs, where no chip was chosen: the smallest that can run it.
    pub fn runs(&self, target: &str) -> Result<(), String> {
        let digits: String = target.chars().filter(char::is_ascii_digit).collect();
        let Ok(number) = digits.parse::<u32>() else { return Err(format!("`{target}` is not a target")) };
        let own = self.capability.0 * 10 + self.capability.1;
        let runs = match target.chars().last() {
            Some('a') => own == number,
            Some('f') => own / 10 == number / 10 && own >= number,
            _ => own >= number,
        };
        if runs { Ok(()) } else { Err(format!("the module is for {target}, the emulated chip is {}", self.name)) }
    }
}
