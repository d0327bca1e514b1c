//! `tesserac compile`.

use std::fs;
use std::path::{Path, PathBuf};

use miette::{IntoDiagnostic, Result, WrapErr, miette};
use tessera_compiler::driver::{CompileOptions, Compiled, Dumps, Input, Report, Stage, compile_from};
use tessera_compiler::graph::{Context, Pipeline};
use tessera_compiler::schedule::Overrides;
use tessera_compiler::target::Target;
use tessera_ir::Module;

use crate::arguments::{Compile, Emit};
use crate::disassemble::disassemble;
use crate::source::Source;
use crate::{files, opt};
use tessera_terminal::Progress;

/// Compiles a module and writes the artifact, or another stage.
pub fn run(arguments: &Compile, progress: &Progress) -> Result<()> {
    let pipeline: Pipeline = arguments.passes.parse().into_diagnostic()?;
    opt::check_dumps(&pipeline, &arguments.dump_after)?;
    check_emit(arguments)?;
    let source = Source::open(&arguments.input)?;
    let mut module = source.module()?;
    set_mesh(&mut module, &arguments.mesh)?;

    if arguments.emit == Some(Emit::Graph) {
        let mut context = Context::new(arguments.target);
        pipeline.run(&mut module, &mut context, |_, _| {}).map_err(|error| source.pipeline_error(error))?;
        if arguments.remarks {
            context.remarks.iter().for_each(|remark| eprintln!("{remark}"));
        }
        return files::write(&arguments.output, module.to_string());
    }

    let mut input = Input::of(module);
    if let Some(folder) = &arguments.tiles {
        input = input.with_tiles(folder).into_diagnostic()?;
    }
    let mut options = CompileOptions::new(arguments.target);
    options.passes = pipeline;
    options.knobs = Overrides::parse(&arguments.knob.join(",")).into_diagnostic()?;
    if !arguments.no_cache && !arguments.print_schedule && !arguments.remarks {
        options.cache = tessera_terminal::cache_folder();
    }
    let dumps = DumpFolder::of(arguments)?;
    options.dumps = dumps.dumps(arguments);
    let compiled = progress
        .during(&format!("compiling {} for {}", arguments.input.display(), arguments.target), || {
            compile_from(&input, &options)
        })
        .map_err(|error| source.compile_error(error));
    // What was dumped on the way to an error helps to understand it.
    dumps.show(arguments)?;
    let compiled = compiled?;
    report(&compiled.report, arguments)?;
    match arguments.emit {
        None => files::whole(&arguments.output, |path| compiled.artifact.write(path).into_diagnostic()),
        Some(emit) => write_stage(emit, &compiled, &dumps, arguments),
    }
}

/// Refuses stages that the target does not have, and outputs that cannot hold the stage.
fn check_emit(arguments: &Compile) -> Result<()> {
    let target = arguments.target;
    let has_chip = target.chip().is_some();
    let name = |emit: Emit| format!("{emit:?}").to_lowercase();
    match arguments.emit {
        Some(emit @ (Emit::Ptx | Emit::Sass)) if !has_chip => {
            Err(miette!(help = "name a GPU, as in --target sm_90a", "there is no {} for {target}", name(emit)))
        }
        Some(Emit::Assembly) if has_chip => {
            Err(miette!(help = "the assembly language of a GPU is --emit ptx", "there is no assembly for {target}"))
        }
        Some(emit) if files::is_standard_output(&arguments.output) && !matches!(emit, Emit::Graph | Emit::Schedule) => {
            Err(miette!(
                help = "name a folder with -o",
                "the stage {} has one file for each kernel, which standard output cannot hold",
                name(emit)
            ))
        }
        _ => Ok(()),
    }
}

/// Puts the sizes of mesh axes in the place of the module's.
fn set_mesh(module: &mut Module, sizes: &[(String, u64)]) -> Result<()> {
    for (name, size) in sizes {
        let Some(axis) = module.mesh.axes.iter_mut().find(|axis| axis.name == *name.as_str()) else {
            let axes: Vec<&str> = module.mesh.axes.iter().map(|axis| axis.name.as_str()).collect();
            return Err(match axes.is_empty() {
                true => miette!("--mesh {name}={size}: the module has no mesh"),
                false => miette!(help = format!("its axes are {}", axes.join(", ")), "the mesh has no axis `{name}`"),
            });
        };
        axis.size = *size;
    }
    match module.mesh.axes.iter().find(|axis| axis.size != 1) {
        Some(axis) if !sizes.is_empty() => Err(miette!(
            help = format!("compile for one device with --mesh {}=1", axis.name),
            "the mesh has {} devices along `{}`, and this compiler makes code for one device only",
            axis.size,
            axis.name
        )),
        // Shardings say how a module may be spread; one device holds all of it.
        _ => Ok(()),
    }
}

/// Where stages are dumped: where the user says, or a folder that is gone afterwards.
struct DumpFolder {
    kept: Option<PathBuf>,
    temporary: Option<tempfile::TempDir>,
}

impl DumpFolder {
    fn of(arguments: &Compile) -> Result<DumpFolder> {
        let stage = arguments.emit.and_then(stage_of);
        let needs_temporary = arguments.dump_dir.is_none() && (stage.is_some() || !arguments.dump_after.is_empty());
        let temporary = match needs_temporary {
            true => Some(tempfile::tempdir().into_diagnostic().wrap_err("cannot make a temporary folder")?),
            false => None,
        };
        Ok(DumpFolder { kept: arguments.dump_dir.clone(), temporary })
    }

