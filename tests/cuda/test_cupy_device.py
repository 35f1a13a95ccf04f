"""The CuPy device without a driver: what it asks of CuPy, argument packing, bounds, and every error as one of ours."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from fusec.errors import BugError, ExecutionError, ResourceError
from fusec.kernels.cuda import machine
from fusec.kernels.cuda.abi import THREADS
from fusec.kernels.cuda.cupy_device import CupyDevice, open_device
from fusec.kernels.cuda.device import Launch

sys.path.insert(0, str(Path(__file__).parent))
from fake_cupy import FakeCupy, FakeError

CUBIN = b"\x7fELFfusec_region other"


@pytest.fixture
def cupy() -> FakeCupy:
    return FakeCupy()


@pytest.fixture
def device(cupy: FakeCupy) -> CupyDevice:
    return CupyDevice(0, "sm_90", cupy)


def test_what_it_says_about_itself(device: CupyDevice) -> None:
    assert (device.name, device.level, device.multiprocessors) == ("NVIDIA Paper 90", "sm_90", 4)
    assert device.shared_limit == 232448 - 1024
    assert device.memory_free == 1005


@pytest.mark.parametrize("size", [0, 1, 100, 3 << 20, (20 << 20) + 13])
def test_bytes_go_there_and_back(device: CupyDevice, size: int) -> None:
    data = np.random.default_rng(0).integers(0, 256, size, dtype=np.uint8)
    memory = device.allocate(size + 64)
    assert memory.address % 256 == 0
    sent = data.copy()
    device.upload(memory, 32, sent)
    sent[:] = 0  # the array is the caller's again
    assert np.array_equal(device.download(memory, 32, size), data)


def test_arrays_of_any_strides_are_sent(device: CupyDevice) -> None:
    array = np.arange(24, dtype=np.float32).reshape(4, 6).T[::2]
    memory = device.allocate(array.nbytes)
    device.upload(memory, 0, array)
    assert np.array_equal(device.download(memory, 0, array.nbytes).view(np.float32).reshape(array.shape), array)


def test_large_copies_take_turns_in_two_buffers(device: CupyDevice, cupy: FakeCupy) -> None:
    memory = device.allocate(40 << 20)
    device.upload(memory, 0, np.zeros(40 << 20, np.uint8))
    assert [d for d in cupy.diary if d[0] == "pinned"] == [("pinned", 8 << 20)] * 2
    assert [d for d in cupy.diary if d[0] == "copy"] == [("copy", "to device", 8 << 20)] * 5


@pytest.mark.parametrize(("offset", "size"), [(-1, 4), (0, 101), (100, 1), (1 << 62, 4)])
def test_copies_outside_a_block_are_bugs(device: CupyDevice, offset: int, size: int) -> None:
    memory = device.allocate(100)
    with pytest.raises(BugError):
        device.upload(memory, offset, np.zeros(size, np.uint8))
    with pytest.raises(BugError):
        device.download(memory, offset, size)


def test_a_launch_is_one_cooperative_launch_with_the_frame(device: CupyDevice, cupy: FakeCupy) -> None:
    seen = []
    cupy.on_launch = lambda *given: seen.append(given)
    module = device.load(CUBIN, "fusec_region")
    assert device.load(CUBIN, "fusec_region") is module
    assert device.resident(module, 100_000) == 8
    device.launch(module, 0x7F00_1234_5678_9ABC, 8, 100_000)
    assert not seen
    assert device.synchronise(1.0)
    assert seen == [("fusec_region", 0x7F00_1234_5678_9ABC, 8, 100_000)]
    assert ("launch", "fusec_region", 8, THREADS, 100_000) in cupy.diary
    assert ("attribute", 8, 100_000) in cupy.diary
    asked = [d for d in cupy.diary if d[0] == "occupancy"]
    assert asked == [("occupancy", THREADS, 100_000)]  # once


def test_shared_memory_that_needs_no_attribute_sets_none(device: CupyDevice, cupy: FakeCupy) -> None:
    device.resident(device.load(CUBIN, "other"), 48 << 10)
    assert not [d for d in cupy.diary if d[0] == "attribute"]


def test_a_kernel_keeps_the_most_shared_memory_it_was_asked_for(device: CupyDevice, cupy: FakeCupy) -> None:
    module = device.load(CUBIN, "fusec_region")
    for shared in (100_000, 60_000, 120_000, 100_000):
        device.launch(module, 0, 1, shared)
    assert [d for d in cupy.diary if d[0] == "attribute"] == [("attribute", 8, 100_000), ("attribute", 8, 120_000)]


@pytest.mark.parametrize(
    ("blocks", "shared", "words"),
    [
        (9, 1000, "8 fit at once on 4 multiprocessors, with 168 registers"),
        (0, 1000, "cannot launch 0 blocks"),
        (1, 300_000, "can have 231,424 bytes of shared memory, this region asks for 300,000"),
    ],
)
def test_launches_that_would_not_be_resident_are_refused(
    device: CupyDevice, cupy: FakeCupy, blocks: int, shared: int, words: str
) -> None:
    module = device.load(CUBIN, "fusec_region")
    with pytest.raises(ExecutionError, match=words):
        device.launch(module, 0, blocks, shared)
    with pytest.raises(ExecutionError, match=words):
        device.capture([Launch(module, 0, blocks, shared)])
    assert not [d for d in cupy.diary if d[0] == "launch"]


def test_graphs_are_captured_on_a_stream_of_their_own(device: CupyDevice, cupy: FakeCupy) -> None:
    seen = []
    cupy.on_launch = lambda entry, frame, blocks, shared: seen.append(frame)
    module = device.load(CUBIN, "fusec_region")
    graph = device.capture([Launch(module, frame, 2, 0) for frame in (7, 8, 9)])
    device.synchronise()
    assert not seen
    graph.replay()
    graph.replay()
    device.synchronise()
    assert seen == [7, 8, 9] * 2


def test_a_timeout_is_no_error(device: CupyDevice) -> None:
    device.stream.busy = True
    assert not device.synchronise(0.002)
    device.stream.busy = False
    assert device.synchronise(0.002)


def test_the_abort_word_is_host_memory(device: CupyDevice) -> None:
    import ctypes

    word = ctypes.c_int32.from_address(device.abort_address)
    assert word.value == 0
    device.set_abort(1)
    assert word.value == 1


def test_the_device_times_what_was_queued(device: CupyDevice) -> None:
    assert device.elapsed(lambda: None) == 0.0025


def test_out_of_memory_is_a_resource_error(device: CupyDevice) -> None:
    with pytest.raises(ResourceError, match=r"NVIDIA Paper 90 has not enough memory: allocating 2,147,483,648 bytes"):
        device.allocate(2 << 30)


@pytest.mark.parametrize(
    ("status", "kind", "words"),
    [
        (2, ResourceError, "not enough memory"),
        (700, ExecutionError, "start a new one"),
        (720, ExecutionError, "cannot all be resident"),
        (999, ExecutionError, "doctor"),
    ],
)
def test_failures_of_kernels_are_told(device: CupyDevice, cupy: FakeCupy, status: int, kind: type, words: str) -> None:
    def fail(*_: object) -> None:
        raise FakeError(status, "cudaErrorSomething: it broke")

    cupy.on_launch = fail
    for wait in (lambda: device.synchronise(1.0), lambda: device.download(device.allocate(4), 0, 4)):
        device.launch(device.load(CUBIN, "fusec_region"), 0, 1, 0)
        with pytest.raises(kind, match=words):
            wait()


def test_bad_cubins_and_entries_are_told(device: CupyDevice) -> None:
    with pytest.raises(ExecutionError, match="INVALID_IMAGE"):
        device.load(b"no cubin", "fusec_region")
    with pytest.raises(ExecutionError, match="NOT_FOUND"):
        device.load(CUBIN, "nobody")


def test_a_device_without_cooperative_launches_is_refused(cupy: FakeCupy) -> None:
    cupy.attributes["CooperativeLaunch"] = 0
    with pytest.raises(ExecutionError, match="cooperatively"):
        CupyDevice(0, "sm_80", cupy)


def test_every_name_that_it_uses_is_in_cupy(cupy: FakeCupy) -> None:
    """The fake must not promise what the package has not."""
    real = pytest.importorskip("cupy")
    for part in ("runtime", "driver"):
        known = getattr(real.cuda, part)
        assert [n for n in vars(getattr(cupy.cuda, part)) if not hasattr(known, n)] == []
    assert [n for n in vars(cupy.cuda) if not hasattr(real.cuda, n)] == []
    for kind in ("Stream", "Event", "MemoryPool"):
        fake = getattr(cupy.cuda, kind)
        assert [n for n in vars(fake) if not n.startswith("_") and not hasattr(getattr(real.cuda, kind), n)
                and n not in ("drain",)] == []  # fmt: skip
    assert real.cuda.driver.CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES == 8
    assert (real.cuda.runtime.hostAllocPortable, real.cuda.runtime.hostAllocMapped) == (1, 2)


def test_without_a_device_it_says_what_is_missing() -> None:
    if not machine.missing_for("sm_90"):
        pytest.skip("there is a device")
    with pytest.raises(ExecutionError, match=r"cuda:sm_90 cannot run here: .+; `fusec doctor` says more"):
        open_device("sm_90")


def test_asking_what_runs_here_does_not_import_cupy() -> None:
    program = (
        "import sys; from fusec.kernels.cuda import cupy_device, machine; machine.driver(), machine.cupy_packages(); "
        "machine.missing_for('sm_90'); print('cupy' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
