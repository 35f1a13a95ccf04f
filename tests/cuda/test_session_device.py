"""Sessions on an emulated device: the answers of the CPU, values that stay there, errors with names, threads."""

from __future__ import annotations

import subprocess
import sys
import threading
import warnings

import numpy as np
import pytest
from session_models import MODELS, chain, mlp, model, numbers, table, with_host_step

import fusec
from fusec.errors import ExecutionError, InputError, ResourceError
from fusec.kernels.cuda.machine import compiler
from fusec.knobs import Limits
from fusec.runtime.device.arrays import DeviceArray
from fusec.runtime.device.flight import WatchdogWarning

pytestmark = pytest.mark.skipif(compiler() is None, reason="no C++ compiler to emulate a device with")
DEVICE = "cuda:sm_80-emulated"


@pytest.fixture(scope="module")
def opened():
    """Sessions by model, compiled once for all tests of a worker."""
    known = {}

    def get(build, **options):
        key = build.__name__, *options.items()
        if key not in known:
            known[key] = fusec.compile(build(), device=DEVICE, **options)
        return known[key]

    return get


UNFUSED = ("mlp", "softmax", "conv", "table", "host step", "lstm")
"""Without fusion the others are matrix products and reductions only, which the tests of random models have as well."""


@pytest.mark.parametrize(
    ("name", "fuse"),
    [(n, True) for n in MODELS]
    + [pytest.param(n, False, marks=() if n in UNFUSED else pytest.mark.slow) for n in MODELS],
)
def test_the_answers_of_the_cpu(opened, name, fuse):
    build, sizes = MODELS[name]
    session, cpu = opened(build, fuse=fuse), fusec.compile(build(), threads=1)
    for feeds in sizes:
        want = cpu.run(feeds)
        first, second = session.run(feeds), session.run(feeds)
        assert list(first) == list(want)
        for key, array in want.items():
            assert first[key].shape == array.shape
            assert first[key].dtype == array.dtype
            np.testing.assert_allclose(first[key], array, rtol=1e-4, atol=1e-5)
            assert np.array_equal(first[key], second[key])
            assert first[key].flags.writeable


def test_results_do_not_depend_on_the_number_of_blocks():
    x = {"x": numbers(40, 96)}
    made = [fusec.compile(chain(), device=DEVICE, threads=n).run(x)["y"] for n in (1, 3, 7)]
    assert np.array_equal(made[0], made[1])
    assert np.array_equal(made[0], made[2])


def test_an_unfused_plan_copies_inputs_and_results_only(opened):
    session = opened(mlp, fuse=False)
    session.run({"x": numbers(33, 64)})
    assert len(session.plan.steps) == 5
    assert (session.transfers.uploads, session.transfers.downloads) == (1, 1)
    assert session.transfers.uploaded == 33 * 64 * 4
    assert session.transfers.downloaded == 33 * 10 * 4


def test_host_steps_fetch_what_they_read(opened):
    session = opened(with_host_step)
    session.run({"x": numbers(7, 4)})
    assert (session.transfers.uploads, session.transfers.downloads) == (2, 2)
    assert "2 copies to the device (" in str(session.transfers)


def test_results_may_stay_on_the_device(opened):
    session = opened(chain)
    x = numbers(40, 96)
    want = session.run({"x": session.run({"x": x})["y"]})["y"]
    y = session.run({"x": x}, on_device=True)["y"]
    assert isinstance(y, DeviceArray)
    assert (y.shape, y.dtype, y.ndim, y.size) == ((40, 96), np.float32, 2, 3840)
    again = session.run({"x": y}, on_device=True)["y"]
    assert session.transfers.uploads == session.transfers.downloads == 0
    assert np.array_equal(again.numpy(), want)
    assert np.array_equal(np.asarray(again), want)


def test_other_libraries_take_results_without_a_copy(opened):
    y = opened(mlp).run({"x": numbers(33, 64)}, on_device=True)["y"]
    taken = np.from_dlpack(y)
    assert taken.ctypes.data == y.address
    assert np.array_equal(taken, y.numpy())
    want = taken.copy()
    del y
    opened(mlp).run({"x": numbers(33, 64, seed=1)})
    assert np.array_equal(taken, want), "the memory went while somebody looked at it"
    assert not hasattr(opened(mlp).run({"x": numbers(1, 64)}, on_device=True)["y"], "__cuda_array_interface__")


class OnGpu:
    """An array that says that it lies on a GPU."""

    def __init__(self, array: np.ndarray) -> None:
        self.array = array
        self.__cuda_array_interface__ = {
            "shape": array.shape,
            "typestr": array.dtype.str,
            "data": (array.ctypes.data, False),
            "strides": None if array.flags.c_contiguous else array.strides,
            "version": 3,
        }


