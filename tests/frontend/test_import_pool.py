"""Pooling rows: random attributes against onnxruntime, sizes known and symbolic."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent))
from onnx_models import node
from onnx_rival import one_node, same_as_onnxruntime

pytest.importorskip("onnxruntime")

OPS = ["MaxPool", "AveragePool", "LpPool"]


def draw(op: str, seed: int) -> tuple[dict[str, Any], np.ndarray[Any, Any]]:
    """Attributes that onnxruntime takes, and an input that they fit."""
    r = np.random.default_rng(seed)
    rank = int(r.integers(1, 4))
    kernel = [int(k) for k in r.integers(1, 5, rank)]
    attrs: dict[str, Any] = {"kernel_shape": kernel}
    if r.random() < 0.8:
        attrs["strides"] = [int(s) for s in r.integers(1, 4, rank)]
    auto = ["NOTSET", "VALID", "SAME_UPPER", "SAME_LOWER"][int(r.integers(4))] if r.random() < 0.5 else "NOTSET"
    if auto != "NOTSET":
        attrs["auto_pad"] = auto
        attrs["strides"] = [min(k, s) for k, s in zip(kernel, attrs.get("strides", kernel))]
    elif r.random() < 0.7:
        attrs["pads"] = [int(r.integers(0, k)) for k in kernel * 2]
    if auto == "NOTSET" and r.random() < 0.4:
        attrs["dilations"] = [int(d) for d in r.integers(1, 3, rank)]
    if auto == "NOTSET" and r.random() < 0.5:
        attrs["ceil_mode"] = 1
    if op == "AveragePool" and r.random() < 0.5:
        attrs["count_include_pad"] = 1
    if op == "LpPool":
        attrs["p"] = int(r.integers(1, 4))
    reach = [(k - 1) * d + 1 for k, d in zip(kernel, attrs.get("dilations", [1] * rank))]
    sizes = [int(n + r.integers(0, 6)) for n in reach]
    return attrs, r.standard_normal((int(r.integers(1, 3)), int(r.integers(1, 4)), *sizes)).astype(np.float32)


@pytest.mark.parametrize("op", OPS)
@pytest.mark.parametrize("symbolic", [False, True])
def test_random_attributes(op: str, symbolic: bool) -> None:
    for seed in range(25):
        attrs, x = draw(op, seed)
        m = one_node(node(op, "x", "y", **attrs), {"x": x}, opset=22, symbolic=symbolic)
        same_as_onnxruntime(m, {"x": x})


COMPILED = {
    "max": ("MaxPool", {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1, 1, 1, 1]}),
    "max dilated ceil": ("MaxPool", {"kernel_shape": [2, 3], "dilations": [3, 2], "strides": [2, 3], "ceil_mode": 1}),
    "average": ("AveragePool", {"kernel_shape": [3, 2], "pads": [1, 0, 1, 1], "strides": [2, 1]}),
    "average with padding": ("AveragePool", {"kernel_shape": [3, 3], "pads": [2, 1, 0, 1], "count_include_pad": 1}),
    "lp": ("LpPool", {"kernel_shape": [2, 2], "p": 2}),
    "global": ("GlobalMaxPool", {}),
    "global average": ("GlobalAveragePool", {}),
    "global lp": ("GlobalLpPool", {"p": 3}),
    "lrn": ("LRN", {"size": 5, "alpha": 0.5, "beta": 0.75, "bias": 1.5}),
    "lrn of another power": ("LRN", {"size": 3, "beta": 0.6}),
}


@pytest.mark.parametrize("name", COMPILED)
@pytest.mark.parametrize("symbolic", [False, True])
def test_compiled(name: str, symbolic: bool) -> None:
    op, attrs = COMPILED[name]
    x = np.random.default_rng(1).standard_normal((2, 5, 9, 11)).astype(np.float32)
    same_as_onnxruntime(one_node(node(op, "x", "y", **attrs), {"x": x}, symbolic=symbolic), {"x": x}, compiled=True)


@pytest.mark.parametrize("dtype", [np.int8, np.uint8])
def test_maxima_of_bytes(dtype: Any) -> None:
    x = np.random.default_rng(2).integers(-5, 5, (1, 3, 6, 7)).astype(dtype)
    m = one_node(node("MaxPool", "x", "y", kernel_shape=[3, 2], pads=[1, 1, 1, 0]), {"x": x})
    same_as_onnxruntime(m, {"x": x}, compiled=True)


@pytest.mark.parametrize("storage_order", [0, 1])
@pytest.mark.parametrize("symbolic", [False, True])
def test_where_the_maxima_are(storage_order: int, symbolic: bool) -> None:
    attrs = {"kernel_shape": [3, 2], "pads": [1, 1, 1, 0], "strides": [2, 1], "dilations": [1, 2]}
    x = np.random.default_rng(3).standard_normal((2, 3, 6, 7)).astype(np.float32)
    n = node("MaxPool", "x", "y i", storage_order=storage_order, **attrs)
    same_as_onnxruntime(one_node(n, {"x": x}, symbolic=symbolic), {"x": x}, compiled=True)


def test_no_images_give_no_images() -> None:
    x = np.zeros((0, 3, 6, 7), np.float32)
    m = one_node(node("MaxPool", "x", "y", kernel_shape=[3, 2]), {"x": x}, symbolic=True)
    same_as_onnxruntime(m, {"x": x}, compiled=True)
