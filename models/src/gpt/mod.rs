//! The GPT of `GPTConfig`: RMSNorm, rotary positions, grouped-query attention, gated MLP, parallel blocks, low-precision weights.

mod config;
mod graph;

pub use config::{GptConfig, INITIALIZER_RANGE, RMS_NORM_EPSILON, ROPE_BASE};
pub use graph::build;
