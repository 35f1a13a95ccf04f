"""Nests on CUDA, emulated: every template, access and fold against the interpreter, with odd, empty and symbolic sizes."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cuda_kernels import check_program, compare, run_kernel, tiling_of

from fusec.ir.dim import symbol
from fusec.kernels.cuda import lint, nvrtc
from fusec.kernels.cuda.emit import emit
from fusec.kernels.cuda.emulator.build import compiler
from fusec.kernels.cuda.levels import LEVELS, WALK
from fusec.kernels.cuda.module import module_text
from fusec.kernels.kernel import Guard, Kernel
from fusec.target import Target
from fusec.tile.reference import run_program
from fusec.tile.text import parse_program
from fusec.tiling.choose import choose, menu

sys.path.insert(0, str(Path(__file__).parents[1] / "kernels"))
import test_cpu_nest as cpu

from bench.row_cases import SOFTMAX, TRANSPOSE

emulated = pytest.mark.skipif(compiler() is None, reason="no C++ compiler")
compiled = pytest.mark.skipif(not nvrtc.is_installed(), reason="NVRTC is not installed")
rng = np.random.default_rng(0)
FOLDS = ("warp", "block", "points")


def floats(*shape: int) -> Any:
    return rng.standard_normal(shape).astype(np.float32)


@emulated
@pytest.mark.parametrize("lane", ["n", "m"])
def test_broadcasting_and_every_tail(lane: str) -> None:
    for n in (0, 1, 3, 4, 5, 8, 33, 1030):
        operands = {"x": floats(5, n), "b": floats(n), "c": floats(5, 1), "s": 1.5}
        check_program(cpu.ADD, [("points", lane)], {"M": 5, "N": n}, operands, tile={"m": 2})


@emulated
@pytest.mark.parametrize("template", FOLDS)
def test_softmax_and_layer_norm(template: str) -> None:
    f = (template, "n")
    for m, n in ((5, 1), (17, 8), (3, 33), (2, 1001), (9, 0)):
        check_program(cpu.SOFTMAX, [f, f, ("points", "n")], {"M": m, "N": n}, {"x": floats(m, n)}, tile={"m": 4})
        operands = {"x": floats(m, n), "g": floats(n), "b": floats(n), "eps": 1e-5, "count": float(n)}
        check_program(
            cpu.LAYER_NORM, [f, f, ("points", "n")], {"M": m, "N": n}, operands, tile={"m": 4}, rtol=1e-4, atol=1e-5
        )


@emulated
@pytest.mark.parametrize("template", [*FOLDS, "columns"])
def test_column_folds(template: str) -> None:
    for m, n in ((0, 3), (1, 1), (40, 13), (300, 70)):
        check_program(cpu.COLUMNS, [(template, "n")], {"M": m, "N": n}, {"x": floats(m, n)}, tile={"n": 6}, rtol=1e-4)


@emulated
@pytest.mark.parametrize("template", FOLDS)
@pytest.mark.parametrize("dtype", ["f32", "f16", "u8"])
def test_extremes_and_where_they_are(template: str, dtype: str) -> None:
    is_float = dtype != "u8"
    text = cpu.ARGMAX.format(t=dtype, one="1.0" if is_float else "1", two="2.0" if is_float else "2")
    for n in (1, 5, 33, 70):
        x = rng.integers(0, 4, (9, n)).astype(np.float32)
        if is_float:
            x[2, n // 2] = np.nan
        check_program(text, [(template, "n")], {"M": 9, "N": n}, {"x": x}, tile={"m": 4})


@emulated
@pytest.mark.parametrize("dtype", ["f64", "bf16", "i64", "i16", "u8"])
def test_dtypes_and_transposed_stores(dtype: str) -> None:
    for n in (3, 16, 21):
        x, r, k = (rng.integers(0, 50, s) for s in ((11, n), (n,), (11, 1)))
        check_program(
            cpu.DTYPES.format(t=dtype), [("points", "n")], {"M": 11, "N": n}, {"x": x, "r": r, "k": k}, tile={"m": 4}
        )


@emulated
@pytest.mark.parametrize("wide", [False, True])
def test_indices_that_are_not_plain(wide: bool) -> None:
    for m, n in ((1, 1), (5, 19), (17, 9), (32, 32)):
        operands = {"x": floats(n, m), "z": floats(2 * n * m + 3)}
        check_program(cpu.STRIDES, [("points", "j")], {"M": m, "N": n}, operands, tile={"i": 7}, wide=wide)
    for m, n, k in ((3, 5, 2), (1, 40, 7), (23, 9, 1)):
        operands = {"x": rng.integers(0, 100, (n, m)), "z": floats(m, n)}
        params = {"M": m, "N": n, "K": k}
        check_program(cpu.RESHAPE.format(t="f32"), [("points", "i")], params, operands, tile={"i": 31}, wide=wide)


@emulated
@pytest.mark.parametrize("template", ["points", "warp"])
def test_guarded_windows(template: str) -> None:
    text = cpu.CONVOLUTION.format(t="f32", low="-inf", zero="0.0")
    for h, w in ((1, 1), (5, 7), (4, 19)):
        params = {"N": 2, "C": 3, "H": h, "W": w, "P": 1}
        check_program(text, [(template, "w")], params, {"x": floats(2, 3, h, w)}, tile={"n": 1, "c": 2})


@emulated
def test_gathers_and_indices_out_of_range() -> None:
    text = cpu.GATHER.format(t="f16", k="i32")
    for d in (1, 8, 21):
        operands = {"table": floats(17, d), "ids": rng.integers(0, 17, 10), "each": rng.integers(0, 17, (10, d))}
        check_program(text, [("points", "d")], {"V": 17, "D": d, "T": 10}, operands, tile={"t": 3})
    kernel = Kernel(parse_program(text), tiling_of([("points", "d")], {"t": 4}))
    table, ids, each = floats(6, 11).astype(np.float16), np.arange(9) % 6, rng.integers(0, 6, (9, 11))
    ids[7], each[8, 4] = 6, 3
    got, status = run_kernel(kernel, {"V": 6, "D": 11, "T": 9}, {"table": table, "ids": ids, "each": each})
    assert status.tolist() == [1, 0, 6, 0]
    assert not got["y"][7].any()
    np.testing.assert_array_equal(np.delete(got["y"], 7, 0), table[np.delete(ids, 7)])


@emulated
def test_locals_of_two_task_axes_and_folds_that_need_folds() -> None:
    for n in (1, 9, 30):
        tile = {"m": 4, "n": 7}
        check_program(cpu.CHAIN, [("points", "n")] * 2, {"M": 11, "N": n}, {"x": floats(11, n)}, tile=tile)
    for template in ("warp", "points"):
        templates = [("points", "s"), (template, "k")]
        check_program(cpu.CAUSAL, templates, {"T": 9, "S": 20}, {"x": floats(9, 20)}, tile={"t": 2})


TURN = """
program turn(A, I, J)
task a: A, i: I, j: J
input x: f16[A, J, I], b: f16[J], z: f16[A, I, J]
output y: f16[A, I, J], w: f16[A, I, J]
stage a, i, j
  t = pad(x[a, j + 1, i], 2.0) * b[j] + z[a, i, j]
  y[a, i, j] = t
  w[a, i, j] = x[a, j, i]
