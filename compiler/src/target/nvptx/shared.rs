//! Shared memory: its allocation, tiles in it, conversions between layouts through it.

use std::collections::{BTreeMap, HashMap};

use smallvec::SmallVec;

use super::emit::{IntegerPredicate, Scalar, Val};
use super::error::Error;
use super::layout::{Bits, LANE_BITS, Layout, SharedLayout};
use super::lower::{Lowering, Registers};
use crate::tile::{Element, Value};

/// A tile in shared memory.
#[derive(Clone, Debug)]
pub(super) struct SharedTile<'a> {
    /// Its 32-bit address.
    pub base: Val<'a>,
    pub layout: SharedLayout,
    pub shape: SmallVec<[u32; 3]>,
    /// The dimension along which it is contiguous.
    pub fastest: usize,
    pub element: Element,
}

/// Tiles start at multiples of this, so that swizzles see whole rows of banks.
const TILE_ALIGNMENT: u32 = 128;
/// Bytes of the widest access of one thread.
const WIDEST: u32 = 16;

/// A stack of buffers in the dynamic shared memory.
#[derive(Default)]
pub(super) struct SharedMemory<'a> {
    base: Option<Val<'a>>,
    top: u32,
    peak: u32,
    /// Whether threads may still be reading what was last written: then a barrier must come before the next write.
    read: bool,
}

impl SharedMemory<'_> {
    /// Most bytes in use at once.
    pub fn bytes(&self) -> u32 {
        self.peak
    }

    /// Where the next buffer goes; hand it to [`Self::release`] to free what was reserved since.
    pub fn mark(&self) -> u32 {
        self.top
    }

    /// Frees all buffers reserved after the mark.
    pub fn release(&mut self, mark: u32) {
        self.top = mark;
    }

    /// Reserves bytes; returns their offset.
    pub fn reserve(&mut self, bytes: u32) -> u32 {
        let offset = self.top;
        self.top += bytes.next_multiple_of(TILE_ALIGNMENT);
        self.peak = self.peak.max(self.top);
        offset
    }

    /// Says that threads read shared memory.
    pub fn note_read(&mut self) {
        self.read = true;
    }
}

