"""Random LSTM, GRU and RNN nodes with every attribute, and what the host's own implementation makes of them."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from onnx import helper

from fusec.host.own.recurrent import IMPLEMENTATIONS

GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}
DEFAULTS = {"LSTM": ["Sigmoid", "Tanh", "Tanh"], "GRU": ["Sigmoid", "Tanh"], "RNN": ["Tanh"]}
FUNCTIONS = [
    "Sigmoid", "Tanh", "Relu", "Affine", "LeakyRelu", "ThresholdedRelu", "ScaledTanh", "HardSigmoid", "Elu", "Softsign",
    "Softplus",
]  # fmt: skip
WITH_ALPHA = ["Affine", "LeakyRelu", "ThresholdedRelu", "ScaledTanh", "HardSigmoid", "Elu"]


@dataclass
class Case:
    """One node: inputs in ONNX's order, None for absent ones; those of `fed` are inputs of the model, others constants."""

    op: str
    inputs: list[Any]
    attrs: dict[str, Any]
    fed: tuple[int, ...]
    symbolic: bool = True

    def model(self, opset: int = 22) -> onnx.ModelProto:
        names = ["" if v is None else f"x{i}" for i, v in enumerate(self.inputs)]
        count = 3 if self.op == "LSTM" else 2
        node = helper.make_node(self.op, names, ["y", "h", "c"][:count], name="layer", **self.attrs)
        sizes = {0: ["B", "T", 3] if self.attrs.get("layout") else ["T", "B", 3]} if self.symbolic else {}
        infos = [
            helper.make_tensor_value_info(
                f"x{i}", helper.np_dtype_to_tensor_dtype(self.inputs[i].dtype), sizes.get(i, self.inputs[i].shape)
            )
            for i in self.fed
        ]
        constants = [
            onnx.numpy_helper.from_array(v, f"x{i}")
            for i, v in enumerate(self.inputs)
            if v is not None and i not in self.fed
        ]
        outs = [onnx.ValueInfoProto(name=n) for n in node.output]
        graph = helper.make_graph([node], "g", infos, outs, constants)
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=9)

    @property
    def feeds(self) -> dict[str, Any]:
        return {f"x{i}": self.inputs[i] for i in self.fed}

    def wanted(self) -> list[Any]:
        with np.errstate(all="ignore"):
            return list(IMPLEMENTATIONS["", self.op](self.inputs, self.attrs, 22, 3))[: 3 if self.op == "LSTM" else 2]


def random_case(seed: int, *, plain: bool = False) -> Case:
    """A node of random sizes; `plain` has the default activations and no rare input."""
    r, g = random.Random(seed), np.random.default_rng(seed)
    op = r.choice(list(GATES))
    direction = r.choice(["forward", "reverse", "bidirectional"])
    d, gates = (2 if direction == "bidirectional" else 1), GATES[op]
    steps, batch, hidden = r.choice([1, 2, 5, 9]), r.choice([1, 2, 3, 5, 7]), r.choice([1, 2, 5, 16, 33, 64, 70])
    layout = r.random() < 0.25

    def f32(*shape: int) -> Any:
        return (g.standard_normal(shape) * 0.6).astype(np.float32)

    state = (batch, d, hidden) if layout else (d, batch, hidden)
    x = f32(batch, steps, 3) if layout else f32(steps, batch, 3)
    inputs: list[Any] = [x, f32(d, gates * hidden, 3), f32(d, gates * hidden, hidden) / np.sqrt(hidden).astype("f")]
    inputs.append(f32(d, 2 * gates * hidden) if r.random() < 0.7 else None)
    lengths = g.integers(0, steps + 1, batch).astype(np.int32)
    inputs.append(lengths if r.random() < 0.4 and not plain else None)
    inputs.append(f32(*state) if r.random() < 0.5 else None)
    if op == "LSTM":
        inputs += [f32(*state) if r.random() < 0.5 else None, f32(d, 3 * hidden) if r.random() < 0.3 else None]
    attrs: dict[str, Any] = {"hidden_size": hidden, "direction": direction}
    if layout:
        attrs["layout"] = 1
    if r.random() < 0.3:
        attrs["clip"] = 0.4
    if op == "GRU" and r.random() < 0.6:
        attrs["linear_before_reset"] = 1
    if op == "LSTM" and r.random() < 0.2:
        attrs["input_forget"] = 1
    if not plain and r.random() < 0.4:
        attrs["activations"] = [r.choice(FUNCTIONS) for _ in DEFAULTS[op] * d]
        attrs["activation_alpha"] = [r.choice([0.1, 0.5, 0.7]) for n in attrs["activations"] if n in WITH_ALPHA]
        if not attrs["activation_alpha"]:
            del attrs["activation_alpha"]
    fed = tuple(i for i, v in enumerate(inputs) if v is not None and (i in (0, 4) or r.random() < 0.3))
    return Case(op, inputs, attrs, fed, r.random() < 0.5)
