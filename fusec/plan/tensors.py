"""Weights on disk: the safetensors layout with every tensor on a 64-byte boundary.

The format allows no holes, so padding is tensors of its own (`__pad3`), and the header is filled with spaces; any
safetensors reader can open the result. The library itself aligns to 8 bytes only and accepts duplicate keys, hence the
reader below: it takes nothing but what the writer writes.
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Sequence
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from fusec.errors import PlanError
from fusec.ir.types import DType

ALIGNMENT = 64
_NAMES = {
    DType.F64: "F64", DType.F32: "F32", DType.F16: "F16", DType.BF16: "BF16", DType.I64: "I64", DType.I32: "I32",
    DType.I16: "I16", DType.I8: "I8", DType.U64: "U64", DType.U32: "U32", DType.U16: "U16", DType.U8: "U8",
    DType.BOOL: "BOOL",
}  # fmt: skip
_DTYPES = {v: k for k, v in _NAMES.items()}


class _Tensor(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    dtype: str
    shape: list[int]
    data_offsets: tuple[int, int]


def write(arrays: Sequence[npt.NDArray[Any]]) -> list[bytes | memoryview]:
    """The file as pieces, tensors named by their position: `0`, `1`, ... Dtypes without a safetensors name go as U8."""
    header, pieces, position = dict[str, dict[str, object]](), list[bytes | memoryview](), 0
    for i, array in enumerate(arrays):
        dtype = DType.of(array.dtype)
        raw = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
        shape = list(array.shape) if dtype in _NAMES else [raw.size]
        header[str(i)] = {
            "dtype": _NAMES.get(dtype, "U8"),
            "shape": shape,
            "data_offsets": [position, position + raw.size],
        }
        pieces.append(raw.data)
        position += raw.size
        if pad := -position % ALIGNMENT:
            header[f"__pad{i}"] = {"dtype": "U8", "shape": [pad], "data_offsets": [position, position + pad]}
            pieces.append(bytes(pad))
            position += pad
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-(8 + len(text)) % ALIGNMENT)
    return [struct.pack("<Q", len(text)) + text, *pieces]


def read(data: memoryview, section: str) -> list[npt.NDArray[Any]]:
    """The tensors by position, as read-only views of `data`. PlanError where anything is not as `write` leaves it."""

    def fail(why: str) -> PlanError:
        return PlanError(f"{section} of the plan file is damaged: {why}")

    if len(data) < 8:
        raise fail("no header")
    (length,) = struct.unpack_from("<Q", data)
    if length > min(len(data) - 8, 100 << 20):
        raise fail("the header is longer than the file")
    text = bytes(data[8 : 8 + length])
    try:
        header = msgspec.json.decode(text, type=dict[str, _Tensor], strict=True)
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError) as e:
        raise fail(str(e)) from e
    if text.count(b'"data_offsets"') != len(header):
        raise fail("a tensor is named twice")
    body, out, position = data[8 + length :], list[npt.NDArray[Any]](), 0
    for name, t in header.items():
        low, high = t.data_offsets
        if low != position or high < low or high > len(body) or t.dtype not in _DTYPES or min([0, *t.shape]) < 0:
            raise fail(f"tensor {name!r} is out of place")
        dtype = _DTYPES[t.dtype]
        if math.prod(t.shape) * dtype.itemsize != high - low:
            raise fail(f"tensor {name!r} has another size than its shape says")
        position = high
        if name.startswith("__pad"):
            continue
        if name != str(len(out)):
            raise fail(f"unexpected tensor {name!r}")
        out.append(np.frombuffer(body[low:high], np.uint8).view(dtype.numpy).reshape(t.shape))
    if position != len(body):
        raise fail("bytes after the last tensor")
    return out
