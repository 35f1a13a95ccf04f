"""The command line: every verb on a real model, every exit code, a mistake in every flag."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import onnx
import pytest

sys.path.insert(0, str(Path(__file__).parents[1]))
from command_line import environment, run_here, run_process

from bench.models.architectures import mlp


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cli")
    onnx.save(mlp([8, 16, 4], batch=2, dynamic=True).model(), folder / "mlp.onnx")
    (folder / "broken.onnx").write_bytes(b"\x08\x07\x12garbage")
    os.mkfifo(folder / "pipe")
    (folder / "empty.onnx").write_bytes(b"")
    np.save(folder / "x.npy", np.ones((3, 8), np.float32))
    np.save(folder / "wrong.npy", np.ones((3, 9), np.float32))
    np.save(folder / "double.npy", np.ones((3, 8)))
    return folder


def test_help_names_every_verb(folder: Path) -> None:
    result = run_process(folder, "--help")
    assert result.returncode == 0
    assert all(
        v in result.stdout for v in ("compile", "run", "bench", "inspect", "explain", "verify", "cache", "doctor")
    )


def test_the_journey(folder: Path, tmp_path: Path) -> None:
    """Compile, run, inspect, explain, verify, bench: what a newcomer types first."""
    plan = tmp_path / "mlp.fplan"
    made = run_process(folder, "compile", "mlp.onnx", "-o", str(plan))
    assert made.returncode == 0, made.stderr
    assert "wrote" in made.stdout
    assert made.stderr.strip().splitlines()[-1].startswith("PASSED")
    ran = run_process(folder, "run", str(plan), "-i", "x=@x.npy", "-o", str(tmp_path / "out"), "--json")
    assert ran.returncode == 0, ran.stderr
    document = json.loads(ran.stdout)
    (file,) = document["files"].values()
    assert np.load(file).shape == (3, 4)
    for verb in ("inspect", "explain", "verify"):
        result = run_process(folder, verb, "mlp.onnx")
        assert result.returncode == 0, result.stderr
        assert result.stdout.strip()
    for part in ("--kernels", "--nodes", "--weights"):
        assert run_here(folder, "inspect", "mlp.onnx", part).stdout.strip()
    bench = run_process(folder, "bench", "mlp.onnx", "--rounds", "5", "--json", "-t", "1")
    assert bench.returncode == 0, bench.stderr
    assert {s["name"] for s in json.loads(bench.stdout)["systems"]} >= {"fusec", "fusec again", "unfused"}


def test_inspect_shows_code_and_schedules(folder: Path, tmp_path: Path) -> None:
    program = json.loads(run_here(folder, "inspect", "mlp.onnx", "--json").stdout)["kernels"][0]["program"]
    listing = run_here(folder, "inspect", "mlp.onnx", "--asm", program)
    assert listing.returncode == 0, listing.stderr
    assert ".globl" in listing.stdout
    assert "define " in run_here(folder, "inspect", "mlp.onnx", "--source", program).stdout
    plan = str(tmp_path / "mlp.fplan")
    assert run_here(folder, "compile", "mlp.onnx", "-o", plan).returncode == 0
    for file in ("mlp.onnx", plan):  # a model is compiled for the size, a plan's schedule is made for it
        shown = run_here(folder, "inspect", file, "--schedule", "--dim", "batch=64", "-t", "2")
        assert shown.returncode == 0, shown.stderr
        assert "on 2 workers" in shown.stdout
        made = json.loads(run_here(folder, "inspect", file, "--schedule", "--dim", "batch=64", "--json").stdout)
        assert made["schedules"][0]["tasks"] > 0
    assert "batch=64" in shown.stdout
    assert "no symbolic dimension 'bach'" in run_here(folder, "inspect", plan, "--schedule", "--dim", "bach=2").stderr


def test_passes_are_listed_as_they_run(folder: Path) -> None:
    listed = json.loads(run_here(folder, "passes", "--json").stdout)
    names = [p["name"] for p in listed]
    assert len(set(names)) == len(names)
    assert names.index("fold-constants") < names.index("fuse-pointwise") < names.index("merge-matmuls")
    assert {p["name"]: p["default"] for p in listed}.items() >= {"fuse-rows": True, "merge-matmuls": False}.items()
    assert all(p["text"] for p in listed)
    assert run_here(folder, "explain", "mlp.onnx", "-P", ",".join(f"-{n}" for n in names)).returncode == 0
    assert len(run_here(folder, "passes").stdout.splitlines()) == len(names) + 3


@pytest.mark.parametrize("arguments", [
    ("inspect", "mlp.onnx"), ("explain", "mlp.onnx"), ("verify", "mlp.onnx"), ("run", "mlp.onnx"), ("cache",), ("doctor",),
])  # fmt: skip
def test_json_is_one_document(folder: Path, arguments: tuple[str, ...]) -> None:
    result = run_here(folder, *arguments, "--json")
    assert result.returncode == 0, result.stderr
    json.loads(result.stdout)


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("frobnicate",), 2, "unknown command"),
        (("run",), 2, "MODEL"),
        (("run", "mlp.onnx", "--nonsense"), 2, "nonsense"),
        (("run", "mlp.onnx", "--dim", "batch"), 2, "NAME=NUMBER"),
        (("run", "mlp.onnx", "--dim", "bach=2"), 2, "batch"),
        (("run", "mlp.onnx", "--shape", "x"), 2, "NAME"),
        (("run", "mlp.onnx", "--shape", "y:1x8"), 2, "'x'"),
        (("run", "mlp.onnx", "--device", "tpu"), 2, "unknown device"),
        (("run", "mlp.onnx", "--device", "cpu:avx9"), 2, "unknown CPU level"),
        (("run", "mlp.onnx", "-t", "0"), 2, "threads"),
        (("run", "mlp.onnx", "-P", "fuse-chain"), 2, "sign"),
        (("run", "mlp.onnx", "-P", "-fuse-chian"), 2, "fuse-chain"),
        (("run", "mlp.onnx", "--max-memory", "lots"), 2, "not a size"),
        (("run", "mlp.onnx", "-i", "x"), 2, "NAME"),
        (("run", "mlp.onnx", "-i", "z=@x.npy"), 5, "unknown input 'z'"),
        (("run", "mlp.onnx", "-i", "x=@none.npy"), 5, "no such file"),
        (("run", "mlp.onnx", "-i", "x=@mlp.onnx"), 5, "is no .npy file"),
        (("run", "mlp.onnx", "-i", "x=@."), 5, "cannot read"),
        (("run", "mlp.onnx", "-i", "x=@wrong.npy"), 5, "x"),
        (("run", "mlp.onnx", "-i", "x=@double.npy"), 5, "float32"),
        (("run", "none.onnx"), 3, "no such file"),
        (("run", "empty.onnx"), 3, "empty"),
        (("run", "broken.onnx"), 3, ""),
        (("run", "."), 3, ""),
        (("run", "none.fplan"), 8, "no such file"),
        (("inspect", "mlp.onnx", "--program", "p99"), 2, "no program"),
        (("bench", "mlp.onnx", "--vs", "tensorflow"), 2, "unknown rival"),
        (("bench", "mlp.onnx", "--rounds", "1"), 2, "rounds"),
        (("compile", "mlp.onnx", "-o", "nowhere/mlp.fplan"), 2, "folder"),
        (("compile", "mlp.onnx", "-o", "x.npy"), 2, "exists"),
        (("compile", "mlp.onnx", "-o", "."), 2, "directory"),
        (("compile", "mlp.onnx", "-o", ".", "-f"), 2, "directory"),
        (("compile", "mlp.onnx", "-o", "pipe", "-f"), 2, "regular file"),
        (("run", "mlp.onnx", "-o", "x.npy/out"), 2, "folder"),
        (("explain", "mlp.onnx", "--rule", "fuse-chian"), 2, "fuse-chain"),
        (("explain", "mlp.onnx", "--edge", "nowhere"), 2, "no edge"),
        (("explain", "mlp.onnx", "--closed", "--refused"), 2, "nothing to show"),
        (("verify", "mlp.onnx", "--tolerance", "0"), 1, "differ"),
        (("verify", "mlp.onnx", "--tolerance", "-1"), 2, "tolerance"),
        (("profile", "mlp.onnx", "--trace", "x.npy"), 2, "choose another name"),
        (("verify", "mlp.onnx", "--against", "nobody"), 2, "nobody"),
        (("cache", "eat"), 2, "eat"),
    ],
    ids=lambda p: " ".join(p) if isinstance(p, tuple) else None,
)
def test_mistakes(folder: Path, arguments: tuple[str, ...], code: int, words: str) -> None:
    before = {p: p.stat().st_mtime_ns for p in folder.iterdir()}
    result = run_here(folder, *arguments)
    assert result.returncode == code, result.stdout + result.stderr
    assert words.lower() in result.stderr.lower()
    assert "Traceback" not in result.stderr
    assert {p: p.stat().st_mtime_ns for p in folder.iterdir()} == before


@pytest.mark.parametrize("name", ["NUM_THREADS", "CACHE", "CACHE_MAX", "DEBUG", "MAX_MEMORY", "DEVICE"])
def test_bad_environment_variables_are_named(folder: Path, name: str) -> None:
    result = run_here(folder, "run", "mlp.onnx", **{f"FUSEC_{name}": "no such value"})
    assert result.returncode == 2, result.stderr
    assert f"FUSEC_{name}" in result.stderr


def test_an_interrupt_stops_with_130(folder: Path) -> None:
    command = [sys.executable, "-m", "fusec", "bench", "mlp.onnx", "--rounds", "100000", "-t", "1"]
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a background job's children ignore the signal
    try:
        process = subprocess.Popen(
            command, cwd=folder, env=environment(), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
        )
    finally:
        signal.signal(signal.SIGINT, before)
    assert process.stderr is not None
    assert b"sizes that nobody gave" in process.stderr.readline()  # imports are over and the work begins
    time.sleep(0.5)
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=60) == 130


def test_import_is_light() -> None:
    heavy = ["onnx", "llvmlite", "numba", "click", "rich", "msgspec", "onnxruntime"]
    program = f"import sys, fusec; print([m for m in {heavy} if m in sys.modules])"
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


def test_the_debug_ladder(folder: Path) -> None:
    """Every rung says what the README promises, and what the lower ones say."""
    marks = ["optimise", "tiles of", "queues", "define", "graph mlp(", ".text"]
    for rung in range(1, 7):
        said = run_here(folder, "run", "mlp.onnx", FUSEC_DEBUG=str(rung)).stderr
        assert [m in said for m in marks] == [i < rung for i in range(6)], rung


def test_a_closed_pipe_is_no_error(folder: Path) -> None:
    command = f"{sys.executable} -m fusec explain mlp.onnx --all | true; exit ${{PIPESTATUS[0]}}"
    result = subprocess.run(
        ["bash", "-c", command], cwd=folder, env=environment(), capture_output=True, text=True, check=False
    )
    assert (result.returncode, "Traceback" in result.stderr) == (0, False), result.stderr


def test_a_bad_cache_folder_is_one_warning(folder: Path) -> None:
    result = run_process(folder, "run", "mlp.onnx", "-q", FUSEC_CACHE_DIR=str(folder / "x.npy"))
    assert result.returncode == 0
    assert result.stderr.startswith("warning: the cache ")
    assert ".py" not in result.stderr.replace("x.npy", "")


def test_dump_writes_a_file_per_stage(folder: Path, tmp_path: Path) -> None:
    result = run_here(folder, "run", "mlp.onnx", FUSEC_DUMP=str(tmp_path / "dump"))
    assert result.returncode == 0, result.stderr
    assert {p.suffix for p in (tmp_path / "dump").iterdir()} == {".graph", ".fused", ".tile", ".ll", ".txt"}
