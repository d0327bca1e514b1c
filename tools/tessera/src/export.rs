//! `tessera export`.

use miette::{IntoDiagnostic, Result, WrapErr};

use crate::arguments::Export;
use crate::cache::Cache;
use crate::session::open_model;
use tessera_terminal::Progress;
use tessera_terminal::output;

pub fn run(arguments: &Export, progress: &Progress) -> Result<()> {
    let cache = Cache::open()?;
    let model = open_model(&arguments.model, &cache, progress)?;
    let text = model.module.to_string();
    if arguments.output.as_os_str() == "-" {
        return output::write(text.as_bytes());
    }
    std::fs::write(&arguments.output, text)
        .into_diagnostic()
        .wrap_err_with(|| format!("cannot write {}", arguments.output.display()))
}
