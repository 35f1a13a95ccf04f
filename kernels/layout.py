"""Physical layouts: how the elements of a logical tensor lie in memory. A pure index map with zero padding."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from fusec.errors import BugError
from fusec.ir.dim import Extent, ceildiv, product


@dataclass(frozen=True, slots=True)
class Factor:
    """One physical dimension: logical dimension `dim`, whole (`block` 0), divided by `block`, or modulo `block`."""

    dim: int
    block: int = 0
    modulo: bool = False

    def extent(self, shape: Sequence[Extent]) -> Extent:
        """How many positions it has; a dimension that its block does not divide is padded."""
        if self.modulo:
            return self.block
        return ceildiv(shape[self.dim], self.block) if self.block else shape[self.dim]

    def __str__(self) -> str:
        return f"{self.dim}{'%' if self.modulo else '/'}{self.block}" if self.block else str(self.dim)


BANKS = 8
"""Chunks of 16 bytes that all banks of a GPU's shared memory hold, and so the chunks of a swizzled line."""


@dataclass(frozen=True, slots=True)
class Layout:
    """Factors, outermost first. `Layout.parse("1/32 0 1%32")` is panels of 32 columns, each stored row by row.

    Of a `swizzled` one, whose text ends in "^", the last dimension is a line of eight chunks, and chunk c of line r lies at
    c ^ (r % 8): the 128-byte swizzle of NVIDIA's tensor cores (PTX ISA, wgmma, "Shared Memory Matrix Layout").
    """

    factors: tuple[Factor, ...]
    swizzled: bool = False

    @staticmethod
    def row_major(rank: int) -> Layout:
        """The layout of numpy arrays."""
        return Layout(tuple(Factor(d) for d in range(rank)))

    @staticmethod
    def panels(rank: int, width: int) -> Layout:
        """The last dimension cut into panels of `width`, each panel stored with all of the second last dimension."""
        batch = tuple(Factor(d) for d in range(rank - 2))
        return Layout((*batch, Factor(rank - 1, width), Factor(rank - 2), Factor(rank - 1, width, True)))

    @staticmethod
    def paired(rank: int, width: int) -> Layout:
        """The same, two rows of a panel at a time: the pair of each column lies side by side."""
        *batch, panel, _, column = Layout.panels(rank, width).factors
        return Layout((*batch, panel, Factor(rank - 2, 2), column, Factor(rank - 2, 2, True)))

    @staticmethod
    def columns(rank: int) -> Layout:
        """The last two dimensions exchanged: each column is contiguous."""
        return Layout((*(Factor(d) for d in range(rank - 2)), Factor(rank - 1), Factor(rank - 2)))

    @staticmethod
    def blocks(rank: int, k: int, n: int, rows: int, depth: int) -> Layout:
        """Dimensions k and n cut into blocks, each block `rows` lines along n of `depth` along k; the blocks of all n of a
        `depth` follow each other."""
        batch = tuple(Factor(d) for d in range(rank) if d not in (k, n))
        return Layout((*batch, Factor(k, depth), Factor(n, rows), Factor(n, rows, True), Factor(k, depth, True)), True)

    @staticmethod
    def parse(text: str) -> Layout:
        """Read what `str` wrote. ValueError otherwise."""
        factors = []
        plain = text.removesuffix(" ^")
        for part in plain.split():
            m = re.fullmatch(r"(\d+)(?:([/%])(\d+))?", part)
            if m is None or m[3] == "0":
                raise ValueError(f"not a layout: {text!r}")
            factors.append(Factor(int(m[1]), int(m[3] or 0), m[2] == "%"))
        return Layout(tuple(factors), swizzled=plain != text)

    def __str__(self) -> str:
        return " ".join(map(str, self.factors)) + (" ^" if self.swizzled else "")

    @property
    def is_row_major(self) -> bool:
        """Whether elements lie as in a C-contiguous numpy array."""
        return not self.swizzled and all(f == Factor(d) for d, f in enumerate(self.factors))

    def shape(self, logical: Sequence[Extent]) -> tuple[Extent, ...]:
        """The physical shape."""
        return tuple(f.extent(logical) for f in self.factors)

    def pack(self, array: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """The array as stored: a new C-contiguous array of the physical shape, padding zero."""
        padded = np.zeros(self._padded(array.shape), array.dtype)
        padded[tuple(slice(0, n) for n in array.shape)] = array
        blocks = {f.dim: f.block for f in self.factors if f.block}
        split, position = list[int](), dict[tuple[int, bool], int]()
        for d, n in enumerate(padded.shape):
            position[d, False] = len(split)
            split.append(n // blocks[d] if d in blocks else n)
            if d in blocks:
                position[d, True] = len(split)
                split.append(blocks[d])
        order = [position[f.dim, f.modulo] for f in self.factors]
        stored = np.ascontiguousarray(padded.reshape(split).transpose(order))
        return _swizzle(stored) if self.swizzled else stored

    def unpack(self, stored: npt.NDArray[Any], shape: Sequence[int]) -> npt.NDArray[Any]:
        """The logical array of `shape` behind stored elements (any shape of the right size)."""
        padded = self._padded(shape)
        blocks = {f.dim: f.block for f in self.factors if f.block}
        physical = stored.reshape([int(n) for n in (f.extent(shape) for f in self.factors) if isinstance(n, int)])
        if self.swizzled:
            physical = _swizzle(physical)
        order = sorted(range(len(self.factors)), key=lambda i: (self.factors[i].dim, self.factors[i].modulo))
        whole = physical.transpose(order).reshape(padded)
        if set(blocks) - set(range(len(shape))):
            raise BugError(f"layout {self} names dimensions that {tuple(shape)} has not")
        return np.ascontiguousarray(whole[tuple(slice(0, n) for n in shape)])

    def _padded(self, shape: Sequence[int]) -> tuple[int, ...]:
        blocks = {f.dim: f.block for f in self.factors if f.block}
        return tuple(-(-n // blocks[d]) * blocks[d] if d in blocks else n for d, n in enumerate(shape))


def _swizzle(stored: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Chunks of lines exchanged; twice is none. The last two dimensions are multiples of eight."""
    lines, depth = stored.shape[-2:]
    chunks = stored.reshape(-1, lines // BANKS, BANKS, BANKS, depth // BANKS)
    out = np.empty_like(chunks)
    for r in range(BANKS):
        out[:, :, r] = chunks[:, :, r, np.arange(BANKS) ^ r]
    return out.reshape(stored.shape)


def physical(layout: Layout, shape: Sequence[Extent]) -> Callable[[Sequence[Extent]], Extent]:
    """The offset polynomial of a logical index under a layout; of a swizzled one it is right where a block begins."""
    stored = layout.shape(shape)
    strides = [product(stored[k + 1 :]) for k in range(len(stored))]

    def offset(index: Sequence[Extent]) -> Extent:
        total: Extent = 0
        for factor, stride in zip(layout.factors, strides, strict=True):
            i = index[factor.dim]
            if factor.block:
                i = i % factor.block if factor.modulo else i // factor.block
            total = total + i * stride
        return total

    return offset
