"""GridSample and AffineGrid against onnxruntime: all modes and paddings, known and symbolic sizes, coordinates far outside."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent))
from onnx_models import fails, node
from onnx_rival import one_node, same_as_onnxruntime

from fusec.errors import ModelError

pytest.importorskip("onnxruntime")
R = np.random.default_rng(0)


@pytest.mark.parametrize("mode", ["linear", "nearest", "cubic"])
@pytest.mark.parametrize("padding", ["zeros", "border", "reflection"])
@pytest.mark.parametrize("symbolic", [False, True])
def test_images(mode: str, padding: str, symbolic: bool) -> None:
    for aligned in (0, 1):
        feeds = {
            "x": R.standard_normal((2, 3, 5, 4)).astype(np.float32),
            "g": R.uniform(-2.5, 2.5, (2, 3, 7, 2)).astype(np.float32),
        }
        m = one_node(
            node("GridSample", "x g", "y", mode=mode, padding_mode=padding, align_corners=aligned), feeds, {}, 20
        )
        if symbolic:
            for i, name in ((0, "batch"), (2, "rows"), (3, "columns")):
                m.graph.input[0].type.tensor_type.shape.dim[i].dim_param = name
            m.graph.input[1].type.tensor_type.shape.dim[0].dim_param = "batch"
        same_as_onnxruntime(m, feeds, compiled=aligned == 0, tolerance=1e-4)


@pytest.mark.parametrize("mode", ["linear", "nearest"])
def test_volumes(mode: str) -> None:
    feeds = {
        "x": R.standard_normal((1, 2, 3, 4, 5)).astype(np.float32),
        "g": R.uniform(-1.5, 1.5, (1, 2, 3, 4, 3)).astype(np.float32),
    }
    m = one_node(node("GridSample", "x g", "y", mode=mode), feeds, {}, 20)
    same_as_onnxruntime(m, feeds, compiled=True, tolerance=1e-4)


def test_coordinates_that_are_no_numbers_stay_inside() -> None:
    feeds = {"x": np.ones((1, 1, 3, 3), np.float32), "g": np.array([[[[np.nan, 0], [np.inf, 1e30]]]], np.float32)}
    for mode in ("linear", "nearest"):
        m = one_node(node("GridSample", "x g", "y", mode=mode, padding_mode="border"), feeds, {}, 20)
        import fusec

        assert fusec.compile(m, threads=1).run(feeds)["y"].shape == (1, 1, 1, 2)


@pytest.mark.parametrize("aligned", [0, 1])
@pytest.mark.parametrize("size", [[2, 3, 4, 5], [1, 3, 2, 4, 5], [2, 3, 1, 5]])
def test_affine_grids(aligned: int, size: list[int]) -> None:
    rank = len(size) - 2
    theta = R.standard_normal((size[0], rank, rank + 1)).astype(np.float32)
    m = one_node(node("AffineGrid", "t s", "y", align_corners=aligned), {"t": theta}, {"s": np.array(size)}, 20)
    if aligned and 1 in size[2:]:
        return  # onnxruntime divides by zero
    same_as_onnxruntime(m, {"t": theta}, compiled=True)


def test_shapes_that_do_not_fit() -> None:
    x, g = np.zeros((1, 1, 3, 3), np.float32), np.zeros((1, 2, 2, 3), np.float32)
    fails(ModelError, one_node(node("GridSample", "x g", "y"), {"x": x, "g": g}, {}, 20), "GridSample", "grid")
    n = node("GridSample", "x g", "y", padding_mode="wrap")
    fails(ModelError, one_node(n, {"x": x, "g": g[..., :2]}, {}, 20), "padding_mode 'wrap'")
    theta = np.zeros((1, 2, 3), np.float32)
    m = one_node(node("AffineGrid", "t s", "y"), {"t": theta}, {"s": np.array([1, 1, 2, 2, 2])}, 20)
    fails(ModelError, m, "AffineGrid", "size")
