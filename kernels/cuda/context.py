"""What the emitters of one kernel share: the function's text, argument slots, the tile's bounds, where operands lie."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from fusec.errors import BugError
from fusec.ir.dim import Dim, Extent, ceildiv, product, symbol, symbols_of
from fusec.ir.types import DType
from fusec.kernels.cuda.abi import KEPT_ALIGNMENT, SCRATCH_ALIGNMENT
from fusec.kernels.cuda.index import primitive_part, upper
from fusec.kernels.cuda.scalar import element_type, from_memory, value_type
from fusec.kernels.cuda.writer import Writer
from fusec.kernels.kernel import Kernel, Slot
from fusec.kernels.layout import Layout, physical
from fusec.target import Target
from fusec.tile.program import Operand

LINE = 16
"""Locals in shared memory are aligned to this: the widest access."""
SHARED_BYTES = 96 << 10
"""Shared memory that the locals of a kernel may take: two blocks still fit on a multiprocessor of Hopper."""


@dataclass(frozen=True, slots=True)
class Storage:
    """Where an operand lies: element `index` of the logical tensor is at `pointer[offset(index)]`.

    `pointer` is a C++ expression of type `element*`. Offsets are polynomials over axes, parameters and what
    `Context.symbols` binds; `relative` ones count from the start of the tile. `shape` is what guarded and indirect indices
    are checked against.
    """

    pointer: str
    dtype: DType
    shape: tuple[Extent, ...]
    offset: Callable[[Sequence[Extent]], Extent]
    relative: bool = False


class Context:
    """The state of one emission. `starts` and `ends` are the C++ names of the current tile's bounds, per task axis."""

    def __init__(self, kernel: Kernel, target: Target, local_bytes: int = SHARED_BYTES) -> None:
        self.kernel = kernel
        self.program = kernel.program
        self.target = target
        self.writer = Writer()
        self.task_axes = frozenset(a.name for a in self.program.axes)
        self.tile = dict(kernel.tiling.tile)
        self.starts: dict[str, str] = {}
        self.ends: dict[str, str] = {}
        self.symbols: dict[str, str] = {}
        """C++ names of symbols besides parameters and axes: `start_<axis>` of task axes, and what emitters add."""
        self.slots: list[Slot] = []
        self.scratch_bytes: Extent = 0
        self.shared_bytes = 0
        self.kept_bytes = 0
        self._local_bytes = local_bytes
        self._loaded: dict[tuple[Slot, str], str] = {}
        self._numbers: dict[Slot, int] = {}
        self._entry: list[str] = []
        self._storage: dict[str, Storage] = {}
        self._merging: dict[int, str] = {}

    # ---- arguments

    def slot(self, extent: Extent, wide: bool = False) -> str:
        """A polynomial over parameters and `tile_<axis>` as an fx_int (`wide`: a long long), loaded once at entry.

        Multiples of a polynomial share its slot: bodies with many planes would fill all registers with what lies between them.
        """
        if isinstance(extent, int):
            return f"{extent}ll" if wide else str(extent)
        factor, part = primitive_part(extent)
        slot = Slot("extent", extent=part)
        name = self._load(slot, "long long" if wide else "fx_int", f"fx_word(task, {self._number(slot)})")
        return name if factor == 1 else f"({factor} * {name})"

    def scalar(self, name: str) -> str:
        """A scalar operand as a value."""
        dtype = self.program.operand[name].dtype
        slot = Slot("scalar", name)
        element = f"fx_scalar<{element_type(dtype)}>(task, {self._number(slot)})"
        return self._load(slot, value_type(dtype), from_memory(element, dtype))

    @property
    def status(self) -> str:
        """The address of the status block: code, call index, detail, spare."""
        slot = Slot("status")
        return self._load(slot, "long long*", f"fx_pointer<long long>(task, {self._number(slot)})")

    def _number(self, slot: Slot) -> int:
        if slot not in self._numbers:
            self._numbers[slot] = len(self.slots)
            self.slots.append(slot)
        return self._numbers[slot]

    def _load(self, slot: Slot, type_: str, text: str) -> str:
        found = self._loaded.get((slot, type_))
        if found is None:
            found = self._loaded[slot, type_] = self.writer.name("s" if slot.kind == "extent" else "p")
            self._entry.append(f"{type_} const {found} = {text};")
        return found

    def text(self) -> list[str]:
        """The lines of the function: first what all of it uses."""
        kept = [f"constexpr int kept_start = {self.kept_start};"] if self.kept_bytes else []
        return [*kept, *self._entry, *self.writer.text()]

    # ---- tiles

    def bounds(self, axis: str) -> tuple[str, str]:
        """The half-open range that an axis runs over in this tile: the tile's part of a task axis, else everything."""
        if axis in self.starts:
            return self.starts[axis], self.ends[axis]
        return "0", self.slot(self.program.axis[axis].extent)

    def count(self, axis: str) -> str:
        """How many indices an axis has in this tile; a literal where that is known."""
        low, high = self.bounds(axis)
        return high if low == "0" else f"({high} - {low})"

    def most(self, axis: str) -> int | None:
        """How many indices an axis can have in a tile, where that is known."""
        extent = self.program.axis[axis].extent
        known = [n for x in (extent, self.tile.get(axis, extent)) if (n := upper(x)) is not None]
        return max(1, min(known)) if known else None

    def enter_tile(self) -> None:
        """Write the bounds of the task axes, from the tile's row-major number."""
        axes = self.program.axes
        if len(axes) > 1:
            self.writer.line("fx_u32 rest = (fx_u32)task.tile;")
        number = "rest" if len(axes) > 1 else "task.tile"
        for k, axis in reversed(list(enumerate(axes))):
            tile: Extent = symbol(f"tile_{axis.name}")
            position = number
            if k > 0:
                count = f"(fx_u32){self.slot(ceildiv(axis.extent, tile))}"
                position = self.writer.name("i")
                self.writer.line(f"const fx_int {position} = (fx_int)(rest % {count});")
                self.writer.line(f"rest /= {count};")
            start, end = f"start_{axis.name}", f"end_{axis.name}"
            size, extent = self.slot(tile), self.slot(axis.extent)
            self.writer.line(f"const fx_int {start} = (fx_int)({position}) * {size};")
            self.writer.line(f"const fx_int {end} = fx_least({start} + {size}, (fx_int){extent});")
            self.starts[axis.name] = self.symbols[start] = start
            self.ends[axis.name] = end

    # ---- memory

    def scratch(self, size: Extent) -> str:
        """The address of `size` more bytes of the block's scratch memory, as a char*."""
        offset = self.scratch_bytes
        self.scratch_bytes = offset + ceildiv(size, SCRATCH_ALIGNMENT) * SCRATCH_ALIGNMENT
        first = "fx_global(task.scratch)"
        return first if offset == 0 else f"({first} + {self.slot(offset, wide=True)})"

    def shared(self, size: int, alignment: int = LINE) -> str:
        """The address of `size` more bytes of shared memory, as a char*."""
        offset = -(-self.shared_bytes // alignment) * alignment
        self.shared_bytes = offset + size
        return f"(task.shared + {offset})"

    def keep(self, size: int, alignment: int) -> str:
        """The address of `size` bytes of shared memory that stay as they are until a tile needs other ones, as a char*.

        They lie behind all others, from `kept_start` on.
        """
        offset = -(-self.kept_bytes // alignment) * alignment
        self.kept_bytes = offset + size
        return f"(task.shared + kept_start + {offset})"

    @property
    def kept_start(self) -> int:
        """Where the bytes begin that are kept, once all others are given out."""
        return -(-self.shared_bytes // KEPT_ALIGNMENT) * KEPT_ALIGNMENT

    @property
    def all_shared(self) -> int:
        """Bytes of shared memory that the body needs, with what is kept."""
        return self.kept_start + self.kept_bytes if self.kept_bytes else self.shared_bytes

    def beside(self) -> Context:
        """For another function of the same kernel: it has the same argument slots."""
        out = Context(self.kernel, self.target)
        out.slots, out._numbers = self.slots, self._numbers
        out.shared_bytes, out.kept_bytes = self.shared_bytes, self.kept_bytes
        return out

    def merging(self, size: int) -> str:
        """Shared memory for merging the states of a fold, which all folds of the kernel that need as much take in turn."""
        if size not in self._merging:
            self._merging[size] = self.shared(size)
        return self._merging[size]

    def storage(self, name: str) -> Storage:
        """Where an operand lies."""
        found = self._storage.get(name)
        if found is None:
            found = self._storage[name] = self._place(self.program.operand[name])
        return found

    def add_storage(self, name: str, storage: Storage) -> None:
        """Make a name that is no operand of the program readable by loads and stores: a tile of results, a panel."""
        self._storage[name] = storage

    def _place(self, operand: Operand) -> Storage:
        if operand.role == "scalar":
            raise BugError(f"the scalar {operand.name!r} has no address")
        if operand.role == "local":
            return self._place_local(operand)
        slot, element = Slot("pointer", operand.name), element_type(operand.dtype)
        pointer = self._load(slot, f"{element}*", f"fx_pointer<{element}>(task, {self._number(slot)})")
        return Storage(
            pointer, operand.dtype, operand.shape, physical(self.kernel.layouts[operand.name], operand.shape)
        )

    def _place_local(self, operand: Operand) -> Storage:
        """A local exists per task: dimensions indexed by a task axis hold the tile's part, relative to its start.

        It lies in shared memory where the most that a tile needs is known and there is room, else in scratch memory.
        """
        shape = list(operand.shape)
        origin: list[Extent] = [0] * len(shape)
        for d, axis in self._tile_dimensions(operand.name).items():
            most = self.most(axis)
            shape[d], origin[d] = symbol(f"tile_{axis}") if most is None else most, symbol(f"start_{axis}")
        size = product(shape) * operand.dtype.itemsize
        if isinstance(size, int) and size + LINE <= self._local_bytes:
            self._local_bytes -= size + LINE
            memory = self.shared(size)
        else:
            memory = self.scratch(size)
        element = element_type(operand.dtype)
        pointer = self.writer.name("p")
        self._entry.append(f"{element}* const {pointer} = ({element}*){memory};")
        dense = physical(Layout.row_major(len(shape)), shape)

        def offset(index: Sequence[Extent]) -> Extent:
            return dense([i - o for i, o in zip(index, origin, strict=True)])

        return Storage(pointer, operand.dtype, operand.shape, offset, relative=True)

    def _tile_dimensions(self, name: str) -> dict[int, str]:
        out: dict[int, str] = {}
        stages = self.program.stages
        accesses = [x.index for s in stages for x in s.loads() if x.operand == name]
        accesses += [x.index for s in stages for x in s.stores if x.operand == name]
        for index in accesses:
            for d, i in enumerate(index):
                if isinstance(i, int | Dim) and (axes := symbols_of(i) & self.task_axes):
                    out[d] = min(axes)
        return out
