//! A kernel's body, and those of the functions it calls.

use std::collections::{HashMap, HashSet};

use super::builder::{Builder, Surroundings};
use super::call_graph::CallGraph;
use super::draft::{Draft, rows_of, stretch};
use super::form::{Prepared, find, prepared};
use super::scope::{Binding, Place, Scopes};
use crate::diagnostic::Problem;
use crate::machine::fault;
use crate::machine::instruction::{Guard, INLINE_OPERANDS, Instruction, Step, Traits};
use crate::machine::kernel::{Callable, Destination, Kernel, Register, STACK, Source};
use crate::machine::row::Slot;
use crate::parse::Span;
use crate::parse::ast::{self, Function, Linkage, Module, Operand, Space, Statement, Variable, Width};

type Decoded<T> = Result<T, Problem>;

/// The instructions of textures and surfaces.
const TEXTURES: [&str; 8] = ["tex", "tld4", "txq", "istypep", "suld", "sust", "sured", "suq"];
/// More registers than any kernel can use; a declaration of more is a mistake that would exhaust memory.
const MOST_REGISTERS: u32 = 1 << 18;
/// More local memory than a thread can have.
const MOST_LOCAL: u64 = 512 << 10;

/// Decodes a kernel.
pub fn kernel(
    file: &str,
    source: &str,
    module: &Module<'_>,
    number: usize,
    globals: &HashMap<String, (u64, u64)>,
    calls: &CallGraph<'_>,
) -> Decoded<Kernel> {
    let function = &module.functions[number];
    let mut decoder = Decoder {
        module,
        draft: Draft::new(),
        scopes: Scopes::default(),
        shared: SharedLayout::default(),
        spans: vec![],
        sections: vec![],
        traits: vec![],
        destinations: vec![],
        sources: vec![],
        calls,
        function: None,
    };
    if calls.has_stack(number) {
        decoder.draft.new_local(STACK, 16);
    }
    decoder.scopes.open();
    decoder.shared.place(module, function)?;
    decoder.bind_module(globals)?;
    let mut parameters = vec![];
    let mut end = 0u32;
    decoder.scopes.open();
    for parameter in &function.parameters {
        let bytes = parameter.bytes();
        let offset = end.next_multiple_of(parameter.aligned().max(1));
        end = u32::try_from(u64::from(offset) + bytes)
            .ok()
            .filter(|end| *end <= 32764)
            .ok_or_else(|| Problem::new(parameter.span.clone(), "the parameters are larger than 32764 bytes"))?;
        parameters.push((offset, bytes as u32));
        decoder.bind(parameter, Binding::Variable { space: Place::Parameter, address: u64::from(offset) })?;
    }
    decoder.body(function)?;
    decoder.scopes.close();
    // Functions are decoded once they are called, which may bring more.
    let mut done = HashSet::new();
    loop {
        if decoder.draft.calls_through_registers {
            for number in calls.reached_through_registers() {
                let signature = module.functions[*number].signature();
                decoder.draft.callable(*number, signature, calls.has_frames(*number));
            }
        }
        let called = decoder.draft.called.iter().filter(|(number, _)| !done.contains(*number));
        // In the order of the module, so that decoding is the same each time.
        let Some((number, callable)) = called.min_by_key(|(number, _)| **number) else { break };
        let (number, callable) = (*number, callable.clone());
        done.insert(number);
        decoder.callee(number, callable)?;
    }
    let Decoder { mut draft, spans, sections, traits, destinations, sources, shared, .. } = decoder;
    let labels: Vec<u32> = draft.labels.iter().map(|label| label.unwrap_or_default()).collect();
    for instruction in &mut draft.code {
        if let Some(label) = labels.get(instruction.target as usize) {
            instruction.target = *label;
        }
    }
    for callable in draft.called.values_mut() {
        callable.entry = labels.get(callable.entry as usize).copied().unwrap_or_default();
    }
    for table in &mut draft.tables {
        for target in table {
            *target = labels.get(*target as usize).copied().unwrap_or_default();
        }
    }
    let mut line_starts = vec![0];
    line_starts.extend(source.bytes().enumerate().filter(|(_, byte)| *byte == b'\n').map(|(at, _)| at + 1));
    let places = spans.iter().map(|span| fault::Place {
        file: file.into(),
        line: line_starts.partition_point(|start| *start <= span.start) as u32,
        text: source[span.clone()].split_whitespace().collect::<Vec<_>>().join(" ").chars().take(200).collect(),
    });
    Ok(Kernel {
        name: function.name.into(),
        has_products: draft.has_products,
        tensor_fences: draft.tensor_fences,
        places: places.collect(),
        code: draft.code,
        list: draft.list,
        constants: draft.constants,
        rows: draft.rows as usize,
        predicates: draft.predicates as usize,
        presets: draft.presets,
        parameters,
        parameter_bytes: end,
        static_shared: shared.bytes,
        dynamic_alignment: shared.alignment,
        local_bytes: draft.local_bytes.next_multiple_of(16),
        requirements: function.requirements.clone(),
        tables: draft.tables,
        functions: draft.called,
        stack_pointer: draft.stack_pointer,
        sections,
        traits,
        destinations,
        sources,
        target: module.target.into(),
        convergence: Default::default(),
    })
}

