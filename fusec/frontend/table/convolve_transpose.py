"""Transposed convolutions as plain ones: each of the output's phases is a filter of its own, and they are interleaved.

Output place `q*stride + phase` sums the kernel's positions `r*stride + phase` over the inputs `q - r`. So the kernel, padded
to a multiple of the stride, is cut into phases and turned around; what remains is a convolution of stride 1.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

from fusec.frontend.builder import NotNative
from fusec.frontend.call import Call, row
from fusec.frontend.known import is_at_least, larger
from fusec.frontend.table.convolve import biased, channels_first, channels_last, group_of, kernel_of, spread
from fusec.frontend.table.pool import padded
from fusec.frontend.table.spatial import AUTO_PAD, LARGEST
from fusec.ir.dim import Extent, floordiv, product
from fusec.ir.graph import Value


@dataclass(frozen=True)
class Spread:
    """The places of a transposed convolution per axis: `before` are cut off in front of `sizes` results."""

    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    before: tuple[Extent, ...]
    sizes: tuple[Extent, ...]
    spatial: tuple[Extent, ...]

    @property
    def reaches(self) -> tuple[int, ...]:
        """From the first to behind the last place that an element goes to."""
        return tuple((k - 1) * d + 1 for k, d in zip(self.kernel, self.dilations))

    @property
    def steps(self) -> tuple[int, ...]:
        """How many inputs meet in a place at most."""
        return tuple(-(-r // s) for r, s in zip(self.reaches, self.strides))

    @property
    def beyond(self) -> tuple[Extent, ...]:
        """Places asked for behind the last that is computed, per axis; negative where some are cut off."""
        whole = ((n + r - 1) * t for n, r, t in zip(self.spatial, self.steps, self.strides))
        return tuple(b + size - w for b, size, w in zip(self.before, self.sizes, whole))

    @property
    def leaves_room(self) -> bool:
        """Whether some places may be asked for that nothing goes to."""
        return any(is_at_least(0, b) is not True for b in self.beyond)


@row("ConvTranspose")
def _conv_transpose(call: Call) -> Value:
    x, w, bias = call.x(0), call.x(1), call.maybe(2)
    rank = len(x.shape)
    if rank < 3 or len(w.shape) != rank:
        raise call.error(f"needs data and a weight of one rank of 3 or more, got {x.type} and {w.type}")
    channels, filters = w.shape[:2]
    if not isinstance(channels, int) or not isinstance(filters, int):
        raise NotNative("a weight of symbolic size")
    groups = int(call.attr("group", 1))
    if groups < 1 or channels % groups:
        raise call.error(f"group {groups} does not divide the {channels} channels of the weight")
    group_of(call, x.shape[1], channels // groups)
    s = _spread(call, x.shape[2:], kernel_of(call, w))
    n = len(s.kernel)
    phases = call.emit(
        "conv",
        channels_last(call, x),
        _phases(call, w, s, groups),
        strides=(1,) * n,
        dilations=(1,) * n,
        before=tuple(r - 1 for r in s.steps),
        after=tuple(r - 1 for r in s.steps),
        groups=groups,
    )
    if bias is not None and bias.shape == (groups * filters,) and not s.leaves_room:
        phases = biased(call, phases, _repeated(call, bias, s, groups))
        bias = None
    return channels_first(call, biased(call, _interleaved(call, phases, s, groups, filters), bias))


def _repeated(call: Call, bias: Value, s: Spread, groups: int) -> Value:
    """A bias for each phase: added ahead of the interleaving, it costs nothing."""
    count = prod(s.strides)
    rows = call.reshape(bias, (groups, product(bias.shape) // groups))
    rows = call.concat([rows] * count, 1)
    return call.reshape(rows, (product(rows.shape),))


def _phases(call: Call, w: Value, s: Spread, groups: int) -> Value:
    """The weight [C, O / groups, ...] as that of a convolution, [..., C / groups, groups * phases * O / groups]."""
    channels, filters = w.shape[:2]
    n = len(s.kernel)
    if any(d != 1 for d in s.dilations):  # positions between those of the kernel are zeros
        w = call.reshape(w, (channels, filters, *spread(s.kernel, (1,) * n)))
        w = padded(call, w, (0,) * (2 + 2 * n), (0, 0, *spread((0,) * n, tuple(d - 1 for d in s.dilations))))
        w = call.reshape(w, (channels, filters, *(k * d for k, d in zip(s.kernel, s.dilations))))
    sizes = tuple(r * t for r, t in zip(s.steps, s.strides))
    w = padded(call, w, (0,) * (2 + n), (0, 0, *(a - b for a, b in zip(sizes, w.shape[2:]))))
    assert isinstance(channels, int)
    w = call.reshape(w, (groups, channels // groups, filters, *spread(s.steps, s.strides)))
    turned = range(3, 3 + 2 * n, 2)
    starts = tuple(d - 1 if i in turned and isinstance(d, int) else 0 for i, d in enumerate(w.shape))
    w = call.emit(
        "slice", w, starts=starts, sizes=w.shape, steps=tuple(-1 if i in turned else 1 for i in range(len(w.shape)))
    )
    w = call.transpose(w, (*turned, 1, 0, *range(4, 4 + 2 * n, 2), 2))
    return call.reshape(w, (*s.steps, channels // groups, groups * prod(s.strides) * filters))


def _interleaved(call: Call, x: Value, s: Spread, groups: int, filters: int) -> Value:
    """[N, ..., groups * phases * O / groups] as [N, ..., O] with the phases in turns, cut to the results asked for."""
    n = len(s.kernel)
    batch, *places, _ = x.shape
    x = call.reshape(x, (batch, *places, groups, *s.strides, filters))
    turns = [i for pair in zip(range(1, 1 + n), range(2 + n, 2 + 2 * n)) for i in pair]
    x = call.transpose(x, (0, *turns, 1 + n, 2 + 2 * n))
    whole = tuple(p * t for p, t in zip(places, s.strides))
    x = call.reshape(x, (batch, *whole, groups * filters))
    front = tuple(b * -1 for b in s.before)
    return padded(call, x, (0, *front, 0), (0, *s.beyond, 0))


def _spread(call: Call, spatial: Sequence[Extent], kernel: tuple[int, ...]) -> Spread:
    """The places that a node's attributes describe. ModelError where they contradict."""
    n = len(spatial)
    strides, dilations = (_numbers(call, name, n, 1) for name in ("strides", "dilations"))
    extra = _numbers(call, "output_padding", n, 0)
    if any(e >= max(t, d) for e, t, d in zip(extra, strides, dilations)):
        raise call.error(f"output_padding {list(extra)} must be less than strides {list(strides)} or dilations")
    auto = str(call.attr("auto_pad", "NOTSET") or "NOTSET")
    if auto not in AUTO_PAD:
        raise call.error(f"auto_pad {auto!r} is none of {', '.join(AUTO_PAD)}")
    pads = tuple(int(p) for p in call.attr("pads", ()) or (0,) * (2 * n))
    if len(pads) != 2 * n or any(not 0 <= p <= LARGEST for p in pads):
        raise call.error(f"pads {list(pads)} does not fit {n} spatial axes")
    if auto != "NOTSET" and any(pads):
        raise call.error(f"pads {list(pads)} and auto_pad {auto!r} contradict each other")
    reaches = [(k - 1) * d + 1 for k, d in zip(kernel, dilations)]
    full = [(size - 1) * t + e + r for size, t, e, r in zip(spatial, strides, extra, reaches)]
    asked = tuple(int(v) for v in call.attr("output_shape", ()) or ())[-n:]
    if asked and (len(asked) != n or any(v < 1 for v in asked)):
        raise call.error(f"output_shape {list(asked)} does not fit {n} spatial axes")
    sizes: tuple[Extent, ...]
    if asked or auto.startswith("SAME"):
        sizes = asked or tuple(size * t for size, t in zip(spatial, strides))
        totals = [larger(f - size, 0) for f, size in zip(full, sizes)]
        before = tuple(floordiv(t + (0 if auto == "SAME_UPPER" else 1), 2) for t in totals)
    else:
        before = pads[:n]
        sizes = tuple(f - b - a for f, b, a in zip(full, pads, pads[n:]))
    for axis, size in enumerate(sizes, 2):
        if is_at_least(size, 1) is False and all(is_at_least(d, 1) for d in spatial):
            raise call.error(f"pads {list(pads)} leave nothing of {full} places")
        if is_at_least(size, 1) is None:
            call.require(size, 1, f"pads {list(pads)} leave too few places along axis {axis}, of which there are")
    return Spread(kernel, strides, dilations, before, sizes, tuple(spatial))


def _numbers(call: Call, name: str, n: int, least: int) -> tuple[int, ...]:
    values = tuple(int(v) for v in call.attr(name, ()) or (least,) * n)
    if len(values) != n or any(not least <= v <= LARGEST for v in values):
        raise call.error(f"{name} {list(values)} does not fit {n} spatial axes")
    return values
