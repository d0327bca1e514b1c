#!/usr/bin/env python3
"""Prefill speed of a GPT-2 124M with random weights in PyTorch on the CPU: the peer of the `prefill` bench.

    python gpt2_torch.py [--dtype float32|bfloat16] [--tokens 512] [--threads 2] [--compile]

Needs `pip install torch numpy`. Prints one line: tokens per second, the median of the runs.
"""

import argparse
import statistics
import time

import torch
from torch import nn
from torch.nn import functional as F

WIDTH, LAYERS, HEADS, VOCABULARY, CONTEXT = 768, 12, 12, 50257, 1024


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm_1, self.norm_2 = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.qkv, self.projection = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)
        self.up, self.down = nn.Linear(WIDTH, 4 * WIDTH), nn.Linear(4 * WIDTH, WIDTH)

    def forward(self, x):
        tokens = x.shape[1]
        q, k, v = (
            part.view(1, tokens, HEADS, WIDTH // HEADS).transpose(1, 2)
            for part in self.qkv(self.norm_1(x)).split(WIDTH, dim=2)
        )
        attention = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.projection(attention.transpose(1, 2).reshape(1, tokens, WIDTH))
        return x + self.down(F.gelu(self.up(self.norm_2(x)), approximate="tanh"))


class Gpt2(nn.Module):
    def __init__(self):
        super().__init__()
        self.tokens, self.positions = nn.Embedding(VOCABULARY, WIDTH), nn.Embedding(CONTEXT, WIDTH)
        self.blocks = nn.ModuleList(Block() for _ in range(LAYERS))
        self.norm = nn.LayerNorm(WIDTH)

    def forward(self, ids):
        x = self.tokens(ids) + self.positions(torch.arange(ids.shape[1]))
        for block in self.blocks:
            x = block(x)
        # The logits of the last token alone, as serving asks for them.
        return F.linear(self.norm(x[:, -1:]), self.tokens.weight)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16"])
    parser.add_argument("--tokens", type=int, default=512)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--runs", type=int, default=7)
    parser.add_argument("--compile", action="store_true", help="through torch.compile")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    model = Gpt2().eval().to(getattr(torch, arguments.dtype))
    if arguments.compile:
        model = torch.compile(model)
    ids = torch.randint(0, VOCABULARY, (1, arguments.tokens))
    rates = []
    with torch.no_grad():
        model(ids)
        for _ in range(arguments.runs):
            start = time.perf_counter()
            model(ids)
            rates.append(arguments.tokens / (time.perf_counter() - start))
    print(f"torch {torch.__version__} {arguments.dtype}: {statistics.median(rates):.0f} tokens/s")


if __name__ == "__main__":
    main()
