"""Every primitive on every dtype against the numpy interpreter, on special values: cases for the tests of all back ends.

`execute(kernel, level, params, operands)` runs a kernel and gives its outputs and the status block.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt

from fusec.ir.dim import symbol
from fusec.ir.evaluate import evaluate_expr
from fusec.ir.expr import BITS, COMPARISONS, LOGICAL, PATTERNS, TESTS, Const, Expr, Load, Ref, prim
from fusec.ir.types import DType
from fusec.kernels.kernel import Kernel, StageTiling, Tiling
from fusec.tile.program import Axis, Operand, Stage, Store, TileProgram

Array = npt.NDArray[Any]
Execute = Callable[..., tuple[dict[str, Array], Array]]
NATIVE = [d for d in DType if d.is_native]
FLOATS = [d for d in NATIVE if d.is_float]
INTEGERS = [d for d in NATIVE if d.is_integer]
N, AT = symbol("N"), symbol("i")


def program(body: dict[str, Expr], inputs: dict[str, DType]) -> TileProgram:
    operands = [Operand(n, "input", d, (N,)) for n, d in inputs.items()]
    operands += [Operand(n, "output", e.dtype, (N,)) for n, e in body.items()]
    stage = Stage(("i",), (), tuple(Store(n, (AT,), e) for n, e in body.items()))
    return TileProgram("primitives", ("N",), (Axis("i", N),), tuple(operands), (stage,))


def run(execute: Execute, level: str, lane: str, body: dict[str, Expr], arrays: dict[str, Array]) -> dict[str, Array]:
    p = program(body, {n: DType.of(a.dtype) for n, a in arrays.items()})
    kernel = Kernel(p, Tiling((), (StageTiling("nest", lane),)))
    got, status = execute(kernel, level, {"N": len(next(iter(arrays.values())))}, arrays)
    assert not status.any()
    return got


def load(name: str, dtype: DType) -> Load:
    return Load(name, (AT,), dtype)


@cache
def specials(dtype: DType) -> Array:
    """Values where definitions change: limits, zeros, halves, powers of two and their neighbours, NaN."""
    if dtype is DType.BOOL:
        return np.array([False, True])
    if dtype.is_integer:
        info = np.iinfo(dtype.numpy)
        near = [
            0,
            1,
            2,
            3,
            5,
            7,
            31,
            32,
            63,
            64,
            100,
            -1,
            -2,
            -3,
            -7,
            -64,
            info.max,
            info.max - 1,
            info.min,
            info.min + 1,
        ]
        return np.array([v for v in near if info.min <= v <= info.max], dtype.numpy)
    base = [0.0, 0.25, 0.5, 0.625, 0.92, 1.0, 1.5, 2.0, 2.5, 3.0, 4.0, 7.0, 9.3, 10.5, 88.0, 89.0, 103.9, 104.0, 128.0]
    base += [255.0, 256.0, 32767.5, 32768.0, 65504.0, 65520.0, 2.0**23, 2.0**24, 2.0**31, 2.0**32, 1e9, 1e-3, 1e-8]
    if dtype in (DType.F32, DType.F64):
        base += [2.0**52, 2.0**53, 2.0**63, 2.0**64, 1e-20, 1e30, 1e38, 1.2e-38, 1e-42, 1e-45]
    if dtype is DType.F64:
        base += [709.0, 710.0, 745.0, 746.0, 1e300, 1e-300, 2.3e-308, 5e-324]
    wide = np.array([*base, np.inf, np.nan, np.pi / 2, np.pi, np.e]).astype(np.float64)
    x = wide.astype(np.float32) if dtype in (DType.F16, DType.BF16) else wide.astype(dtype.numpy)
    if dtype in (DType.F32, DType.F64):
        x = np.concatenate([x, np.nextafter(x, x.dtype.type(np.inf)), np.nextafter(x, x.dtype.type(-np.inf))])
    with np.errstate(all="ignore"):
        return np.concatenate([x, -x]).astype(dtype.numpy)


def pairs(dtype: DType) -> tuple[Array, Array]:
    s = specials(dtype)
    both = np.array(list(itertools.product(range(len(s)), repeat=2)))
    return s[both[:, 0]], s[both[:, 1]]


def same(got: Array, expected: Array, what: str, ulp: float = 0.0) -> None:
    """Equal as values; NaN equals NaN, -0 is told from 0 except where rounding decides."""
    if got.dtype.kind in "biu":
        bad = got != expected
    else:
        g, e = got.astype(np.float64), expected.astype(np.float64)
        with np.errstate(all="ignore"):
            unit = (
                np.spacing(np.abs(expected).astype(np.float32 if got.dtype.itemsize == 4 else expected.dtype))
                if ulp
                else 0.0
            )
            close = np.abs(g - e) <= ulp * np.abs(np.asarray(unit, np.float64)) if ulp else g == e
        bad = ~(close | (g == e) | (np.isnan(g) & np.isnan(e)))
    if bad.any():
        k = int(np.argmax(bad))
        raise AssertionError(f"{what}: {int(bad.sum())} differ, first at {k}: got {got[k]!r}, expected {expected[k]!r}")


def compare(
    execute: Execute, level: str, lane: str, body: dict[str, Expr], arrays: dict[str, Array], refs: dict[str, Expr]
) -> None:
    got = run(execute, level, lane, body, arrays)
    for name, e in refs.items():
        expected = evaluate_expr(e, arrays)
        try:
            same(got[name], np.broadcast_to(expected, got[name].shape), f"{level} {lane or 'scalar'} {name}")
        except AssertionError as error:
            k = int(str(error).split("first at ")[1].split(":")[0])
            raise AssertionError(f"{error} for {[a[k] for a in arrays.values()]}") from None


def check_all(execute: Execute, level: str, lane: str, names: list[str], arrays: dict[str, Array]) -> None:
    body, refs = {}, {}
    for name in names:
        body[f"o_{name}"] = prim(name, *(load(n, DType.of(a.dtype)) for n, a in arrays.items()))
        refs[f"o_{name}"] = prim(name, *(Ref(n, DType.of(a.dtype)) for n, a in arrays.items()))
    compare(execute, level, lane, body, arrays, refs)


def float_arithmetic(execute: Execute, level: str, lane: str, dtype: DType) -> None:
    x, y = pairs(dtype)
    names = ["add", "sub", "mul", "div", "max", "min", "rem", "mod", "floordiv", *sorted(COMPARISONS)]
    check_all(execute, level, lane, names, {"x": x, "y": y})
    s = specials(dtype)
    check_all(execute, level, lane, ["neg", "abs", "sqrt", "floor", "ceil", "round", "trunc", *sorted(TESTS)], {"x": s})
    if dtype in PATTERNS:
        check_all(execute, level, lane, ["bits"], {"x": s[~np.isnan(s)]})


def integer_arithmetic(execute: Execute, level: str, lane: str, dtype: DType) -> None:
    x, y = pairs(dtype)
    names = ["add", "sub", "mul", "div", "max", "min", "rem", "mod", "floordiv", "pow", *sorted(COMPARISONS)]
    names += sorted(BITS - {"bitnot"})
    check_all(execute, level, lane, names, {"x": x, "y": y})
    check_all(execute, level, lane, ["neg", "abs", "bitnot"], {"x": specials(dtype)})


def bool(execute: Execute, level: str, lane: str) -> None:
    x, y = (np.tile(a, 5) for a in pairs(DType.BOOL))
    check_all(execute, level, lane, [*sorted(LOGICAL - {"not"}), *sorted(COMPARISONS), "max", "min"], {"x": x, "y": y})
    check_all(execute, level, lane, ["not"], {"x": x})


def casts(execute: Execute, level: str, lane: str, source: DType) -> None:
    x = specials(source)
    if source is DType.F64:  # ties of the narrow formats, and their neighbours in f64
        ties = np.array([1 + 2.0**-11, 1 + 3 * 2.0**-11, 1 + 2.0**-8, 1 + 3 * 2.0**-8, 2.0**-25, 3 * 2.0**-25])
        x = np.concatenate([x, ties, ties * (1 + 2.0**-40), ties * (1 - 2.0**-40)])
    body = {f"o_{d}": prim("cast", load("x", source), dtype=d) for d in NATIVE if d is not source}
    refs = {f"o_{d}": prim("cast", Ref("x", source), dtype=d) for d in NATIVE if d is not source}
    if source is DType.F64:  # numpy's and ml_dtypes' road to bf16 rounds twice
        del refs["o_bf16"]
    compare(execute, level, lane, body, {"x": x}, refs)


def where_and_literals(execute: Execute, level: str, lane: str, dtype: DType) -> None:
    x, y = pairs(dtype)
    c = np.arange(len(x)) % 3 == 0
    one = Const(dtype is DType.BOOL or 1, dtype)
    body = {
        "o": prim("where", load("c", DType.BOOL), load("x", dtype), load("y", dtype)),
        "k": prim("where", load("c", DType.BOOL), load("x", dtype), one),
    }
    refs = {
        "o": prim("where", Ref("c", DType.BOOL), Ref("x", dtype), Ref("y", dtype)),
        "k": prim("where", Ref("c", DType.BOOL), Ref("x", dtype), one),
    }
    compare(execute, level, lane, body, {"c": c, "x": x, "y": y}, refs)


def every_narrow_float_converts(execute: Execute, level: str, lane: str) -> None:
    bits = np.arange(1 << 16, dtype=np.uint16)
    for dtype in (DType.F16, DType.BF16):
        x = bits.view(dtype.numpy)
        got = run(execute, level, lane, {"o": prim("cast", load("x", dtype), dtype=DType.F32)}, {"x": x})["o"]
        same(got, x.astype(np.float32), f"{level} {dtype}")
