"""Resize and Upsample against onnxruntime: every mode and coordinate rule, scales and sizes, known and symbolic."""

from __future__ import annotations

import itertools
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent))
from onnx_models import fails, node
from onnx_rival import one_node, same_as_onnxruntime

import fusec
from fusec.errors import ModelError
from fusec.frontend.table.resize import COORDINATES

pytest.importorskip("onnxruntime")

ROUNDING = ["round_prefer_floor", "round_prefer_ceil", "floor", "ceil"]
X = np.random.default_rng(0).standard_normal((2, 3, 5, 7)).astype(np.float32)


def resize(
    sizes: Any = None, scales: Any = None, opset: int = 18, symbolic: bool = False, x: Any = X, **attrs: Any
) -> Any:
    inits = {"s": np.array(sizes, np.int64)} if sizes is not None else {"s": np.array(scales, np.float32)}
    names = "x - - s" if sizes is not None else "x - s"
    return one_node(node("Resize", names, "y", **attrs), {"x": x}, inits, opset, symbolic=symbolic)


@pytest.mark.parametrize("symbolic", [False, True])
def test_nearest(symbolic: bool) -> None:
    rules = [c for c in COORDINATES if c not in ("tf_crop_and_resize", "tf_half_pixel_for_nn")]
    for way, rounding in itertools.product(rules, ROUNDING):
        attrs = {"coordinate_transformation_mode": way, "nearest_mode": rounding}
        for scales in ([1, 1, 2, 3], [1, 1, 0.5, 0.75], [1, 2, 1.5, 1]):
            if way == "align_corners" and scales != [1, 1, 2, 3]:
                continue  # onnxruntime takes the rounded size for the width, the standard does not
            same_as_onnxruntime(resize(scales=scales, symbolic=symbolic, opset=19, **attrs), {"x": X})
        for sizes in ([2, 3, 9, 4], [2, 3, 1, 14], [2, 3, 6, 20]):
            if way == "half_pixel_symmetric" and rounding == "floor":
                continue  # onnxruntime's 1.9999999 is the standard's 2
            same_as_onnxruntime(resize(sizes, symbolic=symbolic, opset=19, **attrs), {"x": X})


@pytest.mark.parametrize("mode", ["linear", "cubic"])
@pytest.mark.parametrize("symbolic", [False, True])
def test_weighed(mode: str, symbolic: bool) -> None:
    for way in ("half_pixel", "pytorch_half_pixel", "align_corners", "asymmetric", "half_pixel_symmetric"):
        for sizes in ([2, 3, 9, 4], [2, 3, 1, 14], [2, 3, 5, 20]):
            attrs = {"coordinate_transformation_mode": way, "mode": mode}
            if mode == "cubic":
                attrs |= {"cubic_coeff_a": -0.5, "exclude_outside": 1 if way == "half_pixel" else 0}
            same_as_onnxruntime(resize(sizes, symbolic=symbolic, opset=19, **attrs), {"x": X})
        scales = [1, 1, 2, 2.5]
        if way != "align_corners":
            m = resize(scales=scales, symbolic=symbolic, opset=19, coordinate_transformation_mode=way, mode=mode)
            same_as_onnxruntime(m, {"x": X})


COMPILED = {
    "nearest": {"scales": [1, 1, 2, 2], "mode": "nearest", "coordinate_transformation_mode": "asymmetric"},
    "linear": {"sizes": [2, 3, 9, 4], "mode": "linear"},
    "cubic": {"scales": [1, 1, 1.5, 2], "mode": "cubic"},
    "one axis": {"scales": [1.5], "axes": [2], "mode": "linear"},
    "not larger": {"sizes": [9, 9], "axes": [2, 3], "keep_aspect_ratio_policy": "not_larger"},
    "not smaller": {"sizes": [9, 9], "axes": [2, 3], "keep_aspect_ratio_policy": "not_smaller", "mode": "linear"},
}


@pytest.mark.parametrize("name", COMPILED)
@pytest.mark.parametrize("symbolic", [False, True])
def test_compiled(name: str, symbolic: bool) -> None:
    if symbolic and "keep_aspect_ratio_policy" in COMPILED[name]:
        pytest.skip("which axis decides must be known")
    same_as_onnxruntime(resize(symbolic=symbolic, **COMPILED[name]), {"x": X}, compiled=True)


