"""Models with a fold that keeps few blocks busy, inputs for them, and the answers in float64."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from onnx import ModelProto
from onnx import helper as h
from onnx import numpy_helper as nh

Arrays = dict[str, np.ndarray]


@dataclass(frozen=True)
class Case:
    """A model, its inputs, its output in float64, and how far off an answer may be."""

    model: ModelProto
    feeds: Arrays
    want: np.ndarray
    tolerance: float = 1e-5


def made(nodes: list, feeds: Arrays, weights: Arrays, want: np.ndarray, tolerance: float = 1e-5) -> Case:
    """A case whose output `y` has the dtype of its inputs."""
    dtype = next(iter(feeds.values())).dtype
    kind = h.np_dtype_to_tensor_dtype(dtype)
    inputs = [h.make_tensor_value_info(n, kind, x.shape) for n, x in feeds.items()]
    held = [nh.from_array(w, n) for n, w in weights.items()]
    graph = h.make_graph(nodes, "g", inputs, [h.make_tensor_value_info("y", kind, want.shape)], held)
    return Case(h.make_model(graph, ir_version=8, opset_imports=[h.make_opsetid("", 18)]), feeds, want, tolerance)


def numbers(*shape: int, dtype: type = np.float32, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(dtype)


def product(rows: int, depth: int, columns: int, dtype: type = np.float32, is_weight: bool = True) -> Case:
    """A product with a bias, an activation and a residual."""
    x, w, b = numbers(rows, depth, dtype=dtype), numbers(depth, columns, dtype=dtype), numbers(columns, dtype=dtype)
    w = (w / dtype(8)).astype(dtype)
    r = numbers(rows, columns, dtype=dtype, seed=1)
    nodes = [
        h.make_node("MatMul", ["x", "w"], ["a"]),
        h.make_node("Add", ["a", "b"], ["c"]),
        h.make_node("Relu", ["c"], ["d"]),
        h.make_node("Add", ["d", "r"], ["y"]),
    ]
    wide = [a.astype(np.float64) for a in (x, w, b, r)]
    want = np.maximum(wide[0] @ wide[1] + wide[2], 0) + wide[3]
    weights, feeds = {"b": b}, {"x": x, "r": r}
    (weights if is_weight else feeds)["w"] = w
    return made(nodes, feeds, weights, want, 1e-5 if dtype is np.float32 else 4e-3)


def convolution() -> Case:
    """A 3 x 3 convolution of a small image with stride 2."""
    x, w = numbers(1, 64, 9, 9), numbers(16, 64, 3, 3) / np.float32(16)
    nodes = [
        h.make_node("Conv", ["x", "w"], ["a"], strides=[2, 2], pads=[1, 1, 1, 1]),
        h.make_node("Relu", ["a"], ["y"]),
    ]
    padded = np.pad(x.astype(np.float64), [(0, 0), (0, 0), (1, 1), (1, 1)])
    windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), (2, 3))[:, :, ::2, ::2]
    return made(nodes, {"x": x}, {"w": w}, np.maximum(np.einsum("nchwij,ocij->nohw", windows, w.astype(np.float64)), 0))


def reduction(op: str, fold: Callable[[np.ndarray], np.ndarray], length: int) -> Case:
    """A reduction of everything, with pointwise work before and behind it."""
    x = numbers(length)
    nodes = [
        h.make_node("Abs", ["x"], ["a"]),
        h.make_node(op, ["a"], ["b"], keepdims=0),
        h.make_node("Sqrt", ["b"], ["y"]),
    ]
    return made(nodes, {"x": x}, {}, np.sqrt(fold(np.abs(x.astype(np.float64)))))


def softmax(rows: int, length: int) -> Case:
    """Rows of which a slice holds nothing but -inf."""
    x = numbers(rows, length) * 10
    x[:, : length // 2] = -np.inf
    e = np.exp(x.astype(np.float64) - x.max(1, keepdims=True))
    return made([h.make_node("Softmax", ["x"], ["y"], axis=1)], {"x": x}, {}, e / e.sum(1, keepdims=True))


def layer_norm(rows: int, length: int) -> Case:
    """A mean that is a thousand times the deviation: the sum of squares less the square of the sum would have no digit left."""
    x, s, b = numbers(rows, length) + np.float32(1000), numbers(length), numbers(length, seed=1)
    wide = x.astype(np.float64)
    mean = wide.mean(1, keepdims=True)
    want = (wide - mean) / np.sqrt(wide.var(1, keepdims=True) + 1e-5) * s + b
    node = h.make_node("LayerNormalization", ["x", "s", "b"], ["y"], axis=1)
    return made([node], {"x": x}, {"s": s, "b": b}, want, 3e-4)


CASES: dict[str, Callable[[], Case]] = {
    "gemv": lambda: product(5, 1024, 24),
    "gemv, odd depth": lambda: product(3, 1021, 24),
    "gemv f16": lambda: product(5, 1024, 40, np.float16),
    "product": lambda: product(20, 1024, 40),
    "product, odd depth": lambda: product(20, 1021, 40),
    "product of inputs": lambda: product(20, 1021, 40, is_weight=False),
    "product f16": lambda: product(20, 1024, 40, np.float16),
    "convolution": convolution,
    "sum": lambda: reduction("ReduceSum", np.sum, 10000),
    "mean, odd length": lambda: reduction("ReduceMean", np.mean, 10007),
    "max, odd length": lambda: reduction("ReduceMax", np.max, 10007),
    "softmax": lambda: softmax(1, 6000),
    "softmax, odd length": lambda: softmax(2, 6007),
    "layer norm": lambda: layer_norm(1, 6000),
    "layer norm, odd length": lambda: layer_norm(2, 6007),
}
