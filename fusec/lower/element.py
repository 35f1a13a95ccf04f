"""Index-expression inlining: one element of a value, as an expression at an index, down to loads and demands."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from fusec.errors import BugError
from fusec.ir.dim import Dim, Extent, exact_quotient, linear, maximum, minimum, mod
from fusec.ir.expr import Const, Expr, Index, Load, Prim, Ref, cast, prim, replace_refs, rewrite, walk
from fusec.ir.graph import Node, Value
from fusec.ir.types import DType
from fusec.lower.draft import FOLDS, Attempt, Demand, Draft, folded
from fusec.lower.entries import (
    Entry,
    add,
    bounds,
    compare,
    conjunction,
    divide,
    literal,
    nonnegative,
    reshaped,
    scale,
    shift,
    value_of,
)
from fusec.lower.expand import INTERNAL
from fusec.lower.known_range import known_range
from fusec.ops import op as ops
from fusec.ops.op import Kind
from fusec.tile.program import Let, Statement

SHORT_PLACES = frozenset([DType.U8, DType.U16, DType.U32])
"""Dtypes of indices that cannot be negative: where they are known to be inside, nothing is tested at run time."""
LARGEST = 24
"""Parts of an expression that are written in one piece; larger ones get a name."""


@dataclass
class Scope:
    """A place where statements are collected: the body of a stage, or what is inside its fold loops."""

    attempt: Attempt
    stage: Draft
    folding: bool
    body: list[Statement] = field(default_factory=list)
    memo: dict[tuple[object, ...], Expr] = field(default_factory=dict)

    def element(self, v: Value, index: Sequence[Entry], guard: bool = False, compute: bool = False) -> Expr:
        """One element of a value. `guard`: the index may be outside, then any value will do. `compute`: do not demand it."""
        key = v.name, tuple(index), guard
        if key not in self.memo:
            self.memo[key] = self._element(v, tuple(index), guard, compute)
        return self.memo[key]

    def let(self, e: Expr) -> Expr:
        """A name for an expression that is more than a name already."""
        if not isinstance(e, Prim | Load):
            return e
        name = f"%{next(self.attempt.fresh)}"
        self.body.append(Let(name, e))
        return Ref(name, e.dtype)

    def _element(self, v: Value, index: tuple[Entry, ...], guard: bool, compute: bool) -> Expr:
        self.attempt.seen.setdefault(v.name, index)
        node = self.attempt.maker.get(v.name)
        if node is None:
            return self.external(v, index, guard)
        if not compute and (v.name in self.attempt.stored or self.attempt.folds(node)):
            return self._demand(v, index, guard)
        if node.op in FOLDS:
            return self._of_one(node, index, guard)
        kind = Kind.ELEMENTWISE if node.op in INTERNAL else ops.get(node.op).kind
        if kind is Kind.ELEMENTWISE:
            self.attempt.visits.setdefault(v.name, {})[id(self.stage)] = self.stage
            return self._elementwise(node, index, guard)
        if node.op not in RULES:
            raise BugError(f"there is no lowering of {node.op}", op=node.op)
        return RULES[node.op](self, node, index, guard)

    def external(
        self, v: Value, index: tuple[Entry, ...], guard: bool = False, shape: tuple[Extent, ...] | None = None
    ) -> Expr:
        """One element of a value that no node of the group makes; its bytes may be seen in another shape."""
        array = self.attempt.graph.array(v)
        if array is not None and array.size == 1:
            return self.number(array.reshape(()).item(), v.dtype)
        shape = v.shape if shape is None else shape
        role = "input" if array is None else "weight"
        name = self.attempt.operands.get(role, self.attempt.names(v.name), v.dtype, shape)
        fill = literal(0, v.dtype) if guard and any(i != 0 for i in index) else None
        return Load(name, index, v.dtype, fill)

    def number(self, value: float | int | bool, dtype: DType) -> Expr:
        """A literal of the model: a scalar operand, unless it is one of the numbers that code is made of."""
        plain = literal(value, dtype)
        if dtype is DType.BOOL or plain.value in (0, 1, -1) or (dtype.is_float and not math.isfinite(plain.value)):
            return plain
        return Ref(self.attempt.operands.scalar(plain.value, dtype), dtype)

    def _demand(self, v: Value, index: tuple[Entry, ...], guard: bool) -> Expr:
        held = self.attempt.held_dtype(v)
        name = f"@{next(self.attempt.fresh)}"
        demand = Demand(name, self.stage, self.folding, index, guard, held)
        self.attempt.demands.setdefault(v.name, []).append(demand)
        return cast(Ref(name, held), v.dtype)

    def _of_one(self, node: Node, index: tuple[Entry, ...], guard: bool) -> Expr:
        """A reduction over dimensions of 1."""
        (x,) = node.operands
        if node.op in ("argmax", "argmin"):
            return literal(0, DType.I64)
        return self.element(x, input_index(node, index, {}), guard)

    def _elementwise(self, node: Node, index: tuple[Entry, ...], guard: bool) -> Expr:
        out = node.output
        args = [
            None if x is None else self.element(x, broadcast(index, out.shape, x.shape), guard) for x in node.inputs
        ]
        refs = [None if a is None else Ref(f"&{j}", a.dtype) for j, a in enumerate(args)]
        attrs = dict(node.attrs)
        if node.op in INTERNAL:
            assert refs[0] is not None
            body = INTERNAL[node.op](refs[0], attrs, index)
        else:
            scalar = ops.get(node.op).scalar
            assert scalar is not None
            body = scalar(refs, attrs)
        body = self._numbers(body, attrs)
        uses = Counter(x.name for x in walk(body) if isinstance(x, Ref))
        given = {f"&{j}": self.let(a) if uses[f"&{j}"] > 1 else a for j, a in enumerate(args) if a is not None}
        e = replace_refs(body, given)
        return self.let(e) if self.attempt.uses[out.name] > 1 or sum(1 for _ in walk(e)) > LARGEST else e

    def _numbers(self, body: Expr, attrs: dict[str, Any]) -> Expr:
        """Literals that come from attributes become scalar operands; those of the op itself stay."""
        given = {float(a) for a in attrs.values() if isinstance(a, float | int) and not isinstance(a, bool)}
        if not given:
            return body
        return rewrite(
            body, lambda x: self.number(x.value, x.dtype) if isinstance(x, Const) and float(x.value) in given else None
        )


def broadcast(index: Sequence[Entry], shape: Sequence[Extent], source: Sequence[Extent]) -> tuple[Entry, ...]:
    """Where an element of a broadcast result lies in an operand."""
    skip = len(shape) - len(source)
    return tuple(0 if n == 1 != shape[skip + d] else index[skip + d] for d, n in enumerate(source))


def input_index(node: Node, index: Sequence[Entry], at: dict[int, Entry]) -> tuple[Entry, ...]:
    """The index into the input of a reduction: `at` gives the places along the folded dimensions (0 where absent)."""
    axes, rank = folded(node), len(node.operands[0].shape)
    kept = [i for d, i in enumerate(index) if not (node.attr("keepdims") and d in axes)]
    left = iter(kept)
    return tuple(at.get(d, 0) if d in axes else next(left) for d in range(rank))


Rule = Callable[[Scope, Node, tuple[Entry, ...], bool], Expr]


def _identity(s: Scope, node: Node, index: tuple[Entry, ...], guard: bool) -> Expr:
    return s.element(node.operands[0], index, guard)


def _reshape(s: Scope, node: Node, index: tuple[Entry, ...], guard: bool) -> Expr:
    (x,) = node.operands
    outside = x.name not in s.attempt.maker and s.attempt.graph.array(x) is None
    if outside:  # the same bytes, seen in the new shape
        return s.external(x, index, guard, node.output.shape)
    at = reshaped(index, node.output.shape, x.shape, s.attempt.axes.extents, s.attempt.axes.split)
    return s.element(x, at, guard)


def _transpose(s: Scope, node: Node, index: tuple[Entry, ...], guard: bool) -> Expr:
    perm = node.attr("perm")
    at: list[Entry] = [0] * len(perm)
    for d, p in enumerate(perm):
        at[p] = index[d]
    return s.element(node.operands[0], at, guard)


def _expand(s: Scope, node: Node, index: tuple[Entry, ...], guard: bool) -> Expr:
    (x,) = node.operands
    return s.element(x, broadcast(index, node.output.shape, x.shape), guard)


def _slice(s: Scope, node: Node, index: tuple[Entry, ...], guard: bool) -> Expr:
    at = [shift(scale(i, k), b) for i, b, k in zip(index, node.attr("starts"), node.attr("steps"), strict=True)]
    return s.element(node.operands[0], at, guard)


def _concat(s: Scope, node: Node, index: tuple[Entry, ...], guard: bool) -> Expr:
    axis = int(node.attr("axis"))
    here = index[axis]
    limits = bounds(here, s.attempt.axes.extents) if isinstance(here, int | Dim) else None
    parts: list[tuple[Extent, Extent, Value]] = []
    offset: Extent = 0
    for x in node.operands:
        n = x.shape[axis]
        if n != 0 and not (limits and _outside(limits, offset, offset + n)):
            parts.append((offset, offset + n, x))
        offset = offset + n
    if not parts:
        return literal(0, node.output.dtype)
    outside = guard or len(parts) > 1
    out: Expr | None = None
    for low, high, x in reversed(parts):
        at = (*index[:axis], shift(here, low * -1), *index[axis + 1 :])
        e = s.element(x, at, outside)
        inside = compare("lt", here, high)
        if out is None or inside is True:
            out = e
        elif not isinstance(inside, bool):
            out = prim("where", inside, e, out)
    assert out is not None
    return out


def _outside(limits: tuple[Extent, Extent], low: Extent, high: Extent) -> bool:
    """Whether values within `limits` are known never to be in low..high-1."""
    below, above = limits[1] - low, limits[0] - high
    return (isinstance(below, int) and below < 0) or (isinstance(above, int) and above >= 0)


def _pad(s: Scope, node: Node, index: tuple[Entry, ...], guard: bool) -> Expr:
    x, before, mode = node.operands[0], node.attr("before"), node.attr("mode")
    places: list[Entry] = []
    tests: list[Expr | bool] = []
    for i, b, a, n in zip(index, before, node.attr("after"), x.shape, strict=True):
        at = shift(i, b * -1)
        if b == 0 and a == 0:
            places.append(i)
        elif mode == "constant":
            places.append(at)
            tests += _inside_tests(s, at, n)
        else:
            places.append(_folded_back(at, n, mode, max(b, a) if isinstance(b, int) and isinstance(a, int) else n))
    inside = conjunction(tests)
    if isinstance(inside, bool) and inside:
        return s.element(x, places, guard)
    value = node.inputs[1] if len(node.inputs) > 1 else None
    fill = literal(0, x.dtype) if value is None else s.element(value, ())
    e = s.element(x, places, True)
    if isinstance(e, Load) and e.fill is not None and isinstance(fill, Const) and _reads_all(s, x):
        return replace(e, fill=fill)
    return fill if isinstance(inside, bool) else prim("where", inside, e, fill)


def _reads_all(s: Scope, x: Value) -> bool:
    """Whether what is outside a value is outside the operand that its elements are loaded from."""
    while (node := s.attempt.maker.get(x.name)) is not None:
        if node.op not in ("transpose", "identity"):
            return False
        (x,) = node.operands
    return True


def _inside_tests(s: Scope, at: Entry, n: Extent) -> list[Expr | bool]:
    limits = bounds(at, s.attempt.axes.extents) if isinstance(at, int | Dim) else None
    low = limits is not None and isinstance(limits[0], int) and limits[0] >= 0
    high = limits is not None and isinstance(d := limits[1] - n, int) and d < 0
    return [True if low else compare("ge", at, 0), True if high else compare("lt", at, n)]


def _folded_back(at: Entry, n: Extent, mode: str, beyond: Extent) -> Entry:
    """Where an index up to `beyond` outside is taken from: the nearest edge, the mirror image, or the other end."""
    if not isinstance(at, int | Dim):
        raise BugError(f"padding by {mode} at an index that is read from memory")
    if mode == "edge":
        return maximum(0, minimum(at, n - 1))
    if mode == "wrap":
        return mod(at, n) if n != 0 else 0
    if nonnegative(n - 1 - beyond):  # one mirror on either side: nothing to divide
        behind = maximum(at, at * -1)
        return minimum(behind, (n - 1) * 2 - behind)
    period = maximum(1, (n - 1) * 2)
    around = mod(at, period)
    return minimum(around, (n - 1) * 2 - around)


def _windows(s: Scope, node: Node, index: tuple[Entry, ...], guard: bool) -> Expr:
    x, axes = node.operands[0], node.attr("axes")
    at = list(index[: len(x.shape)])
    places = index[len(x.shape) :]
    for axis, place, stride, dilation in zip(axes, places, node.attr("strides"), node.attr("dilations"), strict=True):
        at[axis] = add(scale(at[axis], stride), scale(place, dilation))
    return s.element(x, at, guard)


def _iota(_: Scope, node: Node, index: tuple[Entry, ...], _guard: bool) -> Expr:
    return cast(value_of(shift(scale(index[0], node.attr("step")), node.attr("start"))), node.attr("dtype"))


def _dims(_: Scope, node: Node, index: tuple[Entry, ...], _guard: bool) -> Expr:
    values = node.attr("values")
    if isinstance(index[0], int):
        return Index(values[index[0]])
    out: Expr = Index(values[-1]) if values else literal(0, DType.I64)
    for j in reversed(range(len(values) - 1)):
        test = compare("eq", index[0], j)
        if not isinstance(test, bool):
            out = prim("where", test, Index(values[j]), out)
    return out


def limited(i: Expr, n: Extent) -> Expr:
    """An unsigned index that is known to be less than `n`: a minimum changes nothing and tells the kernel so."""
    last = prim("sub", cast(Index(n), DType.U32), literal(1, DType.U32))
    return cast(cast(prim("min", i, last), DType.I32), DType.I64)


def place(s: Scope, indices: Value, index: Sequence[Entry], n: Extent, guard: bool) -> Entry:
    """An index that is read from memory, negative ones wrapped; a constant one is a polynomial."""
    array = s.attempt.graph.array(indices)
    if array is not None and array.size == 1:
        known = int(array.reshape(()).item())
        at: Extent = known if known >= 0 else n + known
        inside = known in (0, -1) or (isinstance(n, int) and -n <= known < n)
        return at if inside else Index(at)  # what may be outside is tested when it runs
    times, extents = repeated(array), s.attempt.axes.extents
    fits = array is not None and times > 1 and nonnegative(n - len(array) // times)
    if fits and isinstance(index[0], Dim) and _is_cut_by(index[0], times, extents):
        return divide(index[0], times, extents, s.attempt.axes.split)[0]
    found = cast(s.element(indices, index, guard), DType.I64)
    if isinstance(found, Index) and (limits := bounds(found.value, s.attempt.axes.extents)) and nonnegative(limits[0]):
        return found.value if nonnegative(n - 1 - limits[1]) else found
    limits = known_range(s.attempt.graph, indices) if indices.dtype in SHORT_PLACES and not guard else None
    if limits is not None and isinstance(n, int) and limits[1] < n < 1 << 31:
        return limited(s.let(cast(s.element(indices, index, guard), DType.U32)), n)
    i = s.let(found)
    if not indices.dtype.is_signed or (array is not None and array.size and int(array.min()) >= 0):
        return i
    return s.let(prim("where", prim("lt", i, literal(0, DType.I64)), prim("add", i, Index(n)), i))


def _is_cut_by(x: Dim, size: int, extents: Mapping[str, Extent]) -> bool:
    """Whether an index is one axis, or axes that it was split into, some of which run over pieces of `size`."""
    parts = linear(x, extents)
    if parts is None or parts[0] != 0:
        return False
    return len(parts[1]) == 1 or all(exact_quotient(c, size) is not None or c == 1 for c in parts[1].values())


def repeated(array: npt.NDArray[Any] | None) -> int:
    """How many times indices name each place from the first one on, all equally often: 2 for [0, 0, 1, 1, 2, 2]. Else 1."""
    if array is None or array.ndim != 1 or array.dtype.kind not in "iu" or len(array) < 2 or array[0] != 0:
        return 1
    times, rest = divmod(len(array), int(array[-1]) + 1) if array[-1] >= 0 else (1, 0)
    return times if times > 1 and not rest and (array == np.arange(len(array)) // times).all() else 1


def _gather(s: Scope, node: Node, index: tuple[Entry, ...], guard: bool) -> Expr:
    x, indices = node.operands
    axis, rank = int(node.attr("axis")), len(indices.shape)
    at = place(s, indices, index[axis : axis + rank], x.shape[axis], guard)
    return s.element(x, (*index[:axis], at, *index[axis + rank :]), guard)


def _gather_elements(s: Scope, node: Node, index: tuple[Entry, ...], guard: bool) -> Expr:
    x, indices = node.operands
    axis = int(node.attr("axis"))
    at = place(s, indices, index, x.shape[axis], guard)
    return s.element(x, (*index[:axis], at, *index[axis + 1 :]), guard)


def _gather_nd(s: Scope, node: Node, index: tuple[Entry, ...], guard: bool) -> Expr:
    x, indices = node.operands
    batch, rank = int(node.attr("batch_dims")), len(indices.shape) - 1
    depth = indices.shape[-1]
    assert isinstance(depth, int)
    at = [place(s, indices, (*index[:rank], j), x.shape[batch + j], guard) for j in range(depth)]
    return s.element(x, (*index[:batch], *at, *index[rank:]), guard)


RULES: dict[str, Rule] = {
    "identity": _identity,
    "reshape": _reshape,
    "transpose": _transpose,
    "expand": _expand,
    "slice": _slice,
    "concat": _concat,
    "pad": _pad,
    "windows": _windows,
    "iota": _iota,
    "dims": _dims,
    "gather": _gather,
    "gather_elements": _gather_elements,
    "gather_nd": _gather_nd,
}
