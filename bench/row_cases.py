"""Maps, rows and movements of data for bench/nests.py: each as fusec lowers it, and as one node of ONNX."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from bench.nest_cases import Case, Rival, floats

MAP = """
program map(I)
task i: I
input x: f32[I]{more}
output y: f32[I]
stage i
  y[i] = {value}
"""
SOFTMAX = """
program softmax(I, K)
task i: I
input x: f32[I, K]
local h: f32[I], h1: f32[I, K], h2: f32[I]
output y: f32[I, K]
stage i
  r0 = max[k: K](x[i, k])
  h[i] = r0
stage i, k: K
  t0 = exp(x[i, k] - h[i])
  h1[i, k] = t0
stage i
  r0 = sum[k: K](h1[i, k])
  h2[i] = 1.0 / r0
stage i, k: K
  y[i, k] = h1[i, k] * h2[i]
"""
LAYER_NORM = """
program layer_norm(I, K)
task i: I
input x: f32[I, K]
weight w: f32[K], w1: f32[K]
scalar c: f32
local h: f32[I], h1: f32[I]
output y: f32[I, K]
stage i
  r0 = sum[k: K](x[i, k])
  h[i] = r0 / f32(index(K))
stage i
  t1 = x[i, k] - h[i]
  r0 = sum[k: K](t1 * t1)
  h1[i] = 1.0 / sqrt(r0 / f32(index(K)) + c)
stage i, k: K
  y[i, k] = (x[i, k] - h[i]) * h1[i] * w[k] + w1[k]
"""
TRANSPOSE = """
program transpose(I, J)
task i: I, j: J
input x: f32[J, I]
output y: f32[I, J]
stage i, j
  y[i, j] = x[j, i]
"""
HEADS = """
program heads(I, J, P, Q)
task i: I, j: J, p: P, q: Q
input x: f32[I, P, J, Q]
output y: f32[I, J, P, Q]
stage i, j, p, q
  y[i, j, p, q] = x[i, p, j, q]
"""
KEYS = """
program keys(I, J, P, Q)
task i: I, j: J, p: P, q: Q
input x: f32[I, Q, J, P]
output y: f32[I, J, P, Q]
stage i, j, p, q
  y[i, j, p, q] = x[i, q, j, p]
"""
CONCAT = """
program concat(I, K, K1)
task i: I
input x: f32[I, K], x1: f32[I, K1]
output y: f32[I, K + K1]
stage i, k: K
  y[i, k] = x[i, k]
stage i, k1: K1
  y[i, K + k1] = x1[i, k1]
"""
GATHER = """
program gather(I, J, D)
task i: I, j: J
input x: f32[D, J], x1: i64[I]
output y: f32[I, J]
stage i, j
  y[i, j] = x[x1[i], j]
"""
SUM = """
program columns(I, K)
task i: I
input x: f32[K, I]
output y: f32[I]
stage i
  r0 = sum[k: K](x[k, i])
  y[i] = r0
"""
ARGMAX = """
program argmax(I, K)
task i: I
input x: f32[I, K]
output y: f32[I]
stage i
  r0 = argmax[k: K](x[i, k], index(k))
  y[i] = f32(r0)
"""


def mapped(name: str, op: str, value: str, n: int, second: bool = False) -> Case:
    """One pointwise operation."""
    operands = {"x": floats(n)} | ({"x1": floats(n)} if second else {})
    text = MAP.format(value=value, more=", x1: f32[I]" if second else "")
    rival = Rival(((op, list(operands), ["y"], {}),), operands, {}, "y")
    moved = 4.0 * n * (3 if second else 2)
    return Case(f"{name} {n}", text, {"I": n}, operands, (n,), moved, float(n), rival)


def rows(name: str, text: str, m: int, n: int, nodes: Any, more: dict[str, Any], constants: dict[str, Any]) -> Case:
    """An operation over rows."""
    x = floats(m, n)
    rival = Rival(nodes, {"x": x}, constants, "y")
    moved, flops = 8.0 * m * n, 10.0 * m * n
    return Case(f"{name} {m}x{n}", text, {"I": m, "K": n}, {"x": x, **more}, (m, n), moved, flops, rival)


def softmax(m: int, n: int) -> Case:
    """Softmax of rows."""
    return rows("softmax", SOFTMAX, m, n, (("Softmax", ["x"], ["y"], {"axis": -1}),), {}, {})


def layer_norm(m: int, n: int) -> Case:
    """Layer normalisation of rows."""
    w, b = floats(n), floats(n)
    node = ("LayerNormalization", ["x", "w", "w1"], ["y"], {"axis": -1, "epsilon": 1e-5})
    return rows("layer norm", LAYER_NORM, m, n, (node,), {"w": w, "w1": b, "c": 1e-5}, {"w": w, "w1": b})


def moved(name: str, text: str, params: dict[str, int], operands: dict[str, Any], shape: Any, node: Any) -> Case:
    """A movement of data, each element read and written once."""
    total = 8.0 * float(np.prod(shape))
    constants = {k: v for k, v in operands.items() if v.dtype == np.int64}
    feeds = {k: v for k, v in operands.items() if k not in constants}
    return Case(name, text, params, operands, shape, total, 0.0, Rival((node,), feeds, constants, "y"))


def transpose(m: int, n: int) -> Case:
    """A matrix turned around."""
    node = ("Transpose", ["x"], ["y"], {"perm": [1, 0]})
    return moved(f"transpose {m}x{n}", TRANSPOSE, {"I": n, "J": m}, {"x": floats(m, n)}, (n, m), node)


def heads(t: int, h: int, d: int, keys: bool) -> Case:
    """Attention's split into heads, with keys turned around."""
    perm = [0, 2, 3, 1] if keys else [0, 2, 1, 3]
    x = floats(1, t, h, d)
    params = {"I": 1, "J": h, "P": d, "Q": t} if keys else {"I": 1, "J": h, "P": t, "Q": d}
    name = f"{'keys' if keys else 'heads'} {t}x{h}x{d}"
    shape = (1, h, d, t) if keys else (1, h, t, d)
    return moved(name, KEYS if keys else HEADS, params, {"x": x}, shape, ("Transpose", ["x"], ["y"], {"perm": perm}))


