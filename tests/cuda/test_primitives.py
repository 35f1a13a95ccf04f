"""Primitives of the device headers against numpy, in emulation."""

import itertools

import ml_dtypes
import numpy as np
import pytest
from cuda_regions import Region, Rows, body, read

from fusec.kernels.cuda.emulator.build import build, compiler
from fusec.kernels.cuda.emulator.device import EmulatedDevice, Emulation
from fusec.kernels.cuda.module import module_text

pytestmark = pytest.mark.skipif(compiler() is None, reason="no C++ compiler")

HEADERS = ("mma.cuh", "hopper.cuh", "math.cuh")
MODES = [Emulation(), Emulation(lazy=True), Emulation(lazy=True, seed=9)]


def run(kept, text, arrays, *, out, level="sm_80", shared=1 << 15, emulation=None, scalars=()):
    """One tile of one body; slots are the arrays, then the result, then scalars. The result's array."""
    device = EmulatedDevice(level, 1, emulation or Emulation())
    module = module_text([body("fusec_body", text)], includes=HEADERS)
    code = device.load(build(module, level, kept), module.entry)
    held = Region(device, [[]], [])
    memories = [held.memory(np.ascontiguousarray(a)) for a in (*arrays, out)]
    Region(device, [[Rows(0, 0)]], [[*(m.address for m in memories), *scalars]]).run(code, shared)
    return read(device, memories[-1], out.dtype, out.shape)


def bits(x):
    return np.ascontiguousarray(x).view(f"u{x.dtype.itemsize}")


BIG = [65504.0, 65519.9, 65520.0, 1e30, -1e30, np.inf, -np.inf, np.nan, 3.3895314e38, 3.4e38]
SMALL = [0.0, -0.0, 6e-8, 2.9e-8, 3e-8, 6.1e-5, 6.0e-5, 1e-40]
TIES = [1.0, -1.5, 1.0009765625, 1.00048828125, 1.0014648, 1.00390625, 1.01171875]
FLOATS = np.array([*BIG, *SMALL, *TIES], np.float32)


@pytest.mark.parametrize(("name", "dtype"), [("half", np.float16), ("bf16", ml_dtypes.bfloat16)])
@pytest.mark.parametrize("source", [np.float32, np.float64])
def test_narrow_floats_round_as_numpy_does(kept, name, dtype, source):
    rng = np.random.default_rng(0)
    x = np.concatenate([FLOATS, np.exp2(rng.uniform(-30, 20, 2000)) * rng.choice([-1, 1], 2000)]).astype(source)
    if source is np.float64:  # just beside a tie: rounding twice would go wrong
        tie = 1 + 2.0 ** -(11 if name == "half" else 8)
        x = np.concatenate([x, [tie, tie + 1e-12, tie - 1e-12, -tie - 1e-12, 1e300, -1e-300]])
    c = {np.float32: "float", np.float64: "double"}[source]
    text = f"""
        const {c}* x = fx_pointer<{c}>(task, 0);
        for (int i = fx_thread(); i < (int)fx_word(task, 2); i += FX_THREADS)
            fx_pointer<fx_{name}>(task, 1)[i] = fx_to_{name}(x[i]);
    """
    got = run(kept, text, [x], out=np.zeros(len(x), np.uint16), scalars=[len(x)])
    with np.errstate(all="ignore"):
        if source is np.float64 and name == "bf16":  # ml_dtypes rounds twice
            odd = x.astype(np.float32)
            near = odd.astype(np.float64)
            inexact = np.isfinite(x) & (near != x)
            u = odd.view(np.uint32)
            u[inexact & (np.abs(near) > np.abs(x))] -= 1
            u[inexact] |= 1
            expected = odd.astype(dtype)
        else:
            expected = x.astype(dtype)
    nan = np.isnan(x)
    assert np.array_equal(got[~nan], bits(expected)[~nan])
    assert np.isnan(got.view(dtype)[nan].astype(np.float32)).all()


