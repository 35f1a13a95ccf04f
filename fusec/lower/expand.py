"""Ops that are several simpler ones: softmax, norms, means and attention become folds with pointwise work around them.

After this every node of a group is elementwise, a view, a gather, a plain fold (reduce_sum ...), argmax, argmin or matmul.
float16 and bfloat16 are accumulated in float32.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from fusec.ir.dim import product
from fusec.ir.expr import Expr, Index, cast, prim
from fusec.ir.graph import Attr, Node, Value
from fusec.ir.types import DType, Type
from fusec.lower.entries import Entry, literal, shift, value_of
from fusec.ops import op as ops

SMALL = frozenset([DType.F16, DType.BF16])


class Expansion:
    """Collects the nodes that stand for one node; `then` applies an op and gives its value."""

    def __init__(self, node: Node) -> None:
        self.node = node
        self.nodes: list[Node] = []

    def then(self, op: str, *inputs: Value | None, **attrs: Attr) -> Value:
        """One more node, which makes a fresh value."""
        first = inputs[0] if inputs else None
        if op in INTERNAL and first is not None:
            t: Type = first.type
        else:
            (t,) = ops.get(op).infer([None if v is None else v.type for v in inputs], attrs)
        return self.add(op, inputs, Value(f"{self.node.outputs[0].name}/{len(self.nodes)}.{op}", t), attrs)

    def add(self, op: str, inputs: Sequence[Value | None], out: Value, attrs: Mapping[str, Attr]) -> Value:
        """One more node, which makes `out`."""
        self.nodes.append(Node.make(op, inputs, (out,), self.node.origin, **attrs))
        return out

    def wide(self, x: Value) -> Value:
        """x in float32 where it is a small float."""
        return self.then("cast", x, to=DType.F32) if x.dtype in SMALL else x

    def finish(self, op: str, *inputs: Value | None, **attrs: Attr) -> None:
        """The last node: makes the output, in the output's dtype."""
        out = self.node.output
        if inputs[0] is not None and inputs[0].dtype is out.dtype:
            self.add(op, inputs, out, attrs)
        else:
            self.add("cast", (self.then(op, *inputs, **attrs),), out, {"to": out.dtype})


def expand(nodes: Sequence[Node]) -> tuple[Node, ...]:
    """The same computation in simple nodes, in topological order."""
    out: list[Node] = []
    for n in nodes:
        if n.op in EXPANSIONS:
            e = Expansion(n)
            EXPANSIONS[n.op](e, n)
            out += e.nodes
        else:
            out.append(n)
    return tuple(out)


def _mean(e: Expansion, x: Value, axes: tuple[int, ...]) -> Value:
    total = e.then("reduce_sum", x, axes=axes, keepdims=True)
    return e.then("divided", total, count=product(x.shape[a] for a in axes))


def _reduce_mean(e: Expansion, n: Node) -> None:
    (x,) = n.operands
    axes = tuple(n.attr("axes"))
    total = e.then("reduce_sum", e.wide(x), axes=axes, keepdims=n.attr("keepdims"))
    e.finish("divided", total, count=product(x.shape[a] for a in axes))


def _wide_fold(e: Expansion, n: Node) -> None:
    (x,) = n.operands
    e.finish(n.op, e.wide(x), axes=tuple(n.attr("axes")), keepdims=n.attr("keepdims"))


def _softmax(e: Expansion, n: Node) -> None:
    (x,) = n.operands
    power, total = _powers(e, e.wide(x), int(n.attr("axis")))
    e.finish("mul", power, e.then("reciprocal", total))


def _powers(e: Expansion, x: Value, axis: int) -> tuple[Value, Value]:
    """exp(x - max), and its sum."""
    top = e.then("reduce_max", x, axes=(axis,), keepdims=True)
    power = e.then("exp", e.then("sub", x, top))
    return power, e.then("reduce_sum", power, axes=(axis,), keepdims=True)


def _log_softmax(e: Expansion, n: Node) -> None:
    (x,) = n.operands
    x, axis = e.wide(x), int(n.attr("axis"))
    top = e.then("reduce_max", x, axes=(axis,), keepdims=True)
    shifted = e.then("sub", x, top)
    total = e.then("reduce_sum", e.then("exp", shifted), axes=(axis,), keepdims=True)
    e.finish("sub", shifted, e.then("log", total))


