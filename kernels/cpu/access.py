"""Loads and stores of a point: scalar, contiguous, strided, gathered; guarded, and partial at the end of a row.

Nothing here branches, so that every load can be hoisted: a lane that must not touch memory reads a block of zeros or
writes to a scratch address instead. Without masked instructions a partial vector reads its last valid element again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from fusec.errors import BugError
from fusec.ir.dim import Dim, Extent, linear, symbol, symbols_of
from fusec.ir.expr import Const, Expr, Index, Load, Prim, cast, prim
from fusec.ir.types import DType
from fusec.kernels.cpu.anchors import neighbour_address
from fusec.kernels.cpu.builder import Value, constant, mangle, vector
from fusec.kernels.cpu.context import SCRATCH_ALIGNMENT, Storage
from fusec.kernels.cpu.every_second import load_every_second
from fusec.kernels.cpu.group_channels import group_channel
from fusec.kernels.cpu.short_rows import load_spread, steps_of
from fusec.kernels.cpu.squares import load_turned
from fusec.kernels.cpu.vector import literal, memory_type
from fusec.kernels.cpu.windows import always_inside
from fusec.target import Isa

if TYPE_CHECKING:
    from fusec.kernels.cpu.expression import Point

_MASKED = {"avx2": ("i32", "i64", "float", "double"), "avx512": ("i8", "i16", "i32", "i64", "float", "double")}


@dataclass(frozen=True, slots=True)
class Access:
    """Where an index leads: an offset polynomial, whether it is inside, and which indices to report if it is not."""

    name: str
    storage: Storage
    offset: Extent
    inside: Expr | None
    reported: tuple[tuple[Expr, Expr], ...]


def plan(point: Point, name: str, index: Sequence[Extent | Expr], guarded: bool) -> Access:
    """Turn an index into an offset and the conditions under which it may be used. Only a `guarded` one may be outside;
    what else is read from memory and outside is an error."""
    storage = point.ctx.storage(name)
    entries: list[Extent] = []
    inside: Expr | None = None
    reported: list[tuple[Expr, Expr]] = []
    for i, extent in zip(index, storage.shape, strict=True):
        if isinstance(i, int | Dim):
            entries.append(i)
            if not guarded or (i, extent) in point.inside_already or always_inside(i, extent, point.extents):
                continue
            read = point.interner.index(i)
        else:
            read = point.intern(cast(i, DType.I64))
            entries.append(_pseudo(point, read))
            if is_limited(i, extent):
                continue
        # one unsigned comparison refuses negative indices as well
        size = cast(point.interner.index(extent), DType.U64)
        ok = point.intern(prim("lt", cast(read, DType.U64), size))
        inside = ok if inside is None else point.intern(prim("and", inside, ok))
        if not guarded:
            reported.append((ok, read))
    return Access(name, storage, storage.offset(entries), inside, tuple(reported))


def is_limited(i: Expr, extent: Extent) -> bool:
    """Whether an index is a minimum that keeps it inside, in the form that lowering gives to those it knows to be."""
    while isinstance(i, Prim) and i.name == "cast":
        (i,) = i.args
    match i:
        case Prim("min", (_, Prim("sub", (Prim("cast", (Index(n),)), Const(1)))), DType.U32):
            return n == extent
    return False


def _pseudo(point: Point, read: Expr) -> Extent:
    name = f"@{len(point.pseudo)}"
    for known, e in point.pseudo.items():
        if e is read:
            name = known
    point.pseudo[name] = read
    return symbol(name)


def fact(point: Point, e: Load) -> tuple[int, bool]:
    """See `Point.fact`."""
    if _is_scalar(point, e.operand):
        return 0, False
    a = point.access_of(e)
    level, varies = point.fact_of(a.offset)
    if a.inside is not None:
        other = point.fact(a.inside)
        level, varies = max(level, other[0]), varies or other[1]
    return point.depth if e.operand in point.changing else level, varies


def _is_scalar(point: Point, name: str) -> bool:
    operand = point.ctx.program.operand.get(name)
    return operand is not None and operand.role == "scalar"


def load(point: Point, e: Load, copy: int) -> Value:
    """The value of a canonical load: a scalar where no lane differs, else a vector."""
    if _is_scalar(point, e.operand):
        return point.ctx.scalar(e.operand)
    a = point.access_of(e)
    _report(point, a, copy)
    dtype = a.storage.dtype
    fill = None if e.fill is None else literal(dtype, e.fill.value)
    arithmetic, b = point.ctx.arithmetic, point.b
    if not point.fact(e)[1]:
        return _load_scalar(point, a, fill)
    coefficient = _lane_coefficient(point, a.offset)
    if (together := _all_or_none(point, a, coefficient)) is not None:
        ok = point.value(together)
        pointer = b.select(ok, _contiguous(point, a, copy), b.constant_bytes(64))
        value = arithmetic.from_memory(b.load(vector(point.lanes, memory_type(dtype)), pointer), dtype)
        if fill is None or fill == literal(dtype, 0):
            return value
        return b.select(ok, value, b.splat(fill, point.lanes))
    inside = None if a.inside is None else point.vector(a.inside, copy)
    if inside is not None and point.mask is not None:
        inside = b.op("and", inside, point.mask)
    if coefficient == 1 and (inside is None or _masks(point.ctx.isa, a.storage)):
        raw = _load_contiguous(point, a, inside, copy)
    elif (grouped := group_channel(point, a)) is not None and (inside is None or _masks(point.ctx.isa, a.storage)):
        first, size, channel = grouped
        raw = _load_contiguous(point, replace(a, offset=first), inside, copy)
        raw = b.shuffle(raw, None, [i // size * size + channel for i in range(point.lanes)])
    elif inside is None and (spread := load_spread(point, a, lambda at: _address(point, a, at), copy)) is not None:
        raw = spread
    elif coefficient == 2 and not point.turned and (_is_full(point, inside) or _masks(point.ctx.isa, a.storage)):
        pointer = b.gep(_row(point, a), b.mul(point.bases[copy], b.i64(2)), memory_type(dtype))
        mask = point.mask if inside is None else inside
        raw = load_every_second(b, memory_type(dtype), point.lanes, pointer, mask)
    elif coefficient is not None and inside is None:
        turned = load_turned(point, a, coefficient, copy) if point.turned else None
        raw = turned or _load_strided(point, a, coefficient, copy)
    else:
        raw = _load_gathered(point, a, inside, copy)
    value = arithmetic.from_memory(raw, dtype)
    return value if fill is None or inside is None else b.select(inside, value, b.splat(fill, point.lanes))


def _all_or_none(point: Point, a: Access, coefficient: Extent | None) -> Expr | None:
    """The guard of a whole vector whose lanes are all inside or all outside: then one of two addresses is used, which
    costs less than a mask in every respect (AVX2, Zen: stores through masks take several times as long)."""
    if a.inside is None or coefficient != 1 or point.mask is not None or point.fact(a.inside)[1]:
        return None
    return a.inside if point.lanes * a.storage.dtype.itemsize <= SCRATCH_ALIGNMENT else None


def _is_full(point: Point, inside: Value | None) -> bool:
    return inside is None and point.mask is None


def _masks(isa: Isa, storage: Storage) -> bool:
    """Whether the level loads and stores parts of vectors of this element in one instruction."""
    return memory_type(storage.dtype) in _MASKED.get(isa.name, ())


def _lane_coefficient(point: Point, offset: Extent) -> Extent | None:
    """The distance between lanes in elements; None where it is not constant."""
    if point.rows is not None:
        steps = steps_of(offset, point.rows.outer, point.rows.inner)
        known: dict[tuple[Extent, Extent] | None, int] = {(0, 0): 0, (point.rows.size, 1): 1}
        return known.get(steps)
    for s in symbols_of(offset):
        if s != point.lane and point.fact_of(symbol(s))[1]:
            return None
    split = linear(offset, [point.lane])
    return None if split is None else split[1].get(point.lane, 0)


def _contiguous(point: Point, a: Access, copy: int) -> Value:
    """The address of the first lane, where the others follow it."""
    if point.shares_pointers:
        return neighbour_address(point, a, copy)
    return point.b.gep(_row(point, a), point.bases[copy], memory_type(a.storage.dtype))


def _row(point: Point, a: Access) -> Value:
    """The address of an access with the lane's index left out, computed in the loop that it depends on."""
    split = linear(a.offset, [point.lane] if point.rows is None else [point.rows.outer, point.rows.inner])
    if split is None:
        raise BugError(f"the offset {a.offset} is not affine in {point.lane!r}")
    return _address(point, a, split[0])


