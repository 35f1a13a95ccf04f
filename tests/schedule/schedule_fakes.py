"""Hand-made programs with known boxes, a region builder, and an executor whose adversary chooses the timing.

The executor does not compute what a program's body says. A tile writes a digest of all that it read, so a wrong order, a
missing wait or shared bytes change the result whatever the kernel; sequential execution in program order is the truth.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import numpy as np

from fusec.ir.dim import Extent, mod, symbol
from fusec.ir.expr import Const, Load, Ref, prim
from fusec.ir.types import DType, TensorType
from fusec.kernels.kernel import BoundKernel, Call, Kernel, StageTiling, Tiling
from fusec.schedule.region import BoundRegion, bind_calls
from fusec.schedule.schedule import Schedule
from fusec.tile.program import Axis, Fold, Operand, Stage, Store, TileProgram

F = DType.F64
R, C, K, Z, T = (symbol(n) for n in "RCKOT")
r, c, k, t = (symbol(n) for n in "rckt")


def load(name: str, *index: Extent) -> Load:
    return Load(name, index, F)


def program(name, params, axes, operands, stage_axes, store, value, folds=()) -> TileProgram:
    body = (Store(store[0], store[1:], value),)
    if folds:
        body = (Fold("total", "sum", (value,)), Store(store[0], store[1:], Ref("total", F)))
    stage = Stage(tuple(stage_axes), tuple(folds), body)
    return TileProgram(name, tuple(params), tuple(axes), tuple(Operand(*o) for o in operands), (stage,))


def inp(name, *shape):
    return name, "input", F, shape


def out(name, *shape, role="output"):
    return name, role, F, shape


MAP = program(
    "map", "RC", [Axis("r", R), Axis("c", C)], [inp("x", R, C), out("y", R, C)], "rc", ("y", r, c), load("x", r, c)
)
ADD = program(
    "add", "RC", [Axis("r", R), Axis("c", C)], [inp("x", R, C), inp("z", R, C), out("y", R, C)], "rc", ("y", r, c),
    prim("add", load("x", r, c), load("z", r, c)),
)  # fmt: skip
ROWS = program(
    "rows", "RC", [Axis("r", R)], [inp("x", R, C), out("y", R, C)], ["r", Axis("c", C)], ("y", r, c), load("x", r, k),
    folds=[Axis("k", C)],
)  # fmt: skip
PRODUCT = program(
    "product", "RKC", [Axis("r", R), Axis("c", C)], [inp("a", R, K), inp("b", K, C), out("y", R, C)], "rc", ("y", r, c),
    prim("mul", load("a", r, k), load("b", k, c)), folds=[Axis("k", K)],
)  # fmt: skip
DENSE = program(
    "dense", "RKC", [Axis("r", R), Axis("c", C)], [inp("a", R, K), ("w", "weight", F, (K, C)), out("y", R, C)], "rc",
    ("y", r, c), prim("mul", load("a", r, k), load("w", k, c)), folds=[Axis("k", K)],
)  # fmt: skip
FLIP = program(
    "flip", "RC", [Axis("r", R), Axis("c", C)], [inp("x", R, C), out("y", C, R)], "rc", ("y", c, r), load("x", r, c)
)
PIECE = program(
    "piece",
    "RCTO",
    [Axis("r", R), Axis("c", C)],
    [inp("x", R, C), out("y", R, T)],
    "rc",
    ("y", r, c + Z),
    load("x", r, c),
)
UPDATE = program(
    "update", "RCTO", [Axis("r", R), Axis("c", C)], [inp("x", R, C), out("y", T, C, role="inout")], "rc", ("y", r + Z, c),
    prim("add", load("x", r, c), load("y", r + Z, c)),
)  # fmt: skip
FLAT = program("flat", "R", [Axis("r", R)], [inp("x", R), out("y", R)], "r", ("y", r), load("x", r))
SCAN = program(
    "scan", "TC", [Axis("t", T, sequential=True), Axis("c", C)], [inp("x", T, C), out("y", T, C)], "tc", ("y", t, c),
    prim("add", load("x", t, c), Load("y", (t - 1, k), F, Const(0.0, F))), folds=[Axis("k", C)],
)  # fmt: skip
CUMSUM = program(
    "cumsum", "RT", [Axis("r", R), Axis("t", T, sequential=True)], [inp("x", R, T), out("y", R, T)], "rt", ("y", r, t),
    prim("add", load("x", r, t), Load("y", (r, t - 1), F, Const(0.0, F))),
)  # fmt: skip
CROSSED = program(
    "crossed", "RT", [Axis("r", R), Axis("t", T, sequential=True)], [inp("x", R, T), out("y", R, T)], "rt", ("y", r, t),
    prim("add", load("x", r, t), Load("y", (k, t - 1), F, Const(0.0, F))), folds=[Axis("k", R)],
)  # fmt: skip

STATE = program(
    "state", "TC", [Axis("t", T, sequential=True), Axis("c", C)], [inp("x", T, C), out("h", 2, C, role="inout")], "tc",
    ("h", mod(t, 2), c), prim("add", load("x", t, c), load("h", mod(t + 1, 2), k)), folds=[Axis("k", C)],
)  # fmt: skip
CELL = program(
    "cell", "TC", [Axis("t", T, sequential=True), Axis("c", C)], [inp("x", T, C), out("s", C, role="inout")], "tc",
    ("s", c), prim("add", load("x", t, c), load("s", c)),
)  # fmt: skip


def kernel(p: TileProgram, **tile: int) -> Kernel:
    return Kernel(p, Tiling(tuple(tile.items()), tuple(StageTiling("nest") for _ in p.stages)))


@dataclass
class Builder:
    """A region being written down: calls, values, aliases."""

    calls: list[Call] = field(default_factory=list)
    kernels: dict[str, tuple[Kernel, ...]] = field(default_factory=dict)
    values: dict[str, TensorType] = field(default_factory=dict)
    aliases: dict[str, str] = field(default_factory=dict)
    inputs: list[str] = field(default_factory=list)
    outputs: tuple[str, ...] = ()

    def value(self, name: str, *shape: Extent) -> str:
        self.values[name] = TensorType(F, shape)
        return name

    def input(self, name: str, *shape: Extent) -> str:
        self.inputs.append(name)
        return self.value(name, *shape)

    def alias(self, name: str, of: str, *shape: Extent) -> str:
        self.aliases[name] = of
        return self.value(name, *shape)

    def call(self, p: TileProgram, operands: dict[str, str], params: dict[str, Extent], **tile: int) -> None:
        """Each call has a menu of its own, since tiles differ from call to call."""
        name = f"{p.name}{len(self.calls)}"
        own = TileProgram(name, p.params, p.axes, p.operands, p.stages)
        self.kernels[name] = (kernel(own, **tile),)
        self.calls.append(Call(name, own, tuple(operands.items()), tuple(params.items())))

    def root(self, name: str) -> str:
        while name in self.aliases:
            name = self.aliases[name]
        return name

    def bind(self, **symbols: int) -> BoundRegion:
        return bind_calls(self, self.kernels, symbols, self.values, self.root)  # type: ignore[arg-type]


def sequential(region: BoundRegion, seed: int = 0) -> dict[str, np.ndarray]:
    """The truth: every call in program order, one tile after the other in the order of its sequential axes."""
    memory = initial(region, seed)
    for c in range(len(region.calls)):
        for tile in legal_order(region.calls[c].kernel):
            write_tile(region, c, tile, memory)
    return memory


def legal_order(bound: BoundKernel) -> list[int]:
    axes = [j for j, a in enumerate(bound.kernel.program.axes) if a.sequential]
    return sorted(range(bound.tiles), key=lambda i: ([bound.coordinates[i, j] for j in axes], i))


def initial(region: BoundRegion, seed: int) -> dict[str, np.ndarray]:
    """Inputs and what is updated in place hold numbers, all else garbage."""
    rng = np.random.default_rng(seed)
    memory = {}
    for b in region.buffers.values():
        if b.role != "weight":
            memory[b.name] = rng.integers(0, 1 << 63, b.bytes // 8, dtype=np.uint64)
            if b.role != "input":
                memory[b.name][:] = 7
    return memory


def view(region: BoundRegion, call: int, operand: str, memory: dict[str, np.ndarray]) -> np.ndarray | None:
    bound = region.calls[call]
    name = bound.buffers[operand]
    if name not in memory:
        return None
    shape = bound.kernel.shape(operand)
    return memory[name][: int(np.prod(shape, dtype=int))].reshape(shape)


def box(boxes: np.ndarray, tile: int) -> tuple[slice, ...]:
    return tuple(slice(low, high) for low, high in boxes[tile].tolist())


def digest(region: BoundRegion, call: int, tile: int, memory: dict[str, np.ndarray]) -> np.uint64:
    total = np.array(call + 1, np.uint64)
    bound = region.calls[call].kernel
    for n, (operand, boxes) in enumerate(sorted(bound.reads.items())):
        whole = view(region, call, operand, memory)
        if whole is not None:
            if operand in bound.writes and bound.kernel.program.operand[operand].role == "output":
                whole = whole.copy()  # a recurrent kernel reads what it wrote, not what it is about to write
                whole[box(bound.writes[operand], tile)] = 0
            read = whole[box(boxes, tile)].ravel()
            weights = np.arange(1, 2 * len(read) + 1, 2, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15 + 2 * n)
            with np.errstate(over="ignore"):
                total = total + (read * weights).sum(dtype=np.uint64)
    return total


def write_tile(
    region: BoundRegion, call: int, tile: int, memory: dict[str, np.ndarray], value: np.uint64 | None = None
) -> None:
    if value is None:
        value = digest(region, call, tile, memory)
    for operand, boxes in region.calls[call].kernel.writes.items():
        whole = view(region, call, operand, memory)
        part = whole[box(boxes, tile)]
        part[...] = value + np.arange(part.size, dtype=np.uint64).reshape(part.shape) * np.uint64(3)


def poison(region: BoundRegion, call: int, first: int, count: int, memory: dict[str, np.ndarray], mark: int) -> None:
    """Until a task ends its outputs are garbage, unless it reads them itself."""
    bound = region.calls[call].kernel
    for operand, boxes in bound.writes.items():
        if operand not in bound.reads:
            for tile in range(first, first + count):
                view(region, call, operand, memory)[box(boxes, tile)] = mark


class Deadlock(Exception):
    pass


def execute(region: BoundRegion, s: Schedule, rng: random.Random, seed: int = 0) -> dict[str, np.ndarray]:
    """Run the tables: any worker that may go on goes on at a random time, some much slower than others."""
    memory = initial(region, seed)
    arena = np.frombuffer(rng.randbytes(s.arena), np.uint8).copy().view(np.uint64)
    for name, offset in s.offsets.items():
        memory[name] = arena[offset // 8 : (offset + region.buffers[name].bytes) // 8]
    counters = [0] * len(s.totals)
    at, running = [0] * s.workers, [None] * s.workers
    pace = [rng.choice((1, 1, 1, 40)) for _ in range(s.workers)]

    def task(row: list[int]) -> Iterator[None]:
        call, first, count, _, _, signal = row
        poison(region, call, first, count, memory, rng.getrandbits(60))
        yield
        for tile in range(first, first + count):
            value = digest(region, call, tile, memory)
            if rng.random() < 0.3:
                yield
            write_tile(region, call, tile, memory, value)
        if signal >= 0:
            counters[signal] += 1

    def able(w: int) -> bool:
        if running[w] is not None:
            return True
        if at[w] == len(s.queue(w)):
            return False
        _, _, _, first, count, _ = s.tasks[s.queue(w)[at[w]]].tolist()
        return all(counters[c] >= v for c, v in s.waits[first : first + count].tolist())

    while ready := [w for w in range(s.workers) if able(w)]:
        w = rng.choices(ready, [pace[x] for x in ready])[0]
        if running[w] is None:
            running[w] = task(s.tasks[s.queue(w)[at[w]]].tolist())
        if next(running[w], "done") == "done":
            running[w] = None
            at[w] += 1
    if any(at[w] < len(s.queue(w)) for w in range(s.workers)):
        raise Deadlock
    return memory


def agrees(region: BoundRegion, memory: dict[str, np.ndarray], truth: dict[str, np.ndarray]) -> bool:
    """Outputs and inputs (some are updated in place) hold what they should."""
    kept = [b for b in region.buffers.values() if b.role in ("output", "input")]
    return all(np.array_equal(memory[b.name][: used(b)], truth[b.name][: used(b)]) for b in kept)


def used(b) -> int:
    return int(np.prod(b.shape, dtype=int))


def cost(us: float) -> Callable[[BoundKernel], float]:
    return lambda _: us


def mlp(batch: int = 8, width: int = 8, layers: int = 3, tile: int = 2) -> Builder:
    """Dense layers with a map behind each."""
    b = Builder()
    x = b.input("x", batch, width)
    for i in range(layers):
        y, z = b.value(f"y{i}", batch, width), b.value(f"z{i}", batch, width)
        b.call(DENSE, {"a": x, "w": f"w{i}", "y": y}, {"R": batch, "K": width, "C": width}, r=tile, c=tile)
        b.call(MAP, {"x": y, "y": z}, {"R": batch, "C": width}, r=1, c=width)
        x = z
    b.outputs = (x,)
    return b
