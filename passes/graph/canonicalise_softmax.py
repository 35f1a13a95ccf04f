"""Recognise softmax and log-softmax where they are written out."""

from __future__ import annotations

from fusec.ir.graph import Graph, Node, Value
from fusec.passes.graph.factors import either
from fusec.passes.graph.sweep import Sweep, sweep
from fusec.rewrite.graph_pass import PassContext, graph_pass


@graph_pass("canonicalise-softmax")
def canonicalise_softmax(graph: Graph, _: PassContext) -> Graph:
    """Write exp(x) / sum(exp(x)) as `softmax`, with or without the shift by the largest element.

    before: e = exp(x); t = reduce_sum[axes=(1,), keepdims=true](e); y = div(e, t)
    after:  y = softmax[axis=1](x)
    """
    return sweep(graph, RULES)


def _quotient(s: Sweep, n: Node) -> Value | None:
    e, total = s.maker(n.operands[0], "exp"), s.maker(n.operands[1], "reduce_sum")
    return None if e is None or total is None else _softmax(s, e, total)


def _product(s: Sweep, n: Node) -> Value | None:
    for inverse, other in either(s, n, "reciprocal"):
        e, total = s.maker(other, "exp"), s.maker(inverse.operands[0], "reduce_sum")
        if e is not None and total is not None:
            s.absorb(inverse)
            return _softmax(s, e, total)
    return None


def _softmax(s: Sweep, e: Node, total: Node) -> Value | None:
    axis = _kept_axis(total)
    if axis is None or total.operands[0].name != e.output.name:
        return None
    s.absorb(e, total)
    return s.emit("softmax", _unshifted(s, e.operands[0], axis), axis=axis)


def _unshifted(s: Sweep, v: Value, axis: int) -> Value:
    """x, where the value is x minus its largest element along the axis: the op shifts by itself."""
    n = s.maker(v, "sub")
    largest = s.maker(n.operands[1], "reduce_max") if n is not None else None
    if n is None or largest is None or _kept_axis(largest) != axis or largest.operands[0].name != n.operands[0].name:
        return v
    s.absorb(n, largest)
    return n.operands[0]


def _log_of_softmax(s: Sweep, n: Node) -> Value | None:
    inner = s.maker(n.operands[0], "softmax")
    if inner is None:
        return None
    s.absorb(inner)
    return s.emit("log_softmax", inner.operands[0], axis=inner.attr("axis"))


def _difference(s: Sweep, n: Node) -> Value | None:
    """x - log(sum(exp(x)))."""
    x = n.operands[0]
    log = s.maker(n.operands[1], "log")
    total = s.maker(log.operands[0], "reduce_sum") if log is not None else None
    e = s.maker(total.operands[0], "exp") if total is not None else None
    axis = _kept_axis(total) if total is not None else None
    if log is None or total is None or e is None or axis is None or e.operands[0].name != x.name:
        return None
    s.absorb(log, total, e)
    return s.emit("log_softmax", _unshifted(s, x, axis), axis=axis)


def _kept_axis(n: Node) -> int | None:
    """The one axis that a reduction folds and keeps with size 1."""
    axes: tuple[int, ...] = n.attr("axes")
    return axes[0] if len(axes) == 1 and n.attr("keepdims") else None


RULES = {"div": (_quotient,), "mul": (_product,), "log": (_log_of_softmax,), "sub": (_difference,)}
