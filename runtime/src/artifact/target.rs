//! What an artifact was compiled for, and whether a machine can run it.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::processor;

/// The target signature of an artifact.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(tag = "target", rename_all = "snake_case", deny_unknown_fields)]
pub enum Target {
    /// Native code for a CPU.
    Host {
        /// The instruction set, as [`std::env::consts::ARCH`] names it: `x86_64`, `aarch64`.
        architecture: String,
        /// The CPU features the code needs, as LLVM names them (`avx2`, `fma`, `avx512bf16`), or levels of the x86-64 psABI that
        /// include many (`x86-64-v4`).
        features: Vec<String>,
    },
    /// PTX for NVIDIA GPUs.
    Cuda {
        /// The architecture: `sm_80` runs on every later chip; `sm_90a` on compute capability 9.0 alone; `sm_100f` on chips of one
        /// family.
        architecture: String,
    },
}

/// Why a machine cannot run an artifact.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TargetError {
    /// The artifact is for another kind of device.
    #[error("the artifact was compiled for {compiled}, not for {device}; compile it with `--target {advice}`")]
    Kind {
        /// The artifact's target.
        compiled: String,
        /// The device.
        device: String,
        /// The target to compile for instead.
        advice: String,
    },
    /// The CPU has another instruction set.
    #[error("the artifact was compiled for {compiled} CPUs, this one is {found}; compile it with `--target host` here")]
    Architecture {
        /// The artifact's instruction set.
        compiled: String,
        /// This machine's.
        found: String,
    },
    /// The CPU lacks features.
    #[error("the artifact needs CPU features that this machine lacks: {}; compile it with `--target host` here", missing.join(", "))]
    Features {
        /// The missing features.
        missing: Vec<String>,
    },
    /// The GPU cannot run this PTX.
    #[error(
        "the artifact was compiled for {compiled}, which compute capability {major}.{minor} cannot run; compile it with `--target \
         {advice}`"
    )]
    ComputeCapability {
        /// The artifact's architecture.
        compiled: String,
        /// The GPU's compute capability, major number.
        major: u32,
        /// The GPU's compute capability, minor number.
        minor: u32,
        /// The target to compile for instead.
        advice: String,
    },
    /// The architecture is not spelled `sm_NN`, `sm_NNa` or `sm_NNf`.
    #[error("`{0}` is not a GPU architecture: expected sm_80, sm_90a, sm_100f or the like")]
    Malformed(String),
}

impl Target {
    /// This machine's CPU with all the features it has (as far as the runtime knows them).
    pub fn native_host() -> Target {
        let features =
            processor::features().iter().filter(|feature| feature.1).map(|feature| feature.0.into()).collect();
        Target::Host { architecture: std::env::consts::ARCH.into(), features }
    }

    /// Checks that this machine's CPU can run the artifact.
    pub fn check_host(&self) -> Result<(), TargetError> {
        let Target::Host { architecture, features } = self else {
            let (compiled, advice) = (self.to_string(), "host".into());
            return Err(TargetError::Kind { compiled, device: "the host CPU".into(), advice });
        };
        if architecture != std::env::consts::ARCH {
            let found = std::env::consts::ARCH.into();
            return Err(TargetError::Architecture { compiled: architecture.clone(), found });
        }
        let known = processor::features();
        // A feature this runtime has not heard of cannot be known to be there.
        let present = |wanted: &str| known.iter().any(|(name, present)| *name == wanted && *present);
        let missing: Vec<_> = features.iter().filter(|feature| !present(feature)).cloned().collect();
        if missing.is_empty() { Ok(()) } else { Err(TargetError::Features { missing }) }
    }

    /// Checks that a GPU of compute capability `major.minor` can run the artifact.
    pub fn check_cuda(&self, major: u32, minor: u32) -> Result<(), TargetError> {
        let advice = native_architecture(major, minor);
        let Target::Cuda { architecture } = self else {
            let device = format!("a GPU of compute capability {major}.{minor}");
            return Err(TargetError::Kind { compiled: self.to_string(), device, advice });
        };
        let (number, scope) = parse_architecture(architecture)?;
        let device = major * 10 + minor;
        // PTX ISA, `.target`: plain targets run on all later chips, `a` on that one chip, `f` on later chips of its major number.
        let runs = match scope {
            Scope::Onward => device >= number,
            Scope::Family => device >= number && device / 10 == number / 10,
            Scope::Exact => device == number,
        };
        if runs {
            return Ok(());
        }
        Err(TargetError::ComputeCapability { compiled: architecture.clone(), major, minor, advice })
    }

