"""Families of operators that compute, for random models: each function appends a node, or a pattern of them."""

from __future__ import annotations

import math

import numpy as np
from random_maker import I8, I32, I64, U8, B, F, Maker, joint, onnx_type

NUM = (F, I64, I32, U8, I8)
UNARY = (
    "Neg Abs Sqrt Exp Sigmoid Tanh Relu Erf Floor Ceil Round Sign Softplus Softsign LeakyRelu Elu HardSigmoid Gelu Mish "
    "HardSwish Reciprocal Identity Sin Cos Atan Selu Celu ThresholdedRelu Shrink"
).split()


def unary(m: Maker) -> None:
    v = m.any(F)
    m.node(m.pick(UNARY), [v], v.dtype, v.shape)


def binary(m: Maker) -> None:
    a = m.any(*NUM)
    b = m.mate(a)
    if m.chance(0.5):
        a, b = b, a
    m.node(m.pick(["Add", "Sub", "Mul", "Min", "Max", "Add", "Mul"]), [a, b], a.dtype, joint(a.shape, b.shape))


def div(m: Maker) -> None:
    a = m.any(F)
    b = m.mate(a)
    m.node(m.pick(["Div", "Div", "Sub"]), [a, b], a.dtype, joint(a.shape, b.shape))


def intdiv(m: Maker) -> None:
    a = m.any(I64, I32, I8, U8)
    d = m.data(a.dtype, m.pick([(), a.shape[-1:], a.shape]))
    d = np.where(d == 0, np.asarray(3, a.dtype), d).astype(a.dtype)
    b = m.const(d)
    kind = m.pick(["Div", "Mod", "Fmod"])
    if kind == "Fmod":
        m.node("Mod", [a, b], a.dtype, joint(a.shape, b.shape), fmod=1)
    else:
        m.node(kind, [a, b], a.dtype, joint(a.shape, b.shape))


def compare(m: Maker) -> None:
    a = m.any(*NUM)
    b = m.mate(a)
    m.node(m.pick(["Less", "Greater", "Equal", "LessOrEqual", "GreaterOrEqual"]), [a, b], B, joint(a.shape, b.shape))


def logic(m: Maker) -> None:
    a = m.any(B)
    if m.chance(0.3):
        m.node("Not", [a], B, a.shape)
        return
    b = m.mate(a)
    m.node(m.pick(["And", "Or", "Xor"]), [a, b], B, joint(a.shape, b.shape))


def where(m: Maker) -> None:
    a = m.any(*NUM)
    b = m.mate(a)
    s = joint(a.shape, b.shape)
    c = m.source(B, tuple(1 if m.chance(0.3) else d for d in s)) if m.chance(0.6) else None
    if c is None:
        have = [u for u in m.vals if u.dtype == B and joint(u.shape, s) is not None]
        c = m.pick(have) if have else m.source(B, s)
    m.node("Where", [c, a, b], a.dtype, joint(c.shape, s))


def cast(m: Maker) -> None:
    v = m.any(F, I64, I32, B, U8, I8)
    to = m.pick([F, I64, I32, B, F])
    if v.dtype == F and to in (I64, I32):
        v = m.node("Clip", [v, m.const(np.float32(-1e6)), m.const(np.float32(1e6))], F, v.shape)
    m.node("Cast", [v], to, v.shape, to=onnx_type(to))


def clip(m: Maker) -> None:
    v = m.any(F, I64, I32)
    lo = m.const(np.asarray(-1, v.dtype))
    hi = m.const(np.asarray(2, v.dtype))
    k = m.pick([(lo, hi), (lo,), (None, hi)])
    m.node("Clip", [v, *k], v.dtype, v.shape)


def prelu(m: Maker) -> None:
    v = m.any(F, low=1)
    m.node("PRelu", [v, m.source(F, m.pick([v.shape[-1:], (1,), v.shape]))], F, v.shape)


def power(m: Maker) -> None:
    v = m.any(F)
    m.node("Pow", [v, m.const(np.float32(m.pick([2, 3, 1, 0, 0.5, -1, 2.5])))], F, v.shape)


