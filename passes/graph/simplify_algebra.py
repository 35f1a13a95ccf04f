"""Arithmetic that changes nothing, or that a cheaper op does exactly as well.

Every rule is exact: it holds for NaN, infinities and -0.0, and for integers that wrap. So `x + 0.0` stays (it turns -0.0
into 0.0) while `x + -0.0` goes, and constants are combined only where no rounding can differ. The one exception is
x ** 3, whose two products are rounded once more than a power would be.
"""

from __future__ import annotations

import math
from typing import Any

import numpy.typing as npt

from fusec.ir.evaluate import apply_primitive
from fusec.ir.graph import Graph, Node, Value
from fusec.ir.types import DType
from fusec.passes.graph.sweep import Sweep, sweep
from fusec.rewrite.graph_pass import PassContext, graph_pass

Array = npt.NDArray[Any]
IDEMPOTENT = frozenset("relu abs floor ceil round trunc".split())


@graph_pass("simplify-algebra")
def simplify_algebra(graph: Graph, _: PassContext) -> Graph:
    """Drop arithmetic that changes nothing and write the rest with cheaper ops.

    before: a = mul(x, 1.0); b = pow(a, 2.0); y = neg(neg(b))
    after:  y = mul(x, x)
    """
    return sweep(graph, RULES)


def _neutral(s: Sweep, n: Node) -> Value | None:
    """x * 1, x / 1, x - 0, x + -0.0, x ** 1, and the same for integers."""
    a, b = n.operands
    sides = [(a, s.constant(b))] + ([(b, s.constant(a))] if n.op in ("add", "mul") else [])
    for x, c in sides:
        if c is None:
            continue
        one = n.op in ("mul", "div", "pow") and c == 1
        zero = n.op in ("add", "sub") and c == 0
        signed = not x.dtype.is_float or math.copysign(1.0, c) == (-1.0 if n.op == "add" else 1.0)
        if one or (zero and signed):
            return x
    return None


def _negation(s: Sweep, n: Node) -> Value | None:
    """x * -1 -> -x, for signed numbers."""
    a, b = n.operands
    for x, c in ((a, b), (b, a)):
        if s.constant(c) == -1 and x.type == n.output.type:
            return s.emit("neg", x)
    return None


def _power(s: Sweep, n: Node) -> Value | None:
    """x ** 2 -> x * x, x ** 3 -> x * x * x."""
    x, exponent = n.operands
    if x.type != n.output.type or s.constant(exponent) not in (2, 3):
        return None
    square = s.emit("mul", x, x)
    return square if s.constant(exponent) == 2 else s.emit("mul", square, x)


def _division(s: Sweep, n: Node) -> Value | None:
    """x / c -> x * (1 / c), where c is a power of two whose reciprocal is a normal number."""
    x, divisor = n.operands
    c = s.array(divisor)
    if c is None or not x.dtype.is_float or not _powers_of_two(c):
        return None
    return s.emit("mul", x, s.scalar(1.0 / float(c.flat[0]), x.dtype))


def _powers_of_two(c: Array) -> bool:
    if c.size != 1:  # larger divisors are rare, and folding their reciprocals would store them twice
        return False
    x = abs(float(c.flat[0]))
    smallest = {DType.F64: -1022, DType.F32: -126, DType.F16: -14, DType.BF16: -126}[DType.of(c.dtype)]
    return math.isfinite(x) and x != 0 and math.frexp(x)[0] == 0.5 and smallest <= -math.log2(x) <= -smallest


def _reassociate(s: Sweep, n: Node) -> Value | None:
    """(x + c) + d -> x + (c + d) for integers; (x * c) * d -> x * (c * d) for integers and powers of two above one."""
    for outer, inner_value in (n.operands, n.operands[::-1]):
        inner = s.maker(inner_value, n.op)
        d = s.array(outer)
        if inner is None or d is None or d.size != 1:
            continue
        for x, middle in (inner.operands, inner.operands[::-1]):
            c = s.array(middle)
            if c is None or c.size != 1 or s.array(x) is not None or x.type != n.output.type:
                continue
            both = apply_primitive(n.op, (c.reshape(()), d.reshape(())))
            if x.dtype.is_integer or (n.op == "mul" and _grow_exactly(c, d, both)):
                s.absorb(inner)
                return s.emit(n.op, x, s.scalar(both.item() if x.dtype.is_integer else float(both), x.dtype))
    return None


