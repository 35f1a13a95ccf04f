"""What must hold in a plan before anything of it is used: a file says what it likes, also under hashes that are right.

Linear in the size of the plan. Sizes are checked later, when they are numbers: see schedule.inside and runtime.binding.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NoReturn

from fusec.errors import FusecError, PlanError
from fusec.ir.dim import symbols_of
from fusec.ir.graph import Value
from fusec.ir.told import symbols_of_types
from fusec.ir.types import TensorType
from fusec.kernels.cpu.stream_form import is_streamed
from fusec.kernels.kernel import Call, Kernel, StageTiling
from fusec.kernels.layout import Layout
from fusec.knobs import PRECISIONS
from fusec.plan.plan import HostStep, Plan, RegionStep
from fusec.target import Target
from fusec.tile.program import Stage, TileProgram
from fusec.tile.verify import verify_program

MOST_ROWS, MOST_VECTORS, MOST_WIDTH = 32, 16, 1024
"""Beyond any register tile and any panel: what emitted code grows with."""
MOST_AXES, MOST_RANK = 16, 32


def check_plan(plan: Plan) -> None:
    """PlanError where names, order, types, programs or tilings of a plan contradict each other."""
    if (precision := plan.numerics.get("precision", "f32")) not in PRECISIONS:
        _fail(f"it has the precision {precision!r}")
    for name, menu in plan.kernels.items():
        if not menu:
            _fail(f"program {name!r} has no kernel")
        _check_program(menu[0].program)
        for kernel in menu:
            _check_kernel(kernel, plan.target, precision)
    _Order(plan).run()


def _check_requirements(plan: Plan) -> None:
    """Every requirement is one that some run can check: inputs or host steps tell its symbols."""
    told = symbols_of_types(v.type for v in (*plan.inputs, *_host_results(plan)))
    for r in plan.requirements:
        if not r.symbols or r.symbols - told:
            _fail(f"it requires {r}, and nothing tells these sizes")


def _host_results(plan: Plan) -> Iterable[Value]:
    return (v for s in plan.steps if isinstance(s, HostStep) for v in s.node.outputs)


def _fail(message: str) -> NoReturn:
    raise PlanError(f"the plan contradicts itself: {message}", hint="recompile the model")


def _check_program(p: TileProgram) -> None:
    if len(p.axes) > MOST_AXES or any(len(s.axes) + len(s.folds) > MOST_AXES for s in p.stages):
        _fail(f"program {p.name} has more than {MOST_AXES} axes")
    if any(len(o.shape) > MOST_RANK for o in p.operands):
        _fail(f"an operand of program {p.name} has more than {MOST_RANK} dimensions")
    try:
        verify_program(p)
    except FusecError as e:
        _fail(e.message)


def _check_kernel(k: Kernel, target: Target, precision: str) -> None:
    p, t = k.program, k.tiling
    axes, params = {a.name for a in p.axes}, set(p.params)
    _unique((a for a, _ in t.tile), f"tile axis of {p.name}")
    for axis, extent in t.tile:
        if axis not in axes or symbols_of(extent) - params:
            _fail(f"a tile of {p.name} is {extent} along {axis}")
    if t.guard is not None and t.guard.param not in params:
        _fail(f"a kernel of {p.name} is guarded by {t.guard.param!r}, no parameter")
    if target.kind == "cuda":
        _check_device_kernel(k, target.level, precision)
    else:
        _check_host_kernel(k)
    _unique((o for o, _ in t.layouts), f"layout in {p.name}")
    for operand, layout in t.layouts:
        found = p.operand.get(operand)
        known = found is not None and (
            _is_known(layout, len(found.shape)) or (layout.swizzled and target.kind == "cuda")
        )
        if not known or found is None or found.role != "weight":
            _fail(f"operand {operand!r} of {p.name} cannot have the layout {layout}")


def _check_device_kernel(k: Kernel, level: str, precision: str) -> None:
    from fusec.tiling.device.accepts import refusal

    if why := refusal(k, level, precision):
        _fail(f"{k.program.name} cannot be tiled so for a GPU: {why}")


def _check_host_kernel(k: Kernel) -> None:
    p, t = k.program, k.tiling
    for stage, tiling in zip(p.stages, t.stages, strict=True):
        _check_stage(p, stage, tiling)
    if any(s.template == "stream" for s in t.stages) and not is_streamed(k):
        _fail(f"{p.name} is to be streamed and is no attention")


def _check_stage(p: TileProgram, stage: Stage, t: StageTiling) -> None:
    axes = {*stage.axis_names, *(a.name for a in stage.folds)}
    if t.template not in ("nest", "contract", "stream") or (t.lane and t.lane not in axes):
        _fail(f"a stage of {p.name} has the template {t.template!r} along {t.lane!r}")
    if not (1 <= t.rows <= MOST_ROWS and 1 <= t.vectors <= MOST_VECTORS):
        _fail(f"a stage of {p.name} has register tiles of {t.rows} rows by {t.vectors} vectors")


def _is_known(layout: Layout, rank: int) -> bool:
    if layout == Layout.row_major(rank):
        return True
    if rank >= 2 and layout == Layout.columns(rank):
        return True
    if rank < 2 or len(layout.factors) < rank:
        return False
    width = layout.factors[rank - 2].block
    return 0 < width <= MOST_WIDTH and layout in (Layout.panels(rank, width), Layout.paired(rank, width))


def _unique(names: Iterable[str], what: str) -> None:
    seen: set[str] = set()
    for n in names:
        if n in seen:
            _fail(f"{what} {n!r} occurs twice")
        seen.add(n)


class _Order:
    """Walks the steps and keeps which root values exist by now."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.roots = _resolve(plan)
        self.weights = {name for name, _ in plan.weights}
        self.made: set[str] = set()

    def run(self) -> None:
        plan = self.plan
        for v in (*plan.inputs, *plan.outputs):
            self.typed(v)
        for (name, _), w in plan.weights.items():
            stored, kind = w.value.type, plan.values.get(name, w.value.type)
            if (
                not isinstance(kind, TensorType)
                or not isinstance(stored, TensorType)
                or kind.shape is None
                or kind.size != stored.size
            ):
                _fail(f"weight {name!r} is {stored} and {kind}")
        for v in plan.inputs:
            if v.name in plan.aliases or v.name in self.weights:
                _fail(f"input {v.name!r} is an alias or a weight as well")
            self.make(v.name, "input")
        _unique((v.name for v in plan.outputs), "output")
        _check_requirements(plan)
        for step in plan.steps:
            if isinstance(step, HostStep):
                self.host(step)
            else:
                self.region(step)
        for v in plan.outputs:
            self.read(v.name, "an output")

    def root(self, name: str) -> str:
        return self.roots.get(name, name)

    def typed(self, v: Value) -> None:
        if self.plan.values.get(v.name, v.type) != v.type:
            _fail(f"value {v.name!r} is {v.type} and {self.plan.values[v.name]}")

    def make(self, name: str, where: str) -> None:
        if name in self.made or name in self.weights:
            _fail(f"{where} makes {name!r} a second time")
        self.made.add(name)

    def read(self, name: str, where: str) -> None:
        root = self.root(name)
        if root not in self.made and root not in self.weights and name not in self.weights:
            _fail(f"{where} reads {name!r}, which nothing made before")

    def host(self, step: HostStep) -> None:
        node = step.node
        if node.op != "opaque":
            _fail(f"a host step runs {node.op!r}")
        where = f"host step {node.attr('op_type', '')!r}"
        for v in node.operands:
            self.typed(v)
            self.read(v.name, where)
        for v in node.outputs:
            if v.name in self.plan.aliases:
                _fail(f"{where} makes {v.name!r}, an alias")
            self.typed(v)
            self.make(v.name, where)

    def region(self, step: RegionStep) -> None:
        for name in step.inputs:
            self.read(name, "a region")
        given = {self.root(n) for n in step.inputs}
        written: set[str] = set()
        for call in step.calls:
            self.call(call, given, written)
        for name in dict.fromkeys(self.root(n) for n in step.outputs):
            if name in written:
                self.make(name, "a region")
            else:
                self.read(name, "a region's list of outputs")

    def call(self, call: Call, given: set[str], written: set[str]) -> None:
        if call.program.name not in self.plan.kernels:
            _fail(f"program {call.program.name!r} has no kernel")
        operands = {o.name: o for o in call.program.operands if o.role not in ("scalar", "local")}
        names = dict(call.operands)
        if len(names) != len(call.operands) or names.keys() != operands.keys():
            _fail(f"call {call.label!r} does not bind the operands of {call.program.name!r}")
        if len(call.params) != len(call.program.params) or {p for p, _ in call.params} != set(call.program.params):
            _fail(f"call {call.label!r} does not bind the parameters of {call.program.name!r}")
        scalars = {o.name for o in call.program.operands if o.role == "scalar"}
        if {s for s, _ in call.scalars} != scalars or len(call.scalars) != len(scalars):
            _fail(f"call {call.label!r} does not give the scalars of {call.program.name!r}")
        if any(abs(x) >= 1 << 64 for _, x in call.scalars if not isinstance(x, float)):
            _fail(f"call {call.label!r} has a scalar that no dtype can hold")
        for o in operands.values():
            root = self.root(names[o.name])
            if o.role in ("output", "inout"):
                if root in self.made or root in self.weights:
                    _fail(f"call {call.label!r} writes to {root!r}, which exists before its region")
                written.add(root)
            elif (
                root not in written
                and root not in given
                and root not in self.weights
                and names[o.name] not in self.weights
            ):
                _fail(f"call {call.label!r} reads {names[o.name]!r}, which nothing made before")
            elif o.role == "weight" and root not in self.weights and names[o.name] not in self.weights:
                # reads of weights wait for nobody, and a GPU takes them past its coherent caches
                _fail(f"call {call.label!r} reads {names[o.name]!r} as a weight, and it is none")


def _resolve(plan: Plan) -> dict[str, str]:
    """Alias -> root. PlanError where aliases run in a circle or change the dtype."""
    out: dict[str, str] = {}
    for name in plan.aliases:
        path = []
        seen = set[str]()
        at = name
        while at in plan.aliases and at not in out:
            if at in seen:
                _fail(f"the aliases of {name!r} run in a circle")
            seen.add(at)
            path.append(at)
            at = plan.aliases[at]
        root = out.get(at, at)
        for n in path:
            out[n] = root
    for name, root in out.items():
        kinds = [plan.values.get(n) for n in (name, root)]
        if kinds[0] is None or any(k is not None and not isinstance(k, TensorType) for k in kinds):
            if kinds[0] != kinds[1]:
                _fail(f"{name!r} of type {kinds[0]} shares the bytes of {root!r} of type {kinds[1]}")
        elif (
            isinstance(kinds[0], TensorType)
            and isinstance(kinds[1], TensorType)
            and kinds[0].dtype is not kinds[1].dtype
        ):
            _fail(f"{name!r} of type {kinds[0]} shares the bytes of {root!r} of type {kinds[1]}")
    return out
