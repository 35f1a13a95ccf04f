"""Symbolic dimensions: canonical integer polynomials over symbols, with floordiv, ceildiv, mod, max and min as atoms.

A dimension is a Python `int` where it is known and a `Dim` where it is not; arithmetic gives an `int` back as soon as
nothing symbolic is left, so code that handles shapes needs no second path. Two equal polynomials are equal objects by
value: `(N + 1) * 2 == 2 * N + 2`.
"""

from __future__ import annotations

import ast
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property

from fusec.errors import BugError, ResourceError

MOST_TERMS = 1 << 12
"""Terms of a product: a text of one line could ask for billions."""

Monomial = tuple["str | Atom", ...]
"""A product of atoms, sorted by their text; `()` is the constant term. A square is the atom twice."""


@dataclass(frozen=True, slots=True)
class Atom:
    """A function of dimensions that no polynomial can express: `fn` is floordiv, ceildiv, mod, max or min."""

    fn: str
    a: Extent
    b: Extent

    def __str__(self) -> str:
        return f"{self.fn}({self.a}, {self.b})"


@dataclass(frozen=True)
class Dim:
    """A dimension that is not an integer yet. Make one with `symbol`; combine with + - * // % and the functions below."""

    terms: tuple[tuple[Monomial, int], ...]

    @cached_property
    def symbols(self) -> frozenset[str]:
        """The names this dimension depends on."""
        return frozenset(s for mono, _ in self.terms for atom in mono for s in _atom_symbols(atom))

    def __add__(self, other: Extent) -> Extent:
        return _make([*self.terms, *_terms(other)])

    __radd__ = __add__

    def __neg__(self) -> Extent:
        return self * -1

    def __sub__(self, other: Extent) -> Extent:
        return self + other * -1

    def __rsub__(self, other: Extent) -> Extent:
        return self * -1 + other

    def __mul__(self, other: Extent) -> Extent:
        if len(self.terms) * len(_terms(other)) > MOST_TERMS:
            raise ResourceError(f"a dimension is a product of more than {MOST_TERMS} terms")
        return _make([(_product(m, n), c * d) for m, c in self.terms for n, d in _terms(other)])

    __rmul__ = __mul__

    def __floordiv__(self, other: Extent) -> Extent:
        return floordiv(self, other)

    def __rfloordiv__(self, other: int) -> Extent:
        return floordiv(other, self)

    def __mod__(self, other: Extent) -> Extent:
        return mod(self, other)

    def __rmod__(self, other: int) -> Extent:
        return mod(other, self)

    def __bool__(self) -> bool:
        raise BugError(f"the truth of the symbolic dimension {self} is not known")

    def __str__(self) -> str:
        out = ""
        for mono, coef in self.terms:
            factors = [str(a) for a in mono]
            if abs(coef) != 1 or not factors:
                factors.insert(0, str(abs(coef)))
            sign = "-" if coef < 0 else "+"
            out += f" {sign} " + "*".join(factors) if out else ("-" if coef < 0 else "") + "*".join(factors)
        return out

    __repr__ = __str__


Extent = int | Dim


def symbol(name: str) -> Dim:
    """The dimension that stands for `name`.

    >>> symbol("N") * 2 + 1
    2*N + 1
    """
    return Dim((((name,), 1),))


def symbols_of(x: Extent) -> frozenset[str]:
    """The names that `x` depends on; empty for an integer."""
    return x.symbols if isinstance(x, Dim) else frozenset()


def floordiv(a: Extent, b: Extent) -> Extent:
    """a // b rounded down; exact quotients are polynomials again: `floordiv(6*N, 3)` is `2*N`."""
    return _divide("floordiv", a, b)


def quotient(a: Extent, b: int) -> Extent:
    """`floordiv` for sizes: a quotient of a quotient is written as one, and no constant is left that `b` could be taken out of.

    So sizes far down a network stay short, and equal ones more often look it. `b` is at least 1.

    >>> n = symbol("N")
    >>> quotient(quotient(n - 1, 2) + 1, 2), quotient(n - 1, 2) + 1
    (floordiv(N + 1, 4), floordiv(N + 1, 2))
    """
    if isinstance(a, int):
        return a // b
    constant = sum(coef for mono, coef in a.terms if not mono)
    terms = [(mono, coef) for mono, coef in a.terms if mono]
    inner = terms[0][0][0] if len(terms) == 1 and terms[0][1] == 1 and len(terms[0][0]) == 1 else None
    if isinstance(inner, Atom) and inner.fn == "floordiv" and isinstance(inner.b, int) and inner.b > 0:
        return quotient(inner.a + constant * inner.b, inner.b * b)
    whole, rest = divmod(constant, b)
    return floordiv(_make(terms) + rest, b) + whole


