"""The command line with CUDA devices: emulated ones run, real ones are compiled for, absent ones are told with what to do."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import onnx
import pytest

sys.path.insert(0, str(Path(__file__).parents[1]))
from command_line import environment, run_here

from bench.models.architectures import mlp
from fusec.kernels.cuda import machine, nvrtc

EMULATED = "cuda:sm_80-emulated"
needs_compiler = pytest.mark.skipif(machine.compiler() is None, reason="there is no C++ compiler to emulate a GPU with")
needs_nvrtc = pytest.mark.skipif(not nvrtc.is_installed(), reason="NVRTC is not installed")
needs_no_gpu = pytest.mark.skipif(not machine.missing_for("sm_90"), reason="there is a GPU")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cuda")
    onnx.save(mlp([8, 16, 4], batch=1).model(), folder / "mlp.onnx")
    return folder


@needs_compiler
def test_an_emulated_device_does_what_a_processor_does(folder: Path) -> None:
    for arguments in (("run",), ("verify",), ("bench", "--rounds", "5"), ("profile", "--rounds", "3")):
        verb, *more = arguments
        done = run_here(folder, verb, "mlp.onnx", "--device", EMULATED, *more, "--json")
        assert done.returncode == 0, done.stdout + done.stderr
        document = json.loads(done.stdout)
        if verb == "verify":
            assert document["passed"]
        if verb == "bench":
            assert {s["name"] for s in document["systems"]} >= {"fusec", "unfused", "onnxruntime"}
        if verb == "profile":
            assert any(r["seconds"] > 0 for r in document["rows"])


@needs_compiler
def test_an_emulated_plan_is_kept_as_it_is(folder: Path) -> None:
    made = run_here(folder, "compile", "mlp.onnx", "--device", EMULATED, "-o", "emulated.fplan", "-f", "-q")
    assert made.returncode == 0, made.stderr
    done = run_here(folder, "run", "emulated.fplan")
    assert done.returncode == 0, done.stderr
    assert "note:" not in done.stderr
    assert json.loads(run_here(folder, "inspect", "emulated.fplan", "--json").stdout)["target"] == EMULATED


@needs_no_gpu
def test_a_plan_for_a_gpu_runs_on_the_processor_and_says_so(folder: Path) -> None:
    made = run_here(folder, "compile", "mlp.onnx", "--device", "cuda:sm_90", "-o", "gpu.fplan", "-f")
    assert made.returncode == 0, made.stderr
    told = "1 module of 1 kernel for cuda:sm_90" if nvrtc.is_installed() else "pip install nvidia-cuda-nvrtc"
    assert told in made.stderr
    for verb in ("run", "bench"):
        done = run_here(folder, verb, "gpu.fplan", *(("--rounds", "5") if verb == "bench" else ()))
        assert done.returncode == 0, done.stderr
        assert "note: the plan is for cuda:sm_90, which cannot run here (" in done.stderr
        assert "it runs on cpu:" in done.stderr
    quiet = run_here(folder, "run", "gpu.fplan", "-q")
    assert (quiet.returncode, quiet.stderr) == (0, "")
    assert json.loads(run_here(folder, "inspect", "gpu.fplan", "--json").stdout)["target"] == "cuda:sm_90"


def test_without_nvrtc_a_plan_is_made_all_the_same(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if not machine.missing_for("sm_90"):
        pytest.skip("there is a GPU")
    monkeypatch.setattr(nvrtc, "is_installed", lambda: False)
    made = run_here(folder, "compile", "mlp.onnx", "--device", "cuda:sm_90", "-o", "plain.fplan", "-f")
    assert made.returncode == 0, made.stderr
    assert "no machine code for cuda:sm_90 was made, NVRTC or nvJitLink is not installed" in made.stderr


@needs_no_gpu
def test_what_a_gpu_would_run_can_be_looked_at(folder: Path) -> None:
    shown = run_here(folder, "inspect", "mlp.onnx", "--device", "cuda:sm_90", "--schedule", "--source", "0")
    assert shown.returncode == 0, shown.stderr
    assert "FX_DEVICE void fusec_" in shown.stdout
    assert "queues" in shown.stdout
    assert run_here(folder, "explain", "mlp.onnx", "--device", "cuda:sm_80").returncode == 0


@needs_no_gpu
@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("run", "mlp.onnx", "--device", "cuda:sm_90"), 7, "cuda:sm_90 cannot run here (libcuda.so.1 is not on this machine)"),
        (("bench", "mlp.onnx", "--device", "cuda:sm_80"), 7, "`fusec compile --device cuda:sm_80` makes a plan"),
        (("verify", "mlp.onnx", "--device", "cuda"), 2, "no device 'cuda' here"),
        (("run", "mlp.onnx", "--device", "cuda:sm_99"), 2, "did you mean 'sm_90'?"),
        (("run", "mlp.onnx", "--device", "cuda:sm_90a"), 2, "did you mean 'sm_90'?"),
        (("run", "mlp.onnx", "--device", "cuda:"), 2, "not the name of a device"),
        (("compile", "mlp.onnx", "--device", "cuda:90", "-o", "x.fplan"), 2, "unknown level '90'"),
        (("run", "mlp.onnx", "--device", "cude:sm_90"), 2, "did you mean 'cuda'?"),
        (("calibrate", "--device", "cuda:sm_90"), 2, "python -m bench.gpu"),
    ],
    ids=lambda p: " ".join(p) if isinstance(p, tuple) else None,
)  # fmt: skip
def test_mistakes_and_absent_devices(folder: Path, arguments: tuple[str, ...], code: int, words: str) -> None:
    if "libcuda" in words and machine.driver().is_there:
        pytest.skip("there is a driver")
    done = run_here(folder, *arguments)
    assert done.returncode == code, done.stdout + done.stderr
    assert words in done.stderr


def test_nothing_imports_cupy_where_no_gpu_is_used(folder: Path) -> None:
    """Neither the doctor, nor compiling for a GPU, nor an emulated one."""
    commands = [
        ["doctor"],
        ["compile", "mlp.onnx", "--device", "cuda:sm_90", "-o", "c.fplan", "-f"],
        ["run", "mlp.onnx"],
    ]
    if machine.compiler() is not None:
        commands.append(["run", "mlp.onnx", "--device", EMULATED])
    program = (
        "import sys; from fusec.cli.main import main\n"
        f"for arguments in {commands!r}:\n"
        "    try: main(arguments)\n"
        "    except SystemExit as e: assert not e.code, (arguments, e.code)\n"
        "    assert 'cupy' not in sys.modules, arguments"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=folder, env=environment(), capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_the_doctor_has_a_row_for_each_part(folder: Path) -> None:
    rows = {r["what"]: r for r in json.loads(run_here(folder, "doctor", "--json").stdout)}
    for what in ("CUDA driver", "CUDA device", "CuPy", "NVRTC", "C++ compiler", "CUDA"):
        assert rows[what]["state"] in ("ok", "absent", "limited", "emulated")
        assert rows[what]["state"] == "ok" or rows[what]["note"], what
