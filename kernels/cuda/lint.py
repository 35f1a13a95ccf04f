"""What the compiler's log and the machine code say about a module: registers, spills, serialised wgmma, instructions.

There need be no GPU: a tile shape that spills or whose products do not become matrix instructions is seen before it runs.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from fusec.errors import CompileError
from fusec.kernels.cuda.nvrtc import Cubin

HINT = "pip install nvidia-cuda-nvdisasm"


@dataclass(frozen=True, slots=True)
class Usage:
    """What a function takes: registers of a thread, bytes of stack, of spills stored and loaded, of static shared memory."""

    registers: int
    stack: int
    spill_stores: int
    spill_loads: int
    shared: int


SHARED_ALIGNMENT = 1024
"""Of dynamic shared memory, which follows the static part: where the pattern of a 128-byte swizzle begins."""
_FUNCTION = r"Function properties for '?([\w$.]+)"
SAVED_BYTES = 32
"""Of stack that a function may have, to save registers for the task loop (FX_ABI in device/types.cuh): 7 at each call."""


def usage(log: str) -> dict[str, Usage]:
    """Kernel -> its resources, from what ptxas or the linker wrote; what it calls is counted in, but for spills."""
    out, name, own = dict[str, Usage](), "", frames(log)
    for line in log.splitlines():
        if m := re.search(_FUNCTION, line):
            name = m[1]
        elif m := re.search(r"\b[Uu]sed (\d+) registers", line):
            stack, stores, loads = own.get(name, (0, 0, 0))
            shared, called = (re.search(rf"(\d+)(?: bytes)? {what}\b", line) for what in ("smem", "stack"))
            out[name] = Usage(
                int(m[1]), int(called[1]) if called else stack, stores, loads, int(shared[1]) if shared else 0
            )
    return out


def frames(log: str) -> dict[str, tuple[int, int, int]]:
    """Function, kernels among them -> bytes of its own stack, of spills stored and of spills loaded."""
    out, name = dict[str, tuple[int, int, int]](), ""
    for line in log.splitlines():
        if m := re.search(_FUNCTION, line):
            name = m[1]
        elif found := _frame(line):
            out[name] = found
    return out


def _frame(line: str) -> tuple[int, int, int] | None:
    m = re.search(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads", line)
    return (int(m[1]), int(m[2]), int(m[3])) if m else None


def complaints(log: str) -> tuple[str, ...]:
    """Warnings of the compiler, serialised wgmma among them (C7508, C7510, C7512)."""
    found = (line.strip() for line in log.splitlines() if re.search(r"\bwarning\b|\(C7\d{3}\)", line, re.IGNORECASE))
    return tuple(dict.fromkeys(found))


def problems(cubin: Cubin) -> tuple[str, ...]:
    """What should not be in code that we ship: spills, stack frames, warnings, shared memory out of line. Empty otherwise."""
    out, saves = list(complaints(cubin.log)), saved(cubin.log)
    for name, (stack, stores, loads) in frames(cubin.log).items():
        if name in saves:
            continue
        if stores != loads or stores > SAVED_BYTES:
            out.append(f"{name} spills {stores} bytes of registers and loads {loads}")
        elif stack:
            out.append(f"{name} keeps {stack} bytes on the stack, {stores} of them saved registers")
    for name, used in usage(cubin.log).items():
        if used.shared % SHARED_ALIGNMENT:
            out.append(
                f"dynamic shared memory of {name} begins at byte {used.shared}, no multiple of {SHARED_ALIGNMENT}"
            )
    return tuple(out)


def saved(log: str) -> dict[str, int]:
    """Function that is called -> bytes of registers that it saves for its caller, and does nothing else with the stack."""
    kernels = usage(log)
    return {
        name: stores
        for name, (stack, stores, loads) in frames(log).items()
        if name not in kernels and 0 < stores == loads <= stack <= SAVED_BYTES
    }


@cache
def disassembler() -> str | None:
    """The program that reads machine code: from the wheel, or on PATH."""
    for root in sys.path:
        found = Path(root) / "nvidia" / "cu13" / "bin" / "nvdisasm"
        if os.access(found, os.X_OK):
            return str(found)
    return shutil.which("nvdisasm")


def sass(cubin: Cubin) -> str:
    """The machine code as text. CompileError where the disassembler is missing or refuses it."""
    tool = disassembler()
    if tool is None:
        raise CompileError("reading machine code needs nvdisasm", hint=HINT)
    with tempfile.NamedTemporaryFile(suffix=".cubin") as f:
        f.write(cubin.code)
        f.flush()
        done = subprocess.run([tool, "-c", f.name], capture_output=True, text=True, check=False, errors="replace")
    if done.returncode != 0:
        raise CompileError(f"nvdisasm refuses a cubin: {done.stderr.strip()[:300]}")
    return done.stdout


def instructions(text: str) -> Counter[str]:
    """How often each instruction stands in machine code, by its full name, as `HMMA.16816.F32.BF16`."""
    return Counter(
        m[1] for m in re.finditer(r"^\s*/\*[0-9a-f]+\*/\s+(?:@!?U?P\w+\s+)?([A-Z][\w.]*)", text, re.MULTILINE)
    )


def count(text: str, name: str) -> int:
    """How many instructions begin with a name: `LDL` counts LDL.64 too, but no LDLM."""
    return sum(n for full, n in instructions(text).items() if full == name or full.startswith(f"{name}."))
