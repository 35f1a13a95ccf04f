"""How long planning takes: every part of it, validator and arena included, per 1,000 tasks.

    python bench/planning.py [--repeat 5] [--json]

The regions are synthetic: layers of a transformer-like network (dense kernels that need all of a row, row programs,
additions with a residual), each layer with kernels of its own, so that nothing is shared between layers ("distinct"), or
all with the same kernels, as in real models ("shared"). Devices have a counter per group of tasks, and are asked for stacks of
LSTM layers, too ("lstm"). The budget is 50 ms per 1,000 tasks on two workers.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from bench.models.recurrent import lstm_nodes
from fusec.api import Options, compile_plan, new_trace
from fusec.ir.dim import Extent, symbol
from fusec.ir.expr import Expr, Load, Ref, prim
from fusec.ir.types import DType, TensorType, Type
from fusec.kernels.kernel import Call, Kernel, StageTiling, Tiling
from fusec.plan.plan import RegionStep
from fusec.schedule.arena import find_lives, place_temps
from fusec.schedule.assign import Costs, assign
from fusec.schedule.bind import to_tables
from fusec.schedule.dependencies import find_conflicts
from fusec.schedule.groups import make_groups
from fusec.schedule.ready_first import assign_groups, group_waits
from fusec.schedule.region import BoundRegion, bind_calls
from fusec.schedule.tasks import Grain, cut_tasks
from fusec.schedule.validate import validate
from fusec.schedule.waits import find_waits
from fusec.tile.program import Axis, Fold, Operand, Stage, Store, TileProgram

F = DType.F32
M, N, K = symbol("M"), symbol("N"), symbol("K")
m, n, k = symbol("m"), symbol("n"), symbol("k")
BUDGET = 50.0


def dense(name: str) -> TileProgram:
    """y = x @ w."""
    value = prim("mul", Load("x", (m, k), F), Load("w", (k, n), F))
    operands = (
        Operand("x", "input", F, (M, K)),
        Operand("w", "weight", F, (K, N)),
        Operand("y", "output", F, (M, N)),
    )
    body = (Fold("t", "sum", (value,)), Store("y", (m, n), Ref("t", F)))
    stage = Stage(("m", "n"), (Axis("k", K),), body)
    return TileProgram(name, ("M", "N", "K"), (Axis("m", M), Axis("n", N)), operands, (stage,))


def rows(name: str) -> TileProgram:
    """y = x - max over the row of (x + r)."""
    x, r = (Load(o, (m, k), F) for o in "xr")
    fold = Stage(("m",), (Axis("k", N),), (Fold("t", "max", (prim("add", x, r),)), Store("s", (m,), Ref("t", F))))
    value: Expr = prim("sub", Load("x", (m, n), F), Load("s", (m,), F))
    store = Stage(("m", Axis("n", N)), (), (Store("y", (m, n), value),))
    operands = (
        Operand("x", "input", F, (M, N)),
        Operand("r", "input", F, (M, N)),
        Operand("s", "local", F, (M,)),
        Operand("y", "output", F, (M, N)),
    )
    return TileProgram(name, ("M", "N"), (Axis("m", M),), operands, (fold, store))


def tiled(p: TileProgram, **tile: int) -> Kernel:
    """A kernel of a program."""
    return Kernel(p, Tiling(tuple(tile.items()), tuple(StageTiling("nest") for _ in p.stages)))


@dataclass
class Region:
    """A synthetic region."""

    calls: list[Call] = field(default_factory=list)
    inputs: tuple[str, ...] = ("v0",)
    outputs: tuple[str, ...] = ()
    kernels: dict[str, tuple[Kernel, ...]] = field(default_factory=dict)
    values: dict[str, Type] = field(default_factory=dict)

    def add(self, kernel: Kernel, operands: dict[str, str], params: dict[str, Extent]) -> None:
        """Append a call."""
        p = kernel.program
        self.kernels[p.name] = (kernel,)
        self.calls.append(Call(f"{p.name}.{len(self.calls)}", p, tuple(operands.items()), tuple(params.items())))


def chain(kernels: int, shared: bool, rows_per_tile: int = 16, columns: int = 64) -> Region:
    """dense, dense, row program with the residual, and again: `kernels` in all."""
    out, seq, width, value = Region(), 128, 768, 0
    out.values["v0"] = TensorType(F, (seq, width))
    made: dict[str, Kernel] = {}
    for i in range(kernels):
        kind, layer = i % 3, 0 if shared else i
        name = ("panel", "column", "rows")[kind] + ("" if shared else str(layer))
        out.values[f"v{i + 1}"] = TensorType(F, (seq, width))
        if kind < 2:
            across = kind == 1  # every second dense kernel is cut by columns, so that all must wait for all
            tile = {"m": seq, "n": columns // 4} if across else {"m": rows_per_tile, "n": columns}
            kernel = made.setdefault(name, tiled(dense(name), **tile))
            operands = {"x": f"v{i}", "w": f"w{i}", "y": f"v{i + 1}"}
            out.add(kernel, operands, {"M": seq, "N": width, "K": width})
        else:
            kernel = made.setdefault(name, tiled(rows(name), m=4))
            out.add(kernel, {"x": f"v{i}", "r": f"v{value}", "y": f"v{i + 1}"}, {"M": seq, "N": width})
            value = i + 1
    out.outputs = (f"v{kernels}",)
    return out


def parts(bind: Callable[[], BoundRegion], workers: int, grain: Grain) -> tuple[dict[str, float], int, int]:
    """Milliseconds of each part of planning, in order; the numbers of tasks and waits."""
    out: dict[str, float] = {}
    last = time.process_time()

    def lap(name: str) -> None:
        nonlocal last
        now = time.process_time()
        out[name], last = (now - last) * 1e3, now

    bound = bind()
    lap("bind")
    if workers > MOST_THREADS:
        return device_parts(bound, workers, grain, lap, out)
    tasks = cut_tasks(bound, workers, lambda _: 20.0, grain)
    lap("tasks")
    conflicts = find_conflicts(tasks) if workers > 1 else None
    lap("conflicts")
    placed = assign(tasks, conflicts, workers, Costs())
    lap("assign")
    count, waits, clock = find_waits(placed, placed.need)
    lap("waits")
    arena = place_temps(find_lives(bound, tasks, placed, clock))
    lap("arena")
    schedule = to_tables(bound, tasks, placed, count, waits, arena)
    lap("tables")
    validate(schedule, bound)
    lap("validate")
    return out, len(tasks), len(waits)


def device_parts(
    bound: BoundRegion, workers: int, grain: Grain, lap: Callable[[str], None], out: dict[str, float]
) -> tuple[dict[str, float], int, int]:
    """The same for a device."""
    tasks = cut_tasks(bound, workers, lambda _: 20.0, grain)
    lap("tasks")
    conflicts = find_conflicts(tasks)
    lap("conflicts")
    groups = make_groups(tasks, conflicts)
    lap("groups")
    placed = assign_groups(tasks, groups, workers, Costs())
    lap("assign")
    count, waits, clock = group_waits(placed, groups)
    lap("waits")
    arena = place_temps(find_lives(bound, tasks, placed, clock))
    lap("arena")
    totals = groups.size
    rows = np.stack([waits, totals[waits]], 1)
    schedule = to_tables(bound, tasks, placed, count, rows, arena, 0, (groups.of, totals))
    lap("tables")
    validate(schedule, bound)
    lap("validate")
    return out, len(tasks), len(waits)


def synthetic(kernels: int, shared: bool) -> Callable[[], BoundRegion]:
    """Binds a chain."""
    region = chain(kernels, shared)
    return lambda: bind_calls(region, region.kernels, {}, region.values, lambda v: v)


def lstm() -> Callable[[], BoundRegion]:
    """Binds three layers of 512 units over 64 steps, as a device that keeps their weights runs them."""
    plan = compile_plan(lstm_nodes(1, 3, 64, 512).model(), Options("cuda:sm_90"), new_trace())
    (step,) = (s for s in plan.steps if isinstance(s, RegionStep))
    return lambda: bind_calls(step, plan.kernels, {}, plan.values, plan.root)


MOST_THREADS = 64
"""Workers beyond which they are the blocks of a device."""
CASES = (
    # kernels, tasks per worker and kernel, workers
    (60, 3, 1),
    (60, 3, 2),
    (167, 3, 2),
    (334, 6, 2),
    (60, 3, 8),
    (30, 1, 132),
)


def measure(repeat: int) -> list[dict[str, object]]:
    """Least time of several runs, per case and part. CPU time of this process, so that neighbours count little."""
    out = []
    cases = [(k, p, w, layers) for k, p, w in CASES for layers in ("distinct", "shared")]
    for kernels, per_worker, workers, layers in [*cases, (9, 1, 132, "lstm")]:
        grain = Grain(per_worker=per_worker, least=0.1)
        best: dict[str, float] = {}
        bind = lstm() if layers == "lstm" else synthetic(kernels, layers == "shared")
        first = parts(bind, workers, grain)[0]["tasks"]
        for _ in range(repeat):
            times, tasks, waits = parts(bind, workers, grain)
            best = {name: min(ms, best.get(name, ms)) for name, ms in times.items()}
        total = sum(best.values())
        case = {"kernels": kernels, "workers": workers, "layers": layers}
        sums = {"tasks": tasks, "waits": waits, "ms": total, "ms_per_1000": total / tasks * 1e3}
        out.append(case | sums | {"parts": best, "tasks_first": first})
    return out


def yardstick() -> float:
    """Microseconds that numpy takes to add two small arrays here: planning is about as many such calls on any machine."""
    a = np.zeros(8, np.int64)
    best = 1e9
    for _ in range(20):
        start = time.process_time()
        for _ in range(2000):
            np.add(a, a)
        best = min(best, (time.process_time() - start) / 2000 * 1e6)
    return best


def main() -> None:
    """Print the table, or JSON."""
    parser = argparse.ArgumentParser(description="Time of planning per 1,000 tasks.")
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    results = measure(options.repeat)
    if options.json:
        print(json.dumps(results, indent=2))
        return
    print("kernels  workers  layers    tasks  waits      ms  ms/1000  of which")
    for r in results:
        best: dict[str, float] = r["parts"]  # type: ignore[assignment]
        shares = "  ".join(f"{name} {ms:.1f}" for name, ms in best.items())
        print(
            f"{r['kernels']:7}  {r['workers']:7}  {r['layers']:8}  {r['tasks']:5}  {r['waits']:5}  {r['ms']:6.1f}  "
            f"{r['ms_per_1000']:7.1f}  {shares}"
        )
    worst = max(float(str(r["ms_per_1000"])) for r in results if r["workers"] == 2)
    print(f"yardstick: {yardstick():.2f} us for a small np.add, best of 20")
    print(f"worst on two workers: {worst:.1f} ms per 1,000 tasks (budget {BUDGET:.0f})")


if __name__ == "__main__":
    main()
