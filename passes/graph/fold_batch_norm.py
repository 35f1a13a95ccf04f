"""Fold the scale of a batch norm into the weights of the contraction before it, or a scale and a shift before it into them."""

from __future__ import annotations

from fusec.ir.graph import Graph, Node, Value
from fusec.passes.graph.factors import either
from fusec.passes.graph.sweep import Sweep, sweep
from fusec.rewrite.graph_pass import PassContext, graph_pass


@graph_pass("fold-batch-norm")
def fold_batch_norm(graph: Graph, _: PassContext) -> Graph:
    """Scale the columns of a weight instead of the columns of the product; constant folding then does it once.

    before: h = conv(x, w); y = mul(h, s)          with weights w: f32[R, S, C, O], s: f32[O]
    after:  t = mul(w, s); y = conv(x, t)
    """
    scaled = (_scaled_input, _shifted_input)
    return sweep(graph, {"mul": (_scaled_product, _scaled_sum), "add": (_summed_twice,), "conv": scaled})


def _scaled_product(s: Sweep, n: Node) -> Value | None:
    """(x @ w) * s -> x @ (w * s)."""
    for product, scale in either(s, n, "matmul", "conv"):
        x, w = product.operands
        if s.readers(product.output) == 1 and _per_column(s, w, scale) and s.array(x) is None:
            s.absorb(product)
            return s.emit(product.op, x, s.emit("mul", w, _flat(s, scale)), **dict(product.attrs))
    return None


def _scaled_sum(s: Sweep, n: Node) -> Value | None:
    """(x @ w + b) * s -> x @ (w * s) + b * s."""
    for total, scale in either(s, n, "add"):
        for product, bias in either(s, total, "matmul", "conv"):
            x, w = product.operands
            only = s.readers(product.output) == 1 and s.readers(total.output) == 1
            if only and s.array(bias) is not None and _per_column(s, w, scale) and s.array(x) is None:
                s.absorb(product, total)
                scaled = s.emit("mul", w, _flat(s, scale))
                shift = s.emit("mul", bias, scale)
                return s.emit("add", s.emit(product.op, x, scaled, **dict(product.attrs)), shift)
    return None


def _summed_twice(s: Sweep, n: Node) -> Value | None:
    """(x @ w + b) + c -> x @ w + (b + c), for a bias and the shift of a norm."""
    for total, more in either(s, n, "add"):
        for product, bias in either(s, total, "matmul", "conv"):
            only = s.readers(product.output) == 1 and s.readers(total.output) == 1
            if only and all(_is_vector(s, v) or _is_number(s, v) for v in (bias, more)):
                s.absorb(product, total)
                return s.emit("add", product.output, s.emit("add", bias, more))
    return None


def _scaled_input(s: Sweep, n: Node) -> Value | None:
    """conv(x * s, w) -> conv(x, w * s), each channel's scale going to the rows of the weight that it meets."""
    x, w = n.operands
    scaled = s.maker(x, "mul")
    if scaled is None or s.readers(x) != 1 or s.array(w) is None or n.attr("to") is not None:
        return None
    for data, scale in (scaled.operands, scaled.operands[::-1]):
        if _is_number(s, scale) and s.array(data) is None and data.shape == x.shape:
            s.absorb(scaled)
            return s.emit("conv", data, s.emit("mul", w, s.emit("reshape", scale, shape=())), **dict(n.attrs))
        if n.attr("groups") != 1:
            continue
        if _is_vector(s, scale) and s.array(data) is None and scale.shape[-1:] == data.shape[-1:] == x.shape[-1:]:
            s.absorb(scaled)
            column = s.emit("reshape", scale, shape=(*scale.shape[-1:], 1))
            return s.emit("conv", data, s.emit("mul", w, column), **dict(n.attrs))
    return None


def _shifted_input(s: Sweep, n: Node) -> Value | None:
    """conv(x + b, w) -> conv(x, w) + sum(w * b), where no window reaches into padding: there are no shifted zeros."""
    x, w = n.operands
    shifted = s.maker(x, "add")
    plain = n.attr("groups") == 1 and all(p == 0 for p in (*n.attr("before"), *n.attr("after")))
    if shifted is None or not plain or n.attr("to") is not None or s.readers(x) != 1 or s.array(w) is None:
        return None
    for data, shift in (shifted.operands, shifted.operands[::-1]):
        if _is_vector(s, shift) and s.array(data) is None and shift.shape[-1:] == data.shape[-1:] == x.shape[-1:]:
            s.absorb(shifted)
            weighted = s.emit("mul", w, s.emit("reshape", shift, shape=(*shift.shape[-1:], 1)))
            total = s.emit("reduce_sum", weighted, axes=tuple(range(len(w.shape) - 1)), keepdims=False)
            return s.emit("add", s.emit("conv", data, w, **dict(n.attrs)), total)
    return None


def _is_vector(s: Sweep, v: Value) -> bool:
    """Whether a value is a constant with one number per channel."""
    return s.array(v) is not None and bool(v.shape) and all(d == 1 for d in v.shape[:-1])


def _per_column(s: Sweep, w: Value, scale: Value) -> bool:
    """Whether both are constants, the weight has a column per filter and the scale has one number for each."""
    if w.dtype is not scale.dtype:
        return False  # the sums of short integers are longer than their weights
    if s.array(w) is None or s.array(scale) is None or len(w.shape) < 2:
        return False
    if _is_number(s, scale):
        return len(w.shape) > 2  # a product of matrices may be attention's, which wants to see its scale
    if not _is_vector(s, scale):
        return False
    return scale.shape[-1] == w.shape[-1] and (len(w.shape) == 2 or len(scale.shape) <= len(w.shape))


def _is_number(s: Sweep, v: Value) -> bool:
    array = s.array(v)
    return array is not None and array.size == 1


def _flat(s: Sweep, scale: Value) -> Value:
    return scale if len(scale.shape) < 2 else s.emit("reshape", scale, shape=scale.shape[-1:])
