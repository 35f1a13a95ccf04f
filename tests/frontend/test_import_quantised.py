"""Quantised operators against onnxruntime: scales per block, small integers, and the contributed operators."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

sys.path.insert(0, str(Path(__file__).parent))
from onnx_models import fails, node
from onnx_rival import one_node, onnxruntime_outputs, same_as_onnxruntime

import fusec
from fusec.errors import ModelError
from fusec.frontend.read import read_model

pytest.importorskip("onnxruntime")
R = np.random.default_rng(0)
MICROSOFT = [("com.microsoft", 1)]


def f32(*shape: int) -> np.ndarray[Any, Any]:
    return R.uniform(0.01, 0.1, shape).astype(np.float32)


@pytest.mark.parametrize("axis", [0, 1])
def test_scales_per_block(axis: int) -> None:
    x = R.integers(-100, 100, (6, 8)).astype(np.int8)
    shape = [6, 8]
    shape[axis] //= 2
    inits = {"s": f32(*shape), "z": R.integers(-3, 3, shape).astype(np.int8)}
    m = one_node(node("DequantizeLinear", "x s z", "y", axis=axis, block_size=2), {"x": x}, inits, 21)
    same_as_onnxruntime(m, {"x": x}, compiled=True)
    y = R.standard_normal((6, 8)).astype(np.float32)
    m = one_node(node("QuantizeLinear", "x s z", "y", axis=axis, block_size=2), {"x": y}, inits, 21)
    same_as_onnxruntime(m, {"x": y}, compiled=True)


@pytest.mark.parametrize("kind", [onnx.TensorProto.INT4, onnx.TensorProto.UINT4])
def test_constants_of_four_bits(kind: int) -> None:
    low = -8 if kind == onnx.TensorProto.INT4 else 0
    values = R.integers(low, low + 16, (4, 6))
    x = R.standard_normal((3, 4)).astype(np.float32)
    nodes = [node("DequantizeLinear", "w s", "d", axis=0, block_size=2), node("MatMul", "x d", "y")]
    m = one_node(nodes, {"x": x}, {"s": f32(2, 6)}, 21)
    m.graph.initializer.append(onnx.helper.make_tensor("w", kind, [4, 6], values.ravel().tolist()))
    same_as_onnxruntime(m, {"x": x}, compiled=True)


def test_blocks_that_do_not_fit() -> None:
    x = np.zeros((6, 8), np.int8)
    m = one_node(node("DequantizeLinear", "x s", "y", axis=0, block_size=4), {"x": x}, {"s": f32(3, 8)}, 21)
    fails(ModelError, m, "DequantizeLinear", "block_size 4")
    m = one_node(node("DequantizeLinear", "x s", "y"), {"x": x}, {"s": f32(3, 8)}, 21)
    fails(ModelError, m, "DequantizeLinear", "block_size")


def almost(m: onnx.ModelProto, feeds: dict[str, Any]) -> None:
    """The same but for one step where a sum falls between two numbers."""
    assert all(n.op != "opaque" for n in read_model(m).nodes)
    (want,) = onnxruntime_outputs(m, feeds)
    got = fusec.compile(m, threads=1).run(feeds)[m.graph.output[0].name]
    assert (got.dtype, got.shape) == (want.dtype, want.shape)
    if want.dtype.kind == "f":
        np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5)
        return
    difference = np.abs(got.astype(int) - want.astype(int))
    assert difference.max(initial=0) <= 1
    assert difference.mean() < 0.02


@pytest.mark.parametrize("dtype", [np.uint8, np.int8])
@pytest.mark.parametrize(
    ("op", "attrs"),
    [
        ("QLinearSigmoid", {}),
        ("QLinearLeakyRelu", {"alpha": 0.2}),
        ("QLinearSoftmax", {"axis": -1, "opset": 13}),
        ("QLinearGlobalAveragePool", {}),
        ("QLinearAveragePool", {"kernel_shape": [2, 3], "pads": [1, 0, 0, 1]}),
    ],
)
def test_one_operand(op: str, attrs: dict[str, Any], dtype: Any) -> None:
    x = R.integers(0, 120, (2, 3, 5, 7)).astype(dtype)
    zero = np.array(7, dtype)
    inits = {"s": np.float32(0.05), "z": zero, "t": np.float32(1 / 128), "w": np.array(3, dtype)}
    almost(
        one_node(node(op, "x s z t w", "y", domain="com.microsoft", **attrs), {"x": x}, inits, domains=MICROSOFT),
        {"x": x},
    )


@pytest.mark.parametrize("op", ["QLinearAdd", "QLinearMul"])
@pytest.mark.parametrize("dtype", [np.uint8, np.int8])
def test_two_operands(op: str, dtype: Any) -> None:
    feeds = {"a": R.integers(0, 120, (2, 3, 4)).astype(dtype), "b": R.integers(0, 120, (3, 4)).astype(dtype)}
    inits = {"s": np.float32(0.053), "z": np.array(7, dtype), "t": np.float32(0.097), "v": np.array(3, dtype)}
    inits["u"] = np.float32(0.131)
    n = node(op, "a s z b t v u z", "y", domain="com.microsoft")
    almost(one_node(n, feeds, inits, domains=MICROSOFT), feeds)


def test_concat() -> None:
    feeds = {"a": R.integers(0, 120, (2, 3)).astype(np.uint8), "b": R.integers(0, 120, (2, 4)).astype(np.uint8)}
    inits = {"s": np.float32(0.05), "z": np.uint8(7), "t": np.float32(0.1), "v": np.uint8(3)}
    n = node("QLinearConcat", "t z a s z b t v", "y", domain="com.microsoft", axis=1)
    almost(one_node(n, feeds, inits, domains=MICROSOFT), feeds)


def test_products() -> None:
    x, b = R.standard_normal((4, 6)).astype(np.float32), R.integers(-60, 60, (6, 5)).astype(np.int8)
    inits = {"b": b, "s": f32(5), "z": np.zeros(5, np.int8), "c": f32(5)}
    n = node("DynamicQuantizeMatMul", "x b s z c", "y", domain="com.microsoft")
    almost(one_node(n, {"x": x}, inits, domains=MICROSOFT), {"x": x})
    a = R.integers(0, 100, (4, 6)).astype(np.uint8)
    inits = {"b": b, "s": np.float32(0.1), "t": f32(5), "z": np.uint8(9), "w": np.zeros(5, np.int8), "c": f32(5)}
    n = node("MatMulIntegerToFloat", "a b s t z w c", "y", domain="com.microsoft")
    almost(one_node(n, {"a": a}, inits, domains=MICROSOFT), {"a": a})
    inits = {"s": np.float32(0.1), "z": np.uint8(9), "b": b, "t": np.float32(0.02), "w": np.int8(0),
             "c": R.integers(-50, 50, 5).astype(np.int32), "u": np.float32(0.2), "v": np.uint8(100)}  # fmt: skip
    for names in ("a s z b t w c u v", "a s z b t w c", "a s z b t w - u v"):
        n = node("QGemm", names, "y", domain="com.microsoft", alpha=0.5)
        almost(one_node(n, {"a": a}, {k: v for k, v in inits.items() if k in names}, domains=MICROSOFT), {"a": a})


@pytest.mark.parametrize("zeros", ["none", "bytes", "floats"])
@pytest.mark.parametrize("bits", [4, 8])
def test_weights_of_few_bits(zeros: str, bits: int) -> None:
    if bits == 8 and zeros == "floats":
        pytest.skip("onnxruntime has no such kernel")
    k, n, block = 40, 6, 16
    x = R.standard_normal((3, k)).astype(np.float32)
    inits: dict[str, Any] = {"w": R.integers(0, 256, (n, 3, block * bits // 8)).astype(np.uint8), "s": f32(n, 3)}
    if zeros == "bytes":
        inits["z"] = R.integers(0, 256, (n, -(-3 * bits // 8))).astype(np.uint8)
    elif zeros == "floats":
        inits["z"] = R.uniform(0, 15, (n, 3)).astype(np.float32)
    m = one_node(
        node("MatMulNBits", " ".join(["x", *inits]), "y", domain="com.microsoft", K=k, N=n, bits=bits, block_size=block),
        {"x": x}, inits, domains=MICROSOFT)  # fmt: skip
    same_as_onnxruntime(m, {"x": x}, compiled=True, tolerance=1e-3)
