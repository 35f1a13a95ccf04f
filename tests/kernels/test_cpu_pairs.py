"""Products of short integers against int64: random and extreme factors, zero points, odd sizes, batches, prologues, levels."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from fusec.kernels.cpu.contract_form import contraction, panel_load
from fusec.kernels.cpu.contract_pairs import PairShape
from fusec.kernels.cpu.emit import emit
from fusec.kernels.cpu.llvm import assembly, compile_text
from fusec.kernels.kernel import Kernel, StageTiling, Tiling
from fusec.kernels.layout import Layout
from fusec.target import ISAS, Target, runs_here
from fusec.tile.text import parse_program
from fusec.tiling.choose import choose, menu

Execute = Callable[..., tuple[dict[str, Any], Any]]
LEVELS = [name for name in ("generic", "avx2", "avx512", "neon") if runs_here(name)]
TILES = {"generic": (4, 2), "avx2": (6, 2), "avx512": (12, 2), "neon": (6, 4)}
RANGES = {"u8": (0, 255), "i8": (-128, 127), "i16": (-32768, 32767)}
rng = np.random.default_rng(0)

GEMM = """
program gemm(M, K, N)
task m: M, n: N
input x: {a}[M, K]
weight w: {b}[K, N]
output y: i32[M, N]
stage m, n
  t = sum[k: K](i32(x[m, k]) * i32(w[k, n]))
  y[m, n] = t
"""
SHIFTED = """
program gemm(M, K, N)
task m: M, n: N
input x: {a}[M, K]
input p: {a}[1]
weight w: {b}[K, N]
input q: {b}[N]
output y: i32[M, N]
stage m, n
  t = sum[k: K](i32(i16(x[m, k]) - i16(p[0])) * i32(i16(w[k, n]) - i16(q[n])))
  y[m, n] = t
"""
BATCH = """
program gemm(B, M, K, N)
task b: B, m: M, n: N
input x: {a}[B, M, K]
input w: {b}[B, K, N]
output y: f32[B, M, N]
stage b, m, n
  t = sum[k: K](i32(x[b, m, k]) * i32(w[b, k, n]))
  y[b, m, n] = f32(t) * 0.5