    fn path(&self) -> Option<&Path> {
        self.kept.as_deref().or(self.temporary.as_ref().map(tempfile::TempDir::path))
    }

    fn dumps(&self, arguments: &Compile) -> Dumps {
        let Some(path) = self.path() else { return Dumps::default() };
        let dumps = Dumps::into_folder(path).with_passes(arguments.dump_after.iter().cloned());
        match (&self.kept, arguments.emit.and_then(stage_of)) {
            (Some(_), _) => dumps.with_stages(Stage::ALL),
            (None, Some(stage)) => dumps.with_stages([stage]),
            (None, None) => dumps,
        }
    }

    /// Shows the module after passes where there is no folder to look into.
    fn show(&self, arguments: &Compile) -> Result<()> {
        let Some(folder) = self.temporary.as_ref().filter(|_| !arguments.dump_after.is_empty()) else { return Ok(()) };
        for path in sorted(folder.path())? {
            let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
            if arguments.dump_after.iter().any(|pass| name.split('.').nth(1) == Some(pass)) {
                let text = fs::read_to_string(&path).into_diagnostic()?;
                eprintln!("// after {}\n{text}", name.split('.').nth(1).unwrap_or_default());
            }
        }
        Ok(())
    }

    /// The dump of a stage: `NN.STAGE` or `NN.STAGE.ir`.
    fn stage(&self, stage: Stage) -> Result<PathBuf> {
        let folder = self.path().ok_or_else(|| miette!("the stage {} was not dumped", stage.name()))?;
        let of_stage = |path: &PathBuf| {
            let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
            name.split('.').nth(1) == Some(stage.name())
        };
        let found = sorted(folder)?.into_iter().rfind(of_stage);
        found.ok_or_else(|| miette!("the stage {} does not occur on the way from this input", stage.name()))
    }
}

fn sorted(folder: &Path) -> Result<Vec<PathBuf>> {
    if !folder.is_dir() {
        return Ok(Vec::new());
    }
    let entries = fs::read_dir(folder).into_diagnostic()?;
    let mut paths: Vec<PathBuf> = entries.map(|entry| Ok(entry.into_diagnostic()?.path())).collect::<Result<_>>()?;
    paths.sort();
    Ok(paths)
}

/// The stage to dump for `--emit`; PTX comes out of the artifact.
fn stage_of(emit: Emit) -> Option<Stage> {
    match emit {
        Emit::Graph | Emit::Ptx | Emit::Sass => None,
        Emit::Schedule => Some(Stage::Schedule),
        Emit::Tile => Some(Stage::Tile),
        Emit::Mlir => Some(Stage::Mlir),
        Emit::Llvm => Some(Stage::Llvm),
        Emit::Assembly => Some(Stage::Assembly),
    }
}

fn write_stage(emit: Emit, compiled: &Compiled, dumps: &DumpFolder, arguments: &Compile) -> Result<()> {
    let output = &arguments.output;
    if emit == Emit::Schedule {
        let text = fs::read(dumps.stage(Stage::Schedule)?).into_diagnostic()?;
        return files::write(output, text);
    }
    let folder = files::Folder::new(output)?;
    match (emit, compiled.artifact.code()) {
        (Emit::Ptx | Emit::Sass, tessera_runtime::artifact::Code::Ptx(kernels)) => {
            for (name, text) in kernels {
                let path = folder.path().join(format!("{name}.ptx"));
                fs::write(&path, text).into_diagnostic()?;
                if let (Emit::Sass, Target::Cuda(chip)) = (emit, arguments.target) {
                    disassemble(&path, chip)?;
                }
            }
        }
        _ => {
            if let Some(stage) = stage_of(emit) {
                for path in sorted(&dumps.stage(stage)?)? {
                    let name = path.file_name().unwrap_or_default();
                    fs::copy(&path, folder.path().join(name)).into_diagnostic()?;
                }
            }
        }
    }
    let source = folder.path().to_owned();
    let count = folder.finish(&source)?;
    tracing::info!("wrote {count} files to {}", output.display());
    Ok(())
}

fn report(report: &Report, arguments: &Compile) -> Result<()> {
    if arguments.time_passes {
        eprintln!("{report}");
    }
    if arguments.remarks {
        report.remarks.iter().for_each(|remark| eprintln!("{remark}"));
        report.cuts.iter().for_each(|cut| eprintln!("schedule: {cut}"));
    }
    if arguments.print_schedule {
        for kernel in &report.kernels {
            let uses =
                if kernel.launches == 1 { "1 launch".to_owned() } else { format!("{} launches", kernel.launches) };
            eprintln!("{} ({uses})", kernel.name);
            kernel.summary.iter().for_each(|line| eprintln!("    {line}"));
        }
    }
    Ok(())
}

/// The one function that a command is about: the named one, or the only one.
pub fn pick_function<'a>(names: &[&'a str], asked: Option<&str>) -> Result<&'a str> {
    let list = names.join(", ");
    match (asked, names) {
        (Some(asked), _) => names
            .iter()
            .copied()
            .find(|name| *name == asked)
            .ok_or_else(|| miette!(help = format!("the functions are {list}"), "there is no function `{asked}`")),
        (None, [only]) => Ok(only),
        (None, []) => Err(miette!("there is no function in it")),
        (None, _) => Err(miette!(help = format!("pick one with --function: {list}"), "there are several functions")),
    }
}

/// A module with one of its functions alone.
pub fn with_function(module: &Module, name: &str) -> Module {
    let mut module = module.clone();
    module.functions.retain(|function| function.name == name);
    module
}
