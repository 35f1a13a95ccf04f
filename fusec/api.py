"""The pipeline as one function: each line a stage, each stage one type in and one type out."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fusec.errors import FusecError, UsageError
from fusec.kernels import backend
from fusec.knobs import PRECISIONS, Knobs, Limits
from fusec.plan.plan import Plan
from fusec.runtime.session import Session
from fusec.target import Target
from fusec.trace import ASSEMBLY, IR, KERNELS, SCHEDULES, SOURCES, STAGES, Trace

if TYPE_CHECKING:
    from fusec.cache import ObjectCache
    from fusec.host.inner import CompileBody
    from fusec.ir.dim import Extent
    from fusec.ir.graph import Graph
    from fusec.rewrite.fused import FusedGraph
    from fusec.rewrite.graph_pass import PassContext
    from fusec.runtime.binding import RegionBinding


@dataclass(frozen=True, slots=True)
class Options:
    """How to compile; every field is also a flag of `fusec compile`.

    `dims` gives symbolic dimensions a number, `shapes` whole inputs. `passes` switches passes on and off by name,
    "+merge-matmuls,-fuse-chain". `fuse` False is the unfused baseline: the same code generator, one launch per operator.
    `precision` "tf32" lets a device round the factors of float32 products to 10 bits, for its tensor cores. `assume`
    lets symbolic sizes be taken for what models nearly always mean: equal rather than broadcast, positions not below 0.
    """

    device: str | None = None
    fuse: bool = True
    dims: Mapping[str, int] = field(default_factory=dict)
    shapes: Mapping[str, Sequence[int]] = field(default_factory=dict)
    passes: str = ""
    limits: Limits = field(default_factory=Limits)
    precision: str = "f32"
    assume: bool = True

    def __post_init__(self) -> None:
        if self.precision not in PRECISIONS:
            raise UsageError(f"unknown precision {self.precision!r}", hint=f"one of {', '.join(PRECISIONS)}")


def compile(
    model: str | os.PathLike[str] | bytes | Any,
    *,
    device: str | None = None,
    fuse: bool = True,
    dims: Mapping[str, int] | None = None,
    shapes: Mapping[str, Sequence[int]] | None = None,
    passes: str = "",
    precision: str = "f32",
    assume: bool = True,
    threads: int | None = None,
    limits: Limits | None = None,
    trace: Trace | None = None,
) -> Session:
    """Compile an ONNX model and return a Session that is ready to run.

    Args:
        model: A path, the bytes of a model, or an `onnx.ModelProto`.
        device: Where to run: "cpu" (the host's best level, the default), "cpu:generic", "cpu:avx2" or "cpu:avx512", or a
            device of an installed back end (entry points `fusec.backends`).
        fuse: False compiles the unfused baseline: one kernel and one launch per operator.
        dims: Numbers for symbolic dimensions, `{"batch": 1}`; the others stay symbolic.
        shapes: Shapes for whole inputs, `{"x": (1, 3, 224, 224)}`.
        passes: Passes to switch on and off by name, "+merge-matmuls,-fuse-chain".
        precision: "f32", or "tf32" to let a GPU round the factors of float32 products to 10 bits, which is several times
            faster there. A CPU computes float32 always.
        assume: Take symbolic sizes for what models nearly always mean: equal rather than broadcast, positions not below 0. A
            run for which that is wrong gets a second plan, compiled when it comes; a session of a plan file refuses it.
        threads: Workers; by default one per core that this process may use.
        limits: Bounds on nodes, folded constants and memory.
        trace: Collects stage times and dumps; made from FUSEC_DEBUG and FUSEC_DUMP by default.

    Raises:
        ModelError: the model cannot be read or is not valid.
        UnsupportedError: it uses what neither fusec nor its host steps can run; the message lists everything.
        CompileError: code generation failed.
    """
    trace = trace or new_trace()
    limits = limits or Knobs.read().limits
    options = Options(device, fuse, dims or {}, shapes or {}, passes, limits, precision, assume)

    def compiled(options: Options, trace: Trace, second: Callable[[], Session] | None) -> Session:
        plan = compile_plan(model, options, trace)
        return open_session(plan, threads=threads, limits=limits, trace=trace, second=second)

    return compiled(options, trace, lambda: compiled(replace(options, assume=False), trace.inner("unassuming"), None))


def load(
    path: str | os.PathLike[str],
    *,
    threads: int | None = None,
    limits: Limits | None = None,
    trace: Trace | None = None,
) -> Session:
    """Load a plan file and return a Session. Machine code comes from the host's cache or is made again; a plan holds none.

    Raises:
        PlanError: the file is not a plan, is damaged, or needs a newer fusec.
    """
    from fusec.plan.file import load as load_plan

    trace = trace or new_trace()
    with trace.stage("load"):
        plan = load_plan(path)
    return open_session(plan, threads=threads, limits=limits, trace=trace)


def compile_plan(model: Any, options: Options, trace: Trace) -> Plan:
    """Everything up to the plan: read, optimise, fuse, lower, tile, pack. No machine code is made here."""
    return compile_stages(model, options, trace).plan


@dataclass(frozen=True, eq=False)
class Stages:
    """What a compile made on its way: the graph as read, its fused form and the plan."""

    graph: Graph
    fused: FusedGraph
    plan: Plan


def compile_stages(model: Any, options: Options, trace: Trace) -> Stages:
    """As `compile_plan`, with what came before the plan."""
    graph = _read(model, options, trace)
    fused = _fuse(graph, options, _context(options, trace))
    return Stages(graph, fused, _plan(graph, fused, options, trace))


def compile_graph_plan(graph: Graph, options: Options, trace: Trace) -> Plan:
    """The same from a graph."""
    return _plan(graph, _fuse(graph, options, _context(options, trace)), options, trace)


def _plan(graph: Graph, fused: FusedGraph, options: Options, trace: Trace) -> Plan:
    from fusec.ir.told import checkable
    from fusec.lower.lower import lower
    from fusec.plan.pack import pack_weights
    from fusec.tiling.choose import menu, needed
    from fusec.tiling.device.split import split_calls

    context = _context(options, trace)
    with trace.stage("lower") as counts:
        on_device = backend.device(context.target.kind) is not None
        lowered = lower(fused, context, one_launch_per_op=not options.fuse, many_workers=on_device)
        lowered = split_calls(lowered, context.target, options.precision)
        counts.update(kernels=len(lowered.calls), programs=len(lowered.programs))
    for program in lowered.programs:
        trace.dump(program.name, "tile", program.__str__)
    with trace.stage("tile"):
        bindings: dict[str, list[dict[str, Extent]]] = {p.name: [] for p in lowered.programs}
        for call in lowered.calls:
            bindings[call.program.name].append(dict(call.params))
        kernels = {
            p.name: needed(menu(p, context.target, bindings[p.name], options.precision), bindings[p.name])
            for p in lowered.programs
        }
    with trace.stage("pack"):
        weights = pack_weights(fused.graph, lowered.steps, kernels, lowered.aliases)
    return Plan(
        name=graph.name,
        target=context.target,
        inputs=graph.inputs,
        outputs=graph.outputs,
        values=lowered.values,
        aliases=lowered.aliases,
        steps=lowered.steps,
        kernels=kernels,
        weights=weights,
        requirements=checkable(fused.graph),
        numerics={"precision": options.precision, "accumulate": "f32", "fast_math": "contract"},
        fuse=options.fuse,
        passes=options.passes,
        fused=str(fused),
        source_sha256=graph.source_sha256,
        metadata=graph.metadata,
    )


def fuse_model(model: Any, options: Options, trace: Trace) -> FusedGraph:
    """Only as far as fusion: what `fusec explain` shows."""
    return _fuse(_read(model, options, trace), options, _context(options, trace))


def compile_graph(graph: Graph, *, threads: int | None = None, options: Options | None = None) -> Session:
    """Compile a graph that was built by hand (`fusec.ir.build.GraphBuilder`)."""
    options, trace = options or Options(), new_trace()
    return open_session(compile_graph_plan(graph, options, trace), threads=threads, limits=options.limits, trace=trace)


def open_session(
    plan: Plan,
    *,
    threads: int | None = None,
    limits: Limits | None = None,
    trace: Trace | None = None,
    second: Callable[[], Session] | None = None,
) -> Session:
    """A Session over a plan: kernels come from the cache of machine code, missing ones are built.

    `second` makes the session for runs that the plan assumes there are not.
    """
    trace = trace or new_trace()
    if not backend.runs_here(plan.target):
        if backend.device(plan.target.kind) is not None and not plan.from_file:
            from fusec.runtime.code import check_target

            check_target(plan.target)  # whoever asks for a device by name does not want the processor instead
        from fusec.plan.retarget import retarget
        from fusec.target import host

        trace.log(STAGES, lambda: f"the plan is for {plan.target}: its kernels are made again for {host()}")
        with trace.stage("retarget"), plan.blamed():
            plan = retarget(plan, host())
    limits = limits or Knobs.read().limits
    with trace.stage("codegen"), plan.blamed():
        session = _session_class(plan.target)(
            plan,
            threads=threads,
            limits=limits,
            cache=open_cache(),
            watch=_watch(plan, trace),
            compile_body=_body_compiler(plan, threads, limits, trace),
            second=second if any(r.excuses for r in plan.requirements) else None,
        )
    _show_code(plan, trace)
    return session


def _session_class(target: Target) -> type[Session]:
    """Who runs plans for a target: devices with memory of their own have a session of their own."""
    if backend.device(target.kind) is None:
        return Session
    from fusec.runtime.device.session import DeviceSession

    return DeviceSession


def _body_compiler(plan: Plan, threads: int | None, limits: Limits, trace: Trace) -> CompileBody:
    """What compiles a graph inside a host step while its plan runs. The stages are imported only then."""
    precision = plan.numerics.get("precision", "f32")
    options = Options(str(plan.target), plan.fuse, passes=plan.passes, limits=limits, precision=precision)

    def compile_body(model: Any, constants: Mapping[str, Any]) -> Callable[..., list[Any]]:
        from fusec.frontend.read import read_model

        inner = trace.inner(model.graph.name)

        def compiled(assume: bool, second: Callable[[], Session] | None) -> Session:
            with inner.stage("read"):
                graph = read_model(model, limits=limits, constants=constants, assume=assume)
            inner.log(IR, lambda: f"# as read\n{graph}")
            made = compile_graph_plan(graph, options, inner)
            return open_session(made, threads=threads, limits=limits, trace=inner, second=second)

        try:
            return compiled(True, lambda: compiled(False, None)).run_list
        except FusecError as e:
            reason = str(e)
            inner.log(STAGES, lambda: f"{model.graph.name} cannot be compiled: {reason}")
            raise

    return compile_body


def open_cache() -> ObjectCache:
    """The private store of machine code, as FUSEC_CACHE, FUSEC_CACHE_DIR and FUSEC_CACHE_MAX ask for it."""
    from fusec.cache import ObjectCache

    knobs = Knobs.read()
    return ObjectCache(knobs.cache_dir, mode=knobs.cache, limit=knobs.cache_max)


def new_trace() -> Trace:
    """A trace as FUSEC_DEBUG and FUSEC_DUMP ask for it."""
    knobs = Knobs.read()
    return Trace(debug=knobs.debug, folder=knobs.dump)


def check_writable(path: Path, force: bool) -> None:
    """UsageError where a file could not be written there, before any work is done for it."""
    if path.exists() and not path.is_file():
        raise UsageError(f"cannot write {path}", hint="it is a directory, a device or a pipe; name a regular file")
    if path.exists() and not force:
        raise UsageError(f"{path} exists already", hint="choose another name, or overwrite it with --force")
    if not path.parent.is_dir() or not os.access(path.parent, os.W_OK):
        raise UsageError(f"cannot write {path}", hint="its folder must exist and be writable")


def _context(options: Options, trace: Trace) -> PassContext:
    from fusec.rewrite.graph_pass import PassContext

    target = backend.resolve(Target.parse(options.device or Knobs.read().device or "cpu"))
    return PassContext(target=target, limits=options.limits, trace=trace, selection=(options.passes,))


def _read(model: Any, options: Options, trace: Trace) -> Graph:
    from fusec.frontend.read import read_model

    with trace.stage("read") as counts:
        shapes = _shapes(options.shapes)
        graph = read_model(model, limits=options.limits, dims=options.dims, shapes=shapes, assume=options.assume)
        counts["nodes"] = len(graph.nodes)
    trace.dump("read", "graph", graph.__str__)
    trace.log(IR, lambda: f"# as read\n{graph}")
    return graph


def _fuse(graph: Graph, options: Options, context: PassContext) -> FusedGraph:
    from fusec.passes.default import fuse_default, optimise
    from fusec.rewrite.fused import unfused

    with context.trace.stage("optimise") as counts:
        graph = optimise(graph, context)
        counts["nodes"] = len(graph.nodes)
    with context.trace.stage("fuse") as counts:
        fused = fuse_default(graph, context) if options.fuse else unfused(graph)
        counts["groups"] = len(fused.groups)
    if not options.fuse:
        context.trace.dump("unfused", "fused", fused.__str__)
    context.trace.log(IR, lambda: f"# fused\n{fused}")
    return fused


def _watch(plan: Plan, trace: Trace) -> Callable[[RegionBinding], None] | None:
    """Who shows the kernels and schedules of regions as they are planned; None where nobody wants to see them."""
    if trace.debug < KERNELS and trace.folder is None:
        return None
    from fusec.runtime.report import kernel_lines, schedule_text
    from fusec.tiling.cost import tile_microseconds

    def show(binding: RegionBinding) -> None:
        trace.log(KERNELS, lambda: kernel_lines(binding, lambda kernel: tile_microseconds(kernel, plan.target)))
        trace.log(SCHEDULES, lambda: schedule_text(binding))
        trace.dump("schedule", "txt", lambda: schedule_text(binding))

    return show


def _show_code(plan: Plan, trace: Trace) -> None:
    """Sources and assembly of all kernels, where the debug ladder or the dump folder wants them."""
    if trace.debug < SOURCES and trace.folder is None:
        return
    maker = backend.get(plan.target.kind)
    kind = "ll" if backend.device(plan.target.kind) is None else "cu"
    for name, kernels in plan.kernels.items():
        for i, kernel in enumerate(kernels):
            source = maker.emit(kernel, plan.target)
            trace.log(SOURCES, f"; {name}[{i}]\n{source.text}".__str__)
            trace.dump(f"{name}-{i}", kind, source.text.__str__)
            if trace.debug >= ASSEMBLY:
                trace.show(maker.assembly(source, plan.target))


def _shapes(shapes: Mapping[str, Sequence[int]]) -> dict[str, tuple[int, ...]]:
    return {n: tuple(int(d) for d in s) for n, s in shapes.items()}
