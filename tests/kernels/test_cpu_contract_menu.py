"""The kernels that tiling chooses, run: every entry of a menu gives the right answer for the sizes that it takes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fusec.ir.dim import evaluate
from fusec.kernels.cpu.build import build_all
from fusec.kernels.cpu.emit import class_key
from fusec.target import Target, runs_here
from fusec.tile.program import TileProgram
from fusec.tile.reference import run_program
from fusec.tile.text import parse_program
from fusec.tiling.choose import choose, menu

Execute = Callable[..., tuple[dict[str, Any], Any]]
LEVELS = [name for name in ("generic", "avx2", "avx512", "neon") if runs_here(name)]
PROGRAMS = {
    "bias": """
program bias(M, K, N)
task m: M, n: N
input x: f32[M, K], b: f32[N]
weight w: f32[K, N]
output y: f32[M, N]
stage m, n
  t = sum[k: K](x[m, k] * w[k, n])
  y[m, n] = max(t + b[n], 0.0)
""",
    "transposed": """
program transposed(M, K, N)
task m: M, n: N
input x: f32[K, M], w: f32[N, K]
output y: f32[N, M]
stage m, n
  t = sum[k: K](x[k, m] * w[n, k])
  y[n, m] = t
""",
    "normalised": """
program normalised(M, K, N)
task m: M, n: N
input x: f32[M, K]
weight w: f32[K, N]
local a: f32[M], v: f32[M]
output y: f32[M, N]
stage m
  s = sum[k: K](x[m, k])
  a[m] = s * 0.125
stage m
  q = sum[k: K]((x[m, k] - a[m]) * (x[m, k] - a[m]))
  v[m] = 1.0 / sqrt(q + 1.0)
stage m, n
  t = sum[k: K]((x[m, k] - a[m]) * v[m] * w[k, n])
  y[m, n] = t / (1.0 + exp(0.0 - t))
""",
    "chain": """
program chain(M, K, N)
task m: M
input x: f32[M, K]
weight w: f32[K, 40], v: f32[40, N]
local h: f32[M, 40]
output y: f32[M, N]
stage m, l: 40
  t = sum[k: K](x[m, k] * w[k, l])
  h[m, l] = max(t, 0.0)
stage m, n: N
  u = sum[l: 40](h[m, l] * v[l, n])
  y[m, n] = u + 1.0
""",
    "attention": """
program attention(M, K, N)
task b: 2, m: M
input q: f32[2, M, K], p: f32[2, N, K], v: f32[2, N, 9]
local s: f32[2, M, N], top: f32[2, M], z: f32[2, M]
output y: f32[2, M, 9]
stage b, m, j: N
  u = sum[k: K](q[b, m, k] * p[b, j, k])
  s[b, m, j] = u * 0.25
stage b, m
  h = max[j: N](s[b, m, j])
  top[b, m] = h
stage b, m
  w = sum[j: N](exp(s[b, m, j] - top[b, m]))
  z[b, m] = 1.0 / w
stage b, m, e: 9
  o = sum[j: N](exp(s[b, m, j] - top[b, m]) * v[b, j, e])
  y[b, m, e] = o * z[b, m]
""",
    "integers": """
program integers(M, K, N)
task m: M, n: N
input x: u8[M, K], zero: i32[N]
weight w: i8[K, N]
output y: i32[M, N]
stage m, n
  t = sum[k: K]((i32(x[m, k]) - 7) * (i32(w[k, n]) - zero[n]))
  y[m, n] = t
""",
}
parsed = {name: parse_program(text) for name, text in PROGRAMS.items()}


def operands_of(program: TileProgram, params: dict[str, int], seed: int) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    out = {}
    for o in program.operands:
        if o.role in ("input", "weight"):
            shape = [evaluate(d, params) for d in o.shape]
            dtype = o.dtype.numpy
            small = rng.integers(0, 100, shape) if o.dtype.is_integer else rng.standard_normal(shape)
            out[o.name] = small.astype(dtype)
    return out


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("name", PROGRAMS)
def test_chosen_kernels(execute: Execute, name: str, level: str) -> None:
    program = parsed[name]
    kernels = menu(program, Target("cpu", level))

    @settings(max_examples=25, deadline=None, derandomize=True)
    @given(
        m=st.one_of(st.integers(0, 8), st.integers(9, 150)),
        k=st.integers(0, 40),
        n=st.one_of(st.integers(1, 40), st.integers(41, 200)),
        cut=st.floats(0, 1),
    )
    def right(m: int, k: int, n: int, cut: float) -> None:
        params = {"M": m, "K": k, "N": n}
        kernel = choose(kernels, params)
        operands = operands_of(program, params, m + k + n)
        tiles = kernel.bind(params).tiles
        first = int(cut * tiles)
        got, status = execute(kernel, level, params, operands)
        assert not status.any()
        expected = run_program(program, params, operands)["y"]
        y = got["y"].reshape(expected.shape)
        scale = 1e-4 * max(1.0, float(np.abs(expected).max(initial=0.0)))
        np.testing.assert_allclose(y.astype(np.float64), expected.astype(np.float64), 1e-4, scale)
        again, _ = execute(kernel, level, params, operands, [first, tiles - first])
        np.testing.assert_array_equal(again["y"].view(np.uint8), got["y"].view(np.uint8))

    right()


def test_every_menu_builds_for_machines_that_are_not_here() -> None:
    if runs_here("neon"):
        pytest.skip("no x86-64")
    target = Target("cpu", "avx512")
    kernels = [k for p in parsed.values() for k in menu(p, target)]
    made = build_all(kernels, target)
    assert set(made) == {class_key(k, target) for k in kernels}
