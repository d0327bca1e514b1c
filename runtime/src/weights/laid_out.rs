//! Weights in the order that kernels want them in: made part by part, once, and kept in files.
//!
//! A file holds the parts of one laid-out weight and after them a checksum of each. Its name says which weight it is of and in which layout; whether
//! it holds that is not trusted but checked, part by part. It is written under another name and renamed when it is whole.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};

use memmap2::Mmap;
use tempfile::NamedTempFile;

use super::WeightBytes;
use crate::plan::{Layout, Mover};

/// Part of the names of files: changes with what is in them.
const VERSION: &str = "laid out 1";

/// Parts that are laid out side by side at most: they are in memory together.
const MOST_TOGETHER: usize = 16;

const CHECKSUM: usize = blake3::OUT_LEN;

/// A folder of laid-out weights. It need not exist, nor be writable.
#[derive(Clone, Debug)]
pub struct LayoutCache {
    folder: PathBuf,
}

impl LayoutCache {
    /// The cache in a folder.
    pub fn new(folder: impl Into<PathBuf>) -> LayoutCache {
        LayoutCache { folder: folder.into() }
    }

    /// The cache beside a file: the folder of its name and `.weights`.
    pub fn beside(file: &Path) -> LayoutCache {
        let mut name = file.as_os_str().to_owned();
        name.push(".weights");
        LayoutCache::new(name)
    }

    /// The file for a weight; none for one that comes from no file.
    fn path(&self, weight: &WeightBytes, layout: &Layout) -> Option<PathBuf> {
        let layout = serde_json::to_string(layout).ok()?;
        let name = blake3::hash(format!("{VERSION}\n{}\n{layout}", weight.identity()?).as_bytes());
        Some(self.folder.join(format!("{}.weight", name.to_hex())))
    }
}

/// Hands the parts of a laid-out weight on, each with the byte that it begins at, from the first; from the first again if the cache turns out
/// to be damaged. The weight has as many bytes as the layout says.
pub fn for_each_part<E>(
    weight: &WeightBytes,
    layout: &Layout,
    cache: Option<&LayoutCache>,
    mut put: impl FnMut(u64, &[u8]) -> Result<(), E>,
) -> Result<(), E> {
    let mover = layout.mover();
    let path = cache.and_then(|cache| cache.path(weight, layout));
    if let Some(path) = &path {
        match read(path, layout.parts as usize, mover.bytes()) {
            Err(problem) => tracing::warn!("{}: {problem}; the weight is laid out again", path.display()),
            Ok(None) => {}
            Ok(Some(parts)) => {
                let mut damaged = None;
                for part in 0..layout.parts as usize {
                    match parts.get(part) {
                        Some(bytes) => put((part * mover.bytes()) as u64, bytes)?,
                        None => {
                            damaged = Some(part);
                            break;
                        }
                    }
                }
                let Some(part) = damaged else { return Ok(()) };
                tracing::warn!("{}: part {part} is damaged; the weight is laid out again", path.display());
            }
        }
    }
    let mut writer = path.as_deref().and_then(Writer::create);
    lay_out(weight, &mover, layout.parts as usize, |part, bytes| {
        if writer.as_mut().is_some_and(|writer| !writer.write(bytes)) {
            writer = None;
        }
        put((part * mover.bytes()) as u64, bytes)
    })?;
    if let Some(writer) = writer {
        writer.finish();
    }
    Ok(())
}

/// Lays parts out, several at once, and hands them on in order.
fn lay_out<E>(
    weight: &WeightBytes,
    mover: &Mover,
    parts: usize,
    mut put: impl FnMut(usize, &[u8]) -> Result<(), E>,
) -> Result<(), E> {
    let stored = weight.as_slice();
    let threads = std::thread::available_parallelism().map_or(1, |threads| threads.get()).min(MOST_TOGETHER);
    let mut buffers = vec![Vec::new(); threads.min(parts)];
    for first in (0..parts).step_by(threads) {
        let count = threads.min(parts - first);
        std::thread::scope(|scope| {
            for (part, buffer) in (first..).zip(&mut buffers[..count]) {
                let stored = &stored[part * mover.stored_bytes()..][..mover.stored_bytes()];
                scope.spawn(move || mover.lay_out(stored, buffer));
            }
        });
        for (part, buffer) in (first..).zip(&buffers[..count]) {
            put(part, buffer)?;
        }
    }
    Ok(())
}

/// A file of parts, mapped.
struct Parts {
    map: Mmap,
    count: usize,
    bytes: usize,
}

impl Parts {
    /// A part, if it is what was written.
    fn get(&self, part: usize) -> Option<&[u8]> {
        let bytes = self.map.get(part * self.bytes..)?.get(..self.bytes)?;
        let checksum = self.map.get(self.count * self.bytes + part * CHECKSUM..)?.get(..CHECKSUM)?;
        (blake3::hash(bytes).as_bytes() == checksum).then_some(bytes)
    }
}

fn read(path: &Path, count: usize, bytes: usize) -> Result<Option<Parts>, String> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error.to_string()),
    };
    // SAFETY: the mapping is read-only, and the files are never changed, only replaced. Who changes one nevertheless is found out by its checksums.
    let map = unsafe { Mmap::map(&file) }.map_err(|error| error.to_string())?;
    let wanted = count * (bytes + CHECKSUM);
    if map.len() != wanted {
        return Err(format!("it has {} bytes, not {wanted}", map.len()));
    }
    Ok(Some(Parts { map, count, bytes }))
}

