//! What this machine's processor can do.

/// Features that compiled code may need, as LLVM names them, each with whether this process can use it. The levels of the x86-64 psABI
/// (`x86-64-v3`) stand for all that they include.
#[cfg(target_arch = "x86_64")]
pub(crate) fn features() -> Vec<(&'static str, bool)> {
    macro_rules! detect {
        ($($llvm:literal $rust:tt),* $(,)?) => { vec![$(($llvm, std::arch::is_x86_feature_detected!($rust))),*] };
    }
    let mut features = detect![
        "sse2" "sse2", "sse3" "sse3", "ssse3" "ssse3", "sse4.1" "sse4.1", "sse4.2" "sse4.2", "popcnt" "popcnt",
        "cx16" "cmpxchg16b", "lzcnt" "lzcnt", "bmi" "bmi1", "bmi2" "bmi2", "movbe" "movbe", "avx" "avx",
        "avx2" "avx2", "fma" "fma", "f16c" "f16c", "avxvnni" "avxvnni", "gfni" "gfni", "vaes" "vaes",
        "vpclmulqdq" "vpclmulqdq", "avx512f" "avx512f", "avx512bw" "avx512bw", "avx512cd" "avx512cd",
        "avx512dq" "avx512dq", "avx512vl" "avx512vl", "avx512vnni" "avx512vnni", "avx512bf16" "avx512bf16",
        "avx512fp16" "avx512fp16", "avx512vbmi" "avx512vbmi", "avx512vbmi2" "avx512vbmi2",
        "avx512ifma" "avx512ifma", "avx512bitalg" "avx512bitalg", "avx512vpopcntdq" "avx512vpopcntdq",
    ];
    for (level, members) in LEVELS {
        let has = |wanted: &str| features.iter().any(|(name, present)| *name == wanted && *present);
        let present = members.iter().all(|member| has(member));
        features.push((level, present));
    }
    features.extend(amx::features());
    features
}

/// The x86-64 psABI's levels, each by the one below it and what it adds. ("Micro-Architecture Levels"; OS support is part of the
/// detection.)
#[cfg(target_arch = "x86_64")]
const LEVELS: [(&str, &[&str]); 4] = [
    ("x86-64", &["sse2"]),
    ("x86-64-v2", &["x86-64", "cx16", "popcnt", "sse3", "sse4.1", "sse4.2", "ssse3"]),
    ("x86-64-v3", &["x86-64-v2", "avx", "avx2", "bmi", "bmi2", "f16c", "fma", "lzcnt", "movbe"]),
    ("x86-64-v4", &["x86-64-v3", "avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl"]),
];

/// AMX: detected by hand, since the standard library does not yet, and since Linux wants to be asked before tiles are used.
#[cfg(target_arch = "x86_64")]
mod amx {
    use std::arch::x86_64::__cpuid_count;

    /// The features, present where the processor has them and the kernel has given leave.
    pub fn features() -> [(&'static str, bool); 3] {
        // Intel 64 manual, volume 2, CPUID leaf 7, EDX. The leaf exists on every processor with AVX2, and AMX needs that.
        let bits = if std::arch::is_x86_feature_detected!("avx2") { __cpuid_count(7, 0).edx } else { 0 };
        let bit = |position: u32| bits >> position & 1 == 1;
        let tile = bit(24) && permitted();
        [("amx-tile", tile), ("amx-bf16", tile && bit(22)), ("amx-int8", tile && bit(25))]
    }

    /// Asks Linux for leave to use tiles, for all threads of the process (Documentation/arch/x86/xstate.rst).
    #[cfg(target_os = "linux")]
    fn permitted() -> bool {
        const ARCH_REQ_XCOMP_PERM: libc::c_ulong = 0x1023;
        const XFEATURE_XTILEDATA: libc::c_ulong = 18;
        // SAFETY: this system call takes two numbers and touches no memory of the process.
        unsafe { libc::syscall(libc::SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA) == 0 }
    }

    #[cfg(not(target_os = "linux"))]
    fn permitted() -> bool {
        false
    }
}

/// Features that compiled code may need, as LLVM names them, each with whether this processor has it.
#[cfg(target_arch = "aarch64")]
pub(crate) fn features() -> Vec<(&'static str, bool)> {
    macro_rules! detect {
        ($($llvm:literal $rust:tt),* $(,)?) => { vec![$(($llvm, std::arch::is_aarch64_feature_detected!($rust))),*] };
    }
    detect![
        "neon" "neon", "fullfp16" "fp16", "dotprod" "dotprod", "bf16" "bf16", "i8mm" "i8mm", "lse" "lse", "sve" "sve",
        "sve2" "sve2",
    ]
}

/// No features are known of other instruction sets: only baseline code runs there.
#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
pub(crate) fn features() -> Vec<(&'static str, bool)> {
    Vec::new()
}

#[cfg(all(test, target_arch = "x86_64"))]
mod tests {
    use super::*;

    #[test]
    fn levels_include_those_below_them() {
        let features = features();
        let has = |wanted: &str| features.iter().any(|(name, present)| *name == wanted && *present);
        assert!(has("x86-64"));
        for pair in LEVELS.windows(2) {
            assert!(has(pair[0].0) || !has(pair[1].0), "{} without {}", pair[1].0, pair[0].0);
        }
        // Every member of a level is a feature that is looked for.
        for member in LEVELS.iter().flat_map(|(_, members)| *members) {
            assert!(features.iter().any(|(name, _)| name == member), "{member}");
        }
    }
}
