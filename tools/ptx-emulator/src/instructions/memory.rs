//! Loads, stores and what prepares them.

use crate::checker::Strong;
use crate::decode::builder::Builder;
use crate::decode::form::Form;
use crate::decode::scope::Place;
use crate::diagnostic::Problem;
use crate::machine::context::{Context, lanes};
use crate::machine::instruction::{Execute, Instruction, Step, Undefined};
use crate::machine::row::{Kind, LANES};
use crate::memory::Word;
use crate::memory::access::Space;
use crate::parse::ast::Operand;

/// The forms.
pub const FORMS: &[Form] = &[
    Form {
        pattern: "ld[.mmio][.weak|relaxed|acquire|volatile][.SCOPE][.SPACE][.ca|cg|cs|lu|cv][.L1::evict_normal|L1::evict_unchanged|L1::evict_first|L1::evict_last|L1::no_allocate][.L2::evict_normal|L2::evict_first|L2::evict_last][.L2::cache_hint][.L2::64B|L2::128B|L2::256B][.v2|v4|v8].MEMORY",
        section: "9.7.9.8 ld",
        build: |b| load(b, 9, 3),
    },
    Form {
        pattern: "ld.global[.ca|cg|cs].nc[.L1::evict_normal|L1::evict_unchanged|L1::evict_first|L1::evict_last|L1::no_allocate][.L2::evict_normal|L2::evict_first|L2::evict_last][.L2::cache_hint][.L2::64B|L2::128B|L2::256B][.v2|v4|v8].MEMORY",
        section: "9.7.9.9 ld.global.nc",
        build: |b| load(b, 7, 0),
    },
    Form { pattern: "ldu[.global][.v2|v4].MEMORY", section: "9.7.9.10 ldu", build: |b| load(b, 1, 0) },
    Form {
        pattern: "st[.mmio][.weak|relaxed|release|volatile][.SCOPE][.global|shared|shared::cta|shared::cluster|local|param|param::func][.wb|cg|cs|wt][.L1::evict_normal|L1::evict_unchanged|L1::evict_first|L1::evict_last|L1::no_allocate][.L2::evict_normal|L2::evict_first|L2::evict_last][.L2::cache_hint][.v2|v4|v8].MEMORY",
        section: "9.7.9.11 st",
        build: |b| store(b, 8, 3),
    },
    Form {
        pattern: "prefetch[.global|local][.L1|L2|L2::evict_last|L2::evict_normal]",
        section: "9.7.9.15 prefetch",
        build: address_only,
    },
    Form { pattern: "prefetch[.const|param].tensormap", section: "9.7.9.15 prefetch", build: address_only },
    Form { pattern: "prefetchu.L1", section: "9.7.9.15 prefetchu", build: address_only },
    Form {
        pattern: "applypriority[.global].L2::evict_normal",
        section: "9.7.9.16 applypriority",
        build: address_and_size,
    },
    Form { pattern: "discard[.global].L2", section: "9.7.9.17 discard", build: address_and_size },
    Form {
        pattern: "createpolicy.fractional.L2::evict_last|L2::evict_normal|L2::evict_first|L2::evict_unchanged[.L2::evict_first|L2::evict_unchanged].b64",
        section: "9.7.9.18 createpolicy",
        build: policy,
    },
    Form {
        pattern: "createpolicy.cvt.L2.b64",
        section: "9.7.9.18 createpolicy",
        build: |b| lanes!(b; (policy: u64) -> u64 { policy }),
    },
    Form {
        pattern: "createpolicy.range[.global].L2::evict_last|L2::evict_normal|L2::evict_first|L2::evict_unchanged[.L2::evict_first|L2::evict_unchanged].b64",
        section: "9.7.9.18 createpolicy",
        build: policy,
    },
];

/// The space that a modifier names; a variable's own where parameters of functions are in local memory.
pub fn space(b: &Builder<'_, '_>, name: &str, address: &Operand<'_>) -> Space {
    match name {
        "" => Space::Generic,
        "shared" | "shared::cta" | "shared::cluster" => Space::Shared,
        "local" => Space::Local,
        "param" | "param::entry" | "param::func" => match b.address_place(address) {
            Some(Place::Local | Place::Frame) => Space::Local,
            _ => Space::Parameter,
        },
        _ => Space::Global,
    }
}

fn bytes_of(name: &str) -> u32 {
    match name {
        "b8" | "u8" | "s8" | "e4m3" | "e5m2" => 1,
        "b16" | "u16" | "s16" | "f16" | "bf16" | "e4m3x2" | "e5m2x2" => 2,
        "b64" | "u64" | "s64" | "f64" => 8,
        "b128" => 16,
        _ => 4,
    }
}

