"""Opaque nodes: what has no row runs on the host, with output types from ONNX's own inference where ours has none."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import Any

import onnx

from fusec.frontend.attributes import ONNX_DTYPES, type_of, type_proto
from fusec.frontend.builder import Bound, Contradiction, NotNative
from fusec.frontend.call import Call, domain_of
from fusec.frontend.custom import custom_type_rule, source_of
from fusec.frontend.known import Known
from fusec.frontend.opaque_types import TYPE_RULES
from fusec.frontend.scope import captured_names, subgraphs
from fusec.frontend.support import Refusals
from fusec.frontend.symbols import SymbolTable
from fusec.ir.dim import Extent
from fusec.ir.graph import Value
from fusec.ir.types import DType, MapType, OptionalType, SequenceType, TensorType, Type

SMALL = 4096
"""Constants up to this many elements are shown to ONNX's shape inference."""


def make_opaque(call: Call, refusals: Refusals, why: str, refused: Contradiction | None = None) -> tuple[Value, ...]:
    """Append the node as a host step. Captured outer values of its subgraphs become further inputs."""
    captures = captured_names(call.proto)
    bounds: list[Bound | None] = [*call.inputs, *(_captured(call, name) for name in captures)]
    inputs = [None if b is None else call.builder.data(b, call.origin) for b in bounds]
    if refusals.check(call.proto, call.versions, call.origin[0]):
        types = _output_types(call, inputs, captures, refused)
    else:
        types = tuple(TensorType(DType.F32, None) for _ in call.proto.output)  # the error comes when all are known
    proto = onnx.NodeProto()
    proto.CopyFrom(call.proto)
    proto.ClearField("doc_string")
    return call.builder.add_opaque(
        inputs,
        types,
        call.origin,
        op_type=call.op_type,
        domain=domain_of(call.proto),
        proto=proto.SerializeToString(deterministic=True),
        opsets=tuple(sorted(call.versions.items())),
        captures=captures,
        why=why,
        **source_of(domain_of(call.proto), call.op_type),
    )


def identity_node() -> dict[str, Any]:
    """The attributes of an opaque Identity, for outputs that kernels cannot copy."""
    proto = onnx.helper.make_node("Identity", ["x"], ["y"])
    opsets = (("", int(onnx.defs.onnx_opset_version())),)
    data = proto.SerializeToString(deterministic=True)
    return {
        "op_type": "Identity",
        "domain": "",
        "proto": data,
        "opsets": opsets,
        "captures": (),
        "why": "an output of its own",
    }


def _captured(call: Call, name: str) -> Bound:
    if name not in call.builder.env:
        raise call.error(f"its subgraph reads {name!r}, which nothing produces")
    return call.builder.env[name]


def _output_types(
    call: Call, inputs: Sequence[Value | None], captures: Sequence[str], refused: Contradiction | None
) -> tuple[Type, ...]:
    count = len(call.proto.output)
    kind = domain_of(call.proto), call.op_type
    rule = TYPE_RULES.get(kind) or custom_type_rule(*kind)
    types: Sequence[Type] | None = None
    if rule is not None and refused is None:
        with contextlib.suppress(NotNative, NotImplementedError, LookupError, TypeError, ValueError):
            types = rule(call)
    if types is None:
        types = _inferred(call, inputs, captures, refused)
    return tuple(types[i] if i < len(types) else _guess(call, inputs, i) for i in range(count))


def _inferred(
    call: Call, inputs: Sequence[Value | None], captures: Sequence[str], refused: Contradiction | None
) -> list[Type]:
    """What onnx.shape_inference says of a model of this one node."""
    names: dict[Extent, str] = {}
    graph = onnx.GraphProto(name="one")
    graph.node.append(call.proto)
    graph.node[0].ClearField("doc_string")
    _forget_declared_shapes(graph.node[0])
    seen: set[str] = set()
    for name, value in zip((*call.proto.input, *captures), inputs, strict=True):
        if value is None or name in seen:
            continue
        seen.add(name)
        info = graph.input.add(name=name)
        info.type.CopyFrom(type_proto(value.type, names))
        constant = _small_constant(call, value)
        if constant is not None:
            constant.name = name
            graph.initializer.append(constant)
    for name in call.proto.output:
        graph.output.add(name=name)
    opsets = [onnx.helper.make_opsetid(d, v) for d, v in sorted(call.versions.items())]
    model = onnx.helper.make_model(graph, opset_imports=opsets)
    try:
        found = onnx.shape_inference.infer_shapes(model, strict_mode=refused is not None, data_prop=True).graph
    except Exception as e:  # the onnx package raises RuntimeError, ValueError and its own
        if refused is not None and type(e).__name__ == "InferenceError":
            raise refused.error from None
        found = graph
    by_name = {o.name: o.type for o in (*found.value_info, *found.output) if o.type.WhichOneof("value")}
    back = {text: extent for extent, text in names.items()}
    return [
        _from_proto(by_name[name], back, call.builder.symbols) if name in by_name else _guess(call, inputs, i)
        for i, name in enumerate(call.proto.output)
    ]


