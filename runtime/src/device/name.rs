//! The names users give devices.

use std::fmt;
use std::str::FromStr;

/// A device's name.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum DeviceName {
    /// `host`: this machine's CPU.
    Host,
    /// `cuda:N`: the NVIDIA GPU of that ordinal; `cuda` is `cuda:0`.
    Cuda(usize),
    /// `emulated`, `emulated:sm_90a`: the CUDA path on the emulated driver, the chip picked by name.
    Emulated(Option<String>),
}

/// A text that names no device.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a device: expected `host`, `cuda:N` or `emulated[:sm_NN]`")]
pub struct DeviceNameError(pub String);

impl FromStr for DeviceName {
    type Err = DeviceNameError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let unknown = || DeviceNameError(text.into());
        match text.split_once(':') {
            None => match text {
                "host" => Ok(DeviceName::Host),
                "cuda" => Ok(DeviceName::Cuda(0)),
                "emulated" => Ok(DeviceName::Emulated(None)),
                _ => Err(unknown()),
            },
            Some(("cuda", ordinal)) => ordinal.parse().map(DeviceName::Cuda).map_err(|_| unknown()),
            Some(("emulated", chip)) if chip.starts_with("sm_") => Ok(DeviceName::Emulated(Some(chip.into()))),
            Some(_) => Err(unknown()),
        }
    }
}

impl fmt::Display for DeviceName {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            DeviceName::Host => formatter.write_str("host"),
            DeviceName::Cuda(ordinal) => write!(formatter, "cuda:{ordinal}"),
            DeviceName::Emulated(None) => formatter.write_str("emulated"),
            DeviceName::Emulated(Some(chip)) => write!(formatter, "emulated:{chip}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_parse_and_print() {
        for name in ["host", "cuda:0", "cuda:7", "emulated", "emulated:sm_90a"] {
            assert_eq!(name.parse::<DeviceName>().unwrap().to_string(), name);
        }
        assert_eq!("cuda".parse(), Ok(DeviceName::Cuda(0)));
        for nonsense in ["", "gpu", "cuda:", "cuda:-1", "cuda:x", "host:0", "emulated:", "emulated:h100"] {
            assert_eq!(nonsense.parse::<DeviceName>(), Err(DeviceNameError(nonsense.into())));
        }
    }
}
