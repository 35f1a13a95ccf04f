"""Suite cases as models carry them: small inputs that say what an operator does (shapes, axes, scales) become constants."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper

PARAMETERS: dict[str, tuple[int, ...]] = {
    "Resize": (1, 2, 3), "Upsample": (1,), "Pad": (1, 2, 3), "Slice": (1, 2, 3, 4), "Reshape": (1,), "Expand": (1,),
    "Tile": (1,), "Unsqueeze": (1,), "Squeeze": (1,), "Split": (1,), "ConstantOfShape": (0,), "Range": (0, 1, 2),
    "OneHot": (1,), "CumSum": (1,), "CumProd": (1,), "TopK": (1,), "CenterCropPad": (1,), "AffineGrid": (1,),
    "Trilu": (1,), "DFT": (1, 2), "STFT": (1, 3), "Col2Im": (1, 2),
    **dict.fromkeys(["BlackmanWindow", "HannWindow", "HammingWindow"], (0,)),
    **dict.fromkeys(["ReduceSum", "ReduceMean", "ReduceMax", "ReduceMin", "ReduceProd", "ReduceL1", "ReduceL2",
                     "ReduceLogSum", "ReduceLogSumExp", "ReduceSumSquare"], (1,)),
}  # fmt: skip
"""Operators whose parameters the suite feeds as inputs -> their positions."""


def with_constants(model: onnx.ModelProto, inputs: list[Any]) -> tuple[onnx.ModelProto, list[Any]]:
    """The model with such inputs turned into initializers, and the inputs that are left."""
    wanted = {n.input[i] for n in model.graph.node for i in PARAMETERS.get(n.op_type, ()) if i < len(n.input)}
    out = onnx.ModelProto()
    out.CopyFrom(model)
    kept, left = list[onnx.ValueInfoProto](), list[Any]()
    fed = [v for v in out.graph.input if v.name not in {t.name for t in out.graph.initializer}]
    for info, value in zip(fed, inputs, strict=False):
        if info.name in wanted and isinstance(value, np.ndarray | np.generic):
            out.graph.initializer.append(numpy_helper.from_array(value, info.name))
        else:
            kept.append(info)
            left.append(value)
    names = {v.name for v in kept}
    for v in [v for v in out.graph.input if v.name in wanted and v.name not in names]:
        out.graph.input.remove(v)
    return out, left
