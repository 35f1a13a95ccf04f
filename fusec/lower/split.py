"""split_program: a program of few tasks with a long fold as several, whose tasks are slices of that fold.

    program gemm(M, K, N)                 gemm_slices(M, N, S, L)                   gemm_whole(M, N, S)
    task m: M, n: N                       task s: S, m: M, n: N                     task m: M, n: N
    stage m, n                            stage s, m, n                             stage m, n
      t = sum[k: K](x[m, k] * w[k, n])      t = sum[k: L](x[m, s, k] * w[s, k, n])    t = sum[q: S](p[q, m, n])
      y[m, n] = max(t + b[n], 0.0)          p[s, m, n] = t                            y[m, n] = max(t + b[n], 0.0)

A fold that needs the result of another one, as the variance that of the mean, is sliced in a program of its own, whose tasks
first fold the parts of the other one: so a variance is that of two passes, however long the row is. Only the sum of a softmax
goes by with its maximum (see streamed.py). What is computed for every
element of the row is computed again where it is read, and stored by a program that may cut the row as it likes. Parts are
summed in their order; nothing here depends on who computes them.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import count

from fusec.ir.dim import Dim, Extent, symbol, symbols_of
from fusec.ir.expr import Const, Expr, Index, Load, Prim, Ref, prim, replace_axes, replace_refs, rewrite, walk
from fusec.lower.entries import literal
from fusec.lower.finish import (
    ROLE_ORDER,
    accesses_of,
    change_operand,
    drop_unread_lets,
    map_expressions,
    operands_of,
    polynomials,
)
from fusec.lower.streamed import StreamedSum, is_maximum, streamed_sum
from fusec.tile.fold import fold_rule
from fusec.tile.program import Axis, Fold, Let, Operand, Stage, Statement, Store, TileProgram
from fusec.tile.verify import RESERVED

SIMPLE = frozenset(["sum", "prod", "max", "min", "any", "all"])
"""Folds whose state is their result: their parts are folded by the same fold."""
MOST_WRITTEN_OUT = 256
"""Parts of what is computed again for every element of a row."""


@dataclass(frozen=True, slots=True)
class Split:
    """The programs in the order in which they run, and the operands that they hand on, shapes over their parameters.

    `slices` and `length` are the new parameters: how many slices there are and how long one is. Where the programs were made
    for `even` slices, slices times length is the fold's extent; else the last slices may reach beyond it, or be empty.
    """

    programs: tuple[TileProgram, ...]
    parts: tuple[Operand, ...]
    slices: str
    length: str


class _Refused(Exception):  # not an error: the program stays as it is
    """The program cannot be split along the axis."""


def split_program(p: TileProgram, axis: str, even: bool) -> Split | None:
    """The programs that split the folds along an axis into slices; None where that is not possible."""
    try:
        return _Splitting(_without_rows(p, axis), axis, even).split()
    except _Refused:
        return None


class _Splitting:
    """One program that is being split. Stages are told by their numbers."""

    def __init__(self, p: TileProgram, axis: str, even: bool) -> None:
        self.p, self.axis, self.even = p, axis, even
        taken = {*p.params, *p.axis, *p.operand, *RESERVED}
        taken |= {s.name for stage in p.stages for s in stage.body if isinstance(s, Let | Fold)}
        self.taken = taken
        self.slice, self.slices, self.length = (self._fresh(n) for n in ("s", "S", "L"))
        self.each = self._fresh("q")  # the parts, where they are folded
        self.operands = dict(p.operand)
        self.parts: dict[tuple[int, str], Operand] = {}
        self.streamed: dict[int, tuple[StreamedSum, int]] = {}
        """Sums that go by with a maximum: the stage of that, too."""
        self.maxima: dict[int, Operand] = {}
        """Locals for the maxima of slices, by the stage of the maximum."""
        self.phase, self.maker = self._phases()

    def split(self) -> Split:
        """All programs."""
        programs = list[TileProgram]()
        reducers = [i for i in range(len(self.p.stages)) if self._folds(i)]
        if not reducers:
            raise _Refused
        for phase in sorted({self.phase[i] for i in reducers}):
            programs.append(self._sliced([i for i in reducers if self.phase[i] == phase], len(programs)))
        mapping = [i for i, s in enumerate(self.p.stages) if self._maps(s)]
        if mapping:
            programs.append(self._mapped(mapping))
        rest = [i for i in range(len(self.p.stages)) if i not in mapping and self._outputs(self.p.stages[i])]
        if rest:
            programs.append(self._program("whole", self.p.axes, self._made_for(rest, rest)))
        return Split(tuple(programs), tuple(self.parts.values()), self.slices, self.length)

    # ---- what is there

    def _fresh(self, stem: str) -> str:
        names = (stem if i == 0 else f"{stem}{i}" for i in count())
        found = next(n for n in names if n not in self.taken)
        self.taken.add(found)
        return found

    def _folds(self, i: int) -> bool:
        return any(a.name == self.axis for a in self.p.stages[i].folds)

    def _maps(self, stage: Stage) -> bool:
        return any(a.name == self.axis for a in stage.own)

    def _outputs(self, stage: Stage) -> bool:
        return any(self.p.operand[s.operand].role == "output" for s in stage.stores)

    def _locals(self, stage: Stage) -> set[str]:
        return {x.operand for x in stage.loads() if self.p.operand[x.operand].role == "local"}

    def _phases(self) -> tuple[list[int], dict[str, int]]:
        """How many folds along the axis each stage must wait for, and the stage that makes each local."""
        if self.axis in {a.name for a in self.p.axes} or any(a.sequential for a in self.p.axes):
            raise _Refused
        if any(o.role == "inout" for o in self.p.operands) or any(s.scattered for s in self.p.stages):
            raise _Refused
        phases, maker, ready = list[int](), dict[str, int](), dict[str, int]()
        for i, stage in enumerate(self.p.stages):
            phase = max((ready[n] for n in self._locals(stage)), default=0)
            total = streamed_sum(stage) if self._folds(i) else None
            top = maker.get(total.top.operand) if total is not None else None
            if total is not None and top is not None and is_maximum(self.p.stages[top], total):
                others = [ready[n] for n in self._locals(stage) - {total.top.operand}]
                if (
                    self._folds(top)
                    and stage.folds == self.p.stages[top].folds
                    and max(others, default=0) <= phases[top]
                ):
                    phase = phases[top]
                    self.streamed[i] = total, top
            phases.append(phase)
            for s in stage.stores:
                if self.p.operand[s.operand].role != "local":
                    continue
                if s.operand in maker:
                    raise _Refused
                maker[s.operand] = i
                ready[s.operand] = phase + self._folds(i)
        return phases, maker

    # ---- stages

    def _made_for(self, users: Iterable[int], storing: Collection[int] = (), slices: bool = False) -> list[Stage]:
        """The stages that make the locals which some stages read (on `slices`, or not), sliced folds from their parts, and
        those that are `storing` outputs."""
        needed, todo = set(storing), set[str]()
        for i in users:
            todo |= self._locals(self.p.stages[i])
            if slices and i in self.streamed:
                todo -= {self.streamed[i][0].top.operand}
        while todo:
            found = {self.maker[n] for n in todo} - needed
            needed |= found
            todo = set[str]().union(*(self._locals(self.p.stages[i]) for i in found))
        return [self._small(i, i in storing) for i in sorted(needed)]

    def _small(self, i: int, outputs: bool) -> Stage:
        """A stage without the axis; `outputs` says whether it is the one that stores those."""
        stage = self._folded(i) if self._folds(i) else self.p.stages[i]
        if outputs:
            return stage
        body = [s for s in stage.body if not isinstance(s, Store) or self.p.operand[s.operand].role == "local"]
        return drop_unread_lets(replace(stage, body=tuple(body)))

    def _folded(self, i: int) -> Stage:
        """A sliced stage from its parts on."""
        stage = self.p.stages[i]
        body = [Fold(s.name, s.monoid, (self._of_slice(i, s),)) if isinstance(s, Fold) else s for s in stage.body]
        return drop_unread_lets(Stage(stage.axes, (Axis(self.each, symbol(self.slices)),), tuple(body)))

    def _of_slice(self, i: int, fold: Fold) -> Expr:
        """What a slice adds to a fold."""
        if i not in self.streamed:
            return self._part(i, fold)
        total, top = self.streamed[i]
        (maximum,) = (s for s in self.p.stages[top].body if isinstance(s, Fold))
        return total.merged(self._part(i, fold), self._part(top, maximum))

    def _part(self, i: int, fold: Fold) -> Load:
        part = self.parts[i, fold.name]
        axes = self.p.stages[i].axis_names
        return Load(part.name, (symbol(self.each), *map(symbol, axes)), part.dtype)

    def _sliced_stage(self, i: int) -> Stage:
        """A stage for one slice, which stores its folds as parts."""
        stage = self.p.stages[i]
        if not {a.name for a in self.p.axes} <= set(stage.axis_names):
            raise _Refused
        lets = {s.name: s.value for s in stage.body if isinstance(s, Let)}
        folds = [s for s in stage.body if isinstance(s, Fold)]
        if any(f.monoid not in SIMPLE or len(f.args) != 1 for f in folds):
            raise _Refused
        place = symbol(self.slice) * symbol(self.length) + symbol(self.axis)
        body = list[Statement]()
        for f in folds:
            arg = replace_axes(_written_out(f.args[0], lets), {self.axis: place})
            if any(isinstance(x, Ref) and self.p.operand.get(x.name) is None for x in walk(arg)):
                raise _Refused  # it needs the result of another fold
            if i in self.streamed:
                arg = self._with_own_maximum(i, arg)
            body.append(Fold(f.name, f.monoid, (self._argument(arg, place, f.monoid),)))
        body += [self._stored(i, f) for f in folds]
        if i in {top for _, top in self.streamed.values()}:
            body.append(self._kept(i, folds[0]))
        inner = tuple(replace(a, extent=symbol(self.length)) if a.name == self.axis else a for a in stage.folds)
        return Stage((self.slice, *stage.axes), inner, tuple(body))

    def _kept(self, i: int, maximum: Fold) -> Store:
        """The maximum of a slice, for the sum that goes by with it."""
        part = self.parts[i, maximum.name]
        self.maxima[i] = mine = replace(part, name=self._fresh("h"), role="local")
        self.operands[mine.name] = mine
        return Store(mine.name, self._own_place(i), Ref(maximum.name, mine.dtype))

    def _with_own_maximum(self, i: int, arg: Expr) -> Expr:
        total, top = self.streamed[i]
        mine = self.maxima[top]
        return total.sliced(arg, Load(mine.name, self._own_place(top), mine.dtype))

    def _own_place(self, i: int) -> tuple[Extent, ...]:
        return (symbol(self.slice), *map(symbol, self.p.stages[i].axis_names))

    def _stored(self, i: int, fold: Fold) -> Store:
        axes = self.p.stages[i].axis_names
        dtype = fold_rule(fold.monoid, fold.args[0].dtype).finish[0].dtype
        shape = (symbol(self.slices), *(self.p.axis[a].extent for a in axes))
        part = Operand(self._fresh("p"), "output", dtype, shape)
        self.parts[i, fold.name] = self.operands[part.name] = part
        return Store(part.name, self._own_place(i), Ref(fold.name, dtype))

    # ---- slices that reach beyond the end

    def _inside(self, e: Expr) -> Expr:
        """Loads beyond the end of the fold yield something."""
        return e if self.even else rewrite(e, self._guarded)

    def _guarded(self, x: Expr) -> Expr | None:
        if not isinstance(x, Load) or not any(self.axis in symbols_of(i) for i in _entries(x)):
            return None
        shape, extent = self.operands[x.operand].shape, self.p.axis[self.axis].extent
        along = [d for d, i in enumerate(x.index) if isinstance(i, Dim) and self.axis in symbols_of(i)]
        place = symbol(self.slice) * symbol(self.length) + symbol(self.axis)
        if len(along) != 1 or x.index[along[0]] != place or shape[along[0]] != extent:
            raise _Refused  # what is beyond the slice is not beyond the operand
        return x if x.fill is not None else replace(x, fill=literal(0, x.dtype))

    def _argument(self, arg: Expr, place: Extent, monoid: str) -> Expr:
        """What a fold adds for one element: nothing beyond the end."""
        if self.even:
            return arg
        inside = prim("lt", Index(place), Index(self.p.axis[self.axis].extent))

        def or_nothing(x: Expr, nothing: Const) -> Expr:
            return prim("where", inside, self._inside(x), nothing)

        if monoid == "sum" and isinstance(arg, Prim) and arg.name == "mul" and arg.dtype.is_float:
            zero = literal(0, arg.dtype)
            sides = [self._inside(x) if _is_load(x) else or_nothing(x, zero) for x in arg.args]
            return prim("mul", *sides)
        (nothing,) = fold_rule(monoid, arg.dtype).init
        assert isinstance(nothing, Const)
        return or_nothing(arg, nothing)

    # ---- programs

    def _sliced(self, stages: Sequence[int], number: int) -> TileProgram:
        """Folds that wait for equally many others, on slices."""
        before = self._made_for(stages, slices=True)
        task = (Axis(self.slice, symbol(self.slices)), *self.p.axes)
        program = self._program(f"slices{number or ''}", task, [*before, *map(self._sliced_stage, stages)])
        return self._with_even_operands(program) if self.even else program

    def _with_even_operands(self, p: TileProgram) -> TileProgram:
        """Operands whose dimension is cut get two for it, so that what reads them is a plain product of several matrices."""
        extent, place = self.p.axis[self.axis].extent, symbol(self.slice) * symbol(self.length) + symbol(self.axis)
        for o in p.operands:
            found = [x.index for s in p.stages for x in accesses_of(s, o.name)]
            along = [d for d in range(len(o.shape)) if o.shape[d] == extent and all(i[d] == place for i in found)]
            if o.role not in ("input", "weight") or len(along) != 1:
                continue
            (d,) = along
            shape = (*o.shape[:d], symbol(self.slices), symbol(self.length), *o.shape[d + 1 :])

            def cut(i: tuple[Extent | Expr, ...], d: int = d) -> tuple[Extent | Expr, ...]:
                return (*i[:d], symbol(self.slice), symbol(self.axis), *i[d + 1 :])

            p = change_operand(p, o.name, replace(o, shape=shape), cut)
        return replace(p, params=self._params(p.axes, p.operands, p.stages))

    def _mapped(self, stages: Sequence[int]) -> TileProgram:
        """What is stored along the axis: its elements are tasks."""
        before = self._made_for(stages)
        task = (*self.p.axes, self.p.axis[self.axis])
        made = []
        for i in stages:
            heads = tuple(
                self.axis if isinstance(a, Axis) and a.name == self.axis else a for a in self.p.stages[i].axes
            )
            made.append(replace(self.p.stages[i], axes=heads))
        return self._program("row", task, [*before, *made])

    def _program(self, suffix: str, task: tuple[Axis, ...], stages: Sequence[Stage]) -> TileProgram:
        written = {s.operand for stage in stages for s in stage.stores}
        parts = {o.name for o in self.parts.values()} - written
        used = [self.operands[n] for n in operands_of(stages, self.operands)]
        operands = [replace(o, role="input") if o.name in parts else o for o in used]
        operands.sort(key=lambda o: ROLE_ORDER.index(o.role))
        params = self._params(task, operands, stages)
        return TileProgram(f"{self.p.name}_{suffix}", params, task, tuple(operands), tuple(stages))

    def _params(self, task: Sequence[Axis], operands: Iterable[Operand], stages: Iterable[Stage]) -> tuple[str, ...]:
        stages = tuple(stages)
        extents = [a.extent for a in task] + [a.extent for s in stages for a in (*s.own, *s.folds)]
        extents += [d for o in operands for d in o.shape] + [x for s in stages for x in polynomials(s)]
        found = frozenset[str]().union(*map(symbols_of, extents))
        return tuple(n for n in (*self.p.params, self.slices, self.length) if n in found)


def _without_rows(p: TileProgram, axis: str) -> TileProgram:
    """The program without locals along the axis: what they hold is computed again where it is read."""
    known: dict[str, tuple[tuple[str, ...], Expr]] = {}

    def leaf(x: Expr) -> Expr | None:
        if not isinstance(x, Load) or x.operand not in known:
            return None
        names, value = known[x.operand]
        index = tuple(i for i in x.index if isinstance(i, int | Dim))
        if x.fill is not None or len(index) < len(x.index):
            raise _Refused
        return replace_axes(value, dict(zip(names, index, strict=True)))

    stages = []
    for stage in p.stages:
        stage = replace(stage, body=tuple(map_expressions(s, lambda e: rewrite(e, leaf)) for s in stage.body))
        if not any(a.name == axis for a in stage.own):
            stages.append(stage)
            continue
        if stage.folds:
            raise _Refused
        lets = {s.name: s.value for s in stage.body if isinstance(s, Let)}
        kept = list[Statement]()
        for s in stage.body:
            if not isinstance(s, Store) or p.operand[s.operand].role != "local":
                kept.append(s)
                continue
            names = tuple(str(i) for i in s.index)
            if len(set(names)) < len(names) or not set(names) <= set(stage.axis_names) or s.operand in known:
                raise _Refused
            known[s.operand] = names, _written_out(s.value, lets)
        stage = drop_unread_lets(replace(stage, body=tuple(kept)))
        if stage.stores:
            stages.append(stage)
    operands = tuple(o for o in p.operands if o.name not in known)
    return replace(p, operands=operands, stages=tuple(stages))


def _written_out(e: Expr, lets: dict[str, Expr]) -> Expr:
    """The expression without lets."""
    while any(isinstance(x, Ref) and x.name in lets for x in walk(e)):
        e = replace_refs(e, lets)
        if sum(1 for _ in walk(e)) > MOST_WRITTEN_OUT:
            raise _Refused
    return e


def _entries(x: Load) -> list[Extent]:
    return [i for i in x.index if isinstance(i, int | Dim)]


def _is_load(x: Expr) -> bool:
    """A load that gives 0 beyond the end, however its element is widened."""
    while isinstance(x, Prim) and x.name == "cast":
        (x,) = x.args
    return isinstance(x, Load) and (x.fill is None or x.fill.value == 0)
