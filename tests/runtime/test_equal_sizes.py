"""Sizes that an operator needs to be the same, written with symbols that may differ: compiled, and checked in each run."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "frontend"))
from onnx_models import info, init, model, node

import fusec
from fusec.errors import InputError
from fusec.plan.plan import RegionStep

R = np.random.default_rng(0)
Y = onnx.ValueInfoProto(name="y")
I64 = onnx.TensorProto.INT64


def numbers(*shape: int) -> Any:
    return R.standard_normal(shape).astype(np.float32)


W = numbers(6, 4, 3, 3)
CASES: dict[str, tuple[onnx.ModelProto, dict[str, Any], dict[str, Any], str]] = {
    "reshape to fixed sizes": (
        model([node("Relu", "x", "a"), node("Reshape", "a s", "b"), node("Exp", "b", "y")], [info("x", ("N", 12))], [Y],
              [init("s", np.array([2, 3, 4]))]),
        {"x": numbers(2, 12)}, {"x": numbers(3, 12)}, r"Reshape '.*': the sizes 12\*N and 24 must be the same",
    ),
    "reshape to sizes of another input": (
        model([node("Shape", "z", "s"), node("Reshape", "x s", "y")], [info("x", ("N", 6)), info("z", ("A", "B"))], [Y]),
        {"x": numbers(2, 6), "z": numbers(3, 4)}, {"x": numbers(2, 6), "z": numbers(3, 5)}, "must be the same",
    ),
    "the sum of a product": (
        model([node("MatMul", "x z", "a"), node("Relu", "a", "y")], [info("x", ("N", "K")), info("z", ("L", 5))], [Y]),
        {"x": numbers(3, 7), "z": numbers(7, 5)}, {"x": numbers(3, 7), "z": numbers(6, 5)}, "K and L must be the same",
    ),
    "channels": (
        model([node("Conv", "x w", "y", pads=[1, 1, 1, 1])], [info("x", (2, "C", 5, 5))], [Y], [init("w", W)]),
        {"x": numbers(2, 4, 5, 5)}, {"x": numbers(2, 3, 5, 5)}, "Conv .* C and 4 must be the same",
    ),
    "updates and their places": (
        model([node("ScatterElements", "x i u", "y", axis=1, reduction="add")],
              [info("x", ("A", 6)), info("i", ("B", 3), I64), info("u", ("C", 3))], [Y]),
        {"x": numbers(4, 6), "i": R.integers(0, 6, (4, 3)), "u": numbers(4, 3)},
        {"x": numbers(4, 6), "i": R.integers(0, 6, (4, 3)), "u": numbers(3, 3)}, "B and C must be the same",
    ),
    "the batch of a state": (
        model([node("LSTM", "x w r - - h c", "y", hidden_size=2)],
              [info("x", (3, "B", 4)), *(info(n, (1, "S", 2)) for n in "hc")], [Y],
              [init("w", numbers(1, 8, 4)), init("r", numbers(1, 8, 2))]),
        {"x": numbers(3, 2, 4), "h": numbers(1, 2, 2), "c": numbers(1, 2, 2)},
        {"x": numbers(3, 2, 4), "h": numbers(1, 3, 2), "c": numbers(1, 3, 2)}, "LSTM .* S and B must be the same",
    ),
    "fewer places than data": (
        model([node("ScatterElements", "x i u", "y", axis=1)],
              [info("x", ("A", 6)), info("i", ("B", 1), I64), info("u", ("B", 1))], [Y]),
        {"x": numbers(4, 6), "i": R.integers(0, 6, (2, 1)), "u": numbers(2, 1)},
        {"x": numbers(4, 6), "i": R.integers(0, 6, (5, 1)), "u": numbers(5, 1)}, "must not cover more than the data",
    ),
}  # fmt: skip


@pytest.mark.parametrize("fuse", [True, False])
@pytest.mark.parametrize("name", CASES)
def test_sizes_that_fit_run_natively_and_others_are_refused(name: str, fuse: bool) -> None:
    m, fits, does_not, words = CASES[name]
    session = fusec.compile(m, fuse=fuse, threads=1)
    assert all(isinstance(s, RegionStep) for s in session.plan.steps)
    (want,) = ort.InferenceSession(m.SerializeToString(), providers=["CPUExecutionProvider"]).run(None, fits)
    np.testing.assert_allclose(session.run(fits)["y"], want, rtol=1e-5, atol=1e-5)
    with pytest.raises(InputError, match=words):
        session.run(does_not)
    np.testing.assert_allclose(session.run(fits)["y"], want, rtol=1e-5, atol=1e-5)
