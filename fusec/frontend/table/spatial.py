"""Where the windows of a pooling or a convolution lie: what kernel_shape, strides, dilations, pads and auto_pad say."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from fusec.frontend.call import Call
from fusec.frontend.known import is_at_least, larger, smaller
from fusec.ir.dim import Extent, quotient

LARGEST = (1 << 31) - 1
"""Paddings, strides and dilations beyond this are mistakes, and sizes made of them overflow."""
AUTO_PAD = ("NOTSET", "VALID", "SAME_UPPER", "SAME_LOWER")


@dataclass(frozen=True)
class Windows:
    """Windows over the spatial axes. `after` is the padding behind, `beyond` what ceil_mode needs besides."""

    sizes: tuple[int, ...]
    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    before: tuple[Extent, ...]
    after: tuple[Extent, ...]
    beyond: tuple[Extent, ...]

    @property
    def reaches(self) -> tuple[int, ...]:
        """From the first to behind the last element of a window, per axis."""
        return tuple((k - 1) * d + 1 for k, d in zip(self.sizes, self.dilations))

    @property
    def ends(self) -> tuple[Extent, ...]:
        """All elements that are needed behind the input, per axis."""
        return tuple(a + b for a, b in zip(self.after, self.beyond))


def windows_of(call: Call, spatial: Sequence[Extent], sizes: Sequence[int], ceil_mode: bool = False) -> Windows:
    """The windows of `sizes` elements that a node's attributes describe. ModelError where they contradict."""
    rank = len(spatial)
    sizes = tuple(sizes)
    if len(sizes) != rank or any(k < 1 for k in sizes):
        raise call.error(f"kernel_shape {list(sizes)} does not fit {rank} spatial axes")
    strides, dilations = (_numbers(call, name, rank) for name in ("strides", "dilations"))
    auto = str(call.attr("auto_pad", "NOTSET") or "NOTSET")
    if auto not in AUTO_PAD:
        raise call.error(f"auto_pad {auto!r} is none of {', '.join(AUTO_PAD)}")
    pads = tuple(int(p) for p in call.attr("pads", ()) or (0,) * (2 * rank))
    if len(pads) != 2 * rank or any(not 0 <= p <= LARGEST for p in pads):
        raise call.error(f"pads {list(pads)} does not fit {rank} spatial axes")
    made = Windows(sizes, strides, dilations, pads[:rank], pads[rank:], (0,) * rank)
    if auto.startswith("SAME"):
        made = _same(made, spatial, lower=auto == "SAME_LOWER")
        if any(pads) and (*made.before, *made.after) != pads:
            raise call.error(f"pads {list(pads)} and auto_pad {auto!r} contradict each other")
    elif auto == "VALID" and any(pads):
        raise call.error(f"pads {list(pads)} and auto_pad {auto!r} contradict each other")
    elif ceil_mode:
        made = _rounded_up(made, spatial)
    _check_reach(call, made, spatial)
    return made


def _numbers(call: Call, name: str, rank: int) -> tuple[int, ...]:
    values = tuple(int(v) for v in call.attr(name, ()) or (1,) * rank)
    if len(values) != rank or any(not 1 <= v <= LARGEST for v in values):
        raise call.error(f"{name} {list(values)} does not fit {rank} spatial axes")
    return values


def _same(w: Windows, spatial: Sequence[Extent], lower: bool) -> Windows:
    """Padding for one window per `stride` elements, half of it on either side."""
    before, after = list[Extent](), list[Extent]()
    for n, stride, reach in zip(spatial, w.strides, w.reaches):
        total = quotient(n - 1, stride) * stride + reach - n
        front = quotient(larger(total, 0) + (1 if lower else 0), 2)
        before.append(front)
        after.append(total - front)  # negative where windows leave elements out
    return Windows(w.sizes, w.strides, w.dilations, tuple(before), tuple(after), w.beyond)


def _rounded_up(w: Windows, spatial: Sequence[Extent]) -> Windows:
    """One more window where the last elements would be left out, unless all of it lay in padding."""
    beyond = list[Extent]()
    for n, stride, reach, before, after in zip(spatial, w.strides, w.reaches, w.before, w.after):
        windows = quotient(n + before + after - reach - 1, stride) + 2
        if is_at_least(reach - stride - after, 0) is not True:
            windows = smaller(windows, quotient(n + before - 1, stride) + 1)
        beyond.append((windows - 1) * stride + reach - n - before - after)
    return Windows(w.sizes, w.strides, w.dilations, w.before, w.after, tuple(beyond))


def _check_reach(call: Call, w: Windows, spatial: Sequence[Extent]) -> None:
    for n, reach, before, after in zip(spatial, w.reaches, w.before, w.ends):
        text = f"kernel_shape {list(w.sizes)} reaches over {reach} elements, the padded input has"
        call.require(n + before + after, reach, text)