def reduce(m: Maker) -> None:
    v = m.any(F, I64, I32)
    r = len(v.shape)
    axes = sorted(m.r.choice(r, int(m.r.integers(0, r + 1)), replace=False).tolist()) if r else []
    op = m.pick(
        [
            "ReduceSum",
            "ReduceMean",
            "ReduceMax",
            "ReduceMin",
            "ReduceProd",
            "ReduceL1",
            "ReduceL2",
            "ReduceSumSquare",
            "ReduceLogSumExp",
            "ReduceLogSum",
        ]
    )
    if v.dtype != F:
        op = m.pick(["ReduceSum", "ReduceMax", "ReduceMin", "ReduceProd"])
    keep = int(m.chance(0.5))
    noop = int(m.chance(0.2))
    real = axes if axes else ([] if noop else list(range(r)))
    n = math.prod(v.shape[a] for a in real)
    if n == 0 and op in ("ReduceMax", "ReduceMin", "ReduceMean", "ReduceLogSumExp"):
        return
    if real and not n and op == "ReduceLogSum":
        return
    shape = [1 if i in real else d for i, d in enumerate(v.shape) if keep or i not in real]
    shown = [a - r if m.chance(0.3) else a for a in axes]
    ins = [v] + ([m.const(np.array(shown, np.int64))] if axes or m.chance(0.5) else [])
    m.node(op, ins, v.dtype, shape, keepdims=keep, noop_with_empty_axes=noop)


def arg(m: Maker) -> None:
    v = m.any(F, I32, I64, low=1)
    a = int(m.r.integers(len(v.shape)))
    keep = int(m.chance(0.5))
    if v.shape[a] == 0:
        return
    m.node(
        m.pick(["ArgMax", "ArgMin"]),
        [v],
        I64,
        [1 if i == a else d for i, d in enumerate(v.shape) if keep or i != a],
        axis=a,
        keepdims=keep,
    )


def softmax(m: Maker) -> None:
    v = m.any(F, low=1)
    a = int(m.r.integers(-len(v.shape), len(v.shape)))
    if v.shape[a] == 0:
        return
    m.node(m.pick(["Softmax", "Softmax", "LogSoftmax"]), [v], v.dtype, v.shape, axis=a)


def norm(m: Maker) -> None:
    v = m.any(F, low=1)
    a = int(m.r.integers(len(v.shape)))
    if math.prod(v.shape[a:]) == 0:
        return
    ins = [v, m.source(F, v.shape[a:])] + ([m.source(F, v.shape[a:])] if m.chance(0.6) else [])
    m.node("LayerNormalization", ins, F, v.shape, axis=a, epsilon=m.pick([1e-5, 1e-3, 0.1]))


def written_norm(m: Maker) -> None:
    v = m.any(F, low=1)
    a = int(m.r.integers(len(v.shape)))
    axes = list(range(a, len(v.shape))) if m.chance(0.7) else [a]
    if math.prod(v.shape[i] for i in axes) == 0:
        return
    s = [1 if i in axes else d for i, d in enumerate(v.shape)]
    ax = m.const(np.array(axes, np.int64))
    eps = m.const(np.float32(1e-2))
    mean = m.node("ReduceMean", [v, ax], F, s)
    d = m.node("Sub", [v, mean], F, v.shape)
    q = m.node("Pow", [d, m.const(np.float32(2))], F, v.shape) if m.chance(0.5) else m.node("Mul", [d, d], F, v.shape)
    var = m.node("ReduceMean", [q, ax], F, s)
    if m.chance(0.7):
        e = m.node("Add", [var, eps], F, s)
        root = m.node("Sqrt", [e], F, s)
    else:
        root = m.node("Add", [m.node("Sqrt", [var], F, s), eps], F, s)
    top = d if m.chance(0.8) else v
    n = m.node("Div", [top, root], F, v.shape)
    m.node("Mul", [n, m.source(F, m.pick([v.shape[a:], (), v.shape[-1:], v.shape]))], F, v.shape)


def written_act(m: Maker) -> None:
    v = m.any(F)
    k = m.pick(["gelu", "swish", "hswish", "sig", "softplus", "tanhgelu"])
    one = m.const(np.float32(1))
    half = m.const(np.float32(0.5 if m.chance(0.8) else 0.6))

    def N(op, *i):
        return m.node(op, list(i), F, joint(*(j.shape for j in i)))

    if k == "gelu":
        e = N("Erf", N("Div", v, m.const(np.float32(math.sqrt(2) if m.chance(0.8) else 1.3))))
        t = N("Add", e, one)
        N("Mul", N("Mul", v, t), half) if m.chance(0.5) else N("Mul", v, N("Mul", t, half))
    elif k == "swish":
        N("Mul", v, N("Sigmoid", v if m.chance(0.5) else N("Mul", v, m.const(np.float32(1.7)))))
    elif k == "hswish":
        c = m.node(
            "Clip", [N("Add", v, m.const(np.float32(3))), m.const(np.float32(0)), m.const(np.float32(6))], F, v.shape
        )
        N("Div", N("Mul", v, c), m.const(np.float32(6)))
    elif k == "sig":
        N(m.pick(["Reciprocal"]), N("Add", N("Exp", N("Neg", v)), one))
    elif k == "softplus":
        N("Log", N("Add", N("Exp", v), one))
    else:
        cube = N("Mul", N("Mul", v, v), N("Mul", v, m.const(np.float32(0.044715))))
        t = N("Tanh", N("Mul", N("Add", v, cube), m.const(np.float32(math.sqrt(2 / math.pi)))))
        N("Mul", N("Mul", v, half), N("Add", t, one))


