"""Recognise the activation functions that exporters write out: swish, hard swish, mish, sigmoid, softplus."""

from __future__ import annotations

from fusec.ir.graph import Graph, Node, Value
from fusec.passes.graph.factors import either, near, plus_number, product_of
from fusec.passes.graph.sweep import Sweep, sweep
from fusec.rewrite.graph_pass import PassContext, graph_pass


@graph_pass("canonicalise-activations")
def canonicalise_activations(graph: Graph, _: PassContext) -> Graph:
    """Give activation functions that are written out their names.

    before: a = sigmoid(x); y = mul(x, a)
    after:  y = swish[alpha=1.0](x)
    """
    return sweep(graph, RULES)


def _sigmoid(s: Sweep, n: Node) -> Value | None:
    """1 / (1 + exp(-x)), also as a reciprocal."""
    if n.op == "div" and s.constant(n.operands[0]) != 1:
        return None
    shifted = plus_number(s, n.operands[-1])
    e = s.maker(shifted[0], "exp") if shifted is not None else None
    negated = s.maker(e.operands[0], "neg") if e is not None else None
    if shifted is None or shifted[1] != 1.0 or e is None or negated is None:
        return None
    s.absorb(shifted[2], e, negated)
    return s.emit("sigmoid", negated.operands[0])


def _softplus(s: Sweep, n: Node) -> Value | None:
    """log(1 + exp(x)), which the op computes without overflow."""
    shifted = plus_number(s, n.operands[0])
    e = s.maker(shifted[0], "exp") if shifted is not None else None
    if shifted is None or shifted[1] != 1.0 or e is None:
        return None
    s.absorb(shifted[2], e)
    return s.emit("softplus", e.operands[0])


def _swish(s: Sweep, n: Node) -> Value | None:
    """x * sigmoid(x), and x * sigmoid(alpha * x)."""
    for gate, x in either(s, n, "sigmoid"):
        argument = gate.operands[0]
        product = product_of(s, argument, stop=x)
        if product.counts() == {x.name: 1}:
            s.absorb(gate, *product.nodes)
            return s.emit("swish", x, alpha=product.number)
    return None


def _mish(s: Sweep, n: Node) -> Value | None:
    """x * tanh(softplus(x))."""
    for gate, x in either(s, n, "tanh"):
        inner = s.maker(gate.operands[0], "softplus")
        if inner is not None and inner.operands[0].name == x.name:
            s.absorb(gate, inner)
            return s.emit("mish", x)
    return None


def _hard_swish(s: Sweep, n: Node) -> Value | None:
    """x * hard_sigmoid(x), and x * clip(x + 3, 0, 6) / 6 in any order."""
    for gate, x in either(s, n, "hard_sigmoid"):
        slope, shift = gate.attr("alpha", 0.2), gate.attr("beta", 0.5)
        if gate.operands[0].name == x.name and near(slope, 1 / 6, x.dtype) and shift == 0.5:
            s.absorb(gate)
            return s.emit("hard_swish", x)
    whole = product_of(s, n.output)
    for factor in whole.values:
        bounds = _bounded(s, factor)
        shifted = plus_number(s, bounds[0]) if bounds is not None else None
        if bounds is None or shifted is None or (shifted[1], *bounds[1:3]) != (3.0, 0.0, 6.0):
            continue
        x = shifted[0]
        product = product_of(s, n.output, stop=x)
        if product.counts() == {x.name: 1, factor.name: 1} and near(product.number, 1 / 6, x.dtype):
            s.absorb(*product.nodes, *bounds[3], shifted[2])
            return s.emit("hard_swish", x)
    return None


def _bounded(s: Sweep, v: Value) -> tuple[Value, float | None, float | None, tuple[Node, ...]] | None:
    """Read a value as x between two bounds: clip, or min of relu."""
    n = s.maker(v, "clip", "min")
    if n is None:
        return None
    if n.op == "clip":
        x, low, high = (*n.inputs, None, None)[:3]
        return None if x is None else (x, _number(s, low), _number(s, high), (n,))
    for inner, bound in either(s, n, "relu"):
        return inner.operands[0], 0.0, _number(s, bound), (n, inner)
    return None


def _number(s: Sweep, v: Value | None) -> float | None:
    c = s.constant(v)
    return None if c is None else float(c)


RULES = {
    "mul": (_swish, _mish, _hard_swish),
    "div": (_sigmoid, _hard_swish),
    "reciprocal": (_sigmoid,),
    "log": (_softplus,),
}
