"""Compute what depends on nothing but constants, as far as the result is small enough to keep."""

from __future__ import annotations

import numpy as np

from fusec.errors import FusecError
from fusec.ir.dim import Dim
from fusec.ir.graph import Graph, Node, Value, Weight
from fusec.ir.text import print_node
from fusec.ir.types import DType, TensorType
from fusec.ops import op as ops
from fusec.passes.graph.eliminate_dead import without_dead
from fusec.rewrite.graph_pass import PassContext, graph_pass
from fusec.rewrite.rebuild import Names, Replacement, rebuild

LONGEST_RECIPE = 1 << 14
"""Characters of a recipe beyond which folding stops: sharing within a recipe is written out, so it can double per step."""
SMALL = 4096
"""Bytes below which a constant may be stored expanded."""


@graph_pass("fold-constants")
def fold_constants(graph: Graph, context: PassContext) -> Graph:
    """Replace nodes over constants by constants, each with the recipe that makes it from the model's initialisers.

    before: weight w = init("w"); t = transpose[perm=(1, 0)](w); y = matmul(x, t)
    after:  weight t = transpose[perm=(1, 0)](init("w")); y = matmul(x, t)
    """
    folded: dict[str, Weight] = {}
    names = Names(graph)
    todo: list[Replacement] = []
    for n in graph.nodes:
        sources = [folded.get(v.name) or graph.weights.get(v.name) for v in n.operands]
        weights = [w for w in sources if w is not None]
        if len(weights) != len(sources) or not _foldable(n, weights, context.limits.fold_bytes):
            continue
        is_output = n.output.name in graph.output_names
        if is_output and n.op == "identity":
            continue  # the node that gives a constant the name of an output
        made = _fold(n, weights)
        if made is None:
            continue
        if is_output:
            kept = Value(names.fresh(f"{n.output.name}.value"), made.value.type)
            made = Weight(kept, made.array, made.recipe)
            todo.append(Replacement((n,), (Node.make("identity", [kept], n.outputs, n.origin),), weights=(made,)))
        else:
            todo.append(Replacement((n,), weights=(made,)))
        folded[n.output.name] = made
    return without_dead(rebuild(graph, todo)) if todo else graph


def _foldable(n: Node, weights: list[Weight], most: int) -> bool:
    if n.op == "opaque" or len(n.outputs) != 1:
        return False
    t = n.output.type
    if not isinstance(t, TensorType) or not t.is_static or not t.dtype.is_native:
        return False
    if any(isinstance(x, Dim) for _, a in n.attrs for x in (a if isinstance(a, tuple) else (a,))):
        return False
    size = t.size
    made = size * t.dtype.itemsize if isinstance(size, int) else most + 1
    read = sum(w.array.nbytes for w in weights)
    if n.op == "expand" and made > max(SMALL, read):
        return False  # readers broadcast for nothing; storing the copies would cost memory and bandwidth
    if n.op in ("transpose", "reshape", "mul") and len(t.dims) > 2:
        return made <= max(most, read)  # a convolution's weight in the layout that we chose, a norm's scale in it
    return made <= most


def _fold(n: Node, weights: list[Weight]) -> Weight | None:
    by_name = {v.name: w for v, w in zip(n.operands, weights)}
    args = [None if v is None else by_name[v.name].array for v in n.inputs]
    recipe = recipe_of(n, ["none" if v is None else by_name[v.name].recipe for v in n.inputs])
    if len(recipe) > LONGEST_RECIPE:
        return None
    try:
        with np.errstate(all="ignore"):
            (array,) = ops.get(n.op).reference(args, dict(n.attrs))
    except FusecError:
        return None  # such as an index out of range: the run reports it, with its node
    array = np.ascontiguousarray(array).reshape(array.shape)
    if DType.of(array.dtype) is not n.output.dtype or array.shape != n.output.shape:
        return None
    array.setflags(write=False)
    return Weight(n.output, array, recipe)


def recipe_of(n: Node, operands: list[str]) -> str:
    """A node as a step of a recipe: `transpose[perm=(1, 0)](init("w"))`."""
    bare = Node(n.op, (), (Value("r", n.output.type),), n.attrs)
    head = print_node(bare).partition(" = ")[2].removesuffix("()")
    return f"{head}({', '.join(operands)})"
