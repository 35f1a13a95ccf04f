"""Recognise GELU, in its exact form and in its tanh form."""

from __future__ import annotations

import math

from fusec.ir.graph import Graph, Node, Value
from fusec.passes.graph.factors import Product, inside, near, plus_number, product_of
from fusec.passes.graph.sweep import Sweep, sweep
from fusec.rewrite.graph_pass import PassContext, graph_pass

CUBIC = 0.044715


@graph_pass("canonicalise-gelu")
def canonicalise_gelu(graph: Graph, _: PassContext) -> Graph:
    """Write x * 0.5 * (1 + erf(x / sqrt 2)) and its tanh approximation as `gelu`, however they are nested.

    before: a = div(x, 1.4142135); b = erf(a); c = add(b, 1.0); d = mul(x, c); y = mul(d, 0.5)
    after:  y = gelu[approximate="none"](x)
    """
    if not any(n.op in ("erf", "tanh") for n in graph.nodes):
        return graph
    return sweep(graph, {"mul": (_gelu,)})


def _gelu(s: Sweep, n: Node) -> Value | None:
    whole = product_of(s, n.output)
    for factor in whole.values:
        shifted = plus_number(s, factor)
        if shifted is None:
            continue
        inner = s.maker(shifted[0], "erf", "tanh")
        if inner is None:
            continue
        for x in inside(s, inner.operands[0]):
            made = _with_variable(s, n, x, factor, shifted, inner)
            if made is not None:
                return made
    return None


def _with_variable(
    s: Sweep, n: Node, x: Value, factor: Value, shifted: tuple[Value, float, Node], inner: Node
) -> Value | None:
    """The GELU of `x`, where the product is 0.5 * x * (1 + f(...x...))."""
    if x.type != n.output.type:
        return None
    whole = product_of(s, n.output, stop=x)
    counts = whole.counts()
    if shifted[1] != 1.0 or counts != {x.name: 1, factor.name: 1} or not near(whole.number, 0.5, x.dtype):
        return None
    argument = product_of(s, inner.operands[0], stop=x)
    fits = _erf_argument(x, argument) if inner.op == "erf" else _tanh_argument(s, x, argument)
    if not fits:
        return None
    s.absorb(*whole.nodes, shifted[2], inner, *argument.nodes)
    return s.emit("gelu", x, approximate="none" if inner.op == "erf" else "tanh")


def _erf_argument(x: Value, argument: Product) -> bool:
    return argument.counts() == {x.name: 1} and near(argument.number, math.sqrt(0.5), x.dtype)


def _tanh_argument(s: Sweep, x: Value, argument: Product) -> bool:
    """c * (x + 0.044715 x x x), or c * x * (1 + 0.044715 x x), with c = sqrt(2 / pi)."""
    if not near(argument.number, math.sqrt(2.0 / math.pi), x.dtype):
        return False
    sums = [v for v in argument.values if v.name != x.name]
    if len(sums) != 1 or len(argument.values) > 2:
        return False
    powers = len(argument.values) - 1  # of x outside the sum
    n = s.maker(sums[0], "add")
    if n is None:
        return False
    for low, high in (n.operands, n.operands[::-1]):
        linear, cubic = product_of(s, low, stop=x), product_of(s, high, stop=x)
        wanted = ({x.name: 1} if powers == 0 else {}, {x.name: 3 - powers})
        if (linear.counts(), cubic.counts()) == wanted and linear.number == 1.0 and near(cubic.number, CUBIC, x.dtype):
            return True
    return False
