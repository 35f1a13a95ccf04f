"""Targets: where a plan runs, printed and parsed as `cpu:avx512`, and what the code generator may use there."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

from fusec.errors import UsageError, nearest


@dataclass(frozen=True, slots=True)
class Isa:
    """What a level of CPU instructions has. `name` is the family that kernels are written for, which levels may share, `lanes`
    the number of its float32 lanes, `vnni` whether one instruction multiplies pairs of 16 bits and adds them to a sum."""

    name: str
    lanes: int
    registers: int
    fma: bool
    cpu: str
    features: str
    vnni: bool = False


_FAMILIES = {
    i.name: i
    for i in (
        Isa("generic", 4, 16, False, "x86-64", ""),
        Isa("avx2", 8, 16, True, "haswell", "+avx2,+fma,+f16c"),
        Isa("avx512", 16, 32, True, "skylake-avx512", "+avx512f,+avx512bw,+avx512dq,+avx512vl,-prefer-256-bit"),
        Isa("neon", 4, 32, True, "generic", "+neon"),
    )
}
ISAS = _FAMILIES | {
    f"{name}vnni": replace(_FAMILIES[name], features=f"{_FAMILIES[name].features},+{feature}", vnni=True)
    for name, feature in (("avx2", "avxvnni"), ("avx512", "avx512vnni"))
}
"""Known levels. `generic` is what every x86-64 has (SSE2); on aarch64 it is NEON."""


@dataclass(frozen=True, slots=True)
class Target:
    """A device kind and its instruction level: `cpu:generic`, `cpu:avx2`, `cpu:avx512vnni`, `mychip:v2`.

    Only the levels of the CPU are known here. Other kinds belong to back ends, which are found above this layer
    (kernels/backend.py): `resolve` there says whether there is such a device, and fills in a level that is left out.
    """

    kind: str
    level: str

    @staticmethod
    def parse(text: str) -> Target:
        """Read what `str` wrote; `cpu` alone is the host's best level. UsageError where it cannot be a device's name."""
        kind, _, level = text.partition(":")
        if kind == "cpu":
            if not level:
                return host()
            if level in ISAS:
                return Target("cpu", level)
            raise UsageError(f"unknown CPU level {level!r}", hint=nearest(level, sorted(ISAS)))
        if re.fullmatch(r"[a-z][a-z0-9_-]*(:[\w.+-]+)?", text, re.ASCII) is None:
            raise UsageError(f"not the name of a device: {text!r}", hint="write 'cpu', 'cpu:avx2' or 'cuda'")
        return Target(kind, level)

    @property
    def isa(self) -> Isa:
        """The CPU instruction level. KeyError for other devices."""
        return ISAS[self.level]

    def __str__(self) -> str:
        return f"{self.kind}:{self.level}" if self.level else self.kind


def host() -> Target:
    """The best level that this machine's CPU and operating system can run."""
    for name in ("avx512vnni", "avx512", "avx2vnni", "avx2"):
        if runs_here(name):
            return Target("cpu", name)
    import platform

    return Target("cpu", "neon" if platform.machine() in ("aarch64", "arm64") else "generic")


def runs_here(level: str) -> bool:
    """Whether this machine can execute code for a CPU instruction level; nothing runs what it does not know."""
    import platform

    arm = platform.machine() in ("aarch64", "arm64")
    if level in ("generic", "neon"):
        return (level == "neon") == arm
    flags = _cpu_flags()
    avx2, avx512 = {"avx2", "fma", "f16c"}, {"avx512f", "avx512bw", "avx512dq", "avx512vl", "fma"}
    needs = {
        "avx2": avx2,
        "avx2vnni": avx2 | {"avx_vnni"},
        "avx512": avx512,
        "avx512vnni": avx512 | {"avx512_vnni"},
    }
    return not arm and level in needs and needs[level] <= flags


def _cpu_flags() -> frozenset[str]:
    try:
        with open("/proc/cpuinfo", encoding="ascii", errors="replace") as f:
            for line in f:
                if line.startswith("flags"):
                    return frozenset(line.partition(":")[2].split())
    except OSError:
        pass
    return frozenset()
