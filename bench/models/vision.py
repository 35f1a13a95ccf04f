"""Image networks with seeded weights: ResNet-50, MobileNetV2, a U-Net, a detector and a text recogniser."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from bench.models.builder import ModelBuilder
from bench.models.layers import Feature, Layers


def resnet50(batch: int = 1, image: int = 224, depths: tuple[int, ...] = (3, 4, 6, 3), width: int = 64) -> ModelBuilder:
    """ResNet-50 (the variant with the stride in the 3x3 convolution), batch normalisation as nodes of its own."""
    b = ModelBuilder("resnet50")
    n = Layers(b)
    x = n.max_pool(n.relu(n.conv_norm(n.image("image", batch, 3, image, image), width, 7, 2)), 3, 2, 1)
    for stage, depth in enumerate(depths):
        inner = width << stage
        for i in range(depth):
            stride = 2 if stage and i == 0 else 1
            y = n.relu(n.conv_norm(x, inner, 1))
            y = n.relu(n.conv_norm(y, inner, 3, stride))
            y = n.conv_norm(y, 4 * inner, 1, gain=0.5)
            short = n.conv_norm(x, 4 * inner, 1, stride) if i == 0 else x
            both = n.add(y, short)
            x = replace(n.relu(both), energy=both.energy)  # the sum is mostly positive, so that ReLU passes most of it
    n.classify(x, batch, 1000)
    return b


MOBILE = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1))
"""MobileNetV2: expansion, channels, blocks, first stride."""


def mobilenet_v2(batch: int = 1, image: int = 224, rows: tuple[tuple[int, ...], ...] = MOBILE) -> ModelBuilder:
    """MobileNetV2: inverted residuals, depthwise convolutions, ReLU6."""
    b = ModelBuilder("mobilenet_v2")
    n = Layers(b)
    x = n.relu6(n.conv_norm(n.image("image", batch, 3, image, image), 32, 3, 2))
    for expansion, channels, blocks, first in rows:
        for i in range(blocks):
            stride, inner = first if i == 0 else 1, expansion * x.channels
            y = n.relu6(n.conv_norm(x, inner, 1)) if expansion > 1 else x
            y = n.relu6(n.conv_norm(y, inner, 3, stride, groups=inner))
            y = n.conv_norm(y, channels, 1, gain=0.7)
            x = n.add(x, y) if stride == 1 and x.channels == channels else y
    n.classify(n.relu6(n.conv_norm(x, 4 * 320 if rows is MOBILE else 64, 1)), batch, 1000)
    return b


def unet(batch: int = 1, image: int = 192, width: int = 32, levels: int = 4) -> ModelBuilder:
    """A U-Net: pairs of 3x3 convolutions, transposed convolutions on the way up, skips by concatenation."""
    b = ModelBuilder("unet")
    n = Layers(b, folded=True)

    def pair(x: Feature, channels: int) -> Feature:
        return n.relu(n.conv(n.relu(n.conv(x, channels, 3)), channels, 3))

    x, skips = n.image("image", batch, 3, image, image), []
    for level in range(levels):
        skips.append(pair(x, width << level))
        x = n.max_pool(skips[-1], 2, 2)
    x = pair(x, width << levels)
    for level in reversed(range(levels)):
        x = pair(n.concat(skips[level], n.transposed(x, width << level)), width << level)
    b.output(b.op("Sigmoid", n.conv(x, 2, 1).name), [batch, 2, image, image])
    return b


def detector(batch: int = 1, image: int = 320, width: int = 32, classes: int = 80) -> ModelBuilder:
    """A one-stage detector: split residual stages with SiLU, pooling pyramid, feature pyramid, three decoded heads."""
    b = ModelBuilder("detector")
    n = Layers(b, folded=True)

    def block(x: Feature, channels: int, kernel: int = 3, stride: int = 1) -> Feature:
        return n.silu(n.conv(x, channels, kernel, stride))

    def stage(x: Feature, channels: int, depth: int, residual: bool = True) -> Feature:
        y, side = block(x, channels // 2, 1), block(x, channels // 2, 1)
        for _ in range(depth):
            z = block(block(y, channels // 2, 1), channels // 2)
            y = n.add(y, z) if residual else z
        return block(n.concat(y, side), channels, 1)

    x = block(n.image("image", batch, 3, image, image), width, 3, 2)
    levels = []
    for i, depth in enumerate((1, 2, 3, 1)):
        x = stage(block(x, width << i + 1, 3, 2), width << i + 1, depth)
        levels.append(x)
    y = block(x, x.channels // 2, 1)
    pools = [y]
    for _ in range(3):
        pools.append(n.max_pool(pools[-1], 5, 1, 2))
    x = block(n.concat(*pools), x.channels, 1)
    heads = [x]
    for skip in (levels[2], levels[1]):
        x = block(x, skip.channels, 1)
        x = stage(n.concat(n.upsample(x), skip), skip.channels, 1, residual=False)
        heads.insert(0, x)
    b.output(b.op("Concat", *(_decode(n, h, batch, image, classes) for h in heads), axis=1),
             [batch, sum(3 * h.size[0] * h.size[1] for h in heads), 5 + classes])  # fmt: skip
    return b


def _decode(n: Layers, head: Feature, batch: int, image: int, classes: int) -> str:
    """Raw predictions of one level -> boxes in pixels, objectness and class scores."""
    b, (h, w) = n.b, head.size
    y = b.op("Reshape", n.conv(head, 3 * (5 + classes), 1).name, b.ints(batch, 3, 5 + classes, h * w))
    y = b.op("Sigmoid", b.op("Transpose", y, perm=[0, 1, 3, 2]))
    place, size, rest = b.op("Split", y, b.ints(2, 2, 1 + classes), outputs=3, axis=-1)
    grid = np.stack(np.meshgrid(np.arange(w), np.arange(h)), -1).reshape(1, 1, h * w, 2).astype(np.float32) - 0.5
    anchors = (np.array([[1, 2], [2, 1], [2, 2]], np.float32) * 4 * image / w).reshape(1, 3, 1, 2)
    place = b.op("Mul", b.op("Add", b.op("Mul", place, b.scalar(2.0)), b.constant(grid)), b.scalar(image / w))
    size = b.op("Mul", b.op("Pow", b.op("Mul", size, b.scalar(2.0)), b.scalar(2.0)), b.constant(anchors))
    return str(b.op("Reshape", b.op("Concat", place, size, rest, axis=-1), b.ints(batch, 3 * h * w, 5 + classes)))


def crnn(batch: int = 1, length: int = 256, hidden: int = 256, classes: int = 97, width: int = 64) -> ModelBuilder:
    """A text recogniser: convolutions down to one row, two bidirectional LSTMs, character scores per column."""
    b = ModelBuilder("crnn")
    n = Layers(b)
    x = n.relu(n.conv_norm(n.image("image", batch, 1, 32, length), width, 3))
    x = n.relu(n.conv_norm(n.max_pool(x, 2, 2), 2 * width, 3))
    x = n.max_pool(x, 2, 2)
    x = n.relu(n.conv_norm(n.relu(n.conv_norm(x, 4 * width, 3)), 4 * width, 3))
    x = n.max_pool(x, (2, 1), (2, 1))
    x = n.relu(n.conv_norm(n.relu(n.conv_norm(x, 8 * width, 3)), 8 * width, 3))
    x = n.max_pool(x, (2, 1), (2, 1))
    x = n.relu(n.conv(x, 8 * width, 2, pad=False))
    steps = b.op("Transpose", b.op("Squeeze", x.name, b.ints(2)), perm=[2, 0, 1])
    inner = 8 * width
    for _ in range(2):
        steps, inner = lstm(b, steps, inner, hidden, both=True), 2 * hidden
        steps = b.op("Reshape", b.op("Transpose", steps, perm=[0, 2, 1, 3]), b.ints(0, 0, inner))
    y = b.op("Softmax", b.linear(steps, inner, classes, scale=8.0), axis=-1)
    b.output(y, [x.size[1], batch, classes])
    return b


def lstm(b: ModelBuilder, x: str, inner: int, hidden: int, both: bool = False) -> str:
    """An LSTM node over [steps, batch, inner]; its Y output [steps, directions, batch, hidden]."""
    ways = 2 if both else 1
    w = b.weight(ways, 4 * hidden, inner, scale=2 / inner**0.5)
    r = b.weight(ways, 4 * hidden, hidden, scale=1.5 / hidden**0.5)
    bias = b.weight(ways, 8 * hidden, scale=0.05)
    direction = "bidirectional" if both else "forward"
    y, *_ = b.op("LSTM", x, w, r, bias, outputs=3, hidden_size=hidden, direction=direction)
    return str(y)
