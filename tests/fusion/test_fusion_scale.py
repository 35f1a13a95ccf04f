"""Large graphs: fusion takes time in proportion to the nodes, whatever their shape. Bounds are several times what it takes."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest

from fusec.ir.build import GraphBuilder
from fusec.ir.graph import Graph, Value
from fusec.knobs import Limits
from fusec.passes.default import fuse_default
from fusec.rewrite.graph_pass import PassContext
from fusec.target import Target

NODES = 10_000
SECONDS = 6.0


def chain() -> Graph:
    g = GraphBuilder("chain")
    v = g.input("x", "f32[4, 8]")
    for i in range(NODES):
        v = g.op(("relu", "neg", "tanh", "abs", "sigmoid")[i % 5], v)
    return g.graph([v])


def fan_out() -> Graph:
    g = GraphBuilder("fan_out")
    hub = g.op("exp", g.input("x", "f32[4, 8]"))
    level = [g.op(("relu", "neg", "tanh")[i % 3], hub) for i in range(NODES // 2)]
    while len(level) > 1:
        level = [g.op("add", *pair) if len(pair) == 2 else pair[0] for pair in pairs(level)]
    return g.graph(level)


def pairs(values: list[Value]) -> list[list[Value]]:
    return [values[i : i + 2] for i in range(0, len(values), 2)]


def diamonds() -> Graph:
    g = GraphBuilder("diamonds")
    v = g.input("x", "f32[4, 8]")
    for _ in range(NODES // 3):
        v = g.op("add", g.op("relu", v), g.op("neg", v))
    return g.graph([v])


@pytest.mark.parametrize("make", [chain, fan_out, diamonds])
def test_fusion_of_many_nodes(make: Callable[[], Graph]) -> None:
    graph = make()
    start = time.process_time()
    fused = fuse_default(graph, PassContext(Target("cpu", "avx2"), Limits()))
    assert time.process_time() - start < SECONDS
    assert len(fused.groups) < NODES // 20
