"""Whole networks keep the layout of their convolutions: how many transposes are left, and that results stay."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from bench.models.builder import ModelBuilder
from bench.models.fetch import MODELS
from fusec.frontend.read import read_model
from fusec.ir.graph import Graph, Node
from fusec.ir.reference import run_reference
from fusec.ir.verify import verify
from fusec.knobs import Limits
from fusec.passes.default import optimise
from fusec.rewrite.graph_pass import PassContext
from fusec.target import Target

CONTEXT = PassContext(Target("cpu", "generic"), Limits(fold_bytes=1 << 20))


class Net(ModelBuilder):
    """Layers of image networks in ONNX's own layout."""

    def conv(self, x: str, inner: int, outer: int, kernel: int = 3, stride: int = 1, group: int = 1) -> str:
        w = self.weight(outer, inner // group, kernel, kernel, scale=0.2)
        pads = [kernel // 2] * 4
        return str(self.op("Conv", x, w, kernel_shape=[kernel] * 2, strides=[stride] * 2, pads=pads, group=group))

    def norm(self, x: str, width: int) -> str:
        one, more = (self.constant(self.rng.uniform(0.5, 1.5, width).astype(np.float32)) for _ in range(2))
        return str(self.op("BatchNormalization", x, one, self.weight(width), self.weight(width), more))

    def block(self, x: str, inner: int, outer: int, **attrs: Any) -> str:
        return str(self.op("Relu", self.norm(self.conv(x, inner, outer, **attrs), outer)))


def image(name: str, *shape: Any) -> tuple[Net, str]:
    net = Net(name)
    sizes = [d if isinstance(d, int) else 2 for d in shape]
    return net, net.input("x", list(shape), net.rng.standard_normal(sizes).astype(np.float32))


def residual() -> Net:
    net, x = image("residual", "N", 3, 17, 16)
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
    y = net.op("Clip", net.norm(net.conv(net.op("Mul", x, gate), 8, 12, 1), 12), net.scalar(0), net.scalar(6))
    net.output(net.op("ReduceMean", y, axes=[2, 3], keepdims=0), ["N", 12])
    return net


def encoder_decoder() -> Net:
    """Joined branches, resized and transposed ones, a normalisation per image, one channel out."""
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


def grouped_norms() -> Net:
    """Channel shuffles are not for free, but norms of groups of channels are."""
    net, x = image("grouped_norms", 1, 3, 8, 8)
    net.opset = 21
    for inner in (3, 8):
        x = net.op("GroupNormalization", net.conv(x, inner, 8), net.weight(8), net.weight(8), num_groups=2)
        x = net.op("Mul", x, net.op("Sigmoid", x))
    net.output(net.op("GlobalMaxPool", x), [1, 8, 1, 1])
    return net


def sequence() -> Net:
    """One axis, and two axes that are one in disguise."""
    net, x = image("sequence", "N", 4, 20)
    x = net.op("Conv", x, net.weight(8, 4, 3, scale=0.3), pads=[1, 1])
    x = net.op("Unsqueeze", net.op("Relu", x), net.ints(2))
    x = net.op("Conv", x, net.weight(8, 8, 1, 3, scale=0.2), pads=[0, 1, 0, 1])
    x = net.op("Squeeze", net.op("Softmax", x, axis=1), net.ints(2))
    net.output(net.op("Conv", x, net.weight(1, 8, 5, scale=0.2)), ["N", 1, 16])
    return net


def transposes(g: Graph) -> list[Node]:
    return [n for n in g.nodes if n.op == "transpose" and n.operands[0].name not in g.weights]


NETS = [(residual, 1), (inverted, 1), (encoder_decoder, 1), (grouped_norms, 1), (sequence, 1)]


@pytest.mark.parametrize(("build", "left"), NETS)
def test_one_transpose_is_left_at_the_input(build: Callable[[], Net], left: int) -> None:
    net = build()
    before = read_model(net.model())
    after = optimise(before, CONTEXT)
    verify(after)
    moved = transposes(after)
    assert [n.operands[0].name for n in moved] == ["x"] * left
    feeds = net.feeds
    for name, want in run_reference(before, feeds).items():
        np.testing.assert_allclose(run_reference(after, feeds)[name], want, rtol=2e-4, atol=2e-5)


def test_norms_are_in_the_weights() -> None:
    g = optimise(read_model(residual().model()), CONTEXT)
    assert "mul" not in {n.op for n in g.nodes}
    biases = sum(n.op == "conv" for n in g.nodes)
    assert sum(n.op == "add" for n in g.nodes) == biases + 3 + 1  # one each, the residual sums, and the classifier's


@pytest.mark.models
@pytest.mark.parametrize(("name", "most"), [("ppocr_cls", 1), ("basic_pitch_nmp", 2), ("silero_vad_16k_sequence", 0)])
def test_real_models(name: str, most: int) -> None:
    path = MODELS[name].path
    if not path.is_file():
        pytest.skip(f"{path} is missing: python -m bench.models.fetch")
    assert len(transposes(optimise(read_model(str(path)), CONTEXT))) <= most
