"""Functions that users bring: a scalar Python function becomes an op of the IR and the meaning of an ONNX op.

    @fusec.elementwise
    def Softclip(x, limit=6.0):
        return limit + math.log(1 + x - limit) if x > limit else x

From then on models may use `custom::Softclip`. The function is traced to an expression, so that it is vectorised and fused
like any other elementwise op, and a plan needs nothing but its tile programs. What cannot be traced (see ops/tracing.py) is
compiled by Numba and runs as a host step; a plan then names the function and can only run where it is declared.

Traced arithmetic is that of fusec, not of Python: dividing by zero and log(-1) give Inf and NaN and raise nothing, `min` and
`max` return NaN where an argument is NaN, and all of it happens in the dtype of the inputs (float16 and bfloat16: in float32).
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, overload

import numpy as np
import numpy.typing as npt

from fusec.errors import ModelError, UsageError
from fusec.ir.evaluate import evaluate_expr
from fusec.ir.expr import Expr, Prim, replace_refs, walk
from fusec.ir.types import DType
from fusec.ops import body, rules
from fusec.ops.op import Kind, Op
from fusec.ops.tracing import CannotTrace, Tracer, choose, rebind, trace, traceable
from fusec.plug_ins import PlugIns

PLUG_INS = PlugIns("fusec.onnx", "ONNX op")
"""What packages offer by domain and op; the modules declare rows of the importer's table, or functions of this kind."""
MOST_INPUTS = 4
_EXPRESSIONS = 64
"""How many expressions a function keeps, one per dtype and set of attributes."""

_functions: dict[tuple[str, str], Elementwise] = {}


@dataclass(frozen=True, eq=False)
class Elementwise:
    """A declared function. Calling it computes one element in Python, as the plain function does.

    `inputs` counts the parameters that are inputs, `defaults` holds the others, which are attributes of the ONNX node. `why`
    says why the function cannot be traced, None where it can.
    """

    function: Callable[..., Any]
    domain: str
    name: str
    inputs: int
    defaults: Mapping[str, float | int | bool]
    _traced: dict[Any, Expr | str] = field(default_factory=dict, repr=False)

    def __call__(self, *args: Any, **attrs: Any) -> Any:
        """One element."""
        if any(isinstance(a, Tracer) for a in (*args, *attrs.values())):
            return rebind(self.function, traceable)(*args, **attrs)
        return self.function(*args, **attrs)

    @property
    def op_name(self) -> str:
        """Its name in the IR."""
        return f"{self.domain}.{self.name}"

    @property
    def source(self) -> str:
        """Where it is declared, `module.function`."""
        return f"{self.function.__module__}.{self.function.__qualname__}"

    @property
    def why(self) -> str | None:
        """Why it cannot be traced with its default attributes."""
        return self.refusal(self.defaults)

    @cached_property
    def op(self) -> Op:
        """Its record as an op of the IR."""
        return self._make_op()

    def refusal(self, attrs: Mapping[str, Any]) -> str | None:
        """Why it cannot be traced with these attributes."""
        found = self._expression(DType.F32, attrs)
        return found if isinstance(found, str) else None

    def expression(self, dtype: DType, attrs: Mapping[str, Any]) -> Expr:
        """What it computes, over the names x0, x1, ... UsageError where it cannot be traced."""
        found = self._expression(dtype, attrs)
        if isinstance(found, str):
            raise UsageError(f"function {self.source} cannot be traced: {found}", op=self.op_name)
        return found

    def attributes(self, given: Mapping[str, Any]) -> dict[str, float | int | bool]:
        """All attributes from those that a node gives. ModelError where it has none of that name or another type."""
        for name, value in given.items():
            if name not in self.defaults or not isinstance(value, int | float):
                known = ", ".join(f"{n}={v!r}" for n, v in self.defaults.items()) or "none"
                raise ModelError(
                    f"{self.domain}::{self.name} has no attribute {name!r} of type {type(value).__name__}",
                    hint=f"attributes are the parameters of {self.source} with a default: {known}",
                    op=self.op_name,
                )
        return {n: type(d)(given.get(n, d)) for n, d in self.defaults.items()}

    def _expression(self, dtype: DType, attrs: Mapping[str, Any]) -> Expr | str:
        key = dtype, tuple((n, attrs.get(n, d)) for n, d in self.defaults.items())
        if key not in self._traced:
            if len(self._traced) >= _EXPRESSIONS:
                self._traced.clear()
            try:
                self._traced[key] = trace(self.function, self.inputs, dtype, dict(key[1]))
            except CannotTrace as e:
                self._traced[key] = str(e)
        return self._traced[key]

    def _make_op(self) -> Op:
        def scalar(*xs: Expr, **attrs: Any) -> Expr:
            return replace_refs(self.expression(xs[0].dtype, attrs), {f"x{i}": x for i, x in enumerate(xs)})

        def reference(*xs: npt.NDArray[Any], **attrs: Any) -> npt.NDArray[Any]:
            made = self.expression(DType.of(xs[0].dtype), attrs)
            out = evaluate_expr(made, {f"x{i}": x for i, x in enumerate(xs)})
            return np.array(np.broadcast_to(out, np.broadcast_shapes(*(x.shape for x in xs))))

        traced = self._expression(DType.F32, self.defaults)
        steps = 1 if isinstance(traced, str) else sum(isinstance(e, Prim) for e in walk(traced))
        return Op(
            self.op_name,
            Kind.ELEMENTWISE,
            rules.elementwise(self.op_name, self.inputs, rules.FLOATS),
            body.reference(reference, *self.defaults, defaults=self.defaults),
            body.scalar(scalar, *self.defaults, defaults=self.defaults),
            float(max(1, steps)),
        )


