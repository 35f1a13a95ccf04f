"""Building and loading: from IR text to an address that can be called, and what stops bad code on the way."""

import ctypes
import hashlib
import os
import subprocess
import sys
import textwrap
import threading
from dataclasses import replace

import pytest

from fusec.errors import CompileError
from fusec.ir.dim import symbol
from fusec.kernels.cpu import build_team
from fusec.kernels.cpu.build import binary, build, decode, encode
from fusec.kernels.cpu.llvm import compile_text, undefined_symbols
from fusec.kernels.cpu.load import load
from fusec.kernels.kernel import Slot, Source
from fusec.target import Target, runs_here

HOST = Target.parse("cpu")


def source(factor: int = 3) -> Source:
    text = f"""
define void @entry(ptr %slots, i64 %first, i64 %count, ptr %scratch) {{
  %s = mul i64 %count, {factor}
  %t = add i64 %s, %first
  store i64 %t, ptr %slots
  ret void
}}
"""
    return Source(text, "entry", (Slot("pointer", "x"), Slot("extent", "", symbol("N") * 2 + 1)), symbol("N") * 64)


def call(address: int, first: int, count: int) -> int:
    out = ctypes.c_int64()
    f = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64, ctypes.c_void_p)(address)
    f(ctypes.addressof(out), first, count, None)
    return out.value


def test_build_load_call() -> None:
    b = build(source(), HOST)
    assert call(load(b).address, 4, 5) == 19
    assert b.sha256 == hashlib.sha256(b.code).hexdigest()
    assert b == build(source(), HOST), "same text, same bytes"


def test_identical_binaries_are_loaded_once() -> None:
    assert load(build(source(7), HOST)) is load(build(source(7), HOST))
    assert load(build(source(7), HOST)).address != load(build(source(8), HOST)).address


@pytest.mark.parametrize("level", ["generic", "avx2", "avx512"])
def test_every_level_gives_an_object(level: str) -> None:
    if runs_here("neon"):
        pytest.skip("no x86-64")
    text = """
define <16 x float> @f(ptr %p) {
  %r = load <16 x float>, ptr %p, align 4
  %s = fadd <16 x float> %r, %r
  ret <16 x float> %s
}"""
    assert compile_text(text, level)[:4] == b"\x7fELF"


def test_damaged_code_never_reaches_llvm() -> None:
    b = build(source(11), HOST)
    for code in (b"", b.code[:-8], os.urandom(64), b.code[:200] + b"\xff" + b.code[201:]):
        with pytest.raises(CompileError, match="damaged"):
            load(replace(b, code=code))


@pytest.mark.parametrize(
    "text", ["define i32 @f() { ret i64 1 }", "no code at all", "define void @entry() { br label %nowhere }"]
)
def test_llvm_errors_name_the_kernel(text: str, tmp_path) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(CompileError, match="'softmax_3'") as e:
        build(replace(source(), text=text), HOST, name="softmax_3", dump=tmp_path / "d")
    (kept,) = (tmp_path / "d").iterdir()
    assert kept.name in str(e.value)
    assert kept.read_text() == text


def test_calls_to_libraries_are_refused() -> None:
    text = (
        "declare float @expf(float)\ndefine float @entry(float %a) {\n %r = call float @expf(float %a)\n ret float %r }"
    )
    with pytest.raises(CompileError, match="expf"):
        build(replace(source(), text=text), HOST, name="k")


def test_memset_is_linked() -> None:
    text = """
declare void @llvm.memset.p0.i64(ptr, i8, i64, i1)
define void @entry(ptr %p, i64 %first, i64 %n, ptr %scratch) {
  call void @llvm.memset.p0.i64(ptr %p, i8 1, i64 %n, i1 false)
  ret void
}"""
    b = build(replace(source(), text=text), HOST)
    assert undefined_symbols(b.code) == ["memset"]
    assert call(load(b).address, 0, 8) == 0x0101010101010101


