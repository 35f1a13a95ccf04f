"""`fusec compile`: a model in, a plan file out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from fusec.cli.options import compile_options, model_argument, output_options, thread_option
from fusec.cli.text import print_json, say


@click.command()
@model_argument
@click.option(
    "-o", "--output", type=click.Path(path_type=Path), default=None, help="The plan file.  [default: MODEL.fplan]"
)
@click.option("-f", "--force", is_flag=True, help="Replace an existing plan file.")
@thread_option
@compile_options
@output_options
def command(
    model: str,
    output: Path | None,
    force: bool,
    threads: int | None,
    as_json: bool,
    quiet: bool,
    traceback: bool,
    **flags: Any,
) -> None:
    """Compile an ONNX model into a plan file.

    The plan is data: graph, tile programs, weights and choices. Machine code stays in this host's private cache.
    """
    from fusec import api
    from fusec.cli.opening import make_options
    from fusec.cli.summary import describe_plan, plan_document, stage_lines
    from fusec.plan.file import save

    del traceback
    output = output or Path(Path(model).name).with_suffix(".fplan")
    api.check_writable(output, force)
    trace = api.new_trace()
    plan = api.compile_plan(model, make_options(**flags), trace)
    session = api.open_session(plan, threads=threads, trace=trace)
    del session
    with trace.stage("write"):
        digest = save(plan, output, force=force)
    if as_json:
        print_json({"plan": str(output), "sha256": digest, **plan_document(plan, trace)})
        return
    if not quiet:
        for line in (*stage_lines(trace), *describe_plan(plan)):
            say(line)
        say(f"next: fusec bench {output}")
    click.echo(f"wrote {output}  sha256 {digest}")
