//! Few rows of bf16 times a small right-hand side of bf16, on AMX: what decoding asks of attention.
//!
//! A right-hand side whose columns are runs of memory (keys) takes the side of the rows: tiles of 16 columns × 32 elements times the rows in
//! pairs give the products transposed. One whose rows are runs (values) is packed in pairs, and the rows are padded to a tile.

use super::{
    super::{
        emitter::{Machine, Ssa},
        features::Extension,
        lower::{Buffer, Lowering},
    },
    Arithmetic, Extents, STREAMED_ROWS, Staged,
    amx::{DEPTH, ROW_BYTES, TILE},
    runs::Runs,
};
use crate::tile::{Element, Value};

const TILE_BYTES: i64 = TILE * ROW_BYTES;
/// Tiles of products that are summed side by side, in the first registers. Then come the tile that they share, and one of their own.
const WIDE: i64 = 4;
const SHARED: i64 = WIDE;
const OWN: i64 = WIDE + 1;
/// Rows that half a row of a tile has room for.
const ROWS: usize = STREAMED_ROWS as usize;
/// Bytes of a right-hand side that is copied before it is multiplied: a third of the first-level cache. Larger ones are streamed.
const LARGEST: u32 = 16 << 10;

/// Where the first tile of a row of tiles starts, the bytes from one row of it to the next, and those from one tile to the next.
struct Place<'a> {
    pointer: Ssa<'a>,
    pitch: Ssa<'a>,
    step: i64,
}

/// Tiles of a product, along the inner dimension.
struct Tiles<'t, 'a> {
    /// The tiles that all columns are multiplied with.
    shared: Place<'a>,
    /// The tiles of columns from this one on.
    own: &'t dyn Fn(Ssa<'a>) -> Place<'a>,
    /// Whether the columns' tiles are the left factors.
    columns_first: bool,
    /// Adds a tile of products of columns from this one on.
    add: &'t dyn Fn(Ssa<'a>, Ssa<'a>),
}

