"""What products are summed in: their factors' dtype, or int32 for short integers, of which the two sides may differ.

Attribute `to` of matmul and conv, absent or i32: the sum of products of i8, u8 and i16, which wraps as int32 does.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from fusec.errors import ModelError
from fusec.ir.types import DType, TensorType
from fusec.ops.body import reference
from fusec.ops.op import Attrs, Reference
from fusec.ops.rules import NUMBERS, accept, same_dtype

Array = npt.NDArray[Any]
SHORT_INTEGERS = frozenset([DType.I8, DType.U8, DType.I16])
"""Dtypes whose elements fit into 16 signed bits."""


def product_dtype(op: str, a: TensorType, b: TensorType, attrs: Attrs) -> DType:
    """The dtype of an op's sums. ModelError where its factors do not go together."""
    to = attrs.get("to")
    if to is None:
        accept(op, a, NUMBERS)
        return same_dtype(op, [a, b])
    if to is not DType.I32 or not {a.dtype, b.dtype} <= SHORT_INTEGERS:
        raise ModelError(f"{op}: sums in {to} are for i8, u8 and i16 in i32, got {a} and {b}", op=op)
    return DType.I32


def product_reference(fn: Callable[..., Any], *names: str) -> Reference:
    """A numpy reference of such an op, from a function of factors of one dtype."""
    plain = reference(fn, *names)

    def compute(args: Sequence[Array | None], attrs: Attrs) -> tuple[Array, ...]:
        if attrs.get("to") is not None:
            args = [None if a is None else a.astype(np.int32) for a in args]
        return plain(args, attrs)

    return compute
