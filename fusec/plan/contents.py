"""Plan <-> the records of schema.py: what a plan says, without the bytes of its weights."""

from __future__ import annotations

from fusec.errors import FusecError, PlanError
from fusec.ir.dim import parse_dim
from fusec.ir.graph import Graph, Value
from fusec.ir.requirement import Requirement
from fusec.ir.text import parse_graph, print_graph
from fusec.ir.types import parse_type
from fusec.kernels.kernel import Call, Guard, Kernel, StageTiling, Tiling
from fusec.kernels.layout import Layout
from fusec.plan.plan import HostStep, Plan, RegionStep, Step
from fusec.plan.schema import (
    CallRecord,
    Contents,
    KernelRecord,
    RequirementRecord,
    StageRecord,
    StepRecord,
    ValueRecord,
    WeightRecord,
)
from fusec.tile.program import TileProgram
from fusec.tile.text import parse_program, print_program

SEPARATOR = "\n\n"


def to_records(plan: Plan) -> tuple[Contents, str]:
    """The contents and the text of all tile programs."""
    programs: dict[str, TileProgram] = {}
    for step in plan.steps:
        for call in step.calls if isinstance(step, RegionStep) else ():
            programs[call.program.name] = call.program
    contents = Contents(
        values=[ValueRecord(n, str(t)) for n, t in plan.values.items()],
        aliases=dict(plan.aliases),
        steps=[_step_record(s) for s in plan.steps],
        kernels={n: [_kernel_record(k) for k in plan.kernels[n]] for n in programs},
        weights=[
            WeightRecord(w.value.name, str(w.value.type), str(w.layout), w.recipe, i)
            for i, w in enumerate(plan.weights.values())
        ],
        requirements=[
            RequirementRecord(str(r.size), r.least, r.is_exact, r.what, list(r.origin), [str(e) for e in r.excuses])
            for r in plan.requirements
        ],
    )
    return contents, SEPARATOR.join(print_program(p) for p in programs.values())


def programs_from(text: str) -> dict[str, TileProgram]:
    """Tile programs by name. PlanError where one does not parse."""
    try:
        programs = [parse_program(p) for p in text.split(SEPARATOR) if p.strip()]
    except (ValueError, FusecError) as e:
        raise PlanError(f"programs.tile of the plan file is not valid: {e}") from e
    return {p.name: p for p in programs}


def steps_from(contents: Contents, programs: dict[str, TileProgram]) -> tuple[Step, ...]:
    """The steps. PlanError where a record names a program that is not there or text does not parse."""
    try:
        return tuple(_step(s, programs) for s in contents.steps)
    except (KeyError, ValueError, FusecError) as e:
        raise PlanError(f"a step of the plan file is not valid: {e}") from e


def kernels_from(contents: Contents, programs: dict[str, TileProgram]) -> dict[str, tuple[Kernel, ...]]:
    """The kernel menus by program. PlanError where a tiling does not fit its program."""
    try:
        return {n: tuple(_kernel(k, programs[n]) for k in records) for n, records in contents.kernels.items()}
    except (KeyError, ValueError, FusecError) as e:
        raise PlanError(f"a kernel of the plan file is not valid: {e}") from e


def requirements_from(contents: Contents) -> tuple[Requirement, ...]:
    """The requirements. PlanError where a size does not parse."""
    try:
        return tuple(
            Requirement(parse_dim(r.size), r.least, r.exact, r.what, tuple(r.origin), tuple(map(parse_dim, r.excuses)))
            for r in contents.requirements
        )
    except (ValueError, FusecError) as e:
        raise PlanError(f"a requirement of the plan file is not valid: {e}") from e


def value_from(record: ValueRecord) -> Value:
    """A value. PlanError where its type does not parse."""
    try:
        return Value(record.name, parse_type(record.type))
    except (ValueError, RecursionError) as e:
        raise PlanError(f"value {record.name!r} of the plan file: {e}") from e


def _step_record(step: Step) -> StepRecord:
    if isinstance(step, HostStep):
        n = step.node
        return StepRecord(
            host=print_graph(Graph("host", tuple({v.name: v for v in n.operands}.values()), n.outputs, (n,)))
        )
    return StepRecord([_call_record(c) for c in step.calls], list(step.inputs), list(step.outputs))


def _call_record(c: Call) -> CallRecord:
    params = [(p, str(d)) for p, d in c.params]
    scalars = [(s, repr(v)) for s, v in c.scalars]
    return CallRecord(c.label, c.program.name, list(c.operands), params, scalars, list(c.origin))


def _kernel_record(k: Kernel) -> KernelRecord:
    t, guard = k.tiling, list[str | int]()
    if t.guard is not None:
        guard = [t.guard.param, t.guard.low, -1 if t.guard.high is None else t.guard.high]
    return KernelRecord(
        tile=[(a, str(e)) for a, e in t.tile],
        stages=[StageRecord(s.template, s.lane, s.rows, s.vectors) for s in t.stages],
        layouts=[(o, str(layout)) for o, layout in t.layouts],
        guard=guard,
    )


def _step(record: StepRecord, programs: dict[str, TileProgram]) -> Step:
    if record.host:
        (node,) = parse_graph(record.host).nodes
        return HostStep(node)
    return RegionStep(tuple(_call(c, programs) for c in record.calls), tuple(record.inputs), tuple(record.outputs))


def _call(r: CallRecord, programs: dict[str, TileProgram]) -> Call:
    program = programs[r.program]
    params = tuple((p, parse_dim(t)) for p, t in r.params)
    scalars = tuple((s, _number(t)) for s, t in r.scalars)
    if {p for p, _ in params} != set(program.params):
        raise ValueError(f"call {r.label!r} does not bind the parameters of {r.program!r}")
    return Call(r.label, program, tuple(r.operands), params, scalars, tuple(r.origin))


def _number(text: str) -> float | int | bool:
    if text in ("True", "False"):
        return text == "True"
    try:
        return int(text)
    except ValueError:
        return float(text)


def _kernel(r: KernelRecord, program: TileProgram) -> Kernel:
    guard = None
    match r.guard:
        case [str() as param, int() as low, int() as high]:
            guard = Guard(param, low, None if high < 0 else high)
        case []:
            pass
        case _:
            raise ValueError(f"not a guard: {r.guard}")
    if len(r.stages) != len(program.stages):
        raise ValueError(f"{program.name} has {len(program.stages)} stages, its tiling {len(r.stages)}")
    tile = tuple((a, parse_dim(e)) for a, e in r.tile)
    stages = tuple(StageTiling(s.template, s.lane, s.rows, s.vectors) for s in r.stages)
    return Kernel(program, Tiling(tile, stages, tuple((o, Layout.parse(t)) for o, t in r.layouts), guard))
