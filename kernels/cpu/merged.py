"""Axes that several dimensions were merged into, such as the pixels m of an image, split into rows and columns again.

A load at `m // Q` and `m % Q` would divide at every point. Loops over rows and, inside, over the columns of each row that
belong to the tile divide twice per tile, and leave affine indices behind: guards and offsets can then be hoisted.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace

from fusec.ir.dim import FUNCTIONS, Atom, Dim, Extent, ceildiv, exact_quotient, floordiv, mod, symbol, symbols_of
from fusec.ir.expr import Expr, Index, Load, rewrite, walk
from fusec.tile.program import Axis, Fold, Let, Stage, Statement, Store


@dataclass(frozen=True, slots=True)
class Split:
    """An axis that became two: its index is `row * columns + column`."""

    axis: str
    row: str
    column: str
    columns: Extent


def split_merged(stage: Stage, axes: Mapping[str, Axis], keep: str) -> tuple[Stage, tuple[Split, ...], dict[str, Axis]]:
    """The stage over split axes, what was split (outer splits first), and the axes that are new. `keep` stays whole."""
    splits: list[Split] = []
    new: dict[str, Axis] = {}
    todo = [a for a in stage.axis_names if a != keep]
    while todo:
        name = todo.pop(0)
        columns = columns_of(stage, name)
        if columns is None:
            continue
        split = Split(name, f"{name}.row", f"{name}.column", columns)
        extent = (new.get(name) or axes[name]).extent
        new[split.row] = Axis(split.row, ceildiv(extent, columns))
        new[split.column] = Axis(split.column, columns)
        stage = _apply(stage, split)
        splits.append(split)
        todo.insert(0, split.row)
    return stage, tuple(splits), new


def join(splits: Iterable[Split], axis: str) -> Extent:
    """The index of an axis in those that it was split into."""
    for s in splits:
        if s.axis == axis:
            return join(splits, s.row) * s.columns + symbol(s.column)
    return symbol(axis)


def columns_of(stage: Stage, axis: str) -> Extent | None:
    """The least divisor, where every function of the axis divides it by a multiple of that."""
    divisors: set[Extent] = set()
    for atom in _atoms(_polynomials(stage.body)):
        if atom.a == symbol(axis) and atom.fn in ("floordiv", "mod") and axis not in symbols_of(atom.b):
            divisors.add(atom.b)
        elif axis in symbols_of(atom.b) or (axis in symbols_of(atom.a) and not _inner(atom.a, axis)):
            return None
    for d in divisors:
        if all(exact_quotient(other, d) is not None for other in divisors):
            return d if not isinstance(d, int) or d > 1 else None
    return None


def _inner(x: Extent, axis: str) -> bool:
    """Whether an argument holds the axis inside functions only."""
    return all(a != axis for mono, _ in (x.terms if isinstance(x, Dim) else ()) for a in mono)


def _atoms(polynomials: Iterable[Extent]) -> Iterator[Atom]:
    todo = [x for x in polynomials if isinstance(x, Dim)]
    while todo:
        for mono, _ in todo.pop().terms:
            for a in mono:
                if isinstance(a, Atom):
                    yield a
                    todo += [x for x in (a.a, a.b) if isinstance(x, Dim)]


def _polynomials(body: Iterable[Statement]) -> Iterator[Extent]:
    for s in body:
        expressions: tuple[Expr, ...] = s.args if isinstance(s, Fold) else (s.value,)
        if isinstance(s, Store):
            yield from (i for i in s.index if isinstance(i, int | Dim))
            expressions += tuple(i for i in s.index if not isinstance(i, int | Dim))
        for e in expressions:
            for x in walk(e):
                if isinstance(x, Index):
                    yield x.value
                elif isinstance(x, Load):
                    yield from (i for i in x.index if isinstance(i, int | Dim))


def _apply(stage: Stage, split: Split) -> Stage:
    axes: list[str | Axis] = []
    for a in stage.axes:
        axes += [split.row, split.column] if (a if isinstance(a, str) else a.name) == split.axis else [a]
    done: dict[Extent, Extent] = {}

    def polynomial(x: Extent) -> Extent:
        if x not in done:
            done[x] = _substitute(x, split)
        return done[x]

    return replace(stage, axes=tuple(axes), body=tuple(map_indices(s, polynomial) for s in stage.body))


def _substitute(x: Extent, split: Split) -> Extent:
    if not isinstance(x, Dim) or split.axis not in x.symbols:
        return x
    row, column = symbol(split.row), symbol(split.column)
    total: Extent = 0
    for mono, coefficient in x.terms:
        term: Extent = coefficient
        for atom in mono:
            if isinstance(atom, str):
                term = term * (row * split.columns + column if atom == split.axis else symbol(atom))
            elif atom.a == symbol(split.axis) and (k := exact_quotient(atom.b, split.columns)) is not None:
                term = term * (floordiv(row, k) if atom.fn == "floordiv" else mod(row, k) * split.columns + column)
            else:
                term = term * FUNCTIONS[atom.fn](_substitute(atom.a, split), _substitute(atom.b, split))
        total = total + term
    return total


def map_indices(s: Statement, polynomial: object) -> Statement:
    """A statement with every index polynomial replaced."""
    assert callable(polynomial)

    def leaf(x: Expr) -> Expr | None:
        match x:
            case Index(value, dtype):
                return Index(polynomial(value), dtype)
            case Load(operand, index, dtype, fill):
                return Load(
                    operand, tuple(polynomial(i) if isinstance(i, int | Dim) else i for i in index), dtype, fill
                )
        return None

    match s:
        case Let(name, value):
            return Let(name, rewrite(value, leaf))
        case Fold(name, monoid, args):
            return Fold(name, monoid, tuple(rewrite(a, leaf) for a in args))
        case Store(operand, index, value, partial):
            entries = tuple(polynomial(i) if isinstance(i, int | Dim) else rewrite(i, leaf) for i in index)
            return Store(operand, entries, rewrite(value, leaf), partial)
