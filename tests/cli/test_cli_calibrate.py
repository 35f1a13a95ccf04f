"""`fusec calibrate` and what is kept of it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from fusec.cache import ObjectCache
from fusec.cli.main import group
from fusec.measure.calibrate import level_sizes
from fusec.measure.roofs import Level, Roofs, store_roofs, stored_roofs
from fusec.target import Target, host

ROOFS = Roofs(
    "cpu", str(host()), 2, "2026-01-01T00:00:00+00:00", 100.0, 190.0,
    (
        Level("L1", 16 << 10, 300, 300, 600, 600),
        Level("L2", 512 << 10, 100, 90, 200, 180),
        Level("memory", 64 << 20, 10, 8, 12, 9),
    ),
    0.2, 0.3, 1.0, 100.0, 0.05, 3.0,
)  # fmt: skip


def test_calibrate_measures_and_doctor_shows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FUSEC_CACHE_DIR", str(tmp_path / "cache"))
    before = CliRunner().invoke(group, ["doctor", "--json"])
    assert "roofs" in {r["what"] for r in json.loads(before.stdout)}
    result = CliRunner().invoke(group, ["calibrate", "--rounds", "3", "--json"], catch_exceptions=False)
    told = json.loads(result.stdout)
    assert told["fma"] > 0.5 and told["fma_all"] > 0.5
    assert [v["name"] for v in told["levels"]][-1] == "memory"
    assert all(min(v["read"], v["copy"], v["read_all"], v["copy_all"]) > 0.05 for v in told["levels"])
    assert 0 <= told["noise"] < 1
    after = CliRunner().invoke(group, ["doctor", "--json"])
    rows = {r["what"]: r for r in json.loads(after.stdout)}
    assert rows["arithmetic"]["value"].endswith("GFLOP/s") and "roofs" not in rows


def test_calibrate_text_and_refusals(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FUSEC_CACHE_DIR", str(tmp_path / "cache"))
    result = CliRunner().invoke(group, ["calibrate", "--rounds", "3", "-t", "1"], catch_exceptions=False)
    assert "multiply-add" in result.stdout and "noise:" in result.stdout and "hand a tile" not in result.stdout
    assert CliRunner().invoke(group, ["calibrate", "--device", "mychip"]).exit_code
    assert CliRunner().invoke(group, ["calibrate", "--device", "cpu:none"]).exit_code


def test_roofs_are_kept_as_data(tmp_path: Path) -> None:
    cache, target = ObjectCache(tmp_path / "c"), host()
    assert stored_roofs(cache, target) is None
    store_roofs(cache, ROOFS)
    assert stored_roofs(cache, target) == ROOFS
    assert stored_roofs(cache, Target("cpu", "other")) is None


@pytest.mark.parametrize("payload", [b"", b"{}", b"[1]", b"\xff\xfe", b'{"fma": "much"}'])
def test_damaged_roofs_count_as_none(tmp_path: Path, payload: bytes) -> None:
    from fusec.measure import roofs

    cache = ObjectCache(tmp_path / "c")
    cache.put(roofs._key(host()), payload)
    assert stored_roofs(cache, host()) is None


def test_the_roof_is_the_larger_of_computing_and_moving() -> None:
    assert ROOFS.seconds_of(1e9, ()) == pytest.approx(0.01)
    assert ROOFS.seconds_of(1e9, ((1e9, 100 << 20),)) == pytest.approx(0.1)
    assert ROOFS.seconds_of(0, ((1e9, 100 << 20), (1e9, 1000))) == pytest.approx(0.1 + 1 / 300)
    assert [ROOFS.level_of(n).name for n in (0, 16 << 10, 400 << 10, 1 << 20, 1 << 30)] == "L1 L1 L2 L2 memory".split()


def test_cache_sizes_come_from_the_system(tmp_path: Path) -> None:
    for i, (kind, level, size) in enumerate((("Data", 1, "32K"), ("Instruction", 1, "64K"), ("Unified", 2, "1024K"))):
        folder = tmp_path / f"sys/devices/system/cpu/cpu0/cache/index{i}"
        folder.mkdir(parents=True)
        for name, text in (("type", kind), ("level", level), ("size", size)):
            (folder / name).write_text(f"{text}\n")
    assert level_sizes(tmp_path) == {"L1": 16 << 10, "L2": 512 << 10, "memory": 64 << 20}
    assert list(level_sizes(tmp_path / "nothing")) == ["L1", "L2", "L3", "memory"]
