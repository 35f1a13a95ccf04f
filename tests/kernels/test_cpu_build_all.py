"""build_all: classes are built once, found in the cache without being emitted, and made by worker processes when many."""

from __future__ import annotations

import ctypes
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fusec.cache import ObjectCache
from fusec.errors import CompileError
from fusec.kernels.cpu import build, build_team, emit
from fusec.kernels.cpu.build import build_all, cache_key
from fusec.kernels.cpu.emit import class_key
from fusec.kernels.cpu.load import load
from fusec.kernels.kernel import Binary, Kernel
from fusec.target import Target
from fusec.tile.text import parse_program
from fusec.tiling.choose import menu

HOST = Target.parse("cpu")


def kernel(steps: int, name: str = "p") -> Kernel:
    body = "x[n]" + " + 1.0" * steps
    text = f"program {name}(N)\ntask n: N\ninput x: f32[N]\noutput y: f32[N]\nstage n\n  y[n] = {body}\n"
    (made,) = menu(parse_program(text), HOST)
    return made


def run(k: Kernel, b: Binary) -> Any:
    x, y = np.zeros(100, np.float32), np.zeros(100, np.float32)
    bound = k.bind({"N": 100})
    from fusec.ir.dim import evaluate

    words = np.array(
        [
            {"x": x, "y": y}[s.name].ctypes.data if s.kind == "pointer" else evaluate(s.extent, bound.environment)
            for s in b.slots
        ]
    )
    scratch = np.zeros(evaluate(b.scratch, bound.environment) + 64, np.uint8)
    entry = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64, ctypes.c_void_p)(load(b).address)
    entry(words.ctypes.data, 0, bound.tiles, scratch.ctypes.data + -scratch.ctypes.data % 64)
    return y


def forbid(*_: object, **__: object) -> Any:
    raise AssertionError("nothing should be emitted or compiled")


def test_equal_classes_are_built_once(monkeypatch: pytest.MonkeyPatch) -> None:
    kernels = [kernel(1, "a"), kernel(1, "b"), kernel(2)]
    calls = []
    monkeypatch.setattr(build, "compile_text", lambda text, level: calls.append(text) or b"object")
    made = build_all(kernels, HOST)
    assert list(made) == [class_key(kernels[0], HOST), class_key(kernels[2], HOST)]
    assert len(calls) == 2


def test_a_warm_cache_needs_neither_emitter_nor_compiler(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    k = kernel(3)
    cold = build_all([k], HOST, ObjectCache(tmp_path / "c"))
    monkeypatch.setattr(emit, "emit", forbid)
    monkeypatch.setattr(build, "compile_text", forbid)
    warm = build_all([k], HOST, ObjectCache(tmp_path / "c"))
    assert warm == cold
    (b,) = warm.values()
    assert (run(k, b) == 3).all()


def test_damaged_entries_are_built_again(tmp_path: Path) -> None:
    k = kernel(4)
    cache = ObjectCache(tmp_path / "c")
    ((key, good),) = build_all([k], HOST, cache).items()
    for entry in (p for p in (tmp_path / "c").rglob("*") if p.is_file()):
        data = entry.read_bytes()
        entry.write_bytes(data[:-100])
    assert build_all([k], HOST, cache) == {key: good}
    cache.put(cache_key(key, HOST), b"not a binary")
    assert build_all([k], HOST, cache) == {key: good}
    assert (run(k, good) == 4).all()


def test_other_compilers_and_targets_have_other_entries(monkeypatch: pytest.MonkeyPatch) -> None:
    one = cache_key("k", HOST)
    assert one != cache_key("k", Target("cpu", "neon"))
    monkeypatch.setattr(build, "fingerprint", lambda: "llvm 99")
    assert one != cache_key("k", HOST)


def test_many_builds_go_to_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    kernels = [kernel(i) for i in range(1, 13)]
    alone = build_all(kernels, HOST, workers=0)
    monkeypatch.setattr(build, "compile_text", forbid)
    assert build_all(kernels, HOST, workers=2) == alone
    assert list(build_all(kernels, HOST, workers=2)) == list(alone)


def test_without_processes_everything_is_built_here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(build_team.sys, "executable", "/nonexistent/python")
    kernels = [kernel(i) for i in range(1, 11)]
    assert len(build_all(kernels, HOST, workers=2)) == 10


def test_errors_name_the_program(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    whole = emit.emit
    monkeypatch.setattr(emit, "emit", lambda k, t: replace(whole(k, t), text="nonsense"))
    with pytest.raises(CompileError, match="'layer_3'"):
        build_all([kernel(1, "layer_3")], HOST, dump=tmp_path)
    assert len(list(tmp_path.iterdir())) == 1
