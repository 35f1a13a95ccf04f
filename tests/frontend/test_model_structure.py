"""Graphs that contradict themselves: unknown operators, names, order and shapes, each with its error."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

sys.path.insert(0, str(Path(__file__).parent))
from onnx_models import fails, info, init, model, node

from fusec.errors import ModelError, UnsupportedError, UsageError
from fusec.frontend.read import read_model


def test_all_unknown_operators_in_one_error() -> None:
    nodes = [
        helper.make_node("Foo", ["x"], ["a"], name="first_foo", domain="acme"),
        helper.make_node("Foo", ["a"], ["b"], domain="acme"),
        helper.make_node("Bar", ["b"], ["c"], name="the_bar", domain="acme"),
        helper.make_node("NoSuchOp", ["c"], ["y"]),
    ]
    m = model(nodes, [info("x")], [info("y")], domains=[("acme", 1)])
    error = fails(
        UnsupportedError, m, "3 kinds", "acme::Foo (2x, first 'first_foo'", "acme::Bar", "NoSuchOp", "fusec.elementwise"
    )
    assert error.exit_code == 4


@pytest.mark.parametrize(
    ("domain", "words"), [("com.microsoft", "from before its tools"), ("com.microsoft.nchwc", "EXTENDED")]
)
def test_what_a_runtime_wrote_for_itself_says_which_model_to_take(domain: str, words: str) -> None:
    m = model([helper.make_node("Foo", ["x"], ["y"], domain=domain)], [info("x")], [info("y")], domains=[(domain, 1)])
    fails(UnsupportedError, m, f"{domain}::Foo", words)


def test_unknown_operators_inside_branches_are_found() -> None:
    branch = helper.make_graph([helper.make_node("Foo", ["x"], ["o"], domain="acme")], "b", [], [info("o")])
    m = model(
        [node("If", "c", "y", then_branch=branch, else_branch=branch)],
        [info("c", (), TensorProto.BOOL), info("x")],
        [info("y")],
        domains=[("acme", 1)],
    )
    fails(UnsupportedError, m, "acme::Foo")


def test_types_beyond_kernels_become_host_steps() -> None:
    m = model([node("Cast", "x", "s", to=TensorProto.STRING)], [info("x")], [info("s", (2, 3), TensorProto.STRING)])
    (n,) = read_model(m).nodes
    assert (n.op, n.attr("op_type")) == ("opaque", "Cast")
    assert "string" in n.attr("why")


def broken(name: str) -> onnx.ModelProto:
    x, y = info("x"), info("y")
    r = "Relu"
    branch = helper.make_graph([node(r, "nowhere", "o")], "b", [], [info("o")])
    shadow = helper.make_graph([node(r, "x", "x")], "b", [], [info("x")])
    c = info("c", (), TensorProto.BOOL)
    twice = helper.make_graph([node(r, "x", "o"), node(r, "x", "o")], "b", [], [info("o")])
    return {
        "cycle": lambda: model(
            [node(r, "b", "a", name="n1"), node(r, "a", "b", name="n2"), node(r, "a", "y")], [x], [y]
        ),
        "duplicate": lambda: model([node(r, "x", "y", name="n1"), node(r, "x", "y", name="n2")], [x], [y]),
        "dangling": lambda: model([node(r, "ghost", "y", name="n1")], [x], [y]),
        "no producer": lambda: model([node(r, "x", "h", name="n1")], [x], [y]),
        "input twice": lambda: model([node(r, "x", "y")], [x, x], [y]),
        "initialiser twice": lambda: model([node(r, "x", "y")], [x], [y], [init("w", 1.0), init("w", 2.0)]),
        "overwrites input": lambda: model([node(r, "x", "x", name="n1")], [x], [info("x")]),
        "dangling in branch": lambda: model(
            [node("If", "c", "y", then_branch=branch, else_branch=branch)], [c, x], [y]
        ),
        "shadowing": lambda: model([node("If", "c", "y", then_branch=shadow, else_branch=shadow)], [c, x], [y]),
        "branch twice": lambda: model([node("If", "c", "y", then_branch=twice, else_branch=twice)], [c, x], [y]),
        "output without node": lambda: model([node("If", "c", "y", then_branch=branch)], [c], [info("z")]),
    }[name]()


@pytest.mark.parametrize(
    ("name", "word"),
    [
        ("cycle", "n1"),
        ("duplicate", "n2"),
        ("dangling", "ghost"),
        ("no producer", "'y'"),
        ("input twice", "'x'"),
        ("initialiser twice", "'w'"),
        ("overwrites input", "n1"),
        ("dangling in branch", "nowhere"),
        ("shadowing", "'x'"),
        ("branch twice", "'o'"),
        ("output without node", ""),
    ],
)
def test_broken_structure(name: str, word: str) -> None:
    fails(ModelError, broken(name), word)


def test_unsorted_nodes_are_sorted() -> None:
    g = read_model(model([node("Neg", "h", "y"), node("Relu", "x", "h")], [info("x")], [info("y")]))
    assert [n.op for n in g.nodes] == ["relu", "neg"]


def test_graphs_without_nodes() -> None:
    empty = onnx.ModelProto(ir_version=9, graph=onnx.GraphProto(name="g"), opset_import=[helper.make_opsetid("", 17)])
    assert read_model(empty).nodes == ()
    same = helper.make_model(
        helper.make_graph([], "g", [info("x")], [info("x")]), opset_imports=[helper.make_opsetid("", 17)]
    )
    g = read_model(same)
    assert [v.name for v in g.outputs] == ["x"]
    only = helper.make_model(
        helper.make_graph([], "g", [], [info("w", (2,))], [init("w", np.ones(2, "f"))]),
        opset_imports=[helper.make_opsetid("", 17)],
    )
    assert [v.name for v in read_model(only).outputs] == ["w"]


def test_shape_contradictions_show_both_shapes() -> None:
    m = model([node("MatMul", "a b", "y", name="fc")], [info("a", (2, 3)), info("b", (4, 5))], [info("y", (2, 5))])
    fails(ModelError, m, "fc", "[2, 3]", "[4, 5]")
    m = model(
        [node("Relu", "a", "h", name="act"), node("Add", "h b", "y", name="sum")],
        [info("a", (2, 3)), info("b", (4, 5))],
    )
    fails(ModelError, m, "sum", "[2, 3]", "[4, 5]")
    m = model([node("Reshape", "x s", "y", name="r")], [info("x", (2, 3))], [info("y", None)], [init("s", [4, 2])])
    fails(ModelError, m, "r", "[2, 3]", "[4, 2]")


def test_wrong_declared_outputs_change_nothing() -> None:
    g = read_model(model([node("Relu", "x", "y")], [info("x", (2, 3))], [info("y", (7, 9, 1))]))
    assert str(g.outputs[0]) == "y: f32[2, 3]"


def test_symbols_stay_and_can_be_fixed() -> None:
    m = model([node("Relu", "x", "y")], [info("x", ("N", None, "2*N+1", -1))])
    assert str(read_model(m).outputs[0].type) == "f32[N, x_1, d2_N_1, x_3]"
    assert str(read_model(m, dims={"N": 4}).outputs[0].type) == "f32[4, x_1, d2_N_1, x_3]"
    assert str(read_model(m, shapes={"x": (4, 5, 6, 7)}).outputs[0].type) == "f32[4, 5, 6, 7]"
    fails(UsageError, m, "'M'", "N", dims={"M": 4})
    fails(UsageError, m, "'z'", shapes={"z": (1,)})
    fails(ModelError, m, "[1, 2]", shapes={"x": (1, 2)})
    fails(UsageError, m, "-3", dims={"N": -3})
    two = model([node("Add", "a b", "y")], [info("a", ("N",)), info("b", ("N",))])
    fails(ModelError, two, "f32[2]", "[3]", shapes={"a": (2,), "b": (3,)})


def test_zero_sizes_and_scalars() -> None:
    m = model([node("Add", "a b", "y")], [info("a", (0, 3)), info("b", ())])
    assert str(read_model(m).outputs[0].type) == "f32[0, 3]"
    fails(ModelError, model([node("Add", "a b", "y")], [info("a", (0,)), info("b", (2,))]), "[0]", "[2]")
