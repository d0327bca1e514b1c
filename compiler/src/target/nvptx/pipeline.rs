//! Loops, and the copies to shared memory that run ahead of them.
//!
//! A loop's loads that only dots read are copied by `cp.async` into a ring of buffers, one for each stage, some iterations ahead. What their
//! addresses are computed from is *replayed* for the later iteration; addresses that move by the same distance in every iteration are carried as pointers instead.
//! One barrier an iteration suffices: after it every thread has seen this iteration's copies arrive, and has finished reading the buffer of the
//! iteration before, which is the one that the next copies go to.

use melior::ir::Type;
use melior::ir::ValueLike;
use smallvec::SmallVec;

use super::analysis::{Definition, LoopIndex, tile_dimensions};
use super::dot_plan::DotMethod;
use super::emit::{GLOBAL, IntegerPredicate, Scalar, Val};
use super::error::Error;
use super::layout::Layout;
use super::lower::Lowering;
use super::memory::AccessRequest;
use super::origins::{is_elementwise, is_pure, virtual_operands};
use super::shared::SharedTile;
use crate::tile::{BinaryOperation, Block, Coordinate, Dimension, Instruction, Operation, UnaryOperation, Value};

/// A load that runs ahead of its loop.
struct Prefetch {
    value: Value,
    /// Where its tile lies in a stage.
    offset: u32,
    /// Bytes by which the address moves in an iteration, as products of constants and strides; None if it has to be computed anew.
    advance: Option<Vec<(i64, Dimension)>>,
}

