"""Names and parameters: a program over dimensions of one model becomes one that layers and batch sizes share.

Axes that index the same dimension of an operand are the same and get one name; each name has one parameter, its extent.
Strides inside an index and sizes of operands are written with the parameters of the axes that run through them; what is
left (the size of a table, the start of a slice) gets a parameter of its own. Numbers up to 2 in an index stay numbers.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import chain, combinations, count, pairwise

from fusec.ir.dim import (
    FUNCTIONS,
    Dim,
    Extent,
    Monomial,
    exact_quotient,
    linear,
    product,
    signed_parts,
    symbol,
    symbols_of,
)
from fusec.ir.expr import Expr, Index, Load, Ref, rewrite
from fusec.lower.entries import is_axis
from fusec.lower.finish import accesses_of, is_contraction, map_expressions, polynomials
from fusec.tile.program import Axis, Fold, Let, Operand, Stage, Statement, Store, TileProgram
from fusec.tile.verify import RESERVED

SMALL = range(-2, 3)
"""Numbers that stay as they are in an index: strides of slices and windows decide how a loop is vectorised."""

SHORT_ROWS = (2, 3, 4, 6)
"""Elements of rows that keep their number: vectors are made of several such rows. Where rows are folded, only the first two."""
LANES = (2, 4)
"""Channels of narrow groups: they decide how a vector of several groups is put together."""
MOST_TAPS = 7
"""Windows of up to as many elements along an axis keep that number."""

FEW_FILTERS = range(5, 9)
"""Numbers of filters that a convolution keeps: panels of one vector hold them, those of two would be half empty."""

TASK_AXES = "ijpqu"
"""Names of task axes that no contraction names."""


def parametrise(p: TileProgram, small: range = SMALL) -> tuple[TileProgram, dict[str, Extent], dict[str, str]]:
    """The program in its own names, its parameters' values as dimensions of the graph, and the operands' new names.

    `small` are the numbers that stay as they are in an index.
    """
    return _Parameters(p, small).run()


class _Parameters:
    """The table of names while a program is rewritten."""

    def __init__(self, p: TileProgram, small: range) -> None:
        self.p, self.small = p, small
        self.taken: set[str] = set(RESERVED)
        self.values: dict[str, Extent] = {}
        self.other: dict[Extent, str] = {}
        self.leader = same_axes(p)
        self.axis_name: dict[str, str] = {}
        self.operand_name: dict[str, str] = {}
        self.folds: list[str] = []
        self.taps = window_axes(p) | narrow_axes(p) | few_columns(p)

    def run(self) -> tuple[TileProgram, dict[str, Extent], dict[str, str]]:
        """Name axes, then operands, then rewrite everything."""
        p = self.p
        roles = axis_roles(p)
        for a in [*(t.name for t in p.axes), *p.axis]:
            if a in self.axis_name:
                continue
            first = self.leader[a]
            if first not in self.axis_name:
                name = self.fresh(roles[first])
                self.axis_name[first] = name
                parameter = self.fresh_parameter(name)
                if first not in self.taps:
                    self.values[parameter] = p.axis[first].extent
            self.axis_name[a] = self.axis_name[first]
        for o in p.operands:
            self.operand_name[o.name] = self.fresh(
                {"input": "x", "weight": "w", "output": "y", "scalar": "c"}.get(o.role, "h")
            )
        axes = tuple(self.axis(a) for a in p.axes)
        operands = tuple(self.operand(o) for o in p.operands)
        stages = tuple(self.stage(s) for s in p.stages)
        used = used_symbols(axes, operands, stages)
        values = {n: v for n, v in self.values.items() if n in used}
        return TileProgram(p.name, tuple(values), axes, operands, stages), values, self.operand_name

    def fresh(self, base: str) -> str:
        """An unused name: the base (of task axes one of several letters), else with a number."""
        names = chain(TASK_AXES if base == "i" else [base], (f"{base}{n}" for n in count(1)))
        name = next(n for n in names if n not in self.taken and n.upper() not in self.taken)
        self.taken.add(name)
        return name

    def fresh_parameter(self, axis: str) -> str:
        self.taken.add(axis.upper())
        return axis.upper()

    def axis(self, a: Axis) -> Axis:
        name = self.axis_name[a.name]
        return Axis(name, self.extent(a.name), a.sequential)

    def extent(self, axis: str) -> Extent:
        """The extent of an axis in the program: its parameter, or the number of taps."""
        number = self.leader[axis] in self.taps  # axes that mean the same have one name, so one extent
        return self.p.axis[axis].extent if number else symbol(self.axis_name[axis].upper())

    def operand(self, o: Operand) -> Operand:
        """An operand with its dimensions in parameters, as its accesses suggest."""
        indices = [x.index for s in self.p.stages for x in accesses_of(s, o.name)]
        shape = tuple(self.size(n, [i[d] for i in indices], o.role) for d, n in enumerate(o.shape))
        return replace(o, name=self.operand_name[o.name], shape=shape)

    def size(self, n: Extent, entries: Sequence[Extent | Expr], role: str) -> Extent:
        """The size of a dimension: the product of the extents of some axes that run through it, where that is it."""
        if n == 1 and not any(str(i) in self.p.axis for i in entries):
            return 1
        for i in entries:
            if isinstance(i, int | Dim):
                axes = [a for a in self.p.axis if a in symbols_of(i)]
                if (found := self.as_product(n, axes)) is not None:
                    return found
        if role == "output" and (total := self.as_sum(n, entries)) is not None:
            return total
        return self.parameter(n)

    def as_product(self, n: Extent, axes: Sequence[str]) -> Extent | None:
        for some in (s for k in range(1, len(axes) + 1) for s in combinations(axes, k)):
            if product(self.p.axis[a].extent for a in some) == n:
                return product(self.extent(a) for a in some)
        return None

    def as_sum(self, n: Extent, entries: Sequence[Extent | Expr]) -> Extent | None:
        """The size of a concat's result: the sum of what its writers run over."""
        axes = [a for i in entries if isinstance(i, int | Dim) for a in symbols_of(i) if a in self.p.axis]
        axes = list(dict.fromkeys(axes))
        if len(axes) == len(entries) > 1 and sum((self.p.axis[a].extent for a in axes), start=0) == n:
            return sum((self.extent(a) for a in axes), start=0)
        return None

    def parameter(self, n: Extent) -> Extent:
        """The parameter for a dimension of the graph that no axis of the program explains."""
        if n not in self.other:
            known = {v: k for k, v in reversed(self.values.items()) if isinstance(v, Dim)}
            self.other[n] = known[n] if n in known else self.fresh_parameter(self.fresh("d"))
            self.values.setdefault(self.other[n], n)
        return symbol(self.other[n])

    def polynomial(self, x: Extent) -> Extent:
        """An index or a value: axes renamed, strides and offsets in parameters."""
        axes = [a for a in self.p.axis if a in symbols_of(x)]
        parts = linear(x, axes)
        if parts is None:
            return self.structure(x)
        total = self.offset(parts[0], () if axes else self.folds)
        for a in axes:
            c = parts[1].get(a, 0)
            inside = [b for b, d in parts[1].items() if b != a and d != c and exact_quotient(c, d) is not None]
            coefficient = self.number(c, [b for b in axes if b in inside])
            total = total + coefficient * symbol(self.axis_name[a])
        return total

    def offset(self, c: Extent, inside: Sequence[str]) -> Extent:
        """What is added to an index: what counts forwards less what counts backwards, for no parameter is negative."""
        if isinstance(c, int):
            return self.number(c, inside)
        forwards, backwards = signed_parts(c)
        return self.number(forwards, inside) - self.number(backwards, inside)

    def number(self, c: Extent, inside: Sequence[str]) -> Extent:
        """A coefficient or an offset; `inside` are the axes whose extents it may be the product of."""
        found = self.as_product(c, inside) if c not in (0, 1, -1) else None
        if found is not None:
            return found
        if isinstance(c, int) and c in self.small:
            return c
        leading = c if isinstance(c, int) else c.terms[0][1]
        return self.parameter(c) if leading > 0 else self.parameter(c * -1) * -1

    def structure(self, x: Extent) -> Extent:
        """A polynomial with functions of axes in it: rebuilt term by term."""
        if isinstance(x, int):
            return self.number(x, ())
        if not any(is_axis(s) for s in x.symbols):
            return self.number(x, ())
        total: Extent = 0
        for mono, coefficient in x.terms:
            if (lanes := self.of_lanes(mono, coefficient)) is not None:
                total = total + lanes
                continue
            plain: Extent = coefficient
            term: Extent = 1
            for atom in mono:
                if isinstance(atom, str):
                    if is_axis(atom):
                        term = term * symbol(self.axis_name[atom])
                    else:
                        plain = plain * symbol(atom)
                else:
                    term = term * FUNCTIONS[atom.fn](self.polynomial(atom.a), self.divisor(atom.b))
            total = total + self.number(plain, ()) * term
        return total

    def of_lanes(self, mono: Monomial, coefficient: int) -> Extent | None:
        """The first channel of a filter's group, where a vector holds several: its numbers stay."""
        atom = mono[0] if len(mono) == 1 else ""
        if isinstance(atom, str) or atom.fn != "floordiv" or atom.b != coefficient or coefficient not in LANES:
            return None
        return FUNCTIONS[atom.fn](self.polynomial(atom.a), coefficient) * coefficient

    def divisor(self, x: Extent) -> Extent:
        """The second argument of a function: a size as one parameter."""
        known = any(is_axis(s) for s in symbols_of(x)) or (isinstance(x, int) and x in self.small)
        return self.polynomial(x) if known else self.parameter(x)

    def stage(self, s: Stage) -> Stage:
        axes = tuple(self.axis_name[a] if isinstance(a, str) else self.axis(a) for a in s.axes)
        self.folds = [a.name for a in s.folds]  # a plain number is mostly how many elements a mean is of
        names: dict[str, str] = {}
        body = tuple(self.statement(x, names) for x in s.body)
        return Stage(axes, tuple(self.axis(a) for a in s.folds), body)

    def statement(self, s: Statement, names: dict[str, str]) -> Statement:
        def leaf(x: Expr) -> Expr | None:
            match x:
                case Ref(name, dtype):
                    return Ref(names.get(name) or self.operand_name[name], dtype)
                case Index(value, dtype):
                    return Index(self.polynomial(value), dtype)
                case Load(operand, index, dtype, fill):
                    return Load(self.operand_name[operand], tuple(map(self.entry, index)), dtype, fill)
            return None

        out = map_expressions(s, lambda e: rewrite(e, leaf))
        match out:
            case Let(name, value):
                names[name] = self.local_name("t", names)
                return Let(names[name], value)
            case Fold(name, monoid, args):
                names[name] = self.local_name("r", names)
                return Fold(names[name], monoid, args)
            case Store(operand, index, value, partial):
                return Store(self.operand_name[operand], tuple(map(self.entry, index)), value, partial)

    def entry(self, i: Extent | Expr) -> Extent | Expr:
        return self.polynomial(i) if isinstance(i, int | Dim) else i

    def local_name(self, base: str, names: Mapping[str, str]) -> str:
        n, used = 0, self.taken | set(names.values())
        while f"{base}{n}" in used:
            n += 1
        return f"{base}{n}"


