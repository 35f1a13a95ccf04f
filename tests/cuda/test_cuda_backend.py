"""CUDA among the back ends: how it is found and named, what it says where there is no GPU."""

from __future__ import annotations

import pytest

from fusec.errors import BugError, UsageError
from fusec.kernels import backend
from fusec.kernels.cuda import lint, machine, nvrtc
from fusec.target import Target
from fusec.tile.text import parse_program
from fusec.tiling.choose import menu

ADD = """
program add(N)
task n: N
input x: f32[N]
output y: f32[N]
stage n
  y[n] = x[n] + 1.0
"""


def test_it_is_a_device_back_end() -> None:
    assert "cuda" in backend.known()
    cuda = backend.get("cuda")
    assert backend.device("cuda") is cuda
    assert backend.device("cpu") is None
    assert isinstance(backend.host_memory("cpu"), backend.Backend)
    with pytest.raises(BugError, match="no functions in this process"):
        backend.host_memory("cuda")


def test_levels_are_named_or_found(monkeypatch: pytest.MonkeyPatch) -> None:
    for level in backend.get("cuda").levels:
        assert str(backend.resolve(Target.parse(f"cuda:{level}"))) == f"cuda:{level}"
    with pytest.raises(UsageError, match="sm_91"):
        backend.resolve(Target.parse("cuda:sm_91"))
    monkeypatch.setattr(machine, "missing_for", lambda level: "" if level == "sm_80" else "it is too old")
    assert backend.resolve(Target.parse("cuda")) == Target("cuda", "sm_80")
    monkeypatch.setattr(machine, "missing_for", lambda level: "the driver sees no device")
    with pytest.raises(UsageError) as e:
        backend.resolve(Target.parse("cuda"))
    assert "the driver sees no device" in str(e.value)
    assert "cuda:sm_80-emulated" in str(e.value)
    assert not backend.runs_here(Target("cuda", "sm_90"))


def test_emulated_kernels_are_those_of_the_device() -> None:
    real, emulated = Target("cuda", "sm_80"), Target("cuda", "sm_80-emulated")
    (kernel,), (other,) = (menu(parse_program(ADD), t) for t in (real, emulated))
    assert kernel == other
    cuda = backend.get("cuda")
    assert cuda.class_key(kernel, real) == cuda.class_key(kernel, emulated)
    assert cuda.class_key(kernel, real) != cuda.class_key(kernel, Target("cuda", "sm_90"))
    source = cuda.emit(kernel, real)
    assert source == cuda.emit(kernel, emulated)
    assert source.text.startswith(f"FX_DEVICE void {source.entry}(const fx_task& task)")


@pytest.mark.skipif(
    not nvrtc.is_installed() or lint.disassembler() is None, reason="NVRTC or nvdisasm is not installed"
)
def test_machine_code_can_be_read() -> None:
    target = Target("cuda", "sm_80")
    (kernel,) = menu(parse_program(ADD), target)
    cuda = backend.get("cuda")
    assert "FADD" in cuda.assembly(cuda.emit(kernel, target), target)
