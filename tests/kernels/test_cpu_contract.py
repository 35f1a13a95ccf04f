"""Contractions: every small size, every layout of A and B, prologues, epilogues, chains, against the interpreter."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest

from fusec.kernels.cpu.build import build
from fusec.kernels.cpu.contract_form import contraction
from fusec.kernels.cpu.contract_tile import padded_rows
from fusec.kernels.cpu.emit import emit
from fusec.kernels.kernel import Guard, Kernel, StageTiling, Tiling
from fusec.kernels.layout import Layout
from fusec.target import ISAS, Target, runs_here
from fusec.tile.reference import run_program
from fusec.tile.text import parse_program

Execute = Callable[..., tuple[dict[str, Any], Any]]
LEVELS = [name for name in ("generic", "avx2", "avx512", "neon") if runs_here(name)]
TILES = {"generic": (4, 2), "avx2": (6, 2), "avx512": (14, 2), "neon": (6, 4)}
rng = np.random.default_rng(0)


def floats(*shape: int) -> Any:
    return rng.standard_normal(shape).astype(np.float32)


def contract(
    execute: Execute,
    text: str,
    params: Mapping[str, int],
    operands: Mapping[str, Any],
    *,
    rows: int | None = None,
    tile: Mapping[str, int] | None = None,
    panels: tuple[str, ...] = (),
    levels: list[str] = LEVELS,
    tolerance: float = 2e-5,
) -> None:
    """Run with every contraction as one, at all levels; compare with the interpreter, and other runs bit by bit."""
    program = parse_program(text)
    expected = run_program(program, params, operands)
    for level in levels:
        most, vectors = TILES[level]
        stages, layouts = [], []
        for s in program.stages:
            form = contraction(s)
            stages.append(
                StageTiling("contract", "", rows or most, vectors) if form else StageTiling("nest", s.axis_names[-1])
            )
        for name in panels:
            o = program.operand[name]
            layouts.append((name, Layout.panels(len(o.shape), vectors * ISAS[level].lanes * 4 // o.dtype.itemsize)))
        kernel = Kernel(program, Tiling(tuple((tile or {}).items()), tuple(stages), tuple(layouts)))
        got, status = execute(kernel, level, params, operands)
        assert not status.any()
        for name, e in expected.items():
            g = got[name].reshape(e.shape)
            if e.dtype.kind in "iub":
                np.testing.assert_array_equal(g, e, err_msg=f"{level} {name}")
            else:
                scale = tolerance * max(1.0, float(np.abs(e).max(initial=0.0)))
                np.testing.assert_allclose(
                    g.astype(np.float64), e.astype(np.float64), tolerance, scale, err_msg=f"{level} {name}"
                )
        count = kernel.bind(params).tiles
        for runs in ([1] * count, [count // 2, count - count // 2]):
            again, _ = execute(kernel, level, params, operands, runs)
            assert all(np.array_equal(again[n].view(np.uint8), got[n].view(np.uint8)) for n in got)


GEMM = """
program gemm(M, K, N)
task m: M, n: N
input x: f32[M, K]
weight w: f32[K, N]
input b: f32[N]
output y: f32[M, N]
stage m, n
  t = sum[k: K](x[m, k] * w[k, n])
  y[m, n] = max(t + b[n], 0.0)
