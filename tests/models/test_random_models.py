"""Random small models: fused and unfused kernels agree with the reference implementation in the onnx package.

Shapes have sizes 0 and 1 in them, dimensions are numbers or symbols. Integers must be equal; floats may differ by 2e-4
relatively or by 1e-5 of the largest element. Seeds are fixed, so a failure names its model.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

sys.path.insert(0, str(Path(__file__).parent))
from random_onnx import random_model

import fusec

node = helper.make_node
SECONDS, THOROUGH = 1.5, 60.0
"""Processor time after which a block of seeds stops."""


def difference(got: np.ndarray, want: np.ndarray) -> str:
    """What is different, empty where nothing is."""
    if got.dtype != want.dtype or got.shape != want.shape:
        return f"{got.dtype}{list(got.shape)} for {want.dtype}{list(want.shape)}"
    if want.dtype.kind != "f":
        same = got == want
    else:
        peak = np.abs(want[np.isfinite(want)]).max(initial=0)
        with np.errstate(all="ignore"):
            same = np.isclose(got, want, rtol=2e-4, atol=1e-5 * (1 + min(peak, 1e30)), equal_nan=True)
    return "" if same.all() else f"got {got[~same][:3]}, not {want[~same][:3]} at {np.argwhere(~same)[:3].tolist()}"


def differences(model: onnx.ModelProto, feeds: dict[str, Any], want: list[np.ndarray]) -> list[str]:
    """How fused and unfused kernels differ from the wanted outputs."""
    names, found = [o.name for o in model.graph.output], []
    for fuse in (True, False):
        got = fusec.compile(model, fuse=fuse, threads=1).run_list(feeds, names)
        told = [(name, difference(np.asarray(g), w)) for name, g, w in zip(names, got, want, strict=True)]
        found += [f"{'fused' if fuse else 'unfused'} {name}: {text}" for name, text in told if text]
    return found


@pytest.mark.parametrize("symbolic", [False, True], ids=["static", "symbolic"])
@pytest.mark.parametrize("block", range(4))
def test_random_models(block: int, symbolic: bool, thorough: bool) -> None:
    end, checked = time.process_time() + (THOROUGH if thorough else SECONDS), 0
    for seed in range(block * 1000, block * 1000 + 1000):
        model, feeds = random_model(seed, symbolic=symbolic)
        try:
            want = [np.asarray(w) for w in ReferenceEvaluator(model).run(None, dict(feeds))]
        except (RuntimeError, ValueError, TypeError, IndexError):
            continue  # the reference implementation does not take empty tensors everywhere
        assert differences(model, feeds, want) == [], f"seed {seed}: {onnx.printer.to_text(model)}"
        checked += 1
        if time.process_time() > end:
            break
    assert checked


def graph(
    inputs: dict[str, str], weights: dict[str, Any], nodes: list[onnx.NodeProto], *outputs: str
) -> onnx.ModelProto:
    """A model of vectors whose sizes are symbols: `inputs` gives each input's symbol."""
    made = helper.make_graph(
        nodes,
        "found",
        [helper.make_tensor_value_info(k, TensorProto.FLOAT, [n]) for k, n in inputs.items()],
        [helper.make_tensor_value_info(k, TensorProto.UNDEFINED, None) for k in outputs],
        [numpy_helper.from_array(np.asarray(v), k) for k, v in weights.items()],
    )
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def check(model: onnx.ModelProto, **feeds: np.ndarray) -> None:
    want = [np.asarray(w) for w in ReferenceEvaluator(model).run(None, dict(feeds))]
    assert differences(model, feeds, want) == []


def test_index_into_a_concatenation() -> None:
    nodes = [node("Concat", ["x", "x", "x"], ["t"], axis=0), node("Max", ["t", "one"], ["y"])]
    model = graph({"x": "N"}, {"one": np.float32(1)}, nodes, "y")
    check(model, x=np.arange(3, dtype=np.float32))
    nodes = [nodes[0], node("Gather", ["t", "i"], ["y"], axis=0)]
    check(graph({"x": "N"}, {"i": [0, -1, 4]}, nodes, "y"), x=np.arange(3, dtype=np.float32))


def test_negative_dimension() -> None:
    nodes = [node("Shape", ["x"], ["s"]), node("Neg", ["s"], ["y"])]
    check(graph({"x": "N"}, {}, nodes, "y"), x=np.zeros(3, np.float32))


@pytest.mark.parametrize("size", [0, 1, 3])
def test_reversal(size: int) -> None:
    nodes = [node("Slice", ["x", "last", "begin", "axis", "last"], ["t"]), node("Neg", ["t"], ["y"])]
    model = graph({"x": "N"}, {"last": [-1], "begin": [-(2**63 - 1)], "axis": [0]}, nodes, "y")
    check(model, x=np.arange(size, dtype=np.float32))


@pytest.mark.parametrize("mode", ["constant", "edge", "reflect", "wrap"])
def test_index_into_padding(mode: str) -> None:
    nodes = [node("Pad", ["x", "p"], ["t"], mode=mode), node("Gather", ["t", "i"], ["y"], axis=0)]
    model = graph({"x": "N"}, {"p": [1, 1], "i": [0, 4, -1, 2]}, nodes, "y")
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 3  # how far it reflects depends on the size
    check(model, x=np.arange(3, dtype=np.float32))


def test_empty_temporary_before_another_one() -> None:
    chain = [
        node("Relu", ["x"], ["a"]),
        node("Exp", ["a"], ["y"]),
        node("Neg", ["z"], ["b"]),
        node("Exp", ["b"], ["w"]),
    ]
    check(graph({"x": "N", "z": "M"}, {}, chain, "y", "w"), x=np.zeros(0, np.float32), z=np.ones(5, np.float32))


@pytest.mark.parametrize(("dtype", "fill"), [("float32", -1e32), ("float16", -65504.0), ("float32", -np.inf)])
def test_rows_that_are_masked_as_a_whole(dtype: str, fill: float) -> None:
    """Where every score is replaced by one finite number, all positions count the same."""
    random = np.random.default_rng(0)
    q, k, v = (random.standard_normal((2, 5, 8)).astype(dtype) for _ in range(3))
    seen = np.ones((5, 5), bool)
    seen[2], seen[3, 1:] = False, False
    nodes = [node("Transpose", ["k"], ["t"], perm=[0, 2, 1]), node("MatMul", ["q", "t"], ["s"]),
             node("Where", ["seen", "s", "fill"], ["w"]), node("Softmax", ["w"], ["p"]),
             node("MatMul", ["p", "v"], ["y"])]  # fmt: skip
    model = graph({}, {"k": k, "v": v, "seen": seen, "fill": np.asarray(fill, dtype)}, nodes, "y")
    model.graph.input.append(helper.make_tensor_value_info("q", helper.np_dtype_to_tensor_dtype(q.dtype), q.shape))
    for fuse in (True, False):
        got = fusec.compile(model, fuse=fuse, threads=1).run({"q": q})["y"]
        wanted = v.mean(1) if np.isfinite(fill) else np.full_like(v[:, 0], np.nan)
        np.testing.assert_allclose(got[:, 2], wanted, rtol=0, atol=2e-3 if dtype == "float16" else 1e-6)
