"""Products of short integers: two factors of 16 bits lie side by side in each lane, and one instruction multiplies both pairs
and adds the products in 32 bits.

That is exact: sums wrap as those of int32 do, whatever the factors are. Levels with VNNI do the next addition as well
(vpdpwssd). The instruction for bytes (vpmaddubsw) saturates its sums of two products at 16 bits, which two weights of one sign
that pass 128 together exceed. In matrices of quantised models up to 1.2 % of the pairs are such, and few matrices have none,
so it is not used, though its register tile takes three quarters of the time (Zen 4).

A register tile takes a pair of steps of the sum as one element: rows of A are 16-bit integers, panels of B (Layout.paired)
these or bytes, widened as they are loaded. Panels end with zeros where the sum has an odd number of products; what a row of A
has there does not matter.
"""

from __future__ import annotations

from dataclasses import dataclass

from fusec.ir.types import DType
from fusec.kernels.cpu.builder import Builder, Value, vector
from fusec.kernels.cpu.context import Context
from fusec.kernels.cpu.contract_form import Contraction, panel_load
from fusec.kernels.cpu.contract_tile import TileShape
from fusec.kernels.layout import Layout

INSTRUCTIONS = {4: "llvm.x86.sse2.pmadd.wd", 8: "llvm.x86.avx2.pmadd.wd", 16: "llvm.x86.avx512.pmaddw.d.512"}
"""Lanes of the sums -> the intrinsic."""
VNNI = {8: "{vex} vpdpwssd", 16: "vpdpwssd"}
"""The same of the instruction that adds to the sums. Of its intrinsic LLVM makes two instructions, for a shorter chain; here
so many sums are under way that none waits for another."""
X86 = ("generic", "avx2", "avx512")
"""Families of levels that have it."""


@dataclass(frozen=True, slots=True)
class PairShape(TileShape):
    """A register tile of int32 accumulators over pairs. `right` is the dtype of B in its panels, `x86` whether the level
    has the instruction, `vnni` whether it has the one that adds."""

    right: DType
    x86: bool
    vnni: bool

    @property
    def panel_element(self) -> str:
        """An element of a panel: a pair."""
        return f"i{16 * self.right.itemsize}"

    @property
    def row_element(self) -> str:
        """What rows of A are counted in."""
        return "i16"

    def factor(self, b: Builder, place: Value) -> Value:
        """A pair of A in all lanes."""
        return b.splat(b.load(self.element, place, 2), self.lanes)

    def column(self, b: Builder, place: Value, packed: bool) -> Value:
        """A vector of pairs from a panel."""
        alignment = min(64, self.lanes * 2 * self.right.itemsize) if packed else self.right.itemsize
        x = b.load(vector(2 * self.lanes, f"i{8 * self.right.itemsize}"), place, alignment)
        wide = b.convert("sext" if self.right.is_signed else "zext", x, "i16")
        return b.bitcast(wide, self.type)

    def multiply_add(self, b: Builder, x: Value, y: Value, total: Value) -> Value:
        """Both products of each pair, added to the totals."""
        if self.vnni and self.lanes in VNNI:
            code = f'asm "{VNNI[self.lanes]} $3, $2, $0", "=v,0,v,v"'
            return b.emit(self.type, f"call {self.type} {code}({total}, {x}, {y})")
        left, right = (b.bitcast(v, vector(2 * self.lanes, "i16")) for v in (x, y))
        out = b.op("add", total, self._products(b, left, right))
        # unknown to LLVM, which otherwise adds the products of several steps first, and spills them
        return b.emit(out.type, f'call {out.type} asm "", "=v,0"({out})') if self.x86 else out

    def _products(self, b: Builder, x: Value, y: Value) -> Value:
        if self.x86 and self.lanes in INSTRUCTIONS:
            return b.call(INSTRUCTIONS[self.lanes], self.type, x, y)
        product = b.op("mul", b.convert("sext", x, "i32"), b.convert("sext", y, "i32"))
        even, odd = (b.shuffle(product, None, range(first, 2 * self.lanes, 2)) for first in (0, 1))
        return b.op("add", even, odd)


def pair_shape(ctx: Context, form: Contraction, rows: int, vectors: int) -> PairShape:
    """The register tile of such a product: a weight stays as it is stored, what is packed is packed as 16 bits."""
    operand = panel_load(form)
    stored = operand is not None and ctx.kernel.layouts[operand] == paired_panels(ctx, operand, vectors)
    right = ctx.program.operand[operand].dtype if stored and operand is not None else DType.I16
    isa = ctx.isa
    return PairShape(rows, vectors, isa.lanes, "i32", isa.fma, right, isa.name in X86, isa.vnni)


def paired_panels(ctx: Context, operand: str, vectors: int) -> Layout:
    """The panels in which such a register tile finds a weight."""
    return Layout.paired(len(ctx.program.operand[operand].shape), vectors * ctx.isa.lanes)
