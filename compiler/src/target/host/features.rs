//! What the processor can do: detected, or chosen by a named level.

use super::Error;

/// A set of CPU features that code is compiled for. More features may be used than a level names; never ones outside the set.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct CpuFeatures {
    level: Level,
    extensions: Vec<Extension>,
}

/// The vector instruction set, in the x86-64 psABI's levels.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Level {
    /// `x86-64`: SSE2 alone.
    Baseline,
    /// `x86-64-v3`: AVX2, FMA, F16C.
    V3,
    /// `x86-64-v4`: AVX-512 F, BW, CD, DQ, VL.
    V4,
}

/// Instruction sets beyond a level that the lowering knows how to use. All of them need [`Level::V4`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Extension {
    /// Dot products of bf16 pairs (`vdpbf16ps`).
    Bf16,
    /// Tile multiplication of bf16 (`tdpbf16ps`).
    AmxBf16,
}

impl Extension {
    const ALL: [Self; 2] = [Self::Bf16, Self::AmxBf16];

    const fn name(self) -> &'static str {
        match self {
            Self::Bf16 => "avx512bf16",
            Self::AmxBf16 => "amx-bf16",
        }
    }

    const fn llvm(self) -> &'static str {
        match self {
            Self::Bf16 => "+avx512bf16",
            Self::AmxBf16 => "+amx-tile,+amx-bf16",
        }
    }
}

impl Level {
    const fn name(self) -> &'static str {
        match self {
            Self::Baseline => "x86-64",
            Self::V3 => "x86-64-v3",
            Self::V4 => "x86-64-v4",
        }
    }
}

impl CpuFeatures {
    /// Everything that this machine has and the lowering uses.
    ///
    /// # Errors
    /// If this machine is not an x86-64.
    pub fn native() -> Result<Self, Error> {
        detect()
    }

    /// `native`, or a level (`x86-64`, `x86-64-v3`, `x86-64-v4`), with extensions after plus signs: `x86-64-v4+avx512bf16+amx-bf16`.
    ///
    /// # Errors
    /// If a name is unknown, with those that are known.
    pub fn parse(text: &str) -> Result<Self, Error> {
        let unknown = || {
            Error::Features(format!(
                "`{text}`: expected `native`, or x86-64, x86-64-v3 or x86-64-v4, the last optionally followed by +avx512bf16 and +amx-bf16"
            ))
        };
        let mut parts = text.split('+');
        let first = parts.next().unwrap_or_default();
        if first == "native" && text == "native" {
            return Self::native();
        }
        let level = [Level::Baseline, Level::V3, Level::V4]
            .into_iter()
            .find(|level| level.name() == first)
            .ok_or_else(unknown)?;
        let mut extensions = Vec::new();
        for part in parts {
            let extension =
                Extension::ALL.into_iter().find(|extension| extension.name() == part).ok_or_else(unknown)?;
            if level < Level::V4 {
                return Err(unknown());
            }
            extensions.push(extension);
        }
        extensions.sort_unstable();
        extensions.dedup();
        Ok(Self { level, extensions })
    }

    /// Name in the artifact's target signature; [`CpuFeatures::parse`] reads it back.
    pub fn signature(&self) -> String {
        let mut text = self.level.name().to_owned();
        for extension in &self.extensions {
            text.push('+');
            text.push_str(extension.name());
        }
        text
    }

    /// Whether code for `self` runs on a machine with `machine`'s features.
    pub fn runs_on(&self, machine: &Self) -> bool {
        self.level <= machine.level && self.extensions.iter().all(|extension| machine.has(*extension))
    }

    pub(super) fn level(&self) -> Level {
        self.level
    }

    pub(super) fn has(&self, extension: Extension) -> bool {
        self.extensions.contains(&extension)
    }

    /// LLVM's processor name and feature string.
    pub(super) fn llvm(&self) -> (&'static str, String) {
        let features: Vec<_> = self.extensions.iter().map(|extension| extension.llvm()).collect();
        (self.level.name(), features.join(","))
    }
}

#[cfg(target_arch = "x86_64")]
fn detect() -> Result<CpuFeatures, Error> {
    let v3 = std::is_x86_feature_detected!("avx2")
        && std::is_x86_feature_detected!("fma")
        && std::is_x86_feature_detected!("f16c")
        && std::is_x86_feature_detected!("bmi2")
        && std::is_x86_feature_detected!("lzcnt");
    let v4 = v3
        && std::is_x86_feature_detected!("avx512f")
        && std::is_x86_feature_detected!("avx512bw")
        && std::is_x86_feature_detected!("avx512cd")
        && std::is_x86_feature_detected!("avx512dq")
        && std::is_x86_feature_detected!("avx512vl");
    let mut extensions = Vec::new();
    if v4 && std::is_x86_feature_detected!("avx512bf16") {
        extensions.push(Extension::Bf16);
        if amx::available() {
            extensions.push(Extension::AmxBf16);
        }
    }
    let level = match (v3, v4) {
        (_, true) => Level::V4,
        (true, false) => Level::V3,
        (false, false) => Level::Baseline,
    };
    Ok(CpuFeatures { level, extensions })
}

#[cfg(not(target_arch = "x86_64"))]
fn detect() -> Result<CpuFeatures, Error> {
    Err(Error::Features("`native`: this machine is not an x86-64; name a level to compile for one".into()))
}

/// AMX needs the processor and the kernel's leave to save its large state (Linux 5.16).
#[cfg(target_arch = "x86_64")]
pub(super) mod amx {
    use std::arch::{asm, x86_64::__cpuid_count};

    /// Whether AMX bf16 tiles can be used by this process. Asks the kernel for leave, which holds for all later threads.
    pub(crate) fn available() -> bool {
        let edx = __cpuid_count(7, 0).edx;
        let (bf16, tile) = (edx >> 22 & 1 == 1, edx >> 24 & 1 == 1);
        bf16 && tile && request_permission()
    }

    /// `arch_prctl(ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA)`, of Linux's Documentation/arch/x86/xstate.rst.
    #[cfg(target_os = "linux")]
    fn request_permission() -> bool {
        const ARCH_PRCTL: i64 = 158;
        const ARCH_REQ_XCOMP_PERM: i64 = 0x1023;
        const XFEATURE_XTILEDATA: i64 = 18;
        let result: i64;
        // SAFETY: the system call takes two integers and touches no memory of the process.
        unsafe {
            asm!(
                "syscall",
                inlateout("rax") ARCH_PRCTL => result,
                in("rdi") ARCH_REQ_XCOMP_PERM,
                in("rsi") XFEATURE_XTILEDATA,
                out("rcx") _,
                out("r11") _,
                options(nostack),
            );
        }
        result == 0
    }

    #[cfg(not(target_os = "linux"))]
    fn request_permission() -> bool {
        false
    }
}
