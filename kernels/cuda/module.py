"""A module: the headers, the bodies of the kernel classes of a region, and the task loop as one translation unit."""

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
"""What bodies contain that must be part of the kernel: a call around it would let every product wait for the one before (the
warning C7510)."""


@dataclass(frozen=True, slots=True)
class ModuleText:
    """What a compiler gets: the text, the kernel in it, and whether indices have 64 bits."""

    text: str
    entry: str
    wide: bool


def module_text(bodies: Sequence[Source], *, wide: bool = False, includes: Sequence[str] | None = None) -> ModuleText:
    """One translation unit of tile bodies; body i is what rows call kernel i.

    Bodies are functions that the kernel calls, once a tile, so that ptxas takes as long as for each alone: of one function of
    everything it makes code that spills, in two to four times the time. Some are part of the kernel instead, a single one among
    them; beside wgmma the compiler must be told who is called.
    `includes` are the headers that the bodies need beside the prelude, all of them where it is not given.
    """
    needed = [n for n in headers() if n not in PRELUDE] if includes is None else list(includes)
    lines = ["#define FX_WIDE 1"] if wide else []
    unique = {body.entry: body for body in bodies}
    lines += [f'#include "{name}"' for name in (*PRELUDE, *needed)]
    parts = {b.entry for b in unique.values() if len(unique) == 1 or WGMMA in b.text}
    lines += [b.text if b.entry in parts else _function(b) for b in unique.values()]
    call = "{0}(task);" if any(WGMMA in b.text for b in bodies) else "body = {0};"
    calls = [f"{b.entry}(task);" if b.entry in parts else call.format(_called(b)) for b in bodies]
    lines += [
        f"FX_KERNEL({ENTRY})(fx_frame* frame) {{",
        "    fx_walk(frame, [](int kernel, const fx_task& task) {",
        "        fx_body body = nullptr;",
        "        switch (kernel) {",
        *(f"            case {i}: {calls[i]} break;" for i in range(len(bodies))),
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
    return ModuleText("\n".join(lines) + "\n", ENTRY, wide)


def _function(body: Source) -> str:
    """A body as a function that is called. Its task comes by value, since a reference would lead to the stack."""
    head = f"FX_NOINLINE void {_called(body)}(const fx_task task)"
    return f"{body.text}{head} {{ {body.entry}(fx_with_shared(task)); }}\n"


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
