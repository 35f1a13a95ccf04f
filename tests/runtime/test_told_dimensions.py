"""Dimensions that only a host step tells, needed by what reads nothing of it."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import TensorProto as T
from onnx import helper as h

import fusec


def counting(*nodes: object, opset: int = 17) -> bytes:
    """A model f32[n] -> f32[n] whose nodes make `y` of `x`; `at` is where x is not zero, `shape` the shape of that."""
    first = [h.make_node("NonZero", ["r"], ["at"]), h.make_node("Shape", ["at"], ["shape"], start=1)]
    graph = h.make_graph(
        [h.make_node("Tanh", ["x"], ["r"]), *first, *nodes],
        "counting",
        [h.make_tensor_value_info("x", T.FLOAT, ["n"])],
        [h.make_tensor_value_info("y", T.FLOAT, ["n"])],
    )
    return bytes(h.make_model(graph, opset_imports=[h.make_opsetid("", opset)], ir_version=8).SerializeToString())


@pytest.mark.parametrize("fuse", [True, False])
def test_a_count_multiplies_what_it_was_counted_in(fuse: bool) -> None:
    """The host step that counts is read by nobody, and the product cannot share a kernel with what it counts."""
    model = counting(
        h.make_node("Cast", ["shape"], ["count"], to=T.FLOAT),
        h.make_node("Mul", ["r", "count"], ["y"]),
    )
    session = fusec.compile(model, fuse=fuse)
    for x in (np.array([1, -1, 2, 0, 3], np.float32), np.ones(7, np.float32)):
        r = np.tanh(x)
        np.testing.assert_allclose(session.run({"x": x})["y"], r * np.count_nonzero(r), rtol=1e-6)