def _address(point: Point, a: Access, offset: Extent) -> Value:
    level = point.fact_of(offset)[0]

    def make() -> Value:
        at = point.value(point.interner.index(offset))
        return point.b.gep(a.storage.pointer, at, memory_type(a.storage.dtype))

    return point.once(level, ("address", a.name, offset), make)


def _load_scalar(point: Point, a: Access, fill: Value | None) -> Value:
    b, dtype = point.b, a.storage.dtype
    pointer = _address(point, a, a.offset)
    ok = None if a.inside is None else point.value(a.inside)
    if ok is not None:
        pointer = b.select(ok, pointer, b.constant_bytes(64))
    value = point.ctx.arithmetic.from_memory(b.load(memory_type(dtype), pointer), dtype)
    return value if ok is None or fill is None else b.select(ok, value, fill)


def _load_contiguous(point: Point, a: Access, inside: Value | None, copy: int) -> Value:
    b, element = point.b, memory_type(a.storage.dtype)
    type_ = vector(point.lanes, element)
    pointer = _contiguous(point, a, copy)
    mask = inside if inside is not None else point.mask
    if mask is None:
        return b.load(type_, pointer)
    if _masks(point.ctx.isa, a.storage):
        zero: float | int = 0.0 if element in ("float", "double") else 0
        return b.masked_load(type_, pointer, mask, constant(type_, zero))
    return _load_lanes(point, a, pointer, 1)


