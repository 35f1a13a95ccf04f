"""Rows that sample at computed coordinates: grids and affine maps of them."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np

from fusec.frontend.builder import NotNative
from fusec.frontend.call import Call, check_equal, row
from fusec.frontend.table.pool import extent_data
from fusec.frontend.table.resize import TAPS, cubic_weight
from fusec.frontend.table.view import check_size
from fusec.ir.dim import Extent, product
from fusec.ir.graph import Value
from fusec.ir.types import DType, TensorType

I64, U32, F32 = DType.I64, DType.U32, DType.F32
MODES = {"bilinear": "linear", "bicubic": "cubic", "linear": "linear", "cubic": "cubic", "nearest": "nearest"}
PADDINGS = ("zeros", "border", "reflection")


@row("GridSample")
def _grid_sample(call: Call) -> Value:
    x, grid = call.x(0), call.x(1)
    rank = len(x.shape) - 2
    mode, padding = str(call.attr("mode", "linear")), str(call.attr("padding_mode", "zeros"))
    if mode not in MODES or padding not in PADDINGS:
        raise call.error(f"mode {mode!r} with padding_mode {padding!r} is not defined")
    if rank < 1 or len(grid.shape) != rank + 2 or grid.shape[-1] != rank:
        raise call.error(f"grid {grid.type} does not fit {x.type}")
    if not x.dtype.is_float:
        raise NotNative("sampling integers")
    check_equal(x.shape[0], grid.shape[0])
    for axis, n in enumerate(x.shape[2:], 2):
        call.require(n, 1, f"there must be something to sample along axis {axis}, the input has")
    mode, places = MODES[mode], grid.shape[:-1]
    grid = call.cast(grid, F32)
    at = [_coordinate(call, grid, rank - 1 - axis, x.shape[2 + axis]) for axis in range(rank)]
    if mode == "cubic":
        out = _windows(call, x, at, padding, places)
    else:
        taps = [
            [_taps(call, a, n, mode, padding, (k,)) for k in TAPS[mode]] for a, n in zip(at, x.shape[2:], strict=True)
        ]
        out = _corners(call, x, taps, mode == "linear" or padding == "zeros")
    return call.cast(call.transpose(out, (0, rank + 1, *range(1, rank + 1))), x.dtype)


def _windows(call: Call, x: Value, at: Sequence[Value], padding: str, places: tuple[Extent, ...]) -> Value:
    """The sum over a window of neighbours, four per axis."""
    rank, count = len(at), len(TAPS["cubic"])
    indices, weights = list[Value](), list[Value]()
    for axis in range(rank):
        index, weight = _taps(call, at[axis], x.shape[2 + axis], "cubic", padding, TAPS["cubic"])
        inner = tuple(count if i == axis else 1 for i in range(rank))
        indices.append(call.reshape(index, (*places, *inner)))
        weights.append(call.reshape(weight, (*places, *inner, 1)))
    taps = (count,) * rank
    columns = [call.reshape(call.expand(i, (*places, *taps)), (*places, *taps, 1)) for i in indices]
    last = call.transpose(x, (0, *range(2, rank + 2), 1))
    found = call.emit("gather_nd", last, call.concat(columns, rank * 2 + 1), batch_dims=1)
    found = call.cast(found, F32) if x.dtype.itemsize < 4 else found
    for weight in weights:
        found = call.emit("mul", found, call.cast(weight, found.dtype))
    return call.emit("reduce_sum", found, axes=tuple(range(rank + 1, 2 * rank + 1)), keepdims=False)


def _corners(call: Call, x: Value, taps: Sequence[Sequence[tuple[Value, Value]]], weighed: bool) -> Value:
    """The sum over one or two neighbours per axis, written out: so few are no loop of their own. One index names a
    neighbour in all axes."""
    spatial = x.shape[2:]
    size = product(spatial)
    kind = U32 if isinstance(size, int) and size < 1 << 31 else I64
    last = call.transpose(call.reshape(x, (*x.shape[:2], size)), (0, 2, 1))
    out: Value | None = None
    for corner in itertools.product(*taps):
        at, factor = corner[0]
        at = call.cast(at, kind)
        for (index, weight), n in zip(corner[1:], spatial[1:], strict=True):
            at = call.emit("mul", at, call.cast(extent_data(call, n), kind))
            at = call.emit("add", at, call.cast(index, kind))
            factor = call.emit("mul", factor, weight)
        found = call.emit("gather_nd", last, at, batch_dims=1)
        found = call.cast(found, F32) if x.dtype.itemsize < 4 else found
        found = call.emit("mul", found, call.cast(factor, found.dtype)) if weighed else found
        out = found if out is None else call.emit("add", out, found)
    assert out is not None
    return out


def _coordinate(call: Call, grid: Value, column: int, size: Extent) -> Value:
    """Where a column of the grid, from -1 to 1, points in an axis of `size` elements."""
    lead = grid.shape[:-1]
    starts, sizes = (*(0,) * len(lead), column), (*lead, 1)
    at = call.emit("slice", grid, starts=starts, sizes=sizes, steps=(1,) * len(sizes))
    n, one, two = call.cast(extent_data(call, size), F32), call.scalar(1, F32), call.scalar(2, F32)
    at = call.emit("add", at, one)
    if call.attr("align_corners", 0):
        return call.emit("mul", call.emit("div", at, two), call.emit("sub", n, one))
    return call.emit("div", call.emit("sub", call.emit("mul", at, n), one), two)


def _taps(call: Call, at: Value, size: Extent, mode: str, padding: str, places: Sequence[int]) -> tuple[Value, Value]:
    """The neighbours of each place at `places` beside it, as indices inside, and their weights: along the last axis."""
    offsets = call.builder.constant(np.array(places, np.float32))
    below = call.emit("round" if mode == "nearest" else "floor", at)
    distance = call.emit("abs", call.emit("sub", call.emit("sub", at, below), offsets))
    index = call.cast(call.emit("add", below, offsets), I64)
    if mode == "nearest":
        weight = call.expand(call.scalar(1, F32), index.shape)
    elif mode == "linear":
        weight = call.emit("sub", call.scalar(1, F32), distance)
    else:
        weight = cubic_weight(call, distance, -0.75)
    zero, end = call.scalar(0, I64), extent_data(call, size - 1)
    if padding == "zeros":
        inside = call.emit("and", call.emit("ge", index, zero), call.emit("le", index, end))
        weight = call.emit("where", inside, weight, call.scalar(0, F32))
    if padding == "reflection":
        index = _reflected(call, index, size)
    return call.emit("max", call.emit("min", index, end), zero), weight


def _reflected(call: Call, index: Value, size: Extent) -> Value:
    """Mirrored at the middle of the outermost elements where corners are aligned, else at their outer edges."""
    aligned = bool(call.attr("align_corners", 0))
    top = size * 2 - 2 if aligned else size * 2 - 1
    period = call.emit("max", extent_data(call, top if aligned else top + 1), call.scalar(1, I64))
    around = call.emit("mod", index, period)
    return call.emit("min", around, call.emit("sub", extent_data(call, top), around))


@row("AffineGrid")
def _affine_grid(call: Call) -> Value:
    theta, size = call.x(0), call.ints(1)
    spatial = size[2:]
    rank = len(spatial)
    if rank not in (2, 3) or theta.shape[1:] != (rank, rank + 1) or any(n < 1 for n in spatial):
        raise call.error(f"size {list(size)} does not fit theta {theta.type}")
    call.require_equal(theta.shape[0], size[0])
    check_size(call, TensorType(theta.dtype, (theta.shape[0], *spatial, rank)))
    call.builder.limits.check_bytes(
        int(np.prod(spatial, dtype=object)) * 8 * (rank + 1), f"AffineGrid {call.origin[0]!r}"
    )
    lines = [_line(n, bool(call.attr("align_corners", 0))) for n in spatial]
    grid = np.stack([*reversed(np.meshgrid(*lines, indexing="ij")), np.ones(spatial)]).reshape(rank + 1, -1)
    base = call.builder.constant(grid.astype(theta.dtype.numpy))
    out = call.transpose(call.matmul(theta, base), (0, 2, 1))
    return call.reshape(out, (theta.shape[0], *spatial, rank))


def _line(n: int, aligned: bool) -> Sequence[float]:
    if aligned:
        return [2 * i / max(n - 1, 1) - 1 for i in range(n)]
    return [(2 * i + 1) / n - 1 for i in range(n)]
