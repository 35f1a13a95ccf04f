"""Standard architectures with seeded weights, numpy and onnx only: MLPs, text encoders, GPT-2 decode, ViT, fusion chains."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence

import numpy as np

from bench.models.builder import ModelBuilder

Build = Callable[[], ModelBuilder]


def mlp(sizes: Sequence[int], batch: int = 1, dynamic: bool = False) -> ModelBuilder:
    """Gemm and Relu layers; the last has no Relu."""
    b = ModelBuilder("mlp")
    rows: int | str = "batch" if dynamic else batch
    x = b.input("x", [rows, sizes[0]], b.rng.standard_normal((batch, sizes[0])).astype(np.float32))
    for i, (inner, outer) in enumerate(itertools.pairwise(sizes)):
        weight = b.weight(outer, inner, scale=math.sqrt(2 / inner))
        x = b.op("Gemm", x, weight, b.weight(outer, scale=0.02), transB=1)
        x = b.op("Relu", x) if i < len(sizes) - 2 else x
    b.output(x, [rows, sizes[-1]])
    return b


def encoder(
    layers: int = 6,
    width: int = 384,
    heads: int = 12,
    feed_forward: int = 1536,
    length: int = 128,
    batch: int = 1,
    vocabulary: int = 5000,
    dynamic: bool = False,
    decomposed: bool = False,
) -> ModelBuilder:
    """A BERT-like text encoder with an attention mask; by default of MiniLM-L6's size."""
    b = ModelBuilder("encoder", opset=13 if decomposed else 17)
    size: list[int | str] = ["batch", "sequence"] if dynamic else [batch, length]
    ids = b.input("input_ids", size, b.rng.integers(0, vocabulary, (batch, length)))
    mask = b.input("attention_mask", size, np.ones((batch, length), np.int64))
    positions = b.weight(512, width, scale=0.1)
    if dynamic:
        end = b.op("Slice", b.op("Shape", ids), b.ints(1), b.ints(2))
        table = b.op("Slice", positions, b.ints(0), end, b.ints(0))
    else:
        table = b.op("Gather", positions, b.constant(np.arange(length)))
    x = b.op("Add", b.op("Gather", b.weight(vocabulary, width, scale=0.5), ids), table)
    norm = b.decomposed_layer_norm if decomposed else b.layer_norm
    x = norm(x, width)
    open_ = b.op("Cast", b.op("Unsqueeze", mask, b.ints(1, 2)), to=1)
    bias = b.op("Mul", b.op("Sub", b.scalar(1.0), open_), b.scalar(-10000.0))
    for _ in range(layers):
        x = norm(b.op("Add", x, _attention(b, x, width, heads, bias)), width)
        h = b.linear(b.gelu_erf(b.linear(x, width, feed_forward)), feed_forward, width)
        x = norm(b.op("Add", x, h), width)
    b.output(x, [*size, width])
    return b


def _attention(b: ModelBuilder, x: str, width: int, heads: int, bias: str | None) -> str:
    head = width // heads

    def split(t: str) -> str:
        return str(b.op("Transpose", b.op("Reshape", t, b.ints(0, 0, heads, head)), perm=[0, 2, 1, 3]))

    q, k, v = (split(b.linear(x, width, width)) for _ in range(3))
    scores = b.op("MatMul", q, b.op("Transpose", k, perm=[0, 1, 3, 2]))
    scores = b.op("Div", scores, b.scalar(math.sqrt(head)))
    if bias is not None:
        scores = b.op("Add", scores, bias)
    context = b.op("MatMul", b.op("Softmax", scores, axis=-1), v)
    merged = b.op("Reshape", b.op("Transpose", context, perm=[0, 2, 1, 3]), b.ints(0, 0, width))
    return b.linear(merged, width, width)


