"""The verifier lets valid graphs through and names the pass and the damage of broken ones."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from fusec.errors import BugError
from fusec.ir.graph import Graph, Node, Value, Weight
from fusec.ir.text import parse_graph
from fusec.ir.types import parse_type
from fusec.ir.verify import verify

GRAPH = parse_graph("""
    graph g(x: f32[N, 4], c: bool[N, 1]) {
      weight w: f32[4, 3] {random(1)}
      h = matmul(x, w)
      r = relu(h)
      s, i = opaque[op_type="TopK"](r)
      y = add(r, h)
      return y, r
    }""".replace("s, i =", "s: f32[N, 2], i: i64[N, 2] ="))  # fmt: skip
N = GRAPH.nodes


def node(i: int, change: Callable[[Node], Node]) -> Graph:
    return GRAPH.with_nodes([change(n) if j == i else n for j, n in enumerate(N)])


def retype(v: Value, text: str) -> Value:
    return Value(v.name, parse_type(text))


DAMAGE: list[tuple[str, Callable[[], Graph], str]] = [
    ("order", lambda: GRAPH.with_nodes([N[1], N[0], *N[2:]]), "reads 'h', before it is produced"),
    ("missing", lambda: GRAPH.with_nodes(N[1:]), "reads 'h', which nothing produces"),
    ("twice", lambda: GRAPH.with_nodes([*N, replace(N[1], inputs=N[1].inputs)]), "'r' is produced a second time"),
    ("input-twice", lambda: replace(GRAPH, inputs=(*GRAPH.inputs, GRAPH.inputs[0])), "'x' is produced a second time"),
    ("no-output", lambda: replace(GRAPH, outputs=(Value("q", N[0].output.type),)), "output 'q' reads 'q'"),
    ("same-outputs", lambda: replace(GRAPH, outputs=(N[0].output,) * 2), "two outputs have one name"),
    ("unknown-op", lambda: node(1, lambda n: replace(n, op="rleu")), "unknown op 'rleu'.*did you mean 'relu'"),
    ("arity", lambda: node(3, lambda n: replace(n, inputs=n.inputs[:1])), "takes 2 inputs, got 1"),
    ("required", lambda: node(3, lambda n: replace(n, inputs=(None, n.inputs[1]))), "takes 2 inputs, got 1"),
    ("no-values", lambda: GRAPH.with_nodes([*N, Node("relu", (GRAPH.inputs[0],), ())]), "makes nothing"),
    (
        "outputs",
        lambda: node(1, lambda n: replace(n, outputs=(*n.outputs, Value("z", n.output.type)))),
        "has 2 outputs",
    ),
    ("shape", lambda: node(3, lambda n: replace(n, outputs=(retype(n.output, "f32[N, 4]"),))), "its inputs give f32"),
    ("dim", lambda: node(3, lambda n: replace(n, outputs=(retype(n.output, "f32[M, 3]"),))), "its inputs give f32"),
    ("dtype", lambda: node(3, lambda n: replace(n, outputs=(retype(n.output, "f64[N, 3]"),))), "declares f64"),
    (
        "stale",
        lambda: node(3, lambda n: n.with_inputs([retype(N[1].output, "f32[7, 3]"), n.inputs[1]])),
        r"reads 'r' as f32\[7, 3\], and it is f32\[N, 3\]",
    ),
    (
        "attribute",
        lambda: node(1, lambda n: replace(n, op="softmax")),
        "attribute 'axis' is missing",
    ),
    (
        "unsorted",
        lambda: node(2, lambda n: replace(n, attrs=(("op_type", "TopK"), ("domain", "")))),
        "not sorted",
    ),
    (
        "weight-type",
        lambda: replace(GRAPH, weights={"w": Weight(GRAPH.weights["w"].value, np.zeros((4, 4), np.float32), "")}),
        r"weight 'w' is declared f32\[4, 3\], its array is float32\[4, 4\]",
    ),
    ("weight-name", lambda: replace(GRAPH, weights={"v": GRAPH.weights["w"]}), "filed under 'v'"),
]


def test_valid() -> None:
    verify(GRAPH)
    refined = retype(N[0].output, "f32[7, 3]")
    verify(Graph("g", GRAPH.inputs, (refined,), (replace(N[0], outputs=(refined,)),), GRAPH.weights))


@pytest.mark.parametrize(("damage", "message"), [d[1:] for d in DAMAGE], ids=[d[0] for d in DAMAGE])
def test_damage(damage: Callable[[], Graph], message: str) -> None:
    with pytest.raises(BugError, match=message) as e:
        verify(damage(), blame="fold-constants")
    assert "pass 'fold-constants' broke the graph 'g'" in str(e.value)
