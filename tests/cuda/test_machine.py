"""What a machine has for CUDA, with drivers that are there, broken, old or without devices."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from fusec.cli import cuda_rows
from fusec.kernels.cuda import machine
from fusec.kernels.cuda.levels import LEVELS
from fusec.kernels.cuda.machine import Driver, Gpu

H100 = Gpu("NVIDIA H100", (9, 0), 132, 80 << 30, True)
A10 = Gpu("NVIDIA A10", (8, 6), 72, 24 << 30, True)
A100 = Gpu("NVIDIA A100", (8, 0), 108, 80 << 30, True)
B200 = Gpu("NVIDIA B200", (10, 0), 148, 180 << 30, True)
RTX = Gpu("NVIDIA GeForce RTX 5060", (12, 0), 30, 8 << 30, True)
T4 = Gpu("Tesla T4", (7, 5), 40, 16 << 30, True)


class Library:
    """libcuda's functions over ctypes references."""

    def __init__(self, init: int = 0, cuda: int = 13000, gpus: tuple[Gpu, ...] = (H100,)) -> None:
        self.init, self.cuda, self.gpus = init, cuda, gpus

    def cuInit(self, flags: int) -> int:
        assert flags == 0
        return self.init

    def cuDriverGetVersion(self, out: Any) -> int:
        out._obj.value = self.cuda
        return 0

    def cuDeviceGetCount(self, out: Any) -> int:
        out._obj.value = len(self.gpus)
        return 0

    def cuDeviceGet(self, out: Any, index: int) -> int:
        out._obj.value = index
        return 0

    def cuDeviceGetName(self, out: Any, size: int, device: Any) -> int:
        out.value = self.gpus[device.value].name.encode()
        return 0

    def cuDeviceTotalMem_v2(self, out: Any, device: Any) -> int:
        out._obj.value = self.gpus[device.value].memory
        return 0

    def cuDeviceGetAttribute(self, out: Any, which: int, device: Any) -> int:
        g = self.gpus[device.value]
        out._obj.value = {75: g.capability[0], 76: g.capability[1], 16: g.processors, 95: int(g.cooperative)}[which]
        return 0

    def cuGetErrorString(self, code: int, out: Any) -> int:
        out._obj.value = b"system has unsupported display driver / cuda driver combination"
        return 0


def absent() -> Any:
    raise OSError("libcuda.so.1: cannot open shared object file")


def test_a_driver_tells_its_devices() -> None:
    found = machine.ask_driver(lambda: Library(gpus=(H100, A10)))
    assert (found.cuda, found.gpus, found.problem) == ((13, 0), (H100, A10), "")


@pytest.mark.parametrize(
    ("load", "there", "words"),
    [
        (absent, False, "libcuda.so.1 is not on this machine"),
        (lambda: Library(init=100), True, "the driver sees no device"),
        (lambda: Library(gpus=()), True, "the driver sees no device"),
        (lambda: Library(init=803), True, r"cuInit fails: system has unsupported .* \(803\)"),
    ],
)
def test_problems_are_told(load: Callable[[], Any], there: bool, words: str) -> None:
    import re

    found = machine.ask_driver(load)
    assert found.is_there == there
    assert re.search(words, found.problem)


@pytest.mark.parametrize(
    ("gpu", "levels"),
    [
        (H100, ["sm_90"]),
        (A10, ["sm_86", "sm_80"]),
        (A100, ["sm_80"]),
        (T4, []),
        (B200, ["sm_100"]),
        (RTX, ["sm_120"]),
    ],
)
def test_which_levels_a_device_runs(gpu: Gpu, levels: list[str]) -> None:
    assert [n for n in (*LEVELS, "sm_90-emulated", "nonsense") if gpu.runs(n)] == levels


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> Callable[..., dict[str, tuple[str, ...]]]:
    """The rows of the doctor for a driver, CuPy's packages, and a compiler."""

    def rows(
        driver: Driver, packages: list[tuple[str, str]], compiler: str | None = "/usr/bin/g++"
    ) -> dict[str, tuple[str, ...]]:
        monkeypatch.setattr(machine, "driver", lambda: driver)
        monkeypatch.setattr(machine, "cupy_packages", lambda: packages)
        monkeypatch.setattr(machine, "has_cupy", lambda: bool(packages))
        monkeypatch.setattr(machine, "compiler", lambda: compiler)
        return {r[0]: r[1:] for r in cuda_rows.cuda_rows()}

    return rows