def gpt2_decode(
    layers: int = 2, width: int = 768, heads: int = 12, past: int = 64, vocabulary: int = 2048
) -> ModelBuilder:
    """One decoding step with a KV cache of symbolic length."""
    b = ModelBuilder("gpt2_decode")
    head = width // heads
    ids = b.input("input_ids", [1, 1], b.rng.integers(0, vocabulary, (1, 1)))
    caches = []
    for i in range(layers):
        pair = []
        for kind in ("k", "v"):
            example = b.rng.standard_normal((1, heads, past, head)).astype(np.float32)
            pair.append(b.input(f"past_{kind}{i}", [1, heads, "past", head], example))
        caches.append(pair)
    embedding = b.weight(vocabulary, width, scale=0.5)
    position = b.op("Reshape", b.op("Slice", b.op("Shape", caches[0][0]), b.ints(2), b.ints(3)), b.ints(1, 1))
    x = b.op("Add", b.op("Gather", embedding, ids), b.op("Gather", b.weight(1024, width, scale=0.1), position))
    present = []
    for past_k, past_v in caches:
        qkv = b.linear(b.layer_norm(x, width), width, 3 * width)
        parts = b.op("Split", qkv, b.ints(width, width, width), outputs=3, axis=-1)
        q, k, v = (b.op("Transpose", b.op("Reshape", t, b.ints(1, 1, heads, head)), perm=[0, 2, 1, 3]) for t in parts)
        k, v = b.op("Concat", past_k, k, axis=2), b.op("Concat", past_v, v, axis=2)
        present += [k, v]
        scores = b.op("Div", b.op("MatMul", q, b.op("Transpose", k, perm=[0, 1, 3, 2])), b.scalar(math.sqrt(head)))
        y = b.op("MatMul", b.op("Softmax", scores, axis=-1), v)
        y = b.op("Reshape", b.op("Transpose", y, perm=[0, 2, 1, 3]), b.ints(1, 1, width))
        x = b.op("Add", x, b.linear(y, width, width))
        h = b.gelu_tanh(b.linear(b.layer_norm(x, width), width, 4 * width))
        x = b.op("Add", x, b.linear(h, 4 * width, width))
    b.output(b.op("MatMul", b.layer_norm(x, width), b.op("Transpose", embedding, perm=[1, 0])), [1, 1, vocabulary])
    for value in present:
        b.output(value, [1, heads, "past_and_one", head])
    return b


