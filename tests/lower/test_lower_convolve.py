"""Convolutions as tile programs: the forms that templates know, and the values of many shapes and attributes."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent))

from lower_check import apply, check, value

from fusec.ir.dim import symbol
from fusec.ir.graph import Node, weight
from fusec.ir.types import DType
from fusec.kernels.kernel import Call

N, H, W = symbol("N"), symbol("H"), symbol("W")
SIZES = {"N": 2, "H": 5, "W": 6}
R = np.random.default_rng(0)


def plain(n: int, **changed: Any) -> dict[str, Any]:
    attrs: dict[str, Any] = {"strides": (1,) * n, "dilations": (1,) * n, "before": (0,) * n, "after": (0,) * n}
    return attrs | {"groups": 1} | changed


def run(x: tuple[Any, ...], w: tuple[int, ...], dtype: DType = DType.F32, **attrs: Any) -> Call:
    """A convolution with a bias and a relu behind it, against the references."""
    n = len(x) - 2
    sizes = [d if isinstance(d, int) else SIZES[str(d)] for d in x]
    make = (lambda s: R.integers(-4, 5, s)) if dtype.is_integer else R.standard_normal
    filters, bias = weight("w", make(w).astype(dtype.numpy)), weight("b", make(w[-1:]).astype(dtype.numpy))
    conv = apply("conv", "c", value("x", *x, dtype=dtype), filters.value, **plain(n, **attrs))
    total = apply("add", "s", conv.output, bias.value)
    nodes: list[Node] = [conv, total, apply("relu", "y", total.output)]
    return check(nodes, {"x": make(sizes).astype(dtype.numpy)}, weights=[filters, bias], symbols=SIZES)


def body(call: Call) -> str:
    return str(call.program)[str(call.program).index("(") :]


def test_padded_strided_convolution_runs_over_pixels() -> None:
    call = run((N, 7, 8, 5), (3, 3, 5, 9), before=(1, 1), after=(1, 1), strides=(2, 2))
    assert (
        body(call).replace("floordiv", "div")
        == """\