    /// Checks that the signature itself is well formed.
    pub fn validate(&self) -> Result<(), TargetError> {
        match self {
            Target::Host { .. } => Ok(()),
            Target::Cuda { architecture } => parse_architecture(architecture).map(|_| ()),
        }
    }
}

impl fmt::Display for Target {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Target::Host { architecture, features } if features.is_empty() => {
                write!(formatter, "host ({architecture})")
            }
            Target::Host { architecture, features } => {
                write!(formatter, "host ({architecture} with {})", features.join(", "))
            }
            Target::Cuda { architecture } => formatter.write_str(architecture),
        }
    }
}

/// Which chips an architecture's code runs on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Scope {
    Onward,
    Family,
    Exact,
}

fn parse_architecture(text: &str) -> Result<(u32, Scope), TargetError> {
    let malformed = || TargetError::Malformed(text.into());
    let digits = text.strip_prefix("sm_").ok_or_else(malformed)?;
    let (digits, scope) = match digits.as_bytes().last() {
        Some(b'a') => (&digits[..digits.len() - 1], Scope::Exact),
        Some(b'f') => (&digits[..digits.len() - 1], Scope::Family),
        _ => (digits, Scope::Onward),
    };
    if !(2..=4).contains(&digits.len()) || !digits.bytes().all(|digit| digit.is_ascii_digit()) {
        return Err(malformed());
    }
    Ok((digits.parse().map_err(|_| malformed())?, scope))
}

/// The most specific architecture of a compute capability: those after Ampere have an `a` variant.
fn native_architecture(major: u32, minor: u32) -> String {
    let suffix = if major >= 9 { "a" } else { "" };
    format!("sm_{major}{minor}{suffix}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cuda(architecture: &str) -> Target {
        Target::Cuda { architecture: architecture.into() }
    }

    #[test]
    fn the_native_host_is_accepted_and_another_is_not() {
        assert_eq!(Target::native_host().check_host(), Ok(()));
        let other = Target::Host { architecture: "riscv128".into(), features: vec![] };
        assert!(matches!(other.check_host(), Err(TargetError::Architecture { .. })));
        let architecture = std::env::consts::ARCH.into();
        let future = Target::Host { architecture, features: vec!["avx4096".into()] };
        let message = future.check_host().unwrap_err().to_string();
        assert!(message.contains("lacks: avx4096; compile it with `--target host` here"), "{message}");
    }

    #[test]
    fn plain_architectures_run_onward_and_specific_ones_only_on_their_chip() {
        for (architecture, capability, runs) in [
            ("sm_80", (8, 0), true),
            ("sm_80", (8, 9), true),
            ("sm_80", (12, 0), true),
            ("sm_80", (7, 5), false),
            ("sm_90a", (9, 0), true),
            ("sm_90a", (10, 0), false),
            ("sm_100f", (10, 3), true),
            ("sm_100f", (12, 0), false),
            ("sm_100a", (10, 3), false),
        ] {
            let result = cuda(architecture).check_cuda(capability.0, capability.1);
            assert_eq!(result.is_ok(), runs, "{architecture} on {capability:?}");
        }
        let message = cuda("sm_100a").check_cuda(9, 0).unwrap_err().to_string();
        assert!(message.contains("compute capability 9.0 cannot run; compile it with `--target sm_90a`"), "{message}");
    }

    #[test]
    fn kinds_of_device_do_not_mix_and_nonsense_is_malformed() {
        assert!(matches!(cuda("sm_80").check_host(), Err(TargetError::Kind { .. })));
        assert!(matches!(Target::native_host().check_cuda(9, 0), Err(TargetError::Kind { .. })));
        for nonsense in ["", "sm_", "sm_a", "sm_9", "sm_99999", "gfx942", "sm_9é", "sm_90b"] {
            assert!(matches!(cuda(nonsense).validate(), Err(TargetError::Malformed(_))), "{nonsense}");
        }
    }
}
