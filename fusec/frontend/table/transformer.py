"""Rows of the ops that transformers are exported with: Attention and RotaryEmbedding."""

from __future__ import annotations

from dataclasses import dataclass
from math import inf, sqrt

from fusec.frontend.attributes import ONNX_DTYPES
from fusec.frontend.builder import NotNative
from fusec.frontend.call import Call, check_equal, row
from fusec.frontend.table.contract import swap_last
from fusec.frontend.table.gather import positions
from fusec.ir.dim import Extent, exact_quotient
from fusec.ir.graph import Attr, Value
from fusec.ir.types import DType


@dataclass(frozen=True)
class Heads:
    """Query, key and value as [batch, heads, sequence, size]."""

    q: Value
    k: Value
    v: Value
    was_flat: bool


@row("Attention")
def _attention(call: Call) -> tuple[Value | None, ...]:
    heads = _heads(call)
    past: Extent = 0
    k, v = heads.k, heads.v
    if call.has(4) and call.has(5):
        past = call.x(4).shape[2]
        k, v = call.concat([call.x(4), k], 2), call.concat([call.x(5), v], 2)
    present_k, present_v = k, v
    check_equal(heads.q.shape[-1], k.shape[-1])
    mask = _mask(call, heads.q, k, past)
    shape = (*heads.q.shape[:3], v.shape[-1])
    if call.attr("softcap", 0.0) or call.wants(3) or not _softmax_is_plain(call, heads.q):
        groups = _groups(heads.q, k)
        k, v = (_repeated(call, x, groups) if groups != 1 else x for x in (k, v))
        scores, weights = _weights(call, heads.q, k, mask)
        out = call.matmul(weights, v)
    else:
        scores, out = None, grouped_attention(call, heads.q, k, v, mask)
    out = call.reshape(out, shape)
    if heads.was_flat:
        out = call.reshape(call.transpose(out, (0, 2, 1, 3)), (shape[0], shape[2], shape[1] * shape[3]))
    return out, present_k if call.wants(1) else None, present_v if call.wants(2) else None, scores


@dataclass(frozen=True)
class Mask:
    """What hides positions: a value that is added to the scores, and the diagonal, `past` positions to the right.

    `can_empty`: whether a row may see nothing, which then gives zeros.
    """

    added: Value | None
    causal: bool
    past: Extent
    can_empty: bool


def grouped_attention(call: Call, q: Value, k: Value, v: Value, mask: Mask) -> Value:
    """Attention of [batch, heads, sequence, size]; query heads that share a key head are an axis of their own."""
    attrs: dict[str, Attr] = {"scale": _scale(call, q), "causal": mask.causal}
    if mask.past != 0 and mask.causal:
        attrs["past"] = mask.past
    if mask.can_empty:
        attrs["empty_rows"] = "zero"
    groups = _groups(q, k)
    if groups != 1:
        k, v = _repeated(call, k, groups), _repeated(call, v, groups)
    return call.emit("attention", q, k, v, *(() if mask.added is None else (mask.added,)), **attrs)


def _groups(q: Value, k: Value) -> Extent:
    groups = exact_quotient(q.shape[1], k.shape[1])
    if groups is None:
        raise NotNative("query heads that do not divide into key heads")
    return groups


def _heads(call: Call) -> Heads:
    q, k, v = (call.x(i) for i in range(3))
    if len(q.shape) == 4:
        return Heads(q, k, v, False)
    counts = [int(call.attrs[n]) for n in ("q_num_heads", "kv_num_heads", "kv_num_heads")]
    q, k, v = (split_heads(call, x, n) for x, n in zip((q, k, v), counts))
    return Heads(q, k, v, True)


def split_heads(call: Call, x: Value, heads: int) -> Value:
    """[batch, sequence, heads * size] as [batch, heads, sequence, size]."""
    batch, length, width = x.shape
    size = exact_quotient(width, heads)
    if size is None:
        raise call.error(f"{width} features do not split into {heads} heads")
    return call.transpose(call.reshape(x, (batch, length, heads, size)), (0, 2, 1, 3))


def _repeated(call: Call, x: Value, groups: Extent) -> Value:
    """Every key head `groups` times, for queries that share it."""
    b, h, t, d = x.shape
    wide = call.expand(call.reshape(x, (b, h, 1, t, d)), (b, h, groups, t, d))
    return call.reshape(wide, (b, h * groups, t, d))


