"""Convolutions between images with their channels in front that need no other layout: of single pixels, or of single channels.

    y[o, p] = sum[c](w[o, c] * x[c, p])                  an image [N, C, *S] is a matrix as it lies, and so is the result
    y[c, p, q] = sum[r, s](w[c, r, s] * x[c, p + r, q + s])    rows of pixels fill vectors, where they are long enough

`channels_last` has settled by then which values lie how: what is left here are convolutions whose transposes found nothing
to vanish against.
"""

from __future__ import annotations

from fusec.ir.dim import Extent, product
from fusec.ir.graph import Graph, Node, Value
from fusec.ir.types import DType
from fusec.ops import op as ops
from fusec.ops.op import Kind
from fusec.passes.graph.permutations import inverse, to_last
from fusec.passes.graph.sweep import Sweep, sweep
from fusec.rewrite.graph_pass import PassContext, graph_pass

FEWEST_PIXELS = 128
"""Pixels are the columns of the product, which fill whole panels of registers: of 7 x 7 a quarter would be computed for
nothing, and large weights would be read along rows. 14 x 14 take as long either way (AVX2, Zen 4)."""

LONG_ROW, MOST_TAPS = 56, 9
"""Pixels of a row from which on vectors of neighbours pay, and the taps of a window up to which they do: of 56 x 56 pixels and
3 x 3 taps a lone convolution takes half the time, of 28 x 28 or 5 x 5 the same, of 7 x 7 taps 1.3 times as long."""


@graph_pass("channels-first")
def channels_first(graph: Graph, context: PassContext) -> Graph:
    """Compute convolutions that need not change the layout between two changes of it on images with their channels in front.

    before: u = transpose[perm=(0, 2, 3, 1)](x); c = conv[1 x 1](u, w); r = relu(c); y = transpose[perm=(0, 3, 1, 2)](r)
    after:  p = reshape(x); m = matmul(transpose(w), p); r = relu(m); y = reshape(r)
    """
    if context.target.kind != "cpu":  # not measured anywhere else
        return graph
    return sweep(graph, {"transpose": (_in_front,)})


def _in_front(s: Sweep, n: Node) -> Value | None:
    """The result of convolutions and pointwise work, made as it lies behind the transpose."""
    (x,) = n.operands
    rank = len(x.shape)
    if rank < 3 or n.attr("perm") != inverse(to_last(rank)) or s.maker(x, "transpose") is not None:
        return None
    made = _image(s, x)
    return None if made is None else _shaped(s, made, n.output.shape)


def _image(s: Sweep, v: Value) -> Value | None:
    """A value [N, *S, C] as [N, C, *S] or [N, C, pixels]; None where something in it wants its channels last."""
    return _Region(s, v, flat=True).made(v) or _Region(s, v, flat=False).made(v)


def _shaped(s: Sweep, v: Value, shape: tuple[Extent, ...]) -> Value:
    return v if v.shape == shape else s.emit("reshape", v, shape=shape)