THIRTEEN, TWELVE = ("cupy-cuda13x", "14.2.0"), ("cupy-cuda12x", "13.3.0")


def test_the_doctor_on_a_machine_that_is_ready(told: Callable[..., dict[str, tuple[str, ...]]]) -> None:
    rows = told(Driver((13, 0), "580.65.06", (H100,)), [THIRTEEN])
    assert rows["CUDA driver"] == ("ok", "580.65.06, up to CUDA 13.0", "")
    assert rows["CUDA device"][:2] == ("ok", "NVIDIA H100, 9.0, 132 SMs, 80 GiB")
    assert rows["CuPy"][0] == "ok"
    assert rows["CUDA"][:2] == ("ok", "cuda:sm_90")


@pytest.mark.parametrize(
    ("driver", "packages", "row", "state", "words"),
    [
        (Driver(problem="libcuda.so.1 is not on this machine"), [], "CUDA driver", "absent", "install NVIDIA's driver"),
        (Driver(problem="libcuda.so.1 is not on this machine"), [], "CuPy", "absent", "pip install cupy-cuda13x"),
        (Driver((12, 4), "550.1", (H100,)), [], "CuPy", "absent", "pip install cupy-cuda12x"),
        (Driver((12, 4), "550.1", (H100,)), [THIRTEEN], "CuPy", "limited", "pip install cupy-cuda12x, or a driver from 580"),
        (Driver((13, 0), "580.1", (H100,)), [TWELVE], "CuPy", "ok", ""),
        (Driver((13, 0), "580.1", (H100,)), [THIRTEEN, TWELVE], "CuPy", "limited", "pip uninstall cupy-cuda13x cupy-cuda12x"),
        (Driver((13, 0), "580.1", (), "the driver sees no device"), [], "CUDA device", "absent", "CUDA_VISIBLE_DEVICES"),
        (Driver((13, 0), "580.1", (T4,)), [THIRTEEN], "CUDA device", "limited", "no code is made for this compute"),
        (Driver((13, 0), "580.1", (T4,)), [THIRTEEN], "CUDA", "emulated", "for tests"),
    ],
)  # fmt: skip
def test_the_doctor_says_what_to_do(
    told: Callable[..., dict[str, tuple[str, ...]]], driver: Driver, packages: Any, row: str, state: str, words: str
) -> None:
    found = told(driver, packages)[row]
    assert found[0] == state
    assert words in found[2]


def test_the_doctor_without_anything(told: Callable[..., dict[str, tuple[str, ...]]]) -> None:
    rows = told(Driver(problem="libcuda.so.1 is not on this machine"), [], None)
    assert rows["C++ compiler"][0] == "absent"
    assert "apt-get install g++" in rows["C++ compiler"][2]
    assert rows["CUDA"][0] == "absent"
    assert all(len(v) == 3 for v in rows.values())


def test_what_is_missing_is_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "driver", lambda: Driver((13, 0), "580", (A10,)))
    assert machine.missing_for("sm_90") == "no device here executes code for sm_90: NVIDIA A10 (8.6)"
    monkeypatch.setattr(machine, "has_cupy", lambda: False)
    assert machine.missing_for("sm_80") == "CuPy is not installed"
    monkeypatch.setattr(machine, "has_cupy", lambda: True)
    assert machine.missing_for("sm_80") == ""