/// A file of parts that is being written. What goes wrong costs the next start time and is said, no more.
struct Writer {
    path: PathBuf,
    file: NamedTempFile,
    checksums: Vec<u8>,
}

impl Writer {
    fn create(path: &Path) -> Option<Writer> {
        let folder = path.parent()?;
        let create = || {
            std::fs::create_dir_all(folder)?;
            tempfile::Builder::new().prefix(".weight-").tempfile_in(folder)
        };
        match create() {
            Ok(file) => Some(Writer { path: path.into(), file, checksums: Vec::new() }),
            Err(error) => {
                tracing::info!("{}: {error}; laid-out weights are not kept", folder.display());
                None
            }
        }
    }

    fn failed(&self, error: &std::io::Error) {
        tracing::warn!("{}: {error}; the laid-out weight is not kept", self.path.display());
    }

    /// Whether the part could be written.
    fn write(&mut self, part: &[u8]) -> bool {
        self.checksums.extend_from_slice(blake3::hash(part).as_bytes());
        let written = self.file.write_all(part);
        written.inspect_err(|error| self.failed(error)).is_ok()
    }

    fn finish(mut self) {
        if let Err(error) = self.file.write_all(&self.checksums) {
            return self.failed(&error);
        }
        let Writer { path, file, .. } = self;
        if let Err(error) = file.persist(&path) {
            tracing::warn!("{}: {}; the laid-out weight is not kept", path.display(), error.error);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use super::*;
    use crate::plan::TiledDimension;
    use crate::weights::Weights;

    /// Three parts of five bytes by six, in tiles of four by two.
    fn layout() -> Layout {
        let dimension = |extent, tiles: [u64; 2]| TiledDimension { extent, tiles: tiles.to_vec() };
        Layout {
            parts: 3,
            dimensions: vec![dimension(5, [2, 4]), dimension(6, [3, 2])],
            permutation: vec![0, 2, 1, 3],
            word_bits: Vec::new(),
        }
    }

    fn laid_out(weight: &WeightBytes, cache: Option<&LayoutCache>) -> Vec<u8> {
        let mut all = vec![0xee; layout().bytes().unwrap() as usize];
        let Ok(()) = for_each_part(weight, &layout(), cache, |at, part| {
            all[at as usize..][..part.len()].copy_from_slice(part);
            Ok::<(), Infallible>(())
        });
        all
    }

    fn files(folder: &Path) -> Vec<PathBuf> {
        let entries = std::fs::read_dir(folder).map(|entries| entries.map(|entry| entry.unwrap().path()).collect());
        entries.unwrap_or_default()
    }

    fn weights(folder: &Path, byte: u8) -> Weights {
        let bytes: Vec<u8> = (0..90).map(|index| index ^ byte).collect();
        let view = safetensors::tensor::TensorView::new(safetensors::Dtype::U8, vec![3, 5, 6], &bytes).unwrap();
        let path = folder.join("model.safetensors");
        // Another file, as whoever replaces weights makes one.
        let _ = std::fs::remove_file(&path);
        std::fs::write(&path, safetensors::serialize([("w", view)], None).unwrap()).unwrap();
        Weights::open(&path).unwrap()
    }

    #[test]
    fn files_are_kept_checked_and_made_again() {
        let folder = tempfile::tempdir().unwrap();
        let cache = LayoutCache::new(folder.path().join("kept"));
        let weights = weights(folder.path(), 0);
        let weight = &weights.get("w").unwrap().bytes;
        let expected = laid_out(weight, None);
        assert_eq!(expected[..8], [0, 1, 6, 7, 12, 13, 18, 19], "the first tile");
        assert_eq!(laid_out(weight, Some(&cache)), expected);
        let [file] = files(&cache.folder).try_into().unwrap();
        let whole = std::fs::read(&file).unwrap();
        assert_eq!(whole[..expected.len()], expected);
        assert_eq!(laid_out(weight, Some(&cache)), expected, "from the file");

        let flipped = |byte: usize| {
            let mut bytes = whole.clone();
            bytes[byte] ^= 1;
            bytes
        };
        for damaged in [flipped(40), flipped(whole.len() - 1), whole[..100].to_vec(), Vec::new()] {
            std::fs::write(&file, damaged).unwrap();
            assert_eq!(laid_out(weight, Some(&cache)), expected);
            assert_eq!(std::fs::read(&file).unwrap(), whole, "mended");
        }
        assert_eq!(files(&cache.folder), [file], "nothing else is left");
    }

    #[test]
    fn other_weights_have_other_files() {
        let folder = tempfile::tempdir().unwrap();
        let cache = LayoutCache::new(folder.path().join("kept"));
        for byte in [0, 255] {
            let weights = weights(folder.path(), byte);
            let weight = &weights.get("w").unwrap().bytes;
            assert_eq!(laid_out(weight, Some(&cache)), laid_out(weight, None));
        }
        assert_eq!(files(&cache.folder).len(), 2);
        // What lies in memory has no file that says which it is.
        let mut weights = Weights::in_memory();
        weights.insert("w", crate::plan::ElementType::U8, vec![3, 5, 6], vec![7; 90]).unwrap();
        laid_out(&weights.get("w").unwrap().bytes, Some(&cache));
        assert_eq!(files(&cache.folder).len(), 2);
    }

    #[test]
    fn a_cache_that_cannot_be_is_done_without() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("file");
        std::fs::write(&file, "no folder").unwrap();
        let weights = weights(folder.path(), 0);
        let weight = &weights.get("w").unwrap().bytes;
        assert_eq!(laid_out(weight, Some(&LayoutCache::new(file.join("kept")))), laid_out(weight, None));
    }
}
