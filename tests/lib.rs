//! End-to-end tests: models from folder to numbers, through every crate.
