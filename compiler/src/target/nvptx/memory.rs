//! Loads and stores of global memory.
//!
//! The address of an element is a 64-bit part that all threads share, a part of the thread, and a constant (or a product with a symbolic stride) of the
//! register. What may lie outside of the tensor is predicated, as a vector where the whole vector lies in or out.

use std::collections::HashMap;

use melior::ir::ValueLike;

use super::access::access_shape;
use super::analysis::tile_dimensions;
use super::emit::{GLOBAL, IntegerPredicate, Scalar, Val};
use super::error::Error;
use super::layout::{Bits, Layout};
use super::lower::{Lowering, Registers};
use crate::tile::{Access, ArgumentIndex, Coordinate, Dimension, Element, Literal, TensorArgument, Value};

/// One vector of an access.
pub(super) struct Vector<'a> {
    /// Its registers, lowest address first.
    pub registers: Vec<usize>,
    /// Its address, less the offset.
    pub pointer: Val<'a>,
    /// Bytes to be added to the pointer.
    pub offset: i64,
    /// Whether it lies inside; None if it surely does.
    pub predicate: Option<Val<'a>>,
}

/// What [`Lowering::vectors_of`] is asked for.
pub(super) struct AccessRequest<'t> {
    pub tensor: ArgumentIndex,
    pub coordinates: &'t [Coordinate],
    pub mask: Option<Value>,
    pub shape: &'t [u32],
    /// No vector is longer than this.
    pub longest: u32,
}

