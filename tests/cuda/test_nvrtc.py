"""NVRTC without a GPU: cubins of both levels, errors in words, the cache, what the log and the machine code say."""

import re

import pytest
from cuda_regions import body

from fusec.cache import ObjectCache
from fusec.errors import CompileError
from fusec.kernels.cuda import libraries, lint, nvrtc, nvrtc_worker
from fusec.kernels.cuda.levels import LEVELS, WALK
from fusec.kernels.cuda.module import headers, module_text

pytestmark = pytest.mark.skipif(not nvrtc.is_installed(), reason="NVRTC is not installed")

# every primitive of every header once
EVERYTHING = """
    float* x = fx_pointer<float>(task, 0);
    const int t = fx_thread();
    x[t] = fx_float(fx_to_half(x[t])) + fx_float(fx_to_bf16((double)x[t])) + fx_shuffle(x[t], 3);
    x[t] += fx_shuffle_xor(x[t], 1) + fx_shuffle_up(x[t], 1) + fx_shuffle_down((double)x[t], 2);
    if (fx_barrier_any(x[t] > 1.f) && fx_any(x[t] > 2.f)) x[t] += fx_ballot(x[t] > 3.f);
    fx_store_vector(x + 4 * t, fx_load_vector<4>(x + 4 * t + 1024));
    x[t] += fx_load_constant(fx_pointer<fx_half>(task, 1)).bits;
    x[t] += fx_load_constant(fx_pointer<fx_vector<float, 4>>(task, 1)).at[0];
    fx_copy_async<4>(task.shared + 4 * t, x + t, t > 3);
    fx_copy_async<16>(task.shared + 16 * t, x + 4 * t);
    fx_copy_async_commit();
    fx_copy_async_wait<0>();
    fx_named_arrive(1, 256 + 32);
    fx_barrier();
    fx_atomic_add(x, 1.f);
    x[1] += (float)fx_atomic_swap_if(fx_pointer<fx_u64>(task, 2), 1ull, 2ull);
    fx_u32 a[4], b[2];
    float c[4] = {};
    fx_load_matrix<4>(a, task.shared + 16 * fx_lane());
    fx_load_matrix_transposed<2>(b, task.shared + 16 * fx_lane());
    fx_mma<fx_bf16>(c, a, b);
    fx_mma<fx_half>(c, a, b);
    fx_mma<fx_tf32>(c, a, b);
    x[t] += c[0] + c[1] + c[2] + c[3] + (float)fx_to_tf32(x[t]).bits;
"""
HOPPER = """
    fx_u64* bar = (fx_u64*)(task.shared + 65536);
    if (t == 0) {
        fx_mbarrier_init(bar, 1);
        fx_mbarrier_init_fence();
    }
    fx_barrier();
    if (t == 0) {
        fx_mbarrier_expect(bar, 32768);
        fx_bulk_load(task.shared, x, 32768, bar);
    }
    fx_mbarrier_wait(bar, 0);
    float acc[64];
    FX_UNROLL for (int i = 0; i < 64; i++) acc[i] = 0.f;
    const fx_u64 da = fx_descriptor(task.shared, 128, 256), db = fx_descriptor(task.shared + 16384, 128, 256);
    fx_wgmma_fence();
    FX_UNROLL for (int k = 0; k < 4; k++) fx_wgmma<fx_bf16, 128>(acc, da + 16 * k, db + 16 * k);
    fx_wgmma_commit();
    fx_wgmma_wait<0>();
    FX_UNROLL for (int i = 0; i < 64; i++) x[i * 256 + t] = acc[i];
    fx_store_matrix(task.shared + 16 * fx_lane(), a);
    fx_fence_async_shared();
    fx_mbarrier_retire(bar);
    fx_barrier();
    if (t == 0) {
        fx_bulk_store(x, task.shared, 4096);
        fx_bulk_commit();
        fx_bulk_wait_read<0>();
        fx_bulk_wait<0>();
        fx_fence_async();
    }
"""


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("wide", [False, True])
def test_every_primitive_compiles_without_spills(level, wide):
    text = EVERYTHING + (HOPPER if level == "sm_90" else "")
    module = module_text([body("fusec_all", text)], wide=wide)
    cubin = nvrtc.build(module, level)
    assert cubin.code[:4] == b"\x7fELF"
    assert lint.problems(cubin) == ()
    found = lint.usage(cubin.log)["fusec_region"]
    assert 20 < found.registers <= 128
    assert 0 < found.shared <= WALK


@pytest.mark.skipif(lint.disassembler() is None, reason="nvdisasm is not installed")
@pytest.mark.parametrize("level", LEVELS)
def test_primitives_become_the_instructions_that_they_are_for(level):
    text = EVERYTHING + (HOPPER if level == "sm_90" else "")
    found = lint.sass(nvrtc.build(module_text([body("fusec_all", text)]), level))
    wanted = {"HMMA": 3, "LDSM": 2, "LDGSTS": 2}
    if level == "sm_90":
        wanted |= {"HGMMA": 4, "UBLKCP": 2, "STSM": 1}
    for name, n in wanted.items():
        assert lint.count(found, name) == n, name
    assert lint.count(found, "LDL") == lint.count(found, "STL") == 0


