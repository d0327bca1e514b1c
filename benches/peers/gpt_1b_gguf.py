#!/usr/bin/env python3
"""Writes a model of Llama-3.2-1B's shape with random weights as GGUF, for llama.cpp's llama-bench: a peer of the `gpt_1b` bench.

    python gpt_1b_gguf.py bf16|q8_0 OUT.gguf

The head is the token table. The layers hold the same numbers: what is timed is reading and multiplying them, and each layer's are their
own bytes in the file. Needs `pip install gguf numpy`.
"""

import sys

import gguf
import numpy as np

WIDTH, LAYERS, INNER, HEADS, KEY_HEADS, HEAD, VOCABULARY, CONTEXT = 2048, 16, 8192, 32, 8, 64, 128256, 2048
KINDS = {"q8_0": gguf.GGMLQuantizationType.Q8_0, "bf16": gguf.GGMLQuantizationType.BF16}


def main():
    if len(sys.argv) != 3 or sys.argv[1] not in KINDS:
        sys.exit(__doc__)
    kind, path = KINDS[sys.argv[1]], sys.argv[2]
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_context_length(CONTEXT)
    writer.add_embedding_length(WIDTH)
    writer.add_feed_forward_length(INNER)
    writer.add_block_count(LAYERS)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KEY_HEADS)
    writer.add_layer_norm_rms_eps(1e-6)
    writer.add_rope_freq_base(10000.0)
    writer.add_rope_dimension_count(HEAD)
    writer.add_tokenizer_model("none")
    writer.add_vocab_size(VOCABULARY)
    random = np.random.default_rng(0)
    made = {}

    def matrix(name, rows, columns):
        if (rows, columns) not in made:
            slab = (random.standard_normal((64, columns)) * 0.02).astype(np.float32)
            made[rows, columns] = np.tile(gguf.quants.quantize(slab, kind), (rows // 64, 1))
        writer.add_tensor(f"{name}.weight", made[rows, columns], raw_dtype=kind)

    def norm(name):
        writer.add_tensor(f"{name}.weight", (1 + random.standard_normal(WIDTH) * 0.02).astype(np.float32))

    matrix("token_embd", VOCABULARY, WIDTH)
    norm("output_norm")
    for layer in range(LAYERS):
        block = f"blk.{layer}"
        norm(f"{block}.attn_norm")
        matrix(f"{block}.attn_q", HEADS * HEAD, WIDTH)
        matrix(f"{block}.attn_k", KEY_HEADS * HEAD, WIDTH)
        matrix(f"{block}.attn_v", KEY_HEADS * HEAD, WIDTH)
        matrix(f"{block}.attn_output", WIDTH, HEADS * HEAD)
        norm(f"{block}.ffn_norm")
        matrix(f"{block}.ffn_gate", INNER, WIDTH)
        matrix(f"{block}.ffn_up", INNER, WIDTH)
        matrix(f"{block}.ffn_down", WIDTH, INNER)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


if __name__ == "__main__":
    main()
