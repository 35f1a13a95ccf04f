"""Everything that can be fed: what fits gives the same answer, what does not is refused with a message that helps."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import pytest

from fusec.errors import InputError
from fusec.ir.dim import symbol
from fusec.ir.graph import Value
from fusec.ir.types import DType, OptionalType, SequenceType, TensorType, parse_type
from fusec.runtime.inputs import Symbols, as_value, named_feeds

N, M = symbol("N"), symbol("M")
X = Value("x", TensorType(DType.F32, (N, 3)))


def value(text: str, name: str = "x") -> Value:
    return Value(name, parse_type(text))


BASE = np.arange(24, dtype=np.float32).reshape(4, 6)


def misaligned() -> np.ndarray:
    raw = np.zeros(12 * 4 + 1, np.uint8)
    out = raw[1:].view(np.float32).reshape(4, 3)
    out[...] = BASE[:, :3]
    return out


def read_only() -> np.ndarray:
    out = BASE[:, :3].copy()
    out.flags.writeable = False
    return out


class Subclass(np.ndarray):
    pass


class Wrapped:
    def __array__(self, dtype: Any = None, copy: Any = None) -> np.ndarray:
        return BASE[:, :3]


@pytest.mark.parametrize(
    "given",
    [
        BASE[:, :3],
        BASE[:, ::2],
        BASE[::-1, :3],
        BASE[:, 2::-1],
        np.broadcast_to(BASE[0, :3], (4, 3)),
        np.broadcast_to(np.float32(2), (4, 3)),
        np.asfortranarray(BASE[:, :3]),
        BASE[:, :3].astype(">f4"),
        misaligned(),
        read_only(),
        BASE[:, :3].tolist(),
        [[1, 2, 3]],
        np.zeros((0, 3), np.float32),
        np.ma.masked_array(BASE[:, :3]),
        BASE[:, :3].view(Subclass),
        Wrapped(),
    ],
    ids=lambda v: type(v).__name__,
)
def test_what_fits(given: object) -> None:
    array = as_value(X, given)
    assert type(array) is np.ndarray and array.dtype is np.dtype(np.float32)
    assert array.flags.c_contiguous and array.flags.aligned
    np.testing.assert_array_equal(array, np.asarray(given, np.float32))


def test_good_arrays_are_not_copied() -> None:
    good = BASE[:, :3].copy()
    assert as_value(X, good) is good
    assert as_value(X, read := read_only()) is read


@pytest.mark.parametrize(
    ("kind", "given", "expected"),
    [
        ("f32[]", 2, np.float32(2)),
        ("f32[]", np.float64(0.5), np.float32(0.5)),
        ("i64[2]", [1, 2], np.array([1, 2])),
        ("u8[2]", [0, 255], np.array([0, 255], np.uint8)),
        ("bool[]", True, np.True_),
        ("f64[0]", [], np.zeros(0)),
        ("bf16[2]", np.ones(2, ml_dtypes.bfloat16), np.ones(2, ml_dtypes.bfloat16)),
        ("i4[2]", np.ones(2, ml_dtypes.int4), np.ones(2, ml_dtypes.int4)),
        ("f8e4m3fn[1]", np.ones(1, ml_dtypes.float8_e4m3fn), np.ones(1, ml_dtypes.float8_e4m3fn)),
        ("string[2]", ["a", "bc"], np.array(["a", "bc"], object)),
        ("string[]", "a", np.array("a", object)),
        ("c64[1]", [1j], np.array([1j], np.complex64)),
    ],
)
def test_python_numbers_and_small_dtypes(kind: str, given: object, expected: np.ndarray) -> None:
    array = as_value(value(kind), given)
    assert array.dtype == value(kind).dtype.numpy and array.shape == np.shape(expected)
    np.testing.assert_array_equal(array, expected)


@pytest.mark.parametrize(
    ("kind", "given", "words"),
    [
        ("f32[N,3]", np.zeros((2, 3)), ["'x'", "float64[2, 3]", "float32[N, 3]", "astype"]),
        ("f32[N,3]", np.zeros((2, 3), np.int32), ["int32", "float32"]),
        ("f32[N,3]", np.zeros((2, 3), np.complex64), ["complex64"]),
        ("i64[2]", np.zeros(2, np.int32), ["int32", "int64[2]"]),
        ("i64[2]", [0.5, 1.0], ["float64"]),
        ("u8[1]", [256], ["outside the range of uint8"]),
        ("u8[1]", [-1], ["outside the range of uint8"]),
        ("bool[1]", [1], ["int64", "bool"]),
        ("f32[1]", [True], ["bool"]),
        ("f32[2]", ["a", "b"], ["strings"]),
        ("f32[2]", np.array([1, None], object), ["object"]),
        ("f32[2]", np.array(["2020-01-01", "2020-01-02"], "M8[D]"), ["datetime64"]),
        ("f32[2]", [[1.0], [1.0, 2.0]], ["no array"]),
        ("f32[2]", None, ["None", "float32[2]"]),
        ("f32[2]", object(), ["object"]),
        ("f32[2]", {"a": 1}, ["object"]),
        ("f32[2]", np.ma.masked_array([1.0, 2.0], [True, False], np.float32), ["masked"]),
        ("bf16[1]", np.zeros(1, np.float32), ["float32", "bfloat16"]),
        ("f32[1]", np.zeros(1, ml_dtypes.bfloat16), ["bfloat16", "float32"]),
        ("string[1]", np.zeros(1), ["float64", "strings"]),
        ("f32[N,3]", np.zeros(3, np.float32), ["1 dimensions", "[3]", "batch dimension"]),
        ("f32[]", np.zeros((1, 1), np.float32), ["2 dimensions", "float32[]"]),
    ],
)
def test_what_does_not_fit(kind: str, given: object, words: list[str]) -> None:
    with pytest.raises(InputError) as e:
        as_value(value(kind), given)
    assert e.value.input == "x" and e.value.exit_code == 5 and isinstance(e.value, ValueError)
    for word in words:
        assert word in str(e.value)


def test_values_that_are_no_tensors_pass() -> None:
    given = [np.zeros(2)]
    assert as_value(Value("s", SequenceType(TensorType(DType.F32, None))), given) is given


@pytest.mark.parametrize(
    ("feeds", "words"),
    [
        ({}, ["missing inputs 'image' (float32[N, 3]), 'mask' (bool[N])"]),
        ({"image": 1}, ["missing input 'mask'"]),
        ({"imagee": 1, "mask": 1}, ["unknown input 'imagee'", "did you mean 'image'?"]),
        ({"image": 1, "mask": 1, 7: 1}, ["unknown input '7'", "known: 'image', 'mask'"]),
        ([1], ["missing input 'mask'"]),
        ([1, 2, 3, 4], ["4 inputs given, the model has 3", "'image' (float32[N, 3])"]),
        (np.zeros(3), ["mapping", "ndarray"]),
        ("image", ["mapping", "str"]),
        (None, ["mapping", "NoneType"]),
    ],
)
def test_names(feeds: object, words: list[str]) -> None:
    inputs = [
        value("f32[N,3]", "image"),
        value("bool[N]", "mask"),
        Value("opt", OptionalType(TensorType(DType.F32, None))),
    ]
    with pytest.raises(InputError) as e:
        named_feeds(inputs, feeds)
    for word in words:
        assert word in str(e.value)


def test_feeds_by_position_and_an_absent_optional() -> None:
    inputs = [value("f32[N]", "a"), Value("opt", OptionalType(TensorType(DType.F32, None)))]
    assert named_feeds(inputs, (5,)) == {"a": 5, "opt": None}


def match(*tensors: tuple[str, str, tuple[int, ...]]) -> dict[str, int]:
    s = Symbols()
    s.match_all((name, parse_type(kind), np.zeros(shape, np.float32)) for name, kind, shape in tensors)
    return s.values


def test_symbols_are_matched_in_any_order() -> None:
    assert match(("a", "f32[2*N + M]", (7,)), ("b", "f32[M]", (3,))) == {"M": 3, "N": 2}
    assert match(("a", "f32[N, 4]", (0, 4))) == {"N": 0}
    assert match(("a", "f32[N*M]", (6,))) == {}
    assert match(("a", "f32[N, M, N*M]", (2, 3, 6))) == {"N": 2, "M": 3}


@pytest.mark.parametrize(
    ("tensors", "words"),
    [
        (
            [("ids", "f32[N, 4]", (1, 4)), ("mask", "f32[N]", (2,))],
            ["'mask'", "dimension 0 (N) is 2", "N is 1 by input 'ids'", "got shape [2]"],
        ),
        ([("a", "f32[N, 4]", (1, 5))], ["dimension 1 is 5", "expected 4", "float32[N, 4]"]),
        ([("a", "f32[2*N]", (5,))], ["dimension 0 (2*N) is 5"]),
        ([("a", "f32[N + 3]", (2,))], ["dimension 0 (N + 3) is 2", "no N >= 0"]),
        ([("a", "f32[N, M, N*M]", (2, 3, 7))], ["is 7", "M is 3", "N is 2"]),
    ],
)
def test_symbols_that_contradict(tensors: list[tuple[str, str, tuple[int, ...]]], words: list[str]) -> None:
    with pytest.raises(InputError) as e:
        match(*tensors)
    for word in words:
        assert word in str(e.value)
