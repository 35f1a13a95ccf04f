"""Expressions as C++: each is computed once, in the outermost block of the writer that it depends on."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from fusec.errors import BugError
from fusec.ir.dim import Atom, Dim, Extent, Monomial, linear, symbols_of
from fusec.ir.expr import Const, Expr, Index, Load, Prim, Ref
from fusec.ir.types import DType
from fusec.kernels.cpu.interner import Interner
from fusec.kernels.cuda import access
from fusec.kernels.cuda.context import Context
from fusec.kernels.cuda.index import apply_function, as_extent, is_nonnegative
from fusec.kernels.cuda.scalar import literal, primitive, value_type
from fusec.kernels.cuda.writer import Key
from fusec.tile.program import Let, Statement, Store


@dataclass(frozen=True, slots=True)
class Lane:
    """An axis along which `width` neighbours from index `base` on are computed by an inner loop, the block of depth `level`.

    `name` counts them, and `base` is known in the block of depth `outside`. Of the operands in `aligned`, neighbours that lie
    side by side are moved as vectors. `results` are the vectors that stores have begun to fill.
    """

    axis: str
    width: int
    base: str
    name: str
    level: int
    outside: int
    aligned: frozenset[str]
    results: dict[object, tuple[str, access.Access]] = field(default_factory=dict)


class Point:
    """Where expressions are evaluated: C++ names for the indices of axes and for the results of folds.

    Each name belongs to the block that was open when it was bound, and what depends on it is computed there.
    """

    def __init__(self, ctx: Context) -> None:
        self.ctx = ctx
        self.writer = ctx.writer
        self.number = self.writer.name("point")
        """Tells what this point has made from what others have in the same block."""
        self.interner = Interner()
        self.pseudo: dict[str, Expr] = {}
        """Symbols in offsets that stand for indices read from memory."""
        self.changing: frozenset[str] = frozenset()
        """Operands that are written, too, at places that only memory knows: each point loads anew."""
        self.lane: Lane | None = None
        self.given: dict[int, tuple[str, int]] = {}
        """Canonical loads whose values lie elsewhere already: an element's place, and the depth of the block that knows it."""
        self._axes: dict[str, tuple[str, int]] = {}
        self._refs: dict[str, tuple[str, int]] = {}
        self._facts: dict[int, int] = {}
        self._assumed: set[str] = set()
        self._accesses: dict[int, access.Access] = {}

    # ---- where we are

    @property
    def depth(self) -> int:
        """The number of open blocks."""
        return self.writer.depth

    def place(self, axis: str, name: str) -> None:
        """The index along an axis, within the block that is open."""
        before = self._axes.get(axis)
        self._axes[axis] = name, self.depth
        if before is not None and before != self._axes[axis]:
            self._facts.clear()

    def bind(self, name: str, value: str) -> None:
        """The value of a Ref, within the block that is open: a C++ name or literal."""
        before = self._refs.get(name)
        self._refs[name] = value, self.depth
        if name in self._assumed or before is not None:
            self._facts.clear()

    def axis_name(self, axis: str) -> str:
        """The C++ name of the index along an axis."""
        return self._axes[axis][0]

    def give(self, load: Load, place: str) -> None:
        """From here on, within the block that is open, read a load from another place."""
        e = self.intern(load)
        self.given[id(e)] = place, self.depth
        self._facts.clear()

    @contextmanager
    def loop(self, axis: str, low: str, high: str, step: str = "1", unroll: str = "") -> Iterator[str]:
        """A `for` loop over an axis; yields the name of the index."""
        name = self.writer.name(f"{axis}_")
        header = f"{unroll}for (fx_int {name} = {low}; {name} < {high}; {name} += {step})"
        with self.writer.block(header, guard=f"{low} < {high}"):
            self.place(axis, name)
            yield name

    @contextmanager
    def lanes(
        self, axis: str, base: str, width: int, aligned: frozenset[str], outside: int | None = None
    ) -> Iterator[None]:
        """A loop over neighbours that the compiler writes out. Vectors are loaded in the block of depth `outside`, where `base`
        is known (absent: the one that is open), and stored after the loop.
        """
        name, outside = self.writer.name("j"), self.depth if outside is None else outside
        with self.writer.block(f"FX_UNROLL for (int {name} = 0; {name} < {width}; {name}++)", wrapped=False):
            self.place(axis, f"({base} + {name})")
            self.lane = lane = Lane(axis, width, base, name, self.depth, outside, aligned)
            yield
            self.lane = None
        access.store_vectors(self, lane)

    @contextmanager
    def lambda_(self, stem: str, params: Mapping[str, str], result: str = "void") -> Iterator[str]:
        """A lambda whose parameters (C++ name -> type) the caller binds inside; yields its name."""
        name = self.writer.name(stem)
        listed = ", ".join(f"{t} {p}" for p, t in params.items())
        with self.writer.function(f"const auto {name} = [&]({listed}) -> {result}"):
            yield name

    def element(self, stem: str, axes: Sequence[str], e: Expr) -> str:
        """Write a lambda of fx_int indices along `axes` that gives the value of an expression there; its name."""
        names = {a: self.writer.name(f"{a}_") for a in axes}
        with self.lambda_(stem, dict.fromkeys(names.values(), "fx_int"), value_type(e.dtype)) as name:
            for a, n in names.items():
                self.place(a, n)
            self.writer.line(f"return {self.value(self.intern(e))};")
        return name

    def epilogue(self, stem: str, axes: Sequence[str], ref: str, dtype: DType, body: Sequence[Statement]) -> str:
        """Write a lambda of indices along `axes` and a value for `ref` that runs lets and stores; its name."""
        names = {a: self.writer.name(f"{a}_") for a in axes}
        value = self.writer.name("acc")
        params = dict.fromkeys(names.values(), "fx_int") | {value: value_type(dtype)}
        with self.lambda_(stem, params) as name:
            for a, n in names.items():
                self.place(a, n)
            self.bind(ref, value)
            self.run(body)
        return name

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
                    self.value(self.define(s))
                case Store():
                    self.store(s)
                case _:
                    raise BugError("a fold is no statement of a point")

    def store(self, s: Store) -> None:
        """Write one element."""
        access.store(self, s.operand, s.index, self.intern(s.value), s.partial)

    # ---- values

    def intern(self, e: Expr) -> Expr:
        """The canonical form that `value` takes."""
        return self.interner.intern(e)

    def extent(self, x: Extent) -> str:
        """An index polynomial as an fx_int."""
        return str(x) if isinstance(x, int) else self._polynomial(x, wide=False)

    def value(self, e: Expr) -> str:
        """The C++ name or literal of a canonical expression's value."""
        match e:
            case Const(v, dtype):
                return literal(dtype, v)
            case Ref(name):
                return self._refs[name][0] if name in self._refs else self._scalar(name)
            case Index(int() as v):
                return literal(DType.I64, v)
            case Index(Dim() as x):
                return self._polynomial(x, wide=True)
            case Load():
                return access.load(self, e)
        return self.once(self.fact(e), ("value", id(e)), value_type(e.dtype), lambda: self._primitive(e))

    def once(self, level: int, key: Key, type_: str, make: Callable[[], str]) -> str:
        """The name of what `key` stands for, made at its first use in the block of `level`."""
        level = self.writer.home(level)
        key = (self.number, *key)
        found = self.writer.find(level, key)
        if found is None:
            text = make()
            found = self.writer.name()
            kind = f"{type_} const" if type_.endswith("*") else f"const {type_}"
            self.writer.make(level, key, found, f"{kind} {found} = {text};")
        return found

    def fact(self, e: Expr) -> int:
        """The depth of the innermost block that a canonical expression depends on."""
        known = self._facts.get(id(e))
        if known is None:
            known = self._facts[id(e)] = self._derive(e)
        return known

    def _derive(self, e: Expr) -> int:
        match e:
            case Ref(name):
                if name in self._refs:
                    return self._refs[name][1]
                self._assumed.add(name)
                return 0
            case Index(x):
                return self.fact_of(x)
            case Prim(_, args):
                return max(map(self.fact, args), default=0)
            case Load():
                return access.fact(self, e)
        return 0

    def fact_of(self, x: Extent) -> int:
        """`fact` of an index polynomial."""
        return max(map(self._symbol_fact, symbols_of(x)), default=0)

    def _symbol_fact(self, name: str) -> int:
        if name in self._axes:
            return self._axes[name][1]
        return self.fact(self.pseudo[name]) if name in self.pseudo else 0

    def _scalar(self, name: str) -> str:
        if name not in self.ctx.program.operand:
            raise BugError(f"{self.ctx.program.name}: nothing is called {name!r} here")
        return self.ctx.scalar(name)

    def _primitive(self, e: Expr) -> str:
        if not isinstance(e, Prim):
            raise BugError(f"nothing to compute for {e!r}")
        return primitive(e.name, e.args[-1].dtype, [self.value(a) for a in e.args], e.dtype)

    # ---- polynomials

    def _polynomial(self, x: Dim, wide: bool) -> str:
        """The sum of what is known outside, and of terms of the innermost block that any term depends on."""
        outer, inner = self.parts(x)
        if not isinstance(inner, Dim):
            return self.ctx.slot(x, wide)
        (mono, c), *more = inner.terms
        if not more and outer == 0 and c == 1 and len(mono) == 1:
            name = self._atom(mono[0], wide)
            return f"(long long){name}" if wide and isinstance(mono[0], str) else name
        type_ = "long long" if wide else "fx_int"
        return self.once(self.fact_of(x), ("index", x, wide), type_, lambda: self._sum(inner, outer, wide))

    def parts(self, x: Extent) -> tuple[Extent, Extent]:
        """A polynomial as (what is known outside, the terms of the innermost block that any of them depends on)."""
        if isinstance(x, int):
            return x, 0
        level = self.fact_of(x)
        outer: list[tuple[Monomial, int]] = []
        inner: list[tuple[Monomial, int]] = []
        for mono, c in x.terms:
            here = any(self._atom_fact(a) == level and self.is_bound(a) for a in mono)
            (inner if here else outer).append((mono, c))
        return as_extent(outer), as_extent(inner)

    def _sum(self, inner: Dim, outer: Extent, wide: bool) -> str:
        by_atoms: dict[Monomial, list[tuple[Monomial, int]]] = {}
        for mono, c in inner.terms:
            bound = tuple(a for a in mono if self.is_bound(a))
            by_atoms.setdefault(bound, []).append((tuple(a for a in mono if not self.is_bound(a)), c))
        parts = []
        for atoms, terms in by_atoms.items():
            coefficient = as_extent(terms)
            factors = [self._atom(a, wide) for a in atoms]
            if wide:
                factors[0] = f"(long long){factors[0]}"
            if coefficient != 1:
                factors.insert(0, self.ctx.slot(coefficient, wide))
            parts.append(" * ".join(factors))
        if outer != 0:
            parts.insert(0, self.ctx.slot(outer, wide) if isinstance(outer, int) else self._polynomial(outer, wide))
        return " + ".join(parts)

    def _atom(self, a: str | Atom, wide: bool) -> str:
        if isinstance(a, Atom):
            key, type_ = ("atom", a, wide), "long long" if wide else "fx_int"
            return self.once(self._atom_fact(a), key, type_, lambda: self._function(a, wide))
        if a in self._axes:
            return self._axes[a][0]
        if a in self.pseudo:
            name = self.value(self.pseudo[a])
            return name if wide else f"(fx_int){name}"
        return self.ctx.symbols[a]

    def _function(self, a: Atom, wide: bool) -> str:
        x, y = (self._polynomial(i, wide) if isinstance(i, Dim) else f"{i}ll" if wide else str(i) for i in (a.a, a.b))
        plain = is_nonnegative(a.a) and is_nonnegative(a.b)
        return apply_function(a.fn, x, y, plain, "long long" if wide else "fx_int")

    def is_bound(self, a: str | Atom) -> bool:
        """Whether an atom has a C++ name rather than a slot."""
        if isinstance(a, Atom):
            return any(self.is_bound(s) for s in symbols_of(a.a) | symbols_of(a.b))
        return a in self._axes or a in self.pseudo or a in self.ctx.symbols

    def _atom_fact(self, a: str | Atom) -> int:
        if isinstance(a, Atom):
            return max(map(self._symbol_fact, symbols_of(a.a) | symbols_of(a.b)), default=0)
        return self._symbol_fact(a)

    def access_of(self, e: Load) -> access.Access:
        """How a canonical load reaches memory."""
        found = self._accesses.get(id(e))
        if found is None:
            found = self._accesses[id(e)] = access.plan(self, e.operand, e.index, e.fill is not None)
        return found

    def step_along(self, offset: Extent, axis: str) -> Extent | None:
        """Elements between neighbours along an axis; None where that is not constant."""
        if any(axis in self.interner.symbols(e) for s, e in self.pseudo.items() if s in symbols_of(offset)):
            return None
        split = linear(offset, [axis])
        return None if split is None else split[1].get(axis, 0)
