"""Which accesses of a stage are 16-byte vectors along the lane, and what must hold for that when it runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from fusec.ir.dim import Atom, Dim, Extent, Monomial, linear, symbols_of
from fusec.ir.expr import Expr, Load, walk
from fusec.kernels.cuda import access
from fusec.kernels.cuda.expression import Point
from fusec.kernels.cuda.index import as_extent
from fusec.tile.program import Fold, Let, Stage, Store

BYTES, WORD = 16, 4
MOST_REGISTERS = 96
"""What the vectors of a point may fill: all of them are held at once. Longer bodies move single elements, of many points."""


@dataclass(frozen=True, slots=True)
class Vectors:
    """`width` neighbours are moved at once where they lie side by side in `operands`; `steps` must be multiples of it.

    `moved` counts the vectors of a point.
    """

    width: int
    operands: frozenset[str]
    steps: tuple[Extent, ...]
    moved: int

    def conditions(self, point: Point, low: str) -> list[str]:
        """C++ conditions under which vectors may be used for lanes from `low` on."""
        out = [f"fx_is_aligned<{self.width}>({point.ctx.storage(o).pointer})" for o in sorted(self.operands)]
        if low != "0":
            out.append(f"{low} % {self.width} == 0")
        return out + [f"{point.ctx.slot(x)} % {self.width} == 0" for x in self.steps]


def find_vectors(point: Point, stage: Stage, lane: str) -> Vectors | None:
    """The vectors of a stage without folds; None where nothing lies side by side along the lane."""
    if stage.folds or stage.scattered:
        return None
    return _vectors(point, _accesses(point, stage), lane)


def fold_vectors(point: Point, terms: Sequence[Expr], lane: str) -> Vectors | None:
    """The vectors that the arguments of folds are made of along a fold axis; None where there are none."""
    return _vectors(point, [a for e in terms for a in _loads(point, e) if a.name not in point.changing], lane)


def _vectors(point: Point, accesses: Sequence[access.Access], lane: str) -> Vectors | None:
    extent = point.ctx.most(lane)
    found = [a for a in accesses if _is_contiguous(point, a, lane)]
    if not found:
        return None
    width = BYTES // max(a.storage.dtype.itemsize for a in found)
    if width == 1 or (extent is not None and extent < width):
        return None
    good: dict[str, set[Extent]] = {}
    bad: set[str] = set()
    for a in found:
        steps = steps_besides(point, a.offset, lane)
        if any(isinstance(x, int) and x % width for x in steps):
            bad.add(a.name)
        good.setdefault(a.name, set()).update(x for x in steps if not isinstance(x, int))
    operands = frozenset(good) - bad
    if not operands:
        return None
    needed = sorted(set[Extent]().union(*(good[o] for o in operands)), key=str)
    moved = {(a.name, a.offset): a.storage.dtype.itemsize for a in found if a.name in operands}
    if sum(moved.values()) * width > MOST_REGISTERS * WORD:
        return None
    return Vectors(width, operands, tuple(needed), len(moved))


def _accesses(point: Point, stage: Stage) -> list[access.Access]:
    out = []
    for s in stage.body:
        match s:
            case Let():
                out += _loads(point, point.define(s))
            case Fold():
                return []
            case Store(operand, index, value, partial):
                out += _loads(point, point.intern(value))
                entries: Sequence[Extent | Expr] = [i if isinstance(i, int | Dim) else point.intern(i) for i in index]
                out.append(access.plan(point, operand, entries, partial))
    return out


def _loads(point: Point, e: Expr) -> list[access.Access]:
    program = point.ctx.program
    return [point.access_of(x) for x in walk(e) if isinstance(x, Load) and program.operand[x.operand].role != "scalar"]


def _is_contiguous(point: Point, a: access.Access, lane: str) -> bool:
    return not a.inside and point.step_along(a.offset, lane) == 1


def steps_besides(point: Point, offset: Extent, lane: str) -> list[Extent]:
    """What the address is made of besides the lane, in elements: all must be multiples of the width."""
    split = linear(offset, [lane])
    rest = offset if split is None else split[0]
    if isinstance(rest, int):
        return [rest]
    axes = frozenset(point.ctx.program.axis)
    by_atoms: dict[Monomial, list[tuple[Monomial, int]]] = {}
    for mono, c in rest.terms:
        bound = tuple(a for a in mono if point.is_bound(a) or _symbols(a) & axes)
        by_atoms.setdefault(bound, []).append((tuple(a for a in mono if a not in bound), c))
    return [as_extent(terms) for terms in by_atoms.values()]


def _symbols(atom: str | Atom) -> frozenset[str]:
    return frozenset([atom]) if isinstance(atom, str) else symbols_of(atom.a) | symbols_of(atom.b)
