"""Golden texts: what well-known groups become."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parent))

from lower_check import apply, check, value

from bench.row_cases import SOFTMAX
from fusec.ir.dim import symbol
from fusec.ir.graph import Node, Value, Weight, weight
from fusec.kernels.kernel import Call

B = symbol("B")
R = np.random.default_rng(0)


def w(name: str, *shape: int) -> Weight:
    return weight(name, R.standard_normal(shape).astype(np.float32))


def x(*shape: int) -> Any:
    return R.standard_normal(shape).astype(np.float32)


def body(call: Call) -> str:
    return str(call.program)[str(call.program).index("(") :]


def test_softmax() -> None:
    call = check([apply("softmax", "y", value("x", B, 4, 6), axis=2)], {"x": x(2, 4, 6)}, symbols={"B": 2})
    assert body(call) == SOFTMAX.strip().removeprefix("program softmax")
    assert dict(call.params) == {"I": B * 4, "K": 6}


def test_layer_norm_of_a_sum_that_others_read_too() -> None:
    g, b = w("g", 6), w("b", 6)
    total = apply("add", "s", value("x", 3, 4, 6), value("r", 3, 4, 6))
    norm = apply("layer_norm", "y", total.output, g.value, b.value, axis=2, epsilon=1e-5)
    feeds = {"x": x(3, 4, 6), "r": x(3, 4, 6)}
    call = check([total, norm], feeds, [total.output, norm.output], [g, b])
    assert (
        body(call)
        == """\
(I, K)
task i: I
input x: f32[I, K], x1: f32[I, K]
weight w: f32[K], w1: f32[K]
scalar c: f32
local h: f32[I], h1: f32[I]
output y: f32[I, K], y1: f32[I, K]
stage i
  t0 = x[i, k] + x1[i, k]
  r0 = sum[k: K](t0)
  h[i] = r0 / f32(index(K))
stage i
  t0 = x[i, k] + x1[i, k]
  t1 = t0 - h[i]
  r0 = sum[k: K](t1 * t1)
  h1[i] = 1.0 / sqrt(r0 / f32(index(K)) + c)
stage i, k: K
  t0 = x[i, k] + x1[i, k]
  t1 = t0 - h[i]
  y[i, k] = t1 * h1[i] * w[k] + w1[k]
  y1[i, k] = t0"""
    )


def layer(n: str, v: Value, rows: int, columns: int) -> tuple[list[Node], list[Weight]]:
    a, b = w(f"w{n}", rows, columns), w(f"b{n}", columns)
    product = apply("matmul", f"m{n}", v, a.value)
    return [product, apply("add", f"a{n}", product.output, b.value)], [a, b]


def test_gemm_with_bias_and_gelu() -> None:
    nodes, weights = layer("1", value("x", B, 5, 4), 4, 6)
    nodes.append(apply("gelu", "y", nodes[-1].output, approximate="none"))
    call = check(nodes, {"x": x(3, 5, 4)}, weights=weights, symbols={"B": 3})
    assert (
        body(call)
        == """\
(M, N, K)
task m: M, n: N
input x: f32[M, K]
weight w: f32[K, N], w1: f32[N]
output y: f32[M, N]
stage m, n
  r0 = sum[k: K](x[m, k] * w[k, n])
  t0 = r0 + w1[n]
  y[m, n] = t0 * 0.5 * (erf(t0 * 0.7071067811865476) + 1.0)"""
    )


def test_norm_before_a_gemm_keeps_both_of_its_axes() -> None:
    g = w("g", 4)
    norm = apply("rms_norm", "n", value("x", 5, 4), g.value, axis=1, epsilon=1e-5)
    nodes, weights = layer("1", norm.output, 4, 6)
    call = check([norm, *nodes], {"x": x(5, 4)}, weights=[g, *weights])
    assert (
        body(call)
        == """\
(M, N, K)
task m: M, n: N
input x: f32[M, K]
weight w: f32[K], w1: f32[K, N], w2: f32[N]
scalar c: f32
local h: f32[M]
output y: f32[M, N]
stage m
  r0 = sum[k: K](x[m, k] * x[m, k])
  h[m] = 1.0 / sqrt(r0 / f32(index(K)) + c)
stage m, n
  r0 = sum[k: K](x[m, k] * h[m] * w[k] * w1[k, n])
  y[m, n] = r0 + w2[n]"""
    )


def test_chain() -> None:
    one, weights = layer("1", value("x", 7, 4), 4, 6)
    one.append(apply("relu", "h", one[-1].output))
    two, more = layer("2", one[-1].output, 6, 3)
    call = check([*one, *two], {"x": x(7, 4)}, weights=[*weights, *more])
    assert (
        body(call)
        == """\
(M, N, K, N1)
task m: M
input x: f32[M, K]
weight w: f32[K, N], w1: f32[N], w2: f32[N, N1], w3: f32[N1]
local h: f32[M, N]
output y: f32[M, N1]
stage m, n: N
  r0 = sum[k: K](x[m, k] * w[k, n])
  h[m, n] = max(r0 + w1[n], 0.0)
