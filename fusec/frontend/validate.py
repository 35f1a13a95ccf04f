"""Structure of a model, checked in one pass before anything is built: versions, names, who produces what, cycles."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import onnx

from fusec.errors import ModelError
from fusec.frontend.functions import opset_versions
from fusec.frontend.messages import clean, listing
from fusec.frontend.scope import captured_names, subgraphs
from fusec.knobs import Limits

OLDEST_OPSET = 1
"""Below opset 7 ops broadcast by attributes; their rows know that, the rest runs as the reference reads it."""


def check_versions(model: onnx.ModelProto, limits: Limits) -> dict[str, int]:
    """The model's opsets. ModelError for missing, repeated or unknown ones."""
    newest_ir = int(onnx.IR_VERSION)
    if model.ir_version > newest_ir and not limits.allow_newer_opset:
        raise ModelError(
            f"the model has IR version {model.ir_version}, this fusec knows up to {newest_ir}",
            hint="upgrade the onnx package, or try --allow-newer-opset",
        )
    if not model.opset_import:
        if model.ir_version >= 3:
            raise ModelError("the model imports no opset", hint="the exporter has to set opset_import")
        return {"": 1}
    imports = {("" if o.domain == "ai.onnx" else o.domain, int(o.version)) for o in model.opset_import}
    domains = [d for d, _ in imports]
    if len(set(domains)) != len(domains):  # the same import twice is harmless, and common
        twice = {d or "ai.onnx" for d in domains if domains.count(d) > 1}
        raise ModelError(f"the model imports two versions of {listing(sorted(twice))}")
    versions = opset_versions(model.opset_import)
    newest = int(onnx.defs.onnx_opset_version())
    if "" in versions and versions[""] > newest and not limits.allow_newer_opset:
        raise ModelError(
            f"the model has opset {versions['']}, this fusec knows up to {newest}",
            hint="upgrade the onnx package, or try --allow-newer-opset",
        )
    if "" in versions and versions[""] < OLDEST_OPSET:
        raise ModelError(
            f"the model has opset {versions['']}, fusec reads {OLDEST_OPSET} and newer",
            hint="convert it with onnx.version_converter.convert_version(model, 13)",
        )
    for f in model.functions:
        if not f.opset_import:
            raise ModelError(f"function {clean(f.domain)}::{clean(f.name)} imports no opset")
    return versions


def check_text(model: onnx.ModelProto) -> None:
    """ModelError where a name is not text: protobuf hands over bytes that are no UTF-8 as they are."""
    graphs, functions = [model.graph], list(model.functions)
    texts: list[object] = [model.graph.name, *(o.domain for o in model.opset_import)]
    nodes = [n for f in functions for n in f.node]
    texts += [t for f in functions for t in (f.name, f.domain, *f.input, *f.output, *f.attribute)]
    while graphs or nodes:
        if graphs:
            graph = graphs.pop()
            nodes.extend(graph.node)
            texts += [v.name for v in (*graph.input, *graph.output, *graph.initializer)]
            texts += [d.dim_param for v in graph.input for d in v.type.tensor_type.shape.dim]
        for node in nodes:
            texts += (node.name, node.op_type, node.domain, *node.input, *node.output)
            texts += [t for a in node.attribute for t in (a.name, a.ref_attr_name)]
            graphs.extend(subgraphs(node))
        nodes = []
    bad = next((t for t in texts if not isinstance(t, str)), None)
    if bad is not None:
        raise ModelError(f"the model holds a name that is not UTF-8: {clean(str(bad))!r}", hint="the file is damaged")


def check_imports(nodes: Iterable[onnx.NodeProto], versions: dict[str, int], local: set[str]) -> None:
    """ModelError where a node's domain has no opset import and no function of the model defines it."""
    for node in nodes:
        domain = "" if node.domain == "ai.onnx" else node.domain
        if domain not in versions and domain not in local:
            raise ModelError(
                f"node {clean(node.name or node.op_type)!r} ({clean(node.op_type)}) is of domain "
                f"{clean(domain) or 'ai.onnx'!r}, which the model does not import",
                node=clean(node.name),
                op=clean(node.op_type),
            )


def check_graph(graph: onnx.GraphProto) -> list[onnx.NodeProto]:
    """The nodes in order, once names and edges, subgraphs included, are right. ModelError naming nodes that break a rule."""
    _check_names(graph)
    order = sorted_nodes(graph, frozenset())
    available = _given(graph) | {o for n in order for o in n.output}
    for out in graph.output:
        if out.name not in available:
            raise ModelError(
                f"graph output {clean(out.name)!r} is produced by no node", hint=f"produced are: {listing(available)}"
            )
    _check_nested(graph, frozenset(available))
    return order


