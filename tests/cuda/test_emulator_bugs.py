"""Bugs put into bodies and rows on purpose: each comes back as an error or shows in the result, and the process goes on."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from cuda_regions import Region, Rows, body, read

from fusec.errors import CompileError, ExecutionError
from fusec.kernels.cuda import abi
from fusec.kernels.cuda.emulator.build import SANITIZERS, build, compiler
from fusec.kernels.cuda.emulator.device import EmulatedDevice, Emulation
from fusec.kernels.cuda.module import module_text

pytestmark = pytest.mark.skipif(compiler() is None, reason="no C++ compiler")

N = 2 * 256
# each of these has the right text, and for some bugs the wrong one
BODIES = {
    "store": "fx_pointer<float>(task, 1)[task.tile * FX_THREADS + fx_thread()] = (float)(task.tile + 1);",
    # late: other blocks run first, in every order
    "late": """
        for (int i = 0; i < 20; i++) fx_barrier();
        fx_pointer<float>(task, 1)[task.tile * FX_THREADS + fx_thread()] = 7.f;
    """,
    "sum_of_all": """
        const float* x = fx_pointer<float>(task, 0);
        float s = 0.f;
        for (int i = 0; i < (int)fx_word(task, 2); i++) s += x[i];
        fx_pointer<float>(task, 1)[fx_thread()] = s;
    """,
    "turned": """
        float* s = (float*)task.shared;
        s[fx_thread()] = (float)fx_thread();
        {barrier}
        fx_pointer<float>(task, 1)[fx_thread()] = s[FX_THREADS - 1 - fx_thread()];
    """,
    "early": """
        fx_publish(fx_pointer<fx_u64>(task, 2));
        for (int i = 0; i < 20; i++) fx_barrier();
        fx_pointer<float>(task, 1)[task.tile * FX_THREADS + fx_thread()] = 7.f;
    """,
    "copied": """
        float* s = (float*)task.shared;
        fx_copy_async<4>(s + fx_thread(), fx_pointer<float>(task, 0) + fx_thread());
        fx_copy_async_commit();
        {wait}
        fx_barrier();
        fx_pointer<float>(task, 1)[fx_thread()] = s[FX_THREADS - 1 - fx_thread()];
        fx_copy_async_wait<0>();
    """,
    "overrun": "fx_pointer<float>(task, 1)[fx_thread() + (int)fx_word(task, 2)] = 1.f;",
    "split": "if (fx_thread() < 128) fx_barrier();\nelse\n fx_barrier();",
    "some": "if (fx_thread() != 37) fx_barrier();",
    "warps": "if (fx_lane() < 16) fx_any(true); else fx_shuffle(1.f, 0);",
    "null": "if (fx_thread() == 9) *(volatile int*)8 = 1;",
    "askew": "fx_pointer<float>(task, 1)[fx_thread()] = fx_load_vector<4>(fx_pointer<float>(task, 0) + 1).at[0];",
    "deep": "volatile char pages[200000]; pages[0] = 1; pages[100000] = 2; pages[199999] = 3;",
    "unfinished": "fx_copy_async<4>(task.shared + 4 * fx_thread(), fx_pointer<float>(task, 0)); fx_copy_async_commit();",
}


def bodies(*names, **changes):
    made = []
    for name in names:
        text = BODIES[name]
        for key in ("barrier", "wait"):
            right = {"barrier": "fx_barrier();", "wait": "fx_copy_async_wait<0>();"}[key]
            text = text.replace("{" + key + "}", changes.get(key, right))
        made.append(body(f"fusec_{name}", text))
    return made


def module(device, kept, *sources):
    text = module_text(sources, includes=())
    return device.load(build(text, device.level, kept), text.entry)


def producer_and_consumer(device, kernel="late", waits=((0, 2),), signal=0):
    """Two blocks write halves, a third one adds up: its result, and a way to run."""
    memory = Region(device, [[]], [])
    x, y = memory.memory(np.zeros(N, np.float32)), memory.memory(np.zeros(256, np.float32))
    counter = memory.memory(np.zeros(16, np.int64))
    region = Region(
        device,
        [[Rows(2, 1, waits=waits)], [Rows(0, 0, 0, 1, signal=signal)], [Rows(0, 0, 1, 1, signal=signal)]],
        [[0, x.address, counter.address], [x.address, y.address, N]],
    )
    region.held += memory.held
    return region, y


def launched(device, kept, first, *, waits=((0, 2),)):
    code = module(device, kept, *bodies(first, "store", "sum_of_all"))
    region, y = producer_and_consumer(device, waits=waits)
    region.run(code)
    return read(device, y, np.float32)


ORDERS = [Emulation(), Emulation(lazy=True, seed=3), Emulation(seed=11)]


@pytest.mark.parametrize("emulation", ORDERS)
def test_waiting_for_both_halves_gives_the_sum(kept, emulation):
    assert (launched(EmulatedDevice("sm_80", 3, emulation), kept, "late") == 7 * N).all()


@pytest.mark.parametrize("emulation", ORDERS)
def test_a_missing_wait_shows(kept, emulation):
    assert (launched(EmulatedDevice("sm_80", 3, emulation), kept, "late", waits=()) != 7 * N).any()


def test_waiting_for_one_of_two_shows_in_some_order(kept):
    seen = [
        (launched(EmulatedDevice("sm_80", 3, Emulation(seed=s)), kept, "late", waits=((0, 1),)) != 7 * N).any()
        for s in range(1, 5)
    ]
    assert any(seen)


def test_a_target_too_high_is_a_deadlock_with_who_waits_for_what(kept):
    device = EmulatedDevice("sm_80", 3)
    with pytest.raises(ExecutionError, match=r"deadlock: 768 of 768|deadlock: 256 of 768") as e:
        launched(device, kept, "late", waits=((0, 3),))
    assert "block 0 thread 0 waiting for a counter, which stands at 2 and must reach 3 (number 0)" in str(e.value)
    assert "at barrier" in str(e.value) or "at a barrier 0 at line" in str(e.value)
    assert (launched(device, kept, "late") == 7 * N).all()  # the device lives on


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("split", "threads of one block stand at different barriers: line"),
        ("some", "threads of one block stand at different barriers"),
        ("warps", "lanes of one warp meet in different warp operations"),
        ("null", r"signal 11 at address 0x8 \(block 0 thread 9\)"),
        ("askew", "a vector is moved at an address that is not a multiple of 16"),
        ("deep", "signal"),
        ("unfinished", "a thread leaves with asynchronous copies that it has not waited for"),
    ],
)
def test_broken_bodies_are_errors(kept, name, message):
    device = EmulatedDevice("sm_80", 1, Emulation(lazy=True))
    code = module(device, kept, *bodies(name))
    x = device.allocate(4096)
    region = Region(device, [[Rows(0, 0)]], [[x.address, x.address, 0]])
    with pytest.raises(ExecutionError, match=message):
        region.run(code, 1024)
    assert device.synchronise()


@pytest.mark.parametrize("emulation", ORDERS)
@pytest.mark.parametrize("is_right", [True, False])
def test_a_missing_barrier_shows(kept, emulation, is_right):
    device = EmulatedDevice("sm_80", 1, emulation)
    code = module(device, kept, *bodies("turned", **({} if is_right else {"barrier": ""})))
    y = device.allocate(1024)
    region = Region(device, [[Rows(0, 0)]], [[0, y.address]])
    region.run(code, 1024)
    assert np.array_equal(read(device, y, np.float32), np.arange(256)[::-1]) == is_right


@pytest.mark.parametrize("is_right", [True, False])
def test_a_missing_wait_for_copies_shows_where_they_are_late(kept, is_right):
    device = EmulatedDevice("sm_80", 1, Emulation(lazy=True))
    code = module(device, kept, *bodies("copied", **({} if is_right else {"wait": ""})))
    x, y = device.allocate(1024), device.allocate(1024)
    device.upload(x, 0, np.arange(256, dtype=np.float32))
    region = Region(device, [[Rows(0, 0)]], [[x.address, y.address]])
    region.run(code, 1024)
    assert np.array_equal(read(device, y, np.float32), np.arange(256)[::-1]) == is_right


def published_early(device, kept):
    code = module(device, kept, *bodies("early", "store", "sum_of_all"))
    region, y = producer_and_consumer(device, signal=abi.NO_SIGNAL)
    arguments = read(device, region.arguments[0], np.int64).copy()
    arguments[2] = region.counters.address
    device.upload(region.arguments[0], 0, arguments)
    region.run(code)
    return read(device, y, np.float32)


def test_publishing_too_early_shows_in_some_order(kept):
    seen = [(published_early(EmulatedDevice("sm_80", 3, Emulation(seed=s)), kept) != 7 * N).any() for s in range(1, 5)]
    assert any(seen)


def test_copies_of_one_tile_may_not_go_on_in_the_next(kept):
    device = EmulatedDevice("sm_80", 1, Emulation(lazy=True))
    code = module(device, kept, *bodies("unfinished"))
    x = device.allocate(4096)
    with pytest.raises(ExecutionError, match="a tile ends with asynchronous copies"):
        Region(device, [[Rows(0, 0, 0, 2)]], [[x.address]]).run(code, 1024)


@pytest.mark.parametrize("poison", [False, True])
def test_reading_what_the_tile_before_has_left_shows(kept, poison):
    text = """
        float* s = (float*)task.shared;
        float* t = (float*)task.scratch;
        if (task.tile == 0) s[fx_thread()] = t[fx_thread()] = 1.f;
        fx_pointer<float>(task, 0)[fx_thread()] = s[fx_thread()] + t[fx_thread()];
    """
    device = EmulatedDevice("sm_80", 1, Emulation(poison=poison))
    code = module(device, kept, body("fusec_left", text))
    y = device.allocate(1024)
    Region(device, [[Rows(0, 0, 0, 2)]], [[y.address]], scratch=1024).run(code, 1024)
    assert np.isnan(read(device, y, np.float32)).all() == poison


def test_memory_is_poisoned():
    device = EmulatedDevice()
    assert np.isnan(read(device, device.allocate(64), np.float32)).all()


def test_a_run_that_takes_too_long_is_left_and_aborted(kept):
    device = EmulatedDevice("sm_80", 1)
    spin = body("fusec_spin", "while (!fx_barrier_any(fx_peek(fx_pointer<fx_u64>(task, 0)) != 0)) {}")
    code = module(device, kept, spin)
    word = device.allocate(8)
    device.upload(word, 0, np.zeros(1, np.int64))
    region = Region(device, [[Rows(0, 0)]], [[word.address]])
    region.launch(code)
    assert not device.synchronise(0.2)
    word.block[0] = 1
    assert device.synchronise(5)


def test_abort_ends_a_wait(kept):
    device = EmulatedDevice("sm_80", 1)
    code = module(device, kept, *bodies("store"))
    x = device.allocate(1024)
    device.upload(x, 0, np.zeros(256, np.float32))
    region = Region(device, [[Rows(0, 0, waits=((0, 1),))]], [[0, x.address]])
    device.set_abort(1)
    region.run(code)
    assert not read(device, x, np.float32).any()
    device.set_abort(0)
    with pytest.raises(ExecutionError, match="deadlock"):
        region.run(code)


def test_launches_that_do_not_fit_are_refused(kept):
    device = EmulatedDevice("sm_80", 2)
    code = module(device, kept, *bodies("store"))
    with pytest.raises(ExecutionError, match="3 blocks cannot be resident"):
        device.launch(code, 0, 3, 0)
    with pytest.raises(ExecutionError, match="bytes of shared memory"):
        device.launch(code, 0, 1, 1 << 20)
    with pytest.raises(ExecutionError, match="no entry 'other'"):
        text = module_text(bodies("store"), includes=())
        device.load(build(text, "sm_80", kept), "other")


def test_what_the_compiler_says_comes_back(kept):
    with pytest.raises(CompileError, match=r"refuses a module: .*error: .unknown. was not declared"):
        build(module_text([body("fusec_bad", "unknown = 1;")], includes=()), "sm_80", kept)


CHILD = """
import sys
sys.path[:0] = {path!r}
import test_emulator_bugs as t
from fusec.kernels.cuda.emulator.build import build
from fusec.kernels.cuda.emulator.device import Emulation, EmulatedDevice
from fusec.kernels.cuda.module import module_text
from fusec.cache import ObjectCache
device = EmulatedDevice("sm_80", 3, Emulation(lazy=True, keep_files=False))
t.build = lambda text, level, kept: build(text, level, kept, sanitizer={sanitizer!r})
kept = ObjectCache({cache!r})
{code}
print("finished")
"""
OVERRUN = """
code = t.module(device, kept, *t.bodies("overrun"))
y = device.allocate(1024)
region = t.Region(device, [[t.Rows(0, 0)]], [[0, y.address, {by}]])
region.run(code)
"""
RACES = {
    "": "assert (t.launched(device, kept, 'late') == 7 * t.N).all()",
    "wait": "t.launched(device, kept, 'late', waits=())",
    "early": "t.published_early(device, kept)",
    "barrier": """
