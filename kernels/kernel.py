"""Kernel = TileProgram + Tiling, and what it answers once its parameters are numbers: tiles, boxes, cost.

Also what every back end takes and gives: a Kernel becomes a Source (text for a compiler and the argument slots it
expects), a Source becomes a Binary. These types know no target beyond its printed name.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from math import prod

import numpy as np
import numpy.typing as npt

from fusec.ir.dim import Dim, Extent, evaluate, linear
from fusec.ir.expr import Expr, Index, Load, Prim, walk
from fusec.ir.interval import interval
from fusec.kernels.layout import Layout
from fusec.tile.program import Stage, TileProgram

IntArray = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class StageTiling:
    """How one stage is emitted.

    `template` is "nest" (a loop nest, vectorised along `lane`, a stage or a fold axis, or scalar where it is "") or
    "contract" (register tiles of `rows` by `vectors` vector registers; the lane is the last axis of the stage;
    where it is the last fold axis, the tile has `vectors` columns, and vectors lie along the sum).
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


@dataclass(frozen=True, slots=True)
class Access:
    """An operand with its index.

    Each dimension is split into (rest, {axis: coefficient}), a polynomial where it is not affine, None where it is read
    from memory.
    """

    operand: str
    index: tuple[tuple[Extent, dict[str, Extent]] | Extent | None, ...]


@dataclass(frozen=True, slots=True)
class Entry:
    """A polynomial that a stage evaluates: dimension `dim` of the index of a load or a store, or a value (operand "").

    Machine code checks a `guarded` one itself: outside, the load yields its fill value and the store writes nothing.
    """

    operand: str
    dim: int
    index: Extent
    guarded: bool


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

    @cached_property
    def keeps(self) -> bool:
        """Whether a worker keeps weights from one tile to the next, where these are alike: then it should run such tiles."""
        return any(t.template == "resident" for t in self.tiling.stages)

    @cached_property
    def reads(self) -> tuple[Access, ...]:
        """What the stages load of operands in memory, equal accesses once."""
        loads = ((x.operand, x.index) for stage in self.program.stages for x in stage.loads())
        return self._accesses(dict.fromkeys(loads))

    @cached_property
    def writes(self) -> tuple[Access, ...]:
        """What the stages store to operands in memory."""
        stores = ((x.operand, x.index) for stage in self.program.stages for x in stage.stores)
        return self._accesses(dict.fromkeys(stores))

    @cached_property
    def entries(self) -> tuple[Entry, ...]:
        """Every index polynomial of the program, equal ones once. Entries that are read from memory are left out."""
        found = dict[Entry, None]()
        for stage in self.program.stages:
            accesses = [(s.operand, s.index, s.partial) for s in stage.stores]
            for x in (x for e in stage.expressions() for x in walk(e)):
                if isinstance(x, Load):
                    accesses.append((x.operand, x.index, x.fill is not None))
                elif isinstance(x, Index):
                    found[Entry("", 0, x.value, True)] = None
            for operand, index, guarded in accesses:
                for d, i in enumerate(index):
                    if isinstance(i, int | Dim):
                        found[Entry(operand, d, i, guarded)] = None
        return tuple(found)

    def _accesses(self, found: Iterable[tuple[str, tuple[Extent | Expr, ...]]]) -> tuple[Access, ...]:
        axes, operands = self.program.axis, self.program.operand
        return tuple(
            Access(name, tuple(_split(i, axes) for i in index))
            for name, index in found
            if operands[name].role not in ("local", "scalar")
        )

    def bind(self, params: Mapping[str, int], most: Mapping[str, int] | None = None) -> BoundKernel:
        """The kernel for given extents; `most` limits tiles along some task axes."""
        return BoundKernel(self, dict(params), dict(most or {}))


def _split(i: Extent | Expr, axes: Iterable[str]) -> tuple[Extent, dict[str, Extent]] | Extent | None:
    return linear(i, axes) or i if isinstance(i, int | Dim) else None