class _Region:
    """The nodes behind a value [N, *S, C], each computed as [N, C, pixels] where it is `flat`, else as [N, C, *S]."""

    def __init__(self, s: Sweep, value: Value, flat: bool) -> None:
        self.s, self.flat = s, flat
        self.batch, *sizes, _ = value.shape
        self.sizes = tuple(sizes)
        self.pixels = product(sizes)
        self.places = (self.pixels,) if flat else self.sizes

    def made(self, v: Value) -> Value | None:
        """A value in the form of the region; None where something in it has no such form."""
        n = self.s.maker(v)
        if n is None or v.shape[:-1] != (self.batch, *self.sizes):
            return None
        if n.op == "transpose" and n.attr("perm") == to_last(len(v.shape)):
            self.s.absorb(n)
            return _shaped(self.s, n.operands[0], (self.batch, v.shape[-1], *self.places))
        if len(n.outputs) != 1 or self.s.readers(v) != 1:
            return None
        if n.op == "conv":
            return self._product(n) if self.flat else self._windows(n)
        return self._pointwise(n) if ops.get(n.op).kind is Kind.ELEMENTWISE else None

    def _product(self, n: Node) -> Value | None:
        x, w = n.operands
        if self.s.array(w) is None or not _mixes_channels(n, w) or _is_few(self.pixels):
            return None
        data = self.made(x)
        if data is None:
            return None
        self.s.absorb(n)
        matrix = self.s.emit("reshape", w, shape=w.shape[-2:])
        return self.s.emit("matmul", self.s.emit("transpose", matrix, perm=(1, 0)), data)

    def _windows(self, n: Node) -> Value | None:
        x, w = n.operands
        if self.s.array(w) is None or not _keeps_channels(n, w):
            return None
        data = _image(self.s, x)
        if data is None:
            return None
        self.s.absorb(n)
        *kernel, _, channels = w.shape
        rank, border = len(kernel), (*n.attr("before"), *n.attr("after"))
        data = _shaped(self.s, data, (self.batch, channels, *x.shape[1:-1]))
        if any(border):
            before, after = ((0, 0, *n.attr(side)) for side in ("before", "after"))
            data = self.s.emit("pad", data, before=before, after=after, mode="constant")
        places, steps = tuple(range(2, 2 + rank)), {name: n.attr(name) for name in ("strides", "dilations")}
        data = self.s.emit("windows", data, axes=places, sizes=tuple(kernel), **steps)
        w = self.s.emit("transpose", w, perm=(rank + 1, rank, *range(rank)))
        w = self.s.emit("reshape", w, shape=(channels, *[1] * rank, *kernel))
        taps = tuple(range(2 + rank, 2 + 2 * rank))
        return self.s.emit("reduce_sum", self.s.emit("mul", data, w), axes=taps, keepdims=False)

    def _pointwise(self, n: Node) -> Value | None:
        inputs = [None if v is None else self._operand(v, n.output) for v in n.inputs]
        if any(made is None and v is not None for made, v in zip(inputs, n.inputs, strict=True)):
            return None
        self.s.absorb(n)
        return self.s.emit(n.op, *inputs, **dict(n.attrs))

    def _operand(self, v: Value, out: Value) -> Value | None:
        """An operand of pointwise work: an image, or numbers per channel that are the same for all pixels."""
        if not v.shape:
            return v
        if v.shape[:-1] == out.shape[:-1] and v.name not in self.s.graph.weights:
            return self.made(v)
        *others, channels = v.shape
        if any(n != 1 for n in others[-len(self.sizes) :]):
            return None
        images: tuple[Extent, ...] = v.shape[:1] if len(v.shape) == len(out.shape) else ()
        return self.s.emit("reshape", v, shape=(*images, channels, *[1] * len(self.places)))


def _mixes_channels(n: Node, w: Value) -> bool:
    """Whether a convolution sees one pixel at a time, all of its channels, in floats."""
    alone = all(k == 1 for k in (*w.shape[:-2], *n.attr("strides"), n.attr("groups")))
    return alone and not any((*n.attr("before"), *n.attr("after"))) and n.output.dtype.is_float


def _keeps_channels(n: Node, w: Value) -> bool:
    """Whether a convolution makes each channel of one, along rows that are known to be long."""
    *_, per_group, channels = w.shape
    row, border = n.output.shape[-2], (*n.attr("before"), *n.attr("after"))
    alone = per_group == 1 and n.attr("groups") == channels and n.output.dtype in (DType.F32, DType.F64)
    alone = alone and isinstance(taps := product(w.shape[:-2]), int) and taps <= MOST_TAPS
    return alone and isinstance(row, int) and row >= LONG_ROW and all(isinstance(p, int) and p >= 0 for p in border)


def _is_few(pixels: Extent) -> bool:
    return isinstance(pixels, int) and pixels < FEWEST_PIXELS
