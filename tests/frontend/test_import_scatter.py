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


def _native(model: Any, feeds: dict[str, Any]) -> np.ndarray[Any, Any]:
    """The answer without host steps, the same with one worker and with two."""
    answers = []
    for threads in (1, 2):
        session = fusec.compile(model, threads=threads)
        assert all(hasattr(s, "calls") for s in session.plan.steps)
        answers += session.run(feeds).values()
    np.testing.assert_array_equal(*answers)
    return np.asarray(answers[0])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("inner", [(), (1,), (3,), (37,), (5, 3), (130,)])
def test_many_computed_indices(kind: str, inner: tuple[int, ...]) -> None:
    x, u = R.standard_normal((50, *inner)).astype(np.float32), R.standard_normal((300, *inner)).astype(np.float32)
    feeds = {"x": x, "i": R.integers(-50, 50, (300, 1)), "u": u}
    want = x.copy()
    for row, new in zip(feeds["i"][:, 0], u, strict=True):  # in order: the last of equal places wins
        fn: Any = {"none": lambda _, b: b, "add": np.add, "mul": np.multiply, "max": np.maximum, "min": np.minimum}[
            kind
        ]
        want[row] = fn(want[row], new)
    got = _native(one_node(node("ScatterND", "x i u", "y", reduction=kind), feeds), feeds)
    np.testing.assert_allclose(got, want, rtol=1e-6)


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("covered", [(4, 17, 9), (4, 5, 9), (2, 30, 3)])
def test_elements_that_cover_a_part(axis: int, covered: tuple[int, ...]) -> None:
    x = R.standard_normal((4, 17, 9)).astype(np.float32)
    shape = tuple(23 if d == axis else min(n, m) for d, (n, m) in enumerate(zip(covered, x.shape, strict=True)))
    i = R.integers(-x.shape[axis], x.shape[axis], shape)
    feeds = {"x": x, "i": i, "u": R.standard_normal(shape).astype(np.float32)}
    m = one_node(node("ScatterElements", "x i u", "y", axis=axis, reduction="add"), feeds)
    same_as_onnxruntime(m, feeds, compiled=True)
    _native(m, feeds)


def test_symbolic_sizes() -> None:
    x, u = R.standard_normal((20, 6)).astype(np.float32), R.standard_normal((90, 6)).astype(np.float32)
    feeds = {"x": x, "i": np.repeat(R.integers(0, 20, (90, 1)), 6, 1), "u": u}
    m = one_node(node("ScatterElements", "x i u", "y", reduction="add"), feeds)
    for v, name in zip(m.graph.input, "nee", strict=True):
        v.type.tensor_type.shape.dim[0].dim_param = name
    same_as_onnxruntime(m, feeds, compiled=True)
    empty = {"x": x, "i": feeds["i"][:0], "u": u[:0]}
    same_as_onnxruntime(m, empty, want=[x])


def test_graph_network_layer() -> None:
    """Messages gathered from nodes, weighted, and summed where they go: one kernel, no message is stored."""
    import onnx

    graph = onnx.helper.make_graph(
        [
            onnx.helper.make_node("Gather", ["h", "src"], ["m"]),
            onnx.helper.make_node("Mul", ["m", "w"], ["mw"]),
            onnx.helper.make_node("Unsqueeze", ["dst", "one"], ["d1"]),
            onnx.helper.make_node("Expand", ["d1", "like"], ["d"]),
            onnx.helper.make_node("ScatterElements", ["zeros", "d", "mw"], ["y"], axis=0, reduction="add"),
        ],
        "layer",
        [
            onnx.helper.make_tensor_value_info(n, t, s)
            for n, t, s in [
                ("h", 1, [30, 24]), ("src", 7, [200]), ("dst", 7, [200]), ("w", 1, [200, 24]), ("zeros", 1, [30, 24])
            ]
        ],
        [onnx.helper.make_tensor_value_info("y", 1, [30, 24])],
        [onnx.numpy_helper.from_array(np.array([1]), "one"), onnx.numpy_helper.from_array(np.array([200, 24]), "like")],
    )  # fmt: skip
    m = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 18)], ir_version=9)
    feeds = {
        "h": R.standard_normal((30, 24)).astype(np.float32),
        "src": R.integers(0, 30, 200),
        "dst": R.integers(0, 30, 200),
        "w": R.standard_normal((200, 24)).astype(np.float32),
        "zeros": np.zeros((30, 24), np.float32),
    }
    want = feeds["zeros"].astype(np.float64)
    np.add.at(want, feeds["dst"], feeds["h"].astype(np.float64)[feeds["src"]] * feeds["w"])
    np.testing.assert_allclose(_native(m, feeds), want, rtol=1e-4, atol=1e-5)
    session = fusec.compile(m, threads=1)
    assert sum(len(getattr(s, "calls", ())) for s in session.plan.steps) == 1


@pytest.mark.parametrize("bad", [(30, 7), (-31, 0)])
def test_many_indices_of_which_one_is_outside(bad: tuple[int, int]) -> None:
    i = R.integers(-30, 30, (80, 1))
    i[bad[1]] = bad[0]
    feeds = {"x": np.zeros((30, 16), np.float32), "i": i, "u": np.ones((80, 16), np.float32)}
    session = fusec.compile(one_node(node("ScatterND", "x i u", "y", reduction="add"), feeds), threads=1)
    with pytest.raises(FusecError, match=r"outside|range"):
        session.run(feeds)
