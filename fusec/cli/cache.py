"""`fusec cache`: the private store of machine code on this host."""

from __future__ import annotations

import click

from fusec.cli.options import output_options
from fusec.cli.text import print_json
from fusec.errors import UsageError
from fusec.knobs import format_bytes


@click.command()
@click.argument("action", type=click.Choice(["info", "verify", "clear"]), default="info")
@output_options
def command(action: str, as_json: bool, quiet: bool, traceback: bool) -> None:
    """Look at (info), check (verify) or empty (clear) the cache of machine code."""
    from fusec.api import open_cache

    del quiet, traceback
    cache = open_cache()
    info = cache.info()
    document: dict[str, object] = {"folder": str(info.directory or ""), "entries": info.entries, "bytes": info.bytes}
    text = f"{info.directory or 'in memory only'}: {info.entries} entries, {format_bytes(info.bytes)}"
    if info.directory is None and action != "info":
        raise UsageError(
            "there is no cache folder to work on", hint="see FUSEC_CACHE and FUSEC_CACHE_DIR in fusec doctor"
        )
    if action == "verify":
        good, bad = cache.verify()
        document |= {"verified": good, "damaged_and_removed": bad}
        text += f"\nverified {good}, damaged and removed {bad}"
    elif action == "clear":
        removed = cache.clear()
        document |= {"removed": removed}
        text = f"removed {removed} entries"
    if as_json:
        print_json(document)
    else:
        click.echo(text)
