"""The node of a host step, read from bytes that nobody trusts: the right names and numbers, and no files behind its tensors."""

from __future__ import annotations

from collections.abc import Iterator

import onnx
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

from fusec.errors import PlanError
from fusec.ir.graph import Node


def read_proto(node: Node) -> onnx.NodeProto:
    """The ONNX node of an opaque node. PlanError where the attributes are not those of one, or name a file."""
    proto, captures, opsets = onnx.NodeProto(), node.attr("captures", ()), node.attr("opsets")
    try:
        proto.ParseFromString(node.attr("proto"))
    except (DecodeError, TypeError, KeyError) as e:
        raise PlanError(f"a host step holds no ONNX node: {e}") from e
    named = [*proto.input, *captures] if isinstance(captures, tuple) else []
    if len(named) != len(node.inputs) or len(proto.output) != len(node.outputs) or not all(map(_is_text, named)):
        raise PlanError(
            f"host step {proto.op_type!r} has {len(node.inputs)} inputs and {len(node.outputs)} outputs, its ONNX node "
            f"{len(named)} and {len(proto.output)}"
        )
    if not isinstance(opsets, tuple) or not all(map(_is_version, opsets)):
        raise PlanError(f"host step {proto.op_type!r} has no versions of opsets: {opsets!r}")
    for tensor in _tensors(proto):
        if tensor.data_location == onnx.TensorProto.EXTERNAL or tensor.external_data:
            raise PlanError(
                f"host step {proto.op_type!r} keeps a tensor in another file", hint="store it in the model instead"
            )
    return proto


def _is_text(x: object) -> bool:
    return isinstance(x, str)


def _is_version(x: object) -> bool:
    match x:
        case (str(), int() as version) if 0 <= version < 1 << 31:
            return True
    return False


def _tensors(proto: onnx.NodeProto) -> Iterator[onnx.TensorProto]:
    """Every tensor of a node, those of its subgraphs included."""
    todo: list[onnx.NodeProto | onnx.GraphProto] = [proto]
    while todo:
        at = todo.pop()
        if isinstance(at, onnx.GraphProto):
            yield from at.initializer
            for s in at.sparse_initializer:
                yield from (s.values, s.indices)
            todo += at.node
            continue
        for a in at.attribute:
            yield from (a.t, *a.tensors)
            for s in (a.sparse_tensor, *a.sparse_tensors):
                yield from (s.values, s.indices)
            todo += [a.g, *a.graphs] if a.HasField("g") else a.graphs
