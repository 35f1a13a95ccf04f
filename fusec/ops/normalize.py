"""Softmax and the norms: reductions with pointwise work around them that kernels run as one row program."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from fusec.errors import ModelError
from fusec.ir.types import Type
from fusec.ops.body import reference
from fusec.ops.op import Attrs, Infer, Kind, Op, Reference, register
from fusec.ops.rules import FLOATS, accept, broadcast, check_axis, same_dtype, shape_preserving, show, tensors

Array = npt.NDArray[Any]


def softmax(x: Array, axis: int) -> Array:
    """exp(x) over its sum, shifted by the largest element so that nothing overflows."""
    shifted = np.exp(x - np.max(x, axis=axis, keepdims=True, initial=-np.inf))
    return np.asarray(shifted / np.sum(shifted, axis=axis, keepdims=True))


def _log_softmax(x: Array, axis: int) -> Array:
    shifted = x - np.max(x, axis=axis, keepdims=True, initial=-np.inf)
    return np.asarray(shifted - np.log(np.sum(np.exp(shifted), axis=axis, keepdims=True)))


register(Op("softmax", Kind.REDUCTION, shape_preserving("softmax", FLOATS), reference(softmax, "axis"), None, 25.0))
register(
    Op("log_softmax", Kind.REDUCTION, shape_preserving("log_softmax", FLOATS), reference(_log_softmax, "axis"), None, 25.0)
)  # fmt: skip


def _infer_norm(op: str, most: int) -> Infer:
    """x, then scale and bias, which broadcast to the axes that are normalised."""

    def infer(inputs: Sequence[Type | None], attrs: Attrs) -> tuple[Type, ...]:
        ts = tensors(op, inputs, 1, most)
        same_dtype(op, ts)
        accept(op, ts[0], FLOATS)
        axis = check_axis(op, attrs["axis"], len(ts[0].dims))
        inner = ts[0].dims[axis:]
        for t in ts[1:]:
            joint = broadcast(op, [inner, t.dims])
            if len(joint) != len(inner) or any(isinstance(d, int) and d == 1 != j for d, j in zip(inner, joint)):
                raise ModelError(f"{op}: {show(t.dims)} does not fit the normalised axes {show(inner)}", op=op)
        return (ts[0],)

    return infer


def _norm(centred: bool) -> Reference:
    def reference_of(args: Sequence[Array | None], attrs: Attrs) -> tuple[Array, ...]:
        scale, bias = (*args[1:], None, None)[:2]
        given = [a for a in (args[0], scale, bias) if a is not None]

        def compute(x: Array, *affine: Array) -> Array:
            axes = tuple(range(attrs["axis"], x.ndim))
            d = x - np.mean(x, axis=axes, keepdims=True) if centred else x
            out = d / np.sqrt(np.mean(d * d, axis=axes, keepdims=True) + np.asarray(attrs["epsilon"], x.dtype))
            rest = list(affine)
            out = out * rest.pop(0) if scale is not None else out
            return np.asarray(out + rest.pop(0) if bias is not None else out)

        return reference(compute)(given, {})

    return reference_of


register(Op("layer_norm", Kind.REDUCTION, _infer_norm("layer_norm", 3), _norm(centred=True), None, 8.0))
register(Op("rms_norm", Kind.REDUCTION, _infer_norm("rms_norm", 2), _norm(centred=False), None, 5.0))
