"""Frames in device memory: the tables of one binding's schedule, with holes for addresses, and the memory of a run.

One block of memory holds the IO words, status blocks, argument blocks, rows, waits, totals, counters, where each worker's rows
start and what launches are given, and behind them the arena and the scratch memory. Inputs and outputs are found through
the IO words, so nothing else changes between runs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from fusec.errors import BugError
from fusec.ir.dim import evaluate
from fusec.kernels.backend import Body
from fusec.kernels.cuda import abi
from fusec.kernels.cuda.device import Device, Memory
from fusec.kernels.kernel import BoundKernel, IntArray
from fusec.runtime.scalars import scalar_bits
from fusec.schedule.region import BoundCall, BoundRegion
from fusec.schedule.schedule import CALL, COUNT, FIRST, SIGNAL, WAIT, WAITS, Schedule

STATUS_WORDS = 4
LINE_WORDS = abi.COUNTER_WORDS
WEIGHT, ARENA, TABLES = range(3)
"""What a word that is an address counts from; weights have addresses of their own."""


@dataclass(frozen=True, eq=False, slots=True)
class Image:
    """A frame before it has a place: words, and the positions of those that the address of the frame is added to.

    `launches` are the positions of the words that launches are given, in order: one, or one per stage. `io` and `status` are
    those of the IO words and of the status blocks, whose calls are `reporting`. The frame's memory has `bytes` bytes; a launch
    has `blocks` blocks with `shared` bytes each.
    """

    words: IntArray
    relative: IntArray
    launches: tuple[int, ...]
    io: int
    io_count: int
    status: int
    reporting: tuple[int, ...]
    bytes: int
    blocks: int
    shared: int


class Frame:
    """Memory of one run at a time. `runs` is how many there were; recorded ones belong to a graph."""

    __slots__ = ("address", "image", "io", "is_recorded", "memory", "runs")

    def __init__(self, device: Device, image: Image) -> None:
        self.image = image
        self.memory: Memory = device.allocate(image.bytes)
        self.address = self.memory.address
        words = image.words.copy()
        words[image.relative] += self.address
        for at in image.launches:
            words[at + abi.Frame.ABORT] = device.abort_address
        device.upload(self.memory, 0, words)
        self.io = np.zeros(image.io_count, np.int64)
        self.runs = 0
        self.is_recorded = False

    def set_io(self, device: Device, addresses: Sequence[int]) -> None:
        """Where this run's inputs and outputs are. Nothing is copied where they are where they were."""
        if addresses != self.io.tolist():
            self.io[:] = addresses
            device.upload(self.memory, self.image.io * abi.WORD, self.io)

    def epochs(self, device: Device) -> list[int]:
        """For each launch, how many of it have ended."""
        words = (at + abi.Frame.EPOCH for at in self.image.launches)
        return [int(device.download(self.memory, w * abi.WORD, abi.WORD).view(np.int64)[0]) for w in words]

    def take_status(self, device: Device) -> tuple[int, int, int]:
        """(code, call, detail) of the first failure, and none from now on. Code 0 is no failure."""
        calls = self.image.reporting
        if not calls:
            return 0, 0, 0
        at = self.image.status * abi.WORD
        size = len(calls) * STATUS_WORDS
        blocks = device.download(self.memory, at, size * abi.WORD).view(np.int64).reshape(-1, STATUS_WORDS)
        failed = np.flatnonzero(blocks[:, 0])
        if not len(failed):
            return 0, 0, 0
        device.upload(self.memory, at, np.zeros(size, np.int64))
        code, _, detail, _ = blocks[failed[0]].tolist()
        return code, calls[int(failed[0])], detail


