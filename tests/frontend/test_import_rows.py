"""What the rows of the importer's table make of ONNX nodes: native ops only, and the numbers that the standard asks for."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from onnx.reference import ReferenceEvaluator

sys.path.insert(0, str(Path(__file__).parent))
from onnx_models import info, init, model, node

from fusec.frontend.read import read_model
from fusec.host.run import run_host
from fusec.ir.graph import Graph
from fusec.ir.reference import run_reference
from fusec.ir.verify import verify

I64 = TensorProto.INT64
DTYPES = {"f": TensorProto.FLOAT, "d": TensorProto.DOUBLE, "e": TensorProto.FLOAT16, "i": TensorProto.INT32,
          "l": I64, "b": TensorProto.INT8, "B": TensorProto.UINT8, "?": TensorProto.BOOL}  # fmt: skip


def ops(g: Graph) -> list[str]:
    return [n.attr("op_type") if n.op == "opaque" else n.op for n in g.nodes]


def is_native(g: Graph) -> bool:
    return all(n.op != "opaque" for n in g.nodes)


def check(
    nodes: Sequence[onnx.NodeProto],
    feeds: dict[str, Any],
    inits: dict[str, Any] | None = None,
    opset: int = 17,
    symbolic: bool = True,
    expected: Sequence[Any] | None = None,
    domains: Sequence[tuple[str, int]] = (),
    outputs: Sequence[str] | None = None,
) -> Graph:
    """Import (with every size symbolic where asked), require native ops, and compare with the onnx package or `expected`."""
    arrays = {k: np.asarray(v) for k, v in feeds.items()}
    shapes = {k: [f"{k}_{i}" for i in range(v.ndim)] if symbolic else list(v.shape) for k, v in arrays.items()}
    names = outputs or [o for o in nodes[-1].output if o]
    m = model(
        nodes,
        [info(k, shapes[k], DTYPES[v.dtype.char]) for k, v in arrays.items()],
        [info(n, None) for n in names],
        [init(k, v) for k, v in (inits or {}).items()],
        opset,
        domains=domains,
    )
    g = read_model(m)
    verify(g)
    assert is_native(g), [(n.attr("op_type"), n.attr("why")) for n in g.nodes if n.op == "opaque"]
    got = run_reference(g, arrays, opaque=run_host)
    wanted = ReferenceEvaluator(m).run(None, arrays) if expected is None else expected
    for name, e in zip(names, wanted, strict=True):
        assert got[name].shape == np.shape(e)
        np.testing.assert_allclose(got[name].astype(np.float64), np.asarray(e).astype(np.float64), rtol=2e-5, atol=2e-6)
    return g


def f32(*shape: int, seed: int = 0, low: float = -2.0, high: float = 2.0) -> np.ndarray[Any, Any]:
    return np.random.default_rng(seed).uniform(low, high, shape).astype(np.float32)


@pytest.mark.parametrize("opset", [7, 13, 17, 21])
@pytest.mark.parametrize("axis", [0, 1, 2, -1])
def test_softmax_of_both_generations(opset: int, axis: int) -> None:
    x = f32(2, 3, 4)
    at = axis % 3
    flat = x if opset >= 13 else x.reshape(int(np.prod(x.shape[:at])), -1)  # the old rule; the onnx package ignores it
    e = np.exp(flat - flat.max(axis=axis if opset >= 13 else 1, keepdims=True))
    want = (e / e.sum(axis=axis if opset >= 13 else 1, keepdims=True)).reshape(x.shape)
    check([node("Softmax", "x", "y", axis=axis)], {"x": x}, opset=opset, expected=[want])
    check([node("LogSoftmax", "x", "y", axis=axis)], {"x": x}, opset=opset, expected=[np.log(want)])


MATMUL_SHAPES = [
    ((2, 3), (3, 4)),
    ((3,), (3, 4)),
    ((2, 3), (3,)),
    ((3,), (3,)),
    ((5, 2, 3), (3, 4)),
    ((5, 1, 2, 3), (2, 3, 4)),
]


@pytest.mark.parametrize(("a", "b"), MATMUL_SHAPES)
def test_matmul_with_vectors(a: tuple[int, ...], b: tuple[int, ...]) -> None:
    check([node("MatMul", "a b", "y")], {"a": f32(*a), "b": f32(*b, seed=1)}, symbolic=False)


@pytest.mark.parametrize("trans", [(0, 0), (1, 0), (0, 1), (1, 1)])
@pytest.mark.parametrize("c", [None, (), (4,), (1, 4), (2, 4), (2, 1)])
def test_gemm(trans: tuple[int, int], c: tuple[int, ...] | None) -> None:
    a = f32(3, 2) if trans[0] else f32(2, 3)
    b = f32(4, 3) if trans[1] else f32(3, 4)
    names, inits = "a b", {"b": b}
    if c is not None:
        names, inits["c"] = "a b c", f32(*c, seed=2)
    n = node("Gemm", names, "y", transA=trans[0], transB=trans[1], alpha=0.5, beta=2.0)
    check([n], {"a": a}, inits, symbolic=False)


def test_reshape_with_zero_and_minus_one_stays_symbolic() -> None:
    g = check([node("Reshape", "x s", "y")], {"x": f32(2, 3, 8)}, {"s": np.array([0, 0, -1])})
    assert str(g.outputs[0].type) == "f32[x_0, x_1, x_2]"
    m = model([node("Reshape", "x s", "y")], [info("x", ("N", "S", 64))], inits=[init("s", [0, -1, 4, 16])])
    assert str(read_model(m).outputs[0].type) == "f32[N, S, 4, 16]"
    m = model([node("Reshape", "x s", "y")], [info("x", ("N", "S", 64))], inits=[init("s", [-1, 64])])
    assert str(read_model(m).outputs[0].type) == "f32[N*S, 64]"


SLICES = [
    (0, 3, 1), (1, 100, 1), (-2, 2**63 - 1, 1), (0, -1, 1), (-100, 2, 1), (3, 1, 1),
    (-1, -(2**63), -1), (4, 0, -2), (100, -100, -1), (0, 5, 2), (2**31 - 1, 0, -1),
]  # fmt: skip


@pytest.mark.parametrize(("start", "end", "step"), SLICES)
@pytest.mark.parametrize("symbolic", [False, True])
def test_slices(start: int, end: int, step: int, symbolic: bool) -> None:
    inits = {"s": np.array([start]), "e": np.array([end]), "a": np.array([1]), "t": np.array([step])}
    x = f32(2, 5)
    want = x[:, slice(start, end if end > -(2**62) else None, step)]
    check([node("Slice", "x s e a t", "y")], {"x": x}, inits, symbolic=symbolic, expected=[want])


def test_shape_arithmetic_leaves_no_nodes() -> None:
    nodes = [
        node("Shape", "x", "s"),
        node("Gather", "s zero", "n"),
        node("Gather", "s one", "l"),
        node("Mul", "n l", "nl"),
        node("Unsqueeze", "nl axis", "u"),
        node("Concat", "u tail", "shape", axis=0),
        node("Cast", "shape", "shape2", to=I64),
        node("Reshape", "x shape2", "y"),
    ]
    inits = {"zero": np.int64(0), "one": np.int64(1), "axis": np.array([0]), "tail": np.array([4])}
    m = model(nodes, [info("x", ("N", "S", 4))], inits=[init(k, v) for k, v in inits.items()])
    g = read_model(m)
    assert ops(g) == ["reshape"]
    assert str(g.outputs[0].type) == "f32[N*S, 4]"


@pytest.mark.parametrize(
    "op", [("Mod", {"fmod": 1}), ("Mod", {}), ("Div", {}), ("Sub", {}), ("Max", {}), ("Min", {}), ("Equal", {})]
)
def test_arithmetic_on_small_constants_follows_the_operator(op: tuple[str, dict[str, int]]) -> None:
    a, b = np.array([-7, 7, -6, 5], np.int64), np.array([2, 2, 4, 3], np.int64)
    check([node(op[0], "a b", "t", **op[1]), node("Cast", "t", "u", to=I64), node("Mul", "u x", "y")],
          {"x": np.arange(1, 5)}, {"a": a, "b": b}, symbolic=False)  # fmt: skip


@pytest.mark.parametrize("op", ["ReduceProd", "ReduceSum"])
def test_known_reductions_that_overflow_wrap_as_data(op: str) -> None:
    big = np.full(4, 1 << 30, np.int32)
    check([node(op, "a", "t", keepdims=0), node("Add", "t x", "y")], {"x": np.arange(3, dtype=np.int32)}, {"a": big})


def test_shape_as_an_output_becomes_data() -> None:
    g = check([node("Shape", "x", "y", start=1)], {"x": f32(2, 3, 4)}, expected=[np.array([3, 4])])
    assert ops(g) == ["dims"]


def test_torch_expand_pattern() -> None:
    """ConstantOfShape, Equal and Where around a -1 in a target shape."""
    nodes = [
        node("Shape", "x", "s"),
        node("ConstantOfShape", "len", "ones", value=init("v", np.array([1]))),
        node("Mul", "ones minus", "wild"),
        node("Equal", "target wild", "is_wild"),
        node("Where", "is_wild ones target", "shape"),
        node("Expand", "x shape", "y"),
    ]
    inits = {"len": np.array([2]), "minus": np.int64(-1), "target": np.array([-1, 4])}
    g = check(nodes, {"x": f32(3, 1)}, inits, symbolic=False)
    assert ops(g) == ["expand"]


def test_table_slice_up_to_the_sequence_is_checked() -> None:
    nodes = [
        node("Shape", "x", "s", start=1, end=2),
        node("Slice", "table zero s one", "rows"),
        node("Add", "x rows", "y"),
    ]
    inits = {"table": f32(1, 6), "zero": np.array([0]), "one": np.array([1])}
    check(nodes, {"x": f32(2, 4)}, inits)
    g = check(nodes, {"x": f32(2, 6)}, inits)
    from fusec.errors import FusecError

    with pytest.raises(FusecError):
        run_reference(g, {"x": f32(2, 7)})


@pytest.mark.parametrize("opset", [11, 13, 18])
@pytest.mark.parametrize("op", ["ReduceSum", "ReduceMean", "ReduceMax", "ReduceMin", "ReduceProd", "ReduceL1", "ReduceL2",
                                "ReduceLogSum", "ReduceLogSumExp", "ReduceSumSquare"])  # fmt: skip
def test_reductions(op: str, opset: int) -> None:
    x = f32(2, 3, 4, low=0.1)
    as_input = opset >= (13 if op == "ReduceSum" else 18)
    for keep in (0, 1):
        if as_input:
            check([node(op, "x a", "y", keepdims=keep)], {"x": x}, {"a": np.array([-1, 0])}, opset=opset)
        else:
            check([node(op, "x", "y", keepdims=keep, axes=[-1, 0])], {"x": x}, opset=opset)
        check([node(op, "x", "y", keepdims=keep)], {"x": x}, opset=opset)


def norm(kind: str, opset: int, **attrs: Any) -> Callable[[], Graph]:
    shapes = {"BatchNormalization": [(3,)] * 4, "LayerNormalization": [(5,)] * 2, "InstanceNormalization": [(3,)] * 2}
    x = f32(2, 3, 4, 5)
    inits = {f"p{i}": f32(*s, seed=i + 1, low=0.5) for i, s in enumerate(shapes[kind])}
    n = node(kind, " ".join(["x", *inits]), "y", **attrs)
    want = None
    if kind == "BatchNormalization":
        s, b, m, v = (p.reshape(3, 1, 1) for p in inits.values())
        want = [(x - m) / np.sqrt(v + attrs.get("epsilon", 1e-5)) * s + b]
    return lambda: check([n], {"x": x}, inits, opset=opset, symbolic=False, expected=want)


NORMS = {
    "batch 9 with momentum": norm("BatchNormalization", 9, momentum=0.8),
    "batch 7": norm("BatchNormalization", 7),
    "batch 15": norm("BatchNormalization", 15, epsilon=1e-3),
    "layer": norm("LayerNormalization", 17, axis=-1, epsilon=1e-4),
    "instance": norm("InstanceNormalization", 17),
}


@pytest.mark.parametrize("name", NORMS)
def test_norms(name: str) -> None:
    NORMS[name]()


def test_layer_norm_statistics() -> None:
    n = node("LayerNormalization", "x s b", "y mean inv", axis=1)
    check([n], {"x": f32(2, 3, 4)}, {"s": f32(3, 4), "b": f32(3, 4)}, outputs=["y", "mean", "inv"], symbolic=False)


EQUATIONS = [
    "ij,jk->ik",
    "bij,bjk->bik",
    "bhid,bhjd->bhij",
    "ij->ji",
    "ij->",
    "ij,kj->ik",
    "...ij,...jk->...ik",
    "i,j->ij",
    "bij,jk",
]


@pytest.mark.parametrize("equation", EQUATIONS)
def test_einsum(equation: str) -> None:
    size = dict(zip("bhijkd", (2, 3, 4, 5, 6, 7)))
    terms = equation.replace("...", "b").partition("->")[0].split(",")
    feeds = {f"x{i}": f32(*(size[c] for c in t), seed=i) for i, t in enumerate(terms)}
    want = np.einsum(equation, *feeds.values())
    check([node("Einsum", " ".join(feeds), "y", equation=equation)], feeds, symbolic=False, expected=[want])


VIEWS = {
    "tile": (node("Tile", "x r", "y"), {"r": np.array([2, 1, 3])}),
    "pad": (node("Pad", "x p v", "y"), {"p": np.array([0, 1, 2, 1, 0, 1]), "v": np.float32(7)}),
    "crop": (node("Pad", "x p", "y"), {"p": np.array([0, -1, 0, 0, 0, -1])}),
    "reflect": (node("Pad", "x p", "y", mode="reflect"), {"p": np.array([0, 1, 2, 0, 1, 1])}),
    "flatten": (node("Flatten", "x", "y", axis=-1), {}),
    "transpose": (node("Transpose", "x", "y"), {}),
    "trilu": (node("Trilu", "x k", "y", upper=0), {"k": np.int64(1)}),
    "expand": (node("Expand", "x s", "y"), {"s": np.array([5, 1, 3, 4])}),
    "argmax": (node("ArgMax", "x", "y", axis=1, keepdims=0, select_last_index=1), {}),
    "clip": (node("Clip", "x lo hi", "y"), {"lo": np.float32(-1), "hi": np.float32(1)}),
    "lower clip": (node("Clip", "x - hi", "y"), {"hi": np.float32(1)}),
    "gather": (node("Gather", "x i", "y", axis=1), {"i": np.array([[0, -1], [2, 1]])}),
    "pow": (node("Pow", "x e", "y"), {"e": np.int64(2)}),
    "one hot": (node("OneHot", "i d v", "y", axis=0), {"i": np.array([1, -1]), "d": np.int64(4), "v": f32(2)}),
    "eye": (node("EyeLike", "m", "y", k=1), {"m": f32(3, 4)}),
}


@pytest.mark.parametrize("name", VIEWS)
def test_views(name: str) -> None:
    n, inits = VIEWS[name]
    nodes = [n] if "x" in n.input else [node("Identity", "x", "unused"), n]
    x = f32(2, 3, 4)
    check(nodes, {"x": x}, inits, symbolic=False, expected=[x[:, 1:, :3]] if name == "crop" else None)


def test_split_gives_slices() -> None:
    outs = check([node("Split", "x", "a b c", axis=1, num_outputs=3)], {"x": f32(2, 7)}, opset=18, outputs=["a", "b", "c"],
                 symbolic=False, expected=np.split(f32(2, 7), [3, 6], axis=1))  # fmt: skip
    assert ops(outs) == ["slice"] * 3


@pytest.mark.parametrize("dtype", [np.int8, np.uint8])
def test_quantisation_round_trip(dtype: Any) -> None:
    inits = {"s": np.array([0.1, 0.2, 0.3], np.float32), "z": np.array([1, 2, 3], dtype)}
    nodes = [node("QuantizeLinear", "x s z", "q", axis=1), node("DequantizeLinear", "q s z", "y", axis=1)]
    x = f32(2, 3, 4, low=-40, high=40)
    limits = np.iinfo(dtype)
    s, z = inits["s"].reshape(3, 1), inits["z"].astype(np.float32).reshape(3, 1)
    want = (np.clip(np.rint(x / s) + z, limits.min, limits.max) - z) * s
    check(nodes, {"x": x}, inits, opset=13, expected=[want], symbolic=False)


def test_dynamic_quantisation_and_integer_product() -> None:
    nodes = [node("DynamicQuantizeLinear", "x", "q s z"), node("MatMulInteger", "q w z wz", "y")]
    inits = {"w": np.arange(12, dtype=np.int8).reshape(4, 3), "wz": np.array([1, 2, 3], np.int8)}
    check(nodes, {"x": f32(2, 4)}, inits, symbolic=False)


def test_contrib_layer_norm() -> None:
    x, skip, scale, bias = f32(2, 3, 4), f32(2, 3, 4, seed=1), f32(4), f32(4, seed=3)
    t = x + skip
    want = (t - t.mean(-1, keepdims=True)) / np.sqrt(t.var(-1, keepdims=True) + 1e-12) * scale + bias
    n = node("SkipLayerNormalization", "x k s b", "y - - sum", domain="com.microsoft")
    n.output[1] = n.output[2] = ""
    check([n], {"x": x, "k": skip}, {"s": scale, "b": bias}, expected=[want, t], domains=[("com.microsoft", 1)],
          outputs=["y", "sum"], symbolic=False)  # fmt: skip


def test_if_with_a_known_condition_is_inlined() -> None:
    yes = helper.make_graph([node("Relu", "x", "o")], "t", [], [info("o")])
    no = helper.make_graph([node("Neg", "x", "p")], "e", [], [info("p")])
    g = check([node("If", "c", "y", then_branch=yes, else_branch=no)], {"x": f32(2, 3)}, {"c": np.array(False)})
    assert ops(g) == ["neg"]


def test_data_dependent_if_captures_outer_values() -> None:
    yes = helper.make_graph([node("Relu", "h", "o")], "t", [], [info("o", ("N", 3))])
    no = helper.make_graph([node("Neg", "x", "p")], "e", [], [info("p", ("N", 3))])
    nodes = [node("Abs", "x", "h"), node("If", "c", "y", then_branch=yes, else_branch=no)]
    m = model(nodes, [info("c", (), TensorProto.BOOL), info("x", ("N", 3))], [info("y", None)])
    g = read_model(m)
    assert g.nodes[-1].attr("captures") in (("h", "x"), ("x", "h"))
    for c in (True, False):
        feeds = {"c": np.array(c), "x": f32(4, 3)}
        np.testing.assert_array_equal(
            run_reference(g, feeds, opaque=run_host)["y"], ReferenceEvaluator(m).run(None, feeds)[0]
        )


def test_sizes_of_windows_and_of_opaque_nodes_stay_symbolic() -> None:
    n = node("Conv", "x w", "y", strides=[2, 2], pads=[1, 1, 1, 1])
    g = read_model(model([n], [info("x", ("N", 3, "H", "W"))], inits=[init("w", f32(8, 3, 3, 3))]))
    assert str(g.outputs[0].type) == "f32[N, 8, floordiv(H + 1, 2), floordiv(W + 1, 2)]"
    g = read_model(model([node("NonZero", "x", "y")], [info("x", ("N", 3))]))
    assert str(g.outputs[0].type) == "i64[2, _u0]"


def test_sizes_that_only_a_run_can_compare_are_left_to_the_host() -> None:
    m = model([node("Add", "a b", "y")], [info("a", ("N",)), info("b", ("M",))])
    assert ops(read_model(m)) == ["slice", "add"]  # compared when the sizes are known
    g = read_model(m, assume=False)
    assert ops(g) == ["Add"]
    assert "known only at run time" in g.nodes[0].attr("why")
    for n, m in ((3, 3), (1, 3), (3, 1)):
        got = run_reference(g, {"a": f32(n), "b": f32(m)}, opaque=run_host)["y"]
        np.testing.assert_array_equal(got, f32(n) + f32(m))


def test_initialisers_listed_as_inputs_are_weights() -> None:
    m = model([node("Add", "x w", "y")], [info("x"), info("w")], [info("y")], [init("w", f32(2, 3))], ir=3)
    assert [v.name for v in read_model(m).inputs] == ["x"]


def test_outputs_keep_their_names() -> None:
    nodes = [node("Identity", "x", "a"), node("Relu", "x", "h"), node("Identity", "h", "b"), node("Identity", "h", "c")]
    m = model(nodes, [info("x")], [info(n) for n in "abc"])
    g = read_model(m)
    assert [v.name for v in g.outputs] == ["a", "b", "c"]
    assert ops(g).count("relu") == 1


def test_old_broadcast_attributes() -> None:
    x, b = f32(2, 3, 4), f32(3)
    n = node("Add", "x b", "y", broadcast=1, axis=1)
    check([n], {"x": x}, {"b": b}, opset=6, expected=[x + b.reshape(3, 1)], symbolic=False)
