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
    check(
        ADD,
        [lane],
        {"M": 21, "N": 5},
        {"x": floats(21, 5), "b": floats(5), "c": floats(21, 1), "s": 1.5},
        tile={"m": 6},
    )


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


def program_of(head: str, *lines: str) -> str:
    return "\n".join([head, *lines])


LAYER_NORM = """
program layer_norm(M, N)
task m: M
input x: f32[M, N], g: f32[N], b: f32[N]
scalar eps: f32, count: f32
local mean: f32[M], scale: f32[M]
output y: f32[M, N]
stage m
  s = sum[n: N](x[m, n])
  mean[m] = s / count
stage m
  d = x[m, n] - mean[m]
  v = sum[n: N](d * d)
  scale[m] = 1.0 / sqrt(v / count + eps)
stage m, n: N
  y[m, n] = (x[m, n] - mean[m]) * scale[m] * g[n] + b[n]
"""


@pytest.mark.parametrize("n", [1, 5, 8, 16, 33, 64, 129, 768])
@pytest.mark.parametrize("lane", ["n", ""])
def test_layer_norm(check: Check, n: int, lane: str) -> None:
    operands = {"x": floats(7, n), "g": floats(n), "b": floats(n), "eps": 1e-5, "count": float(n)}
    check(LAYER_NORM, [lane] * 3, {"M": 7, "N": n}, operands, tile={"m": 3}, rtol=1e-4, atol=1e-5)


COLUMNS = """
program columns(M, N)
task n: N
input x: f32[M, N]
output s: f32[N], p: f32[N], h: f32[N], l: f32[N]
stage n
  a = sum[m: M](x[m, n])
  b = prod[m: M](x[m, n])
  c = max[m: M](x[m, n])
  d = min[m: M](x[m, n])
  s[n] = a
  p[n] = b
  h[n] = c
  l[n] = d
"""


@pytest.mark.parametrize("n", [1, 4, 13, 32, 70])
@pytest.mark.parametrize("lane", ["n", "m", ""])
@pytest.mark.parametrize("m", [0, 1, 9, 40])
def test_column_folds(check: Check, n: int, lane: str, m: int) -> None:
    x = floats(m, n)
    if m:
        x[0, 0] = np.nan
    check(COLUMNS, [lane], {"M": m, "N": n}, {"x": x}, tile={"n": 24}, rtol=1e-4)


ARGMAX = """
program argmax(M, N)
task m: M
input x: {t}[M, N]
output y: i64[M], z: i64[M], u: bool[M], w: bool[M]
stage m
  a = argmax[n: N](x[m, n], index(n))
  b = argmin[n: N](x[m, n], index(n))
  c = any[n: N](x[m, n] > {one})
  d = all[n: N](x[m, n] < {two})
  y[m] = a
  z[m] = b
  u[m] = c
  w[m] = d
"""


