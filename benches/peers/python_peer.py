#!/usr/bin/env python3
"""A language model with random weights in an engine that is a Python package, on the CPU: a peer of the benches `gpt2` and `gpt_1b`.

    python python_peer.py gpt2|gpt_1b float32|bfloat16 eager|compiled|openvino [--threads 2]

`eager` and `compiled` are PyTorch, as it is and through its frozen inductor; `openvino` prefills only. Needs `pip install torch numpy`,
and for the last `openvino` too.

It answers each line of its input, `decode CONTEXT TOKENS` or `prefill TOKENS`, with a line: tokens per second. The first answer to each
kind of request includes the time of compiling it.
"""

import argparse
import sys
import time
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional as F


@dataclass
class Shape:
    width: int
    layers: int
    heads: int
    key_heads: int
    inner: int
    vocabulary: int
    context: int
    is_llama: bool

    @property
    def head(self):
        return self.width // self.heads


SHAPES = {
    "gpt2": Shape(768, 12, 12, 12, 3072, 50257, 1024, is_llama=False),
    "gpt_1b": Shape(2048, 16, 32, 8, 8192, 128256, 2048, is_llama=True),
}


class Block(nn.Module):
    def __init__(self, shape):
        super().__init__()
        self.shape = shape
        width, rows = shape.width, shape.key_heads * shape.head
        bias = not shape.is_llama
        norm = nn.RMSNorm if shape.is_llama else nn.LayerNorm
        self.norm_1, self.norm_2 = norm(width, eps=1e-5), norm(width, eps=1e-5)
        self.qkv, self.projection = nn.Linear(width, width + 2 * rows, bias=bias), nn.Linear(width, width, bias=bias)
        self.up, self.down = nn.Linear(width, shape.inner, bias=bias), nn.Linear(shape.inner, width, bias=bias)
        self.gate = nn.Linear(width, shape.inner, bias=False) if shape.is_llama else None

    def forward(self, x, cache, angles, start):
        """The tokens of x [T, width] come after `start` others, whose keys and values are in the cache [2, heads, context, head]."""
        shape, tokens = self.shape, x.shape[0]
        rows = shape.key_heads * shape.head
        q, k, v = (
            part.view(tokens, -1, shape.head).transpose(0, 1)
            for part in self.qkv(self.norm_1(x)).split([shape.width, rows, rows], dim=1)
        )
        if shape.is_llama:
            q, k = rotate(q, angles), rotate(k, angles)
        if cache is not None:
            cache[0, :, start : start + tokens], cache[1, :, start : start + tokens] = k, v
            k, v = cache[0, :, : start + tokens], cache[1, :, : start + tokens]
        attended = F.scaled_dot_product_attention(
            q[None], k[None], v[None], is_causal=bool(tokens > 1), enable_gqa=shape.key_heads != shape.heads
        )
        x = x + self.projection(attended[0].transpose(0, 1).reshape(tokens, shape.width))
        normed = self.norm_2(x)
        if shape.is_llama:
            return x + self.down(F.silu(self.gate(normed)) * self.up(normed))
        return x + self.down(F.gelu(self.up(normed), approximate="tanh"))


def rotate(x, angles):
    cosine, sine = angles
    left, right = x.chunk(2, dim=-1)
    return torch.cat((left * cosine - right * sine, right * cosine + left * sine), dim=-1)


class Model(nn.Module):
    def __init__(self, shape):
        super().__init__()
        self.shape = shape
        self.tokens = nn.Embedding(shape.vocabulary, shape.width)
        self.positions = None if shape.is_llama else nn.Embedding(shape.context, shape.width)
        self.blocks = nn.ModuleList(Block(shape) for _ in range(shape.layers))
        self.norm = nn.RMSNorm(shape.width) if shape.is_llama else nn.LayerNorm(shape.width)

    def forward(self, ids, caches, start: int):
        positions = torch.arange(start, start + ids.shape[0])
        x = self.tokens(ids)
        angles = None
        if self.positions is not None:
            x = x + self.positions(positions)
        else:
            half = self.shape.head // 2
            angle = positions[:, None] * 10000.0 ** (-torch.arange(half) / half)
            angles = angle.cos().to(x.dtype), angle.sin().to(x.dtype)
        for layer, block in enumerate(self.blocks):
            x = block(x, None if caches is None else caches[layer], angles, start)
        # The logits of the last token alone, as serving asks for them.
        return F.linear(self.norm(x[-1:]), self.tokens.weight)


class PyTorch:
    def __init__(self, shape, dtype, is_compiled):
        self.model = random_model(shape, dtype)
        self.caches = [torch.zeros(2, shape.key_heads, shape.context, shape.head, dtype=dtype) for _ in range(shape.layers)]
        if is_compiled:
            from torch._inductor import config

            config.freezing = True
            self.model = torch.compile(self.model, dynamic=False)

    def __call__(self, ids, start):
        self.model(ids, self.caches, start)


class OpenVino:
    """Prefill alone: the graph has no cache."""

    def __init__(self, shape, dtype, threads, tokens):
        import openvino

        # bf16 weights are not read from PyTorch's tensors; in f16 they take as many bytes, and the products are in bf16 all the same.
        stored = torch.float16 if dtype == torch.bfloat16 else dtype
        ids = torch.zeros(tokens, dtype=torch.long)

        class Prefill(nn.Module):
            def __init__(self):
                super().__init__()
                self.model = random_model(shape, stored)

            def forward(self, ids):
                return self.model(ids, None, 0)

        with torch.no_grad():
            model = openvino.convert_model(Prefill(), example_input=ids, input=[list(ids.shape)])
        precision = "bf16" if dtype == torch.bfloat16 else "f32"
        self.model = openvino.compile_model(
            model, "CPU", {"INFERENCE_PRECISION_HINT": precision, "INFERENCE_NUM_THREADS": threads, "PERFORMANCE_HINT": "LATENCY"}
        )

    def __call__(self, ids, start):
        self.model(ids.numpy())


def random_model(shape, dtype):
    torch.manual_seed(0)
    with torch.device("meta"):
        model = Model(shape).to(dtype)
    model = model.to_empty(device="cpu").eval()
    for parameter in model.parameters():
        nn.init.uniform_(parameter, -0.03, 0.03)
    return model


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", choices=SHAPES)
    parser.add_argument("dtype", choices=["float32", "bfloat16"])
    parser.add_argument("engine", choices=["eager", "compiled", "openvino"])
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    shape, dtype = SHAPES[arguments.model], getattr(torch, arguments.dtype)
    engine = None if arguments.engine == "openvino" else PyTorch(shape, dtype, arguments.engine == "compiled")
    with torch.no_grad():
        for line in sys.stdin:
            kind, *numbers = line.split()
            context, tokens = map(int, numbers) if kind == "decode" else (0, int(numbers[0]))
            if engine is None:
                if kind == "decode":
                    sys.exit("openvino prefills only")
                engine = OpenVino(shape, dtype, arguments.threads, tokens)
            count, steps = (1, tokens) if kind == "decode" else (tokens, 1)
            ids = torch.randint(0, shape.vocabulary, (count,))
            start = time.perf_counter()
            for _ in range(steps):
                engine(ids, context)
            print(tokens / (time.perf_counter() - start), flush=True)


if __name__ == "__main__":
    main()
