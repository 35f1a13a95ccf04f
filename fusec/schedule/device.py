"""Schedules for devices: many workers, a counter per group of tasks instead of one per worker."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from fusec.kernels.kernel import BoundKernel, IntArray
from fusec.schedule.arena import Arena, Lives, find_lives, place_temps
from fusec.schedule.assign import Assignment, Costs
from fusec.schedule.bind import to_tables
from fusec.schedule.dependencies import find_conflicts
from fusec.schedule.groups import Groups, make_groups
from fusec.schedule.ready_first import assign_groups, group_waits
from fusec.schedule.region import BoundRegion
from fusec.schedule.schedule import Schedule
from fusec.schedule.tasks import Grain, Tasks, cut_tasks, is_sequential
from fusec.schedule.validate import validate

GRAIN = Grain(per_worker=4, least=1.0, step=1.0)
"""Tiles are made for a device's workers already: they are only joined where they take less than waiting would."""
COSTS = Costs(hand_over=1.0, byte=0.0)
"""Microseconds until another block knows; what it wrote is in the cache that all share."""
ROOMY = 32 << 20
"""Bytes of an arena that nobody minds: about what the shared cache holds."""
WORTHWHILE = 0.75
"""A tight arena is worth its waits where it has at most this share of the bytes."""
TIGHT_GROUPS = 8
"""Groups of one call where bytes are reused in planned order: who writes into them waits for all."""
MOST_STEPS = 1 << 14
"""Tasks of shared steps beyond which fewer workers share a step."""
MOST_KEPT = 1 << 15
"""The same where each worker keeps weights: with fewer workers it could keep them no longer."""


def schedule_device(
    region: BoundRegion,
    workers: int,
    microseconds: Callable[[BoundKernel], float],
    scratch: Callable[[BoundKernel], int] = lambda _: 0,
    *,
    grain: Grain = GRAIN,
    costs: Costs = COSTS,
    tight: bool | None = None,
) -> Schedule:
    """Cut tasks, group them, place them on workers, and prove the result.

    `tight` reuses bytes of the arena in planned order, and adds the waits that this takes; None does so where the arena
    would otherwise be large and much larger.
    """
    tasks, groups, placed = _placed(region, workers, microseconds, grain, costs)
    count, waits, clock = group_waits(placed, groups)
    lives = find_lives(region, tasks, placed, clock)
    arena = place_temps(lives)
    if tight or (tight is None and arena.bytes > ROOMY):
        small = place_temps(lives, tight=True)
        if tight or small.bytes < arena.bytes * WORTHWHILE:
            groups, placed, count, waits, arena = _tightened(region, tasks, workers, costs)
    most = max((scratch(k) for k in {id(c.kernel): c.kernel for c in region.calls}.values()), default=0)
    signal, totals, waits = _counters(groups, waits)
    rows = np.stack([waits, totals[waits]], 1)
    schedule = _without_idle(to_tables(region, tasks, placed, count, rows, arena, most, (signal, totals)))
    validate(schedule, region)
    return schedule


def _without_idle(s: Schedule) -> Schedule:
    """The workers that have anything to do: they come first, and the others need not be launched."""
    busy = int(np.flatnonzero(np.diff(s.queue_starts)).max(initial=0)) + 1
    return replace(s, queue_starts=s.queue_starts[: busy + 1])


def _placed(
    region: BoundRegion, workers: int, microseconds: Callable[[BoundKernel], float], grain: Grain, costs: Costs
) -> tuple[Tasks, Groups, Assignment]:
    """Cut, group and place. Steps of recurrent layers are shared out, or layers are, whatever ends first."""
    found = list[tuple[Tasks, Groups, Assignment]]()
    choices = [grain]
    if workers > 1 and any(is_sequential(c.kernel) and not c.kernel.kernel.keeps for c in region.calls):
        choices = [replace(grain, whole_steps=True), grain]
    for choice in choices:
        tasks = cut_tasks(region, _sharing(region, workers, choice), microseconds, choice)
        groups = make_groups(tasks, find_conflicts(tasks))
        found.append((tasks, groups, assign_groups(tasks, groups, workers, costs)))
    return min(found, key=lambda f: f[2].makespan)


def _sharing(region: BoundRegion, workers: int, grain: Grain) -> int:
    """Workers that tasks are cut for: fewer where so many steps are shared that planning would take too long."""
    if grain.whole_steps or workers == 1:
        return workers
    steps = pieces = 0
    for call in region.calls:
        sizes = zip(call.kernel.grid, call.kernel.kernel.program.axes, strict=True)
        sequential = [n for n, a in sizes if a.sequential]
        if sequential and call.kernel.kernel.keeps:
            pieces += call.kernel.tiles
        elif sequential:
            steps += int(np.prod(sequential))
    if pieces > MOST_KEPT:
        steps += pieces
    return max(2, min(workers, MOST_STEPS // steps)) if steps else workers


def _tightened(
    region: BoundRegion, tasks: Tasks, workers: int, costs: Costs
) -> tuple[Groups, Assignment, IntArray, IntArray, Arena]:
    """Larger groups, so that waiting for all of a call is cheap, an arena in planned order, and the waits that it takes."""
    groups = make_groups(tasks, find_conflicts(tasks), TIGHT_GROUPS, every=True)
    placed = assign_groups(tasks, groups, workers, costs)
    nothing = np.broadcast_to(np.int64(0), (len(tasks), placed.workers))
    lives = find_lives(region, tasks, placed, nothing)  # what is known when a task starts does not matter here
    arena = place_temps(lives, tight=True)
    groups = groups.with_needs(*_reuse(tasks, lives, arena, groups))
    count, waits, _ = group_waits(placed, groups)
    return groups, placed, count, waits, arena


def _reuse(tasks: Tasks, lives: Lives, arena: Arena, groups: Groups) -> tuple[IntArray, IntArray]:
    """Who writes into reused bytes follows everybody who used them before: pairs of a task and a group."""
    low = np.array([arena.offsets[n] for n in lives.names], np.int64)
    high = low + lives.size
    share = (low[:, None] < high) & (low < high[:, None]) & lives.ordered(tight=True)
    share &= (share.astype(np.float32) @ share.astype(np.float32)) == 0  # who follows c follows whom c follows
    users: dict[str, set[int]] = {n: set() for n in lives.names}
    writers: dict[str, set[int]] = {n: set() for n in lives.names}
    for x in tasks.accesses:
        if x.buffer in users:
            users[x.buffer].add(x.call)
            if x.write:
                writers[x.buffer].add(x.call)
    pairs = {
        (late, early)
        for a, b in np.argwhere(share).tolist()
        for late in writers[lives.names[b]]
        for early in users[lives.names[a]]
    }
    later, group = [np.zeros(0, np.int64)], [np.zeros(0, np.int64)]
    for late, early in sorted(pairs):
        members = np.unique(groups.of[tasks.bounds[early] : tasks.bounds[early + 1]])
        mine = np.arange(tasks.bounds[late], tasks.bounds[late + 1])
        later.append(np.repeat(mine, len(members)))
        group.append(np.tile(members, len(mine)))
    return np.concatenate(later), np.concatenate(group)


def _counters(groups: Groups, waits: IntArray) -> tuple[IntArray, IntArray, IntArray]:
    """Counters for the groups that somebody waits for: who signals which, how often each is, and the waits by counter."""
    used = np.unique(waits)
    number = np.full(len(groups), -1, np.int64)
    number[used] = np.arange(len(used))
    return number[groups.of], groups.size[used], number[waits]