def _scale(call: Call, q: Value) -> float:
    scale, size = call.attr("scale"), q.shape[-1]
    if scale is not None and (scale != 0.0 or not call.proto.domain):  # 0 is the default of onnxruntime's operators
        return float(scale)
    if not isinstance(size, int):
        raise NotNative("heads of unknown size")
    return 1.0 / sqrt(size)


def _weights(call: Call, q: Value, k: Value, mask: Mask) -> tuple[Value | None, Value]:
    """(what the fourth output shows, softmax of the masked scores)."""
    scale = _scale(call, q)
    stages: dict[int, Value] = {}
    if q.dtype in (DType.F16, DType.BF16):  # halves of the scale on either side keep the product in range
        half = call.scalar(sqrt(scale), q.dtype)
        scores = call.matmul(call.emit("mul", q, half), call.emit("mul", swap_last(call, k), half))
    else:
        scores = call.emit("mul", call.matmul(q, swap_last(call, k)), call.scalar(scale, q.dtype))
    stages[0] = scores
    cap = float(call.attr("softcap", 0.0))
    mode = int(call.attr("qk_matmul_output_mode", 0))
    if cap and mode in (1, 2) and call.wants(3):
        raise NotNative("scores as an output around a soft cap")
    if cap:
        limit = call.scalar(cap, q.dtype)
        scores = call.emit("mul", call.emit("tanh", call.emit("div", scores, limit)), limit)
    if mask.added is not None:
        scores = call.elementwise("add", scores, mask.added)
    if mask.causal:
        visible = _before(call, scores.shape[-2], scores.shape[-1], mask.past)
        scores = call.elementwise("where", visible, scores, call.scalar(-inf, scores.dtype))
    stages[1] = stages[2] = scores
    weights = stages[3] = _softmax(call, scores, mask.can_empty)
    return stages[mode] if call.wants(3) else None, weights


def _before(call: Call, rows: Extent, columns: Extent, past: Extent) -> Value:
    """Where a position is not later than a row."""
    return call.emit("le", positions(call, columns, 1), positions(call, rows, 2, past))


def _mask(call: Call, q: Value, k: Value, past: Extent) -> Mask:
    """The mask of the standard's operator: given, causal, a sliding window, and what pads the keys."""
    rows, columns = q.shape[2], k.shape[2]
    parts: list[Value] = []
    if call.has(3):
        parts.append(_padded(call, call.x(3), columns))
    offset = None
    if call.has(6):  # keys from here on are padding, a number for each batch; the queries are the last of the others
        ends = call.reshape(call.cast(call.x(6), DType.I64), (call.x(6).shape[0], 1, 1, 1))
        parts.append(call.elementwise("lt", positions(call, columns, 1), ends))
        offset = call.elementwise("sub", ends, call.emit("dims", values=(rows,)))
    left, right = (int(call.attr(n, -1)) for n in ("left_window_size", "right_window_size"))
    causal = bool(call.attr("is_causal", 0))
    if left >= 0 or right >= 0 or (causal and offset is not None):
        place = positions(call, rows, 2, past if offset is None else 0)
        place = place if offset is None else call.elementwise("add", place, offset)
        distance = call.elementwise("sub", place, positions(call, columns, 1))
        if causal and offset is not None:
            parts.append(call.emit("ge", distance, call.scalar(0, DType.I64)))
        if left >= 0:
            parts.append(call.emit("le", distance, call.scalar(left, DType.I64)))
        if right >= 0:
            parts.append(call.emit("ge", distance, call.scalar(-right, DType.I64)))
    return Mask(_sum_of(call, parts, q.dtype), causal and offset is None, past, bool(parts))


def _padded(call: Call, mask: Value, columns: Extent) -> Value:
    """A mask of fewer positions hides the others."""
    missing = columns - mask.shape[-1]
    if missing == 0:
        return mask
    if isinstance(missing, int) and missing < 0:
        raise call.error(f"a mask over {mask.shape[-1]} positions where there are {columns}")
    if not isinstance(missing, int):
        raise NotNative("a mask of another length than the keys")
    after = (*(0,) * (len(mask.shape) - 1), missing)
    value = call.scalar(0 if mask.dtype is DType.BOOL else -inf, mask.dtype)
    return call.emit("pad", mask, value, before=(0,) * len(after), after=after, mode="constant")


