"""Names of dimension symbols: what a model calls its sizes, made into identifiers that print and parse."""

from __future__ import annotations

import keyword
import re
from dataclasses import dataclass, field

from fusec.errors import ModelError
from fusec.ir.dim import Extent, symbol, symbols_of

FRESH = "_u"
"""Prefix of symbols for sizes that only a run can tell; a model's own names never start with it."""


@dataclass
class SymbolTable:
    """Gives every distinct text a symbol of its own, and fresh ones where a model says nothing.

    `given` maps a dim_param to the number the caller fixed it to; `used` collects which of those were met.
    """

    given: dict[str, int] = field(default_factory=dict)
    used: set[str] = field(default_factory=set)
    _by_text: dict[str, str] = field(default_factory=dict)
    _taken: set[str] = field(default_factory=set)
    _fixed: dict[str, tuple[int, str]] = field(default_factory=dict)
    _count: int = 0

    def named(self, text: str, like: str | None = None) -> Extent:
        """The dimension of a `dim_param`: the same text gives the same symbol, a formula gives one symbol of its own."""
        name = self._by_text.get(text)
        if name is None:
            name = self._by_text[text] = self._free(identifier(like or text))
        if name in self._fixed:
            return self._fixed[name][0]
        for key in (text, name):
            if key in self.given:
                self.used.add(key)
                return self.given[key]
        return symbol(name)

    def unnamed(self, value: str, axis: int) -> Extent:
        """The dimension of an axis that has no name, called after the input it belongs to."""
        return self.named(f"{value}\0{axis}", like=f"{identifier(value)}_{axis}")

    def fix(self, dim: Extent, size: int, owner: str) -> None:
        """Give a symbol the size that the caller's shape for input `owner` asks for. ModelError where two disagree."""
        if isinstance(dim, int):
            return
        (name,) = dim.symbols
        before, other = self._fixed.setdefault(name, (size, owner))
        if before != size:
            raise ModelError(f"dimension {name} is {before} in the shape of {other!r} and {size} in that of {owner!r}")

    @property
    def names(self) -> list[str]:
        """The symbols met so far, fresh ones left out."""
        return sorted(self._taken)

    def fresh(self) -> Extent:
        """A size that is known only while running."""
        name = f"{FRESH}{self._count}"
        self._count += 1
        return symbol(name)

    def _free(self, base: str) -> str:
        name, k = base, 1
        while name in self._taken:
            k += 1
            name = f"{base}_{k}"
        self._taken.add(name)
        return name


def is_fresh(size: Extent) -> bool:
    """Whether only a run's host steps, and not its inputs, tell a size."""
    return any(s.startswith(FRESH) for s in symbols_of(size))


def identifier(text: str) -> str:
    """An identifier that resembles `text`.

    >>> identifier("batch size"), identifier("2*N"), identifier("_u0")
    ('batch_size', 'd2_N', 'd_u0')
    """
    name = re.sub(r"\W+", "_", text[:64], flags=re.ASCII).rstrip("_") or "d"
    if name[0].isdigit() or name.startswith(FRESH):
        name = "d" + name
    return name + "_" if keyword.iskeyword(name) else name
