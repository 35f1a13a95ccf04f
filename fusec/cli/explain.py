"""`fusec explain`: every edge of the graph, and why it was closed or not."""

from __future__ import annotations

from typing import Any

import click

from fusec.cli.options import compile_options, model_argument, output_options
from fusec.cli.text import print_json, print_table
from fusec.errors import UsageError


@click.command()
@model_argument
@click.option("--refused", is_flag=True, help="Only edges that stayed open.")
@click.option("--rule", default=None, help="Only what one fusion pass said.")
@compile_options
@output_options
def command(
    model: str, refused: bool, rule: str | None, as_json: bool, quiet: bool, traceback: bool, **flags: Any
) -> None:
    """Show the verdict of every fusion pass on every edge between two operators."""
    from fusec import api
    from fusec.cli.opening import is_plan, make_options

    del traceback, quiet
    if is_plan(model):
        raise UsageError("explain needs the model: a plan holds the result of fusion, not its reasons")
    fused = api.fuse_model(model, make_options(**flags), api.new_trace())
    chosen = [d for d in fused.decisions if not (refused and d.verdict.ok) and (rule is None or d.rule == rule)]
    if as_json:
        edges = [
            {"producer": d.producer, "consumer": d.consumer, "value": d.value, "rule": d.rule, "closed": d.verdict.ok,
             "why": d.verdict.why}
            for d in chosen
        ]  # fmt: skip
        print_json({"nodes": len(fused.graph.nodes), "groups": len(fused.groups), "edges": edges})
        return
    rows = [
        [d.producer, d.consumer, d.value, d.rule, "closed" if d.verdict.ok else "open", d.verdict.why] for d in chosen
    ]
    print_table(
        f"{len(fused.graph.nodes)} nodes in {len(fused.groups)} groups",
        ["producer", "consumer", "value", "rule", "edge", "why"],
        rows,
    )
