"""The FMA peak of one core and how fast it reads memory, measured: loops that do this and nothing else.

What matrix products and vector-matrix products are compared with. Clock rates change from one moment to the next, so they
run in the rounds of what is measured, not once.
"""

from __future__ import annotations

import ctypes
import hashlib
from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from fusec.kernels.cpu.builder import Builder, constant, vector
from fusec.kernels.cpu.llvm import compile_text
from fusec.kernels.cpu.load import load
from fusec.kernels.kernel import Binary
from fusec.target import Target

CHAINS = 12
"""Independent sums: more than the latency of an addition times the units that there are, fewer than registers."""
READERS = 8
"""Vectors per iteration of the loop that reads."""
STEPS = 4
"""Multiply-adds of each sum per iteration."""


def peak(target: Target, flops: float) -> Callable[[], None]:
    """A closure that does about `flops` float32 operations; see `peak_flops` for how many exactly."""
    lanes = target.isa.lanes
    b = Builder("fusec_peak", (("ptr", "", "data"), ("i64", "", "count"), ("i64", "", "none"), ("ptr", "", "to")))
    type_ = vector(lanes, "float")
    start = b.new_block("start")
    b.jump(start)
    b.enter(start)
    x, y = (b.load(type_, b.gep(b.params[0], b.i64(i * lanes), "float")) for i in range(2))
    sums = [b.load(type_, b.gep(b.params[0], b.i64(i), "float")) for i in range(CHAINS)]
    with b.loop(b.i64(0), b.params[1], 1, sums) as loop:
        totals = list(loop.carried)
        for _ in range(STEPS):
            if target.isa.fma:
                totals = [b.intrinsic("llvm.fma", t, x, y) for t in totals]
            else:
                totals = [b.op("fadd", b.op("fmul", t, x), y) for t in totals]
        loop.next = totals
    for i, t in enumerate(loop.results):
        b.store(t, b.gep(b.params[3], b.i64(i * lanes), "float"))
    entry = _entry(b, target)
    data = np.full(4 * lanes + CHAINS, 0.5, np.float32)
    out = np.zeros(CHAINS * lanes, np.float32)
    count = iterations(target, flops)

    def run(_: object = (data, out)) -> None:
        entry(data.ctypes.data, count, 0, out.ctypes.data)

    return run


def reading(target: Target, data: npt.NDArray[np.float32]) -> Callable[[], None]:
    """A closure that reads an array from end to end, whole lines of memory of it."""
    lanes = target.isa.lanes
    b = Builder("fusec_reading", (("ptr", "", "data"), ("i64", "", "count"), ("i64", "", "none"), ("ptr", "", "to")))
    type_ = vector(lanes, "float")
    start = b.new_block("start")
    b.jump(start)
    b.enter(start)
    zeros = [constant(type_, 0.0)] * READERS
    with b.loop(b.i64(0), b.params[1], READERS * lanes, zeros) as loop:
        line = b.gep(b.params[0], loop.index, "float")
        parts = [b.load(type_, b.gep(line, b.i64(i * lanes), "float")) for i in range(READERS)]
        loop.next = [b.op("fadd", x, y) for x, y in zip(loop.carried, parts, strict=True)]
    for i, t in enumerate(loop.results):
        b.store(t, b.gep(b.params[3], b.i64(i * lanes), "float"))
    entry, out = _entry(b, target), np.zeros(READERS * lanes, np.float32)
    count = data.size // (READERS * lanes) * READERS * lanes

    def run(_: object = (data, out)) -> None:
        entry(data.ctypes.data, count, 0, out.ctypes.data)

    return run


def _entry(b: Builder, target: Target) -> Callable[..., None]:
    code = compile_text(b.text(), target.level)
    loaded = load(Binary(code, hashlib.sha256(code).hexdigest(), b.name, (), 0))
    return ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64, ctypes.c_void_p)(loaded.address)


def iterations(target: Target, flops: float) -> int:
    """How often the loop of `peak` runs."""
    return max(1, round(flops / (2 * CHAINS * STEPS * target.isa.lanes)))


def peak_flops(target: Target, flops: float) -> float:
    """How many operations the closure that `peak` makes for `flops` does."""
    return iterations(target, flops) * 2.0 * CHAINS * STEPS * target.isa.lanes
