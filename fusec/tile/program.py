"""TileProgram: what one fused group computes. No tile sizes, no target, no memory, no model-specific numbers.

A *task* is a tile of the task axes and of nothing else. The *stages* run one after the other within a task; each is a
perfect nest over its own axes, with at most one set of fold axes inside; stages meet in `local` operands, which exist once
per task. So a softmax is three stages over one row, a GEMM is one, a chain of two GEMMs is two that meet in a panel, and
attention is a GEMM, the stages of a softmax and a GEMM again:

    program chain(M, K, L, N)
    task m: M
    input x: f32[M, K], v: f32[L, N]
    weight w: f32[K, L]
    local h: f32[M, L]
    output y: f32[M, N]
    stage m, l: L
      t = sum[k: K](x[m, k] * w[k, l])
      h[m, l] = max(t, 0.0)
    stage m, n: N
      u = sum[l: L](h[m, l] * v[l, n])
      y[m, n] = u

Every extent is a polynomial over the program's *parameters*; a Call binds them to dimensions of the model, so layers and
batch sizes share programs, and with them compiled kernels.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

from fusec.ir.dim import Extent
from fusec.ir.expr import Expr, Load, walk
from fusec.ir.types import DType

ROLES = ("input", "weight", "output", "inout", "scalar", "local")


@dataclass(frozen=True, slots=True)
class Axis:
    """A loop index 0 <= name < extent. `sequential` task axes run their tiles in order (recurrent cells)."""

    name: str
    extent: Extent
    sequential: bool = False


@dataclass(frozen=True, slots=True)
class Operand:
    """What a stage reads or writes.

    Roles: input (made by another kernel or the caller), weight (constant, its layout is ours to choose), output (every
    element is written exactly once), inout (updated in place), scalar (one number, passed by value; shape ()), local (one
    per task; its shape is written in full, but only the part that the task's tile touches exists).
    """

    name: str
    role: str
    dtype: DType
    shape: tuple[Extent, ...]


@dataclass(frozen=True, slots=True)
class Let:
    """A name for an expression at the current index."""

    name: str
    value: Expr


@dataclass(frozen=True, slots=True)
class Fold:
    """A reduction over the stage's fold axes (see tile.fold for the monoids). `name` is its first result."""

    name: str
    monoid: str
    args: tuple[Expr, ...]


@dataclass(frozen=True, slots=True)
class Store:
    """Write one element per point of the stage's axes; a `partial` one writes nothing where its index is outside."""

    operand: str
    index: tuple[Extent | Expr, ...]
    value: Expr
    partial: bool = False


Statement = Let | Fold | Store


@dataclass(frozen=True, slots=True)
class Stage:
    """A perfect nest.

    `axes` are the names of the task axes that it runs over (the tile's part of each) and its own axes (their whole
    extent), outermost first. `folds` are the fold axes; each Fold runs over all of them. A Let that a Fold's arguments
    need is evaluated inside the fold loops if it mentions a fold axis. Stores come after the folds and see their results.
    """

    axes: tuple[str | Axis, ...]
    folds: tuple[Axis, ...]
    body: tuple[Statement, ...]

    @property
    def own(self) -> tuple[Axis, ...]:
        """The axes that belong to this stage alone, without the fold axes."""
        return tuple(a for a in self.axes if isinstance(a, Axis))

    @property
    def axis_names(self) -> tuple[str, ...]:
        """Names of all axes but the fold axes, outermost first."""
        return tuple(a if isinstance(a, str) else a.name for a in self.axes)

    @property
    def stores(self) -> tuple[Store, ...]:
        """The stores of the body."""
        return tuple(s for s in self.body if isinstance(s, Store))

    @property
    def scattered(self) -> frozenset[str]:
        """Operands that are written at places read from memory: points that differ in other axes alone may meet there."""
        return frozenset(s.operand for s in self.stores if any(map(is_expr, s.index)))

    def ordered(self) -> tuple[str, ...]:
        """Axes along which points must follow each other, since a store at places read from memory is not told them."""
        stores = [s for s in self.stores if s.operand in self.scattered]
        free = [{str(i) for i in s.index if not is_expr(i)} for s in stores]
        return tuple(a for a in self.axis_names if any(a not in f for f in free))

    def loads(self) -> Iterator[Load]:
        """Every load, also those inside the indices of others."""
        for e in self.expressions():
            yield from (x for x in walk(e) if isinstance(x, Load))

    def expressions(self) -> Iterator[Expr]:
        """The expressions of all statements, the indices of stores included where they are expressions."""
        for s in self.body:
            match s:
                case Let(_, value):
                    yield value
                case Fold(_, _, args):
                    yield from args
                case Store(_, index, value, _):
                    yield value
                    yield from (i for i in index if isinstance(i, Expr))


def is_expr(i: Extent | Expr) -> bool:
    """An index entry that is read from memory rather than a polynomial."""
    from fusec.ir.dim import Dim

    return not isinstance(i, int | Dim)


@dataclass(frozen=True)
class TileProgram:
    """Task axes, operands and stages; `params` are the symbols that extents, shapes and indices may use besides axes."""

    name: str
    params: tuple[str, ...]
    axes: tuple[Axis, ...]
    operands: tuple[Operand, ...]
    stages: tuple[Stage, ...]

    @cached_property
    def operand(self) -> dict[str, Operand]:
        """Operands by name."""
        return {o.name: o for o in self.operands}

    @cached_property
    def axis(self) -> dict[str, Axis]:
        """Every axis of the program by name: names are unique across stages unless they mean the same extent."""
        own = {a.name: a for s in self.stages for a in (*s.own, *s.folds)}
        return own | {a.name: a for a in self.axes}

    def __str__(self) -> str:
        from fusec.tile.text import print_program

        return print_program(self)
