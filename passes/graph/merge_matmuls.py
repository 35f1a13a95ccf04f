"""One matmul for siblings that read the same left operand: queries, keys and values, gates and ups."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from fusec.ir.graph import Graph, Node, Value, Weight
from fusec.ir.types import TensorType
from fusec.rewrite.graph_pass import PassContext, graph_pass
from fusec.rewrite.rebuild import Names, Replacement, rebuild

MAX_SIBLINGS = 8
Branch = tuple[Node, Node | None]
"""A matmul, and the add of its bias where there is one."""


@graph_pass("merge-matmuls")
def merge_matmuls(graph: Graph, context: PassContext) -> Graph:
    """Join matmuls of one value with constant matrices into one matmul and slices of its result.

    Worth it where the left operand is large or launches are dear; the slices must be views that later kernels read through.

    before: q = matmul(x, wq); k = matmul(x, wk)
    after:  qk = matmul(x, wqk); q = slice[...](qk); k = slice[...](qk)
    """
    names = Names(graph)
    families: dict[tuple[object, ...], list[Branch]] = {}
    for n in graph.nodes:
        branch = _branch(graph, n)
        if branch is not None:
            x, w = n.operands
            families.setdefault((x.name, w.shape[0], w.dtype, branch[1] is None), []).append(branch)
    found = []
    for branches in families.values():
        size = sum(graph.weights[m.operands[1].name].array.nbytes for m, _ in branches)
        if 2 <= len(branches) <= MAX_SIBLINGS and size <= context.limits.fold_bytes:
            found.append(_merge(graph, branches, names))
    return rebuild(graph, found)


def _branch(graph: Graph, n: Node) -> Branch | None:
    """A matmul with a constant matrix that nobody else reads, and its bias if the result goes only into the add of one."""
    if (
        n.op != "matmul"
        or n.attr("to") is not None
        or n.operands[1].name not in graph.weights
        or len(n.operands[1].shape) != 2
    ):
        return None
    if len(graph.consumers[n.operands[1].name]) > 1:
        return None
    readers = graph.consumers.get(n.output.name, ())
    if len(readers) != 1 or readers[0].op != "add" or n.output.name in graph.output_names:
        return n, None
    bias = next((v for v in readers[0].operands if v.name != n.output.name), None)
    constant = bias is not None and bias.name in graph.weights and bias.shape == n.operands[1].shape[1:]
    return n, readers[0] if constant else None


def _merge(graph: Graph, branches: Sequence[Branch], names: Names) -> Replacement:
    first = branches[0][0]
    x = first.operands[0]
    matrices = [m.operands[1] for m, _ in branches]
    w = _joined(graph, matrices, 1, names)
    origin = tuple(o for branch in branches for n in branch if n is not None for o in n.origin)
    width = int(w.array.shape[1])
    wide = TensorType(x.dtype, (*first.output.shape[:-1], width))
    product = Value(names.fresh(f"{first.output.name}.merged"), wide)
    nodes, weights = [Node.make("matmul", [x, w.value], [product], origin)], [w]
    adds = [a for _, a in branches if a is not None]
    if adds:
        b = _joined(graph, [next(v for v in a.operands if v.name in graph.weights) for a in adds], 0, names)
        total = Value(names.fresh(f"{adds[0].output.name}.merged"), wide)
        nodes.append(Node.make("add", [product, b.value], [total], origin))
        weights.append(b)
        product = total
    at = 0
    for m, a in branches:
        out = (a or m).output
        rank, columns = len(out.shape), out.shape[-1]
        nodes.append(
            Node.make(
                "slice",
                [product],
                [out],
                (a or m).origin,
                starts=(*(0,) * (rank - 1), at),
                sizes=out.shape,
                steps=(1,) * rank,
            )
        )
        at += int(str(columns))
    removed = tuple(n for branch in branches for n in branch if n is not None)
    return Replacement(removed, tuple(nodes), weights=tuple(weights))


def _joined(graph: Graph, values: Sequence[Value], axis: int, names: Names) -> Weight:
    parts = [graph.weights[v.name] for v in values]
    array = np.concatenate([p.array for p in parts], axis)
    t = TensorType(values[0].dtype, tuple(int(d) for d in array.shape))
    recipe = f"concat[axis={axis}]({', '.join(p.recipe for p in parts)})"
    return Weight(Value(names.fresh(f"{values[0].name}.merged"), t), array, recipe)