def test_binaries_survive_the_cache_format() -> None:
    b = build(source(5), HOST)
    assert decode(encode(b)) == b
    for bad in (
        b"",
        b"{}\nx",
        b"[1]\n",
        b'{"entry": "a", "slots": [[1]], "scratch": "0"}\n',
        encode(b)[:20],
        b"[" * 99999,
    ):
        assert decode(bad) is None


def test_worker_processes() -> None:
    sources = {f"k{i}": source(100 + i) for i in range(10)}
    made = build_team.build_in_processes(sources, {k: k for k in sources}, HOST, 2, timeout=60.0)
    assert made == {k: build(s, HOST) for k, s in sources.items()}


def test_worker_errors_name_the_kernel() -> None:
    sources = {"a": source(), "b": replace(source(), text="nonsense")}
    with pytest.raises(CompileError, match="'matmul_b'"):
        build_team.build_in_processes(sources, {"a": "matmul_a", "b": "matmul_b"}, HOST, 2, timeout=60.0)


def test_a_crash_of_llvm_stays_in_the_worker() -> None:
    if runs_here("neon"):
        pytest.skip("no x86-64")
    vector = "<16 x float>"
    text = f"""
declare {vector} @llvm.x86.avx512.mask.scalef.ps.512({vector}, {vector}, {vector}, i16, i32)
define {vector} @entry({vector} %a) {{
  %r = call {vector} @llvm.x86.avx512.mask.scalef.ps.512({vector} %a, {vector} %a, {vector} zeroinitializer, i16 -1, i32 4)
  ret {vector} %r
}}"""
    bad = replace(source(), text=text)
    with pytest.raises(CompileError, match=r"'bad'.*ends the compiler's process"):
        build_team.build_in_processes({"k": bad}, {"k": "bad"}, Target("cpu", "avx2"), 1, timeout=60.0)


def test_a_slow_build_is_killed() -> None:
    body = "\n".join(f"  %v{i} = mul i64 %v{i - 1}, %v{i // 2}" for i in range(1, 60000))
    text = f"define i64 @entry(i64 %v0) {{\n{body}\n  ret i64 %v59999\n}}"
    with pytest.raises(CompileError, match=r"longer than 0\.05 s"):
        build_team.build_in_processes({"k": replace(source(), text=text)}, {"k": "slow"}, HOST, 1, timeout=0.05)


def test_no_processes_to_be_had(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/nonexistent/python")
    assert build_team.build_in_processes({"k": source()}, {"k": "k"}, HOST, 2, timeout=60.0) == {}


def test_worker_imports_little() -> None:
    heavy = ("numpy", "networkx", "onnx")
    code = f"import sys, fusec.kernels.cpu.build_worker; print(*[m for m in {heavy} if m in sys.modules])"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == ""


def test_fork_during_a_compile() -> None:
    code = """
    import os, signal, threading
    from fusec.kernels.cpu.llvm import compile_text
    text = "\\n".join(f"define i64 @f{i}(i64 %a) {{ %r = mul i64 %a, {i}\\n ret i64 %r }}" for i in range(200))
    stop = []
    def loop():
        while not stop: compile_text(text, LEVEL)
    t = threading.Thread(target=loop); t.start()
    bad = 0
    for _ in range(10):
        pid = os.fork()
        if pid == 0:
            signal.alarm(20)
            compile_text(text, LEVEL)
            os._exit(0)
        bad += os.waitpid(pid, 0)[1] != 0
    stop.append(1); t.join()
    print("bad", bad)
    """.replace("LEVEL", repr(HOST.level))
    run = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", textwrap.dedent(code)],
        check=False,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert run.stdout.strip() == "bad 0", run.stderr


def test_threads_build_and_load_together() -> None:
    sums: list[int] = []

    def work(i: int) -> None:
        sums.append(call(load(build(source(1000 + i % 3), HOST)).address, 0, 1))

    threads = [threading.Thread(target=work, args=(i,)) for i in range(9)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert sorted(sums) == sorted(1000 + i % 3 for i in range(9))


def test_binary_has_what_calling_needs() -> None:
    b = binary(source(), b"abc")
    assert (b.entry, b.slots, b.scratch) == (source().entry, source().slots, source().scratch)