def same_axes(p: TileProgram) -> dict[str, str]:
    """Axis -> the first axis that means the same: both index the same dimension of an operand and have one extent.

    Axes of one stage are never the same, and no axis is the same as a task axis.
    """
    groups = {a: [a] for a in p.axis}
    task = {a.name for a in p.axes}
    together = [{*s.axis_names, *(f.name for f in s.folds)} | task for s in p.stages]

    def join(a: str, b: str) -> None:
        one, two = groups[a], groups[b]
        if one is two or p.axis[a].extent != p.axis[b].extent:
            return
        if any(x in names and y in names for names in together for x in one for y in two):
            return
        one += two
        for x in two:
            groups[x] = one

    for o in p.operands:
        indices = [x.index for s in p.stages for x in accesses_of(s, o.name)]
        for d in range(len(o.shape)):
            axes = [str(i[d]) for i in indices if str(i[d]) in groups]
            for a, b in pairwise(axes):
                join(a, b)
    return {a: members[0] for a, members in groups.items()}


def window_axes(p: TileProgram) -> frozenset[str]:
    """Fold axes over the few taps of a window, whose number decides how a loop is written out. Contractions have none."""
    found: set[str] = set()
    for s in p.stages:
        few = {a.name for a in s.folds if isinstance(a.extent, int) and 1 < a.extent <= MOST_TAPS}
        if few and not is_contraction(s):
            points = set(s.axis_names)
            for x in s.loads():
                for i in x.index:
                    if isinstance(i, Dim) and i.symbols & points:
                        found |= i.symbols & few
    leader = same_axes(p)
    return frozenset(leader[a] for a in found)


