"""`fusec profile`: where the time of a run goes, kernel by kernel, and how far each is from what the machine can do."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click
import numpy as np

from fusec.cli import progress
from fusec.cli.setup import Setup, run_options
from fusec.cli.text import format_seconds, plural, print_json, print_table, printable, say, short_label

if TYPE_CHECKING:
    from fusec.measure.profile import Profile
    from fusec.measure.roofs import Roofs
    from fusec.measure.table import Row

NAME = 60
"""Characters of a node's name that the table shows; `--json` has all."""


@click.command()
@click.option(
    "--by", type=click.Choice(["kernel", "node", "op"]), default="kernel", show_default=True, help="Grouping."
)
@click.option("--top", type=click.IntRange(1), default=20, show_default=True, help="Rows to show.")
@click.option(
    "--rounds", type=click.IntRange(3), default=50, show_default=True, help="Runs, at most 20 seconds of them."
)
@click.option("--trace", type=click.Path(path_type=Path), default=None, help="Write a Chrome trace of a typical run.")
@click.option("-f", "--force", is_flag=True, help="Replace an existing trace.")
@run_options
def command(setup: Setup, by: str, top: int, rounds: int, trace: Path | None, force: bool) -> None:
    """Show where the time of a run goes.

    The model runs as it always does, and the driver notes when each task was ready and done; that costs about 50 ns a
    task. Times are medians over runs, summed over workers, and shares are of all that kernels and host steps take.

    GFLOP/s counts the operations of the algorithm that was chosen (a transcendental function as 20), GB/s every element
    that a kernel reads or writes once. `roof` is the least time that one core would need, by its arithmetic or by the
    bandwidth of the cache that holds the data (all weights of the model; otherwise what the kernel touches), in percent
    of the time taken. It needs `fusec calibrate`, and is too high where that ran on a busy machine.

    --by kernel has a row for each kernel and what it fuses, --by node one for each place in the model, --by op one for
    all kernels that fuse the same operators. Where several ONNX nodes are one kernel their shares cannot be told apart.
    """
    from fusec.api import check_writable, open_cache
    from fusec.cli.summary import body_documents, body_lines
    from fusec.measure.profile import profile
    from fusec.measure.roofs import stored_roofs
    from fusec.measure.table import chrome_trace, document, rows

    if trace is not None:
        check_writable(trace, force)
    session = setup.open()
    roofs = stored_roofs(open_cache(), session.plan.target)
    least = None if roofs is None else roofs.seconds_of
    found = profile(session, setup.feeds(session), rounds, least, progress.rounds(rounds, setup.silent))
    if trace is not None:
        trace.write_text(json.dumps(chrome_trace(found)), encoding="utf-8")
    if setup.as_json:
        told = None if roofs is None else {"calibrated": roofs.date, "calibration_noise": roofs.noise}
        about = {"model": setup.model, "target": str(session.plan.target)}
        if session.transfers is not None:
            about["transfers"] = str(session.transfers)
        print_json({**about, **document(found, by), "bodies": body_documents(session), "roofs": told})
        return
    _show(setup.model, found, rows(found, by), top, roofs)
    if session.transfers is not None:
        click.echo(f"transfers: {session.transfers} in a run")
    for line in body_lines(session):
        click.echo(printable(line))
    if roofs is None and not setup.quiet:
        say("note: no roofs are known for this machine; `fusec calibrate` measures them")


def _show(model: str, found: Profile, rows: list[Row], top: int, roofs: Roofs | None) -> None:
    columns = ["kernel", "operators", "calls", "time", "share", "GFLOP/s", "GB/s", "roof", "from nodes"]
    total, waiting = float(np.median(found.total)), [float(np.median(w)) for w in found.waiting]
    print_table(
        f"{model}, {plural(found.workers, 'worker')}, median of {plural(len(found.total), 'run')}",
        columns,
        [_cells(r) for r in rows[:top]],
        "234567",
    )
    if len(rows) > top:
        rest = sum(r.seconds for r in rows[top:])
        click.echo(
            f"and {len(rows) - top} more that take {format_seconds(rest)} together; --top {len(rows)} shows them"
        )
    low, high = (format_seconds(float(np.percentile(found.total, q))) for q in (10, 90))
    busy = sum(r.seconds for r in rows)
    host = sum(r.seconds for r in rows if r.gflops is None)
    click.echo(
        f"total: {format_seconds(total)} a run ({low} to {high}), {format_seconds(busy)} of work in kernels and steps"
    )
    if host:
        click.echo(f"host steps: {format_seconds(host)}, {100 * host / total:.0f} % of the run")
    click.echo("waiting: " + ", ".join(f"worker {w} {format_seconds(t)}" for w, t in enumerate(waiting)))
    click.echo(f"outside kernels and steps: {format_seconds(float(np.median(found.outside)))} (inputs, call, outputs)")
    if found.skipped:
        click.echo(f"left out: {plural(found.skipped, 'run')} that had other numbers of workers")
    if roofs is not None:
        told = f"{roofs.fma:.0f} GFLOP/s, memory {roofs.levels[-1].read:.0f} GB/s; calibrated {roofs.date}"
        click.echo(f"roofs of one worker: {told}, noise {100 * roofs.noise:.0f} %")


def _cells(r: Row) -> list[object]:
    def number(x: float | None) -> str:
        return "-" if x is None else f"{x:.3g}" if x < 100 else f"{x:.0f}"

    first = printable(r.nodes[0]) if r.nodes else "-"
    first = first if len(first) <= NAME else f"{first[:NAME]}.."
    nodes = first + (f" and {len(r.nodes) - 1} more" if len(r.nodes) > 1 else "")
    roof = "-" if r.roof is None else f"{100 * r.roof:.0f} %"
    share = f"{100 * r.share:.1f} %"
    took = format_seconds(r.seconds)
    return [r.name, short_label(r.label), r.calls, took, share, number(r.gflops), number(r.gbytes), roof, nodes]
