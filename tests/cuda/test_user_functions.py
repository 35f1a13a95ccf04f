"""Users' functions on a CUDA device: traced ones are part of its kernels, the others are host steps that say why."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

import fusec
from fusec import api
from fusec.kernels.cuda import machine
from fusec.ops import custom
from fusec.plan.plan import HostStep

pytestmark = pytest.mark.skipif(machine.compiler() is None, reason="there is no C++ compiler to emulate a GPU with")
DEVICE = "cuda:sm_80-emulated"


@pytest.fixture(autouse=True)
def forget() -> Iterator[None]:
    """Whatever a test declares is gone after it."""
    before = dict(custom._functions)
    yield
    custom._functions.clear()
    custom._functions.update(before)


def model(op: str) -> onnx.ModelProto:
    """relu(op(x * x))."""
    nodes = [
        helper.make_node("Mul", ["x", "x"], ["s"]),
        helper.make_node(op, ["s"], ["t"], domain="custom"),
        helper.make_node("Relu", ["t"], ["y"]),
    ]
    values = [helper.make_tensor_value_info(n, TensorProto.FLOAT, ["N", 5]) for n in "xy"]
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("custom", 1)]
    return helper.make_model(helper.make_graph(nodes, "g", values[:1], values[1:]), opset_imports=opsets, ir_version=9)


def run(op: str) -> tuple[Any, list[HostStep], np.ndarray]:
    session = fusec.compile(model(op), device=DEVICE)
    x = np.random.default_rng(0).standard_normal((7, 5)).astype(np.float32)
    (y,) = session.run({"x": x}).values()
    return y, [s for s in session.plan.steps if isinstance(s, HostStep)], x.astype(np.float64) ** 2


def test_a_traced_function_is_fused_into_a_kernel() -> None:
    def Swollen(x: Any) -> Any:
        if x > 1:
            return (1 + math.log(x)) * math.tanh(x) - 0.25
        return x * math.tanh(x) - 0.25

    fusec.elementwise(Swollen)
    y, host, s = run("Swollen")
    assert host == []
    want = np.maximum((np.where(s > 1, 1 + np.log(np.maximum(s, 1e-9)), s)) * np.tanh(s) - 0.25, 0)
    assert np.abs(y - want).max() < 1e-5
    with_fusion = api.compile_plan(model("Swollen"), api.Options(device=DEVICE), api.new_trace())
    assert sum(len(getattr(step, "calls", ())) for step in with_fusion.steps) == 1


def test_a_function_that_cannot_be_traced_is_a_host_step_with_the_reason() -> None:
    def Collatz(x: Any) -> Any:
        n = 0.0
        while x > 1.0:  # as often as the value says: no expression does that
            x = x / 2
            n += 1.0
        return n

    fusec.elementwise(Collatz)
    y, host, s = run("Collatz")
    assert len(host) == 1
    assert "a loop may never end" in str(host[0].node.attr("why"))

    def steps(v: float) -> float:
        n = 0.0
        while v > 1.0:
            v, n = v / 2, n + 1
        return n

    assert np.array_equal(y, np.vectorize(steps)(s.astype(np.float32)))
