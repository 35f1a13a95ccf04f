"""Programs with sliced folds give what the whole program gives; what cannot be sliced stays whole."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest

from fusec.ir.dim import evaluate
from fusec.lower.split import Split, split_program
from fusec.tile.program import TileProgram
from fusec.tile.reference import run_program
from fusec.tile.text import parse_program, print_program
from fusec.tile.verify import verify_program

RNG = np.random.default_rng(5)
GEMM = """
program gemm(M, K, N)
task m: M, n: N
input x: f32[M, K], b: f32[N]
weight w: f32[K, N]
scalar c: f32
output y: f32[M, N]
stage m, n
  t = sum[k: K](x[m, k] * w[k, n])
  y[m, n] = max(t * c + b[n], 0.0)
"""
PROLOGUE = """
program prologue(M, K, N)
task m: M, n: N
input x: f32[M, K]
weight w: f32[K, N]
output y: f32[M, N]
stage m, n
  a = 1.0 / x[m, k]
  t = sum[k: K](a * w[k, n])
  y[m, n] = t
"""
CONV = """
program conv(H, C, O)
task m: H, o: O
input x: f32[H, C]
weight w: f32[3*C, O]
output y: f32[H, O]
stage m, o
  t = sum[r: 3, i: C](pad(x[m + r - 1, i], 0.0) * w[C*r + i, o])
  y[m, o] = max(t, 0.0)
"""
SOFTMAX = """
program softmax(M, K)
task m: M
input x: f32[M, K]
local h: f32[M], h1: f32[M, K], h2: f32[M]
output y: f32[M, K]
stage m
  r0 = max[k: K](x[m, k])
  h[m] = r0
stage m, k: K
  t0 = exp(x[m, k] - h[m])
  h1[m, k] = t0
stage m
  r0 = sum[k: K](h1[m, k])
  h2[m] = 1.0 / r0
stage m, k: K
  y[m, k] = h1[m, k] * h2[m]
"""
LAYER_NORM = """
program layer_norm(M, K)
task m: M
input x: f32[M, K]
weight w: f32[K]
local h: f32[M], h1: f32[M]
output y: f32[M, K], mean: f32[M], root: f32[M]
stage m
  r0 = sum[k: K](x[m, k])
  h[m] = r0 / f32(index(K))
  mean[m] = r0 / f32(index(K))
stage m
  t0 = x[m, k] - h[m]
  r0 = sum[k: K](t0 * t0)
  h1[m] = 1.0 / sqrt(r0 / f32(index(K)) + 0.00001)
stage m
  root[m] = h1[m]
stage m, k: K
  y[m, k] = (x[m, k] - h[m]) * h1[m] * w[k]
"""
EXTREMES = """
program extremes(M, K)
task m: M
input x: f32[M, K]
output y: f32[M], z: f32[M]
stage m
  a = max[k: K](x[m, k])
  b = prod[k: K](x[m, k])
  y[m] = a
  z[m] = b * a
"""
ARGMAX = """
program argmax(M, K)
task m: M
input x: f32[M, K]
output y: i64[M]
stage m
  a = argmax[k: K](x[m, k], index(k))
  y[m] = a
