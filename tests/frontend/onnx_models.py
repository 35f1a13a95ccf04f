"""Small ONNX models for the tests of the reader."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from fusec.errors import FusecError
from fusec.frontend.read import read_model

F32 = TensorProto.FLOAT


def info(name: str, shape: Sequence[int | str | None] | None = (2, 3), dtype: int = F32) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, dtype, shape)


def init(name: str, values: Any) -> onnx.TensorProto:
    return numpy_helper.from_array(np.asarray(values), name)


def node(op: str, inputs: str, outputs: str, **attrs: Any) -> onnx.NodeProto:
    """Names separated by spaces; `-` stands for an absent input."""
    absent = {"-": ""}
    return helper.make_node(op, [absent.get(i, i) for i in inputs.split()], outputs.split(), **attrs)


def model(
    nodes: Sequence[onnx.NodeProto],
    inputs: Sequence[onnx.ValueInfoProto] = (),
    outputs: Sequence[onnx.ValueInfoProto] | None = None,
    inits: Sequence[onnx.TensorProto] = (),
    opset: int = 17,
    functions: Sequence[onnx.FunctionProto] = (),
    domains: Sequence[tuple[str, int]] = (),
    ir: int = 9,
) -> onnx.ModelProto:
    outputs = outputs if outputs is not None else [info(nodes[-1].output[0], None)]
    graph = helper.make_graph(list(nodes), "g", list(inputs), list(outputs), list(inits))
    imports = [helper.make_opsetid("", opset), *(helper.make_opsetid(d, v) for d, v in domains)]
    return helper.make_model(graph, opset_imports=imports, functions=list(functions), ir_version=ir)


def relu_model() -> onnx.ModelProto:
    return model([node("Relu", "x", "y")], [info("x")], [info("y")])


def fails(kind: type[FusecError], source: object, *words: str, **options: object) -> FusecError:
    """The error of reading `source`, of this class, on one printable line with these words in it."""
    with pytest.raises(kind) as caught:
        read_model(source, **options)  # type: ignore[arg-type]
    text = str(caught.value)
    for word in words:
        assert word in text, text
    assert all(c.isprintable() for c in text), repr(text)
    return caught.value
