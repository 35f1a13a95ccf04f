"""What bench/conv.py measures: convolutions of well-known networks, as tile programs over channels-last images."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Convolution:
    """One row of the table: an image of `c` channels, a window, `o` output channels; bias and relu behind it."""

    name: str
    size: tuple[int, ...]
    c: int
    o: int
    kernel: tuple[int, ...]
    stride: int = 1
    pad: int = 0
    dilation: int = 1
    groups: int = 1

    @property
    def out(self) -> tuple[int, ...]:
        """The output's spatial extents."""
        return tuple(
            (n + 2 * self.pad * (k > 1) - (k - 1) * self.dilation - 1) // self.stride + 1
            for n, k in zip(self.size, self.kernel, strict=True)
        )

    @property
    def flops(self) -> float:
        """Multiplications and additions."""
        return 2.0 * float(np.prod(self.out)) * self.o * self.c / self.groups * float(np.prod(self.kernel))

    @property
    def pads(self) -> list[int]:
        """Padding before and after, as ONNX wants it."""
        return [self.pad * (k > 1) for k in self.kernel] * 2

    @property
    def is_padded_before(self) -> bool:
        """Whether the kernel reads an image that is padded already: few channels come so, one contiguous piece per row."""
        return self.c < 8 and self.pad > 0

    @property
    def params(self) -> dict[str, int]:
        """The parameters of the tile program: sizes are, as in models; strides and the like are numbers in it."""
        inner = {f"K{d}": k for d, k in enumerate(self.kernel)}
        shift = self.pads if self.is_padded_before else [0] * len(self.size)
        sizes = {f"D{d}": n + 2 * p for d, (n, p) in enumerate(zip(self.size, shift, strict=False))}
        rest = {"M": int(np.prod(self.out)), "Q": self.out[-1], "C": self.c // self.groups, "N": self.o // self.groups}
        return inner | sizes | rest | ({"G": self.groups, "P": self.out[0]} if self.groups > 1 else {})

    def text(self) -> str:
        """The tile program over channels-last images."""
        rank, g = len(self.size), self.groups
        if g == self.c > 1:
            return self._depthwise()
        if g > 1 and self.c == self.o and self.c // g in (2, 4):
            return self._narrow()
        axes, extents = ("g, m, n", "g: G, m: M, n: N") if g > 1 else ("m, n", "m: M, n: N")
        channel, column = ("C*g + k", "N*g + n") if g > 1 else ("k", "n")
        taps = "".join(f"k{d}: K{d}, " for d, k in enumerate(self.kernel) if k > 1)
        flat = not taps and self.stride == 1
        source = f"x[m, {channel}]" if flat else self._source(channel)
        image = "M" if flat else ", ".join(f"D{d}" for d in range(rank))
        window = "*".join(f"K{d}" for d, k in enumerate(self.kernel) if k > 1) or "1"
        channels, outputs = ("C*G", "N*G") if g > 1 else ("C", "N")
        return f"""
program conv({", ".join(self.params)})
task {extents}
input x: f32[{image}, {channels}], b: f32[{outputs}]
weight w: f32[{window}*C, {outputs}]
output y: f32[M, {outputs}]
stage {axes}
  t = sum[{taps}k: C]({source} * w[({self._place()})*C + k, {column}])
  y[m, {column}] = max(t + b[{column}], 0.0)
"""

    def _depthwise(self) -> str:
        """A window per channel: no matrix product. Taps are numbers in the program."""
        (r, s), stride, pad = self.kernel, self.stride, self.pad
        return f"""
program conv({", ".join(self.params)})
task p: P, q: Q, n: G
input x: f32[D0, D1, G], b: f32[G]
weight w: f32[{r * s}, G]
output y: f32[P, Q, G]
stage p, q, n
  t = sum[r: {r}, s: {s}](pad(x[p*{stride} + r - {pad}, q*{stride} + s - {pad}, n], 0.0) * w[r*{s} + s, n])
  y[p, q, n] = max(t + b[n], 0.0)
"""

    def _narrow(self) -> str:
        """Several groups in a vector: lanes run over the filters of all groups."""
        (r, s), stride, pad, c = self.kernel, self.stride, self.pad, self.c // self.groups
        source = f"x[p*{stride} + r - {pad}, q*{stride} + s - {pad}, n // {c} * {c} + k]"
        return f"""
program conv({", ".join(self.params)})
task p: P, q: Q, n: N*G
input x: f32[D0, D1, N*G], b: f32[N*G]
weight w: f32[{r * s * c}, N*G]
output y: f32[P, Q, N*G]
stage p, q, n
  t = sum[r: {r}, s: {s}, k: {c}](pad({source}, 0.0) * w[(r*{s} + s)*{c} + k, n])
  y[p, q, n] = max(t + b[n], 0.0)
"""

    def _place(self) -> str:
        """The number of a tap."""
        place = "0"
        for d, k in enumerate(self.kernel):
            if k > 1:
                place = f"({place})*K{d} + k{d}"
        return place

    def _source(self, channel: str) -> str:
        index = []
        for d, k in enumerate(self.kernel):
            place = "m" if len(self.size) == 1 else ("m // Q", "m % Q")[d]
            tap = f" + k{d}*{self.dilation}" if k > 1 else ""
            shift = 0 if self.is_padded_before else self.pads[d]
            index.append(f"({place})*{self.stride}{tap} - {shift}")
        load = f"x[{', '.join(index)}, {channel}]"
        return f"pad({load}, 0.0)" if any(self.pads) and not self.is_padded_before else load

    def operands(self, x: Any, w: Any) -> dict[str, Any]:
        """Image and weights of ONNX, channels first, as the program takes them."""
        image = np.moveaxis(x[0], 0, -1)
        if self.is_padded_before:
            image = np.pad(image, [(p, p) for p in self.pads[: len(self.size)]] + [(0, 0)])
        weight = np.moveaxis(w, (0, 1), (-1, -2))  # window, channels, outputs
        return {"x": np.ascontiguousarray(image), "w": np.ascontiguousarray(weight).reshape(-1, self.o)}


def image(name: str, size: int, c: int, o: int, k: int, stride: int = 1, groups: int = 1) -> Convolution:
    """A square one, padded to keep its size."""
    return Convolution(name, (size, size), c, o, (k, k), stride, k // 2, 1, groups)


CASES = (
    image("3x3", 56, 64, 64, 3),
    image("3x3", 28, 128, 128, 3),
    image("3x3", 14, 256, 256, 3),
    image("3x3", 7, 512, 512, 3),
    image("1x1", 56, 64, 256, 1),
    image("1x1", 56, 256, 64, 1),
    image("1x1", 14, 256, 1024, 1),
    image("1x1", 14, 1024, 256, 1),
    image("1x1", 7, 2048, 512, 1),
    image("3x3 /2", 56, 128, 128, 3, 2),
    image("first 7x7 /2", 224, 3, 64, 7, 2),
    image("first 3x3 /2", 224, 3, 32, 3, 2),
    image("1x1 /2", 56, 256, 512, 1, 2),
    image("1x1 /2", 14, 1024, 2048, 1, 2),
    image("1x1", 56, 64, 64, 1),
    image("1x1", 28, 128, 512, 1),
    image("1x1", 28, 512, 128, 1),
    image("1x1", 7, 512, 2048, 1),
    image("3x3 /2", 28, 256, 256, 3, 2),
    image("3x3 /2", 14, 512, 512, 3, 2),
    image("1x1 narrow", 112, 32, 16, 1),
    image("1x1 widen", 112, 16, 96, 1),
    image("1x1 narrow", 28, 144, 32, 1),
    image("1x1 last", 7, 320, 1280, 1),
    image("depthwise", 112, 32, 32, 3, 1, 32),
    image("depthwise /2", 112, 96, 96, 3, 2, 96),
    image("depthwise", 28, 192, 192, 3, 1, 192),
    image("depthwise", 7, 960, 960, 3, 1, 960),
    image("groups of 4", 56, 128, 128, 3, 1, 32),
    image("groups of 32", 7, 1024, 1024, 3, 1, 32),
    image("few outputs", 128, 64, 3, 3),
    Convolution("dilated", (28, 28), 128, 128, (3, 3), 1, 2, 2),
    Convolution("audio 1-d", (3000,), 80, 384, (3,), 1, 1),
    Convolution("audio 1-d /2", (3000,), 384, 384, (3,), 2, 1),
    Convolution("audio first", (16000,), 1, 512, (10,), 5, 0),
    Convolution("audio dilated", (2000,), 64, 64, (3,), 1, 8, 8),
    image("3x3 odd", 7, 128, 128, 3),
    image("3x3 odd", 13, 256, 256, 3),
    image("3x3 odd", 27, 64, 64, 3),
    image("3x3 odd", 55, 64, 64, 3),
)
"""The first ten are the table that convolutions were first judged by; then ResNet-50, MobileNetV2, ResNeXt, audio, and images
that no whole number of Winograd's tiles covers."""