def _load_strided(point: Point, a: Access, coefficient: Extent, copy: int) -> Value:
    b = point.b
    step = point.value(point.interner.index(coefficient))
    pointer = b.gep(_row(point, a), b.mul(point.bases[copy], step), memory_type(a.storage.dtype))
    return _load_lanes(point, a, pointer, coefficient)


def _load_lanes(point: Point, a: Access, pointer: Value, coefficient: Extent) -> Value:
    """Element by element; in a partial vector the lanes beyond its end read the last element again."""
    b, element = point.b, memory_type(a.storage.dtype)
    step = point.value(point.interner.index(coefficient))
    last = None if point.left is None else b.sub(point.left, b.i64(1))
    out = Value(vector(point.lanes, element), "poison")
    for k in range(point.lanes):
        lane = b.i64(k) if last is None or k == 0 else b.smin(b.i64(k), last)
        out = b.insert(out, b.load(element, b.gep(pointer, b.mul(lane, step), element)), k)
    return out


def _load_gathered(point: Point, a: Access, inside: Value | None, copy: int) -> Value:
    """Through a vector of addresses: refused lanes, and those beyond the end, read zeros."""
    b, element = point.b, memory_type(a.storage.dtype)
    pointers = _pointers(point, a, copy)
    mask = inside if inside is not None else point.mask
    if mask is not None:
        pointers = b.select(mask, pointers, b.splat(b.constant_bytes(64), point.lanes))
    type_ = vector(point.lanes, element)
    every = constant(vector(point.lanes, "i1"), True)
    return b.gather(type_, pointers, every, Value(type_, "poison"))


def _pointers(point: Point, a: Access, copy: int) -> Value:
    """One address per lane: what no lane differs in goes into one base, so that the rest may stay short integers."""
    b = point.b
    varying = [s for s in symbols_of(a.offset) if point.fact_of(symbol(s))[1]]
    split = linear(a.offset, varying)
    base, offset = a.storage.pointer, a.offset
    if split is not None and split[0] != 0 and not point.fact_of(split[0])[1]:
        base, offset = _address(point, a, split[0]), offset - split[0]
    places = b.splat(point.value(point.interner.index(offset), copy), point.lanes)
    return b.emit(vector(point.lanes, "ptr"), f"getelementptr {memory_type(a.storage.dtype)}, {base}, {places}")


