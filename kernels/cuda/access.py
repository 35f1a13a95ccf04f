"""Loads and stores of a point: affine, guarded, through indices from memory; vectors where neighbours lie side by side."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from fusec.errors import BugError
from fusec.ir.dim import Dim, Extent, linear, symbol, symbols_of
from fusec.ir.expr import Const, Expr, Index, Load, Prim, cast, prim
from fusec.ir.types import DType
from fusec.kernels.cuda.context import Storage
from fusec.kernels.cuda.scalar import element_type, from_memory, literal, to_memory, value_type

if TYPE_CHECKING:
    from fusec.kernels.cuda.expression import Lane, Point


@dataclass(frozen=True, slots=True)
class Access:
    """Where an index leads: an offset polynomial, whether it is inside, and which indices to report if it is not."""

    name: str
    storage: Storage
    offset: Extent
    inside: tuple[Expr | tuple[Extent, Extent], ...]
    reported: tuple[tuple[Expr, Expr], ...]


def plan(point: Point, name: str, index: Sequence[Extent | Expr], guarded: bool) -> Access:
    """Turn an index into an offset and the conditions under which it may be used. Only a `guarded` one may be outside.

    A condition is an expression, or a pair (polynomial, size): 0 <= polynomial < size.
    """
    storage = point.ctx.storage(name)
    entries: list[Extent] = []
    inside: list[Expr | tuple[Extent, Extent]] = []
    reported: list[tuple[Expr, Expr]] = []
    for i, extent in zip(index, storage.shape, strict=True):
        if isinstance(i, int | Dim):
            entries.append(i)
            if guarded and not _is_axis_within(point, i, extent):
                inside.append((i, extent))
            continue
        read = point.intern(cast(i, DType.I64))
        entries.append(_pseudo(point, read))
        if is_limited(i, extent):
            continue
        # one unsigned comparison refuses negative indices as well
        size = cast(point.interner.index(extent), DType.U64)
        ok = point.intern(prim("lt", cast(read, DType.U64), size))
        inside.append(ok)
        if not guarded:
            reported.append((ok, read))
    return Access(name, storage, storage.offset(entries), tuple(inside), tuple(reported))


def is_limited(i: Expr, extent: Extent) -> bool:
    """Whether an index is a minimum that keeps it inside, in the form that lowering gives to those it knows to be."""
    while isinstance(i, Prim) and i.name == "cast":
        (i,) = i.args
    match i:
        case Prim("min", (_, Prim("sub", (Prim("cast", (Index(n),)), Const(1)))), DType.U32):
            return n == extent
    return False


def _is_axis_within(point: Point, i: Extent, extent: Extent) -> bool:
    """An index that is an axis of the dimension's own extent, or a literal within a known one."""
    if isinstance(i, int):
        return isinstance(extent, int) and 0 <= i < extent
    axis = point.ctx.program.axis.get(str(i))
    return axis is not None and i == symbol(axis.name) and axis.extent == extent


def _pseudo(point: Point, read: Expr) -> Extent:
    for known, e in point.pseudo.items():
        if e is read:
            return symbol(known)
    name = f"@{len(point.pseudo)}"
    point.pseudo[name] = read
    return symbol(name)


def fact(point: Point, e: Load) -> int:
    """The depth of the innermost block that a load depends on."""
    operand = point.ctx.program.operand.get(e.operand)
    if operand is not None and operand.role == "scalar":
        return 0
    if e.operand in point.changing:
        return point.depth
    if id(e) in point.given:
        return point.given[id(e)][1]
    a = point.access_of(e)
    return max([point.fact_of(a.offset), *(_fact(point, c) for c in a.inside)])


def _fact(point: Point, c: Expr | tuple[Extent, Extent]) -> int:
    return point.fact_of(c[0]) if isinstance(c, tuple) else point.fact(c)


def load(point: Point, e: Load) -> str:
    """The name of a canonical load's value."""
    operand = point.ctx.program.operand.get(e.operand)
    if operand is not None and operand.role == "scalar":
        return point.ctx.scalar(e.operand)
    if id(e) in point.given:
        place, level = point.given[id(e)]
        return point.once(level, ("given", id(e)), value_type(e.dtype), lambda: from_memory(place, e.dtype))
    a = point.access_of(e)
    _report(point, a)
    dtype = a.storage.dtype
    vector = _load_vector(point, e, a)
    if vector is not None:
        return vector

    def make() -> str:
        value = from_memory(_place(point, a), dtype)
        if not a.inside:
            return value
        return f"{condition(point, a)} ? {value} : {literal(dtype, e.fill.value if e.fill is not None else 0)}"

    level = point.fact(e)
    if e.operand in point.changing:
        name = point.writer.name()
        point.writer.line(f"const {value_type(dtype)} {name} = {make()};")
        return name
    return point.once(level, ("load", id(e)), value_type(dtype), make)


