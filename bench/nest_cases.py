"""What bench/nests.py measures: each case a tile program, its operands, the result it must have, and the same in ONNX.

Images are channels-last for fusec and channels-first for onnxruntime, which brings them into blocks of channels itself: a
convolution before the measured node does that, so that its time is without any reordering, as it is inside a network.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

rng = np.random.default_rng(0)


def floats(*shape: int) -> Any:
    """Normally distributed float32."""
    return rng.standard_normal(shape, dtype=np.float32)


@dataclass(frozen=True)
class Rival:
    """The same in ONNX: nodes (op, inputs, outputs, attributes), feeds and initialisers; `node` is the one to time."""

    nodes: tuple[tuple[str, list[str], list[str], dict[str, Any]], ...]
    feeds: dict[str, Any]
    constants: dict[str, Any]
    result: str
    to_ours: Callable[[Any], Any] = lambda y: y


@dataclass(frozen=True)
class Case:
    """One row of the table. `moved` are the bytes that must be read and written at least, `flops` for the roof."""

    name: str
    text: str
    params: dict[str, int]
    operands: dict[str, Any]
    shape: tuple[int, ...]
    moved: float
    flops: float
    rival: Rival | None


DEPTHWISE = """
program depthwise(N, H, W, C, P, Q, D)
task n: N, m: P*Q, c: C
input x: f32[N, H, W, C]
weight w: f32[{k}*{k}, C], b: f32[C]
output y: f32[N, P*Q, C]
stage n, m, c
  t = sum[r: {k}, s: {k}](pad(x[n, (m // Q)*{d} + r - {p}, (m % Q)*{d} + s - {p}, c], 0.0) * w[r*{k} + s, c])
  y[n, m, c] = min(max(t + b[c], 0.0), 6.0)
"""
POOL = """
program pool(N, H, W, C, P, Q)
task n: N, m: P*Q, c: C
input x: f32[N, H, W, C]
output y: f32[N, P*Q, C]
stage n, m, c
  t = {fold}[r: {k}, s: {k}](pad(x[n, (m // Q)*{d} + r - {p}, (m % Q)*{d} + s - {p}, c], {fill}))
  y[n, m, c] = t{scale}
"""


def depthwise(h: int, c: int, stride: int, k: int = 3) -> Case:
    """A depthwise convolution with bias and ReLU6, as MobileNetV2 has them."""
    p = k // 2
    q = (h + 2 * p - k) // stride + 1
    x, w, b = floats(1, h, h, c), floats(k * k, c), floats(c)
    text = DEPTHWISE.format(k=k, d=stride, p=p)
    params = {"N": 1, "H": h, "W": h, "C": c, "P": q, "Q": q, "D": 0}
    one = np.ones((c, 1, 1, 1), np.float32)
    kernel = np.ascontiguousarray(w.reshape(k, k, c).transpose(2, 0, 1)[:, None])
    attributes = {"group": c, "kernel_shape": [k, k], "pads": [p] * 4, "strides": [stride] * 2}
    nodes: Any = (
        ("Conv", ["x", "one"], ["a"], {"group": c, "kernel_shape": [1, 1]}),
        ("Conv", ["a", "w", "b"], ["t"], attributes),
        ("Clip", ["t", "low", "high"], ["y"], {}),
    )
    limits = {"low": np.float32(0.0).reshape(()), "high": np.float32(6.0).reshape(())}
    rival = Rival(nodes, {"x": channels_first(x)}, {"one": one, "w": kernel, "b": b, **limits}, "y", channels_last)
    name = f"depthwise {k}x{k} s{stride} {h}x{h}x{c}"
    moved, flops = 4.0 * (h * h + q * q) * c, 2.0 * q * q * c * k * k
    return Case(name, text, params, {"x": x, "w": w, "b": b}, (1, q, q, c), moved, flops, rival)


def channels_first(x: Any) -> Any:
    """NHWC to NCHW."""
    return np.ascontiguousarray(x.transpose(0, 3, 1, 2))


def channels_last(x: Any) -> Any:
    """NCHW to NHWC."""
    return x.transpose(0, 2, 3, 1)


def pool(kind: str, h: int, c: int, k: int, stride: int, pad: int) -> Case:
    """Max or average pooling over windows."""
    q = (h + 2 * pad - k) // stride + 1
    x = floats(1, h, h, c)
    fold, fill, scale = ("max", "-inf", "") if kind == "MaxPool" else ("sum", "0.0", f" * {1.0 / (k * k)!r}")
    text = POOL.format(fold=fold, fill=fill, k=k, d=stride, p=pad, scale=scale)
    attributes: dict[str, Any] = {"kernel_shape": [k, k], "strides": [stride] * 2, "pads": [pad] * 4}
    if kind == "AveragePool":
        attributes["count_include_pad"] = 1
    nodes: Any = (
        ("Conv", ["x", "one"], ["a"], {"group": c, "kernel_shape": [1, 1]}),
        (kind, ["a"], ["y"], attributes),
    )
    rival = Rival(nodes, {"x": channels_first(x)}, {"one": np.ones((c, 1, 1, 1), np.float32)}, "y", channels_last)
    params = {"N": 1, "H": h, "W": h, "C": c, "P": q, "Q": q}
    moved, flops = 4.0 * (h * h + q * q) * c, 1.0 * q * q * c * k * k
    return Case(f"{kind} {k}x{k} s{stride} {h}x{h}x{c}", text, params, {"x": x}, (1, q, q, c), moved, flops, rival)


GLOBAL = """
program global_average(N, M, C)
task n: N, c: C
input x: f32[N, M, C]
output y: f32[N, C]
stage n, c
  t = sum[m: M](x[n, m, c])
  y[n, c] = t / f32(index(M))
"""


def global_average(h: int, c: int) -> Case:
    """The mean over all pixels."""
    x = floats(1, h, h, c)
    nodes: Any = (
        ("Conv", ["x", "one"], ["a"], {"group": c, "kernel_shape": [1, 1]}),
        ("GlobalAveragePool", ["a"], ["y"], {}),
    )
    rival = Rival(nodes, {"x": channels_first(x)}, {"one": np.ones((c, 1, 1, 1), np.float32)}, "y", channels_last)
    params = {"N": 1, "M": h * h, "C": c}
    moved, pixels = 4.0 * h * h * c, {"x": x.reshape(1, h * h, c)}
    return Case(f"GlobalAveragePool {h}x{h}x{c}", GLOBAL, params, pixels, (1, 1, 1, c), moved, h * h * c, rival)


WINDOWS: Sequence[Callable[[], Case]] = (
    lambda: depthwise(112, 32, 1),
    lambda: depthwise(112, 96, 2),
    lambda: depthwise(56, 144, 1),
    lambda: depthwise(56, 144, 2),
    lambda: depthwise(28, 192, 1),
    lambda: depthwise(14, 384, 1),
    lambda: depthwise(14, 576, 1),
    lambda: depthwise(14, 576, 2),
    lambda: depthwise(7, 960, 1),
    lambda: depthwise(28, 240, 1, 5),
    lambda: pool("MaxPool", 112, 64, 3, 2, 1),
    lambda: pool("MaxPool", 56, 64, 2, 2, 0),
    lambda: pool("AveragePool", 28, 256, 2, 2, 0),
    lambda: pool("AveragePool", 35, 192, 3, 1, 1),
    lambda: global_average(7, 1280),
    lambda: global_average(7, 2048),
)
