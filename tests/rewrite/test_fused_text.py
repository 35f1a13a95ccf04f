"""The text of a fused graph reads back as the same text, copies and odd names included."""

import pytest

from fusec.errors import PlanError
from fusec.ir.graph import Graph, Node, Value
from fusec.ir.text import parse_graph
from fusec.ir.types import parse_type
from fusec.rewrite.fused import FusedGraph, make_group, unfused
from fusec.rewrite.text import parse_fused, print_fused

MLP = """\
graph mlp(x: f32[N, 8]) {
  weight w: f32[8, 2] = init("w") {random(1)}
  group matmul+add (anchor=h) -> y {
    h: f32[N, 2] = matmul(x, w)
    y: f32[N, 2] = add(h, h)
  }
  group exp (anchor=z) -> z {
    z: f32[N, 2] = exp(y)
  }
  return z, y
}"""


def test_text_round_trips():
    fused = parse_fused(MLP)
    assert print_fused(fused) == str(fused) == MLP.replace(" {random(1)}", " {" + _numbers(fused) + "}")
    assert str(parse_fused(str(fused))) == str(fused)
    assert [g.label for g in fused.groups] == ["matmul+add", "exp"]
    assert fused.groups[0].anchor.op == "matmul"
    assert fused.stored_by["y"] is fused.groups[0]


def _numbers(fused):
    return ", ".join(repr(float(x)) for x in fused.graph.weights["w"].array.astype("f8").flat)


def test_on_one_line():
    text = "graph g(x: f32[4]) { group (anchor=y) -> y { t = neg(x); y = exp(t) }; return y }"
    assert [g.label for g in parse_fused(text).groups] == ["neg+exp"]


def test_copies_and_odd_names():
    x, c, a, b = (Value(n, parse_type("f32[4]")) for n in ("x/1", "group", "return", "b c"))
    copied, one, two = Node.make("neg", [x], [c]), Node.make("exp", [c], [a]), Node.make("abs", [c], [b])
    graph = Graph("odd name", (x,), (a, b), (copied, one, two))
    fused = FusedGraph(graph, (make_group([copied, one], [a]), make_group([copied, two], [b])))
    again = parse_fused(str(fused))
    assert str(again) == str(fused)
    assert len(again.graph.nodes) == 3
    assert again.groups == fused.groups


def test_unfused_has_a_group_per_node():
    fused = unfused(parse_graph("graph g(x: f32[4]) { a = neg(x); b = exp(a); return b, a }"))
    assert [(g.label, [v.name for v in g.outputs]) for g in fused.groups] == [("neg", ["a"]), ("exp", ["b"])]
    assert str(parse_fused(str(fused))) == str(fused)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("group (anchor=z) -> y { y = neg(x) }", "does not make 'z'"),
        ("group (anchor=y) -> x { y = neg(x) }", "does not make 'x'"),
        ("group (anchor=y) -> y { }", "at least one node"),
        ("y = neg(x)", "expected a group"),
        (
            "group (anchor=y) -> y { y = neg(x) } group (anchor=y) -> y { y = exp(x) }",
            "line 1: 'y' was made by another node",
        ),
        ("group (anchor=y) -> y { y = neg(q) }", "'q' is not declared"),
    ],
)
def test_mistakes_name_their_line(body, message):
    with pytest.raises(PlanError, match=message):
        parse_fused(f"graph g(x: f32[4]) {{ {body} return y }}")
