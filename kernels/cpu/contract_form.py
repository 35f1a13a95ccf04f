"""Recognising a contraction: a stage whose fold is `sum[..](A * B)` with A independent of the columns and B of the rows.

A matrix product folds one axis; a convolution folds the positions of its window, the *taps*, and the channels. Pure
analysis of a tile program: tiling asks it whether the template fits, the emitter what to read and what comes after.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from fusec.ir.dim import Dim, Extent, ceildiv, linear, product, symbol, symbols_of
from fusec.ir.expr import Const, Expr, Index, Load, Prim, Ref, cast, replace_refs, walk
from fusec.ir.types import DType
from fusec.tile.program import Axis, Fold, Let, Stage, Statement, Store, TileProgram

ACCUMULATORS = {
    DType.F32: DType.F32, DType.F16: DType.F32, DType.BF16: DType.F32, DType.F64: DType.F64,
    DType.I32: DType.I32, DType.U32: DType.U32, DType.I64: DType.I64, DType.U64: DType.U64,
}  # fmt: skip
"""What products of a dtype are summed in; dtypes that are missing have no contraction template."""


SHORT_INTEGERS = frozenset([DType.I8, DType.U8, DType.I16])
"""Dtypes whose elements fit into 16 signed bits: an instruction multiplies pairs of those and adds the products."""

MOST_WRITTEN_OUT = 1 << 12
"""Parts of the product of a contraction; what is larger runs as a loop nest, which evaluates each let once."""


@dataclass(frozen=True, slots=True)
class Contraction:
    """A stage as a matrix product: `fold` = sum over taps and k of `left[m, .., k] * right[.., k, n]`, for each index of
    the batch axes.

    `m` is "" where the stage has a single axis. `k` is the innermost fold axis, `taps` are those around it. `left` and
    `right` mention no lets and have the accumulator's dtype. `epilogue` are the statements after the product, which know
    the fold as a Ref.
    """

    batch: tuple[str, ...]
    m: str
    n: str
    taps: tuple[Axis, ...]
    k: Axis
    fold: str
    result: DType
    dtype: DType
    left: Expr
    right: Expr
    epilogue: tuple[Statement, ...]

    @property
    def folds(self) -> tuple[Axis, ...]:
        """All fold axes, outermost first."""
        return (*self.taps, self.k)

    @property
    def depth(self) -> Extent:
        """How many products are summed."""
        return product(a.extent for a in self.folds)

    @property
    def pairs(self) -> bool:
        """Whether both factors were widened from at most 16 bits, so that two products are summed at a time."""
        return self.dtype is DType.I32 and all(_is_short(e) for e in (self.left, self.right))

    @property
    def steps(self) -> Extent:
        """In how many steps the products are summed: two at a time in pairs."""
        return ceildiv(self.depth, 2) if self.pairs else self.depth

    @property
    def place(self) -> Extent:
        """The number of a product within the sum: the fold axes row-major."""
        return row_major([symbol(a.name) for a in self.folds], self.folds)


def row_major(index: Sequence[Extent], axes: Sequence[Axis]) -> Extent:
    """The number of a point of some axes, the last one running fastest."""
    place: Extent = 0
    for i, a in zip(index, axes, strict=True):
        place = place * a.extent + i
    return place


def contraction(stage: Stage) -> Contraction | None:
    """The stage as a contraction; None where it is anything else."""
    folds = [s for s in stage.body if isinstance(s, Fold)]
    if not stage.folds or len(folds) != 1 or not stage.axes:
        return None
    (fold,), (*taps, k) = folds, stage.folds
    *outer, n = stage.axis_names
    m = outer.pop() if outer else ""
    lets = {s.name: s.value for s in stage.body if isinstance(s, Let)}
    if fold.monoid != "sum" or len(fold.args) != 1 or fold.args[0].dtype not in ACCUMULATORS:
        return None
    if _written_out(fold.args[0], stage) > MOST_WRITTEN_OUT:
        return None
    product = inline(fold.args[0], lets)
    if not isinstance(product, Prim) or product.name != "mul":
        return None
    left, right = product.args
    if n in axes_of(left) or (m and m in axes_of(right)):
        left, right = right, left
    if n in axes_of(left) or (m and m in axes_of(right)):
        return None
    dtype = ACCUMULATORS[product.dtype]
    return Contraction(
        tuple(outer),
        m,
        n,
        tuple(taps),
        k,
        fold.name,
        product.dtype,
        dtype,
        cast(left, dtype),
        cast(right, dtype),
        _after(stage),
    )


def _written_out(e: Expr, stage: Stage) -> int:
    """The size of an expression with every let written out: chains of lets that use each other twice explode."""
    sizes: dict[str, int] = {}

    def size(x: Expr) -> int:
        return sum(sizes.get(y.name, 1) if isinstance(y, Ref) else 1 for y in walk(x))

    for s in stage.body:
        if isinstance(s, Let):
            sizes[s.name] = size(s.value)
    return size(e)


def inline(e: Expr, lets: Mapping[str, Expr]) -> Expr:
    """The expression with every let written out."""
    while any(isinstance(x, Ref) and x.name in lets for x in walk(e)):
        e = replace_refs(e, lets)
    return e


def axes_of(e: Expr) -> frozenset[str]:
    """The axes and parameters whose indices an expression without lets depends on."""
    found = set[str]()
    for x in walk(e):
        if isinstance(x, Index):
            found |= symbols_of(x.value)
        elif isinstance(x, Load):
            found |= {s for i in x.index if not isinstance(i, _EXPRESSIONS) for s in symbols_of(i)}
    return frozenset(found)


def before_widening(c: Contraction, e: Expr) -> Expr:
    """One side of a contraction as it is before it is widened for sums of pairs; itself where these are no pairs."""
    return e.args[0] if c.pairs and isinstance(e, Prim) else e


def _is_short(e: Expr) -> bool:
    return isinstance(e, Prim) and e.name == "cast" and e.args[0].dtype in SHORT_INTEGERS


def plain_load(e: Expr) -> tuple[str, tuple[Extent, ...]] | None:
    """Operand and index of a load that needs no arithmetic, no bounds check and no other load."""
    return direct_load(e) if isinstance(e, Load) and e.fill is None else None


def direct_load(e: Expr) -> tuple[str, tuple[Extent, ...]] | None:
    """Operand and index of a load that needs no arithmetic and no other load, but perhaps yields zeros outside."""
    if not isinstance(e, Load) or (e.fill is not None and e.fill.value != 0):
        return None
    index = tuple(i for i in e.index if not isinstance(i, _EXPRESSIONS))
    return (e.operand, index) if len(index) == len(e.index) else None


def panel_load(c: Contraction) -> str | None:
    """The operand that B reads as `w[.., k, n]`, so that it may lie in panels; None where B is anything else.

    With taps the second last index is the number of the product within the sum. The last one may be shifted.
    """
    load = plain_load(before_widening(c, c.right))
    if load is None or len(load[1]) < 2:
        return None
    operand, (*batch, k, n) = load
    own = {c.n, *(a.name for a in c.folds)}
    free = not any(symbols_of(i) & own for i in (*batch, n - symbol(c.n)))
    return operand if free and k == c.place else None


def stores_columns(program: TileProgram, c: Contraction) -> bool:
    """Whether all that is stored is contiguous along the rows and not along the columns, as an image with its channels in
    front is."""
    stores = [s for s in c.epilogue if isinstance(s, Store)]
    for s in stores:
        operand, place = program.operand[s.operand], dict[str, Extent]()
        for i, n in zip(s.index, operand.shape, strict=True):
            split = linear(i, [c.m, c.n]) if isinstance(i, int | Dim) else None
            if split is None:
                return False
            place = {a: place.get(a, 0) * n + split[1].get(a, 0) for a in (c.m, c.n)}
        if operand.role == "local" or place[c.m] != 1 or place[c.n] in (0, 1):
            return False
    return bool(stores and c.m)


_EXPRESSIONS = (Const, Ref, Index, Load, Prim)


def _after(stage: Stage) -> tuple[Statement, ...]:
    """Stores, and the lets that they need without looking through the fold."""
    lets = {s.name: s.value for s in stage.body if isinstance(s, Let)}
    todo: list[Expr] = [
        e for s in stage.stores for e in (s.value, *(i for i in s.index if isinstance(i, _EXPRESSIONS)))
    ]
    needed = set[str]()
    while todo:
        for x in walk(todo.pop()):
            if isinstance(x, Ref) and x.name in lets and x.name not in needed:
                needed.add(x.name)
                todo.append(lets[x.name])
    return tuple(s for s in stage.body if isinstance(s, Store) or (isinstance(s, Let) and s.name in needed))
