"""A module: the headers, the bodies of the kernel classes of a region, and the task loop as translation units."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from fusec.kernels.cuda.abi import ENTRY
from fusec.kernels.kernel import Source

DEVICE = Path(__file__).parent / "device"
PRELUDE = ("types.cuh", "sync.cuh", "memory.cuh", "tasks.cuh")
"""Headers that every module starts with; bodies ask for others by `Source.includes`."""

WGMMA = "wgmma"
"""What bodies contain that have products under way."""


@dataclass(frozen=True, slots=True)
class ModuleText:
    """What compilers get: translation units, the last of them with the kernel, which may stand together in one; its name; and
    whether indices have 64 bits."""

    units: tuple[str, ...]
    entry: str
    wide: bool

    @property
    def text(self) -> str:
        """All in one."""
        return "".join(self.units)


def module_text(bodies: Sequence[Source], *, wide: bool = False, includes: Sequence[str] | None = None) -> ModuleText:
    """The translation units of tile bodies and the task loop; body i is what rows call kernel i.

    A body is a function that the kernel calls, once a tile, in a unit of its own: of one function of everything ptxas makes
    code that spills, in two to four times the time, and where it sees wgmma together with calls, it lets every product wait
    for the one before (its warnings C7509 and C7510). A single body is part of the kernel, and those that keep something are
    in the kernel's unit, since the task loop calls more of them.
    `includes` are the headers that the bodies need beside the prelude, all of them where it is not given.
    """
    needed = [n for n in headers() if n not in PRELUDE] if includes is None else list(includes)
    head = "#define FX_WIDE 1\n" if wide else ""
    head += "".join(f'#include "{name}"\n' for name in (*PRELUDE, *needed))
    unique = {body.entry: body for body in bodies}.values()
    if len(unique) == 1:
        inside = "".join(body.text for body in unique)
        calls = [f"{body.entry}(task);" for body in bodies]
        return ModuleText((f"{head}{inside}{_kernel(bodies, calls)}",), ENTRY, wide)
    apart = [f"{_limits(body)}{head}{_function(body)}" for body in unique if not body.kept]
    inside = "".join(_function(body) if body.kept else f"{_heading(body)};\n" for body in unique)
    calls = [f"body = {_called(body)};" for body in bodies]
    return ModuleText((*apart, f"{head}{inside}{_kernel(bodies, calls)}"), ENTRY, wide)


def _kernel(bodies: Sequence[Source], calls: Sequence[str]) -> str:
    lines = [
        f"FX_KERNEL({ENTRY})(fx_frame* frame) {{",
        "    fx_walk(frame, [](int kernel, const fx_task& task) {",
        "        fx_body body = nullptr;",
        "        switch (kernel) {",
        *(f"            case {i}: {call} break;" for i, call in enumerate(calls)),
        "        }",
        "        if (body) fx_call(body, task);",
        "    }, [](int kernel) {",
        "        switch (kernel) {",
        *(f"            case {i}: return {_written(body)};" for i, body in enumerate(bodies)),
        "        }",
        "        return 0;",
        "    }, [](int kernel, const fx_task& task, fx_kept& kept) {",
        *(f"        if (kernel == {i}) {body.entry}_keep(task, kept);" for i, body in enumerate(bodies) if body.kept),
        "    });",
        "}",
    ]
    return "\n".join(lines) + "\n"


def _function(body: Source) -> str:
    """A body as a function that is called. Its task comes by value, since a reference would lead to the stack."""
    return f"{body.text}{_heading(body)} {{ {body.entry}(fx_with_shared(task)); }}\n"


def _limits(body: Source) -> str:
    """Where a function must not call subroutines: quotients and roots are computed in line (math.cuh)."""
    return "#define FX_NO_CALLS 1\n" if WGMMA in body.text else ""


def _heading(body: Source) -> str:
    return f"FX_BODY({_called(body)})(const fx_task task)"


def _called(body: Source) -> str:
    return f"{body.entry}_called"


def _written(body: Source) -> str:
    """How many bytes of shared memory from its start on a body may write."""
    return str(body.shared - body.kept) if isinstance(body.shared, int) else "1 << 30"


@cache
def headers() -> dict[str, str]:
    """The device headers by name."""
    return {p.name: p.read_text("utf-8") for p in sorted(DEVICE.glob("*.cuh"))}


@cache
def headers_hash() -> str:
    """SHA-256 of all headers: part of every key."""
    digest = hashlib.sha256()
    for name, text in headers().items():
        digest.update(f"{name} {len(text)}\n{text}".encode())
    return digest.hexdigest()