def _check_nested(graph: onnx.GraphProto, outer: frozenset[str]) -> None:
    """Check subgraphs level by level; a deep nest is a list of work here, not a stack of calls."""
    todo = [(inner, outer, clean(n.name or n.op_type)) for n in graph.node for inner in subgraphs(n)]
    while todo:
        inner, visible, owner = todo.pop()
        shadowed = {o for n in inner.node for o in n.output if o} & visible
        shadowed |= {i.name for i in inner.input} & visible
        if shadowed:
            raise ModelError(
                f"the subgraph of node {owner!r} defines {listing(sorted(shadowed))}, which exists outside already",
                hint="every value has one producer: rename the inner one",
                node=owner,
            )
        _check_names(inner)
        order = sorted_nodes(inner, visible)
        names = visible | _given(inner) | {o for n in order for o in n.output}
        for out in inner.output:
            if out.name not in names:
                raise ModelError(f"output {clean(out.name)!r} of a subgraph of node {owner!r} is produced by no node")
        todo.extend((g, frozenset(names), clean(n.name or n.op_type)) for n in inner.node for g in subgraphs(n))


def _given(graph: onnx.GraphProto) -> set[str]:
    names = {i.name for i in graph.input} | {i.name for i in graph.initializer}
    return names | {s.values.name for s in graph.sparse_initializer} | {""}


def _check_names(graph: onnx.GraphProto) -> None:
    for kind, names in (
        ("graph input", [i.name for i in graph.input]),
        ("initialiser", [i.name for i in graph.initializer] + [s.values.name for s in graph.sparse_initializer]),
        ("graph output", [o.name for o in graph.output]),
    ):
        if len(set(names)) != len(names):
            twice = next(n for i, n in enumerate(names) if n in names[:i])
            raise ModelError(f"two {kind}s are called {clean(twice)!r}", hint="names are unique in a graph")
        if kind != "initialiser" and "" in names:
            raise ModelError(f"a {kind} has no name")
        if any("\0" in n for n in names):
            raise ModelError(f"the name of a {kind} contains a NUL character")
    producers: dict[str, int] = dict.fromkeys(_given(graph), -1)
    for i, node in enumerate(graph.node):
        for out in node.output:
            if out and out in producers:
                label, first = _label(graph, i), producers[out]
                by = "an input or initialiser" if first < 0 else f"node {_label(graph, first)!r}"
                raise ModelError(
                    f"value {clean(out)!r} is produced twice: by {by} and by node {label!r}",
                    hint="every value has one producer",
                    node=label,
                    op=clean(node.op_type),
                )
            if "\0" in out:
                label = _label(graph, i)
                raise ModelError(f"the name of an output of node {label!r} contains a NUL character", node=label)
            producers[out] = i


def _label(graph: onnx.GraphProto, i: int) -> str:
    node = graph.node[i]
    return clean(node.name or f"{node.op_type}_{i}")


def sorted_nodes(graph: onnx.GraphProto, outer: frozenset[str]) -> list[onnx.NodeProto]:
    """The nodes in an order in which everything is made before it is read; the file's own where it is one already."""
    made = set(_given(graph))
    needs = [_reads(n) for n in graph.node]
    in_order = True
    for node, reads in zip(graph.node, needs):
        if not all(r in made or r in outer for r in reads):
            in_order = False
            break
        made.update(node.output)
    if in_order:
        return list(graph.node)
    return _kahn(graph, needs, outer)


def _reads(node: onnx.NodeProto) -> Sequence[str]:
    nested = any(a.type in (onnx.AttributeProto.GRAPH, onnx.AttributeProto.GRAPHS) for a in node.attribute)
    return [*node.input, *captured_names(node)] if nested else node.input


def _kahn(graph: onnx.GraphProto, needs: list[Sequence[str]], outer: frozenset[str]) -> list[onnx.NodeProto]:
    producer = {o: i for i, n in enumerate(graph.node) for o in n.output if o}
    given = _given(graph) | outer
    waiting, readers = [0] * len(needs), dict[int, list[int]]()
    for i, reads in enumerate(needs):
        for name in set(reads) - given:
            if name not in producer:
                node = graph.node[i]
                label = _label(graph, i)
                raise ModelError(
                    f"node {label!r} ({clean(node.op_type)}) reads {clean(name)!r}, which nothing produces",
                    node=label,
                    op=clean(node.op_type),
                    input=clean(name),
                )
            waiting[i] += 1
            readers.setdefault(producer[name], []).append(i)
    ready = [i for i, n in enumerate(waiting) if n == 0]
    order = []
    while ready:
        i = ready.pop()
        order.append(i)
        for j in readers.get(i, ()):
            waiting[j] -= 1
            if waiting[j] == 0:
                ready.append(j)
    if len(order) < len(needs):
        stuck = [_label(graph, i) for i in range(len(needs)) if waiting[i]]
        raise ModelError(f"the graph has a cycle through nodes {listing(stuck)}", node=stuck[0])
    return [graph.node[i] for i in order]
