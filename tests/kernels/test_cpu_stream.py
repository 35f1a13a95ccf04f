"""Attention in blocks of positions: odd sizes, masks, causal rows, empty rows and special values, against numpy."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from fusec.ir.graph import Graph, Node, Value, Weight
from fusec.ir.types import DType, TensorType
from fusec.kernels.cpu.build import build
from fusec.kernels.cpu.emit import emit
from fusec.kernels.cpu.stream import BLOCK
from fusec.kernels.cpu.stream_form import attention
from fusec.lower.group import lower_group
from fusec.ops import op as ops
from fusec.rewrite.fused import make_group
from fusec.target import Target, runs_here
from fusec.tile.text import parse_program
from fusec.tiling.choose import choose, menu

Execute = Callable[..., tuple[dict[str, Any], Any]]
LEVELS = [name for name in ("generic", "avx2", "avx512", "neon") if runs_here(name)]
rng = np.random.default_rng(0)


def floats(*shape: int) -> Any:
    return rng.standard_normal(shape).astype(np.float32)


def check(
    execute: Execute,
    arrays: list[Any],
    levels: list[str] = LEVELS,
    tolerance: float = 2e-5,
    weights: str = "",
    **attrs: Any,
) -> None:
    """Lower one attention, run it streamed at all levels, and compare with the reference of the op."""
    attrs = {"causal": False, "scale": 0.3} | attrs
    values = [Value(n, TensorType(DType.of(a.dtype), a.shape)) for n, a in zip("qkvm", arrays)]
    op = ops.get("attention")
    (kind,) = op.infer([v.type for v in values], attrs)
    node = Node.make("attention", values, (Value("y", kind),), **attrs)
    constant = {v.name: Weight(v, a, v.name) for v, a in zip(values, arrays, strict=True) if v.name in weights}
    inputs = tuple(v for v in values if v.name not in weights)
    graph = Graph("g", inputs, node.outputs, (node,), constant)
    call = lower_group(make_group([node], node.outputs), graph)
    params = {p: int(n) for p, n in call.params}  # type: ignore[arg-type]
    given = {v.name: a for v, a in zip(values, arrays, strict=True)}
    operands = {o: given[v] for o, v in call.operands if v in given} | dict(call.scalars)
    (output,) = (o.name for o in call.program.operands if o.role == "output")
    with np.errstate(all="ignore"):
        (expected,) = op.reference(arrays, {"empty_rows": "nan", "past": 0} | attrs)
    for level in levels:
        kernel = choose(menu(call.program, Target("cpu", level)), params)
        assert {s.template for s in kernel.tiling.stages} == {"stream"}
        got, status = execute(kernel, level, params, operands)
        assert not status.any()
        np.testing.assert_allclose(got[output].reshape(expected.shape), expected, tolerance, tolerance, err_msg=level)
        count = kernel.bind(params).tiles
        again, _ = execute(kernel, level, params, operands, [1] * count)
        assert np.array_equal(again[output].view(np.uint8), got[output].view(np.uint8))


SIZES = [
    (2, 2, 1, 2), (3, 7, 5, 3), (5, 16, 8, 16), (7, 17, 16, 17), (13, BLOCK - 1, 4, 5), (6, BLOCK, 3, 16),
    (25, BLOCK + 1, 2, 33), (50, 2 * BLOCK + 5, 9, 7), (97, 31, 64, 64),
]  # fmt: skip
"""Rows, positions, size of a key, size of a value."""


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("t, s, d, e", SIZES)
def test_every_size(execute: Execute, t: int, s: int, d: int, e: int, causal: bool) -> None:
    check(execute, [floats(2, t, d), floats(2, s, d), floats(2, s, e)], causal=causal)


def test_masks(execute: Execute) -> None:
    for shape in [(5, 40), (1, 40), (5, 1), (2, 3, 5, 40), (2, 1, 1, 40)]:
        for causal in (False, True):
            check(
                execute, [floats(2, 3, 5, 4), floats(2, 3, 40, 4), floats(2, 3, 40, 6), floats(*shape)], causal=causal
            )


def test_rows_behind_a_cache(execute: Execute) -> None:
    for t, s, past in [(5, 9, 4), (50, BLOCK + 70, BLOCK + 20), (30, 30, 7)]:
        check(execute, [floats(2, t, 4), floats(2, s, 4), floats(2, s, 6)], causal=True, past=past)


def test_heads_that_share_keys(execute: Execute) -> None:
    check(execute, [floats(2, 2, 3, 9, 4), floats(2, 2, 1, 33, 4), floats(2, 2, 1, 33, 4)], causal=True)


@pytest.mark.parametrize("empty_rows", ["nan", "zero"])
def test_rows_that_see_nothing(execute: Execute, empty_rows: str) -> None:
    s = 2 * BLOCK + 3
    mask = np.zeros((9, s), np.float32)
    mask[0] = -np.inf
    mask[1, :BLOCK] = -np.inf  # nothing in the first block
    mask[2, BLOCK:] = -np.inf  # nothing after it
    mask[3, 1:] = -np.inf
    mask[4, :-1] = -np.inf
    check(execute, [floats(9, 4), floats(s, 4), floats(s, 5), mask], empty_rows=empty_rows)


@pytest.mark.parametrize("empty_rows", ["nan", "zero"])
def test_special_scores(execute: Execute, empty_rows: str) -> None:
    s = 2 * BLOCK + 3
    mask = floats(8, s)
    mask[0, 5], mask[1, BLOCK + 5], mask[2, 5], mask[3, BLOCK + 5] = np.nan, np.nan, np.inf, np.inf
    mask[4] = 3e38  # no finite score is too large
    mask[5] = -3e38
    mask[6, ::2] = 200.0  # powers from 1 to far below the least number
    mask[7, BLOCK:] += 500.0  # everything before is forgotten
    check(execute, [floats(8, 4) * 0.1, floats(s, 4), floats(s, 5), mask], empty_rows=empty_rows)


@pytest.mark.parametrize("weights", ["k", "v", "kv"])
def test_keys_and_values_that_are_weights(execute: Execute, weights: str) -> None:
    for s, e in [(5, 7), (BLOCK + 9, 40), (2 * BLOCK, 16)]:
        check(execute, [floats(9, 8), floats(s, 8), floats(s, e)], weights=weights, causal=True)


def test_doubles_and_halves(execute: Execute) -> None:
    arrays = [floats(7, 5), floats(33, 5), floats(33, 6)]
    check(execute, [a.astype(np.float64) for a in arrays], tolerance=1e-12)
    check(execute, [a.astype(np.float16) for a in arrays], tolerance=4e-3)


PROGRAM = """
program two(M, N, K, E)
task m: M
input q: f32[M, K], k: f32[N, K], v: f32[N, E]
local h: f32[M, N], h1: f32[M], h2: f32[M, N], h3: f32[M]
output y: f32[M, E]
stage m, n: N
  r0 = sum[k0: K](q[m, k0] * k[n, k0])
  h[m, n] = r0
