"""Scalars as the words of argument blocks."""

from __future__ import annotations

import math

import numpy as np

from fusec.errors import BugError
from fusec.ir.types import DType


def scalar_bits(value: float | int | bool, dtype: DType) -> int:
    """The bits of a number in its dtype, zero-extended to a word (and that word as a signed integer).

    >>> hex(scalar_bits(1.0, DType.F32))
    '0x3f800000'
    """
    if not dtype.is_native:
        raise BugError(f"a kernel cannot take a scalar of dtype {dtype}")
    if dtype.is_float:
        array = np.array([value], np.float64).astype(dtype.numpy)
    elif dtype is DType.BOOL:
        array = np.array([bool(value)])
    else:
        whole = int(value) if not isinstance(value, float) or math.isfinite(value) else 0
        width = 8 * dtype.itemsize
        array = np.array([whole & ((1 << width) - 1)], np.uint64).astype(f"u{dtype.itemsize}")
    return int.from_bytes(array.tobytes().ljust(8, b"\0"), "little", signed=True)
