"""The form holds what is to come: convolution, recurrent cells, attention with a cache, gathers, transposed convolution."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest

from fusec.tile.parse import parse_program
from fusec.tile.reference import run_program
from fusec.tile.text import print_program
from fusec.tile.verify import verify_program

POINTWISE = """\
program pointwise(N, C, H, W)
task n: N, c: C, h: H, w: W
input x: f32[N, C, H, W], r: f32[N, C], z: f32[N, H, W, C]
weight s: f32[C], b: f32[C]
output y: f32[N, C, H, W]
stage n, c, h, w
  t = x[n, c, h, w] * s[c] + b[c]
  y[n, c, h, w] = t / (1.0 + exp(-t)) * r[n, c] + z[n, h, w, c]"""

DEQUANT = """\
program dequant(M, N, KB, B)
task m: M, n: N
input x: f32[M, B*KB]
weight q: i8[B*KB, N], d: f32[KB, N]
output z: f16[M, N]
stage m, n
  a = sum[kb: KB, ki: B](f32(f16(x[m, B*kb + ki])) * (f32(q[B*kb + ki, n]) * d[kb, n]))
  z[m, n] = f16(a)"""

CONV = """\
program conv(N, H, W, P, Q, S, R, I, O)
task n: N, p: P, q: Q, o: O
input x: f32[N, H, W, I], r: f32[N, P, Q, O]
weight f: f32[R, R, I, O], b: f32[O]
output y: f32[N, P, Q, O]
stage n, p, q, o
  a = sum[ky: R, kx: R, c: I](pad(x[n, S*p + ky - 1, S*q + kx - 1, c], 0.0) * f[ky, kx, c, o])
  y[n, p, q, o] = max(a + b[o], 0.0) + r[n, p, q, o]"""

POOL = """\
program pool(N, H, W, C)
task n: N, p: floordiv(H, 2), q: floordiv(W, 2), c: C
input x: f32[N, H, W, C]
output y: f32[N, floordiv(H, 2), floordiv(W, 2), C]
stage n, p, q, c
  m = max[ky: 3, kx: 3](pad(x[n, ky + 2*p - 1, kx + 2*q - 1, c], -inf))
  y[n, p, q, c] = m"""

LSTM = """\
program lstm(T, B, U)
task seq t: T, b: B, u: U
input g: f32[T, B, 4, U]
weight r: f32[U, 4, U]
inout h: f32[T + 1, B, U], c: f32[B, U]
local a: f32[T, B, 4, U]
stage t, b, u, j: 4
  s = sum[k: U](h[t, b, k] * r[k, j, u])
  a[t, b, j, u] = s + g[t, b, j, u]
stage t, b, u
  i = 1.0 / (1.0 + exp(-a[t, b, 0, u]))
  o = 1.0 / (1.0 + exp(-a[t, b, 1, u]))
  f = 1.0 / (1.0 + exp(-a[t, b, 2, u]))
  n = f * c[b, u] + i * tanh(a[t, b, 3, u])
  c[b, u] = n
  h[t + 1, b, u] = o * tanh(n)"""

APPEND = """\
program append(B, S, KV, D, L, P)
task b: B, s: S, v: KV, d: D
input n: f32[B, S, D*KV]
inout k: f32[B, KV, L, D]
stage b, s, v, d
  k[b, v, P + s, d] = n[b, s, D*v + d]"""

ATTENTION = """\
program attention(B, KV, G, S, D, L, P)
task b: B, v: KV, g: G, q: S
input x: f32[B, S, D*G*KV], k: f32[B, KV, L, D], w: f32[B, KV, L, D]
scalar c: f32
local a: f32[B, KV, G, S, L], m: f32[B, KV, G, S], z: f32[B, KV, G, S]
output o: f32[B, S, D*G*KV]
stage b, v, g, q, s: L
  t = sum[d: D](x[b, q, D*G*v + D*g + d] * k[b, v, s, d])
  a[b, v, g, q, s] = where(index(s) <= index(P + q), t * c, -inf)
stage b, v, g, q
  t = max[s: L](a[b, v, g, q, s])
  m[b, v, g, q] = t
stage b, v, g, q
  t = sum[s: L](exp(a[b, v, g, q, s] - m[b, v, g, q]))
  z[b, v, g, q] = 1.0 / t
