"""The largest elements of lines: blocks with a champion each, of which one after the other is taken.

Every element becomes one integer that sorts like it, with its place in the lower half, so that the greatest is one fold away
and of equal elements the first one wins. A line is cut into B blocks of S elements, where S is about the root of their number
(a line of the J inside is written here; one task does all lines of its tile):

    task o: O
    local h: i64[O, B, S], m: i64[O, S]
    stage o, b: B, e: S
      h[o, b, e] = ranked(x[o, b*S + e])                   what is beyond the end of the last block comes last
    stage o, b: B
      m[o, b] = max[e: S](h[o, b, e])
    stage o, k: K
      best = max[e: S](m[o, e])
      block = place(best) / S
      next = max[e: S](where(h[o, block, e] < best, h[o, block, e], least))
      v[o, k] = x[o, place(best)], p[o, k] = place(best), m[o, block] = next

So an element costs 2 S comparisons, in vectors. The champions are written at places read from memory, so that the points along
k follow each other. Where there are fewer than k elements, a place outside is found, which is reported.

Where most of a short line is wanted, the rank of each of its elements is counted instead, which waits for nothing:

    stage o, n: N
      r[o, n] = sum[e: N](h[o, e] > h[o, n])
    stage o, n: N
      s[o, r[o, n]] = n
"""

from __future__ import annotations

import math
from collections.abc import Callable

from fusec.ir.dim import Extent, ceildiv, floordiv, maximum, symbol
from fusec.ir.expr import Const, Expr, Index, Load, Ref, cast, prim
from fusec.ir.graph import Graph, Node
from fusec.ir.types import DType
from fusec.kernels.kernel import Call
from fusec.lower.group import Programs
from fusec.lower.ordered import call, lines, role_of
from fusec.rewrite.fused import Group
from fusec.tile.fold import limits
from fusec.tile.program import Axis, Fold, Let, Operand, Stage, Statement, Store, TileProgram

O, N, J, K, B, S = (symbol(n) for n in "ONJKBS")  # noqa: E741 - lines outside, their elements, lines inside
o, j, k, b, e, r = (symbol(s) for s in "ojkber")
UNIT = 32
"""Elements of a block come in multiples of it: four vectors at a time without a rest."""
LEAST = Const(-(1 << 63), DType.I64)
"""Less than any element with its place."""
LOW = (1 << 32) - 1
NAN = 0x7F80_0001
"""Behind the bits of infinity; its complement is no complement of a number."""


def lower_top_k(group: Group, graph: Graph, programs: Programs, root: Callable[[str], str]) -> tuple[Call, ...]:
    """The call of a node. `root` says which value owns the bytes of a value."""
    (node,) = group.nodes
    (x,), (values, places), sizes = node.operands, node.outputs, lines(node)
    inner = sizes["J"] != 1
    wanted = values.shape[int(node.attr("axis"))]
    make = _by_rank if _is_most(sizes["N"], wanted) else _by_champions
    program = make(node, role_of(x, graph), inner, {v.name for v in group.outputs})
    size = _block(sizes["N"])
    sizes |= {"K": wanted, "S": size, "B": ceildiv(sizes["N"], size)}
    operands = {"x": root(x.name), "v": root(values.name), "p": root(places.name)}
    return (
        call(
            node,
            programs.intern(program, node.op),
            {n: v for n, v in operands.items() if n in program.operand},
            {n: d for n, d in sizes.items() if n in program.params},
        ),
    )


def _block(n: Extent) -> Extent:
    """Elements of a block: no fewer than there are blocks."""
    if isinstance(n, int):
        return ceildiv(math.isqrt(max(0, n - 1)) + 1, UNIT) * UNIT
    return maximum(2 * UNIT, ceildiv(n, 2 * UNIT))


def _is_most(n: Extent, wanted: Extent) -> bool:
    """Whether counting the ranks of all takes less than finding so many, one after the other (AVX2, Zen: each takes as long
    as 800 comparisons)."""
    return isinstance(n, int) and isinstance(wanted, int) and n * n < 800 * wanted


