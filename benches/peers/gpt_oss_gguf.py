#!/usr/bin/env python3
"""Writes a model of gpt-oss-20b's shape with random weights as GGUF, for llama.cpp's llama-bench: a peer of the `gpt_oss` bench.

    python gpt_oss_gguf.py q8_0|bf16 OUT.gguf [LAYERS]

Experts are MXFP4; the rest of the matrices are as the first argument says. The layers hold the same numbers: what is timed is
reading and multiplying them, and each layer's are their own bytes in the file. Needs `pip install gguf numpy`.
"""

import sys

import gguf
import numpy as np

WIDTH, HEADS, KEY_HEADS, HEAD, VOCABULARY, EXPERTS, CHOSEN = 2880, 64, 8, 64, 201088, 32, 4
KINDS = {"q8_0": gguf.GGMLQuantizationType.Q8_0, "bf16": gguf.GGMLQuantizationType.BF16}


def main():
    if len(sys.argv) not in (3, 4) or sys.argv[1] not in KINDS:
        sys.exit(__doc__)
    kind, path = KINDS[sys.argv[1]], sys.argv[2]
    layers = int(sys.argv[3]) if len(sys.argv) == 4 else 24
    writer = gguf.GGUFWriter(path, "gpt-oss")
    writer.add_context_length(131072)
    writer.add_embedding_length(WIDTH)
    writer.add_block_count(layers)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KEY_HEADS)
    writer.add_key_length(HEAD)
    writer.add_value_length(HEAD)
    writer.add_feed_forward_length(WIDTH)
    writer.add_expert_feed_forward_length(WIDTH)
    writer.add_expert_count(EXPERTS)
    writer.add_expert_used_count(CHOSEN)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_sliding_window(128)
    writer.add_rope_freq_base(150000.0)
    writer.add_rope_dimension_count(HEAD)
    writer.add_rope_scaling_type(gguf.RopeScalingType.YARN)
    writer.add_rope_scaling_factor(32.0)
    writer.add_rope_scaling_orig_ctx_len(4096)
    writer.add_tokenizer_model("none")
    writer.add_vocab_size(VOCABULARY)
    random = np.random.default_rng(0)
    made = {}

    def once(key, make):
        if key not in made:
            made[key] = make()
        return made[key]

    def vector(name, *shape):
        writer.add_tensor(name, once(shape, lambda: (random.standard_normal(shape) * 0.02).astype(np.float32)))

    def matrix(name, rows, columns):
        def make():
            slab = (random.standard_normal((64, columns)) * 0.02).astype(np.float32)
            slab = gguf.quants.quantize(slab, kind)
            return np.tile(slab, (-(-rows // 64), 1))[:rows]

        writer.add_tensor(name, once((rows, columns), make), raw_dtype=kind)

    def experts(name):
        def make():
            blocks = random.integers(0, 256, (EXPERTS, WIDTH, WIDTH // 32, 17), dtype=np.uint8)
            blocks[..., 0] = 120
            return blocks.reshape(EXPERTS, WIDTH, -1)

        writer.add_tensor(name, once("experts", make), raw_dtype=gguf.GGMLQuantizationType.MXFP4)

    matrix("token_embd.weight", VOCABULARY, WIDTH)
    matrix("output.weight", VOCABULARY, WIDTH)
    vector("output_norm.weight", WIDTH)
    for layer in range(layers):
        block = f"blk.{layer}"
        vector(f"{block}.attn_norm.weight", WIDTH)
        vector(f"{block}.post_attention_norm.weight", WIDTH)
        vector(f"{block}.attn_sinks.weight", HEADS)
        for name, rows, columns in (
            ("attn_q", HEADS * HEAD, WIDTH),
            ("attn_k", KEY_HEADS * HEAD, WIDTH),
            ("attn_v", KEY_HEADS * HEAD, WIDTH),
            ("attn_output", WIDTH, HEADS * HEAD),
        ):
            matrix(f"{block}.{name}.weight", rows, columns)
            vector(f"{block}.{name}.bias", rows)
        # The router of published files is f32.
        writer.add_tensor(
            f"{block}.ffn_gate_inp.weight",
            (random.standard_normal((EXPERTS, WIDTH)) * 0.02).astype(np.float32),
        )
        vector(f"{block}.ffn_gate_inp.bias", EXPERTS)
        for name in ("ffn_gate_exps", "ffn_up_exps", "ffn_down_exps"):
            experts(f"{block}.{name}.weight")
            vector(f"{block}.{name}.bias", EXPERTS, WIDTH)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


if __name__ == "__main__":
    main()
