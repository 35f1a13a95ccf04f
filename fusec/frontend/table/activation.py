"""Activations that onnxruntime fuses into the operator before them."""

from __future__ import annotations

from collections.abc import Sequence

from fusec.frontend.builder import NotNative
from fusec.frontend.call import Call
from fusec.ir.graph import Value

ACTIVATIONS: dict[str, tuple[str, tuple[str, ...], tuple[float, ...]]] = {
    "": ("identity", (), ()),
    "Relu": ("relu", (), ()),
    "Sigmoid": ("sigmoid", (), ()),
    "Tanh": ("tanh", (), ()),
    "LeakyRelu": ("leaky_relu", ("alpha",), (0.01,)),
    "HardSigmoid": ("hard_sigmoid", ("alpha", "beta"), (0.2, 0.5)),
}
"""The attribute activation -> op, the names of its parameters, and their defaults."""


def activated(call: Call, x: Value, given: Sequence[float]) -> Value:
    """The activation that a fused operator ends with, and its parameters where they are given."""
    name = str(call.attr("activation", ""))
    if name == "Clip" and len(given) == 2:
        return call.emit("clip", x, *(call.scalar(v, x.dtype) for v in given))
    if name not in ACTIVATIONS:
        raise NotNative(f"the activation {name!r}")
    op, names, defaults = ACTIVATIONS[name]
    return x if not name else call.emit(op, x, **dict(zip(names, given or defaults, strict=True)))
