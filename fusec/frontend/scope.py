"""Names inside node protos: what a subgraph captures from outside, and copies of nodes under other names."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import onnx
from onnx import AttributeProto


def subgraphs(node: onnx.NodeProto) -> Iterator[onnx.GraphProto]:
    """The graphs among a node's attributes: branches of If, bodies of Loop and Scan."""
    for a in node.attribute:
        if a.type == AttributeProto.GRAPH:
            yield a.g
        elif a.type == AttributeProto.GRAPHS:
            yield from a.graphs


def is_control(node: onnx.NodeProto) -> bool:
    """Whether a node runs graphs of its own that become plans: a branch or a loop."""
    return node.op_type in ("If", "Loop", "Scan") and node.domain in ("", "ai.onnx")


def local_names(graph: onnx.GraphProto) -> set[str]:
    """The names that a graph itself declares."""
    names = {i.name for i in graph.input} | {i.name for i in graph.initializer}
    names |= {s.values.name for s in graph.sparse_initializer}
    return names | {o for n in graph.node for o in n.output}


def captured_names(node: onnx.NodeProto) -> tuple[str, ...]:
    """The outer names that a node's subgraphs read, each once, in the order of first use."""
    found: dict[str, None] = {}
    for graph in subgraphs(node):
        _capture(graph, frozenset(), found)
    return tuple(found)


def _capture(graph: onnx.GraphProto, inner: frozenset[str], found: dict[str, None]) -> None:
    inner = inner | local_names(graph)
    for node in graph.node:
        for name in node.input:
            if name and name not in inner:
                found.setdefault(name)
        for nested in subgraphs(node):
            _capture(nested, inner, found)
    for out in graph.output:
        if out.name and out.name not in inner:
            found.setdefault(out.name)


def renamed(
    node: onnx.NodeProto,
    names: Mapping[str, str],
    attributes: Mapping[str, AttributeProto] | None = None,
) -> onnx.NodeProto:
    """A copy with other value names; references to a function's attributes are replaced by `attributes`."""
    out = onnx.NodeProto()
    out.CopyFrom(node)
    out.input[:] = [names.get(n, n) for n in node.input]
    out.output[:] = [names.get(n, n) for n in node.output]
    _rename_attributes(out, names, attributes)
    return out


def _rename_attributes(
    node: onnx.NodeProto, names: Mapping[str, str], attributes: Mapping[str, AttributeProto] | None
) -> None:
    if attributes is not None and any(a.ref_attr_name for a in node.attribute):
        kept = []
        for a in node.attribute:
            if a.ref_attr_name:
                if a.ref_attr_name not in attributes:
                    continue  # an optional attribute that the caller leaves out
                new = AttributeProto()
                new.CopyFrom(attributes[a.ref_attr_name])
                new.name = a.name
                a = new
            kept.append(a)
        del node.attribute[:]
        node.attribute.extend(kept)
    for graph in subgraphs(node):
        hidden = local_names(graph)
        visible = {k: v for k, v in names.items() if k not in hidden}
        for out in graph.output:
            out.name = visible.get(out.name, out.name)
        for inner in graph.node:
            inner.input[:] = [visible.get(n, n) for n in inner.input]
            _rename_attributes(inner, visible, attributes)
