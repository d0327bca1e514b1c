"""Kernels in Triton, through its own compiler, driver and launcher: a vector addition, a product with TMA, flash attention.

Triton assembles PTX to a GPU binary in its last stage, which the emulator cannot run. Its hook for stages replaces that one by one
that keeps the PTX; nothing of Triton is changed. Without torch, memory is what the CUDA driver allocates.
"""

import ctypes

import ml_dtypes
import numpy as np
import triton
import triton.language as tl
from triton import knobs
from triton.tools.tensor_descriptor import TensorDescriptor


def keep_ptx(self=None, stages=None, options=None, language=None, capability=None):
    """Triton calls this without arguments for what the results of compiling depend on, and with its stages to change them."""
    if stages is None:
        return "ptx", "ptx"
    stages["cubin"] = lambda ptx, metadata: ptx.encode()


knobs.runtime.add_stages_inspection_hook = keep_ptx

cuda = ctypes.CDLL("libcuda.so.1")


def check(result):
    if result != 0:
        name = ctypes.c_char_p()
        cuda.cuGetErrorName(result, ctypes.byref(name))
        raise RuntimeError(name.value)


class Array:
    """An array on the GPU, as much of a tensor as Triton's launcher asks for."""

    def __init__(self, values):
        values = np.ascontiguousarray(values)
        self.shape, self.dtype = values.shape, {"float32": tl.float32, "bfloat16": tl.bfloat16}[values.dtype.name]
        self.host_dtype, self.nbytes = values.dtype, values.nbytes
        self.address = ctypes.c_uint64()
        check(cuda.cuMemAlloc_v2(ctypes.byref(self.address), ctypes.c_size_t(self.nbytes)))
        check(cuda.cuMemcpyHtoD_v2(self.address, values.ctypes.data_as(ctypes.c_void_p), ctypes.c_size_t(self.nbytes)))

    def data_ptr(self):
        return self.address.value

    def stride(self):
        return tuple(int(np.prod(self.shape[axis + 1:])) for axis in range(len(self.shape)))

    def numpy(self):
        values = np.empty(self.shape, self.host_dtype)
        check(cuda.cuMemcpyDtoH_v2(values.ctypes.data_as(ctypes.c_void_p), self.address, ctypes.c_size_t(self.nbytes)))
        return values

    def descriptor(self, block):
        return TensorDescriptor(self, list(self.shape), list(self.stride()), block)


@triton.jit
def add_kernel(x, y, z, n, BLOCK: tl.constexpr):
    offsets = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    mask = offsets < n
    tl.store(z + offsets, tl.load(x + offsets, mask=mask) + tl.load(y + offsets, mask=mask), mask=mask)


def vector_addition(random):
    n = 10_007
    x, y = random.standard_normal((2, n), np.float32)
    z = Array(np.zeros(n, np.float32))
    add_kernel[(triton.cdiv(n, 1024), )](Array(x), Array(y), z, n, BLOCK=1024)
    return np.array_equal(z.numpy(), x + y)


@triton.jit
def product_kernel(a, b, c, K, M: tl.constexpr, N: tl.constexpr, STEP: tl.constexpr):
    row, column = tl.program_id(0) * M, tl.program_id(1) * N
    sums = tl.zeros((M, N), dtype=tl.float32)
    for k in tl.range(0, K, STEP, num_stages=3):
        sums = tl.dot(a.load([row, k]), b.load([k, column]), sums)
    c.store([row, column], sums)


def product_with_tma(random):
    m, n, k = 200, 136, 168
    a = (random.standard_normal((m, k)) / 4).astype(ml_dtypes.bfloat16)
    b = (random.standard_normal((k, n)) / 4).astype(ml_dtypes.bfloat16)
    c = Array(np.full((m, n), np.nan, np.float32))
    grid = (triton.cdiv(m, 64), triton.cdiv(n, 64))
    kernel = product_kernel[grid](
        Array(a).descriptor([64, 64]), Array(b).descriptor([64, 64]), c.descriptor([64, 64]), k, M=64, N=64, STEP=64
    )
    assert "cp.async.bulk.tensor" in kernel.asm["ptx"]
    return np.allclose(c.numpy(), a.astype(np.float32) @ b.astype(np.float32), rtol=1e-5, atol=1e-5)


@triton.jit
def attention_kernel(q, k, v, out, tokens, scale, M: tl.constexpr, N: tl.constexpr, DIM: tl.constexpr):
    rows = tl.program_id(0) * M + tl.arange(0, M)
    head = tl.program_id(1) * tokens * DIM
    dims = tl.arange(0, DIM)
    queries = tl.load(q + head + rows[:, None] * DIM + dims, mask=rows[:, None] < tokens, other=0.0)
    largest = tl.full((M, ), float("-inf"), tl.float32)
    total = tl.zeros((M, ), tl.float32)
    sums = tl.zeros((M, DIM), tl.float32)
    for start in range(0, tokens, N):
        columns = start + tl.arange(0, N)
        inside = columns[:, None] < tokens
        keys = tl.load(k + head + columns[:, None] * DIM + dims, mask=inside, other=0.0)
        values = tl.load(v + head + columns[:, None] * DIM + dims, mask=inside, other=0.0)
        scores = tl.dot(queries, keys.T) * scale
        scores = tl.where((columns[None, :] <= rows[:, None]) & (columns[None, :] < tokens), scores, float("-inf"))
        new = tl.maximum(largest, tl.max(scores, 1))
        weights = tl.exp(scores - new[:, None])
        shrink = tl.exp(largest - new)
        total = total * shrink + tl.sum(weights, 1)
        sums = tl.dot(weights.to(tl.bfloat16), values, sums * shrink[:, None])
        largest = new
    tl.store(out + head + rows[:, None] * DIM + dims, sums / total[:, None], mask=rows[:, None] < tokens)


def flash_attention(random):
    heads, tokens, dim = 2, 150, 64
    q, k, v = random.standard_normal((3, heads, tokens, dim)).astype(ml_dtypes.bfloat16)
    out = Array(np.full((heads, tokens, dim), np.nan, np.float32))
    scale = dim**-0.5
    attention_kernel[(triton.cdiv(tokens, 64), heads)](
        Array(q), Array(k), Array(v), out, tokens, scale, M=64, N=64, DIM=dim
    )
    q, k, v = (x.astype(np.float64) for x in (q, k, v))
    scores = np.where(np.tri(tokens, dtype=bool), q @ k.transpose(0, 2, 1) * scale, -np.inf)
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    return np.allclose(out.numpy(), weights @ v / weights.sum(-1, keepdims=True), rtol=1e-2, atol=1e-2)


if __name__ == "__main__":
    # The first question makes the device's context current.
    print(triton.runtime.driver.active.get_current_target())
    programs = [vector_addition, product_with_tma, flash_attention]
    results = {program.__name__: program(np.random.default_rng(1)) for program in programs}
    print(results)
    raise SystemExit(0 if all(results.values()) else 1)
