"""`fusec calibrate`: what this machine can do at best, kept for `fusec profile` and `fusec doctor`."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from fusec.cli import progress
from fusec.cli.options import output_options, thread_option
from fusec.cli.text import plural, print_json, print_table, say
from fusec.errors import UsageError

if TYPE_CHECKING:
    from fusec.measure.roofs import Roofs

NOISY = 0.15
"""A typical round that falls short of the best by more than this says that the machine is busy."""


@click.command()
@click.option("--rounds", type=click.IntRange(3), default=20, show_default=True, help="Interleaved rounds.")
@click.option("--device", default="cpu", show_default=True, help="cpu, cpu:generic, cpu:avx2, cpu:avx512.")
@thread_option
@output_options
def command(rounds: int, device: str, threads: int | None, as_json: bool, quiet: bool, traceback: bool) -> None:
    """Measure this machine: arithmetic, bandwidth of each cache level, cost of the worker team.

    Takes a few seconds on an idle machine. The roof of each probe is its best round, since neighbours can only make it
    slower; the noise is how far a typical round falls short of it. The result is kept in the cache, where `fusec profile`
    finds it for its percent of the roof and `fusec doctor` shows it; `fusec cache clear` forgets it.
    """
    from fusec.api import open_cache
    from fusec.measure.calibrate import calibrate
    from fusec.measure.roofs import store_roofs
    from fusec.runtime.team import SUPPORTED
    from fusec.runtime.workers import check_workers, default_workers
    from fusec.target import Target, runs_here

    del traceback
    target = Target.parse(device)
    if target.kind != "cpu":
        hint = "`python -m bench.gpu` measures what a GPU can do" if target.kind == "cuda" else None
        raise UsageError(f"only CPUs can be calibrated, not {device!r}", hint=hint)
    if not runs_here(target.level):
        raise UsageError(f"this machine cannot run {target}", hint="fusec doctor says what it can run")
    workers = default_workers() if threads is None else check_workers(threads)
    cache = open_cache()
    roofs = calibrate(target, workers if SUPPORTED else 1, cache, rounds, progress.rounds(rounds, quiet or as_json))
    store_roofs(cache, roofs)
    if as_json:
        print_json(asdict(roofs) | {"noisy": roofs.noise > NOISY})
        return
    show(roofs)
    if roofs.noise > NOISY:
        say("note: the machine is busy; calibrate again when it is idle, or percents of the roof will be too high")


def show(roofs: Roofs) -> None:
    """The roofs as a table."""
    many = plural(roofs.workers, "worker") + " at once"
    rows = [["multiply-add, float32", f"{roofs.fma:.1f} GFLOP/s", f"{roofs.fma_all:.1f} GFLOP/s"]]
    for level in roofs.levels:
        size = f"{level.name} ({level.bytes >> 10:,} KiB)"
        rows.append([f"read {size}", f"{level.read:.1f} GB/s", f"{level.read_all:.1f} GB/s"])
        rows.append([f"copy {size}", f"{level.copy:.1f} GB/s", f"{level.copy_all:.1f} GB/s"])
    if roofs.launch:
        rows.append(["hand a tile over, wait for all", "-", f"{roofs.handover:.2f} us, {roofs.barrier:.2f} us"])
        rows.append(["call the team: awake, asleep", "-", f"{roofs.launch:.1f} us, {roofs.wake:.0f} us"])
    print_table(f"{roofs.cpu}, {roofs.target}", ["roof", "one worker", many], rows, "12")
    click.echo(f"noise: a typical round falls short of the best one by {100 * roofs.noise:.0f} %; {roofs.date}")
