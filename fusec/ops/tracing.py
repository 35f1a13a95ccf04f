"""Tracing: a scalar Python function runs on symbols, and what it computed is an expression.

Its parameters are `Tracer`s, which record arithmetic, comparisons and numpy functions. For `math`, `min`, `max` and `float`,
which insist on real numbers, the function runs with other globals (`rebind`). Where it branches on a traced value it runs
once for each way (branches.py). Loops that only a value ends, and calls that know nothing of tracers, raise `CannotTrace`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from types import CellType, CodeType, FunctionType
from typing import Any

import numpy as np

from fusec.ir.expr import Const, Expr, Ref, cast, prim
from fusec.ir.types import DType
from fusec.ops.branches import TooManyBranches, answer, every_path

LARGEST, DEEPEST = 2000, 100
"""Primitives of an expression, each occurrence counted, and how deep they nest: longer ones would be slow to compile."""


class CannotTrace(Exception):  # a decision, not an error: the function is compiled instead
    """Why a function cannot be written as an expression."""


def _binary(name: str) -> tuple[Callable[[Any, Any], Any], Callable[[Any, Any], Any]]:
    """An operator and the same with its operands swapped."""
    return lambda a, b: apply(name, a, b), lambda a, b: apply(name, b, a)


class Tracer:
    """A value inside a traced function: an expression of a float dtype, or of bool for comparisons."""

    __slots__ = ("depth", "expr", "float_dtype", "size")

    def __init__(self, expr: Expr, float_dtype: DType, size: int = 1, depth: int = 1) -> None:
        if size > LARGEST or depth > DEEPEST:
            raise CannotTrace(f"it computes more than {LARGEST} steps, or {DEEPEST} in a row")
        self.expr, self.float_dtype, self.size, self.depth = expr, float_dtype, size, depth

    def __bool__(self) -> bool:
        return answer(self, lambda a, b: a.expr == b.expr)

    def __float__(self) -> float:
        raise CannotTrace("it calls a function that needs a number")

    def __iter__(self) -> Any:
        raise CannotTrace("it iterates over a value")

    __int__ = __index__ = __float__
    __hash__ = None  # type: ignore[assignment]

    __add__, __radd__ = _binary("add")
    __sub__, __rsub__ = _binary("sub")
    __mul__, __rmul__ = _binary("mul")
    __truediv__, __rtruediv__ = _binary("div")
    __floordiv__, __rfloordiv__ = _binary("floordiv")
    __mod__, __rmod__ = _binary("mod")
    __and__, __rand__ = _binary("and")
    __or__, __ror__ = _binary("or")
    __xor__, __rxor__ = _binary("xor")
    __lt__, __gt__ = _binary("lt")[0], _binary("gt")[0]
    __le__, __ge__ = _binary("le")[0], _binary("ge")[0]
    __eq__, __ne__ = _binary("eq")[0], _binary("ne")[0]

    def __pow__(self, other: Any) -> Any:
        return power(self, other)

    def __rpow__(self, other: Any) -> Any:
        return power(other, self)

    def __neg__(self) -> Tracer:
        return apply("neg", self)

    def __pos__(self) -> Any:
        return as_float(self)

    def __abs__(self) -> Tracer:
        return apply("abs", self)

    def __invert__(self) -> Tracer:
        return apply("not", self)

    def __floor__(self) -> Tracer:
        return apply("floor", self)

    def __ceil__(self) -> Tracer:
        return apply("ceil", self)

    def __trunc__(self) -> Tracer:
        return apply("trunc", self)

    def __round__(self, digits: int | None = None) -> Tracer:
        if digits is not None:
            raise CannotTrace("it rounds to a number of digits")
        return apply("round", self)

    def __array_ufunc__(self, ufunc: Any, method: str, *inputs: Any, **options: Any) -> Any:
        function = UFUNCS.get(ufunc.__name__)
        if method != "__call__" or function is None or any(v is not None for v in options.values()):
            raise CannotTrace(f"numpy.{ufunc.__name__} is not among the primitives")
        return function(*inputs)

    def __array_function__(self, function: Any, types: Any, args: Any, kwargs: Any) -> Any:
        if function is np.where and len(args) == 3 and not kwargs:
            return choose(*args)
        if function is np.clip and len(args) == 3 and not kwargs:
            return smallest(largest(args[0], args[1]), args[2])
        raise CannotTrace(f"numpy.{function.__name__} is not among the primitives")


def apply(name: str, *args: Any) -> Tracer:
    """A primitive on tracers and numbers, at least one of them a tracer; bools take part in arithmetic as 0 and 1."""
    dtype = next(a.float_dtype for a in args if isinstance(a, Tracer))
    parts = [a if isinstance(a, Tracer) else Tracer(_literal(a, dtype), dtype) for a in args]
    wanted = DType.BOOL if name in ("and", "or", "xor", "not") else dtype
    exprs = [prim("ne", p.expr, Const(0.0, dtype)) if wanted is DType.BOOL and p.expr.dtype is dtype else cast(p.expr, wanted)
             for p in parts]  # fmt: skip
    return Tracer(prim(name, *exprs), dtype, 1 + sum(p.size for p in parts), 1 + max(p.depth for p in parts))


def choose(c: Any, a: Any, b: Any) -> Any:
    """`a` where `c` holds, else `b`; both are computed."""
    if not isinstance(c, Tracer):
        return a if c else b
    dtype = c.float_dtype
    parts = [x if isinstance(x, Tracer) else Tracer(_literal(x, dtype), dtype) for x in (a, b)]
    condition = c.expr if c.expr.dtype is DType.BOOL else prim("ne", c.expr, Const(0.0, dtype))
    made = prim("where", condition, *(cast(p.expr, dtype) for p in parts))
    return Tracer(made, dtype, 1 + sum(p.size for p in (c, *parts)), 1 + max(p.depth for p in (c, *parts)))


def power(a: Any, b: Any) -> Any:
    """a to the power of b; squares and cubes are products."""
    if isinstance(a, Tracer) and not isinstance(b, Tracer) and b in (1, 2, 3):
        return apply("mul", a, a) * a if b == 3 else apply("mul", a, a) if b == 2 else a
    return apply("pow", a, b)


def largest(*args: Any) -> Any:
    """`max`, NaN where any argument is NaN."""
    return _fold("max", max, args)


def smallest(*args: Any) -> Any:
    """`min`, NaN where any argument is NaN."""
    return _fold("min", min, args)


def as_float(x: Any = 0.0) -> Any:
    """`float`."""
    return Tracer(cast(x.expr, x.float_dtype), x.float_dtype, x.size, x.depth) if isinstance(x, Tracer) else float(x)


def trace(function: Callable[..., Any], count: int, dtype: DType, attrs: Mapping[str, Any]) -> Expr:
    """What a function of `count` values computes, over the names x0, x1, ... CannotTrace says why there is no such form."""
    symbols = [Tracer(Ref(f"x{i}", dtype), dtype) for i in range(count)]
    try:
        bound = rebind(function, traceable)
        made = every_path(lambda: bound(*symbols, **attrs), choose)
        if not isinstance(made, Tracer):
            return _literal(made, dtype)
        return cast(made.expr, dtype)
    except TooManyBranches as e:
        raise CannotTrace(str(e)) from e
    except CannotTrace:
        raise
    except Exception as e:  # whatever a function does that was not written for tracers
        raise CannotTrace(f"running it on symbols ends in {type(e).__name__}: {e}") from e


def rebind(function: Any, replace: Callable[[Any], Any]) -> Any:
    """A function with the same code whose globals and enclosing variables went through `replace`."""
    if not isinstance(function, FunctionType):
        raise CannotTrace(f"{function!r} is not a Python function")
    found = dict.fromkeys(_names(function.__code__))
    names = {n: replace(function.__globals__[n]) for n in found if n in function.__globals__}
    names |= {n: replace(_BUILT_IN[n]) for n in found if n in _BUILT_IN and n not in names}
    names |= {"__builtins__": function.__globals__["__builtins__"], "__name__": function.__module__}
    cells = tuple(CellType(replace(c.cell_contents)) for c in function.__closure__ or ())
    made = FunctionType(function.__code__, names, function.__name__, function.__defaults__, cells)
    made.__kwdefaults__ = function.__kwdefaults__
    return made


def traceable(value: Any) -> Any:
    """What a traced function sees in place of a global: tracing versions of `math`, and of functions that may use it."""
    if value is math:
        return _Math()
    if isinstance(value, FunctionType) and value.__module__.partition(".")[0] not in ("fusec", "numpy"):
        # rebound when it is called: functions may call each other in circles
        def call(*args: Any, **kwargs: Any) -> Any:
            return rebind(value, traceable)(*args, **kwargs)

        return call
    try:
        return _REPLACED.get(value, value)
    except TypeError:  # cannot be hashed, so it is no function
        return value


class _Math:
    """The module `math` for tracers; on plain numbers its functions are the real ones."""

    def __getattr__(self, name: str) -> Any:
        value = getattr(math, name)
        return traceable(value) if not callable(value) or value in _REPLACED else _refuse(f"math.{name}", value)


def _refuse(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    def call(*args: Any) -> Any:
        if any(isinstance(a, Tracer) for a in args):
            raise CannotTrace(f"{name} is not among the primitives")
        return function(*args)

    return call


def _primitive(name: str, plain: Callable[..., Any] | None = None) -> Callable[..., Any]:
    def call(*args: Any) -> Any:
        if any(isinstance(a, Tracer) for a in args):
            return apply(name, *args)
        if plain is None:
            raise CannotTrace(f"{name} of {args!r}")
        return plain(*args)

    return call


def _literal(x: Any, dtype: DType) -> Const:
    if not isinstance(x, int | float | np.number | np.bool_):
        raise CannotTrace(f"it computes with {type(x).__name__}, which is not a number")
    return Const(float(x), dtype)


def _fold(name: str, plain: Callable[..., Any], args: Sequence[Any]) -> Any:
    values = list(args[0]) if len(args) == 1 and not isinstance(args[0], Tracer) else list(args)
    if not any(isinstance(v, Tracer) for v in values):
        return plain(values)
    made = values[0]
    for v in values[1:]:
        is_traced = isinstance(made, Tracer) or isinstance(v, Tracer)
        made = apply(name, made, v) if is_traced else plain(made, v)
    return made


def _names(code: CodeType) -> list[str]:
    """Every name that a function's code, or code inside it, may look up."""
    inner = (c for c in code.co_consts if isinstance(c, CodeType))
    return [*code.co_names, *(n for c in inner for n in _names(c))]


