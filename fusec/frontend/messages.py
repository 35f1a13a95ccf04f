"""Text from a model on its way to a terminal: names are data, so control characters and endless lengths are taken out."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from fusec.ir.graph import Value

LONGEST = 120


def clean(text: str | bytes) -> str:
    """A name fit for one line of a message: nothing unprintable, no escape sequences, at most about a line long.

    >>> clean("a\\x1b[31mb")
    'a?[31mb'
    """
    if isinstance(text, bytes):
        text = text.decode("utf-8", "replace")
    text = "".join(c if c.isprintable() else "?" for c in text[: LONGEST * 2])
    return text if len(text) <= LONGEST else text[: LONGEST - 3] + "..."


def listing(names: Iterable[str], most: int = 8) -> str:
    """Names in quotes, the first few of them."""
    every = list(names)
    shown = ", ".join(f"'{clean(n)}'" for n in every[:most])
    return shown + (f" and {len(every) - most} more" if len(every) > most else "")


def show_types(values: Sequence[Value | None]) -> str:
    """The types of a node's inputs, in order."""
    return ", ".join("-" if v is None else str(v.type) for v in values)
