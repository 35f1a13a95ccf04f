"""ONNX attributes and types as Python values."""

from __future__ import annotations

from typing import Any

import onnx
from onnx import AttributeProto, TensorProto

from fusec.errors import ModelError
from fusec.frontend.messages import clean
from fusec.frontend.symbols import SymbolTable
from fusec.ir.dim import Extent
from fusec.ir.types import DType, MapType, OptionalType, SequenceType, TensorType, Type

DTYPES: dict[int, DType] = {
    TensorProto.FLOAT: DType.F32,
    TensorProto.DOUBLE: DType.F64,
    TensorProto.FLOAT16: DType.F16,
    TensorProto.BFLOAT16: DType.BF16,
    TensorProto.INT64: DType.I64,
    TensorProto.INT32: DType.I32,
    TensorProto.INT16: DType.I16,
    TensorProto.INT8: DType.I8,
    TensorProto.UINT64: DType.U64,
    TensorProto.UINT32: DType.U32,
    TensorProto.UINT16: DType.U16,
    TensorProto.UINT8: DType.U8,
    TensorProto.BOOL: DType.BOOL,
    TensorProto.COMPLEX64: DType.C64,
    TensorProto.COMPLEX128: DType.C128,
    TensorProto.STRING: DType.STRING,
    TensorProto.FLOAT8E4M3FN: DType.F8E4M3FN,
    TensorProto.FLOAT8E4M3FNUZ: DType.F8E4M3FNUZ,
    TensorProto.FLOAT8E5M2: DType.F8E5M2,
    TensorProto.FLOAT8E5M2FNUZ: DType.F8E5M2FNUZ,
    TensorProto.FLOAT8E8M0: DType.F8E8M0,
    TensorProto.FLOAT4E2M1: DType.F4E2M1,
    TensorProto.INT4: DType.I4,
    TensorProto.UINT4: DType.U4,
    TensorProto.INT2: DType.I2,
    TensorProto.UINT2: DType.U2,
}
ONNX_DTYPES: dict[DType, int] = {d: n for n, d in DTYPES.items()}


def dtype_of(code: int, where: str) -> DType:
    """The dtype of an ONNX element type. ModelError where there is none of that number."""
    if code not in DTYPES:
        raise ModelError(f"{where}: unknown element type {code}", hint="the file is damaged or newer than this fusec")
    return DTYPES[code]


def attribute_values(node: onnx.NodeProto) -> dict[str, Any]:
    """The attributes of a node; tensors become arrays on use, so they and graphs stay protos."""
    return {a.name: attribute_value(a) for a in node.attribute}


def attribute_value(a: AttributeProto) -> Any:
    """One attribute as a Python value."""
    match a.type:
        case AttributeProto.FLOAT:
            return float(a.f)
        case AttributeProto.INT:
            return int(a.i)
        case AttributeProto.STRING:
            return a.s.decode("utf-8", "replace")
        case AttributeProto.FLOATS:
            return tuple(float(v) for v in a.floats)
        case AttributeProto.INTS:
            return tuple(int(v) for v in a.ints)
        case AttributeProto.STRINGS:
            return tuple(s.decode("utf-8", "replace") for s in a.strings)
        case AttributeProto.TENSOR:
            return a.t
        case AttributeProto.GRAPH:
            return a.g
        case AttributeProto.SPARSE_TENSOR:
            return a.sparse_tensor
        case AttributeProto.TYPE_PROTO:
            return a.tp
    return None


def type_of(proto: onnx.TypeProto, symbols: SymbolTable, name: str) -> Type:
    """The type that a ValueInfo declares; axes without a name get symbols of their own."""
    where = f"value {clean(name)!r}"
    match proto.WhichOneof("value"):
        case "tensor_type":
            dtype = dtype_of(proto.tensor_type.elem_type, where)
            if not proto.tensor_type.HasField("shape"):
                return TensorType(dtype, None)
            dims = proto.tensor_type.shape.dim
            return TensorType(dtype, tuple(_extent(d, symbols, name, i) for i, d in enumerate(dims)))
        case "sequence_type":
            return SequenceType(type_of(proto.sequence_type.elem_type, symbols, name))
        case "optional_type":
            return OptionalType(type_of(proto.optional_type.elem_type, symbols, name))
        case "map_type":
            return MapType(dtype_of(proto.map_type.key_type, where), type_of(proto.map_type.value_type, symbols, name))
        case "sparse_tensor_type":
            raise ModelError(f"{where} is a sparse tensor", hint="fusec reads dense tensors only")
    raise ModelError(f"{where} has no type", hint="export the model with types, or run onnx.shape_inference first")


def type_proto(t: Type, names: dict[Extent, str]) -> onnx.TypeProto:
    """The ONNX form of a type; symbolic sizes are named through `names`, which is extended."""
    out = onnx.TypeProto()
    if isinstance(t, TensorType):
        out.tensor_type.elem_type = ONNX_DTYPES[t.dtype]
        if t.shape is not None:
            out.tensor_type.shape.SetInParent()
            for d in t.shape:
                dim = out.tensor_type.shape.dim.add()
                if isinstance(d, int):
                    dim.dim_value = d
                else:
                    dim.dim_param = names.setdefault(d, f"s{len(names)}")
    elif isinstance(t, SequenceType):
        out.sequence_type.elem_type.CopyFrom(type_proto(t.element, names))
    elif isinstance(t, OptionalType):
        out.optional_type.elem_type.CopyFrom(type_proto(t.element, names))
    else:
        out.map_type.key_type = ONNX_DTYPES[t.key]
        out.map_type.value_type.CopyFrom(type_proto(t.value, names))
    return out


def _extent(d: onnx.TensorShapeProto.Dimension, symbols: SymbolTable, name: str, axis: int) -> Extent:
    if d.WhichOneof("value") == "dim_value" and d.dim_value >= 0:
        return int(d.dim_value)
    if d.WhichOneof("value") == "dim_param" and d.dim_param.strip(" ?"):
        return symbols.named(str(d.dim_param))
    return symbols.unnamed(name, axis)
