"""Small image networks in ONNX's own layout, one for each way in which layers of convolutions meet."""

from __future__ import annotations

from typing import Any

import numpy as np

from bench.models.builder import ModelBuilder


class Net(ModelBuilder):
    """Layers of image networks."""

    def conv(self, x: str, inner: int, outer: int, kernel: int = 3, stride: int = 1, group: int = 1) -> str:
        """A convolution that keeps the size, but for its stride."""
        w = self.weight(outer, inner // group, kernel, kernel, scale=0.2)
        pads = [kernel // 2] * 4
        return str(self.op("Conv", x, w, kernel_shape=[kernel] * 2, strides=[stride] * 2, pads=pads, group=group))

    def norm(self, x: str, width: int) -> str:
        """A batch norm with statistics."""
        one, more = (self.constant(self.rng.uniform(0.5, 1.5, width).astype(np.float32)) for _ in range(2))
        return str(self.op("BatchNormalization", x, one, self.weight(width), self.weight(width), more))

    def block(self, x: str, inner: int, outer: int, **attrs: Any) -> str:
        """Convolution, norm, activation."""
        return str(self.op("Relu", self.norm(self.conv(x, inner, outer, **attrs), outer)))


SIZES = {"N": 2, "H": 17, "W": 16, "L": 20}


def image(name: str, *shape: Any) -> tuple[Net, str]:
    """A network with one input, whose symbols have the SIZES in the example."""
    net = Net(name)
    sizes = [d if isinstance(d, int) else SIZES[d] for d in shape]
    return net, net.input("x", list(shape), net.rng.standard_normal(sizes).astype(np.float32))


def residual() -> Net:
    """A stem, bottlenecks with and without a projection, a classifier; batch and sizes are symbols."""
    net, x = image("residual", "N", 3, "H", "W")
    x = net.op("MaxPool", net.block(x, 3, 8, kernel=7, stride=2), kernel_shape=[3, 3], strides=[2, 2], pads=[1] * 4)
    for inner, outer, stride in ((8, 16, 1), (16, 16, 1), (16, 32, 2)):
        y = net.block(net.block(x, inner, 8, kernel=1), 8, 8, stride=stride)
        y = net.norm(net.conv(y, 8, outer, kernel=1), outer)
        x = net.norm(net.conv(x, inner, outer, 1, stride), outer) if inner != outer else x
        x = net.op("Relu", net.op("Add", y, x))
    x = net.op("Flatten", net.op("GlobalAveragePool", x), axis=1)
    net.output(net.op("Gemm", x, net.weight(5, 32), net.weight(5), transB=1), ["N", 5])
    return net


def inverted() -> Net:
    """Depthwise convolutions, squeeze and excitation, a clip, a convolution whose padding is an op of its own."""
    net, x = image("inverted", "N", 3, 16, 16)
    x = net.op("Pad", net.block(x, 3, 8, stride=2), net.ints(0, 0, 0, 0, 0, 0, 1, 1))
    x = net.op("Conv", x, net.weight(8, 1, 3, 3, scale=0.3), group=8, strides=[2, 2])
    gate = net.op("Relu", net.conv(net.op("ReduceMean", x, axes=[2, 3], keepdims=1), 8, 4, 1))
    gate = net.op("HardSigmoid", net.conv(gate, 4, 8, 1))
    y = net.norm(net.conv(net.op("Mul", x, gate), 8, 12, 1), 12)
    y = net.op("Add", net.op("Mul", net.op("Clip", y, net.scalar(0), net.scalar(6)), net.scalar(0.5)), net.scalar(0.25))
    net.output(net.op("ReduceMean", net.conv(y, 12, 12, group=3), axes=[2, 3], keepdims=0), ["N", 12])
    return net


def encoder_decoder() -> Net:
    """Joined branches, resized ones, a norm per image, one channel out."""
    net, x = image("encoder_decoder", 1, 3, 16, 16)
    a = net.block(x, 3, 8)
    b = net.block(net.op("AveragePool", a, kernel_shape=[2, 2], strides=[2, 2]), 8, 12)
    b = net.op("InstanceNormalization", b, net.weight(12), net.weight(12))
    up = net.op("Resize", b, "", net.constant(np.array([1, 1, 2, 2], np.float32)), mode="nearest",
                coordinate_transformation_mode="asymmetric", nearest_mode="floor")  # fmt: skip
    y = net.block(net.op("Concat", a, up, axis=1), 20, 8)
    y = net.op("Split", y, net.ints(4, 4), axis=1, outputs=2)
    y = net.op("Sigmoid", net.conv(net.op("Mul", y[0], net.op("PRelu", y[1], net.weight(4, 1, 1))), 4, 1))
    net.output(y, [1, 1, 16, 16])
    return net


def upsampling() -> Net:
    """Transposed convolutions: windows side by side, windows that overlap, groups."""
    net, x = image("upsampling", "N", 8, 5, 6)
    x = net.op("Relu", net.norm(net.op("ConvTranspose", x, net.weight(8, 6, 2, 2), net.weight(6), strides=[2, 2]), 6))
    x = net.op(
        "ConvTranspose", x, net.weight(6, 4, 3, 3, scale=0.2), strides=[2, 2], pads=[1] * 4, output_padding=[1, 1]
    )
    x = net.op("ConvTranspose", net.op("LeakyRelu", x, alpha=0.1), net.weight(4, 1, 4, 4), strides=[1, 2], group=4)
    net.output(x, ["N", 4, 23, 50])
    return net


def grouped_norms() -> Net:
    """Norms of groups of channels."""
    net, x = image("grouped_norms", 1, 3, 8, 8)
    net.opset = 21
    for inner in (3, 8):
        x = net.op("GroupNormalization", net.conv(x, inner, 8), net.weight(8), net.weight(8), num_groups=2)
        x = net.op("Mul", x, net.op("Sigmoid", x))
    net.output(net.op("GlobalMaxPool", x), [1, 8, 1, 1])
    return net


def sequence() -> Net:
    """One axis, and two axes that are one in disguise."""
    net, x = image("sequence", "N", 4, "L")
    x = net.op("Conv", x, net.weight(8, 4, 3, scale=0.3), pads=[1, 1])
    x = net.op("Unsqueeze", net.op("Relu", x), net.ints(2))
    x = net.op("Conv", x, net.weight(8, 8, 1, 3, scale=0.2), pads=[0, 1, 0, 1])
    x = net.op("Squeeze", net.op("Softmax", x, axis=1), net.ints(2))
    net.output(net.op("Conv", x, net.weight(1, 8, 5, scale=0.2)), ["N", 1, "M"])
    return net


NETWORKS = {f.__name__: f for f in (residual, inverted, encoder_decoder, upsampling, grouped_norms, sequence)}
