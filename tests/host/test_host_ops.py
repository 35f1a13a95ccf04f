"""Our own versions of host ops against onnxruntime, which judges where the onnx package's evaluator is wrong or has none."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from fusec.errors import ExecutionError, PlanError
from fusec.frontend.read import read_model
from fusec.host.run import HostRunner, run_host
from fusec.ir.graph import Node, Value
from fusec.ir.types import DType, TensorType

R = np.random.default_rng(0)


def f32(*shape: int) -> np.ndarray[Any, Any]:
    return R.standard_normal(shape).astype(np.float32)


def single(
    op: str, inputs: list[Any], count: int = 1, opset: int = 17, domain: str = "", **attrs: Any
) -> onnx.ModelProto:
    names = [f"x{i}" if v is not None else "" for i, v in enumerate(inputs)]
    n = helper.make_node(op, names, [f"y{i}" for i in range(count)], domain=domain, name="the_node", **attrs)
    infos = [
        helper.make_tensor_value_info(k, helper.np_dtype_to_tensor_dtype(v.dtype), v.shape)
        for k, v in zip(names, inputs)
        if v is not None
    ]
    outs = [onnx.ValueInfoProto(name=f"y{i}") for i in range(count)]
    graph = helper.make_graph([n], "g", infos, outs)
    imports = [helper.make_opsetid("", opset), *([helper.make_opsetid(domain, 1)] if domain else [])]
    return helper.make_model(graph, opset_imports=imports, ir_version=9)


def opaque(op: str, inputs: list[Any], count: int = 1, opset: int = 17, domain: str = "", **attrs: Any) -> Node:
    """An opaque node as the importer writes it, whether or not the op has a native row."""
    proto = single(op, inputs, count, opset, domain, **attrs).graph.node[0]
    values = [
        None if v is None else Value(f"x{i}", TensorType(DType.of(v.dtype), v.shape)) for i, v in enumerate(inputs)
    ]
    outs = [Value(f"y{i}", TensorType(DType.F32, None)) for i in range(count)]
    opsets = (("", opset), *(((domain, 1),) if domain else ()))
    return Node.make("opaque", values, outs, ("the_node",), op_type=op, domain=domain, captures=(), opsets=opsets,
                     proto=proto.SerializeToString())  # fmt: skip


def judge(
    op: str, inputs: list[Any], count: int = 1, opset: int = 17, domain: str = "", tol: float = 1e-4, **attrs: Any
) -> None:
    ort = pytest.importorskip("onnxruntime")
    session = ort.InferenceSession(single(op, inputs, count, opset, domain, **attrs).SerializeToString())
    wanted = session.run(None, {f"x{i}": v for i, v in enumerate(inputs) if v is not None})
    got = run_host(opaque(op, inputs, count, opset, domain, **attrs), inputs)
    for a, e in zip(got, wanted, strict=True):
        assert isinstance(a, np.ndarray)
        assert a.shape == e.shape
        np.testing.assert_allclose(a.astype(np.float64), e.astype(np.float64), rtol=tol, atol=tol)


CONVS: list[tuple[tuple[int, ...], tuple[int, ...], dict[str, Any]]] = [
    ((2, 3, 9, 8), (4, 3, 3, 3), {}),
    ((2, 3, 9, 8), (4, 3, 3, 2), {"strides": [2, 3], "pads": [1, 0, 2, 1], "dilations": [2, 1]}),
    ((1, 4, 7, 7), (6, 2, 3, 3), {"group": 2, "pads": [1, 1, 1, 1]}),
    ((1, 4, 7, 7), (4, 1, 3, 3), {"group": 4, "auto_pad": "SAME_UPPER", "strides": [2, 2]}),
    ((1, 4, 7, 6), (8, 1, 2, 2), {"group": 4, "auto_pad": "SAME_LOWER"}),
    ((1, 3, 11), (2, 3, 4), {"strides": [3]}),
    ((1, 2, 4, 5, 6), (3, 2, 2, 2, 2), {"auto_pad": "VALID"}),
    ((2, 5, 6, 6), (7, 5, 1, 1), {"strides": [2, 2]}),
]


@pytest.mark.parametrize(("x", "w", "attrs"), CONVS)
def test_conv(x: tuple[int, ...], w: tuple[int, ...], attrs: dict[str, Any]) -> None:
    judge("Conv", [f32(*x), f32(*w)], **attrs)
    judge("Conv", [f32(*x), f32(*w), f32(w[0])], **attrs)
    a, b = R.integers(0, 255, x).astype(np.uint8), R.integers(0, 255, w).astype(np.uint8)
    judge("ConvInteger", [a, b, np.array(3, np.uint8), np.array(7, np.uint8)], **attrs)


@pytest.mark.parametrize(
    "attrs",
    [{}, {"strides": [2, 2], "pads": [1, 1, 1, 1]}, {"strides": [2, 3], "output_padding": [1, 2]}, {"group": 2},
     {"strides": [2, 2], "output_shape": [9, 11]}, {"auto_pad": "SAME_UPPER", "strides": [2, 2]}, {"dilations": [2, 2]}],
)  # fmt: skip
def test_conv_transpose(attrs: dict[str, Any]) -> None:
    judge("ConvTranspose", [f32(2, 4, 5, 5), f32(4, 3, 3, 3), f32(3 * attrs.get("group", 1))], **attrs)


POOLS: list[dict[str, Any]] = [
    {"kernel_shape": [3, 2]},
    {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1, 1, 1, 1]},
    {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1, 0, 0, 1], "ceil_mode": 1},
    {"kernel_shape": [2, 2], "auto_pad": "SAME_LOWER"},
]


@pytest.mark.parametrize("attrs", POOLS)
def test_pools(attrs: dict[str, Any]) -> None:
    x = f32(2, 3, 8, 7)
    judge("MaxPool", [x], **attrs)
    judge("MaxPool", [x], count=2, **attrs)
    judge("AveragePool", [x], **attrs)
    judge("AveragePool", [x], count_include_pad=1, **attrs)


def test_global_pools_of_one_axis() -> None:
    judge("GlobalMaxPool", [f32(2, 3, 9)])
    judge("GlobalAveragePool", [f32(2, 3, 9)])


@pytest.mark.parametrize("opset", [9, 12, 15])
def test_batch_norm_with_momentum_is_inference(opset: int) -> None:
    args = [f32(2, 3, 4), f32(3), f32(3), f32(3), np.abs(f32(3)) + 0.5]
    judge("BatchNormalization", args, opset=opset, momentum=0.7, epsilon=1e-3)


@pytest.mark.parametrize("direction", ["forward", "reverse", "bidirectional"])
@pytest.mark.parametrize(("op", "gates"), [("LSTM", 4), ("GRU", 3), ("RNN", 1)])
def test_recurrent(op: str, gates: int, direction: str) -> None:
    d, hidden, size, steps, batch = (2 if direction == "bidirectional" else 1), 5, 3, 6, 2
    args: list[Any] = [f32(steps, batch, size), f32(d, gates * hidden, size), f32(d, gates * hidden, hidden)]
    count = 3 if op == "LSTM" else 2
    judge(op, args, count, hidden_size=hidden, direction=direction)
    args += [f32(d, 2 * gates * hidden), np.array([6, 3], np.int32), f32(d, batch, hidden)]
    args += [f32(d, batch, hidden), f32(d, 3 * hidden)] if op == "LSTM" else []
    judge(op, args, count, hidden_size=hidden, direction=direction)
    if op == "GRU":
        judge(op, args, count, hidden_size=hidden, direction=direction, linear_before_reset=1)


@pytest.mark.parametrize("mode", ["nearest", "linear"])
@pytest.mark.parametrize("place", ["half_pixel", "align_corners", "asymmetric", "pytorch_half_pixel"])
def test_resize(mode: str, place: str) -> None:
    x, scales = f32(1, 2, 5, 6), np.array([1, 1, 2.4, 0.5], np.float32)
    judge("Resize", [x, None, scales], mode=mode, coordinate_transformation_mode=place)
    sizes = np.array([1, 2, 7, 13], np.int64)
    judge("Resize", [x, None, None, sizes], mode=mode, coordinate_transformation_mode=place)


@pytest.mark.parametrize("reduction", ["none", "add", "mul", "max"])
def test_scatters(reduction: str) -> None:
    indices = np.array([[0, 2, 1], [-1, 1, 0]])
    opset = 18 if reduction == "max" else 16
    judge("ScatterElements", [f32(4, 3), indices, f32(2, 3)], axis=0, reduction=reduction, opset=opset)
    judge("ScatterND", [f32(4, 3), np.array([[1], [-1]]), f32(2, 3)], reduction=reduction, opset=opset)


@pytest.mark.parametrize("reduction", ["none", "add", "mul", "max", "min"])
@pytest.mark.parametrize("axis", [0, 1])
def test_scatter_of_whole_rows(reduction: str, axis: int) -> None:
    """One index for all of a row, as graph networks have it, is a path of its own."""
    rows = np.array([3, -1, 0, 3, 1, 3])
    shape = (6, 3, 2) if axis == 0 else (5, 6, 2)
    indices = np.broadcast_to(rows.reshape([-1 if d == axis else 1 for d in range(3)]), shape)
    x = f32(5, 3, 2) if axis == 0 else f32(5, 4, 2)
    judge("ScatterElements", [x, np.ascontiguousarray(indices), f32(*shape)], axis=axis, reduction=reduction, opset=18)


@pytest.mark.parametrize("opset", [10, 13])
def test_old_quantisation(opset: int) -> None:
    attrs = {"axis": 1} if opset >= 13 else {}
    scale, zero = (np.array([0.1, 0.2, 0.3], np.float32), np.array([1, 2, 3], np.uint8))
    if opset < 13:
        scale, zero = np.array(0.1, np.float32), np.array(3, np.uint8)
    judge("QuantizeLinear", [f32(2, 3, 4) * 20, scale, zero], opset=opset, **attrs)
    judge("DequantizeLinear", [R.integers(0, 255, (2, 3, 4)).astype(np.uint8), scale, zero], opset=opset, **attrs)


def test_matmul_of_four_bits() -> None:
    packed = R.integers(0, 255, (6, 2, 8)).astype(np.uint8)
    args = [f32(3, 32), packed, np.abs(f32(12)), None]
    judge("MatMulNBits", args[:3], domain="com.microsoft", K=32, N=6, bits=4, block_size=16, tol=1e-3)
    args[3] = R.integers(0, 255, 6).astype(np.uint8)
    judge("MatMulNBits", args, domain="com.microsoft", K=32, N=6, bits=4, block_size=16, tol=1e-3)


def test_zip_map() -> None:
    n = helper.make_node("ZipMap", ["x"], ["z"], domain="ai.onnx.ml", classlabels_int64s=[3, 5])
    out = onnx.ValueInfoProto(name="z")
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, (None, 2))
    m = helper.make_model(helper.make_graph([n], "g", [x], [out]),
                          opset_imports=[helper.make_opsetid("", 17), helper.make_opsetid("ai.onnx.ml", 1)])  # fmt: skip
    (node,) = read_model(m).nodes
    assert run_host(node, [np.array([[0.25, 0.75]], np.float32)]) == [[{3: 0.25, 5: 0.75}]]


def test_failures_name_the_node() -> None:
    runner = HostRunner(opaque("Conv", [f32(1, 3, 4, 4), f32(2, 3, 3, 3)], strides=[1, 1]))
    with pytest.raises(ExecutionError, match=r"the_node.*Conv.*failed") as caught:
        runner([f32(1, 5, 4, 4), f32(2, 3, 3, 3)])
    assert caught.value.node == "the_node"
    assert "float32[1, 5, 4, 4]" in str(caught.value)


def typed(name: str, dtype: int = TensorProto.FLOAT) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, dtype, ())


def test_loop_stacks_what_it_scans() -> None:
    steps = [
        helper.make_node("Add", ["v", "x"], ["v2"]),
        helper.make_node("Identity", ["c"], ["c2"]),
        helper.make_node("Identity", ["v2"], ["s"]),
    ]
    ins = [typed("i", TensorProto.INT64), typed("c", TensorProto.BOOL), typed("v")]
    body = helper.make_graph(steps, "b", ins, [typed("c2", TensorProto.BOOL), typed("v2"), typed("s")])
    n = helper.make_node("Loop", ["m", "", "v0"], ["last", "all"], body=body)
    outs = [onnx.ValueInfoProto(name="last"), onnx.ValueInfoProto(name="all")]
    graph = helper.make_graph([n], "g", [typed("m", TensorProto.INT64), typed("v0"), typed("x")], outs)
    (node,) = read_model(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])).nodes
    values = {"m": np.int64(3), "v0": np.float32(1), "x": np.float32(2)}
    last, every = run_host(node, [None if v is None else np.asarray(values[v.name]) for v in node.inputs])
    assert float(np.asarray(last)) == 7
    np.testing.assert_array_equal(every, [3, 5, 7])


@pytest.mark.parametrize("opsets", [None, 17, (17,), (("", -1),), ((7, ""),)])
def test_a_node_without_opsets_is_refused(opsets: object) -> None:
    proto = helper.make_node("Relu", ["x"], ["y"]).SerializeToString()
    x, y = (Value(n, TensorType(DType.F32, (2,))) for n in "xy")
    given = {} if opsets is None else {"opsets": opsets}
    with pytest.raises(PlanError, match="opsets"):
        HostRunner(Node.make("opaque", (x,), (y,), op_type="Relu", domain="", proto=proto, **given))


@pytest.mark.parametrize("shape", [(1,), (7,), (3, 0), (4, 5), (2, 3, 4)])
@pytest.mark.parametrize("dtype", [np.float32, np.uint8, np.bool_])
def test_non_zero(shape: tuple[int, ...], dtype: type) -> None:
    x = np.asarray(R.integers(0, 2, shape)).astype(dtype)
    judge("NonZero", [x])
    if x.size > 1 and dtype is np.float32:
        x.flat[:2] = np.nan, -0.0
        judge("NonZero", [x])


@pytest.mark.parametrize("axis", [None, 0, 1, -1])
def test_compress(axis: int | None) -> None:
    attrs = {} if axis is None else {"axis": axis}
    for length in (0, 1, 4):
        judge("Compress", [f32(4, 5), R.integers(0, 2, length).astype(bool)], **attrs)


def test_own_ops_name_the_node_where_they_fail() -> None:
    with pytest.raises(ExecutionError, match="the_node") as e:
        run_host(opaque("Compress", [f32(2, 3), np.ones(5, bool)], axis=0), [f32(2, 3), np.ones(5, bool)])
    assert e.value.op == "Compress"
