"""A convolution between a model's inputs and outputs, at odd and at symbolic sizes: against float64 and onnxruntime.

Such models come and go channels-first, so the layout passes decide otherwise than within a network.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "frontend"))
from onnx_models import info, init, model, node

import fusec
from fusec.measure.oracles import float64_oracle, onnxruntime_oracle

R = np.random.default_rng(0)
SIZES = {
    "one pixel": (1, 1, 1),
    "a line": (1, 1, 131),
    "odd": (3, 13, 11),
    "whole panels": (2, 16, 12),
    "14 x 14": (1, 14, 14),
    "wide": (1, 3, 117),
    "many pixels": (2, 41, 59),
}
CASES: dict[str, dict[str, Any]] = {
    "single pixels": {"channels": 8, "filters": 12},
    "single pixels of odd channels": {"channels": 7, "filters": 5},
    "single pixels of one channel": {"channels": 1, "filters": 3},
    "single pixels of many channels": {"channels": 65, "filters": 67},
    "windows in strides": {"channels": 9, "filters": 20, "kernel": 3, "strides": [2, 2], "pads": [1, 1, 1, 1]},
    "windows of few channels": {"channels": 3, "filters": 33, "kernel": 5, "pads": [2, 2, 2, 2]},
    "windows in strides of one channel": {"channels": 1, "filters": 8, "kernel": 3, "strides": [2, 1], "pads": [1] * 4},
    "groups": {"channels": 24, "filters": 40, "kernel": 3, "groups": 2, "pads": [1, 1, 1, 1]},
}


def convolution(
    size: tuple[int | str, ...], channels: int, filters: int, kernel: int = 1, groups: int = 1, **attrs: Any
) -> Any:
    """Convolution, bias and relu over [size[0], channels, *size[1:]]."""
    n, *spatial = size
    w = R.standard_normal((filters, channels // groups, *[kernel] * len(spatial))).astype(np.float32)
    nodes = [node("Conv", "x w b", "c", group=groups, **attrs), node("Relu", "c", "y")]
    weights = [init("w", w), init("b", R.standard_normal(filters).astype(np.float32))]
    outputs = info("y", (n, filters, *(f"o{d}" for d in range(len(spatial)))))
    return model(nodes, [info("x", (n, channels, *spatial))], [outputs], weights)


def check(session: fusec.Session, m: Any, size: tuple[int, ...], channels: int) -> None:
    x = R.standard_normal((size[0], channels, *size[1:])).astype(np.float32)
    (y,) = session.run({"x": x}).values()
    for oracle in (float64_oracle, onnxruntime_oracle):
        (want,) = oracle(m.SerializeToString())({"x": x})
        np.testing.assert_allclose(y, want, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", CASES)
def test_at_a_size(name: str) -> None:
    size = (3, 13, 11)
    m = convolution(size, **CASES[name])
    check(fusec.compile(m), m, size, CASES[name]["channels"])


@pytest.mark.parametrize("name", CASES)
def test_at_any_size(name: str) -> None:
    m = convolution(("N", "H", "W"), **CASES[name])
    session = fusec.compile(m)
    for size in SIZES.values():
        check(session, m, size, CASES[name]["channels"])


def test_images_stay_channels_first() -> None:
    plan = fusec.compile(convolution((1, 16, 12), channels=8, filters=12)).plan
    assert [c.label for s in plan.steps for c in getattr(s, "calls", ())] == ["matmul+add+relu"]


@pytest.mark.parametrize("stride", [1, 2])
def test_windows_of_one_channel_along_long_rows(stride: int) -> None:
    attrs: dict[str, Any] = {"strides": [1, stride], "pads": [1, 0, 2, 1], "dilations": [2, 1]}
    m = convolution(("N", 7, 119), channels=5, filters=5, kernel=3, groups=5, **attrs)
    session = fusec.compile(m)
    assert [c.label for s in session.plan.steps for c in getattr(s, "calls", ())] == [
        "pad+windows+mul+reduce_sum+add+relu"
    ]
    for images in (1, 3):
        check(session, m, (images, 7, 119), 5)


@pytest.mark.parametrize("rank", [1, 3])
def test_of_any_rank(rank: int) -> None:
    size = (2, *[131, 12, 3][:rank]) if rank == 1 else (2, 5, 6, 7)
    m = convolution(size, channels=6, filters=10)
    check(fusec.compile(m), m, size, 6)
