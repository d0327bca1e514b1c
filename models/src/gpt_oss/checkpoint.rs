//! What checkpoints of gpt-oss hold, and under which names.

use std::collections::BTreeSet;

use tessera_ir::Storage;
use tessera_runtime::Weights;
use tessera_runtime::plan::ElementType;

use super::config::GptOssConfig;
use super::graph::{ExpertStorage, GptOssLayout, parameter_names};
use crate::error::{ModelError, Result};
use crate::weights::{FLOATS, storage_of};

/// The tensor that only OpenAI's own checkpoints hold.
const ORIGINAL_EMBEDDING: &str = "embedding.weight";

/// How a checkpoint stores its tensors. Names are Hugging Face's; see [`in_hugging_face_names`].
///
/// # Errors
/// A tensor that the configuration knows nothing of; matrices of a type that is no float.
pub fn detect_layout(config: &GptOssConfig, weights: &Weights) -> Result<GptOssLayout> {
    let mut layout = GptOssLayout::of(config);
    // Of a tensor that is missing, the check against the module tells.
    if let Some(storage) = float_storage(weights, "model.norm.weight", &[])? {
        layout.dense = storage;
    }
    if let Some(storage) = float_storage(weights, "model.embed_tokens.weight", &EIGHT_BIT)? {
        layout.matrices = storage;
    }
    if !config.is_mxfp4
        && let Some(storage) = float_storage(weights, "model.layers.0.mlp.experts.gate_up_proj", &[])?
    {
        layout.experts = ExpertStorage::Float(storage);
    }
    let known: BTreeSet<String> = parameter_names(config, &layout)?.into_iter().collect();
    let unknown = weights.iter().map(|(name, _)| name).find(|name| !known.contains(*name));
    match unknown {
        None => Ok(layout),
        Some(name) => Err(ModelError::UnknownTensor {
            origin: weights.origin().to_owned(),
            name: name.to_owned(),
            model: format!(
                "a gpt-oss of {} layers{}",
                config.layer_types.len(),
                match config.is_mxfp4 {
                    true => " with MXFP4 experts",
                    false => " with unquantized experts",
                }
            ),
        }),
    }
}

/// What matrices with a scale for each row are stored in.
pub const EIGHT_BIT: [ElementType; 3] = [ElementType::Fp8E4m3, ElementType::Fp8E5m2, ElementType::I8];

/// The storage of a tensor, which is one of the floats of unquantized models, or of these others.
fn float_storage(weights: &Weights, name: &str, others: &[ElementType]) -> Result<Option<Storage>> {
    let Some(tensor) = weights.get(name) else { return Ok(None) };
    let supported = [&FLOATS[..], others].concat();
    match storage_of(tensor.element) {
        Some(storage) if supported.contains(&tensor.element) => Ok(Some(storage)),
        _ => Err(ModelError::TensorType {
            name: name.to_owned(),
            found: tensor.element,
            supported: supported.iter().map(|element| element.name()).collect::<Vec<_>>().join(", "),
        }),
    }
}

/// OpenAI's names and Hugging Face's, of the tensors of a block. Fused queries, keys and values are cut by rows.
const BLOCK_NAMES: [(&str, &str); 15] = [
    ("attn.norm.scale", "input_layernorm.weight"),
    ("attn.sinks", "self_attn.sinks"),
    ("attn.out.weight", "self_attn.o_proj.weight"),
    ("attn.out.bias", "self_attn.o_proj.bias"),
    ("mlp.norm.scale", "post_attention_layernorm.weight"),
    ("mlp.gate.weight", "mlp.router.weight"),
    ("mlp.gate.bias", "mlp.router.bias"),
    ("mlp.mlp1_weight.blocks", "mlp.experts.gate_up_proj_blocks"),
    ("mlp.mlp1_weight.scales", "mlp.experts.gate_up_proj_scales"),
    ("mlp.mlp1_bias", "mlp.experts.gate_up_proj_bias"),
    ("mlp.mlp2_weight.blocks", "mlp.experts.down_proj_blocks"),
    ("mlp.mlp2_weight.scales", "mlp.experts.down_proj_scales"),
    ("mlp.mlp2_bias", "mlp.experts.down_proj_bias"),
    ("attn.qkv.weight", "self_attn.{}_proj.weight"),
    ("attn.qkv.bias", "self_attn.{}_proj.bias"),
];

/// The same weights under Hugging Face's names, in place: OpenAI's own checkpoints name tensors otherwise and keep the matrices
/// of queries, keys and values as one.
///
/// # Errors
/// A fused tensor has not the rows of the configuration's heads.
pub fn in_hugging_face_names(config: &GptOssConfig, weights: Weights) -> Result<Weights> {
    if weights.get(ORIGINAL_EMBEDDING).is_none() {
        return Ok(weights);
    }
    let head = config.head_dim;
    let parts = [
        ("q", config.num_attention_heads * head),
        ("k", config.num_key_value_heads * head),
        ("v", config.num_key_value_heads * head),
    ];
    let mut renamed = weights.without_tensors();
    for (name, tensor) in weights.iter() {
        let outer = match name {
            ORIGINAL_EMBEDDING => Some("model.embed_tokens.weight"),
            "unembedding.weight" => Some("lm_head.weight"),
            "norm.scale" => Some("model.norm.weight"),
            _ => None,
        };
        let in_block = name.strip_prefix("block.").and_then(|rest| rest.split_once('.'));
        let target = in_block.and_then(|(_, rest)| BLOCK_NAMES.iter().find(|(original, _)| *original == rest));
        match (outer, in_block, target) {
            (Some(outer), ..) => renamed.share(outer, tensor.clone()),
            (_, Some((block, _)), Some((_, target))) if target.contains("{}") => {
                let rows: u64 = parts.iter().map(|(_, rows)| rows).sum();
                if tensor.shape.first() != Some(&rows) {
                    return Err(ModelError::InvalidConfig(format!(
                        "tensor `{name}` is {}{:?}; queries, keys and values of the configuration's heads have {rows} rows",
                        tensor.element, tensor.shape
                    )));
                }
                let mut first = 0;
                for (part, rows) in parts {
                    let name = format!("model.layers.{block}.{}", target.replace("{}", part));
                    let cut = tensor.rows(first..first + rows).ok_or_else(|| {
                        ModelError::InvalidConfig(format!("tensor `{name}` cannot be cut at row {first}"))
                    })?;
                    renamed.share(&name, cut);
                    first += rows;
                }
            }
            (_, Some((block, _)), Some((_, target))) => {
                renamed.share(&format!("model.layers.{block}.{target}"), tensor.clone());
            }
            // What has no other name keeps its own, and is reported as unknown.
            _ => renamed.share(name, tensor.clone()),
        }
    }
    Ok(renamed)
}