"""


@emulated
def test_squares_are_turned() -> None:
    tile = {"i": 64, "j": 64}
    for i, j in ((5, 7), (32, 32), (33, 65), (100, 70), (1, 200), (0, 4)):
        check_program(TRANSPOSE, [("turn", "j")], {"I": i, "J": j}, {"x": floats(j, i)}, tile=tile)
    for a, i, j in ((2, 5, 7), (1, 33, 65)):
        operands = {"x": floats(a, j, i), "b": floats(j), "z": floats(a, i, j)}
        operands = {n: x.astype(np.float16) for n, x in operands.items()}
        params = {"A": a, "I": i, "J": j}
        check_program(TURN, [("turn", "j")], params, operands, tile={"a": 2, **tile}, rtol=2e-3, atol=1e-3)
    (kernel,) = menu(parse_program(TRANSPOSE), Target("cuda", "sm_90"))
    assert (kernel.tiling.stages[0].template, dict(kernel.tiling.tile)) == ("turn", tile)


SCATTER = """
program scatter(N, E, C)
task c: C
input x: f32[N, C], i: i64[E], u: f32[E, C]
local h: f32[N, C]
output y: f32[N, C]
stage n: N, c
  h[n, c] = x[n, c]
stage e: E, c
  h[i[e], c] = h[i[e], c] + u[e, c]
