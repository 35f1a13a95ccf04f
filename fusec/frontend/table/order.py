"""Rows of ops along an order of elements: running sums and products, the largest ones, reversal of sequences."""

from __future__ import annotations

from fusec.frontend.builder import NotNative
from fusec.frontend.call import Call, check_equal, row
from fusec.frontend.known import is_at_least
from fusec.frontend.table.gather import positions
from fusec.ir.graph import Value
from fusec.ir.types import DType
from fusec.ops.ordered import RANKED

I64 = DType.I64
MOST_RANKED = 512
"""The longest axis whose elements are all compared with each other."""


@row("CumSum", "CumProd")
def _running(call: Call) -> Value:
    x = call.x()
    (given,) = call.ints(1)
    axis = call.axis(given, len(x.shape))
    fn = "sum" if call.op_type == "CumSum" else "prod"
    exclusive, reverse = bool(call.attr("exclusive", 0)), bool(call.attr("reverse", 0))
    return call.emit("running", x, axis=axis, fn=fn, exclusive=exclusive, reverse=reverse)


@row("Hardmax")
def _hardmax(call: Call) -> Value:
    x, rank = call.x(), len(call.x().shape)
    if call.version >= 13:
        axis = call.axis(int(call.attr("axis", -1)), rank)
        first = call.emit("argmax", x, axis=axis, keepdims=True)
        return call.cast(call.emit("eq", positions(call, x.shape[axis], rank - axis), first), x.dtype)
    from fusec.frontend.table.view import flatten_at  # the old rule flattens to a matrix first

    flat = call.reshape(x, flatten_at(x.shape, call.axis(int(call.attr("axis", 1)), rank)))
    first = call.emit("argmax", flat, axis=1, keepdims=True)
    return call.reshape(call.cast(call.emit("eq", positions(call, flat.shape[1], 1), first), x.dtype), x.shape)


@row("TopK")
def _top_k(call: Call) -> tuple[Value, Value]:
    x, rank = call.x(), len(call.x().shape)
    axis = call.axis(int(call.attr("axis", -1)), rank)
    (k,) = call.extents(1) if call.version >= 10 else (int(call.attrs["k"]),)
    n = x.shape[axis]
    if is_at_least(n, k) is False or is_at_least(k, 0) is False:
        raise call.error(f"k is {k}, axis {axis} of {x.type} has {n} elements")
    call.require(k, 0, "k is")
    call.require(n - k, 0, f"k is {k} of the {n} elements along axis {axis}, which leaves")
    if x.dtype in RANKED:
        values, places = call.builder.emit_all(
            "top_k", (x,), call.origin, axis=axis, k=k, largest=bool(call.attr("largest", 1))
        )
        return values, places
    if not isinstance(n, int) or n > MOST_RANKED:
        raise NotNative(f"comparing each of {n} elements with all others")
    ranks = _ranks(call, x, axis, bool(call.attr("largest", 1)))
    behind = rank - axis
    ranks = call.reshape(ranks, (*x.shape[:axis], 1, *x.shape[axis:]))
    chosen = call.emit("eq", ranks, positions(call, k, behind + 1))
    place = call.emit("where", chosen, positions(call, n, behind), call.scalar(0, I64))
    place = call.emit("reduce_sum", place, axes=(axis + 1,), keepdims=False)
    return call.emit("gather_elements", x, place, axis=axis), place


def _ranks(call: Call, x: Value, axis: int, largest: bool) -> Value:
    """How many elements come before each one: larger ones, or equal ones to the left; NaN counts as the largest."""
    n, behind = x.shape[axis], len(x.shape) - axis
    one = call.reshape(x, (*x.shape[: axis + 1], 1, *x.shape[axis + 1 :]))
    other = call.reshape(x, (*x.shape[:axis], 1, *x.shape[axis:]))
    earlier = call.emit("lt", positions(call, n, behind), positions(call, n, behind + 1))
    before, equal = call.emit("gt" if largest else "lt", other, one), call.emit("eq", other, one)
    if x.dtype.is_float:
        nan, others = call.emit("isnan", one), call.emit("isnan", other)
        first, second = (others, nan) if largest else (nan, others)
        before = call.emit("or", before, call.emit("and", first, call.emit("not", second)))
        equal = call.emit("or", equal, call.emit("and", nan, others))
    before = call.emit("or", before, call.emit("and", equal, earlier))
    return call.emit("reduce_sum", call.cast(before, I64), axes=(axis + 1,), keepdims=False)


@row("ReverseSequence")
def _reverse_sequence(call: Call) -> Value:
    x, lengths = call.x(0), call.cast(call.x(1), I64)
    rank = len(x.shape)
    batch, time = (call.axis(int(call.attr(k, d)), rank) for k, d in (("batch_axis", 1), ("time_axis", 0)))
    if {batch, time} != {0, 1}:
        raise call.error(f"batch_axis {batch} and time_axis {time} must be 0 and 1")
    check_equal(lengths.shape[0], x.shape[batch])
    perm = (batch, time, *range(2, rank))
    y = call.transpose(x, perm)
    steps = positions(call, y.shape[1], 1)
    length = call.reshape(lengths, (y.shape[0], 1))
    mirrored = call.emit("sub", call.emit("sub", length, call.scalar(1, I64)), steps)
    place = call.emit("where", call.emit("lt", steps, length), mirrored, steps)
    y = call.emit("gather_nd", y, call.reshape(place, (*y.shape[:2], 1)), batch_dims=1)
    return call.transpose(y, perm)
