//! Copies of boxes of tensors: TMA.

use super::bulk::{issue_load, issue_store, multicast, transfer};
use super::bulk_reduction::Reduction;
use super::im2col::Unrolling;
use super::mbarrier;
use super::tensor_map::{self, BYTES, MapElement, TensorMap};
use crate::decode::builder::Builder;
use crate::decode::form::Form;
use crate::diagnostic::Problem;
use crate::instructions::atomic::add_kept;
use crate::machine::context::{Context, lanes};
use crate::machine::fault::FaultKind;
use crate::machine::instruction::{Execute, Instruction, Step};
use crate::machine::row::{Kind, Slot};
use crate::memory::access::{Space, shared, specific};
use crate::parse::ast::Operand;

/// The forms.
pub const FORMS: &[Form] = &[
    Form {
        pattern: "cp.async.bulk.tensor.1d|2d|3d|4d|5d.shared::cluster|shared::cta.global[.tile|tile::gather4|im2col|im2col::w|im2col::w::128].mbarrier::complete_tx::bytes[.multicast::cluster][.cta_group::1|cta_group::2][.L2::cache_hint]",
        section: "9.7.9.27.1.2 cp.async.bulk.tensor",
        build: load,
    },
    Form {
        pattern: "cp.async.bulk.tensor.1d|2d|3d|4d|5d.global.shared::cta[.tile|tile::scatter4|im2col_no_offs].bulk_group[.L2::cache_hint]",
        section: "9.7.9.27.1.2 cp.async.bulk.tensor",
        build: store,
    },
    Form {
        pattern: "cp.reduce.async.bulk.tensor.1d|2d|3d|4d|5d.global.shared::cta.add|min|max|inc|dec|and|or|xor[.tile|im2col_no_offs].bulk_group[.L2::cache_hint]",
        section: "9.7.9.27.1.3 cp.reduce.async.bulk.tensor",
        build: store,
    },
    Form {
        pattern: "cp.async.bulk.prefetch.tensor.1d|2d|3d|4d|5d.L2.global[.tile|tile::gather4|im2col|im2col::w|im2col::w::128][.L2::cache_hint]",
        section: "9.7.9.27.1.4 cp.async.bulk.prefetch.tensor",
        build: |b| {
            let coordinates = map_and_coordinates(b)?;
            if unrolling(b).is_some() {
                offsets(b, coordinates)?;
            }
            b.cache_policy()?;
            Ok(|_, _| Step::Next)
        },
    },
    Form {
        pattern: "tensormap.replace.tile.global_address|rank|box_dim|global_dim|global_stride|element_stride|elemtype|interleave_layout|swizzle_mode|swizzle_atomicity|fill_mode[.global|shared::cta].b1024.b32|b64",
        section: "9.7.9.28 tensormap.replace",
        build: replace,
    },
    Form {
        pattern: "tensormap.cp_fenceproxy.global.shared::cta.tensormap::generic.release.SCOPE.sync.aligned",
        section: "9.7.13.16 tensormap.cp_fenceproxy",
        build: |b| {
            b.listed_address()?;
            b.listed_address()?;
            if b.integer()? != BYTES as i64 {
                return b.problem("a tensor map has 128 bytes");
            }
            Ok(|context, instruction| {
                if !context.assembled(u32::MAX) {
                    return Step::Converge;
                }
                let list = context.list(instruction);
                let lane = context.leader();
                let to = context.listed_address(list, lane);
                let from = shared(context.listed_address(&list[3..], lane));
                context.issue(lane, |_, _| None);
                match transfer(context, (Space::Shared, from), (Space::Generic, to), BYTES) {
                    Ok(()) => Step::Next,
                    Err(refused) => context.refuse(lane, refused, "copy of a tensor map"),
                }
            })
        },
    },
];

/// The fields of `tensormap.replace`, by the number that instructions keep.
const FIELDS: [&str; 11] = [
    "global_address",
    "rank",
    "box_dim",
    "global_dim",
    "global_stride",
    "element_stride",
    "elemtype",
    "interleave_layout",
    "swizzle_mode",
    "swizzle_atomicity",
    "fill_mode",
];

