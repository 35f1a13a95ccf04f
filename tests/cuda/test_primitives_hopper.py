"""Hopper's primitives in emulation: mbarriers, bulk copies, wgmma from descriptors of every layout."""

import ml_dtypes
import numpy as np
import pytest
from test_primitives import KINDS, MODES, run

from fusec.errors import ExecutionError
from fusec.kernels.cuda.emulator.build import compiler
from fusec.kernels.cuda.emulator.device import Emulation

pytestmark = pytest.mark.skipif(compiler() is None, reason="no C++ compiler")

PIPELINE = """
    // two stages of 4 KB, eight steps: thread 0 loads, all add up; every warp says when it has read a stage
    fx_u64* full = (fx_u64*)(task.shared + 8192);
    fx_u64* empty = full + 2;
    const char* x = fx_pointer<char>(task, 0);
    if (fx_thread() == 0) {
        for (int i = 0; i < 2; i++) fx_mbarrier_init(full + i, 1), fx_mbarrier_init(empty + i, FX_WARPS);
        fx_mbarrier_init_fence();
    }
    fx_barrier();
    int s[4] = {};
    for (int k = 0; k < 8 + 1; k++) {
        if (k < 8 && fx_thread() == 0) {
            if (k >= 2) fx_mbarrier_wait(empty + k % 2, k / 2 + 1 & 1);
            fx_mbarrier_expect(full + k % 2, 4096);
            fx_bulk_load(task.shared + k % 2 * 4096, x + k * 4096, 1024, full + k % 2);
            fx_bulk_load(task.shared + k % 2 * 4096 + 1024, x + k * 4096 + 1024, 3072, full + k % 2);
        }
        if (k == 0) continue;
        const int step = k - 1, stage = step % 2;
        {wait}
        for (int i = 0; i < 4; i++) s[i] += ((int*)(task.shared + stage * 4096))[fx_thread() + 256 * i];
        fx_warp_barrier();
        if (fx_lane() == 0) fx_mbarrier_arrive(empty + stage);
    }
    fx_barrier();
    for (int i = 0; i < 4; i++) ((int*)task.shared)[fx_thread() + 256 * i] = s[i];
    fx_fence_async_shared();
    fx_barrier();
    if (fx_thread() == 0) {
        fx_bulk_store(fx_pointer<char>(task, 1), task.shared, 4096);
        fx_bulk_commit();
        fx_bulk_wait_read<0>();
        fx_bulk_wait<0>();
    }
"""
WAIT = "fx_mbarrier_wait(full + stage, step / 2 & 1);"


@pytest.mark.parametrize("emulation", MODES)
def test_a_pipeline_of_bulk_copies(kept, emulation):
    x = np.random.default_rng(0).integers(-99, 99, (8, 1024), np.int32)
    text = PIPELINE.replace("{wait}", WAIT)
    got = run(kept, text, [x], out=np.zeros(1024, np.int32), level="sm_90", emulation=emulation)
    assert np.array_equal(got, x.sum(0))


def test_a_pipeline_that_does_not_wait_shows(kept):
    x = np.ones((8, 1024), np.int32)
    text = PIPELINE.replace("{wait}", "")
    with pytest.raises(ExecutionError, match="more arrivals than it was initialised for"):
        run(kept, text, [x], out=np.zeros(1024, np.int32), level="sm_90", emulation=Emulation(lazy=True))


