//! Round trips, refusals, and damage of every kind.

use std::io::{Cursor, Write};

use proptest::prelude::*;
use zip::write::SimpleFileOptions;
use zip::{ZipArchive, ZipWriter};

use super::*;
use crate::plan::{ConstantSpecification, Kernel, Partition};

fn plan() -> Plan {
    let mut plan = Plan::new("example", "main");
    plan.kernels.push(Kernel {
        name: "copy".into(),
        hash: "abc".into(),
        parameters: vec![],
        partition: Partition::default(),
        block_threads: 128,
        dynamic_shared_bytes: 0,
        scratch_bytes: 0,
    });
    plan.constants.push(ConstantSpecification { offset: 256, bytes: 44 });
    plan
}

fn cuda_artifact() -> Artifact {
    let kernels = BTreeMap::from([("copy".to_string(), ".visible .entry copy() { ret; }".repeat(9))]);
    let target = Target::Cuda { architecture: "sm_80".into() };
    Artifact::new("test", target, vec![plan()], Code::Ptx(kernels), vec![7; 300]).unwrap()
}

fn host_artifact() -> Artifact {
    Artifact::new("test", Target::native_host(), vec![plan()], Code::Host(vec![1, 2, 3]), vec![7; 300]).unwrap()
}

/// A zip file with these members.
fn zip_file(members: &[(&str, &[u8])]) -> Vec<u8> {
    let mut writer = ZipWriter::new(Cursor::new(Vec::new()));
    for (path, contents) in members {
        writer.start_file(*path, SimpleFileOptions::default()).unwrap();
        writer.write_all(contents).unwrap();
    }
    writer.finish().unwrap().into_inner()
}

/// The artifact's zip file with one member changed.
fn with_member(artifact: &Artifact, path: &str, change: impl Fn(Vec<u8>) -> Option<Vec<u8>>) -> Vec<u8> {
    let bytes = artifact.to_bytes().unwrap();
    let mut archive = ZipArchive::new(Cursor::new(&bytes)).unwrap();
    let mut members = Vec::new();
    for index in 0..archive.len() {
        let mut file = archive.by_index(index).unwrap();
        let mut contents = Vec::new();
        std::io::copy(&mut file, &mut contents).unwrap();
        let name = file.name().unwrap().to_string();
        let contents = if name == path { change(contents) } else { Some(contents) };
        members.extend(contents.map(|contents| (name, contents)));
    }
    let members: Vec<_> = members.iter().map(|(name, contents)| (name.as_str(), contents.as_slice())).collect();
    zip_file(&members)
}

#[test]
fn artifacts_survive_the_round_trip_and_are_reproducible() {
    for artifact in [cuda_artifact(), host_artifact()] {
        let bytes = artifact.to_bytes().unwrap();
        assert_eq!(Artifact::from_bytes(&bytes).unwrap(), artifact);
        assert_eq!(artifact.to_bytes().unwrap(), bytes);
    }
}

#[test]
fn writing_replaces_a_file_and_leaves_nothing_else() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.tsr");
    std::fs::write(&path, "old").unwrap();
    cuda_artifact().write(&path).unwrap();
    assert_eq!(Artifact::open(&path).unwrap(), cuda_artifact());
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
    let nowhere = folder.path().join("missing/model.tsr");
    assert!(matches!(cuda_artifact().write(&nowhere), Err(ArtifactError::File { .. })));
}

#[test]
fn other_files_are_not_artifacts() {
    for bytes in [&b""[..], b"hello", &[0; 1000], &zip_file(&[("a", b"b")]), &zip_file(&[("manifest.json", b"{}")])] {
        let error = Artifact::from_bytes(bytes).unwrap_err();
        assert!(matches!(error, ArtifactError::NotAnArtifact(_)), "{error}");
    }
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.tsr");
    std::fs::write(&path, "hello").unwrap();
    let message = Artifact::open(&path).unwrap_err().to_string();
    assert!(message.contains("model.tsr: not a Tessera artifact"), "{message}");
}

