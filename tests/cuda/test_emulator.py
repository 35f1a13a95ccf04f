"""The emulator through the whole task loop: rows, waits, publishing, runs after runs, failures that come back as errors."""

import numpy as np
import pytest
from cuda_regions import Region, Rows, body, read

from fusec.kernels.cuda import abi
from fusec.kernels.cuda.emulator.build import build, compiler
from fusec.kernels.cuda.emulator.device import EmulatedDevice, Emulation
from fusec.kernels.cuda.module import module_text

pytestmark = pytest.mark.skipif(compiler() is None, reason="no C++ compiler")

DOUBLE = body(
    "doubled",
    """
    const float* x = fx_pointer<float>(task, 0);
    float* y = fx_pointer<float>(task, 1);
    const fx_int n = (fx_int)fx_word(task, 2), i = (fx_int)(task.tile * FX_THREADS) + fx_thread();
    if (i < n) y[i] = 2.f * x[i];
    """,
)
SUM = body(
    "summed",
    """
    const float* x = fx_pointer<float>(task, 0);
    float* y = fx_pointer<float>(task, 1);
    const fx_int n = (fx_int)fx_word(task, 2);
    float* parts = (float*)task.shared;
    float s = 0.f;
    for (fx_int i = fx_thread(); i < n; i += FX_THREADS) s += x[i];
    for (int by = 16; by > 0; by >>= 1) s += fx_shuffle_xor(s, by);
    if (fx_lane() == 0) parts[fx_warp()] = s;
    fx_barrier();
    if (fx_thread() == 0) {
        for (int w = 1; w < FX_WARPS; w++) s += parts[w];
        *y = s;
    }
    """,
)
SEEDS = [Emulation(), Emulation(lazy=True), Emulation(seed=5, lazy=True), Emulation(seed=77)]


def made(device, kept, *bodies):
    text = module_text(bodies, includes=())
    return device.load(build(text, device.level, kept), text.entry)


@pytest.mark.parametrize("emulation", SEEDS)
def test_two_calls_and_two_runs(kept, emulation):
    device = EmulatedDevice("sm_80", 3, emulation)
    module = made(device, kept, DOUBLE, SUM)
    n = 1000
    x = np.arange(n, dtype=np.float32)
    memory = Region(device, [[]], [])
    middle, total = memory.memory(np.zeros(n, np.float32)), memory.memory(np.zeros(1, np.float32))
    source, result = memory.memory(x), memory.memory(np.zeros(1, np.float32))
    region = Region(
        device,
        [
            [Rows(0, 0, 0, 2, signal=0)],
            [Rows(0, 0, 2, 1, signal=0), Rows(1, 1, waits=((0, 3), (1, 0)), signal=1)],
            [Rows(0, 0, 3, 1, signal=0), Rows(1, 2, waits=((1, 1),))],
        ],
        [[1, middle.address, n], [middle.address, total.address, n], [total.address, 3, 1]],
        io=[source.address, result.address],
        timed=True,
    )
    for run in range(3):
        device.upload(source, 0, x + run)
        region.run(module, shared=64)
        assert read(device, result, np.float32)[0] == (2 * (x + run)).sum(dtype=np.float64)
        frame = read(device, region.frame, np.int64)
        assert frame[abi.Frame.EPOCH] == run + 1
        assert frame[abi.Frame.EXITED] == 0
    times = read(device, region.times, np.int64).reshape(-1, 2)
    assert (times[:, 1] >= times[:, 0]).all()
    assert times[2, 0] >= max(times[0, 1], times[1, 1], times[3, 1]) - 1_000_000
