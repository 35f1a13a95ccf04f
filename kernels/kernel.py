"""Kernel = TileProgram + Tiling, and what it answers once its parameters are numbers: tiles, boxes, cost.

Also what every back end takes and gives: a Kernel becomes a Source (text for a compiler and the argument slots it
expects), a Source becomes a Binary. These types know no target beyond its printed name.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import numpy.typing as npt

from fusec.errors import BugError
from fusec.ir.dim import Extent, evaluate, linear
from fusec.ir.expr import Load, Prim, walk
from fusec.kernels.layout import Layout
from fusec.tile.program import Stage, TileProgram, is_expr

IntArray = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class StageTiling:
    """How one stage is emitted.

    `template` is "nest" (a loop nest, vectorised along `lane`, a stage or a fold axis, or scalar where it is "") or
    "contract" (register tiles of `rows` by `vectors` vector registers; the lane is the last axis of the stage).
    """

    template: str
    lane: str = ""
    rows: int = 1
    vectors: int = 1


@dataclass(frozen=True, slots=True)
class Guard:
    """The kernel is for bindings with `low <= param <= high`; `high` None is no limit."""

    param: str
    low: int
    high: int | None

    def admits(self, env: Mapping[str, int]) -> bool:
        """Whether a binding is inside."""
        return self.low <= env[self.param] and (self.high is None or env[self.param] <= self.high)


@dataclass(frozen=True, slots=True)
class Tiling:
    """Every choice for one program, and nothing else.

    `tile` gives the tile's extent per task axis as a polynomial over the parameters: run-time numbers, no compiler. The
    other fields change code: one StageTiling per stage, layouts of operands (absent: row-major), and the guard.
    """

    tile: tuple[tuple[str, Extent], ...]
    stages: tuple[StageTiling, ...]
    layouts: tuple[tuple[str, Layout], ...] = ()
    guard: Guard | None = None


@dataclass(frozen=True)
class Kernel:
    """A program with its choices made."""

    program: TileProgram
    tiling: Tiling

    @cached_property
    def layouts(self) -> dict[str, Layout]:
        """Operand -> physical layout, for all operands."""
        chosen = dict(self.tiling.layouts)
        return {o.name: chosen.get(o.name, Layout.row_major(len(o.shape))) for o in self.program.operands}

    def bind(self, params: Mapping[str, int]) -> BoundKernel:
        """The kernel for given extents."""
        return BoundKernel(self, dict(params))


@dataclass(frozen=True, eq=False)
class BoundKernel:
    """A kernel whose parameters are integers. Tiles are numbered row-major over the task axes, in their order."""

    kernel: Kernel
    params: dict[str, int]

    @cached_property
    def extents(self) -> dict[str, int]:
        """Axis name -> extent."""
        return {n: evaluate(a.extent, self.params) for n, a in self.kernel.program.axis.items()}

    @cached_property
    def tile(self) -> dict[str, int]:
        """Task axis -> tile extent, within 1 and the axis' extent."""
        chosen = dict(self.kernel.tiling.tile)
        return {
            a.name: max(1, min(evaluate(chosen.get(a.name, a.extent), self.params), self.extents[a.name]))
            for a in self.kernel.program.axes
        }

    @cached_property
    def grid(self) -> tuple[int, ...]:
        """Tiles per task axis; a zero extent gives no tile."""
        return tuple(-(-self.extents[a] // t) for a, t in self.tile.items())

    @property
    def tiles(self) -> int:
        """The number of tiles."""
        n = 1
        for g in self.grid:
            n *= g
        return n

    @cached_property
    def environment(self) -> dict[str, int]:
        """What argument slots are evaluated in: parameters and, as `tile_<axis>`, the tile extents."""
        return self.params | {f"tile_{a}": t for a, t in self.tile.items()}

    @cached_property
    def coordinates(self) -> IntArray:
        """int64[tiles, task axes]: tile coordinates of each tile."""
        return np.indices(self.grid, dtype=np.int64).reshape(len(self.grid), -1).T

    @cached_property
    def spans(self) -> dict[str, tuple[IntArray, IntArray]]:
        """Axis -> half-open interval [low, high) of its index, an entry per tile."""
        out = {}
        for j, (a, t) in enumerate(self.tile.items()):
            low = self.coordinates[:, j] * t
            out[a] = low, np.minimum(low + t, self.extents[a])
        zero = np.zeros(self.tiles, np.int64)
        for a, n in self.extents.items():
            if a not in out:
                out[a] = zero, zero + n
        return out

    def shape(self, operand: str) -> tuple[int, ...]:
        """The logical shape of an operand."""
        return tuple(evaluate(d, self.params) for d in self.kernel.program.operand[operand].shape)

    @cached_property
    def reads(self) -> dict[str, IntArray]:
        """Operand -> int64[tiles, dims, 2], the hull of what each tile reads of it. Locals and scalars are left out."""
        return self._boxes(write=False)

    @cached_property
    def writes(self) -> dict[str, IntArray]:
        """Operand -> int64[tiles, dims, 2], the hull of what each tile writes of it."""
        return self._boxes(write=True)

    @cached_property
    def flops(self) -> float:
        """Arithmetic operations of one average tile; a transcendental counts as 20."""
        return sum(_points(self, s, e, inner) * _flops(e) for s, e, inner in _statements(self.kernel.program)) / max(1, self.tiles)

    @cached_property
    def bytes(self) -> float:
        """Bytes that one average tile reads and writes, each element counted once."""
        total = 0.0
        for boxes in (self.reads, self.writes):
            for name, box in boxes.items():
                size = self.kernel.program.operand[name].dtype.itemsize
                total += float((box[:, :, 1] - box[:, :, 0]).prod(1).sum()) * size
        return total / max(1, self.tiles)

    def _boxes(self, write: bool) -> dict[str, IntArray]:
        out: dict[str, IntArray] = {}
        for stage in self.kernel.program.stages:
            accesses = [(s.operand, s.index) for s in stage.stores] if write else [(x.operand, x.index) for x in stage.loads()]
            for operand, index in accesses:
                if self.kernel.program.operand[operand].role in ("local", "scalar"):
                    continue
                box = self._hull(operand, index)
                if operand in out:
                    box = np.stack([np.minimum(out[operand][..., 0], box[..., 0]), np.maximum(out[operand][..., 1], box[..., 1])], -1)
                out[operand] = box
        return out

    def _hull(self, operand: str, index: tuple[object, ...]) -> IntArray:
        shape, out = self.shape(operand), np.empty((self.tiles, len(index), 2), np.int64)
        for d, i in enumerate(index):
            low, high = (np.zeros(self.tiles, np.int64), np.full(self.tiles, shape[d])) if is_expr(i) else self.interval(i)  # type: ignore[arg-type]
            out[:, d, 0] = np.clip(low, 0, shape[d])
            out[:, d, 1] = np.clip(high, out[:, d, 0], shape[d])
        return out

    def interval(self, index: Extent) -> tuple[IntArray, IntArray]:
        """The half-open interval of an index polynomial per tile; of one that is not affine in the axes, everything."""
        split = linear(index, self.spans)
        zero = np.zeros(self.tiles, np.int64)
        if split is None:
            return zero, zero + np.iinfo(np.int64).max
        low = zero + evaluate(split[0], self.params)
        high = low.copy()
        for name, c in split[1].items():
            k, (a, b) = evaluate(c, self.params), self.spans[name]
            low, high = low + np.minimum(k * a, k * (b - 1)), high + np.maximum(k * a, k * (b - 1))
        return low, high + 1


def _statements(p: TileProgram) -> list[tuple[Stage, object, bool]]:
    from fusec.tile.program import Fold, Let, Store

    out: list[tuple[Stage, object, bool]] = []
    for stage in p.stages:
        for s in stage.body:
            match s:
                case Let(_, value):
                    out.append((stage, value, bool(stage.folds)))
                case Fold(_, _, args):
                    out += [(stage, e, True) for e in args]
                case Store(_, _, value):
                    out.append((stage, value, False))
    return out


def _points(k: BoundKernel, stage: Stage, _: object, inner: bool) -> float:
    n = 1.0
    for a in (*stage.axis_names, *((f.name for f in stage.folds) if inner else ())):
        n *= k.extents[a]
    return n


def _flops(e: object) -> float:
    from fusec.ir.expr import TRANSCENDENTAL, Expr

    if not isinstance(e, Expr):
        raise BugError(f"not an expression: {e!r}")
    return 1.0 + sum(20.0 if x.name in TRANSCENDENTAL else 1.0 for x in walk(e) if isinstance(x, Prim))


@dataclass(frozen=True, slots=True)
class Slot:
    """One 64-bit word of a kernel's argument block.

    kind "pointer": the address of operand `name`'s first element. "extent": the integer `extent` evaluated in
    `BoundKernel.environment`. "scalar": the bits of scalar operand `name`, in its dtype, zero-extended. "status": the
    address of the frame's status word (see runtime).
    """

    kind: str
    name: str = ""
    extent: Extent = 0


@dataclass(frozen=True, slots=True)
class Source:
    """What a back end emits for a Kernel.

    `text` is the compiler's input, `entry` the symbol in it: `void entry(i64* slots, i64 first_tile, i64 count,
    i8* scratch)` on a CPU. `slots` says what the argument block holds, `scratch` how many bytes of 64-byte aligned
    private memory a worker lends it, evaluated like a slot.
    """

    text: str
    entry: str
    slots: tuple[Slot, ...]
    scratch: Extent


@dataclass(frozen=True, slots=True)
class Binary:
    """Machine code of one kernel class: bytes for the loader and their SHA-256, with what calling it needs."""

    code: bytes
    sha256: str
    entry: str
    slots: tuple[Slot, ...]
    scratch: Extent


@dataclass(frozen=True, slots=True)
class Call:
    """One use of a program: what its operands and parameters are in a model.

    `operands`: program operand -> graph value (or weight) name. `params`: parameter -> dimension of the graph.
    `scalars`: scalar operand -> Python number. `label` is for people; `origin` are the ONNX nodes that it computes.
    """

    label: str
    program: TileProgram
    operands: tuple[tuple[str, str], ...]
    params: tuple[tuple[str, Extent], ...]
    scalars: tuple[tuple[str, float | int | bool], ...] = ()
    origin: tuple[str, ...] = field(default=(), compare=False)


def loads_of(stage: Stage, operand: str) -> list[Load]:
    """The loads of one operand in a stage."""
    return [x for x in stage.loads() if x.operand == operand]