def _sum_of(call: Call, parts: list[Value], dtype: DType) -> Value | None:
    """All masks as one that is added: conditions become 0 and -inf."""
    conditions = [p for p in parts if p.dtype is DType.BOOL]
    added = [call.cast(p, dtype) for p in parts if p.dtype is not DType.BOOL]
    if conditions:
        seen = conditions[0]
        for c in conditions[1:]:
            seen = call.elementwise("and", seen, c)
        added.append(call.elementwise("where", seen, call.scalar(0.0, dtype), call.scalar(-inf, dtype)))
    if not added:
        return None
    total = added[0]
    for a in added[1:]:
        total = call.elementwise("add", total, a)
    return total


def _softmax_is_plain(call: Call, x: Value) -> bool:
    """Whether the softmax is asked for in the precision that there is."""
    precision = call.attr("softmax_precision")
    return precision is None or precision in (0, 1, ONNX_DTYPES[x.dtype])


def _softmax(call: Call, scores: Value, can_empty: bool) -> Value:
    """Softmax over the keys; a query that a mask leaves without any key gets zeros, as the standard says."""
    axis = len(scores.shape) - 1
    if not _softmax_is_plain(call, scores):
        raise NotNative("softmax in another precision")
    weights = call.emit("softmax", scores, axis=axis)
    if not can_empty:
        return weights
    top = call.emit("reduce_max", scores, axes=(axis,), keepdims=True)
    blind = call.emit("isinf", top, detect_negative=True, detect_positive=False)
    return call.emit("where", blind, call.scalar(0.0, scores.dtype), weights)


@row("RotaryEmbedding")
@row("RotaryEmbedding", domain="com.microsoft")
def _rotary(call: Call) -> Value:
    contrib = bool(call.proto.domain)
    x = call.x(0)
    cos, sin, ids = (call.x(2), call.x(3), call.x(1)) if contrib else (call.x(1), call.x(2), call.maybe(3))
    if contrib and (call.attr("scale", 1.0) != 1.0 or call.attr("is_packed_batching", 0)):
        raise NotNative("scaled or packed rotary embeddings")
    was_flat = len(x.shape) == 3
    heads = int(call.attr("num_heads", 0))
    if was_flat:
        if not heads:
            raise NotNative("the number of heads is not given")
        batch, length, width = x.shape
        x = call.reshape(x, (batch, length, heads, exact_quotient(width, heads) or 0))
    else:
        x = call.transpose(x, (0, 2, 1, 3))  # [batch, sequence, heads, size]
    if ids is not None:
        if len(ids.shape) != 2:
            raise NotNative("position offsets")
        cos, sin = (call.emit("gather", table, ids, axis=0) for table in (cos, sin))
    width = int(call.attr("rotary_embedding_dim", 0)) or x.shape[3]
    out = rotated(call, x, cos, sin, width, bool(call.attr("interleaved", 0)))
    return call.reshape(out, call.x(0).shape) if was_flat else call.transpose(out, (0, 2, 1, 3))


def rotated(call: Call, x: Value, cos: Value, sin: Value, width: Extent, interleaved: bool) -> Value:
    """The first `width` features of x [batch, sequence, heads, size] turned; cos and sin are [batch, sequence, width / 2]."""
    size = x.shape[3]
    if not isinstance(size, int) or not isinstance(width, int) or cos.shape[-1] != width // 2:
        raise NotNative("rotary sizes that are known only at run time")
    half = width // 2
    cos, sin = (call.reshape(t, (t.shape[0], t.shape[1], 1, half)) for t in (cos, sin))
    if interleaved:
        first, second = _part(call, x, 0, half, 2), _part(call, x, 1, half, 2)
    else:
        first, second = _part(call, x, 0, half), _part(call, x, half, half)
    real = _combined(call, "sub", first, cos, second, sin)
    imaginary = _combined(call, "add", first, sin, second, cos)
    if interleaved:
        pair = [call.reshape(p, (*p.shape, 1)) for p in (real, imaginary)]
        out = call.reshape(call.concat(pair, 4), (*x.shape[:3], width))
    else:
        out = call.concat([real, imaginary], 3)
    return out if width == size else call.concat([out, _part(call, x, width, size - width)], 3)


def _combined(call: Call, op: str, a: Value, p: Value, b: Value, q: Value) -> Value:
    """a * p (op) b * q."""
    return call.elementwise(op, call.elementwise("mul", a, p), call.elementwise("mul", b, q))


def _part(call: Call, x: Value, start: int, size: int, step: int = 1) -> Value:
    """Elements of the last axis."""
    begins = (*(0,) * (len(x.shape) - 1), start)
    steps = (*(1,) * (len(x.shape) - 1), step)
    return call.emit("slice", x, starts=begins, sizes=(*x.shape[:-1], size), steps=steps)
