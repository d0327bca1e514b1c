//! `tessera logits`.

use std::fs::File;
use std::io::BufWriter;
use std::path::Path;

use miette::{IntoDiagnostic, Result, WrapErr, miette};
use npyz::WriterBuilder;
use tessera_models::generation::{Step, check_tokens};

use crate::arguments::Logits;
use crate::session::Session;
use tessera_terminal::Progress;

pub fn run(arguments: &Logits, progress: &Progress) -> Result<()> {
    let session = Session::open(&arguments.model, &arguments.run, progress)?;
    let ids = match &arguments.text {
        Some(text) => session.model.folder.tokenizer().into_diagnostic()?.encode(text).into_diagnostic()?,
        None => arguments.tokens.clone(),
    };
    if ids.is_empty() {
        return Err(miette!("the sequence is empty: give it at least one token"));
    }
    let config = &session.model.folder.config;
    check_tokens("sequence", &ids, config.vocabulary() as usize, config.context() as usize).into_diagnostic()?;

    // All tokens go through one step, which no cache can do with less than all pages.
    let caches = session.caches()?;
    let mut engine = session.engine(&caches.pages_for(std::iter::once(ids.len()), ids.len()))?;
    let step = Step::whole_sequence(&ids, caches.page_size, caches.windows.len());
    progress.during("computing logits", || engine.step(&step)).into_diagnostic()?;
    write_npy(&arguments.output, [ids.len() as u64, engine.vocabulary() as u64], &engine.logits())
        .wrap_err_with(|| format!("cannot write {}", arguments.output.display()))
}

fn write_npy(path: &Path, shape: [u64; 2], elements: &[f32]) -> Result<()> {
    let file = BufWriter::new(File::create(path).into_diagnostic()?);
    let mut writer =
        npyz::WriteOptions::new().default_dtype().shape(&shape).writer(file).begin_nd().into_diagnostic()?;
    writer.extend(elements.iter().copied()).into_diagnostic()?;
    writer.finish().into_diagnostic()
}
