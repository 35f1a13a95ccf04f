"""`fusec bench`: what fusion buys, measured in interleaved rounds with the noise floor beside it."""

from __future__ import annotations

import os
from typing import Any

import click
from click.core import ParameterSource

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
from fusec.cli.text import format_seconds, print_json, print_table, say
from fusec.errors import UsageError

SUBJECT, TWIN = "fusec", "fusec again"


@click.command()
@model_argument
@click.option("--vs", default="unfused,onnxruntime", show_default=True, help="Rivals: unfused, onnxruntime.")
@click.option("--rounds", type=click.IntRange(5), default=40, show_default=True, help="Interleaved rounds.")
@click.option(
    "--tolerance", type=float, default=1e-3, show_default=True, help="Rivals that differ by more are not timed."
)
@input_option
@seed_option
@thread_option
@compile_options
@output_options
def command(
    model: str,
    vs: str,
    rounds: int,
    tolerance: float,
    inputs: tuple[str, ...],
    seed: int,
    threads: int | None,
    as_json: bool,
    quiet: bool,
    traceback: bool,
    **flags: Any,
) -> None:
    """Time fusec against its unfused self and onnxruntime.

    All subjects run in one process, the same threads and inputs, once per round in random order. `fusec again` is the
    same session a second time: its ratio to itself is the noise below which no difference means anything.
    """
    from dataclasses import replace

    from fusec.cli.opening import is_plan, make_options, open_session
    from fusec.measure.accuracy import compare
    from fusec.measure.rivals import has_onnxruntime, onnxruntime_subject
    from fusec.measure.rounds import measure

    del traceback
    rivals = [v.strip() for v in vs.split(",") if v.strip()]
    if unknown := sorted(set(rivals) - {"unfused", "onnxruntime"}):
        raise UsageError(f"unknown rival {unknown[0]!r}", hint="known: unfused, onnxruntime")
    if is_plan(model):
        if click.get_current_context().get_parameter_source("vs") is not ParameterSource.DEFAULT:
            raise UsageError("a plan holds no model for rivals to run", hint="give the .onnx instead of the plan")
        rivals = []
    options = make_options(**flags)
    session = open_session(model, options, threads).session
    names = [v.name for v in session.outputs]
    given = read_inputs(inputs, [v.name for v in session.inputs])
    feeds = complete_feeds(given, session.inputs, seed, parse_dims(flags["dims"]))
    subjects: dict[str, Any] = {
        SUBJECT: lambda: session.run_list(feeds, names),
        TWIN: lambda: session.run_list(feeds, names),
    }
    want, notes = session.run_list(feeds, names), list[str]()
    if "unfused" in rivals:
        unfused = open_session(model, replace(options, fuse=False), threads).session
        subjects["unfused"] = lambda: unfused.run_list(feeds, names)
    if "onnxruntime" in rivals:
        if has_onnxruntime():
            subjects["onnxruntime"] = onnxruntime_subject(model, feeds, session.threads)
        else:
            notes.append("onnxruntime is not installed: pip install 'fusec[bench]'")
    for name in [n for n in subjects if n not in (SUBJECT, TWIN)]:
        bad = [d for d in compare(names, subjects[name](), want) if not d.passes(tolerance)]
        if bad:
            notes.append(f"{name} is not timed: {bad[0].name} differs, {bad[0].problem or f'{bad[0].required:.2g}'}")
            del subjects[name]
    samples = measure(subjects, rounds=rounds, between=_progress(rounds, quiet or as_json))
    noise = samples.ratio(TWIN, SUBJECT)
    document: dict[str, Any] = {
        "threads": session.threads,
        "rounds": rounds,
        "noise": noise.__dict__,
        "notes": notes,
        "systems": [],
    }
    rows = []
    for name in subjects:
        p50, p90, p99 = (samples.percentile(name, q) for q in (50, 90, 99))
        ratio = None if name in (SUBJECT, TWIN) else samples.ratio(name, SUBJECT)
        told = "-" if ratio is None else str(ratio) + ("" if _distinct(ratio, noise) else "  not distinguishable")
        rows.append([name, *(format_seconds(p) for p in (p50, p90, p99)), f"{1 / p50:,.0f}", told])
        document["systems"].append(
            {"name": name, "p50_s": p50, "p90_s": p90, "p99_s": p99, "speed_up": ratio and ratio.__dict__}
        )
    if as_json:
        print_json(document)
        return
    print_table(
        f"single stream · f32 · {session.threads} thread(s) · {rounds} interleaved rounds",
        ["system", "p50", "p90", "p99", "per second", "fusec is faster by [95 % interval]"],
        rows,
        "1234",
    )
    click.echo(f"noise: fusec against itself {noise}")
    for note in notes:
        say(note)


def _distinct(ratio: Any, noise: Any) -> bool:
    """Whether an interval lies outside 1 and outside what the subject shows against itself."""
    floor = max(noise.high, 1 / noise.low, 1.0)
    return bool(ratio.low > floor or ratio.high < 1 / floor)


def _progress(rounds: int, silent: bool) -> Any:
    """A line every quarter, printed between rounds and never while something is timed."""
    if silent or os.environ.get("FUSEC_PROGRESS") == "off":
        return None

    def tell(r: int) -> None:
        if (r + 1) % max(1, rounds // 4) == 0 and r + 1 < rounds:
            say(f"  round {r + 1} of {rounds}")

    return tell
