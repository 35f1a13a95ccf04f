"""Models that are huge, or deep, or say that they are: stated limits end them at once."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

sys.path.insert(0, str(Path(__file__).parent))
from onnx_models import F32, fails, info, init, model, node

from fusec.errors import ModelError, ResourceError
from fusec.frontend.read import read_model
from fusec.knobs import Limits


@pytest.mark.parametrize("dims", [[-5], [2**40, 2**40], [2**62, 2], [1 << 33, 4]])
def test_senseless_initialisers(dims: list[int]) -> None:
    t = TensorProto(name="w", data_type=F32, dims=dims, raw_data=b"1234")
    start = time.monotonic()
    with pytest.raises((ModelError, ResourceError)):
        read_model(model([node("Add", "x w", "y")], [info("x")], inits=[t]))
    assert time.monotonic() - start < 10


@pytest.mark.parametrize("count", [0, 1, 23, 25, 400])
def test_raw_data_of_the_wrong_length(count: int) -> None:
    t = TensorProto(name="w", data_type=F32, dims=[2, 3], raw_data=bytes(count))
    fails(ModelError, model([node("Add", "x w", "y")], [info("x")], inits=[t]), "'w'", "24 bytes", str(count))
    short = TensorProto(name="w", data_type=F32, dims=[2, 3], float_data=[1.0])
    fails(ModelError, model([node("Add", "x w", "y")], [info("x")], inits=[short]), "'w'")
    unknown = TensorProto(name="w", data_type=77, dims=[1], raw_data=b"a")
    fails(ModelError, model([node("Add", "x w", "y")], [info("x")], inits=[unknown]), "77")


HUGE = {
    "ConstantOfShape": lambda: model([node("ConstantOfShape", "s", "y")], [], inits=[init("s", [2**20, 2**20])]),
    "Expand": lambda: model([node("Expand", "x s", "y")], [info("x", (1, 1))], inits=[init("s", [2**20, 2**20])]),
    "Tile": lambda: model([node("Tile", "x s", "y")], [info("x", (1, 1))], inits=[init("s", [2**20, 2**20])]),
    "Range": lambda: model([node("Range", "a b c", "y")], [], inits=[init(n, v) for n, v in zip("abc", (0, 2**40, 1))]),
}


@pytest.mark.parametrize("op", HUGE)
def test_small_models_that_make_huge_tensors(op: str) -> None:
    error = fails(ResourceError, HUGE[op](), "TiB", "8.0 GiB", "--max-memory")
    assert error.exit_code == 9


def function(name: str, calls: list[str]) -> onnx.FunctionProto:
    nodes = [helper.make_node(c, ["x" if i == 0 else f"h{i}"], [f"h{i + 1}"], domain="f") for i, c in enumerate(calls)]
    nodes.append(node("Identity", f"h{len(calls)}", "y"))
    return helper.make_function(
        "f", name, ["x"], ["y"], nodes, [helper.make_opsetid("", 17), helper.make_opsetid("f", 1)]
    )


def test_function_bomb() -> None:
    leaf = helper.make_function("f", "f0", ["x"], ["y"], [node("Relu", "x", "y")], [helper.make_opsetid("", 17)])
    bomb = [leaf, *(function(f"f{i}", [f"f{i - 1}"] * 2) for i in range(1, 31))]
    m = model([node("f30", "x", "y", domain="f")], [info("x")], functions=bomb, domains=[("f", 1)])
    start = time.monotonic()
    fails(ResourceError, m, "--max-nodes")
    assert time.monotonic() - start < 10


def test_recursive_functions() -> None:
    m = model(
        [node("a", "x", "y", domain="f")],
        [info("x")],
        functions=[function("a", ["b"]), function("b", ["a"])],
        domains=[("f", 1)],
    )
    fails(ModelError, m, "cycle", "f::a", "f::b")


def test_functions_are_inlined() -> None:
    m = model([node("two", "x", "y", domain="f")], [info("x")], functions=[function("two", ["one", "one"]), leaf_relu()],
              domains=[("f", 1)])  # fmt: skip
    g = read_model(m)
    assert [n.op for n in g.nodes] == ["relu", "relu"]
    assert [v.name for v in g.outputs] == ["y"]


def leaf_relu() -> onnx.FunctionProto:
    return helper.make_function("f", "one", ["x"], ["y"], [node("Relu", "x", "y")], [helper.make_opsetid("", 17)])


def nested_if(depth: int) -> onnx.ModelProto:
    inner = helper.make_graph([node("Relu", "x", "o0")], "b0", [], [info("o0")])
    for i in range(1, depth):
        n = node("If", "c", f"o{i}", then_branch=inner, else_branch=inner.__class__(name="e", output=[info("x")]))
        inner = helper.make_graph([n], f"b{i}", [], [info(f"o{i}")])
    other = helper.make_graph([node("Neg", "x", "z")], "e", [], [info("z")])
    return model(
        [node("If", "c", "y", then_branch=inner, else_branch=other)],
        [info("c", (), TensorProto.BOOL), info("x")],
        [info("y")],
    )


def test_nested_thirty_deep() -> None:
    (n,) = read_model(nested_if(30)).nodes
    assert n.attr("captures") == ("x", "c") or set(n.attr("captures")) == {"x", "c"}


def test_long_loops_are_not_unrolled() -> None:
    body = helper.make_graph(
        [node("Identity", "c", "c2"), node("Relu", "v", "v2")],
        "b",
        [info("i", (), TensorProto.INT64), info("c", (), TensorProto.BOOL), info("v")],
        [info("c2", (), TensorProto.BOOL), info("v2")],
    )
    m = model([node("Loop", "m - x", "y", body=body)], [info("x")], [info("y")], [init("m", np.int64(2**62))])
    (n,) = read_model(m).nodes
    assert n.attr("op_type") == "Loop"


@pytest.mark.parametrize("n", [20_000, pytest.param(100_000, marks=pytest.mark.slow)])
def test_chain_of_many_nodes(n: int) -> None:
    nodes = [helper.make_node("Relu", [f"v{i}"], [f"v{i + 1}"]) for i in range(n)]
    data = model(nodes, [info("v0", ("N", 3))], [info(f"v{n}")]).SerializeToString()
    start = time.monotonic()
    g = read_model(data)
    assert len(g.nodes) == n
    assert time.monotonic() - start < 60
    fails(ResourceError, data, "--max-nodes", limits=Limits(max_nodes=1000))


def test_many_initialisers_take_linear_time() -> None:
    def seconds(count: int) -> float:
        inits = [init(f"w{i}", np.float32(i)) for i in range(count)]
        nodes = [node("Add", "x w0", "y")]
        start = time.process_time()
        read_model(model(nodes, [info("x")], inits=inits))
        return time.process_time() - start

    seconds(1000)
    assert seconds(40_000) < 20 * max(seconds(4_000), 0.05)
