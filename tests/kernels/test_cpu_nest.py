"""Stages as loop nests: every access class, every fold shape, tails of every length, against the interpreter."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

Check = Callable[..., dict[str, Any]]
rng = np.random.default_rng(0)


def floats(*shape: int) -> Any:
    return rng.standard_normal(shape).astype(np.float32)


ADD = """
program add(M, N)
task m: M
input x: f32[M, N], b: f32[N], c: f32[M, 1]
scalar s: f32
output y: f32[M, N]
stage m, n: N
  t = x[m, n] * s + b[n]
  y[m, n] = max(t, 0.0) - c[m, 0]
"""


@pytest.mark.parametrize("n", range(34))
def test_broadcasting_and_every_tail(check: Check, n: int) -> None:
    check(ADD, ["n"], {"M": 3, "N": n}, {"x": floats(3, n), "b": floats(n), "c": floats(3, 1), "s": 1.5}, tile={"m": 2})


@pytest.mark.parametrize("lane", ["m", ""])
def test_other_lanes(check: Check, lane: str) -> None:
    check(ADD, [lane], {"M": 21, "N": 5}, {"x": floats(21, 5), "b": floats(5), "c": floats(21, 1), "s": 1.5}, tile={"m": 6})


SOFTMAX = """
program softmax(M, N)
task m: M
input x: f32[M, N]
local e: f32[M, N]
output y: f32[M, N]
local t: f32[M], d: f32[M]
stage m
  h = max[n: N](x[m, n])
  t[m] = h
stage m
  s = sum[n: N](exp(x[m, n] - t[m]))
  d[m] = 1.0 / s
stage m, n: N
  y[m, n] = exp(x[m, n] - t[m]) * d[m]
"""


@pytest.mark.parametrize("n", [0, 1, 3, 4, 7, 8, 9, 15, 16, 17, 31, 32, 33, 65, 100, 1000])
def test_softmax(check: Check, n: int) -> None:
    check(SOFTMAX, ["n", "n", "n"], {"M": 5, "N": n}, {"x": floats(5, n)}, tile={"m": 2})
