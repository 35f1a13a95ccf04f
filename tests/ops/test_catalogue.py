"""One test over the whole catalogue: type rule, reference and scalar body of every op tell the same story."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from fusec.errors import ModelError, UnsupportedError
from fusec.ir.dim import symbol
from fusec.ir.evaluate import evaluate_expr
from fusec.ir.expr import Ref
from fusec.ir.types import DType, TensorType, parse_type
from fusec.ops import op as ops
from fusec.ops.op import Kind, get, known

N, M = symbol("N"), symbol("M")

ATTRS: dict[str, list[dict[str, Any]]] = {
    "isinf": [{}, {"detect_negative": False}, {"detect_positive": False}],
    "gelu": [{"approximate": "none"}, {"approximate": "tanh"}],
    "swish": [{"alpha": 1.0}, {"alpha": 1.702}],
    "leaky_relu": [{"alpha": 0.1}],
    "elu": [{"alpha": 1.0}, {"alpha": -2.0}],
    "celu": [{"alpha": 1.0}, {"alpha": 2.0}],
    "hard_sigmoid": [{"alpha": 0.2, "beta": 0.5}],
    "thresholded_relu": [{"alpha": 1.0}],
    "shrink": [{"lambd": 1.5, "bias": 0.5}],
    "cast": [{"to": d} for d in DType if d.is_native],
}
LOSSY = frozenset("gelu mish swish softplus sigmoid elu celu selu".split())


def values(dtype: DType, seed: int) -> np.ndarray[Any, Any]:
    """Random and special values of a dtype."""
    rng = np.random.default_rng(seed)
    if dtype is DType.BOOL:
        return rng.random(32) < 0.5
    if dtype.is_integer:
        info = np.iinfo(dtype.numpy)
        special = np.array([info.min, info.min + 1, info.max, info.max - 1, 0, 1, 2], dtype.numpy)
        return np.concatenate([special, rng.integers(max(info.min, -9), 10, 25).astype(dtype.numpy)])
    with np.errstate(all="ignore"):
        special = [0.0, -0.0, 1.0, -1.0, 0.5, 1.5, 2.5, -2.5, np.nan, np.inf, -np.inf, 1e-40, -1e-40, 1e-8, -1e-8, 3e38]
        ordinary = np.concatenate([rng.normal(size=16) * 3, rng.normal(size=12) * 100, [88.0, -88.0, 104.0, -104.0]])
        return rng.permutation(np.concatenate([special, ordinary]).astype(dtype.numpy))


def elementwise_cases() -> Iterator[Any]:
    for name in known():
        if get(name).kind is not Kind.ELEMENTWISE:
            continue
        for attrs in ATTRS.get(name, [{}]):
            for dtype in (d for d in DType if d.is_native):
                label = "-".join([name, str(dtype), *(str(v) for v in attrs.values())])
                yield pytest.param(name, attrs, dtype, id=label)


def arity(name: str) -> list[int]:
    f32 = TensorType(DType.F32, (2,))
    if name in ("where", "clip"):
        return [3] if name == "where" else [1, 2, 3]
    for count in (1, 2):
        for dtype in (DType.F32, DType.I32, DType.BOOL):
            try:
                get(name).infer([TensorType(dtype, (2,))] * count, (ATTRS.get(name) or [{}])[0])
            except ModelError:
                continue
            return [count]
    raise AssertionError(f"{name} takes neither one nor two of {f32}")


@pytest.mark.parametrize(("name", "attrs", "dtype"), list(elementwise_cases()))
def test_elementwise(name: str, attrs: dict[str, Any], dtype: DType) -> None:
    op = get(name)
    for count in arity(name):
        arrays: list[np.ndarray[Any, Any]] = [values(dtype, seed) for seed in range(count)]
        if name == "where":
            arrays[0] = values(DType.BOOL, 7)[np.arange(len(arrays[1])) % 32]
        types = [TensorType(DType.of(a.dtype), a.shape) for a in arrays]
        try:
            (inferred,) = op.infer(types, attrs)
        except ModelError:
            return  # the op is not defined for this dtype
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            (expected,) = op.reference(arrays, attrs)
            assert op.scalar is not None
            refs = {f"a{i}": a for i, a in enumerate(arrays)}
            body = op.scalar([Ref(f"a{i}", t.dtype) for i, t in enumerate(types)], attrs)
            got = np.broadcast_to(evaluate_expr(body, refs), arrays[-1].shape)
        assert isinstance(inferred, TensorType)
        assert body.dtype is inferred.dtype
        assert (DType.of(expected.dtype), expected.shape) == (inferred.dtype, inferred.shape)
        assert got.dtype == expected.dtype
        agree(name, got, expected)


def agree(name: str, got: np.ndarray[Any, Any], expected: np.ndarray[Any, Any]) -> None:
    dtype = DType.of(expected.dtype)
    if not dtype.is_float:
        np.testing.assert_array_equal(got, expected)
        return
    eps = {DType.F16: 1e-3, DType.BF16: 8e-3, DType.F32: 4e-7, DType.F64: 1e-15}[dtype]
    wide = [a.astype(np.float64) for a in (got, expected)]
    tolerance = 4 * eps if name in LOSSY else eps
    np.testing.assert_allclose(*wide, rtol=tolerance, atol=tolerance if name in LOSSY else 1e-37)


X = np.arange(24, dtype=np.float32).reshape(2, 3, 4) - 7
TABLE: list[tuple[str, list[Any], dict[str, Any]]] = [
    ("identity", [X], {}),
    ("reshape", [X], {"shape": (4, 6)}),
    ("transpose", [X], {"perm": (2, 0, 1)}),
    ("expand", [X[:, :1]], {"shape": (5, 2, 3, 4)}),
    ("slice", [X], {"starts": (1, 2, 0), "sizes": (1, 3, 2), "steps": (1, -1, 3)}),
    ("slice", [np.float32(3)], {"starts": (), "sizes": (), "steps": ()}),
    ("concat", [X, X[:, :1], X], {"axis": 1}),
    ("pad", [X], {"before": (0, 1, -1), "after": (1, 0, 2), "mode": "constant"}),
    ("pad", [X, np.float32(9)], {"before": (0, 1, 0), "after": (1, 0, 2), "mode": "constant"}),
    ("pad", [X], {"before": (0, 1, 0), "after": (1, 0, 2), "mode": "edge"}),
    ("pad", [X], {"before": (1, 2, 0), "after": (1, 0, 3), "mode": "reflect"}),
    ("pad", [X], {"before": (1, 2, 0), "after": (1, 0, 3), "mode": "wrap"}),
    ("windows", [X], {"axes": (2, 1), "sizes": (2, 3), "strides": (2, 1), "dilations": (1, 1)}),
    ("windows", [X[:0]], {"axes": (1, 2), "sizes": (2, 2), "strides": (1, 3), "dilations": (2, 3)}),
    ("iota", [], {"size": 5, "start": 3, "step": -2, "dtype": DType.I32}),
    ("iota", [], {"size": 5, "start": 0, "step": 1, "dtype": DType.BF16}),
    ("dims", [], {"values": (3, 4)}),
    ("dims", [], {"values": ()}),
    *((f"reduce_{n}", [X], {"axes": (0, 2), "keepdims": k}) for n in "sum max min prod mean".split() for k in (True, False)),
    *((f"reduce_{n}", [X], {"axes": (), "keepdims": False}) for n in "sum max min prod mean".split()),
    *((f"reduce_{n}", [X[:0]], {"axes": (0,), "keepdims": False}) for n in "sum max min prod mean".split()),
    *((f"reduce_{n}", [X.astype(np.int8)], {"axes": (1,), "keepdims": True}) for n in "sum max min prod mean".split()),
    *((f"reduce_{n}", [X > 3], {"axes": (1,), "keepdims": True}) for n in ("max", "min")),
    ("reduce_sum", [X.astype(np.float16)], {"axes": (1,), "keepdims": True}),
    ("argmax", [X], {"axis": 1, "keepdims": True}),
    ("argmin", [X.astype(np.int64)], {"axis": 2, "keepdims": False}),
    ("softmax", [X * 40], {"axis": 1}),
    ("log_softmax", [X * 40], {"axis": 2}),
    ("softmax", [X.astype(np.float16)], {"axis": 1}),
    ("layer_norm", [X], {"axis": 1, "epsilon": 1e-5}),
    ("layer_norm", [X, X[0], X[1, 0]], {"axis": 1, "epsilon": 1e-5}),
    ("layer_norm", [X, None, X[1, 0]], {"axis": 2, "epsilon": 1e-5}),
    ("rms_norm", [X.astype(np.float16), X[0, 0].astype(np.float16)], {"axis": 2, "epsilon": 1e-5}),
    ("matmul", [X, X.swapaxes(1, 2)], {}),
    ("matmul", [X.astype(np.int32), X[0].T.astype(np.int32)], {}),
    ("attention", [X, X, X[..., :2]], {"scale": 0.5, "causal": False}),
    ("attention", [X, X, X, np.zeros((3, 3), np.float32)], {"scale": 0.5, "causal": True}),
    ("attention", [X, X, X], {"scale": 0.5, "causal": False, "empty_rows": "zero"}),
    ("gather", [X, np.array([[0, -1], [2, 1]])], {"axis": 1}),
    ("gather", [X, np.array(1, np.int32)], {"axis": 2}),
    ("gather_elements", [X, np.array([[[0, -1, 2, 0]], [[1, 1, 1, 1]]])], {"axis": 1}),
    ("gather_nd", [X, np.array([[0, 1], [-1, 2]])], {"batch_dims": 0}),
    ("gather_nd", [X, np.array([[1], [-1]])], {"batch_dims": 1}),
    ("gather_nd", [X, np.array([[[0, 0]], [[1, -1]]])], {"batch_dims": 1}),
    ("scatter", [X, np.array([[[0]], [[-1]], [[0]]]), X[[0, 0, 1]]], {"axis": 0, "reduction": "add"}),
    ("conv", [X, np.ones((2, 4, 5), np.float32)],
     {"strides": (1,), "dilations": (1,), "before": (1,), "after": (0,), "groups": 1}),
    ("winograd_weight", [np.ones((3, 3, 2, 5))], {"tile": 2}),
    ("winograd_input", [np.ones((2, 6, 4, 3))], {"tile": 2, "before": (1, 0), "after": (1, 2)}),
    ("winograd_output", [np.ones((16, 12, 5))], {"tile": 2, "shape": (2, 6, 4, 5)}),
]  # fmt: skip


@pytest.mark.parametrize(("name", "arrays", "attrs"), TABLE, ids=[f"{n}{i}" for i, (n, _, _) in enumerate(TABLE)])
def test_reference_has_the_inferred_type(name: str, arrays: list[Any], attrs: dict[str, Any]) -> None:
    arrays = [None if a is None else np.asarray(a) for a in arrays]
    types = [None if a is None else TensorType(DType.of(a.dtype), a.shape) for a in arrays]
    (inferred,) = get(name).infer(types, attrs)
    (got,) = get(name).reference(arrays, attrs)
    assert (DType.of(got.dtype), got.shape) == (inferred.dtype, inferred.shape)  # type: ignore[union-attr]


def test_the_table_covers_the_catalogue() -> None:
    elsewhere = (Kind.ELEMENTWISE, Kind.RECURRENT)  # each has a test of its own
    others = {n for n in known() if get(n).kind not in elsewhere}
    assert others - {n for n, _, _ in TABLE} == {"opaque"}


def infer(name: str, *types: str | None, **attrs: Any) -> str:
    (out,) = get(name).infer([None if t is None else parse_type(t) for t in types], attrs)
    return str(out)


def test_symbolic_broadcasting() -> None:
    assert infer("add", "f32[N, 1]", "f32[M]") == "f32[N, M]"
    assert infer("add", "f32[N]", "f32[4]") == "f32[4]"
    assert infer("add", "f32[N]", "f32[M]") == "f32[N]"
    assert infer("add", "f32[1, N]", "f32[]") == "f32[1, N]"
    assert infer("where", "bool[N]", "i64[3, 1]", "i64[]") == "i64[3, N]"
    assert infer("matmul", "f32[B, 1, N, 8]", "f32[4, 8, M]") == "f32[B, 4, N, M]"
    assert infer("concat", "f32[N, 2]", "f32[M, 2]", axis=0) == "f32[M + N, 2]"
    assert infer("pad", "f32[N]", before=(1,), after=(2,), mode="constant") == "f32[N + 3]"
    two = {"strides": (2, 1), "dilations": (1, 2)}
    assert infer("windows", "f32[N, 8]", axes=(0, 1), sizes=(3, 2), **two) == "f32[floordiv(N + 1, 2) - 1, 6, 3, 2]"
    assert infer("clip", "f32[N]", None, "f32[]") == "f32[N]"


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (("add", "f32[2]", "f32[3]"), r"add: shapes do not broadcast: \[2\] and \[3\]"),
        (("add", "f32[2]", "f64[2]"), "different dtypes: f32"),
        (("add", "f32[2]"), "takes 2 inputs, got 1"),
        (("sqrt", "i32[2]"), r"must be floats, got i32\[2\]"),
        (("matmul", "f32[2, 3]", "f32[4, 5]"), r"inner sizes differ: f32\[2, 3\] @ f32\[4, 5\]"),
        (("matmul", "f32[3]", "f32[3, 5]"), "rank 2"),
    ],
)
def test_errors_show_both_types(call: tuple[str, ...], message: str) -> None:
    with pytest.raises(ModelError, match=message):
        infer(*call)


@pytest.mark.parametrize(
    ("name", "types", "attrs"),
    [
        ("reshape", ["f32[2, 3]"], {"shape": (7,)}),
        ("transpose", ["f32[2, 3]"], {"perm": (0, 0)}),
        ("expand", ["f32[2, 3]"], {"shape": (2, 4)}),
        ("expand", ["f32[2, 3]"], {"shape": (2, 1)}),
        ("slice", ["f32[4]"], {"starts": (2,), "sizes": (3,), "steps": (1,)}),
        ("concat", ["f32[2, 3]", "f32[2, 4]"], {"axis": 0}),
        ("softmax", ["f32[2, 3]"], {"axis": 2}),
        ("reduce_sum", ["f32[2, 3]"], {"axes": (1, 0), "keepdims": True}),
        ("layer_norm", ["f32[2, 3]", "f32[2, 3]"], {"axis": 1, "epsilon": 1e-5}),
        ("layer_norm", ["f32[2, 1]", "f32[3]"], {"axis": 1, "epsilon": 1e-5}),
        ("gather_nd", ["f32[2]", "i64[3, 2]"], {"batch_dims": 0}),
        ("scatter", ["f32[2]", "i64[3]", "f32[4]"], {"axis": 0, "reduction": "none"}),
        ("scatter", ["f32[2, 3]", "i64[5, 4]", "f32[5, 4]"], {"axis": 0, "reduction": "none"}),
        ("scatter", ["f32[2]", "i64[4]", "f32[4]"], {"axis": 0, "reduction": "sum"}),
        ("windows", ["f32[4]"], {"axes": (0,), "sizes": (3,), "strides": (1,), "dilations": (2,)}),
        ("windows", ["f32[4]"], {"axes": (0,), "sizes": (0,), "strides": (1,), "dilations": (1,)}),
        ("windows", ["f32[4]"], {"axes": (0,), "sizes": (2,), "strides": (0,), "dilations": (1,)}),
        ("windows", ["f32[4]"], {"axes": (1,), "sizes": (2,), "strides": (1,), "dilations": (1,)}),
        ("windows", ["f32[4]"], {"axes": (0,), "sizes": (2, 2), "strides": (1,), "dilations": (1,)}),
        ("pad", ["f32[2]"], {"before": (-3,), "after": (0,), "mode": "constant"}),
        ("pad", ["f32[2]"], {"before": (1,), "after": (0,), "mode": "mirror"}),
    ],
)
def test_attributes_that_do_not_fit(name: str, types: list[str], attrs: dict[str, Any]) -> None:
    with pytest.raises(ModelError):
        infer(name, *types, **attrs)


def test_values_that_kernels_cannot_hold_are_unsupported_not_wrong() -> None:
    with pytest.raises(UnsupportedError, match="known rank"):
        infer("relu", "f32[*]")
    with pytest.raises(UnsupportedError, match="string"):
        infer("reshape", "string[2]", shape=(2,))


def test_gather_out_of_range_is_an_error() -> None:
    with pytest.raises(Exception, match="index 3 is outside a dimension of 3"):
        get("gather").reference([X, np.array([3])], {"axis": 1})


def test_infinities_do_not_become_nan_where_the_limit_is_finite() -> None:
    x = np.array([np.inf, -np.inf, 1e30, -1e30], np.float32)
    for name, limits in (("sigmoid", [1, 0, 1, 0]), ("softplus", [np.inf, 0, 1e30, 0]), ("tanh", [1, -1, 1, -1])):
        scalar = get(name).scalar
        assert scalar is not None
        np.testing.assert_array_equal(evaluate_expr(scalar([Ref("x", DType.F32)], {}), {"x": x}), np.float32(limits))


def test_a_name_has_one_meaning() -> None:
    with pytest.raises(ValueError, match="declared twice"):
        ops.register(get("relu"))
    with pytest.raises(ValueError, match="did you mean 'softmax'"):
        get("sofmax")