"""


def gemm_operands(m: int, k: int, n: int) -> dict[str, Any]:
    return {"x": floats(m, k), "w": floats(k, n), "b": floats(n)}


SIZES = [1, 3, 7, 8, 16, 17, 31, 33, 64, 70]


@pytest.mark.parametrize("n", SIZES)
def test_every_size_in_panels(execute: Execute, n: int) -> None:
    for m, k in [(1, n), (7, 70 - n), (n, 5), (70, 17)]:
        contract(execute, GEMM, {"M": m, "K": k, "N": n}, gemm_operands(m, k, n), panels=("w",))


@pytest.mark.parametrize("rows", [1, 2, 3, 4, 5])
def test_few_rows(execute: Execute, rows: int) -> None:
    for m, k, n in [(1, 1, 1), (rows, 6, 16), (rows + 1, 33, 31), (rows, 2, 100), (2 * rows + 1, 7, 64)]:
        contract(execute, GEMM, {"M": m, "K": k, "N": n}, gemm_operands(m, k, n), panels=("w",), rows=rows)


@pytest.mark.parametrize("rows", [6, 12])
def test_last_rows_in_smaller_tiles(execute: Execute, rows: int) -> None:
    """Up to two smaller tiles follow the large ones, with the same bits as where all tiles are large."""
    program, level, stages = parse_program(GEMM), LEVELS[-1], (StageTiling("contract", "", rows, 2),)
    for m in range(1, 2 * rows + 2):
        params, operands = {"M": m, "K": 19, "N": 40}, gemm_operands(m, 19, 40)
        assert m <= padded_rows(m, rows, 2) <= -(-m // rows) * rows
        got = [
            execute(Kernel(program, Tiling((), stages, (), guard)), level, params, operands)[0]["y"].reshape(m, 40)
            for guard in (None, Guard("M", m, m))
        ]
        assert np.array_equal(got[0], got[1])
        np.testing.assert_allclose(got[1], run_program(program, params, operands)["y"], 2e-5, 1e-4)


def test_row_major_weights(execute: Execute) -> None:
    for m, k, n in [(1, 1, 1), (9, 40, 70), (70, 3, 33), (5, 17, 16)]:
        contract(execute, GEMM, {"M": m, "K": k, "N": n}, gemm_operands(m, k, n))
        contract(execute, GEMM, {"M": m, "K": k, "N": n}, gemm_operands(m, k, n), rows=1)


def test_tiles_of_rows_and_columns(execute: Execute) -> None:
    for panels in ((), ("w",)):
        for m, n in [(6, 64), (5, 32), (100, 64)]:
            tile = {"m": m, "n": n}
            contract(
                execute, GEMM, {"M": 130, "K": 20, "N": 150}, gemm_operands(130, 20, 150), panels=panels, tile=tile
            )


@pytest.mark.parametrize("params", [{"M": 5, "K": 0, "N": 9}, {"M": 0, "K": 3, "N": 9}, {"M": 5, "K": 3, "N": 0}])
def test_empty_extents(execute: Execute, params: dict[str, int]) -> None:
    contract(execute, GEMM, params, gemm_operands(params["M"], params["K"], params["N"]), panels=("w",))
    contract(execute, GEMM, params, gemm_operands(params["M"], params["K"], params["N"]))


def test_tiles_do_not_change_bits(execute: Execute) -> None:
    program = parse_program(GEMM)
    params, operands = {"M": 100, "K": 77, "N": 200}, gemm_operands(100, 77, 200)
    level = LEVELS[-1]
    rows, vectors = TILES[level]
    seen = []
    for tile in [{}, {"m": 7, "n": 64}, {"m": 31}, {"n": 128}]:
        stages = (StageTiling("contract", "", rows, vectors),)
        got, _ = execute(Kernel(program, Tiling(tuple(tile.items()), stages)), level, params, operands)
        seen.append(got["y"].copy())
    assert all(np.array_equal(s.view(np.uint32), seen[0].view(np.uint32)) for s in seen)


STRIDES = """
program strides(B, M, K, N)
task b: B, m: M, n: N
input x: f32[{x}], z: f32[{z}]
output y: f32[{y}]
stage b, m, n
  t = sum[k: K](x[{xi}] * z[{zi}])
  y[{yi}] = t
"""
LEFT = [
    ("B, M, K", "b, m, k"),
    ("B, K, M", "b, k, m"),
    ("M, B, K", "m, b, k"),
    ("M, K", "m, k"),
    ("K", "k"),
    ("B, M, K, 2", "b, m, k, 1"),
]
RIGHT = [
    ("B, K, N", "b, k, n"),
    ("B, N, K", "b, n, k"),
    ("K, N, B", "k, n, b"),
    ("N, B, K", "n, b, k"),
    ("N, K", "n, k"),
    ("N", "n"),
]
OUT = [("B, M, N", "b, m, n"), ("M, N, B", "m, n, b"), ("N, B, M", "n, b, m")]


@pytest.mark.parametrize("left", LEFT, ids=lambda x: x[1])
@pytest.mark.parametrize("right", RIGHT, ids=lambda x: x[1])
def test_strides_and_transposes(execute: Execute, left: tuple[str, str], right: tuple[str, str]) -> None:
    sizes = {"B": 3, "M": 19, "K": 21, "N": 37, "2": 2}
    out = OUT[(len(left[0]) + len(right[0])) % 3]
    text = STRIDES.format(x=left[0], xi=left[1], z=right[0], zi=right[1], y=out[0], yi=out[1])
    operands = {
        "x": floats(*(sizes[a] for a in left[0].split(", "))),
        "z": floats(*(sizes[a] for a in right[0].split(", "))),
    }
    params = {a: sizes[a] for a in "BMKN"}
    contract(execute, text, params, operands, tile={"b": 2, "m": 8})
    contract(execute, text, params, operands, tile={"b": 1, "n": 32}, rows=1)


@pytest.mark.parametrize("k", [1, 3, 4, 7, 8, 9, 16, 33])
def test_transposing_in_registers(execute: Execute, k: int) -> None:
    text = STRIDES.format(x="B, M, K", xi="b, m, k", z="B, N, K", zi="b, n, k", y="B, M, N", yi="b, m, n")
    for n in (1, 7, 16, 23, 40):
        params = {"B": 2, "M": 6, "K": k, "N": n}
        contract(execute, text, params, {"x": floats(2, 6, k), "z": floats(2, n, k)})


def test_swapped_factors_and_batched_weights(execute: Execute) -> None:
    text = """