@dataclass(frozen=True, eq=False)
class BoundKernel:
    """A kernel whose parameters are integers. Tiles are numbered row-major over the task axes, in their order."""

    kernel: Kernel
    params: dict[str, int]
    most: dict[str, int] = field(default_factory=dict)
    """Task axis -> a tile's extent at most, where a call asks for smaller tiles than its tiling."""

    @cached_property
    def extents(self) -> dict[str, int]:
        """Axis name -> extent."""
        return {n: evaluate(a.extent, self.params) for n, a in self.kernel.program.axis.items()}

    @cached_property
    def tile(self) -> dict[str, int]:
        """Task axis -> tile extent, within 1 and the axis' extent."""
        chosen = dict(self.kernel.tiling.tile)
        return {
            a.name: max(
                1,
                min(
                    evaluate(chosen.get(a.name, a.extent), self.params),
                    self.extents[a.name],
                    self.most.get(a.name, self.extents[a.name]),
                ),
            )
            for a in self.kernel.program.axes
        }

    @cached_property
    def grid(self) -> tuple[int, ...]:
        """Tiles per task axis; a zero extent gives no tile."""
        return tuple(-(-self.extents[a] // t) for a, t in self.tile.items())

    @cached_property
    def tiles(self) -> int:
        """The number of tiles."""
        return prod(self.grid)

    @cached_property
    def environment(self) -> dict[str, int]:
        """What argument slots are evaluated in: parameters and, as `tile_<axis>`, the tile extents."""
        return self.params | {f"tile_{a}": t for a, t in self.tile.items()}

    @cached_property
    def coordinates(self) -> IntArray:
        """int64[tiles, task axes]: tile coordinates of each tile."""
        return np.indices(self.grid, dtype=np.int64).reshape(len(self.grid), self.tiles).T

    @cached_property
    def spans(self) -> dict[str, tuple[IntArray, IntArray]]:
        """Task axis -> half-open interval [low, high) of its index, an entry per tile. Other axes run in full."""
        out = {}
        for j, (a, t) in enumerate(self.tile.items()):
            extent = self.extents[a]
            low = self.coordinates[:, j] * t if t > 1 else self.coordinates[:, j]
            high = low + t
            out[a] = low, (high if extent % t == 0 else np.minimum(high, extent))
        return out

    @cached_property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Operand -> logical shape."""
        params = self.params
        return {o.name: tuple([evaluate(d, params) for d in o.shape]) for o in self.kernel.program.operands}

    def shape(self, operand: str) -> tuple[int, ...]:
        """The logical shape of an operand."""
        return self.shapes[operand]

    @cached_property
    def reads(self) -> dict[str, IntArray]:
        """Operand -> int64[tiles, dims, 2], the hull of what each tile reads of it. Locals and scalars are left out."""
        return self._boxes(self.kernel.reads)

    @cached_property
    def writes(self) -> dict[str, IntArray]:
        """Operand -> int64[tiles, dims, 2], the hull of what each tile writes of it."""
        return self._boxes(self.kernel.writes)

    @cached_property
    def flops(self) -> float:
        """Arithmetic operations of one average tile: a step of a sum of products is two, a transcendental 20."""
        statements = _statements(self.kernel.program)
        total = sum(_points(self, stage, inner) * (own + _flops(e)) for stage, own, e, inner in statements)
        return total / max(1, self.tiles)

    @cached_property
    def bytes(self) -> float:
        """Bytes that one average tile reads and writes, each element counted once; of gathered operands what is gathered."""
        total = 0.0
        for boxes in (self.reads, self.writes):
            for name, box in boxes.items():
                touched = float((box[:, :, 1] - box[:, :, 0]).prod(1).sum())
                touched = min(touched, self._gathered.get(name, touched))
                total += touched * self.kernel.program.operand[name].dtype.itemsize
        return total / max(1, self.tiles)

    @cached_property
    def footprint(self) -> dict[str, float]:
        """Operand -> bytes of it that all tiles together touch, each element counted once."""
        out: dict[str, float] = {}
        for boxes in (self.reads, self.writes):
            for name, box in boxes.items():
                touched = float((box[..., 1].max(0) - box[..., 0].min(0)).prod()) if len(box) else 0.0
                touched = min(touched, self._gathered.get(name, touched))
                size = touched * self.kernel.program.operand[name].dtype.itemsize
                out[name] = max(out.get(name, 0.0), size)
        return out

    @cached_property
    def _gathered(self) -> dict[str, float]:
        """Operand that is read through an index from memory -> how many elements all tiles ask for."""
        out: dict[str, float] = {}
        for stage in self.kernel.program.stages:
            for load in stage.loads():
                if not all(isinstance(i, int | Dim) for i in load.index):
                    out[load.operand] = out.get(load.operand, 0.0) + _points(self, stage, True)
        return out

    def _boxes(self, accesses: tuple[Access, ...]) -> dict[str, IntArray]:
        out: dict[str, IntArray] = {}
        for access in accesses:
            box = self._hull(access)
            old = out.get(access.operand)
            if old is not None:
                np.minimum(old[..., 0], box[..., 0], out=box[..., 0])
                np.maximum(old[..., 1], box[..., 1], out=box[..., 1])
            out[access.operand] = box
        return out

    def _hull(self, access: Access) -> IntArray:
        shape, out = self.shapes[access.operand], np.empty((self.tiles, len(access.index), 2), np.int64)
        for d, (split, size) in enumerate(zip(access.index, shape, strict=True)):
            if split is None:
                out[:, d] = 0, size
                continue
            if isinstance(split, tuple):
                low, high, is_inside = self._interval(*split, size)
            else:
                low, high, is_inside = *self.interval(split), False
            if not is_inside:
                low = np.clip(low, 0, size)
                high = np.clip(high, low, size)
            out[:, d, 0] = low
            out[:, d, 1] = high
        return out

    def interval(self, index: Extent) -> tuple[IntArray, IntArray]:
        """The half-open interval of any index polynomial, an entry per tile."""
        if not self.tiles:
            return np.zeros(0, np.int64), np.zeros(0, np.int64)
        ranges: dict[str, tuple[int, int] | tuple[IntArray, IntArray]] = {p: (n, n) for p, n in self.params.items()}
        ranges |= {a: (0, max(n, 1) - 1) for a, n in self.extents.items()}
        ranges |= {a: (low, high - 1) for a, (low, high) in self.spans.items()}
        low, high = interval(index, ranges)
        zero = np.zeros(self.tiles, np.int64)
        return zero + low, zero + high + 1

    def _interval(
        self, rest: Extent, coefficients: dict[str, Extent], size: int
    ) -> tuple[IntArray | int, IntArray | int, bool]:
        """The half-open interval of an affine index, integers where all tiles have the same; is it within 0 to `size`?

        The sum of k * (last index) + 1 is that of k * (end) plus an integer, so a plain axis costs no arithmetic at all.
        """
        start = evaluate(rest, self.params)
        least = most = start
        end, low_part, high_part = start + 1, list[IntArray](), list[IntArray]()
        for axis, coefficient in coefficients.items():
            k, extent = evaluate(coefficient, self.params), self.extents[axis]
            least, most = least + min(0, k * (extent - 1)), most + max(0, k * (extent - 1))
            if self.tile.get(axis, extent) >= extent:
                start, end = start + min(0, k * (extent - 1)), end + max(0, k * (extent - 1))
                continue
            a, b = self.spans[axis]
            low_part.append(k * a if k > 1 else a if k == 1 else k * b)
            high_part.append(k * b if k > 1 else b if k == 1 else k * a)
            start, end = (start, end - k) if k > 0 else (start - k, end)
        low, high = _sum(low_part, start), _sum(high_part, end)
        return low, high, least >= 0 and most < size


def _sum(parts: list[IntArray], constant: int) -> IntArray | int:
    total: IntArray | int = constant
    for i, part in enumerate(parts):
        total = part if i == 0 and constant == 0 else total + part
    return total


def _statements(p: TileProgram) -> list[tuple[Stage, float, Expr, bool]]:
    """Of every statement its stage, what it does besides its expression, and whether that is for each step of the folds."""
    from fusec.tile.program import Fold, Let, Store

    out: list[tuple[Stage, float, Expr, bool]] = []
    for stage in p.stages:
        inner = bool(stage.folds)
        for s in stage.body:
            match s:
                case Let(_, value):
                    out.append((stage, 0.0, value, inner))
                case Fold(_, _, args):
                    out += [(stage, 1.0, e, True) for e in args]
                    inner = False  # what follows uses the result
                case Store(_, _, value, _):
                    out.append((stage, 0.0, value, False))
    return out


def _points(k: BoundKernel, stage: Stage, inner: bool) -> float:
    n = 1.0
    for a in (*stage.axis_names, *((f.name for f in stage.folds) if inner else ())):
        n *= k.extents[a]
    return n


def _flops(e: Expr) -> float:
    from fusec.ir.expr import TRANSCENDENTAL

    return sum(20.0 if x.name in TRANSCENDENTAL else 1.0 for x in walk(e) if isinstance(x, Prim))


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
    private memory a worker lends it, evaluated like a slot; `shared` likewise of memory that a worker's threads share, where
    a device has such. The last `kept` bytes of that stay as they are from one call to the next: a function `<entry>_keep`
    brings them.
    """

    text: str
    entry: str
    slots: tuple[Slot, ...]
    scratch: Extent
    shared: Extent = 0
    kept: int = 0


@dataclass(frozen=True, slots=True)
class Binary:
    """Machine code of one kernel class: bytes for the loader and their SHA-256, with what calling it needs."""

    code: bytes
    sha256: str
    entry: str
    slots: tuple[Slot, ...]
    scratch: Extent
    shared: Extent = 0


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
