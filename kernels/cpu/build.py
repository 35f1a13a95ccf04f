"""Building: kernels become Binaries, from the cache where it has them, by build workers where there are many to make.

llvmlite compiles under one lock per process, so threads gain nothing and processes do: two workers are 1.9 times as
fast. A worker also keeps a crash or a hang inside LLVM away from the caller.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from functools import cache as once
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fusec.cache import ObjectCache
from fusec.errors import CompileError
from fusec.ir.dim import parse_dim
from fusec.kernels.cpu.kernel_class import class_key
from fusec.kernels.cpu.llvm import compile_text, fingerprint
from fusec.kernels.kernel import Binary, Kernel, Slot, Source

if TYPE_CHECKING:
    from fusec.target import Target

FEW = 8
"""Up to this many builds are made in process: workers take about 0.2 s to start."""


def build(source: Source, target: Target, *, name: str = "", dump: Path | None = None) -> Binary:
    """Compile one source in this process. CompileError names the kernel `name`; its text goes to the folder `dump`."""
    try:
        code = compile_text(source.text, target.level)
    except CompileError as e:
        raise refusal(name, source, str(e), dump) from e
    return binary(source, code)


def build_all(
    kernels: Sequence[Kernel],
    target: Target,
    cache: ObjectCache | None = None,
    *,
    workers: int = 2,
    timeout: float = 120.0,
    dump: Path | None = None,
) -> dict[str, Binary]:
    """A binary for each class among the kernels, by `class_key`.

    Classes found in the cache are neither emitted nor compiled. `workers` 0 builds everything in process; `timeout` is
    the limit in seconds for one kernel in a worker.
    """
    classes: dict[str, Kernel] = {}
    for kernel in kernels:
        classes.setdefault(class_key(kernel, target), kernel)
    found: dict[str, Binary] = {}
    missing: dict[str, Source] = {}
    for key, kernel in classes.items():
        kept = recall(cache, key, target)
        if kept is not None:
            found[key] = kept
        else:
            from fusec.kernels.cpu.emit import emit  # a session that finds all its code in the cache needs no emitter

            missing[key] = emit(kernel, target)
    made: dict[str, Binary] = {}
    if len(missing) > FEW and workers > 0:
        from fusec.kernels.cpu.build_team import build_in_processes

        names = {key: classes[key].program.name for key in missing}
        made = build_in_processes(missing, names, target, workers, timeout=timeout, dump=dump)
    for key, source in missing.items():
        if key not in made:
            made[key] = build(source, target, name=classes[key].program.name, dump=dump)
        remember(cache, key, target, made[key])
    return {key: found.get(key) or made[key] for key in classes}


def binary(source: Source, code: bytes) -> Binary:
    """Machine code with what calling it needs."""
    return Binary(code, hashlib.sha256(code).hexdigest(), source.entry, source.slots, source.scratch)


def refusal(name: str, source: Source, why: str, dump: Path | None) -> CompileError:
    """The error for a source that cannot be built; with `dump` its text is written there, to be looked at."""
    hint = "this is a bug in fusec's code generator; set FUSEC_DUMP=<folder> to keep the code and report it"
    if dump is not None:
        path = dump / f"refused-{hashlib.sha256(source.text.encode()).hexdigest()[:16]}.ll"
        try:
            dump.mkdir(parents=True, exist_ok=True)
            path.write_text(source.text, encoding="utf-8")
            hint = f"this is a bug in fusec's code generator; please report it with {path}"
        except OSError as e:
            hint = f"the code could not be kept in {dump}: {e.strerror or e}"
    return CompileError(f"cannot compile the kernel {name or source.entry!r}: {why}", hint=hint)


def recall(cache: ObjectCache | None, key: str, target: Target) -> Binary | None:
    """The cached binary of a class."""
    payload = cache.get(cache_key(key, target)) if cache is not None else None
    return decode(payload) if payload is not None else None


def remember(cache: ObjectCache | None, key: str, target: Target, made: Binary) -> None:
    """Put a class' binary into the cache."""
    if cache is not None:
        cache.put(cache_key(key, target), encode(made))


def cache_key(key: str, target: Target) -> str:
    """What a cached object depends on: the class, the target, the compiler and our own code generator."""
    return f"{key}\n{target}\n{fingerprint()}\nemitter {_emitter_fingerprint()}"


def encode(b: Binary) -> bytes:
    """A binary as bytes: a line of JSON (entry, slots, scratch as text), then the code."""
    slots = [[s.kind, s.name, str(s.extent)] for s in b.slots]
    return json.dumps({"entry": b.entry, "slots": slots, "scratch": str(b.scratch)}).encode() + b"\n" + b.code


def decode(payload: bytes) -> Binary | None:
    """Read what `encode` wrote; None where the bytes are anything else."""
    head, newline, code = payload.partition(b"\n")
    try:
        fields: dict[str, Any] = json.loads(head)
        slots = tuple(Slot(str(kind), str(name), parse_dim(extent)) for kind, name, extent in fields["slots"])
        entry, scratch = str(fields["entry"]), parse_dim(fields["scratch"])
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
    return Binary(code, hashlib.sha256(code).hexdigest(), entry, slots, scratch) if newline else None


@once
def _emitter_fingerprint() -> str:
    """A hash of the code generator's own files: a new version of it must not find the objects of the old one."""
    from fusec.ir import dim
    from fusec.tile import fold

    here = Path(__file__).resolve().parent
    files = [
        p for f in (here, here.parent, Path(dim.__file__).parent, Path(fold.__file__).parent) for p in f.glob("*.py")
    ]
    total = hashlib.sha256()
    for path in sorted(files, key=lambda p: (p.parent.name, p.name)):
        total.update(f"{path.parent.name}/{path.name}\0".encode() + path.read_bytes())
    return total.hexdigest()[:32]
