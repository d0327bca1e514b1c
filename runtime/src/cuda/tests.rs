//! What can be known without a driver. The rest is in `tests/cuda`, which brings its own.

use super::*;

#[test]
fn a_machine_without_a_driver_gets_a_clear_message() {
    match Cuda::open(0) {
        Err(CudaError::NoDriver) => {
            let message = CudaError::NoDriver.to_string();
            assert!(message.contains("no NVIDIA driver") && message.contains("`--device host`"), "{message}");
        }
        // Machines with a driver have a GPU, or say that they have none.
        Err(error) => assert!(matches!(error, CudaError::NoDevice { .. } | CudaError::Call { .. }), "{error}"),
        Ok(device) => assert!(device.compute_capability().0 > 0),
    }
}

#[test]
fn what_is_not_a_driver_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("libcuda.so.1");
    // Not by `load`, which a test beside this one may have made load another.
    let refused = || driver::load_library(&path).unwrap_err().to_string();
    assert!(refused().contains("libcuda.so.1: cannot load this driver: "), "{}", refused());
    std::fs::write(&path, "not a library").unwrap();
    assert!(refused().contains("libcuda.so.1: cannot load this driver: "), "{}", refused());
}
