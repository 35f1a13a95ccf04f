"""What this machine can do at best, as `fusec calibrate` measured it: kept as data beside the machine code."""

from __future__ import annotations

import platform
from dataclasses import dataclass

import msgspec

from fusec.cache import ObjectCache
from fusec.target import Target


@dataclass(frozen=True)
class Level:
    """Bandwidth of arrays of `bytes` bytes in GB/s: one core, and the sum over all workers at once.

    A copy counts what it reads and what it writes.
    """

    name: str
    bytes: int
    read: float
    copy: float
    read_all: float
    copy_all: float


@dataclass(frozen=True)
class Roofs:
    """Peaks of this machine. `noise` is by how much a typical round fell short of the best one.

    `fma` and `fma_all` are GFLOP/s in float32 of one core and of all `workers` at once. `handover` is what a worker that
    waits for another one's tile waits at least, `barrier` what it costs when all wait for all, `launch` a call of a team
    that is awake, `wake` of one that sleeps; all in microseconds, 0 where there is no team.
    """

    cpu: str
    target: str
    workers: int
    date: str
    fma: float
    fma_all: float
    levels: tuple[Level, ...]
    handover: float
    barrier: float
    launch: float
    wake: float
    noise: float
    seconds: float

    def level_of(self, size: int) -> Level:
        """The cache level, or memory, that an array of so many bytes comes from: the first that was measured as large.

        Between the size measured for a level and the next one's, the nearer one in orders of magnitude counts.
        """
        for small, large in zip(self.levels, self.levels[1:], strict=False):
            if size * size <= small.bytes * large.bytes:
                return small
        return self.levels[-1]

    def seconds_of(self, flops: float, moved: tuple[tuple[float, int], ...]) -> float:
        """The least time on one core for so many operations and bytes: the larger of computing and moving.

        `moved` holds pairs: bytes that are read or written, and the size of what they are part of, which says from where
        they come.
        """
        traffic = sum(b / (self.level_of(within).read * 1e9) for b, within in moved)
        return max(flops / (self.fma * 1e9), traffic)


def cpu_name() -> str:
    """The CPU's own name for itself."""
    try:
        with open("/proc/cpuinfo", encoding="ascii", errors="replace") as f:
            return next(line.partition(":")[2].strip() for line in f if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.machine()


def store_roofs(cache: ObjectCache, roofs: Roofs) -> None:
    """Keep them until the cache is cleared."""
    cache.put(_key(Target.parse(roofs.target)), msgspec.json.encode(roofs))


def stored_roofs(cache: ObjectCache, target: Target) -> Roofs | None:
    """What was measured for a target on this CPU, if it was; data that is not of this form counts as none."""
    payload = cache.get(_key(target))
    if payload is None:
        return None
    try:
        roofs = msgspec.json.decode(payload, type=Roofs)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None
    sane = roofs.levels and min(roofs.fma, *(level.read for level in roofs.levels)) > 0
    return roofs if sane else None


def _key(target: Target) -> str:
    return f"calibration 1 {target} {cpu_name()}"
