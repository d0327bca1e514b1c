//! Compiled models: the `.tsr` file.
//!
//! An artifact is a zip file of `manifest.json` (format version, target signature, a checksum of every member), `plan.json`
//! (a [`Plan`] for each function), the kernels (`kernels/host.so`, or a `kernels/NAME.ptx` for each) and `constants.bin`. It holds no weights: those
//! are bound by name when it is loaded.
//!
//! An [`Artifact`] is valid: its plans pass [`Plan::validate`], it has the code of every kernel, and its constants lie within
//! `constants.bin`. Checksums find damage, not malice: an artifact is a program, and running one is to trust whoever made it.

mod container;
mod manifest;
mod target;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::io::Write;
use std::path::{Path, PathBuf};

pub use manifest::FORMAT_VERSION;
pub use target::{Target, TargetError};

use crate::plan::{Plan, PlanError};

/// A compiled model, in memory and valid.
#[derive(Clone, Debug)]
pub struct Artifact {
    /// Where it is kept, if it comes from a file or went to one.
    path: Option<PathBuf>,
    producer: String,
    target: Target,
    functions: Vec<Plan>,
    code: Code,
    constants: Vec<u8>,
}

/// Artifacts are equal by their contents, wherever they are kept.
impl PartialEq for Artifact {
    fn eq(&self, other: &Artifact) -> bool {
        self.producer == other.producer
            && self.target == other.target
            && self.functions == other.functions
            && self.code == other.code
            && self.constants == other.constants
    }
}

impl Eq for Artifact {}

/// The code of an artifact's kernels.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Code {
    /// A shared object with a symbol for each kernel.
    Host(Vec<u8>),
    /// The PTX of each kernel, by the kernel's name.
    Ptx(BTreeMap<String, String>),
}

