"""`fusec passes`: what -P can switch on and off."""

from __future__ import annotations

from collections.abc import Iterator

import click

from fusec.cli.options import output_options
from fusec.cli.text import print_json, print_table
from fusec.errors import UsageError


@click.command()
@output_options
def command(as_json: bool, quiet: bool, traceback: bool) -> None:
    """List the passes by name, in the order in which they run: `-P +name` adds one, `-P -name` leaves one out.

    Passes of installed packages are listed too; they run where they are asked for.
    """
    del quiet, traceback
    rows = list(_rows())
    if as_json:
        print_json([dict(zip(("name", "kind", "default", "provider", "text"), r, strict=True)) for r in rows])
        return
    shown = [(name, kind, "on" if default else "off", *rest) for name, kind, default, *rest in rows]
    print_table("passes", ["name", "over", "default", "from", "what it does"], shown)


def _rows() -> Iterator[tuple[str, str, bool, str, str]]:
    """Name, kind, whether it runs by default, package, first line of its description."""
    from fusec.passes.default import FUSION_PASSES, GRAPH_PASSES, OPTIONAL_PASSES
    from fusec.rewrite import registry
    from fusec.rewrite.fusion import FusionPass
    from fusec.rewrite.pipeline import flatten

    default = [*(p.name for p in flatten(GRAPH_PASSES)), *(p.name for p in FUSION_PASSES)]
    for name in dict.fromkeys([*default, *(p.name for p in OPTIONAL_PASSES), *registry.known()]):
        provider = registry.provider(name)
        try:
            found = registry.get(name)
        except UsageError as e:  # a package that is broken
            yield name, "-", False, provider, e.message
        else:
            yield name, "fusion" if isinstance(found, FusionPass) else "graph", name in default, provider, found.doc