def ceildiv(a: Extent, b: Extent) -> Extent:
    """a / b rounded up."""
    return _divide("ceildiv", a, b)


def mod(a: Extent, b: Extent) -> Extent:
    """a modulo b, with the sign of b (Python's rule)."""
    if isinstance(a, int) and isinstance(b, int):
        return a % b
    if b == 1 or exact_quotient(a, b) is not None:
        return 0
    return _make([((Atom("mod", a, b),), 1)])


def maximum(a: Extent, b: Extent) -> Extent:
    """The larger of the two."""
    return _extreme("max", a, b)


def minimum(a: Extent, b: Extent) -> Extent:
    """The smaller of the two."""
    return _extreme("min", a, b)


def product(xs: Iterable[Extent]) -> Extent:
    """The product of all, 1 when there are none: the element count of a shape."""
    out: Extent = 1
    for x in xs:
        out = out * x
    return out


def exact_quotient(a: Extent, b: Extent) -> Extent | None:
    """a / b where b divides a as polynomials and b has a single term; None where that is not known."""
    if isinstance(b, int):
        if b == 0:
            return None
        if isinstance(a, int):
            return a // b if a % b == 0 else None
        return _make([(m, c // b) for m, c in a.terms]) if all(c % b == 0 for _, c in a.terms) else None
    if a == b:
        return 1
    if isinstance(a, int):
        return 0 if a == 0 else None
    if len(b.terms) != 1:
        return None
    (mono, coef), out = b.terms[0], []
    for m, c in a.terms:
        rest = list(m)
        for atom in mono:
            if atom not in rest:
                return None
            rest.remove(atom)
        if c % coef:
            return None
        out.append((tuple(rest), c // coef))
    return _make(out)


def signed_parts(x: Extent) -> tuple[Extent, Extent]:
    """(p, n) where x is p - n and no coefficient of either is negative: `N - 1` is (N, 1)."""
    terms = _terms(x)
    return _make((m, c) for m, c in terms if c > 0), _make((m, -c) for m, c in terms if c < 0)


def linear(x: Extent, names: Iterable[str]) -> tuple[Extent, dict[str, Extent]] | None:
    """Split `x` into (rest, {name: coefficient}) where it is affine in `names`; None where it is not.

    >>> linear(symbol("i") * symbol("K") + symbol("k") + 3, ["i", "k"])
    (3, {'i': K, 'k': 1})
    """
    wanted, rest = set(names), list[tuple[Monomial, int]]()
    parts: dict[str, list[tuple[Monomial, int]]] = {}
    for mono, coef in _terms(x):
        hits = [a for a in mono if isinstance(a, str) and a in wanted]
        if any(isinstance(a, Atom) and wanted & _atom_symbols(a) for a in mono) or len(hits) > 1:
            return None
        if not hits:
            rest.append((mono, coef))
            continue
        others = list(mono)
        others.remove(hits[0])
        parts.setdefault(hits[0], []).append((tuple(others), coef))
    return _make(rest), {n: c for n, p in parts.items() if (c := _make(p)) != 0}


def evaluate(x: Extent, env: Mapping[str, int]) -> int:
    """The integer that `x` is once every symbol has a value. KeyError names a symbol without one."""
    if isinstance(x, int):
        return x
    total = 0
    for mono, coef in x.terms:
        for atom in mono:
            coef *= (
                env[atom] if isinstance(atom, str) else _apply(atom.fn, evaluate(atom.a, env), evaluate(atom.b, env))
            )
        total += coef
    return total


def substitute(x: Extent, env: Mapping[str, Extent]) -> Extent:
    """Replace symbols by dimensions; those that `env` does not name stay."""
    if isinstance(x, int) or not (x.symbols & env.keys()):
        return x
    total: Extent = 0
    for mono, coef in x.terms:
        term: Extent = coef
        for atom in mono:
            if isinstance(atom, str):
                term = term * env.get(atom, symbol(atom))
            else:
                term = term * FUNCTIONS[atom.fn](substitute(atom.a, env), substitute(atom.b, env))
        total = total + term
    return total


def parse_dim(text: str) -> Extent:
    """Read what `str` wrote. ValueError where the text is anything else."""
    try:
        return _from_ast(ast.parse(text.strip(), mode="eval").body)
    except (SyntaxError, RecursionError, MemoryError, ZeroDivisionError) as e:
        raise ValueError(f"not a dimension: {text!r}") from e


FUNCTIONS = {"floordiv": floordiv, "ceildiv": ceildiv, "mod": mod, "max": maximum, "min": minimum}


def _from_ast(t: ast.AST) -> Extent:
    match t:
        case ast.Constant(value=int() as v) if not isinstance(v, bool):
            return v
        case ast.Name(id=n):
            return symbol(n)
        case ast.UnaryOp(op=ast.USub(), operand=x):
            return _from_ast(x) * -1
        case ast.BinOp(left=a, op=ast.Add(), right=b):
            return _from_ast(a) + _from_ast(b)
        case ast.BinOp(left=a, op=ast.Sub(), right=b):
            return _from_ast(a) - _from_ast(b)
        case ast.BinOp(left=a, op=ast.Mult(), right=b):
            return _from_ast(a) * _from_ast(b)
        case ast.BinOp(left=a, op=ast.FloorDiv(), right=b):
            return floordiv(_from_ast(a), _from_ast(b))
        case ast.BinOp(left=a, op=ast.Mod(), right=b):
            return mod(_from_ast(a), _from_ast(b))
        case ast.Call(func=ast.Name(id=fn), args=[a, b], keywords=[]) if fn in FUNCTIONS:
            return FUNCTIONS[fn](_from_ast(a), _from_ast(b))
    raise ValueError(f"not a dimension: {ast.unparse(t)!r}")


def _terms(x: Extent) -> tuple[tuple[Monomial, int], ...]:
    return x.terms if isinstance(x, Dim) else (((), x),)


def _make(terms: Iterable[tuple[Monomial, int]]) -> Extent:
    total: dict[Monomial, int] = {}
    for mono, coef in terms:
        total[mono] = total.get(mono, 0) + coef
    left = [(m, c) for m, c in total.items() if c]
    if not left:
        return 0
    if len(left) == 1 and left[0][0] == ():
        return int(left[0][1])
    # longest products first, the constant last: how people write polynomials
    return Dim(tuple(sorted(left, key=lambda t: (-len(t[0]), [str(a) for a in t[0]]))))


def _product(a: Monomial, b: Monomial) -> Monomial:
    return tuple(sorted((*a, *b), key=str))


def _atom_symbols(atom: str | Atom) -> frozenset[str]:
    return frozenset([atom]) if isinstance(atom, str) else symbols_of(atom.a) | symbols_of(atom.b)


def _divide(fn: str, a: Extent, b: Extent) -> Extent:
    if isinstance(a, int) and isinstance(b, int):
        return _apply(fn, a, b)
    exact = exact_quotient(a, b)
    return exact if exact is not None else _make([((Atom(fn, a, b),), 1)])


def _extreme(fn: str, a: Extent, b: Extent) -> Extent:
    if isinstance(a, int) and isinstance(b, int):
        return _apply(fn, a, b)
    if isinstance(difference := a - b, int):
        return a if (difference >= 0) == (fn == "max") else b
    for x, y in ((a, b), (b, a)):
        inner = _as_extreme(y)
        if inner is not None and x in (inner.a, inner.b):
            return y if inner.fn == fn else x  # max(x, max(x, z)) is max(x, z), and max(x, min(x, z)) is x
    first, second = sorted((a, b), key=str)
    return _make([((Atom(fn, first, second),), 1)])


def _as_extreme(x: Extent) -> Atom | None:
    """The max or min that a dimension is, where it is nothing else."""
    if not isinstance(x, Dim) or len(x.terms) != 1:
        return None
    mono, coef = x.terms[0]
    atom = mono[0] if coef == 1 and len(mono) == 1 else None
    return atom if isinstance(atom, Atom) and atom.fn in ("max", "min") else None


def _apply(fn: str, a: int, b: int) -> int:
    match fn:
        case "floordiv":
            return a // b
        case "ceildiv":
            return -(-a // b)
        case "mod":
            return a % b
        case "max":
            return max(a, b)
        case "min":
            return min(a, b)
    raise BugError(f"unknown function of dimensions: {fn!r}")
