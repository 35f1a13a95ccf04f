"""Frames: the memory that one run changes. An Image is what all frames of a binding have in common, with holes for addresses.

One block holds, line after line: the frame's own words, the IO words, and for each of its programs (one worker; the team)
the program's words, worker table, counters, rows, waits, patches, status blocks and argument blocks. Arena and scratch
are blocks of their own, shared by the two programs, since only one of them runs at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from fusec.errors import BugError
from fusec.ir.dim import evaluate
from fusec.kernels.cpu import driver as d
from fusec.kernels.kernel import Binary, BoundKernel, IntArray
from fusec.runtime.memory import ALIGNMENT, Block, address_of, data_offset
from fusec.runtime.scalars import scalar_bits
from fusec.runtime.team import Team
from fusec.schedule.region import BoundCall, BoundRegion
from fusec.schedule.schedule import CALL, COUNT, FIRST, WAIT, WAITS, Schedule

LINE_WORDS = d.LINE // d.WORD
STATUS_WORDS = 4
WORTH_WAKING = 100_000
"""Nanoseconds: a parked team is woken where the schedule promises to save this much."""

IN_BLOCK, IN_ARENA, IN_SCRATCH = range(3)
"""What a word that is an address counts from."""

_OFFSET = data_offset()

place: Callable[[npt.NDArray[Any]], int] = id if _OFFSET >= 0 else address_of
"""What goes into an IO word for an array: the object, from which the driver reads the pointer, or the pointer itself."""


@dataclass(frozen=True, slots=True)
class CallCode:
    """A call's machine code: its address, and the binary that says what its argument block holds."""

    address: int
    binary: Binary


@dataclass(frozen=True, eq=False, slots=True)
class Image:
    """A frame before it has a place: `words`, and per base (block, arena, scratch) the positions of words to add it to.

    `io` is where the IO words begin, `status` which call each status block is for: (word, call, ...) per program.
    """

    words: IntArray
    bases: tuple[IntArray, IntArray, IntArray]
    io: int
    io_count: int
    status: tuple[tuple[int, int], ...]
    arena: int
    scratch: int

    @property
    def bytes(self) -> int:
        """Memory of one frame."""
        return self.words.nbytes + self.arena + self.scratch


class Frame:
    """Memory of one run at a time: set `io` with `place`, then hand `address` to the driver's run.

    `weights` is whatever must stay alive because machine code points at it.
    """

    __slots__ = (
        "__weakref__",
        "_birth",
        "_resume",
        "_team",
        "address",
        "arena",
        "block",
        "image",
        "io",
        "scratch",
        "weights",
    )

    def __init__(self, image: Image, team: Team, resume: Callable[[int], int], weights: object) -> None:
        self.image = image
        self.weights = weights
        self.block = Block(image.words.nbytes)
        self.arena = Block(image.arena)
        self.scratch = Block(image.scratch)
        words = self.block.words
        words[:] = image.words
        for positions, base in zip(image.bases, (self.block, self.arena, self.scratch), strict=True):
            words[positions] += base.address
        words[d.Frame.TEAM] = team.address
        self.address = self.block.address
        self.io = memoryview(words.data)[image.io : image.io + image.io_count]
        self._resume, self._team, self._birth = resume, team, team.generation
        team.frames.add(self)

    @property
    def is_running(self) -> bool:
        """Whether machine code is inside, or was and has to be resumed."""
        return bool(self.block.words[d.Frame.ACTIVE])

    @property
    def workers_used(self) -> int:
        """How many workers the last run had."""
        return int(self.block.words[d.Frame.LAST])

    def cancel(self) -> None:
        """Abort the run and come back when no worker is inside any more. The frame is not to be used again.

        Nothing may interrupt this: memory that workers write to is freed as soon as it returns.
        """
        while self.is_running and self._birth == self._team.generation:
            try:
                self.block.words[d.Frame.ABORT] = 1
                self._resume(self.address)
            except BaseException:  # noqa: S112 - a second Ctrl-C; the first one is on its way already
                continue

    def __del__(self) -> None:
        if hasattr(self, "_birth"):
            self.cancel()

    def take_status(self) -> tuple[int, int, int]:
        """(code, call, detail) of the first failure, and none from now on. Code 0 is no failure."""
        found = (0, 0, 0)
        for at, call in self.image.status:
            block = self.block.words[at : at + STATUS_WORDS]
            if block[0] and not found[0]:
                found = int(block[0]), call, int(block[2])
            block[:] = 0
        return found