stage m, n1: N1
  r0 = sum[n: N](h[m, n] * w2[n, n1])
  y[m, n1] = r0 + w3[n1]"""
    )


def test_gemm_and_a_norm_of_its_rows() -> None:
    nodes, weights = layer("1", value("x", 7, 4), 4, 6)
    g = w("g", 6)
    nodes.append(apply("add", "r", nodes[-1].output, value("z", 7, 6)))
    nodes.append(apply("layer_norm", "y", nodes[-1].output, g.value, axis=1, epsilon=1e-5))
    call = check(nodes, {"x": x(7, 4), "z": x(7, 6)}, weights=[*weights, g])
    assert [a.name for a in call.program.axes] == ["m"]
    assert len(call.program.stages) == 4


def test_attention_with_heads_split_and_merged() -> None:
    nodes = []
    for n in "qkv":
        split = apply("reshape", f"{n}1", value(n, B, 5, 6), shape=(B, 5, 2, 3))
        nodes += [split, apply("transpose", f"{n}2", split.output, perm=(0, 2, 1, 3))]
    heads = [n.output for n in nodes[1::2]]
    nodes.append(apply("attention", "a", *heads, value("mask", B, 1, 1, 5), scale=0.5, causal=True))
    nodes.append(apply("transpose", "t", nodes[-1].output, perm=(0, 2, 1, 3)))
    nodes.append(apply("reshape", "y", nodes[-1].output, shape=(B, 5, 6)))
    feeds = {n: x(2, 5, 6) for n in "qkv"} | {"mask": x(2, 1, 1, 5)}
    call = check(nodes, feeds, symbols={"B": 2})
    assert (
        body(call)
        == """\
(B, B1, M, N, K, N1)
task b: B, b1: B1, m: M
input x: f32[B, M, B1, K], x1: f32[B, N, B1, K], x2: f32[B, N], x3: f32[B, N, B1, N1]
scalar c: f32
local h: f32[B, B1, M, N], h1: f32[B, B1, M], h2: f32[B, B1, M, N], h3: f32[B, B1, M]
output y: f32[B, M, B1, N1]
stage b, b1, m, n: N
  r0 = sum[k: K](x[b, m, b1, k] * x1[b, n, b1, k])
  t0 = where(index(n) <= index(m), r0 * c, -inf) + x2[b, n]
  h[b, b1, m, n] = t0
stage b, b1, m
  r0 = max[n: N](h[b, b1, m, n])
  h1[b, b1, m] = r0
stage b, b1, m, n: N
  t0 = exp(h[b, b1, m, n] - h1[b, b1, m])
  h2[b, b1, m, n] = t0
stage b, b1, m
  r0 = sum[n: N](h2[b, b1, m, n])
  h3[b, b1, m] = 1.0 / r0
stage b, b1, m, n1: N1
  r0 = sum[n: N](h2[b, b1, m, n] * x3[b, n, b1, n1])
  y[b, m, b1, n1] = r0 * h3[b, b1, m]"""
    )


def test_axes_merge_around_a_broadcast() -> None:
    call = check(
        [apply("mul", "y", value("x", 2, 3, 4, 5), value("s", 3, 1, 1))], {"x": x(2, 3, 4, 5), "s": x(3, 1, 1)}
    )
    assert (
        body(call)
        == """\
(I, J, P)
task i: I, j: J, p: P
input x: f32[I, J, P], x1: f32[J]
output y: f32[I, J, P]
stage i, j, p
  y[i, j, p] = x[i, j, p] * x1[j]"""
    )
    assert dict(call.params) == {"I": 2, "J": 3, "P": 20}


def test_group_norm_splits_the_channel_axis() -> None:
    split = apply("reshape", "a", value("x", 2, 6, 4), shape=(2, 3, 8))
    norm = apply("layer_norm", "b", split.output, axis=2, epsilon=1e-5)
    back = apply("reshape", "c", norm.output, shape=(2, 6, 4))
    scale = apply("mul", "y", back.output, value("s", 6, 1))
    call = check([split, norm, back, scale], {"x": x(2, 6, 4), "s": x(6, 1)})
    assert "//" not in str(call.program)
    assert "floordiv" not in str(call.program)


def test_colours_are_too_few_for_a_parameter() -> None:
    call = check(
        [apply("transpose", "y", value("x", B, 3, 7, 8), perm=(0, 2, 3, 1))], {"x": x(2, 3, 7, 8)}, symbols={"B": 2}
    )
    assert "p: 3\n" in body(call)
    call = check(
        [apply("transpose", "y", value("x", B, 5, 7, 8), perm=(0, 2, 3, 1))], {"x": x(2, 5, 7, 8)}, symbols={"B": 2}
    )
    assert ": 5\n" not in body(call)


def test_parts_of_two_columns_share_their_number() -> None:
    parts = [
        apply("slice", n, value("x", 4, 5), starts=(0, k), sizes=(4, 2), steps=(1, 1)) for k, n in enumerate("abc")
    ]
    call = check([*parts, apply("concat", "y", *(p.output for p in parts), axis=0)], {"x": x(4, 5)})
    assert ": 2\n" in body(call)


def test_rows_of_a_box_keep_their_number() -> None:
    """Lanes run over several rows where nothing is folded; the same rows under a softmax are rows like any others."""
    boxes, factor = value("x", B, 4), value("s", B, 1)
    call = check([apply("mul", "y", boxes, factor)], {"x": x(5, 4), "s": x(5, 1)}, symbols={"B": 5})
    assert "j: 4" in str(call.program)
