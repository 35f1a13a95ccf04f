"""Weights that lie in memory as products read them: which can, and in what layout.

B of a wgmma product is brought in stages of `LINE` bytes along k. A weight is stored as blocks of `COLUMNS` such lines,
swizzled, those of all columns after each other: any tile that begins at a multiple of `COLUMNS` is one run of bytes.

B of a product of few rows is dealt out to blocks of threads by columns, of which there are few for each. It is stored as panels
of so many columns, so that each reads one run of bytes and no short pieces of rows that lie far apart.
"""

from __future__ import annotations

from fusec.ir.dim import Extent, exact_quotient, linear, symbol, symbols_of
from fusec.kernels.cpu.contract_form import Contraction, plain_load
from fusec.kernels.cuda.product_shapes import LINE, tensor_dtype, without_widening
from fusec.kernels.kernel import loads_of
from fusec.kernels.layout import Layout
from fusec.tile.program import TileProgram

MOVED = 16
"""Bytes that a thread moves at once."""
COLUMNS = 64
"""Columns of a block. Tiles of wgmma products are multiples of it."""


def blocked(program: TileProgram, form: Contraction) -> tuple[str, Layout] | None:
    """The weight that B of a product is, and the layout that its stages can be copied from; None where B is anything else."""
    load = _own_weight(program, form)
    if load is None:
        return None
    name, index = load
    operand = program.operand[name]
    if tensor_dtype(form) is not operand.dtype:
        return None
    depth = LINE // operand.dtype.itemsize
    k, n = form.k.name, form.n
    along_k = [d for d, i in enumerate(index) if k in symbols_of(i)]
    along_n = [d for d, i in enumerate(index) if n in symbols_of(i)]
    if len(along_k) != 1 or len(along_n) != 1 or index[along_n[0]] != symbol(n):
        return None
    split = linear(index[along_k[0]], [k])
    if split is None or split[1] != {k: 1}:
        return None
    whole = split[0] == 0 and operand.shape[along_k[0]] == form.k.extent  # what is behind the end is zero
    if not whole and any(exact_quotient(x, depth) is None for x in (split[0], form.k.extent)):
        return None
    return name, Layout.blocks(len(index), along_k[0], along_n[0], COLUMNS, depth)


def panelled(program: TileProgram, form: Contraction, width: int) -> tuple[str, Layout] | None:
    """The weight that B of a product is, and its layout in panels of so many columns; None where B is no `w[.., k, n]`."""
    load = _own_weight(program, form)
    if load is None or len(load[1]) < 2:
        return None
    name, (*batch, k, n) = load
    is_plain = form.k.name in symbols_of(k) and not any(form.n in symbols_of(i) for i in (*batch, k))
    if not is_plain or n != symbol(form.n) or width % (MOVED // program.operand[name].dtype.itemsize):
        return None
    return name, Layout.panels(len(load[1]), width)


def _own_weight(program: TileProgram, form: Contraction) -> tuple[str, tuple[Extent, ...]] | None:
    """Operand and index of a B that is nothing but a weight that nothing else in the program reads."""
    load = plain_load(without_widening(form.right))
    if load is None or program.operand[load[0]].role != "weight":
        return None
    return load if sum(len(set(loads_of(s, load[0]))) for s in program.stages) == 1 else None
