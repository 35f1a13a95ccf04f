"""Recognise scaled dot-product attention where it is written out."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from fusec.ir.graph import Attr, Graph, Node, Value
from fusec.passes.graph.factors import either
from fusec.passes.graph.sweep import Sweep, sweep
from fusec.rewrite.graph_pass import PassContext, graph_pass

HUGE = {"f64": 1e290, "f32": 1e30, "f16": math.inf, "bf16": 1e30}
"""Fills of masked scores from which on adding a score changes nothing, so that filling and adding are the same.

No finite f16 is so large: kernels add in f32, where -65504 and a score stay apart, and a row that is masked as a whole
would see its scores again.
"""


@graph_pass("canonicalise-attention")
def canonicalise_attention(graph: Graph, _: PassContext) -> Graph:
    """Write softmax(q @ k^T * scale + mask) @ v as `attention`, where nobody else reads the scores.

    before: t = transpose[perm=(0, 2, 1)](k); a = matmul(q, t); b = mul(a, 0.125); p = softmax[axis=2](b); y = matmul(p, v)
    after:  y = attention[causal=false, scale=0.125](q, k, v)
    """
    if not any(n.op == "softmax" for n in graph.nodes):
        return graph
    return sweep(graph, {"matmul": (_attention,)})


@dataclass
class _Scores:
    """What stands between the product q @ k^T and the softmax, gathered on the way back."""

    value: Value
    scale: float
    mask: Value | None
    nodes: list[Node]


def _attention(s: Sweep, n: Node) -> Value | None:
    p, v = n.operands
    guard = _guarded(s, p)
    p = guard[0].operands[0] if guard else p
    softmax = s.maker(p, "softmax")
    if softmax is None or s.readers(p) != (2 if guard else 1) or softmax.attr("axis") != len(p.shape) - 1:
        return None
    scores = _Scores(softmax.operands[0], 1.0, None, [softmax])
    _take_mask(s, scores)
    _take_scale(s, scores)
    product = s.maker(scores.value, "matmul")
    if product is None or s.readers(scores.value) != 1:
        return None
    q, q_scale = _unscaled(s, product.operands[0])
    t, k_scale = _unscaled(s, product.operands[1])
    rank = len(t.shape)
    s.absorb(*guard, *scores.nodes, product)
    k = s.emit("transpose", t, perm=(*range(rank - 2), rank - 1, rank - 2))
    operands = (q, k, v) if scores.mask is None else (q, k, v, scores.mask)
    empty: dict[str, Attr] = {"empty_rows": "zero"} if guard else {}
    return s.emit("attention", *operands, scale=scores.scale * q_scale * k_scale, causal=False, **empty)


def _guarded(s: Sweep, p: Value) -> tuple[Node, ...]:
    """where(isnan(p), 0, p), as torch exports it for rows that see nothing: its nodes, isnan first."""
    n = s.maker(p, "where")
    test = s.maker(n.operands[0], "isnan") if n is not None else None
    if n is None or test is None or s.constant(n.operands[1]) != 0 or s.readers(p) != 1:
        return ()
    same = test.operands[0].name == n.operands[2].name
    return (test, n) if same and s.readers(test.output) == 1 else ()


def _take_mask(s: Sweep, scores: _Scores) -> None:
    """scores + mask, or scores where a condition holds and a huge negative number elsewhere."""
    if s.readers(scores.value) != 1:
        return
    n = s.maker(scores.value, "add", "where")
    if n is None:
        return
    if n.op == "where":
        _take_filled(s, scores, n)
        return
    a, b = n.operands
    for x, mask in ((a, b), (b, a)):
        if _leads_to_product(s, x) and x.shape == n.output.shape:
            scores.value, scores.mask = x, mask
            scores.nodes.append(n)
            return


def _take_filled(s: Sweep, scores: _Scores, n: Node) -> None:
    condition, a, b = n.operands
    for x, fill in ((a, b), (b, a)):
        c = s.constant(fill)
        if c is None or not _leads_to_product(s, x) or x.shape != n.output.shape:
            continue
        if float(c) > -HUGE[str(x.dtype)]:
            continue
        zero, low = s.scalar(0.0, x.dtype), s.scalar(float(c), x.dtype)
        scores.value = x
        scores.mask = s.emit("where", condition, zero, low) if x is a else s.emit("where", condition, low, zero)
        scores.nodes.append(n)
        return


def _leads_to_product(s: Sweep, v: Value) -> bool:
    """Whether a value is a product of matrices, scaled perhaps, that nobody else reads."""
    if s.readers(v) != 1:
        return False
    n = s.maker(v, "matmul", "mul", "div")
    if n is None or n.op == "matmul":
        return n is not None
    return any(s.constant(other) is not None and s.readers(m.output) == 1 for m, other in either(s, n, "matmul"))


def _take_scale(s: Sweep, scores: _Scores) -> None:
    n = s.maker(scores.value, "mul", "div")
    if n is None or s.readers(scores.value) != 1:
        return
    inner, factor = _scaled_by(s, n)
    if inner is not None:
        scores.value, scores.scale = inner, factor
        scores.nodes.append(n)


def _unscaled(s: Sweep, v: Value) -> tuple[Value, float]:
    """q or k before it was multiplied by a number, as exporters do with the square root of the scale."""
    n = s.maker(v, "mul", "div")
    if n is not None:
        inner, factor = _scaled_by(s, n)
        if inner is not None:
            return inner, factor
    return v, 1.0


def _scaled_by(s: Sweep, n: Node) -> tuple[Value | None, float]:
    """The value that a node multiplies or divides by a positive number, and the factor."""
    a, b = n.operands
    pairs = ((a, b), (b, a)) if n.op == "mul" else ((a, b),)
    for x, other in pairs:
        c = s.constant(other)
        if c is not None and x.type == n.output.type and math.isfinite(c) and c > 0:
            factor = float(c) if n.op == "mul" else 1.0 / float(c)
            return (x, factor) if np.isfinite(factor) else (None, 1.0)
    return None, 1.0
