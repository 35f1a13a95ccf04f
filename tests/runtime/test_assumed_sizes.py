"""Sizes of different symbols that meet in a broadcast: taken to be equal, and right where one of them is 1 after all.

So are positions that may count from either end, and sizes that may not divide."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest

sys.path[:0] = [str(Path(__file__).parents[1] / "frontend"), str(Path(__file__).parents[1])]
from command_line import run_here
from onnx_models import info, init, model, node

import fusec
from fusec.api import Options, compile_plan, new_trace
from fusec.errors import AssumptionError, InputError, ModelError
from fusec.frontend.read import read_model
from fusec.measure.feeds import choose_sizes
from fusec.plan.plan import RegionStep

R = np.random.default_rng(0)
Y = onnx.ValueInfoProto(name="y")
I64 = onnx.TensorProto.INT64


def numbers(*shape: int) -> Any:
    return R.standard_normal(shape).astype(np.float32)


def masked() -> onnx.ModelProto:
    """Attention of which the mask has symbols of its own, as exporters write it."""
    nodes = [
        node("MatMul", "q k", "s"),
        node("Add", "s m", "t"),
        node("Softmax", "t", "p", axis=-1),
        node("MatMul", "p v", "y"),
    ]
    ins = [info("q", ("B", 2, "S", 4)), info("k", ("B", 2, 4, "T")), info("v", ("B", 2, "T", 4))]
    return model(nodes, [*ins, info("m", ("B2", 1, "S2", "T2"))], [Y])


CASES: dict[str, tuple[onnx.ModelProto, dict[str, Any], list[dict[str, Any]]]] = {
    "a mask": (
        masked(),
        {"q": numbers(2, 2, 3, 4), "k": numbers(2, 2, 4, 5), "v": numbers(2, 2, 5, 4), "m": numbers(2, 1, 3, 5)},
        [{"m": numbers(1, 1, 3, 5)}, {"m": numbers(2, 1, 1, 5)}, {"m": numbers(1, 1, 1, 1)}],
    ),
    "two rows, then their product": (
        model([node("Add", "a b", "c"), node("MatMul", "c w", "d"), node("Mul", "d b", "y")],
              [info("a", ("N", 3)), info("b", ("M", 3))], [Y], [init("w", numbers(3, 3))]),
        {"a": numbers(4, 3), "b": numbers(4, 3)}, [{"b": numbers(1, 3)}, {"a": numbers(1, 3)}],
    ),
    "a number and a symbol": (
        model([node("Relu", "a", "b"), node("Add", "b w", "y")], [info("a", ("N", 3))], [Y], [init("w", numbers(4, 3))]),
        {"a": numbers(4, 3)}, [{"a": numbers(1, 3)}],
    ),
    "a product of batches": (
        model([node("MatMul", "a b", "y")], [info("a", ("N", 2, 3)), info("b", ("M", 3, 2))], [Y]),
        {"a": numbers(4, 2, 3), "b": numbers(4, 3, 2)}, [{"b": numbers(1, 3, 2)}, {"a": numbers(1, 2, 3)}],
    ),
    "a choice": (
        model([node("Greater", "a z", "c"), node("Where", "c a b", "y")],
              [info("a", ("N", 3)), info("b", ("M", 3))], [Y], [init("z", np.zeros((), np.float32))]),
        {"a": numbers(4, 3), "b": numbers(4, 3)}, [{"b": numbers(1, 3)}],
    ),
    "a size of another input": (
        model([node("Shape", "b", "s"), node("Expand", "a s", "y")], [info("a", ("N", 3)), info("b", ("M", 3))], [Y]),
        {"a": numbers(4, 3), "b": numbers(4, 3)}, [{"a": numbers(1, 3)}, {"b": numbers(1, 3)}],
    ),
}  # fmt: skip


@pytest.mark.parametrize("fuse", [True, False])
@pytest.mark.parametrize("name", CASES)
def test_equal_sizes_run_natively_and_ones_broadcast(name: str, fuse: bool) -> None:
    m, feeds, changes = CASES[name]
    session = fusec.compile(m, fuse=fuse, threads=1)
    assert all(isinstance(s, RegionStep) for s in session.plan.steps)
    rival = ort.InferenceSession(m.SerializeToString(), providers=["CPUExecutionProvider"])
    for change in ({}, *changes, {}):
        (want,) = rival.run(None, feeds | change)
        np.testing.assert_allclose(session.run(feeds | change)["y"], want, rtol=1e-5, atol=1e-5)


def pieces() -> onnx.ModelProto:
    """The middle of a table, twice the sequence long, and then its first half, as relative positions are looked up."""
    nodes = [
        node("Shape", "x", "n", start=0, end=1),
        node("Sub", "half n", "a"),
        node("Add", "half n", "b"),
        node("Slice", "w a b", "t"),
        node("Slice", "t zero n", "u"),
        node("Mul", "x u", "y"),
    ]
    inits = [init("half", np.array([6])), init("zero", np.array([0])), init("w", numbers(12, 3))]
    return model(nodes, [info("x", ("N", 3))], [Y], inits)


@pytest.mark.parametrize("fuse", [True, False])
def test_positions_count_from_the_start_where_sizes_let_them(fuse: bool) -> None:
    m = pieces()
    session = fusec.compile(m, fuse=fuse, threads=1)
    assert all(isinstance(s, RegionStep) for s in session.plan.steps)
    table = onnx.numpy_helper.to_array(next(i for i in m.graph.initializer if i.name == "w"))
    for n in (2, 6, 1):
        x = numbers(n, 3)
        np.testing.assert_allclose(session.run({"x": x})["y"], x * table[6 - n : 6 + n][:n], rtol=1e-6)


def test_positions_that_count_from_the_end_after_all() -> None:
    nodes = [
        node("Shape", "x", "n", start=0, end=1),
        node("Sub", "n two", "a"),
        node("Slice", "x a n", "b"),
        node("Relu", "b", "y"),
    ]
    m = model(nodes, [info("x", ("N", 3))], [Y], [init("two", np.array([2]))])
    session = fusec.compile(m, threads=1)
    assert all(isinstance(s, RegionStep) for s in session.plan.steps)
    for n in (5, 2, 1, 4):
        x = numbers(n, 3)
        want = np.maximum(x[n - 2 : n] if n > 1 else x[-1:], 0)
        np.testing.assert_array_equal(session.run({"x": x})["y"], want)


@pytest.mark.parametrize("minus", [1, 5])
def test_quotients_of_sizes_are_rounded_towards_0(minus: int) -> None:
    nodes = [
        node("Shape", "x", "n", start=0, end=1),
        node("Sub", "n five", "a"),
        node("Div", "a two", "b"),
        node("Add", "b ten", "c"),
        node("Expand", "w c", "y"),
    ]
    inits = [init("five", np.array([minus])), init("two", np.array([2])), init("ten", np.array([10]))]
    m = model(nodes, [info("x", ("N",))], [Y], [*inits, init("w", np.ones(1, np.float32))])
    session = fusec.compile(m, threads=1)
    for n in range(8):
        assert session.run({"x": numbers(n)})["y"].shape == (10 + int((n - minus) / 2),)


def test_sizes_that_nobody_gave_are_equal_where_they_have_to_be() -> None:
    nodes = [node("Concat", "past x", "k", axis=0), node("Add", "k mask", "y")]
    needed = read_model(
        model(nodes, [info(n, (s, 3)) for n, s in (("past", "P"), ("x", "S"), ("mask", "T"))], [Y])
    ).requirements
    assert choose_sizes(["P", "S", "T"], needed) == {"P": 1, "S": 1, "T": 2}
    assert choose_sizes(["S", "T"], needed, {"P": 6}) == {"S": 1, "T": 7}
    assert choose_sizes(["P", "S"], needed, {"T": 7}) in ({"P": 6, "S": 1}, {"P": 1, "S": 6})


def test_sizes_that_differ_and_are_not_1_are_refused_by_node() -> None:
    m, feeds, _ = CASES["two rows, then their product"]
    with pytest.raises(
        InputError, match=r"Add .*: the sizes N and M must be the same, and differ by 1; with M=3, N=4"
    ) as e:
        fusec.compile(m, threads=1).run(feeds | {"b": numbers(3, 3)})
    assert not isinstance(e.value, AssumptionError)


def test_a_saved_plan_refuses_what_broadcasts_and_says_what_to_do(tmp_path: Path) -> None:
    m, feeds, (change, *_) = CASES["two rows, then their product"]
    fusec.compile(m, threads=1).save(tmp_path / "m.fplan")
    session = fusec.load(tmp_path / "m.fplan", threads=1)
    assert session.run(feeds)["y"].shape == (4, 3)
    with pytest.raises(InputError, match=r"by 3; with M=1, N=4; the plan assumes .* compile one with --no-assume"):
        session.run(feeds | change)
    fusec.compile(m, threads=1, assume=False).save(tmp_path / "any.fplan")
    for known in (fusec.compile(m, threads=1, dims={"M": 1}), fusec.load(tmp_path / "any.fplan", threads=1)):
        same = known.run(feeds | change)["y"]
        np.testing.assert_allclose(same, fusec.compile(m).run(feeds | change)["y"], atol=1e-6)


def test_the_command_line_makes_plans_without_assumptions(tmp_path: Path) -> None:
    m, feeds, (change, *_) = CASES["two rows, then their product"]
    onnx.save(m, tmp_path / "m.onnx")
    for name, array in (feeds | change).items():
        np.save(tmp_path / f"{name}.npy", array)
    given = [f"--input={name}=@{name}.npy" for name in feeds]
    refused = run_here(tmp_path, "run", "m.onnx", *given)
    assert (refused.returncode, "--no-assume" in refused.stderr) == (5, True)
    assert run_here(tmp_path, "run", "m.onnx", "--no-assume", *given).returncode == 0


def test_a_file_that_has_changed_makes_no_second_plan(tmp_path: Path) -> None:
    m, feeds, (change, *_) = CASES["two rows, then their product"]
    path = tmp_path / "m.onnx"
    onnx.save(m, path)
    session = fusec.compile(path, threads=1)
    m2 = onnx.ModelProto()
    m2.CopyFrom(m)
    m2.graph.node[0].op_type = "Sub"
    onnx.save(m2, path)
    with pytest.raises(AssumptionError):
        session.run(feeds | change)


def test_a_size_that_cannot_be_1_must_be_equal_in_every_run() -> None:
    m = model([node("Concat", "a a", "b", axis=0), node("Add", "b w", "y")], [info("a", ("N", 3))], [Y],
              [init("w", numbers(4, 3))])  # fmt: skip
    session = fusec.compile(m, threads=1)
    assert all(not r.excuses for r in session.plan.requirements)
    assert session.run({"a": numbers(2, 3)})["y"].shape == (4, 3)
    with pytest.raises(InputError):
        session.run({"a": numbers(1, 3)})


def test_sizes_stay_apart_where_asked() -> None:
    m, *_ = CASES["two rows, then their product"]
    plan = compile_plan(m, Options(assume=False), new_trace())
    assert not plan.requirements
    assert not all(isinstance(s, RegionStep) for s in plan.steps)


RESHAPES = {
    "rows": ([6, -1], {"x": numbers(3, 4)}, {"x": numbers(2, 4)}),
    "more than there is": ([1, 9, -1], {"x": numbers(9, 4)}, {"x": numbers(2, 4)}),
}


@pytest.mark.parametrize("name", RESHAPES)
def test_the_rest_of_a_reshape_must_divide(name: str) -> None:
    shape, fits, does_not = RESHAPES[name]
    m = model([node("Exp", "x", "a"), node("Reshape", "a s", "b"), node("Relu", "b", "y")], [info("x", ("N", 4))], [Y],
              [init("s", np.array(shape))])  # fmt: skip
    session = fusec.compile(m, threads=1)
    assert all(isinstance(s, RegionStep) for s in session.plan.steps)
    np.testing.assert_allclose(session.run(fits)["y"], np.exp(fits["x"]).reshape(shape), rtol=1e-6)
    with pytest.raises(InputError, match=r"Reshape .* must be the same"):
        session.run(does_not)


@pytest.mark.parametrize("opset", [13, 18])
def test_parts_of_a_size_that_only_a_run_knows(opset: int) -> None:
    extra = {"num_outputs": 3} if opset == 18 else {}
    nodes = [node("Relu", "x", "a"), node("Split", "a", "u v w", **extra), node("Concat", "w v u", "y", axis=0)]
    m = model(nodes, [info("x", ("N", 4))], [Y], opset=opset)
    assert all(n.op != "opaque" for n in read_model(m).nodes)
    session = fusec.compile(m, threads=1)
    rival = ort.InferenceSession(m.SerializeToString(), providers=["CPUExecutionProvider"])
    for n in (6, 3, 8, 7) if opset == 18 else (6, 3, 9):
        x = {"x": numbers(n, 4)}
        np.testing.assert_allclose(session.run(x)["y"], rival.run(None, x)[0], rtol=1e-6)
    with pytest.raises(InputError, match="Split"):
        session.run({"x": numbers(1 if opset == 18 else 7, 4)})


def test_fixed_sizes_that_do_not_fit_are_refused_when_the_model_is_read() -> None:
    m = model([node("Add", "a b", "y")], [info("a", (4, 3)), info("b", (2, 3))], [Y])
    with pytest.raises(ModelError):
        read_model(m)
