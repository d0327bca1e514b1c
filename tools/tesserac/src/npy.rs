//! NumPy files.

use std::io::{BufReader, BufWriter, Read};
use std::path::Path;

use miette::{IntoDiagnostic, Result, WrapErr, miette};
use npyz::{DType, NpyFile, Order, WriterBuilder};
use tessera_ir::Storage;
use tessera_ir::evaluate::Tensor;

use crate::files;

/// Reads a file as a tensor of `storage`. Floats are rounded to it; integers must be in its range.
pub fn read(path: &Path, storage: Storage) -> Result<Tensor> {
    let place = || format!("cannot read {}", path.display());
    let file = std::fs::File::open(path).into_diagnostic().wrap_err_with(place)?;
    let file = NpyFile::new(BufReader::new(file)).into_diagnostic().wrap_err_with(place)?;
    tensor(file, storage).wrap_err_with(place)
}

fn tensor(file: NpyFile<impl Read>, storage: Storage) -> Result<Tensor> {
    if file.order() == Order::Fortran && file.shape().len() > 1 {
        return Err(miette!(help = "save it with numpy.ascontiguousarray", "the array is stored column by column"));
    }
    let shape: Vec<usize> = file.shape().iter().map(|extent| *extent as usize).collect();
    let kind = match file.dtype() {
        DType::Plain(kind) => kind.to_string().trim_matches('\'').to_owned(),
        other => other.descr(),
    };
    /// The elements as numbers of the type that all of them fit into.
    macro_rules! elements {
        ($type:ty as $wide:ty) => {
            file.into_vec::<$type>().into_diagnostic()?.into_iter().map(<$wide>::from).collect()
        };
    }
    let floats: Vec<f64> = match kind.as_str() {
        "<f4" => elements!(f32 as f64),
        "<f8" => elements!(f64 as f64),
        _ => {
            let integers: Vec<i64> = match kind.as_str() {
                "|i1" => elements!(i8 as i64),
                "<i2" => elements!(i16 as i64),
                "<i4" => elements!(i32 as i64),
                "<i8" => elements!(i64 as i64),
                "|u1" => elements!(u8 as i64),
                "<u2" => elements!(u16 as i64),
                "<u4" => elements!(u32 as i64),
                "|b1" => elements!(bool as i64),
                other => {
                    return Err(miette!(
                        help = "float32, float64, bool and integers are read",
                        "arrays of {other} are not understood"
                    ));
                }
            };
            if let Some((least, most)) = storage.integer_range()
                && let Some(outside) = integers.iter().find(|integer| !(least..=most).contains(integer))
            {
                return Err(miette!("the element {outside} does not fit {storage}"));
            }
            return Tensor::from_integers(storage, shape, integers).into_diagnostic();
        }
    };
    if !storage.is_float() {
        return Err(miette!(help = "save it as integers", "the array holds floats, and {storage} is wanted"));
    }
    Tensor::from_floats(storage, shape, floats).into_diagnostic()
}

/// Writes a tensor: f64 and integers as they are, other floats as float32.
pub fn write(path: &Path, tensor: &Tensor) -> Result<()> {
    let shape: Vec<u64> = tensor.shape().iter().map(|extent| *extent as u64).collect();
    files::whole(path, |unfinished| {
        let file = BufWriter::new(std::fs::File::create(unfinished).into_diagnostic()?);
        /// Writes the elements, converted one by one.
        macro_rules! elements {
            ($type:ty, $elements:expr, $convert:expr) => {{
                let options = npyz::WriteOptions::<$type>::new();
                let mut writer = options.default_dtype().shape(&shape).writer(file).begin_nd().into_diagnostic()?;
                for element in $elements.iter() {
                    let element: $type = $convert(*element);
                    writer.push(&element).into_diagnostic()?;
                }
                writer.finish().into_diagnostic()
            }};
        }
        match tensor.storage() {
            Storage::F64 => elements!(f64, tensor.to_floats(), |x: f64| x),
            Storage::I8 => elements!(i8, tensor.to_integers(), |x: i64| x as i8),
            Storage::I16 => elements!(i16, tensor.to_integers(), |x: i64| x as i16),
            Storage::I32 => elements!(i32, tensor.to_integers(), |x: i64| x as i32),
            Storage::I64 => elements!(i64, tensor.to_integers(), |x: i64| x),
            Storage::U8 => elements!(u8, tensor.to_integers(), |x: i64| x as u8),
            Storage::U32 => elements!(u32, tensor.to_integers(), |x: i64| x as u32),
            Storage::Bool => elements!(bool, tensor.to_integers(), |x: i64| x != 0),
            _ => elements!(f32, tensor.to_floats(), |x: f64| x as f32),
        }
    })
}
