"""Which stages of a program are matrix products on a device, and how large their tiles are."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from fusec.ir.dim import Extent
from fusec.kernels.kernel import Guard, StageTiling
from fusec.kernels.layout import Layout
from fusec.target import Target
from fusec.tile.program import TileProgram


@dataclass(frozen=True, slots=True)
class ProductChoice:
    """A way to compute the products of a program: their stages by number, the tile of the whole program, and for which sizes.

    The other stages run as nests. Choices are tried in order; the last one, or the only one, takes what is left.
    """

    stages: Mapping[int, StageTiling]
    tile: tuple[tuple[str, Extent], ...]
    layouts: tuple[tuple[str, Layout], ...] = ()
    guard: Guard | None = None


def product_choices(
    program: TileProgram, target: Target, calls: Iterable[Mapping[str, Extent]]
) -> tuple[ProductChoice, ...]:
    """The choices for a program with products; none where it has no product that a template takes."""
    return ()
