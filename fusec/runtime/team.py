"""The team: one per process, threads that run driver code and never Python, parked when idle, gone at exit.

Threads are POSIX threads on the driver's address. They hold no interpreter state, so no lock of Python's is ever waited
for; all signals stay with Python's own threads. Nothing is started before a schedule with several workers is bound. A
child of `fork` has no team until it needs one itself: the block is zeroed, and the driver takes one-worker programs.
"""

from __future__ import annotations

import atexit
import ctypes
import os
import platform
import signal
import sys
import threading
import time
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Protocol

from fusec.kernels.cpu import driver as d
from fusec.runtime.memory import Block
from fusec.runtime.workers import MOST

if TYPE_CHECKING:
    from fusec.kernels.kernel import Binary

SUPPORTED = sys.platform.startswith("linux") and platform.machine() in ("x86_64", "aarch64")
"""Where there are teams; elsewhere every run has one worker."""

FAULTS = {signal.SIGSEGV, signal.SIGFPE, signal.SIGILL, signal.SIGABRT} | (
    {signal.SIGBUS} if hasattr(signal, "SIGBUS") else set()
)
"""Signals that a thread causes itself: these stay open, so that faulthandler can speak."""

EXIT_PATIENCE = 2.0
"""Seconds that the exit of the process waits for runs of daemon threads to notice that they are aborted."""


class Running(Protocol):
    """A frame, as far as the end of the process is concerned."""

    @property
    def is_running(self) -> bool:
        """Whether machine code is inside."""


@dataclass(frozen=True, slots=True)
class Driver:
    """The driver in memory: callables that release the interpreter lock, and the address that threads start at."""

    run: Callable[[int], int]
    resume: Callable[[int], int]
    worker: int


def load_driver(binary: Binary) -> Driver:
    """Load the driver's machine code and ask it for its addresses."""
    from fusec.kernels.cpu.load import call, load

    table = (ctypes.c_int64 * 3)()
    call(load(binary), ctypes.addressof(table), 0, 0, 0)
    kind = ctypes.CFUNCTYPE(ctypes.c_long, ctypes.c_void_p)
    return Driver(kind(table[0]), kind(table[1]), table[2])


class Team:
    """The process' team. `block` is what the driver sees of it (see kernels.cpu.driver.Team)."""

    def __init__(self) -> None:
        self.block = Block((d.Team.MAILBOX + d.LINE // d.WORD * MOST) * d.WORD)
        self.address = self.block.address
        self.frames: weakref.WeakSet[Running] = weakref.WeakSet()
        self._lock = threading.Lock()
        self._threads: list[ctypes.c_ulong] = []
        self._ended = False
        self.generation = 0
        """How many forks ago this began: frames of an earlier generation may have been torn in the middle of a run."""
        self._write_constants()

    @property
    def helpers(self) -> int:
        """The number of threads besides the callers."""
        return len(self._threads)

    def ensure(self, workers: int, driver: Driver) -> bool:
        """Have at least `workers` - 1 threads. False where that cannot be: then frames run their one-worker programs."""
        if len(self._threads) >= workers - 1:
            return True
        with self._lock:
            if not SUPPORTED or self._ended or workers > MOST:
                return False
            try:
                while len(self._threads) < workers - 1:
                    self._threads.append(self._start(len(self._threads) + 1, driver))
            except OSError:
                pass  # a limit on threads: those that are there help all the same
            # Written last: from now on programs of so many workers, the caller included, are handed out.
            self.block.words[d.Team.WORKERS] = len(self._threads) + 1
            return len(self._threads) >= workers - 1

    @property
    def ended(self) -> bool:
        """Whether the process is ending: every run is aborted, because the code under it will be taken away."""
        return self._ended

    def stop(self) -> None:
        """End all threads, and keep machine code from running any more. Called once, when the process ends."""
        with self._lock:
            self._ended = True
            words = self.block.words
            words[d.Team.WORKERS] = 0
            words[d.Team.STOP] = 1
            for number, thread in enumerate(self._threads, 1):
                self._call_once_more(number)
                _libc().pthread_join(thread, None)
            self._threads.clear()
            # Code must not be taken away under a daemon thread that is still inside.
            end = time.monotonic() + EXIT_PATIENCE
            while any(f.is_running for f in list(self.frames)) and time.monotonic() < end:
                time.sleep(0.001)

    def forget(self) -> None:
        """In the child of a fork: the threads are not here, words may be torn, the lock may be held by nobody."""
        self._lock = threading.Lock()
        self._threads = []
        self.generation += 1
        self.frames = weakref.WeakSet()
        self.block.words[:] = 0
        self._write_constants()

    def _write_constants(self) -> None:
        words = self.block.words
        words[d.Team.SPINS], words[d.Team.YIELDS] = d.SPINS, d.YIELDS
        for word, name in ((d.Team.YIELD, "sched_yield"), (d.Team.SYSCALL, "syscall"), (d.Team.CLOCK, "clock_gettime")):
            words[word] = _libc_address(name)

    def _mailbox(self, number: int) -> int:
        return d.Team.MAILBOX + (number - 1) * (d.LINE // d.WORD)

    def _start(self, number: int, driver: Driver) -> ctypes.c_ulong:
        at = self._mailbox(number)
        words = self.block.words
        words[at : at + 4] = 0, 0, number, self.address
        thread = ctypes.c_ulong()
        before = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals() - FAULTS)
        try:
            code = _libc().pthread_create(
                ctypes.byref(thread),
                None,
                ctypes.c_void_p(driver.worker),
                ctypes.c_void_p(self.address + at * d.WORD),
            )
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        if code:
            raise OSError(code, os.strerror(code))
        if hasattr(_libc(), "pthread_setname_np"):
            _libc().pthread_setname_np(thread, f"fusec-{number}".encode())
        return thread

    def _call_once_more(self, number: int) -> None:
        """Move a helper's sequence, so that it looks at STOP, and wake it.

        Callers add one to that word at the same time; whichever store is lost, a large step leaves a value that is new.
        """
        box = self.address + self._mailbox(number) * d.WORD
        sequence = ctypes.c_uint32.from_address(box)
        sequence.value = (sequence.value + (1 << 16)) & 0xFFFFFFFF
        futex = {"x86_64": 202, "aarch64": 98}[platform.machine()]
        _libc().syscall(ctypes.c_long(futex), ctypes.c_void_p(box), ctypes.c_int(129), ctypes.c_int(1), None, None, 0)


@cache
def process_team() -> Team:
    """The one team of this process. Making it starts no thread."""
    team = Team()
    atexit.register(team.stop)
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=team.forget)
    return team


@cache
def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


def _libc_address(name: str) -> int:
    try:
        return int(ctypes.cast(getattr(_libc(), name), ctypes.c_void_p).value or 0)
    except (AttributeError, OSError):
        return 0
