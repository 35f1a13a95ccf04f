"""The FMA peak of one core, measured: a loop of independent multiply-adds on registers, and nothing else.

What matrix products are compared with. Clock rates change from one moment to the next, so it runs in the rounds of what
is measured, not once.
"""

from __future__ import annotations

import ctypes
import hashlib
from collections.abc import Callable

import numpy as np

from fusec.kernels.cpu.builder import Builder, vector
from fusec.kernels.cpu.llvm import compile_text
from fusec.kernels.cpu.load import load
from fusec.kernels.kernel import Binary
from fusec.target import Target

CHAINS = 12
"""Independent sums: more than the latency of an addition times the units that there are, fewer than registers."""
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
    code = compile_text(b.text(), target.level)
    loaded = load(Binary(code, hashlib.sha256(code).hexdigest(), "fusec_peak", (), 0))
    data = np.full(4 * lanes + CHAINS, 0.5, np.float32)
    out = np.zeros(CHAINS * lanes, np.float32)
    entry = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64, ctypes.c_void_p)(loaded.address)
    count = iterations(target, flops)

    def run(_: object = (data, out, loaded)) -> None:
        entry(data.ctypes.data, count, 0, out.ctypes.data)

    return run


def iterations(target: Target, flops: float) -> int:
    """How often the loop of `peak` runs."""
    return max(1, round(flops / (2 * CHAINS * STEPS * target.isa.lanes)))


def peak_flops(target: Target, flops: float) -> float:
    """How many operations the closure that `peak` makes for `flops` does."""
    return iterations(target, flops) * 2.0 * CHAINS * STEPS * target.isa.lanes