/// Where shared variables are, by the place of their declaration.
#[derive(Default)]
struct SharedLayout {
    offsets: HashMap<usize, u32>,
    bytes: u32,
    alignment: u32,
}

impl SharedLayout {
    /// Places those that a kernel, or a function that it may call, declares or names. What is sized at launch comes last.
    fn place(&mut self, module: &Module<'_>, kernel: &Function<'_>) -> Decoded<()> {
        let mut names = HashSet::new();
        let mut declared = vec![];
        let functions = module.functions.iter().filter(|function| !function.entry);
        for function in functions.chain([kernel]) {
            collect(function.body.as_deref().unwrap_or_default(), &mut names, &mut declared);
        }
        let outside =
            module.variables.iter().filter(|variable| variable.space == Space::Shared && names.contains(variable.name));
        let mut at_launch = vec![];
        for variable in outside.chain(declared) {
            if variable.bytes() == 0 || variable.linkage == Linkage::External {
                at_launch.push(variable);
                continue;
            }
            let offset = self.bytes.next_multiple_of(variable.aligned().max(1));
            self.offsets.insert(variable.span.start, offset);
            let end = u64::from(offset).saturating_add(variable.bytes());
            self.bytes = u32::try_from(end)
                .ok()
                .filter(|end| *end <= 1 << 20)
                .ok_or_else(|| Problem::new(variable.span.clone(), "more shared memory than any chip has"))?;
        }
        self.alignment = at_launch.iter().map(|variable| variable.aligned()).max().unwrap_or(16).max(16);
        for variable in at_launch {
            self.offsets.insert(variable.span.start, self.bytes.next_multiple_of(self.alignment));
        }
        Ok(())
    }
}

fn collect<'m, 'a>(body: &'m [Statement<'a>], names: &mut HashSet<&'a str>, shared: &mut Vec<&'m Variable<'a>>) {
    for statement in body {
        match statement {
            Statement::Variable(variable) if variable.space == Space::Shared => shared.push(variable),
            Statement::Instruction(instruction) => {
                instruction.operands.iter().for_each(|one| collect_operand(one, names))
            }
            Statement::Scope(inner) => collect(inner, names, shared),
            _ => {}
        }
    }
}

fn collect_operand<'a>(operand: &Operand<'a>, names: &mut HashSet<&'a str>) {
    match operand {
        Operand::Name(name) | Operand::Offset(name, _) | Operand::Generic(name) => {
            names.insert(name);
        }
        Operand::Vector(list) | Operand::Address(list) | Operand::Group(list) => {
            list.iter().for_each(|one| collect_operand(one, names));
        }
        _ => {}
    }
}

struct Decoder<'m, 'a> {
    module: &'m Module<'a>,
    draft: Draft,
    scopes: Scopes<'a>,
    shared: SharedLayout,
    spans: Vec<Span>,
    sections: Vec<&'static str>,
    traits: Vec<Traits>,
    destinations: Vec<Vec<Destination>>,
    sources: Vec<Vec<Source>>,
    calls: &'m CallGraph<'a>,
    function: Option<usize>,
}

