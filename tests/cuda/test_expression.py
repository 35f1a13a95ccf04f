"""Every primitive on every dtype, emitted as CUDA and emulated, against the numpy interpreter on special values."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cuda_kernels import run_kernel

from fusec.ir.expr import TRANSCENDENTAL, Ref, prim
from fusec.ir.types import DType
from fusec.kernels.cuda.emulator.build import compiler
from fusec.kernels.kernel import Kernel, StageTiling, Tiling

sys.path.insert(0, str(Path(__file__).parents[1] / "kernels"))
import primitive_cases as cases
from primitive_cases import FLOATS, INTEGERS, NATIVE

pytestmark = pytest.mark.skipif(compiler() is None, reason="no C++ compiler")
CASES = [
    *(("float_arithmetic", d) for d in FLOATS),
    *(("integer_arithmetic", d) for d in INTEGERS),
    *(("casts", d) for d in NATIVE),
    *(("where_and_literals", d) for d in NATIVE),
    ("bool", None),
    ("every_narrow_float_converts", None),
]


def execute(kernel: Kernel, level: str, params: dict[str, int], operands: dict[str, Any]) -> Any:
    return run_kernel(Kernel(kernel.program, Tiling((), (StageTiling("points", "i"),))), params, operands)


@pytest.mark.parametrize(("name", "dtype"), CASES, ids=str)
def test_primitives(name: str, dtype: DType | None) -> None:
    getattr(cases, name)(execute, "emulated", "i", *([dtype] if dtype else []))


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_real_functions_have_the_right_names(dtype: DType) -> None:
    """Emulated they are those of the C library: which is called, and where its edges are, is what this shows."""
    x = cases.specials(dtype)
    body = {f"o_{n}": prim(n, *[cases.load("x", dtype)] * (2 if n == "pow" else 1)) for n in sorted(TRANSCENDENTAL)}
    got = cases.run(execute, "emulated", "i", body, {"x": x})
    for n in sorted(TRANSCENDENTAL):
        expected = cases.evaluate_expr(prim(n, *[Ref("x", dtype)] * (2 if n == "pow" else 1)), {"x": x})
        keep = np.abs(x.astype(np.float64)) < 1e9 if n in ("sin", "cos", "tan") else slice(None)
        cases.same(got[f"o_{n}"][keep], expected[keep], n, ulp=4.0)
