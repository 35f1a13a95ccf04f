"""Whatever the graph and whatever the rules say, a fused graph is legal and computes the same."""

from random import Random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fusec.lower.lower import lower
from fusec.passes.default import FUSION_PASSES, fuse_default
from fusec.rewrite.fused import Verdict, unfused
from fusec.rewrite.fusion import FusionPass, fuse

UNARY = ("neg", "exp", "relu", "sigmoid", "abs")
QUIET = settings(suppress_health_check=list(HealthCheck))


@st.composite
def steps(draw):
    """A recipe: per node an operation and which of the earlier values it reads."""
    size = draw(st.integers(1, 24))
    kinds = (
        "unary",
        "binary",
        "matmul",
        "softmax",
        "norm",
        "reduce",
        "transpose",
        "reshape",
        "slice",
        "concat",
        "gather",
    )
    numbers = st.integers(0, 1 << 16)
    recipe = draw(st.lists(st.tuples(st.sampled_from(kinds), numbers, numbers), min_size=size, max_size=size))
    return recipe, draw(st.lists(numbers, max_size=4)), draw(numbers)


def build(sketch, recipe, outputs):
    """All values are f32[6, 6] or broadcast to it, so that any two fit; what nobody reads is left out."""
    values = [sketch.input("f32[6, 6]"), sketch.input("f32[6, 1]"), sketch.weight(6, 6)]
    rows = sketch.input("i64[6]")
    for kind, i, j in recipe:
        x, y = values[i % len(values)], values[j % len(values)]
        full = [v for v in values if v.shape == (6, 6)]
        a, b = full[i % len(full)], full[j % len(full)]
        match kind:
            case "unary":
                out = getattr(sketch, UNARY[j % len(UNARY)])(x)
            case "binary":
                out = sketch.add(x, y)
            case "matmul":
                out = sketch.matmul(a, b)
            case "softmax":
                out = sketch.softmax(a, axis=j % 2)
            case "norm":
                out = sketch.layer_norm(a, sketch.weight(6), sketch.weight(6), axis=1, epsilon=1e-5)
            case "reduce":
                out = sketch.reduce_mean(a, axes=(1,), keepdims=True)
            case "transpose":
                out = sketch.transpose(a, perm=(1, 0))
            case "reshape":
                out = sketch.reshape(sketch.relu(sketch.reshape(a, shape=(3, 12))), shape=(6, 6))
            case "slice":
                out = sketch.slice(x, starts=(0, 0), sizes=(6, 1), steps=(1, 1))
            case "concat":
                halves = [sketch.slice(v, starts=(0, 0), sizes=(6, 3), steps=(1, 1)) for v in (a, b)]
                out = sketch.concat(*halves, axis=1)
            case "gather":
                out = sketch.gather(a, rows, axis=0)
        values.append(out)
    chosen = [values[-1], *(values[3 + i % (len(values) - 3)] for i in outputs)]
    needed = {v.name for v in chosen}
    for n in reversed(sketch.nodes):
        if n.outputs[0].name in needed:
            needed |= {v.name for v in n.operands}
    sketch.nodes = [n for n in sketch.nodes if n.outputs[0].name in needed]
    return sketch.graph(*chosen)


@given(steps())
@QUIET
def test_default_rules(fusing, drawn):
    recipe, outputs, _ = drawn
    graph = build(fusing.Sketch(), recipe, outputs)
    fused = fuse(graph, FUSION_PASSES, fusing.context)
    fusing.check_partition(fused)
    fusing.check_same_results(fused)
    assert fuse(graph, FUSION_PASSES, fusing.context) == fused


@given(steps())
@QUIET
def test_rules_that_answer_at_random(fusing, drawn):
    recipe, outputs, seed = drawn
    graph, random = build(fusing.Sketch(), recipe, outputs), Random(seed)

    def rule(_):
        return Verdict(random.random() < 0.7, "chance", duplicate=random.random() < 0.5)

    fused = fuse(graph, [FusionPass("chance", rule, "", anchors=99)], fusing.context)
    fusing.check_partition(fused)
    fusing.check_same_results(fused)


@given(steps())
@QUIET
def test_unfused(fusing, drawn):
    recipe, outputs, _ = drawn
    fused = unfused(build(fusing.Sketch(), recipe, outputs))
    assert len(fused.groups) == len(fused.graph.nodes)
    fusing.check_partition(fused)
    fusing.check_same_results(fused)


@given(steps())
@QUIET
def test_every_edge_is_explained(fusing, drawn):
    recipe, outputs, _ = drawn
    graph = build(fusing.Sketch(), recipe, outputs)
    fused = fuse(graph, FUSION_PASSES, fusing.context)
    explained = {d.value for d in fused.decisions}
    for name in graph.consumers:
        if name in graph.producer and any(name not in g.made for g in fused.groups for n in g.inputs if n.name == name):
            assert name in explained
    assert all(d.verdict.why for d in fused.decisions)


def test_a_rule_that_always_agrees_is_kept_legal(fusing):
    s = fusing.Sketch()
    x = s.input("f32[4, 4]")
    h = s.matmul(x, x)
    t = s.softmax(h, axis=1)
    y = s.add(h, s.matmul(t, x))
    fused = fuse(s.graph(y), [FusionPass("yes", lambda _: Verdict(True, "always"), "")], fusing.context)
    fusing.check_partition(fused)
    assert [g.label for g in fused.groups] == ["matmul", "softmax", "matmul+add"]
    refusals = {d.value: d.verdict.why for d in fused.decisions if not d.verdict}
    assert "between" in refusals["v0"]
    assert "2 anchors" in refusals["v1"]


@pytest.mark.timeout(120)
def test_a_long_graph_with_hubs_is_fused_in_time(fusing):
    s = fusing.Sketch()
    x = s.input("f32[8, 8]")
    hub = s.exp(x)
    for i in range(3_000):
        x = s.relu(s.add(s.matmul(x, hub), hub)) if i % 3 == 0 else s.softmax(s.mul(x, hub), axis=1)
    graph = s.graph(x)
    fused = fuse(graph, FUSION_PASSES, fusing.context)
    fusing.check_partition(fused)
    assert 2_000 <= len(fused.groups) <= 2_002


@given(steps())
@QUIET
def test_what_is_fused_can_be_lowered(fusing, drawn):
    recipe, outputs, _ = drawn
    graph = build(fusing.Sketch(), recipe, outputs)
    fused = fuse_default(graph, fusing.context)
    fusing.check_partition(fused)
    lower(fused)