program p(B, M, K, N)
task b: B, m: M
input x: f32[B, M, K]
weight w: f32[B, K, N]
output y: f32[B, M, N]
stage b, m, n: N
  t = sum[k: K](w[b, k, n] * x[b, m, k])
  y[b, m, n] = t
"""
    operands = {"x": floats(3, 9, 20), "w": floats(3, 20, 50)}
    contract(execute, text, {"B": 3, "M": 9, "K": 20, "N": 50}, operands, panels=("w",), tile={"b": 2, "m": 4})
    contract(execute, text, {"B": 3, "M": 9, "K": 20, "N": 50}, operands, panels=("w",), rows=1)


def test_prologues_on_both_sides(execute: Execute) -> None:
    text = """
program p(M, K, N)
task m: M, n: N
input x: f32[M, K], mean: f32[M], scale: f32[K], z: f32[N, K]
scalar s: f32
output y: f32[M, N]
stage m, n
  u = (x[m, k] - mean[m]) * scale[k]
  v = exp(z[n, k] * 0.25) * s
  t = sum[k: K](u * v)
  c = t * s
  y[m, n] = exp(0.0 - c * c) + mean[m]
"""
    operands = {"x": floats(110, 30), "mean": floats(110), "scale": floats(30), "z": floats(45, 30), "s": 0.5}
    contract(execute, text, {"M": 110, "K": 30, "N": 45}, operands, tile={"m": 100, "n": 32})
    contract(execute, text, {"M": 110, "K": 30, "N": 45}, operands, rows=1, tile={"m": 3})


def test_guarded_and_gathered_operands(execute: Execute) -> None:
    text = """
program p(M, K, N, V)
task m: M
input ids: i64[M], e: f32[V, K], w: f32[K, N]
output y: f32[M, N]
stage m, n: N
  t = sum[k: K](e[ids[m], k] * pad(w[k, n - 1], 2.0))
  y[m, n] = t
"""
    operands = {"ids": rng.integers(-0, 9, 20), "e": floats(9, 12), "w": floats(12, 18)}
    contract(execute, text, {"M": 20, "K": 12, "N": 18, "V": 9}, operands, tile={"m": 7})


CHAIN = """
program chain(M, K, L, N)
task m: M
input x: f32[M, K]
weight w: f32[K, L], v: f32[L, N]
input b: f32[L]
local h: f32[M, L]
output y: f32[M, N]
stage m, l: L
  t = sum[k: K](x[m, k] * w[k, l])
  h[m, l] = max(t + b[l], 0.0)
stage m, n: N
  u = sum[l: L](h[m, l] * v[l, n])
  y[m, n] = u + x[m, 0]
"""


@pytest.mark.parametrize("m", [1, 6, 23, 100])
def test_chain(execute: Execute, m: int) -> None:
    operands = {"x": floats(m, 20), "w": floats(20, 70), "v": floats(70, 33), "b": floats(70)}
    for panels in ((), ("w", "v")):
        contract(execute, CHAIN, {"M": m, "K": 20, "L": 70, "N": 33}, operands, tile={"m": 13}, panels=panels)
    contract(execute, CHAIN, {"M": m, "K": 20, "L": 70, "N": 33}, operands, tile={"m": 1}, rows=1, panels=("w", "v"))


ATTENTION = """
program attention(B, T, S, D, E)
task b: B, t: T
input q: f32[B, T, D], k: f32[B, S, D], v: f32[B, S, E]
scalar c: f32
local s: f32[B, T, S], top: f32[B, T], z: f32[B, T]
output y: f32[B, T, E]
stage b, t, j: S
  u = sum[d: D](q[b, t, d] * k[b, j, d])
  s[b, t, j] = u * c
stage b, t
  h = max[j: S](s[b, t, j])
  top[b, t] = h
stage b, t
  w = sum[j: S](exp(s[b, t, j] - top[b, t]))
  z[b, t] = 1.0 / w
stage b, t, e: E
  o = sum[j: S](exp(s[b, t, j] - top[b, t]) * v[b, j, e])
  y[b, t, e] = o * z[b, t]
