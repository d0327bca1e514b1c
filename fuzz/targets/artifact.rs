//! Whatever a file holds, reading it as an artifact is an error or a valid artifact.
#![no_main]

use libfuzzer_sys::fuzz_target;
use tessera_runtime::Artifact;

fuzz_target!(|bytes: &[u8]| {
    if let Ok(artifact) = Artifact::from_bytes(bytes) {
        for plan in artifact.functions() {
            plan.validate().expect("an artifact that was read has valid plans");
        }
        let again = Artifact::from_bytes(&artifact.to_bytes().expect("it can be written")).expect("and read again");
        assert_eq!(again, artifact);
    }
});
