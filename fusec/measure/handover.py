"""What the team costs: programs of empty kernels, run by the very driver that runs models."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from fusec.kernels.cpu import driver as d
from fusec.runtime.memory import Block
from fusec.runtime.team import Driver, Team

Waits = Callable[[int, int], Sequence[tuple[int, int]]]
LINE = d.LINE // d.WORD
ROWS = 2000
"""Rows per worker of a program whose time is divided by them."""


@dataclass(frozen=True)
class TeamCosts:
    """Microseconds; see `Roofs`."""

    handover: float
    barrier: float
    launch: float
    wake: float


def team_costs(driver: Driver, team: Team, kernel: int, workers: int, rounds: int = 20) -> TeamCosts | None:
    """Measure a team of so many workers; None where there cannot be one. `kernel` is the address of an empty kernel."""
    if workers < 2 or not team.ensure(workers, driver):
        return None
    turns = _Program(driver, team, kernel, 2, ROWS, lambda w, row: [(1 - w, row + w)] if row + w else [])
    others = [[v for v in range(workers) if v != w] for w in range(workers)]
    meet = _Program(driver, team, kernel, workers, ROWS, lambda w, row: [(v, row) for v in others[w]] if row else [])
    single = _Program(driver, team, kernel, workers, 1, lambda _, __: [])
    handover = _least(turns, rounds) / (2 * ROWS)
    barrier = _least(meet, rounds) / ROWS
    launch = _least(single, 20 * rounds)
    wakes = []
    for _ in range(rounds):
        time.sleep(0.005)  # long enough for helpers to park
        wakes.append(single.run())
    return TeamCosts(handover, barrier, launch, float(np.median(wakes)))


def _least(program: _Program, rounds: int) -> float:
    program.run()
    return min(program.run() for _ in range(rounds))


class _Program:
    """A frame whose workers all have so many rows; `waits(worker, row)` are (worker, number of rows that it must have done)."""

    def __init__(self, driver: Driver, team: Team, kernel: int, workers: int, rows: int, waits: Waits) -> None:
        self._driver, self._workers = driver, workers
        program = d.Frame.WORDS
        table = program + d.Program.WORDS
        counters = table + workers * LINE
        at_rows = counters + workers * LINE
        at_waits = at_rows + workers * rows * LINE
        told = [[waits(w, r) for r in range(rows)] for w in range(workers)]
        count = sum(len(row) for rows_ in told for row in rows_)
        self._block = Block((at_waits + 2 * count + LINE) * d.WORD)
        words, address = self._block.words, self._block.address
        self._words = words

        def place(word: int) -> int:
            return address + word * d.WORD

        words[d.Frame.SOLO] = words[d.Frame.TEAMED] = place(program)
        words[d.Frame.TEAM], words[d.Frame.WORTH], words[d.Frame.OFFSET] = team.address, 1, -1
        words[program + d.Program.WORKERS], words[program + d.Program.STRIDE] = workers, rows + 1
        words[program + d.Program.TABLE], words[program + d.Program.FRAME] = place(table), address
        for w in range(workers):
            line = table + w * LINE
            words[line + d.Worker.ROWS] = place(at_rows + w * rows * LINE)
            words[line + d.Worker.COUNT] = rows
            words[line + d.Worker.COUNTER] = place(counters + w * LINE)
            for r in range(rows):
                row = at_rows + (w * rows + r) * LINE
                words[row + d.Row.KERNEL], words[row + d.Row.COUNT] = kernel, 1
                words[row + d.Row.WAITS], words[row + d.Row.WAIT_COUNT] = place(at_waits), len(told[w][r])
                words[row + d.Row.SIGNAL] = r + 1
                for other, done in told[w][r]:
                    words[at_waits], words[at_waits + 1] = place(counters + other * LINE), done
                    at_waits += 2

    def run(self) -> float:
        """Microseconds of one run."""
        self._words[d.Frame.TICK] = 0  # a tick at which the driver would try the one-worker program does not come
        start = time.perf_counter_ns()
        code = self._driver.run(self._block.address)
        while code == d.UNFINISHED:
            code = self._driver.resume(self._block.address)
        return (time.perf_counter_ns() - start) / 1e3