fn replace(b: &mut Builder<'_, '_>) -> Result<Execute, Problem> {
    let field = FIELDS.iter().position(|field| b.has(field)).unwrap_or(0);
    b.listed_address()?;
    let indexed = matches!(FIELDS[field], "box_dim" | "global_dim" | "global_stride" | "element_stride");
    if indexed {
        let index = b.integer()?;
        if !(0..5).contains(&index) {
            return b.problem("a tensor has at most five dimensions");
        }
        b.made.immediate = index;
    }
    let wide = b.last() == "b64";
    if wide {
        b.source::<u64>()?;
    } else {
        b.source::<u32>()?;
    }
    let in_shared = b.has("shared::cta");
    b.made.modifiers = field as u32 | u32::from(wide) << 8 | u32::from(in_shared) << 9;
    Ok(|context, instruction| {
        let modifiers = instruction.modifiers;
        let list = context.list(instruction);
        for lane in lanes(context.mask) {
            let address = context.listed_address(list, lane);
            let place = if modifiers >> 9 != 0 { (Space::Shared, shared(address)) } else { specific(address) };
            let value = if modifiers >> 8 & 1 != 0 {
                context.read::<u64>(instruction.operands[0])[lane]
            } else {
                u64::from(context.row(instruction.operands[0]).0[lane])
            };
            let mut bytes = [0; BYTES];
            context.issue(lane, |_, _| None);
            if let Err(refused) = context.copy_out(place.0, place.1, &mut bytes) {
                return context.refuse(lane, refused, "tensormap.replace");
            }
            tensor_map::replace(&mut bytes, FIELDS[modifiers as usize & 0xff], instruction.immediate as usize, value);
            if let Err(refused) = context.copy_in(place.0, place.1, &bytes) {
                return context.refuse(lane, refused, "tensormap.replace");
            }
        }
        Step::Next
    })
}

/// Reads `[map, {coordinates}]`: three slots of the list for the map's address, then the coordinates.
fn map_and_coordinates(b: &mut Builder<'_, '_>) -> Result<usize, Problem> {
    let Operand::Address(parts) = b.take()? else { return b.problem("expected `[map, {coordinates}]`") };
    let [map, coordinates] = parts.as_slice() else { return b.problem("expected `[map, {coordinates}]`") };
    b.listed_address_part(map)?;
    let found = b.vector(coordinates, 4, Kind::Integer, false)?;
    let rank = b.modifiers.iter().find_map(|modifier| modifier.strip_suffix('d')?.parse().ok()).unwrap_or(1usize);
    let rows = b.has("tile::gather4") || b.has("tile::scatter4");
    let wanted = if rows { 5 } else { rank };
    if found != wanted || rows && rank != 2 {
        return b.problem(format!("{found} coordinates, the instruction wants {wanted}"));
    }
    if rank < 3 && unrolling(b).is_some() {
        return b.problem("im2col copies are of tensors of three to five dimensions");
    }
    Ok(found)
}

/// The im2col mode, if it is one.
fn unrolling(b: &Builder<'_, '_>) -> Option<Unrolling> {
    b.modifiers.iter().find_map(|modifier| Unrolling::named(modifier))
}

/// Reads the offsets of an im2col copy into the list: two fewer than there are coordinates; or the halo and the offset along W.
fn offsets(b: &mut Builder<'_, '_>, coordinates: usize) -> Result<(), Problem> {
    let operand = b.take()?;
    let found = b.vector(operand, 2, Kind::Integer, false)?;
    let wanted = if unrolling(b) == Some(Unrolling::Filter) { coordinates.saturating_sub(2) } else { 2 };
    if found != wanted {
        return b.problem(format!("{found} offsets, the instruction wants {wanted}"));
    }
    Ok(())
}

/// Four rows of a matrix, each with its own index.
const ROWS: u32 = 1;
const MULTICAST: u32 = 2;
const REDUCE: u32 = 4;
/// Pixels around which a filter is moved: from here on the mode, counted from one.
const PIXELS_AT: u32 = 4;

