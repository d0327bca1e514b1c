//! Reductions: inside a thread, across the lanes of a warp by shuffles, across warps through shared memory.

use super::emit::{FloatPredicate, Scalar, Val};
use super::error::Error;
use super::layout::{Bits, LANE_BITS, Layout, project_index};
use super::lower::{Lowering, Registers};
use super::math;
use crate::tile::{Element, Reduction, Value};

/// All lanes of a warp.
const FULL_WARP: i64 = -1;

impl<'a> Lowering<'_, 'a> {
    /// Combines the elements along an axis. The result has the layout's reduced form, in every thread that has a copy.
    pub fn reduce(
        &mut self,
        reduction: Reduction,
        operand: Value,
        source: &Registers<'a>,
        layout: &Layout,
        axis: usize,
        scalar: Scalar,
    ) -> Result<Registers<'a>, Error> {
        let shape = self.shape(operand);
        let element = self.program.type_of(operand).element;
        if element == Element::Bool {
            return Err(Error::Unsupported { value: operand, what: "a reduction of bool".into() });
        }
        let kept: Vec<usize> = (0..shape.len()).filter(|&dimension| dimension != axis).collect();
        let kept_shape: Vec<u32> = kept.iter().map(|&dimension| shape[dimension]).collect();
        let result_layout = layout.reduce(shape, axis);
        // Narrow floats are combined in f32 and rounded once.
        let narrow = element.is_float() && scalar.bits() < 32;
        let (wide, wide_scalar) = if narrow { (Element::F32, Scalar::F32) } else { (element, scalar) };
        let source = if narrow { self.cast(operand, source, element, Element::F32)? } else { source.clone() };

        let mut partial: Vec<Vec<Val<'a>>> = vec![Vec::new(); result_layout.register_count()];
        for (register, &value) in source.iter().enumerate() {
            let index = project_index(shape, &kept, &kept_shape, layout.register_index(register));
            partial[result_layout.register_of(index)].push(value);
        }
        let mut results: Vec<Val<'a>> =
            partial.into_iter().map(|values| self.combine_tree(reduction, wide, wide_scalar, values)).collect();

        let along = |basis: u32| basis & Bits(shape).mask(axis) != 0;
        for bit in (0..LANE_BITS).rev().filter(|&bit| along(layout.lanes[bit])) {
            for result in &mut results {
                let other = self.shuffle(*result, wide_scalar, 1 << bit);
                *result = self.combine(reduction, wide, wide_scalar, *result, other);
            }
        }
        let warp_bits: Vec<usize> = (0..layout.warps.len()).filter(|&bit| along(layout.warps[bit])).collect();
        if !warp_bits.is_empty() {
            results = self.across_warps(reduction, wide, wide_scalar, results, &result_layout, &kept_shape, &warp_bits);
        }
        if narrow {
            return self.cast(operand, &results.into(), Element::F32, element);
        }
        Ok(results.into())
    }

    fn combine_tree(
        &mut self,
        reduction: Reduction,
        element: Element,
        scalar: Scalar,
        mut values: Vec<Val<'a>>,
    ) -> Val<'a> {
        while values.len() > 1 {
            values = values
                .chunks(2)
                .map(|pair| match *pair {
                    [a, b] => self.combine(reduction, element, scalar, a, b),
                    _ => pair[0],
                })
                .collect();
        }
        values[0]
    }

    fn combine(&mut self, reduction: Reduction, element: Element, scalar: Scalar, a: Val<'a>, b: Val<'a>) -> Val<'a> {
        let unsigned = matches!(element, Element::U8 | Element::U32);
        let e = &mut self.emitter;
        match (reduction, scalar) {
            (Reduction::Maximum, Scalar::F64) => math::extremum64(e, FloatPredicate::OrderedGreater, a, b),
            (Reduction::Minimum, Scalar::F64) => math::extremum64(e, FloatPredicate::OrderedLess, a, b),
            _ => {
                let name = match (reduction, scalar.is_float(), unsigned) {
                    (Reduction::Sum, true, _) => "llvm.fadd",
                    (Reduction::Sum, false, _) => "llvm.add",
                    (Reduction::Maximum, true, _) => "llvm.intr.maximum",
                    (Reduction::Minimum, true, _) => "llvm.intr.minimum",
                    (Reduction::Maximum, false, false) => "llvm.intr.smax",
                    (Reduction::Minimum, false, false) => "llvm.intr.smin",
                    (Reduction::Maximum, false, true) => "llvm.intr.umax",
                    (Reduction::Minimum, false, true) => "llvm.intr.umin",
                };
                e.binary(name, scalar, a, b)
            }
        }
    }

    /// The register of the lane whose number differs in the bits of `mask`.
    fn shuffle(&mut self, value: Val<'a>, scalar: Scalar, mask: i64) -> Val<'a> {
        let e = &mut self.emitter;
        let word = e.scalar_type(Scalar::I32);
        let (warp, distance, clamp) = (e.i32(FULL_WARP), e.i32(mask), e.i32(31));
        match scalar {
            Scalar::F32 => {
                let float = e.scalar_type(Scalar::F32);
                e.intrinsic("llvm.nvvm.shfl.sync.bfly.f32", &[warp, value, distance, clamp], float)
            }
            Scalar::I32 => e.intrinsic("llvm.nvvm.shfl.sync.bfly.i32", &[warp, value, distance, clamp], word),
            _ if scalar.bits() == 64 => {
                let words = e.pack(scalar, &[value]);
                let words: Vec<_> = words
                    .into_iter()
                    .map(|half| e.intrinsic("llvm.nvvm.shfl.sync.bfly.i32", &[warp, half, distance, clamp], word))
                    .collect();
                e.unpack(scalar, &words, 1)[0]
            }
            _ => {
                let wide = e.convert("llvm.zext", value, word);
                let moved = e.intrinsic("llvm.nvvm.shfl.sync.bfly.i32", &[warp, wide, distance, clamp], word);
                let narrow = e.scalar_type(scalar);
                e.convert("llvm.trunc", moved, narrow)
            }
        }
    }

    /// Combines what the warps of an axis hold: each writes its part next to the others', all read all parts.
    #[allow(clippy::too_many_arguments)]
    pub fn across_warps(
        &mut self,
        reduction: Reduction,
        element: Element,
        scalar: Scalar,
        results: Vec<Val<'a>>,
        layout: &Layout,
        shape: &[u32],
        warp_bits: &[usize],
    ) -> Vec<Val<'a>> {
        let parts = 1u32 << warp_bits.len();
        let bytes = element.bytes() as u32;
        let elements = shape.iter().product::<u32>();
        self.fence_reads();
        let mark = self.shared.mark();
        let offset = self.shared.reserve(elements * parts * bytes);
        let base = self.shared_address(offset);
        // Element i of part p lies at (i · parts + p).
        let place = |index: u32| index * parts * bytes;
        let images: Vec<u32> = layout
            .lanes
            .iter()
            .map(|&basis| place(basis))
            .chain(layout.warps.iter().enumerate().map(|(bit, &basis)| {
                let part = warp_bits.iter().position(|&warp_bit| warp_bit == bit);
                place(basis) | part.map_or(0, |part| bytes << part)
            }))
            .collect();
        let offsets: Vec<u32> =
            (0..layout.register_count()).map(|register| place(layout.register_index(register))).collect();
        let addresses = self.shared_addresses(base, &images, &offsets);
        for (&result, address) in results.iter().zip(addresses) {
            let pointer = self.emitter.shared_pointer(address);
            self.store_vector(pointer, element, &[result]);
        }
        self.barrier();
        let images: Vec<u32> = layout.lanes.iter().chain(&layout.warps).map(|&basis| place(basis)).collect();
        let per_access = (16 / bytes).min(parts);
        self.shared.note_read();
        let addresses = self.shared_addresses(base, &images, &offsets);
        let combined = addresses
            .into_iter()
            .map(|address| {
                let mut values = Vec::new();
                for part in (0..parts).step_by(per_access as usize) {
                    let address = self.add_constant(address, i64::from(part * bytes));
                    let pointer = self.emitter.shared_pointer(address);
                    values.extend(self.load_vector(pointer, element, per_access as usize, false));
                }
                self.combine_tree(reduction, element, scalar, values)
            })
            .collect();
        self.shared.release(mark);
        combined
    }
}
