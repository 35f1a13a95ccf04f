"""Transposes through registers, of every size around that of a square, with work on the way."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from fusec.target import Target
from fusec.tile.text import parse_program
from fusec.tiling.choose import menu

Check = Callable[..., dict[str, Any]]
rng = np.random.default_rng(0)

PLAIN = """
program plain(B, M, N)
task b: B, i: M, j: N
input x: {t}[B, N, M], z: {t}[B, M, N], r: {t}[N]
output y: {t}[B, M, N]
stage b, i, j
  y[b, i, j] = max(x[b, j, i] + z[b, i, j], r[j])
"""


@pytest.mark.parametrize("dtype", ["f32", "f64", "f16", "i8", "i64"])
@pytest.mark.parametrize("rows", [8, 16])
def test_transposes(check: Check, dtype: str, rows: int) -> None:
    for m, n in ((1, 1), (7, 9), (16, 8), (17, 33), (64, 15), (40, 16)):
        x, z, r = (rng.integers(0, 50, s) for s in ((2, n, m), (2, m, n), (n,)))
        params, operands = {"B": 2, "M": m, "N": n}, {"x": x, "z": z, "r": r}
        check(PLAIN.format(t=dtype), ["j"], params, operands, tile={"b": 1, "i": 16, "j": 24}, rows=rows)


HEADS = """
program heads(B, T, H, D)
task b: B, h: H, t: T
input x: f32[B, T, H, D], z: f32[B, H, D, T]
output y: f32[B, H, D, T], w: f32[B, H, T, D]
stage b, h, t, d: D
  y[b, h, d, t] = x[b, t, h, d] * 2.0
  w[b, h, t, d] = z[b, h, d, t]
"""


@pytest.mark.parametrize("lane", ["t", "d"])
def test_an_axis_in_the_middle(check: Check, lane: str) -> None:
    for t, d in ((5, 20), (33, 8), (18, 17)):
        params = {"B": 2, "T": t, "H": 3, "D": d}
        operands = {
            "x": rng.standard_normal((2, t, 3, d)).astype(np.float32),
            "z": rng.standard_normal((2, 3, d, t)).astype(np.float32),
        }
        check(HEADS, [lane], params, operands, tile={"b": 1, "h": 2, "t": 20}, rows=8)


PIXELS = """
program channels_last(N, C, P, Q)
task n: N, m: P*Q, c: C
input x: f32[N, C, P, Q]
output y: f32[N, P*Q, C]
stage n, m, c
  y[n, m, c] = x[n, c, m // Q, m % Q]
"""


def test_merged_pixels(check: Check) -> None:
    for p, q, c in ((3, 40, 3), (5, 7, 19), (1, 33, 16)):
        x = rng.standard_normal((2, c, p, q)).astype(np.float32)
        check(PIXELS, ["c"], {"N": 2, "C": c, "P": p, "Q": q}, {"x": x}, tile={"n": 1, "m": 29}, rows=16)


def test_the_menu_turns_what_is_contiguous_along_another_axis() -> None:
    for text, lane in ((PLAIN.format(t="f32"), "j"), (PIXELS, "c")):
        (kernel,) = menu(parse_program(text), Target("cpu", "avx2"))
        (stage,) = kernel.tiling.stages
        assert (stage.lane, stage.rows) == (lane, 16)
