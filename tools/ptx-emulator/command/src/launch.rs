//! What the command line asks to launch.

use std::path::PathBuf;
use std::sync::Arc;

use miette::{Diagnostic, IntoDiagnostic, NamedSource, Result, SourceSpan, WrapErr, miette};
use ptx_emulator::chip::{CHIPS, Chip};
use ptx_emulator::decode::Module;
use ptx_emulator::machine::fault::Fault;
use ptx_emulator::machine::grid::{Grid, Limits};
use ptx_emulator::machine::kernel::Kernel;
use ptx_emulator::memory::global::Memory;
use ptx_emulator::tensor_core::accumulation::Accumulation;

use crate::argument::{Argument, Source};
use crate::arguments;
use crate::array::Array;

/// A kernel with its arguments in memory.
pub struct Launch {
    kernel: Arc<Kernel>,
    /// Keeps the module's variables.
    _module: Module,
    memory: Arc<Memory>,
    chip: &'static Chip,
    extent: [u32; 3],
    block: [u32; 3],
    cluster: [u32; 3],
    shared: u32,
    seed: u64,
    limits: Limits,
    parameters: Vec<u8>,
    outputs: Vec<Output>,
}

/// An array that is written when the kernel has succeeded.
struct Output {
    address: u64,
    array: Array,
    path: PathBuf,
}

impl Launch {
    /// Loads the module, and puts the arguments into memory.
    pub fn prepare(line: &arguments::Launch) -> Result<Launch> {
        let place = || format!("cannot read {}", line.file.display());
        let source = std::fs::read_to_string(&line.file).into_diagnostic().wrap_err_with(place)?;
        let memory = Arc::new(Memory::default());
        let module = Module::load(&line.file.display().to_string(), &source, &memory, 0).map_err(|error| *error)?;
        let kernel = choose(&module, line.kernel.as_deref())?;
        let chip = chip(&module.target, line.chip.as_deref())?;
        let block = line.block.map(|block| block.0).or(kernel.requirements.block).ok_or_else(|| {
            miette!(help = "say --block", "the kernel has no .reqntid: how many threads does a CTA have?")
        })?;
        let cluster = line.cluster.map(|cluster| cluster.0).or(kernel.requirements.cluster).unwrap_or([1; 3]);
        let mut launch = Launch {
            kernel,
            _module: module,
            memory,
            chip,
            extent: line.grid.0,
            block,
            cluster,
            shared: line.shared,
            seed: line.seed,
            limits: Limits { shared_bytes: chip.shared_per_block, instructions: line.instruction_limit },
            parameters: vec![],
            outputs: vec![],
        };
        launch.pass(&line.arguments)?;
        Ok(launch)
    }

    /// Lays the arguments out as the kernel's parameters.
    fn pass(&mut self, given: &[Argument]) -> Result<()> {
        let kernel = self.kernel.clone();
        if given.len() != kernel.parameters.len() {
            let sizes: Vec<String> = kernel.parameters.iter().map(|(_, bytes)| bytes.to_string()).collect();
            return Err(miette!(
                help = format!("they have {} bytes; give each with --arg", sizes.join(", ")),
                "{} has {} parameters, and {} are given",
                kernel.name,
                kernel.parameters.len(),
                given.len()
            ));
        }
        self.parameters = vec![0; kernel.parameter_bytes as usize];
        for (number, (argument, (offset, length))) in given.iter().zip(&kernel.parameters).enumerate() {
            let bytes = self.bytes_of(argument).wrap_err_with(|| format!("argument {}", number + 1))?;
            if bytes.len() != *length as usize {
                return Err(miette!(
                    "argument {} has {} bytes, and the parameter of {} has {length}",
                    number + 1,
                    bytes.len(),
                    kernel.name
                ));
            }
            self.parameters[*offset as usize..][..bytes.len()].copy_from_slice(&bytes);
        }
        Ok(())
    }

