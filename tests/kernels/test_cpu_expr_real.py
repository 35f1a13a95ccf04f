"""Real functions: the largest error in ulp over special values and dense samples, and the IEEE rules at the edges."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from fusec.ir.dim import symbol
from fusec.ir.expr import Load, prim
from fusec.ir.types import DType
from fusec.kernels.kernel import Kernel, StageTiling, Tiling
from fusec.target import runs_here
from fusec.tile.program import Axis, Operand, Stage, Store, TileProgram

Array = npt.NDArray[Any]
Execute = Callable[..., tuple[dict[str, Array], Array]]
LEVELS = [name for name in ("generic", "avx2", "avx512", "neon") if runs_here(name)]
N, AT = symbol("N"), symbol("i")
LIMIT = {DType.F32: {"exp": 1.5, "log": 1.5, "tanh": 3.0, "erf": 2.0}, DType.F64: {"erf": 3.0}}
_ERF = np.frompyfunc(math.erf, 1, 1)
REFERENCE: dict[str, Callable[[Array], Array]] = {
    "exp": np.exp, "log": np.log, "sin": np.sin, "cos": np.cos, "tan": np.tan, "asin": np.arcsin, "acos": np.arccos,
    "atan": np.arctan, "sinh": np.sinh, "cosh": np.cosh, "tanh": np.tanh, "asinh": np.arcsinh, "acosh": np.arccosh,
    "atanh": np.arctanh, "erf": lambda x: np.asarray(_ERF(x.astype(np.float64)), np.longdouble),
}  # fmt: skip


def run(execute: Execute, level: str, lane: str, name: str, dtype: DType, *arrays: Array) -> Array:
    loads = [Load(f"x{k}", (AT,), dtype) for k in range(len(arrays))]
    operands = [Operand(x.operand, "input", dtype, (N,)) for x in loads]
    stage = Stage(("i",), (), (Store("y", (AT,), prim(name, *loads)),))
    p = TileProgram("real", ("N",), (Axis("i", N),), (*operands, Operand("y", "output", dtype, (N,))), (stage,))
    kernel = Kernel(p, Tiling((), (StageTiling("nest", lane),)))
    return execute(kernel, level, {"N": len(arrays[0])}, {f"x{k}": a for k, a in enumerate(arrays)})[0]["y"]


def ulps(got: Array, expected: Array, dtype: DType) -> tuple[Array, Array]:
    """Errors in units of the last place of the rounded reference, and where one is special and the other is not."""
    with np.errstate(all="ignore"):
        rounded = expected.astype(dtype.numpy)
        unit = np.spacing(np.abs(rounded)).astype(np.longdouble)
        error = np.abs(got.astype(np.longdouble) - expected) / unit
    plain = np.isfinite(rounded) & np.isfinite(got)
    # next to the largest finite value one may be infinite
    edge = np.isfinite(expected) & (np.abs(rounded.astype(np.float64)) > 0.999999 * float(np.finfo(dtype.numpy).max))
    wrong = ~plain & ~((got == rounded) | (np.isnan(got) & np.isnan(rounded))) & ~edge
    return np.where(plain, error, 0.0), wrong


THRESHOLDS = (
    0.0, 0.34657359, 0.41421356, 0.5, 0.625, 0.70710678, 0.92, 1.0, 1.41421356, 2.41421356, 4.0, 6.0, 9.05, 18.1, 36.0,
    40.0, 44.0, 87.33, 87.3365, 88.72, 89.0, 103.972, 103.98, 708.4, 709.78, 710.0, 745.13, 2.0**20, 2.0**23, 2.0**30,
    2.0**52, 2.0**-126, 2.0**-149, 2.0**-1022, 3.4028235e38, 1.7976931348623157e308, math.inf,
)  # fmt: skip
"""Where some function changes its way, in either dtype, and the ends of the dtypes' ranges."""


