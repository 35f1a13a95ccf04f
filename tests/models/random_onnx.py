"""Random small ONNX models over some eighty operators, with inputs to feed them."""

from __future__ import annotations

import math

import numpy as np
import onnx
import random_arithmetic
import random_views
from onnx import helper
from random_maker import Maker, onnx_type

FAMILIES = (*random_arithmetic.FAMILIES, *random_views.FAMILIES)
LARGEST = 20_000
"""Elements of a value beyond which no node reads it."""


def random_model(seed: int, symbolic: bool, size: int = 7) -> tuple[onnx.ModelProto, dict[str, np.ndarray]]:
    """A model of about `size` nodes and its inputs. `symbolic`: sizes are numbers, shared symbols or symbols of their own."""
    m = Maker(seed)
    while len(m.nodes) < size:
        m.pick(FAMILIES)(m)
        m.vals = [v for v in m.vals if math.prod(v.shape) <= LARGEST]
    made = [v for v in m.vals if v.name.startswith("v")]
    chosen = {v.name: v for v in (*made[-1:], *(m.pick(made) for _ in range(int(m.r.integers(0, 3)))))}
    graph = helper.make_graph(
        m.nodes,
        "random",
        [_declared(m, v, symbolic) for v in m.inputs],
        [helper.make_tensor_value_info(v.name, onnx_type(v.dtype), None) for v in chosen.values()],
        m.inits,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), m.feeds


def _declared(m, v, symbolic):
    """An input; equal sizes may get one symbol, and any size one of its own."""
    dims = [m.pick([d, f"S{d}", f"{v.name}_{i}"]) if symbolic else d for i, d in enumerate(v.shape)]
    return helper.make_tensor_value_info(v.name, onnx_type(v.dtype), dims)