def make_image(
    region: BoundRegion,
    schedule: Schedule,
    body: Callable[[BoundCall], Body],
    weight: Callable[[BoundCall, str], int],
    io: Sequence[str],
    stage: IntArray | None = None,
) -> Image:
    """Lay a frame out. `weight` gives the device address of a call's weight, `io` the buffers of the IO words, in order.

    With `stage`, a number per task, each stage is a launch of its own, and nothing waits for anything within one.
    """
    tables = _Tables()
    at_io = tables.add(np.zeros(len(io), np.int64))
    arguments = _Arguments(region, schedule, [body(c) for c in region.calls], weight, {n: i for i, n in enumerate(io)})
    at_status = tables.add(np.zeros(STATUS_WORDS * len(arguments.reporting), np.int64))
    words, pointers = arguments.words(at_status)
    at_arguments = tables.add(words)
    tables.point(at_arguments + pointers[TABLES])
    queues, starts = (schedule.queues, [schedule.queue_starts]) if stage is None else _dealt(stage, schedule.workers)
    tasks = schedule.tasks[queues]
    rows = _rows(tasks, arguments, at_arguments, stage is None)
    at_rows = tables.add(rows.reshape(-1))
    tables.point(at_rows + np.arange(abi.Row.SLOTS, rows.size, abi.Row.WORDS))
    fields = {
        abi.Frame.ROWS: at_rows,
        abi.Frame.IO: at_io,
        abi.Frame.WAITS: tables.add(_waits(tasks, schedule).reshape(-1)),
        abi.Frame.COUNTERS: tables.add(np.zeros(len(schedule.totals) * LINE_WORDS, np.int64)),
    }
    launches = tuple(tables.launch(fields | {abi.Frame.STARTS: tables.add(x)}) for x in starts)
    arena = _aligned(tables.size * abi.WORD, abi.SCRATCH_ALIGNMENT)
    scratch = _aligned(arena + schedule.arena, abi.SCRATCH_ALIGNMENT)
    stride = _aligned(schedule.scratch, abi.SCRATCH_ALIGNMENT)
    tables.point(at_arguments + pointers[ARENA])
    tables.point(np.array(launches, np.int64) + abi.Frame.SCRATCH)
    words = tables.words()
    words[at_arguments + pointers[ARENA]] += arena
    for at in launches:
        words[at + abi.Frame.SCRATCH], words[at + abi.Frame.SCRATCH_STRIDE] = scratch, stride
    return Image(
        words,
        tables.relative(),
        launches,
        at_io,
        len(io),
        at_status,
        arguments.reporting,
        scratch + stride * schedule.workers,
        schedule.workers,
        arguments.shared,
    )


def _rows(tasks: IntArray, arguments: _Arguments, at_arguments: int, in_order: bool) -> IntArray:
    rows = np.zeros((len(tasks), abi.Row.WORDS), np.int64)
    rows[:, abi.Row.KERNEL] = arguments.positions[tasks[:, CALL]]
    rows[:, abi.Row.SLOTS] = (at_arguments + arguments.starts[tasks[:, CALL]]) * abi.WORD
    rows[:, abi.Row.FIRST], rows[:, abi.Row.COUNT] = tasks[:, FIRST], tasks[:, COUNT]
    if in_order:
        rows[:, abi.Row.WAITS], rows[:, abi.Row.WAIT_COUNT] = (
            np.cumsum(tasks[:, WAITS]) - tasks[:, WAITS],
            tasks[:, WAITS],
        )
    rows[:, abi.Row.SIGNAL] = tasks[:, SIGNAL] if in_order else abi.NO_SIGNAL
    return rows


def _waits(tasks: IntArray, schedule: Schedule) -> IntArray:
    """The waits of tasks in their order, each with the total of its counter."""
    count = tasks[:, WAITS]
    at = np.repeat(tasks[:, WAIT] - (np.cumsum(count) - count), count) + np.arange(int(count.sum()))
    out = np.zeros((len(at), abi.Wait.WORDS), np.int64)
    out[:, : abi.Wait.TOTAL] = schedule.waits[at]
    out[:, abi.Wait.TOTAL] = schedule.totals[out[:, abi.Wait.COUNTER]]
    return out


def _dealt(stage: IntArray, workers: int) -> tuple[IntArray, list[IntArray]]:
    """Tasks by stage and worker, and for each stage where each worker's begin."""
    order = np.argsort(stage, kind="stable")
    bounds = np.concatenate([[0], np.flatnonzero(np.diff(stage[order])) + 1, [len(order)]])
    starts = []
    for low, high in pairwise(bounds.tolist()):
        worker = np.arange(high - low) % workers
        order[low:high] = order[low:high][np.argsort(worker, kind="stable")]
        starts.append(low + np.concatenate([[0], np.cumsum(np.bincount(worker, minlength=workers))]))
    return order, starts