@pytest.mark.parametrize(("name", "dtype"), [("half", np.float16), ("bf16", ml_dtypes.bfloat16)])
def test_all_narrow_floats_widen(kept, name, dtype):
    x = np.arange(1 << 16, dtype=np.uint16)
    text = f"""
        for (int i = fx_thread(); i < 65536; i += FX_THREADS)
            fx_pointer<float>(task, 1)[i] = fx_float(fx_pointer<fx_{name}>(task, 0)[i]);
    """
    got = run(kept, text, [x], out=np.zeros(1 << 16, np.float32))
    expected = x.view(dtype).astype(np.float32)
    assert np.array_equal(got, expected, equal_nan=True)
    assert np.array_equal(np.signbit(got), np.signbit(expected))


@pytest.mark.parametrize("kind", ["float", "double", "fx_half", "fx_vector<float, 4>", "unsigned char"])
def test_shuffles(kept, kind):
    size = {"float": 4, "double": 8, "fx_half": 2, "fx_vector<float, 4>": 16, "unsigned char": 1}[kind]
    x = np.random.default_rng(1).integers(0, 255, (256, size), np.uint8)
    text = f"""
        typedef {kind} T;
        const T x = fx_pointer<T>(task, 0)[fx_thread()];
        T* y = fx_pointer<T>(task, 1) + fx_thread();
        y[0] = fx_shuffle(x, 5);
        y[256] = fx_shuffle_xor(x, 3);
        y[512] = fx_shuffle_down(x, 4);
        y[768] = fx_shuffle_up(x, 1);
    """
    got = run(kept, text, [x], out=np.zeros((4, 256, size), np.uint8))
    lane, warp = np.arange(256) % 32, np.arange(256) // 32 * 32
    down = np.where(lane + 4 < 32, lane + 4, lane)
    for i, source in enumerate([np.full(256, 5), lane ^ 3, down, np.maximum(lane - 1, 0)]):
        assert np.array_equal(got[i], x[warp + source]), i


def test_votes_and_barriers_that_tell(kept):
    text = """
        const int t = fx_thread();
        fx_u32* y = fx_pointer<fx_u32>(task, 0);
        y[t] = fx_ballot(t % 3 == 0);
        y[256 + t] = fx_any(t == 40) + 2 * fx_all(t != 70);
        y[512 + t] = fx_barrier_any(t == 255) + 2 * fx_barrier_any(false);
        if (t >= 64 && t < 192) fx_named_barrier(3, 128);
        if (t < 64) fx_named_arrive(2, 96);
        else if (t < 96) fx_named_barrier(2, 96);
        y[768 + t] = t;
    """
    got = run(kept, text, [], out=np.zeros((4, 256), np.uint32))
    t = np.arange(256).reshape(8, 32)
    ballots = ((t % 3 == 0).astype(np.uint64) << np.arange(32, dtype=np.uint64)).sum(1)
    assert np.array_equal(got[0].reshape(8, 32), np.repeat(ballots[:, None], 32, 1))
    assert np.array_equal(got[1].reshape(8, 32)[:, 0], [2, 3, 0, 2, 2, 2, 2, 2])
    assert (got[2] == 1).all()
    assert np.array_equal(got[3], np.arange(256))


def test_atomics(kept):
    text = """
        fx_atomic_add(fx_pointer<float>(task, 0), 1.f);
        fx_atomic_add(fx_pointer<double>(task, 0) + 1, 0.5);
        fx_atomic_max(fx_pointer<int>(task, 0) + 4, fx_thread());
        fx_atomic_min(fx_pointer<int>(task, 0) + 5, -fx_thread());
        fx_u64* p = fx_pointer<fx_u64>(task, 0) + 3;
        for (fx_u64 seen = *p, old; (old = fx_atomic_swap_if(p, seen, seen + 3)) != seen; seen = old) {}
    """
    got = run(kept, text, [], out=np.zeros(8, np.uint32), emulation=Emulation(seed=3))
    assert got.view(np.float32)[0] == 256
    assert got.view(np.float64)[1] == 128
    assert tuple(got.view(np.int32)[4:6]) == (255, -255)
    assert got.view(np.uint64)[3] == 768