impl<'a> Lowering<'_, 'a> {
    /// Whether a product is made of such tiles.
    pub(super) fn multiplies_short_tiles(&self, lhs: Value, rhs: Value) -> bool {
        let Extents { rows, inner, columns } = self.extents(lhs, rhs);
        let is_bf16 = |value| self.program.type_of(value).element == Element::BF16;
        self.has(Extension::AmxBf16)
            && i64::from(self.lanes) == TILE
            && (2..=STREAMED_ROWS).contains(&rows)
            && is_bf16(lhs)
            && is_bf16(rhs)
            && inner >= DEPTH as u32
            && columns >= TILE as u32
            && inner.saturating_mul(columns).saturating_mul(2) <= LARGEST
    }

    /// sums += lhs · rhs, for the first `columns` columns.
    pub(super) fn multiply_short_tiles(
        &self,
        lhs: Value,
        rhs: Value,
        sums: &Buffer<'a>,
        columns: Option<Ssa<'a>>,
        extents: Extents,
    ) {
        let e = self.emitter;
        let columns = columns.unwrap_or_else(|| e.index(i64::from(extents.columns)));
        let left = self.stage(lhs, Arithmetic::Amx, e.index(i64::from(extents.rows)), extents);
        if self.runs_along_inner(rhs) {
            let runs = self.runs(rhs, extents.columns, extents.inner, true);
            self.multiply_columns(&left, &runs, sums, columns, extents);
        } else {
            let runs = self.runs(rhs, extents.inner, extents.columns, false);
            self.multiply_panels(&left, &runs, sums, columns, extents);
        }
    }

    fn multiply_columns(
        &self,
        left: &Staged<'a>,
        runs: &Runs<'a>,
        sums: &Buffer<'a>,
        columns: Ssa<'a>,
        extents: Extents,
    ) {
        let e = self.emitter;
        let halves: Vec<i32> = (0..2 * ROWS as i32).collect();
        let tiles = Tiles {
            shared: Place { pointer: self.row_pairs(left, extents), pitch: e.index(ROW_BYTES), step: TILE_BYTES },
            own: &|column| {
                let (pointer, pitch) = self.tile_of_runs(runs, column);
                Place { pointer, pitch, step: ROW_BYTES }
            },
            columns_first: true,
            add: &|products, column| {
                let row =
                    |row: usize| e.load(e.offset(products, e.index(row as i64 * ROW_BYTES)), Machine::F32, ROWS as u32);
                let mut registers: Vec<Ssa<'a>> =
                    (0..ROWS).map(|index| e.shuffle(row(index), row(index + ROWS), &halves)).collect();
                self.transpose_registers(&mut registers);
                self.add_rows(&registers, sums, column, extents);
            },
        };
        self.each_tile(columns, extents, &tiles);
    }

    fn multiply_panels(
        &self,
        left: &Staged<'a>,
        runs: &Runs<'a>,
        sums: &Buffer<'a>,
        columns: Ssa<'a>,
        extents: Extents,
    ) {
        let e = self.emitter;
        let panel_bytes = steps(extents) * TILE_BYTES;
        let packed = self.pack_runs(runs, extents);
        let tiles = Tiles {
            shared: Place { pointer: left.pointer, pitch: e.index(left.row_bytes), step: ROW_BYTES },
            own: &|column| {
                let panel = e.multiply(e.unsigned_divide(column, e.index(TILE)), e.index(panel_bytes));
                Place { pointer: e.offset(packed, panel), pitch: e.index(ROW_BYTES), step: TILE_BYTES }
            },
            columns_first: false,
            add: &|products, column| {
                let rows: Vec<Ssa<'a>> = (0..i64::from(extents.rows))
                    .map(|row| e.load(e.offset(products, e.index(row * ROW_BYTES)), Machine::F32, self.lanes))
                    .collect();
                self.add_rows(&rows, sums, column, extents);
            },
        };
        self.each_tile(columns, extents, &tiles);
    }

    /// Rows of a right-hand side as panels of 16 columns, in which the rows lie in pairs.
    fn pack_runs(&self, runs: &Runs<'a>, extents: Extents) -> Ssa<'a> {
        let e = self.emitter;
        let panel_bytes = steps(extents) * TILE_BYTES;
        let width = i64::from(extents.columns.next_multiple_of(DEPTH as u32));
        let packed = self.reserve((width / TILE * panel_bytes) as u64);
        let rows = steps(extents) * DEPTH;
        self.each(e.index(0), e.index(rows), e.index(TILE), &[], |first, _| {
            let (pointer, pitch) = self.tile_of_runs(runs, first);
            self.each(e.index(0), e.index(TILE), e.index(2), &[], |row, _| {
                self.fetch_ahead();
                let even = e.offset(pointer, e.multiply(row, pitch));
                let odd = e.offset(even, pitch);
                let target = e.offset(packed, e.multiply(e.add(first, row), e.index(ROW_BYTES / 2)));
                for column in (0..width).step_by(DEPTH as usize) {
                    let [even, odd] =
                        [even, odd].map(|row| e.load(e.offset(row, e.index(2 * column)), Machine::I16, DEPTH as u32));
                    for panel in 0..DEPTH / TILE {
                        let lanes = panel * TILE..(panel + 1) * TILE;
                        let pairs: Vec<i32> = lanes.flat_map(|lane| [lane as i32, (DEPTH + lane) as i32]).collect();
                        let place = (column / TILE + panel) * panel_bytes;
                        e.store(e.shuffle(even, odd, &pairs), e.offset(target, e.index(place)));
                    }
                }
                vec![]
            });
            vec![]
        });
        packed
    }

    /// The rows as tiles that are multiplied from the right: in each row a pair of elements of every row.
    fn row_pairs(&self, left: &Staged<'a>, extents: Extents) -> Ssa<'a> {
        let e = self.emitter;
        let steps = steps(extents);
        let pointer = self.reserve((steps * TILE_BYTES) as u64);
        self.each(e.index(0), e.index(steps), e.index(1), &[], |step, _| {
            let source = e.offset(left.pointer, e.multiply(step, e.index(ROW_BYTES)));
            let mut registers: Vec<Ssa<'a>> = (0..ROWS)
                .map(|row| {
                    // What stands in for rows that there are not is never looked at.
                    let row = row.min(extents.rows as usize - 1);
                    e.load(e.offset(source, e.index(row as i64 * left.row_bytes)), Machine::I32, self.lanes)
                })
                .collect();
            self.transpose_registers(&mut registers);
            let target = e.offset(pointer, e.multiply(step, e.index(TILE_BYTES)));
            for (index, &register) in registers.iter().enumerate() {
                for (half, pair) in [index, index + ROWS].into_iter().enumerate() {
                    let lanes: Vec<i32> = (0..ROWS).map(|lane| (half * ROWS + lane) as i32).collect();
                    let pair = e.offset(target, e.index(pair as i64 * ROW_BYTES));
                    e.store(e.shuffle(register, register, &lanes), pair);
                }
            }
            vec![]
        });
        pointer
    }

    /// Multiplies the tiles of all columns.
    fn each_tile(&self, columns: Ssa<'a>, extents: Extents, tiles: &Tiles<'_, 'a>) {
        let e = self.emitter;
        let products = self.reserve((WIDE * TILE_BYTES) as u64);
        let steps = e.index(steps(extents));
        let register = |number: i64| e.integer(Machine::I8, 1, number);
        let load = |tile: i64, place: &Place<'a>, step: Ssa<'a>| {
            let pointer = e.offset(place.pointer, e.multiply(step, e.index(place.step)));
            e.intrinsic_effect("llvm.x86.tileloadd64", &[register(tile), pointer, place.pitch]);
        };
        let group = |column: Ssa<'a>, wide: i64| {
            let at = |tile: i64| e.add(column, e.index(tile * TILE));
            let own: Vec<Place<'a>> = (0..wide).map(|tile| (tiles.own)(at(tile))).collect();
            for tile in 0..wide {
                e.intrinsic_effect("llvm.x86.tilezero", &[register(tile)]);
            }
            self.each(e.index(0), steps, e.index(1), &[], |step, _| {
                load(SHARED, &tiles.shared, step);
                for (tile, own) in (0..).zip(&own) {
                    load(OWN, own, step);
                    let [left, right] = if tiles.columns_first { [OWN, SHARED] } else { [SHARED, OWN] };
                    e.intrinsic_effect("llvm.x86.tdpbf16ps", &[register(tile), register(left), register(right)]);
                }
                vec![]
            });
            let place = |tile: i64| e.offset(products, e.index(tile * TILE_BYTES));
            for tile in 0..wide {
                e.intrinsic_effect("llvm.x86.tilestored64", &[register(tile), place(tile), e.index(ROW_BYTES)]);
            }
            // A loop, since a kernel that runs between others that read all weights finds none of its code in a cache.
            self.each(e.index(0), e.index(wide), e.index(1), &[], |tile, _| {
                let place = e.offset(products, e.multiply(tile, e.index(TILE_BYTES)));
                (tiles.add)(place, e.add(column, e.multiply(tile, e.index(TILE))));
                vec![]
            });
        };
        let end = e.subtract(columns, e.index(WIDE * TILE - 1));
        let done = self.each(e.index(0), end, e.index(WIDE * TILE), &[e.index(0)], |column, _| {
            group(column, WIDE);
            vec![e.add(column, e.index(WIDE * TILE))]
        });
        self.each(done[0], columns, e.index(TILE), &[], |column, _| {
            group(column, 1);
            vec![]
        });
    }

    /// Adds a vector of each row to the sums, from a column on.
    fn add_rows(&self, rows: &[Ssa<'a>], sums: &Buffer<'a>, column: Ssa<'a>, extents: Extents) {
        let e = self.emitter;
        for (row, &vector) in (0..i64::from(extents.rows)).zip(rows) {
            let pointer = self.buffer_pointer(sums, &[e.index(row), column]);
            e.store(e.add(e.load(pointer, Machine::F32, self.lanes), vector), pointer);
        }
    }
}

/// How many tiles follow one another along the inner dimension.
fn steps(extents: Extents) -> i64 {
    i64::from(extents.inner.div_ceil(DEPTH as u32))
}
