"""Contractions with a single column: matrices times a vector, convolutions with one filter."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from fusec.kernels.cpu.contract_dot import is_dot
from fusec.kernels.cpu.contract_form import contraction
from fusec.target import ISAS, Target, runs_here
from fusec.tile.reference import run_program
from fusec.tile.text import parse_program
from fusec.tiling.choose import choose, menu

Execute = Callable[..., tuple[dict[str, Any], Any]]
LEVELS = [name for name in ("generic", "avx2", "avx512", "neon") if runs_here(name)]
if runs_here("avx2"):
    LEVELS.append("wide")
rng = np.random.default_rng(0)

VECTOR = """
program vector(B, M, K)
task b: B, m: M, n: 1
input x: {t}[B, M, K], s: {t}[M]
weight w: {t}[K, 1]
output y: {t}[B, M, 1]
stage b, m, n
  t = sum[k: K](x[b, m, k] * w[k, n])
  y[b, m, n] = max(t + s[m], 0.0)
"""

FILTER = """
program filter(N, H, W, P, Q, C)
task n: N, m: P*Q, o: 1
input x: f32[N, H, W, C]
weight w: f32[3*3*C, 1]
output y: f32[N, P*Q, 1]
stage n, m, o
  t = sum[r: 3, s: 3, i: C](pad(x[n, (m // Q)*2 + r - 1, (m % Q)*2 + s - 1, i], 0.0) * w[(r*3 + s)*C + i, o])
  y[n, m, o] = t * 0.5
"""

BEHIND = """
program behind(M, K)
task m: M
input x: f32[M, K]
weight w: f32[K, 24], v: f32[24, 1]
local h: f32[M, 24]
output y: f32[M, 1]
stage m, l: 24
  t = sum[k: K](x[m, k] * w[k, l])
  h[m, l] = max(t, 0.0)
stage m, n: 1
  u = sum[l: 24](h[m, l] * v[l, n])
  y[m, n] = u + 1.0
"""


def agree(execute: Execute, text: str, level: str, params: dict[str, int], shapes: dict[str, tuple[int, ...]]) -> None:
    program = parse_program(text)
    kernel = choose(menu(program, Target("cpu", level)), params)
    operands = {n: rng.standard_normal(s).astype(program.operand[n].dtype.numpy) for n, s in shapes.items()}
    got, status = execute(kernel, level, params, operands)
    expected = run_program(program, params, operands)["y"]
    assert not status.any()
    np.testing.assert_allclose(got["y"].reshape(expected.shape), expected, 2e-5, 2e-5)
    tiles = kernel.bind(params).tiles
    again, _ = execute(kernel, level, params, operands, [tiles // 2, tiles - tiles // 2])
    np.testing.assert_array_equal(again["y"].view(np.uint8), got["y"].view(np.uint8))


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("dtype", ["f32", "f64"])
def test_matrix_times_vector(execute: Execute, level: str, dtype: str) -> None:
    for m in (0, 1, 3, 8, 9, 64, 130):
        for k in (0, 1, 8, 9, 33):
            shapes = {"x": (2, m, k), "s": (m,), "w": (k, 1)}
            agree(execute, VECTOR.format(t=dtype), level, {"B": 2, "M": m, "K": k}, shapes)


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("channels", [1, 8, 13])
def test_one_filter(execute: Execute, level: str, channels: int) -> None:
    for h, w in ((3, 5), (16, 17)):
        sizes = {"H": h, "W": w, "P": (h + 1) // 2, "Q": (w + 1) // 2}
        shapes = {"x": (2, h, w, channels), "w": (9 * channels, 1)}
        agree(execute, FILTER, level, {"N": 2, "C": channels, **sizes}, shapes)


@pytest.mark.parametrize("level", LEVELS)
def test_one_column_behind_a_product(execute: Execute, level: str) -> None:
    for m in (1, 6, 70):
        agree(execute, BEHIND, level, {"M": m, "K": 5}, {"x": (m, 5), "w": (5, 24), "v": (24, 1)})


@pytest.mark.skipif(not runs_here("avx2"), reason="needs masked loads")
def test_which_contractions_are_meant() -> None:
    """One column, known as such, and rows that lie along the sum."""

    def meant(text: str) -> bool:
        program = parse_program(text)
        form = contraction(program.stages[-1])
        return form is not None and is_dot(program, form, ISAS["avx2"])

    plain = VECTOR.format(t="f32")
    assert meant(plain) and meant(FILTER) and meant(BEHIND)
    assert not meant(plain.replace("n: 1", "n: 2").replace("[K, 1]", "[K, 2]").replace("[B, M, 1]", "[B, M, 2]"))
    assert not meant(plain.replace("x[b, m, k]", "x[b, k, m]").replace("x: f32[B, M, K]", "x: f32[B, K, M]"))
    assert not meant(plain.replace("x[b, m, k] *", "exp(x[b, m, k]) *"))