@pytest.mark.parametrize("emulation", MODES)
@pytest.mark.parametrize("size", [4, 8, 16])
def test_copies_in_groups(kept, size, emulation):
    x = np.random.default_rng(2).integers(0, 255, (4, 256, size), np.uint8)
    text = f"""
        const int t = fx_thread();
        for (int g = 0; g < 4; g++) {{
            char* to = task.shared + (g * 256 + t) * {size};
            fx_copy_async<{size}>(to, fx_pointer<char>(task, 0) + (g * 256 + t) * {size}, t % 5 != 0 || g != 2);
            fx_copy_async_commit();
        }}
        char* y = fx_pointer<char>(task, 1);
        fx_copy_async_wait<2>();
        fx_barrier();
        for (int i = t; i < 2 * 256 * {size}; i += FX_THREADS) y[i] = task.shared[i];
        fx_copy_async_wait<0>();
        fx_barrier();
        for (int i = t + 2 * 256 * {size}; i < 4 * 256 * {size}; i += FX_THREADS) y[i] = task.shared[i];
    """
    got = run(kept, text, [x], out=np.zeros_like(x), emulation=emulation)
    expected = x.copy()
    expected[2, ::5] = 0
    assert np.array_equal(got, expected)


@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("count", [1, 2, 4])
def test_matrices_are_loaded_to_the_lanes_of_the_manual(kept, count, transposed):
    x = np.arange(4 * 8 * 8, dtype=np.uint16).reshape(4, 8, 8)
    text = f"""
        fx_u16* s = (fx_u16*)task.shared;
        s[fx_thread()] = fx_pointer<fx_u16>(task, 0)[fx_thread()];
        fx_barrier();
        fx_u32 r[{count}];
        fx_load_matrix{"_transposed" if transposed else ""}<{count}>(r, s + 8 * fx_lane());
        for (int i = 0; i < {count}; i++) fx_pointer<fx_u32>(task, 1)[fx_thread() * {count} + i] = r[i];
    """
    got = run(kept, text, [x], out=np.zeros((8, 32, count), np.uint32)).view(np.uint16).reshape(8, 32, count, 2)
    m = x.transpose(0, 2, 1) if transposed else x
    for lane, r, h in itertools.product(range(32), range(count), range(2)):
        assert (got[:, lane, r, h] == m[r, lane // 4, 2 * (lane % 4) + h]).all()


KINDS = {"fx_bf16": ml_dtypes.bfloat16, "fx_half": np.float16, "fx_tf32": np.float32}


@pytest.mark.parametrize("kind", KINDS)
def test_mma_from_fragments_by_the_manual(kept, kind):
    depth = 8 if kind == "fx_tf32" else 16
    rng = np.random.default_rng(3)
    a, b = (rng.integers(-8, 8, s).astype(KINDS[kind]) for s in ((16, depth), (depth, 8)))
    c = rng.integers(-8, 8, (16, 8)).astype(np.float32)
    ua, ub = bits(a).astype(np.uint32), bits(b).astype(np.uint32)
    fa, fb, fc = np.zeros((32, 4), np.uint32), np.zeros((32, 2), np.uint32), np.zeros((32, 4), np.float32)
    for lane in range(32):  # PTX ISA: g is groupID, t is threadID_in_group
        g, t = lane >> 2, lane & 3
        if depth == 16:
            pairs = [(g, 2 * t), (g + 8, 2 * t), (g, 2 * t + 8), (g + 8, 2 * t + 8)]
            fa[lane] = [ua[i, k] | ua[i, k + 1] << 16 for i, k in pairs]
            fb[lane] = [ub[k, g] | ub[k + 1, g] << 16 for k in (2 * t, 2 * t + 8)]
        else:
            fa[lane] = [ua[i, k] for i, k in [(g, t), (g + 8, t), (g, t + 4), (g + 8, t + 4)]]
            fb[lane] = [ub[k, g] for k in (t, t + 4)]
        fc[lane] = [c[g, 2 * t], c[g, 2 * t + 1], c[g + 8, 2 * t], c[g + 8, 2 * t + 1]]
    text = f"""
        fx_u32 a[4], b[2];
        float c[4];
        for (int i = 0; i < 4; i++) a[i] = fx_pointer<fx_u32>(task, 0)[fx_lane() * 4 + i];
        for (int i = 0; i < 2; i++) b[i] = fx_pointer<fx_u32>(task, 1)[fx_lane() * 2 + i];
        for (int i = 0; i < 4; i++) c[i] = fx_pointer<float>(task, 2)[fx_lane() * 4 + i];
        fx_mma<{kind}>(c, a, b);
        for (int i = 0; i < 4; i++) fx_pointer<float>(task, 3)[fx_thread() * 4 + i] = c[i];
    """
    got = run(kept, text, [fa, fb, fc], out=np.zeros((8, 32, 4), np.float32))
    expected = a.astype(np.float32) @ b.astype(np.float32) + c
    for lane in range(32):
        g, t = lane >> 2, lane & 3
        want = [expected[g, 2 * t], expected[g, 2 * t + 1], expected[g + 8, 2 * t], expected[g + 8, 2 * t + 1]]
        assert (got[:, lane] == want).all()


def test_tf32_rounds_to_nearest_ties_away(kept):
    x = np.array([1.0, 1 + 2**-11, 1 + 2**-11 - 2**-20, -(1 + 2**-11), 1 + 2**-10, np.inf, 3.4028235e38], np.float32)
    text = """
        const int i = fx_thread();
        if (i < 7) fx_pointer<fx_u32>(task, 1)[i] = fx_to_tf32(fx_pointer<float>(task, 0)[i]).bits;
    """
    got = run(kept, text, [x], out=np.zeros(7, np.uint32)).view(np.float32)
    assert np.array_equal(got, np.array([1, 1 + 2**-10, 1, -(1 + 2**-10), 1 + 2**-10, np.inf, np.inf], np.float32))


@pytest.mark.parametrize("name", ["quotient", "root"])
def test_quotients_and_roots_in_line_are_rounded_right(kept, name):
    """Of all sizes, of subnormal ones, and where the result is half way between subnormal numbers."""
    rng = np.random.default_rng(0)
    signs = rng.choice([-1, 1], 40000)
    x = (np.exp2(rng.uniform(-149, 128, 40000)) * signs).astype(np.float32)
    y = (np.exp2(rng.uniform(-149, 128, 40000)) * rng.choice([-1, 1], 40000)).astype(np.float32)
    near = rng.integers(1, 1 << 24, (2, 20000)).astype(np.float32)
    halves = (rng.integers(0, 1 << 22, 20000) * 2 + 1).astype(np.float32) * np.float32(2**-126)
    special = np.array([*itertools.product(FLOATS, FLOATS)], np.float32).T
    x = np.concatenate([x, near[0], halves, special[0]])
    y = np.concatenate([y, near[1], np.full(20000, 2.0**24, np.float32), special[1]])
    with np.errstate(all="ignore"):
        want = x / y if name == "quotient" else np.sqrt(x)
    call = "fx_quotient_inline(x[i], y[i])" if name == "quotient" else "fx_root_inline(x[i])"
    text = f"""
        const float *x = fx_pointer<float>(task, 0), *y = fx_pointer<float>(task, 1);
        for (int i = fx_thread(); i < (int)fx_word(task, 3); i += FX_THREADS)
            fx_pointer<float>(task, 2)[i] = {call};
    """
    got = run(kept, text, [x, y], out=np.zeros(len(x), np.float32), scalars=[len(x)])
    assert np.array_equal(np.isnan(got), np.isnan(want))
    assert np.array_equal(bits(got)[~np.isnan(want)], bits(want)[~np.isnan(want)])
