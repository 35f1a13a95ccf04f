"""Row of onnxruntime's GroupQueryAttention: heads that share keys, rotary positions, caches that each batch fills differently.

https://github.com/microsoft/onnxruntime/blob/main/docs/ContribOperators.md#com.microsoft.GroupQueryAttention
"""

from __future__ import annotations

from math import inf

from fusec.frontend.builder import NotNative
from fusec.frontend.call import Call, row
from fusec.frontend.known import larger
from fusec.frontend.table.gather import positions
from fusec.frontend.table.transformer import Mask, grouped_attention, rotated
from fusec.ir.dim import Extent, exact_quotient
from fusec.ir.graph import Value
from fusec.ir.types import DType

QUERY, KEY, VALUE, PAST_KEY, PAST_VALUE, LAST, TOTAL, COS, SIN, IDS = range(10)


@row("GroupQueryAttention", domain="com.microsoft")
def _group_query_attention(call: Call) -> tuple[Value | None, ...]:
    """`LAST` is each batch's last position that is not padding; its queries are those up to there, or from 0 in a prompt."""
    if (
        call.attr("softcap", 0.0)
        or call.attr("smooth_softmax", 0)
        or any(map(call.has, range(10, 14)))
        or call.wants(3)
    ):
        raise NotNative("caps, sinks, a bias or scores as an output")
    (total,) = call.extents(TOTAL)
    q, k, v = _parts(call)
    batch, length, heads, size = q.shape
    ends = call.reshape(call.cast(call.x(LAST), DType.I64), (batch, 1))
    first = call.elementwise("sub", ends, call.emit("dims", values=(length - 1,)))
    first = call.elementwise("max", first, call.scalar(0, DType.I64))
    if call.attr("do_rotary", 0):
        q, k = _turned(call, q, first), _turned(call, k, first)
    whole = larger(call.x(PAST_KEY).shape[2], total) if call.has(PAST_KEY) else total
    place = call.elementwise("sub", positions(call, whole, 1), first)  # of the keys, counted from the first query
    keys, values = (_appended(call, x, call.maybe(past), place) for x, past in ((k, PAST_KEY), (v, PAST_VALUE)))
    mask = _hidden(call, place, length, q.dtype)
    out = grouped_attention(call, call.transpose(q, (0, 2, 1, 3)), keys, values, Mask(mask, False, 0, False))
    out = call.reshape(call.transpose(out, (0, 2, 1, 3)), (batch, length, heads * size))
    return out, keys if call.wants(1) else None, values if call.wants(2) else None


def _parts(call: Call) -> tuple[Value, Value, Value]:
    """Queries, keys and values as [batch, sequence, heads, size]; they may come as one."""
    heads, shared, x = int(call.attrs["num_heads"]), int(call.attrs["kv_num_heads"]), call.x(QUERY)
    batch, length, width = x.shape
    packed = not call.has(KEY)
    size = exact_quotient(width, heads + 2 * shared if packed else heads)
    if size is None or heads % shared:
        raise call.error(f"{width} features do not split into {heads} heads of which groups share {shared}")

    def part(i: int, first: int, count: int) -> Value:
        if not packed:
            return call.reshape(call.x(i), (batch, length, count, size))
        cut = call.emit("slice", x, starts=(0, 0, first * size), sizes=(batch, length, count * size), steps=(1, 1, 1))
        return call.reshape(cut, (batch, length, count, size))

    return part(QUERY, 0, heads), part(KEY, heads, shared), part(VALUE, heads + shared, shared)


def _turned(call: Call, x: Value, first: Value) -> Value:
    ids = call.x(IDS) if call.has(IDS) else call.elementwise("add", first, positions(call, x.shape[1], 1))
    cos, sin = (call.emit("gather", call.x(i), ids, axis=0) for i in (COS, SIN))
    return rotated(call, x, cos, sin, 2 * cos.shape[-1], bool(call.attr("rotary_interleaved", 0)))


def _appended(call: Call, x: Value, past: Value | None, place: Value) -> Value:
    """[batch, heads, whole, size]: the past up to the first query, from there on `x` [batch, sequence, heads, size]."""
    batch, length, heads, size = x.shape
    whole = place.shape[1]
    near = call.elementwise("min", call.elementwise("max", place, call.scalar(0, DType.I64)),
                            call.emit("dims", values=(length - 1,)))  # fmt: skip
    starts = call.elementwise("mul", positions(call, batch, 2), call.emit("dims", values=(length,)))
    flat = call.reshape(x, (batch * length, heads * size))
    out = call.emit("gather", flat, call.elementwise("add", near, starts), axis=0)
    out = call.transpose(call.reshape(out, (batch, whole, heads, size)), (0, 2, 1, 3))
    if past is None or past.shape[2] == 0:
        return out
    if past.shape[2] != whole:
        after: tuple[Extent, ...] = (0, 0, whole - past.shape[2], 0)
        past = call.emit("pad", past, call.scalar(0, x.dtype), before=(0,) * 4, after=after, mode="constant")
    is_past = call.emit("lt", place, call.scalar(0, DType.I64))
    return call.elementwise("where", call.reshape(is_past, (batch, 1, whole, 1)), past, out)


def _hidden(call: Call, place: Value, length: Extent, dtype: DType) -> Value:
    """What hides later keys from a query, and those too far before it: [batch, 1, sequence, whole], added to the scores."""
    batch, whole = place.shape
    distance = call.elementwise("sub", positions(call, length, 2), call.reshape(place, (batch, 1, 1, whole)))
    seen = call.emit("ge", distance, call.scalar(0, DType.I64))
    if (window := int(call.attr("local_window_size", -1))) > 0:
        seen = call.emit("and", seen, call.emit("lt", distance, call.scalar(window, DType.I64)))
    return call.elementwise("where", seen, call.scalar(0.0, dtype), call.scalar(-inf, dtype))
