"""Regions of hand-written kernels: chains of `y[i] = a * x[n-1-i] + i`, so that every tile needs another worker's."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np
import numpy.typing as npt

from fusec.ir.dim import symbol
from fusec.ir.types import DType, TensorType, Type
from fusec.kernels.cpu.build import build
from fusec.kernels.cpu.load import load
from fusec.kernels.kernel import Binary, BoundKernel, Call, Kernel, Slot, Source, StageTiling, Tiling
from fusec.plan.plan import RegionStep
from fusec.runtime.frame import CallCode
from fusec.target import Target, host
from fusec.tile.parse import parse_program
from fusec.tile.program import TileProgram

TILE = 16
BAD = np.float32(-(2.0**112))
"""The input that these kernels report as a failure."""

IR = """
define void @entry(ptr %slots, i64 %first, i64 %count, ptr %scratch) {
e:
  %x = load ptr, ptr %slots
  %yp = getelementptr i64, ptr %slots, i64 1
  %y = load ptr, ptr %yp
  %ap = getelementptr i64, ptr %slots, i64 2
  %a = load float, ptr %ap
  %np = getelementptr i64, ptr %slots, i64 3
  %n = load i64, ptr %np
  %tp = getelementptr i64, ptr %slots, i64 4
  %t = load i64, ptr %tp
  %stp = getelementptr i64, ptr %slots, i64 5
  %status = load ptr, ptr %stp
  %low = mul i64 %first, %t
  %tiles = mul i64 %count, %t
  %past = add i64 %low, %tiles
  %over = icmp sgt i64 %past, %n
  %high = select i1 %over, i64 %n, i64 %past
  store float %a, ptr %scratch
  %last = sub i64 %n, 1
  br label %loop
loop:
  %i = phi i64 [%low, %e], [%i1, %next]
  %more = icmp slt i64 %i, %high
  br i1 %more, label %body, label %end
body:
  %j = sub i64 %last, %i
  %xp = getelementptr float, ptr %x, i64 %j
  %v = load float, ptr %xp, align 1
  %m = fmul float %v, %a
  %f = sitofp i64 %i to float
  %r = fadd float %m, %f
  %q = getelementptr float, ptr %y, i64 %i
  store float %r, ptr %q, align 1
  %bad = fcmp oeq float %v, 0xC6F0000000000000
  br i1 %bad, label %report, label %next
report:
  store i64 1, ptr %status
  %dp = getelementptr i64, ptr %status, i64 2
  store i64 %j, ptr %dp
  br label %next
next:
  %i1 = add i64 %i, 1
  br label %loop
end:
  ret void
}
"""

SLOTS = (
    Slot("pointer", "x"),
    Slot("pointer", "y"),
    Slot("scalar", "a"),
    Slot("extent", "", symbol("N")),
    Slot("extent", "", symbol("tile_i")),
    Slot("status"),
)

PROGRAM = """program flip(N)
task i: N
input x: f32[N]
scalar a: f32
output y: f32[N]
stage i
  y[i] = x[N - i - 1] * a
"""


@cache
def program() -> TileProgram:
    return parse_program(PROGRAM)


@cache
def kernel(tile: int = TILE) -> Kernel:
    return Kernel(program(), Tiling((("i", tile),), (StageTiling("nest"),)))


@cache
def code() -> CallCode:
    binary: Binary = build(Source(IR, "entry", SLOTS, 64), host())
    return CallCode(load(binary).address, binary)


def call(label: str, x: str, y: str, a: float, n: object) -> Call:
    return Call(label, program(), (("x", x), ("y", y)), (("N", n),), (("a", a),), (f"/{label}",))  # type: ignore[arg-type]


def flip(x: npt.NDArray[np.float32], a: float) -> npt.NDArray[np.float32]:
    return x[::-1] * np.float32(a) + np.arange(len(x), dtype=np.float32)


@dataclass
class Chain:
    """x -> v0 -> v1 -> ... -> y, `depth` calls over `n` elements (an int or a dimension)."""

    depth: int
    n: object
    factors: tuple[float, ...] = (0.5, -1.25, 0.75)

    @property
    def names(self) -> list[str]:
        return ["x", *(f"v{i}" for i in range(self.depth - 1)), "y"]

    @property
    def region(self) -> RegionStep:
        names = self.names
        calls = [call(f"c{i}", names[i], names[i + 1], self.factor(i), self.n) for i in range(self.depth)]
        return RegionStep(tuple(calls), ("x",), ("y",))

    @property
    def values(self) -> dict[str, Type]:
        return {n: TensorType(DType.F32, (self.n,)) for n in self.names}  # type: ignore[arg-type]

    def factor(self, i: int) -> float:
        return self.factors[i % len(self.factors)]

    def expected(self, x: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        for i in range(self.depth):
            x = flip(x, self.factor(i))
        return x


def microseconds(_: BoundKernel) -> float:
    return 6.0


TARGET: Target = host()