/// The im2col mode of an instruction, if it is one.
fn mode_of(instruction: &Instruction) -> Option<Unrolling> {
    (instruction.modifiers >> PIXELS_AT & 3).checked_sub(1).map(Unrolling::from_code)
}
/// The barrier of a copy of a pair of CTAs may be the other one's.
const PAIR: u32 = 8;

fn load(b: &mut Builder<'_, '_>) -> Result<Execute, Problem> {
    b.listed_address()?;
    let coordinates = map_and_coordinates(b)?;
    b.listed_address()?;
    if let Some(unrolling) = unrolling(b) {
        offsets(b, coordinates)?;
        b.made.modifiers |= (unrolling as u32 + 1) << PIXELS_AT;
    }
    if b.has("multicast::cluster") {
        b.source::<u16>()?;
        b.made.modifiers |= MULTICAST;
    }
    b.cache_policy()?;
    for (name, bit) in [("tile::gather4", ROWS), ("cta_group::2", PAIR)] {
        if b.has(name) {
            b.made.modifiers |= bit;
        }
    }
    b.made.immediate = coordinates as i64;
    Ok(execute_load)
}

/// Reads the map that a lane names, and checks that its rank and mode are the instruction's.
fn read_map(
    context: &mut Context<'_>,
    lane: usize,
    address: u64,
    rank: usize,
    wanted: Option<Unrolling>,
) -> Result<TensorMap, Step> {
    if !address.is_multiple_of(64) {
        let message = format!("the tensor map at 0x{address:x} has to be aligned to 64 bytes");
        return Err(context.fail(FaultKind::MisalignedAddress, lane, message));
    }
    let mut bytes = [0; BYTES];
    if let Err(refused) = context.copy_out(Space::Generic, address, &mut bytes) {
        return Err(context.refuse(lane, refused, "read of a tensor map"));
    }
    let map = TensorMap::decode(&bytes);
    if let Err(error) = map.validate() {
        let message = format!("the 128 bytes at 0x{address:x} are not a tensor map: {error}");
        return Err(context.fail(FaultKind::IllegalInstruction, lane, message));
    }
    if map.rank != rank {
        let message = format!("the tensor map has {} dimensions, the instruction {rank}", map.rank);
        return Err(context.fail(FaultKind::IllegalInstruction, lane, message));
    }
    let made = map.pixels.map(|pixels| pixels.unrolling);
    if made != wanted {
        let [made, used] = [made, wanted].map(|mode| mode.map_or("tile", Unrolling::name));
        let message = format!("the tensor map is encoded for {made} mode, the instruction is for {used} mode");
        return Err(context.fail(FaultKind::IllegalInstruction, lane, message));
    }
    Ok(map)
}

fn read_coordinates(context: &Context<'_>, slots: &[Slot], lane: usize) -> [i32; 5] {
    let mut coordinates = [0; 5];
    for (coordinate, slot) in coordinates.iter_mut().zip(slots) {
        *coordinate = context.row(*slot).0[lane] as i32;
    }
    coordinates
}

