"""The pipeline verifies and blames, repeats fix-points, counts changes, and follows the user's selection."""

import pytest

from fusec.errors import BugError, ResourceError, UsageError
from fusec.ir.graph import Graph, Node, Value
from fusec.ir.types import parse_type
from fusec.knobs import Limits
from fusec.rewrite.graph_pass import Pass, PassContext, graph_pass
from fusec.rewrite.pipeline import FixPoint, Selection, flatten, run_pipeline, select, select_plain
from fusec.rewrite.rebuild import Replacement, rebuild
from fusec.target import Target
from fusec.trace import Trace

T = parse_type("f32[4]")


def graph(*ops):
    values = [Value("x", T), *(Value(f"v{i}", T) for i in range(len(ops)))]
    nodes = tuple(Node.make(op, [values[i]], [values[i + 1]]) for i, op in enumerate(ops))
    return Graph("g", (values[0],), (values[-1],), nodes)


def context(**kwargs):
    return PassContext(Target("cpu", "avx2"), kwargs.pop("limits", Limits()), **kwargs)


def drop(op, name="test-drop"):
    """A pass that removes the first node of an op."""

    def apply(g, _):
        found = [n for n in g.nodes if n.op == op][:1]
        return rebuild(g, [Replacement((n,), forward={n.output.name: n.operands[0]}) for n in found])

    return Pass(name, apply, "")


def test_a_fix_point_repeats_until_nothing_changes():
    c = context()
    out = run_pipeline(graph("neg", "neg", "neg", "exp"), (FixPoint("clean-up", (drop("neg"),)),), c)
    assert [n.op for n in out.nodes] == ["exp"]
    (group,) = [r for r in c.trace.records if r.name == "clean-up"]
    assert dict(group.counts) == {"rounds": 4}
    changes = [dict(r.counts)["changed"] for r in c.trace.records if r.name == "test-drop"]
    assert changes == [3, 3, 2, 0] or (changes[-1] == 0 and all(changes[:-1]))


def test_a_pass_that_rebuilds_equal_nodes_changes_nothing():
    same = Pass("test-same", lambda g, _: g.with_nodes([Node(n.op, n.inputs, n.outputs) for n in g.nodes]), "")
    g, c = graph("neg", "exp"), context()
    assert run_pipeline(g, (FixPoint("f", (same,)),), c) is g
    assert [dict(r.counts)["changed"] for r in c.trace.records if r.name == "test-same"] == [0]


def test_the_guilty_pass_is_blamed():
    bad = Pass("test-bad", lambda g, _: g.with_nodes(g.nodes[1:]), "")
    with pytest.raises(BugError, match="test-bad"):
        run_pipeline(graph("neg", "exp"), (drop("log"), bad), context())


def test_a_pass_that_blows_the_graph_up_is_stopped():
    def grow(g, _):
        more = [Node.make("neg", [g.inputs[0]], [Value(f"n{len(g.nodes)}", T)])]
        return g.with_nodes([*g.nodes, *more])

    with pytest.raises(ResourceError, match="'test-grow' makes a graph of 3 nodes"):
        run_pipeline(graph("neg", "exp"), (Pass("test-grow", grow, ""),), context(limits=Limits(max_nodes=2)))


def test_every_change_is_dumped(tmp_path):
    c = context(trace=Trace(folder=tmp_path))
    try:
        run_pipeline(graph("neg", "exp"), (drop("neg"), drop("log", "test-other")), c)
    except ModuleNotFoundError:
        pytest.skip("no text form yet")
    assert [p.name for p in tmp_path.iterdir()] == ["000-test-drop.graph"]


def test_selection():
    one, two = drop("neg", "test-one"), drop("exp", "test-two")
    extra = graph_pass("test-extra")(lambda g, _: g)
    pipeline = (one, FixPoint("f", (two,)))
    assert [p.name for p in flatten(select(pipeline, Selection(drop=frozenset(["test-two"]))))] == ["test-one"]
    chosen = select(pipeline, Selection.of(["+test-extra"]))
    assert flatten(chosen) == (one, two, extra)
    assert flatten(select(chosen, Selection.of(["+test-extra"]))) == (one, two, extra)
    assert select_plain((one, two), Selection.of(["+test-extra", "-test-extra"]), Pass) == (one, two, extra)


@pytest.mark.parametrize(("words", "message"), [(["fuse-rows"], "no sign"), (["+fuse-rosw"], "unknown pass")])
def test_bad_selections(words, message):
    import fusec.passes.default  # noqa: F401

    with pytest.raises(UsageError, match=message):
        Selection.of(words)


def test_pass_names_are_kebab_case():
    with pytest.raises(BugError, match="kebab-case"):
        graph_pass("NotKebab")(lambda g, _: g)


def test_one_name_cannot_mean_two_passes():
    graph_pass("test-twice")(lambda g, _: g)

    def other(g, _):
        return g

    other.__module__ = "elsewhere.passes"
    with pytest.raises(UsageError, match=r"two packages offer pass 'test-twice'.*elsewhere"):
        graph_pass("test-twice")(other)