fn components(name: &str) -> usize {
    name.strip_prefix('v').and_then(|count| count.parse().ok()).unwrap_or(1)
}

/// Sign-extended.
const SIGNED: u32 = 1;
/// `.volatile`, `.relaxed` and stronger: what threads may do at the same time.
const STRONG: u32 = 1 << 16;
/// `.acquire` or `.release`.
const ORDERED: u32 = 1 << 17;

/// How strong an access is.
fn strength(b: &Builder<'_, '_>) -> u32 {
    match (b.has("acquire") || b.has("release"), b.has("volatile") || b.has("relaxed")) {
        (true, _) => STRONG | ORDERED,
        (_, true) => STRONG,
        _ => 0,
    }
}

macro_rules! by_space {
    ($space:expr, $function:ident, $word:ty) => {
        match $space {
            Space::Generic => $function::<$word, 0> as Execute,
            Space::Global => $function::<$word, 1>,
            Space::Shared => $function::<$word, 2>,
            Space::Local => $function::<$word, 3>,
            // No load or store names tensor memory.
            Space::Parameter | Space::Tensor => $function::<$word, 4>,
        }
    };
}

macro_rules! by_word {
    ($bytes:expr, $space:expr, $function:ident) => {
        match $bytes {
            1 => by_space!($space, $function, u8),
            2 => by_space!($space, $function, u16),
            4 => by_space!($space, $function, u32),
            8 => by_space!($space, $function, u64),
            _ => by_space!($space, $function, u128),
        }
    };
}

const SPACES: [Space; 5] = [Space::Generic, Space::Global, Space::Shared, Space::Local, Space::Parameter];

/// The bytes of a register that an element of this size is moved to or from: the same, or more.
fn register_bytes(b: &Builder<'_, '_>, operand: &Operand<'_>, bytes: u32) -> Result<u32, Problem> {
    let register = b.register_bytes(operand).unwrap_or(bytes).max(bytes);
    if bytes == 16 && register != 16 { b.problem("a 128-bit access needs 128-bit registers") } else { Ok(register) }
}

/// Reads a load's operands. Its vector and its space are at these places of the pattern.
pub fn load(b: &mut Builder<'_, '_>, vector_at: usize, space_at: usize) -> Result<Execute, Problem> {
    let kind = b.last();
    let bytes = bytes_of(kind);
    let count = components(b.modifier(vector_at));
    let [destination, address, ..] = b.rest() else { return b.problem("`ld` has a destination and an address") };
    let space = space(b, b.modifier(space_at), address);
    let register = register_bytes(b, destination, bytes)?;
    b.take()?;
    let found = b.vector(destination, register, Kind::Integer, true)?;
    if found != count {
        return b.problem(format!("{found} registers for {count} elements"));
    }
    b.address()?;
    b.cache_policy()?;
    if kind.starts_with('s') {
        b.made.modifiers |= SIGNED;
    }
    b.made.modifiers |= register << 8 | strength(b);
    b.traits.only_reads = true;
    Ok(by_word!(bytes, space, execute_load))
}

fn execute_load<W: Word + Extend, const SPACE: usize>(context: &mut Context<'_>, instruction: &Instruction) -> Step {
    let space = SPACES[SPACE];
    let addresses = context.addresses(instruction, 0);
    let list = context.list(instruction);
    if list.len() > 1
        && let Some(fault) = misaligned_vector(context, &addresses, list.len() * W::BYTES)
    {
        return fault;
    }
    context.check_reads(space, &addresses, list.len() * W::BYTES, instruction.modifiers & STRONG != 0);
    for (at, slot) in list.iter().enumerate() {
        let mut values = [W::default(); 32];
        for lane in lanes(context.mask) {
            match context.load::<W>(space, lane, addresses[lane].wrapping_add((at * W::BYTES) as u64)) {
                Ok(value) => values[lane] = value,
                Err(refused) => return context.refuse(lane, refused, "read"),
            }
        }
        match instruction.modifiers >> 8 & 0x1f {
            16 => context.write(*slot, &values.map(W::wide)),
            8 if instruction.modifiers & SIGNED != 0 => {
                context.write(*slot, &values.map(|value| value.signed() as u64))
            }
            8 => context.write(*slot, &values.map(|value| value.wide() as u64)),
            _ if instruction.modifiers & SIGNED != 0 => {
                context.write(*slot, &values.map(|value| value.signed() as u32))
            }
            _ => context.write(*slot, &values.map(|value| value.wide() as u32)),
        }
    }
    context.check_local(space, &addresses, instruction, W::BYTES);
    if instruction.modifiers & STRONG != 0 {
        context.check_strong(space, &addresses, Strong::read(instruction.modifiers & ORDERED != 0));
        context.check_looks(space, &addresses);
    }
    Step::Next
}