    fn bytes_of(&mut self, argument: &Argument) -> Result<Vec<u8>> {
        let (source, output) = match argument {
            Argument::Number(bytes) => return Ok(bytes.clone()),
            Argument::Bytes(path) => return Ok(Array::read(path)?.bytes),
            Argument::Array { source, output } => (source, output),
        };
        let array = match source {
            Source::File(path, None) => Array::read(path)?,
            Source::File(path, Some(element)) => {
                Array::read(path)?.convert(*element).wrap_err_with(|| format!("cannot convert {}", path.display()))?
            }
            Source::Zeros(element, shape) => {
                Array::zeros(*element, shape).ok_or_else(|| miette!("an array of shape {shape:?} is too large"))?
            }
        };
        let address = self.memory.allocate(array.bytes.len() as u64, Some(0));
        let address = address.ok_or_else(|| miette!("there is no memory for {} bytes", array.bytes.len()))?;
        self.memory.view().copy_in(address, &array.bytes).ok_or_else(|| miette!("the array does not fit"))?;
        if let Some(path) = output {
            self.outputs.push(Output { address, array, path: path.clone() });
        }
        Ok(address.to_le_bytes().into())
    }

    /// The launch.
    pub fn grid(&self) -> Grid<'_> {
        Grid {
            kernel: &self.kernel,
            extent: self.extent,
            block: self.block,
            cluster: self.cluster,
            dynamic_shared: self.shared,
            parameters: self.parameters.clone(),
            memory: self.memory.view(),
            multiprocessors: self.chip.multiprocessors,
            seed: self.seed,
            accumulation: Accumulation::from_environment(),
            limits: self.limits,
        }
    }

    /// Writes the arrays that are named: all of them, or none.
    pub fn save(mut self) -> Result<()> {
        let view = self.memory.view();
        let mut finished = vec![];
        for Output { address, array, path } in &mut self.outputs {
            let place = || format!("cannot write {}", path.display());
            view.copy_out(*address, &mut array.bytes)
                .ok_or_else(|| miette!("the array is gone"))
                .wrap_err_with(place)?;
            finished.push((array.write_beside(path).wrap_err_with(place)?, path.clone()));
        }
        for (file, path) in finished {
            file.persist(&path).into_diagnostic().wrap_err_with(|| format!("cannot write {}", path.display()))?;
        }
        Ok(())
    }
}

fn choose(module: &Module, name: Option<&str>) -> Result<Arc<Kernel>> {
    let mut names: Vec<&str> = module.kernels.keys().map(String::as_str).collect();
    names.sort_unstable();
    let known = || if names.is_empty() { "it has no kernels".into() } else { format!("it has {}", names.join(", ")) };
    match (name, names.as_slice()) {
        (Some(name), _) => {
            module.kernel(name).cloned().ok_or_else(|| miette!(help = known(), "the module has no kernel `{name}`"))
        }
        (None, [only]) => module.kernel(only).cloned().ok_or_else(|| miette!("the module has no kernels")),
        (None, _) => Err(miette!(help = known(), "which kernel? Say --kernel")),
    }
}

fn chip(target: &str, name: Option<&str>) -> Result<&'static Chip> {
    let known = || CHIPS.map(|chip| chip.name).join(", ");
    let Some(name) = name else {
        return CHIPS.iter().find(|chip| chip.runs(target).is_ok()).ok_or_else(|| {
            miette!(help = format!("there are {}", known()), "no chip that is emulated runs a module for {target}")
        });
    };
    let chip = Chip::named(name);
    let chip = chip.ok_or_else(|| miette!(help = format!("there are {}", known()), "there is no chip `{name}`"))?;
    chip.runs(target).map_err(|message| miette!("{message}"))?;
    Ok(chip)
}

/// A fault, with the line of the module that it is in.
#[derive(Debug, thiserror::Error, Diagnostic)]
#[error("{fault}")]
struct Failed {
    fault: Box<Fault>,
    #[label("here")]
    label: Option<SourceSpan>,
    #[source_code]
    code: Option<NamedSource<String>>,
}

/// Says where in the module a kernel failed.
pub fn failed(fault: Box<Fault>) -> miette::Report {
    let place = fault.place.as_ref();
    let code = place.and_then(|place| Some((place, std::fs::read_to_string(&place.file).ok()?)));
    let Some((place, text)) = code else { return Failed { fault, label: None, code: None }.into() };
    let before: usize = text.split_inclusive('\n').take(place.line.saturating_sub(1) as usize).map(str::len).sum();
    let line = text[before..].lines().next().unwrap_or_default();
    let indent = line.len() - line.trim_start().len();
    let label = SourceSpan::from((before + indent, line.trim().len()));
    let code = NamedSource::new(&place.file, text.clone());
    Failed { fault, label: Some(label), code: Some(code) }.into()
}
