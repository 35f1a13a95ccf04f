"""The rules that every tile program keeps, checked; a broken one is a bug of fusec and names program and stage."""

from __future__ import annotations

from collections.abc import Sequence

from fusec.errors import BugError
from fusec.ir.dim import Dim, Extent, linear, product, symbol, symbols_of
from fusec.ir.expr import Const, Expr, Index, Load, Prim, Ref, prim, walk
from fusec.ir.types import DType
from fusec.tile.fold import fold_rule
from fusec.tile.program import ROLES, Fold, Let, Operand, Stage, Store, TileProgram

RESERVED = frozenset(["inf", "nan", "index", "pad", "seq", *(d.value for d in DType)])
"""Names that mean something else in the text form."""


def verify_program(p: TileProgram) -> None:
    """Check names, dtypes, ranks, the use of locals, and that outputs are written once. BugError says where it is broken."""
    _declarations(p)
    written: set[str] = set()
    for number, stage in enumerate(p.stages):
        try:
            _Scope(p, stage).check(written)
        except BugError as e:
            raise BugError(f"tile program {p.name}, stage {number}: {e.message}") from e
        written |= {s.operand for s in stage.stores}
    _locals(p)
    never = [o.name for o in p.operands if o.role in ("output", "inout", "local") and o.name not in written]
    if never:
        raise BugError(f"tile program {p.name}: {', '.join(never)} is never written")


def _declarations(p: TileProgram) -> None:
    own = [{a.name: a.extent for a in (*s.own, *s.folds)} for s in p.stages]
    names = [*p.params, *(a.name for a in p.axes), *(o.name for o in p.operands)]
    for n in names + [n for axes in own for n in axes]:
        if not (n.isidentifier() and n.isascii()) or n in RESERVED:
            raise BugError(f"tile program {p.name}: {n!r} cannot be a name")
    if twice := sorted({n for n in names if names.count(n) > 1}):
        raise BugError(f"tile program {p.name}: {', '.join(twice)} is declared twice")
    extents: dict[str, Extent] = {}
    for axes in own:
        for n, extent in axes.items():
            if n in names or extents.setdefault(n, extent) != extent:
                raise BugError(f"tile program {p.name}: the axis {n} means two things")
    if any(a.sequential for s in p.stages for a in (*s.own, *s.folds)):
        raise BugError(f"tile program {p.name}: only task axes can be sequential")
    params = frozenset(p.params)
    for where, x in [(a.name, a.extent) for a in (*p.axes, *p.axis.values())] + [
        (o.name, d) for o in p.operands for d in o.shape
    ]:
        if unknown := symbols_of(x) - params:
            raise BugError(f"tile program {p.name}: {where} depends on {', '.join(sorted(unknown))}, no parameter")
    for o in p.operands:
        if o.role not in ROLES or (o.role == "scalar" and o.shape) or not o.dtype.is_native:
            raise BugError(
                f"tile program {p.name}: operand {o.name} of role {o.role} and dtype {o.dtype} is not possible"
            )


def _locals(p: TileProgram) -> None:
    """A dimension of a local that is indexed by a task axis holds the tile's part: nothing else may index it."""
    names, task = {o.name for o in p.operands if o.role == "local"}, {a.name for a in p.axes}
    seen: dict[tuple[str, int], list[Extent | Expr]] = {}
    for stage in p.stages:
        accesses = [(x.operand, x.index) for x in stage.stores] + [(x.operand, x.index) for x in stage.loads()]
        for name, index in accesses:
            for d, i in enumerate(index if name in names else ()):
                seen.setdefault((name, d), []).append(i)
    for (name, d), entries in seen.items():
        axes = sorted({a for i in polynomials(entries) for a in symbols_of(i) & task})
        if axes and any(i != symbol(axes[0]) for i in entries):
            raise BugError(
                f"tile program {p.name}: dimension {d} of local {name} holds the part of a tile along {axes[0]}, "
                "and something else indexes it"
            )


