"""A schedule as tables for people: what each worker does and waits for, and where temporaries live."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from fusec.schedule.schedule import CALL, SIGNAL, WAIT, WAITS, Schedule

if TYPE_CHECKING:
    from rich.table import Table


def render(schedule: Schedule, width: int = 120, tasks: int = 200) -> str:
    """Summary, queues and arena, at most `tasks` rows of the queues. Plain text, no colours."""
    from rich.console import Console

    console = Console(width=width, no_color=True, highlight=False, color_system=None)
    with console.capture() as capture:
        console.print(_summary(schedule), markup=False)
        console.print(_calls(schedule))
        console.print(_queues(schedule, tasks))
        if (left := len(schedule.tasks) - tasks) > 0:
            console.print(f"... and {left} more tasks", markup=False)
        if schedule.offsets:
            console.print(_arena(schedule))
    return "\n".join(line.rstrip() for line in capture.get().splitlines()) + "\n"


def _summary(s: Schedule) -> str:
    ideal = s.work / s.workers
    busy = ideal / s.makespan if s.makespan else 1.0
    return (
        f"{len(s.calls)} kernels, {len(s.tasks)} tasks on {s.workers} workers, {len(s.waits)} waits\n"
        f"about {s.makespan / 1e3:.1f} us, workers busy {busy:.0%} of it\n"
        f"arena {s.arena:,} bytes (no plan for this order needs less than {s.arena_bound:,}), "
        f"scratch {s.scratch:,} bytes per worker"
    )


def _table(title: str, *columns: str) -> Table:
    from rich import box
    from rich.table import Table

    table = Table(title=title, box=box.SIMPLE_HEAD, title_justify="left")
    for column in columns:
        is_number = column.startswith("#")
        table.add_column(column.removeprefix("#"), justify="right" if is_number else "left", overflow="fold")
    return table


def _calls(s: Schedule) -> Table:
    table = _table("kernels", "#", "kernel", "#menu", "#tasks", "#tiles", *(f"#w{w}" for w in _shown(s)))
    owner = {t: w for w in range(s.workers) for t in s.queue(w).tolist()}
    rows = s.tasks.tolist()
    for call, label in enumerate(s.calls):
        mine = [t for t, row in enumerate(rows) if row[CALL] == call]
        share = Counter(owner[t] for t in mine)
        tiles = sum(rows[t][2] for t in mine)
        shares = [str(share[w] or "") for w in _shown(s)]
        table.add_row(str(call), _plain(label), str(s.choices[call]), str(len(mine)), str(tiles), *shares)
    return table


def _shown(s: Schedule) -> range:
    return range(s.workers if s.workers <= 8 else 0)


def _queues(s: Schedule, limit: int) -> Table:
    table = _table("queues", "#worker", "#place", "task", "waits for", "signals")
    left = limit
    for w in range(s.workers):
        for place, t in enumerate(s.queue(w).tolist()[:left], 1):
            first, count = s.tasks[t, WAIT : WAITS + 1].tolist()
            waits = ", ".join(_wait(s, c, v) for c, v in s.waits[first : first + count].tolist())
            signal = int(s.tasks[t, SIGNAL])
            table.add_row(str(w), str(place), _plain(s.task_name(t)), waits, "" if signal < 0 else f"counter {signal}")
        left = max(0, left - len(s.queue(w)))
    return table


def _wait(s: Schedule, counter: int, threshold: int) -> str:
    """A wait in words, where the counter is a worker's own: which task must be done."""
    signalling = [t for w in range(s.workers) for t in s.queue(w).tolist() if s.tasks[t, SIGNAL] == counter]
    is_own = counter < s.workers and set(signalling) == set(s.queue(counter).tolist())
    if not is_own or threshold > len(signalling):
        return (
            f"counter {counter} (all {threshold})"
            if threshold == len(signalling)
            else f"counter {counter} at {threshold}"
        )
    return f"worker {counter}: {_plain(s.task_name(signalling[threshold - 1]))}"


def _arena(s: Schedule) -> Table:
    table = _table("arena", "temporary", "#offset")
    for name, offset in sorted(s.offsets.items(), key=lambda x: (x[1], x[0])):
        table.add_row(_plain(name), f"{offset:,}")
    return table


def _plain(text: str) -> str:
    """Names come from model files: no control characters, no markup."""
    from rich.markup import escape

    return escape("".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text))
