"""Rows of normalisations against onnxruntime: all attributes, ranks, known and symbolic sizes, compiled."""

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
from fusec.frontend.read import read_model

pytest.importorskip("onnxruntime")

Case = tuple[str, tuple[int, ...], list[tuple[int, ...]], int, dict[str, Any]]
CASES: dict[str, Case] = {
    "batch of a matrix": ("BatchNormalization", (3, 5), [(5,)] * 4, 15, {}),
    "batch of signals": ("BatchNormalization", (3, 5, 7), [(5,)] * 4, 9, {"epsilon": 1e-2}),
    "batch of volumes": ("BatchNormalization", (1, 2, 3, 4, 5), [(2,)] * 4, 15, {}),
    "batch per element": ("BatchNormalization", (3, 2, 4), [(2, 4)] * 4, 7, {"spatial": 0}),
    "instance of signals": ("InstanceNormalization", (2, 3, 7), [(3,)] * 2, 18, {"epsilon": 1e-2}),
    "instance of volumes": ("InstanceNormalization", (2, 3, 2, 3, 5), [(3,)] * 2, 18, {}),
    "group 18": ("GroupNormalization", (2, 6, 3, 5), [(3,)] * 2, 18, {"num_groups": 3}),
    "group 21": ("GroupNormalization", (2, 6, 3, 5), [(6,)] * 2, 21, {"num_groups": 2, "epsilon": 1e-3}),
    "groups of one": ("GroupNormalization", (2, 4, 7), [(4,)] * 2, 21, {"num_groups": 4}),
    "mean and variance": ("MeanVarianceNormalization", (2, 3, 4, 5), [], 13, {}),
    "mean and variance of rows": ("MeanVarianceNormalization", (2, 3, 4), [], 13, {"axes": [-1]}),
    "l1": ("LpNormalization", (2, 3, 4), [], 1, {"p": 1, "axis": 1}),
    "l2": ("LpNormalization", (2, 3, 4), [], 1, {}),
    "layer": ("LayerNormalization", (2, 3, 4), [(4,)] * 2, 17, {}),
    "layer over all": ("LayerNormalization", (2, 3, 4), [(2, 3, 4)] * 2, 17, {"axis": 0}),
    "layer without bias": ("LayerNormalization", (2, 3, 4), [(3, 4)], 17, {"axis": -2, "epsilon": 0.1}),
    "rms": ("RMSNormalization", (2, 3, 4), [(3, 4)], 23, {"axis": 1}),
}


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("symbolic", [False, True])
def test_norms(name: str, symbolic: bool) -> None:
    op, shape, others, opset, attrs = CASES[name]
    r = np.random.default_rng(0)
    x = r.standard_normal(shape).astype(np.float32)
    inits = {f"p{i}": r.uniform(0.5, 2, s).astype(np.float32) for i, s in enumerate(others)}
    m = one_node(
        node(op, " ".join(["x", *inits]), "y", **attrs), {"x": x}, inits, opset, symbolic=symbolic and not inits
    )
    if symbolic and inits and attrs.get("axis") != 0:  # only the sizes that no parameter fixes
        for i, d in enumerate(m.graph.input[0].type.tensor_type.shape.dim):
            if i == 0 or (i > 1 and "Layer" not in op and "RMS" not in op and "element" not in name):
                d.dim_param = f"n{i}"
    same_as_onnxruntime(m, {"x": x}, compiled=True)


def test_zeros_have_a_norm_of_zero() -> None:
    x = np.zeros((2, 3), np.float32)
    same_as_onnxruntime(one_node(node("LpNormalization", "x", "y"), {"x": x}), {"x": x}, want=[x])


def test_small_floats_are_normalised_in_float32() -> None:
    x = (np.random.default_rng(1).standard_normal((2, 4, 300)) * 100).astype(np.float16)
    inits = {"s": np.ones(4, np.float16), "b": np.zeros(4, np.float16)}
    m = one_node(node("GroupNormalization", "x s b", "y", num_groups=2), {"x": x}, inits, 21)
    wide = x.astype(np.float64).reshape(2, 2, -1)
    want = (wide - wide.mean(-1, keepdims=True)) / np.sqrt(wide.var(-1, keepdims=True) + 1e-5)
    same_as_onnxruntime(m, {"x": x}, want=[want.reshape(x.shape).astype(np.float16)], compiled=True)


@pytest.mark.parametrize("last", [0, 1])
def test_groups_of_channels_that_are_last(last: int) -> None:
    r = np.random.default_rng(2)
    x, scale, bias = (r.standard_normal(s).astype(np.float32) for s in ((2, 3, 4, 6), (6,), (6,)))
    data = x if last else np.moveaxis(x, -1, 1)
    wide = x.reshape(2, 12, 3, 2)
    wide = (wide - wide.mean((1, 3), keepdims=True)) / np.sqrt(wide.var((1, 3), keepdims=True) + 1e-5)
    want = wide.reshape(x.shape) * scale + bias
    want = want / (1 + np.exp(-want))
    n = node("GroupNorm", "x s b", "y", domain="com.microsoft", groups=3, activation=1, channels_last=last)
    m = one_node(n, {"x": data}, {"s": scale, "b": bias}, domains=[("com.microsoft", 1)])
    same_as_onnxruntime(m, {"x": data}, want=[want if last else np.moveaxis(want, -1, 1)], compiled=True)


def test_attributes_that_do_not_fit() -> None:
    x = np.zeros((2, 4, 3), np.float32)
    inits = {"s": np.ones(4, np.float32), "b": np.ones(4, np.float32)}
    m = one_node(node("GroupNormalization", "x s b", "y", num_groups=3), {"x": x}, inits, 21)
    fails(ModelError, m, "GroupNormalization", "num_groups is 3", "4 channels")
    fails(ModelError, one_node(node("LpNormalization", "x", "y", p=3), {"x": x}), "LpNormalization", "p is 3")
    short = {"s": np.ones(3, np.float32), "b": np.ones(4, np.float32)}
    m = one_node(node("InstanceNormalization", "x s b", "y"), {"x": x}, short)
    fails(ModelError, m, "InstanceNormalization")


def test_batch_normalisation_is_one_product_and_one_sum_per_element() -> None:
    x = np.zeros((2, 4, 3), np.float32)
    inits = {k: np.ones(4, np.float32) for k in "sbmv"}
    g = read_model(one_node(node("BatchNormalization", "x s b m v", "y"), {"x": x}, inits))
    assert [n.op for n in g.nodes if n.outputs[0].shape == (2, 4, 3)] == ["mul", "add"]
