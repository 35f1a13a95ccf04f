"""Convolutions whose vectors hold the filters of several groups, against the interpreter."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from fusec.kernels.kernel import Kernel
from fusec.target import Target, runs_here
from fusec.tile.reference import run_program
from fusec.tile.text import parse_program
from fusec.tiling.choose import menu

Execute = Callable[..., tuple[dict[str, Any], Any]]
LEVELS = [n for n in ("generic", "avx2", "avx512", "neon") if runs_here(n)]
rng = np.random.default_rng(0)

GROUPED = """
program grouped(H, W, P, Q, O)
task p: P, q: Q, o: O
input x: f32[H, W, O], b: f32[O]
weight w: f32[{rows}, O]
output y: f32[P, Q, O]
stage p, q, o
  t = sum[r: 3, s: 3, k: {c}](pad(x[p*{d} + r - 1, q*{d} + s - 1, o // {c} * {c} + k], 0.0) * w[{c}*(3*r + s) + k, o])
  y[p, q, o] = max(t + b[o], 0.0)
"""


@pytest.mark.parametrize("c", [2, 4])
@pytest.mark.parametrize("stride", [1, 2])
def test_grouped_windows(execute: Execute, c: int, stride: int) -> None:
    program = parse_program(GROUPED.format(c=c, rows=9 * c, d=stride))
    for h, w, groups in ((1, 1, 1), (5, 7, 3), (6, 20, 5), (4, 9, 40)):
        p, q, o = -(-h // stride), -(-w // stride), groups * c
        params = {"H": h, "W": w, "P": p, "Q": q, "O": o}
        shapes = {"x": (h, w, o), "b": (o,), "w": (9 * c, o)}
        operands = {n: rng.standard_normal(s).astype(np.float32) for n, s in shapes.items()}
        want = run_program(program, params, operands)["y"]
        for level in LEVELS:
            (kernel,) = menu(program, Target("cpu", level), [params])
            assert isinstance(kernel, Kernel)
            assert kernel.tiling.stages[0].lane == "o"
            got, _ = execute(kernel, level, params, operands)
            np.testing.assert_allclose(got["y"].reshape(want.shape), want, 1e-4, 1e-4)
            again, _ = execute(kernel, level, params, operands, [1] * kernel.bind(params).tiles)
            assert np.array_equal(again["y"], got["y"])