@pytest.mark.parametrize("dtype", ["f32", "i8", "u8", "i64", "f16", "bf16", "f64", "i16"])
@pytest.mark.parametrize("lane", ["n", "m", ""])
def test_argmax_and_logic(check: Check, dtype: str, lane: str) -> None:
    is_float = dtype in ("f32", "f16", "bf16", "f64")
    text = ARGMAX.format(t=dtype, one="1.0" if is_float else "1", two="2.0" if is_float else "2")
    for n in (1, 7, 40, 67):
        x = rng.integers(0, 4, (9, n)).astype(np.float32)
        if is_float:
            x[2, n // 2] = np.nan
        check(text, [lane], {"M": 9, "N": n}, {"x": x}, tile={"m": 4})


DTYPES = """
program dtypes(M, N)
task m: M
input x: {t}[M, N], r: {t}[N], k: {t}[M, 1]
output y: {t}[M, N], z: {t}[N, M], c: bool[M, N]
stage m, n: N
  v = max(x[m, n] + r[n], k[m, 0])
  y[m, n] = v
  z[n, m] = v
  c[m, n] = v > r[n]
"""


@pytest.mark.parametrize("dtype", ["f64", "f32", "f16", "bf16", "i64", "i32", "i16", "i8", "u64", "u32", "u16", "u8"])
@pytest.mark.parametrize("lane", ["n", "m"])
def test_dtypes_and_transposed_stores(check: Check, dtype: str, lane: str) -> None:
    for n in (3, 8, 21):
        x, r, k = (rng.integers(0, 50, s) for s in ((11, n), (n,), (11, 1)))
        check(DTYPES.format(t=dtype), [lane], {"M": 11, "N": n}, {"x": x, "r": r, "k": k}, tile={"m": 5})


STRIDES = """
program strides(M, N)
task i: N
input x: f32[N, M], z: f32[2*N*M + 3]
output y: f32[M, N], w: f32[M, N], v: f32[N*M]
stage i, j: M
  y[j, i] = x[i, j]
  w[j, i] = z[2*i*M + 2*j + 3]
  v[i*M + j] = x[N - 1 - i, M - 1 - j] + f32(index(i*M + j))
"""


@pytest.mark.parametrize("lane", ["i", "j", ""])
def test_transposes_and_strides(check: Check, lane: str) -> None:
    for m, n in ((1, 1), (5, 19), (17, 9), (32, 32)):
        check(STRIDES, [lane], {"M": m, "N": n}, {"x": floats(n, m), "z": floats(2 * n * m + 3)}, tile={"i": 7})


RESHAPE = """
program reshape(M, N, K)
task i: M*N
input x: {t}[N, M], z: f32[M, N]
output y: {t}[M*N], w: f32[M*N]
stage i
  y[i] = x[mod(i, N), floordiv(i, N)]
  w[i] = z[min(M - 1, ceildiv(i, K)), max(0, N - 1 - i)] + f32(index(mod(i + 3, K)))
"""


@pytest.mark.parametrize("dtype", ["f32", "i8", "f16", "f64"])
@pytest.mark.parametrize("lane", ["i", ""])
def test_indices_that_are_not_affine(check: Check, dtype: str, lane: str) -> None:
    for m, n, k in ((3, 5, 2), (1, 40, 7), (23, 9, 1)):
        operands = {"x": rng.integers(0, 100, (n, m)), "z": floats(m, n)}
        check(RESHAPE.format(t=dtype), [lane], {"M": m, "N": n, "K": k}, operands, tile={"i": 31})


CONVOLUTION = """
program window(N, C, H, W, P)
task n: N, c: C
input x: {t}[N, C, H, W]
output y: {t}[N, C, H, W], z: {t}[N, C, H, W]
stage n, c, h: H, w: W
  a = max[r: 3, s: 3](pad(x[n, c, h + r - P, w + s - P], {low}))
  b = sum[r: 3, s: 3](pad(x[n, c, h + r - P, w + s - P], {zero}))
  y[n, c, h, w] = a
  z[n, c, h, w] = b
"""


@pytest.mark.parametrize("dtype", ["f32", "i8", "f16", "f64", "i32", "bool"])
@pytest.mark.parametrize("lane", ["w", "c", "s", ""])
def test_guarded_windows(check: Check, dtype: str, lane: str) -> None:
    low, zero = {"f": ("-inf", "0.0"), "i": ("-100", "0"), "b": ("False", "False")}[dtype[0]]
    text = CONVOLUTION.format(t=dtype, low=low, zero=zero)
    if dtype == "bool":
        text = text.replace("max[", "any[").replace("sum[", "all[")
    for h, w in ((1, 1), (5, 7), (4, 19)):
        x = rng.integers(0, 2 if dtype == "bool" else 20, (2, 3, h, w))
        check(text, [lane], {"N": 2, "C": 3, "H": h, "W": w, "P": 1}, {"x": x}, tile={"n": 1, "c": 2})


GATHER = """
program gather(V, D, T)
task t: T
input table: {t}[V, D], ids: {k}[T], each: {k}[T, D]
output y: {t}[T, D], z: {t}[T, D]
stage t, d: D
  y[t, d] = table[ids[t], d]
  z[t, d] = table[each[t, d], d]
"""


@pytest.mark.parametrize("dtype", ["f32", "i8", "f16", "f64"])
@pytest.mark.parametrize("lane", ["d", "t", ""])
@pytest.mark.parametrize("kind", ["i64", "i32"])
def test_gathers(check: Check, dtype: str, lane: str, kind: str) -> None:
    for d in (1, 8, 21):
        operands = {
            "table": rng.integers(0, 99, (17, d)),
            "ids": rng.integers(0, 17, 10),
            "each": rng.integers(0, 17, (10, d)),
        }
        check(GATHER.format(t=dtype, k=kind), [lane], {"V": 17, "D": d, "T": 10}, operands, tile={"t": 3})


@pytest.mark.parametrize("level", ["generic", "avx2"])
@pytest.mark.parametrize("lane", ["d", "t", ""])
def test_an_index_out_of_range_is_reported_and_reads_zero(execute: Any, level: str, lane: str) -> None:
    from fusec.kernels.kernel import Kernel, StageTiling, Tiling
    from fusec.target import runs_here
    from fusec.tile.text import parse_program

    if not runs_here(level):
        pytest.skip(f"no {level}")
    p = parse_program(GATHER.format(t="f32", k="i64"))
    kernel = Kernel(p, Tiling((("t", 4),), (StageTiling("nest", lane),)))
    table, ids, each = floats(6, 11), np.arange(9) % 6, rng.integers(0, 6, (9, 11))
    for place, bad in ((("ids", 7), 6), (("ids", 2), -1), (("each", (3, 10)), 10**12), (("each", (8, 4)), -(2**62))):
        operands = {"table": table.copy(), "ids": ids.copy(), "each": each.copy()}
        operands[place[0]][place[1]] = bad
        got, status = execute(kernel, level, {"V": 6, "D": 11, "T": 9}, operands)
        assert status.tolist() == [1, 0, bad, 0]
        refused = [(t, d) for t in range(9) for d in range(11)]
        for t, d in refused:
            i, j = int(operands["ids"][t]), int(operands["each"][t, d])
            assert got["y"][t, d] == (table[i, d] if 0 <= i < 6 else 0.0)
            assert got["z"][t, d] == (table[j, d] if 0 <= j < 6 else 0.0)


CHAIN = """
program chain(M, N)
task m: M, n: N
input x: f32[M, N]
local h: f32[M, K2], t: f32[M, N]
output y: f32[M, N]
stage m, n
  t[m, n] = exp(x[m, n])
stage m, n
  y[m, n] = t[m, n] * t[m, n] + t[m, n]
""".replace("h: f32[M, K2], ", "")


def test_locals_of_two_task_axes(check: Check) -> None:
    for n in (1, 9, 30):
        check(CHAIN, ["n", "n"], {"M": 11, "N": n}, {"x": floats(11, n)}, tile={"m": 4, "n": 7})


CAUSAL = """
program causal(T, S)
task t: T
input x: f32[T, S]
local e: f32[T, S]
output y: f32[T, S]
stage t, s: S
  e[t, s] = where(index(s) <= index(t), x[t, s], -inf)
stage t, s: S
  h = max[k: S](e[t, k])
  d = sum[k: S](exp(e[t, k] - h))
  y[t, s] = exp(e[t, s] - h) / d
"""


@pytest.mark.parametrize("lanes", [("s", "k"), ("s", "s"), ("", "")])
def test_folds_that_need_folds(check: Check, lanes: tuple[str, str]) -> None:
    for s in (1, 6, 20):
        check(CAUSAL, list(lanes), {"T": 9, "S": s}, {"x": floats(9, s)}, tile={"t": 2})


def test_long_chains_of_shared_lets(check: Check) -> None:
    """Neither recursion nor tree walks: every let is used twice, three hundred deep, in and after a fold."""
    inner = ["  a0 = x[m, n] * 0.5"] + [f"  a{k} = a{k - 1} * 0.5 + a{k - 1} * 0.4999" for k in range(1, 300)]
    outer = ["  b0 = s * 0.5"] + [f"  b{k} = b{k - 1} * 0.5 + b{k - 1} * 0.4999" for k in range(1, 300)]
    head = ["program chain(M, N)", "task m: M", "input x: f32[M, N]", "output y: f32[M]", "stage m"]
    text = "\n".join([*head, *inner, "  s = sum[n: N](a299)", *outer, "  y[m] = b299"])
    check(text, ["n"], {"M": 3, "N": 20}, {"x": floats(3, 20)}, rtol=1e-4)