@overload
def elementwise(fn: Callable[..., Any], *, name: str | None = None, domain: str = "custom") -> Elementwise: ...
@overload
def elementwise(*, name: str | None = None, domain: str = "custom") -> Callable[[Callable[..., Any]], Elementwise]: ...
def elementwise(fn: Callable[..., Any] | None = None, *, name: str | None = None, domain: str = "custom") -> Any:
    """Declare what an ONNX op computes per element, as a decorator of a function from floats to a float.

    Parameters without a default are the inputs, 1 to 4 of them, which broadcast as in numpy and are all of one float dtype;
    parameters with a number as default are attributes of the node. `name` is the ONNX op, by default the function's name.

    Raises:
        UsageError: the name is no ONNX name, is taken by another function, or the parameters are of another form.
    """
    if fn is None:
        return lambda found: elementwise(found, name=name, domain=domain)
    made = Elementwise(fn, domain, name or fn.__name__, *_parameters(fn))
    if not re.fullmatch(r"[A-Za-z_]\w*(\.\w+)*", domain, re.ASCII) or not re.fullmatch(
        r"[A-Za-z_]\w*", made.name, re.ASCII
    ):
        raise UsageError(
            f"not a domain and name of an ONNX op: {domain!r}, {made.name!r}", hint="give name= and domain="
        )
    other = _functions.get((domain, made.name))
    if other is not None and other.source != made.source:
        raise UsageError(
            f"{domain}::{made.name} is declared twice: by {other.source} and {made.source}",
            hint="choose another name= or domain=",
        )
    _functions[domain, made.name] = made
    return made


def where(condition: Any, a: Any, b: Any) -> Any:
    """`a` where the condition holds, else `b`: as `a if condition else b`, for arrays too."""
    if isinstance(condition, np.ndarray):
        return np.where(condition, a, b)
    return choose(condition, a, b)


def find(domain: str, name: str) -> Elementwise | None:
    """The function behind an ONNX op, from this process or a package that is imported now; None where there is none.

    Nothing that a model or a plan says is ever imported: only packages that the user installed, by their entry points.
    """
    if (domain, name) not in _functions and domain and PLUG_INS.find(f"{domain}.{name}") is not None:
        PLUG_INS.load(f"{domain}.{name}")
    return _functions.get((domain, name))


def declared_as(domain: str, name: str) -> Elementwise | None:
    """The function that this process declares for an ONNX op."""
    return _functions.get((domain, name))


def find_op(name: str) -> Op | None:
    """The op of that name in the IR."""
    domain, _, op = name.rpartition(".")
    found = find(domain, op)
    return found.op if found is not None else None


def declared() -> tuple[Elementwise, ...]:
    """All functions declared so far."""
    return tuple(_functions.values())


def _parameters(fn: Callable[..., Any]) -> tuple[int, dict[str, float | int | bool]]:
    """The number of inputs, and the defaults of the attributes."""
    try:
        parameters = list(inspect.signature(fn).parameters.values())
    except (TypeError, ValueError) as e:
        raise UsageError(f"{fn!r} is not a function in Python: {e}") from e
    inputs = [p for p in parameters if p.default is p.empty]
    defaults = {p.name: p.default for p in parameters if p.default is not p.empty}
    kinds = {p.kind for p in inputs} <= {inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD}
    if (
        not kinds
        or not 1 <= len(inputs) <= MOST_INPUTS
        or not all(isinstance(d, int | float) for d in defaults.values())
    ):
        raise UsageError(
            f"{fn.__qualname__}{inspect.signature(fn)}: an elementwise function takes 1 to {MOST_INPUTS} inputs by position, "
            "and numbers as defaults of the rest"
        )
    return len(inputs), defaults
