"""What `fusec doctor` says about CUDA: what is missing, what for, and what to do about it. CuPy is never imported."""

from __future__ import annotations

from fusec.kernels.cuda import linker, machine, nvrtc
from fusec.kernels.cuda.levels import LEVELS

Row = tuple[str, str, str, str]
NEEDED = {
    "cupy-cuda13x": ((13, 0), "580"),
    "cupy-cuda12x": ((12, 0), "525"),
}
"""CuPy's package -> the CUDA version that it was built for, and NVIDIA's first driver for it."""


def cuda_rows() -> list[Row]:
    """A row each for driver, devices, CuPy, NVRTC and the C++ compiler, and one that says what runs."""
    found = machine.driver()
    rows = [_driver(found), *_devices(found), _cupy(found), _nvrtc(), _compiler()]
    ready = [f"cuda:{n}" for n in LEVELS if not machine.missing_for(n)]
    emulated = [f"cuda:{n}-emulated" for n in LEVELS if machine.compiler() is not None]
    if ready:
        return [*rows, ("CUDA", "ok", ", ".join(ready), "")]
    if emulated:
        return [*rows, ("CUDA", "emulated", ", ".join(emulated), "on the processor, for tests: right answers, slowly")]
    return [*rows, ("CUDA", "absent", "-", "neither a device nor a C++ compiler: `--device cuda` cannot run here")]


def _driver(found: machine.Driver) -> Row:
    if not found.is_there:
        note = f"{found.problem}: install NVIDIA's driver, where there is an NVIDIA GPU"
        return "CUDA driver", "absent", "-", note
    version = f"{found.version or 'version unknown'}, up to CUDA {found.cuda[0]}.{found.cuda[1]}"
    return "CUDA driver", "ok", version, ""


def _devices(found: machine.Driver) -> list[Row]:
    if not found.gpus:
        why = "no driver" if not found.is_there else found.problem
        hint = "" if not found.is_there else "; `nvidia-smi` and CUDA_VISIBLE_DEVICES tell more"
        return [("CUDA device", "absent", "-", f"{why}{hint}")]
    rows: list[Row] = []
    for g in found.gpus:
        levels = [n for n in LEVELS if g.runs(n)][:1]
        value = f"{g.name}, {g.capability[0]}.{g.capability[1]}, {g.processors} SMs, {g.memory / 2**30:.0f} GiB"
        if levels and g.cooperative:
            rows.append(("CUDA device", "ok", value, f"runs cuda:{', cuda:'.join(levels)}"))
        else:
            why = "no cooperative launches" if levels else "no code is made for this compute capability"
            rows.append(("CUDA device", "limited", value, f"{why}: needs 8.x, 9.0, 10.x or 12.x"))
    return rows


def _cupy(found: machine.Driver) -> Row:
    installed = machine.cupy_packages()
    wanted = "cupy-cuda12x" if found.is_there and found.cuda < (13, 0) else "cupy-cuda13x"
    if not installed:
        if machine.has_cupy():
            return "CuPy", "ok", "from source", ""
        return "CuPy", "absent", "-", f"what launches kernels on a GPU: pip install {wanted}"
    value = ", ".join(f"{n} {v}" for n, v in installed)
    if len(installed) > 1:
        names = " ".join(n for n, _ in installed)
        return "CuPy", "limited", value, f"they overwrite each other: pip uninstall {names}, then pip install {wanted}"
    needs = NEEDED.get(installed[0][0])
    if found.is_there and needs is not None and found.cuda < needs[0]:
        told = f"the driver runs CUDA {found.cuda[0]}.{found.cuda[1]} at most"
        return "CuPy", "limited", value, f"{told}: pip install {wanted}, or a driver from {needs[1]} on"
    return "CuPy", "ok", value, "" if found.gpus else "not used: there is no device"


def _nvrtc() -> Row:
    if not nvrtc.is_installed():
        missing = "nvidia-nvjitlink" if not linker.is_installed() else "nvidia-cuda-nvrtc"
        return "NVRTC", "absent", "-", f"what compiles kernels for a GPU: pip install {missing}"
    (major, minor), linked = nvrtc.version(), linker.version()
    value = f"{major}.{minor}, nvJitLink {linked[0]}.{linked[1]}"
    if linked < (major, minor):
        return "NVRTC", "limited", value, "the linker is older than the compiler: pip install -U nvidia-nvjitlink"
    return "NVRTC", "ok", value, "compiles for every level, also without a device"


def _compiler() -> Row:
    path = machine.compiler()
    if path is None:
        return (
            "C++ compiler",
            "absent",
            "-",
            "what `--device cuda:sm_80-emulated` needs: apt-get install g++, or set CXX",
        )
    return "C++ compiler", "ok", path, "`--device cuda:sm_80-emulated` runs kernels on the processor, for tests"