BAR = "fx_u64* bar = (fx_u64*)task.shared;\n"
MISUSES = {
    "not initialised": BAR + "fx_mbarrier_wait(bar, 0);",
    "waiting for an mbarrier at byte 0 of shared memory, which lacks 2 arrivals": BAR
    + """
        if (fx_thread() == 0) fx_mbarrier_init(bar, 3), fx_mbarrier_arrive(bar);
        fx_barrier();
        fx_mbarrier_wait(bar, 0);
    """,
    "multiple of 16": BAR + "if (fx_thread() == 0) fx_bulk_load(task.shared + 8, fx_pointer<char>(task, 0), 16, bar);",
    "outside the block's shared memory": "fx_copy_async<16>(task.shared + 80000, fx_pointer<char>(task, 0));",
    "wgmma reads outside": """
        float c[32] = {};
        fx_wgmma<fx_bf16, 64>(c, fx_descriptor(task.shared + 32000, 128, 256), fx_descriptor(task.shared, 128, 256));
    """,
    "wgmma meets what thread 0 wrote by cp.async, with no fence between the proxies": """
        float c[32] = {};
        if (fx_thread() < 128) fx_copy_async<16>(task.shared + 16 * fx_thread(), fx_pointer<char>(task, 0));
        fx_copy_async_commit();
        fx_copy_async_wait<0>();
        if (fx_thread() != 0) fx_fence_async_shared();
        fx_barrier();
        fx_wgmma<fx_bf16, 64>(c, fx_descriptor(task.shared, 128, 256), fx_descriptor(task.shared, 128, 256));
    """,
    "cp.async.bulk meets what thread 7 wrote by cp.async, with no fence between the proxies": BAR
    + """
        if (fx_thread() == 0) fx_mbarrier_init(bar, 1);
        if (fx_thread() == 7) fx_copy_async<16>(task.shared + 128, fx_pointer<char>(task, 0));
        fx_copy_async_commit();
        fx_copy_async_wait<0>();
        fx_barrier();
        if (fx_thread() == 0) fx_mbarrier_expect(bar, 64), fx_bulk_load(task.shared + 96, fx_pointer<char>(task, 0), 64, bar);
    """,
    "issue different wgmmas": """
        float c[32] = {};
        fx_wgmma<fx_bf16, 64>(c, fx_descriptor(task.shared + 16 * (fx_thread() == 3), 128, 256), 0);
    """,
}


@pytest.mark.parametrize("message", MISUSES)
def test_misuse_is_told(kept, message):
    with pytest.raises(ExecutionError, match=message):
        run(kept, MISUSES[message], [], out=np.zeros(1024, np.int32), level="sm_90")


SPANS = {"PLAIN": 1, "SWIZZLE_32": 2, "SWIZZLE_64": 4, "SWIZZLE_128": 8}


