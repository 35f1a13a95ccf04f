"""How many workers a process should use: affinity, the control group's quota, and what the user asked for."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path, PurePosixPath

from fusec.errors import UsageError
from fusec.knobs import Knobs


def default_workers(environ: Mapping[str, str] | None = None, root: Path = Path("/")) -> int:
    """FUSEC_NUM_THREADS where it is set, else the usable cores, at most OMP_NUM_THREADS of them."""
    environ = os.environ if environ is None else environ
    asked = Knobs.read(environ).num_threads
    if asked is not None:
        return asked
    usable = usable_cores(root)
    omp = re.match(r"\s*(\d+)", environ.get("OMP_NUM_THREADS", ""))
    return max(1, min(usable, int(omp[1]))) if omp else usable


def check_workers(threads: int) -> int:
    """A number of threads given by the user. UsageError where it is none."""
    if isinstance(threads, bool) or not isinstance(threads, int) or not 1 <= threads <= MOST:
        raise UsageError(f"threads must be a whole number from 1 to {MOST}, got {threads!r}")
    return threads


MOST = 512
"""The most workers that one team can have."""


def usable_cores(root: Path = Path("/")) -> int:
    """Cores that this process may keep busy: those of its affinity, within its control group's quota, at least one.

    A quota of one and a half cores counts as one: spinning through a quota gets every thread of the process stopped.
    """
    try:
        cores = len(os.sched_getaffinity(0))
    except (AttributeError, OSError):
        cores = os.cpu_count() or 1
    quota = cpu_quota(root)
    return max(1, min(cores, MOST, int(quota) if quota is not None else cores))


def cpu_quota(root: Path = Path("/")) -> float | None:
    """Cores' worth of time that control groups grant (versions 1 and 2, all levels above us), or None without a limit."""
    limits = []
    for line in _text(root / "proc/self/cgroup").splitlines():
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if not controllers:
            limits += [_version_2(folder) for folder in _levels(root / "sys/fs/cgroup", path)]
        elif "cpu" in controllers.split(","):
            for mount in (controllers, "cpu", "cpu,cpuacct"):
                limits += [_version_1(folder) for folder in _levels(root / "sys/fs/cgroup" / mount, path)]
    found = [x for x in limits if x is not None]
    return min(found) if found else None


def _levels(mount: Path, path: str) -> list[Path]:
    """The group's folder and those above it up to the mount; in a container the path may name what is not visible."""
    parts = [p for p in PurePosixPath(path).parts if p not in ("/", "..")]
    return [mount.joinpath(*parts[:n]) for n in range(len(parts), -1, -1)]


def _version_2(folder: Path) -> float | None:
    quota, _, period = _text(folder / "cpu.max").strip().partition(" ")
    return _ratio(quota, period)


def _version_1(folder: Path) -> float | None:
    return _ratio(_text(folder / "cpu.cfs_quota_us").strip(), _text(folder / "cpu.cfs_period_us").strip())


def _ratio(quota: str, period: str) -> float | None:
    if not quota.isdecimal() or not period.isdecimal() or int(period) == 0:
        return None
    return int(quota) / int(period)


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii", errors="replace")
    except OSError:
        return ""
