#!/usr/bin/env python3
"""Writes a GPT-2 124M with random weights as GGUF, for llama.cpp's llama-bench: a peer of the `gpt2` bench.

    python gpt2_gguf.py f32|bf16 OUT.gguf

Needs `pip install gguf numpy`.
"""

import sys

import gguf
import numpy as np

WIDTH, LAYERS, HEADS, VOCABULARY, CONTEXT = 768, 12, 12, 50257, 1024


def main():
    if len(sys.argv) != 3 or sys.argv[1] not in ("f32", "bf16"):
        sys.exit(__doc__)
    storage, path = sys.argv[1:]
    writer = gguf.GGUFWriter(path, "gpt2")
    writer.add_context_length(CONTEXT)
    writer.add_embedding_length(WIDTH)
    writer.add_feed_forward_length(4 * WIDTH)
    writer.add_block_count(LAYERS)
    writer.add_head_count(HEADS)
    writer.add_layer_norm_eps(1e-5)
    writer.add_tokenizer_model("none")
    writer.add_vocab_size(VOCABULARY)
    random = np.random.default_rng(0)

    def tensor(name, *shape, exact=False):
        values = (random.standard_normal(shape) * 0.02).astype(np.float32)
        if exact or storage == "f32" or len(shape) == 1:
            writer.add_tensor(name, values)
        else:
            kind = gguf.GGMLQuantizationType.BF16
            writer.add_tensor(name, gguf.quants.quantize(values, kind), raw_dtype=kind)

    def linear(name, rows, columns):
        tensor(f"{name}.weight", rows, columns)
        tensor(f"{name}.bias", rows)

    def norm(name):
        tensor(f"{name}.weight", WIDTH)
        tensor(f"{name}.bias", WIDTH)

    tensor("token_embd.weight", VOCABULARY, WIDTH)
    tensor("position_embd.weight", CONTEXT, WIDTH, exact=True)
    norm("output_norm")
    for layer in range(LAYERS):
        block = f"blk.{layer}"
        norm(f"{block}.attn_norm")
        linear(f"{block}.attn_qkv", 3 * WIDTH, WIDTH)
        linear(f"{block}.attn_output", WIDTH, WIDTH)
        norm(f"{block}.ffn_norm")
        linear(f"{block}.ffn_up", 4 * WIDTH, WIDTH)
        linear(f"{block}.ffn_down", WIDTH, 4 * WIDTH)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


if __name__ == "__main__":
    main()
