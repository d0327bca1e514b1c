//! Names of targets, as `--target` takes them.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use thiserror::Error;

/// An NVIDIA chip by its compute capability.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Chip {
    /// Ten times the major number plus the minor one: 80, 89, 90, 100, 120.
    pub capability: u16,
    /// Whether code may use what only this chip has and no later one keeps (the `a` of `sm_90a`).
    pub specific: bool,
}

impl Chip {
    /// Whether matmul units take 8-bit floats: Ada, Hopper and everything later.
    pub const fn multiplies_fp8(self) -> bool {
        self.capability >= 89
    }

    /// Whether matmul units take 4- and 6-bit floats with block scales: Blackwell, in its own code only.
    pub const fn multiplies_block_scaled(self) -> bool {
        self.capability >= 100 && self.specific
    }
}

impl fmt::Display for Chip {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "sm_{}{}", self.capability, if self.specific { "a" } else { "" })
    }
}

/// What code is made for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Target {
    /// The CPU of the machine that compiles.
    Host,
    /// PTX for an NVIDIA GPU.
    Cuda(Chip),
}

impl Target {
    /// The targets that are compiled and tested; text outside this list is refused.
    pub const ALL: [Target; 10] = [
        Target::Host,
        Target::cuda(80, false),
        Target::cuda(86, false),
        Target::cuda(89, false),
        Target::cuda(90, false),
        Target::cuda(90, true),
        Target::cuda(100, false),
        Target::cuda(100, true),
        Target::cuda(120, false),
        Target::cuda(120, true),
    ];

    const fn cuda(capability: u16, specific: bool) -> Target {
        Target::Cuda(Chip { capability, specific })
    }

    /// The chip, unless this is the host.
    pub const fn chip(self) -> Option<Chip> {
        match self {
            Target::Host => None,
            Target::Cuda(chip) => Some(chip),
        }
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Target::Host => f.write_str("host"),
            Target::Cuda(chip) => chip.fmt(f),
        }
    }
}

/// No target has this name.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("unknown target `{given}`; known are {}", Target::ALL.map(|target| target.to_string()).join(", "))]
pub struct UnknownTarget {
    /// What was asked for.
    pub given: String,
}

impl FromStr for Target {
    type Err = UnknownTarget;

    fn from_str(text: &str) -> Result<Self, UnknownTarget> {
        Target::ALL
            .into_iter()
            .find(|target| target.to_string() == text)
            .ok_or_else(|| UnknownTarget { given: text.to_owned() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_parse_back() {
        for target in Target::ALL {
            assert_eq!(target.to_string().parse(), Ok(target));
        }
        let error = "sm_75".parse::<Target>().unwrap_err().to_string();
        assert!(error.contains("`sm_75`") && error.contains("sm_80"), "{error}");
    }

    #[test]
    fn fp8_units_came_with_ada() {
        let multiplies = |name: &str| name.parse::<Target>().unwrap().chip().is_some_and(Chip::multiplies_fp8);
        assert!(!multiplies("host") && !multiplies("sm_86"));
        assert!(multiplies("sm_89") && multiplies("sm_90a") && multiplies("sm_120"));
    }
}
