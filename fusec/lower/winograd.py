"""Winograd's transforms as stages: a point of the loops is a whole tile of one channel, in straight-line code.

    task n, y: TH, x: TW, c: C
    stage n, y, x, c
      36 loads, two passes of additions with small factors, 36 stores (tiles of 4 x 4 outputs)

The output transform takes the pointwise work behind it along: each of a tile's outputs is an element of the group's result.
Where tiles reach over the edges of an image they are computed in full: what is read outside is 0, what is outside is not
stored.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from fusec.errors import BugError
from fusec.ir.dim import Dim, Extent, ceildiv, exact_quotient
from fusec.ir.expr import Expr, prim
from fusec.ir.graph import Graph, Node, Value
from fusec.lower.draft import Attempt, Axes, Choices, Draft
from fusec.lower.element import RULES, Scope
from fusec.lower.entries import Entry, divide, literal, nonnegative
from fusec.lower.stages import Staged
from fusec.ops.winograd import INPUT, OUTPUT, TAPS
from fusec.rewrite.fused import Group
from fusec.tile.program import Store

Matrix = Sequence[Sequence[int]]


def is_winograd(nodes: Sequence[Node]) -> bool:
    """Whether a group is one of the transforms, with or without pointwise work behind it."""
    return any(n.op in ("winograd_input", "winograd_output") for n in nodes)


def winograd_stages(group: Group, nodes: tuple[Node, ...], graph: Graph, names: Callable[[str], str]) -> Staged:
    """The one stage of a transform's group."""
    attempt = Attempt(graph, nodes, names, set(), Axes(Choices()))
    first = next(n for n in nodes if n.op.startswith("winograd"))
    if first.op == "winograd_input":
        return _input_stage(attempt, first)
    return _output_stage(attempt, first, group.outputs)


def _axes(attempt: Attempt, v: Value, image: Sequence[Extent], tile: int) -> tuple[list[str], list[Entry]]:
    """Axes over the images, the tiles of one and the channels, and the index of each."""
    batch, height, width, channels = image
    extents = (batch, ceildiv(height, tile), ceildiv(width, tile), channels)
    names, index = list[str](), list[Entry]()
    for d, n in enumerate(extents):
        made, i = attempt.axes.make(("out", v.name, d), n, False)
        names += made
        index.append(i)
    return names, index


def _inside(size: Extent, tile: int) -> int:
    """How many pixels of every tile are inside for certain, the last one's included."""
    if isinstance(size, int):
        return size % tile or tile
    return tile if exact_quotient(size, tile) is not None else 1


def _input_stage(a: Attempt, node: Node) -> Staged:
    (x,), out, tile = node.operands, node.output, int(node.attr("tile"))
    before, after = node.attr("before"), node.attr("after")
    n = tile + TAPS - 1
    pixels = [size + b + e - (TAPS - 1) for size, b, e in zip(x.shape[1:3], before, after, strict=True)]
    names, (image, row, column, channel) = _axes(a, out, (x.shape[0], *pixels, x.shape[3]), tile)
    stage = Draft(names)
    scope = Scope(a, stage, False)

    def pixel(r: int, s: int) -> Expr:
        places, border = list[Entry](), False
        for i, at, b, e, size in zip((row, column), (r, s), before, after, pixels, strict=True):
            places.append(_polynomial(i) * tile + (at - b))
            border |= (at < b) or (at >= _inside(size, tile) + TAPS - 1 - e)
        return scope.let(scope.element(x, (image, *places, channel), guard=border))

    tiles = [[pixel(r, s) for s in range(n)] for r in range(n)]
    place = _place(image, row, column, pixels, tile)
    target = a.operands.get("output", out.name, out.dtype, out.shape)
    for k, e in enumerate(_both_sides(scope, INPUT[tile], tiles)):
        stage.stores.append(Store(target, (k, place, channel), e))
    stage.body = scope.body
    return Staged(a, names, [stage], {})


def _output_stage(a: Attempt, node: Node, outputs: Sequence[Value]) -> Staged:
    tile = int(node.attr("tile"))
    names, (image, row, column, channel) = _axes(a, node.output, node.output.shape, tile)
    inside = [_inside(size, tile) for size in node.output.shape[1:3]]
    stage = Draft(names)
    scope = Scope(a, stage, False)
    for v in outputs:
        target = a.operands.get("output", v.name, v.dtype, v.shape)
        for i in range(tile):
            for j in range(tile):
                index = (image, _polynomial(row) * tile + i, _polynomial(column) * tile + j, channel)
                partial = i >= inside[0] or j >= inside[1]
                stage.stores.append(Store(target, index, scope.element(v, index, guard=partial), partial))
    stage.body = scope.body
    return Staged(a, names, [stage], {})


