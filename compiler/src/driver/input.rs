//! What a compilation starts from: a module, or a stage of one that was dumped and perhaps edited.

use std::path::{Path, PathBuf};

use tessera_ir::{Module, parse_module};
use thiserror::Error;

use crate::schedule::{Lowered, ScheduleError};
use crate::tile::Program;

/// What a compilation starts from.
#[derive(Clone, Debug)]
pub enum Input {
    /// A module: all stages are run.
    Module(Module),
    /// A module of scheduled fusions, as the stage `schedule` dumps it.
    Scheduled(Module),
    /// The scheduled module with tile programs, some of them edited.
    Tiles {
        /// The scheduled module.
        module: Module,
        /// Programs that take the place of those of the same name.
        programs: Vec<Program>,
    },
}

/// Why a stage cannot be resumed from.
#[derive(Debug, Error)]
pub enum InputError {
    /// A file cannot be read.
    #[error("{path}: {error}", path = .path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What the system says.
        error: std::io::Error,
    },
    /// A file has errors.
    #[error("{path}:{message}", path = .path.display())]
    Text {
        /// The file.
        path: PathBuf,
        /// The errors, with their places.
        message: String,
    },
}

impl Input {
    /// Reads a `.ir` file of any stage: one whose functions are made of scheduled kernels is taken as the stage `schedule`.
    ///
    /// # Errors
    /// The file cannot be read or is not valid.
    pub fn open(path: impl AsRef<Path>) -> Result<Input, InputError> {
        let path = path.as_ref();
        let text = read(path)?;
        let module = parse_module(&text)
            .map_err(|errors| InputError::Text { path: path.into(), message: errors.to_string() })?;
        Ok(Input::of(module))
    }

    /// A module of any stage.
    pub fn of(module: Module) -> Input {
        if is_scheduled(&module) { Input::Scheduled(module) } else { Input::Module(module) }
    }

    /// Adds tile programs of a folder, as the stage `tile` dumps it.
    ///
    /// # Errors
    /// A file cannot be read or is not valid.
    pub fn with_tiles(self, folder: impl AsRef<Path>) -> Result<Input, InputError> {
        let folder = folder.as_ref();
        let module = match self {
            Input::Module(module) | Input::Scheduled(module) | Input::Tiles { module, .. } => module,
        };
        let error = |error| InputError::File { path: folder.into(), error };
        let mut paths = Vec::new();
        for entry in std::fs::read_dir(folder).map_err(error)? {
            let path = entry.map_err(error)?.path();
            if path.extension().is_some_and(|extension| extension == "tile") {
                paths.push(path);
            }
        }
        paths.sort();
        let program = |path: PathBuf| {
            crate::tile::parse(&read(&path)?).map_err(|error| InputError::Text { path, message: error.to_string() })
        };
        let programs = paths.into_iter().map(program).collect::<Result<Vec<Vec<Program>>, _>>()?;
        Ok(Input::Tiles { module, programs: programs.concat() })
    }
}

fn read(path: &Path) -> Result<String, InputError> {
    std::fs::read_to_string(path).map_err(|error| InputError::File { path: path.into(), error })
}

/// Whether some operation carries a schedule.
fn is_scheduled(module: &Module) -> bool {
    let mut operations = module.functions.iter().flat_map(|function| function.graph.operations());
    operations.any(|(_, operation)| operation.attribute("schedule").is_some())
}

/// Puts edited programs in the place of those of the same name.
pub(super) fn replace(lowered: &mut Lowered, programs: &[Program]) -> Result<(), ScheduleError> {
    for program in programs {
        let Some(own) = lowered.programs.iter_mut().find(|own| own.name == program.name) else {
            let reason = "no kernel of the module has this name".to_string();
            return Err(ScheduleError::Schedule { region: format!("@{}", program.name), reason });
        };
        if own.arguments.len() != program.arguments.len() || own.grid != program.grid {
            let reason = "its parameters or its grid are not those that the plan passes".to_string();
            return Err(ScheduleError::Schedule { region: format!("@{}", program.name), reason });
        }
        *own = program.clone();
    }
    Ok(())
}