/// Why an artifact cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub enum ArtifactError {
    /// The file cannot be read or written.
    #[error("{path}: {error}")]
    File {
        /// The file.
        path: PathBuf,
        /// What the system says.
        error: std::io::Error,
    },
    /// The file is something else.
    #[error("not a Tessera artifact: {0}")]
    NotAnArtifact(String),
    /// The format is another version's.
    #[error(
        "the artifact has format version {found}, this runtime reads version {supported}; compile the model again with a `tesserac` of \
         this version"
    )]
    Version {
        /// The artifact's version.
        found: u32,
        /// The runtime's.
        supported: u32,
    },
    /// The file was an artifact once.
    #[error("the artifact is damaged: {0}; copy or compile it again")]
    Damaged(String),
    /// The plan is malformed.
    #[error(transparent)]
    Plan(#[from] PlanError),
    /// The target signature is malformed.
    #[error(transparent)]
    Target(#[from] TargetError),
    /// The artifact has no such function.
    #[error("the artifact has no function `{name}`; it has {}", known.join(", "))]
    NoFunction {
        /// The function that was asked for.
        name: String,
        /// The functions it has.
        known: Vec<String>,
    },
    /// The parts do not make an artifact.
    #[error("inconsistent artifact: {0}")]
    Inconsistent(String),
    /// The zip file cannot be made.
    #[error("cannot write the artifact: {0}")]
    Unwritable(String),
    /// Another error, about a file.
    #[error("{path}: {error}")]
    In {
        /// The file.
        path: PathBuf,
        /// The error.
        error: Box<ArtifactError>,
    },
}

const PLAN: &str = "plan.json";
const HOST_CODE: &str = "kernels/host.so";
const CONSTANTS: &str = "constants.bin";

fn ptx_path(kernel: &str) -> String {
    format!("kernels/{kernel}.ptx")
}

impl Artifact {
    /// Puts an artifact together, and validates it. `producer` names the program that compiled it, for people. There is a plan for
    /// each of `functions`, of which there is at least one; a kernel that several of them use is the same in all.
    pub fn new(
        producer: &str,
        target: Target,
        functions: Vec<Plan>,
        code: Code,
        constants: Vec<u8>,
    ) -> Result<Artifact, ArtifactError> {
        let artifact = Artifact { path: None, producer: producer.into(), target, functions, code, constants };
        artifact.validate()?;
        Ok(artifact)
    }

    /// What compiled it.
    pub fn producer(&self) -> &str {
        &self.producer
    }

    /// What it was compiled for.
    pub fn target(&self) -> &Target {
        &self.target
    }

    /// The plans of its functions. There is at least one.
    pub fn functions(&self) -> &[Plan] {
        &self.functions
    }

    /// The plan of the first function, which is the only one of most models.
    pub fn plan(&self) -> &Plan {
        &self.functions[0]
    }

    /// The plan of a function.
    pub fn function(&self, name: &str) -> Result<&Plan, ArtifactError> {
        self.functions.iter().find(|plan| plan.function == name).ok_or_else(|| {
            let known = self.functions.iter().map(|plan| plan.function.clone()).collect();
            ArtifactError::NoFunction { name: name.into(), known }
        })
    }

    /// The kernels' code.
    pub fn code(&self) -> &Code {
        &self.code
    }

    /// The contents of `constants.bin`; the plan says where each constant lies.
    pub fn constants(&self) -> &[u8] {
        &self.constants
    }

    /// Opens a `.tsr` file.
    pub fn open(path: impl AsRef<Path>) -> Result<Artifact, ArtifactError> {
        let path = path.as_ref();
        let bytes = std::fs::read(path).map_err(|error| ArtifactError::File { path: path.into(), error })?;
        let artifact = Artifact::from_bytes(&bytes);
        let artifact = artifact.map_err(|error| ArtifactError::In { path: path.into(), error: Box::new(error) })?;
        Ok(artifact.kept_at(path))
    }

    /// The artifact, as one that is kept in a file: what is made of the weights for its kernels is kept beside it.
    pub fn kept_at(self, path: impl Into<PathBuf>) -> Artifact {
        Artifact { path: Some(path.into()), ..self }
    }

    /// The file that it is kept in, if it came from one or went to one.
    pub fn path(&self) -> Option<&Path> {
        self.path.as_deref()
    }

    /// Reads the contents of a `.tsr` file.
    pub fn from_bytes(bytes: &[u8]) -> Result<Artifact, ArtifactError> {
        let (manifest, mut members) = container::unpack(bytes)?;
        let mut take = |path: &str| {
            members.remove(path).ok_or_else(|| ArtifactError::Damaged(format!("{path}: the manifest does not name it")))
        };
        let functions = serde_json::from_slice::<Vec<Plan>>(&take(PLAN)?)
            .map_err(|error| ArtifactError::Damaged(format!("{PLAN}: {error}")))?;
        // Kernel names become paths below.
        functions.iter().try_for_each(Plan::validate)?;
        let kernels: BTreeSet<_> = functions.iter().flat_map(|plan| &plan.kernels).map(|kernel| &kernel.name).collect();
        let code = match &manifest.signature {
            Target::Host { .. } => Code::Host(take(HOST_CODE)?),
            Target::Cuda { .. } => Code::Ptx(
                kernels
                    .into_iter()
                    .map(|kernel| {
                        let path = ptx_path(kernel);
                        let text = String::from_utf8(take(&path)?)
                            .map_err(|_| ArtifactError::Damaged(format!("{path}: it is not text")))?;
                        Ok((kernel.clone(), text))
                    })
                    .collect::<Result<_, ArtifactError>>()?,
            ),
        };
        let constants = take(CONSTANTS)?;
        Artifact::new(&manifest.producer, manifest.signature, functions, code, constants)
    }

    /// The contents of a `.tsr` file. Equal artifacts give equal bytes.
    pub fn to_bytes(&self) -> Result<Vec<u8>, ArtifactError> {
        let plan = serde_json::to_vec(&self.functions).map_err(|error| ArtifactError::Unwritable(error.to_string()))?;
        let mut members: BTreeMap<String, &[u8]> = BTreeMap::new();
        members.insert(PLAN.into(), &plan);
        members.insert(CONSTANTS.into(), &self.constants);
        match &self.code {
            Code::Host(library) => {
                members.insert(HOST_CODE.into(), library);
            }
            Code::Ptx(kernels) => {
                members.extend(kernels.iter().map(|(name, text)| (ptx_path(name), text.as_bytes())));
            }
        }
        container::pack(&self.producer, &self.target, &members)
    }

    /// Writes a `.tsr` file. Whoever opens `path` sees the old file or the whole new one, never a part.
    pub fn write(&self, path: impl AsRef<Path>) -> Result<(), ArtifactError> {
        let path = path.as_ref();
        let failed = |error| ArtifactError::File { path: path.into(), error };
        let folder = match path.parent() {
            Some(folder) if !folder.as_os_str().is_empty() => folder,
            _ => Path::new("."),
        };
        let mut file = tempfile::Builder::new().prefix(".tessera-").tempfile_in(folder).map_err(failed)?;
        file.write_all(&self.to_bytes()?).map_err(failed)?;
        let file = file.persist(path).map_err(|error| failed(error.error))?;
        share_like_other_files(&file).map_err(failed)
    }

    fn validate(&self) -> Result<(), ArtifactError> {
        self.target.validate()?;
        let inconsistent = |problem: String| Err(ArtifactError::Inconsistent(problem));
        if self.functions.is_empty() {
            return inconsistent("it has no function".into());
        }
        match (&self.target, &self.code) {
            (Target::Host { .. }, Code::Host(_)) | (Target::Cuda { .. }, Code::Ptx(_)) => {}
            (target, _) => return inconsistent(format!("its code is not for {target}")),
        }
        let mut names = BTreeSet::new();
        let mut kernels = HashMap::new();
        for plan in &self.functions {
            plan.validate()?;
            if !names.insert(&plan.function) {
                return inconsistent(format!("two functions are named `{}`", plan.function));
            }
            for kernel in &plan.kernels {
                if *kernels.entry(&kernel.name).or_insert(kernel) != kernel {
                    return inconsistent(format!("two kernels are named `{}`", kernel.name));
                }
                self.validate_code(&kernel.name)?;
            }
            let size = self.constants.len() as u64;
            let beyond = plan.constants.iter().position(|constant| constant.offset + constant.bytes > size);
            if let Some(index) = beyond {
                return inconsistent(format!("constant {index} ends beyond the {size} bytes of {CONSTANTS}"));
            }
        }
        Ok(())
    }

    /// Checks that there is code for a kernel, as far as that shows without loading it.
    fn validate_code(&self, kernel: &str) -> Result<(), ArtifactError> {
        let Code::Ptx(texts) = &self.code else { return Ok(()) };
        match texts.get(kernel) {
            None => Err(ArtifactError::Inconsistent(format!("there is no PTX for kernel `{kernel}`"))),
            // A zero byte would end the text early for the driver, which takes a C string.
            Some(text) if text.contains('\0') => {
                Err(ArtifactError::Inconsistent(format!("the PTX of kernel `{kernel}` has a zero byte")))
            }
            Some(_) => Ok(()),
        }
    }
}

/// Temporary files are private to their user; an artifact gets the permissions of any other new file.
#[cfg(unix)]
fn share_like_other_files(file: &std::fs::File) -> std::io::Result<()> {
    use std::os::unix::fs::PermissionsExt;
    file.set_permissions(std::fs::Permissions::from_mode(0o644))
}

#[cfg(not(unix))]
fn share_like_other_files(_: &std::fs::File) -> std::io::Result<()> {
    Ok(())
}

#[cfg(test)]
mod tests;
