"""Running sums, the largest elements, reversed sequences: against onnxruntime and numpy, known and symbolic, compiled."""

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


@pytest.mark.parametrize("shape, axis", [((7,), 0), ((2, 130), 1), ((200, 3), 0), ((2, 64, 2), -2), ((1, 5000), 1)])
@pytest.mark.parametrize("symbolic", [False, True])
def test_running_sums(shape: tuple[int, ...], axis: int, symbolic: bool) -> None:
    for dtype, exclusive, reverse in ((np.float32, 0, 0), (np.float32, 1, 1), (np.int64, 1, 0), (np.int32, 0, 1)):
        x = (R.standard_normal(shape) * 3).astype(dtype)
        n = node("CumSum", "x a", "y", exclusive=exclusive, reverse=reverse)
        m = one_node(n, {"x": x}, {"a": np.int64(axis)}, 14, symbolic)
        same_as_onnxruntime(m, {"x": x}, compiled=dtype is not np.int32, tolerance=2e-4)


@pytest.mark.parametrize("shape, axis", [((3, 1003), 1), ((2, 37, 70), 1)])
def test_running_sums_have_the_same_bits_with_two_workers(shape: tuple[int, ...], axis: int) -> None:
    x = R.standard_normal(shape).astype(np.float32)
    m = one_node(node("CumSum", "x a", "y", reverse=1), {"x": x}, {"a": np.int64(axis)})
    one, two = (fusec.compile(m, threads=n).run({"x": x})["y"] for n in (1, 2))
    np.testing.assert_array_equal(one, two)


def test_running_products() -> None:
    x = R.uniform(0.9, 1.1, (2, 150)).astype(np.float32)
    m = one_node(node("CumProd", "x a", "y", exclusive=1), {"x": x}, {"a": np.int64(1)}, 26)
    want = np.cumprod(np.concatenate([np.ones((2, 1), "f"), x[:, :-1]], 1), 1)
    same_as_onnxruntime(m, {"x": x}, want=[want], compiled=True)


@pytest.mark.parametrize("largest", [0, 1])
@pytest.mark.parametrize("dtype", [np.float32, np.int64, np.int32])
def test_the_largest(largest: int, dtype: Any) -> None:
    for shape, axis, k in (((3, 17), -1, 4), ((9, 2, 3), 0, 9), ((2, 5), 1, 1), ((4, 3), 1, 0)):
        x = R.integers(-4, 5, shape).astype(dtype)  # with equal elements
        n = node("TopK", "x k", "v i", axis=axis, largest=largest)
        same_as_onnxruntime(one_node(n, {"x": x}, {"k": np.array([k])}, 11), {"x": x}, compiled=True)


def test_the_largest_of_rows_whose_number_is_symbolic() -> None:
    x = R.standard_normal((5, 8)).astype(np.float32)
    m = one_node(node("TopK", "x k", "v i"), {"x": x}, {"k": np.array([2])}, 11)
    m.graph.input[0].type.tensor_type.shape.dim[0].dim_param = "rows"
    same_as_onnxruntime(m, {"x": x}, compiled=True)


def test_nan_is_the_largest() -> None:
    x = np.array([1, np.nan, 3, -np.inf, np.nan, np.inf], np.float32)
    want = [x[[1, 4, 5, 2]], np.array([1, 4, 5, 2])]
    m = one_node(node("TopK", "x k", "v i"), {"x": x}, {"k": np.array([4])}, 11)
    same_as_onnxruntime(m, {"x": x}, want=want, compiled=True)
    want = [x[[3, 0, 2, 5, 1]], np.array([3, 0, 2, 5, 1])]
    m = one_node(node("TopK", "x k", "v i", largest=0), {"x": x}, {"k": np.array([5])}, 11)
    same_as_onnxruntime(m, {"x": x}, want=want, compiled=True)


def test_more_than_there_is() -> None:
    x = np.zeros((2, 3), np.float32)
    fails(ModelError, one_node(node("TopK", "x k", "v i"), {"x": x}, {"k": np.array([4])}, 11), "TopK", "k is 4", "3")


@pytest.mark.parametrize("largest", [0, 1])
def test_the_largest_of_many(largest: int) -> None:
    """Blocks, and lines whose last block is not full; the same bits with two workers."""
    for shape, axis, k in (((3, 1001), 1, 40), ((2, 130, 5), 1, 129), ((1, 70), 1, 70)):
        x = np.round(R.standard_normal(shape) * 30).astype(np.float32)
        m = one_node(node("TopK", "x k", "v i", axis=axis, largest=largest), {"x": x}, {"k": np.array([k])}, 11)
        same_as_onnxruntime(m, {"x": x}, compiled=True)
        one, two = (fusec.compile(m, threads=n).run_list({"x": x}) for n in (1, 2))
        assert all(map(np.array_equal, one, two))


def test_the_largest_of_too_few_is_noticed_while_running() -> None:
    x = R.standard_normal((2, 70)).astype(np.float32)
    m = one_node(node("TopK", "x k", "v i"), {"x": x}, {"k": np.array([4])}, 11, symbolic=True)
    session = fusec.compile(m, threads=1)
    np.testing.assert_array_equal(session.run({"x": x})["v"], -np.sort(-x, 1)[:, :4])
    with pytest.raises(FusecError, match="TopK"):
        session.run({"x": x[:, :3]})


@pytest.mark.parametrize("axes", [(0, 1), (1, 0)])
@pytest.mark.parametrize("symbolic", [False, True])
def test_reversed_sequences(axes: tuple[int, int], symbolic: bool) -> None:
    x = R.standard_normal((4, 5, 3)).astype(np.float32)
    batch = x.shape[axes[0]]
    lengths = np.array([1, 4, 2, 3, 4][:batch])
    m = one_node(node("ReverseSequence", "x l", "y", batch_axis=axes[0], time_axis=axes[1]), {"x": x, "l": lengths})
    if symbolic:
        m.graph.input[0].type.tensor_type.shape.dim[axes[1]].dim_param = "steps"
    same_as_onnxruntime(m, {"x": x, "l": lengths}, compiled=True)


@pytest.mark.parametrize("opset", [11, 13])
@pytest.mark.parametrize("axis", [0, 1, 2, -1])
def test_hardmax(opset: int, axis: int) -> None:
    x = R.integers(0, 3, (2, 3, 4)).astype(np.float32)
    same_as_onnxruntime(one_node(node("Hardmax", "x", "y", axis=axis), {"x": x}, opset=opset), {"x": x}, compiled=True)
