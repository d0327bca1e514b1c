//! Kernels in Triton, through Triton's own compiler, driver and launcher.

use std::process::Command;

use crate::{library_folder, python, root};

#[test]
fn triton_launches_its_kernels() {
    let Some(python) = python() else { return };
    let library = library_folder();
    // On chips whose products are wgmma and tcgen05.
    for chip in ["sm_90a", "sm_100a"] {
        let output = Command::new(&python)
            .arg(root().join("tools/ptx-emulator/driver/tests/driver/triton_programs.py"))
            .env("LD_LIBRARY_PATH", library.path())
            .env("TRITON_LIBCUDA_PATH", library.path())
            .env("TRITON_CACHE_DIR", library.path())
            // As it is without being named, which Triton warns of.
            .env("TRITON_DEFAULT_FP_FUSION", "1")
            .env("PTX_EMULATOR_CHIP", chip)
            .output()
            .unwrap();
        let (said, complained) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success(), "{chip}: {said}{complained}");
        assert_eq!(complained, "", "{chip}");
    }
}
