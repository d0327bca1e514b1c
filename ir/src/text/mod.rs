//! The text form: `.ir` files.
//!
//! ```text
//! // Comments run to the end of the line.
//! module @example {
//!   mesh [tp=2]
//!   symbol T in 1..=4096
//!   param @w : tensor<192x768xf32 @shard([],[tp])>
//!
//!   func @main(%x: tensor<Tx192xf32>) -> (tensor<Tx768xf32>) {
//!     %y = matmul(%x, @w) : tensor<Tx768xf32>
//!     return %y
//!   }
//! }
//! ```
//!
//! A module prints as text that reads back as an equal module, and that text prints as itself. Result
//! types may be left out where they can be inferred, and are checked where they are written.

mod lexer;
mod module;
mod operations;
mod parser;
mod print;
mod types;

use std::str::FromStr;

use crate::diagnostic::Diagnostics;
use crate::module::Module;
use crate::types::{TensorType, Type};
use crate::verify::verify;

use parser::{Parsed, Parser};

/// Reads a module, and verifies it.
///
/// # Errors
/// Every error that was found, with its place: a broken line does not hide the errors of the others.
///
/// ```
/// let text = "
/// module @m {
///   func @f(%x: tensor<4xf32>) {
///     %y = expp(%x)
///     return %z
///   }
/// }";
/// let errors = tessera_ir::parse_module(text).unwrap_err();
/// assert_eq!(
///     errors.to_string(),
///     "4:10: there is no op `expp` (did you mean `exp`?)\n5:12: there is no value `%z` here (did you mean `%x`?)"
/// );
/// ```
pub fn parse_module(text: &str) -> Result<Module, Diagnostics> {
    parse(text, |parser| {
        parser.module()?;
        let module = std::mem::take(&mut parser.module);
        if parser.diagnostics.is_empty()
            && let Err(errors) = verify(&module)
        {
            parser.diagnostics = errors;
        }
        Ok(module)
    })
}

/// Reads a type.
///
/// # Errors
/// The text is no type. Types with a sharding can only be read inside a module, which has the mesh.
pub fn parse_type(text: &str) -> Result<Type, Diagnostics> {
    parse(text, operations::parse_lone_type)
}

fn parse<'s, T>(text: &'s str, read: impl FnOnce(&mut Parser<'s>) -> Parsed<T>) -> Result<T, Diagnostics> {
    let mut parser = Parser::new(text);
    match read(&mut parser) {
        Ok(item) if parser.diagnostics.is_empty() => Ok(item),
        _ => Err(Diagnostics { source_text: text.into(), errors: parser.into_errors() }),
    }
}

impl FromStr for Module {
    type Err = Diagnostics;
    fn from_str(text: &str) -> Result<Module, Diagnostics> {
        parse_module(text)
    }
}

impl FromStr for Type {
    type Err = Diagnostics;
    fn from_str(text: &str) -> Result<Type, Diagnostics> {
        parse_type(text)
    }
}

impl FromStr for TensorType {
    type Err = Diagnostics;
    fn from_str(text: &str) -> Result<TensorType, Diagnostics> {
        parse(text, |parser| match operations::parse_lone_type(parser)? {
            Type::Tensor(ty) => Ok(ty),
            Type::KvCache(_) => Err(parser.report(crate::diagnostic::Diagnostic::new(
                crate::diagnostic::DiagnosticKind::Type,
                "a tensor type is expected, not a cache",
                0..text.len(),
            ))),
        })
    }
}

/// `text` between quotation marks, with the escapes of the text form.
pub(crate) fn quote(text: &str) -> String {
    let mut quoted = String::with_capacity(text.len() + 2);
    quoted.push('"');
    for c in text.chars() {
        match c {
            '"' => quoted.push_str("\\\""),
            '\\' => quoted.push_str("\\\\"),
            '\n' => quoted.push_str("\\n"),
            '\r' => quoted.push_str("\\r"),
            '\t' => quoted.push_str("\\t"),
            c if c.is_control() => quoted.push_str(&format!("\\u{{{:x}}}", u32::from(c))),
            c => quoted.push(c),
        }
    }
    quoted.push('"');
    quoted
}

/// Whether `name` can stand without quotation marks after `@` or `%`: words of letters, digits and
/// `_`, joined by `.`.
pub(crate) fn is_plain_name(name: &str) -> bool {
    let word = |word: &str| !word.is_empty() && word.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
    name.split('.').all(word)
}
