"""Expressions at a point of a loop nest: each is computed once, in the outermost loop that it depends on."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from fusec.errors import BugError
from fusec.ir.dim import Atom, Dim, Extent, Monomial, symbols_of
from fusec.ir.expr import Const, Expr, Index, Load, Prim, Ref
from fusec.ir.types import DType
from fusec.kernels.cpu import access
from fusec.kernels.cpu.builder import Block, Loop, Value
from fusec.kernels.cpu.context import Context
from fusec.kernels.cpu.interner import Interner
from fusec.kernels.cpu.polynomial import apply_function, as_extent
from fusec.kernels.cpu.short_rows import ShortRows
from fusec.kernels.cpu.vector import literal
from fusec.tile.program import Axis, Let, Statement, Store

Key = tuple[object, ...]
Term = tuple[Monomial, int]
_FUSED = (DType.F32, DType.F64)


@dataclass(slots=True)
class Scope:
    """One open loop: values made before it (in its preheader) and values made in its body."""

    before: Block | None = None
    made_before: dict[Key, Value] = field(default_factory=dict)
    made: dict[Key, Value] = field(default_factory=dict)


class Point:
    """Evaluates expressions where some loops are open.

    Along the axis `lane` a value is a vector, one lane per index from `bases[copy]` on; what does not depend on the lane
    stays scalar until it meets a vector. Several copies are evaluated side by side. In a partial vector `mask` holds for
    the first `left` lanes (an i64, at least 1); there is one copy then.
    """

    def __init__(self, ctx: Context, lane: str = "", lanes: int = 0) -> None:
        self.ctx = ctx
        self.b = ctx.b
        self.lane = lane
        self.lanes = lanes if lane else 0
        self.bases: list[Value] = []
        self.mask: Value | None = None
        self.left: Value | None = None
        self.interner = Interner()
        self.pseudo: dict[str, Expr] = {}
        """Symbols in offsets that stand for indices read from memory."""
        self.rows: ShortRows | None = None
        """The two axes that the lane runs over, where it does (short_rows.py)."""
        self.changing: frozenset[str] = frozenset()
        """Operands that are written, too, at places that only memory knows: each point loads anew."""
        self.extents: dict[str, Axis] = dict(ctx.program.axis)
        """Every axis that an index may run over."""
        self.inside_already: frozenset[tuple[Extent, Extent]] = frozenset()
        """Index polynomials that are below these sizes, and not negative, wherever we are: see `assume`."""
        self.shares_pointers = False
        """Whether contiguous accesses take their addresses from each other (anchors.py)."""
        self.turned = ""
        """The axis along which loads are contiguous that are to be turned around (squares.py)."""
        self.anchors: dict[tuple[str, Extent, Extent], list[Extent]] = {}
        self._axes: dict[str, tuple[Value | None, int]] = {}
        self._refs: dict[str, tuple[list[Value], int]] = {}
        self._scopes = [Scope()]
        self._facts: dict[int, tuple[int, bool]] = {}
        self._assumed: set[str] = set()
        self._accesses: dict[int, access.Access] = {}

    # ---- where we are

    @property
    def depth(self) -> int:
        """The number of open loops."""
        return len(self._scopes) - 1

    @property
    def lane_level(self) -> int:
        """The loop of the lane axis."""
        return self._axes[self.lane][1]

    @contextmanager
    def inside(self, axis: str, loop: Loop) -> Iterator[None]:
        """The body of a loop over a scalar axis."""
        with self._open(axis, loop.preheader, loop.index):
            yield

    @contextmanager
    def inside_lanes(self, before: Block) -> Iterator[None]:
        """The region of the lane axis: full vectors and the partial one share what is computed in `before`."""
        with self._open(self.lane, before, None):
            yield
        self.bases, self.mask, self.left = [], None, None

    def at_lanes(self, bases: Sequence[Value], mask: Value | None = None, left: Value | None = None) -> None:
        """Start a body at new lane positions: forget what the last one computed."""
        self.bases, self.mask, self.left = list(bases), mask, left
        self._scopes[-1].made.clear()

    def place(
        self, axes: dict[str, Value], base: Value | None = None, mask: Value | None = None, left: Value | None = None
    ) -> None:
        """Stand at one point, without hoisting: values of the scalar axes, and the first index along the lane axis."""
        self._scopes, self._facts = [Scope()], {}
        self._refs.clear()
        self._axes = {n: (v, 0) for n, v in axes.items()}
        if self.lane:
            self._axes[self.lane] = None, 0
            self.bases = [base] if base is not None else []
        self.mask, self.left = mask, left

    def assume(self, inside: frozenset[tuple[Extent, Extent]], shares_pointers: bool = False, turned: str = "") -> None:
        """From here on, the loops' bounds alone keep these indices inside their operands."""
        self.shares_pointers, self.turned = shares_pointers, turned
        self.anchors.clear()
        if inside != self.inside_already:
            self.inside_already = inside
            self._accesses.clear()
            self._facts.clear()

    def bind(self, name: str, *values: Value) -> None:
        """The value of a name at this point: one, or one per copy."""
        before = self._refs.get(name)
        self._refs[name] = list(values), self.depth
        if name in self._assumed or (before and (before[1], before[0][0].type) != (self.depth, values[0].type)):
            self._facts.clear()

    @contextmanager
    def _open(self, axis: str, before: Block | None, value: Value | None) -> Iterator[None]:
        self._scopes.append(Scope(before))
        self._axes[axis] = value, self.depth
        yield
        self._scopes.pop()
        del self._axes[axis]

    # ---- statements

    def define(self, let: Let) -> Expr:
        """Make a let's name known; nothing is computed yet."""
        e = self.interner.lets[let.name] = self.intern(let.value)
        self.interner.symbols(e)  # let by let, so that no recursion is deeper than one
        return e

    def run(self, body: Sequence[Statement]) -> None:
        """Compute lets in order, then store; the folds that they mention are bound."""
        for s in body:
            match s:
                case Let():
                    self.everywhere(self.define(s))
                case Store(operand, index, value, partial):
                    e = self.intern(value)
                    values = self.everywhere(e)
                    for copy, v in enumerate(values):
                        access.store(self, operand, index, e.dtype, v, copy, partial)
                case _:
                    raise BugError("a fold is no statement of a point")

    def everywhere(self, e: Expr) -> list[Value]:
        """An expression's value in every copy."""
        return [self.value(e, copy) for copy in range(max(1, len(self.bases)))]

    # ---- values

    def extent(self, x: Extent) -> Value:
        """An index polynomial as an i64, computed in the outermost loop that it depends on."""
        return self.value(self.interner.index(x))

    def axis_value(self, name: str) -> Value:
        """The index of a scalar axis."""
        value = self._axes[name][0]
        if value is None:
            raise BugError(f"axis {name!r} has no value")
        return value

    def intern(self, e: Expr) -> Expr:
        """The canonical form that `value` takes."""
        return self.interner.intern(e)

    def value(self, e: Expr, copy: int = 0) -> Value:
        """The value of a canonical expression: scalar where it does not depend on the lane."""
        match e:
            case Const(v, dtype):
                return literal(dtype, v)
            case Ref(name) if name in self._refs:
                values = self._refs[name][0]
                return values[copy if len(values) > 1 else 0]
            case Ref(name):
                return self._scalar(name)
            case Index(int() as v):
                return self.b.i64(v)
        level, varies = self.fact(e)
        return self.once(level, (id(e), copy if varies else 0), lambda: self._compute(e, copy))

    def vector(self, e: Expr, copy: int = 0) -> Value:
        """The value of a canonical expression in every lane."""
        return self.spread(self.value(e, copy), self.fact(e)[0])

    def spread(self, v: Value, level: int) -> Value:
        """A value in every lane, splat in the loop of `level`, where it was computed."""
        if v.lanes or not self.lanes:
            return v
        if v.is_constant:
            return self.b.splat(v, self.lanes)
        return self.once(level, ("splat", v.text), lambda: self.b.splat(v, self.lanes))

    def once(self, level: int, key: Key, make: Callable[[], Value]) -> Value:
        """What `key` stands for, made in the loop of `level` at its first use."""
        found = self._find(level, key)
        if found is None:
            with self._home(level) as table:
                found = table[key] = make()
        return found

    def has(self, level: int, key: Key) -> bool:
        """Whether `once` would find the key."""
        return self._find(level, key) is not None

    def fact(self, e: Expr) -> tuple[int, bool]:
        """The innermost loop that an expression depends on, and whether it differs between lanes."""
        known = self._facts.get(id(e))
        if known is None:
            known = self._facts[id(e)] = self._derive(e)
        return known

    def _find(self, level: int, key: Key) -> Value | None:
        found = self._scopes[level].made.get(key)
        if found is None and level < self.depth:
            found = self._scopes[level + 1].made_before.get(key)
        return found

    @contextmanager
    def _home(self, level: int) -> Iterator[dict[Key, Value]]:
        if level >= self.depth:
            yield self._scopes[-1].made
            return
        scope = self._scopes[level + 1]
        if scope.before is None:
            raise BugError("a loop without a preheader cannot take hoisted code")
        with self.b.at(scope.before):
            yield scope.made_before

    def _derive(self, e: Expr) -> tuple[int, bool]:
        match e:
            case Const():
                return 0, False
            case Ref(name):
                if name not in self._refs:
                    self._assumed.add(name)
                    return 0, False
                values, level = self._refs[name]
                return level, values[0].lanes > 0 or len(values) > 1
            case Index(x):
                return self.fact_of(x)
            case Prim(_, args):
                return _join([self.fact(a) for a in args])
            case Load():
                return access.fact(self, e)

    def fact_of(self, x: Extent) -> tuple[int, bool]:
        """`fact` of an index polynomial."""
        return _join([self._symbol_fact(s) for s in symbols_of(x)])

    def _symbol_fact(self, name: str) -> tuple[int, bool]:
        if name in self._axes:
            return self._axes[name][1], name == self.lane
        if self.rows is not None and name in (self.rows.outer, self.rows.inner):
            return self.lane_level, True
        return self.fact(self.pseudo[name]) if name in self.pseudo else (0, False)

    def _scalar(self, name: str) -> Value:
        if name not in self.ctx.program.operand:
            raise BugError(f"{self.ctx.program.name}: nothing is called {name!r} here")
        return self.ctx.scalar(name)

    # ---- making values

    def _compute(self, e: Expr, copy: int) -> Value:
        match e:
            case Prim():
                return self._primitive(e, copy)
            case Load():
                return access.load(self, e, copy)
            case Index(Dim() as x):
                return self._polynomial(x, copy)
        raise BugError(f"nothing to compute for {e!r}")

    def _primitive(self, e: Prim, copy: int) -> Value:
        fused = self._fused(e, copy)
        if fused is not None:
            return fused
        args = self.align(e.args, copy)
        return self.ctx.arithmetic.apply(e.name, e.args[-1].dtype, args, e.dtype)

    def align(self, args: Sequence[Expr], copy: int) -> tuple[Value, ...]:
        """Values of arguments: all vectors as soon as one is."""
        if any(self.fact(a)[1] for a in args):
            return tuple(self.vector(a, copy) for a in args)
        return tuple(self.value(a, copy) for a in args)

    def _fused(self, e: Prim, copy: int) -> Value | None:
        """a * b + c in one instruction, where the product is not better computed further out."""
        if e.name not in ("add", "sub") or e.dtype not in _FUSED or not self.ctx.isa.fma:
            return None
        here, b = self.fact(e), self.b
        for k in (0, 1):
            m, other = e.args[k], e.args[1 - k]
            if isinstance(m, Prim) and m.name == "mul" and self.fact(m) == here:
                x, y, z = self.align((*m.args, other), copy)
                if e.name == "sub":
                    x, z = (x, b.fneg(z)) if k == 0 else (b.fneg(x), z)
                return self.ctx.arithmetic.fma(x, y, z)
        return None

    def _polynomial(self, x: Dim, copy: int) -> Value:
        """Terms of outer loops first, so that their sum is computed there."""
        level = self.fact_of(x)[0]
        outer: list[Term] = []
        inner: list[Term] = []
        for mono, c in x.terms:
            here = [a for a in mono if self._atom_fact(a)[0] == level and self.is_bound(a)]
            (inner if here else outer).append((mono, c))
        if not inner:
            return self.ctx.slot(x)
        total = self.value(self.interner.index(as_extent(outer)), copy)
        by_atoms: dict[Monomial, list[Term]] = {}
        for mono, c in inner:
            bound = tuple(a for a in mono if self.is_bound(a))
            by_atoms.setdefault(bound, []).append((tuple(a for a in mono if not self.is_bound(a)), c))
        for atoms, terms in by_atoms.items():
            term = self.ctx.slot(as_extent(terms))
            if atoms == (self.lane,) and self.lanes and term.text != "1":
                # vectors of 64-bit numbers are slow to multiply: what lanes add stays the same from vector to vector
                first, lanes = self.b.mul(term, self.bases[copy]), self.b.iota(self.lanes)
                total = self._combine("add", self._combine("add", total, first), self._combine("mul", term, lanes))
                continue
            for a in atoms:
                term = self._combine("mul", term, self._atom(a, copy))
            total = self._combine("add", total, term)
        return total

    def _combine(self, op: str, x: Value, y: Value) -> Value:
        lanes = x.lanes or y.lanes
        if x.lanes != y.lanes:
            if op == "mul" and "1" in (x.text, y.text):
                return y if x.text == "1" else x
            if op == "add" and "0" in (x.text, y.text):
                return y if x.text == "0" else x
        x, y = self.b.splat(x, lanes), self.b.splat(y, lanes)
        return self.b.mul(x, y) if op == "mul" else self.b.add(x, y)

    def _atom(self, a: str | Atom, copy: int) -> Value:
        if isinstance(a, Atom):
            x, y = (self.value(self.interner.index(i), copy) for i in (a.a, a.b))
            lanes = x.lanes or y.lanes
            return apply_function(self.b, self.ctx.isa, a, self.b.splat(x, lanes), self.b.splat(y, lanes))
        if a == self.lane:
            base = self.bases[copy]
            return self.b.op("add", self.b.splat(base, self.lanes), self.b.iota(self.lanes)) if self.lanes else base
        if self.rows is not None and a in (self.rows.outer, self.rows.inner):
            op = "udiv" if a == self.rows.outer else "urem"
            place = self._atom(self.lane, copy)
            return self.b.op(op, place, self.b.splat(self.b.i64(self.rows.size), place.lanes))
        if a in self._axes:
            return self.axis_value(a)
        return self.value(self.pseudo[a], copy) if a in self.pseudo else self.ctx.symbols[a]

    def is_bound(self, a: str | Atom) -> bool:
        """Whether an atom has its value in a register rather than in a slot."""
        if isinstance(a, Atom):
            return any(self.is_bound(s) for s in symbols_of(a.a) | symbols_of(a.b))
        if self.rows is not None and a in (self.rows.outer, self.rows.inner):
            return True
        return a in self._axes or a in self.pseudo or a in self.ctx.symbols

    def _atom_fact(self, a: str | Atom) -> tuple[int, bool]:
        if isinstance(a, Atom):
            return _join([self._symbol_fact(s) for s in symbols_of(a.a) | symbols_of(a.b)])
        return self._symbol_fact(a)

    def access_of(self, e: Load) -> access.Access:
        """How a canonical load reaches memory."""
        found = self._accesses.get(id(e))
        if found is None:
            found = self._accesses[id(e)] = access.plan(self, e.operand, e.index, e.fill is not None)
        return found


def _join(facts: list[tuple[int, bool]]) -> tuple[int, bool]:
    return max((level for level, _ in facts), default=0), any(varies for _, varies in facts)
