"""How nodes carry a permutation of dimensions: with permuted operands and attributes they make a permuted result."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from fusec.ir.dim import Extent, product
from fusec.ir.graph import Attr, Node, Value
from fusec.ops import op as ops
from fusec.ops.op import Kind

Perm = tuple[int, ...]
"""Dimension i of the permuted value is dimension perm[i] of the value."""


@dataclass(frozen=True, slots=True)
class Carried:
    """What a node needs for a permuted result: a permutation per input (None: as it is), and its attributes."""

    inputs: tuple[Perm | None, ...]
    attrs: tuple[tuple[str, Attr], ...]


def to_last(rank: int) -> Perm:
    """[N, C, ...] to [N, ..., C]."""
    return (0, *range(2, rank), 1)


def inverse(perm: Perm) -> Perm:
    """The permutation that takes it back."""
    out = [0] * len(perm)
    for i, p in enumerate(perm):
        out[p] = i
    return tuple(out)


def is_free(shape: tuple[Extent, ...], perm: Perm) -> bool:
    """Whether a permutation moves only dimensions of 1: the bytes stay where they are."""
    moved = [p for p in perm if shape[p] != 1]
    return moved == sorted(moved)


def permuted(shape: tuple[Extent, ...], perm: Perm) -> tuple[Extent, ...]:
    """A shape with its dimensions in another order."""
    return tuple(shape[p] for p in perm)


def turn_of(n: Node) -> Perm | None:
    """The permutation of a transpose, or of a reshape that puts the channels last or in front where no bytes move."""
    if n.op == "transpose":
        return tuple(n.attr("perm"))
    if n.op != "reshape" or len(n.operands[0].shape) != len(n.output.shape) or len(n.output.shape) < 3:
        return None
    x, out = n.operands[0].shape, n.output.shape
    last = to_last(len(out))
    for perm in (last, inverse(last)):
        if x != out and permuted(x, perm) == out and is_free(x, perm):
            return perm
    return None


def carry(n: Node, perm: Perm) -> Carried | None:
    """What the node needs to give its result permuted; None where it cannot."""
    if len(n.outputs) != 1 or turn_of(n) is not None:
        return None
    if ops.get(n.op).kind is Kind.ELEMENTWISE or n.op == "identity":
        return Carried(tuple(None if v is None or not v.shape else perm for v in n.inputs), n.attrs)
    rule = RULES.get(n.op)
    return None if rule is None else rule(n, perm)


def result_of(n: Node, at: int, perm: Perm) -> Perm | None:
    """The permutation that the result has where input `at` is permuted; None where the node cannot carry it on."""
    if len(n.outputs) != 1 or turn_of(n) is not None:
        return None
    if ops.get(n.op).kind is Kind.ELEMENTWISE or n.op == "identity":
        v = n.inputs[at]
        return perm if v is not None and len(v.shape) == len(n.output.shape) else None
    if n.op in ("concat", "pad", "slice", "softmax", "log_softmax"):
        return perm if n.op == "concat" or at == 0 else None
    if n.op == "expand":
        return perm if len(n.operands[0].shape) == len(n.output.shape) else None
    if n.op == "gather":
        return perm if at == 0 and len(n.operands[1].shape) == 1 else None
    if n.op == "windows":
        return (*perm, *range(len(perm), len(n.output.shape)))
    if n.op == "reshape":
        joined = _grouped(n.output.shape, n.operands[0].shape)
        return to_last(len(n.output.shape)) if joined is not None and joined == perm else _reshaped(n, perm)
    if n.op in REDUCTIONS:
        if n.attr("keepdims"):
            return perm
        kept = [p for p in perm if p not in _folded(n)]
        return tuple(sorted(kept).index(p) for p in kept)
    return None


REDUCTIONS = ("reduce_sum", "reduce_max", "reduce_min", "reduce_prod", "reduce_mean", "argmax", "argmin")


def _folded(n: Node) -> tuple[int, ...]:
    return (int(n.attr("axis")),) if n.op in ("argmax", "argmin") else tuple(n.attr("axes"))


def _with(n: Node, **changed: Attr) -> tuple[tuple[str, Attr], ...]:
    return tuple(sorted((dict(n.attrs) | changed).items()))


def _per_dimension(*names: str) -> Callable[[Node, Perm], Carried]:
    """A rule for an op of one datum with an attribute entry per dimension."""

    def rule(n: Node, perm: Perm) -> Carried:
        moved: dict[str, Any] = {name: tuple(n.attr(name)[p] for p in perm) for name in names}
        return Carried((perm, *(None for _ in n.inputs[1:])), _with(n, **moved))

    return rule


def _along_axis(n: Node, perm: Perm) -> Carried:
    """A rule for an op that names an axis which its result has, too."""
    every = n.op == "concat"
    inputs = tuple(perm if every or i == 0 else None for i in range(len(n.inputs)))
    return Carried(inputs, _with(n, axis=perm.index(int(n.attr("axis")))))


def _gather(n: Node, perm: Perm) -> Carried | None:
    return _along_axis(n, perm) if len(n.operands[1].shape) == 1 else None


def _reduction(n: Node, perm: Perm) -> Carried:
    """Folded dimensions that do not stay as ones stay where they are: the others take the places that are left."""
    rank = len(n.operands[0].shape)
    folded = _folded(n)
    kept = [d for d in range(rank) if d not in folded]
    others = iter(kept[p] for p in perm) if not n.attr("keepdims") else iter(())
    return reduced_from(
        n, perm if n.attr("keepdims") else tuple(d if d in folded else next(others) for d in range(rank))
    )


def reduced_from(n: Node, source: Perm) -> Carried:
    """A reduction of its permuted input."""
    axes = tuple(sorted(source.index(d) for d in _folded(n)))
    moved: dict[str, Any] = {"axis": axes[0]} if n.op in ("argmax", "argmin") else {"axes": axes}
    return Carried((source,), _with(n, **moved))


def _windows(n: Node, perm: Perm) -> Carried | None:
    """Positions within the windows stay last."""
    rank = len(n.operands[0].shape)
    if perm[rank:] != tuple(range(rank, len(perm))):
        return None
    own = perm[:rank]
    return Carried((own,), _with(n, axes=tuple(own.index(a) for a in n.attr("axes"))))


def _reshape(n: Node, perm: Perm) -> Carried | None:
    """Only dimensions of 1 come or go."""
    x, out = n.operands[0].shape, n.output.shape
    rank = len(x)
    joined = _grouped(out, x)
    if joined is not None and perm == to_last(len(out)):
        return Carried((joined,), _with(n, shape=permuted(out, perm)))
    source = to_last(rank) if rank > 2 else tuple(range(rank))
    fits = _reshaped(n, source) == perm
    return Carried((source,), _with(n, shape=permuted(out, perm))) if fits else None


def _grouped(whole: tuple[Extent, ...], split: tuple[Extent, ...]) -> Perm | None:
    """Where a shape has the channels of another in two dimensions: the permutation that puts both last."""
    rank = len(whole)
    if rank < 3 or len(split) != rank + 1 or whole[0] != split[0] or whole[2:] != split[3:]:
        return None
    if 1 in split[1:3] or split[1] * split[2] != whole[1]:
        return None
    return (0, *range(3, rank + 1), 1, 2)


def _reshaped(n: Node, perm: Perm) -> Perm | None:
    x, out = n.operands[0].shape, n.output.shape
    if (groups := _grouped(x, out)) is not None and perm == to_last(len(x)):
        return groups
    here, there = ([i for i, d in enumerate(shape) if d != 1] for shape in (x, out))
    if len(out) < 3 or [x[i] for i in here] != [out[i] for i in there]:
        return None
    goal = to_last(len(out))
    same = [here.index(p) for p in perm if p in here] == [there.index(p) for p in goal if p in there]
    return goal if same else None


def _expand(n: Node, perm: Perm) -> Carried:
    (x,) = n.operands
    return Carried((perm if x.shape else None,), _with(n, shape=permuted(n.output.shape, perm)))


RULES: dict[str, Callable[[Node, Perm], Carried | None]] = {
    "concat": _along_axis,
    "softmax": _along_axis,
    "log_softmax": _along_axis,
    "pad": _per_dimension("before", "after"),
    "slice": _per_dimension("starts", "sizes", "steps"),
    "gather": _gather,
    "windows": _windows,
    "reshape": _reshape,
    "expand": _expand,
    **dict.fromkeys(REDUCTIONS, _reduction),
}

UNKNOWN_SIZE = 64
"""What a symbol counts for where bytes are compared."""


def weigh(v: Value) -> int:
    """Bytes of a value, symbols counted as numbers of usual size."""
    from fusec.ir.dim import evaluate, symbols_of

    n = product(v.shape)
    return max(1, evaluate(n, dict.fromkeys(symbols_of(n), UNKNOWN_SIZE))) * v.dtype.itemsize
