"""Sizes that are written differently but are equal in every run that a model means: networks that go down and up again."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

sys.path.insert(0, str(Path(__file__).parent))
from onnx_models import info, init, model, node
from onnx_rival import onnxruntime_outputs

import fusec
from fusec.errors import FusecError, InputError
from fusec.frontend.read import read_model

pytest.importorskip("onnxruntime")


def down_and_up() -> onnx.ModelProto:
    """A small U-Net of any size: what comes up again is added to, and joined with, what did not go down."""
    r = np.random.default_rng(0)
    shapes = {"w1": (4, 3, 3, 3), "w2": (4, 4, 3, 3), "w3": (4, 8, 1, 1)}
    nodes = [
        node("Conv", "x w1", "a", pads=[1, 1, 1, 1]),
        node("MaxPool", "a", "p", kernel_shape=[2, 2], strides=[2, 2]),
        node("Conv", "p w2", "b", pads=[1, 1, 1, 1]),
        node("Resize", "b - s", "u", coordinate_transformation_mode="asymmetric", nearest_mode="floor"),
        node("Add", "u a", "c"),
        node("Concat", "a u", "d", axis=1),
        node("Conv", "d w3", "e"),
        node("Add", "c e", "y"),
    ]
    inits = [init(k, r.standard_normal(s).astype(np.float32)) for k, s in shapes.items()]
    inits.append(init("s", np.array([1, 1, 2, 2], np.float32)))
    return model(nodes, [info("x", ("N", 3, "H", "W"))], [onnx.ValueInfoProto(name="y")], inits)


def test_equal_sizes_are_native_and_unequal_ones_are_refused() -> None:
    m = down_and_up()
    assert all(n.op != "opaque" for n in read_model(m).nodes)
    session = fusec.compile(m, threads=1)
    for shape in ((2, 3, 8, 6), (1, 3, 16, 4), (1, 3, 2, 2)):
        x = np.random.default_rng(1).standard_normal(shape).astype(np.float32)
        np.testing.assert_allclose(
            session.run({"x": x})["y"], onnxruntime_outputs(m, {"x": x})[0], rtol=1e-4, atol=1e-4
        )
    for shape in ((2, 3, 9, 6), (2, 3, 8, 7), (1, 3, 5, 5)):
        with pytest.raises(InputError):
            session.run({"x": np.zeros(shape, np.float32)})


def flat(nodes: list[Any], **shapes: Any) -> onnx.ModelProto:
    return model(nodes, [info(k, s) for k, s in shapes.items()], [onnx.ValueInfoProto(name=nodes[-1].output[0])])


def test_sizes_of_different_symbols_may_broadcast() -> None:
    m = flat([node("Add", "a b", "y")], a=("N", 3), b=("M", 3))
    session = fusec.compile(m, threads=1)
    a, b = np.ones((4, 3), np.float32), np.ones((1, 3), np.float32)
    assert session.run({"a": a, "b": b})["y"].shape == (4, 3)
    assert session.run({"a": b, "b": a})["y"].shape == (4, 3)


@pytest.mark.parametrize("rows", [3, 4, 5])
def test_joined_parts_have_equal_sizes(rows: int) -> None:
    m = flat([node("Concat", "a b", "y", axis=1)], a=("N", 2), b=("M", 3))
    assert [n.op for n in read_model(m).nodes][-1] == "concat"
    session = fusec.compile(m, threads=1)
    a, b = np.ones((4, 2), np.float32), np.zeros((rows, 3), np.float32)
    if rows == 4:
        np.testing.assert_array_equal(session.run({"a": a, "b": b})["y"], np.concatenate([a, b], 1))
    else:
        with pytest.raises(FusecError):
            session.run({"a": a, "b": b})
