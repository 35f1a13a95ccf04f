"""Convolutions as contractions with taps: strides, dilations, padding, groups, odd sizes, against the interpreter."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pytest

from fusec.kernels.cpu.build import build
from fusec.kernels.cpu.contract_form import contraction, panel_load
from fusec.kernels.cpu.emit import emit
from fusec.kernels.kernel import Kernel, StageTiling, Tiling
from fusec.kernels.layout import Layout
from fusec.target import ISAS, Target, runs_here
from fusec.tile.program import TileProgram
from fusec.tile.reference import run_program
from fusec.tile.text import parse_program
from fusec.tiling.choose import choose, menu

Execute = Callable[..., tuple[dict[str, Any], Any]]
LEVELS = [name for name in ("generic", "avx2", "avx512", "neon") if runs_here(name)]
BEST = LEVELS[-1:]
rng = np.random.default_rng(0)


def floats(*shape: int) -> Any:
    return rng.standard_normal(shape).astype(np.float32)


def by_hand(program: TileProgram, level: str, rows: int, tile: Mapping[str, int], panels: bool) -> Kernel:
    """Every contraction as one, its weight in panels or not."""
    form = contraction(program.stages[0])
    assert form is not None
    operand = panel_load(form)
    assert operand is not None
    width = 2 * ISAS[level].lanes
    layouts = ((operand, Layout.panels(len(program.operand[operand].shape), width)),) if panels else ()
    stages = tuple(StageTiling("contract", "", rows, 2) for _ in program.stages)
    return Kernel(program, Tiling(tuple(tile.items()), stages, layouts))


def compare(
    execute: Execute,
    kernel: Kernel,
    level: str,
    params: Mapping[str, int],
    operands: Mapping[str, Any],
    expected: Mapping[str, Any],
) -> None:
    got, status = execute(kernel, level, params, operands)
    assert not status.any()
    for name, e in expected.items():
        scale = 2e-5 * max(1.0, float(np.abs(e).max(initial=0.0)))
        np.testing.assert_allclose(got[name].reshape(e.shape), e, 2e-5, scale, err_msg=f"{level} {name}")
    count = kernel.bind(params).tiles
    again, _ = execute(kernel, level, params, operands, [count // 2, count - count // 2])
    assert all(np.array_equal(again[n].view(np.uint32), got[n].view(np.uint32)) for n in got)


def check(
    execute: Execute,
    text: str,
    params: Mapping[str, int],
    operands: Mapping[str, Any],
    *,
    rows: int = 4,
    tile: Mapping[str, int] | None = None,
    levels: Sequence[str] = BEST,
) -> None:
    """Tiled by hand, with and without panels, and as the menu says."""
    program = parse_program(text)
    expected = run_program(program, params, operands)
    for level in levels:
        for panels in (True, False):
            kernel = by_hand(program, level, rows, tile or {}, panels)
            compare(execute, kernel, level, params, operands, expected)
        kernel = choose(menu(program, Target("cpu", level)), params)
        compare(execute, kernel, level, params, operands, expected)


def square(
    h: int, w: int, c: int, o: int, k: int, stride: int = 1, pad: int = 0, dilation: int = 1, n: int = 1, kw: int = 0
) -> tuple[str, dict[str, Any]]:
    """A two-dimensional convolution with bias and relu, padded by a guard, and its operands."""
    kw = kw or k
    p, q = ((d + 2 * pad - (s - 1) * dilation - 1) // stride + 1 for d, s in ((h, k), (w, kw)))
    y = f"(m // {q})*{stride} + r*{dilation} - {pad}"
    x = f"(m % {q})*{stride} + s*{dilation} - {pad}"
    load = f"x[n, {y}, {x}, i]"
    text = f"""
program conv()
task n: {n}, m: {p * q}, o: {o}
input x: f32[{n}, {h}, {w}, {c}], b: f32[{o}]
weight w: f32[{k * kw * c}, {o}]
output y: f32[{n}, {p * q}, {o}]
stage n, m, o
  t = sum[r: {k}, s: {kw}, i: {c}]({f"pad({load}, 0.0)" if pad else load} * w[(r*{kw} + s)*{c} + i, o])
  y[n, m, o] = max(t + b[o], 0.0)
