"""Modules for sets of kernels: all their classes and the task loop, compiled, with what calling each body needs.

What the cache holds is found by the classes, the level, the compiler and our own code generator, so that a session whose
modules are all there emits nothing.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from functools import cache as once
from pathlib import Path
from typing import Any

from fusec.cache import ObjectCache
from fusec.ir.dim import parse_dim
from fusec.kernels.backend import EMULATED, Body, ModuleCode
from fusec.kernels.cuda import linker, nvrtc
from fusec.kernels.cuda.abi import ENTRY
from fusec.kernels.cuda.kernel_class import class_key
from fusec.kernels.cuda.module import headers_hash, module_text
from fusec.kernels.kernel import Kernel, Slot, Source
from fusec.target import Target


def build_module(
    kernels: Sequence[Kernel], target: Target, cache: ObjectCache | None = None, *, wide: bool = False
) -> ModuleCode:
    """The module of all classes among the kernels, from the cache where it is there: then its sources have no text.

    CompileError where it cannot be built.
    """
    classes = {class_key(k, target): k for k in kernels}
    ordered = [classes[key] for key in sorted(classes)]
    key = _key(sorted(classes), target, wide)
    found = cache.get(key) if cache is not None else None
    built = _decoded(found) if found is not None else None
    if built is None:
        built = _made(dict(zip(sorted(classes), ordered, strict=True)), target, wide, cache)
        if cache is not None:
            cache.put(key, _encoded(built))
    return built


def _made(classes: dict[str, Kernel], target: Target, wide: bool, cache: ObjectCache | None) -> ModuleCode:
    from fusec.kernels.cuda.emit import emit

    sources = {key: emit(kernel, target) for key, kernel in classes.items()}
    text = module_text(list(sources.values()), wide=wide)
    if target.level.endswith(EMULATED):
        from fusec.kernels.cuda.emulator import build as emulator

        code = emulator.link(text, target.level.removesuffix(EMULATED), cache)
    else:
        code = nvrtc.build(text, target.level, cache).code
    bodies = {key: Body(i, source) for i, (key, source) in enumerate(sources.items())}
    return ModuleCode(code, text.entry, bodies)


def _key(classes: Sequence[str], target: Target, wide: bool) -> str:
    digest = hashlib.sha256("\n".join(classes).encode()).hexdigest()
    parts = ("cuda module", digest, target, wide, headers_hash(), _compiler(target), _generator())
    return "\n".join(map(str, parts))


def _compiler(target: Target) -> str:
    if target.level.endswith(EMULATED):
        from fusec.kernels.cuda.emulator import build as emulator

        return emulator.fingerprint()
    return f"{nvrtc.version()} {linker.version()}"


def _encoded(built: ModuleCode) -> bytes:
    """A line of JSON (what calling the bodies needs), then the code."""
    bodies = {
        key: [[[s.kind, s.name, str(s.extent)] for s in x.slots], str(x.scratch), str(x.shared), x.kept]
        for key, x in ((key, b.source) for key, b in built.bodies.items())
    }
    return json.dumps({"entry": built.entry, "bodies": bodies}).encode() + b"\n" + built.code


def _decoded(payload: bytes) -> ModuleCode | None:
    """Read what `_encoded` wrote; None where the bytes are anything else."""
    head, newline, code = payload.partition(b"\n")
    try:
        fields: dict[str, Any] = json.loads(head)
        bodies = {
            str(key): Body(
                i,
                Source(
                    "",
                    f"fusec_{key[:24]}",
                    tuple(Slot(str(kind), str(name), parse_dim(extent)) for kind, name, extent in slots),
                    parse_dim(scratch),
                    parse_dim(shared),
                    int(kept),
                ),
            )
            for i, (key, (slots, scratch, shared, kept)) in enumerate(fields["bodies"].items())
        }
        entry = str(fields["entry"])
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
    return ModuleCode(code, entry, bodies) if newline and entry == ENTRY else None


@once
def _generator() -> str:
    """A hash of the code generator's own files: a new version of it must not find the modules of the old one."""
    from fusec.ir import dim
    from fusec.tile import fold

    here = Path(__file__).resolve().parent
    folders = (here, here.parent, Path(dim.__file__).parent, Path(fold.__file__).parent)
    total = hashlib.sha256()
    for path in sorted((p for f in folders for p in f.glob("*.py")), key=lambda p: (p.parent.name, p.name)):
        total.update(f"{path.parent.name}/{path.name}\0".encode() + path.read_bytes())
    return total.hexdigest()[:32]
