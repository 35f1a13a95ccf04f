"""`fusec compile`: a model in, a plan file out."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from fusec.cli.options import compile_options, model_argument, output_options
from fusec.cli.text import plural, print_json, print_table, printable, say
from fusec.errors import UsageError
from fusec.kernels.cuda import nvrtc
from fusec.knobs import format_bytes

if TYPE_CHECKING:
    from fusec.plan.plan import Plan
    from fusec.trace import Trace


@click.command()
@model_argument
@click.option(
    "-o", "--output", type=click.Path(path_type=Path), default=None, help="The plan file.  [default: MODEL.fplan, here]"
)
@click.option("-f", "--force", is_flag=True, help="Replace an existing plan file.")
@compile_options
@output_options
def command(
    model: str,
    output: Path | None,
    force: bool,
    as_json: bool,
    quiet: bool,
    traceback: bool,
    **flags: Any,
) -> None:
    """Compile an ONNX model into a plan file.

    The plan is data: graph, tile programs, weights and choices. Machine code stays in this host's private cache.
    """
    from fusec import api
    from fusec.cli.opening import is_plan, make_options
    from fusec.cli.progress import stages
    from fusec.cli.summary import describe_plan, op_rows, plan_document
    from fusec.plan.file import save

    del traceback
    if is_plan(model):
        raise UsageError(f"{model} is a plan already", hint="compile takes an .onnx model")
    output = output or Path(Path(model).name).with_suffix(".fplan")
    api.check_writable(output, force)
    trace, silent = api.new_trace(), as_json or quiet
    trace.finished = stages(silent or trace.debug > 0)
    made = api.compile_stages(model, make_options(**flags), trace)
    built = _build(made.plan, trace)  # machine code is made now, so that the first run need not
    with trace.stage("write"):
        digest = save(made.plan, output, force=force)
    if as_json:
        print_json({"plan": str(output), "sha256": digest, **plan_document(made.plan, trace)})
        return
    if not quiet:
        print_table(
            "operators",
            ["operator", "as read", "after passes", "kernels that compute it"],
            op_rows(made),
            "123",
            err=True,
        )
        for line in (*describe_plan(made.plan), *built):
            say(line)
        say(f"next: fusec inspect {output}, fusec run {output}, fusec bench {model}")
    click.echo(f"wrote {printable(str(output))}  sha256 {digest}")


def _build(plan: Plan, trace: Trace) -> list[str]:
    """Make the machine code of a plan, and say what is out of the ordinary about it.

    Code for a device that is not here is made too, where its compiler is here, and stays in the cache.
    """
    from fusec import api
    from fusec.kernels import backend
    from fusec.runtime.device.ahead import build_ahead

    if backend.runs_here(plan.target) or backend.device(plan.target.kind) is None:
        api.open_session(plan, threads=1, trace=trace)
        return []
    if plan.target.kind == "cuda" and not nvrtc.is_installed():
        told = "NVRTC or nvJitLink is not installed: pip install nvidia-cuda-nvrtc nvidia-nvjitlink"
        return [f"  no machine code for {plan.target} was made, {told}"]
    with trace.stage("codegen"):
        made = build_ahead(plan, api.open_cache())
    modules, kernels = plural(made.modules, "module"), plural(made.classes, "kernel")
    return [f"  {modules} of {kernels} for {plan.target}, {format_bytes(made.bytes)}; there is no such device here"]
