"""Row programs as lowering writes them: stages that become one, locals in the output's memory, powers that end as 0."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from fusec.ir.expr import Prim, walk
from fusec.kernels.cpu.joined import lent_by_outputs, nests
from fusec.kernels.cpu.powers import BELOW, BESIDE, bound_powers
from fusec.kernels.kernel import Kernel
from fusec.target import Target
from fusec.tile.text import parse_program
from fusec.tiling.choose import menu

Check = Callable[..., dict[str, Any]]
rng = np.random.default_rng(0)

SOFTMAX = """
program softmax(I, K)
task i: I
input x: f32[I, K], z: f32[K]
local h: f32[I], h1: f32[I, K], h2: f32[I]
output y: f32[I, K]
stage i
  t = x[i, k] * 0.5 + z[k]
  r0 = max[k: K](t)
  h[i] = r0
stage i, k: K
  t = x[i, k] * 0.5 + z[k]
  t0 = exp(t - h[i])
  h1[i, k] = t0
stage i
  r0 = sum[k: K](h1[i, k])
  h2[i] = 1.0 / r0
stage i, k: K
  y[i, k] = h1[i, k] * h2[i]
"""


def kernel_of(text: str) -> Kernel:
    return menu(parse_program(text), Target("cpu", "avx2"))[0]


@pytest.mark.parametrize("lane", ["k", "i", ""])
@pytest.mark.parametrize("n", [0, 1, 7, 8, 31, 64, 1000])
def test_softmax(check: Check, n: int, lane: str) -> None:
    x, z = (rng.standard_normal(s).astype(np.float32) for s in ((5, n), (n,)))
    check(SOFTMAX, [lane] * 4, {"I": 5, "K": n}, {"x": x, "z": z}, tile={"i": 2})


def test_the_sum_is_made_where_the_powers_are_and_those_lie_in_the_output() -> None:
    kernel = kernel_of(SOFTMAX)
    assert len(list(nests(kernel))) == 3
    assert lent_by_outputs(kernel.program) == {"h1": "y"}


def test_stages_stay_apart_where_the_fold_needs_all_of_the_one_before() -> None:
    text = SOFTMAX.replace("sum[k: K](h1[i, k])", "sum[k: K](h1[i, K - 1 - k])")
    kernel = kernel_of(text)
    assert len(list(nests(kernel))) == 4
    assert lent_by_outputs(kernel.program) == {}


def test_masked_elements_are_0_and_never_subnormal(check: Check) -> None:
    """Powers of -88 and less would be subnormal in part: those of a softmax are 0, whatever the mask's number."""
    x = rng.standard_normal((6, 333)).astype(np.float32)
    for mask in (-92.0, -100.0, -176.0, -1e4, -3e38, -np.inf):
        z = np.where(np.arange(333) % 3 == 0, 0.0, mask).astype(np.float32)
        got = check(SOFTMAX, ["k"] * 4, {"I": 6, "K": 333}, {"x": x, "z": z}, tile={"i": 3})["y"].reshape(6, 333)
        assert (got[:, z != 0] == 0.0).all()
        assert (got[:, z == 0] > np.finfo(np.float32).tiny).all()


def marked(text: str) -> int:
    program = parse_program(text)
    stages = (bound_powers(program, s) for s in program.stages)
    return sum(isinstance(x, Prim) and x.name == BELOW for s in stages for e in s.expressions() for x in walk(e))


def test_only_powers_below_their_own_maximum_are_marked() -> None:
    assert marked(SOFTMAX) == 1
    assert marked(SOFTMAX.replace("max[k", "min[k")) == 0
    assert marked(SOFTMAX.replace("  t0 = exp(t - h[i])", "  t0 = exp(t * 2.0 - h[i])")) == 0
    assert marked(SOFTMAX.replace("h[i] = r0", "h[i] = r0 * 0.5")) == 0
    assert marked(SOFTMAX.replace("exp(t - h[i])", "exp(t - h[I - 1 - i])")) == 0