"""


def split(text: str, axis: str, even: bool) -> tuple[TileProgram, Split]:
    """The program and its split, every program of which keeps the rules and can be stored as text."""
    p = parse_program(text)
    found = split_program(p, axis, even)
    assert found is not None
    for x in found.programs:
        verify_program(x)
        assert parse_program(print_program(x)) == x
    return p, found


def run_split(found: Split, params: Mapping[str, int], operands: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """All programs, one after the other."""
    known, out = dict(operands), {}
    for p in found.programs:
        mine = {n: params[n] for n in p.params}
        made = run_program(p, mine, {o.name: known[o.name] for o in p.operands if o.role not in ("local", "output")})
        known |= made
        out |= made
    parts = {o.name: tuple(evaluate(d, params) for d in o.shape) for o in found.parts}
    assert {n: out.pop(n).shape for n in parts} == parts
    return out


def operands_of(p: TileProgram, params: Mapping[str, int]) -> dict[str, Any]:
    """Random ones, near 1."""
    shapes = {o.name: tuple(evaluate(d, params) for d in o.shape) for o in p.operands if o.role in ("input", "weight")}
    made: dict[str, Any] = {n: (RNG.standard_normal(s) * 0.3 + 1).astype(np.float32) for n, s in shapes.items()}
    return made | {o.name: 0.5 for o in p.operands if o.role == "scalar"}


@pytest.mark.parametrize(
    ("text", "axis", "sizes", "count"),
    [
        (GEMM, "k", {"M": 3, "K": 24, "N": 5}, 2),
        (PROLOGUE, "k", {"M": 3, "K": 24, "N": 5}, 2),
        (CONV, "i", {"H": 6, "C": 24, "O": 4}, 2),
        (SOFTMAX, "k", {"M": 2, "K": 24}, 2),
        (LAYER_NORM, "k", {"M": 2, "K": 24}, 4),
        (EXTREMES, "k", {"M": 2, "K": 24}, 2),
    ],
    ids=["gemm", "prologue", "conv", "softmax", "layer norm", "extremes"],
)
@pytest.mark.parametrize("slices", [1, 4, 6])
def test_even_slices(text: str, axis: str, sizes: dict[str, int], count: int, slices: int) -> None:
    p, found = split(text, axis, even=True)
    assert len(found.programs) == count
    operands = operands_of(p, sizes)
    want = run_program(p, sizes, operands)
    got = run_split(found, sizes | {found.slices: slices, found.length: 24 // slices}, operands)
    for name, array in want.items():
        np.testing.assert_allclose(got[name], array, rtol=1e-5, err_msg=name)


@pytest.mark.parametrize(
    ("text", "sizes"),
    [
        (GEMM, {"M": 3, "K": 23, "N": 5}),
        (PROLOGUE, {"M": 3, "K": 23, "N": 5}),
        (SOFTMAX, {"M": 2, "K": 23}),
        (LAYER_NORM, {"M": 2, "K": 23}),
        (EXTREMES, {"M": 2, "K": 23}),
    ],
    ids=["gemm", "prologue", "softmax", "layer norm", "extremes"],
)
@pytest.mark.parametrize(("slices", "length"), [(4, 6), (6, 4), (9, 3)], ids=["short end", "shorter end", "empty end"])
def test_slices_that_reach_beyond_the_end(text: str, sizes: dict[str, int], slices: int, length: int) -> None:
    p, found = split(text, "k", even=False)
    operands = operands_of(p, sizes)
    want = run_program(p, sizes, operands)
    got = run_split(found, sizes | {found.slices: slices, found.length: length}, operands)
    for name, array in want.items():
        np.testing.assert_allclose(got[name], array, rtol=1e-5, err_msg=name)


def test_a_split_product_is_a_product_of_several_matrices() -> None:
    _, found = split(GEMM, "k", even=True)
    assert (
        print_program(found.programs[0])
        == """program gemm_slices(M, N, S, L)
task s: S, m: M, n: N
input x: f32[M, S, L]
weight w: f32[S, L, N]
output p: f32[S, M, N]
stage s, m, n
  t = sum[k: L](x[m, s, k] * w[s, k, n])
  p[s, m, n] = t"""
    )
    assert (
        print_program(found.programs[1])
        == """program gemm_whole(M, N, S)
task m: M, n: N
input p: f32[S, M, N], b: f32[N]
scalar c: f32
output y: f32[M, N]
stage m, n
  t = sum[q: S](p[q, m, n])
  y[m, n] = max(t * c + b[n], 0.0)"""
    )


def test_what_cannot_be_sliced_stays_whole() -> None:
    assert split_program(parse_program(ARGMAX), "k", even=True) is None  # its state is more than its result
    assert split_program(parse_program(GEMM), "n", even=True) is None  # no fold
    # what is beyond a slice of the channels is the next tap's weight
    assert split_program(parse_program(CONV), "i", even=False) is None


@pytest.mark.parametrize("even", [True, False])
def test_softmax_of_rows_with_infinities_and_nan(even: bool) -> None:
    p, found = split(SOFTMAX, "k", even)
    length = 24 if even else 23
    x = RNG.standard_normal((6, length)).astype(np.float32)
    x[0, :12] = -np.inf  # slices without a number
    x[1] = -np.inf
    x[2, 5] = np.inf
    x[3, 5] = np.nan
    x[4] = np.linspace(-500, 500, length)
    sizes = {"M": 6, "K": length}
    with np.errstate(all="ignore"):
        want = run_program(p, sizes, {"x": x})["y"]
        got = run_split(found, sizes | {found.slices: 4, found.length: 6}, {"x": x})["y"]
    np.testing.assert_allclose(got, want, rtol=1e-5)
    assert np.isnan(want[1:4]).all() and not np.isnan(want[[0, 4, 5]]).any()
