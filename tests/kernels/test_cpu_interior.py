"""The interior of a lane axis: borders of paddings and windows, whose vectors run another body than those inside."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from fusec.ir.dim import evaluate
from fusec.kernels.cpu.blocks import one_point
from fusec.kernels.cpu.interior import interior
from fusec.tile.text import parse_program

Check = Callable[..., dict[str, Any]]
rng = np.random.default_rng(0)

PAD = """
program padded(I, D, P)
task i: I, p: P
input x: f32[I, D]
output y: f32[I, P]
stage i, p
  y[i, p] = {value}
"""
VALUES = {
    "reflect": "x[i, min(2*D - 2 - max(-p + 2, p - 2), max(-p + 2, p - 2))]",
    "edge": "x[i, max(0, min(p - 2, D - 1))]",
    "constant": "pad(x[i, p - 2], 3.0)",
    "two": "pad(x[i, p - 2], 3.0) + x[i, max(0, min(p - 1, D - 1))]",
}
POOL = """
program pool(I, J, D, Q, P)
task i: I, j: J, p: P
input x: f32[I, D, Q]
output y: f32[I, J, P]
stage i, j, p
  t = {fold}[r: 3, s: 3](pad(x[i, {step}*j + r - 1, {step}*p + s - 1], {fill}))
  y[i, j, p] = t * 0.5
"""
NORMALISED = """
program normalised(I, D)
task i: I
input x: f32[I, D]
local h: f32[I, D]
output y: f32[I, D]
stage i, k: D
  h[i, k] = exp(x[i, k])
stage i, k: D
  y[i, k] = h[i, k] * pad(x[i, k - 1], 2.0)
"""


@pytest.mark.parametrize("value", VALUES)
@pytest.mark.parametrize("d", [3, 4, 7, 8, 13, 20, 32, 45, 61])
def test_borders(check: Check, value: str, d: int) -> None:
    x = rng.standard_normal((3, d)).astype(np.float32)
    params = {"I": 3, "D": d, "P": d + 4}
    check(PAD.format(value=VALUES[value]), ["p"], params, {"x": x}, tile={"i": 2, "p": 24})
    check(PAD.format(value=VALUES[value]), ["p"], params, {"x": x}, tile={"i": 3, "p": 256})


@pytest.mark.parametrize("rows", [1, 4])
@pytest.mark.parametrize(("step", "p"), [(1, 1), (1, 5), (1, 8), (1, 27), (2, 3), (2, 8), (2, 13), (2, 28)])
def test_windows(check: Check, step: int, p: int, rows: int) -> None:
    params = {"I": 2, "J": 5, "D": 5 * step, "Q": p * step, "P": p}
    x = rng.standard_normal((2, 5 * step, p * step)).astype(np.float32)
    for fold, fill in (("max", "-inf"), ("sum", "0.0")):
        text = POOL.format(fold=fold, fill=fill, step=step)
        check(text, ["p"], params, {"x": x}, tile={"i": 1, "j": 5, "p": 64}, rows=rows)
        x[0, 2, p // 2] = np.nan


def test_rows_in_the_memory_of_the_output_are_computed_once(check: Check) -> None:
    for d in (1, 8, 9, 13, 40, 61):
        x = rng.standard_normal((3, d)).astype(np.float32)
        check(NORMALISED, ["k", "k"], {"I": 3, "D": d}, {"x": x}, tile={"i": 2})


@pytest.mark.parametrize(
    ("value", "low", "high"), [("reflect", 2, 22), ("edge", 2, 22), ("constant", 2, 22), ("two", 2, 21)]
)
def test_where_the_interior_is(value: str, low: int, high: int) -> None:
    program = parse_program(PAD.format(value=VALUES[value]))
    found = interior(program, one_point(program.stages[0], None, 1), "p", program.axis)
    assert found is not None
    assert [evaluate(x, {"D": 20}) for x in found[1]] == [low, high]


def test_what_is_the_same_everywhere_has_no_interior() -> None:
    for value in ("x[i, p + 2]", "x[i, 2*p]", "x[i, mod(p, D)]"):
        program = parse_program(PAD.format(value=value))
        assert interior(program, one_point(program.stages[0], None, 1), "p", program.axis) is None
