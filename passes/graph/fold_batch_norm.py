"""Fold the scale of a batch norm into the weights of the contraction before it."""

from __future__ import annotations

from fusec.ir.graph import Graph, Node, Value
from fusec.passes.graph.factors import either
from fusec.passes.graph.sweep import Sweep, sweep
from fusec.rewrite.graph_pass import PassContext, graph_pass


@graph_pass("fold-batch-norm")
def fold_batch_norm(graph: Graph, _: PassContext) -> Graph:
    """Scale the columns of a weight instead of the columns of the product; constant folding then does it once.

    before: h = matmul(x, w); y = mul(h, s)        with weights w: f32[K, N], s: f32[N]
    after:  t = mul(w, s); y = matmul(x, t)
    """
    return sweep(graph, {"mul": (_scaled_product, _scaled_sum)})


def _scaled_product(s: Sweep, n: Node) -> Value | None:
    """(x @ w) * s -> x @ (w * s)."""
    for product, scale in either(s, n, "matmul"):
        x, w = product.operands
        if s.readers(product.output) == 1 and _per_column(s, w, scale) and s.array(x) is None:
            s.absorb(product)
            return s.emit("matmul", x, s.emit("mul", w, _flat(s, scale)))
    return None


def _scaled_sum(s: Sweep, n: Node) -> Value | None:
    """(x @ w + b) * s -> x @ (w * s) + b * s."""
    for total, scale in either(s, n, "add"):
        for product, bias in either(s, total, "matmul"):
            x, w = product.operands
            only = s.readers(product.output) == 1 and s.readers(total.output) == 1
            if only and s.array(bias) is not None and _per_column(s, w, scale) and s.array(x) is None:
                s.absorb(product, total)
                scaled = s.emit("mul", w, _flat(s, scale))
                shift = s.emit("mul", bias, scale)
                return s.emit("add", s.emit("matmul", x, scaled), shift)
    return None


def _per_column(s: Sweep, w: Value, scale: Value) -> bool:
    """Whether both are constants, the weight is a matrix and the scale has one number per column of it."""
    if s.array(w) is None or s.array(scale) is None or len(w.shape) != 2 or not scale.shape:
        return False
    columns = w.shape[-1]
    return scale.shape[-1] == columns and all(d == 1 for d in scale.shape[:-1])


def _flat(s: Sweep, scale: Value) -> Value:
    return scale if len(scale.shape) == 1 else s.emit("reshape", scale, shape=scale.shape[-1:])
