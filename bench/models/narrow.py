"""A float32 model with 16-bit floats instead: weights, constants and values, as exporters of half precision write it."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

NAMES = {"bf16": TensorProto.BFLOAT16, "f16": TensorProto.FLOAT16}
OPSET = 17
"""From here on all operators of bench.models take both types."""


def narrowed(model: onnx.ModelProto, name: str) -> onnx.ModelProto:
    """A copy whose float32 tensors are `bf16` or `f16`. ValueError where its operators are older than bfloat16."""
    if any(o.domain == "" and o.version < OPSET for o in model.opset_import):
        raise ValueError(f"{model.graph.name} has operators older than version {OPSET}")
    out, to = onnx.ModelProto(), NAMES[name]
    out.CopyFrom(model)
    graph = out.graph
    for value in (*graph.input, *graph.output, *graph.value_info):
        if value.type.tensor_type.elem_type == TensorProto.FLOAT:
            value.type.tensor_type.elem_type = to
    for weight in graph.initializer:
        _narrow(weight, to)
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.name == "to" and attribute.i == TensorProto.FLOAT:
                attribute.i = to
            if attribute.HasField("t"):
                _narrow(attribute.t, to)
    return out


def _narrow(tensor: onnx.TensorProto, to: int) -> None:
    if tensor.data_type == TensorProto.FLOAT:
        dtype: np.dtype[Any] = helper.tensor_dtype_to_np_dtype(to)
        tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor).astype(dtype), tensor.name))
