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


INLINE = 2
"""Up to this many bodies become part of the kernel. Of more, the small ones are functions that it calls, once a tile: the time
that ptxas takes grows faster than the code."""
LARGE = ("fx_product_", "fx_stream", "wgmma")
"""What bodies contain that are part of the kernel always. Functions keep registers for their callers: products as functions
spilled 1 KB a thread and none as part of the kernel (18 bodies took 15 s of ptxas all as functions, 21 s so, 26 s all in one).
A function with wgmma lets every product wait for the one before (the warning C7510)."""


@dataclass(frozen=True, slots=True)
class ModuleText:
    """What a compiler gets: the text, the kernel in it, and whether indices have 64 bits."""

    text: str
    entry: str
    wide: bool


def module_text(bodies: Sequence[Source], *, wide: bool = False, includes: Sequence[str] | None = None) -> ModuleText:
    """One translation unit of tile bodies; body i is what rows call kernel i.

    `includes` are the headers that the bodies need beside the prelude, all of them where it is not given.
    """
    needed = [n for n in headers() if n not in PRELUDE] if includes is None else list(includes)
    lines = ["#define FX_WIDE 1"] if wide else []
    unique = {body.entry: body for body in bodies}
    lines += [f'#include "{name}"' for name in (*PRELUDE, *needed)]
    for name, body in unique.items():
        own = f"FX_DEVICE void {name}("
        is_part = len(unique) <= INLINE or any(word in body.text for word in LARGE)
        lines.append(body.text if is_part else body.text.replace(own, own.replace("FX_DEVICE", "FX_NOINLINE"), 1))
    lines += [
        f"FX_KERNEL({ENTRY})(fx_frame* frame) {{",
        "    fx_walk(frame, [](int kernel, const fx_task& task) {",
        "        switch (kernel) {",
        *(f"            case {i}: {body.entry}(task); return {_written(body)};" for i, body in enumerate(bodies)),
        "        }",
        "        return 0;",
        "    }, [](int kernel, const fx_task& task, fx_kept& kept) {",
        *(f"        if (kernel == {i}) {body.entry}_keep(task, kept);" for i, body in enumerate(bodies) if body.kept),
        "    });",
        "}",
    ]
    return ModuleText("\n".join(lines) + "\n", ENTRY, wide)


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
