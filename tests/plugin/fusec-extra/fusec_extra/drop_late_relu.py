"""A graph pass: relu keeps the sign of what a softshift without shift gives, so one relu is enough."""

from fusec.ir.graph import Graph
from fusec.rewrite.graph_pass import PassContext, graph_pass
from fusec.rewrite.rebuild import Replacement, rebuild


@graph_pass("drop-late-relu")
def drop_late_relu(graph: Graph, _: PassContext) -> Graph:
    """Remove a relu behind a softshift of a relu.

    before: a = relu(x); b = softshift[shift=0.0](a); y = relu(b)
    after:  a = relu(x); y = softshift[shift=0.0](a)
    """
    found = []
    for n in graph.nodes:
        inner = graph.producer.get(n.operands[0].name) if n.op == "relu" else None
        if inner is None or inner.op != "softshift" or inner.attr("shift") != 0.0:
            continue
        first = graph.producer.get(inner.operands[0].name)
        if first is not None and first.op == "relu":
            found.append(Replacement((n,), forward={n.output.name: inner.output}))
    return rebuild(graph, found)
