//! `tesserac ops`.

use miette::{Result, miette};
use tessera_ir::diagnostic::closest;
use tessera_ir::{op_reference, ops, reference_page};

use crate::arguments::Ops;
use crate::files;

/// Prints the reference of one op or of all.
pub fn run(arguments: &Ops) -> Result<()> {
    if arguments.list {
        let width = ops::all().map(|definition| definition.op.name().len()).max().unwrap_or(0);
        let line = |definition: &tessera_ir::OpDefinition| {
            format!("{:width$}  {}\n", definition.op.name(), definition.summary().replace('`', ""))
        };
        return files::print(ops::all().map(line).collect::<String>());
    }
    let Some(name) = &arguments.op else { return files::print(reference_page()) };
    let definition = ops::find(name).ok_or_else(|| {
        let names = ops::all().map(|definition| definition.op.name());
        let help = match closest(name, names) {
            Some(similar) => format!("did you mean `{similar}`?"),
            None => "`tesserac ops --list` lists them".to_owned(),
        };
        miette!(help = help, "there is no op `{name}`")
    })?;
    files::print(op_reference(definition))
}
