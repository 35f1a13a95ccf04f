"""Scatters against onnxruntime: constant and computed indices, all reductions, indices outside are noticed."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent))
from onnx_models import fails, node
from onnx_rival import one_node, same_as_onnxruntime

import fusec
from fusec.errors import FusecError, ModelError

pytest.importorskip("onnxruntime")
R = np.random.default_rng(0)
KINDS = ["none", "add", "mul", "max", "min"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("constant", [False, True])
@pytest.mark.parametrize("axis", [0, 1, -1])
def test_elements(kind: str, constant: bool, axis: int) -> None:
    x = R.standard_normal((3, 5, 4)).astype(np.float32)
    shape = [3, 5, 4]
    shape[axis] = 2 if kind == "none" else 6
    n = x.shape[axis]
    i = R.integers(-n, n, shape)
    if kind == "none":  # each place once: onnxruntime writes in no particular order
        i = np.argsort(R.standard_normal(x.shape), axis).take(range(2), axis) - n * R.integers(0, 2)
    u = R.standard_normal(shape).astype(np.float32)
    feeds: dict[str, Any] = {"x": x, "u": u} | ({} if constant else {"i": i})
    m = one_node(node("ScatterElements", "x i u", "y", axis=axis, reduction=kind), feeds, {"i": i} if constant else {})
    same_as_onnxruntime(m, feeds, compiled=True)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("constant", [False, True])
@pytest.mark.parametrize("depth", [1, 2, 3])
def test_slices(kind: str, constant: bool, depth: int) -> None:
    x = R.standard_normal((3, 5, 4)).astype(np.float32)
    flat = R.permutation(int(np.prod(x.shape[:depth])))[:3] if kind == "none" else R.integers(0, 3, 6)
    i = np.stack(np.unravel_index(flat, x.shape[:depth]), -1)
    i = np.where(R.random(i.shape) < 0.5, i, i - np.array(x.shape[:depth]))
    u = R.standard_normal((len(flat), *x.shape[depth:])).astype(np.float32)
    feeds: dict[str, Any] = {"x": x, "u": u} | ({} if constant else {"i": i})
    m = one_node(node("ScatterND", "x i u", "y", reduction=kind), feeds, {"i": i} if constant else {})
    same_as_onnxruntime(m, feeds, compiled=True)


def test_one_row_of_a_cache_of_any_length() -> None:
    x, u = R.standard_normal((6, 4)).astype(np.float32), R.standard_normal((1, 4)).astype(np.float32)
    feeds = {"x": x, "i": np.array([[3]]), "u": u}
    m = one_node(node("ScatterND", "x i u", "y"), feeds)
    m.graph.input[0].type.tensor_type.shape.dim[0].dim_param = "slots"
    same_as_onnxruntime(m, feeds, compiled=True)


@pytest.mark.parametrize("dtype", [np.int64, np.uint8, np.bool_])
def test_integers(dtype: Any) -> None:
    x, u = R.integers(0, 2, (4, 3)).astype(dtype), R.integers(0, 2, (2, 3)).astype(dtype)
    for kind in ("none",) if dtype is np.bool_ else ("none", "max", "min"):
        feeds = {"x": x, "i": np.array([[2], [0]]), "u": u}
        want = x.copy()
        fn: Any = {"none": lambda _, b: b, "max": np.maximum, "min": np.minimum}[kind]
        want[[2, 0]] = fn(want[[2, 0]], u)
        same_as_onnxruntime(one_node(node("ScatterND", "x i u", "y", reduction=kind), feeds), feeds, want=[want])


def test_indices_outside() -> None:
    x, u = np.zeros((3, 2), np.float32), np.ones((1, 2), np.float32)
    for op, i in (("ScatterND", np.array([[3]])), ("ScatterElements", np.array([[0, -4]]))):
        fails(ModelError, one_node(node(op, "x i u", "y"), {"x": x, "u": u}, {"i": i}), op, "indices", "3")
        session = fusec.compile(one_node(node(op, "x i u", "y"), {"x": x, "i": i, "u": u}), threads=1)
        with pytest.raises(FusecError, match=r"outside|range"):
            session.run({"x": x, "i": i, "u": u})


def test_shapes_that_do_not_fit() -> None:
    x, i = np.zeros((3, 2), np.float32), np.array([[1]])
    fails(ModelError, one_node(node("ScatterND", "x i u", "y"), {"x": x, "u": x}, {"i": i}), "ScatterND", "updates")
    fails(ModelError, one_node(node("ScatterElements", "x i u", "y"), {"x": x, "u": x}, {"i": i}), "updates")
    n = node("ScatterND", "x i u", "y", reduction="sum")
    fails(ModelError, one_node(n, {"x": x, "u": x[:1]}, {"i": i}), "ScatterND", "reduction 'sum'")


def test_many_computed_indices_stay_with_the_host() -> None:
    from fusec.frontend.read import read_model

    x, i, u = np.zeros((3000, 2), np.float32), np.zeros((3000, 1), np.int64), np.zeros((3000, 2), np.float32)
    g = read_model(one_node(node("ScatterND", "x i u", "y"), {"x": x, "i": i, "u": u}))
    assert [(n.op, n.attr("why")) for n in g.nodes] == [("opaque", "comparing each of 3000 places with 3000 indices")]
