"""`fusec verify`: are the answers right, and how close?"""

from __future__ import annotations

import click

from fusec.cli.setup import Setup, run_options
from fusec.cli.text import print_json, print_table
from fusec.errors import CheckFailed, UsageError
from fusec.measure.accuracy import Difference


@click.command()
@click.option("--plan", "plan_file", default=None, help="Check this plan of MODEL instead of compiling it.")
@click.option("--against", type=click.Choice(["reference", "onnxruntime"]), default="reference", show_default=True)
@click.option(
    "--tolerance", type=click.FloatRange(0), default=1e-4, show_default=True, help="Largest |a-b| / (1 + peak)."
)
@click.option("--seeds", type=click.IntRange(1), default=1, show_default=True, help="How many sets of inputs.")
@run_options
def command(setup: Setup, plan_file: str | None, against: str, tolerance: float, seeds: int) -> None:
    """Compare a compiled model with a float64 reference, or with onnxruntime without optimisations."""
    if setup.is_plan:
        raise UsageError(
            "verify needs the model, since a plan holds no reference", hint="fusec verify MODEL.onnx --plan PLAN"
        )
    worst = _compare(setup, plan_file, against, seeds)
    failed = [d.name for d in worst if not d.passes(tolerance)]
    if setup.as_json:
        outputs = [_document(d, tolerance) for d in worst]
        print_json(
            {"against": against, "tolerance": tolerance, "seeds": seeds, "outputs": outputs, "passed": not failed}
        )
    else:
        print_table(
            f"against {against}, tolerance {tolerance:g}",
            ["output", "max abs", "max rel", "minimum required tolerance", "at", "verdict"],
            [_row(d, tolerance) for d in worst],
            "123",
        )
    if failed:
        if setup.as_json:
            raise click.exceptions.Exit(CheckFailed.exit_code)
        raise CheckFailed(
            f"{len(failed)} of {len(worst)} outputs differ by more than {tolerance:g}: {', '.join(failed)}"
        )


def _compare(setup: Setup, plan_file: str | None, against: str, seeds: int) -> list[Difference]:
    """The largest difference of each output over all sets of inputs."""
    from fusec.api import Options
    from fusec.measure.accuracy import compare
    from fusec.measure.oracles import float64_oracle, onnxruntime_oracle

    options = setup.options()
    oracle = float64_oracle(setup.model, options.limits) if against == "reference" else onnxruntime_oracle(setup.model)
    plain = Options(dims=options.dims, limits=options.limits)  # a plan is compiled already
    session = setup.open(plan_file, plain if plan_file else options)
    names = [v.name for v in session.outputs]
    worst: dict[str, Difference] = {}
    for i in range(seeds):
        feeds = setup.feeds(session, i)
        for d in compare(names, session.run_list(feeds, names), oracle(feeds)):
            if d.name not in worst or d.required > worst[d.name].required:
                worst[d.name] = d
    return list(worst.values())


def _document(d: Difference, tolerance: float) -> dict[str, object]:
    return {
        "name": d.name,
        "max_abs": d.max_abs,
        "max_rel": d.max_rel,
        "minimum_required_tolerance": d.required,
        "index_of_max": list(d.where),
        "problem": d.problem,
        "passed": d.passes(tolerance),
    }


def _row(d: Difference, tolerance: float) -> list[object]:
    verdict = d.problem or ("ok" if d.passes(tolerance) else "over")
    return [d.name, f"{d.max_abs:.3g}", f"{d.max_rel:.3g}", f"{d.required:.3g}", d.where, verdict]
