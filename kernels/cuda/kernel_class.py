"""Which kernels share machine code. A module of its own: whoever finds all code in the cache needs no emitter."""

from __future__ import annotations

import hashlib

from fusec.kernels.kernel import Kernel
from fusec.target import Target

VERSION = 2
"""Counts changes of the emitted code, so that cached modules of older emitters are not used."""


def class_key(kernel: Kernel, target: Target) -> str:
    """What kernels must share to share machine code: everything but the program's name and a guard that leaves sizes open.

    Numbers are known to the compiler, those of tile extents too: they decide what fits into shared memory.
    """
    p, t = kernel.program, kernel.tiling
    level = target.level.removesuffix("-emulated")
    known = t.guard if t.guard is not None and t.guard.low == t.guard.high else None
    parts = (VERSION, level, p.params, p.axes, p.operands, p.stages, t.tile, t.stages, t.layouts, known)
    return hashlib.sha256(repr(parts).encode()).hexdigest()