fn execute_load(context: &mut Context<'_>, instruction: &Instruction) -> Step {
    let list = context.list(instruction);
    let count = instruction.immediate as usize;
    let rows = instruction.modifiers & ROWS != 0;
    let mode = mode_of(instruction);
    for lane in lanes(context.mask) {
        let to = shared(context.listed_address(list, lane));
        let map_address = context.listed_address(&list[3..], lane);
        let coordinates = read_coordinates(context, &list[6..6 + count], lane);
        let barrier = shared(context.listed_address(&list[6 + count..], lane));
        let map = match read_map(context, lane, map_address, if rows { 2 } else { count }, mode) {
            Ok(map) => map,
            Err(step) => return step,
        };
        let mut offsets = [0; 3];
        if mode.is_some() {
            for (offset, slot) in offsets.iter_mut().zip(&list[9 + count..]) {
                *offset = i64::from(context.row(*slot).0[lane] & 0xffff);
            }
        }
        let halos = match mode {
            Some(Unrolling::Width) => 512,
            Some(Unrolling::Width128) => 32,
            _ => i64::MAX,
        };
        if offsets[0] >= halos {
            let message = format!("a halo of {} pixels: there can be {} at most", offsets[0], halos - 1);
            return context.fail(FaultKind::IllegalInstruction, lane, message);
        }
        let targets = multicast(context, instruction.modifiers & MULTICAST != 0, instruction.operands[0], lane);
        for target in targets.into_iter().flatten() {
            let place = |address: u64| target.map_or(address, |rank| address & 0xff_ffff | rank << 24);
            // Of a pair, the CTA is told whose rank is even or odd as is that of the barrier.
            let told = match target {
                Some(rank) if instruction.modifiers & PAIR != 0 => {
                    barrier & 0xff_ffff | (rank & !1 | barrier >> 24 & 1) << 24
                }
                _ => place(barrier),
            };
            issue_load(context, lane, told);
            let moved = if rows {
                let single = TensorMap { box_extents: [map.box_extents[0], 1, 1, 1, 1], ..map };
                let each = map.element.shared_bytes(u64::from(map.box_extents[0]));
                (0..4).try_fold(0, |all, row| {
                    let at = [coordinates[0], coordinates[1 + row as usize], 0, 0, 0];
                    Ok(all + load_box(context, lane, &single, at, offsets, place(to) + each * row)?)
                })
            } else {
                load_box(context, lane, &map, coordinates, offsets, place(to))
            };
            let moved = match moved {
                Ok(moved) => moved,
                Err(step) => return step,
            };
            if let Err(step) = mbarrier::complete(context, lane, told, moved as usize) {
                return step;
            }
        }
    }
    Step::Next
}

/// Where in the tensor the rows of a copy start.
fn rows(map: &TensorMap, coordinates: [i32; 5], offsets: [i64; 3]) -> impl Iterator<Item = [i64; 5]> {
    let start = coordinates.map(i64::from);
    let strides = map.element_strides.map(i64::from);
    let (pixels, wide, tiles) = match map.pixels {
        Some(pixels) if pixels.unrolling == Unrolling::Filter => (Some(pixels.walk(map, start, offsets)), None, None),
        // The halo comes first among the operands, then the offset.
        Some(pixels) => (None, Some(pixels.walk_wide(map, start, offsets[0], offsets[1])), None),
        None => (None, None, Some(Rows::of(map))),
    };
    let tiles = tiles.into_iter().flatten();
    let tiles = tiles.map(move |row| std::array::from_fn(|at| start[at] + row[at] as i64 * strides[at]));
    pixels.into_iter().flatten().chain(wide.into_iter().flatten()).chain(tiles)
}

/// The rows of a box: for each, the indices of the outer dimensions.
struct Rows {
    extents: [u64; 5],
    at: [u64; 5],
    done: bool,
}

impl Rows {
    fn of(map: &TensorMap) -> Rows {
        let along = |at: usize| u64::from(map.box_extents[at].div_ceil(map.element_strides[at]));
        let extents = std::array::from_fn(|at| if at == 0 || at >= map.rank { 1 } else { along(at) });
        Rows { extents, at: [0; 5], done: false }
    }
}

impl Iterator for Rows {
    type Item = [u64; 5];

    fn next(&mut self) -> Option<[u64; 5]> {
        if self.done {
            return None;
        }
        let row = self.at;
        for dimension in 1..5 {
            self.at[dimension] += 1;
            if self.at[dimension] < self.extents[dimension] {
                return Some(row);
            }
            self.at[dimension] = 0;
        }
        self.done = true;
        Some(row)
    }
}

/// The part of a row that is inside of the tensor: its address, its first element in the row, and how many.
fn inside(map: &TensorMap, row: &[i64; 5]) -> Option<(u64, u64, u64)> {
    let mut address = map.address;
    for (dimension, index) in row.iter().copied().enumerate().take(map.rank).skip(1) {
        if index < 0 || index as u64 >= map.dimensions[dimension] {
            return None;
        }
        address = address.wrapping_add((index as u64).wrapping_mul(map.strides[dimension - 1]));
    }
    let start = row[0];
    let first = start.max(0);
    let end = (start + i64::from(map.box_extents[0])).min(map.dimensions[0] as i64);
    if first >= end {
        return None;
    }
    let bits = map.element.bits();
    Some((address.wrapping_add(first as u64 * bits / 8), (first - start) as u64, (end - first) as u64))
}

