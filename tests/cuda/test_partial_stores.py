"""Guarded stores on CUDA, emulated: points whose index is outside write nothing."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
from cuda_kernels import check_program

from fusec.kernels.cuda.emulator.build import compiler

sys.path.insert(0, str(Path(__file__).parents[1] / "kernels"))
from test_cpu_winograd import PARTIAL


@pytest.mark.skipif(compiler() is None, reason="no C++ compiler")
@pytest.mark.parametrize("lanes", [("q", "n"), ("m", "m")])
@pytest.mark.parametrize("size", [(1, 1), (5, 17), (4, 41), (3, 64)])
def test_partial_stores(lanes: tuple[str, str], size: tuple[int, int]) -> None:
    x = np.random.default_rng(2).standard_normal(size).astype(np.float32)
    stages = [("points", lane) for lane in lanes]
    check_program(PARTIAL.format(t="f32"), stages, {"M": size[0], "N": size[1]}, {"x": x}, tile={"m": 2})
