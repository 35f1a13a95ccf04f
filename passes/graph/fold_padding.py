"""Fold a border of zeros into the convolution that reads it, which makes it up without a copy of the image."""

from __future__ import annotations

from fusec.ir.dim import Extent
from fusec.ir.graph import Graph, Node, Value
from fusec.ops.convolve import is_padded_ahead
from fusec.passes.graph.sweep import Sweep, sweep
from fusec.rewrite.graph_pass import PassContext, graph_pass


@graph_pass("fold-padding")
def fold_padding(graph: Graph, _: PassContext) -> Graph:
    """Pad the spatial axes in the convolution; exporters write paddings that differ in front and behind as nodes.

    before: p = pad[before=(0, 0, 0, 0), after=(0, 1, 1, 0), mode="constant"](x); y = conv[after=(0, 0)](p, w)
    after:  y = conv[after=(1, 1)](x, w)
    """
    return sweep(graph, {"conv": (_folded,)})


def _folded(s: Sweep, n: Node) -> Value | None:
    x, w = n.operands
    border = s.maker(x, "pad")
    if border is None or s.readers(x) != 1 or border.attr("mode") != "constant":
        return None
    value = border.operands[1] if len(border.operands) > 1 else None
    if value is not None and s.constant(value) != 0:
        return None
    before, after = border.attr("before"), border.attr("after")
    if any(p != 0 for p in (before[0], before[-1], after[0], after[-1])):
        return None
    own = *n.attr("before"), *n.attr("after")
    if not all(map(_is_border, (*before, *after, *own))):  # what crops must not be added to what pads
        return None
    if is_padded_ahead(x.shape[-1], w.shape[-3], n.attr("groups")):
        return None
    s.absorb(border)
    attrs = dict(n.attrs)
    attrs["before"] = tuple(a + b for a, b in zip(before[1:-1], n.attr("before"), strict=True))
    attrs["after"] = tuple(a + b for a, b in zip(after[1:-1], n.attr("after"), strict=True))
    return s.emit("conv", border.operands[0], w, **attrs)


def _is_border(p: Extent) -> bool:
    return isinstance(p, int) and p >= 0