code = t.module(device, kept, *t.bodies("turned", barrier={barrier!r}))
y = device.allocate(1024)
t.Region(device, [[t.Rows(0, 0)]], [[0, y.address]]).run(code, 1024)
""",
}


def in_child(sanitizer, code, cache):
    """Run with a sanitizer's library preloaded; what it printed, and whether it finished."""
    name = {"address": "libasan.so", "thread": "libtsan.so"}[sanitizer]
    found = subprocess.run(
        [compiler(), f"-print-file-name={name}"], capture_output=True, text=True, check=False
    ).stdout.strip()
    if not Path(found).is_absolute():
        pytest.skip(f"no {name}")
    here = Path(__file__)
    text = CHILD.format(path=[str(here.parent), str(here.parents[2])], sanitizer=sanitizer, cache=str(cache), code=code)
    options = {
        "ASAN_OPTIONS": "detect_leaks=0:halt_on_error=1",
        "TSAN_OPTIONS": "halt_on_error=1:ignore_interceptors_accesses=1:report_signal_unsafe=0",
        "LD_PRELOAD": found,
    }
    done = subprocess.run(
        ["setarch", "-R", sys.executable, "-c", text],  # fixed addresses: the race detector's shadow has fixed places
        env={**os.environ, **options},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    return done.stdout + done.stderr, "finished" in done.stdout


@pytest.mark.parametrize(("by", "is_right"), [(0, True), (1, False)])
def test_address_sanitizer_sees_one_element_too_many(kept, by, is_right):
    said, finished = in_child("address", OVERRUN.format(by=by), kept.directory)
    assert finished == is_right, said
    assert ("heap-buffer-overflow" in said) != is_right, said


@pytest.mark.parametrize("bug", ["", "wait", "early", "barrier"])
def test_the_race_detector_sees_what_is_not_ordered(kept, bug):
    code = RACES[bug].format(barrier="") if bug == "barrier" else RACES[bug]
    said, finished = in_child("thread", code, kept.directory)
    assert finished == (bug == ""), said
    assert ("data race" in said) == (bug != ""), said


def test_fibers_without_assembly(kept):
    device = EmulatedDevice("sm_80", 3)
    text = module_text(bodies("late", "store", "sum_of_all"), includes=())
    code = device.load(build(text, "sm_80", kept, sanitizer="portable"), text.entry)
    region, y = producer_and_consumer(device)
    region.run(code)
    assert (read(device, y, np.float32) == 7 * N).all()


def test_there_is_a_sanitizer_for_each_name():
    assert set(SANITIZERS) == {"", "portable", "address", "thread"}
