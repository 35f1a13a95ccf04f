"""`fusec bench`: what fusion buys, measured in interleaved rounds with the noise floor beside it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, replace
from typing import Any

import click
from click.core import ParameterSource

from fusec.cli import progress
from fusec.cli.setup import Setup, run_options
from fusec.cli.text import format_seconds, plural, print_json, print_table, printable, say
from fusec.errors import UsageError, nearest
from fusec.measure.rivals import RIVALS
from fusec.measure.rounds import Ratio, Samples
from fusec.runtime.session import Session

SUBJECT, TWIN = "fusec", "fusec again"
UNFUSED = "unfused"


@click.command()
@click.option("--vs", default="unfused,onnxruntime", show_default=True, help="Rivals: unfused, onnxruntime, openvino.")
@click.option("--rounds", type=click.IntRange(5), default=40, show_default=True, help="Interleaved rounds.")
@click.option(
    "--tolerance", type=float, default=1e-3, show_default=True, help="Rivals that differ by more are not timed."
)
@run_options
def command(setup: Setup, vs: str, rounds: int, tolerance: float) -> None:
    """Time fusec against its unfused self, onnxruntime and OpenVINO.

    All subjects run in one process, the same threads and inputs, once per round in random order. `fusec again` is the
    same session a second time: its ratio to itself is the noise below which no difference means anything.
    """
    from fusec.measure.rounds import measure

    rivals = _rivals(vs)
    if setup.is_plan:
        if click.get_current_context().get_parameter_source("vs") is not ParameterSource.DEFAULT:
            raise UsageError("a plan holds no model for rivals to run", hint="give the .onnx instead of the plan")
        rivals = []
    session = setup.open()
    feeds = setup.feeds(session)
    subjects: dict[str, Any] = dict.fromkeys((SUBJECT, TWIN), lambda: session.run_list(feeds))
    notes: list[str] = []
    for name in rivals:
        if (rival := _open_rival(name, setup, session, feeds, tolerance, notes)) is not None:
            subjects[name] = rival
    samples = measure(subjects, rounds=rounds, between=progress.rounds(rounds, setup.silent))
    _tell(setup, session, feeds, samples, notes)


def _tell(setup: Setup, session: Session, feeds: Any, samples: Samples, notes: list[str]) -> None:
    """The table, or the document, with the noise floor beside it."""
    noise = samples.ratio(TWIN, SUBJECT)
    floor = noise_floor(noise)
    systems = [_system(name, samples, floor) for name in samples.names]
    sizes = {n: f"{a.dtype}{list(a.shape)}" for n, a in feeds.items()}
    rounds = samples.seconds.shape[1]
    if setup.as_json:
        told = {"inputs": sizes, "threads": session.threads, "rounds": rounds, "notes": notes, "systems": systems}
        print_json(told | {"noise": asdict(noise), "noise_floor": floor})
        return
    print_table(
        f"{setup.model} on {session.plan.target}, {plural(session.threads, 'thread')}, {rounds} interleaved rounds",
        ["system", "p50", "p90", "p99", "per second", "fusec is faster by [95 % interval]"],
        [_row(s) for s in systems],
        "1234",
    )
    click.echo("inputs: " + ", ".join(f"{printable(n)} {t}" for n, t in sizes.items()))
    click.echo(f"noise: fusec against itself {noise}; ratios within {1 / floor:.2f} to {floor:.2f} mean nothing")
    for note in notes:
        say(f"note: {note}")


def _rivals(text: str) -> list[str]:
    names = list(dict.fromkeys(v.strip() for v in text.split(",") if v.strip()))
    known = [UNFUSED, *RIVALS]
    if unknown := [n for n in names if n not in known]:
        raise UsageError(f"unknown rival {unknown[0]!r}", hint=nearest(unknown[0], known))
    return names


def _open_rival(
    name: str, setup: Setup, session: Session, feeds: Any, tolerance: float, notes: list[str]
) -> Callable[[], list[Any]] | None:
    """What to call for a rival; None, and a note that says why, where it is absent or its answers differ."""
    from fusec.measure.accuracy import compare

    names = [v.name for v in session.outputs]
    if name == UNFUSED:
        unfused = setup.open(options=replace(setup.options(), fuse=False))
        call: Callable[[], list[Any]] = lambda: unfused.run_list(feeds)  # noqa: E731
    else:
        is_installed, subject, extra = RIVALS[name]
        if not is_installed():
            notes.append(f"{name} is not installed: pip install '{extra}'")
            return None
        try:
            call = subject(setup.model, feeds, session.threads)
        except Exception as e:  # each runtime has exceptions of its own
            lines = str(e).strip().splitlines() or [type(e).__name__]
            notes.append(f"{name} cannot run this model: {lines[-1]}")
            return None
    differences = compare(names, call(), session.run_list(feeds))
    bad = [d for d in differences if not d.passes(tolerance)]
    if bad:
        notes.append(f"{name} is not timed: {bad[0].name} differs, {bad[0].problem or f'{bad[0].required:.2g}'}")
        return None
    worst = max((d.required for d in differences), default=0.0)
    notes.append(f"answers of {name} agree: tolerance {worst:.1e} would do")
    return call


def noise_floor(noise: Ratio) -> float:
    """The factor below which a ratio means nothing: the farthest end of what the subject shows against itself."""
    return max(noise.high, 1 / noise.low, 1.0)


def _system(name: str, samples: Samples, floor: float) -> dict[str, Any]:
    p50, p90, p99 = (samples.percentile(name, q) for q in (50, 90, 99))
    ratio = None if name in (SUBJECT, TWIN) else samples.ratio(name, SUBJECT)
    distinct = ratio is not None and (ratio.low > floor or ratio.high < 1 / floor)
    told = None if ratio is None else asdict(ratio)
    return {"name": name, "p50_s": p50, "p90_s": p90, "p99_s": p99, "speed_up": told, "distinguishable": distinct}


def _row(system: dict[str, Any]) -> list[object]:
    p50, p90, p99 = system["p50_s"], system["p90_s"], system["p99_s"]
    told = "-"
    if system["speed_up"] is not None:
        told = str(Ratio(**system["speed_up"])) + ("" if system["distinguishable"] else "  not distinguishable")
    return [system["name"], *(format_seconds(p) for p in (p50, p90, p99)), f"{1 / p50:,.0f}", told]