LATER = """
program later(I, K)
task i: I
input x: f32[I, K]
local h: f32[I, K], s: f32[I]
output y: f32[I, K], m: f32[I]
stage i, k: K
  t = x[i, k] * x[i, k]
  h[i, k] = t + 1.0
stage i
  a = sum[k: K](h[i, k] * x[i, k])
  b = max[k: K](h[i, k])
  s[i] = a + b
  m[i] = b
stage i, k: K
  y[i, k] = h[i, k] / s[i]
"""


@pytest.mark.parametrize("n", [1, 9, 40])
def test_several_folds_over_what_is_stored(check: Check, n: int) -> None:
    check(LATER, ["k"] * 3, {"I": 7, "K": n}, {"x": rng.uniform(0.5, 1, (7, n))}, tile={"i": 3})
    assert len(list(nests(kernel_of(LATER)))) == 2


ARGMAX = """
program arg(I, K)
task i: I
input x: {t}[I, K]
output y: i64[I], z: i64[I]
stage i
  a = argmax[k: K](x[i, k], index(k))
  b = argmin[k: K](x[i, k] * x[i, k], index(k + 3))
  y[i] = a
  z[i] = b
"""


@pytest.mark.parametrize("dtype", ["f32", "f64", "i8", "u8", "i64", "f16"])
@pytest.mark.parametrize("lane", ["k", "i", ""])
def test_argmax_takes_the_first_of_equals_and_of_nans(check: Check, dtype: str, lane: str) -> None:
    for n in (1, 8, 37, 100):
        x = rng.integers(0, 4, (6, n)).astype(np.float32)
        if dtype[0] == "f":
            x[1, n // 2 :: 3] = np.nan
            x[2] = -np.inf
            x[3, 0] = np.inf
        check(ARGMAX.format(t=dtype), [lane], {"I": 6, "K": n}, {"x": x}, tile={"i": 4})


SIGMOID = """
program sigmoid(I)
task i: I
input x: f32[I]
output y: f32[I], z: f32[I]
stage i
  t = exp(-x[i])
  y[i] = 1.0 / (exp(-x[i]) + 1.0)
  z[i] = x[i] / (1.0 + exp(-x[i]))
"""


def test_sigmoids_to_the_ends_of_their_range(check: Check) -> None:
    edges = [0.0, -0.0, 87.0, 87.4, 88.3, 88.4, 88.72, 88.73, 89.0, 90.0, 103.0, 1e4, 3e38, np.inf]
    x = np.concatenate([edges, np.negative(edges), [np.nan], np.linspace(-87, 87, 5001)]).astype(np.float32)
    finite = np.where(np.isinf(x), 1.0, x).astype(np.float32)  # x / (1 + e^-x) is NaN at -inf
    assert np.nanmin(check(SIGMOID, ["i"], {"I": len(x)}, {"x": finite}, rtol=1e-6)["y"]) >= 0.0
    alone = SIGMOID.replace(", z: f32[I]", "").replace("  z[i] = x[i] / (1.0 + exp(-x[i]))\n", "")
    got = check(alone, ["i"], {"I": len(x)}, {"x": x}, rtol=1e-6)["y"]
    assert got[len(edges) - 1] == 1.0 and got[2 * len(edges) - 1] == 0.0
    safe = alone.replace("  t = exp(-x[i])\n", "").replace(
        "1.0 / (exp(-x[i])", "where(x[i] < 0.0, exp(-abs(x[i])), 1.0) / (exp(-abs(x[i]))"
    )
    got = check(safe, ["i"], {"I": len(x)}, {"x": x}, rtol=1e-6)["y"]
    assert got[len(edges) - 1] == 1.0 and got[2 * len(edges) - 1] == 0.0
    assert safe.count("exp(") == 2 and _exponentials(safe) == 1
    shared = alone.replace("  t = exp(-x[i])\n", "").replace("1.0 / (exp(-x[i])", "(1.0 - exp(-x[i])) / (exp(-x[i])")
    assert shared.count("exp(") == 2 and _exponentials(shared) == 1


def _exponentials(text: str) -> int:
    """How many powers a stage computes."""
    program = parse_program(text)
    parts = {x for e in bound_powers(program, program.stages[0]).expressions() for x in walk(e)}
    return sum(isinstance(x, Prim) and x.name in ("exp", BELOW, BESIDE) for x in parts)
