"""Text for terminals: names from model files are untrusted, so control characters never reach the screen."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Sequence
from typing import Any

import click


def printable(text: str) -> str:
    """The text with control characters shown as escapes, so that a name cannot move the cursor or set a title."""
    return "".join(c if c.isprintable() or c == "\n" else c.encode("unicode_escape").decode() for c in text)


def print_json(document: Any) -> None:
    """One JSON document on stdout; NaN and Inf become strings, since JSON has neither."""
    click.echo(json.dumps(_plain(document), indent=2, ensure_ascii=True))


def _plain(x: Any) -> Any:
    if isinstance(x, dict):
        return {str(k): _plain(v) for k, v in x.items()}
    if isinstance(x, list | tuple):
        return [_plain(v) for v in x]
    if isinstance(x, float) and not math.isfinite(x):
        return str(x)
    if isinstance(x, str | int | float | bool) or x is None:
        return x
    return str(x)


def print_table(
    title: str, columns: list[str], rows: Sequence[Sequence[object]], right: str = "", *, err: bool = False
) -> None:
    """A table on stdout, or on stderr.

    `right` names, by position digit, the columns that align right: "12" is columns 1 and 2.
    """
    from rich import box
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    stream = sys.stderr if err else sys.stdout
    # whoever pipes the output wants whole rows; a terminal has the width that it has
    console = Console(highlight=False, file=stream, width=None if stream.isatty() else 10_000)
    table = Table(box=box.SIMPLE_HEAD)
    for i, c in enumerate(columns):
        table.add_column(c, justify="right" if str(i) in right else "left", overflow="fold")
    for row in rows:
        table.add_row(*(escape(printable(str(x))) for x in row))
    with console.capture() as capture:
        console.print(f"[bold]{escape(printable(title))}[/bold]", soft_wrap=True)
        console.print(table)
    lines = [line.rstrip() for line in capture.get().splitlines()]
    click.echo("\n".join(line for line in lines if line), err=err)


def say(text: str) -> None:
    """A line for people, on stderr, so that stdout stays data."""
    click.echo(printable(text), err=True)


def plural(count: int, thing: str) -> str:
    """A count with its noun.

    >>> plural(1, "kernel"), plural(1200, "host step")
    ('1 kernel', '1,200 host steps')
    """
    return f"{count:,} {thing}" + ("" if count == 1 else "s")


def short_label(label: str, most: int = 5) -> str:
    """The label of a group of many operators, cut in the middle.

    >>> short_label("a+b+c+d+e+f+g")
    'a+b+..(4)..+g'
    """
    ops = label.split("+")
    return label if len(ops) <= most else f"{ops[0]}+{ops[1]}+..({len(ops) - 3})..+{ops[-1]}"


def format_seconds(s: float) -> str:
    """A duration with three digits and a unit.

    >>> format_seconds(0.00123)
    '1.23 ms'
    """
    for unit, scale in (("s", 1.0), ("ms", 1e-3), ("us", 1e-6)):
        if s >= scale or unit == "us":
            return f"{s / scale:.3g} {unit}"
    return f"{s} s"
