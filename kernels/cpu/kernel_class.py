"""Which kernels share machine code. A module of its own: whoever finds all code in the cache needs no emitter."""

from __future__ import annotations

import hashlib

from fusec.kernels.kernel import Kernel
from fusec.target import Target

VERSION = 1057
"""Counts changes of the emitted code, so that cached objects of older emitters are not used."""


def class_key(kernel: Kernel, target: Target) -> str:
    """What kernels must share to share machine code: everything but the program's name, tile extents and the guard."""
    p = kernel.program
    parts = (VERSION, str(target), p.params, p.axes, p.operands, p.stages, kernel.tiling.stages, kernel.tiling.layouts)
    return hashlib.sha256(repr(parts).encode()).hexdigest()
