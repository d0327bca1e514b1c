//! `tessera export`.

use miette::{IntoDiagnostic, Result, WrapErr};
use tessera_models::{Model, ModelFolder};
use tessera_runtime::Weights;
use tessera_runtime::weights::WeightsError;

use crate::arguments::Export;
use crate::cache::Cache;
use crate::session::{open_model, precision};
use tessera_terminal::Progress;
use tessera_terminal::output;

pub fn run(arguments: &Export, progress: &Progress) -> Result<()> {
    let path = &arguments.model.model;
    let text = match Weights::open(path) {
        // A configuration alone describes the model that its publisher made of it.
        Err(WeightsError::NoWeights(_)) => {
            let folder = ModelFolder::open(path).into_diagnostic()?;
            tracing::warn!("{} holds no weights; they are taken to be stored as published", path.display());
            Model::module_of(&folder.config, precision(&arguments.model, false)).into_diagnostic()?.to_string()
        }
        _ => open_model(&arguments.model, false, &Cache::open()?, progress)?.module.to_string(),
    };
    if arguments.output.as_os_str() == "-" {
        return output::write(text.as_bytes());
    }
    std::fs::write(&arguments.output, text)
        .into_diagnostic()
        .wrap_err_with(|| format!("cannot write {}", arguments.output.display()))
}