def lay_out(x, swizzle, flipped):
    """(bytes, leading, stride) of a matrix [rows, k] as wgmma reads it: the canonical layouts of the PTX ISA and of CUTLASS."""
    rows, depth = x.shape
    size, span = x.dtype.itemsize, SPANS[swizzle]
    per = 16 // size
    out = np.zeros(rows * depth * size * (span if not flipped else 1) + 16384, np.uint8)
    if flipped:
        # a unit is 8 steps of k by span * per rows; PLAIN: `leading` is along k, `stride` along rows; swizzled: the other way
        units = -(-rows // (span * per))
        along_rows, along_k = 128 * span, 128 * span * units
        leading, stride = (along_k, along_rows) if span == 1 else (along_rows, along_k)
    else:
        leading, stride = (128 * (rows // 8), 128) if span == 1 else (0, 128 * span)
    for r in range(rows):
        for k in range(depth):
            if flipped:
                at = r // (span * per) * along_rows + k // 8 * along_k + k % 8 * 16 * span + r % (span * per) * size
            elif span == 1:
                at = r // 8 * stride + k // per * leading + r % 8 * 16 + k % per * size
            else:
                at = r // 8 * stride + r % 8 * 16 * span + k * size
            at ^= (at >> 7 & span - 1) << 4
            out[at : at + size] = np.frombuffer(x[r, k].tobytes(), np.uint8)
    return out, leading, stride


@pytest.mark.parametrize("emulation", [Emulation(), Emulation(lazy=True, seed=4)])
@pytest.mark.parametrize(
    ("kind", "n", "swizzle", "flip_a", "flip_b"),
    [
        ("fx_bf16", 64, "PLAIN", 0, 0),
        ("fx_bf16", 256, "PLAIN", 0, 1),
        ("fx_half", 16, "PLAIN", 1, 0),
        ("fx_tf32", 32, "PLAIN", 0, 0),
        ("fx_bf16", 128, "SWIZZLE_128", 0, 0),
        ("fx_half", 96, "SWIZZLE_64", 0, 0),
        ("fx_tf32", 192, "SWIZZLE_32", 0, 0),
        ("fx_bf16", 64, "SWIZZLE_128", 1, 1),
        ("fx_bf16", 64, "SWIZZLE_64", 0, 1),
        ("fx_half", 32, "SWIZZLE_32", 1, 1),
    ],
)
def test_wgmma_reads_every_layout(kept, kind, n, swizzle, flip_a, flip_b, emulation):
    depth = 8 if kind == "fx_tf32" else 16
    rng = np.random.default_rng(5)
    a, b = (rng.integers(-8, 8, s).astype(KINDS[kind]) for s in ((64, depth), (n, depth)))
    bytes_a, leading_a, stride_a = lay_out(a, swizzle, flip_a)
    bytes_b, leading_b, stride_b = lay_out(b, swizzle, flip_b)
    start_b = -(-len(bytes_a) // 1024) * 1024
    text = f"""
        for (int i = fx_thread(); i < {len(bytes_a)}; i += FX_THREADS) task.shared[i] = fx_pointer<char>(task, 0)[i];
        for (int i = fx_thread(); i < {len(bytes_b)}; i += FX_THREADS)
            task.shared[{start_b} + i] = fx_pointer<char>(task, 1)[i];
        fx_fence_async_shared();
        fx_barrier();
        float c[{n // 2}];
        for (int i = 0; i < {n // 2}; i++) c[i] = 100.f;
        const fx_u64 a = fx_descriptor(task.shared, {leading_a}, {stride_a}, FX_{swizzle});
        const fx_u64 b = fx_descriptor(task.shared + {start_b}, {leading_b}, {stride_b}, FX_{swizzle});
        fx_wgmma_fence();
        fx_wgmma<{kind}, {n}, {flip_a}, {flip_b}>(c, a, b, false);
        fx_wgmma<{kind}, {n}, {flip_a}, {flip_b}>(c, a, b);
        fx_wgmma_commit();
        fx_wgmma_wait<0>();
        for (int i = 0; i < {n // 2}; i++) fx_pointer<float>(task, 2)[fx_thread() * {n // 2} + i] = c[i];
    """
    out = np.zeros((2, 128, n // 2), np.float32)
    got = run(kept, text, [bytes_a, bytes_b], out=out, level="sm_90", shared=1 << 17, emulation=emulation)
    expected = 2 * a.astype(np.float32) @ b.astype(np.float32).T
    thread, i = np.meshgrid(np.arange(128), np.arange(n // 2), indexing="ij")
    lane = thread % 32
    row, column = 16 * (thread // 32) + lane // 4 + 8 * (i // 2 % 2), 8 * (i // 4) + 2 * (lane % 4) + i % 2
    for group in range(2):
        assert np.array_equal(got[group], expected[row, column])


@pytest.mark.parametrize("emulation", MODES)
def test_matrices_are_stored_as_they_are_loaded(kept, emulation):
    x = np.random.default_rng(6).standard_normal((32, 8)).astype(ml_dtypes.bfloat16)
    text = """
        if (fx_warp() != 0) return;
        fx_u16* s = (fx_u16*)task.shared;
        for (int i = fx_lane(); i < 256; i += 32) s[i] = fx_pointer<fx_u16>(task, 0)[i];
        fx_warp_barrier();
        fx_u32 r[4];
        fx_load_matrix<4>(r, s + 8 * fx_lane());
        fx_store_matrix(s + 256 + 8 * fx_lane(), r);
        fx_warp_barrier();
        for (int i = fx_lane(); i < 256; i += 32) fx_pointer<fx_u16>(task, 1)[i] = s[256 + i];
    """
    got = run(kept, text, [x.view(np.uint16)], out=np.zeros((32, 8), np.uint16), level="sm_90", emulation=emulation)
    assert np.array_equal(got, x.view(np.uint16))
