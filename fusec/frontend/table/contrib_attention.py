"""Rows of the operators that onnxruntime makes of transformers: MultiHeadAttention, Attention, EmbedLayerNormalization."""

from __future__ import annotations

from fusec.frontend.builder import NotNative
from fusec.frontend.call import Call, row
from fusec.frontend.table.gather import positions
from fusec.frontend.table.normalise import layer_norm
from fusec.frontend.table.transformer import Mask, grouped_attention, split_heads
from fusec.ir.dim import Extent, exact_quotient
from fusec.ir.graph import Value
from fusec.ir.types import DType

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
    out = _attended(call, q, k, v, _mask(call, k, PADDING, ADDED), past)
    return out, k if call.wants(1) else None, v if call.wants(2) else None


@row("Attention", domain="com.microsoft")
def _attention(call: Call) -> tuple[Value | None, ...]:
    """Queries, keys and values are one product with the weights."""
    if call.has(6) or call.attr("do_rotary", 0):
        raise NotNative("a shared cache or rotary positions")
    heads, x = int(call.attrs["num_heads"]), call.x(0)
    joined = call.matmul(x, call.x(1))
    if call.has(2):
        joined = call.elementwise("add", joined, call.x(2))
    width = joined.shape[-1]
    third = exact_quotient(width, 3)
    sizes: list[Extent] = [int(n) for n in call.attr("qkv_hidden_sizes", ())] or (
        [third] * 3 if third is not None else []
    )
    if len(sizes) != 3 or sum(sizes[1:], start=sizes[0]) != width:
        raise call.error(f"queries, keys and values of {width} features")
    parts = list[Value]()
    first: Extent = 0
    for size in sizes:
        begins, extents = (0, 0, first), (*joined.shape[:2], size)
        parts.append(
            split_heads(call, call.emit("slice", joined, starts=begins, sizes=extents, steps=(1, 1, 1)), heads)
        )
        first = first + size
    q, k, v = parts
    past: Extent = 0
    if call.has(4):
        cache = call.x(4)  # [2, batch, heads, positions, size]
        past = cache.shape[3]
        k, v = (call.concat([_half(call, cache, i), part], 2) for i, part in enumerate((k, v)))
    present = None
    if call.wants(1):
        present = call.concat([call.reshape(part, (1, *part.shape)) for part in (k, v)], 0)
    return _attended(call, q, k, v, _mask(call, k, 3, 5), past), present


def _half(call: Call, cache: Value, i: int) -> Value:
    """Keys or values of a cache that holds both."""
    shape = cache.shape[1:]
    part = call.emit("slice", cache, starts=(i, 0, 0, 0, 0), sizes=(1, *shape), steps=(1,) * 5)
    return call.reshape(part, shape)


@row("EmbedLayerNormalization", domain="com.microsoft")
def _embed(call: Call) -> tuple[Value | None, ...]:
    """The sum of embeddings of words, positions and segments, normalised; and how many positions the mask keeps."""
    ids = call.x(0)
    total = call.emit("gather", call.x(2), ids, axis=0)
    if call.has(8):
        places = call.emit("gather", call.x(3), call.x(8), axis=0)
    else:
        table, length = call.x(3), ids.shape[1]
        if isinstance(length, int) and isinstance(table.shape[0], int) and length > table.shape[0]:
            raise call.error(f"{length} positions where {table.shape[0]} have an embedding")
        places = call.emit("gather", table, positions(call, length, 1), axis=0)
    total = call.elementwise("add", total, places)
    if call.has(1) and call.has(4):
        total = call.elementwise("add", total, call.emit("gather", call.x(4), call.x(1), axis=0))
    epsilon = float(call.attr("epsilon", 1e-12))
    out = layer_norm(call, total, call.x(5), call.x(6), 2, epsilon)
    return out, _kept(call, ids) if call.wants(1) else None, total if call.wants(2) else None


def _kept(call: Call, ids: Value) -> Value:
    if not call.has(7):
        return call.expand(call.scalar(0, DType.I32), (ids.shape[0],))
    ones = call.emit("eq", call.x(7), call.scalar(1, call.x(7).dtype))
    return call.emit("reduce_sum", call.cast(ones, DType.I32), axes=(1,), keepdims=False)


def _attended(call: Call, q: Value, k: Value, v: Value, mask: Value | None, past: Extent) -> Value:
    """[batch, sequence, heads * size]."""
    causal = bool(call.attr("unidirectional", 0))
    out = grouped_attention(call, q, k, v, Mask(mask, causal, past, False))
    batch, heads, length, size = out.shape
    return call.reshape(call.transpose(out, (0, 2, 1, 3)), (batch, length, size * heads))


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


def _mask(call: Call, k: Value, padding: int, bias: int) -> Value | None:
    """What is added to the scores."""
    added = call.x(bias) if call.has(bias) else None
    if not call.has(padding):
        return added
    kept = call.x(padding)
    if len(kept.shape) == 1 and kept.shape == k.shape[:1]:  # how many positions of each batch are not padding
        ends = call.reshape(call.cast(kept, DType.I64), (kept.shape[0], 1, 1, 1))
        seen = call.elementwise("lt", positions(call, k.shape[2], 1), ends)
    elif len(kept.shape) in (2, 3) and kept.shape[-1] == k.shape[2]:
        batch, *rows, columns = kept.shape
        seen = call.emit("ne", kept, call.scalar(0, kept.dtype))
        seen = call.reshape(seen, (batch, 1, *(rows or (1,)), columns))
    else:
        raise NotNative(f"a mask of the shape {kept.type}")
    low = call.scalar(float(call.attr("mask_filter_value", -10000.0)), k.dtype)
    mask = call.elementwise("where", seen, call.scalar(0.0, k.dtype), low)
    return mask if added is None else call.elementwise("add", mask, added)
