"""Scalar expressions: what one element of a result is computed from, as data.

A closed set of typed primitives. Because a body is data and never a closure, it can be printed, compared, hashed, saved in
a plan and emitted for any target. Every node carries its dtype; no conversion is implicit.

Meaning of the primitives (all emitters and the numpy interpreter agree, and tests compare them):

- float add sub mul div neg abs sqrt follow IEEE 754; `div` by zero gives Inf or NaN. Contraction into FMA is allowed,
  dropping NaN, Inf or -0 is not.
- integer add sub mul neg wrap. `div` truncates towards zero, `floordiv` rounds down, `mod` takes the sign of the divisor
  (Python), `rem` the sign of the dividend (C); a zero divisor gives 0, and MIN / -1 gives MIN: no integer traps.
- `max` and `min` of floats return NaN where either argument is NaN.
- comparisons give bool, and False where an argument is NaN, except `ne`, which is then True. `and or xor not` are on bool,
  `bitand bitor bitxor bitnot shl shr` on integers; a shift by the width or more gives 0 (-1 for `shr` of a negative).
- `round` is half-to-even. `cast` float to integer truncates, saturates outside the range and takes NaN to 0; float to bool
  is `x != 0`; narrowing floats rounds half-to-even.
- `bits` is the bit pattern of an f32 as i32, of an f64 as i64; that of a NaN may be any NaN's.
- `where(c, a, b)` evaluates both; neither may trap, so nothing else matters.
- `exp log sin cos tan asin acos atan sinh cosh tanh asinh acosh atanh erf pow` have the accuracies that kernels/cpu states.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from fusec.errors import BugError
from fusec.ir.dim import Extent, substitute
from fusec.ir.types import DType

ARITHMETIC = frozenset("add sub mul div floordiv mod rem neg abs max min pow".split())
"""Same dtype in and out, on floats and integers."""
REAL = frozenset(
    "sqrt exp log sin cos tan asin acos atan sinh cosh tanh asinh acosh atanh erf floor ceil round trunc".split()
)
"""One float in, the same float out."""
COMPARISONS = frozenset("lt le gt ge eq ne".split())
"""Two of one dtype in, bool out."""
LOGICAL = frozenset("and or xor not".split())
BITS = frozenset("bitand bitor bitxor bitnot shl shr".split())
TESTS = frozenset("isnan isinf".split())
"""One float in, bool out."""
PATTERNS = {DType.F32: DType.I32, DType.F64: DType.I64}
"""What `bits` takes and gives."""
OTHER = frozenset(["where", "cast", "bits"])
PRIMITIVES = ARITHMETIC | REAL | COMPARISONS | LOGICAL | BITS | TESTS | OTHER
UNARY = REAL | TESTS | frozenset(["neg", "abs", "not", "bitnot", "cast", "bits"])
TRANSCENDENTAL = REAL - frozenset("sqrt floor ceil round trunc".split()) | frozenset(["pow"])


@dataclass(frozen=True, slots=True)
class Const:
    """A literal. Lowering turns literals of kernels into scalar operands, so that they do not multiply kernel classes."""

    value: float | int | bool
    dtype: DType

    def __eq__(self, other: object) -> bool:  # NaN equals NaN, 0.0 differs from -0.0 and from 0
        return isinstance(other, Const) and (repr(self.value), self.dtype) == (repr(other.value), other.dtype)

    def __hash__(self) -> int:
        return hash((repr(self.value), self.dtype))


@dataclass(frozen=True, slots=True)
class Ref:
    """The value of a name: an argument of a scalar body, or a let, a fold or a scalar operand of a tile program."""

    name: str
    dtype: DType


@dataclass(frozen=True, slots=True)
class Index:
    """An index polynomial (axes, parameters) as an i64 value: what Range, causal masks and argmax are made of."""

    value: Extent
    dtype: DType = DType.I64


@dataclass(frozen=True, slots=True)
class Load:
    """One element of an operand.

    Each entry of `index` is a polynomial over axes and parameters, or an integer expression read from memory (a gather).
    With `fill` an index outside the operand yields that value; without, a polynomial index is always inside, and an
    integer expression outside 0 <= i < n is reported in the status word and reads as 0.
    """

    operand: str
    index: tuple[Extent | Expr, ...]
    dtype: DType
    fill: Const | None = None


@dataclass(frozen=True, slots=True)
class Prim:
    """A primitive applied to arguments."""

    name: str
    args: tuple[Expr, ...]
    dtype: DType


Expr = Const | Ref | Index | Load | Prim


def prim(name: str, *args: Expr, dtype: DType | None = None) -> Prim:
    """Apply a primitive and derive the result's dtype; `cast` needs it. BugError where the dtypes do not fit."""
    if name not in PRIMITIVES:
        raise BugError(f"unknown primitive {name!r}")
    if len(args) != (1 if name in UNARY else 3 if name == "where" else 2):
        raise BugError(f"{name} takes another number of arguments than {len(args)}")
    if name == "cast":
        if dtype is None:
            raise BugError("a cast names its dtype")
        return Prim(name, args, dtype)
    same = {a.dtype for a in (args[1:] if name == "where" else args)}
    if len(same) != 1:
        raise BugError(f"{name} of different dtypes: {', '.join(str(a.dtype) for a in args)}")
    (operand,) = same
    if name == "where" and args[0].dtype is not DType.BOOL:
        raise BugError(f"where needs a bool condition, got {args[0].dtype}")
    if name in REAL | TESTS and not operand.is_float:
        raise BugError(f"{name} needs a float, got {operand}")
    if name == "bits":
        if operand not in PATTERNS:
            raise BugError(f"bits needs f32 or f64, got {operand}")
        return Prim(name, args, PATTERNS[operand])
    return Prim(name, args, DType.BOOL if name in COMPARISONS | TESTS else operand)


