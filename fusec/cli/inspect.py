"""`fusec inspect`: inputs, outputs, operators, kernels, memory, and the code of any kernel."""

from __future__ import annotations

from collections import Counter
from typing import Any

import click

from fusec.cli.options import compile_options, model_argument, output_options
from fusec.cli.text import print_json, print_table
from fusec.errors import UsageError, nearest


@click.command()
@model_argument
@click.option("--kernels", is_flag=True, help="One row per kernel, with the ONNX nodes it computes.")
@click.option("--nodes", is_flag=True, help="The optimised graph, or a plan's fused graph, as text.")
@click.option("--weights", is_flag=True, help="One row per stored weight: layout and recipe.")
@click.option("--program", "program", default=None, metavar="P", help="The tile program of a kernel.")
@click.option("--source", "source", default=None, metavar="P", help="The LLVM IR of a kernel.")
@click.option("--asm", "asm", default=None, metavar="P", help="The machine code of a kernel, disassembled by LLVM.")
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
    as_json: bool,
    quiet: bool,
    traceback: bool,
    **flags: Any,
) -> None:
    """Show what is inside a model (as it would be compiled) or a plan. Nothing is run."""
    from fusec import api
    from fusec.cli.opening import make_options, open_plan
    from fusec.cli.summary import calls_of, describe_plan, plan_document

    del traceback, quiet
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
    if any((program, source, asm, nodes, weights, kernels)):
        return
    for line in describe_plan(plan):
        click.echo(line)
    ops = Counter(c.label for c in calls_of(plan))
    print_table("kernels by what they fuse", ["ops", "count"], [[k, n] for k, n in ops.most_common(30)], "1")
    click.echo("more: --kernels, --nodes, --weights, --program P, --source P, --asm P")


def _show_code(plan: Any, source: str | None, asm: str | None) -> None:
    """Emit the kernels of one program again, as text or as assembly."""
    from fusec.kernels.cpu.emit import emit
    from fusec.kernels.cpu.llvm import assembly

    for kernel in plan.kernels[source or asm]:
        text = emit(kernel, plan.target)
        click.echo(text.text if source is not None else assembly(text.text, plan.target.level))