@pytest.mark.parametrize("scales", [[1, 1, 2, 2], [1, 1, 3, 1], [1, 2, 1, 3], [1, 1, 1, 9]])
def test_whole_scales_need_no_table_of_places(scales: list[int]) -> None:
    m = resize(scales=scales, mode="nearest")
    same_as_onnxruntime(m, {"x": X}, compiled=True)
    (region,) = fusec.compile(m, threads=1).plan.steps
    assert all(o.role != "weight" for c in region.calls for o in c.program.operands)


def test_volumes() -> None:
    x = np.random.default_rng(1).standard_normal((1, 2, 3, 4, 5)).astype(np.float32)
    same_as_onnxruntime(resize([1, 2, 5, 3, 7], mode="linear", x=x), {"x": x}, compiled=True)


@pytest.mark.parametrize("mode", ["linear", "cubic"])
def test_antialias(mode: str) -> None:
    x = np.random.default_rng(1).standard_normal((1, 2, 9, 16)).astype(np.float32)
    for kind in ({"sizes": [1, 2, 4, 5]}, {"scales": [1, 1, 0.5, 0.25]}, {"sizes": [1, 2, 12, 7]}):
        attrs = {"mode": mode, "antialias": 1, "exclude_outside": 1}  # onnxruntime leaves out what is outside
        same_as_onnxruntime(resize(x=x, **kind, **attrs), {"x": x}, compiled=True)


def test_a_region_with_a_value_outside() -> None:
    inits = {"r": np.array([0, 0, 0.2, -0.3, 1, 1, 0.7, 1.2], np.float32), "n": np.array([2, 3, 6, 8])}
    attrs = {"coordinate_transformation_mode": "tf_crop_and_resize", "extrapolation_value": 7.0}
    for mode in ("nearest", "linear"):
        m = one_node(node("Resize", "x r - n", "y", mode=mode, **attrs), {"x": X}, inits)
        same_as_onnxruntime(m, {"x": X}, compiled=True)


@pytest.mark.parametrize("dtype", [np.uint8, np.int8, np.int32])
def test_nearest_of_integers(dtype: Any) -> None:
    x = np.arange(24, dtype=dtype).reshape(1, 2, 3, 4)
    same_as_onnxruntime(resize(scales=[1, 1, 2, 2], x=x), {"x": x}, compiled=True)


def test_older_rules() -> None:
    for scales in ([1, 1, 2, 2], [1, 1, 0.6, 0.5], [1, 1, 1.5, 3]):
        m = one_node(node("Resize", "x s", "y"), {"x": X}, {"s": np.array(scales, np.float32)}, 10)
        same_as_onnxruntime(m, {"x": X})
        for opset in (7, 9):
            if min(scales) < 1:
                continue
            for mode in ("nearest", "linear"):
                inits = {"s": np.array(scales, np.float32)} if opset == 9 else {}
                attrs = {} if inits else {"scales": [float(s) for s in scales]}
                n = node("Upsample", "x s" if inits else "x", "y", mode=mode, **attrs)
                same_as_onnxruntime(one_node(n, {"x": X}, inits, opset), {"x": X})


def test_attributes_that_do_not_fit() -> None:
    fails(ModelError, resize(scales=[1, 1, 2]), "Resize", "3 scales for 4 axes")
    fails(ModelError, resize(scales=[1, 1, 2, -2.0]), "Resize", "scales", "positive")
    fails(ModelError, resize([1, 3, 2]), "Resize", "3 sizes for 4 axes")
    fails(ModelError, resize([1, 3, 2, -4]), "Resize", "sizes", "negative")
    fails(ModelError, resize([1, 3, 2, 4], mode="quadratic"), "Resize", "mode 'quadratic'")
    both = one_node(
        node("Resize", "x - s n", "y"), {"x": X}, {"s": np.ones(4, np.float32), "n": np.array([2, 3, 5, 7])}
    )
    fails(ModelError, both, "Resize", "exactly one of scales and sizes")
