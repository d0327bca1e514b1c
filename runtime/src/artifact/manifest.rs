//! The manifest of an artifact: what it is, what it is for, and what its members must hash to.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{ArtifactError, Target};

/// The version of the artifact format that this runtime reads and writes. It changes with any change of the manifest, the
/// plan or the kernels' calling convention.
pub const FORMAT_VERSION: u32 = 2;

/// `manifest.json`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// The format's version. The key also tells an artifact from any other zip file.
    pub tessera_artifact: u32,
    /// What wrote it, for people: `tesserac 0.1.0`.
    pub producer: String,
    /// What it was compiled for.
    pub signature: Target,
    /// Every other member, by its path.
    pub members: BTreeMap<String, Member>,
}

/// A member of the artifact.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Member {
    /// Its uncompressed size.
    pub bytes: u64,
    /// The BLAKE3 hash of its contents, in hexadecimal.
    pub blake3: String,
}

impl Member {
    /// What the manifest says of a member with these contents.
    pub fn of(contents: &[u8]) -> Member {
        Member { bytes: contents.len() as u64, blake3: blake3::hash(contents).to_hex().to_string() }
    }
}

/// The part of the manifest that every version of the format has.
#[derive(Deserialize)]
struct Header {
    tessera_artifact: u32,
}

impl Manifest {
    /// Reads a manifest. The version is looked at before anything else, since another version may have other fields.
    pub fn parse(text: &[u8]) -> Result<Manifest, ArtifactError> {
        let header: Header = serde_json::from_slice(text)
            .map_err(|_| ArtifactError::NotAnArtifact("its manifest names no artifact version".into()))?;
        if header.tessera_artifact != FORMAT_VERSION {
            return Err(ArtifactError::Version { found: header.tessera_artifact, supported: FORMAT_VERSION });
        }
        serde_json::from_slice(text).map_err(|error| ArtifactError::Damaged(format!("manifest.json: {error}")))
    }
}