#[test]
fn another_version_is_refused_before_anything_else_is_read() {
    let bytes = zip_file(&[("manifest.json", br#"{"tessera_artifact": 99, "what": "comes then"}"#)]);
    let message = Artifact::from_bytes(&bytes).unwrap_err().to_string();
    let expected = format!("format version 99, this runtime reads version {FORMAT_VERSION}");
    assert!(message.contains(&expected), "{message}");
}

#[test]
fn damage_is_named() {
    let artifact = cuda_artifact();
    let changed = |mut contents: Vec<u8>| {
        contents[0] ^= 1;
        Some(contents)
    };
    for path in ["plan.json", "constants.bin", "kernels/copy.ptx"] {
        let message = Artifact::from_bytes(&with_member(&artifact, path, changed)).unwrap_err().to_string();
        assert!(message.contains(&format!("{path}: its contents do not match their checksum")), "{message}");
        let message = Artifact::from_bytes(&with_member(&artifact, path, |_| None)).unwrap_err().to_string();
        assert!(message.contains(&format!("{path}: the member is missing")), "{message}");
        let longer = |contents: Vec<u8>| Some([contents, vec![0]].concat());
        let message = Artifact::from_bytes(&with_member(&artifact, path, longer)).unwrap_err().to_string();
        assert!(message.contains(&format!("{path}: it has more than")), "{message}");
    }
}

#[test]
fn parts_that_do_not_fit_together_are_refused() {
    let cuda = Target::Cuda { architecture: "sm_80".into() };
    let message =
        Artifact::new("test", cuda.clone(), vec![plan()], Code::Ptx(BTreeMap::new()), vec![0; 300]).unwrap_err();
    assert_eq!(message.to_string(), "inconsistent artifact: there is no PTX for kernel `copy`");
    let message = Artifact::new("test", cuda, vec![plan()], Code::Host(vec![]), vec![0; 300]).unwrap_err();
    assert_eq!(message.to_string(), "inconsistent artifact: its code is not for sm_80");
    let message =
        Artifact::new("test", Target::native_host(), vec![plan()], Code::Host(vec![]), vec![0; 299]).unwrap_err();
    assert!(message.to_string().contains("constant 0 ends beyond the 299 bytes of constants.bin"));
}

#[test]
fn an_artifact_may_have_several_functions() {
    let other = |change: fn(&mut Plan)| {
        let mut plan = plan();
        plan.function = "sample".into();
        change(&mut plan);
        plan
    };
    let new = |plans| Artifact::new("test", Target::native_host(), plans, Code::Host(vec![]), vec![0; 300]);
    let both = new(vec![plan(), other(|_| {})]).unwrap();
    let read = Artifact::from_bytes(&both.to_bytes().unwrap()).unwrap();
    assert_eq!(read.function("sample").unwrap().function, "sample");
    assert_eq!(read.plan().function, "main");
    let message = read.function("step").unwrap_err().to_string();
    assert_eq!(message, "the artifact has no function `step`; it has main, sample");

    let refusal = |plans| new(plans).unwrap_err().to_string();
    assert_eq!(refusal(vec![]), "inconsistent artifact: it has no function");
    assert_eq!(refusal(vec![plan(), plan()]), "inconsistent artifact: two functions are named `main`");
    let differs = other(|plan| plan.kernels[0].hash = "def".into());
    assert_eq!(refusal(vec![plan(), differs]), "inconsistent artifact: two kernels are named `copy`");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, ..ProptestConfig::default() })]

    /// A flipped bit is found, or lies where nothing is read.
    #[test]
    fn flipped_bits_never_change_what_is_read(position in any::<prop::sample::Index>(), bit in 0..8u32) {
        let artifact = cuda_artifact();
        let mut bytes = artifact.to_bytes().unwrap();
        let position = position.index(bytes.len());
        bytes[position] ^= 1 << bit;
        if let Ok(read) = Artifact::from_bytes(&bytes) {
            prop_assert_eq!(read, artifact);
        }
    }

    #[test]
    fn truncated_files_are_refused(length in any::<prop::sample::Index>()) {
        let bytes = cuda_artifact().to_bytes().unwrap();
        let length = length.index(bytes.len());
        prop_assert!(Artifact::from_bytes(&bytes[..length]).is_err());
    }

    #[test]
    fn garbage_is_refused(bytes in prop::collection::vec(any::<u8>(), 0..400), head in prop::bool::ANY) {
        let bytes = if head { [b"PK\x03\x04".to_vec(), bytes].concat() } else { bytes };
        prop_assert!(Artifact::from_bytes(&bytes).is_err());
    }

    /// Any plan text, however it got past the checksums, is an error or a valid plan.
    #[test]
    fn garbled_plans_are_refused(position in any::<prop::sample::Index>(), byte in any::<u8>()) {
        let mut text = serde_json::to_vec(&plan()).unwrap();
        let position = position.index(text.len());
        text[position] = byte;
        if let Ok(plan) = serde_json::from_slice::<Plan>(&text) {
            let _ = plan.validate();
        }
    }
}