def cast(x: Expr, dtype: DType) -> Expr:
    """Convert explicitly; nothing where `x` has that dtype already."""
    return x if x.dtype is dtype else prim("cast", x, dtype=dtype)


def walk(e: Expr) -> Iterator[Expr]:
    """The expression and all its parts, indices that are expressions included, outermost first; each occurrence once."""
    todo = [e]
    while todo:
        x = todo.pop()
        yield x
        if isinstance(x, Prim):
            todo.extend(reversed(x.args))
        elif isinstance(x, Load):
            todo.extend(i for i in reversed(x.index) if isinstance(i, Const | Ref | Index | Load | Prim))


def rewrite(e: Expr, leaf: Callable[[Expr], Expr | None]) -> Expr:
    """Rebuild from the leaves upwards; `leaf` may replace any node that it is shown, after its parts were rewritten."""
    if isinstance(e, Prim):
        e = Prim(e.name, tuple(rewrite(a, leaf) for a in e.args), e.dtype)
    elif isinstance(e, Load):
        index = tuple(rewrite(i, leaf) if isinstance(i, Const | Ref | Index | Load | Prim) else i for i in e.index)
        e = Load(e.operand, index, e.dtype, e.fill)
    new = leaf(e)
    return e if new is None else new


def replace_refs(e: Expr, env: Mapping[str, Expr]) -> Expr:
    """Substitute expressions for names."""
    return rewrite(e, lambda x: env.get(x.name) if isinstance(x, Ref) else None)


def replace_axes(e: Expr, env: Mapping[str, Extent]) -> Expr:
    """Substitute index polynomials for axes, in every index."""

    def leaf(x: Expr) -> Expr | None:
        if isinstance(x, Index):
            return Index(substitute(x.value, env))
        if isinstance(x, Load):
            index = tuple(
                substitute(i, env) if not isinstance(i, Const | Ref | Index | Load | Prim) else i for i in x.index
            )
            return Load(x.operand, index, x.dtype, x.fill)
        return None

    return rewrite(e, leaf)