def concat(m: int, n: int, k: int) -> Case:
    """Two matrices side by side."""
    node = ("Concat", ["x", "x1"], ["y"], {"axis": 1})
    operands = {"x": floats(m, n), "x1": floats(m, k)}
    return moved(f"concat {m}x({n}+{k})", CONCAT, {"I": m, "K": n, "K1": k}, operands, (m, n + k), node)


def gather(m: int, n: int, d: int) -> Case:
    """Rows of a table."""
    ids = np.random.default_rng(1).integers(0, d, m)
    node = ("Gather", ["x", "x1"], ["y"], {"axis": 0})
    operands = {"x": floats(d, n), "x1": ids}
    return moved(f"gather {m} rows of {n}", GATHER, {"I": m, "J": n, "D": d}, operands, (m, n), node)


AXES = {"axes": np.array([0], np.int64)}


def reduced(name: str, text: str, m: int, n: int, node: Any) -> Case:
    """Rows or columns to one number each."""
    x = floats(m, n)
    first = name.startswith("column")
    params = {"I": n, "K": m} if first else {"I": m, "K": n}
    count = n if first else m
    return Case(
        f"{name} {m}x{n}",
        text,
        params,
        {"x": x},
        (count,),
        4.0 * m * n,
        1.0 * m * n,
        Rival(node, {"x": x}, AXES if first else {}, "y"),
    )


ROWS: Sequence[Callable[[], Case]] = (
    lambda: mapped("relu", "Relu", "max(x[i], 0.0)", 1 << 16),
    lambda: mapped("relu", "Relu", "max(x[i], 0.0)", 1 << 22),
    lambda: mapped("add", "Add", "x[i] + x1[i]", 1 << 16, True),
    lambda: mapped("add", "Add", "x[i] + x1[i]", 1 << 22, True),
    lambda: mapped("exp", "Exp", "exp(x[i])", 1 << 16),
    lambda: mapped("tanh", "Tanh", "tanh(x[i])", 1 << 16),
    lambda: mapped("erf", "Erf", "erf(x[i])", 1 << 16),
    lambda: mapped("sigmoid", "Sigmoid", "1.0 / (exp(-x[i]) + 1.0)", 1 << 16),
    lambda: softmax(1, 1000),
    lambda: softmax(128, 128),
    lambda: softmax(1536, 128),
    lambda: softmax(64, 4096),
    lambda: softmax(8, 50257),
    lambda: layer_norm(1, 768),
    lambda: layer_norm(128, 768),
    lambda: layer_norm(1024, 1024),
    lambda: reduced("column sums", SUM, 256, 1024, (("ReduceSum", ["x", "axes"], ["y"], {"keepdims": 0}),)),
    lambda: reduced(
        "argmax",
        ARGMAX,
        64,
        1000,
        (("ArgMax", ["x"], ["i"], {"axis": 1, "keepdims": 0}), ("Cast", ["i"], ["y"], {"to": 1})),
    ),
    lambda: transpose(1024, 1024),
    lambda: transpose(64, 12544),
    lambda: transpose(3136, 96),
    lambda: heads(128, 12, 64, keys=False),
    lambda: heads(128, 12, 64, keys=True),
    lambda: concat(3136, 64, 32),
    lambda: concat(49, 512, 512),
    lambda: gather(128, 768, 30522),
    lambda: gather(1024, 64, 10000),
)
