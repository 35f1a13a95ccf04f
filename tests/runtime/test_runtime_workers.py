"""How many workers: affinity, control groups of both versions, and the variables."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from fusec.errors import UsageError
from fusec.runtime.workers import check_workers, cpu_quota, default_workers, usable_cores


def system(root: Path, cgroup: str, files: dict[str, str]) -> Path:
    (root / "proc/self").mkdir(parents=True)
    (root / "proc/self/cgroup").write_text(cgroup)
    for name, text in files.items():
        path = root / "sys/fs/cgroup" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


@pytest.mark.parametrize(
    ("cgroup", "files", "quota"),
    [
        ("0::/\n", {"cpu.max": "max 100000\n"}, None),
        ("0::/\n", {"cpu.max": "150000 100000\n"}, 1.5),
        ("0::/a/b\n", {"cpu.max": "max 100000\n", "a/cpu.max": "100000 100000", "a/b/cpu.max": "max 100000"}, 1.0),
        ("0::/a/b\n", {"a/cpu.max": "400000 100000", "a/b/cpu.max": "200000 100000"}, 2.0),
        ("0::/../outside\n", {"cpu.max": "50000 100000"}, 0.5),
        (
            "3:cpuset:/\n2:cpu,cpuacct:/d\n",
            {"cpu,cpuacct/d/cpu.cfs_quota_us": "250000", "cpu,cpuacct/d/cpu.cfs_period_us": "100000"},
            2.5,
        ),
        ("1:cpu:/\n", {"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, None),
        ("1:cpu:/gone\n", {"cpu/cpu.cfs_quota_us": "100000\n", "cpu/cpu.cfs_period_us": "100000\n"}, 1.0),
        ("0::/\n", {"cpu.max": "garbage"}, None),
        ("0::/\n", {"cpu.max": "100 0"}, None),
        ("nonsense\n\n:::::\n", {}, None),
        ("", {}, None),
    ],
)
def test_quota(tmp_path: Path, cgroup: str, files: dict[str, str], quota: float | None) -> None:
    assert cpu_quota(system(tmp_path, cgroup, files)) == quota


def test_no_proc_at_all(tmp_path: Path) -> None:
    assert cpu_quota(tmp_path) is None
    assert usable_cores(tmp_path) >= 1


@pytest.mark.parametrize(
    ("environ", "quota", "workers"),
    [
        ({}, "max 100000", 4),
        ({}, "150000 100000", 1),
        ({}, "50000 100000", 1),
        ({}, "300000 100000", 3),
        ({"OMP_NUM_THREADS": "2"}, "max 100000", 2),
        ({"OMP_NUM_THREADS": "3,2"}, "max 100000", 3),
        ({"OMP_NUM_THREADS": "64"}, "max 100000", 4),
        ({"OMP_NUM_THREADS": "0"}, "max 100000", 1),
        ({"OMP_NUM_THREADS": "many"}, "max 100000", 4),
        ({"FUSEC_NUM_THREADS": "7", "OMP_NUM_THREADS": "1"}, "100000 100000", 7),
    ],
)
def test_default(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, environ: dict[str, str], quota: str, workers: int
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1, 2, 3}, raising=False)
    assert default_workers(environ, system(tmp_path, "0::/\n", {"cpu.max": quota})) == workers


def test_affinity_is_respected(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {3}, raising=False)
    assert usable_cores(tmp_path) == 1


def test_a_bad_variable_is_named() -> None:
    with pytest.raises(UsageError, match="FUSEC_NUM_THREADS"):
        default_workers({"FUSEC_NUM_THREADS": "-2"})


@pytest.mark.parametrize("threads", [0, -1, 1.5, "2", True, 10**6])
def test_bad_numbers_of_threads(threads: object) -> None:
    with pytest.raises(UsageError, match="threads must be"):
        check_workers(threads)  # type: ignore[arg-type]
