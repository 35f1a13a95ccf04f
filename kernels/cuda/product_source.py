"""Where A and B of a product come from: memory as it lies there, or an expression that is computed on the way in."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from fusec.ir.dim import Extent, symbols_of
from fusec.ir.expr import TRANSCENDENTAL, Expr, Load, Prim, cast, walk
from fusec.ir.types import DType
from fusec.kernels.cpu.contract_form import Contraction
from fusec.kernels.cuda import access
from fusec.kernels.cuda.expression import Point
from fusec.kernels.cuda.scalar import element_type, to_memory
from fusec.kernels.cuda.vectors import steps_besides

HEAVY = 24
"""Operations of an expression from which on it is not written out for every element of a chunk; a transcendental is 8."""
BYTES = 16


@dataclass(frozen=True, slots=True)
class Source:
    """One operand. `value` writes what the function of the fold returns, of type `result`; `make` names the C++ source.

    `along` says whether chunks of 16 bytes run along k, and `stored` whether they lie in global memory as they are needed.
    """

    outer: str
    along: bool
    stored: bool
    result: str
    value: Callable[[], str]
    make: Callable[[str], str]


def find_source(point: Point, form: Contraction, e: Expr, outer: str, dtype: DType, along: bool = False) -> Source:
    """The source of an operand whose elements the core takes as `dtype`, `along`: in chunks along k and no others."""
    load = _stored(point, e, dtype)
    if load is not None and point.ctx.kernel.layouts[load.operand].swizzled:
        return _packed(point, load, outer, dtype)
    if load is not None and not point.ctx.kernel.layouts[load.operand].is_row_major:
        return _in_panels(point, load, outer, dtype)
    if load is not None:
        found = _in_memory(point, form, load, outer, dtype)
        if found is not None and (found.along or not along):
            return found
    return _computed(point, form, e, outer, dtype, along)


def _stored(point: Point, e: Expr, dtype: DType) -> Load | None:
    """The load of an operand of this dtype in global memory that yields zeros outside, if it is one at all."""
    while isinstance(e, Prim) and e.name == "cast" and e.dtype is not dtype:
        (e,) = e.args  # bf16 to float for the sum: a core of bf16 takes the bf16
    if not isinstance(e, Load) or e.dtype is not dtype or (e.fill is not None and e.fill.value != 0):
        return None
    operand = point.ctx.program.operand.get(e.operand)
    if operand is None or operand.role in ("local", "scalar"):
        return None
    canonical = point.intern(e)
    return canonical if isinstance(canonical, Load) else None


def _in_memory(point: Point, form: Contraction, load: Load, outer: str, dtype: DType) -> Source | None:
    a = point.access_of(load)
    if a.reported:
        return None
    k = form.k.name
    along = point.step_along(a.offset, k) == 1
    if not along and (not outer or point.step_along(a.offset, outer) != 1):
        return None
    lane = k if along else outer
    if any(not isinstance(c, tuple) or lane in symbols_of(c[0]) for c in a.inside):
        return None
    width = BYTES // dtype.itemsize
    steps = list(steps_besides(point, a.offset, lane))
    if along:
        steps.append(form.k.extent)
    if any(isinstance(x, int) and x % width for x in steps):
        copies = "false"
    else:
        known = sorted({x for x in steps if not isinstance(x, int)}, key=str)
        ready = [
            f"fx_is_aligned<{width}>({a.storage.pointer})",
            *(f"{point.ctx.slot(x)} % {width} == 0" for x in known),
        ]
        copies = " && ".join(ready)
    element = element_type(dtype)

    def value() -> str:
        address = access.address(point, a)
        return f"{access.condition(point, a)} ? {address} : nullptr" if a.inside else address

    def make(function: str) -> str:
        constant = point.ctx.program.operand[load.operand].role == "weight"
        flags = ", ".join("true" if f else "false" for f in (along, constant))
        return f"fx_stored_source<{element}, {flags}>({function}, {a.storage.pointer}, {copies})"

    return Source(outer, along, True, f"const {element}*", value, make)


def _packed(point: Point, load: Load, outer: str, dtype: DType) -> Source:
    """A weight in blocks, which are brought whole: the address of one that begins at some k and column."""
    a, element = point.access_of(load), element_type(dtype)
    return Source(
        outer,
        True,
        True,
        f"const {element}*",
        lambda: access.address(point, a),
        lambda function: f"fx_packed_source<{element}>({function})",
    )


def _in_panels(point: Point, load: Load, outer: str, dtype: DType) -> Source:
    """A weight in panels of columns: chunks across columns are within one."""
    a, element = point.access_of(load), element_type(dtype)
    aligned = f"fx_is_aligned<{BYTES // dtype.itemsize}>({a.storage.pointer})"
    return Source(
        outer,
        False,
        True,
        f"const {element}*",
        lambda: access.address(point, a),
        lambda function: f"fx_stored_source<{element}, false, true>({function}, {a.storage.pointer}, {aligned})",
    )


def _computed(point: Point, form: Contraction, e: Expr, outer: str, dtype: DType, along: bool) -> Source:
    canonical = point.intern(narrowed(e, dtype))
    along = along or _runs_along_k(point, form, canonical, outer)
    heavy = sum(8 if x.name in TRANSCENDENTAL else 1 for x in walk(canonical) if isinstance(x, Prim)) > HEAVY
    element = element_type(dtype)

    def value() -> str:
        return to_memory(point.value(canonical), dtype)

    def make(function: str) -> str:
        flags = ", ".join("true" if f else "false" for f in (along, heavy))
        return f"fx_computed_source<{element}, {flags}>({function})"

    return Source(outer, along, False, element, value, make)


def narrowed(e: Expr, dtype: DType) -> Expr:
    """The expression in the core's dtype: casts that only widened it are taken off."""
    while isinstance(e, Prim) and e.name == "cast" and e.dtype is not dtype:
        (e,) = e.args
    return cast(e, dtype)


def _runs_along_k(point: Point, form: Contraction, e: Expr, outer: str) -> bool:
    """Whether neighbours along k lie side by side in what is read most; else neighbours of rows (or columns) should."""
    sides: list[tuple[Extent | None, Extent | None]] = []
    for x in walk(e):
        if isinstance(x, Load) and point.ctx.program.operand[x.operand].role != "scalar":
            offset = point.access_of(x).offset
            sides.append((point.step_along(offset, form.k.name), point.step_along(offset, outer) if outer else 0))
    if any(k == 1 for k, _ in sides):
        return True
    return not any(o == 1 for _, o in sides)