_UNARY = dict(zip("asin acos atan asinh acosh atanh".split(), "arcsin arccos arctan arcsinh arccosh arctanh".split()))
_REAL = (
    "sqrt exp log sin cos tan asin acos atan sinh cosh tanh asinh acosh atanh erf floor ceil trunc isnan isinf".split()
)

_REPLACED: dict[Any, Any] = {getattr(math, n): _primitive(n, getattr(math, n)) for n in _REAL}
_REPLACED |= {math.fabs: abs, math.fmod: _primitive("rem", math.fmod), math.pow: lambda a, b: _pow(math.pow, a, b)}
_REPLACED |= {max: largest, min: smallest, pow: lambda a, b: _pow(pow, a, b)}
_REPLACED[float] = as_float
_BUILT_IN: dict[str, Any] = {"max": max, "min": min, "float": float, "pow": pow}

UFUNCS: dict[str, Callable[..., Any]] = {_UNARY.get(n, n): _primitive(n) for n in _REAL if n != "erf"}
"""numpy's functions by name, on tracers."""
UFUNCS |= {
    "add": _primitive("add"), "subtract": _primitive("sub"), "multiply": _primitive("mul"), "divide": _primitive("div"),
    "floor_divide": _primitive("floordiv"), "remainder": _primitive("mod"), "fmod": _primitive("rem"), "power": power,
    "float_power": power, "negative": _primitive("neg"), "positive": as_float, "absolute": _primitive("abs"),
    "fabs": _primitive("abs"), "rint": _primitive("round"), "maximum": largest, "minimum": smallest,
    "less": _primitive("lt"), "less_equal": _primitive("le"), "greater": _primitive("gt"),
    "greater_equal": _primitive("ge"), "equal": _primitive("eq"), "not_equal": _primitive("ne"),
    "logical_and": _primitive("and"), "logical_or": _primitive("or"), "logical_xor": _primitive("xor"),
    "logical_not": _primitive("not"), "bitwise_and": _primitive("and"), "bitwise_or": _primitive("or"),
    "bitwise_xor": _primitive("xor"), "invert": _primitive("not"), "square": lambda x: power(x, 2),
    "reciprocal": lambda x: apply("div", 1.0, x),
}  # fmt: skip


def _pow(plain: Callable[..., Any], a: Any, b: Any) -> Any:
    return power(a, b) if isinstance(a, Tracer) or isinstance(b, Tracer) else plain(a, b)