def samples(dtype: DType) -> Array:
    """Every exponent, dense where functions change, and eight neighbours on either side of every threshold."""
    rng = np.random.default_rng(0)
    kind: Any = np.uint32 if dtype is DType.F32 else np.uint64
    if dtype is DType.F32:
        spread = np.arange(0, 1 << 32, 65_521, dtype=np.uint64).astype(kind).view(dtype.numpy)
    else:
        spread = rng.integers(0, np.iinfo(kind).max, 40_000, dtype=kind).view(dtype.numpy)
    dense = [np.linspace(-a, a, 20_001) for a in (0.01, 1.0, 12.0, 100.0, 750.0)]
    edges = [*THRESHOLDS, *(k * math.pi / 2 for k in (1, 2, 3, 4, 100, 355, 710, 10**5, 10**9))]
    edges += [1e22, 1e-20, 1e-30, 1e-38, 1e-44]
    with np.errstate(all="ignore"):
        x = np.concatenate([np.asarray(edges), *dense]).astype(dtype.numpy)
    bits = x[: len(edges)].view(kind)
    near = [(bits + kind(d)).view(dtype.numpy) for d in range(1, 9)]
    near += [(bits - kind(d)).view(dtype.numpy) for d in range(1, 9)]
    near = [n[~np.isnan(n)] for n in near]  # NaN is tried once, 0 and infinity have neighbours on one side
    return np.concatenate([x, -x, *near, *(-n for n in near), spread, [dtype.numpy.type(np.nan)]])


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("dtype", [DType.F32, DType.F64], ids=str)
@pytest.mark.parametrize("name", REFERENCE)
def test_accuracy(execute: Execute, name: str, dtype: DType, level: str) -> None:
    x = samples(dtype)
    with np.errstate(all="ignore"):
        wide = x.astype(np.longdouble if dtype is DType.F64 or name in ("tan",) else np.float64)
        expected = REFERENCE[name](wide)
    got = run(execute, level, "i", name, dtype, x)
    error, wrong = ulps(got, expected, dtype)
    k = int(np.argmax(wrong))
    assert not wrong.any(), f"{name}({x[k]!r}) = {got[k]!r}, expected {expected[k]!r}; {int(wrong.sum())} like this"
    worst = int(np.argmax(error))
    limit = LIMIT[dtype].get(name, 1.0 if dtype is DType.F32 else 4.0)
    assert error[worst] <= limit, f"{name}({x[worst]!r}) = {got[worst]!r} is {float(error[worst]):.2f} ulp off"
    zero = run(execute, level, "i", name, dtype, np.array([0.0, -0.0], dtype.numpy))
    if name != "acosh":  # the sign of a NaN means nothing
        assert np.array_equal(np.signbit(zero), np.signbit(REFERENCE[name](np.array([0.0, -0.0]))))
    few = x[:: len(x) // 200]
    assert np.array_equal(run(execute, level, "", name, dtype, few), got[:: len(x) // 200], equal_nan=True), (
        "scalars differ"
    )


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("dtype", [DType.F32, DType.F64], ids=str)
def test_pow(execute: Execute, dtype: DType, level: str) -> None:
    rng = np.random.default_rng(1)
    edges = np.array(
        [0.0, 1.0, 0.5, 2.0, 3.0, 4.0, 2.5, 1e-30, 1e30, 1e10, 2.0**53, np.inf, np.nan, 1.0000001, 1e-310, 7.0]
    )
    edges = np.concatenate([edges, -edges]).astype(dtype.numpy)
    x, y = (a.reshape(-1) for a in np.meshgrid(edges, edges))
    base = np.exp(rng.uniform(-20, 20, 60_000))
    power = rng.uniform(-1, 1, 60_000) * (80.0 if dtype is DType.F32 else 700.0) / np.abs(np.log(base))
    small = (
        np.exp(rng.uniform(-1, 1, 20_000)) * np.where(np.arange(20_000) % 2, 1, -1),
        np.round(rng.uniform(-50, 50, 20_000)),
    )
    x = np.concatenate([x, base.astype(dtype.numpy), small[0].astype(dtype.numpy)])
    y = np.concatenate([y, power.astype(dtype.numpy), small[1].astype(dtype.numpy)])
    with np.errstate(all="ignore"):
        expected = np.power(x.astype(np.longdouble), y.astype(np.longdouble))
    got = run(execute, level, "i", "pow", dtype, x, y)
    error, wrong = ulps(got, expected, dtype)
    k = int(np.argmax(wrong))
    assert not wrong.any(), (
        f"pow({x[k]!r}, {y[k]!r}) = {got[k]!r}, expected {expected[k]!r}; {int(wrong.sum())} like this"
    )
    worst = int(np.argmax(error))
    assert error[worst] <= (1.0 if dtype is DType.F32 else 4.0), (
        f"pow({x[worst]!r}, {y[worst]!r}): {float(error[worst]):.2f} ulp"
    )
    zeros = expected == 0
    assert np.array_equal(np.signbit(got[zeros]), np.signbit(expected[zeros]))


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("dtype", [DType.F16, DType.BF16], ids=str)
def test_narrow_floats_are_rounded_once(execute: Execute, dtype: DType, level: str) -> None:
    x = np.arange(1 << 16, dtype=np.uint16).view(dtype.numpy)
    with np.errstate(all="ignore"):
        for name in ("exp", "tanh", "sin", "sqrt"):
            expected = getattr(np, name)(x.astype(np.float32).astype(np.float64)).astype(np.float32).astype(dtype.numpy)
            got = run(execute, level, "i", name, dtype, x)
            a, b = got.astype(np.float64), expected.astype(np.float64)
            off = ~((a == b) | (np.isnan(a) & np.isnan(b)))
            step = np.abs(got.view(np.int16).astype(np.int32) - expected.view(np.int16).astype(np.int32))
            assert (step[off] <= 1).all(), name
            assert off.mean() < 1e-3, name
