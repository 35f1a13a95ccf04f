"""Rows of a few elements, whose lanes run over the axis around them as well; and scatters of such rows."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from fusec.kernels.cpu.short_rows import short_rows
from fusec.target import Target
from fusec.tile.text import parse_program
from fusec.tiling.choose import menu

Check = Callable[..., dict[str, Any]]
rng = np.random.default_rng(0)

BROADCAST = """
program broadcast(B, I)
task b: B, i: I, j: {k}
input x: {t}[B, I], r: {t}[B, {k}], z: {t}[B, I, {k}]
output y: {t}[B, I, {k}]
stage b, i, j
  y[b, i, j] = max(x[b, i] * r[b, j] + z[b, i, j], x[b, i])
"""


@pytest.mark.parametrize("dtype", ["f32", "f64", "f16", "bf16", "i8", "i64"])
@pytest.mark.parametrize("k", [2, 3, 4, 6])
def test_broadcasts_along_both_axes(check: Check, dtype: str, k: int) -> None:
    text = BROADCAST.format(t=dtype, k=k)
    program = parse_program(text)
    assert short_rows(program, program.stages[0], "j")
    for i in (1, 7, 8, 33, 50):
        x, r, z = (rng.integers(-5, 6, s) for s in ((2, i), (2, k), (2, i, k)))
        check(text, ["j"], {"B": 2, "I": i}, {"x": x, "r": r, "z": z}, tile={"b": 1, "i": 16})


SCATTER = """
program scatter(N, E, I)
task i: I, j: 3
input p: i64[E], x: f32[E, I], r: f32[E, 3], z: f32[N, I, 3]
local h: f32[N, I, 3]
output y: f32[N, I, 3]
stage i, j, n: N
  h[n, i, j] = z[n, i, j]
stage i, j, e: E
  t = p[e]
  h[t, i, j] = h[t, i, j] + x[e, i] * r[e, j]
stage n: N, i, j
  y[n, i, j] = h[n, i, j]
"""


def test_scattered_rows(check: Check) -> None:
    for i in (1, 8, 21, 40):
        operands: dict[str, Any] = {"p": rng.integers(0, 5, 30)}
        shapes = {"x": (30, i), "r": (30, 3), "z": (5, i, 3)}
        operands |= {n: rng.integers(-4, 5, s).astype(np.float32) for n, s in shapes.items()}
        check(SCATTER, ["j", "j", "j"], {"N": 5, "E": 30, "I": i}, operands, tile={"i": 16})


def test_the_menu_takes_rows_where_lanes_would_be_empty() -> None:
    (kernel, *_) = menu(parse_program(BROADCAST.format(t="f32", k=3)), Target.parse("cpu:avx2"))
    assert kernel.tiling.stages[0].lane == "j"
    assert kernel.bind({"B": 1, "I": 1000}).tile["i"] >= 64


@pytest.mark.parametrize(
    "change", [("x[b, i] *", "x[i, b] *"), ("r[b, j]", "f32(index(j))"), ("z[b, i, j]", "z[b, i, 2 - j]")]
)
def test_what_makes_no_rows(change: tuple[str, str]) -> None:
    program = parse_program(BROADCAST.format(t="f32", k=3).replace(*change))
    assert short_rows(program, program.stages[0], "j") is None
