"""Sound, tables and language: 1-d convolutions, stacked LSTMs, a recommender, a GPT-2 prompt."""

from __future__ import annotations

import itertools
import math

import numpy as np

from bench.models.builder import ModelBuilder
from bench.models.layers import Layers
from bench.models.vision import lstm


def audio_encoder(batch: int = 1, samples: int = 16000, width: int = 256) -> ModelBuilder:
    """The feature encoder of speech models: seven strided 1-d convolutions over the waveform, with layer norm and GELU."""
    b = ModelBuilder("audio_encoder")
    n = Layers(b, folded=True)
    x = n.image("waveform", batch, 1, samples)
    for kernel, stride in ((10, 5), (3, 2), (3, 2), (3, 2), (3, 2), (2, 2), (2, 2)):
        x = n.conv(x, width, kernel, stride, pad=False)
        y = b.layer_norm(b.op("Transpose", x.name, perm=[0, 2, 1]), width)
        x = n.gelu(type(x)(b.op("Transpose", y, perm=[0, 2, 1]), width, x.size))
    b.output(x.name, [batch, width, x.size[0]])
    return b


def audio_separator(batch: int = 1, frames: int = 1000, width: int = 128, inner: int = 256) -> ModelBuilder:
    """A temporal convolution network: residual blocks of 1x1, dilated depthwise and 1x1 convolutions with PReLU."""
    b = ModelBuilder("audio_separator")
    n = Layers(b)
    x = n.conv(n.image("frames", batch, 257, frames), width, 1)
    for _ in range(2):
        for power in range(6):
            y = n.conv_norm(x, inner, 1)
            y = type(y)(b.op("PRelu", y.name, b.constant(np.full((1,), 0.25, np.float32))), inner, y.size, 0.53)
            y = n.conv_norm(y, inner, 3, dilation=2**power, groups=inner)
            y = type(y)(b.op("PRelu", y.name, b.constant(np.full((1,), 0.25, np.float32))), inner, y.size, 0.53)
            x = n.add(x, n.conv(y, width, 1, gain=0.4))
    b.output(b.op("Sigmoid", n.conv(x, 257, 1).name), [batch, 257, frames])
    return b


def lstm_stack(layers: int = 3, steps: int = 64, hidden: int = 512, batch: int = 1) -> ModelBuilder:
    """LSTM layers one above the other, then a linear layer per step."""
    b = ModelBuilder("lstm_stack")
    x = b.input("x", [steps, batch, hidden], b.rng.standard_normal((steps, batch, hidden)).astype(np.float32))
    for _ in range(layers):
        x = b.op("Squeeze", lstm(b, x, hidden, hidden), b.ints(1))
    b.output(b.linear(x, hidden, 64), [steps, batch, 64])
    return b


def recommender(
    batch: int = 64, tables: int = 26, rows: int = 10_000, width: int = 64, dense: int = 13
) -> ModelBuilder:
    """DLRM's shape: a small MLP beside embedding tables, all pairwise products, a large MLP on top."""
    b = ModelBuilder("recommender")

    def layers(x: str, sizes: tuple[int, ...]) -> str:
        for inner, outer in itertools.pairwise(sizes):
            weight = b.weight(outer, inner, scale=math.sqrt(2 / inner))
            x = b.op("Relu", b.op("Gemm", x, weight, b.weight(outer, scale=0.02), transB=1))
        return x

    numbers = b.input("dense", [batch, dense], b.rng.standard_normal((batch, dense)).astype(np.float32))
    keys = b.input("keys", [batch, tables], b.rng.integers(0, rows, (batch, tables)))
    bottom = layers(numbers, (dense, 512, 256, width))
    found = []
    for t in range(tables):
        key = b.op("Gather", keys, b.constant(np.array(t)), axis=1)
        found.append(b.op("Unsqueeze", b.op("Gather", b.weight(rows, width, scale=1.0), key), b.ints(1)))
    all_ = b.op("Concat", b.op("Unsqueeze", bottom, b.ints(1)), *found, axis=1)
    pairs = b.op("MatMul", all_, b.op("Transpose", all_, perm=[0, 2, 1]))
    n = tables + 1
    lower = np.array([i * n + j for i in range(n) for j in range(i)])
    pairs = b.op("Gather", b.op("Reshape", pairs, b.ints(batch, n * n)), b.constant(lower), axis=1)
    pairs = b.op("Mul", pairs, b.scalar(1 / math.sqrt(width)))
    top = layers(b.op("Concat", bottom, pairs, axis=1), (width + len(lower), 512, 512, 256))
    b.output(b.op("Sigmoid", b.linear(top, 256, 1)), [batch, 1])
    return b


def gpt2_prompt(
    layers: int = 12, width: int = 768, heads: int = 12, length: int = 64, vocabulary: int = 50257
) -> ModelBuilder:
    """GPT-2 over a whole prompt, causal mask as exporters write it; scores of the last token."""
    b = ModelBuilder("gpt2_prompt")
    head = width // heads
    ids = b.input("input_ids", [1, length], b.rng.integers(0, vocabulary, (1, length)))
    embedding = b.weight(vocabulary, width, scale=0.5)
    positions = b.op("Slice", b.weight(1024, width, scale=0.1), b.ints(0), b.ints(length), b.ints(0))
    x = b.op("Add", b.op("Gather", embedding, ids), positions)
    allowed = b.constant(np.tril(np.ones((1, 1, length, length), bool)))
    for _ in range(layers):
        qkv = b.linear(b.layer_norm(x, width), width, 3 * width)
        parts = b.op("Split", qkv, b.ints(width, width, width), outputs=3, axis=-1)
        q, k, v = (b.op("Transpose", b.op("Reshape", t, b.ints(1, length, heads, head)), perm=[0, 2, 1, 3])
                   for t in parts)  # fmt: skip
        scores = b.op("Div", b.op("MatMul", q, b.op("Transpose", k, perm=[0, 1, 3, 2])), b.scalar(math.sqrt(head)))
        scores = b.op("Where", allowed, scores, b.scalar(-3.4e38))
        y = b.op("MatMul", b.op("Softmax", scores, axis=-1), v)
        y = b.op("Reshape", b.op("Transpose", y, perm=[0, 2, 1, 3]), b.ints(1, length, width))
        x = b.op("Add", x, b.linear(y, width, width, scale=0.5))
        h = b.gelu_tanh(b.linear(b.layer_norm(x, width), width, 4 * width))
        x = b.op("Add", x, b.linear(h, 4 * width, width, scale=0.5))
    last = b.op("Gather", b.layer_norm(x, width), b.ints(length - 1), axis=1)
    b.output(b.op("MatMul", last, b.op("Transpose", embedding, perm=[1, 0])), [1, 1, vocabulary])
    return b
