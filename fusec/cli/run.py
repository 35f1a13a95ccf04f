"""`fusec run`: one inference (or several), and what came out."""

from __future__ import annotations

import statistics
import time
from pathlib import Path
from typing import Any

import click
import numpy as np

from fusec.cli.setup import Setup, run_options
from fusec.cli.text import format_seconds, print_json, print_table, printable, say
from fusec.errors import ResourceError, UsageError


@click.command()
@click.option("-o", "--output", type=click.Path(path_type=Path), default=None, help="Folder for outputs as .npy files.")
@click.option("-f", "--force", is_flag=True, help="Replace existing output files.")
@click.option("--iters", type=click.IntRange(1), default=1, show_default=True, help="How many inferences to run.")
@run_options
def command(setup: Setup, output: Path | None, force: bool, iters: int) -> None:
    """Run a model or a plan and show its outputs. Inputs that are not given are seeded random numbers."""
    session = setup.open()
    feeds = setup.feeds(session)
    times = []
    for _ in range(iters):
        start = time.perf_counter()
        results = session.run(feeds)
        times.append(time.perf_counter() - start)
    files = _write(results, output, force) if output is not None else {}
    rows = [_summary(name, value) for name, value in results.items()]
    if setup.as_json:
        print_json({"outputs": rows, "files": files, "runs": iters, "median_s": statistics.median(times)})
        return
    columns = ["output", "type", "min", "max", "mean", "NaN"]
    print_table(
        "outputs", columns, [[r[c] for c in ("name", "type", "min", "max", "mean", "nan")] for r in rows], "2345"
    )
    if iters > 1 and not setup.quiet:
        say(f"{iters} runs, median {format_seconds(statistics.median(times))}; to compare, use fusec bench")
    for path in files.values():
        click.echo(f"wrote {printable(path)}")


def _summary(name: str, value: Any) -> dict[str, Any]:
    if not isinstance(value, np.ndarray):
        return {"name": name, "type": type(value).__name__, "min": "", "max": "", "mean": "", "nan": ""}
    out: dict[str, Any] = {
        "name": name,
        "type": f"{value.dtype}{list(value.shape)}",
        "min": "",
        "max": "",
        "mean": "",
        "nan": 0,
    }
    if value.size and value.dtype.kind not in "OUSc":
        x = value.astype(np.float64)
        missing = np.isnan(x)
        out["nan"] = int(missing.sum())
        if not missing.all():
            out |= {k: float(f"{f(x):.6g}") for k, f in (("min", np.nanmin), ("max", np.nanmax), ("mean", np.nanmean))}
    return out


def _write(results: dict[str, Any], folder: Path, force: bool) -> dict[str, str]:
    """Outputs as .npy files named by position and a cleaned name: a model's names never choose a path."""
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"--output {folder}: not a folder")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as e:
        raise UsageError(f"--output {folder}: cannot make this folder: {e.strerror}") from e
    files = {}
    for i, (name, value) in enumerate(results.items()):
        safe = "".join(c if c.isalnum() or c in "-_" else "_" for c in name)[:60]
        path = folder / f"{i:02}_{safe}.npy"
        if path.exists() and not force:
            raise UsageError(f"{path} exists already", hint="overwrite it with --force")
        if not isinstance(value, np.ndarray) or value.dtype.hasobject:
            raise UsageError(f"output {name!r} is not an array of numbers and cannot be written as .npy")
        try:
            np.save(path, value, allow_pickle=False)
        except OSError as e:
            raise ResourceError(f"cannot write {path}: {e.strerror or e}", path=str(path)) from e
        files[name] = str(path)
    return files
