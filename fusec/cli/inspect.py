"""`fusec inspect`: inputs, outputs, operators, kernels, memory, and the code of any kernel."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

import click

from fusec.cli.options import compile_options, model_argument, output_options, parse_dims, thread_option
from fusec.cli.text import print_json, print_table, printable
from fusec.errors import UsageError, nearest


@click.command()
@model_argument
@click.option("--kernels", is_flag=True, help="One row per kernel, with the ONNX nodes it computes.")
@click.option("--nodes", is_flag=True, help="The optimised graph, or a plan's fused graph, as text.")
@click.option("--weights", is_flag=True, help="One row per stored weight: layout and recipe.")
@click.option("--program", "program", default=None, metavar="P", help="The tile program of a kernel.")
@click.option("--source", "source", default=None, metavar="P", help="The LLVM IR of a kernel.")
@click.option("--asm", "asm", default=None, metavar="P", help="The machine code of a kernel, disassembled by LLVM.")
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
    from fusec import api
    from fusec.cli.opening import is_plan, make_options, open_plan
    from fusec.cli.summary import calls_of, describe_plan, plan_document

    del traceback, quiet
    sizes = parse_dims(flags["dims"]) if is_plan(model) and schedule else {}
    if sizes:
        flags["dims"] = ()  # a plan is compiled already: these are what its symbols shall be in the schedule
    plan = open_plan(model, make_options(**flags), api.new_trace())
    for name in (program, source, asm):
        if name is not None and name not in plan.kernels:
            raise UsageError(f"no program {name!r}", hint=nearest(name, list(plan.kernels)))
    if as_json:
        document = plan_document(plan)
        document["weights"] = [
            {"name": w.value.name, "type": str(w.value.type), "layout": str(w.layout), "recipe": w.recipe}
            for w in plan.weights.values()
        ]
        if schedule:
            from fusec.cli.schedules import schedule_document, schedules_of

            document["schedules"] = [schedule_document(t, s) for t, s in schedules_of(plan, sizes, _workers(threads))]
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
        _show_schedules(plan, sizes, _workers(threads))
    if any((program, source, asm, nodes, weights, kernels, schedule)):
        return
    for line in describe_plan(plan):
        click.echo(line)
    ops = Counter(c.label for c in calls_of(plan))
    print_table("kernels by what they fuse", ["ops", "count"], [[k, n] for k, n in ops.most_common(30)], "1")
    click.echo("more: --kernels, --nodes, --weights, --program P, --source P, --asm P, --schedule")


def _show_code(plan: Any, source: str | None, asm: str | None) -> None:
    """Emit the kernels of one program again, as text or as assembly."""
    from fusec.kernels import backend

    maker = backend.get(plan.target.kind)
    for kernel in plan.kernels[source or asm]:
        text = maker.emit(kernel, plan.target)
        click.echo(text.text if source is not None else maker.assembly(text, plan.target))


def _show_schedules(plan: Any, sizes: Mapping[str, int], workers: int) -> None:
    from fusec.cli.schedules import schedules_of
    from fusec.schedule.render import render

    for title, schedule in schedules_of(plan, sizes, workers):
        click.echo(f"{printable(title)}: {render(schedule)}")


def _workers(threads: int | None) -> int:
    from fusec.runtime.workers import check_workers, default_workers

    return default_workers() if threads is None else check_workers(threads)
