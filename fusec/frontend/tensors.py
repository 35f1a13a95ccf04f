"""Tensors of the file as arrays, checked against what they claim before anything is allocated."""

from __future__ import annotations

from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import numpy_helper

from fusec.errors import ModelError
from fusec.frontend.attributes import dtype_of
from fusec.frontend.external_data import read_external
from fusec.frontend.messages import clean
from fusec.ir.types import DType
from fusec.knobs import Limits

_PACKED = {DType.I4: 2, DType.U4: 2, DType.F4E2M1: 2, DType.I2: 4, DType.U2: 4}
"""Elements per byte of the dtypes that share bytes."""


def tensor_array(t: onnx.TensorProto, limits: Limits, folder: Path | None, name: str = "") -> npt.NDArray[Any]:
    """The array of a tensor. ModelError where its sizes are senseless or its data does not fill them exactly."""
    where = f"tensor {clean(name or t.name)!r}"
    dtype = dtype_of(t.data_type, where)
    count = _count(t, where)
    limits.check_bytes(count * max(dtype.itemsize, 1), where)
    if t.data_location == onnx.TensorProto.EXTERNAL:
        return read_external(t, _stored_bytes(count, dtype), dtype, folder, where)
    if t.HasField("raw_data"):
        raw = t.raw_data  # each access makes a copy
        if len(raw) != _stored_bytes(count, dtype) and dtype is not DType.STRING:
            raise ModelError(
                f"{where}: {dtype}{list(t.dims)} takes {_stored_bytes(count, dtype)} bytes, the file has {len(raw)}",
                hint="the file is damaged",
            )
        if dtype not in _PACKED and dtype is not DType.STRING:
            flat = np.frombuffer(raw, dtype=dtype.numpy.newbyteorder("<") if dtype.itemsize > 1 else dtype.numpy)
            return flat.astype(dtype.numpy, copy=False).reshape(tuple(t.dims))
    try:
        array = np.asarray(numpy_helper.to_array(t))
    except Exception as e:  # the onnx package raises whatever numpy met
        raise ModelError(f"{where}: its data does not fit {dtype}{list(t.dims)}", hint=clean(str(e))) from None
    if dtype is DType.STRING:
        array = np.array([s.decode("utf-8", "replace") for s in t.string_data], dtype=object).reshape(tuple(t.dims))
    return array


def sparse_array(t: onnx.SparseTensorProto, limits: Limits, folder: Path | None) -> npt.NDArray[Any]:
    """A sparse initialiser as a dense array."""
    where = f"sparse tensor {clean(t.values.name)!r}"
    if any(d < 0 for d in t.dims):
        raise ModelError(f"{where}: negative size in {list(t.dims)}")
    values = tensor_array(t.values, limits, folder)
    indices = tensor_array(t.indices, limits, folder)
    shape = tuple(t.dims)
    limits.check_bytes(prod(shape) * values.itemsize, where)
    out = np.zeros(shape, dtype=values.dtype)
    flat = np.ravel_multi_index(tuple(indices.T), shape) if indices.ndim == 2 else indices
    if flat.size != values.size or (flat.size and not 0 <= int(flat.min()) <= int(flat.max()) < max(out.size, 1)):
        raise ModelError(f"{where}: its indices lie outside {list(shape)}")
    out.reshape(-1)[flat] = values.reshape(-1)
    return out


def _count(t: onnx.TensorProto, where: str) -> int:
    if any(d < 0 for d in t.dims):
        raise ModelError(f"{where}: negative size in {list(t.dims)}", hint="the file is damaged")
    count = int(prod(t.dims))
    if count >= 2**63:
        raise ModelError(f"{where}: {list(t.dims)} overflows the number of elements", hint="the file is damaged")
    return count


def _stored_bytes(count: int, dtype: DType) -> int:
    per_byte = _PACKED.get(dtype, 1)
    return -(-count // per_byte) if per_byte > 1 else count * dtype.itemsize
