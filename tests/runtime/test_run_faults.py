"""Faults 31 to 43 on real models: awkward arrays, awkward numbers, symbols that disagree, memory that is not there."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import ml_dtypes
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

import fusec
from fusec.errors import InputError, ResourceError
from fusec.knobs import Limits

ROOT = Path(__file__).parents[2]
SPECIAL = np.array(
    [0.0, -0.0, 1.0, -1.0, np.inf, -np.inf, np.nan, 1e-45, -1e-40, 1.17549435e-38, 3.4e38, -3.4e38, 0.5, 2.5, -2.5, 3.5, 7e-9],
    np.float32,
)  # fmt: skip


def session_of(*nodes: onnx.NodeProto, inputs: dict[str, tuple], outputs: dict[str, tuple], **options) -> fusec.Session:
    """A session of nodes; inputs and outputs are (element type, shape)."""
    infos = [[helper.make_tensor_value_info(n, t, s) for n, (t, s) in d.items()] for d in (inputs, outputs)]
    graph = helper.make_graph(list(nodes), "g", *infos)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return fusec.compile(model, threads=1, **options)


def softmax_session() -> fusec.Session:
    nodes = [helper.make_node("MatMul", ["x", "x2"], ["m"]), helper.make_node("Softmax", ["m"], ["y"], axis=-1)]
    return session_of(
        *nodes, inputs={"x": (1, ["n", 8]), "x2": (1, [8, "k"])}, outputs={"y": (1, ["n", "k"])}
    )  # fmt: skip


@pytest.fixture(scope="module")
def two() -> fusec.Session:
    return softmax_session()


def expected(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    m = x.astype(np.float64) @ y.astype(np.float64)
    e = np.exp(m - m.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def numbers(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def misaligned(x: np.ndarray) -> np.ndarray:
    return np.frombuffer(b"\0" + x.tobytes(), np.uint8)[1:].view(x.dtype).reshape(x.shape)


def read_only(x: np.ndarray) -> np.ndarray:
    x = x.copy()
    x.flags.writeable = False
    return x


def strided(x: np.ndarray) -> np.ndarray:
    return np.repeat(np.repeat(x, 2, 0), 3, 1)[::2, ::3]


@pytest.mark.parametrize(
    "prepare",
    [np.asfortranarray, strided, misaligned, read_only, lambda x: x.astype(">f4"), lambda x: x[::-1].copy()[::-1]],
)
def test_awkward_arrays(two: fusec.Session, prepare: Callable[[np.ndarray], np.ndarray]) -> None:
    x, y = numbers(5, 8), numbers(8, 7, seed=1)
    plain = two.run({"x": x, "x2": y})["y"]
    np.testing.assert_allclose(plain, expected(x, y), rtol=1e-5)
    np.testing.assert_array_equal(two.run({"x": prepare(x), "x2": prepare(y)})["y"], plain)


def test_broadcast_views_and_one_array_twice(two: fusec.Session) -> None:
    x = np.broadcast_to(numbers(8), (6, 8))
    np.testing.assert_allclose(two.run({"x": x, "x2": numbers(8, 3)})["y"], expected(x, numbers(8, 3)), rtol=1e-5)
    square = numbers(8, 8)
    kept = square.copy()
    np.testing.assert_allclose(two.run({"x": square, "x2": square})["y"], expected(square, square), rtol=1e-5)
    np.testing.assert_allclose(two.run({"x": square, "x2": square.T})["y"], expected(square, square.T), rtol=1e-5)
    np.testing.assert_array_equal(square, kept)


@pytest.mark.parametrize(("n", "k"), [(0, 3), (3, 0), (0, 0), (1, 1)])
def test_empty_batches(two: fusec.Session, n: int, k: int) -> None:
    y = two.run({"x": numbers(n, 8), "x2": numbers(8, k)})["y"]
    assert y.shape == (n, k) and y.dtype == np.float32


def test_a_symbol_bound_twice_names_both() -> None:
    node = helper.make_node("Add", ["a", "b"], ["y"])
    session = session_of(node, inputs={"a": (1, ["n"]), "b": (1, ["n"])}, outputs={"y": (1, ["n"])})
    with pytest.raises(InputError, match=r"(?s)'b'.*n is 3 by input 'a'"):
        session.run({"a": numbers(3), "b": numbers(4)})
    np.testing.assert_array_equal(session.run({"a": numbers(3), "b": numbers(3)})["y"], 2 * numbers(3))


NUMPY = {
    "Add": np.add, "Sub": np.subtract, "Mul": np.multiply, "Div": np.divide, "Max": np.maximum, "Min": np.minimum,
    "Neg": np.negative, "Abs": np.abs, "Sqrt": np.sqrt, "Floor": np.floor, "Ceil": np.ceil, "Round": np.rint,
    "Reciprocal": lambda x: np.float32(1) / x, "Sign": np.sign, "Relu": lambda x: np.where(x < 0, np.float32(0), x),
    "Less": np.less, "Equal": np.equal, "IsNaN": np.isnan, "IsInf": np.isinf,
    "Exp": np.exp, "Tanh": np.tanh, "Log": np.log,
}  # fmt: skip
ROUNDED = ("Exp", "Tanh", "Log")


@pytest.mark.parametrize("op", NUMPY)
def test_special_numbers_as_in_numpy(op: str) -> None:
    """NaN, Inf, -0.0 and denormal numbers: the same bits, but for functions that are rounded differently."""
    two_sided = op in ("Add", "Sub", "Mul", "Div", "Max", "Min", "Less", "Equal")
    a, b = (g.ravel() for g in np.meshgrid(SPECIAL, SPECIAL)) if two_sided else (SPECIAL, SPECIAL)
    kind = TensorProto.BOOL if op in ("Less", "Equal", "IsNaN", "IsInf") else TensorProto.FLOAT
    names = ["a", "b"][: 1 + two_sided]
    session = session_of(
        helper.make_node(op, names, ["y"]), inputs={n: (1, ["n"]) for n in names}, outputs={"y": (kind, ["n"])}
    )
    got = session.run(dict(zip(names, (a, b), strict=False)))["y"]
    with np.errstate(all="ignore"):
        want = NUMPY[op](*(a, b)[: len(names)])
    if op in ROUNDED:
        np.testing.assert_allclose(got, want, rtol=4e-7, atol=1e-44)
        return
    np.testing.assert_array_equal(got, want)
    if kind == TensorProto.FLOAT and op not in ("Max", "Min", "Sign"):  # either zero will do
        where = ~np.isnan(want)
        np.testing.assert_array_equal(np.signbit(got[where]), np.signbit(want[where]))


@pytest.mark.parametrize("dtype", [ml_dtypes.bfloat16, np.float16])
def test_small_floats(dtype: type) -> None:
    kind = TensorProto.BFLOAT16 if dtype is ml_dtypes.bfloat16 else TensorProto.FLOAT16
    node = helper.make_node("Mul", ["a", "a"], ["y"])
    session = session_of(node, inputs={"a": (kind, ["n"])}, outputs={"y": (kind, ["n"])})
    a = numbers(33).astype(dtype)
    got = session.run({"a": a})["y"]
    assert got.dtype == dtype
    np.testing.assert_array_equal(got, a * a)
    with pytest.raises(InputError, match="float32"):
        session.run({"a": numbers(33)})


def test_a_huge_batch_is_refused_before_it_runs(two: fusec.Session) -> None:
    x = np.broadcast_to(np.float32(1), (10**6, 8))
    y = np.broadcast_to(np.float32(1), (8, 10**6))
    with pytest.raises(ResourceError, match=r"TiB.*limit"):
        two.run({"x": x, "x2": y})
    assert two.run({"x": numbers(2, 8), "x2": numbers(8, 2)})["y"].shape == (2, 2)


def test_the_limit_is_the_callers() -> None:
    node = helper.make_node("Exp", ["a"], ["y"])
    limits = Limits(memory=1 << 20)
    session = session_of(node, inputs={"a": (1, ["n"])}, outputs={"y": (1, ["n"])}, limits=limits)
    session.run({"a": numbers(1000)})
    with pytest.raises(ResourceError, match=r"limit is 1\.0 MiB"):
        session.run({"a": numbers(400_000)})


def test_memory_comes_back_after_a_big_batch() -> None:
    """Peak memory is the system's: what counts is what stays."""
    code = """
import numpy as np, test_run_faults as t
import fusec.runtime.steps as steps
steps.BINDING_BYTES = 16 << 20
s = t.softmax_session()
def resident():
    with open("/proc/self/statm") as f:
        return int(f.read().split()[1]) * 4096
small = {"x": t.numbers(2, 8), "x2": t.numbers(8, 2)}
s.run(small)
before = resident()
big = {"x": t.numbers(6000, 8), "x2": t.numbers(8, 6000)}
s.run(big)
for _ in range(3):
    s.run(small)
assert resident() - before < 64 << 20, (resident() - before) >> 20
"""
    run_python(code)


def test_two_gigabytes_of_address_space() -> None:
    """Where the system has less memory than the limit says, the answer is an error of ours and the next run works."""
    code = """
import resource, numpy as np, test_run_faults as t
from fusec.errors import ResourceError
s = t.softmax_session()
small = {"x": t.numbers(2, 8), "x2": t.numbers(8, 2)}
s.run(small)
resource.setrlimit(resource.RLIMIT_AS, (2 << 30, 2 << 30))
for _ in range(2):
    try:
        s.run({"x": t.numbers(30000, 8), "x2": t.numbers(8, 30000)})
        raise SystemExit("it ran")
    except ResourceError as e:
        assert "memory" in str(e), e
    assert s.run(small)["y"].shape == (2, 2)
"""
    run_python(code)


def run_python(code: str) -> None:
    path = f"{ROOT}{os.pathsep}{Path(__file__).parent}"
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