(B, M, N, K, K1, K2, D, D1, D2)
task b: B, m: M, n: N
input x: f32[B, D, D1, K2]
weight w: f32[K*K1*K2, N], w1: f32[N]
output y: f32[B, M, N]
stage b, m, n
  r0 = sum[k: K, k1: K1, k2: K2](pad(x[b, 2*div(m, D2) + k - 1, k1 + 2*mod(m, D2) - 1, k2], 0.0) * w[K1*K2*k + K2*k1 + k2, n])
  y[b, m, n] = max(r0 + w1[n], 0.0)"""
    )
    assert dict(call.params)["M"] == 16


@pytest.mark.parametrize(("filters", "extent"), [(1, "1"), (4, "N"), (5, "5"), (8, "8"), (9, "N")])
def test_few_filters_stay_a_number(filters: int, extent: str) -> None:
    assert f"n: {extent}\n" in body(run((N, 7, 8, 5), (3, 3, 5, filters)))


def test_pointwise_convolution_is_a_matrix_product() -> None:
    call = run((N, 7, 8, 5), (1, 1, 5, 6))
    assert "r0 = sum[k: K](x[m, k] * w[k, n])" in body(call)
    assert dict(call.params)["M"] == N * 56


def test_unguarded_rows_of_a_window_are_one_dense_axis() -> None:
    call = run((N, 7, 8, 3), (3, 3, 3, 6), strides=(2, 2))
    assert "sum[k: K, k1: K1](x[b, 2*floordiv(m, D2) + k, D3*mod(m, D2) + k1] * w[K1*k + k1, n])" in body(call)
    assert dict(call.params)["K1"] == 9


def test_groups_are_a_batch_axis_and_depthwise_is_a_plain_sum() -> None:
    call = run((N, 7, 8, 6), (3, 3, 2, 9), groups=3, before=(1, 1), after=(1, 1))
    assert "task b: B, b1: B1, m: M, n: N" in body(call)
    assert "K2*b + k2], 0.0) * w[K1*K2*k + K2*k1 + k2, N*b + n])" in body(call)
    call = run((N, 7, 8, 6), (3, 3, 1, 6), groups=6, before=(1, 1), after=(1, 1))
    assert "sum[k: 3, k1: 3](pad(x[i, j + k - 1, k1 + p - 1, q], 0.0) * w[3*k + k1, q])" in body(call)


@pytest.mark.parametrize("groups", [1, 2, 4])
@pytest.mark.parametrize("filters", [1, 4, 8])
def test_groups(groups: int, filters: int) -> None:
    run((N, H, W, 4), (3, 2, 4 // groups, filters * groups), groups=groups, before=(1, 0), after=(0, 1))


@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize("dilation", [1, 2])
@pytest.mark.parametrize("pads", [(0, 0), (1, 2), (3, 0), (-1, 1), (0, -1)])
def test_one_axis(stride: int, dilation: int, pads: tuple[int, int]) -> None:
    for size in (7, symbol("W")):
        run((2, size, 3), (3, 3, 5), strides=(stride,), dilations=(dilation,), before=pads[:1], after=pads[1:])


def test_three_axes() -> None:
    run((N, 4, 5, 6, 3), (2, 3, 3, 3, 4), before=(1, 1, 1), after=(0, 1, 1))
    run((1, 4, H, W, 3), (2, 3, 3, 3, 4), strides=(1, 2, 1), before=(1, 1, 1), after=(0, 1, 1))


@pytest.mark.parametrize("x", [(1, 3, 1, 4), (2, 1, 3, 1), (1, 1, 1, 1), (0, 3, 3, 2), (2, 3, 3, 0)])
def test_dimensions_of_one_and_none(x: tuple[int, ...]) -> None:
    run(x, (3, 3, x[-1], 5), before=(1, 1), after=(1, 1))
    run(x, (1, 1, x[-1], 5))
    run(x, (3, 1, x[-1], 1), before=(1, 0), after=(1, 0))


@pytest.mark.parametrize("dtype", [DType.F64, DType.F16, DType.BF16, DType.I32])
def test_dtypes(dtype: DType) -> None:
    run((2, 5, 4, 3), (3, 3, 3, 5), dtype, before=(1, 1), after=(1, 1))
    run((2, 5, 4, 3), (3, 3, 1, 3), dtype, groups=3, before=(1, 1), after=(1, 1))


def test_a_residual_and_a_gate_are_read_along_the_pixels() -> None:
    filters = weight("w", R.standard_normal((3, 3, 4, 6)).astype(np.float32))
    conv = apply("conv", "c", value("x", N, 5, 6, 4), filters.value, **plain(2, before=(1, 1), after=(1, 1)))
    gated = apply("mul", "g", conv.output, value("gate", N, 1, 1, 6))
    total = apply("add", "y", gated.output, value("r", N, 5, 6, 6))
    feeds = {n: R.standard_normal(s).astype(np.float32) for n, s in (("x", (2, 5, 6, 4)), ("gate", (2, 1, 1, 6)))}
    feeds["r"] = R.standard_normal((2, 5, 6, 6)).astype(np.float32)
    call = check([conv, gated, total], feeds, weights=[filters], symbols=SIZES)
    assert "y[b, m, n] = r0 * x1[b, n] + x2[b, m, n]" in body(call)


def test_a_weight_that_is_computed() -> None:
    x, w = value("x", 2, 5, 4, 3), value("w", 3, 3, 3, 5)
    feeds = {"x": R.standard_normal((2, 5, 4, 3)).astype(np.float32)}
    feeds["w"] = R.standard_normal((3, 3, 3, 5)).astype(np.float32)
    check([apply("conv", "y", x, w, **plain(2))], feeds)
    scaled = apply("neg", "v", w)
    check([scaled, apply("conv", "y", x, scaled.output, **plain(2))], feeds)


@pytest.mark.parametrize("width", [2, 4])
def test_groups_that_share_a_vector(width: int) -> None:
    """Lanes run over the filters of several groups: no matrix product, and the numbers of a group stay numbers."""
    call = run((N, 7, 8, 6 * width), (3, 3, width, 6 * width), groups=6, before=(1, 1), after=(1, 1))
    assert f"{width}*floordiv(" in str(call.program)
    assert all(len(s.folds) == 3 for s in call.program.stages)


@pytest.mark.parametrize("between", ["transpose", "slice"])
def test_a_border_around_a_view(between: str) -> None:
    x = value("x", 2, 3, 5, 6)
    if between == "transpose":
        view = apply("transpose", "v", x, perm=(0, 2, 3, 1))
    else:
        view = apply("slice", "v", x, starts=(0, 1, 0, 2), sizes=(2, 2, 5, 3), steps=(1, 1, 1, 1))
    border = {"before": (0, 1, 2, 0), "after": (0, 2, 1, 0), "mode": "constant"}
    call = check(
        [view, apply("pad", "y", view.output, **border)], {"x": R.standard_normal((2, 3, 5, 6)).astype(np.float32)}
    )
    # of a part of an operand more is there than may be read
    assert ("where(" in str(call.program)) is (between == "slice")