impl<'a> Decoder<'_, 'a> {
    fn bind(&mut self, variable: &Variable<'a>, binding: Binding) -> Decoded<()> {
        if self.scopes.bind(variable.name, binding) {
            Ok(())
        } else {
            Err(Problem::new(variable.span.clone(), format!("`{}` is declared twice", variable.name)))
        }
    }

    fn bind_module(&mut self, globals: &HashMap<String, (u64, u64)>) -> Decoded<()> {
        for variable in &self.module.variables {
            let address = match variable.space {
                Space::Shared => self.shared.offsets.get(&variable.span.start).map(|offset| u64::from(*offset)),
                _ => globals.get(variable.name).map(|(address, _)| *address),
            };
            if let (Some(address), Some(space)) = (address, Place::of(variable.space)) {
                self.scopes.bind(variable.name, Binding::Variable { space, address });
            }
        }
        for (name, number) in self.calls.names() {
            self.scopes.bind(name, Binding::Function(number));
        }
        Ok(())
    }

    fn declare(&mut self, variable: &Variable<'a>) -> Decoded<()> {
        let problem = |message: &str| Err(Problem::new(variable.span.clone(), message));
        match variable.space {
            Space::Register => {
                let count = variable.numbered.unwrap_or(1);
                let per = rows_of(variable.width.bytes()) * variable.components;
                if count > MOST_REGISTERS || self.draft.rows + count * per > MOST_REGISTERS {
                    return problem("more registers than any kernel can use");
                }
                for index in 0..count {
                    let binding = if variable.width == Width::Predicate {
                        self.draft.predicates += 1;
                        self.keep(Register::Predicate(self.draft.predicates - 1));
                        Binding::Predicate(self.draft.predicates - 1)
                    } else {
                        let row = self.draft.new_rows(per);
                        let bytes = variable.width.bytes();
                        for component in 0..variable.components {
                            self.keep(Register::Rows { row: row + component * rows_of(bytes), bytes });
                        }
                        Binding::Register { row, bytes: variable.width.bytes(), components: variable.components }
                    };
                    match variable.numbered {
                        None => self.bind(variable, binding)?,
                        Some(_) => {
                            if !self.scopes.bind(format!("{}{index}", variable.name), binding) {
                                return problem("declared twice");
                            }
                        }
                    }
                }
                Ok(())
            }
            Space::Shared => {
                let Some(offset) = self.shared.offsets.get(&variable.span.start) else { return problem("not placed") };
                let binding = Binding::Variable { space: Place::Shared, address: u64::from(*offset) };
                self.bind(variable, binding)
            }
            Space::Local | Space::Parameter => {
                if variable.bytes() + u64::from(self.draft.local_bytes) > MOST_LOCAL {
                    return problem("more local memory than a thread can have");
                }
                let (bytes, alignment) = (variable.bytes() as u32, variable.aligned());
                let frame = self.function.and_then(|number| self.draft.called.get_mut(&number)?.frame.as_mut());
                let (space, offset) = match frame {
                    Some(frame) => (Place::Frame, stretch(&mut frame.bytes, bytes, alignment)),
                    None => (Place::Local, self.draft.new_local(bytes, alignment)),
                };
                self.bind(variable, Binding::Variable { space, address: u64::from(offset) })
            }
            Space::Global | Space::Constant => problem("global variables are declared outside of functions"),
        }
    }

    /// Notes a register that belongs to a call of a function that has frames.
    fn keep(&mut self, register: Register) {
        let frame = self.function.and_then(|number| self.draft.called.get_mut(&number)?.frame.as_mut());
        if let Some(frame) = frame {
            frame.registers.push(register);
        }
    }

    fn callee(&mut self, number: usize, callee: Callable) -> Decoded<()> {
        let module = self.module;
        let function = &module.functions[number];
        self.draft.labels[callee.entry as usize] = Some(self.draft.code.len() as u32);
        self.function = Some(number);
        let space = if callee.frame.is_some() { Place::Frame } else { Place::Local };
        self.scopes.open();
        let both =
            function.results.iter().zip(&callee.results).chain(function.parameters.iter().zip(&callee.parameters));
        for (variable, (offset, _)) in both {
            if variable.space == Space::Register {
                return Err(Problem::new(variable.span.clone(), "parameters in registers are of PTX 1; use .param"));
            }
            self.bind(variable, Binding::Variable { space, address: u64::from(*offset) })?;
        }
        self.body(function)?;
        self.scopes.close();
        self.function = None;
        if let Some(frame) = self.draft.called.get_mut(&number).and_then(|callable| callable.frame.as_mut()) {
            frame.bytes = frame.bytes.next_multiple_of(16);
        }
        Ok(())
    }

    fn body(&mut self, function: &Function<'a>) -> Decoded<()> {
        let Some(body) = &function.body else {
            return Err(Problem::new(
                function.span.clone(),
                format!("`{}` is called, but has no body here", function.name),
            ));
        };
        self.scope(body)?;
        // Control that runs off the end returns.
        let ret = ast::Instruction {
            guard: None,
            name: "ret",
            modifiers: vec![],
            operands: vec![],
            span: function.span.clone(),
        };
        self.instruction(&ret)
    }

    fn scope(&mut self, body: &[Statement<'a>]) -> Decoded<()> {
        self.scopes.open();
        for statement in body {
            let (name, span, binding) = match statement {
                Statement::Label(name, span) => (*name, span.clone(), Binding::Label(self.draft.new_label())),
                Statement::BranchTargets(name, _) => {
                    self.draft.tables.push(vec![]);
                    (*name, 0..0, Binding::Table(self.draft.tables.len() as u32 - 1))
                }
                Statement::CallPrototype(name) => (*name, 0..0, Binding::Prototype),
                _ => continue,
            };
            if !self.scopes.bind(name, binding) {
                return Err(Problem::new(span, format!("the label `{name}` is here twice")));
            }
        }
        for statement in body {
            match statement {
                Statement::Variable(variable) => self.declare(variable)?,
                Statement::Label(name, _) => {
                    if let Some(Binding::Label(label)) = self.scopes.find(name) {
                        self.draft.labels[label as usize] = Some(self.draft.code.len() as u32);
                    }
                }
                Statement::BranchTargets(name, targets) => {
                    let Some(Binding::Table(table)) = self.scopes.find(name) else { continue };
                    for target in targets {
                        match self.scopes.find(target) {
                            Some(Binding::Label(label)) => self.draft.tables[table as usize].push(label),
                            _ => return Err(Problem::new(0..0, format!("`{target}` in `{name}` is not a label"))),
                        }
                    }
                }
                Statement::CallPrototype(_) => {}
                Statement::Instruction(instruction) => self.instruction(instruction)?,
                Statement::Scope(inner) => self.scope(inner)?,
            }
        }
        self.scopes.close();
        Ok(())
    }

    fn instruction(&mut self, written: &ast::Instruction<'a>) -> Decoded<()> {
        let mut guard_register = None;
        let guard = match written.guard {
            None => Guard::ALWAYS,
            Some((name, negated)) => match self.scopes.find(name) {
                Some(Binding::Predicate(number)) => {
                    guard_register =
                        Some(Source { decides: true, name: name.into(), register: Register::Predicate(number) });
                    Guard::new(number, negated)
                }
                _ => return Err(Problem::new(written.span.clone(), format!("`{name}` is not a predicate"))),
            },
        };
        let full = || {
            let modifiers: String = written.modifiers.iter().map(|modifier| format!(".{modifier}")).collect();
            format!("{}{modifiers}", written.name)
        };
        let Some(forms) = prepared().get(written.name) else {
            if TEXTURES.contains(&written.name) {
                let message = format!("`{}`: textures and surfaces are not emulated", full());
                return Err(Problem::new(written.span.clone(), message).help("read and write global memory instead"));
            }
            return Err(Problem::new(written.span.clone(), format!("unknown instruction `{}`", full())));
        };
        let Some((form, modifiers)) = find(forms, &written.modifiers) else {
            return Err(unknown_modifiers(written, forms, &full()));
        };
        let place = self.spans.len() as u32;
        self.spans.push(written.span.clone());
        let around = Surroundings {
            scopes: &self.scopes,
            functions: &self.module.functions,
            calls: self.calls,
            function: self.function,
        };
        let mut builder = Builder::new(written, modifiers, guard, place, &mut self.draft, around);
        builder.traits.undefined = form.undefined;
        builder.traits.only_reads = form.only_reads();
        let execute = (form.form.build)(&mut builder)?;
        builder.finish()?;
        self.sources.push(sources(guard_register, builder.touched, &builder.destinations));
        self.sections.push(form.form.section);
        self.traits.push(builder.traits);
        self.destinations.push(builder.destinations);
        let mut made = builder.made;
        made.execute = execute;
        self.draft.code.push(made);
        Ok(())
    }
}