def make_image(
    region: BoundRegion,
    schedules: Sequence[Schedule],
    code: Callable[[BoundCall], CallCode],
    weight: Callable[[BoundCall, str], int],
    io: Sequence[str],
) -> Image:
    """Lay a frame out for the one-worker schedule and, where there is one, the team's.

    `weight` gives the address of a call's weight operand, `io` the buffers that are inputs or outputs, in the order of the
    IO words. BugError where an argument cannot be found.
    """
    builder = _Builder()
    builder.extend([0] * d.Frame.WORDS)
    builder.words[d.Frame.OFFSET] = _OFFSET
    at_io = builder.extend([0] * len(io))
    builder.pointer(d.Frame.IO, at_io)
    layout = _Arguments(region, [code(c) for c in region.calls], weight, {name: i for i, name in enumerate(io)})
    status: list[tuple[int, int]] = []
    for word, schedule in zip((d.Frame.SOLO, d.Frame.TEAMED), schedules, strict=False):
        builder.pointer(word, _add_program(builder, layout, schedule, status))
    if len(schedules) > 1:
        builder.words[d.Frame.WORTH] = int(schedules[0].makespan - schedules[1].makespan >= WORTH_WAKING)
    return Image(
        np.array(builder.words, np.int64),
        (builder.positions(IN_BLOCK), builder.positions(IN_ARENA), builder.positions(IN_SCRATCH)),
        at_io,
        len(io),
        tuple(status),
        max(s.arena for s in schedules),
        max(_scratch_stride(s) * s.workers for s in schedules),
    )


class _Builder:
    """Words, and which of them are addresses, counted from where."""

    def __init__(self) -> None:
        self.words: list[int] = []
        self.addresses: tuple[list[int], list[int], list[int]] = ([], [], [])

    def extend(self, words: Sequence[int]) -> int:
        """Add words from the next line on; where they begin."""
        at = len(self.words)
        self.words.extend(words)
        self.words.extend([0] * (-len(self.words) % LINE_WORDS))
        return at

    def pointer(self, at: int, word: int) -> None:
        """Let a word be the address of another one."""
        self.relative(at, word * d.WORD, IN_BLOCK)

    def relative(self, at: int, offset: int, base: int) -> None:
        """Let a word be an address, `offset` bytes into the block, the arena or the scratch."""
        self.words[at] = offset
        self.addresses[base].append(at)

    def positions(self, base: int) -> IntArray:
        """The positions of the words that are counted from a base."""
        return np.array(self.addresses[base], np.int64)


