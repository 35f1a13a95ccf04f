"""Users' functions that cannot be traced, compiled by Numba: host steps at the speed of C, off the interpreter lock.

This is the one module outside the CPU back end that imports Numba. It is never asked to cache (its files are pickles) or
to use threads (its thread layers abort forked children).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cache
from types import FunctionType
from typing import Any

import numpy as np
import numpy.typing as npt

from fusec.errors import CompileError, UnsupportedError
from fusec.ir.types import DType
from fusec.ops.body import SMALL_FLOATS
from fusec.ops.custom import Elementwise, where
from fusec.ops.tracing import choose, rebind

Array = npt.NDArray[Any]


def run_function(function: Elementwise, inputs: Sequence[Any], given: dict[str, Any]) -> Array:
    """A declared function on whole arrays, broadcast; float16 and bfloat16 are computed in float32."""
    attrs = function.attributes(given)
    arrays = [np.asarray(x) for x in inputs if x is not None]
    if len(arrays) != function.inputs or len({a.dtype for a in arrays}) != 1 or not DType.of(arrays[0].dtype).is_float:
        got = ", ".join(str(a.dtype) for a in arrays)
        raise UnsupportedError(
            f"{function.domain}::{function.name} takes {function.inputs} inputs of one float dtype, got {got}",
            op=function.op_name,
        )
    if function.refusal(attrs) is None:
        (out,) = function.op.reference(arrays, attrs)
        return out
    small = DType.of(arrays[0].dtype) in SMALL_FLOATS
    wide = [a.astype(np.float32) for a in arrays] if small else arrays
    settings = [_setting(v) for v in attrs.values()]
    with np.errstate(all="ignore"):
        out = np.asarray(compile_function(function)(*wide, *settings))
    return out.astype(arrays[0].dtype, copy=False)


@cache
def compile_function(function: Elementwise) -> np.ufunc:
    """A function as a ufunc for float32 and float64, attributes last. CompileError with the line that Numba refuses."""
    import numba
    from numba.core.errors import NumbaError

    _teach_where()
    kinds = ["b1" if isinstance(d, bool) else "i8" if isinstance(d, int) else "f8" for d in function.defaults.values()]
    names = {"b1": numba.boolean, "i8": numba.int64, "f8": numba.float64}
    signatures = [x(*[x] * function.inputs, *(names[k] for k in kinds)) for x in (numba.float32, numba.float64)]
    plain = function.function
    try:
        inner = rebind(plain, _Compiled({plain: plain}))
        return numba.vectorize(signatures, nopython=True, cache=False)(inner)  # type: ignore[no-any-return]
    except NumbaError as e:
        raise _refusal(function, str(e), getattr(e, "loc", None)) from e
    except Exception as e:  # Numba has bugs of its own, and they come as any kind of error
        raise _refusal(function, f"{type(e).__name__}: {e}", None) from e


class _Compiled:
    """Replaces the Python functions that a function calls by compiled ones."""

    def __init__(self, seen: dict[Any, Any]) -> None:
        self._seen = seen

    def __call__(self, value: Any) -> Any:
        import numba

        if isinstance(value, Elementwise):
            value = value.function
        elif not isinstance(value, FunctionType) or value.__module__.partition(".")[0] in (
            "fusec",
            "numpy",
            "numba",
            "math",
        ):
            return value
        if value not in self._seen:
            self._seen[value] = value  # a function that calls itself stays as it is: Numba says what it thinks of it
            self._seen[value] = numba.njit(nogil=True, error_model="numpy")(rebind(value, self))
        return self._seen[value]


@cache
def _teach_where() -> None:
    from numba.extending import overload

    def typed(condition: Any, a: Any, b: Any) -> Any:
        del condition, a, b  # their types, which it works for whatever they are
        return lambda condition, a, b: a if condition else b

    typed.__annotations__ = {}  # Numba wants both signatures to be the same, and a lambda has no annotations
    overload(where)(typed)
    overload(choose)(typed)


def _refusal(function: Elementwise, text: str, place: Any) -> CompileError:
    code = getattr(function.function, "__code__", None)
    found = re.findall(r'File "([^"]+)", line (\d+)', text)
    if place is not None and getattr(place, "line", None):
        where_text = f"{place.filename}, line {place.line}"
    elif found:
        where_text = f"{found[-1][0]}, line {found[-1][1]}"
    else:
        where_text = f"{code.co_filename}, line {code.co_firstlineno}" if code is not None else "unknown"
    lines = [s.strip() for s in text.splitlines() if s.strip() and not s.startswith("Failed in nopython mode")]
    plain = re.sub(r"\x1b\[[0-9;]*m", "", lines[0] if lines else "no reason given")
    return CompileError(
        f"function {function.source} ({where_text}) cannot be compiled: {plain[:300]}",
        hint=f"it cannot be traced either: {function.why}",
        op=function.op_name,
    )


def _setting(value: float | int | bool) -> np.generic:
    return (
        np.bool_(value) if isinstance(value, bool) else np.int64(value) if isinstance(value, int) else np.float64(value)
    )
