"""Compute equal things once: common subexpressions and equal small constants."""

from __future__ import annotations

from collections.abc import Hashable, Mapping

from fusec.ir.graph import Attr, Graph, Node, Value
from fusec.passes.graph.eliminate_dead import without_dead
from fusec.rewrite.graph_pass import PassContext, graph_pass
from fusec.rewrite.rebuild import Replacement, follow, rebuild

SMALL = 64
"""Elements up to which constants are compared by content; larger ones are rarely equal and cost time to compare."""


@graph_pass("share-common")
def share_common(graph: Graph, _: PassContext) -> Graph:
    """Let equal nodes with equal inputs share one result, and equal small constants one array.

    before: a = exp(x); b = exp(x); y = add(a, b)
    after:  a = exp(x); y = add(a, a)
    """
    forward = _equal_weights(graph)
    todo = [Replacement(forward=dict(forward))] if forward else []
    seen: dict[Hashable, Value] = {}
    for n in graph.nodes:
        if n.op == "opaque" or len(n.outputs) != 1:
            continue  # host steps may draw random numbers
        out = n.output
        if n.op == "identity" and out.name in graph.output_names:
            continue  # it only names an output
        key = _key(n, forward)
        first = seen.setdefault(key, out)
        both_outputs = first.name in graph.output_names and out.name in graph.output_names
        if first is out or both_outputs:
            continue
        forward[out.name] = first
        todo.append(Replacement((n,), forward={out.name: first}))
    return without_dead(rebuild(graph, todo)) if todo else graph


def _key(n: Node, forward: Mapping[str, Value]) -> Hashable:
    inputs = tuple(None if v is None else follow(v, forward).name for v in n.inputs)
    return n.op, inputs, tuple((k, _typed(a)) for k, a in n.attrs), n.output.type


def _typed(a: Attr) -> Hashable:
    """An attribute as a key that tells 1, 1.0 and True apart, and finds NaN equal to itself."""
    if isinstance(a, tuple):
        return tuple(map(_typed, a))
    return (type(a).__name__, repr(a) if isinstance(a, float) else a)


def _equal_weights(graph: Graph) -> dict[str, Value]:
    first: dict[Hashable, Value] = {}
    out: dict[str, Value] = {}
    for name, w in graph.weights.items():
        if w.array.size > SMALL or w.array.dtype == object or name in graph.output_names:
            continue
        kept = first.setdefault((w.value.type, w.array.tobytes()), w.value)
        if kept is not w.value:
            out[name] = kept
    used = graph.consumers
    return {name: v for name, v in out.items() if name in used}