impl<'r, 'a> Lowering<'r, 'a> {
    /// Lowers a loop.
    pub fn for_loop(&mut self, instruction: &'r Instruction) -> Result<(), Error> {
        let Operation::For { lower, upper, step, initial, body } = &instruction.operation else { return Ok(()) };
        let mark = self.shared.mark();
        let inside = self.analysis.loop_of(body);
        let (first, last) = (self.get_scalar(*lower)?, self.get_scalar(*upper)?);
        let mut carried = Vec::new();
        for ((&start, &parameter), result) in initial.iter().zip(&body.parameters[1..]).zip(&instruction.results) {
            let home = self.home(parameter)?;
            let own = self.get(start, &home)?;
            let is_split = self.plan.split_sums.contains(result);
            carried.extend(if is_split { self.of_first_warp(&own) } else { own }.iter().copied());
        }
        self.hoist_invariants(body, inside)?;

        let stages = self.program.schedule.stages.max(1);
        let mut stage_bytes = 0;
        let mut prefetches = Vec::new();
        for instruction in &body.instructions {
            let Some(&value) = instruction.results.first() else { continue };
            let Some(staging) = self.plan.staged.get(&value) else { continue };
            if staging.asynchronous && self.is_replayable(value, inside) {
                let shape = self.shape(value);
                let bytes = shape.iter().product::<u32>() * self.program.type_of(value).element.bytes() as u32;
                let advance = self.advance(&instruction.operation, inside, *step);
                prefetches.push(Prefetch { value, offset: stage_bytes, advance });
                stage_bytes += bytes.next_multiple_of(128);
            }
        }
        let ring = self.shared.reserve(stage_bytes * stages);
        let ahead = stages - 1;
        let distance = i64::from(ahead) * i64::from(*step);
        let mut pointers = Vec::new();
        if !prefetches.is_empty() {
            self.fence_reads();
            for stage in 0..ahead {
                let index = self.add_constant(first, i64::from(stage) * i64::from(*step));
                let base = self.shared_address(ring + stage * stage_bytes);
                self.copy_ahead(&prefetches, body, inside, index, last, base, &[])?;
                self.emitter.effect("llvm.nvvm.cp.async.commit.group", &[]);
            }
            let index = self.add_constant(first, distance);
            for prefetch in prefetches.iter().filter(|prefetch| prefetch.advance.is_some()) {
                pointers.push(self.scoped(Some(inside), |this| {
                    this.remember_induction(body, index);
                    this.prefetch_pointer(prefetch.value)
                })?);
            }
        }
        let loads = self.loads_ahead(body, inside);
        let read = self.first_read_ahead(&loads, body, inside, (first, last))?;
        let mut steps = Vec::new();
        for prefetch in &prefetches {
            if let Some(advance) = &prefetch.advance {
                steps.push(self.advance_bytes(advance));
            }
        }

        // Parameters of the body: induction variable, carried registers, what has been read ahead, and with prefetches the addresses of the
        // stage that is read, of the one that is written, and the pointers.
        let carried_count = carried.len();
        let staged_at = 1 + carried_count + read.len();
        let mut arguments: Vec<Val<'a>> = std::iter::once(first).chain(carried.iter().copied()).chain(read).collect();
        let (begin, end) = (self.shared_address(ring), self.shared_address(ring + stage_bytes * stages));
        if !prefetches.is_empty() {
            arguments.push(begin);
            arguments.push(self.shared_address(ring + stage_bytes * ahead));
            arguments.extend(&pointers);
        }
        let types: Vec<Type<'a>> = arguments.iter().map(|argument| argument.r#type()).collect();
        // Two iterations that follow each other read into each other's registers, so that nothing is moved between them.
        let copies = if prefetches.is_empty() && !loads.is_empty() { 2 } else { 1 };
        let bodies: Vec<_> = (0..copies).map(|_| self.emitter.new_block(&types)).collect();
        let carried_types = &types[1..=carried_count];
        let (exit, results) = self.emitter.new_block(carried_types);
        let enters = self.emitter.compare_integers(IntegerPredicate::SignedLess, first, last);
        self.emitter.branch_if(enters, (bodies[0].0, &arguments), (exit, &carried));

        for (copy, (entry, parameters)) in bodies.iter().enumerate() {
            self.emitter.enter(*entry);
            let induction = parameters[0];
            let next = self.add_constant(induction, i64::from(*step));
            let (mut next_carried, mut rest) = (Vec::new(), Vec::new());
            self.scoped(None, |this| {
                this.shared.note_read();
                this.remember_induction(body, induction);
                let mut registers = parameters[1..=carried_count].iter().copied();
                for &parameter in &body.parameters[1..] {
                    let home = this.home(parameter)?;
                    let own = registers.by_ref().take(home.register_count()).collect();
                    this.remember(parameter, home, own);
                }
                let mut read = parameters[1 + carried_count..staged_at].iter().copied();
                for (value, layout) in &loads {
                    let (scalar, count) = (this.scalar_of(*value), layout.register_count());
                    let words: Vec<_> = read.by_ref().take(word_count(scalar, count)).collect();
                    let own = if scalar.bits() < 32 { this.emitter.unpack(scalar, &words, count) } else { words };
                    this.remember(*value, layout.clone(), own.into());
                }
                if !prefetches.is_empty() {
                    let (reads, writes) = (parameters[staged_at], parameters[staged_at + 1]);
                    let pointers = &parameters[staged_at + 2..];
                    if ahead > 0 {
                        let pending = this.emitter.i32(i64::from(ahead) - 1);
                        this.emitter.effect("llvm.nvvm.cp.async.wait.group", &[pending]);
                    }
                    this.barrier();
                    let later = this.add_constant(induction, distance);
                    let stage = if ahead > 0 { writes } else { reads };
                    this.copy_ahead(&prefetches, body, inside, later, last, stage, pointers)?;
                    this.emitter.effect("llvm.nvvm.cp.async.commit.group", &[]);
                    if ahead == 0 {
                        let none = this.emitter.i32(0);
                        this.emitter.effect("llvm.nvvm.cp.async.wait.group", &[none]);
                        this.barrier();
                    }
                    for prefetch in &prefetches {
                        let tile = this.stage_tile(prefetch, reads);
                        this.remember_staged(prefetch.value, tile);
                    }
                    let following = this.add_constant(reads, i64::from(stage_bytes));
                    let wraps = this.emitter.compare_integers(IntegerPredicate::Equal, following, end);
                    rest.push(this.emitter.select(Scalar::I32, wraps, begin, following));
                    rest.push(reads);
                    for (&pointer, &bytes) in pointers.iter().zip(&steps) {
                        rest.push(this.emitter.offset(pointer, GLOBAL, bytes));
                    }
                }
                if !loads.is_empty() {
                    // The last iteration reads its own again.
                    let exists = this.emitter.compare_integers(IntegerPredicate::SignedLess, next, last);
                    let index = this.emitter.select(Scalar::I32, exists, next, induction);
                    rest.splice(0..0, this.read_ahead(&loads, body, inside, index)?);
                }
                this.block(body)?;
                for (&value, &parameter) in body.yields.iter().zip(&body.parameters[1..]) {
                    let home = this.home(parameter)?;
                    next_carried.extend(this.get(value, &home)?.iter().copied());
                }
                Ok(())
            })?;
            let mut arguments = vec![next];
            arguments.extend(&next_carried);
            arguments.extend(&rest);
            let repeats = self.emitter.compare_integers(IntegerPredicate::SignedLess, next, last);
            let (following, _) = bodies[(copy + 1) % copies];
            self.emitter.branch_if(repeats, (following, &arguments), (exit, &next_carried));
        }

        self.emitter.enter(exit);
        self.shared.note_read();
        self.shared.release(mark);
        let mut registers = results.into_iter();
        for &result in &instruction.results {
            let home = self.home(result)?;
            let own: Vec<_> = registers.by_ref().take(home.register_count()).collect();
            let own = match self.plan.split_sums.contains(&result) {
                true => self.sum_of_warps(result, own, &home),
                false => own.into(),
            };
            self.remember(result, home, own);
        }
        Ok(())
    }