stage m
  r0 = max[n: N](h[m, n])
  h1[m] = r0
stage m, n: N
  h2[m, n] = exp(h[m, n] - h1[m])
stage m
  r0 = sum[n: N](h2[m, n])
  h3[m] = 1.0 / r0
stage m, e: E
  r0 = sum[n: N](h2[m, n] * v[n, e])
  y[m, e] = r0 * h3[m]
"""


def test_code_for_other_levels() -> None:
    """Levels that do not run here compile."""
    if runs_here("neon"):
        pytest.skip("no x86-64")
    for level in ("generic", "avx2", "avx512"):
        kernel = menu(parse_program(PROGRAM), Target("cpu", level))[-1]
        assert kernel.tiling.stages[0].template == "stream"
        assert build(emit(kernel, Target("cpu", level)), Target("cpu", level)).code


def test_what_is_no_attention() -> None:
    assert attention(parse_program(PROGRAM)) is not None
    for old, new in [
        ("max[n: N](h[m, n])", "min[n: N](h[m, n])"),
        ("max[n: N](h[m, n])", "max[n: N](h2[m, n])"),
        ("exp(h[m, n] - h1[m])", "exp(h[m, n] + h1[m])"),
        ("sum[n: N](h2[m, n])\n", "sum[n: N](h[m, n])\n"),
        ("r0 * h3[m]", "r0 * h3[m] + h1[m]"),
        ("sum[n: N](h2[m, n] * v", "sum[n: N](h[m, n] * v"),
    ]:
        assert (changed := PROGRAM.replace(old, new)) != PROGRAM
        assert attention(parse_program(changed)) is None, new
