//! Functions compiled for the widest vectors that the host's processor has.

/// Declares functions that are compiled for AVX-512, for AVX2 and for any processor, and picks among them when they are called.
macro_rules! widest {
    ($($(#[$attribute:meta])* $visibility:vis fn $name:ident($($argument:ident: $type:ty),* $(,)?) $(-> $result:ty)? $body:block)*) => {$(
        $(#[$attribute])*
        #[inline]
        $visibility fn $name($($argument: $type),*) $(-> $result)? {
            #[inline(always)]
            fn portable($($argument: $type),*) $(-> $result)? $body

            #[cfg(target_arch = "x86_64")]
            {
                #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
                fn avx512($($argument: $type),*) $(-> $result)? {
                    portable($($argument),*)
                }

                #[target_feature(enable = "avx2,fma")]
                fn avx2($($argument: $type),*) $(-> $result)? {
                    portable($($argument),*)
                }

                if $crate::vectors::has_avx512() {
                    // SAFETY: the processor has it.
                    return unsafe { avx512($($argument),*) };
                }
                if $crate::vectors::has_avx2() {
                    // SAFETY: the processor has it.
                    return unsafe { avx2($($argument),*) };
                }
            }
            portable($($argument),*)
        }
    )*};
}

/// Whether the processor has the parts of AVX-512 that all but the first such processors have.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
pub fn has_avx512() -> bool {
    use std::arch::is_x86_feature_detected as has;
    has!("avx512f") && has!("avx512bw") && has!("avx512dq") && has!("avx512vl")
}

/// Whether the processor has AVX2 and fused multiply-adds.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
pub fn has_avx2() -> bool {
    use std::arch::is_x86_feature_detected as has;
    has!("avx2") && has!("fma")
}
