"""Dimensions that only a run tells: which host step tells a symbol, and which nodes need it.

Such a symbol is a dependency like a value: who mentions it comes after its teller, and keeps it alive.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from fusec.ir.dim import Dim, symbols_of
from fusec.ir.graph import Attr, Graph, Node
from fusec.ir.requirement import Requirement
from fusec.ir.types import Type, symbols_in


def tellers(graph: Graph) -> Mapping[str, Node]:
    """Symbol -> the first opaque node whose results mention it, for the symbols that no input determines."""
    known = symbols_of_types(v.type for v in graph.inputs)
    found: dict[str, Node] = {}
    for n in graph.nodes:
        if n.op == "opaque":
            for s in symbols_of_types(v.type for v in n.outputs) - known:
                found.setdefault(s, n)
    return found


def needed_symbols(node: Node) -> frozenset[str]:
    """The symbols that must have a number before a node can run: those that its attributes and types mention."""
    if node.op == "opaque":
        return symbols_of_types(v.type for v in node.operands)
    return symbols_of_types(v.type for v in node.outputs).union(*(_in_attr(a) for _, a in node.attrs))


def checkable(graph: Graph) -> tuple[Requirement, ...]:
    """The requirements whose symbols inputs or opaque nodes tell: what asks for others left the graph with its teller."""
    opaque = (v.type for n in graph.nodes if n.op == "opaque" for v in n.outputs)
    told = symbols_of_types((*(v.type for v in graph.inputs), *opaque))
    return tuple(r for r in graph.requirements if r.symbols and r.symbols <= told)


def symbols_of_types(types: Iterable[Type]) -> frozenset[str]:
    """The symbols that any of the types mentions."""
    return frozenset[str]().union(*map(symbols_in, types))


def _in_attr(attr: Attr) -> frozenset[str]:
    if isinstance(attr, Dim):
        return symbols_of(attr)
    return frozenset[str]().union(*map(_in_attr, attr)) if isinstance(attr, tuple) else frozenset()
