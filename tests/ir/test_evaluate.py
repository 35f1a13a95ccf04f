"""The interpreter of scalar expressions does what `ir.expr` says, on the values where machines differ."""

from __future__ import annotations

import math
import warnings
from typing import Any

import numpy as np
import pytest

from fusec.errors import BugError
from fusec.ir.dim import symbol
from fusec.ir.evaluate import apply_primitive, convert, evaluate_expr, literal
from fusec.ir.expr import PRIMITIVES, UNARY, Const, Expr, Index, Load, Ref, prim
from fusec.ir.types import DType

INTEGERS = [d for d in DType if d.is_integer]


def ints(dtype: DType, *values: int) -> np.ndarray[Any, Any]:
    return np.array(values, dtype.numpy)


@pytest.fixture(autouse=True)
def no_warnings() -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


@pytest.mark.parametrize("dtype", INTEGERS, ids=str)
def test_integer_division_agrees_with_python_and_never_traps(dtype: DType) -> None:
    info = np.iinfo(dtype.numpy)
    values = sorted({info.min, info.min + 1, *range(max(info.min, -9), 10), info.max - 1, info.max})
    a, b = np.meshgrid(ints(dtype, *values), ints(dtype, *values))
    got = {n: apply_primitive(n, (a, b)) for n in ("div", "floordiv", "mod", "rem")}
    for name, out in got.items():
        assert out.dtype == dtype.numpy
        for x, y, r in zip(a.ravel().tolist(), b.ravel().tolist(), out.ravel().tolist(), strict=True):
            if y == 0:
                expected = 0
            else:
                truncated = abs(x) // abs(y) * (1 if (x < 0) == (y < 0) else -1)
                whole = {"div": truncated, "floordiv": x // y, "mod": x % y, "rem": x - truncated * y}[name]
                expected = int(literal(whole, dtype))
            assert r == expected, (name, x, y)


@pytest.mark.parametrize("dtype", INTEGERS, ids=str)
def test_integer_power_wraps(dtype: DType) -> None:
    info = np.iinfo(dtype.numpy)
    for x in {max(info.min, -3), max(info.min, -1), 0, 1, 2, 3, info.max}:
        for y in {max(info.min, -2), max(info.min, -1), 0, 1, 2, 5}:
            expected = int(literal(x**y, dtype)) if y >= 0 else (x if y % 2 else 1) if abs(x) == 1 else 0
            assert apply_primitive("pow", (ints(dtype, x), ints(dtype, y)))[0] == expected, (x, y)


def test_shifts_by_the_width_or_more() -> None:
    a, b = ints(DType.I8, 1, -1, -128, 127), ints(DType.I8, 8, 9, 100, 7)
    assert apply_primitive("shl", (a, b)).tolist() == [0, 0, 0, -128]
    assert apply_primitive("shr", (a, b)).tolist() == [0, -1, -1, 0]
    assert apply_primitive("shr", (ints(DType.U64, 2**64 - 1), ints(DType.U64, 64))).tolist() == [0]
    assert apply_primitive("shl", (ints(DType.U32, 1), ints(DType.U32, 31))).tolist() == [2**31]


@pytest.mark.parametrize("dtype", INTEGERS, ids=str)
@pytest.mark.parametrize("source", [np.float64, np.float32, np.float16])
def test_float_to_integer_saturates(dtype: DType, source: Any) -> None:
    info = np.iinfo(dtype.numpy)
    with np.errstate(all="ignore"):
        extremes = np.array([info.min, info.max, info.max + 1.0, info.min - 1.0], source)
        near = np.nextafter(extremes, source(0))
        x = np.concatenate(
            [np.array([0, -0.0, 0.9, -0.9, 1.5, -1.5, 100.7, math.nan, math.inf, -math.inf], source), extremes, near]
        )
    got = convert(x, dtype)
    for value, r in zip(x.tolist(), got.tolist(), strict=True):
        if math.isnan(value):
            expected = 0
        elif math.isinf(value):
            expected = info.max if value > 0 else info.min
        else:
            expected = min(max(math.trunc(value), info.min), info.max)
        assert r == expected, value


def test_casts_to_bool_and_between_integers() -> None:
    assert convert(np.array([0.0, -0.0, 0.5, math.nan]), DType.BOOL).tolist() == [False, False, True, True]
    assert convert(ints(DType.I64, 300, -1), DType.U8).tolist() == [44, 255]
    assert convert(np.array([True, False]), DType.F32).tolist() == [1.0, 0.0]


def test_nan_rules() -> None:
    a, b = np.array([math.nan, 1.0, math.nan], np.float32), np.array([1.0, math.nan, math.nan], np.float32)
    assert np.isnan(apply_primitive("max", (a, b))).all()
    assert np.isnan(apply_primitive("min", (a, b))).all()
    assert not any(apply_primitive(n, (a, b)).any() for n in ("lt", "le", "gt", "ge", "eq"))
    assert apply_primitive("ne", (a, b)).all()


def test_small_floats_round_once() -> None:
    x = np.array([1.0, 3.0, 65504.0], np.float16)
    got = apply_primitive("mul", (x, x))
    assert got.dtype == np.float16
    assert got.tolist() == [1.0, 9.0, math.inf]
    b = np.array([1.5, -2.25], DType.BF16.numpy)
    assert apply_primitive("add", (b, b)).astype(np.float32).tolist() == [3.0, -4.5]
    assert apply_primitive("lt", (b, b)).dtype == np.bool_


@pytest.mark.parametrize("name", sorted(PRIMITIVES - {"cast", "where"}))
def test_every_primitive_has_a_rule(name: str) -> None:
    dtype = (
        DType.BOOL
        if name in ("and", "or", "xor", "not")
        else DType.I32
        if name in ("bitand", "bitor", "bitxor", "bitnot", "shl", "shr")
        else DType.F32
    )
    args = tuple(np.array([0, 1], dtype.numpy) for _ in range(1 if name in UNARY else 2))
    e = prim(name, *(Ref(f"a{i}", dtype) for i in range(len(args))))
    got = evaluate_expr(e, {f"a{i}": a for i, a in enumerate(args)})
    assert got.dtype == e.dtype.numpy


def test_deep_and_shared_expressions_take_linear_time() -> None:
    e: Expr = Ref("x", DType.F64)
    for _ in range(20_000):
        e = prim("mul", prim("add", e, e), Const(0.5, DType.F64))
    assert evaluate_expr(e, {"x": np.array(3.0)}) == 3.0


def test_loads_and_indices_are_answered_by_the_caller() -> None:
    n, table = symbol("n"), np.array([10.0, 20.0, 30.0])
    gather = Load("table", (Index(n),), DType.F64)
    direct = Load("table", (n * 1,), DType.F64)
    position = np.array([2, 0])

    def load(x: Load, index: Any) -> Any:
        (i,) = index
        return table[i if isinstance(i, np.ndarray) else position]

    got = evaluate_expr(prim("sub", gather, direct), {}, load, lambda _: position)
    assert got.tolist() == [0.0, 0.0]
    with pytest.raises(BugError, match="nobody answers the load of 'table'"):
        evaluate_expr(direct, {})
    with pytest.raises(BugError, match="reads 'q'"):
        evaluate_expr(Ref("q", DType.F32), {})


def test_literals_wrap_and_round() -> None:
    assert literal(-1, DType.U8) == 255
    assert literal(200, DType.I8) == -56
    assert literal(1e300, DType.F32) == math.inf