impl<'a> Lowering<'_, 'a> {
    fn tensor(&self, index: ArgumentIndex) -> Result<&TensorArgument, Error> {
        self.program
            .tensor(index)
            .ok_or(Error::Internal { value: Value(0), what: "an access is not to a tensor argument" })
    }

    /// An extent or stride as a 32-bit register.
    fn dimension(&mut self, dimension: Dimension) -> Val<'a> {
        match dimension {
            Dimension::Constant(value) => self.emitter.i32(value as i64),
            Dimension::Argument(index) => self.parameter(index),
        }
    }

    /// `index` · `stride` · `bytes` as a 64-bit register.
    fn scaled(&mut self, index: Val<'a>, stride: Dimension, bytes: usize) -> Val<'a> {
        let wide = self.emitter.scalar_type(Scalar::I64);
        match stride {
            Dimension::Constant(stride) => {
                let index = self.emitter.convert("llvm.sext", index, wide);
                let factor = self.emitter.i64((stride * bytes as u64) as i64);
                self.emitter.binary("llvm.mul", Scalar::I64, index, factor)
            }
            Dimension::Argument(argument) => {
                let stride = self.parameter(argument);
                let index = self.emitter.convert("llvm.sext", index, wide);
                let stride = self.emitter.convert("llvm.sext", stride, wide);
                let elements = self.emitter.binary("llvm.mul", Scalar::I64, index, stride);
                let factor = self.emitter.i64(bytes as i64);
                self.emitter.binary("llvm.mul", Scalar::I64, elements, factor)
            }
        }
    }

    fn add64(&mut self, a: Option<Val<'a>>, b: Val<'a>) -> Val<'a> {
        match a {
            Some(a) => self.emitter.binary("llvm.add", Scalar::I64, a, b),
            None => b,
        }
    }

    /// The vectors of an access in a layout, with their addresses and predicates.
    pub fn vectors_of(&mut self, request: &AccessRequest<'_>, layout: &Layout) -> Result<Vec<Vector<'a>>, Error> {
        self.vectors_from(request, layout, None)
    }

    /// The address of the thread's first element, less the parts of gathered dimensions.
    pub fn first_pointer(&mut self, request: &AccessRequest<'_>, layout: &Layout) -> Result<Val<'a>, Error> {
        let tensor = self.tensor(request.tensor)?.clone();
        let bytes = tensor.element.bytes();
        let dimensions = tile_dimensions(request.coordinates);
        let mut shared: Option<Val<'a>> = None;
        let mut own: Option<Val<'a>> = None;
        for (position, coordinate) in request.coordinates.iter().enumerate() {
            let stride = tensor.strides[position];
            let start = match *coordinate {
                Coordinate::At(index) => index,
                Coordinate::Block { start, .. } => start,
                Coordinate::Gather(_) => continue,
            };
            if self.analysis.range(start).value() != Some(0) {
                let index = self.get_scalar(start)?;
                let part = self.scaled(index, stride, bytes);
                shared = Some(self.add64(shared, part));
            }
            if let (Coordinate::Block { .. }, Some(dimension)) = (coordinate, dimensions[position]) {
                let thread = self.coordinate(layout, request.shape, dimension);
                let part = match stride {
                    Dimension::Constant(_) => self.in_preamble(|this| this.scaled(thread, stride, bytes)),
                    Dimension::Argument(_) => self.scaled(thread, stride, bytes),
                };
                own = Some(self.add64(own, part));
            }
        }
        let mut pointer = self.parameter(request.tensor);
        for part in [shared, own].into_iter().flatten() {
            pointer = self.emitter.offset(pointer, GLOBAL, part);
        }
        Ok(pointer)
    }

    /// The vectors of an access whose first address is known.
    pub fn vectors_from(
        &mut self,
        request: &AccessRequest<'_>,
        layout: &Layout,
        pointer: Option<Val<'a>>,
    ) -> Result<Vec<Vector<'a>>, Error> {
        let tensor = self.tensor(request.tensor)?.clone();
        let shape = request.shape;
        let bits = Bits(shape);
        let best = access_shape(self.analysis, &tensor, request.coordinates, request.mask);
        let bytes = tensor.element.bytes();
        let dimensions = tile_dimensions(request.coordinates);
        let vectors = if shape.is_empty() {
            vec![vec![0]]
        } else {
            let length = layout.vector(shape, best.fastest, best.vector.min(request.longest));
            Self::vectors(layout, shape, best.fastest, length)
        };
        let pointer = match pointer {
            Some(pointer) => pointer,
            None => self.first_pointer(request, layout)?,
        };
        let mut gathered: Vec<Option<(Layout, Registers<'a>)>> = Vec::new();
        for (position, coordinate) in request.coordinates.iter().enumerate() {
            gathered.push(match (coordinate, dimensions[position]) {
                (Coordinate::Gather(indices), Some(dimension)) => {
                    let index_layout = layout.project(shape, &[dimension]);
                    let registers = self.get(*indices, &index_layout)?;
                    Some((index_layout, registers))
                }
                _ => None,
            });
        }

        let mask = match request.mask {
            Some(mask) => Some(self.get(mask, layout)?),
            None => None,
        };
        let mut symbolic: HashMap<(usize, u32), Val<'a>> = HashMap::new();
        let mut conditions: HashMap<(usize, u32), Option<Val<'a>>> = HashMap::new();
        let mut gather_offsets: HashMap<(usize, usize), Val<'a>> = HashMap::new();
        let mut result = Vec::with_capacity(vectors.len());
        for registers in vectors {
            let index = layout.register_index(registers[0]);
            let mut constant = 0i64;
            let mut address = pointer;
            let mut predicates = Vec::new();
            for (position, coordinate) in request.coordinates.iter().enumerate() {
                let stride = tensor.strides[position];
                let extent = tensor.extents[position];
                let Some(dimension) = dimensions[position] else {
                    // A single index: the whole tile lies inside along this dimension, or none of it.
                    if let Coordinate::At(start) = coordinate
                        && !self.analysis.inside(*start, 1, extent)
                    {
                        let condition = match conditions.get(&(position, 0)) {
                            Some(&condition) => condition,
                            None => {
                                let here = self.get_scalar(*start)?;
                                let extent = self.dimension(extent);
                                let inside =
                                    self.emitter.compare_integers(IntegerPredicate::UnsignedLess, here, extent);
                                conditions.insert((position, 0), Some(inside));
                                Some(inside)
                            }
                        };
                        predicates.extend(condition);
                    }
                    continue;
                };
                let at = bits.coordinate(dimension, index);
                match (coordinate, &gathered[position]) {
                    (Coordinate::Block { start, length }, _) => {
                        match stride {
                            Dimension::Constant(stride) => constant += i64::from(at) * (stride as i64) * bytes as i64,
                            Dimension::Argument(_) if at == 0 => {}
                            Dimension::Argument(_) => {
                                let part = match symbolic.get(&(position, at)) {
                                    Some(&part) => part,
                                    None => {
                                        let at_register = self.emitter.i32(i64::from(at));
                                        let part = self.scaled(at_register, stride, bytes);
                                        symbolic.insert((position, at), part);
                                        part
                                    }
                                };
                                address = self.emitter.offset(address, GLOBAL, part);
                            }
                        }
                        let condition = match conditions.get(&(position, at)) {
                            Some(&condition) => condition,
                            None => {
                                let condition = if self.analysis.inside(*start, *length, extent) {
                                    None
                                } else {
                                    let first = self.get_scalar(*start)?;
                                    let thread = self.coordinate(layout, shape, dimension);
                                    let here = self.emitter.add(first, thread);
                                    let here = self.add_constant(here, i64::from(at));
                                    let extent = self.dimension(extent);
                                    Some(self.emitter.compare_integers(IntegerPredicate::UnsignedLess, here, extent))
                                };
                                conditions.insert((position, at), condition);
                                condition
                            }
                        };
                        predicates.extend(condition);
                    }
                    (_, Some((index_layout, indices))) => {
                        let register = index_layout.register_of(at);
                        let gathered_index = indices[register];
                        let part = match gather_offsets.get(&(position, register)) {
                            Some(&part) => part,
                            None => {
                                let part = self.scaled(gathered_index, stride, bytes);
                                gather_offsets.insert((position, register), part);
                                part
                            }
                        };
                        address = self.emitter.offset(address, GLOBAL, part);
                        let key = (position, register as u32);
                        let condition = match conditions.get(&key) {
                            Some(&condition) => condition,
                            None => {
                                let extent = self.dimension(extent);
                                let condition = Some(self.emitter.compare_integers(
                                    IntegerPredicate::UnsignedLess,
                                    gathered_index,
                                    extent,
                                ));
                                conditions.insert(key, condition);
                                condition
                            }
                        };
                        predicates.extend(condition);
                    }
                    _ => {}
                }
            }
            if let Some(mask) = &mask {
                predicates.push(mask[registers[0]]);
            }
            let predicate = self.emitter.and_all(&predicates);
            result.push(Vector { registers, pointer: address, offset: constant, predicate });
        }
        Ok(result)
    }

    /// The address of a vector in one register. Instructions that are written out take pointer and offset apart: many vectors share a pointer.
    pub fn address(&mut self, vector: &Vector<'a>) -> Val<'a> {
        if vector.offset == 0 {
            return vector.pointer;
        }
        let offset = self.emitter.i64(vector.offset);
        self.emitter.offset(vector.pointer, GLOBAL, offset)
    }

    /// Runs `body` with its operations in the preamble.
    pub fn in_preamble<T>(&mut self, body: impl FnOnce(&mut Self) -> T) -> T {
        let previous = self.emitter.enter_preamble();
        let result = body(self);
        self.emitter.enter(previous);
        result
    }

    /// Loads a tile into registers.
    pub fn load(
        &mut self,
        value: Value,
        tensor: ArgumentIndex,
        coordinates: &[Coordinate],
        mask: Option<Value>,
        other: Literal,
        layout: &Layout,
    ) -> Result<Registers<'a>, Error> {
        let shape = self.shape(value);
        let argument = self.tensor(tensor)?;
        let (element, invariant) = (argument.element, argument.access == Access::Read);
        let request = AccessRequest { tensor, coordinates, mask, shape, longest: u32::MAX };
        let vectors = self.vectors_of(&request, layout)?;
        let scalar = Scalar::of(element);
        let fill = self.literal_of(other, element);
        let zero_fill = matches!(other, Literal::Integer(0)) || matches!(other, Literal::Float(x) if x.to_bits() == 0);
        let mut registers = vec![fill; layout.register_count()];
        for vector in vectors {
            let length = vector.registers.len();
            let values = match vector.predicate {
                None => {
                    let address = self.address(&vector);
                    self.load_vector(address, element, length, invariant)
                }
                Some(predicate) => {
                    let values = self.load_predicated(&vector, predicate, element, invariant);
                    if zero_fill {
                        values
                    } else {
                        values.into_iter().map(|value| self.emitter.select(scalar, predicate, value, fill)).collect()
                    }
                }
            };
            for (register, value) in vector.registers.into_iter().zip(values) {
                registers[register] = value;
            }
        }
        Ok(registers.into())
    }

    /// Loads neighbouring elements where the predicate holds, zeros elsewhere.
    fn load_predicated(
        &mut self,
        vector: &Vector<'a>,
        predicate: Val<'a>,
        element: Element,
        invariant: bool,
    ) -> Vec<Val<'a>> {
        let (pointer, offset, length) = (vector.pointer, vector.offset, vector.registers.len());
        let bytes = element.bytes() * length;
        let scalar = Scalar::of(element);
        let count = (bytes / 4).max(1);
        let space = if invariant { "ld.global.nc" } else { "ld.global" };
        let (letter, word, mnemonic) = match bytes {
            1 => ("h", Scalar::I16, "b8"),
            2 => ("h", Scalar::I16, "b16"),
            _ => ("r", Scalar::I32, "b32"),
        };
        let clear = if letter == "h" { "mov.b16" } else { "mov.b32" };
        let mut text = String::new();
        for index in 0..count {
            text.push_str(&format!("{clear} \t${index}, 0;\n\t"));
        }
        let destinations: Vec<String> = (0..count).map(|index| format!("${index}")).collect();
        let (vector, list) = match count {
            1 => (String::new(), destinations[0].clone()),
            _ => (format!(".v{count}"), format!("{{{}}}", destinations.join(", "))),
        };
        text.push_str(&format!("@${} {space}{vector}.{mnemonic} \t{list}, [${}{offset:+}];", count + 1, count));
        let outputs = vec![format!("=&{letter}"); count].join(",");
        let constraints = format!("{outputs},l,b");
        let e = &mut self.emitter;
        let result = if count == 1 { e.scalar_type(word) } else { e.struct_type(count, word) };
        // As an effect it stays in the loop that the program has it in; else a whole tile might be carried through the loops inside.
        let loaded = e.assembly(&text, &constraints, &[pointer, predicate], Some(result), true).unwrap_or(pointer);
        let words: Vec<Val<'a>> = match count {
            1 => vec![loaded],
            _ => (0..count).map(|index| e.extract_field(loaded, index, word)).collect(),
        };
        if bytes == 1 {
            let byte = e.scalar_type(Scalar::I8);
            let narrow = e.convert("llvm.trunc", words[0], byte);
            return self.elements_of(element, scalar, &[narrow], 1);
        }
        self.elements_of(element, scalar, &words, length)
    }

    /// Stores a tile.
    pub fn store(
        &mut self,
        tensor: ArgumentIndex,
        coordinates: &[Coordinate],
        mask: Option<Value>,
        value: Value,
    ) -> Result<(), Error> {
        let shape = self.shape(value);
        let argument = self.tensor(tensor)?.clone();
        let layout = self.store_layout(&argument, coordinates, mask, value);
        let registers = self.get(value, &layout)?;
        let request = AccessRequest { tensor, coordinates, mask, shape, longest: u32::MAX };
        let vectors = self.vectors_of(&request, &layout)?;
        let copy = self.first_copy(&layout);
        for vector in vectors {
            let predicates: Vec<_> = copy.into_iter().chain(vector.predicate).collect();
            let predicate = self.emitter.and_all(&predicates);
            let values: Vec<_> = vector.registers.iter().map(|&register| registers[register]).collect();
            match predicate {
                None => {
                    let address = self.address(&vector);
                    self.store_vector(address, argument.element, &values);
                }
                Some(predicate) => self.store_predicated(&vector, predicate, argument.element, &values),
            }
        }
        Ok(())
    }

    /// The layout that a tile is stored in: its own, unless that scatters small pieces over memory.
    fn store_layout(
        &self,
        tensor: &TensorArgument,
        coordinates: &[Coordinate],
        mask: Option<Value>,
        value: Value,
    ) -> Layout {
        /// Bytes that memory moves at once.
        const SECTOR: u32 = 32;
        let shape = self.shape(value);
        if shape.is_empty() {
            return self.uniform();
        }
        let best = access_shape(self.analysis, tensor, coordinates, mask);
        let bytes = tensor.element.bytes() as u32;
        let share = (shape.iter().product::<u32>() / (32 << self.plan.warps)).max(1);
        let blocked = Layout::blocked(shape, best.fastest, best.vector.min(share), self.plan.warps);
        let Some(home) = self.plan.home(value) else { return blocked };
        // Neighbours that one instruction of a warp writes.
        let own = home.vector(shape, best.fastest, best.vector);
        let mut run = own;
        while home.lanes.contains(&Bits(shape).bit(best.fastest, run.trailing_zeros()))
            && Bits(shape).bit(best.fastest, run.trailing_zeros()) != 0
        {
            run *= 2;
        }
        let whole = shape[best.fastest] == run;
        if run * bytes >= SECTOR || whole || best.vector * bytes <= 4 || run >= best.vector * 2 {
            home.clone()
        } else {
            blocked
        }
    }

    fn store_predicated(&mut self, vector: &Vector<'a>, predicate: Val<'a>, element: Element, values: &[Val<'a>]) {
        let (pointer, offset) = (vector.pointer, vector.offset);
        let bytes = element.bytes() * values.len();
        let mut words = self.words_of(element, values);
        let (letter, mnemonic) = match bytes {
            1 => ("h", "b8"),
            2 => ("h", "b16"),
            _ => ("r", "b32"),
        };
        let e = &mut self.emitter;
        if bytes == 1 {
            let half = e.scalar_type(Scalar::I16);
            words = vec![e.convert("llvm.zext", words[0], half)];
        }
        if bytes == 4 && words[0].r#type() != e.scalar_type(Scalar::I32) {
            words = vec![e.bitcast(words[0], Scalar::I32)];
        }
        let count = words.len();
        let sources: Vec<String> = (0..count).map(|index| format!("${}", index + 2)).collect();
        let (vector, list) = match count {
            1 => (String::new(), sources[0].clone()),
            _ => (format!(".v{count}"), format!("{{{}}}", sources.join(", "))),
        };
        let text = format!("@$1 st.global{vector}.{mnemonic} \t[$0{offset:+}], {list};");
        let constraints = format!("l,b,{}", vec![letter; count].join(","));
        let mut operands = vec![pointer, predicate];
        operands.extend(words);
        e.assembly(&text, &constraints, &operands, None, true);
    }
}