def narrow_axes(p: TileProgram) -> frozenset[str]:
    """Axes of a few elements in the last dimension of an output, such as the colours of a pixel or the corners of a box: too
    short for vectors, which whoever chooses the lane axis must know. Contractions have theirs chosen otherwise."""
    found: set[str] = set()
    sizes = SHORT_ROWS if not any(s.folds for s in p.stages) else SHORT_ROWS[:2]
    for s in p.stages:
        if is_contraction(s):
            return frozenset()
        ends = [x.index[-1] for x in s.stores if x.index and p.operand[x.operand].role != "local"]
        parts = [linear(i, p.axis) for i in ends if isinstance(i, int | Dim)]
        last = {a for split in parts if split is not None for a, step in split[1].items() if step == 1}
        found |= {a for a in s.axis_names if a in last and p.axis[a].extent in sizes}
    leader = same_axes(p)
    return frozenset(leader[a] for a in found)


def few_columns(p: TileProgram) -> frozenset[str]:
    """The only column of contractions that have one, and few filters: register tiles depend on them."""
    found = set[str]()
    for s in p.stages:
        if is_contraction(s) and s.axis_names:
            extent = p.axis[s.axis_names[-1]].extent
            if extent == 1 or (len(s.folds) > 1 and extent in FEW_FILTERS):
                found.add(s.axis_names[-1])
    leader = same_axes(p)
    return frozenset(leader[a] for a in found)


