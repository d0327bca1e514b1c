//! What is kept on disk between runs: compiled models and converted weights.
//!
//! Files are named by the hash of everything that made them, so that nothing is ever stale; they appear whole, by renaming. The
//! folder can be deleted at any time.

use std::fs;
use std::path::{Path, PathBuf};

use miette::{IntoDiagnostic, Result, WrapErr, miette};

/// The cache's folder, or a temporary one that is deleted at the end.
#[derive(Debug)]
pub enum Cache {
    Kept(PathBuf),
    Temporary(tempfile::TempDir),
}

impl Cache {
    /// `$TESSERA_CACHE`, else `tessera` in `$XDG_CACHE_HOME`, else `~/.cache/tessera`.
    pub fn open() -> Result<Self> {
        let folder = tessera_terminal::cache_folder().ok_or_else(|| {
            miette!(
                help = "set TESSERA_CACHE to a folder, or pass --no-cache",
                "there is no cache folder: neither TESSERA_CACHE, XDG_CACHE_HOME nor HOME is set"
            )
        })?;
        fs::create_dir_all(&folder).into_diagnostic().wrap_err_with(|| {
            format!("cannot make the cache folder {}; pass --no-cache to do without", folder.display())
        })?;
        Ok(Self::Kept(folder))
    }

    /// A cache that keeps nothing.
    pub fn temporary() -> Result<Self> {
        let folder = tempfile::tempdir().into_diagnostic().wrap_err("cannot make a temporary folder")?;
        Ok(Self::Temporary(folder))
    }

    /// Where files are kept.
    pub fn folder(&self) -> &Path {
        match self {
            Self::Kept(folder) => folder,
            Self::Temporary(folder) => folder.path(),
        }
    }

    /// The file `KEY.EXTENSION`, made by `make` unless it is there; and whether it was there.
    ///
    /// `make` writes to the path it is given, which then takes the file's place in one step: two processes that make the same
    /// file do not see each other's halves.
    pub fn file(
        &self,
        key: &blake3::Hash,
        extension: &str,
        make: impl FnOnce(&Path) -> Result<()>,
    ) -> Result<(PathBuf, bool)> {
        let path = self.folder().join(format!("{}.{extension}", &key.to_hex()[..32]));
        if path.is_file() {
            return Ok((path, true));
        }
        let unfinished = self.folder().join(format!(".{}.{}.{extension}", &key.to_hex()[..32], std::process::id()));
        let made = make(&unfinished).and_then(|()| {
            fs::rename(&unfinished, &path)
                .into_diagnostic()
                .wrap_err_with(|| format!("cannot write {}", path.display()))
        });
        if made.is_err() {
            let _ = fs::remove_file(&unfinished);
        }
        made.map(|()| (path, false))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_made_once_and_whole() {
        let cache = Cache::temporary().unwrap();
        let key = blake3::hash(b"key");
        assert!(cache.file(&key, "txt", |_| Err(miette!("no"))).is_err());
        let failed = cache.file(&key, "txt", |path| {
            fs::write(path, "half").into_diagnostic()?;
            Err(miette!("power cut"))
        });
        assert!(failed.is_err());
        assert_eq!(fs::read_dir(cache.folder()).unwrap().count(), 0);
        let (path, found) = cache.file(&key, "txt", |path| fs::write(path, "whole").into_diagnostic()).unwrap();
        assert_eq!((fs::read_to_string(&path).unwrap().as_str(), found), ("whole", false));
        let (again, found) = cache.file(&key, "txt", |_| Err(miette!("never called"))).unwrap();
        assert_eq!((again, found), (path, true));
    }
}
