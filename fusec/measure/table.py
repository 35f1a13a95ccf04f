"""Profiles as rows: calls grouped by kernel, by node or by operator, with their rates and their distance from the roof."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from fusec.measure.profile import Item, Profile

BY = ("kernel", "node", "op")


@dataclass(frozen=True)
class Row:
    """A group of calls. `seconds` is the median over runs; rates are per worker; `roof` is None where nothing is known.

    `roof` is the least time for this work on one core, as calibrated, over the time taken: 1 would be perfect.
    """

    name: str
    label: str
    calls: int
    seconds: float
    share: float
    gflops: float | None
    gbytes: float | None
    roof: float | None
    nodes: tuple[str, ...]


def rows(profile: Profile, by: str) -> list[Row]:
    """The groups, those that take longest first."""
    keys: dict[str, Callable[[int, Item], object]] = {
        "kernel": lambda _, item: (item.is_host, item.program, item.label),
        "node": lambda i, _: i,
        "op": lambda _, item: (item.is_host, item.label),
    }
    groups: dict[object, list[Item]] = {}
    for i, item in enumerate(profile.items):
        groups.setdefault(keys[by](i, item), []).append(item)
    whole = busy_seconds(profile)
    return sorted((_row(items, whole) for items in groups.values()), key=lambda r: -r.seconds)


def busy_seconds(profile: Profile) -> float:
    """The median time of all kernels and host steps together, summed over workers."""
    return float(np.median(np.sum([i.seconds for i in profile.items], axis=0))) if profile.items else 0.0


def _row(items: list[Item], whole: float) -> Row:
    seconds = float(np.median(np.sum([i.seconds for i in items], axis=0)))
    works = [i.work for i in items if i.work is not None]
    roof = sum(i.roof for i in items)
    known = bool(works) and seconds > 0
    return Row(
        items[0].program,
        items[0].label,
        len(items),
        seconds,
        seconds / whole if whole else 0.0,
        sum(w.flops for w in works) / seconds * 1e-9 if known else None,
        sum(w.bytes for w in works) / seconds * 1e-9 if known else None,
        roof / seconds if known and roof else None,
        tuple(n for i in items for n in i.origin),
    )


def document(profile: Profile, by: str) -> dict[str, Any]:
    """Everything as data."""
    total = np.array(profile.total)
    return {
        "runs": len(profile.total),
        "workers": profile.workers,
        "runs_with_fewer_workers": profile.skipped,
        "total_s": {q: float(np.percentile(total, p)) for q, p in (("p10", 10), ("p50", 50), ("p90", 90))},
        "busy_s": busy_seconds(profile),
        "waiting_s": [float(np.median(w)) for w in profile.waiting],
        "outside_s": float(np.median(profile.outside)),
        "by": by,
        "rows": [asdict(r) for r in rows(profile, by)],
    }


def chrome_trace(profile: Profile) -> dict[str, Any]:
    """The typical run as trace events, for chrome://tracing and Perfetto: a track per worker, waits included."""
    run, events = profile.typical, list[dict[str, Any]]()

    def event(name: str, kind: str, worker: int, begin: int, end: int, **more: Any) -> None:
        place = {"ph": "X", "pid": 1, "tid": worker, "ts": (begin - run.began) / 1e3, "dur": (end - begin) / 1e3}
        events.append({"name": name, "cat": kind, **place, "args": more})

    for w in range(profile.workers):
        events.append({"name": "thread_name", "ph": "M", "pid": 1, "tid": w, "args": {"name": f"worker {w}"}})
    event("run", "run", profile.workers, run.began, run.ended)
    for region in run.regions:
        schedule = next(s for s in region.binding.schedules if s.workers == len(region.workers))
        calls = region.binding.region.calls
        for w, times in enumerate(region.workers):
            for i, (c, first, count) in enumerate(schedule.tasks[times.tasks, :3].tolist()):
                arrived, ready, done = int(times.arrived[i]), int(times.ready[i]), int(times.done[i])
                if ready - arrived > 1000:
                    event("wait", "wait", w, arrived, ready)
                call = calls[c].call
                more = {"program": call.program.name, "tiles": f"{first} to {first + count - 1}"}
                event(call.label, "kernel", w, ready, done, **more, nodes=list(call.origin))
    by_step = {i.step: i for i in profile.items if i.is_host}
    for host in run.hosts:
        item = by_step[host.step]
        event(item.label, "host", 0, host.began, host.ended, nodes=list(item.origin))
    return {"displayTimeUnit": "ms", "traceEvents": events}
