"""`python -m bench.gpu` works as a command: all of it small on the emulator, and politely where there is no GPU."""

from __future__ import annotations

import json
import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bench.gpu import __main__ as command
from bench.gpu import checks, models, report, rivals, roofs, sanitizer, shapes, tables
from fusec.kernels.cuda import machine, nvrtc
from fusec.kernels.cuda.levels import LEVELS
from fusec.kernels.cuda.module import PRELUDE

needs_compiler = pytest.mark.skipif(machine.compiler() is None, reason="there is no C++ compiler to emulate a GPU with")


@needs_compiler
def test_every_part_runs_on_the_emulator(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "gpu.json"
    arguments = ["--emulated", "--cases", "short rows", "--rounds", "2", "--save", str(file)]
    assert command.main(arguments) == 0, capsys.readouterr().out
    document = json.loads(file.read_text("utf-8"))
    assert document["machine"]["gpu"] == "emulated sm_80"
    assert set(document["took_s"]) == set(command.PARTS)
    assert document["checks"][0]["required"] <= document["checks"][0]["tolerance"]
    assert {"copy", "grid barrier", "launch in a graph"} <= set(document["roofs"])
    for name in tables.TABLES:
        (row,) = document[name]
        assert "failed" not in row, row
        assert row["seconds"]["fusec"] > 0
        assert not [n for n in row["notes"] if "not timed" in n]
    assert "unfused" in document["fusion"][0]["ratios"]
    assert "apart" in document["chains"][0]["ratios"]
    assert "of_copy" in document["bandwidth"][0]
    section = "\n".join(report.gpu_section(document))
    assert "Checked against float64: 1 of 1 models right" in section
    assert all(f"### {title}" in section for title in tables.TABLES.values())
    out = capsys.readouterr().out
    assert all(title in out for title in tables.TABLES.values())


@needs_compiler
def test_what_fails_is_told_and_the_rest_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken() -> Any:
        raise RuntimeError("no such thing")

    monkeypatch.setattr(tables, "small_cases", lambda: [tables.Case("gemm", "broken", broken)])
    monkeypatch.setattr(checks, "cases", lambda: {"wrong": lambda: models.mlp([4, 4])})
    monkeypatch.setattr(checks, "reference", lambda made: [np.ones((1, 4))])
    file = tmp_path / "gpu.json"
    assert command.main(["--emulated", "--only", "gemm,checks", "--save", str(file)]) == 1
    document = json.loads(file.read_text("utf-8"))
    assert document["gemm"][0]["failed"] == "RuntimeError: no such thing"
    assert "WRONG" in capsys.readouterr().out


def test_without_a_gpu_it_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    if not machine.missing_for("sm_90") or not machine.missing_for("sm_80"):
        pytest.skip("there is a GPU")
    file = tmp_path / "gpu.json"
    assert command.main(["--save", str(file)]) == 0
    assert "there is no GPU to measure" in capsys.readouterr().out
    assert not file.exists()


def test_unknown_parts_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        command.main(["--only", "roofs,rooves"])
    assert "unknown part 'rooves'" in capsys.readouterr().err


@pytest.mark.skipif(not nvrtc.is_installed(), reason="NVRTC is not installed")
@pytest.mark.parametrize("level", LEVELS)
def test_the_probes_compile_for_gpus(level: str) -> None:
    head = "".join(f'#include "{name}"\n' for name in PRELUDE)
    for text in (roofs.COPY, roofs.READ, roofs.ARITHMETIC, roofs.HAND_OVER, roofs.BARRIER, roofs.NOTHING):
        log = nvrtc.compile_text(head + text, nvrtc.options(level)).log
        assert "0 bytes spill stores" in log


def test_reports_of_the_sanitizer_are_read() -> None:
    clean = "========= COMPUTE-SANITIZER\n========= ERROR SUMMARY: 0 errors\n"
    assert sanitizer.read_report(clean, 0) == {"exit_code": 0, "errors": 0}
    bad = (
        "========= Invalid __global__ read of size 4 bytes\n=========     at fusec_region+0x100\n"
        "=========     by thread (0,0,0) in block (1,0,0)\n========= ERROR SUMMARY: 3 errors\n"
    )
    told = sanitizer.read_report(bad, 99)
    assert told["errors"] == 3
    assert told["first"].startswith("Invalid __global__ read of size 4 bytes | at fusec_region")
    races = "========= Error: Race reported between Write access\n========= RACECHECK SUMMARY: 1 hazard displayed (1 error)\n"
    assert sanitizer.read_report(races, 99)["errors"] == 1


def test_losses_and_failures_are_told() -> None:
    ratio = {"median": 0.5, "low": 0.49, "high": 0.51}
    row = {
        "case": "a|b",
        "seconds": {"fusec": 1e-3},
        "noise": {"low": 0.98, "high": 1.02},
        "ratios": {"torch eager": ratio},
    }
    document = {
        "machine": {"gpu": "G", "target": "cuda:sm_90", "multiprocessors": 1, "nvrtc": "13.0", "driver": "580"},
        "checks": [{"name": "bad", "problem": "", "required": 1.0, "tolerance": 0.1, "templates": ["points"]}],
        "gemm": [{**row, "tflops": 1.0, "notes": ["x is not timed"]}, {"case": "c", "failed": "no"}],
        "sanitizer": {"memcheck": {"exit_code": 99, "errors": 3, "first": "Invalid read"}},
    }
    text = "\n".join(report.gpu_section(document))
    for words in ("0 of 1 models right", "**bad** is wrong: 1", "0.50x [0.49, 0.51] **slower**", "a/b", "x is not timed",
                  "c: failed: no", "memcheck: 3 errors, the first: Invalid read"):  # fmt: skip
        assert words in text


def test_every_block_tile_is_among_the_checks() -> None:
    names = [x.name for x in shapes.shaped("sm_90")]
    assert len(set(names)) == len(names)
    assert {n.split()[0] for n in names} == {"gemv", "simt", "mma", "wgmma"}
    assert not [x for x in shapes.shaped("sm_80") if x.tiling.template == "wgmma"]


def test_models_are_as_large_as_they_say() -> None:
    """The billion is one, and the graphs have the shapes of PyTorch's functions."""
    assert 1.0e9 < tables.BILLION.parameters < 1.1e9
    made = models.decoder(models.Decoder(2, 32, 4, 7, 50), "bf16")
    assert made.weight_bytes == pytest.approx(2 * (2 * 12 * 32**2 + 32 * 50), rel=0.1)
    assert len({c.name for c in tables.cases()}) == len(list(tables.cases()))
    assert {c.table for c in tables.cases()} == {c.table for c in tables.small_cases()} == set(tables.TABLES)


def test_cublas_gets_row_major_products_turned(monkeypatch: pytest.MonkeyPatch) -> None:
    """C = A B by rows is C' = B' A' by columns; sizes, leading dimensions and types are cuBLAS' own."""
    seen: list[Any] = []

    class Stream:
        def __init__(self, non_blocking: bool = False) -> None: ...
        def __enter__(self) -> Any:
            return self

        def __exit__(self, *_: object) -> None: ...
        def synchronize(self) -> None: ...

    pointers = iter("abc")
    cuda = types.SimpleNamespace(
        Stream=Stream,
        alloc=lambda n: types.SimpleNamespace(ptr=next(pointers)),
        Device=lambda: types.SimpleNamespace(cublas_handle="handle"),
        runtime=types.SimpleNamespace(memcpy=lambda *_: None, memcpyHostToDevice=1),
    )
    library = types.SimpleNamespace(gemmEx=lambda *given: seen.append(given))
    monkeypatch.setitem(sys.modules, "cupy", types.SimpleNamespace(cuda=cuda))  # type: ignore[arg-type]
    monkeypatch.setitem(sys.modules, "cupy_backends.cuda.libs.cublas", library)  # type: ignore[arg-type]
    found = rivals.cublas(2, 3, 4, "bfloat16")
    assert found is not None
    found.run()
    ((handle, ta, tb, m, n, k, _, left, lt, la, right, rt, lb, _, out, ot, lo, compute, _),) = seen
    assert (handle, ta, tb, m, n, k) == ("handle", 0, 0, 3, 2, 4)
    assert (left, la, right, lb, out, lo) == ("b", 3, "a", 4, "c", 3)
    assert (lt, rt, ot, compute) == (14, 14, 14, 68)
