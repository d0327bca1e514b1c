//! Conversions between elements.

use super::emit::{FloatPredicate, IntegerPredicate, Scalar, Val};
use super::error::Error;
use super::float8;
use super::lower::{Lowering, Registers};
use crate::tile::{Element, Value};

impl<'a> Lowering<'_, 'a> {
    /// Converts all registers of a value. Narrow floats are made in pairs, as the hardware does.
    pub fn cast(
        &mut self,
        value: Value,
        source: &Registers<'a>,
        from: Element,
        to: Element,
    ) -> Result<Registers<'a>, Error> {
        let mut result = Vec::with_capacity(source.len());
        let pairs = from.is_float() && matches!(to, Element::F16 | Element::BF16 | Element::Fp8E4M3 | Element::Fp8E5M2);
        if pairs && from != Element::F64 && !(to == Element::F16 && is_float8(from)) {
            for pair in source.chunks(2) {
                let wide: Vec<_> = pair.iter().map(|&register| self.widened(register, from)).collect();
                result.extend(self.pair_from_f32(&wide, to));
            }
            return Ok(result.into());
        }
        let mut last: Option<(Val<'a>, Val<'a>)> = None;
        for &register in source.iter() {
            let converted = match last {
                Some((previous, converted)) if previous == register => converted,
                _ => self.cast_one(value, register, from, to)?,
            };
            last = Some((register, converted));
            result.push(converted);
        }
        Ok(result.into())
    }

    fn cast_one(&mut self, value: Value, register: Val<'a>, from: Element, to: Element) -> Result<Val<'a>, Error> {
        let (source, target) = (Scalar::of(from), Scalar::of(to));
        let target_type = self.emitter.scalar_type(target);
        match (from.is_float(), to.is_float()) {
            (true, true) => {
                if to == Element::F16 && is_float8(from) {
                    return Ok(self.float8_to_f16(register, from));
                }
                if from == Element::F64 {
                    if matches!(to, Element::F32 | Element::F16 | Element::BF16) {
                        return Ok(self.emitter.convert("llvm.fptrunc", register, target_type));
                    }
                    let float = self.emitter.scalar_type(Scalar::F32);
                    let single = self.emitter.convert("llvm.fptrunc", register, float);
                    return Ok(self.pair_from_f32(&[single], to)[0]);
                }
                let single = self.widened(register, from);
                if to == Element::F64 {
                    return Ok(self.emitter.convert("llvm.fpext", single, target_type));
                }
                if to == Element::F32 { Ok(single) } else { Ok(self.pair_from_f32(&[single], to)[0]) }
            }
            (false, true) => {
                let signed = matches!(from, Element::I64 | Element::I32 | Element::I16 | Element::I8);
                let name = if signed { "llvm.sitofp" } else { "llvm.uitofp" };
                if matches!(to, Element::F64 | Element::F32) {
                    return Ok(self.emitter.convert(name, register, target_type));
                }
                if to == Element::F16 {
                    return Ok(self.emitter.convert(name, register, target_type));
                }
                let float = self.emitter.scalar_type(Scalar::F32);
                let single = self.emitter.convert(name, register, float);
                Ok(self.pair_from_f32(&[single], to)[0])
            }
            (true, false) => {
                let (wide, scalar) = if from == Element::F64 {
                    (register, Scalar::F64)
                } else {
                    (self.widened(register, from), Scalar::F32)
                };
                if to == Element::Bool {
                    let zero = self.emitter.float(scalar, 0.0);
                    return Ok(self.emitter.compare_floats(FloatPredicate::UnorderedNotEqual, wide, zero));
                }
                let kind = if matches!(to, Element::U8 | Element::U32) { "fptoui" } else { "fptosi" };
                let name = format!("llvm.{kind}.sat.i{}.f{}", target.bits(), scalar.bits());
                Ok(self.emitter.intrinsic(&name, &[wide], target_type))
            }
            (false, false) => {
                let e = &mut self.emitter;
                if source == target {
                    return Ok(register);
                }
                if to == Element::Bool {
                    let zero = e.integer(source, 0);
                    return Ok(e.compare_integers(IntegerPredicate::NotEqual, register, zero));
                }
                if target.bits() < source.bits() {
                    return Ok(e.convert("llvm.trunc", register, target_type));
                }
                let name = match from {
                    Element::Bool | Element::U8 | Element::U32 => "llvm.zext",
                    Element::I32 | Element::I16 | Element::I8 => "llvm.sext",
                    _ => return Err(Error::Internal { value, what: "no integer is wider than 64 bits" }),
                };
                Ok(e.convert(name, register, target_type))
            }
        }
    }

    /// A float of at most 32 bits as an f32; exact.
    pub fn widened(&mut self, register: Val<'a>, from: Element) -> Val<'a> {
        let float = self.emitter.scalar_type(Scalar::F32);
        match from {
            Element::F32 => register,
            Element::Fp8E4M3 | Element::Fp8E5M2 => {
                let half = self.float8_to_f16(register, from);
                self.emitter.convert("llvm.fpext", half, float)
            }
            Element::BF16 => {
                // The high half of an f32.
                let bits = self.emitter.bitcast(register, Scalar::I16);
                let word = self.emitter.scalar_type(Scalar::I32);
                let wide = self.emitter.convert("llvm.zext", bits, word);
                let shifted = self.emitter.shl(wide, 16);
                self.emitter.bitcast(shifted, Scalar::F32)
            }
            _ => self.emitter.convert("llvm.fpext", register, float),
        }
    }

    fn float8_to_f16(&mut self, register: Val<'a>, from: Element) -> Val<'a> {
        if !self.chip.multiplies_fp8() {
            return float8::to_f16(&mut self.emitter, register, from);
        }
        let e = &mut self.emitter;
        let half = e.scalar_type(Scalar::I16);
        let pair = e.convert("llvm.zext", register, half);
        let name = if from == Element::Fp8E4M3 { "e4m3x2" } else { "e5m2x2" };
        let halves = e.vector_type(2, Scalar::F16);
        let converted = e.intrinsic(&format!("llvm.nvvm.{name}.to.f16x2.rn"), &[pair], halves);
        e.extract_element(converted, 0, Scalar::F16)
    }

    /// One or two f32 rounded to a narrower float.
    pub fn pair_from_f32(&mut self, pair: &[Val<'a>], to: Element) -> Vec<Val<'a>> {
        let hardware = self.chip.multiplies_fp8();
        let e = &mut self.emitter;
        match to {
            Element::BF16 if pair.len() == 2 => {
                let vector = e.vector_type(2, Scalar::BF16);
                // The first operand becomes the upper half.
                let packed = e.intrinsic("llvm.nvvm.ff2bf16x2.rn", &[pair[1], pair[0]], vector);
                (0..2).map(|index| e.extract_element(packed, index, Scalar::BF16)).collect()
            }
            Element::F16 if pair.len() == 2 => {
                let wide = e.vector(Scalar::F32, pair);
                let vector = e.vector_type(2, Scalar::F16);
                let packed = e.convert("llvm.fptrunc", wide, vector);
                (0..2).map(|index| e.extract_element(packed, index, Scalar::F16)).collect()
            }
            Element::BF16 | Element::F16 => {
                let narrow = e.scalar_type(Scalar::of(to));
                vec![e.convert("llvm.fptrunc", pair[0], narrow)]
            }
            Element::Fp8E4M3 | Element::Fp8E5M2 if hardware => {
                let name = if to == Element::Fp8E4M3 { "e4m3x2" } else { "e5m2x2" };
                let half = e.scalar_type(Scalar::I16);
                let upper = pair.get(1).copied().unwrap_or(pair[0]);
                let packed = e.intrinsic(&format!("llvm.nvvm.ff.to.{name}.rn"), &[upper, pair[0]], half);
                let bytes = e.vector_type(2, Scalar::I8);
                let bytes = e.convert("llvm.bitcast", packed, bytes);
                (0..pair.len()).map(|index| e.extract_element(bytes, index, Scalar::I8)).collect()
            }
            Element::Fp8E4M3 | Element::Fp8E5M2 => pair.iter().map(|&value| float8::from_f32(e, value, to)).collect(),
            _ => pair.to_vec(),
        }
    }
}

fn is_float8(element: Element) -> bool {
    matches!(element, Element::Fp8E4M3 | Element::Fp8E5M2)
}
