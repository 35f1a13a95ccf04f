"""Which sizes of a graph's inputs change, and which of them together: learned from the shapes that were seen."""

from __future__ import annotations

Key = tuple[tuple[int, tuple[int, ...]], ...]
"""The dtype number and the shape of each input."""
Size = int | str
"""A number, or a symbol."""


def kinds_of(key: Key) -> tuple[tuple[int, int], ...]:
    """Dtypes and ranks."""
    return tuple([(number, len(shape)) for number, shape in key])


class Sizes:
    """The sizes of inputs of the same dtypes and ranks, over all shapes that were seen.

    >>> sizes = Sizes()
    >>> for n in (1, 2):
    ...     sizes.see(((1, (n, 8)), (1, (8, n))))
    >>> sizes.pattern()
    [('d0', 8), (8, 'd0')]
    >>> sizes.fit(((1, (5, 8)), (1, (8, 5)))), sizes.fit(((1, (5, 8)), (1, (8, 6))))
    (True, False)
    """

    def __init__(self) -> None:
        self._ranks: list[int] = []
        self._columns: list[tuple[int, ...]] = []

    def see(self, key: Key) -> None:
        """Take shapes into account."""
        sizes = _flat(key)
        self._ranks = [len(shape) for _, shape in key]
        columns = self._columns or [() for _ in sizes]
        if sizes not in zip(*columns, strict=True):
            self._columns = [(*c, n) for c, n in zip(columns, sizes, strict=True)]

    def fit(self, key: Key) -> bool:
        """Whether shapes follow the pattern of those seen."""
        bound: dict[tuple[int, ...], int] = {}
        return all(
            n == (column[0] if len(set(column)) == 1 else bound.setdefault(column, n))
            for column, n in zip(self._columns, _flat(key), strict=True)
        )

    def pattern(self) -> list[tuple[Size, ...]]:
        """The shapes with a symbol for each size that changes; sizes that were always equal share one."""
        symbols: dict[tuple[int, ...], str] = {}
        sizes = iter(c[0] if len(set(c)) == 1 else symbols.setdefault(c, f"d{len(symbols)}") for c in self._columns)
        return [tuple(next(sizes) for _ in range(rank)) for rank in self._ranks]


def _flat(key: Key) -> tuple[int, ...]:
    return tuple([n for _, shape in key for n in shape])