def _grow_exactly(c: Array, d: Array, both: Array) -> bool:
    """Factors that only ever raise the exponent: nothing is rounded, and what overflows does so either way."""
    growing = all(_powers_of_two(k) and abs(float(k.flat[0])) >= 1 for k in (c, d))
    return growing and math.isfinite(float(both))


def _involution(s: Sweep, n: Node) -> Value | None:
    """- - x, not not x, and the bitwise one."""
    inner = s.maker(n.operands[0], n.op)
    return None if inner is None else inner.operands[0]


def _idempotent(s: Sweep, n: Node) -> Value | None:
    """relu(relu(x)), and whatever else does nothing the second time."""
    return n.operands[0] if s.maker(n.operands[0], n.op) is not None else None


def _same_operands(_: Sweep, n: Node) -> Value | None:
    """max(x, x), min(x, x), and(x, x), or(x, x)."""
    a, b = n.operands
    return a if a.name == b.name else None


def _max_zero(s: Sweep, n: Node) -> Value | None:
    """max(x, 0) -> relu(x)."""
    a, b = n.operands
    for x, c in ((a, b), (b, a)):
        if s.constant(c) == 0 and x.type == n.output.type and x.dtype is not DType.BOOL:
            return s.emit("relu", x)
    return None


def _cast(s: Sweep, n: Node) -> Value | None:
    """A cast to the same dtype, and a cast of a cast that lost nothing."""
    x = n.operands[0]
    if x.dtype is n.output.dtype:
        return x
    inner = s.maker(x, "cast")
    if inner is None or not _keeps_everything(inner.operands[0].dtype, x.dtype):
        return None
    s.absorb(inner)
    source = inner.operands[0]
    return source if source.dtype is n.output.dtype else s.emit("cast", source, to=n.output.dtype)


def _keeps_everything(a: DType, b: DType) -> bool:
    """Whether every number of dtype a is one of b, and casting on from b means the same as casting from a."""
    if a is DType.BOOL:
        return b.is_float or b.is_integer
    if a.is_float and b.is_float:
        rank = {DType.F16: 0, DType.BF16: 0, DType.F32: 1, DType.F64: 2}
        return rank[a] < rank[b]
    if not (a.is_integer and b.is_integer) or a.itemsize >= b.itemsize:
        return False
    return a.is_signed == b.is_signed or b.is_signed


def _where(s: Sweep, n: Node) -> Value | None:
    """where(c, x, x), and a condition that is constant."""
    condition, a, b = n.operands
    if a.name == b.name:
        return a
    chosen = s.constant(condition)
    return None if chosen is None else a if chosen else b


def _clip(s: Sweep, n: Node) -> Value | None:
    """clip without bounds -> x; clip(x, 0) -> relu(x)."""
    x, low, high = (*n.inputs, None, None)[:3]
    if x is None or high is not None:
        return None
    if low is None:
        return x
    return s.emit("relu", x) if s.constant(low) == 0 else None


RULES = {
    "add": (_neutral, _reassociate),
    "sub": (_neutral,),
    "mul": (_neutral, _negation, _reassociate),
    "div": (_neutral, _division),
    "pow": (_neutral, _power),
    "neg": (_involution,),
    "not": (_involution,),
    "bitnot": (_involution,),
    "max": (_same_operands, _max_zero),
    "min": (_same_operands,),
    "and": (_same_operands,),
    "or": (_same_operands,),
    "cast": (_cast,),
    "where": (_where,),
    "clip": (_clip,),
    **dict.fromkeys(sorted(IDEMPOTENT), (_idempotent,)),
}