def test_inputs_that_lie_on_the_device_are_not_copied(opened):
    session, x = opened(mlp), numbers(33, 64)
    want = session.run({"x": x})["y"]
    assert np.array_equal(session.run({"x": OnGpu(x)})["y"], want)
    assert session.transfers.uploads == 0
    with pytest.raises(InputError, match="C-contiguous"):
        session.run({"x": OnGpu(x.T)})
    with pytest.raises(InputError, match=r"input 'x' is float64\[33, 64\]"):
        session.run({"x": OnGpu(x.astype(np.float64))})
    with pytest.raises(InputError, match="'x'"):
        session.run({"x": OnGpu(numbers(33, 65))})


def test_an_input_that_is_a_result_is_a_copy_of_it():
    from onnx import helper as h

    session = fusec.compile(
        model(
            [h.make_node("Reshape", ["x", "s"], ["y"]), h.make_node("Relu", ["x"], ["z"])],
            [("x", [4, 6])],
            [("y", [6, 4]), ("z", [4, 6])],
            {"s": np.array([6, 4])},
        ),
        device=DEVICE,
    )
    x = numbers(4, 6)
    for on_device in (False, True):
        made = session.run({"x": x}, on_device=on_device)
        y = np.array(made["y"])
        assert np.array_equal(y, x.reshape(6, 4))
    mine = session.run({"x": x}, on_device=True)["z"]
    out = session.run({"x": mine}, on_device=True)["y"]
    assert out.address != mine.address


def test_indices_out_of_range_are_named(opened):
    for fuse in (True, False):
        session = opened(table, fuse=fuse)
        good = {"i": np.array([0, 4, -1, 2]), "x": numbers(4, 8)}
        want = session.run(good)["y"]
        with pytest.raises(ExecutionError, match=r"lookup.*index 7 is out of range") as told:
            session.run(good | {"i": np.array([0, 7, 1, 2])})
        assert told.value.node == "lookup"
        assert np.array_equal(session.run(good)["y"], want)