def _pixel_of_tile(s: Scope, node: Node, index: tuple[Entry, ...], guard: bool) -> Expr:
    """One output pixel: the first one of a tile computes all of them."""
    del guard
    (m,), tile = node.operands, int(node.attr("tile"))
    n, shape, extents = tile + TAPS - 1, node.output.shape, s.attempt.axes.extents
    image, channel = index[0], index[3]
    (row, i), (column, j) = (divide(x, tile, extents, s.attempt.axes.split) for x in index[1:3])
    if not isinstance(i, int) or not isinstance(j, int):
        raise BugError(f"a pixel at {index} is at no fixed place of its tile")
    place = _place(image, row, column, shape[1:3], tile)
    key = "winograd_output", node.output.name, place, channel
    if (*key, 0) not in s.memo:
        products = [[s.let(s.element(m, (r * n + c, place, channel))) for c in range(n)] for r in range(n)]
        for k, e in enumerate(_both_sides(s, OUTPUT[tile], products)):
            s.memo[(*key, k)] = s.let(e)
    return s.memo[(*key, i * tile + j)]


def _place(image: Entry, row: Entry, column: Entry, pixels: Sequence[Extent], tile: int) -> Extent:
    """The number of a tile among those of all images."""
    rows, columns = (ceildiv(size, tile) for size in pixels)
    return (_polynomial(image) * rows + _polynomial(row)) * columns + _polynomial(column)


def _polynomial(e: Entry) -> Extent:
    if not isinstance(e, int | Dim) or not (isinstance(e, Dim) or nonnegative(e)):
        raise BugError(f"{e} is no place of a tile")
    return e


def _both_sides(s: Scope, matrix: Matrix, x: Sequence[Sequence[Expr]]) -> list[Expr]:
    """matrix @ x @ matrix^T, row by row."""
    columns = [_transformed(s, matrix, [line[c] for line in x]) for c in range(len(x[0]))]
    rows = [[column[r] for column in columns] for r in range(len(matrix))]
    return [e for line in rows for e in _transformed(s, matrix, line)]


def _transformed(s: Scope, matrix: Matrix, x: Sequence[Expr]) -> list[Expr]:
    """matrix @ x. Rows that differ in signs alone share their halves, and so do pairs of inputs used as sum or difference."""
    matrix, x = _sums_and_differences(s, matrix, x)
    out = list[Expr]()
    for row in matrix:
        twin = next((k for k in range(len(out)) if _mirrored(matrix[k], row)), None)
        if twin is None:
            out.append(s.let(_combination(row, x)))
            continue
        other = matrix[twin]
        even = s.let(_combination([a if a == b else 0 for a, b in zip(row, other, strict=True)], x))
        odd = s.let(_combination([a if a != b else 0 for a, b in zip(row, other, strict=True)], x))
        out[twin], e = s.let(prim("sub", even, odd)), s.let(prim("add", even, odd))
        out.append(e)
    return out


def _mirrored(a: Sequence[int], b: Sequence[int]) -> bool:
    """Equal up to signs, with two terms or more of either sort: then the halves pay for the two additions."""
    same = sum(x == y != 0 for x, y in zip(a, b, strict=True))
    turned = sum(x == -y != 0 for x, y in zip(a, b, strict=True))
    return all(abs(x) == abs(y) for x, y in zip(a, b, strict=True)) and same >= 2 and turned >= 2


def _sums_and_differences(s: Scope, matrix: Matrix, x: Sequence[Expr]) -> tuple[list[list[int]], list[Expr]]:
    """Where two neighbours occur as u(x + y) or u(x - y) in every row, name sum and difference, and use those."""
    rows, values = [list(r) for r in matrix], list(x)
    for c in range(1, len(values) - 2, 2):
        pairs = [(r[c], r[c + 1]) for r in rows]
        if all(abs(a) == abs(b) for a, b in pairs) and sum(a != 0 for a, _ in pairs) > 2:
            one, other = values[c], values[c + 1]
            values[c], values[c + 1] = s.let(prim("add", one, other)), s.let(prim("sub", one, other))
            for r, (a, b) in zip(rows, pairs, strict=True):
                r[c], r[c + 1] = (a, 0) if a == b else (0, a)
    return rows, values


def _combination(factors: Sequence[int], x: Sequence[Expr]) -> Expr:
    """The sum of factor * x, beginning with one that needs no negation."""
    terms = sorted((k for k, f in enumerate(factors) if f), key=lambda k: (factors[k] != 1, factors[k] < 0))
    total: Expr | None = None
    for k in terms:
        f, value = factors[k], x[k]
        if total is not None and f == -1:
            total = prim("sub", total, value)
            continue
        scaled = value if f == 1 else prim("mul", value, literal(f, value.dtype))
        total = scaled if total is None else prim("add", total, scaled)
    if total is None:
        raise BugError("a row of zeros")
    return total


RULES["winograd_output"] = _pixel_of_tile
