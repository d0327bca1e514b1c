//! Arrays, from and to NumPy files.

use std::io::{BufWriter, Write};
use std::path::Path;

use miette::{IntoDiagnostic, Result, WrapErr, miette};
use npyz::{DType, NpyFile, Order, WriterBuilder};
use tempfile::NamedTempFile;

use crate::element::{Element, Value};

/// Elements, in C order.
#[derive(Debug)]
pub struct Array {
    /// Their type.
    pub element: Element,
    /// The extents.
    pub shape: Vec<u64>,
    /// Their bytes.
    pub bytes: Vec<u8>,
}

impl Array {
    /// An array of zeros; `None` if it is too large.
    pub fn zeros(element: Element, shape: &[u64]) -> Option<Array> {
        let count = shape.iter().try_fold(1u64, |all, extent| all.checked_mul(*extent))?;
        let bytes = usize::try_from(count).ok()?.checked_mul(element.bytes()).filter(|bytes| *bytes <= 1 << 36)?;
        Some(Array { element, shape: shape.into(), bytes: vec![0; bytes] })
    }

    /// Reads a file.
    pub fn read(path: &Path) -> Result<Array> {
        let place = || format!("cannot read {}", path.display());
        let contents = std::fs::read(path).into_diagnostic().wrap_err_with(place)?;
        Array::parse(&contents).wrap_err_with(place)
    }

    fn parse(contents: &[u8]) -> Result<Array> {
        let mut rest = contents;
        let file = NpyFile::new(&mut rest).into_diagnostic()?;
        if file.order() == Order::Fortran && file.shape().len() > 1 {
            return Err(miette!(help = "save it with numpy.ascontiguousarray", "the array is stored column by column"));
        }
        let kind = match file.dtype() {
            DType::Plain(kind) => kind.to_string().trim_matches('\'').to_owned(),
            other => other.descr(),
        };
        let element = match kind.as_str() {
            "<f2" => Element::named("f16"),
            "<f4" => Element::named("f32"),
            "<f8" => Element::named("f64"),
            "|b1" => Some(Element::Bool),
            "|i1" => Some(Element::Signed(1)),
            "<i2" => Some(Element::Signed(2)),
            "<i4" => Some(Element::Signed(4)),
            "<i8" => Some(Element::Signed(8)),
            "|u1" => Some(Element::Unsigned(1)),
            "<u2" => Some(Element::Unsigned(2)),
            "<u4" => Some(Element::Unsigned(4)),
            "<u8" => Some(Element::Unsigned(8)),
            _ => None,
        };
        let element = element.ok_or_else(|| {
            miette!(help = "floats, integers and bool are read, little-endian", "arrays of {kind} are not understood")
        })?;
        let shape = file.shape().to_vec();
        let count = shape.iter().try_fold(element.bytes() as u64, |all, extent| all.checked_mul(*extent));
        drop(file);
        // What is left after the header.
        let bytes = count.and_then(|count| rest.get(..usize::try_from(count).ok()?));
        let bytes = bytes.ok_or_else(|| miette!("the file is shorter than its shape {shape:?} says"))?;
        Ok(Array { element, shape, bytes: bytes.to_vec() })
    }

    fn values(&self) -> impl Iterator<Item = Value> + '_ {
        self.bytes.chunks_exact(self.element.bytes()).map(|bytes| self.element.decode(bytes))
    }

    /// The same elements in another type.
    pub fn convert(&self, element: Element) -> Result<Array> {
        let mut bytes = Vec::with_capacity(self.bytes.len() / self.element.bytes() * element.bytes());
        for value in self.values() {
            element.encode(value, &mut bytes).ok_or_else(|| match value {
                Value::Float(value) => miette!("the element {value} is a float, and integers are wanted"),
                Value::Integer(value) => miette!("the element {value} does not fit the type"),
            })?;
        }
        Ok(Array { element, shape: self.shape.clone(), bytes })
    }

    /// Writes it beside where it will be: floats that numpy does not have as float32.
    pub fn write_beside(&self, path: &Path) -> Result<NamedTempFile> {
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let mut file = NamedTempFile::new_in(folder).into_diagnostic()?;
        let mut buffer = BufWriter::new(&mut file);
        macro_rules! elements {
            ($type:ty, $from:ident) => {{
                let options = npyz::WriteOptions::<$type>::new().default_dtype().shape(&self.shape);
                let mut writer = options.writer(&mut buffer).begin_nd().into_diagnostic()?;
                for value in self.values() {
                    let Value::$from(value) = value else { continue };
                    writer.push(&(value as $type)).into_diagnostic()?;
                }
                writer.finish().into_diagnostic()?;
            }};
        }
        match self.element {
            Element::Float(8) => elements!(f64, Float),
            Element::Float(_) | Element::Narrow(_) => elements!(f32, Float),
            Element::Signed(1) => elements!(i8, Integer),
            Element::Signed(2) => elements!(i16, Integer),
            Element::Signed(4) => elements!(i32, Integer),
            Element::Signed(_) => elements!(i64, Integer),
            Element::Unsigned(1) => elements!(u8, Integer),
            Element::Unsigned(2) => elements!(u16, Integer),
            Element::Unsigned(4) => elements!(u32, Integer),
            Element::Unsigned(_) => elements!(u64, Integer),
            Element::Bool => {
                let options = npyz::WriteOptions::<bool>::new().default_dtype().shape(&self.shape);
                let mut writer = options.writer(&mut buffer).begin_nd().into_diagnostic()?;
                for byte in &self.bytes {
                    writer.push(&(*byte != 0)).into_diagnostic()?;
                }
                writer.finish().into_diagnostic()?;
            }
        }
        buffer.flush().into_diagnostic()?;
        drop(buffer);
        Ok(file)
    }
}
