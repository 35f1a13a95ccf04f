"""Small ONNX models for sessions on devices, with feeds of several sizes."""

from __future__ import annotations

import numpy as np
from onnx import ModelProto
from onnx import TensorProto as T
from onnx import helper as h
from onnx import numpy_helper as nh

F, INTS = T.FLOAT, T.INT64


def numbers(*shape: int, seed: int = 0) -> np.ndarray:
    return (np.random.default_rng(seed).normal(size=shape) * 0.3).astype(np.float32)


def model(nodes, inputs, outputs, weights=None, opset: int = 17) -> ModelProto:
    """`inputs` and `outputs` are (name, shape) or (name, shape, type)."""
    ends = [[h.make_tensor_value_info(n, (*t, F)[0], s) for n, s, *t in x] for x in (inputs, outputs)]
    held = [nh.from_array(w, n) for n, w in (weights or {}).items()]
    graph = h.make_graph(nodes, "g", *ends, held)
    return h.make_model(graph, ir_version=8, opset_imports=[h.make_opsetid("", opset)])


def mlp() -> ModelProto:
    nodes = [
        h.make_node("MatMul", ["x", "w0"], ["a"]),
        h.make_node("Add", ["a", "b0"], ["b"]),
        h.make_node("Relu", ["b"], ["c"]),
        h.make_node("MatMul", ["c", "w1"], ["d"]),
        h.make_node("Add", ["d", "b1"], ["y"]),
    ]
    weights = {"w0": numbers(64, 96), "b0": numbers(96), "w1": numbers(96, 10), "b1": numbers(10)}
    return model(nodes, [("x", ["N", 64])], [("y", ["N", 10])], weights)


def softmax() -> ModelProto:
    return model([h.make_node("Softmax", ["x"], ["y"], axis=-1)], [("x", ["N", 37])], [("y", ["N", 37])])


def conv() -> ModelProto:
    nodes = [
        h.make_node("Conv", ["x", "w"], ["a"], pads=[1, 1, 1, 1]),
        h.make_node("Relu", ["a"], ["b"]),
        h.make_node("MaxPool", ["b"], ["c"], kernel_shape=[2, 2], strides=[2, 2]),
        h.make_node("Conv", ["c", "w2"], ["d"], pads=[1, 1, 1, 1]),
        h.make_node("GlobalAveragePool", ["d"], ["e"]),
        h.make_node("Flatten", ["e"], ["y"]),
    ]
    weights = {"w": numbers(8, 3, 3, 3), "w2": numbers(16, 8, 3, 3)}
    return model(nodes, [("x", [2, 3, 16, 16])], [("y", [2, 16])], weights)


def table() -> ModelProto:
    """Rows of a table, added to an input: indices out of range are reported."""
    nodes = [
        h.make_node("Gather", ["w", "i"], ["a"], name="lookup"),
        h.make_node("Add", ["a", "x"], ["y"]),
    ]
    return model(nodes, [("i", ["N"], INTS), ("x", ["N", 8])], [("y", ["N", 8])], {"w": numbers(5, 8)})


def with_host_step() -> ModelProto:
    """A region, a node that only Python runs, and a region."""
    nodes = [
        h.make_node("Relu", ["x"], ["a"]),
        h.make_node("Unique", ["a"], ["u"], sorted=1, name="distinct"),
        h.make_node("Mul", ["u", "u"], ["y"]),
    ]
    return model(nodes, [("x", ["N", 4])], [("y", ["M"])])


def chain(layers: int = 4, width: int = 96) -> ModelProto:
    """Products with a softmax behind each: every layer is handed over between workers."""
    nodes, weights, x = [], {}, "x"
    for i in range(layers):
        weights[f"w{i}"] = numbers(width, width, seed=i)
        nodes.append(h.make_node("MatMul", [x, f"w{i}"], [f"m{i}"]))
        nodes.append(h.make_node("Softmax", [f"m{i}"], [x := f"s{i}" if i < layers - 1 else "y"], axis=-1))
    return model(nodes, [("x", ["N", width])], [("y", ["N", width])], weights)


def lstm() -> ModelProto:
    nodes = [h.make_node("LSTM", ["x", "w", "r", "b"], ["y", "h", "c"], hidden_size=32)]
    weights = {"w": numbers(1, 128, 16), "r": numbers(1, 128, 32), "b": numbers(1, 256)}
    return model(nodes, [("x", ["T", 2, 16])], [("y", ["T", 1, 2, 32]), ("h", [1, 2, 32])], weights)


def slices() -> ModelProto:
    """Long folds of few tasks, one after the other: of a product and of a row, whose lengths share no divisor with blocks."""
    nodes = [
        h.make_node("MatMul", ["x", "w"], ["a"]),
        h.make_node("Relu", ["a"], ["b"]),
        h.make_node("Reshape", ["b", "all"], ["c"]),
        h.make_node("Softmax", ["c"], ["y"], axis=-1),
    ]
    weights = {"w": numbers(257, 24), "all": np.array([1, -1])}
    return model(nodes, [("x", [20, 257])], [("y", [1, 480])], weights)


MODELS = {
    "mlp": (mlp, [{"x": numbers(n, 64)} for n in (33, 1, 8)]),
    "softmax": (softmax, [{"x": numbers(n, 37)} for n in (5, 300)]),
    "conv": (conv, [{"x": numbers(2, 3, 16, 16)}]),
    "table": (table, [{"i": np.array([0, 4, -1, 2]), "x": numbers(4, 8)}, {"i": np.zeros(0, int), "x": numbers(0, 8)}]),
    "host step": (with_host_step, [{"x": numbers(7, 4)}]),
    "chain": (chain, [{"x": numbers(n, 96)} for n in (40, 1)]),
    "slices": (slices, [{"x": numbers(20, 257)}]),
    "lstm": (lstm, [{"x": numbers(n, 2, 16)} for n in (5, 1)]),
}
