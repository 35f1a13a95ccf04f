"""The text form of tile programs and their verifier, on small programs that are right or wrong in one way."""

from __future__ import annotations

import random

import numpy as np
import pytest

from fusec.errors import BugError, PlanError
from fusec.ir.dim import symbol
from fusec.ir.expr import Const, Expr, Index, Load, Ref, prim
from fusec.ir.types import DType
from fusec.tile.parse import parse_program
from fusec.tile.program import Axis, Let, Operand, Stage, Store, TileProgram
from fusec.tile.reference import run_program
from fusec.tile.text import print_program
from fusec.tile.verify import verify_program

CHAIN = """\
program chain(M, K, L, N)
task m: M
input x: f32[M, K], v: f32[L, N]
weight w: f32[K, L]
local h: f32[M, L]
output y: f32[M, N]
stage m, l: L
  t = sum[k: K](x[m, k] * w[k, l])
  h[m, l] = max(t, 0.0)
stage m, n: N
  u = sum[l: L](h[m, l] * v[l, n])
  y[m, n] = u"""


def test_chain_runs_with_any_tile() -> None:
    p = parse_program(CHAIN)
    assert print_program(p) == CHAIN
    verify_program(p)
    r = np.random.default_rng(0)
    x, w, v = (r.standard_normal(s).astype(np.float32) for s in ((7, 5), (5, 6), (6, 3)))
    want = np.maximum(x @ w, 0) @ v
    for tile in ({}, {"m": 1}, {"m": 3}):
        got = run_program(p, {"M": 7, "K": 5, "L": 6, "N": 3}, {"x": x, "w": w, "v": v}, tile)["y"]
        np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5)


