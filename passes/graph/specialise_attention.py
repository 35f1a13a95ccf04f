"""Say of an attention what its operands show: that a mask is causal, and that query heads share key heads."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from fusec.ir.dim import Dim, Extent, exact_quotient, product
from fusec.ir.graph import Attr, Graph, Node, Value
from fusec.passes.graph.sweep import Sweep, sweep
from fusec.rewrite.graph_pass import PassContext, graph_pass

Array = npt.NDArray[Any]
LOWEST = {"f64": -1e290, "f32": -1e30, "f16": -np.inf, "bf16": -1e30}
"""Scores that a mask lowers this far are as good as absent. No finite f16 is: kernels add in f32."""

CONDITIONS = ("not", "and", "or", "reshape", "expand", "slice", "gather", "le", "lt", "ge", "gt")
"""What conditions of being seen are made of."""


@graph_pass("specialise-attention")
def specialise_attention(graph: Graph, _: PassContext) -> Graph:
    """Turn causal masks into an attribute and repeated key heads into an axis that is broadcast.

    before: i = iota[..](); r = reshape[shape=(T, 1)](i); c = le(i, r); m = where(c, 0, -inf);
            y = attention[causal=false](q, k, v, m)
    after:  y = attention[causal=true](q, k, v)
    """
    if not any(n.op == "attention" for n in graph.nodes):
        return graph
    return sweep(graph, {"attention": (_causal, _last_row, _shared)})


# ---- causal masks


def _causal(s: Sweep, n: Node) -> Value | None:
    """The mask hides what comes later: all of it, or with more besides."""
    if n.attr("causal") or len(n.operands) < 4:
        return None
    q, k, v, mask = n.operands
    rows, columns = q.shape[-2], k.shape[-2]
    found = _hidden(s, mask, rows, columns)
    if found is None:
        return None
    past, rest = found
    attrs: dict[str, Attr] = dict(n.attrs) | {"causal": True}
    if past != 0:
        attrs["past"] = past
    return s.emit("attention", q, k, v, *(() if rest is None else (rest,)), **attrs)


def _last_row(s: Sweep, n: Node) -> Value | None:
    """One row, which sees all positions: a step of a decoder."""
    q, k, v, *masks = n.operands
    if not n.attr("causal") or q.shape[-2] != 1 or n.attr("past", 0) + 1 != k.shape[-2]:
        return None
    attrs = {name: a for name, a in n.attrs if name != "past"} | {"causal": False}
    return s.emit("attention", q, k, v, *masks, **attrs)


def _hidden(s: Sweep, mask: Value, rows: Extent, columns: Extent) -> tuple[Extent, Value | None] | None:
    """How many positions the first row sees besides its own, and the mask that is needed besides."""
    array = s.array(mask)
    if array is not None:
        found = _triangle(array == 0, array <= LOWEST[str(mask.dtype)]) if _fits(mask, rows, columns) else None
        return None if found is None else (found[0], None)
    n = s.maker(mask, "where", "add", "expand", "reshape")
    if n is None:
        return None
    if n.op == "add":
        a, b = n.operands
        for x, other in ((a, b), (b, a)):
            part = _hidden(s, x, rows, columns)
            if part is not None:
                return part[0], other if part[1] is None else mask
        return None
    if n.op in ("expand", "reshape"):
        same = n.operands[0].shape[-2:] == n.output.shape[-2:]
        inner = _hidden(s, n.operands[0], rows, columns) if same else None
        return None if inner is None else (inner[0], None if inner[1] is None else mask)
    condition, zero, low = n.operands
    if s.constant(low) == 0:
        zero, low, inverted = low, zero, True
    else:
        inverted = False
    least = s.constant(low)
    if s.constant(zero) != 0 or least is None or least > LOWEST[str(mask.dtype)]:
        return None
    found = _seen(s, condition, rows, columns, inverted)
    return None if found is None else (found[0], None if found[1] else mask)


def _seen(s: Sweep, condition: Value, rows: Extent, columns: Extent, inverted: bool) -> tuple[Extent, bool] | None:
    """The same of a condition that holds where a row sees a position (where it does not, if `inverted`), and whether
    it says nothing else."""
    array = s.array(condition)
    if array is not None:
        seen = ~array if inverted else array
        return _triangle(seen, ~seen) if _fits(condition, rows, columns) else None
    n = s.maker(condition, *CONDITIONS)
    if n is None:
        return None
    if n.op == "not":
        return _seen(s, n.operands[0], rows, columns, not inverted)
    if n.op in ("and", "or"):
        if (n.op == "or") is not inverted:
            return None
        parts = (_seen(s, x, rows, columns, inverted) for x in n.operands)
        return next(((p[0], False) for p in parts if p is not None), None)
    if n.op in ("reshape", "expand"):
        same = n.operands[0].shape[-2:] == n.output.shape[-2:]
        return _seen(s, n.operands[0], rows, columns, inverted) if same else None
    if n.op in ("slice", "gather"):
        return _window(s, condition, inverted) if _fits(condition, rows, columns) else None
    return _compared(s, n, inverted) if _fits(condition, rows, columns) else None


def _compared(s: Sweep, n: Node, inverted: bool) -> tuple[Extent, bool] | None:
    """A comparison of positions along the columns with positions along the rows."""
    a, b = (_position(s, x) for x in n.operands)
    if a is None or b is None or {a[0], b[0]} != {1, 2}:
        return None
    op = n.op
    if a[0] == 2:
        a, b, op = b, a, {"le": "ge", "lt": "gt", "ge": "le", "gt": "lt"}[op]
    if inverted:
        op = {"le": "gt", "lt": "ge", "ge": "lt", "gt": "le"}[op]
    if op not in ("le", "lt"):
        return None
    past = b[1] - a[1] - (op == "lt")
    return (past, True) if _nonnegative(past) else None


def _position(s: Sweep, v: Value) -> tuple[int, Extent] | None:
    """(d, n): the value counts from n along its d-th last dimension, and is the same along all others."""
    array = s.array(v)
    if array is not None and array.dtype.kind in "iu" and array.size > 1:
        wide = [d for d, size in enumerate(array.shape) if size != 1]
        flat = array.reshape(-1)
        if len(wide) == 1 and (np.diff(flat.astype(np.int64)) == 1).all():
            return array.ndim - wide[0], int(flat[0])
        return None
    n = s.maker(v, "iota", "reshape", "cast", "add", "identity")
    if n is None:
        return None
    if n.op == "iota":
        return (1, n.attr("start")) if n.attr("step") == 1 and not n.attr("dtype").is_float else None
    if n.op == "add":
        a, b = n.operands
        for x, other in ((a, b), (b, a)):
            by, found = s.constant(other), _position(s, x)
            if found is not None and by is not None and x.shape == v.shape:
                return found[0], found[1] + int(by)
        return None
    found = _position(s, n.operands[0])
    if found is None or n.op in ("cast", "identity"):
        return found if found is not None and not v.dtype.is_float else None
    wide = [d for d, size in enumerate(v.shape) if size != 1]
    size = n.operands[0].shape[-found[0]]
    return (len(v.shape) - wide[0], found[1]) if len(wide) == 1 and v.shape[wide[0]] == size else None


def _window(s: Sweep, v: Value, inverted: bool) -> tuple[Extent, bool] | None:
    """A part of a constant triangle, as decoders cut it to the positions at hand."""
    starts: dict[int, Extent] = {1: 0, 2: 0}
    rank = len(v.shape)
    while (array := s.array(v)) is None:
        n = s.maker(v, "slice", "gather")
        if n is None or len(n.operands[0].shape) != rank or rank < 2:
            return None
        if n.op == "slice":
            if any(step != 1 for step in n.attr("steps")):
                return None
            starts = {d: x + n.attr("starts")[-d] for d, x in starts.items()}
        else:
            axis, place = rank - int(n.attr("axis")), _position(s, n.operands[1])
            if axis not in starts or place is None or len(n.operands[1].shape) != 1:
                return None
            starts[axis] = starts[axis] + place[1]
        v = n.operands[0]
    seen = ~array if inverted else array
    found = _triangle(seen, ~seen)
    past = found[0] + starts[2] - starts[1] if found is not None else -1
    return (past, True) if _nonnegative(past) else None


def _triangle(seen: Array, hidden: Array) -> tuple[Extent, bool] | None:
    """Of a constant: what is seen and what is hidden must be everything, in the shape of a staircase."""
    shape = tuple(int(d) for d in seen.shape)
    if len(shape) < 2 or product(shape[:-2]) != 1 or 0 in shape or seen.dtype != np.bool_:
        return None
    rows, columns = shape[-2:]
    seen, hidden = (np.reshape(x, (rows, columns)) for x in (seen, hidden))
    past = int(seen[0].sum()) - 1
    if past < 0 or past + 1 == columns or not (seen != hidden).all():
        return None
    return (past, True) if np.array_equal(seen, np.tri(rows, columns, k=past, dtype=np.bool_)) else None


def _fits(mask: Value, rows: Extent, columns: Extent) -> bool:
    return len(mask.shape) >= 2 and mask.shape[-2:] == (rows, columns)


def _nonnegative(x: Extent) -> bool:
    """Known not to be negative: dimensions never are."""
    if not isinstance(x, Dim):
        return x >= 0
    return all(c > 0 and all(isinstance(a, str) for a in mono) for mono, c in x.terms)


# ---- heads that share keys


def _shared(s: Sweep, n: Node) -> Value | None:
    """Key and value heads that were repeated for groups of query heads: one more axis, along which they are broadcast."""
    q, k, v, *masks = n.operands
    keys, values = _repeated(s, k), _repeated(s, v)
    if keys is None or values is None or keys[1] != values[1] or len(q.shape) != 4 or q.shape[:2] != k.shape[:2]:
        return None
    (k, groups), (v, _) = keys, values
    batch, heads, t, d = q.shape
    shared = exact_quotient(heads, groups)
    if shared is None or k.shape[:2] != (batch, shared) or v.shape[:2] != (batch, shared):
        return None
    as_rows = t == 1 and not n.attr("causal")  # the queries of a group are the rows of one product
    wide = [_with_groups(s, m, heads, shared, groups, as_rows) for m in masks]
    if any(m is None for m in wide):
        return None
    attrs = dict(n.attrs)
    if as_rows:
        q = s.emit("reshape", q, shape=(batch, shared, groups, d))
    else:
        q = s.emit("reshape", q, shape=(batch, shared, groups, t, d))
        k, v = (s.emit("reshape", x, shape=(batch, shared, 1, *x.shape[2:])) for x in (k, v))
    out = s.emit("attention", q, k, v, *wide, **attrs)
    return s.emit("reshape", out, shape=n.output.shape)


def _repeated(s: Sweep, v: Value) -> tuple[Value, Extent] | None:
    """The heads before each was repeated, and how often: reshape(expand(reshape(x)))."""
    flat = s.maker(v, "reshape")
    wide = s.maker(flat.operands[0], "expand") if flat is not None else None
    if wide is None or len(v.shape) != 4:
        return None
    one = wide.operands[0]
    batch, heads, groups, *rest = wide.output.shape
    if len(rest) != 2 or tuple(one.shape) != (batch, heads, 1, *rest) or v.shape != (batch, heads * groups, *rest):
        return None
    return s.emit("reshape", one, shape=(batch, heads, *rest)), groups


def _with_groups(s: Sweep, m: Value, heads: Extent, shared: Extent, groups: Extent, as_rows: bool) -> Value | None:
    """A mask with the heads' dimension in two, or with the queries of a group as rows."""
    if len(m.shape) < 3 or (as_rows and m.shape[-3] == 1):
        return m
    *batch, h, t, positions = m.shape
    if h == 1:
        return s.emit("reshape", m, shape=(*batch, 1, 1, t, positions))
    rows = (groups,) if as_rows else (groups, t)
    return s.emit("reshape", m, shape=(*batch, shared, *rows, positions)) if h == heads else None