/// The longest row of a box: 256 elements of 8 bytes.
const ROW: usize = 2048;

/// Spreads packed elements of a row over shared memory's groups of 16 bytes, or gathers them.
fn spread(element: MapElement, row: &mut [u8; ROW], count: u64) {
    let packed = (2 * element.bits()) as usize;
    for group in (0..count as usize / 16).rev() {
        row.copy_within(group * packed..(group + 1) * packed, group * 16);
        row[group * 16 + packed..(group + 1) * 16].fill(0);
    }
}

/// Loads a box into shared memory, and gives the bytes that its barrier is told of: those of its elements, without the padding of packed
/// ones.
fn load_box(
    context: &mut Context<'_>,
    lane: usize,
    map: &TensorMap,
    coordinates: [i32; 5],
    offsets: [i64; 3],
    to: u64,
) -> Result<u64, Step> {
    let alignment = if map.swizzle.mode == 0 { 16 } else { 128 };
    if to & (alignment - 1) != 0 {
        let message = format!("the box's place in shared memory, 0x{to:x}, has to be a multiple of {alignment}");
        return Err(context.fail(FaultKind::MisalignedAddress, lane, message));
    }
    let row_bytes = map.element.shared_bytes(u64::from(map.box_extents[0]));
    let padded = matches!(map.element, MapElement::FP4_PADDED | MapElement::FP6_PADDED);
    let told = (u64::from(map.box_extents[0]) * map.element.bits()).div_ceil(8);
    let (mut moved, mut count) = (0, 0);
    for row in rows(map, coordinates, offsets) {
        let mut buffer = [0; ROW];
        if map.fill_nan {
            let nan = map.element.nan();
            buffer.iter_mut().enumerate().for_each(|(at, byte)| *byte = nan[at % 8]);
        }
        if let Some((address, first, count)) = inside(map, &row) {
            let bits = map.element.bits();
            let (start, length) = ((first * bits / 8) as usize, (count * bits).div_ceil(8) as usize);
            if let Err(refused) = context.copy_out(Space::Global, address, &mut buffer[start..start + length]) {
                return Err(context.refuse(lane, refused, "tensor copy"));
            }
        }
        if padded {
            spread(map.element, &mut buffer, u64::from(map.box_extents[0]));
        }
        write_row(context, lane, map, to + moved, &buffer[..row_bytes as usize])?;
        moved += row_bytes;
        count += told;
    }
    Ok(count)
}

fn write_row(context: &mut Context<'_>, lane: usize, map: &TensorMap, to: u64, row: &[u8]) -> Result<(), Step> {
    let step = if map.swizzle.mode == 0 {
        row.len().max(1)
    } else if map.swizzle.atomicity == 2 {
        8
    } else {
        16
    };
    for (at, chunk) in row.chunks(step).enumerate() {
        let address = map.swizzle.apply(to + (at * step) as u64);
        if let Err(refused) = context.copy_in(Space::Shared, address, chunk) {
            return Err(context.refuse(lane, refused, "tensor copy"));
        }
    }
    Ok(())
}

fn store(b: &mut Builder<'_, '_>) -> Result<Execute, Problem> {
    let coordinates = map_and_coordinates(b)?;
    b.listed_address()?;
    b.cache_policy()?;
    if b.has("tile::scatter4") {
        b.made.modifiers |= ROWS;
    }
    if let Some(unrolling) = unrolling(b) {
        b.made.modifiers |= (unrolling as u32 + 1) << PIXELS_AT;
    }
    if let Some(operation) = OPERATIONS.iter().position(|name| b.has(name)) {
        b.made.modifiers |= REDUCE | (operation as u32) << 8;
    }
    b.made.immediate = coordinates as i64;
    Ok(execute_store)
}

const OPERATIONS: [&str; 8] = ["add", "min", "max", "inc", "dec", "and", "or", "xor"];