def _report(point: Point, a: Access, copy: int) -> None:
    """Write the first index that is out of range to the status block, unless an error is there already.

    Once in the loop that the index depends on: rows of a table are then copied by loops that do nothing else.
    """
    for ok, read in a.reported:
        level, varies = point.fact(ok)

        def write(ok: Expr = ok, read: Expr = read) -> Value:
            return _report_one(point, point.value(ok, copy), point.value(read, copy))

        point.once(level, ("report", id(ok), copy if varies else 0), write)


def _report_one(point: Point, good: Value, index: Value) -> Value:
    b, ctx = point.b, point.ctx
    bad = b.op("xor", good, constant(good.type, True))
    if good.lanes:
        if point.mask is not None:
            bad = b.op("and", bad, point.mask)
        bits = b.bitcast(bad, f"i{good.lanes}")
        first = b.call(f"llvm.cttz.{mangle(bits.type)}", bits.type, bits, Value("i1", "false"))
        lane = b.op("and", first, constant(bits.type, good.lanes - 1))  # no bad lane: some lane, unused
        index = b.extract(index, lane)
        bad = b.compare("ne", bits, constant(bits.type, 0))
    free = b.compare("eq", b.load("i64", ctx.status), b.i64(0))
    block = b.select(b.op("and", bad, free), ctx.status, ctx.dump)
    b.store(b.i64(1), block)
    b.store(index, b.gep(block, b.i64(2), "i64"))
    return bad


def store(
    point: Point,
    name: str,
    index: Sequence[Extent | Expr],
    dtype: DType,
    value: Value,
    copy: int,
    partial: bool = False,
) -> None:
    """Write one copy's lanes; lanes beyond the end, and indices outside, write nothing."""
    a = plan(point, name, [i if isinstance(i, int | Dim) else point.intern(i) for i in index], partial)
    if a.storage.dtype is not dtype:
        raise BugError(f"{name!r} holds {a.storage.dtype}, the value is {dtype}")
    _report(point, a, copy)
    b = point.b
    ok = None if a.inside is None else point.value(a.inside, copy)
    coefficient = _lane_coefficient(point, a.offset) if point.lanes else 0
    if coefficient == 0 and (ok is None or not ok.lanes):
        _store_scalar(point, a, value, ok)
        return
    raw = point.ctx.arithmetic.to_memory(b.splat(value, point.lanes), dtype)
    if ok is not None and _all_or_none(point, a, coefficient) is not None:
        b.store(raw, b.select(ok, _contiguous(point, a, copy), point.ctx.dump))
        return
    if ok is not None:
        ok = b.splat(ok, point.lanes)
        ok = ok if point.mask is None else b.op("and", ok, point.mask)
    mask = point.mask if ok is None else ok
    if coefficient == 1 and (mask is None or _masks(point.ctx.isa, a.storage)):
        pointer = _contiguous(point, a, copy)
        b.store(raw, pointer) if mask is None else b.masked_store(raw, pointer, mask)
    elif coefficient is not None:
        step = point.value(point.interner.index(coefficient))
        pointer = b.gep(_row(point, a), b.mul(point.bases[copy], step), memory_type(dtype))
        _store_lanes(point, raw, [b.gep(pointer, b.mul(b.i64(k), step), raw.element) for k in range(raw.lanes)], mask)
    else:
        pointers = _pointers(point, a, copy)
        _store_lanes(point, raw, [b.extract(pointers, k) for k in range(raw.lanes)], mask)


def _store_scalar(point: Point, a: Access, value: Value, ok: Value | None) -> None:
    b = point.b
    if value.lanes:
        raise BugError(f"a vector does not fit into one element of {a.name!r}")
    pointer = _address(point, a, a.offset)
    if ok is not None:
        pointer = b.select(ok, pointer, point.ctx.dump)
    b.store(point.ctx.arithmetic.to_memory(value, a.storage.dtype), pointer)


def _store_lanes(point: Point, raw: Value, pointers: list[Value], mask: Value | None) -> None:
    b = point.b
    for k, pointer in enumerate(pointers):
        at = pointer if mask is None else b.select(b.extract(mask, k), pointer, point.ctx.dump)
        b.store(b.extract(raw, k), at)