def _load_vector(point: Point, e: Load, a: Access) -> str | None:
    """The lane's share of a vector that is loaded in front of the loop over lanes; None where there is none to load."""
    lane = point.lane
    if lane is None or e.operand in point.changing or not _is_vector(point, lane, a):
        return None
    dtype = a.storage.dtype
    place = _first(point, lane, a)
    type_ = f"fx_vector<{element_type(dtype)}, {lane.width}>"
    whole = point.once(lane.outside, ("vector", id(e)), type_, lambda: f"fx_load_vector<{lane.width}>({place})")
    share = from_memory(f"{whole}.at[{lane.name}]", dtype)
    return point.once(lane.level, ("load", id(e)), value_type(dtype), lambda: share)


def _is_vector(point: Point, lane: Lane, a: Access) -> bool:
    """Whether neighbours along the lane lie side by side, at addresses that the nest made sure are aligned."""
    return not a.inside and a.name in lane.aligned and point.step_along(a.offset, lane.axis) == 1


def _first(point: Point, lane: Lane, a: Access) -> str:
    """The address of the first lane's element."""
    _, inner = _split(point, a)
    split = linear(inner, [lane.axis])
    if split is None:
        raise BugError(f"the offset {a.offset} is not affine in {lane.axis!r}")
    rest = point.extent(split[0])
    return f"{_base(point, a)} + {lane.base}" + ("" if rest == "0" else f" + {rest}")


def _base(point: Point, a: Access) -> str:
    """The address of an access with what the innermost block adds left out."""
    outer, _ = _split(point, a)
    if outer == 0:
        return a.storage.pointer
    type_ = f"{element_type(a.storage.dtype)}*"
    at = point.fact_of(outer)
    return point.once(at, ("base", a.name, outer), type_, lambda: f"{a.storage.pointer} + {point.extent(outer)}")


def address(point: Point, a: Access) -> str:
    """The address of an access' element."""
    inner = point.extent(_split(point, a)[1])
    return _base(point, a) if inner == "0" else f"{_base(point, a)} + {inner}"


def _place(point: Point, a: Access) -> str:
    return f"{_base(point, a)}[{point.extent(_split(point, a)[1])}]"


def _split(point: Point, a: Access) -> tuple[Extent, Extent]:
    """The offset as (what outer blocks know, what is left). Those of locals stay whole: their parts alone lead outside.

    So do those whose outer part is known before the launch: as addresses, such parts of many planes would fill the registers.
    """
    if a.storage.relative:
        return 0, a.offset
    outer, inner = point.parts(a.offset)
    return (outer, inner) if any(point.is_bound(s) for s in symbols_of(outer)) else (0, a.offset)


def condition(point: Point, a: Access) -> str:
    """Whether an access is inside, as a C++ expression; only of those that can be outside."""
    """Whether an access is inside, as a C++ condition."""
    parts = []
    for c in a.inside:
        if isinstance(c, tuple):
            i, size = (point.extent(x) for x in c)
            parts.append(
                point.once(_fact(point, c), ("inside", *c), "bool", lambda i=i, size=size: f"fx_is_below({i}, {size})")  # type: ignore[misc]
            )
        else:
            parts.append(point.value(c))
    return " && ".join(parts)


def _report(point: Point, a: Access) -> None:
    """Write the first index that is out of range to the status block, in the block that the index depends on."""
    for ok, read in a.reported:
        level = point.writer.home(point.fact(ok))
        key = ("report", point.number, id(ok))
        if point.writer.find(level, key) is None:
            good, index = point.value(ok), point.value(read)
            point.writer.make(level, key, good, f"if (!{good}) fx_report({point.ctx.status}, {index});")


def store(point: Point, name: str, index: Sequence[Extent | Expr], value: Expr, partial: bool = False) -> None:
    """Write one element; nothing where the index is outside."""
    a = plan(point, name, [i if isinstance(i, int | Dim) else point.intern(i) for i in index], partial)
    dtype = a.storage.dtype
    if dtype is not value.dtype:
        raise BugError(f"{name!r} holds {dtype}, the value is {value.dtype}")
    element = to_memory(point.value(value), dtype)
    _report(point, a)
    lane = point.lane
    if lane is not None and _is_vector(point, lane, a):
        vector = lane.results.get((name, a.offset))
        if vector is None:
            vector = lane.results[name, a.offset] = point.writer.name("r"), a
            type_ = f"fx_vector<{element_type(dtype)}, {lane.width}>"
            point.writer.make(lane.level - 1, (point.number, "result", vector[0]), vector[0], f"{type_} {vector[0]};")
        point.writer.line(f"{vector[0]}.at[{lane.name}] = {element};")
        return
    text = f"{_place(point, a)} = {element};"
    point.writer.line(f"if ({condition(point, a)}) {text}" if a.inside else text)


def store_vectors(point: Point, lane: Lane) -> None:
    """After the loop over lanes: write what it left in vectors."""
    for vector, a in lane.results.values():
        point.writer.line(f"fx_store_vector<{lane.width}>({_first(point, lane, a)}, {vector});")
