"""From a region with numbers for its symbols to a proved Schedule: the whole stage, in the order of its parts."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

import numpy as np

from fusec.ir.types import Type
from fusec.kernels.kernel import BoundKernel, IntArray, Kernel
from fusec.schedule.arena import Arena, find_lives, place_temps, reuse_fronts
from fusec.schedule.assign import Assignment, Costs, assign
from fusec.schedule.dependencies import find_conflicts
from fusec.schedule.pipeline import assign_ready
from fusec.schedule.region import BoundRegion, Region, bind_calls
from fusec.schedule.schedule import Schedule
from fusec.schedule.stretches import FAR, bands, find_stretches
from fusec.schedule.tasks import Grain, Tasks, cut_tasks, is_sequential
from fusec.schedule.validate import validate
from fusec.schedule.waits import find_waits

ROOMY = 1 << 20
"""Bytes of an arena that nobody minds: about what a core's own cache holds."""

MOST_IN_PIPELINE = 64
"""Workers up to which layers are shared out: there are rarely more of them."""

MOST_STEPS = 1 << 13
"""Tasks of shared steps beyond which planning them would take longer than many runs."""

WORTHWHILE = 0.75
"""A tight arena is worth its waits where it has at most this share of the bytes."""


def bind_region(
    region: Region,
    kernels: Mapping[str, tuple[Kernel, ...]],
    symbols: Mapping[str, int],
    values: Mapping[str, Type],
    root: Callable[[str], str],
    workers: int,
    microseconds: Callable[[BoundKernel], float],
    scratch: Callable[[BoundKernel], int] = lambda _: 0,
) -> Schedule:
    """Choose kernels, cut tasks, place them on workers, and prove the result.

    `root` gives the value that owns the bytes of a value, `microseconds` estimates one average tile of a kernel,
    `scratch` says how many private bytes a worker lends it.
    """
    return schedule_region(bind_calls(region, kernels, symbols, values, root), workers, microseconds, scratch)


def schedule_region(
    region: BoundRegion,
    workers: int,
    microseconds: Callable[[BoundKernel], float],
    scratch: Callable[[BoundKernel], int] = lambda _: 0,
    *,
    grain: Grain | None = None,
    costs: Costs | None = None,
    tight: bool | None = None,
    far: int = FAR,
) -> Schedule:
    """The same for a region that is bound already.

    `tight` reuses bytes of the arena in planned order, and adds the waits that this takes; None does so where the arena
    would otherwise be large and much larger (workers that never meet share no bytes on their own). `far` is how many bytes
    a call hands on where tasks go depth first (see stretches.py), 0 for never.
    """
    tasks, placed = place_tasks(region, workers, microseconds, grain or Grain(), costs or Costs(), far)
    count, waits, clock = find_waits(placed, placed.need)
    lives = find_lives(region, tasks, placed, clock)
    arena = place_temps(lives)
    if workers > 1 and (tight or (tight is None and arena.bytes > ROOMY)):
        small = place_temps(lives, tight=True)
        if tight or small.bytes < arena.bytes * WORTHWHILE:
            arena = small
            count, waits, _ = find_waits(placed, reuse_fronts(tasks, lives, arena, placed.need))
    most = max((scratch(k) for k in {id(c.kernel): c.kernel for c in region.calls}.values()), default=0)
    schedule = to_tables(region, tasks, placed, count, waits, arena, most)
    validate(schedule, region)
    return schedule


def place_tasks(
    region: BoundRegion,
    workers: int,
    microseconds: Callable[[BoundKernel], float],
    grain: Grain,
    costs: Costs,
    far: int = FAR,
) -> tuple[Tasks, Assignment]:
    """Cut and place. Steps of recurrent layers are shared out among the workers, or layers are, whatever ends first."""
    stretches = find_stretches(region, far)
    fewest = {c: bands(region, region.calls[c]) for s in stretches for c in s}
    if workers == 1:
        tasks = cut_tasks(region, workers, microseconds, grain, fewest)
        inside = replace(tasks, accesses=tuple(a for a in tasks.accesses if a.call in fewest))
        return tasks, assign(tasks, find_conflicts(inside) if stretches else None, 1, costs, stretches)
    found = list[tuple[Tasks, Assignment]]()
    if workers <= MOST_IN_PIPELINE and any(is_sequential(c.kernel) for c in region.calls):
        tasks = cut_tasks(region, workers, microseconds, replace(grain, whole_steps=True))
        found.append((tasks, assign_ready(tasks, find_conflicts(tasks), workers, costs)))
        shared, count = estimate_shared(tasks, workers, grain, costs)
        if found[0][1].makespan <= shared or count > MOST_STEPS:
            return found[0]
    tasks = cut_tasks(region, workers, microseconds, grain, fewest)
    found.append((tasks, assign(tasks, find_conflicts(tasks), workers, costs, stretches)))
    return found[0] if found[0][1].makespan <= found[-1][1].makespan else found[-1]


def estimate_shared(tasks: Tasks, workers: int, grain: Grain, costs: Costs) -> tuple[float, int]:
    """At least how long it takes if each step is shared out, in microseconds, and how many tasks the steps become."""
    cost_of = np.bincount(tasks.call, tasks.cost, len(tasks.steps)).tolist()
    tiles_of = np.bincount(tasks.call, tasks.count, len(tasks.steps)).tolist()
    total, count = 0.0, 0
    for cost, tiles, steps in zip(cost_of, tiles_of, tasks.steps, strict=True):
        pieces = workers
        if steps:
            pieces = max(1, min(workers, int(tiles) // steps, int(cost / steps / grain.step)))
        total += cost / pieces + steps * (costs.hand_over if pieces > 1 else 0.0)
        count += steps * pieces
    return total, count


def to_tables(
    region: BoundRegion,
    tasks: Tasks,
    a: Assignment,
    count: IntArray,
    waits: IntArray,
    arena: Arena,
    scratch: int = 0,
    counters: tuple[IntArray, IntArray] | None = None,
) -> Schedule:
    """Everything that was decided, as a Schedule.

    `counters` says which one each task increments, and their totals. Without it each worker has one, incremented after
    each of its tasks.
    """
    queues = a.order[np.argsort(a.worker[a.order], kind="stable")]
    lengths = np.bincount(a.worker, minlength=a.workers)
    signal, totals = counters or (a.worker, lengths)
    first = np.cumsum(count) - count
    columns = [tasks.call, tasks.first, tasks.count, first, count, signal]
    return Schedule(
        tasks=np.stack(columns, 1),
        waits=waits,
        queues=queues,
        queue_starts=np.concatenate([[0], np.cumsum(lengths)]),
        totals=totals,
        choices=np.array([c.choice for c in region.calls], np.int64),
        offsets=arena.offsets,
        arena=arena.bytes,
        arena_bound=arena.bound,
        scratch=scratch,
        makespan=round(a.makespan * 1e3),
        work=round(float(tasks.cost.sum()) * 1e3),
        calls=tuple(c.label for c in region.calls),
    )
