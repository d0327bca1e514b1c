//! `tesserac opt`.

use miette::{IntoDiagnostic, Result, miette};
use tessera_compiler::graph::{Context, PASSES, Pipeline};

use crate::arguments::Opt;
use crate::files;
use crate::source::Source;

/// Runs passes on a module and prints it.
pub fn run(arguments: &Opt) -> Result<()> {
    if arguments.list_passes {
        return list();
    }
    let pipeline: Pipeline = arguments.passes.parse().into_diagnostic()?;
    check_dumps(&pipeline, &arguments.dump_after)?;
    let Some(input) = &arguments.input else { return Err(miette!("no module was given")) };
    let source = Source::open(input)?;
    let mut module = source.module()?;
    let mut context = Context::new(arguments.target);
    let runs = pipeline
        .run(&mut module, &mut context, |run, module| {
            if arguments.dump_after.iter().any(|pass| pass == run.pass) {
                eprintln!("// after {}\n{module}", run.pass);
            }
        })
        .map_err(|error| source.pipeline_error(error))?;
    if arguments.time_passes {
        for run in &runs {
            let unchanged = if run.changed { "" } else { ", nothing changed" };
            eprintln!("{:>9.3} ms  pass {}{unchanged}", run.elapsed.as_secs_f64() * 1e3, run.pass);
        }
    }
    if arguments.remarks {
        context.remarks.iter().for_each(|remark| eprintln!("{remark}"));
    }
    files::write(&arguments.output, module.to_string())
}

/// Refuses to dump after passes that are not run.
pub fn check_dumps(pipeline: &Pipeline, passes: &[String]) -> Result<()> {
    match passes.iter().find(|name| !pipeline.passes().iter().any(|pass| pass.name == name.as_str())) {
        Some(name) => Err(miette!(
            help = format!("the passes are {pipeline}"),
            "there is nothing to dump after `{name}`: it is not among the passes that are run"
        )),
        None => Ok(()),
    }
}

fn list() -> Result<()> {
    let width = PASSES.iter().map(|pass| pass.name.len()).max().unwrap_or(0);
    let lines: String = PASSES.iter().map(|pass| format!("{:width$}  {}\n", pass.name, pass.summary)).collect();
    files::print(lines)
}
