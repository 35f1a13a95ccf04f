"""`fusec inspect`: inputs, outputs, operators, kernels, memory, and the code of any kernel."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

import click

from fusec.cli.options import compile_options, model_argument, output_options, parse_dims, thread_option
from fusec.cli.text import print_json, print_table, printable, short_label
from fusec.errors import UsageError, nearest

if TYPE_CHECKING:
    from fusec.api import Stages
    from fusec.plan.plan import Plan

SHOWN = 25
"""Rows of the overview's longest table."""


@click.command()
@model_argument
@click.option("--kernels", is_flag=True, help="One row per kernel, with the ONNX nodes it computes.")
@click.option("--nodes", is_flag=True, help="The optimised graph, or a plan's fused graph, as text.")
@click.option("--weights", is_flag=True, help="One row per stored weight: layout and recipe.")
@click.option("--program", "program", default=None, metavar="P", help="The tile program of a kernel.")
@click.option("--source", "source", default=None, metavar="P", help="The LLVM IR or CUDA C++ of a kernel.")
@click.option("--asm", "asm", default=None, metavar="P", help="The machine code of a kernel; for CUDA what NVRTC says.")
@click.option("--schedule", is_flag=True, help="Each region's task lists, waits and arena, for --dim and --threads.")
@thread_option
@compile_options
@output_options
def command(
    model: str,
    kernels: bool,
    nodes: bool,
    weights: bool,
    program: str | None,
    source: str | None,
    asm: str | None,
    schedule: bool,
    threads: int | None,
    as_json: bool,
    quiet: bool,
    traceback: bool,
    **flags: Any,
) -> None:
    """Show what is inside a model (as it would be compiled) or a plan. Nothing is run."""
    from fusec.cli.opening import input_symbols, is_plan, make_options
    from fusec.cli.schedules import schedule_document, schedules_of
    from fusec.cli.summary import calls_of

    del traceback, quiet
    sizes = parse_dims(flags["dims"])
    plan, stages = _open(model, make_options(**flags))
    program, source, asm = (_find_program(plan, name) for name in (program, source, asm))
    named = any((program, source, asm, nodes, weights, kernels))
    missing = [] if named and not schedule else [s for s in input_symbols(plan) if s not in sizes]
    timed: list[Any] = []
    if schedule or not (named or missing):
        timed = list(schedules_of(plan, sizes if is_plan(model) else {}, threads))
    if as_json:
        document = _document(plan, stages)
        document["schedules"] = [schedule_document(t, s) for t, s in timed]
        print_json(document)
        return
    if program is not None:
        click.echo(str(plan.kernels[program][0].program))
    if source is not None or asm is not None:
        _show_code(plan, source, asm)
    if nodes:
        click.echo(plan.fused)
    if weights:
        stored = [[w.value.name, str(w.value.type), str(w.layout), w.recipe] for w in plan.weights.values()]
        print_table("weights", ["name", "type", "layout", "recipe"], stored)
    if kernels:
        rows = [[i, c.program.name, c.label, ", ".join(c.origin)] for i, c in enumerate(calls_of(plan))]
        print_table("kernels", ["#", "program", "ops", "from nodes"], rows, "0")
    if schedule:
        _show_schedules(timed)
    if not (named or schedule):
        _overview(plan, stages, timed, missing)


def _open(model: str, options: Any) -> tuple[Plan, Stages | None]:
    """A plan, and for a model what came before it."""
    from fusec import api
    from fusec.cli.opening import is_plan, open_plan

    if is_plan(model):
        return open_plan(model, options, api.new_trace()), None
    stages = api.compile_stages(model, options, api.new_trace())
    return stages.plan, stages


def _find_program(plan: Plan, name: str | None) -> str | None:
    """A program by name, by the beginning of its name, or by the number of a kernel. UsageError where there is none."""
    if name is None or name in plan.kernels:
        return name
    from fusec.cli.summary import calls_of

    calls = calls_of(plan)
    if name.isdecimal() and int(name) < len(calls):
        return str(calls[int(name)].program.name)
    found = [p for p in plan.kernels if p.startswith(name)]
    if len(found) != 1:
        raise UsageError(
            f"no program {name!r}", hint=f"{nearest(name, list(plan.kernels))}; the number of a kernel will do too"
        )
    return found[0]


def _overview(plan: Plan, stages: Stages | None, timed: list[Any], missing: list[str]) -> None:
    """What everybody wants to know first."""
    from fusec.cli.layers import layer_rows
    from fusec.cli.summary import calls_of, describe_plan, host_rows, memory_lines, op_rows

    for line in (*describe_plan(plan), *memory_lines(plan, timed)):
        click.echo(printable(line))
    if missing:
        wanted = " ".join(f"--dim {s}=.." for s in missing)
        click.echo(printable(f"  activations    depend on sizes: give {wanted}"))
    if stages is not None:
        columns = ["operator", "as read", "after passes", "kernels that compute it"]
        print_table("operators", columns, op_rows(stages), "123")
    ops = Counter(c.label for c in calls_of(plan))
    fused = [[short_label(label), n] for label, n in ops.most_common(SHOWN)]
    if fused:
        print_table("kernels by what they fuse", ["operators", "count"], fused, "1")
    if len(ops) > SHOWN:
        click.echo(f"  and {len(ops) - SHOWN} other kinds of kernels")
    if layers := layer_rows(plan):
        print_table("recurrent weights", ["program", "layers", "where they are", "first node"], layers, "1")
    if host := host_rows(plan):
        print_table("host steps", ["operator", "count", "why", "first node"], host, "1")
    click.echo("more: --kernels, --nodes, --weights, --program P, --source P, --asm P, --schedule")


def _document(plan: Plan, stages: Stages | None) -> dict[str, Any]:
    from fusec.cli.layers import layer_documents
    from fusec.cli.summary import op_rows, plan_document

    document = plan_document(plan)
    document["recurrent_weights"] = layer_documents(plan)
    document["weights"] = [
        {"name": w.value.name, "type": str(w.value.type), "layout": str(w.layout), "recipe": w.recipe}
        for w in plan.weights.values()
    ]
    if stages is not None:
        keys = ("op", "read", "optimised", "kernels")
        document["operators"] = [
            dict(zip(keys, (0 if x == "-" else x for x in row), strict=True)) for row in op_rows(stages)
        ]
    return document


def _show_code(plan: Any, source: str | None, asm: str | None) -> None:
    """Emit the kernels of one program again, as text or as assembly."""
    from fusec.kernels import backend

    maker = backend.get(plan.target.kind)
    for kernel in plan.kernels[source or asm]:
        text = maker.emit(kernel, plan.target)
        click.echo(text.text if source is not None else maker.assembly(text, plan.target))


def _show_schedules(timed: list[Any]) -> None:
    from fusec.schedule.render import render

    for title, schedule in timed:
        click.echo(f"{printable(title)}: {render(schedule)}")