impl<'a> Lowering<'_, 'a> {
    /// The address of an offset into the dynamic shared memory.
    pub fn shared_address(&mut self, offset: u32) -> Val<'a> {
        let base = match self.shared.base {
            Some(base) => base,
            None => {
                let base = self.emitter.preamble(|e| e.shared_base());
                self.shared.base = Some(base);
                base
            }
        };
        if offset == 0 {
            return base;
        }
        self.emitter.preamble(|e| {
            let offset = e.i32(i64::from(offset));
            e.add(base, offset)
        })
    }

    /// Waits until no thread reads what may be overwritten.
    pub fn fence_reads(&mut self) {
        if self.shared.read {
            self.barrier();
        }
    }

    /// Waits for all threads of the block.
    pub fn barrier(&mut self) {
        self.emitter.barrier();
        self.shared.read = false;
    }

    /// A row-major tile of elements at an offset, swizzled.
    pub fn shared_tile(&mut self, offset: u32, shape: &[u32], fastest: usize, element: Element) -> SharedTile<'a> {
        let layout = SharedLayout::swizzled(shape, fastest, element.bytes() as u32);
        SharedTile { base: self.shared_address(offset), layout, shape: shape.into(), fastest, element }
    }

    /// Addresses of indices, given the images of the thread's bits: the thread's part is made once in the preamble, what the swizzle mixes with it is a
    /// preamble value for each distinct combination, and the rest is a constant.
    pub fn shared_addresses(&mut self, base: Val<'a>, thread: &[u32], offsets: &[u32]) -> Vec<Val<'a>> {
        let span = thread.iter().fold(0, |span, image| span | image);
        let part = self.thread_linear(thread);
        let mut mixed: HashMap<u32, Val<'a>> = HashMap::new();
        offsets
            .iter()
            .map(|&offset| {
                let conflict = offset & span;
                let start = match mixed.get(&conflict) {
                    Some(&start) => start,
                    None => {
                        let part = if conflict == 0 {
                            part
                        } else {
                            self.emitter.preamble(|e| {
                                let conflict = e.i32(i64::from(conflict));
                                e.xor(part, conflict)
                            })
                        };
                        let start = self.emitter.add(base, part);
                        mixed.insert(conflict, start);
                        start
                    }
                };
                self.add_constant(start, i64::from(offset & !span))
            })
            .collect()
    }

    /// Images of the bits of the thread number.
    pub fn thread_images(&self, layout: &Layout, shared: &SharedLayout) -> Vec<u32> {
        layout.lanes.iter().chain(&layout.warps).map(|&basis| shared.address(basis)).collect()
    }

    /// Groups registers into vectors of neighbours along a dimension: for each vector the registers, lowest first.
    pub fn vectors(layout: &Layout, shape: &[u32], dimension: usize, length: u32) -> Vec<Vec<usize>> {
        let bits = Bits(shape);
        let low = (length - 1) << bits.offset(dimension);
        (0..layout.register_count())
            .map(|register| layout.register_index(register))
            .filter(|index| index & low == 0)
            .map(|index| (0..length).map(|step| layout.register_of(index | step << bits.offset(dimension))).collect())
            .collect()
    }

    /// Reads the registers of a layout from a tile, at an index whose bits the layout does not have.
    pub fn read_shared(&mut self, tile: &SharedTile<'a>, layout: &Layout, at: u32) -> Vec<Val<'a>> {
        let mut registers = vec![None; layout.register_count()];
        for (vector, words) in self.read_vectors(tile, layout, at) {
            let values = self.elements_of(tile.element, Scalar::of(tile.element), &words, vector.len());
            for (register, value) in vector.into_iter().zip(values) {
                registers[register] = Some(value);
            }
        }
        registers.into_iter().flatten().collect()
    }

    /// As [`Self::read_shared`], as the words that are read: the registers of each access, lowest address first, and their words.
    pub fn read_vectors(&mut self, tile: &SharedTile<'a>, layout: &Layout, at: u32) -> Vec<(Vec<usize>, Vec<Val<'a>>)> {
        self.shared.note_read();
        let bytes = tile.element.bytes() as u32;
        let length = layout.vector(&tile.shape, tile.fastest, WIDEST / bytes);
        let vectors = Self::vectors(layout, &tile.shape, tile.fastest, length);
        let thread = self.thread_images(layout, &tile.layout);
        let offsets: Vec<u32> =
            vectors.iter().map(|vector| tile.layout.address(layout.register_index(vector[0]) | at)).collect();
        let addresses = self.shared_addresses(tile.base, &thread, &offsets);
        vectors
            .into_iter()
            .zip(addresses)
            .map(|(vector, address)| {
                let pointer = self.emitter.shared_pointer(address);
                (vector, self.load_words(pointer, (length * bytes) as usize, false))
            })
            .collect()
    }

    /// Writes the registers of a layout to a tile.
    pub fn write_shared(&mut self, tile: &SharedTile<'a>, layout: &Layout, registers: &[Val<'a>]) {
        let bytes = tile.element.bytes() as u32;
        let length = layout.vector(&tile.shape, tile.fastest, WIDEST / bytes);
        let vectors = Self::vectors(layout, &tile.shape, tile.fastest, length);
        let thread = self.thread_images(layout, &tile.layout);
        let offsets: Vec<u32> =
            vectors.iter().map(|vector| tile.layout.address(layout.register_index(vector[0]))).collect();
        let addresses = self.shared_addresses(tile.base, &thread, &offsets);
        for (vector, address) in vectors.iter().zip(addresses) {
            let values: Vec<_> = vector.iter().map(|&register| registers[register]).collect();
            let pointer = self.emitter.shared_pointer(address);
            self.store_vector(pointer, tile.element, &values);
        }
    }

    /// Loads neighbouring elements as one access.
    pub fn load_vector(&mut self, pointer: Val<'a>, element: Element, length: usize, invariant: bool) -> Vec<Val<'a>> {
        let words = self.load_words(pointer, element.bytes() * length, invariant);
        self.elements_of(element, Scalar::of(element), &words, length)
    }

    /// Loads up to 16 bytes as 32-bit words, or less than four as one narrower integer.
    pub fn load_words(&mut self, pointer: Val<'a>, bytes: usize, invariant: bool) -> Vec<Val<'a>> {
        let e = &mut self.emitter;
        match bytes {
            0..=3 => {
                let whole = e.scalar_type(if bytes == 1 { Scalar::I8 } else { Scalar::I16 });
                vec![e.load(pointer, whole, bytes as u32, invariant)]
            }
            4 => {
                let whole = e.scalar_type(Scalar::I32);
                vec![e.load(pointer, whole, 4, invariant)]
            }
            _ => {
                let count = bytes / 4;
                let whole = e.vector_type(count, Scalar::I32);
                let vector = e.load(pointer, whole, bytes as u32, invariant);
                (0..count).map(|index| e.extract_element(vector, index, Scalar::I32)).collect()
            }
        }
    }

    /// The elements held by words of memory.
    pub fn elements_of(&mut self, element: Element, scalar: Scalar, words: &[Val<'a>], length: usize) -> Vec<Val<'a>> {
        if element != Element::Bool {
            return self.emitter.unpack(scalar, words, length);
        }
        let bytes = self.emitter.unpack(Scalar::I8, words, length);
        let zero = self.emitter.integer(Scalar::I8, 0);
        bytes.into_iter().map(|byte| self.emitter.compare_integers(IntegerPredicate::NotEqual, byte, zero)).collect()
    }

    /// The words of memory that hold elements.
    pub fn words_of(&mut self, element: Element, values: &[Val<'a>]) -> Vec<Val<'a>> {
        if element != Element::Bool {
            return self.emitter.pack(Scalar::of(element), values);
        }
        let byte = self.emitter.scalar_type(Scalar::I8);
        let bytes: Vec<_> = values.iter().map(|&value| self.emitter.convert("llvm.zext", value, byte)).collect();
        self.emitter.pack(Scalar::I8, &bytes)
    }

    /// Stores neighbouring elements as one access.
    pub fn store_vector(&mut self, pointer: Val<'a>, element: Element, values: &[Val<'a>]) {
        let bytes = (element.bytes() * values.len()) as u32;
        let words = self.words_of(element, values);
        let whole = if words.len() == 1 { words[0] } else { self.emitter.vector(Scalar::I32, &words) };
        self.emitter.store(whole, pointer, bytes);
    }

    /// Moves the elements of a value from one layout to another.
    pub fn convert_layout(
        &mut self,
        value: Value,
        source: &Registers<'a>,
        from: &Layout,
        to: &Layout,
    ) -> Result<Registers<'a>, Error> {
        if from == to {
            return Ok(source.clone());
        }
        let permuted = |source: &[Val<'a>], from: &Layout| {
            (0..to.register_count())
                .map(|register| source[from.register_of(to.register_index(register))])
                .collect::<Registers<'a>>()
        };
        if from.same_threads(to) {
            return Ok(permuted(source, from));
        }
        if let Some((layout, chosen)) = self.choose_registers(source, from, to) {
            return Ok(permuted(&chosen, &layout));
        }
        let shape = self.shape(value);
        let element = self.program.type_of(value).element;
        self.fence_reads();
        let mark = self.shared.mark();
        let bytes = shape.iter().product::<u32>() * element.bytes() as u32;
        let offset = self.shared.reserve(bytes);
        let tile = self.shared_tile(offset, shape, shape.len() - 1, element);
        self.write_shared(&tile, from, source);
        self.barrier();
        let registers = self.read_shared(&tile, to, 0);
        self.shared.release(mark);
        Ok(registers.into())
    }

    /// A conversion in which every thread already holds what it needs and only has to pick it by bits of its number.
    fn choose_registers(
        &mut self,
        source: &Registers<'a>,
        from: &Layout,
        to: &Layout,
    ) -> Option<(Layout, Vec<Val<'a>>)> {
        let mut layout = from.clone();
        let mut picks = Vec::new();
        for bit in 0..LANE_BITS + to.warps.len() {
            let (old, new) = match bit.checked_sub(LANE_BITS) {
                None => (&mut layout.lanes[bit], to.lanes[bit]),
                Some(warp) => (&mut layout.warps[warp], to.warps[warp]),
            };
            if *old == new {
                continue;
            }
            if *old != 0 || !from.registers.contains(&new) {
                return None;
            }
            *old = new;
            picks.push((bit, new));
        }
        layout.registers.retain(|basis| picks.iter().all(|(_, picked)| picked != basis));
        if !layout.same_threads(to) {
            return None;
        }
        let mut values: BTreeMap<u32, Val<'a>> =
            (0..from.register_count()).map(|register| (from.register_index(register), source[register])).collect();
        for (bit, basis) in picks {
            let thread = self.thread();
            let condition = self.emitter.preamble(|e| {
                let (mask, zero) = (e.i32(1 << bit), e.i32(0));
                let masked = e.and(thread, mask);
                e.compare_integers(IntegerPredicate::NotEqual, masked, zero)
            });
            let mut next = BTreeMap::new();
            for (&index, &low) in values.iter().filter(|(index, _)| **index & basis == 0) {
                let high = values.get(&(index | basis)).copied().unwrap_or(low);
                next.insert(index, self.emitter.select_like(condition, high, low));
            }
            values = next;
        }
        let chosen = (0..layout.register_count())
            .map(|register| values.get(&layout.register_index(register)).copied())
            .collect::<Option<Vec<_>>>()?;
        Some((layout, chosen))
    }
}