class _Tables:
    """Words, each table on a line of its own, and which of them count from where the frame lies."""

    def __init__(self) -> None:
        self._parts: list[IntArray] = []
        self._relative: list[IntArray] = []
        self._addresses: dict[int, int] = {}
        self.size = 0

    def add(self, table: IntArray) -> int:
        """Add a table; where it begins."""
        at = self.size
        padded = np.zeros(-(-max(len(table), 1) // LINE_WORDS) * LINE_WORDS, np.int64)
        padded[: len(table)] = table
        self._parts.append(padded)
        self.size += len(padded)
        return at

    def point(self, positions: IntArray) -> None:
        """These words are byte offsets from the frame's beginning."""
        self._relative.append(positions)

    def launch(self, fields: Mapping[int, int]) -> int:
        """Add what a launch is given: fields that are addresses of words."""
        at = self.add(np.zeros(abi.Frame.WORDS, np.int64))
        for field, word in fields.items():
            self._addresses[at + field] = word * abi.WORD
        self.point(at + np.array(list(fields)))
        return at

    def words(self) -> IntArray:
        """All of them."""
        words = np.concatenate(self._parts)
        words[list(self._addresses)] = list(self._addresses.values())
        return words

    def relative(self) -> IntArray:
        """The positions of the words that count from the frame's beginning."""
        return np.concatenate(self._relative)


def _aligned(n: int, to: int) -> int:
    return -(-n // to) * to


class _Arguments:
    """The argument blocks of all calls."""

    def __init__(
        self,
        region: BoundRegion,
        schedule: Schedule,
        bodies: list[Body],
        weight: Callable[[BoundCall, str], int],
        io: dict[str, int],
    ) -> None:
        self.region, self.schedule, self.bodies, self.weight, self.io = region, schedule, bodies, weight, io
        self.positions = np.array([b.number for b in bodies], np.int64)
        lengths = [len(b.source.slots) for b in bodies]
        self.starts = np.cumsum([0, *lengths])[:-1].astype(np.int64)
        self.reporting = tuple(i for i, b in enumerate(bodies) if any(s.kind == "status" for s in b.source.slots))
        known: dict[tuple[int, int], int] = {}
        for call, body in zip(region.calls, bodies, strict=True):
            key = id(call.kernel), id(body)
            if key not in known:
                known[key] = evaluate(body.source.shared, call.kernel.environment)
        self.shared = max(known.values(), default=0)
        self._extents: dict[tuple[int, int], list[int]] = {}

    def words(self, at_status: int) -> tuple[IntArray, dict[int, IntArray]]:
        """All blocks one after the other, and which words count from the arena's and from the frame's beginning."""
        out: list[int] = []
        pointers: dict[int, list[int]] = {ARENA: [], TABLES: []}
        places = {call: at_status + STATUS_WORDS * i for i, call in enumerate(self.reporting)}
        for i, (call, body) in enumerate(zip(self.region.calls, self.bodies, strict=True)):
            words = self._extent_words(call.kernel, body)
            scalars = dict(call.call.scalars)
            for k, slot in enumerate(body.source.slots):
                match slot.kind:
                    case "pointer":
                        words[k], base = self._pointer(call, slot.name)
                        if base == ARENA:
                            pointers[ARENA].append(len(out) + k)
                    case "scalar":
                        words[k] = scalar_bits(scalars[slot.name], call.call.program.operand[slot.name].dtype)
                    case "status":
                        words[k] = places[i] * abi.WORD
                        pointers[TABLES].append(len(out) + k)
                    case "extent":
                        pass
                    case _:
                        raise BugError(f"{call.label}: unknown kind of slot {slot.kind!r}", node=call.label)
            out += words
        return np.array(out, np.int64), {base: np.array(p, np.int64) for base, p in pointers.items()}

    def _extent_words(self, kernel: BoundKernel, body: Body) -> list[int]:
        key = id(kernel), id(body)
        if key not in self._extents:
            env = kernel.environment
            self._extents[key] = [evaluate(s.extent, env) if s.kind == "extent" else 0 for s in body.source.slots]
        return list(self._extents[key])

    def _pointer(self, call: BoundCall, operand: str) -> tuple[int, int]:
        """A word, and what it counts from."""
        name = call.buffers.get(operand)
        buffer = self.region.buffers.get(name) if name is not None else None
        if name is None or buffer is None:
            raise BugError(f"{call.label}: operand {operand!r} has no buffer", node=call.label)
        if buffer.role == "weight":
            return self.weight(call, operand), WEIGHT
        if name in self.io:
            return abi.io_word(self.io[name]), WEIGHT
        if buffer.role == "temp":
            return self.schedule.offsets.get(name, 0), ARENA
        raise BugError(f"{call.label}: {buffer.role} {name!r} is not given to the region", node=call.label)