def _forget_declared_shapes(node: onnx.NodeProto) -> None:
    """What branches and bodies declare of their outputs may be wrong, and inference would believe it."""
    todo = list(subgraphs(node))
    while todo:
        graph = todo.pop()
        del graph.value_info[:]
        for out in graph.output:
            if out.type.WhichOneof("value") == "tensor_type":
                out.type.tensor_type.ClearField("shape")
        todo.extend(g for n in graph.node for g in subgraphs(n))


def _small_constant(call: Call, value: Value) -> onnx.TensorProto | None:
    known = call.builder.contents.get(value.name)
    array = known.array if isinstance(known, Known) and known.is_static else call.builder.array(value)
    if array is None or array.size > SMALL or array.dtype.kind not in "iubf":
        return None
    return onnx.numpy_helper.from_array(array)


def _from_proto(proto: onnx.TypeProto, back: dict[str, Extent], symbols: SymbolTable) -> Type:
    """A type that inference gave, its symbols turned back into dimensions; unnamed sizes are fresh."""
    if proto.WhichOneof("value") == "tensor_type":
        t = proto.tensor_type
        if t.elem_type not in ONNX_DTYPES.values():
            return TensorType(DType.F32, None)
        dtype = type_of(onnx.TypeProto(tensor_type=onnx.TypeProto.Tensor(elem_type=t.elem_type)), symbols, "")
        assert isinstance(dtype, TensorType)
        if not t.HasField("shape"):
            return dtype
        dims = [_dim_from_proto(d, back, symbols) for d in t.shape.dim]
        return TensorType(dtype.dtype, tuple(dims))
    if proto.WhichOneof("value") == "sequence_type":
        return SequenceType(_from_proto(proto.sequence_type.elem_type, back, symbols))
    if proto.WhichOneof("value") == "optional_type":
        return OptionalType(_from_proto(proto.optional_type.elem_type, back, symbols))
    if proto.WhichOneof("value") == "map_type":
        return type_of(proto, symbols, "")
    return TensorType(DType.F32, None)


def _dim_from_proto(d: onnx.TensorShapeProto.Dimension, back: dict[str, Extent], symbols: SymbolTable) -> Extent:
    if d.HasField("dim_value") and d.dim_value >= 0:
        return int(d.dim_value)
    return back[d.dim_param] if d.dim_param in back else symbols.fresh()


def _guess(call: Call, inputs: Sequence[Value | None], i: int) -> Type:
    """The dtype that the op's schema gives an output, with nothing known of its shape."""
    try:
        schema = onnx.defs.get_schema(call.op_type, call.version, domain_of(call.proto))
    except onnx.defs.SchemaError:
        first = next((v.type for v in inputs if v is not None and isinstance(v.type, TensorType)), None)
        return TensorType(first.dtype if isinstance(first, TensorType) else DType.F32, None)
    formal = schema.outputs[min(i, len(schema.outputs) - 1)].type_str if schema.outputs else ""
    for k, value in enumerate(inputs):
        if value is not None and schema.inputs and schema.inputs[min(k, len(schema.inputs) - 1)].type_str == formal:
            return TensorType(value.type.dtype, None) if isinstance(value.type, TensorType) else value.type
    return _named_type(formal)


def _named_type(text: str) -> Type:
    """A schema's type such as `tensor(int64)` or `seq(map(int64,float))`."""
    by_name = {"float": DType.F32, "double": DType.F64, "float16": DType.F16, "bfloat16": DType.BF16}
    by_name |= {"bool": DType.BOOL, "string": DType.STRING}
    by_name |= {f"{sign}int{bits}": DType(f"{sign or 'i'}{bits}") for sign in ("u", "") for bits in (8, 16, 32, 64)}
    if text.startswith("tensor("):
        return TensorType(by_name.get(text[7:-1], DType.F32), None)
    if text.startswith("seq("):
        return SequenceType(_named_type(text[4:-1]))
    if text.startswith("optional("):
        return OptionalType(_named_type(text[9:-1]))
    if text.startswith("map("):
        key, _, value = text[4:-1].partition(",")
        return MapType(by_name.get(key, DType.I64), _named_type(f"tensor({value.strip()})"))
    return TensorType(DType.F32, None)
