"""Every native op as a group of its own, over dtypes, against its numpy reference."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent))

from lower_check import apply, check, value

from fusec.errors import FusecError
from fusec.ir.dim import symbol
from fusec.ir.graph import weight
from fusec.ir.types import DType, TensorType
from fusec.ops import op as ops
from fusec.ops.op import Kind

NATIVE = [d for d in DType if d.is_native]
ELEMENTWISE = [n for n in ops.known() if ops.get(n).kind is Kind.ELEMENTWISE]
ATTRS: dict[str, dict[str, Any]] = {
    "leaky_relu": {"alpha": 0.3}, "elu": {"alpha": 0.7}, "selu": {"alpha": 1.5, "gamma": 1.1}, "celu": {"alpha": 0.8},
    "hard_sigmoid": {"alpha": 0.2, "beta": 0.4}, "thresholded_relu": {"alpha": 0.5}, "gelu": {"approximate": "tanh"},
    "swish": {"alpha": 1.3}, "shrink": {"lambd": 0.5, "bias": 0.25},
    "isinf": {"detect_negative": True, "detect_positive": False},
}  # fmt: skip
B = symbol("B")


def data(seed: int, shape: tuple[int, ...], dtype: DType) -> np.ndarray:
    r = np.random.default_rng(seed)
    if dtype is DType.BOOL:
        return r.integers(0, 2, shape).astype(bool)
    if dtype.is_integer:
        return r.integers(0 if not dtype.is_signed else -5, 6, shape).astype(dtype.numpy)
    return (r.standard_normal(shape) * 1.5).astype(dtype.numpy)


def arity(name: str) -> int:
    for n in (1, 2, 3):
        for d in NATIVE:
            types = [TensorType(d, (2,))] * n
            if name == "where":
                types[0] = TensorType(DType.BOOL, (2,))
            try:
                ops.get(name).infer(types, {"to": DType.F32} | ATTRS.get(name, {}))
            except FusecError:
                continue
            return 3 if name == "clip" else n
    raise AssertionError(name)


@pytest.mark.parametrize("name", ELEMENTWISE)
def test_elementwise(name: str) -> None:
    count = arity(name)
    tried = 0
    for dtype in (DType.F32, DType.F64, DType.F16, DType.BF16, DType.I64, DType.I8, DType.U8, DType.BOOL):
        shapes = [(3, 1, 5), (2, 3, 4, 5), (4, 1)][:count]
        if name == "clip":
            shapes = [(2, 3, 4, 5), (), ()]
        if count == 1:
            shapes = [(2, 3, 5)]
        dtypes = [DType.BOOL if name == "where" and i == 0 else dtype for i in range(count)]
        feeds = {f"x{i}": data(i, s, d) for i, (s, d) in enumerate(zip(shapes, dtypes))}
        if name in ("log", "sqrt", "pow") and dtype.is_float:
            feeds["x0"] = np.abs(feeds["x0"])
        ins = [value(f"x{i}", *s, dtype=d) for i, (s, d) in enumerate(zip(shapes, dtypes))]
        for to in (DType.F32, DType.I32, DType.BOOL) if name == "cast" else (None,):
            attrs = ATTRS.get(name, {}) | ({} if to is None else {"to": to})
            try:
                node = apply(name, "y", *ins, **attrs)
            except FusecError:
                continue
            tried += 1
            check([node], feeds, rtol=1e-3 if dtype is DType.F32 and name in ("tan", "pow") else None)
    assert tried


def one(
    op: str, *shapes: tuple[int, ...], dtype: DType = DType.F32, dtypes: tuple[DType, ...] = (), **attrs: Any
) -> Any:
    dtypes = dtypes or (dtype,) * len(shapes)
    feeds = {f"x{i}": data(i, s, d) for i, (s, d) in enumerate(zip(shapes, dtypes))}
    ins = [value(f"x{i}", *s, dtype=d) for i, (s, d) in enumerate(zip(shapes, dtypes))]
    return check([apply(op, "y", *ins, **attrs)], feeds)


VIEWS: list[tuple[str, tuple[tuple[int, ...], ...], dict[str, Any]]] = [
    ("identity", ((2, 3),), {}),
    ("reshape", ((2, 3, 4),), {"shape": (6, 4)}),
    ("reshape", ((6, 4),), {"shape": (2, 3, 2, 2)}),
    ("reshape", ((1,),), {"shape": ()}),
    ("transpose", ((2, 3, 4),), {"perm": (2, 0, 1)}),
    ("transpose", ((2, 1, 4),), {"perm": (1, 2, 0)}),
    ("expand", ((3, 1),), {"shape": (2, 3, 4)}),
    ("slice", ((5, 6),), {"starts": (1, 5), "sizes": (3, 3), "steps": (1, -2)}),
    ("slice", ((5, 6),), {"starts": (0, 1), "sizes": (0, 3), "steps": (1, 1)}),
    ("concat", ((2, 3, 4), (2, 1, 4), (2, 5, 4)), {"axis": 1}),
    ("concat", ((2, 3), (2, 0)), {"axis": 1}),
    ("concat", ((4,), (2,)), {"axis": 0}),
    ("pad", ((3, 4),), {"before": (1, 0), "after": (2, 3), "mode": "constant"}),
    ("pad", ((3, 4),), {"before": (-1, 2), "after": (0, -1), "mode": "constant"}),
    ("pad", ((3, 4), ()), {"before": (1, 2), "after": (0, 1), "mode": "constant"}),
    ("pad", ((3, 4),), {"before": (2, 1), "after": (0, 3), "mode": "edge"}),
    ("pad", ((3, 4),), {"before": (2, 1), "after": (1, 3), "mode": "reflect"}),
    ("pad", ((3, 4),), {"before": (2, 1), "after": (1, 3), "mode": "wrap"}),
    ("windows", ((2, 5, 7),), {"axes": (1, 2), "sizes": (2, 3), "strides": (2, 1), "dilations": (3, 2)}),
    ("windows", ((6,),), {"axes": (0,), "sizes": (6,), "strides": (4,), "dilations": (1,)}),
    ("windows", ((5, 4),), {"axes": (1, 0), "sizes": (2, 2), "strides": (1, 1), "dilations": (1, 1)}),
]


@pytest.mark.parametrize("op, shapes, attrs", VIEWS, ids=lambda x: x if isinstance(x, str) else "")
@pytest.mark.parametrize("dtype", [DType.F32, DType.I64, DType.BOOL, DType.F16])
def test_views(op: str, shapes: tuple[tuple[int, ...], ...], attrs: dict[str, Any], dtype: DType) -> None:
    one(op, *shapes, dtype=dtype, **attrs)


def test_iota_and_dims() -> None:
    for dtype in (DType.F32, DType.I64, DType.F16, DType.U8):
        check([apply("iota", "y", size=7, start=3, step=2, dtype=dtype)], {})
    check([apply("iota", "y", size=B, start=B, step=-1, dtype=DType.I64)], {}, symbols={"B": 5})
    check([apply("dims", "y", values=(B, 3, B * 2))], {}, symbols={"B": 5})
    check([apply("dims", "y", values=())], {})


REDUCTIONS = ["reduce_sum", "reduce_max", "reduce_min", "reduce_prod", "reduce_mean"]


@pytest.mark.parametrize("op", REDUCTIONS)
@pytest.mark.parametrize(
    "axes, keepdims", [((2,), False), ((0, 2), True), ((0, 1, 2), False), ((1,), True), ((), True)]
)
def test_reductions(op: str, axes: tuple[int, ...], keepdims: bool) -> None:
    for dtype in (DType.F32, DType.F64, DType.F16, DType.BF16, DType.I64, DType.I32, DType.BOOL):
        if dtype is DType.BOOL and op not in ("reduce_max", "reduce_min"):
            continue
        one(op, (3, 4, 5), dtype=dtype, axes=axes, keepdims=keepdims)
    one(op, (3, 1, 5), axes=(1,), keepdims=keepdims)
    if op in ("reduce_sum", "reduce_max"):
        one(op, (3, 0), axes=(1,), keepdims=keepdims)


@pytest.mark.parametrize("op", ["argmax", "argmin"])
@pytest.mark.parametrize("axis", [0, 1, 2])
def test_positions(op: str, axis: int) -> None:
    for dtype in (DType.F32, DType.I8, DType.U8, DType.F16):
        one(op, (3, 4, 5), dtype=dtype, axis=axis, keepdims=bool(axis))
    x = np.array([[1, np.nan, np.nan], [2, 2, 1], [-np.inf, -np.inf, -np.inf]], np.float32)
    check([apply(op, "y", value("x", 3, 3), axis=1, keepdims=False)], {"x": x})
    one(op, (3, 1), axis=1, keepdims=True)


@pytest.mark.parametrize("op", ["softmax", "log_softmax"])
@pytest.mark.parametrize("axis", [0, 1, 2])
def test_softmax(op: str, axis: int) -> None:
    for dtype in (DType.F32, DType.F64, DType.F16, DType.BF16):
        one(op, (3, 4, 5), dtype=dtype, axis=axis)
    one(op, (3, 1, 5), axis=1)
    x = np.full((3, 4), -np.inf, np.float32)
    x[1] = 1.0
    check([apply(op, "y", value("x", 3, 4), axis=1)], {"x": x})


@pytest.mark.parametrize("dtype", [DType.F32, DType.F64, DType.F16, DType.BF16])
def test_norms(dtype: DType) -> None:
    one("layer_norm", (3, 4, 5), (5,), (5,), dtype=dtype, axis=2, epsilon=1e-5)
    one("layer_norm", (3, 4, 5), (4, 5), (5,), dtype=dtype, axis=1, epsilon=1e-5)
    one("layer_norm", (3, 4, 5), dtype=dtype, axis=0, epsilon=1e-5)
    one("layer_norm", (3, 4, 5), (5,), dtype=dtype, axis=2, epsilon=1e-5)
    one("rms_norm", (3, 4, 5), (5,), dtype=dtype, axis=2, epsilon=1e-6)
    one("rms_norm", (3, 4, 5), dtype=dtype, axis=2, epsilon=1e-6)


@pytest.mark.parametrize(
    "a, b",
    [((3, 4), (4, 5)), ((2, 3, 4), (4, 5)), ((2, 3, 4), (2, 4, 5)), ((2, 1, 3, 4), (5, 4, 2)), ((1, 4), (4, 1)),
     ((3, 1), (1, 5)), ((7, 2, 3, 4), (1, 2, 4, 5)), ((3, 0), (0, 5)), ((4, 1, 4), (4, 6))],
)  # fmt: skip
def test_matmul(a: tuple[int, ...], b: tuple[int, ...]) -> None:
    for dtype in (DType.F32, DType.F64, DType.F16, DType.BF16, DType.I32, DType.I64, DType.U8):
        one("matmul", a, b, dtype=dtype)


def test_matmul_collapses_leading_dimensions_onto_rows() -> None:
    w = weight("w", data(5, (4, 6), DType.F32))
    call = check(
        [apply("matmul", "y", value("x", B, 5, 4), w.value)],
        {"x": data(1, (3, 5, 4), DType.F32)},
        weights=[w],
        symbols={"B": 3},
    )
    assert [a.name for a in call.program.axes] == ["m", "n"]
    assert dict(call.params)["M"] == B * 5


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("dtype", [DType.F32, DType.F16])
def test_attention(causal: bool, dtype: DType) -> None:
    shapes = (2, 3, 5, 4), (2, 1, 7, 4), (2, 1, 7, 6)
    one("attention", *shapes, dtype=dtype, scale=0.5, causal=causal)
    one("attention", *shapes, (2, 1, 1, 7), dtype=dtype, scale=0.5, causal=causal)
    one("attention", (5, 4), (7, 4), (7, 4), (5, 7), dtype=dtype, scale=0.5, causal=causal)
    mask = np.full((5, 7), -np.inf, np.float32).astype(dtype.numpy)
    mask[1:] = 0
    feeds = {n: data(i, s[2:], dtype) for i, (n, s) in enumerate(zip("qkv", shapes))} | {"mask": mask}
    ins = [value(n, *a.shape, dtype=dtype) for n, a in feeds.items()]
    check([apply("attention", "y", *ins, scale=0.5, causal=causal)], feeds)


@pytest.mark.parametrize("indices", [DType.I64, DType.I32, DType.U8])
def test_gathers(indices: DType) -> None:
    r = np.random.default_rng(0)
    low = -4 if indices.is_signed else 0
    i = r.integers(low, 4, (2, 3)).astype(indices.numpy)
    x = data(0, (5, 4, 3), DType.F32)
    for axis in (0, 1):
        feeds = {"x": x, "i": i}
        check([apply("gather", "y", value("x", 5, 4, 3), value("i", 2, 3, dtype=indices), axis=axis)], feeds)
    w = weight("i", np.array(-1, indices.numpy) if indices.is_signed else np.array(2, indices.numpy))
    check([apply("gather", "y", value("x", 5, 4, 3), w.value, axis=1)], {"x": x}, weights=[w])
    e = r.integers(low, 4, (5, 2, 3)).astype(indices.numpy)
    check(
        [apply("gather_elements", "y", value("x", 5, 4, 3), value("i", 5, 2, 3, dtype=indices), axis=1)],
        {"x": x, "i": e},
    )
    n = r.integers(low // 2, 3, (5, 2, 2)).astype(indices.numpy)
    check(
        [apply("gather_nd", "y", value("x", 5, 4, 3), value("i", 5, 2, 2, dtype=indices), batch_dims=1)],
        {"x": x, "i": n},
    )
    check(
        [apply("gather_nd", "y", value("x", 5, 4, 3), value("i", 5, 2, 2, dtype=indices), batch_dims=0)],
        {"x": x, "i": n},
    )


@pytest.mark.parametrize("reduction", ["none", "add", "mul", "min", "max"])
@pytest.mark.parametrize("shapes", [((5, 4, 3), (7, 4, 3), (7, 1, 1)), ((5, 4, 3), (7, 2, 3), (7, 2, 1))])
@pytest.mark.parametrize("dtype", [DType.F32, DType.I32])
def test_scatters(reduction: str, shapes: tuple[tuple[int, ...], ...], dtype: DType) -> None:
    r = np.random.default_rng(0)
    data, updates, indices = shapes
    x = value("x", *data, dtype=dtype)
    i, u = value("i", *indices, dtype=DType.I64), value("u", *updates, dtype=dtype)
    feeds = {
        "x": r.integers(-5, 5, data).astype(dtype.numpy),
        "i": r.integers(-5, 5, indices),
        "u": r.integers(-3, 3, updates).astype(dtype.numpy),
    }
    check([apply("scatter", "y", x, i, u, axis=0, reduction=reduction)], feeds)
    edges = value("i", symbol("E"), *indices[1:], dtype=DType.I64), value("u", symbol("E"), *updates[1:], dtype=dtype)
    node = apply("scatter", "y", x, *edges, axis=0, reduction=reduction)
    check([node], feeds, symbols={"E": updates[0]})


def test_every_native_op_is_covered() -> None:
    covered = {
        *ELEMENTWISE,
        *(v[0] for v in VIEWS),
        *REDUCTIONS,
        "iota",
        "dims",
        "argmax",
        "argmin",
        "softmax",
        "log_softmax",
    }
    covered |= {"layer_norm", "rms_norm", "matmul", "conv", "attention", "gather", "gather_elements", "gather_nd"}
    covered |= {"scatter"}
    covered |= {"winograd_input", "winograd_output", "lstm", "gru", "rnn"}  # in test_lower_winograd and _recurrent
    covered |= {"running", "top_k"}  # in test_lower_ordered
    covered |= {"winograd_weight"}  # of constants only, so it is folded and never lowered
    assert {n for n in ops.known() if ops.get(n).kind is not Kind.OPAQUE} <= covered