def attention(m: Maker) -> None:
    b = tuple(m.shape(0, 2))
    T, S, D, E = m.size(), m.size() or 1, m.size() or 1, m.size()
    q, k, v = m.source(F, (*b, T, D)), m.source(F, (*b, S, D)), m.source(F, (*b, S, E))
    r = len(b) + 2
    kt = m.node("Transpose", [k], F, (*b, D, S), perm=[*range(r - 2), r - 1, r - 2])
    s = m.node("MatMul", [q, kt], F, (*b, T, S))
    if m.chance(0.6):
        s = m.node(m.pick(["Mul", "Div"]), [s, m.const(np.float32(m.pick([0.25, 3.0])))], F, s.shape)
    how = m.pick(["none", "add", "where"])
    if how == "add":
        mask = m.source(F, m.pick([(T, S), (1, S), (*b, 1, S), (S,), ()]))
        s = m.node("Add", [s, mask], F, s.shape)
    if how == "where":
        c = m.source(B, m.pick([(T, S), (1, S)]))
        s = m.node("Where", [c, s, m.const(np.float32(-1e32))], F, s.shape)
    p = m.node("Softmax", [s], F, s.shape, axis=-1)
    m.node("MatMul", [p, v], F, (*b, T, E))


def matmul(m: Maker) -> None:
    a = m.any(F, low=1, high=4)
    K = a.shape[-1]
    kind = m.pick(["2", "batch", "1"])
    if kind == "1":
        b = m.source(F, (K,))
        s = a.shape[:-1]
    elif kind == "2" or len(a.shape) < 3:
        N = m.size()
        b = m.source(F, (K, N))
        s = (*a.shape[:-1], N)
    else:
        N = m.size()
        lead = tuple(1 if m.chance(0.3) else d for d in a.shape[:-2])
        b = m.source(F, (*lead, K, N))
        s = (*a.shape[:-1], N)
    m.node("MatMul", [a, b], F, s)


def gemm(m: Maker) -> None:
    M, N, K = m.size(), m.size(), m.size()
    ta, tb = int(m.chance(0.5)), int(m.chance(0.5))
    fit = [v for v in m.vals if v.dtype == F and len(v.shape) == 2]
    a = m.pick(fit) if fit and m.chance(0.7) else m.source(F, (K, M) if ta else (M, K))
    M, K = a.shape[::-1] if ta else a.shape
    b = m.source(F, (N, K) if tb else (K, N))
    ins = [a, b]
    if m.chance(0.7):
        ins.append(m.source(F, m.pick([(N,), (1, N), (M, N), (M, 1), ()])))
    m.node("Gemm", ins, F, (M, N), transA=ta, transB=tb, alpha=m.pick([1.0, 0.5]), beta=m.pick([1.0, 2.0]))


def variadic(m: Maker) -> None:
    a = m.any(F, I32)
    b = m.mate(a)
    s = joint(a.shape, b.shape)
    op = m.pick(["Sum", "Max", "Min", "Mean"]) if a.dtype == F else m.pick(["Max", "Min"])
    c = [u for u in m.vals if u.dtype == a.dtype and joint(u.shape, s) is not None]
    ins = [a, b] + ([m.pick(c)] if c else [])
    m.node(op, ins, a.dtype, joint(*(i.shape for i in ins)))


def bits(m: Maker) -> None:
    a = m.any(I64, I32, U8, I8)
    b = m.mate(a)
    m.node(m.pick(["BitwiseAnd", "BitwiseOr", "BitwiseXor"]), [a, b], a.dtype, joint(a.shape, b.shape))


def algebra(m: Maker) -> None:
    """Neutral and absorbing constants, that rewrites look for."""
    v = m.any(F, I64, I32)
    k = m.pick([0, 1, -1, 2])
    op = m.pick(["Add", "Mul", "Sub", "Div"])
    if v.dtype != F and op == "Div" and k == 0:
        return
    if op == "Div" and k == 0:
        k = 1
    c = m.const(np.asarray(k, v.dtype) if m.chance(0.7) else np.full([1] * int(m.r.integers(1, 6)), k, v.dtype))
    a, b = (v, c) if op == "Div" or m.chance(0.6) else (c, v)
    m.node(op, [a, b], v.dtype, joint(a.shape, b.shape))


FAMILIES = (
    unary,
    binary,
    div,
    intdiv,
    compare,
    logic,
    where,
    cast,
    clip,
    prelu,
    power,
    reduce,
    arg,
    softmax,
    norm,
    written_norm,
    written_act,
    attention,
    matmul,
    gemm,
    variadic,
    bits,
    algebra,
)
