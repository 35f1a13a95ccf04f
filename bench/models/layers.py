"""Layers of image and sound networks: feature maps that know their size and how large their values are.

Weights are scaled by the size of what they multiply, so that activations stay of order one however deep the network is.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from bench.models.builder import ModelBuilder


@dataclass(frozen=True)
class Feature:
    """A feature map [batch, channels, *size]; `energy` is about the mean square of its values."""

    name: str
    channels: int
    size: tuple[int, ...]
    energy: float = 1.0


class Layers:
    """Layers over one builder. `folded` gives convolutions biases; otherwise BatchNormalization nodes follow them."""

    def __init__(self, b: ModelBuilder, folded: bool = False) -> None:
        self.b, self.folded = b, folded

    def image(self, name: str, batch: int, channels: int, *size: int) -> Feature:
        """An input of normal random values."""
        example = self.b.rng.standard_normal((batch, channels, *size)).astype(np.float32)
        return Feature(self.b.input(name, [batch, channels, *size], example), channels, size)

    def conv(
        self,
        x: Feature,
        channels: int,
        kernel: int | Sequence[int],
        stride: int | Sequence[int] = 1,
        dilation: int = 1,
        groups: int = 1,
        bias: bool = True,
        pad: bool = True,
        gain: float = 1.0,
    ) -> Feature:
        """A convolution whose result has about `gain` squared as energy; padded to keep the size where its stride is 1."""
        kernels, strides = _per_axis(kernel, x.size), _per_axis(stride, x.size)
        fan_in = x.channels // groups * math.prod(kernels)
        w = self.b.weight(channels, x.channels // groups, *kernels, scale=gain / math.sqrt(fan_in * x.energy))
        pads = [(k - 1) * dilation // 2 if pad else 0 for k in kernels]
        attributes: dict[str, Any] = {"kernel_shape": kernels, "strides": strides, "pads": pads * 2, "group": groups}
        if dilation > 1:
            attributes["dilations"] = [dilation] * len(kernels)
        y = self.b.op("Conv", x.name, w, *([self.b.weight(channels, scale=0.05)] if bias else []), **attributes)
        each = zip(x.size, kernels, strides, pads, strict=True)
        size = tuple((n + 2 * p - (k - 1) * dilation - 1) // s + 1 for n, k, s, p in each)
        return Feature(y, channels, size, gain * gain)

    def conv_norm(self, x: Feature, channels: int, kernel: int, stride: int = 1, **more: Any) -> Feature:
        """A convolution with its batch normalisation, folded or not."""
        if self.folded:
            return self.conv(x, channels, kernel, stride, **more)
        y = self.conv(x, channels, kernel, stride, bias=False, **more)
        r, c, b = self.b.rng, channels, self.b
        scale = b.constant((0.9 + 0.2 * r.random(c)).astype(np.float32))
        variance = b.constant((0.8 + 0.4 * r.random(c)).astype(np.float32))
        mean = b.weight(c, scale=0.05)
        return replace(y, name=b.op("BatchNormalization", y.name, scale, b.weight(c, scale=0.05), mean, variance))

    def relu(self, x: Feature) -> Feature:
        """Half of the energy passes."""
        return Feature(self.b.op("Relu", x.name), x.channels, x.size, x.energy / 2)

    def relu6(self, x: Feature) -> Feature:
        """Clip to [0, 6], as mobile networks do."""
        return Feature(
            self.b.op("Clip", x.name, self.b.scalar(0.0), self.b.scalar(6.0)), x.channels, x.size, x.energy / 2
        )

    def silu(self, x: Feature) -> Feature:
        """x * sigmoid(x), spelt out as exporters do."""
        y = self.b.op("Mul", x.name, self.b.op("Sigmoid", x.name))
        return Feature(y, x.channels, x.size, x.energy * 0.36)

    def gelu(self, x: Feature) -> Feature:
        """The erf form, spelt out."""
        return Feature(self.b.gelu_erf(x.name), x.channels, x.size, x.energy * 0.43)

    def add(self, x: Feature, y: Feature) -> Feature:
        """A residual addition."""
        return Feature(self.b.op("Add", x.name, y.name), x.channels, x.size, x.energy + y.energy)

    def concat(self, *xs: Feature) -> Feature:
        """Channels side by side."""
        channels = sum(x.channels for x in xs)
        energy = sum(x.channels * x.energy for x in xs) / channels
        return Feature(self.b.op("Concat", *(x.name for x in xs), axis=1), channels, xs[0].size, energy)

    def max_pool(self, x: Feature, kernel: int | Sequence[int], stride: int | Sequence[int], pad: int = 0) -> Feature:
        """The largest of each window."""
        kernels, strides = _per_axis(kernel, x.size), _per_axis(stride, x.size)
        y = self.b.op("MaxPool", x.name, kernel_shape=kernels, strides=strides, pads=[pad] * 2 * len(x.size))
        size = tuple((n + 2 * pad - k) // s + 1 for n, k, s in zip(x.size, kernels, strides, strict=True))
        return Feature(y, x.channels, size, x.energy * 2)

    def upsample(self, x: Feature, factor: int = 2) -> Feature:
        """Nearest neighbours."""
        scales = self.b.constant(np.array([1, 1, *[factor] * len(x.size)], np.float32))
        y = self.b.op("Resize", x.name, "", scales, mode="nearest", nearest_mode="floor",
                      coordinate_transformation_mode="asymmetric")  # fmt: skip
        return replace(x, name=y, size=tuple(n * factor for n in x.size))

    def transposed(self, x: Feature, channels: int) -> Feature:
        """A transposed convolution that doubles the size."""
        axes = len(x.size)
        w = self.b.weight(x.channels, channels, *[2] * axes, scale=1 / math.sqrt(x.channels * x.energy))
        bias = self.b.weight(channels, scale=0.05)
        y = self.b.op("ConvTranspose", x.name, w, bias, kernel_shape=[2] * axes, strides=[2] * axes)
        return Feature(y, channels, tuple(2 * n for n in x.size))

    def classify(self, x: Feature, batch: int, classes: int) -> None:
        """Global average, a linear layer, the output."""
        y = self.b.op("Flatten", self.b.op("GlobalAveragePool", x.name), axis=1)
        y = self.b.op("Gemm", y, self.b.weight(classes, x.channels, scale=1 / math.sqrt(x.channels)),
                      self.b.weight(classes, scale=0.02), transB=1)  # fmt: skip
        self.b.output(y, [batch, classes])


def _per_axis(value: int | Sequence[int], size: Sequence[int]) -> list[int]:
    return [value] * len(size) if isinstance(value, int) else list(value)
