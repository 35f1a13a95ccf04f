"""Recognise layer norm and RMS norm where they are written out, and take in the scale and bias that follow."""

from __future__ import annotations

from dataclasses import dataclass

from fusec.ir.graph import Graph, Node, Value
from fusec.passes.graph.factors import either, plus_number
from fusec.passes.graph.sweep import Sweep, sweep
from fusec.rewrite.graph_pass import PassContext, graph_pass


@graph_pass("canonicalise-norms")
def canonicalise_norms(graph: Graph, _: PassContext) -> Graph:
    """Write (x - mean) / sqrt(variance + epsilon) as `layer_norm`, x / sqrt(mean(x * x) + epsilon) as `rms_norm`.

    before: m = reduce_mean[axes=(1,), keepdims=true](x); d = sub(x, m); q = mul(d, d)
            v = reduce_mean[axes=(1,), keepdims=true](q); e = add(v, 1e-5); r = sqrt(e); n = div(d, r); y = mul(n, g)
    after:  y = layer_norm[axis=1, epsilon=1e-05](x, g)
    """
    return sweep(graph, RULES)


@dataclass(frozen=True)
class _Deviation:
    """sqrt(mean(x * x) + epsilon) over axes from `axis` on, and the nodes that spell it."""

    x: Value
    axis: int
    epsilon: float
    nodes: tuple[Node, ...]


def _quotient(s: Sweep, n: Node) -> Value | None:
    """x / sqrt(...)."""
    root = s.maker(n.operands[1], "sqrt", "pow")
    if root is None or (root.op == "pow" and s.constant(root.operands[1]) != 0.5):
        return None
    deviation = _deviation(s, root)
    return None if deviation is None else _norm(s, n.operands[0], deviation)


def _product(s: Sweep, n: Node) -> Value | None:
    """x * (1 / sqrt(...)): a reciprocal, a quotient, or a power of -0.5."""
    for inverse, x in either(s, n, "reciprocal", "div", "pow"):
        root: Node | None = inverse
        if inverse.op == "pow":
            root = inverse if s.constant(inverse.operands[1]) == -0.5 else None
        elif inverse.op == "reciprocal" or s.constant(inverse.operands[0]) == 1:
            root = s.maker(inverse.operands[-1], "sqrt")
        else:
            root = None
        deviation = _deviation(s, root) if root is not None else None
        if deviation is not None:
            s.absorb(inverse)
            return _norm(s, x, deviation)
    return None


def _deviation(s: Sweep, root: Node) -> _Deviation | None:
    shifted = plus_number(s, root.operands[0])
    mean = s.maker(shifted[0], "reduce_mean") if shifted is not None else None
    if shifted is None or mean is None or shifted[1] < 0:
        return None
    axis = _trailing(mean)
    square = s.maker(mean.operands[0], "mul", "pow")
    if axis is None or square is None:
        return None
    a, b = square.operands
    squares = a.name == b.name if square.op == "mul" else s.constant(b) == 2
    return _Deviation(a, axis, shifted[1], (root, shifted[2], mean, square)) if squares else None


def _norm(s: Sweep, x: Value, d: _Deviation) -> Value | None:
    a, b = s.maker(x, "sub"), s.maker(d.x, "sub")  # two nodes where an exporter wrote the difference twice
    if a is not None and b is not None and a.operands == b.operands and _is_centred(s, a, d.axis):
        s.absorb(a, b, *d.nodes)
        return s.emit("layer_norm", a.operands[0], axis=d.axis, epsilon=d.epsilon)
    if x.name != d.x.name:
        return None
    s.absorb(*d.nodes)
    return s.emit("rms_norm", x, axis=d.axis, epsilon=d.epsilon)


def _is_centred(s: Sweep, n: Node, axis: int) -> bool:
    """Whether a difference is x - mean(x) over axes from `axis` on."""
    mean = s.maker(n.operands[1], "reduce_mean")
    return mean is not None and mean.operands[0].name == n.operands[0].name and _trailing(mean) == axis


def _trailing(n: Node) -> int | None:
    """The first axis of a reduction that keeps its dimensions and folds all axes from there on."""
    axes: tuple[int, ...] = n.attr("axes")
    rank = len(n.operands[0].shape)
    folds_tail = bool(axes) and axes == tuple(range(axes[0], rank))
    return axes[0] if n.attr("keepdims") and folds_tail else None


def _scale(s: Sweep, n: Node) -> Value | None:
    """norm(x) * scale -> norm(x, scale)."""
    for norm, scale in either(s, n, "layer_norm", "rms_norm"):
        if len(norm.operands) == 1 and _fits(s, norm, scale):
            s.absorb(norm)
            return s.emit(norm.op, norm.operands[0], scale, **dict(norm.attrs))
    return None


def _bias(s: Sweep, n: Node) -> Value | None:
    """layer_norm(x, scale) + bias -> layer_norm(x, scale, bias)."""
    for norm, bias in either(s, n, "layer_norm"):
        if len(norm.operands) == 2 and len(norm.inputs) == 2 and _fits(s, norm, bias):
            s.absorb(norm)
            return s.emit("layer_norm", *norm.operands, bias, **dict(norm.attrs))
    return None


def _fits(s: Sweep, norm: Node, v: Value) -> bool:
    """Whether a constant has the shape of the normalised axes, and nobody else reads the norm."""
    inner = norm.output.shape[norm.attr("axis") :]
    return s.array(v) is not None and v.shape == inner and s.readers(norm.output) == 1


RULES = {"div": (_quotient,), "mul": (_product, _scale), "add": (_bias,)}