"""
    return text, {"x": floats(n, h, w, c), "b": floats(o), "w": floats(k * kw * c, o)}


SQUARES = {
    "pointwise": square(5, 7, 9, 20, 1),
    "pointwise, stride": square(9, 7, 8, 17, 1, 2),
    "three": square(8, 11, 16, 33, 3),
    "three, padded": square(7, 7, 13, 16, 3, 1, 1),
    "three, stride, padded": square(9, 13, 8, 24, 3, 2, 1),
    "dilated": square(11, 10, 5, 9, 3, 1, 2, 2),
    "dilated, unpadded": square(11, 10, 5, 9, 3, 1, 0, 2),
    "first layer": square(23, 23, 3, 16, 7, 2, 3),
    "first layer, unpadded": square(23, 25, 3, 16, 7, 2),
    "larger than the input": square(2, 3, 4, 5, 7, 1, 3),
    "as large as the input": square(5, 6, 4, 10, 5, kw=6),
    "one channel": square(9, 9, 1, 6, 3, 1, 1),
    "batch": square(6, 5, 8, 32, 3, 1, 1, n=3),
    "flat": square(1, 29, 6, 40, 1, 2, 2, kw=5),
    "only padding": square(1, 1, 3, 4, 3, 3, 3),
    "deep": square(3, 3, 300, 17, 3, 1, 1),
}


@pytest.mark.parametrize("name", SQUARES)
def test_two_dimensions(execute: Execute, name: str) -> None:
    text, operands = SQUARES[name]
    check(execute, text, {}, operands)
    check(execute, text, {}, operands, rows=6, tile={"n": 1, "m": 13, "o": 16})


@pytest.mark.parametrize("name", ["three, stride, padded", "first layer, unpadded"])
def test_every_level(execute: Execute, name: str) -> None:
    text, operands = SQUARES[name]
    check(execute, text, {}, operands, levels=LEVELS)


SYMBOLIC = """
program conv(N, H, W, C, O)
task n: N, m: H*W, o: O
input x: f32[N, H, W, C], a: f32[N, H*W, O]
weight w: f32[9*C, O]
output y: f32[N, H*W, O]
stage n, m, o
  t = sum[r: 3, s: 3, i: C](pad(x[n, m // W + r - 1, m % W + s - 1, i], 0.0) * w[(r*3 + s)*C + i, o])
  y[n, m, o] = t / (1.0 + exp(0.0 - t)) + a[n, m, o]
"""


def test_symbolic_sizes(execute: Execute) -> None:
    for n, h, w, c, o in [(1, 1, 1, 1, 1), (2, 5, 13, 3, 18), (1, 10, 10, 32, 40), (0, 4, 4, 2, 3), (1, 0, 3, 2, 3)]:
        params = {"N": n, "H": h, "W": w, "C": c, "O": o}
        operands = {"x": floats(n, h, w, c), "a": floats(n, h * w, o), "w": floats(9 * c, o)}
        check(execute, SYMBOLIC, params, operands)
        check(execute, SYMBOLIC, params, operands, tile={"m": 7, "o": 16}, rows=3)


LINE = """
program conv(L, C, O)
task m: L - 4, o: O
input x: f32[1, L, C]
weight w: f32[5*C, O]
output y: f32[1, L - 4, O]
stage m, o
  t = sum[s: 5, i: C](x[0, m + s, i] * w[s*C + i, o])
  y[0, m, o] = t
"""


def test_one_dimension_without_padding_is_a_product_of_overlapping_rows(execute: Execute) -> None:
    for length, c, o in [(5, 1, 1), (40, 1, 24), (101, 6, 33)]:
        operands = {"x": floats(1, length, c), "w": floats(5 * c, o)}
        check(execute, LINE, {"L": length, "C": c, "O": o}, operands, tile={"m": 17})


def test_three_dimensions(execute: Execute) -> None:
    text = """
program conv()
task m: 2*4*5, o: 12
input x: f32[1, 4, 5, 6, 7]
weight w: f32[18*7, 12]
output y: f32[1, 2*4*5, 12]
stage m, o
  a = pad(x[0, m // 20 + d, (m // 5) % 4 + r, m % 5 + s - 1, i], 0.0)
  t = sum[d: 3, r: 2, s: 3, i: 7](a * w[((d*2 + r)*3 + s)*7 + i, o])
  y[0, m, o] = t
"""
    check(execute, text, {}, {"x": floats(1, 4, 5, 6, 7), "w": floats(18 * 7, 12)}, tile={"m": 9})


@pytest.mark.parametrize("per_group", [(8, 16), (5, 16), (4, 4), (3, 7)])
def test_groups(execute: Execute, per_group: tuple[int, int]) -> None:
    c, o = per_group
    text = f"""
program conv()
task n: 2, g: 3, m: 6*5, o: {o}
input x: f32[2, 6, 5, {3 * c}], b: f32[{3 * o}]
weight w: f32[{9 * c}, {3 * o}]
output y: f32[2, 6*5, {3 * o}]
stage n, g, m, o
  t = sum[r: 3, s: 3, i: {c}](pad(x[n, m // 5 + r - 1, m % 5 + s - 1, g*{c} + i], 0.0) * w[(r*3 + s)*{c} + i, g*{o} + o])
  y[n, m, g*{o} + o] = t + b[g*{o} + o]
"""
    operands = {"x": floats(2, 6, 5, 3 * c), "b": floats(3 * o), "w": floats(9 * c, 3 * o)}
    check(execute, text, {}, operands, tile={"n": 1, "g": 1, "m": 11})
    check(execute, text, {}, operands, tile={"n": 1, "g": 2, "m": 30, "o": 6})


def test_prologues_and_other_fills(execute: Execute) -> None:
    """What registers cannot take as it is goes through scratch: arithmetic on A, and padding with anything but zeros."""
    text, operands = SQUARES["three, padded"]
    load = text[text.index("pad(") : text.index(", 0.0)") + 6]
    check(execute, text.replace(load, f"max({load}, 0.5)"), {}, operands, tile={"m": 20})
    check(execute, text.replace(", 0.0) *", ", 2.0) *"), {}, operands, tile={"m": 20})
    channels_first = text.replace("x: f32[1, 7, 7, 13]", "x: f32[1, 13, 7, 7]").replace("x[n, ", "x[n, i, ")
    check(execute, channels_first.replace(", i], 0.0)", "], 0.0)"), {}, operands | {"x": floats(1, 13, 7, 7)})


def test_integers(execute: Execute) -> None:
    text = """
program conv()
task m: 6*6, o: 10
input x: u8[6, 6, 9]
weight w: i8[81, 10]
output y: i32[36, 10]
stage m, o
  t = sum[r: 3, s: 3, i: 9]((i32(pad(x[m // 6 + r - 1, m % 6 + s - 1, i], 7)) - 7) * i32(w[(r*3 + s)*9 + i, o]))
  y[m, o] = t
"""
    operands = {"x": rng.integers(0, 255, (6, 6, 9), np.uint8), "w": rng.integers(-128, 127, (81, 10), np.int8)}
    program = parse_program(text)
    (expected,) = run_program(program, {}, operands).values()
    for level in LEVELS:
        got, _ = execute(choose(menu(program, Target("cpu", level)), {}), level, {}, operands)
        np.testing.assert_array_equal(got["y"].reshape(expected.shape), expected)


def test_nothing_but_what_is_inside_is_read(execute: Execute) -> None:
    """NaNs around the windows that are not padded, and behind the rows of the last register tile, stay where they are."""
    text, operands = square(9, 8, 4, 16, 2, 3)
    x = np.full((1, 9, 8, 4), np.nan, np.float32)
    for r in (0, 1, 3, 4, 6, 7):
        for s in (0, 1, 3, 4, 6, 7):
            x[:, r, s] = rng.standard_normal(4)
    check(execute, text, {}, operands | {"x": x}, rows=6)


def test_depthwise_is_no_contraction() -> None:
    text = """
program depthwise()
task m: 9, c: 8
input x: f32[5, 5, 8]
weight w: f32[9, 8]
output y: f32[9, 8]
stage m, c
  t = sum[r: 3, s: 3](x[m // 3 + r, m % 3 + s, c] * w[r*3 + s, c])
  y[m, c] = t
"""
    assert contraction(parse_program(text).stages[0]) is None


@pytest.mark.parametrize("level", ["avx512", "generic"])
def test_objects_for_other_machines(level: str) -> None:
    if runs_here("neon"):
        pytest.skip("no x86-64")
    target = Target("cpu", level)
    text, _ = SQUARES["three, padded"]
    for kernel in menu(parse_program(text), target):
        assert build(emit(kernel, target), target).code