def _by_champions(node: Node, role: str, inner: bool, stored: set[str]) -> TileProgram:
    dtype, largest = node.operands[0].dtype, bool(node.attr("largest"))
    col: tuple[Extent, ...] = (j,) if inner else ()
    cols: tuple[Extent, ...] = (J,) if inner else ()
    axes: tuple[str, ...] = ("j",) if inner else ()
    fold, full = (Axis("e", S),), floordiv(N, S)

    def blocks(axis: Axis, start: Extent, fill: Const | None) -> tuple[Stage, Stage]:
        """The stages of the blocks from `start` on; `fill` is for places beyond the end."""
        here = start + symbol(axis.name)
        ranked = _with_place(_key(Load("x", (o, here * S + e, *col), dtype, fill), largest), here * S + e)
        first = Fold("first", "max", (Load("h", (o, here, e, *col), DType.I64),))
        return (
            Stage(("o", axis, *fold, *axes), (), (Store("h", (o, here, e, *col), ranked),)),
            Stage(("o", axis, *axes), fold, (first, Store("m", (o, here, *col), Ref("first", DType.I64)))),
        )

    last = _limit(dtype, largest)
    none = Stage(("o", Axis("r", S - B), *axes), (), (Store("m", (o, B + r, *col), LEAST),))

    best, found, block = (Ref(n, DType.I64) for n in ("best", "found", "block"))
    rival = Load("h", (o, block, e, *col), DType.I64)
    body: list[Statement] = [
        Fold("best", "max", (Load("m", (o, e, *col), DType.I64),)),
        Let("found", prim("sub", Const(LOW, DType.I64), prim("bitand", best, Const(LOW, DType.I64)))),
        Let("block", cast(prim("div", cast(found, DType.U32), cast(Index(S), DType.U32)), DType.I64)),
        Fold("next", "max", (prim("where", prim("lt", rival, best), rival, LEAST),)),
    ]
    stores, outputs = _results(node, stored, found, inner)
    body += stores
    body.append(Store("m", (o, block, *col), Ref("next", DType.I64)))
    taken = Stage(("o", Axis("k", K), *axes), fold, tuple(body))
    operands = (
        Operand("x", role, dtype, (O, N, *cols)),
        Operand("h", "local", DType.I64, (O, B, S, *cols)),
        Operand("m", "local", DType.I64, (O, S, *cols)),
        *outputs,
    )
    task = (Axis("o", O), Axis("j", J)) if inner else (Axis("o", O),)
    params = ("O", "N", "J", "K", "B", "S") if inner else ("O", "N", "K", "B", "S")
    stages = (*blocks(Axis("b", full), 0, None), *blocks(Axis("t", B - full), full, last), none, taken)
    return TileProgram("", params, task, operands, stages)


def _by_rank(node: Node, role: str, inner: bool, stored: set[str]) -> TileProgram:
    dtype, n = node.operands[0].dtype, symbol("n")
    col: tuple[Extent, ...] = (j,) if inner else ()
    cols: tuple[Extent, ...] = (J,) if inner else ()
    axes: tuple[str, ...] = ("j",) if inner else ()
    line: tuple[str | Axis, ...] = ("o", Axis("n", N), *axes)
    key = _with_place(_key(Load("x", (o, n, *col), dtype), bool(node.attr("largest"))), n)
    one, other = (Load("h", (o, at, *col), DType.I64) for at in (n, e))
    before = prim("where", prim("gt", other, one), Const(1, DType.I64), Const(0, DType.I64))
    rank = Load("r", (o, n, *col), DType.I64)
    found = Ref("found", DType.I64)
    stores, outputs = _results(node, stored, found, inner)
    stages = (
        Stage(line, (), (Store("h", (o, n, *col), key),)),
        Stage(line, (Axis("e", N),), (Fold("t", "sum", (before,)), Store("r", (o, n, *col), Ref("t", DType.I64)))),
        Stage(line, (), (Store("s", (o, rank, *col), Index(n)),)),
        Stage(("o", Axis("k", K), *axes), (), (Let("found", Load("s", (o, k, *col), DType.I64)), *stores)),
    )
    operands = (
        Operand("x", role, dtype, (O, N, *cols)),
        *(Operand(name, "local", DType.I64, (O, N, *cols)) for name in "hrs"),
        *outputs,
    )
    task = (Axis("o", O), Axis("j", J)) if inner else (Axis("o", O),)
    return TileProgram("", ("O", "N", "J", "K") if inner else ("O", "N", "K"), task, operands, stages)


def _results(node: Node, stored: set[str], found: Expr, inner: bool) -> tuple[list[Statement], list[Operand]]:
    """What is stored at `k` of the element at a place that was found, and where."""
    dtype = node.operands[0].dtype
    col: tuple[Extent, ...] = (j,) if inner else ()
    cols: tuple[Extent, ...] = (J,) if inner else ()
    stores, outputs = list[Statement](), list[Operand]()
    results: tuple[Expr, Expr] = (Load("x", (o, found, *col), dtype), found)
    for v, name, value in zip(node.outputs, "vp", results, strict=True):
        if v.name in stored:
            stores.append(Store(name, (o, k, *col), value))
            outputs.append(Operand(name, "output", v.dtype, (O, K, *cols)))
    return stores, outputs


def _limit(dtype: DType, largest: bool) -> Const:
    """What comes after all others but those of its own kind."""
    low, high = limits(dtype)
    return Const(low if largest else math.nan if dtype.is_float else high, dtype)


def _key(x: Expr, largest: bool) -> Expr:
    """An i64 of 32 bits and a sign that sorts like x, or the other way round. The bits of floats sort like them, with a
    sign; those below zero backwards."""
    if x.dtype.is_float:
        wide = cast(x, DType.F32)
        pattern = prim("bits", prim("add", wide, Const(0.0, DType.F32)))  # -0 becomes 0
        below = prim("shr", pattern, Const(31, DType.I32))
        ordered = prim("bitxor", pattern, prim("bitand", below, Const(0x7FFF_FFFF, DType.I32)))
        x = prim("where", prim("isnan", wide), Const(NAN, DType.I32), ordered)
    key = cast(x, DType.I64)
    if x.dtype is DType.U32:
        key = prim("sub", key, Const(1 << 31, DType.I64))
    return key if largest else prim("bitnot", key)


def _with_place(key: Expr, place: Extent) -> Expr:
    """The key above a place that counts down."""
    return prim("bitor", prim("shl", key, Const(32, DType.I64)), prim("sub", Const(LOW, DType.I64), Index(place)))
