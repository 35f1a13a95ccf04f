"""Packing a panel of B: clearing its padding, and transposing a source that is contiguous along k in registers."""

from __future__ import annotations

from collections.abc import Sequence

from fusec.kernels.cpu.builder import Builder, Value
from fusec.kernels.cpu.contract_tile import TileShape


def clear_panel(b: Builder, shape: TileShape, place: Value, depth: Value, unless: Value) -> None:
    """Zero a panel of `depth` rows, unless all of its columns are about to be written."""
    size = b.mul(depth, b.i64(shape.width * shape.itemsize))

    def clear() -> Sequence[Value]:
        b.call_void("llvm.memset.p0.i64", place, Value("i8", "0"), size, Value("i1", "false"))
        return []

    b.when(b.op("xor", unless, Value("i1", "true")), clear)


def pack_transposed(
    b: Builder, shape: TileShape, source: tuple[Value, Value], place: Value, n: Value, n_end: Value, depth: Value
) -> Sequence[Value]:
    """Columns [n, n_end) of B, of which column j starts at `base + j * stride` and is contiguous, into a panel.

    Squares of `lanes` by `lanes` elements go through registers; columns past the end repeat the last one.
    """
    base, stride = source
    lanes, element, width = shape.lanes, shape.element, b.i64(shape.width)
    last = b.sub(n_end, b.i64(1))
    whole = b.op("and", depth, b.i64(-lanes))
    for v in range(shape.vectors):
        columns = []
        for i in range(lanes):
            j = b.smin(b.add(n, b.i64(v * lanes + i)), last)
            columns.append(b.gep(base, b.mul(j, stride), element))
        to = b.gep(place, b.i64(v * lanes), element)
        with b.loop(b.i64(0), whole, lanes, hint="square") as loop:
            square = [b.load(shape.type, b.gep(c, loop.index, element)) for c in columns]
            for i, row in enumerate(transpose(b, square)):
                at = b.mul(b.add(loop.index, b.i64(i)), width)
                b.store(row, b.gep(to, at, element), min(64, lanes * shape.itemsize))
        with b.loop(whole, depth, hint="edge") as rest:
            line = b.gep(to, b.mul(rest.index, width), element)
            for i, c in enumerate(columns):
                b.store(b.load(element, b.gep(c, rest.index, element)), b.gep(line, b.i64(i), element))
    return []


def transpose(b: Builder, rows: Sequence[Value]) -> list[Value]:
    """The columns of a square of vectors: exchange halves, then quarters, and so on, in place."""
    n, out = len(rows), list(rows)
    d = n // 2
    while d:
        upper = [i if not i & d else n + i - d for i in range(n)]
        lower = [i + d if not i & d else n + i for i in range(n)]
        for i in range(n):
            if not i & d:
                x, y = out[i], out[i | d]
                out[i], out[i | d] = b.shuffle(x, y, upper), b.shuffle(x, y, lower)
        d //= 2
    return out
