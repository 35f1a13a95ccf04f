"""Rows of the ops that transformers are exported with: Attention and RotaryEmbedding."""

from __future__ import annotations

from dataclasses import dataclass
from math import sqrt

from fusec.frontend.attributes import ONNX_DTYPES
from fusec.frontend.builder import NotNative
from fusec.frontend.call import Call, check_equal, row
from fusec.frontend.table.contract import swap_last
from fusec.frontend.table.gather import positions
from fusec.ir.dim import Extent, exact_quotient
from fusec.ir.graph import Value
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
    if call.has(6):
        raise NotNative("padded key lengths")
    if call.attr("left_window_size", -1) != -1 or call.attr("right_window_size", -1) != -1:
        raise NotNative("a sliding window")
    heads = _heads(call)
    past: Extent = 0
    k, v = heads.k, heads.v
    if call.has(4) and call.has(5):
        past = call.x(4).shape[2]
        k, v = call.concat([call.x(4), k], 2), call.concat([call.x(5), v], 2)
    present_k, present_v = k, v
    groups = exact_quotient(heads.q.shape[1], k.shape[1])
    if groups is None:
        raise NotNative("query heads that do not divide into key heads")
    if groups != 1:
        k, v = _repeated(call, k, groups), _repeated(call, v, groups)
    scores, weights = _weights(call, heads.q, k, past)
    out = call.matmul(weights, v)
    if heads.was_flat:
        b, h, t, d = out.shape
        out = call.reshape(call.transpose(out, (0, 2, 1, 3)), (b, t, h * d))
    return out, present_k if call.wants(1) else None, present_v if call.wants(2) else None, scores


def _heads(call: Call) -> Heads:
    q, k, v = (call.x(i) for i in range(3))
    if len(q.shape) == 4:
        return Heads(q, k, v, False)
    counts = [int(call.attrs[n]) for n in ("q_num_heads", "kv_num_heads", "kv_num_heads")]
    q, k, v = (_split_heads(call, x, n) for x, n in zip((q, k, v), counts))
    return Heads(q, k, v, True)


def _split_heads(call: Call, x: Value, heads: int) -> Value:
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


def _weights(call: Call, q: Value, k: Value, past: Extent) -> tuple[Value | None, Value]:
    """(what the fourth output shows, softmax of the masked scores)."""
    size = q.shape[-1]
    scale = call.attr("scale")
    if scale is None:
        if not isinstance(size, int):
            raise NotNative("heads of unknown size")
        scale = 1.0 / sqrt(size)
    check_equal(q.shape[-1], k.shape[-1])
    stages: dict[int, Value] = {}
    if q.dtype in (DType.F16, DType.BF16):  # halves of the scale on either side keep the product in range
        half = call.scalar(sqrt(float(scale)), q.dtype)
        scores = call.matmul(call.emit("mul", q, half), call.emit("mul", swap_last(call, k), half))
    else:
        scores = call.emit("mul", call.matmul(q, swap_last(call, k)), call.scalar(float(scale), q.dtype))
    stages[0] = scores
    cap = float(call.attr("softcap", 0.0))
    mode = int(call.attr("qk_matmul_output_mode", 0))
    if cap and mode in (1, 2) and call.wants(3):
        raise NotNative("scores as an output around a soft cap")
    if cap:
        limit = call.scalar(cap, q.dtype)
        scores = call.emit("mul", call.emit("tanh", call.emit("div", scores, limit)), limit)
    scores = stages[1] = _masked(call, scores, past)
    stages[2] = scores
    weights = stages[3] = _softmax(call, scores)
    return stages[mode] if call.wants(3) else None, weights


def _masked(call: Call, scores: Value, past: Extent) -> Value:
    low = call.scalar(float("-inf"), scores.dtype)
    if call.has(3):
        mask = call.x(3)
        if mask.shape[-1] != scores.shape[-1]:
            raise NotNative("a mask shorter than the keys")
        if mask.dtype is DType.BOOL:
            scores = call.elementwise("where", mask, scores, low)
        else:
            scores = call.elementwise("add", scores, call.cast(mask, scores.dtype))
    if call.attr("is_causal", 0):
        rows = positions(call, scores.shape[-2], 2, past if call.has(4) else 0)
        visible = call.emit("le", positions(call, scores.shape[-1], 1), rows)
        scores = call.elementwise("where", visible, scores, low)
    return scores


def _softmax(call: Call, scores: Value) -> Value:
    """Softmax over the keys; a query that a mask leaves without any key gets zeros, as the standard says."""
    axis = len(scores.shape) - 1
    precision = call.attr("softmax_precision")
    if precision is not None and precision not in (0, 1, ONNX_DTYPES[scores.dtype]):
        raise NotNative("softmax in another precision")
    weights = call.emit("softmax", scores, axis=axis)
    if not call.has(3):
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
    out = _rotated(call, x, cos, sin)
    return call.reshape(out, call.x(0).shape) if was_flat else call.transpose(out, (0, 2, 1, 3))


def _rotated(call: Call, x: Value, cos: Value, sin: Value) -> Value:
    """x is [batch, sequence, heads, size], cos and sin [batch, sequence, half of the rotated size]."""
    size = x.shape[3]
    rotated = int(call.attr("rotary_embedding_dim", 0)) or size
    if not isinstance(size, int) or not isinstance(rotated, int) or cos.shape[-1] != rotated // 2:
        raise NotNative("rotary sizes that are known only at run time")
    half, interleaved = rotated // 2, bool(call.attr("interleaved", 0))
    cos, sin = (call.reshape(t, (t.shape[0], t.shape[1], 1, half)) for t in (cos, sin))
    if interleaved:
        first, second = _part(call, x, 0, half, 2), _part(call, x, 1, half, 2)
    else:
        first, second = _part(call, x, 0, half), _part(call, x, half, half)
    real = _combined(call, "sub", first, cos, second, sin)
    imaginary = _combined(call, "add", first, sin, second, cos)
    if interleaved:
        pair = [call.reshape(p, (*p.shape, 1)) for p in (real, imaginary)]
        out = call.reshape(call.concat(pair, 4), (*x.shape[:3], rotated))
    else:
        out = call.concat([real, imaginary], 3)
    return out if rotated == size else call.concat([out, _part(call, x, rotated, size - rotated)], 3)


def _combined(call: Call, op: str, a: Value, p: Value, b: Value, q: Value) -> Value:
    """a * p (op) b * q."""
    return call.elementwise(op, call.elementwise("mul", a, p), call.elementwise("mul", b, q))


def _part(call: Call, x: Value, start: int, size: int, step: int = 1) -> Value:
    """Elements of the last axis."""
    begins = (*(0,) * (len(x.shape) - 1), start)
    steps = (*(1,) * (len(x.shape) - 1), step)
    return call.emit("slice", x, starts=begins, sizes=(*x.shape[:-1], size), steps=steps)