WRONG = {
    "t is not defined": ("h[m, l] = max(t, 0.0)", "h[m, l] = max(s, 0.0)"),
    "rank": ("x[m, k] *", "x[m] *"),
    "dtype": ("weight w: f32[K, L]", "weight w: f16[K, L]"),
    "task axis twice": ("stage m, n: N", "stage m, m: N"),
    "unknown parameter": ("local h: f32[M, L]", "local h: f32[M, Q]"),
    "output read": ("  y[m, n] = u", "  q = y[m, n]\n  y[m, n] = u"),
    "fold axis in a store": ("  y[m, n] = u", "  y[m, l] = u"),
    "input written": ("  y[m, n] = u", "  x[m, n] = u\n  y[m, n] = u"),
    "local before written": ("stage m, l: L", "stage m, j: L\n  h[m, j] = h[m, j]\nstage m, l: L"),
    "mixed local index": ("h[m, l] * v", "h[m + 1, l] * v"),
    "written again per task": ("y[m, n] = u", "y[0, n] = u"),
    "two meanings of an axis": ("sum[l: L](h[m, l] * v[l, n])", "sum[k: L](h[m, k] * v[k, n])"),
    "name taken": ("  u = sum", "  x = sum"),
    "never written": ("output y: f32[M, N]", "output y: f32[M, N], z: f32[M]"),
    "unknown dtype": ("input x: f32", "input x: f33"),
    "unknown function": ("max(t, 0.0)", "maxi(t, 0.0)"),
    "untyped literal": ("  h[m, l] = max(t, 0.0)", "  q = 1.0\n  h[m, l] = max(t, 0.0)"),
    "no expression": ("max(t, 0.0)", "[t for t in (1, 2)]"),
    "attribute": ("max(t, 0.0)", "t.__class__"),
    "partial local": ("  h[m, l] =", "  h[m, l]: partial ="),
    "partial store of a fold": ("  y[m, n] = u", "  y[m, n]: partial = u"),
    "unknown annotation": ("  y[m, n] = u", "  y[m, n]: f32 = u"),
    "statement": ("  u = sum", "  import os\n  u = sum"),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_programs_are_refused(case: str) -> None:
    old, new = WRONG[case]
    assert old in CHAIN
    with pytest.raises((BugError, PlanError)):
        verify_program(parse_program(CHAIN.replace(old, new)))


PARTIAL = """\
program partial(N)
task m: ceildiv(N, 2)
input x: f32[N]
output y: f32[N]
stage m
  y[2*m] = x[2*m]
  y[2*m + 1]: partial = pad(x[2*m + 1], 0.0)"""


def test_partial_stores_write_nothing_outside() -> None:
    p = parse_program(PARTIAL)
    assert print_program(p) == PARTIAL
    verify_program(p)
    for n in (1, 4, 5):
        x = np.arange(n, dtype=np.float32)
        np.testing.assert_array_equal(run_program(p, {"N": n}, {"x": x}, {"m": 1})["y"], x)
    with pytest.raises(BugError, match="is indexed by"):
        run_program(parse_program(PARTIAL.replace(": partial", "")), {"N": 5}, {"x": np.zeros(5, np.float32)})


HOSTILE = [
    "",
    "program",
    "stage m",
    "program a()\n  x = 1",
    "program a()\ntask\nstage\n  y[0] = " + "(" * 5000,
    "program a(" + "M," * 40000,
    "program a()\ntask\noutput y: f32[1]\nstage\n  y[0] = " + "1.0 + " * 9000 + "1.0",
]


@pytest.mark.parametrize("text", HOSTILE, ids=range(len(HOSTILE)))
def test_hostile_text_is_an_error_not_a_crash(text: str) -> None:
    with pytest.raises((PlanError, BugError)):
        verify_program(parse_program(text))


def test_an_element_written_twice_is_found_when_it_runs() -> None:
    p = parse_program("program p(N, C)\ntask i: N\noutput y: f32[C*N]\nstage i, j: C\n  y[i + j] = 1.0")
    with pytest.raises(BugError, match="written"):
        run_program(p, {"N": 3, "C": 2}, {})


def test_index_outside_without_fill_is_found_when_it_runs() -> None:
    p = parse_program("program p(N)\ntask i: N\ninput x: f32[N]\noutput y: f32[N]\nstage i\n  y[i] = x[i + 1]")
    with pytest.raises(BugError, match="is indexed by"):
        run_program(p, {"N": 3}, {"x": np.zeros(3)})


def random_expr(r: random.Random, dtype: DType, depth: int) -> Expr:
    """Any well-typed expression over x: f32, h: f16, i: i64, b: bool operands and a let t: f32."""
    i = symbol("i")
    leaves: dict[DType, list[Expr]] = {
        DType.F32: [Load("x", (i,), DType.F32), Ref("t", DType.F32), Ref("c", DType.F32)],
        DType.F16: [Load("h", (i * 2 + 1,), DType.F16, Const(-0.0, DType.F16)), Const(float("nan"), DType.F16)],
        DType.I64: [Load("n", (i,), DType.I64), Index(i + symbol("N")), Const(-3, DType.I64), Index(7)],
        DType.BOOL: [Load("b", (i,), DType.BOOL), Const(True, DType.BOOL)],
    }
    leaves[DType.F32] += [Const(x, DType.F32) for x in (0.5, -1.0, 2, float("inf"), -0.0)]
    if depth == 0 or r.random() < 0.15:
        return r.choice(leaves[dtype])

    def sub(d: DType) -> Expr:
        return random_expr(r, d, depth - 1)

    if r.random() < 0.15:
        return prim("cast", sub(r.choice(list(leaves))), dtype=dtype)
    if r.random() < 0.15:
        return prim("where", sub(DType.BOOL), sub(dtype), sub(dtype))
    if dtype is DType.BOOL:
        kind = r.choice([DType.F32, DType.I64, DType.BOOL, DType.F16])
        return r.choice([
            lambda: prim(r.choice(["lt", "le", "gt", "ge", "eq", "ne"]), sub(kind), sub(kind)),
            lambda: prim(r.choice(["and", "or", "xor"]), sub(dtype), sub(dtype)),
            lambda: prim("not", sub(dtype)), lambda: prim("isnan", sub(DType.F32)),
        ])()  # fmt: skip
    if dtype is DType.I64 and r.random() < 0.5:
        if r.random() < 0.2:
            return r.choice([prim("bitnot", sub(dtype)), Load("n", (sub(dtype),), dtype)])
        return prim(r.choice(["bitand", "bitor", "bitxor", "shl", "shr", "floordiv"]), sub(dtype), sub(dtype))
    if dtype is not DType.I64 and r.random() < 0.3:
        return prim(r.choice(["exp", "floor", "tanh", "round"]), sub(dtype))
    if r.random() < 0.2:
        return prim(r.choice(["neg", "abs"]), sub(dtype))
    return prim(r.choice(["add", "sub", "mul", "div", "mod", "rem", "max", "min", "pow"]), sub(dtype), sub(dtype))


@pytest.mark.parametrize("seed", range(300))
def test_any_expression_comes_back(seed: int) -> None:
    r = random.Random(seed)
    dtype = r.choice([DType.F32, DType.F16, DType.I64, DType.BOOL])
    n, i = symbol("N"), symbol("i")
    inputs = [("x", DType.F32, n), ("h", DType.F16, n * 2 + 2), ("n", DType.I64, n), ("b", DType.BOOL, n)]
    operands = [Operand(name, "input", t, (size,)) for name, t, size in inputs]
    operands += [Operand("c", "scalar", DType.F32, ()), Operand("y", "output", dtype, (n,))]
    middle = random_expr(r, r.choice([DType.F32, DType.BOOL, DType.I64]), 4)
    body = (Let("t", Load("x", (i,), DType.F32)), Let("u", middle), Store("y", (i,), random_expr(r, dtype, 4)))
    p = TileProgram("p", ("N",), (Axis("i", n),), tuple(operands), (Stage(("i",), (), body),))
    text = print_program(p)
    assert parse_program(text) == p, text
    verify_program(p)