stage b, v, g, q, d: D
  t = sum[s: L](exp(a[b, v, g, q, s] - m[b, v, g, q]) * w[b, v, s, d])
  o[b, q, D*G*v + D*g + d] = t * z[b, v, g, q]"""

EMBED = """\
program embed(B, S, D, V)
task b: B, s: S, d: D
input ids: i64[B, S]
weight e: f32[V, D], p: f32[S, D]
output x: f32[B, S, D]
stage b, s, d
  i = ids[b, s]
  x[b, s, d] = e[i, d] + p[s, d]"""

SLICE = """\
program slice(S, T, D, E)
task s: S, d: E
input x: f32[T, D]
output y: f32[S, E]
stage s, d
  y[s, d] = x[T - 2*s - 1, d + 3]"""

WHITEN = """\
program whiten(N, H, C)
task n: N
input x: f32[N, H, C]
local mu: f32[N], iv: f32[N]
output y: f32[N, H, C]
stage n
  s = sum[h: H, c: C](x[n, h, c])
  mu[n] = s / f32(index(C*H))
stage n
  s = sum[h: H, c: C]((x[n, h, c] - mu[n]) * (x[n, h, c] - mu[n]))
  iv[n] = 1.0 / sqrt(s / f32(index(C*H)) + 1e-05)
