"""`fusec explain`: every edge of the graph, and why it was closed or not."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from fusec.cli.options import compile_options, model_argument, output_options
from fusec.cli.text import plural, print_json, print_table, short_label
from fusec.errors import UsageError, nearest

if TYPE_CHECKING:
    from fusec.rewrite.fused import Decision, FusedGraph

REASONS = 25
"""How many reasons the summary names at most."""


@click.command()
@model_argument
@click.option("--all", "everything", is_flag=True, help="Every verdict on every edge, not a summary.")
@click.option("--closed", is_flag=True, help="Only edges that were closed.")
@click.option("--refused", is_flag=True, help="Only edges that stayed open.")
@click.option("--rule", default=None, metavar="RULE", help="Only what one fusion pass said.")
@click.option("--edge", "edges", multiple=True, metavar="VALUE", help="Only edges of values with this in their name.")
@compile_options
@output_options
def command(
    model: str,
    everything: bool,
    closed: bool,
    refused: bool,
    rule: str | None,
    edges: tuple[str, ...],
    as_json: bool,
    quiet: bool,
    traceback: bool,
    **flags: Any,
) -> None:
    """Show the verdicts of the fusion passes on the edges between operators.

    Without a filter a summary; --all, --closed, --refused, --rule and --edge show the verdicts themselves.
    """
    from fusec import api
    from fusec.cli.opening import is_plan, make_options

    del traceback, quiet
    if is_plan(model):
        raise UsageError("explain needs the model: a plan holds the result of fusion, not its reasons")
    if closed and refused:
        raise UsageError("--closed and --refused leave nothing to show", hint="give one of them, or --all")
    fused = api.fuse_model(model, make_options(**flags), api.new_trace())
    chosen = _choose(fused, closed, refused, rule, edges)
    if as_json:
        print_json(_document(fused, chosen))
    elif everything or closed or refused or rule or edges:
        rows = [
            [d.value, short_label(d.producer), short_label(d.consumer), d.rule, _state(d), d.verdict.why]
            for d in chosen
        ]
        print_table(_title(fused), ["value", "producer", "consumer", "rule", "edge", "why"], rows)
    else:
        _summarise(fused, chosen)


def _choose(fused: FusedGraph, closed: bool, refused: bool, rule: str | None, edges: Sequence[str]) -> list[Decision]:
    """The verdicts that a user asked for. UsageError for a rule or an edge that does not exist."""
    rules = sorted({d.rule for d in fused.decisions})
    if rule is not None and rule not in rules:
        raise UsageError(f"no fusion pass {rule!r} judged an edge of this model", hint=nearest(rule, rules))
    values = list(dict.fromkeys(d.value for d in fused.decisions))
    for e in edges:
        if not any(e in v for v in values):
            raise UsageError(f"no edge of a value like {e!r}", hint=nearest(e, values))
    return [
        d
        for d in fused.decisions
        if not (refused and d.verdict.ok)
        and not (closed and not d.verdict.ok)
        and (rule is None or d.rule == rule)
        and (not edges or any(e in d.value for e in edges))
    ]


def _summarise(fused: FusedGraph, decisions: Sequence[Decision]) -> None:
    """Edges per rule, and the reasons that kept edges open, most frequent first."""
    rules = list(dict.fromkeys(d.rule for d in decisions))
    count = Counter((d.rule, d.verdict.ok) for d in decisions)
    print_table(
        _title(fused), ["rule", "edges closed", "refused"], [[r, count[r, True], count[r, False]] for r in rules], "12"
    )
    reasons: dict[tuple[str, str], list[Decision]] = {}
    for d in decisions:
        if not d.verdict.ok:
            # reasons that differ in nothing but the value they name are one reason
            why = d.verdict.why
            if why.startswith((f"{d.value} is ", f"{d.value} has ")):
                why = "the value" + why.removeprefix(d.value)
            reasons.setdefault((d.rule, why), []).append(d)
    ranked = sorted(reasons.items(), key=lambda item: -len(item[1]))
    rows = [[len(ds), rule, why, ds[0].value] for (rule, why), ds in ranked[:REASONS]]
    if rows:
        print_table("why edges stayed open", ["times", "rule", "why", "first edge"], rows, "0")
    if len(ranked) > REASONS:
        click.echo(f"  and {len(ranked) - REASONS} rarer reasons")
    click.echo("more: --all, --closed, --refused, --rule RULE, --edge VALUE")


def _title(fused: FusedGraph) -> str:
    closed = sum(d.verdict.ok for d in fused.decisions)
    still = {(d.value, d.producer, d.consumer) for d in fused.decisions if not d.verdict.ok}
    groups, edges = plural(len(fused.groups), "group"), plural(closed, "edge")
    return f"{plural(len(fused.graph.nodes), 'node')} in {groups}: {edges} closed, {len(still):,} open"


def _state(d: Decision) -> str:
    return "closed" if d.verdict.ok else "open"


def _document(fused: FusedGraph, chosen: Sequence[Decision]) -> dict[str, Any]:
    edges = [
        {"producer": d.producer, "consumer": d.consumer, "value": d.value, "rule": d.rule, "closed": d.verdict.ok,
         "why": d.verdict.why}
        for d in chosen
    ]  # fmt: skip
    return {"nodes": len(fused.graph.nodes), "groups": len(fused.groups), "edges": edges}