/// The fault of a vector that does not lie at a multiple of its bytes.
#[inline(always)]
fn misaligned_vector(context: &mut Context<'_>, addresses: &[u64; LANES], bytes: usize) -> Option<Step> {
    let bytes = bytes as u64;
    let lane = lanes(context.mask).find(|lane| addresses[*lane] & (bytes - 1) != 0)?;
    let address = addresses[lane];
    let message = format!("misaligned vector of {bytes} bytes at 0x{address:x}: it has to be a multiple of {bytes}");
    Some(context.fail(crate::machine::fault::FaultKind::MisalignedAddress, lane, message))
}

/// Words that extend to registers, and are cut from them.
trait Extend {
    fn wide(self) -> u128;
    fn signed(self) -> i64;
    fn cut(value: u128) -> Self;
}

macro_rules! extend {
    ($($type:ty, $signed:ty;)*) => {$(
        impl Extend for $type {
            #[inline(always)]
            fn wide(self) -> u128 {
                self as u128
            }
            #[inline(always)]
            fn signed(self) -> i64 {
                self as $signed as i64
            }
            #[inline(always)]
            fn cut(value: u128) -> $type {
                value as $type
            }
        }
    )*};
}

extend! { u8, i8; u16, i16; u32, i32; u64, i64; u128, i128; }

/// The same for a store.
pub fn store(b: &mut Builder<'_, '_>, vector_at: usize, space_at: usize) -> Result<Execute, Problem> {
    let bytes = bytes_of(b.last());
    let count = components(b.modifier(vector_at));
    let [address, source, ..] = b.rest() else { return b.problem("`st` has an address and a source") };
    let space = space(b, b.modifier(space_at), address);
    let register = register_bytes(b, source, bytes)?;
    if space != Space::Global {
        // Values may pass through shared and local memory, and not matter.
        b.traits.undefined = Undefined::Vanishes;
    }
    b.address()?;
    b.take()?;
    let kind = match b.last() {
        "f32" => Kind::F32,
        "f64" => Kind::F64,
        "f16" => Kind::F16,
        "bf16" => Kind::BF16,
        _ => Kind::Integer,
    };
    let found = b.vector(source, register, kind, false)?;
    if found != count {
        return b.problem(format!("{found} registers for {count} elements"));
    }
    b.cache_policy()?;
    b.made.modifiers |= register << 8 | strength(b);
    Ok(by_word!(bytes, space, execute_store))
}

fn execute_store<W: Word + Extend, const SPACE: usize>(context: &mut Context<'_>, instruction: &Instruction) -> Step {
    let space = SPACES[SPACE];
    let addresses = context.addresses(instruction, 0);
    let list = context.list(instruction);
    if list.len() > 1
        && let Some(fault) = misaligned_vector(context, &addresses, list.len() * W::BYTES)
    {
        return fault;
    }
    if instruction.modifiers & STRONG != 0 {
        context.check_tells(space, &addresses);
    }
    for (at, slot) in list.iter().enumerate() {
        let values: [W; 32] = match instruction.modifiers >> 8 & 0x1f {
            16 => context.read::<u128>(*slot).map(W::cut),
            8 => context.read::<u64>(*slot).map(|value| W::cut(value.into())),
            _ => context.read::<u32>(*slot).map(|value| W::cut(value.into())),
        };
        for lane in lanes(context.mask) {
            let address = addresses[lane].wrapping_add((at * W::BYTES) as u64);
            context.check_store(space, lane, address, values[lane], instruction.modifiers & STRONG != 0);
            if let Err(refused) = context.store(space, lane, address, values[lane]) {
                return context.refuse(lane, refused, "write");
            }
        }
    }
    if instruction.modifiers & STRONG != 0 {
        context.check_strong(space, &addresses, Strong::write(instruction.modifiers & ORDERED != 0));
    }
    Step::Next
}

fn address_only(b: &mut Builder<'_, '_>) -> Result<Execute, Problem> {
    b.address()?;
    Ok(|_, _| Step::Next)
}

fn address_and_size(b: &mut Builder<'_, '_>) -> Result<Execute, Problem> {
    b.address()?;
    b.integer()?;
    Ok(|_, _| Step::Next)
}

/// A cache policy changes no value: the register gets a constant.
fn policy(b: &mut Builder<'_, '_>) -> Result<Execute, Problem> {
    b.destination::<u64>()?;
    while b.left() > 0 {
        b.take()?;
    }
    Ok(|context, instruction| {
        context.write(instruction.operands[0], &[0u64; 32]);
        Step::Next
    })
}
