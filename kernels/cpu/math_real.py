"""The real functions of expressions by name, on f32 and f64 registers: which are written out in place, which are called.

Largest errors seen over all exponents (tests/kernels/test_cpu_expr_real.py holds the limits), in ulp. f32: exp 1.08, log
0.8, tanh 2.6, erf 1.3, atan 0.95, asin and acos 0.7, all others 0.5, because they are rounded from doubles. f64: tan 3.2;
sinh, cosh, tanh 2.6; sin, cos 2.3; asin 2.1; the others, pow among them, below 2.
"""

from __future__ import annotations

from collections.abc import Callable

from fusec.kernels.cpu import math_arc, math_exp, math_trig
from fusec.kernels.cpu.builder import Builder, Value, mangle
from fusec.kernels.cpu.floats import Floats
from fusec.target import Isa

IN_PLACE = {"exp": math_exp.exp, "log": math_exp.log, "tanh": math_exp.tanh, "erf": math_exp.erf}
"""Functions with a short f32 form, common enough in models to be fused into loops."""
_DOUBLE: dict[str, Callable[[Floats, Value], Value]] = {
    **IN_PLACE,
    "sinh": math_exp.sinh,
    "cosh": math_exp.cosh,
    "asinh": math_exp.asinh,
    "acosh": math_exp.acosh,
    "atanh": math_exp.atanh,
}
_ANGLES = {
    "sin": math_trig.sin,
    "cos": math_trig.cos,
    "tan": math_trig.tan,
    "asin": math_trig.asin,
    "acos": math_trig.acos,
    "atan": math_trig.atan,
}
_SINGLE = {"asin": math_arc.asin, "acos": math_arc.acos, "atan": math_arc.atan}
"""Those with a form in floats that needs FMA."""
REAL_FUNCTIONS = frozenset(_DOUBLE) | frozenset(_ANGLES)


def real_function(b: Builder, isa: Isa, name: str, x: Value) -> Value:
    """A function of one argument."""
    if name in IN_PLACE and x.element == "float":
        return IN_PLACE[name](Floats.of(b, isa, x), x)
    return b.define(f"fusec.{name}.{mangle(x.type)}", x.type, [x], lambda inner, p: _body(inner, isa, name, p[0]))


def real_power(b: Builder, isa: Isa, x: Value, y: Value) -> Value:
    """x^y."""

    def body(inner: Builder, p: tuple[Value, ...]) -> Value:
        exact = x.element == "double"
        wide = [inner.convert("fpext", v, "double") for v in p]
        return inner.convert(
            "fptrunc", math_exp.power(Floats.of(inner, isa, wide[0]), wide[0], wide[1], exact), x.element
        )

    # of floats the shorter form, which stays in the loop: that saves a third of the time
    return body(b, (x, y)) if x.element == "float" else b.define(f"fusec.pow.{mangle(x.type)}", x.type, [x, y], body)


def _body(b: Builder, isa: Isa, name: str, x: Value) -> Value:
    if name in _SINGLE and x.element == "float" and isa.fma:
        return _SINGLE[name](Floats.of(b, isa, x), x)
    wide = b.convert("fpext", x, "double")
    f = Floats.of(b, isa, wide)
    y = _ANGLES[name](f, wide, x.element == "float") if name in _ANGLES else _DOUBLE[name](f, wide)
    return b.convert("fptrunc", y, x.element)
