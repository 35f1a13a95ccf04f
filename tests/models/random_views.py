"""Families of views and gathers for random models: each function appends a node, or none where nothing fits."""

from __future__ import annotations

import math

import numpy as np
from onnx import helper
from random_maker import I64, F, Maker, Val


def transpose(m: Maker) -> None:
    v = m.any(low=1)
    p = m.r.permutation(len(v.shape)).tolist()
    m.node("Transpose", [v], v.dtype, [v.shape[i] for i in p], perm=p)


def reshape(m: Maker) -> None:
    v = m.any()
    n = math.prod(v.shape)
    s = list(v.shape)
    if n == 0:
        if 0 not in v.shape:
            return
        m.node("Reshape", [v, m.const(np.array([*s, 1], np.int64))], v.dtype, (*s, 1))
        return
    k = m.pick(["flat", "merge", "ones", "split"])
    if k == "flat":
        s = [-1]
        out = [n]
    elif k == "merge" and len(s) > 1:
        i = int(m.r.integers(len(s) - 1))
        out = [*s[:i], s[i] * s[i + 1], *s[i + 2 :]]
        s = list(out)
        s[i] = -1
    elif k == "split" and any(d % 2 == 0 for d in s):
        i = next(i for i, d in enumerate(s) if d % 2 == 0)
        out = [*s[:i], 2, s[i] // 2, *s[i + 1 :]]
        s = list(out)
        s[i + 1] = -1
    else:
        i = int(m.r.integers(len(s) + 1))
        out = [*s[:i], 1, *s[i:]]
        s = list(out)
    m.node("Reshape", [v, m.const(np.array(s, np.int64))], v.dtype, out)


def squeeze(m: Maker) -> None:
    v = m.any()
    r = len(v.shape)
    ones = [i for i, d in enumerate(v.shape) if d == 1]
    if ones and m.chance(0.5):
        a = m.pick(ones)
        m.node("Squeeze", [v, m.const(np.array([a], np.int64))], v.dtype, [d for i, d in enumerate(v.shape) if i != a])
    elif r < 5:
        a = int(m.r.integers(r + 1))
        m.node("Unsqueeze", [v, m.const(np.array([a], np.int64))], v.dtype, [*v.shape[:a], 1, *v.shape[a:]])


def sliced(m: Maker) -> None:
    v = m.any(low=1)
    a = int(m.r.integers(len(v.shape)))
    d = v.shape[a]
    st, en = int(m.r.integers(-d - 2, d + 3)), int(m.r.integers(-d - 2, d + 3))
    step = m.pick([1, 1, 2, -1, -2, 3])
    if step < 0:
        st = max(st, -d)
    if m.chance(0.2):
        en = 2**63 - 1 if step > 0 else -(2**63) + 1
    n = len(range(*slice(st, en, step).indices(d)))
    if en < -d and step < 0:
        n = len(range(*slice(st, None, step).indices(d)))

    def c(x):
        return m.const(np.array([x], np.int64))

    m.node(
        "Slice",
        [v, c(st), c(en), c(a - len(v.shape) if m.chance(0.3) else a), c(step)],
        v.dtype,
        [n if i == a else e for i, e in enumerate(v.shape)],
    )


def concat(m: Maker) -> None:
    v = m.any(low=1)
    a = int(m.r.integers(len(v.shape)))
    same = [
        u
        for u in m.vals
        if u.dtype == v.dtype
        and len(u.shape) == len(v.shape)
        and all(x == y for i, (x, y) in enumerate(zip(u.shape, v.shape)) if i != a)
    ]
    parts = [v, m.pick(same or [v])] + (
        [m.source(v.dtype, [m.size() if i == a else d for i, d in enumerate(v.shape)])] if m.chance(0.5) else []
    )
    m.node(
        "Concat",
        parts,
        v.dtype,
        [sum(p.shape[a] for p in parts) if i == a else d for i, d in enumerate(v.shape)],
        axis=a,
    )


def split(m: Maker) -> None:
    v = m.any(low=1)
    a = int(m.r.integers(len(v.shape)))
    d = v.shape[a]
    k = int(m.r.integers(0, d + 1))
    outs = [
        Val(f"v{len(m.nodes)}_{i}", v.dtype, tuple(p if i_ == a else e for i_, e in enumerate(v.shape)))
        for i, p in enumerate((k, d - k))
    ]
    m.nodes.append(
        helper.make_node(
            "Split",
            [v.name, m.const(np.array([k, d - k], np.int64)).name],
            [o.name for o in outs],
            axis=a,
            name=f"n{len(m.nodes)}",
        )
    )
    m.vals += outs


def pad(m: Maker) -> None:
    v = m.any(F, I64, low=1)
    mode = m.pick(["constant", "edge", "reflect", "wrap"])
    r = len(v.shape)
    if mode != "constant" and 0 in v.shape:
        return
    hi = [min(d - 1, 2) if mode in ("reflect",) else (min(d, 2) if mode == "wrap" else 2) for d in v.shape]
    p = [int(m.r.integers(0, h + 1)) for h in hi * 2]
    if mode == "constant" and m.chance(0.3):
        p[0] = -min(1, v.shape[0])
    out = [d + p[i] + p[i + r] for i, d in enumerate(v.shape)]
    if min(out) < 0:
        return
    ins = [v, m.const(np.array(p, np.int64))] + (
        [m.const(np.asarray(3, v.dtype))] if mode == "constant" and m.chance(0.5) else []
    )
    m.node("Pad", ins, v.dtype, out, mode=mode)


def expand(m: Maker) -> None:
    v = m.any()
    s = [d if d != 1 else m.size() for d in v.shape]
    if m.chance(0.4):
        s = [m.size(), *s]
    if len(s) > 5:
        return
    m.node(
        "Expand",
        [
            v,
            m.const(
                np.array(
                    [
                        1
                        if d == v.shape[i - len(s) + len(v.shape)] and i >= len(s) - len(v.shape) and m.chance(0.3)
                        else d
                        for i, d in enumerate(s)
                    ]
                    if v.shape
                    else s,
                    np.int64,
                )
            ),
        ],
        v.dtype,
        s,
    )


def gather(m: Maker) -> None:
    v = m.any(low=1)
    a = int(m.r.integers(len(v.shape)))
    d = v.shape[a]
    if d == 0:
        return
    s = m.shape(0, 2)
    if len(v.shape) - 1 + len(s) > 5:
        return
    idx = m.r.integers(-d, d, s)
    if m.chance(0.5):
        i = m.const(np.asarray(idx, np.int64))
    else:
        i = Val(f"x{len(m.inputs)}", I64, s)
        m.inputs.append(i)
        m.feeds[i.name] = np.asarray(idx, np.int64)
    m.node("Gather", [v, i], v.dtype, [*v.shape[:a], *s, *v.shape[a + 1 :]], axis=a)


def gather_elements(m: Maker) -> None:
    v = m.any(low=1)
    a = int(m.r.integers(len(v.shape)))
    d = v.shape[a]
    if d == 0:
        return
    s = [m.size() if i == a else (int(m.r.integers(0, e + 1))) for i, e in enumerate(v.shape)]
    i = m.const(np.asarray(m.r.integers(-d, d, s), np.int64))
    m.node("GatherElements", [v, i], v.dtype, s, axis=a)


def gather_nd(m: Maker) -> None:
    v = m.any(low=1)
    k = int(m.r.integers(1, len(v.shape) + 1))
    if 0 in v.shape[:k]:
        return
    s = m.shape(0, 2)
    if len(s) + len(v.shape) - k > 5:
        return
    i = m.const(np.stack([m.r.integers(-d, d, s) for d in v.shape[:k]], -1).astype(np.int64).reshape(*s, k))
    m.node("GatherND", [v, i], v.dtype, [*s, *v.shape[k:]])


def shape(m: Maker) -> None:
    v = m.any()
    m.node("Shape", [v], I64, (len(v.shape),))


def tile(m: Maker) -> None:
    v = m.any(low=1)
    t = [m.pick([1, 1, 2, 3]) for _ in v.shape]
    if math.prod(v.shape) > 2000:
        return
    m.node("Tile", [v, m.const(np.array(t, np.int64))], v.dtype, [a * b for a, b in zip(v.shape, t)])


FAMILIES = (
    transpose,
    reshape,
    squeeze,
    sliced,
    concat,
    split,
    pad,
    expand,
    gather,
    gather_elements,
    gather_nd,
    shape,
    tile,
)
