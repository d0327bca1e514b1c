//! Files that appear whole or not at all.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};

use miette::{IntoDiagnostic, Result, WrapErr, miette};
use tessera_terminal::output;

/// Writes to standard output, all of it at once.
pub fn print(bytes: impl AsRef<[u8]>) -> Result<()> {
    output::write(bytes.as_ref())
}

/// Whether `path` means standard output.
pub fn is_standard_output(path: &Path) -> bool {
    path == Path::new("-")
}

/// Writes a file, or standard output for `-`.
pub fn write(path: &Path, bytes: impl AsRef<[u8]>) -> Result<()> {
    if is_standard_output(path) {
        return print(bytes);
    }
    whole(path, |unfinished| fs::write(unfinished, bytes.as_ref()).into_diagnostic())
}

/// Makes a file by `make`, which writes to the path it is given; the file then takes its place in one step.
pub fn whole(path: &Path, make: impl FnOnce(&Path) -> Result<()>) -> Result<()> {
    let name = path
        .file_name()
        .ok_or_else(|| miette!(help = "give the name of a file", "cannot write {}: it is a folder", path.display()))?;
    let unfinished = path.with_file_name(format!(".{}.{}", name.to_string_lossy(), std::process::id()));
    let made = make(&unfinished).and_then(|()| fs::rename(&unfinished, path).into_diagnostic());
    if made.is_err() {
        let _ = fs::remove_file(&unfinished);
    }
    made.wrap_err_with(|| format!("cannot write {}", path.display()))
}

/// A folder that is filled beside its place and then takes it. It disappears if that does not happen.
#[derive(Debug)]
pub struct Folder {
    place: PathBuf,
    unfinished: tempfile::TempDir,
}

impl Folder {
    /// A folder to fill that will be `place`.
    pub fn new(place: &Path) -> Result<Folder> {
        let parent = match place.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        };
        let cannot = || format!("cannot write the folder {}", place.display());
        if place.is_file() {
            return Err(miette!(help = "give the name of a folder", "{}: it is a file", cannot()));
        }
        fs::create_dir_all(parent).into_diagnostic().wrap_err_with(cannot)?;
        let unfinished =
            tempfile::Builder::new().prefix(".tesserac.").tempdir_in(parent).into_diagnostic().wrap_err_with(cannot)?;
        Ok(Folder { place: place.to_owned(), unfinished })
    }

    /// Where to put the files.
    pub fn path(&self) -> &Path {
        self.unfinished.path()
    }

    /// Moves the files of `source`, this folder or one in it, into place. What else is there stays, with a warning if it is of the same kind;
    /// files of the same name are replaced.
    pub fn finish(self, source: &Path) -> Result<usize> {
        let cannot = || format!("cannot write the folder {}", self.place.display());
        fs::create_dir_all(&self.place).into_diagnostic().wrap_err_with(cannot)?;
        let files = |folder: &Path| -> Result<BTreeSet<OsString>> {
            let entries = fs::read_dir(folder).into_diagnostic().wrap_err_with(cannot)?;
            entries.map(|entry| Ok(entry.into_diagnostic().wrap_err_with(cannot)?.file_name())).collect()
        };
        let (new, old) = (files(source)?, files(&self.place)?);
        for name in &new {
            fs::rename(source.join(name), self.place.join(name)).into_diagnostic().wrap_err_with(cannot)?;
        }
        let kind = |name: &OsString| Path::new(name).extension().map(ToOwned::to_owned);
        let kinds: BTreeSet<_> = new.iter().filter_map(kind).collect();
        let others = old.difference(&new).filter(|name| kind(name).is_some_and(|kind| kinds.contains(&kind))).count();
        if others > 0 {
            tracing::warn!("{} also holds {others} files that something else wrote", self.place.display());
        }
        Ok(new.len())
    }
}
