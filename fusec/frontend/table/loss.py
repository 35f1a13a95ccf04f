"""Rows of the losses of classifiers."""

from __future__ import annotations

from fusec.frontend.builder import NotNative
from fusec.frontend.call import Call, check_equal, row
from fusec.ir.graph import Value
from fusec.ir.types import DType

I64 = DType.I64


@row("NegativeLogLikelihoodLoss")
def _likelihood(call: Call) -> Value:
    return likelihood(call, call.x(0))


@row("SoftmaxCrossEntropyLoss")
def _cross_entropy(call: Call) -> tuple[Value, Value | None]:
    scores = call.x(0)
    if len(scores.shape) < 2:
        raise call.error(f"needs a batch and classes, got {scores.type}")
    logarithms = call.emit("log_softmax", scores, axis=1)
    return likelihood(call, logarithms), logarithms if call.wants(1) else None


def likelihood(call: Call, x: Value) -> Value:
    """The loss of log probabilities [N, C, ...] for the classes in input 1, weighed by input 2 where it is there."""
    classes, kind = call.cast(call.x(1), I64), str(call.attr("reduction", "mean"))
    if kind not in ("none", "sum", "mean"):
        raise call.error(f"reduction {kind!r} is none of none, sum, mean")
    if len(x.shape) < 2 or len(classes.shape) != len(x.shape) - 1:
        raise call.error(f"classes {classes.type} do not fit {x.type}")
    for a, b in zip(classes.shape, (x.shape[0], *x.shape[2:])):
        check_equal(a, b)
        if a != b:
            raise call.error(f"classes {classes.type} do not fit {x.type}")
    counted: Value | None = None
    if "ignore_index" in call.attrs:
        counted = call.emit("ne", classes, call.scalar(int(call.attrs["ignore_index"]), I64))
        classes = call.emit("where", counted, classes, call.scalar(0, I64))
    column = call.reshape(classes, (classes.shape[0], 1, *classes.shape[1:]))
    found = call.reshape(call.emit("gather_elements", x, column, axis=1), classes.shape)
    loss, weight = call.emit("neg", found), _weights(call, classes, counted, x.dtype)
    if weight is not None:
        zero = call.scalar(0, x.dtype)
        loss = call.emit("mul", loss, weight)
        loss = loss if counted is None else call.emit("where", counted, loss, zero)
    axes = tuple(range(len(loss.shape)))
    if kind == "none":
        return loss
    if kind == "mean" and weight is None:
        return call.emit("reduce_mean", loss, axes=axes, keepdims=False)
    total = call.emit("reduce_sum", loss, axes=axes, keepdims=False)
    if kind == "sum" or weight is None:
        return total
    return call.emit("div", total, call.emit("reduce_sum", weight, axes=axes, keepdims=False))


def _weights(call: Call, classes: Value, counted: Value | None, dtype: DType) -> Value | None:
    """How much each element counts: by its class, and not at all where it is left out."""
    if not call.has(2):
        return None if counted is None else call.cast(counted, dtype)
    weights = call.x(2)
    if len(weights.shape) != 1:
        raise NotNative("weights of more than one axis")
    weight = call.emit("gather", weights, classes, axis=0)
    return weight if counted is None else call.emit("where", counted, weight, call.scalar(0, dtype))
