//! Many rows of bf16 on AMX: tiles of 16 × 32 bf16 times 32 × 16 bf16 (as 16 pairs of rows), summed in tiles of 16 × 16 f32.

use super::{
    super::{
        emitter::{Machine, Ssa},
        lower::{Buffer, Lowering},
    },
    Extents, Packed, Staged,
};

/// Rows and columns of a tile of sums.
pub(super) const TILE: i64 = 16;
/// Rows that are read together: two tiles, where there may be as many.
pub(super) const ROWS: i64 = 2 * TILE;
/// Elements of the inner dimension that one instruction takes.
pub(super) const DEPTH: i64 = 32;
/// Bytes of a row of every tile.
pub(super) const ROW_BYTES: i64 = 64;

impl<'a> Lowering<'_, 'a> {
    /// All eight tiles as 16 rows of 64 bytes.
    pub(super) fn configure_tiles(&self) {
        let e = self.emitter;
        let configuration = self.reserve(64);
        let zero = e.integer(Machine::I8, 64, 0);
        e.store(zero, configuration);
        e.store(e.integer(Machine::I8, 1, 1), configuration);
        for tile in 0..8 {
            e.store(e.integer(Machine::I16, 1, ROW_BYTES), e.offset(configuration, e.index(16 + 2 * tile)));
            e.store(e.integer(Machine::I8, 1, TILE), e.offset(configuration, e.index(48 + tile)));
        }
        e.intrinsic_effect("llvm.x86.ldtilecfg", &[configuration]);
    }

    /// sums += staged · packed. Panels are one tile wide; blocks of 2 × 2 tiles share their operands.
    pub(super) fn multiply_tiles(
        &self,
        packed: &Packed<'a>,
        staged: &Staged<'a>,
        sums: &Buffer<'a>,
        rows: Ssa<'a>,
        columns: Ssa<'a>,
        extents: Extents,
    ) {
        let e = self.emitter;
        let pairs_of = |extent: u32| i64::from(extent) / (2 * TILE) * (2 * TILE);
        let (row_pairs, column_pairs) = (pairs_of(extents.rows), pairs_of(extents.columns));
        let split = |wanted: Ssa<'a>, pairs: i64, extent: u32, visit: &dyn Fn(Ssa<'a>, i64)| {
            if pairs > 0 {
                let upper = e.integer_minimum(wanted, e.index(pairs));
                self.each(e.index(0), upper, e.index(2 * TILE), &[], |first, _| {
                    visit(first, 2);
                    vec![]
                });
            }
            if pairs < i64::from(extent) {
                self.each(e.index(pairs), wanted, e.index(TILE), &[], |first, _| {
                    visit(first, 1);
                    vec![]
                });
            }
        };
        split(columns, column_pairs, extents.columns, &|column, wide| {
            split(rows, row_pairs, extents.rows, &|row, high| {
                self.tile_block(packed, staged, sums, [row, column], [high, wide], extents);
            });
        });
    }

    /// A block of high × wide tiles of sums.
    fn tile_block(
        &self,
        packed: &Packed<'a>,
        staged: &Staged<'a>,
        sums: &Buffer<'a>,
        [row, column]: [Ssa<'a>; 2],
        [high, wide]: [i64; 2],
        extents: Extents,
    ) {
        let e = self.emitter;
        let register = |number: i64| e.integer(Machine::I8, 1, number);
        let sum_stride = i64::from(sums.strides[0]) * 4;
        let target =
            e.offset(sums.pointer, e.add(e.multiply(row, e.index(sum_stride)), e.multiply(column, e.index(4))));
        let slot = |i: i64, j: i64| e.offset(target, e.index(i * TILE * sum_stride + j * ROW_BYTES));
        // Registers 0–3: sums; 4, 5: left; 6, 7: right.
        for i in 0..high {
            for j in 0..wide {
                e.intrinsic_effect("llvm.x86.tileloadd64", &[register(2 * i + j), slot(i, j), e.index(sum_stride)]);
            }
        }
        let left = e.offset(staged.pointer, e.multiply(row, e.index(staged.row_bytes)));
        let panel = e.unsigned_divide(column, e.index(TILE));
        let right = e.offset(packed.pointer, e.multiply(panel, e.index(packed.panel_bytes)));
        let inner = i64::from(extents.inner.next_multiple_of(DEPTH as u32));
        self.each(e.index(0), e.index(inner), e.index(DEPTH), &[], |k, _| {
            let left = e.offset(left, e.multiply(k, e.index(2)));
            for i in 0..high {
                let pointer = e.offset(left, e.index(i * TILE * staged.row_bytes));
                e.intrinsic_effect("llvm.x86.tileloadd64", &[register(4 + i), pointer, e.index(staged.row_bytes)]);
            }
            let right = e.offset(right, e.multiply(k, e.index(ROW_BYTES / 2)));
            for j in 0..wide {
                let pointer = e.offset(right, e.index(j * packed.panel_bytes));
                e.intrinsic_effect("llvm.x86.tileloadd64", &[register(6 + j), pointer, e.index(ROW_BYTES)]);
            }
            for i in 0..high {
                for j in 0..wide {
                    let operands = [register(2 * i + j), register(4 + i), register(6 + j)];
                    e.intrinsic_effect("llvm.x86.tdpbf16ps", &operands);
                }
            }
            vec![]
        });
        for i in 0..high {
            for j in 0..wide {
                e.intrinsic_effect("llvm.x86.tilestored64", &[register(2 * i + j), slot(i, j), e.index(sum_stride)]);
            }
        }
    }
}
