"""From the arguments of a verb to a session or a plan."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from fusec import api
from fusec.cli.options import parse_dims, parse_shapes
from fusec.cli.text import say
from fusec.errors import ExecutionError, UsageError, nearest
from fusec.ir.dim import Dim
from fusec.ir.types import TensorType
from fusec.kernels import backend
from fusec.knobs import PRECISIONS, Knobs, Limits, parse_bytes
from fusec.plan.plan import Plan
from fusec.runtime.session import Session
from fusec.target import Target
from fusec.trace import Trace


@dataclass(frozen=True, slots=True)
class Opened:
    """What a verb works on."""

    plan: Plan
    session: Session
    trace: Trace


def is_plan(path: str) -> bool:
    """Whether a path names a plan file: by its ending, or by its first bytes."""
    if path.endswith(".fplan"):
        return True
    if path.endswith(".onnx"):
        return False
    try:
        with open(path, "rb") as f:
            return f.read(4) == b"PK\x03\x04"
    except OSError:
        return False


def make_options(
    device: str | None,
    dims: Sequence[str],
    shapes: Sequence[str],
    passes: str,
    unfused: bool,
    max_memory: str | None,
    allow_newer_opset: bool,
    max_nodes: int | None = None,
    precision: str = "f32",
    no_assume: bool = False,
) -> api.Options:
    """The compile options of a verb. UsageError names the flag that is wrong."""
    limits: Limits = Knobs.read().limits
    if max_memory is not None:
        limits = replace(limits, memory=parse_bytes(max_memory))
    limits = replace(limits, allow_newer_opset=allow_newer_opset, max_nodes=max_nodes or limits.max_nodes)
    return api.Options(
        device=device,
        fuse=not unfused,
        dims=parse_dims(dims),
        shapes=parse_shapes(shapes),
        passes=passes,
        limits=limits,
        precision=precision,
        assume=not no_assume,
    )


def open_plan(path: str, options: api.Options, trace: Trace) -> Plan:
    """Load a plan, or compile a model into one. Options that only compiling knows are refused for a plan (UsageError).

    The symbols of a plan are bound by its inputs, so --dim only says how large made-up inputs shall be.
    """
    if not is_plan(path):
        return api.compile_plan(path, options, trace)
    plain = options.fuse and options.assume and options.precision == PRECISIONS[0]
    if options.device or options.shapes or options.passes or not plain:
        flags = "--device, --shape, --passes, --precision, --no-assume and --unfused"
        raise UsageError(f"{path} is a plan: {flags} belong to its compilation")
    with trace.stage("load"):
        from fusec.plan.file import load

        plan = load(path)
    known = input_symbols(plan)
    for name in options.dims:
        if name not in known:
            raise UsageError(f"the plan's inputs have no symbolic dimension {name!r}", hint=nearest(name, known))
    return plan


def input_symbols(plan: Plan) -> list[str]:
    """The symbolic dimensions of a plan's inputs, sorted."""
    dims = [d for v in plan.inputs if isinstance(v.type, TensorType) for d in v.type.shape or ()]
    return sorted({s for d in dims if isinstance(d, Dim) for s in d.symbols})


def open_session(
    path: str, options: api.Options, threads: int | None, trace: Trace | None = None, quiet: bool = False
) -> Opened:
    """Load or compile, and make a session.

    A plan for a device that is not here runs on the processor, with a line that says so; a device that was asked for by
    name must be here (ExecutionError).
    """
    trace = trace or api.new_trace()
    if not is_plan(path):
        check_device(options)
    plan = open_plan(path, options, trace)
    session = api.open_session(plan, threads=threads, limits=options.limits, trace=trace)
    runs = session.plan.target
    if runs.kind != plan.target.kind and not quiet:
        say(f"note: the plan is for {plan.target}, which cannot run here{_because(plan.target)}: it runs on {runs}")
    return Opened(plan, session, trace)


def check_device(options: api.Options) -> None:
    """ExecutionError where the CUDA device that was asked for cannot run here. Levels of processors stand in for others."""
    asked = options.device or Knobs.read().device
    if asked is None:
        return
    target = backend.resolve(Target.parse(asked))
    if target.kind == "cuda" and not backend.runs_here(target):
        emulated = f"{target}-emulated"
        hint = f"`fusec doctor` says what is missing; `fusec compile --device {target}` makes a plan without a device"
        if not target.level.endswith("-emulated") and backend.runs_here(Target.parse(emulated)):
            hint += f", `--device {emulated}` runs it on the processor"
        raise ExecutionError(f"{target} cannot run here{_because(target)}", hint=hint)


def _because(target: Target) -> str:
    """Why a target cannot run here, in brackets, where its back end can say it."""
    if target.kind != "cuda":
        return ""
    from fusec.kernels.cuda.machine import compiler, missing_for

    if target.level.endswith("-emulated"):
        return "" if compiler() else " (emulation needs a C++ compiler)"
    why = missing_for(target.level)
    return f" ({why})" if why else ""
