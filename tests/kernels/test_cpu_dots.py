"""Products and convolutions of few columns, whose vectors lie along the sum, against the interpreter."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest

from fusec.ir.dim import evaluate
from fusec.kernels.cpu.contract_dots import dot_rows
from fusec.kernels.layout import Layout
from fusec.target import Target, runs_here
from fusec.tile.reference import run_program
from fusec.tile.text import parse_program
from fusec.tiling.choose import choose, menu

Execute = Callable[..., tuple[dict[str, Any], Any]]
LEVELS = [n for n in ("avx2", "avx512", "neon") if runs_here(n)]
rng = np.random.default_rng(0)

PRODUCT = """
program product(B, M, K, N)
task b: B, m: M, n: N
input x: f32[B, M, K], r: f32[B, M, N]
{role} w: f32[N, K]
output y: f32[B, M, N]
stage b, m, n
  t = sum[k: K](x[b, m, k] * w[n, k])
  y[b, m, n] = max(t + r[b, m, n], 0.0)
"""
WEIGHT = PRODUCT.format(role="weight").replace("w: f32[N, K]", "w: f32[K, N]").replace("w[n, k]", "w[k, n]")
PROLOGUE = WEIGHT.replace("x[b, m, k] *", "exp(x[b, m, k]) *")


def check(execute: Execute, text: str, params: Mapping[str, int], dots: bool = True) -> None:
    program = parse_program(text)
    operands = {}
    for o in program.operands:
        if o.role != "output":
            shape = [evaluate(d, params) for d in o.shape]
            operands[o.name] = rng.standard_normal(shape).astype(np.float32)
    expected = run_program(program, params, operands)
    for level in LEVELS:
        kernels = menu(program, Target("cpu", level), [params])
        kernel = choose(kernels, params)
        used = any(t.template == "contract" and t.lane == "k" for t in kernel.tiling.stages)
        assert used == dots
        for k in kernels if dots else [kernel]:
            if k.tiling.guard is None or k.tiling.guard.admits(params):
                got, status = execute(k, level, params, operands)
                assert not status.any()
                for name, e in expected.items():
                    scale = 2e-5 * float(np.abs(e).max(initial=1.0))
                    np.testing.assert_allclose(got[name].reshape(e.shape), e, 2e-5, scale)
                tiles = k.bind(params).tiles
                again, _ = execute(k, level, params, operands, [1] * tiles)
                assert all(np.array_equal(again[n].view(np.uint32), got[n].view(np.uint32)) for n in got)


@pytest.mark.parametrize("text", [PRODUCT.format(role="input"), WEIGHT, PROLOGUE], ids=["input", "weight", "prologue"])
@pytest.mark.parametrize("n", range(2, 9))
def test_products(execute: Execute, text: str, n: int) -> None:
    for m, k in ((1, 32), (7, 45), (30, 100)):
        check(execute, text, {"B": 2, "M": m, "K": k, "N": n})


@pytest.mark.skipif(not runs_here("avx2"), reason="as many columns as a vector of AVX2 has lanes")
@pytest.mark.parametrize("n", [1, 8, 9, 15, 64, 77])
def test_a_long_row_takes_columns_side_by_side(execute: Execute, n: int) -> None:
    for k in (3072, 3077):
        params = {"B": 2, "M": 1, "K": k, "N": n}
        program, target = parse_program(PRODUCT.format(role="input")), Target("cpu", "avx2")
        operands = {"x": (2, 1, k), "r": (2, 1, n), "w": (n, k)}
        arrays = {name: rng.standard_normal(shape).astype(np.float32) for name, shape in operands.items()}
        kernel = choose(menu(program, target, [params]), params)
        (tiling,) = kernel.tiling.stages
        assert (tiling.template, tiling.lane, tiling.rows) == ("contract", "k", 1)
        got, status = execute(kernel, "avx2", params, arrays)
        expected = run_program(program, params, arrays)["y"]
        assert not status.any()
        np.testing.assert_allclose(got["y"].reshape(expected.shape), expected, 2e-5, 1e-3)
        again, _ = execute(kernel, "avx2", params, arrays, [1] * kernel.bind(params).tiles)
        assert np.array_equal(again["y"].view(np.uint32), got["y"].view(np.uint32))


def test_short_rows_take_one_column_after_the_other() -> None:
    program, params = parse_program(PRODUCT.format(role="input")), {"B": 1, "M": 1, "K": 1024, "N": 64}
    kernel = choose(menu(program, Target("cpu", "avx2"), [params]), params)
    assert [t.template for t in kernel.tiling.stages] == ["nest"]


def test_the_menu_has_a_kernel_for_other_columns() -> None:
    program = parse_program(WEIGHT)
    kernels = menu(program, Target("cpu", "avx2"), [{"B": 1, "M": 9, "K": 64, "N": 3}])
    assert [k.tiling.stages[0].template for k in kernels] == ["contract", "nest"]
    assert {str(k.layouts["w"]) for k in kernels} == {str(Layout.columns(2))}
    assert choose(kernels, {"B": 1, "M": 9, "K": 64, "N": 5}) is kernels[1]


@pytest.mark.parametrize("params", [{"N": 9, "K": 64}, {"N": 4, "K": 31}, {"N": 1, "K": 64}])
def test_other_products_take_panels(execute: Execute, params: dict[str, int]) -> None:
    check(execute, WEIGHT, {"B": 1, "M": 9} | params, dots=False)


CONV = """
program conv(G, H, W, M, Q, C, N)
task g: G, m: M, n: N
input x: f32[H, W, C*G], b: f32[N*G]
weight w: f32[9*C, N*G]
output y: f32[M, N*G]
stage g, m, n
  t = sum[r: 3, s: 3, k: C](pad(x[m // Q + r - 1, m % Q + s - 1, C*g + k], 0.0) * w[(r*3 + s)*C + k, N*g + n])
  y[m, N*g + n] = max(t + b[N*g + n], 0.0)
"""


def windows(execute: Execute, groups: int, c: int, n: int, size: tuple[int, int]) -> None:
    h, w = size
    params = {"G": groups, "H": h, "W": w, "M": h * w, "Q": w, "C": c, "N": n}
    program = parse_program(CONV)
    operands = {
        "x": rng.standard_normal((h, w, c * groups)).astype(np.float32),
        "b": rng.standard_normal(n * groups).astype(np.float32),
        "w": rng.standard_normal((9 * c, n * groups)).astype(np.float32),
    }
    expected = run_program(program, params, operands)["y"]
    for level in LEVELS:
        kernel = choose(menu(program, Target("cpu", level), [params]), params)
        got, _ = execute(kernel, level, params, operands)
        np.testing.assert_allclose(got["y"].reshape(expected.shape), expected, 1e-4, 1e-4)
        again, _ = execute(kernel, level, params, operands, [1] * kernel.bind(params).tiles)
        assert np.array_equal(again["y"], got["y"])


@pytest.mark.parametrize("n", [2, 3, 5, 8])
@pytest.mark.parametrize("size", [(1, 1), (3, 9), (12, 5)])
def test_padded_windows(execute: Execute, n: int, size: tuple[int, int]) -> None:
    windows(execute, 1, 20, n, size)


@pytest.mark.parametrize("channels", [(4, 4), (8, 8), (16, 16), (5, 3), (20, 4), (33, 9)])
def test_groups_share_the_places_of_their_rows(execute: Execute, channels: tuple[int, int]) -> None:
    for size in ((1, 4), (7, 13), (20, 20)):
        windows(execute, 3, *channels, size)


def test_accumulators_fit_into_registers() -> None:
    assert [dot_rows(n, 16) for n in range(1, 9)] == [8, 6, 4, 3, 2, 2, 1, 1]
    assert all(dot_rows(n, 32) * n <= 30 for n in range(1, 9))
