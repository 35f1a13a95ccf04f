"""What a compile tells about itself: stage timings, the FUSEC_DEBUG ladder and the FUSEC_DUMP folder.

A Trace is made once, by whoever starts a compile, and handed down as an argument. Nothing here is global.
"""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from fusec.errors import UsageError

if TYPE_CHECKING:
    from fusec.knobs import Knobs

STAGES = 1
KERNELS = 2
SCHEDULES = 3
SOURCES = 4
IR = 5
ASSEMBLY = 6
"""The rungs of FUSEC_DEBUG; each shows what the lower ones show as well."""


@dataclass(frozen=True, slots=True)
class Record:
    """One finished stage or pass: its wall time, its parent stages by name, and counts worth a report."""

    name: str
    seconds: float
    within: tuple[str, ...] = ()
    counts: tuple[tuple[str, int], ...] = ()

    def __str__(self) -> str:
        counts = " ".join(f"{k}={v}" for k, v in self.counts)
        return f"{'  ' * len(self.within)}{self.name:<28}{self.seconds * 1e3:9.2f} ms  {counts}".rstrip()


def _stderr(line: str) -> None:
    print(line, file=sys.stderr)


@dataclass(eq=False)
class Trace:
    """A compile's diary. `Trace()` records timings and is otherwise silent.

    `finished` is called with every record as soon as there is one: the way to show progress.
    """

    debug: int = 0
    folder: Path | None = None
    show: Callable[[str], None] = _stderr
    finished: Callable[[Record], None] | None = None
    records: list[Record] = field(default_factory=list)
    _open: list[str] = field(default_factory=list)
    _files: int = 0

    @staticmethod
    def from_knobs(knobs: Knobs) -> Trace:
        """As FUSEC_DEBUG and FUSEC_DUMP ask."""
        return Trace(debug=knobs.debug, folder=knobs.dump)

    @contextmanager
    def stage(self, name: str) -> Iterator[dict[str, int]]:
        """Time a block and keep a Record of it; the block may fill the yielded counts. A block that fails leaves no record."""
        counts: dict[str, int] = {}
        start, within = time.perf_counter(), tuple(self._open)
        self._open.append(name)
        try:
            yield counts
        finally:
            self._open.pop()
        record = Record(name, time.perf_counter() - start, within, tuple(counts.items()))
        self.records.append(record)
        if not within or any(counts.values()):  # a pass that found nothing to do is no news
            self.log(STAGES, lambda: str(record))
        if self.finished is not None:
            self.finished(record)

    def log(self, rung: int, text: Callable[[], str]) -> None:
        """Show a text where the debug ladder reaches its rung; it is not even made where the ladder does not."""
        if self.debug >= rung:
            self.show(text())

    def dump(self, name: str, extension: str, text: Callable[[], str]) -> Path | None:
        """Write `NNN-name.extension` into the dump folder, numbered in order of writing; None where there is no folder.

        UsageError where it cannot be written: whoever asks for a dump wants to know.
        """
        if self.folder is None:
            return None
        path = self.folder / f"{self._files:03}-{_file_name(name)}.{extension}"
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            path.write_text(text().rstrip("\n") + "\n", encoding="utf-8", errors="backslashreplace")
        except OSError as e:
            raise UsageError(f"cannot dump to {path}: {e.strerror or e}", hint="see FUSEC_DUMP") from e
        self._files += 1
        return path

    def inner(self, name: str) -> Trace:
        """The diary of a compile that happens while a plan runs; it dumps into a folder of its own."""
        return Trace(self.debug, self.folder and self.folder / _file_name(name), self.show)

    def report(self) -> str:
        """All records as a table, in order of finishing."""
        return "\n".join(map(str, self.records))


def _file_name(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9._-]+", "_", name)[:80]
