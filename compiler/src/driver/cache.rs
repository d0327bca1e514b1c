//! Artifacts that were compiled before, by the hash of all that they depend on.

use std::path::PathBuf;

use tessera_runtime::Artifact;
use tessera_runtime::artifact::ArtifactError;

use super::input::Input;
use super::{CompileOptions, PRODUCER};
use crate::target::host::CpuFeatures;

/// A folder of artifacts.
#[derive(Clone, Debug)]
pub struct Cache {
    folder: PathBuf,
}

impl Cache {
    /// The cache in a folder, which need not exist yet.
    pub fn new(folder: impl Into<PathBuf>) -> Cache {
        Cache { folder: folder.into() }
    }

    fn path(&self, key: &str) -> PathBuf {
        self.folder.join(format!("{key}.tsr"))
    }

    /// The artifact of a key. What cannot be read is not there.
    pub fn read(&self, key: &str) -> Option<Artifact> {
        Artifact::open(self.path(key)).ok()
    }

    /// Keeps an artifact.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn write(&self, key: &str, artifact: &Artifact) -> Result<(), ArtifactError> {
        let path = self.folder.clone();
        std::fs::create_dir_all(&self.folder).map_err(|error| ArtifactError::File { path, error })?;
        artifact.write(self.path(key))
    }

    /// Keeps an artifact if it can: a cache that cannot be written costs time, not correctness.
    pub(super) fn keep(&self, key: &str, artifact: Artifact) -> Artifact {
        match self.write(key, &artifact) {
            Ok(()) => artifact.kept_at(self.path(key)),
            Err(error) => {
                tracing::warn!("compile cache: {error}");
                artifact
            }
        }
    }
}

/// The hash of input, options and compiler. The compiler is known by its version and, while it is being worked on, by its file.
pub(super) fn key(input: &Input, options: &CompileOptions, features: Option<&CpuFeatures>) -> String {
    let mut hasher = blake3::Hasher::new();
    let mut part = |text: &str| {
        hasher.update(&(text.len() as u64).to_le_bytes());
        hasher.update(text.as_bytes());
    };
    part(PRODUCER);
    part(&compiler_file());
    part(&format!("{:?}", options.machine()));
    part(&features.map(CpuFeatures::signature).unwrap_or_default());
    part(&options.passes.to_string());
    part(&options.knobs.to_string());
    match input {
        Input::Module(module) => part(&module.to_string()),
        Input::Scheduled(module) => {
            part("scheduled");
            part(&module.to_string());
        }
        Input::Tiles { module, programs } => {
            part("tiles");
            part(&module.to_string());
            programs.iter().for_each(|program| part(&program.to_string()));
        }
    }
    hasher.finalize().to_hex().to_string()
}

/// Size and age of the running program, which change with every build.
fn compiler_file() -> String {
    let metadata = std::env::current_exe().and_then(std::fs::metadata);
    let described = metadata.and_then(|metadata| Ok(format!("{} {:?}", metadata.len(), metadata.modified()?)));
    described.unwrap_or_default()
}
