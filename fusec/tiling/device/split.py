"""split_calls: folds that keep a few multiprocessors busy are cut into slices for the others, where that is estimated to pay.

A product of few tiles and a long sum, or the reduction of a few long rows, leaves most of a device idle. In slices it keeps all
of them busy, for what it costs to hand parts on: each is written and read once, in the dtype of the sum, and one step of the
schedule waits for another. The number of slices is the one with which all is estimated to end first; the estimate knows blocks,
operations, and the bytes of operands and parts. "Stream-K" (Osama et al., 2023) compares such splits.

Only calls whose sizes are all known are split: how many slices there are must not depend on what a run brings.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import count

from fusec.ir.dim import Extent, evaluate, product
from fusec.ir.types import DType, TensorType, Type
from fusec.kernels.backend import EMULATED, device
from fusec.kernels.cpu.contract_form import Contraction, contraction
from fusec.kernels.cuda.levels import LEVELS, Level
from fusec.kernels.kernel import BoundKernel, Call, StageTiling
from fusec.kernels.steps import RegionStep, Step
from fusec.lower.lower import Lowered
from fusec.lower.split import Split, split_program
from fusec.target import Target
from fusec.tile.program import Stage, TileProgram
from fusec.tile.verify import verify_program
from fusec.tiling.choose import choose, menu
from fusec.tiling.device.cost import alone_microseconds
from fusec.tiling.device.product import FEW_ROWS, block_tiles

HAND_OVER = 2.0
"""Microseconds from the end of the slices to the first sum of parts: a counter and a fence through the shared cache, twice as
much as the schedule reckons with, since all slices end at the same time."""
GAIN = 0.85
"""A split is worth it where it is estimated to take at most this share: estimates are off by as much."""
SHORTEST = 64
"""Products in a slice of a sum: the stages of a block tile must fill."""
SHORTEST_ROW = 2048
"""Elements in a slice of a row: about what a block of threads has under way."""
MOST_SLICES = 256
STREAMED = (16, 64, 256)
"""Columns of tiles of few rows that are tried: any number of them is possible."""


def split_calls(lowered: Lowered, target: Target, precision: str = "f32") -> Lowered:
    """The calls with some of them split; all as they are where the target is no device that fusec has menus for."""
    level = LEVELS.get(target.level.removesuffix(EMULATED)) if device(target.kind) is not None else None
    if level is None:
        return lowered
    splitting = _Splitting(target, precision, level, dict(lowered.values))
    steps = tuple(splitting.step(s) for s in lowered.steps)
    return Lowered(steps, lowered.aliases, splitting.values)


@dataclass(frozen=True)
class _Choice:
    """How a program is split for some sizes, the parameters of slices included."""

    split: Split
    params: Mapping[str, int]


class _Splitting:
    """What splitting the calls of a model shares."""

    def __init__(self, target: Target, precision: str, level: Level, values: dict[str, Type]) -> None:
        self.target, self.precision, self.level, self.values = target, precision, level, values
        self.programs: dict[tuple[TileProgram, tuple[StageTiling, ...]], TileProgram] = {}
        self.chosen: dict[tuple[str, tuple[tuple[str, Extent], ...]], _Choice | None] = {}

    def step(self, step: Step) -> Step:
        """A step with its calls split."""
        if not isinstance(step, RegionStep):
            return step
        return replace(step, calls=tuple(c for call in step.calls for c in self.calls(call)))

    def calls(self, call: Call) -> tuple[Call, ...]:
        """The calls that take the place of one."""
        key = call.program.name, call.params
        if key not in self.chosen:
            self.chosen[key] = self.choice(call.program, dict(call.params))
        choice = self.chosen[key]
        if choice is None:
            return (call,)
        values = dict(call.operands)
        for part in choice.split.parts:
            values[part.name] = self.part(call, part.name)
            shape = tuple(evaluate(d, choice.params) for d in part.shape)
            self.values[values[part.name]] = TensorType(part.dtype, shape)
        return tuple(self._call(call, p, values, choice.params) for p in choice.split.programs)

    def part(self, call: Call, name: str) -> str:
        """A name for what programs hand on: that of an output with the operand's behind it."""
        outputs = {o.name for o in call.program.operands if o.role == "output"}
        found = next(v for n, v in call.operands if n in outputs) + f"/{name}"
        while found in self.values:
            found += "'"
        return found

    def _call(self, call: Call, p: TileProgram, values: Mapping[str, str], params: Mapping[str, int]) -> Call:
        program = self.program(p, params)
        return replace(
            call,
            program=program,
            operands=tuple((o.name, values[o.name]) for o in p.operands if o.name in values),
            params=tuple(sorted((n, params[n]) for n in p.params)),
            scalars=tuple((n, x) for n, x in call.scalars if n in p.operand),
        )

    def program(self, p: TileProgram, params: Mapping[str, int]) -> TileProgram:
        """The one program with a body whose calls are to be tiled alike: a menu makes one choice for all calls of a program."""
        key = replace(p, name=""), self.bound(p, params).kernel.tiling.stages
        if key not in self.programs:
            verify_program(p)
            names = {q.name for q in self.programs.values()}
            found = (p.name if i == 1 else f"{p.name}_{i}" for i in count(1))
            self.programs[key] = replace(p, name=next(n for n in found if n not in names))
        return self.programs[key]

    # ---- whether, and into how many slices

    def choice(self, p: TileProgram, params: Mapping[str, Extent]) -> _Choice | None:
        """The best split of a program for some sizes; None where it is better left whole."""
        sizes = {n: x for n, x in params.items() if isinstance(x, int)}
        if len(sizes) < len(params) or any(a.sequential for a in p.axes):
            return None
        axis, extent = _longest(p, sizes)
        counts = self.counts(p, axis, extent, sizes)
        if not counts:
            return None
        best, found = GAIN * self.microseconds(p, sizes), None
        for n in counts:
            if best <= HAND_OVER:
                break
            split = split_program(p, axis, extent % n == 0)
            if split is None:
                continue
            some = sizes | {split.slices: n, split.length: -(-extent // n)}
            time = HAND_OVER * (len(split.programs) - 1)
            for part in split.programs:
                time += self.microseconds(part, some) if time < best else 0.0
            if time < best:
                best, found = time, _Choice(split, some)
        return found

    def counts(self, p: TileProgram, axis: str, extent: int, sizes: Mapping[str, int]) -> list[int]:
        """Numbers of slices with which a wave of tiles keeps all multiprocessors busy, for each height and width of a tile."""
        rows = {evaluate(product(p.axis[a].extent for a in s.axis_names), sizes) for s in p.stages if _folds(s, axis)}
        if not rows:
            return []
        forms = [f for s in p.stages if _folds(s, axis) and (f := contraction(s)) is not None]
        if not forms:
            waves = {max(1, self.level.multiprocessors // max(1, n)) for n in rows}
            return self._fitting(waves, extent, SHORTEST_ROW)
        waves = set[int]()
        for form in forms:
            down, across = (evaluate(p.axis[a].extent, sizes) if a else 1 for a in (form.m, form.n))
            others = evaluate(product(p.axis[a].extent for a in form.batch), sizes)
            for height, width in self.tiles(form, down):
                waves.add(self.level.multiprocessors // max(1, others * -(-down // height) * -(-across // width)))
        return self._fitting(waves, extent, SHORTEST)

    def tiles(self, form: Contraction, rows: int) -> list[tuple[int, int]]:
        """Rows and columns of the tiles that a product of so many rows may have."""
        if rows <= FEW_ROWS and form.dtype is DType.F32:
            return [(FEW_ROWS, n) for n in STREAMED]
        return [(m, n) for _, m, n in block_tiles(form, self.level, self.precision)]

    def _fitting(self, waves: set[int], extent: int, shortest: int) -> list[int]:
        """Of numbers of slices those that are long enough: the largest divisor within a quarter, if there is one."""
        found = set[int]()
        for most in waves:
            n = min(most, extent // shortest, MOST_SLICES)
            even = (d for d in range(n, max(1, 3 * n // 4 - 1), -1) if extent % d == 0)
            found.add(next(even, n))
        return sorted(n for n in found if n > 1)

    def microseconds(self, p: TileProgram, params: Mapping[str, int]) -> float:
        """How long a call takes that has the device to itself."""
        return alone_microseconds(self.bound(p, params), self.target, self.level.multiprocessors)

    def bound(self, p: TileProgram, params: Mapping[str, int]) -> BoundKernel:
        """The kernel that the menu would choose, if this call were the only one."""
        mine = {n: params[n] for n in p.params}
        return choose(menu(p, self.target, [mine], self.precision), mine).bind(mine)


def _longest(p: TileProgram, sizes: Mapping[str, int]) -> tuple[str, int]:
    """The longest fold axis and its extent; "" and 0 where nothing is folded."""
    folds = {a.name: evaluate(a.extent, sizes) for s in p.stages for a in s.folds}
    axis = max(folds, key=lambda a: folds[a], default="")
    return axis, folds.get(axis, 0)


def _folds(stage: Stage, axis: str) -> bool:
    return any(a.name == axis for a in stage.folds)
