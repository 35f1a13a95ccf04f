"""Losses, Fourier transforms, windows, equations of any operands: against onnxruntime and numpy."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent))
from onnx_models import fails, node
from onnx_rival import one_node, same_as_onnxruntime

from fusec.errors import ModelError

pytest.importorskip("onnxruntime")
R = np.random.default_rng(0)


def f32(*shape: int) -> np.ndarray[Any, Any]:
    return R.standard_normal(shape).astype(np.float32)


@pytest.mark.parametrize("op", ["NegativeLogLikelihoodLoss", "SoftmaxCrossEntropyLoss"])
@pytest.mark.parametrize("reduction", ["none", "sum", "mean"])
@pytest.mark.parametrize("weighed", [False, True])
@pytest.mark.parametrize("ignored", [False, True])
def test_losses(op: str, reduction: str, weighed: bool, ignored: bool) -> None:
    feeds = {"x": f32(3, 5, 4), "t": R.integers(0, 5, (3, 4))}
    attrs: dict[str, Any] = {"reduction": reduction}
    if ignored:
        attrs["ignore_index"] = -1
        feeds["t"][0, 2] = -1
    inits = {"w": R.uniform(0.5, 2, 5).astype(np.float32)} if weighed else {}
    n = node(op, "x t w" if weighed else "x t", "y", **attrs)
    same_as_onnxruntime(one_node(n, feeds, inits, 13), feeds, compiled=reduction == "mean")


def test_loss_with_probabilities_of_any_batch() -> None:
    feeds = {"x": f32(6, 5), "t": R.integers(0, 5, (6,))}
    m = one_node(node("SoftmaxCrossEntropyLoss", "x t", "y p"), feeds, {}, 13)
    for i in m.graph.input:
        i.type.tensor_type.shape.dim[0].dim_param = "batch"
    same_as_onnxruntime(m, feeds, compiled=True)


@pytest.mark.parametrize("length", [None, 4, 9])
@pytest.mark.parametrize("parts", [1, 2])
@pytest.mark.parametrize("axis", [0, 1])
def test_transforms(length: int | None, parts: int, axis: int) -> None:
    x = f32(6, 7, parts)
    for onesided in (0, 1) if parts == 1 else (0,):
        inits = {"a": np.int64(axis)} | ({} if length is None else {"n": np.int64(length)})
        n = node("DFT", "x - a" if length is None else "x n a", "y", onesided=onesided)
        wide = x[..., 0] + (1j * x[..., 1] if parts == 2 else 0)
        want = np.fft.fft(wide.astype(np.complex128), length, axis)
        want = want.take(range(want.shape[axis] // 2 + 1), axis) if onesided else want
        same_as_onnxruntime(
            one_node(n, {"x": x}, inits, 20), {"x": x}, compiled=True, want=[np.stack([want.real, want.imag], -1).astype("f")]
        )  # fmt: skip


@pytest.mark.parametrize("symbolic", [False, True])
def test_short_time_transform(symbolic: bool) -> None:
    x = f32(2, 50, 1)
    inits = {"s": np.int64(6), "w": np.hanning(16).astype(np.float32), "n": np.int64(16)}
    m = one_node(node("STFT", "x s w n", "y"), {"x": x}, inits, 17)
    if symbolic:
        m.graph.input[0].type.tensor_type.shape.dim[1].dim_param = "samples"
    same_as_onnxruntime(m, {"x": x}, compiled=True, tolerance=1e-4)


@pytest.mark.parametrize("op", ["HannWindow", "HammingWindow", "BlackmanWindow"])
@pytest.mark.parametrize("periodic", [0, 1])
def test_windows(op: str, periodic: int) -> None:
    nodes = [node(op, "n", "w", periodic=periodic), node("Mul", "x w", "y")]
    x = np.ones(12, np.float32)
    same_as_onnxruntime(one_node(nodes, {"x": x}, {"n": np.int64(12)}, 17), {"x": x})


EQUATIONS = ["ii->i", "ii", "bij,jk,kl->bil", "aab,b->a", "i,j,k->ijk", "ijk,jil,kl->i", "bii->b", "ij,jk,kl,lm"]


@pytest.mark.parametrize("equation", EQUATIONS)
def test_equations(equation: str) -> None:
    sizes = dict(zip("ijklmab", (3, 4, 5, 2, 3, 4, 2)))
    terms = equation.partition("->")[0].split(",")
    feeds = {f"x{i}": f32(*(sizes[c] for c in t)) for i, t in enumerate(terms)}
    m = one_node(node("Einsum", " ".join(feeds), "y", equation=equation), feeds)
    want = np.asarray(np.einsum(equation, *feeds.values()))
    same_as_onnxruntime(m, feeds, compiled=True, tolerance=1e-4, want=[want])


@pytest.mark.parametrize("sizes", [[4, 9], [3, 3], [5, 7], [8, 2]])
def test_cropped_or_padded_around_the_middle(sizes: list[int]) -> None:
    x = f32(5, 7)
    m = one_node(node("CenterCropPad", "x s", "y"), {"x": x}, {"s": np.array(sizes)})
    same_as_onnxruntime(m, {"x": x}, compiled=True)


def test_one_hot_of_a_depth_that_is_a_float() -> None:
    i = np.array([0, 2, -1, 5])
    inits = {"d": np.array([3], np.float32), "v": np.array([2, 5], np.float32)}
    same_as_onnxruntime(one_node(node("OneHot", "i d v", "y"), {"i": i}, inits), {"i": i}, compiled=True)


def test_attributes_that_do_not_fit() -> None:
    x, t = f32(3, 5), np.zeros((4,), np.int64)
    fails(ModelError, one_node(node("NegativeLogLikelihoodLoss", "x t", "y"), {"x": x, "t": t}, {}, 13), "classes")
    n = node("NegativeLogLikelihoodLoss", "x t", "y", reduction="median")
    fails(ModelError, one_node(n, {"x": x, "t": t[:3]}, {}, 13), "reduction 'median'")
    wide = one_node(node("DFT", "x", "y"), {"x": x}, {}, 20)
    fails(ModelError, wide, "DFT", "real and imaginary")
    signal = f32(1, 20, 1)
    m = one_node(node("STFT", "x s - n", "y"), {"x": signal}, {"s": np.int64(0), "n": np.int64(4)}, 17)
    fails(ModelError, m, "STFT", "frame_step 0")