def _scratch_stride(schedule: Schedule) -> int:
    """Bytes from one worker's scratch to the next; a line between them keeps them from sharing one."""
    return -(-schedule.scratch // ALIGNMENT) * ALIGNMENT + ALIGNMENT


def _add_program(b: _Builder, layout: _Arguments, s: Schedule, status: list[tuple[int, int]]) -> int:
    program = b.extend([0] * d.Program.WORDS)
    table = b.extend([0] * (s.workers * LINE_WORDS))
    counters = b.extend([0] * (s.workers * LINE_WORDS))
    blocks, patches, at_status, reports = _add_arguments(b, layout, s, status)
    waits = _add_waits(b, s, counters)
    begins = np.array(blocks, np.int64)
    for w in range(s.workers):
        queue = s.queue(w)
        told = s.waits[s.waits[:, 0] == w, 1]
        line = table + w * LINE_WORDS
        b.words[line + d.Worker.COUNT] = len(queue)
        b.pointer(line + d.Worker.ROWS, _add_rows(b, layout, s, queue, told, begins, waits))
        b.relative(line + d.Worker.SCRATCH, w * _scratch_stride(s), IN_SCRATCH)
        b.pointer(line + d.Worker.COUNTER, counters + w * LINE_WORDS)
    b.words[program + d.Program.WORKERS] = s.workers
    b.words[program + d.Program.STRIDE] = int(s.totals.max(initial=0)) + 1
    b.words[program + d.Program.PATCH_COUNT] = len(patches)
    b.pointer(program + d.Program.TABLE, table)
    b.pointer(program + d.Program.FRAME, 0)
    b.pointer(program + d.Program.STATUS, at_status)
    b.words[program + d.Program.STATUS_COUNT] = reports
    at = b.extend([0] * (2 * len(patches)))
    for i, (slot, position) in enumerate(patches):
        b.pointer(at + 2 * i, slot)
        b.words[at + 2 * i + 1] = position
    b.pointer(program + d.Program.PATCHES, at)
    return program


def _add_waits(b: _Builder, s: Schedule, counters: int) -> int:
    """Pairs (address of a counter, threshold)."""
    pairs = s.waits.copy()
    pairs[:, 0] = (counters + pairs[:, 0] * LINE_WORDS) * d.WORD
    at = b.extend(pairs.ravel().tolist())
    b.addresses[IN_BLOCK].extend(range(at, at + pairs.size, 2))
    return at


def _add_rows(
    b: _Builder, layout: _Arguments, s: Schedule, queue: IntArray, told: IntArray, blocks: IntArray, waits: int
) -> int:
    """A worker's rows. A task's end is announced only where somebody waits for that position in the queue."""
    tasks, position = s.tasks[queue], np.arange(1, len(queue) + 1)
    rows = np.zeros((len(queue), LINE_WORDS), np.int64)
    rows[:, d.Row.KERNEL] = layout.addresses[tasks[:, CALL]]
    rows[:, d.Row.SLOTS] = blocks[tasks[:, CALL]] * d.WORD
    rows[:, d.Row.FIRST] = tasks[:, FIRST]
    rows[:, d.Row.COUNT] = tasks[:, COUNT]
    rows[:, d.Row.WAITS] = (waits + 2 * tasks[:, WAIT]) * d.WORD
    rows[:, d.Row.WAIT_COUNT] = tasks[:, WAITS]
    rows[:, d.Row.SIGNAL] = np.where(np.isin(position, told), position, -1)
    rows[:, d.Row.COST] = layout.costs[tasks[:, CALL]]
    at = b.extend(rows.ravel().tolist())
    for column in (d.Row.SLOTS, d.Row.WAITS):
        b.addresses[IN_BLOCK].extend(range(at + column, at + rows.size, LINE_WORDS))
    return at


class _Arguments:
    """What argument blocks hold, worked out once per binding for both programs."""

    def __init__(
        self,
        region: BoundRegion,
        code: list[CallCode],
        weight: Callable[[BoundCall, str], int],
        io: dict[str, int],
    ) -> None:
        self.region, self.code, self.weight, self.io = region, code, weight, io
        self._extents: dict[tuple[int, int], list[int]] = {}
        self.addresses = np.array([c.address for c in code], np.int64)
        self.costs = np.array([_cost(c.kernel) for c in region.calls], np.int64)

    def extents(self, call: int) -> list[int]:
        """The argument block with its extent words filled in and 0 elsewhere."""
        kernel, binary = self.region.calls[call].kernel, self.code[call].binary
        key = id(kernel), id(binary)
        if key not in self._extents:
            self._extents[key] = _extent_words(kernel, binary)
        return list(self._extents[key])


def _cost(kernel: BoundKernel) -> int:
    """Cost units of one tile: arithmetic operations and bytes, either of which takes a nanosecond at the very most."""
    return int(min(max(kernel.flops + kernel.bytes, 1), 1 << 40))


def _extent_words(kernel: BoundKernel, binary: Binary) -> list[int]:
    env = kernel.environment
    return [evaluate(s.extent, env) if s.kind == "extent" else 0 for s in binary.slots]


def _add_arguments(
    b: _Builder, layout: _Arguments, s: Schedule, status: list[tuple[int, int]]
) -> tuple[list[int], list[tuple[int, int]], int, int]:
    """Argument blocks per call, the patches (word, IO position) that each run makes, status blocks and their number."""
    blocks, patches = [], list[tuple[int, int]]()
    reporting = [i for i, c in enumerate(layout.code) if any(slot.kind == "status" for slot in c.binary.slots)]
    at_status = b.extend([0] * (STATUS_WORDS * len(reporting)))
    places = {call: at_status + STATUS_WORDS * i for i, call in enumerate(reporting)}
    status.extend((at, call) for call, at in places.items())
    for i, call in enumerate(layout.region.calls):
        at = b.extend(layout.extents(i))
        blocks.append(at)
        scalars = dict(call.call.scalars)
        for k, slot in enumerate(layout.code[i].binary.slots, at):
            match slot.kind:
                case "pointer":
                    _add_pointer(b, layout, s, call, slot.name, k, patches)
                case "scalar":
                    b.words[k] = scalar_bits(scalars[slot.name], call.call.program.operand[slot.name].dtype)
                case "status":
                    b.pointer(k, places[i])
                case "extent":
                    pass
                case _:
                    raise BugError(f"{call.label}: unknown kind of slot {slot.kind!r}", node=call.label)
    return blocks, patches, at_status, len(reporting)


def _add_pointer(
    b: _Builder,
    layout: _Arguments,
    s: Schedule,
    call: BoundCall,
    operand: str,
    at: int,
    patches: list[tuple[int, int]],
) -> None:
    name = call.buffers.get(operand)
    buffer = layout.region.buffers.get(name) if name is not None else None
    if name is None or buffer is None:
        raise BugError(f"{call.label}: operand {operand!r} has no buffer", node=call.label)
    if buffer.role == "weight":
        b.words[at] = layout.weight(call, operand)
    elif name in layout.io:
        patches.append((at, layout.io[name]))
    elif buffer.role == "temp":
        b.relative(at, s.offsets.get(name, 0), IN_ARENA)
    else:
        raise BugError(f"{call.label}: {buffer.role} {name!r} is not given to the region", node=call.label)