class _Scope:
    """One stage: which names its statements may use so far."""

    def __init__(self, p: TileProgram, stage: Stage) -> None:
        self.p, self.stage = p, stage
        self.task = {a.name for a in p.axes}
        self.folds = {a.name for a in stage.folds}
        self.refs: dict[str, DType] = {o.name: o.dtype for o in p.operands if o.role == "scalar"}
        self.inner: set[str] = set()
        """Lets that change along a fold axis: they exist inside the fold loops only."""

    def check(self, written: set[str]) -> None:
        stage = self.stage
        axes = [*stage.axis_names, *(a.name for a in stage.folds)]
        if len(set(axes)) != len(axes):
            raise BugError("an axis occurs twice")
        for a in stage.axes:
            if isinstance(a, str) and a not in self.task:
                raise BugError(f"{a} is no task axis")
        if stage.folds and not any(isinstance(s, Fold) for s in stage.body):
            raise BugError("there are fold axes and no fold")
        if not stage.stores:
            raise BugError("it stores nothing")
        self.scope = {*axes, *self.p.params}
        for s in stage.body:
            match s:
                case Let(name, value):
                    self.expression(value, written)
                    self.define(name, value.dtype)
                    if self.along_fold(value):
                        self.inner.add(name)
                case Fold(name, monoid, args):
                    for x in args:
                        self.expression(x, written)
                    self.fold(name, monoid, args)
                case Store():
                    self.store(s, written)

    def define(self, name: str, dtype: DType) -> None:
        taken = name in self.refs or name in self.p.operand or name in self.scope or name in self.p.axis
        if taken or not (name.isidentifier() and name.isascii()) or name in RESERVED:
            raise BugError(f"{name!r} cannot be defined: the name is taken or reserved")
        self.refs[name] = dtype

    def fold(self, name: str, monoid: str, args: tuple[Expr, ...]) -> None:
        rule = fold_rule(monoid, args[0].dtype)
        if tuple(a.dtype for a in args) != (rule.state if monoid in ("argmax", "argmin") else (args[0].dtype,)):
            raise BugError(f"{monoid} cannot fold {', '.join(str(a.dtype) for a in args)}")
        if not self.stage.folds:
            raise BugError(f"{name} folds over no axis")
        self.define(name, rule.finish[0].dtype)

    def store(self, s: Store, written: set[str]) -> None:
        target = self.operand(s.operand)
        if target.role not in ("output", "inout", "local"):
            raise BugError(f"{target.role} {target.name} is written")
        if s.value.dtype is not target.dtype:
            raise BugError(f"{target.name} holds {target.dtype}, stored is {s.value.dtype}")
        self.expression(s.value, written)
        self.index(target, s.index)
        if s.partial and (target.role != "output" or self.stage.folds or len(polynomials(s.index)) < len(s.index)):
            raise BugError(
                f"the partial store to {target.name}: outputs have them, at polynomials, where nothing folds"
            )
        if self.along_fold(s.value) or any(self.folds & symbols_of(i) for i in polynomials(s.index)):
            raise BugError(f"the store to {target.name} depends on a fold axis")
        if target.role == "output":
            self.once(s)

    def once(self, s: Store) -> None:
        """Different points of the stage, and different tasks, must not write one element."""
        entries = polynomials(s.index)
        if len(entries) < len(s.index):
            return  # places read from memory cannot be proved to differ
        used = frozenset[str]().union(*(symbols_of(i) for i in entries))
        repeated = [
            a
            for a in dict.fromkeys([*self.task, *self.stage.axis_names])
            if a not in used and self.p.axis[a].extent != 1
        ]
        if repeated:
            raise BugError(f"{s.operand} is written again for each {', '.join(sorted(repeated))}")
        for i in entries:
            self.injective(s.operand, i)

    def injective(self, operand: str, i: Extent) -> None:
        """An index like h*D + d: sorted by coefficient, each axis must step over what the smaller ones span."""
        split = linear(i, self.scope - set(self.p.params))
        if split is None or len(split[1]) < 2:
            return
        span: Extent = 1
        left = dict(split[1])
        while left:
            found = next((a for a, c in left.items() if c == span or -1 * c == span), None)
            if found is None:
                if isinstance(span, int) and all(isinstance(x, int) for x in left.values()):
                    raise BugError(f"the store to {operand} at {i} may hit an element twice")
                return  # coefficients that are parameters: not provable here
            del left[found]
            span = span * self.p.axis[found].extent

    def expression(self, e: Expr, written: set[str]) -> None:
        for x in walk(e):
            match x:
                case Ref(name, dtype):
                    if self.refs.get(name) is not dtype:
                        raise BugError(f"{name}: {dtype} is not defined here")
                case Index(value):
                    self.polynomial(value)
                case Load(operand, index, dtype, fill):
                    o = self.operand(operand)
                    if o.dtype is not dtype or (fill is not None and fill.dtype is not dtype):
                        raise BugError(f"a load of {operand} as {dtype}, it holds {o.dtype}")
                    if o.role in ("output", "scalar") or (o.role == "local" and operand not in written):
                        raise BugError(
                            f"{o.role} {operand} is read" + (" before it is written" if o.role == "local" else "")
                        )
                    self.index(o, index)
                case Prim(name, args, dtype):
                    if prim(name, *args, dtype=dtype if name == "cast" else None).dtype is not dtype:
                        raise BugError(f"{name} does not give {dtype}")
                case Const(value):
                    if not isinstance(value, bool | int | float):
                        raise BugError(f"the literal {value!r} is no plain number")

    def index(self, o: Operand, index: tuple[Extent | Expr, ...]) -> None:
        if len(index) != len(o.shape):
            raise BugError(f"{o.name} has {len(o.shape)} dimensions, the index {len(index)}")
        for d, i in enumerate(index):
            if not isinstance(i, int | Dim):
                if not i.dtype.is_integer:
                    raise BugError(f"{o.name} is indexed by a {i.dtype}")
                continue
            self.polynomial(i)
            if o.role == "local":
                self.local(o, d, i)

    def local(self, o: Operand, d: int, i: Extent) -> None:
        """A dimension is a task axis, of which the tile's part exists, or stage-own axes and there as a whole."""
        mixed = symbols_of(i) & self.task
        if mixed and i not in [symbol(n) for n in mixed]:
            raise BugError(
                f"dimension {d} of local {o.name} is indexed by {i}: neither one task axis nor only own axes"
            )

    def polynomial(self, x: Extent) -> None:
        if unknown := symbols_of(x) - self.scope:
            raise BugError(f"{', '.join(sorted(unknown))} is no axis of the stage and no parameter")

    def operand(self, name: str) -> Operand:
        if name not in self.p.operand:
            raise BugError(f"there is no operand {name}")
        return self.p.operand[name]

    def along_fold(self, e: Expr) -> bool:
        return any(
            (isinstance(x, Ref) and x.name in self.inner)
            or (isinstance(x, Index) and bool(symbols_of(x.value) & self.folds))
            or (isinstance(x, Load) and any(symbols_of(i) & self.folds for i in polynomials(x.index)))
            for x in walk(e)
        )


def polynomials(index: Sequence[Extent | Expr]) -> list[Extent]:
    """The entries of an index that are not read from memory."""
    return [i for i in index if isinstance(i, int | Dim)]


def local_bytes(p: TileProgram) -> Extent:
    """Bytes of all locals of one task whose tile is everything: an upper bound of the scratch memory they need."""
    return sum((product(o.shape) * o.dtype.itemsize for o in p.operands if o.role == "local"), start=0)
