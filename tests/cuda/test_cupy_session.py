"""Whole sessions over the CuPy device: CuPy is the stand-in, and its launches run the emulator on the same memory.

So everything between a session and the driver is the code that a GPU gets: the pool, pinned copies, argument packing, graphs.
"""

from __future__ import annotations

import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent))
from fake_cupy import FakeCupy

from bench.gpu import models
from bench.gpu.checks import as_wide, reference
from fusec import api
from fusec.kernels.cuda import machine
from fusec.kernels.cuda.cupy_device import CupyDevice
from fusec.kernels.cuda.device import Module
from fusec.kernels.cuda.emulator.device import EmulatedDevice
from fusec.measure.accuracy import compare
from fusec.runtime.device.arrays import DeviceArray
from fusec.runtime.device.opened import Opened
from fusec.runtime.device.session import DeviceSession

pytestmark = pytest.mark.skipif(machine.compiler() is None, reason="there is no C++ compiler to emulate a GPU with")


class RunningCupy(FakeCupy):
    """A CuPy whose cubins are libraries for the emulator, and whose launches run."""

    def __init__(self) -> None:
        super().__init__(processors=2, blocks_each=2)
        self.emulated = EmulatedDevice("sm_80", 4)
        self.codes: dict[str, Module] = {}
        fake = self

        class Loaded:
            def load(self, cubin: bytes) -> None:
                self.code = cubin
                fake.diary.append(("load", len(cubin)))

            def get_function(self, name: str) -> Any:
                made = type("Function", (), {})()
                made.ptr, made.name, made.module = id(made), f"{name} of {id(self)}", self
                fake.functions[made.ptr] = made
                fake.codes[made.name] = fake.emulated.load(self.code, name)
                return made

        self.cuda.function.Module = Loaded
        self.on_launch = self._run

    def _run(self, entry: str, frame: int, blocks: int, shared: int) -> None:
        self.emulated.launch(self.codes[entry], frame, blocks, shared)
        self.emulated.synchronise()


@pytest.fixture
def cupy() -> RunningCupy:
    return RunningCupy()


def session_of(made: models.Made, cupy: RunningCupy, fuse: bool = True) -> DeviceSession:
    options = api.Options(device="cuda:sm_80-emulated", fuse=fuse)
    plan = api.compile_graph_plan(made.model, options, api.new_trace())  # type: ignore[arg-type]
    return DeviceSession(plan, cache=api.open_cache(), opened=Opened(CupyDevice(0, "sm_80", cupy), False))


def check(got: list[Any], made: models.Made) -> None:
    names = [str(i) for i in range(len(got))]
    worst = compare(names, [as_wide(x) for x in got], reference(made))
    assert all(d.passes(models.TOLERANCE[made.dtype]) for d in worst), worst


DECODER = models.Decoder(layers=1, width=32, heads=2, past=5, vocabulary=40)


def test_a_model_is_one_cooperative_launch(cupy: RunningCupy) -> None:
    made = models.decoder(DECODER, "bf16")
    session = session_of(made, cupy)
    for _ in range(3):
        cupy.diary.clear()
        check(session.run_list(made.feeds), made)
        launches = [d for d in cupy.diary if d[0] == "launch"]
        assert len(launches) == 1
        assert 1 <= launches[0][2] <= 4
        assert launches[0][3] == 256


def test_inputs_and_outputs_stay_on_the_device(cupy: RunningCupy) -> None:
    made = models.mlp([40, 24, 16], rows=3)
    session = session_of(made, cupy)
    feeds = {n: DeviceArray.of(session.opened, a) for n, a in made.feeds.items()}
    session.run_list(feeds, on_device=True)
    cupy.diary.clear()
    (result,) = session.run_list(feeds, on_device=True)
    assert not [d for d in cupy.diary if d[:2] == ("copy", "to host")]
    check([np.asarray(result)], made)


def test_several_regions_become_a_graph(cupy: RunningCupy) -> None:
    """The unfused form: launches one by one at first, a replay of all of them once the shapes have come often enough."""
    made = models.mlp([40, 24, 16], rows=3)
    session = session_of(made, cupy, fuse=False)
    launched = []
    for _ in range(6):
        cupy.diary.clear()
        check(session.run_list(made.feeds), made)
        launched.append(sum(d[0] == "launch" for d in cupy.diary))
    assert launched[0] > 1
    assert launched[-1] == 0


def test_threads_share_a_device(cupy: RunningCupy) -> None:
    """Calls are queued one after the other, whoever makes them."""
    made = models.mlp([40, 24, 16], rows=3)
    session = session_of(made, cupy)
    problems: list[BaseException] = []

    def work() -> None:
        try:
            for _ in range(5):
                check(session.run_list(made.feeds), made)
        except BaseException as e:
            problems.append(e)

    threads = [threading.Thread(target=work) for _ in range(3)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert problems == []