def _norm(e: Expansion, n: Node) -> None:
    x, scale, bias = (*n.inputs, None, None)[:3]
    assert x is not None
    x = e.wide(x)
    axes = tuple(range(int(n.attr("axis")) % max(1, len(x.shape)), len(x.shape)))
    d = e.then("sub", x, _mean(e, x, axes)) if n.op == "layer_norm" else x
    variance = _mean(e, e.then("mul", d, d), axes)
    root = e.then("inverse_root", variance, epsilon=float(n.attr("epsilon")))
    steps: list[tuple[str, Value]] = [("mul", root)]
    steps += [(op, e.wide(v)) for op, v in (("mul", scale), ("add", bias)) if v is not None]
    for op, v in steps[:-1]:
        d = e.then(op, d, v)
    e.finish(steps[-1][0], d, steps[-1][1])


def _attention(e: Expansion, n: Node) -> None:
    q, k, v, mask = (*n.inputs, None)[:4]
    assert q is not None
    assert k is not None
    assert v is not None
    rank = len(k.shape)
    keys = e.then("transpose", e.wide(k), perm=(*range(rank - 2), rank - 1, rank - 2))
    scores = e.then("matmul", e.wide(q), keys)
    scores = e.then("scaled", scores, scale=float(n.attr("scale")))
    if n.attr("causal"):
        scores = e.then("causal", scores, past=n.attr("past", 0))
    if mask is not None:
        scores = e.then("add", scores, e.wide(mask))
    power, total = _powers(e, scores, len(scores.shape) - 1)
    if not isinstance(k.shape[-2], int):  # of no positions the sum is 0, and so is the result, not 0 times infinity
        total = e.then("one_if_zero", total)
    inverse = e.then("reciprocal", total)
    if n.attr("empty_rows") == "zero":  # a row without a maximum is NaN throughout
        power, inverse = e.then("zero_if_nan", power), e.then("zero_if_nan", inverse)
    # the rows are scaled after the product: the rows of v may be longer than there are positions, but seldom are
    e.finish("mul", e.then("matmul", power, e.wide(v)), inverse)


def _conv(e: Expansion, n: Node) -> None:
    """Padding is a view of its own: its zeros become the fill values of loads."""
    x, w = n.operands
    before, after = n.attr("before"), n.attr("after")
    attrs: dict[str, Attr] = dict(n.attrs)
    if any(p != 0 for p in (*before, *after)):
        x = e.then("pad", x, before=(0, *before, 0), after=(0, *after, 0), mode="constant")
        attrs["before"] = attrs["after"] = (0,) * len(before)
    e.add("conv", (x, w), n.output, attrs)


def _inverse_root(x: Expr, attrs: Mapping[str, Any], _: Sequence[Entry]) -> Expr:
    shifted = prim("add", x, literal(attrs["epsilon"], x.dtype))
    return prim("div", literal(1, x.dtype), prim("sqrt", shifted))


def _divided(x: Expr, attrs: Mapping[str, Any], _: Sequence[Entry]) -> Expr:
    return prim("div", x, cast(Index(attrs["count"]), x.dtype))


def _scaled(x: Expr, attrs: Mapping[str, Any], _: Sequence[Entry]) -> Expr:
    return prim("mul", x, literal(attrs["scale"], x.dtype))


def _zero_if_nan(x: Expr, _: Mapping[str, Any], __: Sequence[Entry]) -> Expr:
    return prim("where", prim("isnan", x), literal(0, x.dtype), x)


def _one_if_zero(x: Expr, _: Mapping[str, Any], __: Sequence[Entry]) -> Expr:
    return prim("where", prim("eq", x, literal(0, x.dtype)), literal(1, x.dtype), x)


def _causal(x: Expr, attrs: Mapping[str, Any], index: Sequence[Entry]) -> Expr:
    """Row t sees positions s <= t + past."""
    seen = prim("le", value_of(index[-1]), value_of(shift(index[-2], attrs["past"])))
    return prim("where", seen, x, literal(-math.inf, x.dtype))


Body = Callable[[Expr, Mapping[str, Any], Sequence[Entry]], Expr]
INTERNAL: dict[str, Body] = {
    "inverse_root": _inverse_root,
    "divided": _divided,
    "scaled": _scaled,
    "causal": _causal,
    "zero_if_nan": _zero_if_nan,
    "one_if_zero": _one_if_zero,
}
"""Elementwise steps of expansions that are no ops of the IR: (element, attributes, index of the element) -> element."""

EXPANSIONS: dict[str, Callable[[Expansion, Node], None]] = {
    "reduce_mean": _reduce_mean,
    "reduce_sum": _wide_fold,
    "reduce_prod": _wide_fold,
    "softmax": _softmax,
    "log_softmax": _log_softmax,
    "layer_norm": _norm,
    "rms_norm": _norm,
    "attention": _attention,
    "conv": _conv,
}