stage n, h: H, c: C
  y[n, h, c] = (x[n, h, c] - mu[n]) * iv[n]"""

ARGMAX = """\
program argmax(M, K)
task m: M
input x: f32[M, K]
output y: i64[M], z: bool[M]
stage m
  i = argmax[k: K](x[m, k], index(k))
  b = any[k: K](not (x[m, k] < 1.0 or isnan(x[m, k])) and x[m, k] != 0.5)
  y[m] = i
  z[m] = b"""

TRANSPOSED = """\
program transposed(L, J, S, A, O)
task q: J + L - 1, r: S, o: O
input x: f32[L, A]
weight f: f32[J*S, A, O]
output z: f32[J*S + L*S - S, O]
stage q, r, o
  t = sum[j: J, a: A](pad(x[-j + q, a], 0.0) * f[S*j + r, a, o])
  z[S*q + r, o] = t"""


def sigmoid(x: Any) -> Any:
    return 1 / (1 + np.exp(-x))


def conv_reference(x: Any, f: Any, b: Any, r: Any) -> Any:
    out = np.zeros_like(r)
    padded = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    for p in range(out.shape[1]):
        for q in range(out.shape[2]):
            out[:, p, q] = np.tensordot(padded[:, 2 * p : 2 * p + 3, 2 * q : 2 * q + 3], f, ([1, 2, 3], [0, 1, 2]))
    return np.maximum(out + b, 0) + r


def pool_reference(x: Any) -> Any:
    padded = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)), constant_values=-np.inf)
    rows = [[padded[:, 2 * p : 2 * p + 3, 2 * q : 2 * q + 3].max((1, 2)) for q in range(3)] for p in range(2)]
    return np.array(rows).transpose(2, 0, 1, 3)


def lstm_reference(g: Any, r: Any, h: Any, c: Any) -> dict[str, Any]:
    h, c = h.copy(), c.copy()
    for t in range(g.shape[0]):
        a = g[t] + np.einsum("bk,kju->bju", h[t], r)
        c = sigmoid(a[:, 2]) * c + sigmoid(a[:, 0]) * np.tanh(a[:, 3])
        h[t + 1] = sigmoid(a[:, 1]) * np.tanh(c)
    return {"h": h, "c": c}


def append_reference(n: Any, k: Any, past: int) -> Any:
    k = k.copy()
    k[:, :, past : past + n.shape[1]] = n.reshape(*n.shape[:2], k.shape[1], -1).transpose(0, 2, 1, 3)
    return k


def attention_reference(x: Any, k: Any, w: Any, c: float, past: int, groups: int) -> Any:
    b, s, _ = x.shape
    kv, length, d = k.shape[1:]
    q = x.reshape(b, s, kv, groups, d)
    a = np.einsum("bqvgd,bvsd->bvgqs", q, k) * c
    a = np.where(np.arange(length) <= past + np.arange(s)[:, None], a, -np.inf)
    e = np.exp(a - a.max(-1, keepdims=True))
    return np.einsum("bvgqs,bvsd->bqvgd", e / e.sum(-1, keepdims=True), w).reshape(x.shape)


def transposed_reference(x: Any, f: Any) -> Any:
    length, stride = x.shape[0], 2
    out = np.zeros((stride * (length + f.shape[0] // stride - 1), f.shape[2]), np.float32)
    for i in range(length):
        for j in range(f.shape[0]):
            out[stride * i + j] += x[i] @ f[j]
    return out


def argmax_reference(x: Any) -> dict[str, Any]:
    hit = ~((x < 1) | np.isnan(x)) & (x != 0.5)
    return {"y": x.argmax(-1), "z": hit.any(-1)}


Shapes = Mapping[str, tuple[int, ...]]
CASES: dict[str, tuple[str, Mapping[str, int], Shapes, Mapping[str, Any], Callable[..., Any]]] = {
    "pointwise": (POINTWISE, {"N": 2, "C": 3, "H": 4, "W": 5},
        {"x": (2, 3, 4, 5), "r": (2, 3), "z": (2, 4, 5, 3), "s": (3,), "b": (3,)}, {},
        lambda x, r, z, s, b: (t := x * s[:, None, None] + b[:, None, None]) * sigmoid(t) * r[..., None, None]
        + z.transpose(0, 3, 1, 2)),
    "dequant": (DEQUANT, {"M": 5, "N": 6, "KB": 3, "B": 4}, {"x": (5, 12), "q": (12, 6), "d": (3, 6)}, {},
        lambda x, q, d: (x.astype(np.float16).astype(np.float32) @ (np.trunc(q) * np.repeat(d, 4, 0))).astype(np.float16)),
    "conv": (CONV, {"N": 2, "H": 6, "W": 7, "P": 3, "Q": 4, "S": 2, "R": 3, "I": 3, "O": 4},
        {"x": (2, 6, 7, 3), "f": (3, 3, 3, 4), "b": (4,), "r": (2, 3, 4, 4)}, {},
        conv_reference),
    "pool": (POOL, {"N": 2, "H": 4, "W": 6, "C": 3}, {"x": (2, 4, 6, 3)}, {}, pool_reference),
    "lstm": (LSTM, {"T": 3, "B": 2, "U": 4}, {"g": (3, 2, 4, 4), "r": (4, 4, 4), "h": (4, 2, 4), "c": (2, 4)}, {},
        lstm_reference),
    "append": (APPEND, {"B": 2, "S": 3, "KV": 2, "D": 4, "L": 8, "P": 2}, {"n": (2, 3, 8), "k": (2, 2, 8, 4)}, {},
        lambda n, k: append_reference(n, k, 2)),
    "attention": (ATTENTION, {"B": 2, "KV": 2, "G": 3, "S": 3, "D": 4, "L": 7, "P": 2},
        {"x": (2, 3, 24), "k": (2, 2, 7, 4), "w": (2, 2, 7, 4)}, {"c": 0.5},
        lambda x, k, w, c: attention_reference(x, k, w, c, 2, 3)),
    "embed": (EMBED, {"B": 2, "S": 3, "D": 4, "V": 6}, {"e": (6, 4), "p": (3, 4)},
        {"ids": np.array([[0, 5, 2], [1, 1, 3]])}, lambda e, p, ids: e[ids] + p),
    "slice": (SLICE, {"S": 3, "T": 6, "D": 7, "E": 4}, {"x": (6, 7)}, {}, lambda x: x[::-2, 3:]),
    "whiten": (WHITEN, {"N": 3, "H": 4, "C": 5}, {"x": (3, 4, 5)}, {},
        lambda x: (x - x.mean((1, 2), keepdims=True)) / np.sqrt(x.var((1, 2), keepdims=True) + 1e-5)),
    "argmax": (ARGMAX, {"M": 6, "K": 5}, {"x": (6, 5)}, {}, argmax_reference),
    "transposed": (TRANSPOSED, {"L": 4, "J": 2, "S": 2, "A": 3, "O": 3}, {"x": (4, 3), "f": (4, 3, 3)}, {},
        transposed_reference),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_form(name: str) -> None:
    text, params, shapes, given, reference = CASES[name]
    p = parse_program(text)
    assert print_program(p) == text
    verify_program(p)
    r = np.random.default_rng(1)
    operands = {n: (r.standard_normal(s) * 2).astype(np.float32) for n, s in shapes.items()}
    if name == "dequant":
        operands["q"] = np.trunc(operands["q"])
    want = reference(**operands, **given)
    for tile in ({}, {a.name: 1 for a in p.axes}, {a.name: 2 for a in p.axes}):
        if name == "lstm":  # the tile of u must be whole: every unit reads all units of the step before
            tile = {"b": tile.get("b", 2)}
        got = run_program(p, params, {**operands, **given}, tile)
        for n, w in (want if isinstance(want, dict) else {p.operands[-1].name: want}).items():
            if n not in got:
                n = next(iter(got))
            np.testing.assert_allclose(got[n].astype(np.float64), w.astype(np.float64), rtol=2e-3, atol=2e-3)