def vit(
    layers: int = 2, width: int = 384, heads: int = 6, patch: int = 16, image: int = 224, classes: int = 100
) -> ModelBuilder:
    """A vision transformer; the patch embedding is a convolution whose stride is its kernel."""
    b = ModelBuilder("vit")
    x = b.input("image", [1, 3, image, image], b.rng.uniform(-2, 2, (1, 3, image, image)).astype(np.float32))
    kernel = b.weight(width, 3, patch, patch, scale=1 / math.sqrt(3 * patch * patch))
    x = b.op("Conv", x, kernel, b.weight(width, scale=0.02), kernel_shape=[patch, patch], strides=[patch, patch])
    x = b.op("Transpose", b.op("Reshape", x, b.ints(1, width, -1)), perm=[0, 2, 1])
    x = b.op("Concat", b.weight(1, 1, width, scale=0.5), x, axis=1)
    x = b.op("Add", x, b.weight(1, (image // patch) ** 2 + 1, width, scale=0.1))
    for _ in range(layers):
        x = b.op("Add", x, _attention(b, b.layer_norm(x, width), width, heads, None))
        h = b.gelu_erf(b.linear(b.layer_norm(x, width), width, 4 * width))
        x = b.op("Add", x, b.linear(h, 4 * width, width))
    token = b.op("Gather", b.layer_norm(x, width), b.constant(np.array(0)), axis=1)
    b.output(b.linear(token, width, classes), [1, classes])
    return b


def pointwise_chain(rows: int = 512, columns: int = 1024, steps: int = 12) -> ModelBuilder:
    """A long chain of elementwise operators over one tensor."""
    b = ModelBuilder("pointwise_chain")
    x = b.input("x", [rows, columns], b.rng.standard_normal((rows, columns)).astype(np.float32))
    gate = b.input("gate", [rows, columns], b.rng.standard_normal((rows, columns)).astype(np.float32))
    for i in range(steps):
        x = b.op("Add", b.op("Mul", x, b.weight(columns, scale=0.5)), b.scalar(0.1 * i))
        x = b.op("Relu", b.op("Sub", x, gate)) if i % 2 else b.op("Sigmoid", b.op("Mul", x, gate))
    b.output(x, [rows, columns])
    return b


def affine_chain(rows: int = 512, columns: int = 1024, steps: int = 6) -> ModelBuilder:
    """Scales, shifts, clamps and a residual, as folded norms and activations leave them: cheap work, many tensors."""
    b = ModelBuilder("affine_chain")
    x = b.input("x", [rows, columns], b.rng.standard_normal((rows, columns)).astype(np.float32))
    residual = b.input("residual", [rows, columns], b.rng.standard_normal((rows, columns)).astype(np.float32))
    for _ in range(steps):
        scale = b.constant((1 + 0.1 * b.rng.standard_normal(columns)).astype(np.float32))
        x = b.op("Add", b.op("Mul", x, scale), b.weight(columns, scale=0.1))
        x = b.op("Add", b.op("Relu", x), residual)
    b.output(x, [rows, columns])
    return b


def softmax_chain(rows: int = 512, columns: int = 512) -> ModelBuilder:
    """A decomposed softmax with a scale, a mask and a gate around it."""
    b = ModelBuilder("softmax_chain", opset=13)
    x = b.input("x", [rows, columns], b.rng.standard_normal((rows, columns)).astype(np.float32))
    mask = b.input("mask", [1, columns], np.where(b.rng.random((1, columns)) < 0.2, -1e4, 0).astype(np.float32))
    x = b.op("Add", b.op("Mul", x, b.scalar(0.125)), mask)
    e = b.op("Exp", b.op("Sub", x, b.op("ReduceMax", x, axes=[-1])))
    p = b.op("Div", e, b.op("ReduceSum", e, b.ints(-1)))
    b.output(b.op("Mul", p, b.op("Tanh", x)), [rows, columns])
    return b


def norm_chain(rows: int = 512, columns: int = 768) -> ModelBuilder:
    """Bias, residual, a decomposed layer norm and GELU."""
    b = ModelBuilder("norm_chain", opset=13)
    x = b.input("x", [rows, columns], b.rng.standard_normal((rows, columns)).astype(np.float32))
    residual = b.input("residual", [rows, columns], b.rng.standard_normal((rows, columns)).astype(np.float32))
    x = b.op("Add", b.op("Add", x, b.weight(columns, scale=0.1)), residual)
    b.output(b.gelu_erf(b.decomposed_layer_norm(x, columns)), [rows, columns])
    return b


ARCHITECTURES: dict[str, Build] = {
    "mlp_256x3": lambda: mlp([256, 256, 256, 256]),
    "mlp_784": lambda: mlp([784, 1024, 1024, 512, 10]),
    "mlp_dynamic": lambda: mlp([784, 1024, 1024, 512, 10], batch=32, dynamic=True),
    "minilm_size": encoder,
    "encoder_block": lambda: encoder(layers=1),
    "bert_small": lambda: encoder(layers=2, width=128, heads=2, feed_forward=512, length=64, batch=2, dynamic=True),
    "bert_decomposed": lambda: encoder(layers=2, width=256, heads=4, feed_forward=1024, length=64, decomposed=True),
    "gpt2_decode": gpt2_decode,
    "vit": vit,
    "pointwise_chain": pointwise_chain,
    "pointwise_chain_large": lambda: pointwise_chain(2048, 2048),
    "affine_chain": affine_chain,
    "affine_chain_large": lambda: affine_chain(2048, 2048),
    "softmax_chain": softmax_chain,
    "softmax_chain_large": lambda: softmax_chain(4096, 1024),
    "norm_chain": norm_chain,
    "norm_chain_large": lambda: norm_chain(4096, 768),
}
"""Name -> how to build it."""