@pytest.mark.skipif(lint.disassembler() is None, reason="nvdisasm is not installed")
def test_wgmma_is_not_serialised_among_many_bodies():
    plain = [body(f"fusec_{i}", f"fx_pointer<float>(task, 0)[fx_thread()] = {i}.f;") for i in range(3)]
    cubin = nvrtc.build(module_text([*plain, body("fusec_all", EVERYTHING + HOPPER)]), "sm_90")
    assert lint.complaints(cubin.log) == ()
    found = lint.sass(cubin)
    assert lint.count(found, "HGMMA") == 4
    assert len(re.findall(r"HGMMA[^;]*gsb0", found)) == 1  # one of the four ends a group, none waits for its own
    assert lint.count(found, "CALL") == 1  # through an address, whichever body it is


@pytest.mark.parametrize("level", ["sm_80", "sm_90"])
def test_bodies_are_functions_that_save_few_registers(level):
    bodies = [body(f"fusec_{i}", EVERYTHING.replace("x[1]", f"x[{i}]")) for i in range(3)]
    cubin = nvrtc.build(module_text(bodies), level)
    assert lint.problems(cubin) == ()
    called = {f"{b.entry}_called" for b in bodies}
    assert called <= lint.frames(cubin.log).keys()
    assert max(lint.frames(cubin.log)[name][1] for name in called) <= lint.SAVED_BYTES
    assert lint.usage(cubin.log)["fusec_region"].registers <= 128


def test_functions_that_spill_are_told_from_those_that_save_registers():
    head = "ptxas info : Compiling entry function 'k' for 'sm_80'"
    frame = "Function properties for {}\n {} bytes stack frame, {} bytes spill stores, {} bytes spill loads"
    kernel = f"{head}\n{frame.format('k', 0, 0, 0)}\nptxas info : Used 32 registers"
    log = "\n".join(
        [
            kernel,
            frame.format("saves", 32, 28, 28),
            frame.format("spills", 32, 24, 28),
            frame.format("large", 64, 64, 64),
        ]
    )
    assert lint.saved(log) == {"saves": 28}
    assert [p.split()[0] for p in lint.problems(nvrtc.Cubin(b"", log))] == ["spills", "large"]


def test_spills_and_warnings_are_problems():
    text = """
        float big[300];
        for (int i = 0; i < 300; i++) big[i] = fx_pointer<float>(task, 0)[i * 256 + fx_thread()];
        fx_barrier();
        for (int i = 0; i < 300; i++) fx_pointer<float>(task, 1)[i * 256 + fx_thread()] = big[(int)fx_word(task, 2) + i & 255];
    """
    found = lint.problems(nvrtc.build(module_text([body("fusec_big", text)]), "sm_80"))
    assert any("stack" in f or "spills" in f for f in found)
    log = "ptxas info : (C7512) Potential Performance Loss: wgmma.mma_async instructions are serialized\nall well"
    assert len(lint.complaints(log)) == 1


def test_an_error_comes_back_with_its_place():
    with pytest.raises(
        CompileError, match=r'NVRTC refuses a module: region.cu\(\d+\): error: identifier "y" is undefined'
    ):
        nvrtc.build(module_text([body("fusec_bad", "y = 1;")]), "sm_80")
    with pytest.raises(CompileError, match="no CUDA level 'sm_12'"):
        nvrtc.build(module_text([]), "sm_12")


def test_many_errors_are_counted_not_listed():
    log = "\n".join(f"a.cu({i}): error: bad" for i in range(9))
    assert nvrtc.essence(log).endswith("; and 5 more")


def test_cubins_are_kept(tmp_path, monkeypatch):
    cache = ObjectCache(tmp_path)
    module = module_text([body("fusec_kept", "fx_pointer<float>(task, 0)[fx_thread()] = 1.f;")])
    first = nvrtc.build(module, "sm_80", cache)
    monkeypatch.setattr(nvrtc, "compile_text", None)
    assert nvrtc.build(module, "sm_80", cache) == first
    with pytest.raises(TypeError):
        nvrtc.build(module, "sm_90", cache)


@pytest.mark.parametrize(
    ("program", "message"),
    [
        ("import os; os.kill(os.getpid(), 11)", r"NVRTC crashed \(SIGSEGV\)"),
        ("raise SystemExit('no memory')", r"NVRTC crashed \(exit code 1\) while it compiled a module: no memory"),
        ("print('hello')", "answered nonsense"),
        ("import time; time.sleep(60)", "not compiled a module within 1 s"),
    ],
)
def test_a_crash_of_the_compiler_is_an_error(tmp_path, monkeypatch, program, message):
    (tmp_path / "worker.py").write_text(program)
    monkeypatch.setattr(nvrtc_worker, "__file__", str(tmp_path / "worker.py"))
    monkeypatch.setattr(nvrtc, "TIMEOUT_S", 1.0)
    with pytest.raises(CompileError, match=message):
        nvrtc.compile_text("", ())


def test_a_missing_compiler_is_an_error_with_what_to_install(monkeypatch):
    nvrtc._library_or_why.cache_clear()
    monkeypatch.setattr(libraries, "candidates", lambda stem: iter(()))
    try:
        assert not nvrtc.is_installed()
        with pytest.raises(CompileError, match="pip install 'nvidia-cuda-nvrtc"):
            nvrtc.version()
    finally:
        nvrtc._library_or_why.cache_clear()


def test_headers_need_no_others():
    known = {*(f'"{n}"' for n in headers()), '"runtime.h"', "<math.h>", "<stdint.h>", "<string.h>"}
    for name, text in headers().items():
        assert text.count("#pragma once") == 1, name
        assert {line.split()[1] for line in text.splitlines() if line.startswith("#include")} <= known, name
