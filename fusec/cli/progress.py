"""Progress of long work: lines on stderr, printed between pieces of work and never while something is timed."""

from __future__ import annotations

import sys
from collections.abc import Callable

from fusec.cli.text import say
from fusec.knobs import Knobs
from fusec.trace import Record


def stage_line(record: Record) -> str:
    """A finished stage: name, time and what it counted."""
    counts = ", ".join(f"{v:,} {k}" for k, v in record.counts)
    return f"  {record.name:<10}{record.seconds * 1e3:9.1f} ms  {counts}".rstrip()


def stages(silent: bool) -> Callable[[Record], None] | None:
    """What a Trace calls with finished records: a line for each outermost stage as soon as it is over."""
    if silent or Knobs.read().progress == "off":
        return None

    def tell(record: Record) -> None:
        if not record.within:
            say(stage_line(record))

    return tell


def rounds(count: int, silent: bool) -> Callable[[int], None] | None:
    """What `measure` calls between rounds: a line every quarter, on a terminal or where FUSEC_PROGRESS says `plain`."""
    wish = Knobs.read().progress
    if silent or wish == "off" or (wish == "auto" and not sys.stderr.isatty()):
        return None

    def tell(r: int) -> None:
        if (r + 1) % max(1, count // 4) == 0 and r + 1 < count:
            say(f"  round {r + 1} of {count}")

    return tell