"""


def test_attention(execute: Execute) -> None:
    operands = {"q": floats(3, 17, 8), "k": floats(3, 29, 8), "v": floats(3, 29, 10), "c": 0.3}
    contract(execute, ATTENTION, {"B": 3, "T": 17, "S": 29, "D": 8, "E": 10}, operands, tile={"b": 1, "t": 7})


@pytest.mark.parametrize("dtype", ["f64", "i32", "i64", "u32", "u64"])
def test_other_dtypes(execute: Execute, dtype: str) -> None:
    text = GEMM.replace("f32", dtype).replace("0.0", "0.0" if dtype == "f64" else "0")
    numpy = {"f64": np.float64, "i32": np.int32, "i64": np.int64, "u32": np.uint32, "u64": np.uint64}[dtype]
    m, k, n = 13, 19, 37

    def draw(*shape: int) -> Any:
        if dtype == "f64":
            return rng.standard_normal(shape)
        info = np.iinfo(numpy)
        return rng.integers(info.min, info.max, shape, numpy)

    operands = {"x": draw(m, k), "w": draw(k, n), "b": draw(n)}
    for panels in ((), ("w",)):
        contract(execute, text, {"M": m, "K": k, "N": n}, operands, panels=panels, tolerance=1e-12)


@pytest.mark.parametrize("dtype", ["f16", "bf16"])
def test_narrow_floats_accumulate_in_single(execute: Execute, dtype: str) -> None:
    text = f"""
program p(M, K, N)
task m: M
input x: {dtype}[M, K], w: {dtype}[K, N]
output y: {dtype}[M, N]
stage m, n: N
  t = sum[k: K](x[m, k] * w[k, n])
  y[m, n] = t
"""
    from fusec.ir.types import DType

    numpy = DType(dtype).numpy
    x, w = floats(9, 40).astype(numpy), floats(40, 21).astype(numpy)
    program = parse_program(text)
    exact = x.astype(np.float64) @ w.astype(np.float64)
    for level in LEVELS:
        rows, vectors = TILES[level]
        kernel = Kernel(program, Tiling((), (StageTiling("contract", "", rows, vectors),)))
        got, _ = execute(kernel, level, {"M": 9, "K": 40, "N": 21}, {"x": x, "w": w})
        np.testing.assert_allclose(got["y"].astype(np.float64), exact, 2e-3 if dtype == "f16" else 1e-2, 2e-2)


def test_one_axis(execute: Execute) -> None:
    text = """
program p(K, N)
task n: N
input x: f32[K], w: f32[K, N]
output y: f32[N]
stage n
  t = sum[k: K](x[k] * w[k, n])
  y[n] = t
"""
    contract(execute, text, {"K": 20, "N": 45}, {"x": floats(20), "w": floats(20, 45)}, tile={"n": 32})


def test_what_is_no_contraction() -> None:
    for body in ("t = max[k: K](x[m, k] * w[k, n])", "t = sum[k: K](x[m, k] + w[k, n])", "t = sum[k: K](x[m, k])"):
        text = GEMM.replace("t = sum[k: K](x[m, k] * w[k, n])", body)
        assert contraction(parse_program(text).stages[0]) is None
    entangled = GEMM.replace("x[m, k] * w[k, n]", "(x[m, k] - w[k, n]) * w[k, n]")
    assert contraction(parse_program(entangled).stages[0]) is None


@pytest.mark.parametrize("rows", [1, 2, 6, 12, 14])
def test_objects_for_machines_that_are_not_here(rows: int) -> None:
    if runs_here("neon"):
        pytest.skip("no x86-64")
    target = Target("cpu", "avx512")
    kernel = Kernel(parse_program(CHAIN), Tiling((), (StageTiling("contract", "", rows, 2),) * 2))
    assert build(emit(kernel, target), target).code


@pytest.mark.parametrize("rows", [3, 6, 12])
def test_sums_in_blocks(execute: Execute, rows: int) -> None:
    """Deep sums are cut into blocks; rows of many-rowed tiles, a page apart, are copied together."""
    for m, k, n in [(1, 2049, 18), (15, 4097, 140), (7, 6000, 17)]:
        contract(execute, GEMM, {"M": m, "K": k, "N": n}, gemm_operands(m, k, n), panels=("w",), rows=rows)


SHORT = """
program p(M, N)
task m: M, n: N
input x: f32[M, 24], b: f32[N], a: f32[M, N]
weight w: f32[24, N]
output y: f32[M, N], z: f32[N, M]
stage m, n
  t = sum[k: 24](x[m, k] * w[k, n])
  y[m, n] = max(t + b[n], 0.0) + a[m, n]
  z[n, m] = t
"""


@pytest.mark.parametrize("n", [16, 48, 64, 80, 100, 192])
def test_epilogues_in_registers(execute: Execute, n: int) -> None:
    for m in (1, 5, 13, 100):
        operands = {"x": floats(m, 24), "w": floats(24, n), "b": floats(n), "a": floats(m, n)}
        contract(execute, SHORT, {"M": m, "N": n}, operands, panels=("w",))
        contract(execute, SHORT, {"M": m, "N": n}, operands, tile={"m": 7, "n": 40}, panels=("w",))
        contract(execute, SHORT, {"M": m, "N": n}, operands, rows=1, tile={"n": 32})
