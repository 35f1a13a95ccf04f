"""Remove nodes and weights whose values nobody reads."""

from __future__ import annotations

from fusec.ir.graph import Graph, Node
from fusec.ir.told import needed_symbols, tellers
from fusec.rewrite.graph_pass import PassContext, graph_pass


@graph_pass("eliminate-dead")
def eliminate_dead(graph: Graph, _: PassContext) -> Graph:
    """Remove nodes and weights that no output depends on.

    before: h = relu(x); y = neg(x); return y
    after:  y = neg(x); return y
    """
    return without_dead(graph)


def without_dead(graph: Graph) -> Graph:
    """The graph without what no output depends on; the same object where everything is needed.

    A host step also stays where it alone tells a dimension that something needed mentions.
    """
    live = set(graph.output_names)
    told = tellers(graph)
    nodes = _needed(graph, live)
    while told:
        mentioned = frozenset[str]().union(*map(needed_symbols, nodes))
        silent = [told[s].outputs[0].name for s in sorted(mentioned & told.keys())]
        if live.issuperset(silent):
            break
        live.update(silent)
        nodes = _needed(graph, live)
    weights = {name: w for name, w in graph.weights.items() if name in live}
    if len(nodes) == len(graph.nodes) and len(weights) == len(graph.weights):
        return graph
    return graph.with_nodes(reversed(nodes), weights)


def _needed(graph: Graph, live: set[str]) -> list[Node]:
    """The nodes that make what is live, last first; adds what these read to `live`."""
    nodes = []
    for n in reversed(graph.nodes):
        if any(v.name in live for v in n.outputs):
            live.update(v.name for v in n.operands)
            nodes.append(n)
    return nodes
