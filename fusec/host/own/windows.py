"""The geometry that convolutions and pools share: padding, output sizes, and the input slice under a kernel position."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Windows:
    """Where the kernel's positions fall: per spatial axis its size, stride, dilation, pads and number of windows."""

    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    before: tuple[int, ...]
    after: tuple[int, ...]
    counts: tuple[int, ...]

    @staticmethod
    def of(sizes: Sequence[int], kernel: Sequence[int], attrs: Mapping[str, Any]) -> Windows:
        """The windows of a node over an input of spatial `sizes`. ValueError where there are none along an axis."""
        n = len(sizes)
        strides = tuple(attrs.get("strides") or (1,) * n)
        dilations = tuple(attrs.get("dilations") or (1,) * n)
        pads = tuple(attrs.get("pads") or (0,) * 2 * n)
        before, after, ceil = list(pads[:n]), list(pads[n:]), bool(attrs.get("ceil_mode", 0))
        auto = attrs.get("auto_pad", b"NOTSET")
        auto = auto.decode() if isinstance(auto, bytes) else auto
        counts = []
        for i, (size, k, s, d) in enumerate(zip(sizes, kernel, strides, dilations)):
            reach = (k - 1) * d + 1
            if auto in ("SAME_UPPER", "SAME_LOWER"):
                count = -(-size // s)
                total = max((count - 1) * s + reach - size, 0)
                small, large = total // 2, total - total // 2
                before[i], after[i] = (small, large) if auto == "SAME_UPPER" else (large, small)
            else:
                if auto == "VALID":
                    before[i] = after[i] = 0
                free = size + before[i] + after[i] - reach
                count = (-(-free // s) if ceil else free // s) + 1
                if ceil and (count - 1) * s >= size + before[i]:
                    count -= 1  # the last window would begin in the padding after the end
                after[i] = max(after[i], (count - 1) * s + reach - size - before[i])
            if count < 1:
                raise ValueError(
                    f"kernel_shape {list(kernel)} reaches over {reach} elements, the padded input has "
                    f"{size + before[i] + after[i]}"
                )
            counts.append(count)
        return Windows(tuple(kernel), strides, dilations, tuple(before), tuple(after), tuple(counts))

    def padded(self, x: Array, fill: float) -> Array:
        """The input with its padding around the spatial axes."""
        if not any(self.before) and not any(self.after):
            return x
        sizes = [b + n + a for b, n, a in zip(self.before, x.shape[2:], self.after)]
        out = np.full((*x.shape[:2], *sizes), fill, dtype=x.dtype)
        out[inside(self.before, x.shape[2:])] = x
        return out

    def positions(self) -> Iterator[tuple[int, ...]]:
        """Every kernel position."""
        return product(*(range(k) for k in self.kernel))

    def under(self, padded: Array, position: Sequence[int]) -> Array:
        """The element under one kernel position, for all windows: [N, C, counts...], a view."""
        cuts = (
            slice(p * d, p * d + (c - 1) * s + 1, s)
            for p, d, c, s in zip(position, self.dilations, self.counts, self.strides)
        )
        key: tuple[Any, ...] = (..., *cuts)
        return np.asarray(padded[key])


def inside(before: Sequence[int], sizes: Sequence[int]) -> tuple[Any, ...]:
    """The key of the last axes from `before` on, `sizes` long."""
    return (..., *(slice(b, b + n) for b, n in zip(before, sizes)))
