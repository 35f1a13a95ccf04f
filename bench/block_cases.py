"""Blocks of convolutions that bench/chains.py measures: inverted bottlenecks of MobileNetV2, bottlenecks of ResNet-50."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from onnx import TensorProto, helper, numpy_helper


@dataclass(frozen=True)
class Block:
    """1x1 from `outside` to `inside` channels, 3x3 (depthwise or not), 1x1 to `made`; with the input added if `residual`."""

    name: str
    size: int
    outside: int
    inside: int
    made: int
    stride: int = 1
    depthwise: bool = True
    residual: bool = False

    def flops(self, batch: int) -> float:
        """Multiplications and additions."""
        before, after = batch * self.size**2, batch * (self.size // self.stride) ** 2
        window = 9 * (1 if self.depthwise else self.inside)
        return 2.0 * self.inside * (before * self.outside + after * (window + self.made))

    def model(self, batch: int) -> tuple[bytes, dict[str, Any]]:
        """The block as ONNX over channels-last images, so that nothing is transposed inside, and its input."""
        rng = np.random.default_rng(0)

        def weight(*shape: int) -> npt.NDArray[np.float32]:
            return (rng.standard_normal(shape) / np.prod(shape[1:]) ** 0.5).astype(np.float32)

        per_group = 1 if self.depthwise else self.inside
        weights = {
            "we": weight(self.inside, self.outside, 1, 1),
            "be": weight(self.inside),
            "wd": weight(self.inside, per_group, 3, 3),
            "bd": weight(self.inside),
            "wp": weight(self.made, self.inside, 1, 1),
            "bp": weight(self.made),
            "low": np.float32(0),
            "high": np.float32(6),
        }
        groups = self.inside if self.depthwise else 1
        nodes = [
            helper.make_node("Transpose", ["x"], ["image"], perm=[0, 3, 1, 2]),
            helper.make_node("Conv", ["image", "we", "be"], ["e"]),
            helper.make_node("Clip", ["e", "low", "high"], ["e6"]),
            helper.make_node("Conv", ["e6", "wd", "bd"], ["d"], group=groups, pads=[1] * 4, strides=[self.stride] * 2),
            helper.make_node("Clip", ["d", "low", "high"], ["d6"]),
            helper.make_node("Conv", ["d6", "wp", "bp"], ["p"]),
            *([helper.make_node("Add", ["image", "p"], ["sum"])] if self.residual else []),
            helper.make_node("Transpose", ["sum" if self.residual else "p"], ["y"], perm=[0, 2, 3, 1]),
        ]
        small = self.size // self.stride
        shapes = {"x": (batch, self.size, self.size, self.outside), "y": (batch, small, small, self.made)}
        x, y = (helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in shapes.items())
        initializers = [numpy_helper.from_array(np.asarray(a), n) for n, a in weights.items()]
        graph = helper.make_graph(nodes, "block", [x], [y], initializers)
        made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
        return made.SerializeToString(), {"x": rng.standard_normal(shapes["x"], dtype=np.float32)}


BLOCKS = (
    Block("mobile_112", 112, 16, 96, 24, stride=2),
    Block("mobile_56", 56, 24, 144, 24, residual=True),
    Block("mobile_56_28", 56, 24, 144, 32, stride=2),
    Block("mobile_28", 28, 32, 192, 32, residual=True),
    Block("mobile_28_14", 28, 32, 192, 64, stride=2),
    Block("mobile_14", 14, 64, 384, 64, residual=True),
    Block("mobile_7", 7, 160, 960, 160, residual=True),
    Block("resnet_56", 56, 256, 64, 256, depthwise=False, residual=True),
    Block("resnet_56_28", 56, 256, 128, 512, stride=2, depthwise=False),
    Block("resnet_14", 14, 1024, 256, 1024, depthwise=False, residual=True),
)
BATCHES = (1, 4)
