"""Every primitive on every dtype and level, vector and scalar, against the numpy interpreter, on special values."""

from __future__ import annotations

import primitive_cases as cases
import pytest
from primitive_cases import FLOATS, INTEGERS, NATIVE, Execute, load, program

from fusec.ir.expr import Expr, prim
from fusec.ir.types import DType
from fusec.kernels.cpu.build import build
from fusec.kernels.cpu.emit import emit
from fusec.kernels.kernel import Kernel, StageTiling, Tiling
from fusec.target import Target, runs_here

LEVELS = [name for name in ("generic", "avx2", "avx512", "neon") if runs_here(name)]


@pytest.mark.parametrize("lane", ["i", ""])
@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_float_arithmetic(execute: Execute, dtype: DType, level: str, lane: str) -> None:
    cases.float_arithmetic(execute, level, lane, dtype)


@pytest.mark.parametrize("lane", ["i", ""])
@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("dtype", INTEGERS, ids=str)
def test_integer_arithmetic(execute: Execute, dtype: DType, level: str, lane: str) -> None:
    cases.integer_arithmetic(execute, level, lane, dtype)


@pytest.mark.parametrize("level", LEVELS)
def test_bool(execute: Execute, level: str) -> None:
    cases.bool(execute, level, "i")


@pytest.mark.parametrize("lane", ["i", ""])
@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("source", NATIVE, ids=str)
def test_casts(execute: Execute, source: DType, level: str, lane: str) -> None:
    cases.casts(execute, level, lane, source)


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("dtype", NATIVE, ids=str)
def test_where_and_literals(execute: Execute, dtype: DType, level: str) -> None:
    cases.where_and_literals(execute, level, "i", dtype)


@pytest.mark.parametrize("level", LEVELS)
def test_every_narrow_float_converts(execute: Execute, level: str) -> None:
    cases.every_narrow_float_converts(execute, level, "i")


@pytest.mark.parametrize("level", ["avx512", "neon"])
def test_foreign_levels_build_without_libraries(level: str) -> None:
    """Objects that cannot run here: LLVM accepts the code and it calls no library function (build checks that)."""
    if runs_here("neon") != (level == "neon"):
        pytest.skip("another architecture")
    for dtype in NATIVE:
        x = load("x", dtype)
        body: dict[str, Expr] = {"same": prim("max", x, x)} if dtype is not DType.BOOL else {"same": prim("or", x, x)}
        body |= {f"o_{d}": prim("cast", x, dtype=d) for d in NATIVE if d is not dtype}
        if dtype.is_float:
            body |= {f"r_{n}": prim(n, x) for n in ("exp", "log", "sin", "tanh", "erf", "floor", "round", "acos")}
            body |= {f"b_{n}": prim(n, x, x) for n in ("add", "div", "mod", "pow")}
        p = program(body, {"x": dtype})
        target = Target("cpu", level)
        for lane in ("i", ""):
            build(emit(Kernel(p, Tiling((), (StageTiling("nest", lane),))), target), target)
