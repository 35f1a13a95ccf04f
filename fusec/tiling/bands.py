"""Bands: tiles of whole image rows, for products of pixels that the same task computes from windows first.

Windows are summed for several neighbours of an image row at once; where a tile ends inside a row, they are not.
"""

from __future__ import annotations

from fusec.ir.dim import Extent, ceildiv, floordiv, maximum, minimum
from fusec.kernels.cpu.chunk import CHUNK_ROWS
from fusec.kernels.cpu.contract_form import contraction
from fusec.kernels.cpu.merged import columns_of
from fusec.tile.program import TileProgram


def band(program: TileProgram, pixels: str, most: Extent) -> Extent | None:
    """Pixels of a tile along an axis, about equally many in each and, if a row is not longer, `most` and a chunk at most.

    None where no loop nest takes the axis apart into rows and columns.
    """
    nests = (s for s in program.stages if contraction(s) is None)
    columns = next((c for s in nests if (c := columns_of(s, pixels)) is not None), None)
    if columns is None:
        return None
    columns = maximum(1, columns)
    rows = ceildiv(program.axis[pixels].extent, columns)
    at_once = maximum(1, floordiv(minimum(CHUNK_ROWS, most), columns))
    tiles = maximum(1, ceildiv(rows, at_once))
    return minimum(columns * maximum(1, ceildiv(rows, tiles)), maximum(1, most))
