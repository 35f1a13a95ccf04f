"""Graphs for the tests of fusion: a builder that infers types, and a check that runs a fused graph group by group."""

from types import SimpleNamespace

import numpy as np
import pytest

from fusec.ir.graph import Graph, Node, Value, weight
from fusec.ir.reference import run_reference
from fusec.ir.types import DType, parse_type
from fusec.knobs import Limits
from fusec.ops import op as ops
from fusec.rewrite.graph_pass import PassContext
from fusec.target import Target


class Sketch:
    """`s.add(x, y)` appends a node, whatever the op's name, and gives its output."""

    def __init__(self, seed=0):
        self.nodes, self.weights, self.inputs = [], {}, []
        self.random = np.random.default_rng(seed)

    def input(self, text, name=None):
        self.inputs.append(Value(name or f"x{len(self.inputs)}", parse_type(text)))
        return self.inputs[-1]

    def weight(self, *shape):
        w = weight(f"w{len(self.weights)}", self.random.standard_normal(shape, np.float32))
        self.weights[w.value.name] = w
        return w.value

    def __getattr__(self, op):
        if op.startswith("__"):
            raise AttributeError(op)

        def append(*inputs, **attrs):
            types = ops.get(op.rstrip("_")).infer([i and i.type for i in inputs], attrs)
            outputs = [Value(f"v{len(self.nodes)}" + f"_{i}" * (i > 0), t) for i, t in enumerate(types)]
            self.nodes.append(Node.make(op.rstrip("_"), inputs, outputs, **attrs))
            return outputs[0]

        return append

    def graph(self, *outputs):
        return Graph("sketch", tuple(self.inputs), tuple(dict.fromkeys(outputs)), tuple(self.nodes), self.weights)


def feeds_for(graph, seed=1):
    random = np.random.default_rng(seed)

    def feed(v):
        shape = tuple(d if isinstance(d, int) else 3 for d in v.shape)
        if v.dtype is DType.I64:
            return random.integers(0, 3, shape)
        return random.standard_normal(shape).astype(v.dtype.numpy)

    return {v.name: feed(v) for v in graph.inputs}


def check_partition(fused):
    """Every node is in a group, every value that crosses groups is stored once before it is read, anchors are members."""
    graph = fused.graph
    covered = {n.outputs[0].name for g in fused.groups for n in g.nodes}
    assert covered == {n.outputs[0].name for n in graph.nodes}
    there = {v.name for v in graph.inputs} | set(graph.weights)
    for g in fused.groups:
        assert g.anchor in g.nodes
        assert {v.name for v in g.inputs} <= there, g.label
        for v in g.outputs:
            assert v.name in g.made
            assert v.name not in there, f"{v.name} is stored twice"
            there.add(v.name)
    assert {v.name for v in graph.outputs} <= there


def run_groups(fused, feeds):
    """Run group after group; what a group does not list as an output is gone after it."""
    graph = fused.graph
    there = {n: w.array for n, w in graph.weights.items()} | dict(feeds)
    for g in fused.groups:
        part = Graph(g.label, tuple(g.inputs), g.outputs, g.nodes)
        there |= run_reference(part, {v.name: there[v.name] for v in g.inputs})
    return {v.name: there[v.name] for v in graph.outputs}


def check_same_results(fused):
    feeds = feeds_for(fused.graph)
    want, got = run_reference(fused.graph, feeds), run_groups(fused, feeds)
    for name, array in want.items():
        np.testing.assert_array_equal(array, got[name])


@pytest.fixture
def fusing():
    return SimpleNamespace(
        Sketch=Sketch,
        check_partition=check_partition,
        check_same_results=check_same_results,
        context=PassContext(Target("cpu", "avx2"), Limits()),
    )
