//! The memories of the machine.
//!
//! Architecture invariant: a guest address never becomes a host pointer but through [`global::View`], which knows what is allocated.
//! Shared, local and parameter memory are plain byte arrays.

pub mod access;
pub mod global;
pub mod shared;
mod word;

pub use word::Word;

/// Where the windows of generic addresses are, and where global memory starts.
pub mod window {
    /// Generic addresses of shared memory: the low 32 bits are the address in `.shared::cluster`.
    pub const SHARED: u64 = 0x0200_0000_0000;
    /// Generic addresses of the executing thread's local memory.
    pub const LOCAL: u64 = 0x0300_0000_0000;
    /// Generic addresses of the kernel's parameters.
    pub const PARAMETER: u64 = 0x0400_0000_0000;
    /// The addresses of functions: 16 for each, by its number in the module.
    pub const FUNCTION: u64 = 0x0500_0000_0000;
    /// The first address of a constant.
    pub const CONSTANT: u64 = 0x0600_0000_0000;
    /// Each other window is this long.
    pub const LENGTH: u64 = 1 << 32;
    /// The first address that an allocation of global memory can have.
    pub const GLOBAL: u64 = 0x7000_0000_0000;

    /// Whether an address is that of a constant.
    #[inline(always)]
    pub fn constant(address: u64) -> bool {
        (CONSTANT..GLOBAL).contains(&address)
    }

    /// Whether a window holds an address.
    #[inline(always)]
    pub fn holds(window: u64, address: u64) -> bool {
        address.wrapping_sub(window) < LENGTH
    }
}
