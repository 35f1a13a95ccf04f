"""Replacements keep order, names of outputs, and everything they do not mention."""

import pytest

from fusec.errors import BugError
from fusec.ir.graph import Graph, Node, Value
from fusec.ir.types import parse_type
from fusec.ir.verify import verify
from fusec.rewrite.rebuild import Names, Replacement, rebuild

T = parse_type("f32[4]")


def v(name):
    return Value(name, T)


def chain(*ops):
    """x -> v0 -> v1 -> ... ; the last value is the output."""
    values = [v("x"), *(v(f"v{i}") for i in range(len(ops)))]
    nodes = [Node.make(op, [values[i]], [values[i + 1]]) for i, op in enumerate(ops)]
    return Graph("g", (v("x"),), (values[-1],), tuple(nodes))


def shape_of(g):
    return [(n.op, [i.name for i in n.operands], n.outputs[0].name) for n in g.nodes]


def test_nothing_to_do_gives_the_same_object():
    g = chain("neg", "exp")
    assert rebuild(g, []) is g


def test_a_removed_node_is_forwarded():
    g = chain("neg", "identity", "exp")
    out = rebuild(g, [Replacement((g.nodes[1],), forward={"v1": v("v0")})])
    assert shape_of(out) == [("neg", ["x"], "v0"), ("exp", ["v0"], "v2")]
    verify(out)


def test_chains_of_forwards_are_followed():
    g = chain("identity", "identity", "identity", "exp")
    out = rebuild(g, [Replacement((n,), forward={n.output.name: n.operands[0]}) for n in g.nodes[:3]])
    assert shape_of(out) == [("exp", ["x"], "v3")]


def test_an_output_keeps_its_name_by_renaming_its_new_maker():
    g = chain("neg", "identity")
    out = rebuild(g, [Replacement((g.nodes[1],), forward={"v1": v("v0")})])
    assert shape_of(out) == [("neg", ["x"], "v1")]
    verify(out)


def test_readers_of_a_renamed_value_follow():
    x, a, b, c = v("x"), v("a"), v("b"), v("c")
    nodes = (Node.make("neg", [x], [a]), Node.make("identity", [a], [b]), Node.make("exp", [a], [c]))
    g = Graph("g", (x,), (b, c), nodes)
    out = rebuild(g, [Replacement((nodes[1],), forward={"b": a})])
    assert shape_of(out) == [("neg", ["x"], "b"), ("exp", ["b"], "c")]
    verify(out)


@pytest.mark.parametrize("others", [1, 2])
def test_outputs_that_share_a_value_get_identities(others):
    x, a = v("x"), v("a")
    copies = [v(f"o{i}") for i in range(others)]
    nodes = (Node.make("neg", [x], [a]), *(Node.make("identity", [a], [o]) for o in copies))
    g = Graph("g", (x,), (a, *copies), nodes)
    out = rebuild(g, [Replacement((n,), forward={n.output.name: a}) for n in nodes[1:]])
    assert [o.name for o in out.outputs] == [o.name for o in g.outputs]
    assert [n.op for n in out.nodes] == ["neg"] + ["identity"] * others
    verify(out)


def test_two_outputs_forwarded_to_one_inner_value():
    x, a, p, q = v("x"), v("a"), v("p"), v("q")
    nodes = (Node.make("neg", [x], [a]), Node.make("identity", [a], [p]), Node.make("identity", [a], [q]))
    g = Graph("g", (x,), (p, q), nodes)
    out = rebuild(g, [Replacement((n,), forward={n.output.name: a}) for n in nodes[1:]])
    assert shape_of(out) == [("neg", ["x"], "p"), ("identity", ["p"], "q")]
    verify(out)


def test_an_output_forwarded_to_an_input_is_copied():
    g = chain("identity")
    out = rebuild(g, [Replacement(g.nodes, forward={"v0": v("x")})])
    assert shape_of(out) == [("identity", ["x"], "v0")]


def test_new_nodes_go_where_the_last_removed_one_was():
    g = chain("neg", "exp", "log", "abs")
    new = (Node.make("sin", [v("v0")], [v("s")]), Node.make("cos", [v("s")], [v("v2")]))
    out = rebuild(g, [Replacement(g.nodes[1:3], new)])
    assert [n.op for n in out.nodes] == ["neg", "sin", "cos", "abs"]
    verify(out)


def test_additions_and_reorderings_are_sorted():
    g = chain("neg", "exp")
    late = Node.make("sin", [v("v0")], [v("s")])
    swapped = Node.make("add", [v("v0"), v("s")], [v("v1")])
    out = rebuild(g, [Replacement((g.nodes[1],), (swapped,)), Replacement(nodes=(late,))])
    assert [n.op for n in out.nodes] == ["neg", "sin", "add"]
    verify(out)


def test_additions_that_read_only_inputs_come_first():
    g = chain("neg")
    out = rebuild(g, [Replacement(nodes=(Node.make("sin", [v("x")], [v("s")]),))])
    assert [n.op for n in out.nodes] == ["sin", "neg"]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda g: [Replacement((g.nodes[0],)), Replacement((g.nodes[0],))], "two replacements remove"),
        (lambda g: [Replacement((Node.make("neg", [v("x")], [v("zz")]),))], "the graph has not"),
        (lambda g: [Replacement((g.nodes[0],), (Node.make("neg", [v("v1")], [v("v0")]),))], "circle"),
        (lambda g: [Replacement(forward={"v0": v("v1"), "v1": v("v0")})], "circle"),
    ],
)
def test_mistakes_are_told(make, message):
    g = chain("neg", "exp")
    with pytest.raises(BugError, match=message):
        rebuild(g, make(g))


def test_many_replacements_take_linear_time():
    g = chain(*["identity", "neg"] * 20_000)
    out = rebuild(g, [Replacement((n,), forward={n.output.name: n.operands[0]}) for n in g.nodes if n.op == "identity"])
    assert len(out.nodes) == 20_000


def test_fresh_names_are_free_and_repeatable():
    g = chain("neg", "exp")
    for _ in range(2):
        names = Names(g)
        assert [names.fresh("v0"), names.fresh("v0"), names.fresh("w"), names.fresh("w")] == [
            "v0.1",
            "v0.2",
            "w",
            "w.1",
        ]