"""


def numbers(dtype: str, shape: tuple[int, ...], extreme: bool) -> Any:
    low, high = RANGES[dtype]
    kind = {"u8": np.uint8, "i8": np.int8, "i16": np.int16}[dtype]
    made = rng.choice([low, high], shape) if extreme else rng.integers(low, high + 1, shape)
    return made.astype(kind)


def wide(x: Any) -> Any:
    return x.astype(np.int64)


def wrapped(x: Any) -> Any:
    """int64 sums as int32 keeps them."""
    return x.astype(np.int32)


def run(execute: Execute, text: str, params: Mapping[str, int], operands: Mapping[str, Any], rows: int = 0) -> Any:
    """The same result at every level, on the tile of the menu or one of `rows` rows, weights in panels and not."""
    program, results = parse_program(text), []
    for level in LEVELS:
        kernels = [choose(menu(program, Target("cpu", level), [dict(params)]), params)]
        form = contraction(program.stages[0])
        assert form is not None
        assert form.pairs
        most, vectors = TILES[level]
        stage = StageTiling("contract", "", rows or most, vectors)
        kernels.append(Kernel(program, Tiling((), (stage,))))
        operand = panel_load(form)
        if operand is not None and program.operand[operand].role == "weight":
            layout = Layout.paired(len(program.operand[operand].shape), vectors * ISAS[level].lanes)
            kernels.append(Kernel(program, Tiling((), (stage,), ((operand, layout),))))
        for kernel in kernels:
            got, status = execute(kernel, level, params, operands)
            assert not status.any()
            results.append(got["y"])
    assert all(np.array_equal(r, results[0]) for r in results)
    return results[0]


@pytest.mark.parametrize("b", ["u8", "i8", "i16"])
@pytest.mark.parametrize("a", ["u8", "i8", "i16"])
def test_sums_are_exact(execute: Execute, a: str, b: str) -> None:
    for m, k, n in [(1, 1, 1), (1, 64, 33), (7, 33, 70), (6, 2, 16), (13, 65, 17), (30, 7, 100)]:
        for extreme in (False, True):
            x, w = numbers(a, (m, k), extreme), numbers(b, (k, n), extreme)
            y = run(execute, GEMM.format(a=a, b=b), {"M": m, "K": k, "N": n}, {"x": x, "w": w})
            np.testing.assert_array_equal(y.reshape(m, n), wrapped(wide(x) @ wide(w)))


@pytest.mark.parametrize("rows", [1, 2, 5])
def test_every_register_tile(execute: Execute, rows: int) -> None:
    for m, k, n in [(rows, 34, 16), (2 * rows + 1, 35, 31)]:
        x, w = numbers("u8", (m, k), False), numbers("i8", (k, n), False)
        y = run(execute, GEMM.format(a="u8", b="i8"), {"M": m, "K": k, "N": n}, {"x": x, "w": w}, rows)
        np.testing.assert_array_equal(y.reshape(m, n), wide(x) @ wide(w))


def test_largest_sums_do_not_saturate(execute: Execute) -> None:
    x, w = np.full((6, 400), 255, np.uint8), np.full((400, 16), -128, np.int8)
    y = run(execute, GEMM.format(a="u8", b="i8"), {"M": 6, "K": 400, "N": 16}, {"x": x, "w": w})
    assert (y == 400 * 255 * -128).all()
    x, w = np.full((6, 3), -32768, np.int16), np.full((3, 16), -32768, np.int16)
    y = run(execute, GEMM.format(a="i16", b="i16"), {"M": 6, "K": 3, "N": 16}, {"x": x, "w": w})
    assert (y == wrapped(np.int64(3 << 30))).all()


@pytest.mark.parametrize(("a", "b"), [("u8", "i8"), ("u8", "u8"), ("i8", "i8")])
@pytest.mark.parametrize("end", [0, 1])
def test_zero_points_at_both_ends(execute: Execute, a: str, b: str, end: int) -> None:
    for m, k, n in [(1, 40, 33), (9, 41, 20)]:
        x, w = numbers(a, (m, k), True), numbers(b, (k, n), True)
        p, q = np.full(1, RANGES[a][end], x.dtype), np.full(n, RANGES[b][1 - end], w.dtype)
        operands = {"x": x, "w": w, "p": p, "q": q}
        y = run(execute, SHIFTED.format(a=a, b=b), {"M": m, "K": k, "N": n}, operands)
        np.testing.assert_array_equal(y.reshape(m, n), (wide(x) - wide(p)) @ (wide(w) - wide(q)))


def test_batches_of_two_activations(execute: Execute) -> None:
    x, w = numbers("u8", (3, 9, 21), False), numbers("i8", (3, 21, 37), False)
    y = run(execute, BATCH.format(a="u8", b="i8"), {"B": 3, "M": 9, "K": 21, "N": 37}, {"x": x, "w": w})
    np.testing.assert_array_equal(y.reshape(3, 9, 37), (wide(x) @ wide(w)).astype(np.float32) * 0.5)


def test_the_instruction_is_used() -> None:
    program = parse_program(GEMM.format(a="i16", b="i8"))
    for level, name in (("generic", "sse2.pmadd.wd"), ("avx2", "avx2.pmadd.wd"), ("avx512", "avx512.pmaddw.d.512")):
        kernel = menu(program, Target("cpu", level))[-1]
        text = emit(kernel, Target("cpu", level)).text
        assert f"llvm.x86.{name}" in text
        assert "vpmaddubsw" not in text
    shape = PairShape(1, 1, 4, "i32", False, program.operand["w"].dtype, True, False)
    assert shape.width == 4


@pytest.mark.parametrize(("level", "tile"), [("avx2vnni", 12), ("avx512vnni", 24)])
def test_vnni_multiplies_and_adds_at_once(level: str, tile: int) -> None:
    kernel = menu(parse_program(GEMM.format(a="i16", b="i8")), Target("cpu", level))[-1]
    code = assembly(emit(kernel, Target("cpu", level)).text, level)
    assert code.count("vpdpwssd") >= tile
    assert "vpmaddwd" not in code


@pytest.mark.skipif(not runs_here("avx2"), reason="AVX2 stands in for VNNI")
@pytest.mark.parametrize("extreme", [False, True])
def test_sums_of_vnni_are_exact(execute: Execute, monkeypatch: pytest.MonkeyPatch, extreme: bool) -> None:
    two = "vpmaddwd $3, $2, %ymm13; vpaddd %ymm13, $0, $0"

    def without(text: str, level: str) -> bytes:
        assert "{vex} vpdpwssd" in text
        text = text.replace("{vex} vpdpwssd $3, $2, $0", two).replace('"=v,0,v,v"', '"=v,0,v,v,~{ymm13}"')
        return compile_text(text, level)

    monkeypatch.setitem(ISAS, "vnni", replace(ISAS["avx2"], vnni=True))
    monkeypatch.setattr("fusec.kernels.cpu.build.compile_text", without)
    for a, b, (m, k, n) in [("u8", "i8", (13, 65, 37)), ("i16", "i16", (6, 8, 16)), ("u8", "u8", (1, 33, 40))]:
        x, w = numbers(a, (m, k), extreme), numbers(b, (k, n), extreme)
        params = {"M": m, "K": k, "N": n}
        kernel = choose(menu(parse_program(GEMM.format(a=a, b=b)), Target("cpu", "vnni"), [params]), params)
        got, _ = execute(kernel, "vnni", params, {"x": x, "w": w})
        np.testing.assert_array_equal(got["y"].reshape(m, n), wrapped(wide(x) @ wide(w)))
