//! gpt-oss (OpenAI 2025, "gpt-oss-120b & gpt-oss-20b Model Card"), as Hugging Face folders and OpenAI's own `original/` folders
//! hold it.

mod checkpoint;
mod config;
mod graph;

pub use checkpoint::{EIGHT_BIT, detect_layout, in_hugging_face_names};
pub use config::{AttentionKind, ConfigError, GptOssConfig, Yarn};
pub use graph::{ExpertStorage, GptOssLayout, build, parameter_names};
