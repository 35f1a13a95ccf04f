"""Rows of onnxruntime's attention operators: MultiHeadAttention."""

from __future__ import annotations

from fusec.frontend.builder import NotNative
from fusec.frontend.call import Call, row
from fusec.frontend.table.transformer import Mask, grouped_attention, split_heads
from fusec.ir.dim import Extent, exact_quotient
from fusec.ir.graph import Value

QUERY, KEY, VALUE, BIAS, PADDING, ADDED, PAST_KEY, PAST_VALUE = range(8)


@row("MultiHeadAttention", domain="com.microsoft")
def _multi_head_attention(call: Call) -> tuple[Value | None, ...]:
    if not (call.has(KEY) and call.has(VALUE)) or len(call.x(QUERY).shape) != 3 or call.has(8) or call.wants(3):
        raise NotNative("packed queries, a shared cache or scores as an output")
    heads = int(call.attrs["num_heads"])
    q, k, v = (_heads(call, i, heads) for i in (QUERY, KEY, VALUE))
    past: Extent = 0
    if call.has(PAST_KEY) and call.has(PAST_VALUE):
        past = call.x(PAST_KEY).shape[2]
        k, v = call.concat([call.x(PAST_KEY), k], 2), call.concat([call.x(PAST_VALUE), v], 2)
    causal = bool(call.attr("unidirectional", 0))
    out = grouped_attention(call, q, k, v, Mask(_mask(call, k), causal, past, False))
    batch, _, length, size = out.shape
    out = call.reshape(call.transpose(out, (0, 2, 1, 3)), (batch, length, size * heads))
    return out, k if call.wants(1) else None, v if call.wants(2) else None


def _heads(call: Call, i: int, heads: int) -> Value:
    """Query, key or value as [batch, heads, sequence, size], its part of the bias added; 4-D ones have that shape."""
    x = call.x(i)
    if len(x.shape) == 4:
        if call.has(BIAS):
            raise NotNative("a bias on heads that are split already")
        return x
    if call.has(BIAS):
        widths = [call.x(j).shape[-1] for j in (QUERY, KEY, VALUE)]
        start: Extent = 0
        for w in widths[:i]:
            start = start + w
        part = call.emit("slice", call.x(BIAS), starts=(start,), sizes=(widths[i],), steps=(1,))
        x = call.elementwise("add", x, part)
    if exact_quotient(x.shape[-1], heads) is None:
        raise call.error(f"{x.shape[-1]} features do not split into {heads} heads")
    return split_heads(call, x, heads)


def _mask(call: Call, k: Value) -> Value | None:
    """What is added to the scores."""
    added = call.x(ADDED) if call.has(ADDED) else None
    if not call.has(PADDING):
        return added
    kept = call.x(PADDING)
    if len(kept.shape) != 2 or kept.shape[1] != k.shape[2]:
        raise NotNative("key padding given by lengths")
    batch, positions = kept.shape
    low = call.scalar(float(call.attr("mask_filter_value", -10000.0)), k.dtype)
    seen = call.emit("ne", kept, call.scalar(0, kept.dtype))
    mask = call.elementwise("where", seen, call.scalar(0.0, k.dtype), low)
    mask = call.reshape(mask, (batch, 1, 1, positions))
    return mask if added is None else call.elementwise("add", mask, added)