/// What an instruction reads: its guard, and the operands that are not destinations.
fn sources(guard: Option<Source>, mut touched: Vec<Source>, destinations: &[Destination]) -> Vec<Source> {
    let row = |register| if let Register::Rows { row, .. } = register { Some(row) } else { None };
    for destination in destinations {
        let written = row(destination.register);
        // A register that is read too is there twice.
        if let Some(at) = touched.iter().position(|one| written.is_some() && row(one.register) == written) {
            touched.remove(at);
        }
    }
    guard.into_iter().chain(touched).collect()
}

fn unknown_modifiers(written: &ast::Instruction<'_>, forms: &[Prepared], full: &str) -> Problem {
    let known: Vec<&str> = forms.iter().map(|form| form.form.pattern).collect();
    Problem::new(written.span.clone(), format!("unknown instruction `{full}`")).help(format!(
        "`{}` is known as {}",
        written.name,
        known.join(", ")
    ))
}

/// An instruction that the decoder puts in by itself.
pub fn synthetic(
    execute: fn(&mut crate::machine::context::Context<'_>, &Instruction) -> Step,
    like: &Instruction,
) -> Instruction {
    Instruction {
        execute,
        operands: [Slot::register(0); INLINE_OPERANDS],
        list_length: 0,
        immediate: 0,
        modifiers: 0,
        target: u32::MAX,
        ..like.clone()
    }
}