def axis_roles(p: TileProgram) -> dict[str, str]:
    """A word for each axis: m, n, k of contractions, b for their batches; i, j for other task axes; c for own, k for folds."""
    roles: dict[str, str] = {}
    for s in p.stages:
        names = s.axis_names
        if is_contraction(s):
            roles |= {n: w for n, w in zip(names[-2:], "mn") if n not in roles}
            roles |= {f.name: "k" for f in s.folds if f.name not in roles}
            roles |= {n: "b" for n in names[:-2] if n not in roles}
    for a in p.axes:
        roles.setdefault(a.name, "i")
    for s in p.stages:
        for a in s.own:
            roles.setdefault(a.name, "c")
        for f in s.folds:
            roles.setdefault(f.name, "k")
    leader = same_axes(p)
    return roles | {a: roles[first] for a, first in leader.items()}


def used_symbols(axes: Sequence[Axis], operands: Sequence[Operand], stages: Sequence[Stage]) -> frozenset[str]:
    """The symbols that anything mentions."""

    def all_extents() -> Iterator[Extent]:
        yield from (a.extent for a in axes)
        yield from (d for o in operands for d in o.shape)
        for s in stages:
            yield from (a.extent for a in (*s.own, *s.folds))
            yield from polynomials(s)

    return frozenset[str]().union(*(symbols_of(x) for x in all_extents()))
