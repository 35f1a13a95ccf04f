"""A short way to write ONNX models with seeded weights of sensible size: activations stay of order one."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

FLOAT, INT64 = TensorProto.FLOAT, TensorProto.INT64
Shape = list[int | str]


class ModelBuilder:
    """Collects nodes, weights, inputs (with example feeds) and outputs; `model()` gives the checked ModelProto."""

    def __init__(self, name: str, opset: int = 17, seed: int = 0) -> None:
        self.name, self.opset, self.rng = name, opset, np.random.default_rng(seed)
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []
        self.inputs: list[onnx.ValueInfoProto] = []
        self.outputs: list[onnx.ValueInfoProto] = []
        self.feeds: dict[str, npt.NDArray[Any]] = {}

    def input(self, name: str, shape: Shape, example: npt.NDArray[Any]) -> str:
        """Declare an input; `example` gives its dtype and is what benchmarks feed."""
        dtype = helper.np_dtype_to_tensor_dtype(example.dtype)
        self.inputs.append(helper.make_tensor_value_info(name, dtype, shape))
        self.feeds[name] = example
        return name

    def output(self, value: str, shape: Shape, dtype: int = FLOAT) -> None:
        """Declare an output."""
        self.outputs.append(helper.make_tensor_value_info(value, dtype, shape))

    def constant(self, array: npt.ArrayLike) -> str:
        """An initialiser from an array."""
        name = f"c{len(self.weights)}"
        self.weights.append(numpy_helper.from_array(np.asarray(array), name))
        return name

    def weight(self, *shape: int, scale: float | None = None) -> str:
        """A normal random float32 weight; by default scaled by 1 / sqrt(fan in)."""
        scale = 1 / math.sqrt(shape[0]) if scale is None else scale
        return self.constant(self.rng.standard_normal(shape, np.float32) * np.float32(scale))

    def ints(self, *values: int) -> str:
        """An int64 vector."""
        return self.constant(np.array(values, np.int64))

    def scalar(self, value: float) -> str:
        """A float32 scalar."""
        return self.constant(np.array(value, np.float32))

    def op(self, kind: str, *inputs: str, outputs: int = 1, **attributes: Any) -> Any:
        """A node; returns its output's name, or a tuple of them."""
        names = [f"{kind}_{len(self.nodes)}" + (f"_{i}" if outputs > 1 else "") for i in range(outputs)]
        self.nodes.append(helper.make_node(kind, list(inputs), names, name=f"/{kind}_{len(self.nodes)}", **attributes))
        return names[0] if outputs == 1 else tuple(names)

    def linear(self, x: str, inner: int, outer: int, scale: float = 1.0) -> str:
        """x @ W + b."""
        product = self.op("MatMul", x, self.weight(inner, outer, scale=scale / math.sqrt(inner)))
        return str(self.op("Add", product, self.weight(outer, scale=0.02)))

    def layer_norm(self, x: str, width: int) -> str:
        """LayerNormalization over the last axis."""
        scale = self.constant((1 + 0.1 * self.rng.standard_normal(width)).astype(np.float32))
        return str(self.op("LayerNormalization", x, scale, self.weight(width, scale=0.02), axis=-1, epsilon=1e-5))

    def decomposed_layer_norm(self, x: str, width: int) -> str:
        """The same as exporters before opset 17 write it."""
        centred = self.op("Sub", x, self.op("ReduceMean", x, axes=[-1]))
        variance = self.op("ReduceMean", self.op("Pow", centred, self.scalar(2.0)), axes=[-1])
        normal = self.op("Div", centred, self.op("Sqrt", self.op("Add", variance, self.scalar(1e-5))))
        scale = self.constant((1 + 0.1 * self.rng.standard_normal(width)).astype(np.float32))
        return str(self.op("Add", self.op("Mul", normal, scale), self.weight(width, scale=0.02)))

    def gelu_erf(self, x: str) -> str:
        """0.5 x (1 + erf(x / sqrt 2)), spelt out."""
        erf = self.op("Erf", self.op("Div", x, self.scalar(math.sqrt(2))))
        return str(self.op("Mul", self.op("Mul", x, self.op("Add", erf, self.scalar(1.0))), self.scalar(0.5)))

    def gelu_tanh(self, x: str) -> str:
        """The tanh form of GELU, spelt out as GPT-2's exporters do."""
        cube = self.op("Mul", self.op("Pow", x, self.scalar(3.0)), self.scalar(0.044715))
        inner = self.op("Mul", self.op("Add", x, cube), self.scalar(math.sqrt(2 / math.pi)))
        outer = self.op("Add", self.op("Tanh", inner), self.scalar(1.0))
        return str(self.op("Mul", self.op("Mul", x, self.scalar(0.5)), outer))

    def model(self) -> onnx.ModelProto:
        """The model, checked."""
        graph = helper.make_graph(self.nodes, self.name, self.inputs, self.outputs, self.weights)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", self.opset)], ir_version=9)
        onnx.checker.check_model(model)
        return model
