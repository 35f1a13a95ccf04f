"""What the emitters of one kernel share: argument slots, the current tile's bounds, where operands lie, scratch memory."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from fusec.errors import BugError
from fusec.ir.dim import Extent, ceildiv, product, symbol, symbols_of
from fusec.ir.types import DType
from fusec.kernels.cpu.builder import Builder, Value
from fusec.kernels.cpu.joined import lent_by_outputs
from fusec.kernels.cpu.vector import Arithmetic, memory_type
from fusec.kernels.kernel import Kernel, Slot
from fusec.kernels.layout import Layout, physical
from fusec.target import Isa
from fusec.tile.program import Operand, Stage

SCRATCH_ALIGNMENT = 64


@dataclass(frozen=True, slots=True)
class Storage:
    """Where an operand lies: element `index` of the logical tensor is at `pointer + offset(index)` elements.

    Offsets are polynomials over axes, parameters and the symbols that `Context.symbols` binds. `shape` is what guarded
    and indirect indices are checked against.
    """

    pointer: Value
    dtype: DType
    shape: tuple[Extent, ...]
    offset: Callable[[Sequence[Extent]], Extent]


class Context:
    """The state of one emission. `starts` and `ends` bound the current tile per task axis; slots are loaded at entry."""

    def __init__(self, kernel: Kernel, isa: Isa, builder: Builder) -> None:
        self.kernel = kernel
        self.program = kernel.program
        self.isa = isa
        self.b = builder
        self.arithmetic = Arithmetic(builder, isa)
        self.task_axes = frozenset(a.name for a in self.program.axes)
        self.starts: dict[str, Value] = {}
        self.ends: dict[str, Value] = {}
        self.symbols: dict[str, Value] = {}
        """Values of symbols besides parameters and axes: `start_<axis>` of task axes, and what emitters add."""
        self.slots: list[Slot] = []
        self.scratch_bytes: Extent = 0
        self._loaded: dict[Slot, Value] = {}
        self._storage: dict[str, Storage] = {}
        self._scalars: dict[str, Value] = {}
        self._dump: Value | None = None
        self._lent = lent_by_outputs(kernel.program) if all(t.template == "nest" for t in kernel.tiling.stages) else {}
        self._slots, self._scratch = builder.params[0], builder.params[3]

    # ---- arguments

    def slot(self, extent: Extent) -> Value:
        """A polynomial over parameters and `tile_<axis>` as an i64: a literal, or a slot loaded at entry."""
        return self.b.i64(extent) if isinstance(extent, int) else self._load(Slot("extent", extent=extent))

    def scalar(self, name: str) -> Value:
        """A scalar operand in register format."""
        found = self._scalars.get(name)
        if found is None:
            dtype = self.program.operand[name].dtype
            word = self._load(Slot("scalar", name))
            with self.b.at(self.b.entry):
                narrow = self.b.convert("trunc", word, f"i{8 * dtype.itemsize}")
                found = self.arithmetic.from_memory(self.b.bitcast(narrow, memory_type(dtype)), dtype)
            self._scalars[name] = found
        return found

    @property
    def status(self) -> Value:
        """The address of the status block: i64 code, call index, detail, spare."""
        return self._load(Slot("status"), "ptr")

    def _load(self, slot: Slot, type_: str = "i64") -> Value:
        found = self._loaded.get(slot)
        if found is None:
            with self.b.at(self.b.entry):
                place = self.b.gep(self._slots, self.b.i64(len(self.slots)), "i64")
                found = self._loaded[slot] = self.b.load(type_, place)
            self.slots.append(slot)
        return found

    # ---- loops

    def bounds(self, axis: str) -> tuple[Value, Value]:
        """The half-open range that an axis runs over in this tile: the tile's part of a task axis, else everything."""
        if axis in self.starts:
            return self.starts[axis], self.ends[axis]
        return self.b.i64(0), self.slot(self.program.axis[axis].extent)

    # ---- memory

    def scratch(self, size: Extent) -> Value:
        """The address of `size` more bytes of the worker's scratch memory, 64-byte aligned."""
        offset = self.scratch_bytes
        self.scratch_bytes = offset + ceildiv(size, SCRATCH_ALIGNMENT) * SCRATCH_ALIGNMENT
        at = self.slot(offset)
        with self.b.at(self.b.entry):
            return self.b.gep(self._scratch, at, "i8")

    @property
    def dump(self) -> Value:
        """An address in scratch where refused lanes may write anything."""
        if self._dump is None:
            self._dump = self.scratch(SCRATCH_ALIGNMENT)
        return self._dump

    def storage(self, name: str) -> Storage:
        """Where an operand lies."""
        found = self._storage.get(name)
        if found is None:
            found = self._storage[name] = self._place(self.program.operand[name])
        return found

    def add_storage(self, name: str, storage: Storage) -> None:
        """Make a name that is no operand of the program readable by loads and stores: an accumulator tile, a panel."""
        self._storage[name] = storage

    def _place(self, operand: Operand) -> Storage:
        if operand.role == "scalar":
            raise BugError(f"the scalar {operand.name!r} has no address")
        if operand.name in self._lent:
            return self.storage(self._lent[operand.name])
        if operand.role == "local":
            return self._place_local(operand)
        pointer = self._load(Slot("pointer", operand.name), "ptr")
        return Storage(
            pointer, operand.dtype, operand.shape, physical(self.kernel.layouts[operand.name], operand.shape)
        )

    def _place_local(self, operand: Operand) -> Storage:
        """A local exists per task: dimensions indexed by a task axis hold the tile's part, relative to its start."""
        shape = list(operand.shape)
        origin: list[Extent] = [0] * len(shape)
        for d, axis in self._tile_dimensions(operand.name).items():
            shape[d], origin[d] = symbol(f"tile_{axis}"), symbol(f"start_{axis}")
        pointer = self.scratch(product(shape) * operand.dtype.itemsize)
        dense = physical(Layout.row_major(len(shape)), shape)

        def offset(index: Sequence[Extent]) -> Extent:
            return dense([i - o for i, o in zip(index, origin, strict=True)])

        return Storage(pointer, operand.dtype, operand.shape, offset)

    def _tile_dimensions(self, name: str) -> dict[int, str]:
        out: dict[int, str] = {}
        for index in _indices(self.program.stages, name):
            for d, i in enumerate(index):
                axes = symbols_of(i) & self.task_axes
                if axes:
                    out[d] = min(axes)
        return out


def _indices(stages: Sequence[Stage], operand: str) -> list[tuple[Extent, ...]]:
    """The index polynomials of every access to an operand; entries read from memory count as 0."""
    from fusec.tile.program import is_expr

    accesses = [x.index for s in stages for x in s.loads() if x.operand == operand]
    accesses += [x.index for s in stages for x in s.stores if x.operand == operand]
    return [tuple(0 if is_expr(i) else i for i in index) for index in accesses]  # type: ignore[misc]