    /// The loads of a loop that go to registers an iteration ahead, in the layouts that its dots want them in.
    fn loads_ahead(&self, body: &Block, inside: LoopIndex) -> Vec<(Value, Layout)> {
        let mut found = Vec::new();
        for instruction in &body.instructions {
            let Operation::Dot { lhs, rhs, .. } = instruction.operation else { continue };
            let Some(plan) = self.plan.dots.get(&instruction.results[0]) else { continue };
            if let DotMethod::TensorCore(_) = plan.method {
                self.find_ahead(lhs, &plan.lhs, inside, &mut found);
                self.find_ahead(rhs, &plan.rhs, inside, &mut found);
            }
        }
        found
    }

    fn find_ahead(&self, value: Value, layout: &Layout, inside: LoopIndex, found: &mut Vec<(Value, Layout)>) {
        if self.plan.ahead.contains(&value) {
            let load = (value, layout.clone());
            if self.analysis.scope(value) == inside && self.is_replayable(value, inside) && !found.contains(&load) {
                found.push(load);
            }
        } else if self.plan.is_virtual(value) && !self.shape(value).is_empty() {
            for (operand, layout) in virtual_operands(self.analysis, value, layout) {
                self.find_ahead(operand, &layout, inside, found);
            }
        }
    }

    /// The registers of loads for an iteration; of narrow elements the words that they fill, as memory has them.
    fn read_ahead(
        &mut self,
        loads: &[(Value, Layout)],
        body: &Block,
        inside: LoopIndex,
        index: Val<'a>,
    ) -> Result<Vec<Val<'a>>, Error> {
        self.scoped(Some(inside), |this| {
            this.remember_induction(body, index);
            let mut registers = Vec::new();
            for (value, layout) in loads {
                let (scalar, own) = (this.scalar_of(*value), this.get(*value, layout)?);
                match scalar.bits() < 32 {
                    true => registers.extend(this.emitter.pack(scalar, &own)),
                    false => registers.extend(own.iter().copied()),
                }
            }
            Ok(registers)
        })
    }

    /// The registers of loads for the first iteration, if there is one.
    fn first_read_ahead(
        &mut self,
        loads: &[(Value, Layout)],
        body: &Block,
        inside: LoopIndex,
        (first, last): (Val<'a>, Val<'a>),
    ) -> Result<Vec<Val<'a>>, Error> {
        if loads.is_empty() {
            return Ok(Vec::new());
        }
        let (mut types, mut nothing) = (Vec::new(), Vec::new());
        for (value, layout) in loads {
            let (scalar, count) = (self.scalar_of(*value), layout.register_count());
            let word = match scalar.bits() * count.min(4) as u32 {
                _ if scalar.bits() >= 32 => scalar,
                8 => Scalar::I8,
                16 => Scalar::I16,
                _ => Scalar::I32,
            };
            let zero = if word.is_float() { self.emitter.float(word, 0.0) } else { self.emitter.integer(word, 0) };
            types.extend(std::iter::repeat_n(self.emitter.scalar_type(word), word_count(scalar, count)));
            nothing.extend(std::iter::repeat_n(zero, word_count(scalar, count)));
        }
        let (reads, _) = self.emitter.new_block(&[]);
        let (after, registers) = self.emitter.new_block(&types);
        let exists = self.emitter.compare_integers(IntegerPredicate::SignedLess, first, last);
        self.emitter.branch_if(exists, (reads, &[]), (after, &nothing));
        self.emitter.enter(reads);
        let read = self.read_ahead(loads, body, inside, first)?;
        self.emitter.branch(after, &read);
        self.emitter.enter(after);
        Ok(registers)
    }

    fn remember_induction(&mut self, body: &Block, index: Val<'a>) {
        if let Some(&induction) = body.parameters.first() {
            let uniform = self.uniform();
            self.remember(induction, uniform, [index].into());
        }
    }

    /// Computes before a loop what it reads and does not change: fragments of dots, and tiles in other layouts than their own.
    fn hoist_invariants(&mut self, body: &Block, inside: LoopIndex) -> Result<(), Error> {
        for instruction in &body.instructions {
            match &instruction.operation {
                Operation::Dot { lhs, rhs, .. } => {
                    self.hoist_operands(instruction.results[0], *lhs, *rhs, inside)?;
                    if let Some(plan) = self.plan.dots.get(&instruction.results[0]) {
                        for (operand, fragments) in [(*lhs, &plan.lhs), (*rhs, &plan.rhs)] {
                            let layout = match plan.method {
                                DotMethod::TensorCore(_) => fragments.clone(),
                                DotMethod::MultiplyAdd => self.operand_layout(operand),
                            };
                            self.hoist_conversions(operand, &layout, inside)?;
                        }
                    }
                }
                Operation::For { body, .. } => self.hoist_invariants(body, inside)?,
                operation if is_elementwise(operation) => {
                    let result = instruction.results[0];
                    if let Some(home) = self.plan.home(result).filter(|_| !self.plan.is_virtual(result)) {
                        for operand in operation.operands() {
                            self.hoist_conversions(operand, home, inside)?;
                        }
                    }
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// Converts before a loop what a value of it is computed from in a layout, if that comes from outside.
    fn hoist_conversions(&mut self, value: Value, layout: &Layout, inside: LoopIndex) -> Result<(), Error> {
        if self.shape(value).is_empty() {
            return Ok(());
        }
        let outside = !self.analysis.is_inside(self.analysis.scope(value), inside);
        if !self.plan.is_virtual(value) {
            if outside && self.plan.home(value).is_some_and(|home| home != layout) {
                self.get(value, layout)?;
            }
            return Ok(());
        }
        if let (true, Definition::Operation(Operation::Load { coordinates, .. })) =
            (self.plan.ahead.contains(&value), self.analysis.definition(value))
        {
            for (coordinate, dimension) in coordinates.iter().zip(tile_dimensions(coordinates)) {
                if let (Coordinate::Gather(indices), Some(dimension)) = (coordinate, dimension) {
                    let layout = layout.project(self.shape(value), &[dimension]);
                    self.hoist_conversions(*indices, &layout, inside)?;
                }
            }
            return Ok(());
        }
        for (operand, layout) in virtual_operands(self.analysis, value, layout) {
            self.hoist_conversions(operand, &layout, inside)?;
        }
        Ok(())
    }

    /// Whether a value of a loop can be computed for another iteration.
    fn is_replayable(&self, value: Value, inside: LoopIndex) -> bool {
        if !self.analysis.is_inside(self.analysis.scope(value), inside) {
            return true;
        }
        let definition = self.analysis.definition(value);
        is_pure(self.analysis, definition)
            && self.analysis.scope(value) == inside
            && match definition {
                Definition::Operation(operation) => {
                    operation.operands().iter().all(|&operand| self.is_replayable(operand, inside))
                }
                _ => true,
            }
    }

    /// How far the address of a load moves in an iteration, if always equally far.
    fn advance(&self, operation: &Operation, inside: LoopIndex, step: u32) -> Option<Vec<(i64, Dimension)>> {
        let Operation::Load { tensor, coordinates, .. } = operation else { return None };
        let tensor = self.program.tensor(*tensor)?;
        let bytes = tensor.element.bytes() as i64;
        coordinates
            .iter()
            .zip(&tensor.strides)
            .map(|(coordinate, &stride)| {
                let slope = match *coordinate {
                    Coordinate::At(index) => self.slope(index, inside)?,
                    Coordinate::Block { start, .. } => self.slope(start, inside)?,
                    Coordinate::Gather(indices) => {
                        (!self.analysis.is_inside(self.analysis.scope(indices), inside)).then_some(0)?
                    }
                };
                Some((slope * i64::from(step) * bytes, stride))
            })
            .collect()
    }

    /// How much an index grows when the induction variable grows by one.
    fn slope(&self, value: Value, inside: LoopIndex) -> Option<i64> {
        if !self.analysis.is_inside(self.analysis.scope(value), inside) {
            return Some(0);
        }
        match self.analysis.definition(value) {
            Definition::Induction => (self.analysis.scope(value) == inside).then_some(1),
            Definition::Operation(Operation::Constant(_) | Operation::Argument(_) | Operation::ProgramId(_)) => Some(0),
            Definition::Operation(Operation::Binary(operation, a, b)) => {
                let (left, right) = (self.slope(*a, inside)?, self.slope(*b, inside)?);
                match operation {
                    BinaryOperation::Add => Some(left + right),
                    BinaryOperation::Subtract => Some(left - right),
                    BinaryOperation::Multiply if left == 0 && right == 0 => Some(0),
                    BinaryOperation::Multiply => {
                        match (self.analysis.range(*a).value(), self.analysis.range(*b).value()) {
                            (Some(factor), _) => Some(factor * right),
                            (_, Some(factor)) => Some(left * factor),
                            _ => None,
                        }
                    }
                    _ if left == 0 && right == 0 => Some(0),
                    _ => None,
                }
            }
            Definition::Operation(Operation::Unary(UnaryOperation::Negate, operand)) => {
                self.slope(*operand, inside).map(|slope| -slope)
            }
            _ => None,
        }
    }

    fn advance_bytes(&mut self, advance: &[(i64, Dimension)]) -> Val<'a> {
        let mut constant = 0;
        let mut symbolic = None;
        for &(factor, stride) in advance {
            match stride {
                Dimension::Constant(stride) => constant += factor * stride as i64,
                Dimension::Argument(_) if factor == 0 => {}
                Dimension::Argument(argument) => {
                    let wide = self.emitter.scalar_type(Scalar::I64);
                    let stride = self.parameter(argument);
                    let stride = self.emitter.convert("llvm.sext", stride, wide);
                    let factor = self.emitter.i64(factor);
                    let part = self.emitter.binary("llvm.mul", Scalar::I64, stride, factor);
                    symbolic = Some(match symbolic {
                        None => part,
                        Some(sum) => self.emitter.binary("llvm.add", Scalar::I64, sum, part),
                    });
                }
            }
        }
        let constant = self.emitter.i64(constant);
        match symbolic {
            None => constant,
            Some(sum) => self.emitter.binary("llvm.add", Scalar::I64, sum, constant),
        }
    }

    fn stage_tile(&mut self, prefetch: &Prefetch, stage: Val<'a>) -> SharedTile<'a> {
        let shape = self.shape(prefetch.value);
        let element = self.program.type_of(prefetch.value).element;
        let fastest = self.plan.staged[&prefetch.value].access.fastest;
        let mut tile = self.shared_tile(0, shape, fastest, element);
        tile.base = self.add_constant(stage, i64::from(prefetch.offset));
        tile
    }

    /// Starts the copies of a later iteration, if there is one.
    #[allow(clippy::too_many_arguments)]
    fn copy_ahead(
        &mut self,
        prefetches: &[Prefetch],
        body: &'r Block,
        inside: LoopIndex,
        index: Val<'a>,
        last: Val<'a>,
        stage: Val<'a>,
        pointers: &[Val<'a>],
    ) -> Result<(), Error> {
        let (copies, _) = self.emitter.new_block(&[]);
        let (after, _) = self.emitter.new_block(&[]);
        let exists = self.emitter.compare_integers(IntegerPredicate::SignedLess, index, last);
        self.emitter.branch_if(exists, (copies, &[]), (after, &[]));
        self.emitter.enter(copies);
        self.scoped(Some(inside), |this| {
            this.remember_induction(body, index);
            let mut pointers = pointers.iter().copied();
            for prefetch in prefetches {
                let pointer = if prefetch.advance.is_some() { pointers.next() } else { None };
                let tile = this.stage_tile(prefetch, stage);
                this.copy_tile(prefetch.value, &tile, pointer)?;
            }
            Ok(())
        })?;
        self.emitter.branch(after, &[]);
        self.emitter.enter(after);
        Ok(())
    }

    fn staged_request(&self, value: Value) -> Result<(AccessRequest<'r>, &'r super::plan::Staging), Error> {
        match (self.analysis.definition(value), self.plan.staged.get(&value)) {
            (Definition::Operation(Operation::Load { tensor, coordinates, mask, .. }), Some(staging)) => Ok((
                AccessRequest {
                    tensor: *tensor,
                    coordinates,
                    mask: *mask,
                    shape: self.shape(value),
                    longest: staging.access.vector,
                },
                staging,
            )),
            _ => Err(Error::Internal { value, what: "only loads are staged" }),
        }
    }

    fn prefetch_pointer(&mut self, value: Value) -> Result<Val<'a>, Error> {
        let (request, staging) = self.staged_request(value)?;
        self.first_pointer(&request, &staging.layout)
    }

    /// Copies a load's tile to shared memory by `cp.async`; `pointer` is its address if that is known.
    fn copy_tile(&mut self, value: Value, tile: &SharedTile<'a>, pointer: Option<Val<'a>>) -> Result<(), Error> {
        let (request, staging) = self.staged_request(value)?;
        let vectors = self.vectors_from(&request, &staging.layout, pointer)?;
        let thread = self.thread_images(&staging.layout, &tile.layout);
        let offsets: Vec<u32> = vectors
            .iter()
            .map(|vector| tile.layout.address(staging.layout.register_index(vector.registers[0])))
            .collect();
        let targets = self.shared_addresses(tile.base, &thread, &offsets);
        let first_copy = self.first_copy(&staging.layout);
        for (vector, target) in vectors.iter().zip(targets) {
            let bytes = vector.registers.len() * tile.element.bytes();
            let kind = if bytes == 16 { "cg" } else { "ca" };
            let target = self.emitter.shared_pointer(target);
            // Bytes that are not copied become zeros.
            let size = vector.predicate.map(|predicate| {
                let (all, none) = (self.emitter.i32(bytes as i64), self.emitter.i32(0));
                self.emitter.select(Scalar::I32, predicate, all, none)
            });
            let address = self.address(vector);
            let mut operands = vec![target, address];
            operands.extend(size);
            match first_copy {
                None => {
                    let suffix = if size.is_some() { ".s" } else { "" };
                    let name = format!("llvm.nvvm.cp.async.{kind}.shared.global.{bytes}{suffix}");
                    self.emitter.effect(&name, &operands);
                }
                // Threads that hold copies take no part; a branch around would tear warps apart.
                Some(first) => {
                    let (size, constraint) = if size.is_some() { (", $2", ",r") } else { ("", "") };
                    let predicate = operands.len();
                    let text = format!("@${predicate} cp.async.{kind}.shared.global \t[$0], [$1], {bytes}{size};");
                    operands.push(first);
                    self.emitter.assembly(&text, &format!("r,l{constraint},b"), &operands, None, true);
                }
            }
        }
        Ok(())
    }

    /// Brings a load to shared memory where the program makes it.
    pub fn stage_in_order(&mut self, value: Value) -> Result<(), Error> {
        if self.staged(value).is_some() {
            return Ok(());
        }
        let (request, staging) = self.staged_request(value)?;
        let element = self.program.type_of(value).element;
        let shape: SmallVec<[u32; 3]> = request.shape.into();
        let fastest = staging.access.fastest;
        // Waiting for copies inside a loop would wait for those that run ahead too.
        let asynchronous = staging.asynchronous && self.analysis.scope(value) == 0;
        let registers = if asynchronous { None } else { Some(self.load_staged(value, &staging.layout)?) };
        self.fence_reads();
        let offset = self.shared.reserve(shape.iter().product::<u32>() * element.bytes() as u32);
        let tile = self.shared_tile(offset, &shape, fastest, element);
        match registers {
            Some(registers) => self.write_shared(&tile, &staging.layout, &registers),
            None => {
                self.copy_tile(value, &tile, None)?;
                self.emitter.effect("llvm.nvvm.cp.async.commit.group", &[]);
                let none = self.emitter.i32(0);
                self.emitter.effect("llvm.nvvm.cp.async.wait.group", &[none]);
            }
        }
        self.barrier();
        self.remember_staged(value, tile);
        Ok(())
    }

    fn load_staged(
        &mut self,
        value: Value,
        layout: &super::layout::Layout,
    ) -> Result<super::lower::Registers<'a>, Error> {
        match self.analysis.definition(value) {
            Definition::Operation(Operation::Load { tensor, coordinates, mask, other }) => {
                self.load(value, *tensor, coordinates, *mask, *other, layout)
            }
            _ => Err(Error::Internal { value, what: "only loads are staged" }),
        }
    }
}

/// Registers that so many elements fill, of which several share a word if they are narrow.
fn word_count(scalar: Scalar, elements: usize) -> usize {
    if scalar.bits() < 32 { (elements * scalar.bits() as usize).div_ceil(32) } else { elements }
}
