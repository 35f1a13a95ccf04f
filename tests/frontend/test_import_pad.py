"""Pad against onnxruntime and numpy: all modes, negative paddings, several turns, known and symbolic sizes."""

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

X = np.random.default_rng(0).standard_normal((2, 5, 4)).astype(np.float32)
PADS = [[0, 1, 2, 0, 3, 1], [0, -1, 2, 0, 0, -1], [1, 0, 0, 0, 2, 3], [0, -2, 1, 0, 1, -1]]


def pad(pads: Any, x: Any = X, symbolic: bool = False, value: Any = None, **attrs: Any) -> Any:
    inits = {"p": np.array(pads)} | ({} if value is None else {"v": np.array(value, x.dtype)})
    return one_node(node("Pad", " ".join(["x", *inits]), "y", **attrs), {"x": x}, inits, 19, symbolic=symbolic)


@pytest.mark.parametrize("pads", PADS)
@pytest.mark.parametrize("mode", ["constant", "edge", "reflect", "wrap"])
@pytest.mark.parametrize("symbolic", [False, True])
def test_modes(pads: list[int], mode: str, symbolic: bool) -> None:
    x = X
    if mode == "reflect" and pads[0]:
        pads = [1, *pads[1:]]
    widths = [(max(b, 0), max(a, 0)) for b, a in zip(pads[:3], pads[3:])]
    kept = x[tuple(slice(max(-b, 0), n - max(-a, 0)) for n, b, a in zip(x.shape, pads[:3], pads[3:]))]
    want = np.pad(kept, widths, constant_values=1.5) if mode == "constant" else np.pad(kept, widths, mode=mode)  # type: ignore[call-overload]
    m = pad(pads, mode=mode, symbolic=symbolic, value=1.5 if mode == "constant" else None)
    same_as_onnxruntime(m, {"x": x}, compiled=True, want=[want])
    if min(pads) >= 0:
        same_as_onnxruntime(m, {"x": x})


@pytest.mark.parametrize("pads", [(3, 3), (0, 3), (4, 1), (3, 9)])
def test_mirrors_of_a_whole_axis_and_more(pads: tuple[int, int]) -> None:
    x = X[0]
    m = pad([0, pads[0], 0, pads[1]], x, mode="reflect")
    same_as_onnxruntime(m, {"x": x}, want=[np.pad(x, ((0, 0), pads), "reflect")], compiled=True)


@pytest.mark.parametrize("mode", ["reflect", "wrap", "edge"])
@pytest.mark.parametrize("symbolic", [False, True])
def test_more_than_one_turn(mode: str, symbolic: bool) -> None:
    x = np.arange(3, dtype=np.float32)
    want = np.pad(x, (7, 5), mode=mode)  # type: ignore[call-overload]
    same_as_onnxruntime(pad([7, 5], x, symbolic, mode=mode), {"x": x}, compiled=True, want=[want])
    one = x[:1]
    same_as_onnxruntime(pad([2, 3], one, symbolic, mode=mode), {"x": one}, compiled=True, want=[np.zeros(6, "f")])


def test_some_axes() -> None:
    m = one_node(node("Pad", "x p - a", "y"), {"x": X}, {"p": np.array([1, 2, 0, 3]), "a": np.array([-1, 0])}, 19)
    same_as_onnxruntime(m, {"x": X}, compiled=True)


@pytest.mark.parametrize("dtype", [np.uint8, np.int64, np.bool_, np.float16])
def test_dtypes(dtype: Any) -> None:
    x = (np.arange(12).reshape(3, 4) % 2).astype(dtype)
    want = np.pad(x, ((1, 0), (0, 2)), constant_values=1)
    same_as_onnxruntime(pad([1, 0, 0, 2], x, value=1), {"x": x}, compiled=True, want=[want])


def test_paddings_that_do_not_fit() -> None:
    fails(ModelError, pad([1, 2, 3]), "Pad", "3 paddings for 3 axes")
    fails(ModelError, pad([0, -3, 0, 0, -3, 0]), "Pad", "pads", "crop")
    empty = np.zeros((0, 3), np.float32)
    fails(ModelError, pad([1, 0, 0, 0], empty, mode="edge"), "Pad", "pads", "edge", "no elements")
    fails(ModelError, pad([1, 0, 0, 0], X[0], mode="mirror"), "Pad", "mirror")