stage n: N, c
  y[n, c] = h[n, c]
"""


@emulated
def test_updates_follow_each_other() -> None:
    operands = {"x": floats(7, 9), "i": rng.integers(0, 7, 40), "u": floats(40, 9)}
    check_program(SCATTER, [("points", "c")] * 3, {"N": 7, "E": 40, "C": 9}, operands, tile={"c": 4})


STEPS = """
program steps(T, B, H)
task seq t: T, b: B
input x: f32[T, B, H]
weight w: f32[H, H]
inout h: f32[B, H]
local g: f32[B, H]
output y: f32[T, B, H]
stage t, b, n: H
  s = sum[k: H](h[b, k] * w[k, n])
  g[b, n] = tanh(s + x[t, b, n])
stage t, b, n: H
  h[b, n] = g[b, n]
  y[t, b, n] = g[b, n]
"""


@emulated
def test_steps_of_recurrent_programs() -> None:
    operands = {"x": floats(5, 3, 20), "w": floats(20, 20), "h": floats(3, 20)}
    templates, params = [("warp", "k"), ("points", "n")], {"T": 5, "B": 3, "H": 20}
    check_program(STEPS, templates, params, operands, tile={"t": 1, "b": 3}, rtol=1e-4, atol=1e-5)


@emulated
def test_programs_in_every_kernel_of_their_menu() -> None:
    """What tiling chooses: for sizes that are known when code is made, whose rows then lie in shared memory, and for any."""
    program, target = parse_program(SOFTMAX), Target("cuda", "sm_80")
    kernels = menu(program, target, [{"I": symbol("B"), "K": 40}, {"I": 2, "K": 3000}, {"I": 3, "K": 5000}])
    assert [k.tiling.guard for k in kernels] == [*(Guard("K", n, n) for n in (40, 3000, 5000)), None]
    assert [emit(k, target).scratch for k in kernels[:3]] == [0, 0, 0]
    assert emit(kernels[3], target).scratch != 0
    for k in (40, 64, 3000):
        params, x = {"I": 9, "K": k}, floats(9, k)
        got, status = run_kernel(choose(kernels, params), params, {"x": x})
        assert not status.any()
        compare(got, run_program(program, params, {"x": x}), 1e-5, 1e-6)


def test_locals_give_way_to_what_products_need(monkeypatch: pytest.MonkeyPatch) -> None:
    program, target = parse_program(SOFTMAX), Target("cuda", "sm_80")
    kernel = menu(program, target, [{"I": 8, "K": 40}])[0]
    whole = emit(kernel, target)
    monkeypatch.setitem(LEVELS, "sm_80", replace(LEVELS["sm_80"], block=int(whole.shared) - 1 + WALK))
    monkeypatch.setattr("fusec.kernels.cuda.emit.SHARED_BYTES", int(whole.shared))
    less = emit(kernel, target)
    assert whole.scratch == 0
    assert less.scratch != 0
    assert 0 < int(less.shared) < int(whole.shared)


@compiled
@pytest.mark.parametrize("level", ["sm_80", "sm_90"])
def test_nvrtc_takes_all_of_it_without_spills(level: str) -> None:
    cases = [
        (cpu.ADD, ["points"], ["n"]),
        (cpu.SOFTMAX, ["warp", "block", "points"], ["n"] * 3),
        (cpu.LAYER_NORM, ["block", "warp", "points"], ["n"] * 3),
        (cpu.COLUMNS, ["points"], ["n"]),
        (cpu.DTYPES.format(t="bf16"), ["points"], ["n"]),
        (cpu.RESHAPE.format(t="f64"), ["points"], ["i"]),
        (cpu.CONVOLUTION.format(t="f32", low="-inf", zero="0.0"), ["points"], ["w"]),
        (cpu.GATHER.format(t="f16", k="i64"), ["points"], ["d"]),
        (cpu.COLUMNS, ["columns"], ["n"]),
        (TURN, ["turn"], ["j"]),
        (SCATTER, ["points"] * 3, ["c"] * 3),
    ]
    target = Target("cuda", level)
    sources = [
        emit(Kernel(parse_program(t), tiling_of(list(zip(templates, lanes)))), target) for t, templates, lanes in cases
    ]
    for wide in (False, True):
        cubin = nvrtc.build(module_text(sources, wide=wide), level)
        assert lint.problems(cubin) == ()
