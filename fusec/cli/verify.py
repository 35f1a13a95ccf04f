"""`fusec verify`: are the answers right, and how close?"""

from __future__ import annotations

from typing import Any

import click

from fusec.cli.options import (
    compile_options,
    complete_feeds,
    input_option,
    model_argument,
    output_options,
    parse_dims,
    read_inputs,
    seed_option,
    thread_option,
)
from fusec.cli.text import print_json, print_table
from fusec.errors import CheckFailed, UsageError
from fusec.measure.accuracy import Difference


@click.command()
@model_argument
@click.option("--plan", "plan_file", default=None, help="Check this plan of MODEL instead of compiling it.")
@click.option("--against", type=click.Choice(["reference", "onnxruntime"]), default="reference", show_default=True)
@click.option("--tolerance", type=float, default=1e-4, show_default=True, help="Largest |a-b| / (1 + peak).")
@click.option("--seeds", type=click.IntRange(1), default=1, show_default=True, help="How many sets of inputs.")
@input_option
@seed_option
@thread_option
@compile_options
@output_options
def command(
    model: str,
    plan_file: str | None,
    against: str,
    tolerance: float,
    seeds: int,
    inputs: tuple[str, ...],
    seed: int,
    threads: int | None,
    as_json: bool,
    quiet: bool,
    traceback: bool,
    **flags: Any,
) -> None:
    """Compare a compiled model with a float64 reference, or with onnxruntime without optimisations."""
    from fusec.cli.opening import is_plan, make_options, open_session
    from fusec.measure.accuracy import compare
    from fusec.measure.oracles import float64_oracle, onnxruntime_oracle

    del traceback
    if is_plan(model):
        raise UsageError(
            "verify needs the model, since a plan holds no reference", hint="fusec verify MODEL.onnx --plan PLAN"
        )
    options = make_options(**flags)
    oracle = float64_oracle(model, options.limits) if against == "reference" else onnxruntime_oracle(model)
    plain = make_options(None, (), (), "", False, flags["max_memory"], flags["allow_newer_opset"])
    session = open_session(plan_file or model, plain if plan_file else options, threads).session
    names, worst = [v.name for v in session.outputs], dict[str, Any]()
    for s in range(seed, seed + seeds):
        given = read_inputs(inputs, [v.name for v in session.inputs])
        feeds = complete_feeds(given, session.inputs, s, parse_dims(flags["dims"]), quiet or as_json or s > seed)
        for d in compare(names, session.run_list(feeds, names), oracle(feeds)):
            if d.name not in worst or d.required > worst[d.name].required:
                worst[d.name] = d
    failed = [d.name for d in worst.values() if not d.passes(tolerance)]
    if as_json:
        outputs = [
            {"name": d.name, "max_abs": d.max_abs, "max_rel": d.max_rel, "minimum_required_tolerance": d.required,
             "index_of_max": list(d.where), "problem": d.problem, "passed": d.passes(tolerance)}
            for d in worst.values()
        ]  # fmt: skip
        print_json(
            {"against": against, "tolerance": tolerance, "seeds": seeds, "outputs": outputs, "passed": not failed}
        )
    else:
        rows = [
            [
                d.name,
                f"{d.max_abs:.3g}",
                f"{d.max_rel:.3g}",
                f"{d.required:.3g}",
                d.where,
                d.problem or _verdict(d, tolerance),
            ]
            for d in worst.values()
        ]
        print_table(
            f"against {against}, tolerance {tolerance:g}",
            ["output", "max abs", "max rel", "minimum required tolerance", "at", "verdict"],
            rows,
            "123",
        )
    if failed:
        if as_json:
            raise click.exceptions.Exit(CheckFailed.exit_code)
        raise CheckFailed(
            f"{len(failed)} of {len(worst)} outputs differ by more than {tolerance:g}: {', '.join(failed)}"
        )


def _verdict(d: Difference, tolerance: float) -> str:
    return "ok" if d.passes(tolerance) else "over"