@pytest.mark.parametrize("fuse", [True, False])
def test_threads(opened, fuse):
    session = opened(chain, fuse=fuse)
    feeds = [{"x": numbers(n, 96, seed=n)} for n in (1, 5, 40, 17)]
    want = [session.run(f)["y"] for f in feeds]
    wrong: list[object] = []

    def work(k: int) -> None:
        try:
            for i in range(4):
                j = (i + k) % len(feeds)
                if not np.array_equal(session.run(feeds[j])["y"], want[j]):
                    wrong.append((k, i))
        except BaseException as e:
            wrong.append(e)

    threads = [threading.Thread(target=work, args=(k,)) for k in range(4)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert not wrong


def test_the_memory_limit_is_kept():
    session = fusec.compile(chain(), device=DEVICE, limits=Limits(memory=1 << 20))
    with pytest.raises(ResourceError, match=r"limit is 1\.0 MiB"):
        session.run({"x": numbers(4000, 96)})


def test_a_device_without_memory_is_a_resource_error(opened, monkeypatch):
    session = fusec.compile(chain(), device=DEVICE)
    device = session.opened.device
    allocate = type(device).allocate

    def none_left(self, nbytes):
        if nbytes > 1 << 16:
            raise ResourceError("no memory")
        return allocate(self, nbytes)

    monkeypatch.setattr(type(device), "allocate", none_left)
    with pytest.raises(ResourceError):
        session.run({"x": numbers(400, 96)})
    monkeypatch.undo()
    assert session.run({"x": numbers(400, 96)})["y"].shape == (400, 96)


def test_recorded_launches_are_replayed(opened):
    session = fusec.compile(chain(), device=DEVICE, fuse=False)
    unrecorded = fusec.compile(chain(), device=DEVICE, fuse=False)
    unrecorded.steps.records = False
    for n in range(6):
        x = {"x": numbers(40, 96, seed=n)}
        want = unrecorded.run(x)["y"]
        assert np.array_equal(session.run(x)["y"], want)
        assert (session.transfers.uploads, session.transfers.downloads) == (1, 1)
        there = session.run({"x": OnGpu(x["x"])}, on_device=True)["y"]
        assert (session.transfers.uploads, session.transfers.downloads) == (0, 0)
        other = session.run(x, on_device=True)["y"]
        assert np.array_equal(there.numpy(), want)
        assert np.array_equal(other.numpy(), want)
        assert there.address != other.address
    assert len(session.steps.recordings) == 1
    assert not unrecorded.steps.recordings
    y = session.run({"x": numbers(3, 96)})["y"]
    assert np.array_equal(y, unrecorded.run({"x": numbers(3, 96)})["y"])


def test_recorded_launches_report_failures(opened):
    session = fusec.compile(table(), device=DEVICE, fuse=False)
    good = {"i": np.array([0, 4, -1, 2]), "x": numbers(4, 8)}
    want = session.run(good)["y"]
    for _ in range(5):
        with pytest.raises(ExecutionError, match=r"lookup.*index 7 is out of range"):
            session.run(good | {"i": np.array([0, 7, 1, 2])})
        assert np.array_equal(session.run(good)["y"], want)
    assert len(session.steps.recordings) == 1
    session.opened.aborts += (
        1  # as if another flight had been ended: every block of this one comes to its end all the same
    )
    assert np.array_equal(session.run(good)["y"], want)


def test_a_device_that_is_not_here_is_refused():
    for name in ("cuda:sm_90", "cuda:sm_80"):
        from fusec.kernels import backend
        from fusec.target import Target

        if not backend.runs_here(Target.parse(name)):
            with pytest.raises(ExecutionError, match=rf"this machine cannot run code for {name}: ."):
                fusec.compile(mlp(), device=name)


def test_large_operands_get_wide_indices(monkeypatch):
    """Nobody has 2^31 elements here: the limit comes down instead."""
    monkeypatch.setattr("fusec.runtime.device.code.WIDE", 1000)
    x = {"x": numbers(33, 64)}
    session = fusec.compile(mlp(), device=DEVICE)
    np.testing.assert_allclose(session.run(x)["y"], fusec.compile(mlp(), threads=1).run(x)["y"], rtol=1e-4, atol=1e-5)
    assert {wide for _, wide in session.steps.on_device.modules.made} == {True}


def test_plans_from_files(tmp_path, opened):
    session, x = opened(chain), {"x": numbers(17, 96)}
    session.save(tmp_path / "chain.fusec")
    again = fusec.load(tmp_path / "chain.fusec")
    assert type(again) is type(session)
    assert np.array_equal(again.run(x)["y"], session.run(x)["y"])


def test_a_launch_that_takes_too_long_is_ended_and_the_calls_go_one_by_one(monkeypatch):
    monkeypatch.setenv("FUSEC_WATCHDOG", "0.001")
    monkeypatch.setattr("fusec.runtime.device.flight.PATIENCE", 0.0)
    x = {"x": numbers(300, 96)}
    want = fusec.compile(chain(), threads=1).run(x)["y"]
    session = fusec.compile(chain(), device=DEVICE)
    with pytest.warns(WatchdogWarning, match=r"the region of .*was ended after 0\.0 s.*one by one"):
        np.testing.assert_allclose(session.run(x)["y"], want, rtol=1e-4, atol=1e-5)
    binding = session.binding_of(x)
    assert binding.is_staged
    assert len(binding.image.launches) == len(binding.region.calls)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        np.testing.assert_allclose(session.run(x)["y"], want, rtol=1e-4, atol=1e-5)


def test_others_whose_launches_were_ended_run_again(opened):
    session, x = opened(chain), {"x": numbers(40, 96)}
    want = session.run(x)["y"]
    binding = session.binding_of(x)
    begin, times = type(binding).begin, []

    def begin_and_end(self, flight, arrays):
        made = begin(self, flight, arrays)
        times.append(1)
        if len(times) == 1:
            session.opened.abort()
        return made

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(binding), "begin", begin_and_end)
        assert np.array_equal(session.run(x)["y"], want)
    assert len(times) == 2
    assert not binding.is_staged


def test_nothing_is_imported_that_running_does_not_need(tmp_path, opened):
    """An emulated device needs no CuPy, and a plan from a file neither other back ends nor the frontend."""
    session, x = opened(mlp), {"x": numbers(3, 64)}
    session.run(x)
    session.save(tmp_path / "mlp.fusec")
    np.save(tmp_path / "x.npy", x["x"])
    text = (
        "import sys, numpy as np, fusec\n"
        f"session = fusec.load({str(tmp_path / 'mlp.fusec')!r})\n"
        f"session.run({{'x': np.load({str(tmp_path / 'x.npy')!r})}})\n"
        "print([m for m in sys.modules if m.split('.')[0] in ('cupy', 'llvmlite', 'numba', 'onnx')])"
    )
    told = subprocess.run([sys.executable, "-c", text], capture_output=True, text=True, check=True).stdout
    assert told.strip() == "[]"
