"""`fusec doctor`: what this machine has, what is missing, and what each missing thing means."""

from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import click

from fusec import __version__
from fusec.cli.options import output_options
from fusec.cli.text import print_json, print_table

Row = tuple[str, str, str, str]
CORE = ("numpy", "onnx", "networkx", "llvmlite", "numba", "ml-dtypes", "msgspec", "safetensors")
OPTIONAL = {
    "onnxruntime": "`fusec bench` has no rival and `fusec verify --against onnxruntime` no oracle: fusec[bench]",
    "openvino": "`fusec bench --vs openvino` and the performance tables lack a rival: fusec[rivals]",
    "matplotlib": "no plots: fusec[plots]",
}


@click.command()
@output_options
def command(as_json: bool, quiet: bool, traceback: bool) -> None:
    """Check this machine and installation; every yellow row says why it is yellow."""
    from fusec.cli.cuda_rows import cuda_rows

    del quiet, traceback
    rows = [*_machine(), *_roofs(), *_packages(), *cuda_rows(), *_knobs(), *_smoke()]
    if as_json:
        print_json([dict(zip(("what", "state", "value", "note"), r, strict=True)) for r in rows])
    else:
        print_table("fusec doctor", ["what", "state", "value", "note"], [list(r) for r in rows])
    if any(r[1] == "broken" for r in rows):
        raise click.exceptions.Exit(7)


def _machine() -> list[Row]:
    from fusec.runtime.workers import default_workers
    from fusec.target import ISAS, host, runs_here

    levels = ", ".join(n for n in ISAS if runs_here(n))
    system = platform.system()
    team = "ok" if system == "Linux" else "limited"
    return [
        ("fusec", "ok", __version__, ""),
        ("python", "ok", platform.python_version(), ""),
        ("machine", "ok", f"{system} {platform.machine()}", ""),
        ("target", "ok", str(host()), f"can run: {levels}"),
        (
            "workers",
            team,
            str(default_workers()),
            "" if team == "ok" else "the worker team needs Linux; one worker runs",
        ),
    ]


def _roofs() -> list[Row]:
    """What `fusec calibrate` found here, if it was ever asked."""
    from fusec.api import open_cache
    from fusec.measure.roofs import stored_roofs
    from fusec.target import host

    roofs = stored_roofs(open_cache(), host())
    if roofs is None:
        return [
            (
                "roofs",
                "absent",
                "-",
                "`fusec calibrate` measures them; without, `fusec profile` has no percent of the roof",
            )
        ]
    reads = ", ".join(f"{level.name} {level.read:.0f}" for level in roofs.levels)
    rows: list[Row] = [
        (
            "arithmetic",
            "ok",
            f"{roofs.fma:.0f} GFLOP/s",
            f"{roofs.fma_all:.0f} with {roofs.workers} workers; {roofs.date}",
        ),
        ("bandwidth", "ok", f"{reads} GB/s", f"one worker reading; memory with all {roofs.levels[-1].read_all:.0f}"),
    ]
    if roofs.launch:
        rows.append(("hand-over", "ok", f"{roofs.handover:.2f} us", f"waking a sleeping team: {roofs.wake:.0f} us"))
    return rows


def _packages() -> list[Row]:
    rows: list[Row] = []
    for name in (*CORE, *OPTIONAL):
        try:
            rows.append((name, "ok", version(name), ""))
        except PackageNotFoundError:
            note = OPTIONAL.get(name, "a core dependency: pip install fusec")
            rows.append((name, "absent" if name in OPTIONAL else "broken", "-", note))
    return rows


def _knobs() -> list[Row]:
    from fusec.api import open_cache
    from fusec.knobs import Knobs, all_knobs, format_bytes

    rows: list[Row] = [(k.variable, "set", k.value, k.meaning) for k in all_knobs() if k.is_set]
    rows += [(v, "unknown", "-", "this variable means nothing to fusec") for v in Knobs.read().unknown]
    info = open_cache().info()
    size = f"{info.entries} entries, {format_bytes(info.bytes)} of {format_bytes(info.limit)}"
    if info.directory is None:
        rows.append(("cache", "limited", "in memory only", info.why))
    else:
        rows.append(("cache", "ok", str(info.directory), size))
    return rows


def _smoke() -> list[Row]:
    """Build and run one kernel: the shortest proof that LLVM works here."""
    try:
        value = _run_smallest_kernel()
    except Exception as e:
        return [("kernel", "broken", type(e).__name__, str(e))]
    return [("kernel", "ok" if value else "broken", "built and run", "" if value else "a wrong result")]


def _run_smallest_kernel() -> bool:
    import numpy as np

    from fusec import api
    from fusec.ir.build import GraphBuilder

    b = GraphBuilder("smoke")
    x = b.input("x", "f32[8]")
    graph = b.graph([b.op("add", x, x)])
    feed: Any = np.arange(8, dtype=np.float32)
    (result,) = api.compile_graph(graph, threads=1).run({"x": feed}).values()
    return bool((result == feed + feed).all())
