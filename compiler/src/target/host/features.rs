//! What the processor can do: detected, or chosen by a named level.

use tessera_runtime::artifact::Target;

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
    /// Tile multiplication of bytes (`tdpbssd`).
    AmxInt8,
    /// Dot products of bytes (`vpdpbusd`), and tables of bytes (`vpermb`), which the processors that have the one have too.
    Vnni,
}

impl Extension {
    const ALL: [Self; 4] = [Self::Bf16, Self::AmxBf16, Self::AmxInt8, Self::Vnni];

    const fn name(self) -> &'static str {
        match self {
            Self::Bf16 => "avx512bf16",
            Self::AmxBf16 => "amx-bf16",
            Self::AmxInt8 => "amx-int8",
            Self::Vnni => "avx512vnni",
        }
    }

    /// LLVM's features that it consists of.
    const fn members(self) -> &'static [&'static str] {
        match self {
            Self::Bf16 => &["avx512bf16"],
            Self::AmxBf16 => &["amx-tile", "amx-bf16"],
            Self::AmxInt8 => &["amx-tile", "amx-int8"],
            Self::Vnni => &["avx512vnni", "avx512vbmi"],
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
        let Target::Host { architecture, features } = Target::native_host() else {
            return Err(Error::Features("of this machine cannot be told".into()));
        };
        if architecture != "x86_64" {
            let reason = format!("`native`: this machine is an {architecture}; name a level to compile for an x86-64");
            return Err(Error::Features(reason));
        }
        let has = |name: &str| features.iter().any(|feature| feature == name);
        let level = [Level::V4, Level::V3].into_iter().find(|level| has(level.name())).unwrap_or(Level::Baseline);
        let usable = |extension: &Extension| level == Level::V4 && extension.members().iter().all(|member| has(member));
        Ok(Self { level, extensions: Extension::ALL.into_iter().filter(usable).collect() })
    }

    /// `native`, or a level (`x86-64`, `x86-64-v3`, `x86-64-v4`), with extensions after plus signs: `x86-64-v4+avx512bf16+amx-bf16+amx-int8+avx512vnni`.
    ///
    /// # Errors
    /// If a name is unknown, with those that are known.
    pub fn parse(text: &str) -> Result<Self, Error> {
        let unknown = || {
            Error::Features(format!(
                "`{text}`: expected `native`, or x86-64, x86-64-v3 or x86-64-v4, the last optionally followed by +avx512bf16, +amx-bf16, +amx-int8 and +avx512vnni"
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

    /// What the artifact's target signature lists: the level, and LLVM's features beyond it.
    pub fn names(&self) -> Vec<String> {
        let members = self.extensions.iter().flat_map(|extension| extension.members());
        std::iter::once(self.level.name()).chain(members.copied()).map(str::to_owned).collect()
    }

    /// As text; [`CpuFeatures::parse`] reads it back.
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
        let members = self.extensions.iter().flat_map(|extension| extension.members());
        let features: Vec<_> = members.map(|member| format!("+{member}")).collect();
        (self.level.name(), features.join(","))
    }
}
