"""Products of quantised matrices and images against int64: extreme values, zero points, odd and symbolic sizes, batches."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

sys.path.insert(0, str(Path(__file__).parent))
from onnx_models import node
from onnx_rival import one_node

import fusec
from fusec.frontend.read import read_model
from fusec.ir.reference import run_reference
from fusec.ir.types import DType

R = np.random.default_rng(0)
RANGES = {np.uint8: (0, 255), np.int8: (-128, 127)}


def numbers(dtype: Any, *shape: int) -> Any:
    """Both ends of the range, and some numbers between."""
    low, high = RANGES[dtype]
    return np.where(R.random(shape) < 0.5, R.choice([low, high], shape), R.integers(low, high + 1, shape)).astype(dtype)


def product_nodes(m: onnx.ModelProto) -> list[Any]:
    """The model's products, all of which sum in i32."""
    return [n for n in read_model(m).nodes if n.op in ("matmul", "conv") and n.attr("to") is DType.I32]


def check(m: onnx.ModelProto, feeds: dict[str, Any], expected: Any) -> None:
    """Natively exact, by the references and compiled."""
    assert product_nodes(m)
    for got in (run_reference(read_model(m), feeds), fusec.compile(m, threads=1).run(feeds)):
        (y,) = got.values()
        np.testing.assert_array_equal(y, expected)


@pytest.mark.parametrize("b", [np.uint8, np.int8])
@pytest.mark.parametrize("a", [np.uint8, np.int8])
def test_matmul_integer(a: Any, b: Any) -> None:
    for shape, depth, columns in [((5,), 33, 17), ((2, 3), 6, 40), ((1,), 64, 35)]:
        x, w = numbers(a, *shape, depth), numbers(b, depth, columns)
        for x_end, w_end in [(0, 1), (1, 0)]:
            p, q = np.array(RANGES[a][x_end], a), np.full(columns, RANGES[b][w_end], b)
            expected = (x.astype(np.int64) - p) @ (w.astype(np.int64) - q)
            m = one_node(node("MatMulInteger", "x w p q", "y"), {"x": x}, {"w": w, "p": p, "q": q})
            for i, d in enumerate(m.graph.input[0].type.tensor_type.shape.dim[:-1]):
                d.dim_param = f"N{i}"
            check(m, {"x": x}, expected)
            feeds = {"x": x, "w": w, "p": p, "q": q}
            check(one_node(node("MatMulInteger", "x w p q", "y"), feeds), feeds, expected)


def test_zero_points_of_rows() -> None:
    x, w, p = numbers(np.uint8, 4, 9), numbers(np.int8, 9, 20), numbers(np.uint8, 4)
    m = one_node(node("MatMulInteger", "x w p", "y"), {"x": x}, {"w": w, "p": p})
    check(m, {"x": x}, (x.astype(np.int64) - p[:, None]) @ w.astype(np.int64))


def test_batches_of_two_inputs() -> None:
    feeds = {"x": numbers(np.uint8, 2, 3, 5, 7), "w": numbers(np.int8, 2, 1, 7, 18)}
    m = one_node(node("MatMulInteger", "x w", "y"), feeds)
    check(m, feeds, feeds["x"].astype(np.int64) @ feeds["w"].astype(np.int64))


@pytest.mark.parametrize("channels", [1, 3, 16, 21])
def test_conv_integer(channels: int) -> None:
    x, w = numbers(np.uint8, 2, channels, 6, 7), numbers(np.uint8, 20, channels, 3, 3)
    inits = {"w": w, "p": np.uint8(255), "q": np.uint8(128)}
    m = one_node(node("ConvInteger", "x w p q", "y", pads=[1, 1, 1, 1]), {"x": x}, inits)
    padded = np.pad(x.astype(np.int64) - 255, [(0, 0), (0, 0), (1, 1), (1, 1)])
    windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), (2, 3))
    check(m, {"x": x}, np.einsum("nchwij,ocij->nohw", windows, w.astype(np.int64) - 128))


def test_weights_stay_bytes() -> None:
    x, w = numbers(np.uint8, 1, 8, 6, 6), numbers(np.int8, 20, 8, 3, 3)
    for zero in (np.zeros(20, np.int8), np.int8(0)):
        m = one_node(node("ConvInteger", "x w p q", "y"), {"x": x}, {"w": w, "p": np.uint8(9), "q": zero})
        (made,) = product_nodes(m)
        assert made.operands[1].dtype is DType.I8
    m = one_node(node("MatMulInteger", "x w p q", "y"), {"x": x[0, 0]},
                 {"w": numbers(np.uint8, 6, 20), "p": np.uint8(9), "q": np.uint8(128)})  # fmt: skip
    (made,) = product_nodes(m)
    assert made.operands[1].dtype is DType.I8


def dequantised(
    x: Any, w: Any, point: Any, scale: Any, zero: Any, axis: int, *more: Any, **attrs: Any
) -> onnx.ModelProto:
    """Gemm or MatMul between DequantizeLinear nodes."""
    nodes = [node("DequantizeLinear", "x s p", "a"), node("DequantizeLinear", "w t q", "b", axis=axis), *more]
    inits = {"w": w, "s": np.float32(0.02), "p": point, "t": scale, "q": zero, **attrs}
    return one_node(nodes, {"x": x}, inits, 18)


@pytest.mark.parametrize("per_column", [False, True])
@pytest.mark.parametrize("turned", [False, True])
def test_dequantised_products_are_integers(turned: bool, per_column: bool) -> None:
    x, w = numbers(np.uint8, 6, 35), numbers(np.int8, 18, 35) if turned else numbers(np.int8, 35, 18)
    scale = R.uniform(0.01, 0.1, 18 if per_column else ()).astype(np.float32)
    zero = np.zeros(scale.shape, np.int8) if per_column else np.array(-128, np.int8)
    bias, point = R.standard_normal(18).astype(np.float32), np.array(200, np.uint8)
    gemm = node("Gemm", "a b c", "y", transB=1, alpha=0.5) if turned else node("MatMul", "a b", "y")
    inits = {"c": bias} if turned else {}
    m = dequantised(x, w, point, scale, zero, 0 if turned else 1, gemm, **inits)
    (made,) = product_nodes(m)
    assert made.op == "matmul"
    matrix = (w.astype(np.float64).T if turned else w.astype(np.float64)) - zero
    exact = (x.astype(np.float64) - 200) @ matrix * (np.float64(np.float32(0.02)) * scale)
    exact = exact * 0.5 + bias if turned else exact
    (y,) = fusec.compile(m, threads=1).run({"x": x}).values()
    np.testing.assert_allclose(y, exact, rtol=1e-6, atol=1e-4)


def test_what_is_no_product_of_levels_stays_float() -> None:
    x, w = numbers(np.uint8, 4, 8), numbers(np.int8, 8, 6)
    rows = R.uniform(0.01, 0.1, 8).astype(np.float32)
    matmul = node("MatMul", "a b", "y")
    m = dequantised(x, w, np.uint8(0), rows, np.zeros(8, np.int8), 0, matmul)  # a scale for each row of the weight
    assert not product_nodes(m)
    scale = np.float32(0.1)
    m = one_node(
        [node("DequantizeLinear", "w t q", "b"), node("MatMul", "x b", "y")],
        {"x": x.astype(np.float32)},
        {"w": w, "t": scale, "q": np.int8(0)},
    )
    assert not product_nodes(m)