/// The reduction that a map's elements take.
fn reduction(map: &TensorMap, operation: &str) -> Option<Reduction> {
    let bitwise = matches!(operation, "and" | "or" | "xor");
    // Floats of a map keep what is subnormal, unless the map's type says otherwise.
    if (map.element.0, operation) == (7, "add") {
        return Some(Reduction::Single(add_kept));
    }
    let kind = match map.element.0 {
        2 if bitwise => "b32",
        2 => "u32",
        3 if bitwise => "b32",
        3 => "s32",
        4 if bitwise => "b64",
        4 => "u64",
        5 if bitwise => "b64",
        5 => "s64",
        6 => "f16",
        7 | 8 => "f32",
        9 => "f64",
        10 => "bf16",
        _ => return None,
    };
    Reduction::named(operation, kind)
}

fn execute_store(context: &mut Context<'_>, instruction: &Instruction) -> Step {
    let list = context.list(instruction);
    let count = instruction.immediate as usize;
    let modifiers = instruction.modifiers;
    let (rows, mode) = (modifiers & ROWS != 0, mode_of(instruction));
    for lane in lanes(context.mask) {
        let map_address = context.listed_address(list, lane);
        let coordinates = read_coordinates(context, &list[3..3 + count], lane);
        let from = shared(context.listed_address(&list[3 + count..], lane));
        let map = match read_map(context, lane, map_address, if rows { 2 } else { count }, mode) {
            Ok(map) => map,
            Err(step) => return step,
        };
        let mut combine = None;
        if modifiers & REDUCE != 0 {
            let operation = OPERATIONS[modifiers as usize >> 8 & 7];
            combine = reduction(&map, operation);
            if combine.is_none() {
                let message = format!("the tensor map's elements have no reduction `{operation}`");
                return context.fail(FaultKind::IllegalInstruction, lane, message);
            }
        }
        issue_store(context, lane);
        let stored = if rows {
            let single = TensorMap { box_extents: [map.box_extents[0], 1, 1, 1, 1], ..map };
            (0..4).try_fold(0, |all, row| {
                let at = [coordinates[0], coordinates[1 + row], 0, 0, 0];
                Ok(all + store_box(context, lane, &single, at, from + all, combine)?)
            })
        } else {
            store_box(context, lane, &map, coordinates, from, combine)
        };
        if let Err(step) = stored {
            return step;
        }
    }
    Step::Next
}

/// Stores the part of a box that is inside of the tensor, and gives the box's bytes.
fn store_box(
    context: &mut Context<'_>,
    lane: usize,
    map: &TensorMap,
    coordinates: [i32; 5],
    from: u64,
    combine: Option<Reduction>,
) -> Result<u64, Step> {
    let row_bytes = map.element.shared_bytes(u64::from(map.box_extents[0]));
    let padded = matches!(map.element, MapElement::FP4_PADDED | MapElement::FP6_PADDED);
    let mut moved = 0;
    for row in rows(map, coordinates, [0; 3]) {
        let mut buffer = [0; ROW];
        let step = if map.swizzle.mode == 0 {
            row_bytes as usize
        } else if map.swizzle.atomicity == 2 {
            8
        } else {
            16
        };
        for (at, chunk) in buffer[..row_bytes as usize].chunks_mut(step.max(1)).enumerate() {
            let address = map.swizzle.apply(from + moved + (at * step) as u64);
            if let Err(refused) = context.copy_out(Space::Shared, address, chunk) {
                return Err(context.refuse(lane, refused, "tensor copy"));
            }
        }
        moved += row_bytes;
        if padded {
            let packed = (2 * map.element.bits()) as usize;
            for group in 0..map.box_extents[0] as usize / 16 {
                buffer.copy_within(group * 16..group * 16 + packed, group * packed);
            }
        }
        let Some((address, first, count)) = inside(map, &row) else { continue };
        let bits = map.element.bits();
        let part = &buffer[(first * bits / 8) as usize..][..(count * bits).div_ceil(8) as usize];
        let stored = match combine {
            None => context.copy_in(Space::Global, address, part),
            Some(reduction) => reduction.apply_each(context, (Space::Global, address), part),
        };
        if let Err(refused) = stored {
            return Err(context.refuse(lane, refused, "tensor copy"));
        }
    }
    Ok(moved)
}
