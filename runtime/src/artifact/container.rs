//! The zip file an artifact is kept in. Nothing here knows what the members mean.

use std::collections::BTreeMap;
use std::io::{Cursor, Read, Write};

use zip::result::ZipError;
use zip::write::SimpleFileOptions;
use zip::{CompressionMethod, ZipArchive, ZipWriter};

use super::manifest::{FORMAT_VERSION, Manifest, Member};
use super::{ArtifactError, Target};

const MANIFEST: &str = "manifest.json";

/// No manifest is larger; it bounds what is read before anything is known of a file.
const MAXIMUM_MANIFEST_BYTES: u64 = 64 << 20;

/// Packs members, with the manifest that describes them, into a zip file. The same members always give the same bytes.
pub(super) fn pack(
    producer: &str,
    signature: &Target,
    members: &BTreeMap<String, &[u8]>,
) -> Result<Vec<u8>, ArtifactError> {
    let manifest = Manifest {
        tessera_artifact: FORMAT_VERSION,
        producer: producer.into(),
        signature: signature.clone(),
        members: members.iter().map(|(path, contents)| (path.clone(), Member::of(contents))).collect(),
    };
    let unwritable = |error: &dyn std::fmt::Display| ArtifactError::Unwritable(error.to_string());
    let manifest = serde_json::to_vec_pretty(&manifest).map_err(|error| unwritable(&error))?;
    let mut writer = ZipWriter::new(Cursor::new(Vec::new()));
    let listed = members.iter().map(|(path, contents)| (path.as_str(), *contents));
    for (path, contents) in std::iter::once((MANIFEST, manifest.as_slice())).chain(listed) {
        // Constants hardly compress, and native code is loaded more often than it is shipped.
        let method = if path.ends_with(".bin") { CompressionMethod::Stored } else { CompressionMethod::Deflated };
        let options = SimpleFileOptions::default()
            .compression_method(method)
            .compression_level((method == CompressionMethod::Deflated).then_some(1))
            .large_file(contents.len() >= u32::MAX as usize);
        writer.start_file(path, options).map_err(|error| unwritable(&error))?;
        writer.write_all(contents).map_err(|error| unwritable(&error))?;
    }
    Ok(writer.finish().map_err(|error| unwritable(&error))?.into_inner())
}

/// Unpacks a zip file: its manifest, and every member the manifest names, with sizes and hashes checked.
pub(super) fn unpack(bytes: &[u8]) -> Result<(Manifest, BTreeMap<String, Vec<u8>>), ArtifactError> {
    let mut archive = ZipArchive::new(Cursor::new(bytes)).map_err(|error| match error {
        ZipError::InvalidArchive(problem) if bytes.starts_with(b"PK") => ArtifactError::Damaged(problem.to_string()),
        error => ArtifactError::NotAnArtifact(error.to_string()),
    })?;
    let manifest = match read_member(&mut archive, MANIFEST, MAXIMUM_MANIFEST_BYTES) {
        Err(MemberError::Missing) => return Err(ArtifactError::NotAnArtifact(format!("it holds no {MANIFEST}"))),
        Err(MemberError::Damaged(problem)) => return Err(ArtifactError::Damaged(format!("{MANIFEST}: {problem}"))),
        Ok(text) => Manifest::parse(&text)?,
    };
    let mut members = BTreeMap::new();
    for (path, expected) in &manifest.members {
        let damaged = |problem: &str| ArtifactError::Damaged(format!("{path}: {problem}"));
        let contents = read_member(&mut archive, path, expected.bytes).map_err(|error| match error {
            MemberError::Missing => damaged("the member is missing"),
            MemberError::Damaged(problem) => damaged(&problem),
        })?;
        if Member::of(&contents) != *expected {
            return Err(damaged("its contents do not match their checksum"));
        }
        members.insert(path.clone(), contents);
    }
    Ok((manifest, members))
}

enum MemberError {
    Missing,
    Damaged(String),
}

/// Reads a member that has at most `limit` bytes. Memory is taken as data arrives, never on a header's word.
fn read_member(archive: &mut ZipArchive<Cursor<&[u8]>>, path: &str, limit: u64) -> Result<Vec<u8>, MemberError> {
    let file = archive.by_name(path).map_err(|error| match error {
        ZipError::FileNotFound => MemberError::Missing,
        error => MemberError::Damaged(error.to_string()),
    })?;
    let mut contents = Vec::new();
    let read = file.take(limit.saturating_add(1)).read_to_end(&mut contents);
    read.map_err(|error| MemberError::Damaged(error.to_string()))?;
    if contents.len() as u64 > limit {
        return Err(MemberError::Damaged(format!("it has more than {limit} bytes")));
    }
    Ok(contents)
}
