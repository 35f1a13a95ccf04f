"""Lowering: a fused graph becomes steps, runs of kernel calls that start as one launch, and host steps between them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from fusec.errors import UnsupportedError
from fusec.ir.dim import symbols_of
from fusec.ir.graph import Graph, Node, Value
from fusec.ir.told import symbols_of_types
from fusec.ir.types import TensorType, Type
from fusec.kernels.kernel import Call
from fusec.kernels.steps import HostStep, RegionStep, Step
from fusec.lower.group import Programs, lower_group
from fusec.lower.ordered import lower_running
from fusec.lower.recurrent import lower_recurrent
from fusec.lower.top_k import lower_top_k
from fusec.lower.turns import Work, in_turns
from fusec.ops.op import Kind
from fusec.rewrite.fused import FusedGraph, Group
from fusec.tile.program import TileProgram

SAME_BYTES = frozenset(["reshape", "identity"])
"""Ops whose result is their input's bytes."""


@dataclass(frozen=True)
class Lowered:
    """What lowering gives: the steps in order, which values share the bytes of others, and the types of all values.

    Calls and the lists of regions name the values that own their bytes (see `Plan.root`).
    """

    steps: tuple[Step, ...]
    aliases: Mapping[str, str]
    values: Mapping[str, Type]

    @property
    def calls(self) -> tuple[Call, ...]:
        """All calls in order."""
        return tuple(c for s in self.steps if isinstance(s, RegionStep) for c in s.calls)

    @property
    def programs(self) -> tuple[TileProgram, ...]:
        """The programs, each once, in the order of their first use."""
        return tuple({c.program.name: c.program for c in self.calls}.values())


def lower(
    fused: FusedGraph, context: object = None, one_launch_per_op: bool = False, many_workers: bool = False
) -> Lowered:
    """Lower every group; `one_launch_per_op` makes each its own region, as the unfused baseline runs. `many_workers` are those
    of a device: steps that one of them would do alone are cut in two."""
    del context
    graph = fused.graph
    aliases = find_aliases(fused)

    def root(v: str) -> str:
        while v in aliases:
            v = aliases[v]
        return v

    programs = Programs()
    work: list[Work] = []
    extra: dict[str, Type] = {}
    for g in fused.groups:
        if all(v.name in aliases for v in g.outputs):
            continue
        reads = frozenset(root(v.name) for v in g.inputs)
        made = tuple(root(v.name) for v in g.outputs)
        if g.kind is Kind.OPAQUE:
            (node,) = g.nodes
            work.append(_work(node, reads, tuple(v.name for v in node.outputs), graph))
            continue
        _check_native(g)
        if g.kind is Kind.RECURRENT:
            calls, values = _lower_steps(g, graph, programs, root, many_workers)
            extra |= values
            work.append(_work(calls, reads, made, graph))
        else:
            work.append(_work((lower_group(g, graph, programs, root),), reads, made, graph))
    there = {v.name for v in graph.inputs} | set(graph.weights)
    runs = in_turns(work, there, symbols_of_types(v.type for v in graph.inputs))
    if one_launch_per_op:
        runs = [[w] for run in runs for w in run]
    last = {v: at for at, run in enumerate(runs) for w in run for v in w.reads}
    last |= {root(v.name): len(runs) for v in graph.outputs}
    steps = [s for at, run in enumerate(runs) for s in _steps(run, last, at, graph)]
    return Lowered(tuple(steps), aliases, {n: v.type for n, v in graph.values.items()} | extra)


def _lower_steps(
    g: Group, graph: Graph, programs: Programs, root: Callable[[str], str], many_workers: bool
) -> tuple[tuple[Call, ...], dict[str, Type]]:
    """The calls of a node that runs step by step, and the types of values that are not the graph's."""
    if g.nodes[0].op == "running":
        return lower_running(g, graph, programs, root), {}
    if g.nodes[0].op == "top_k":
        return lower_top_k(g, graph, programs, root), {}
    layer = lower_recurrent(g, graph, programs, root, many_workers)
    return layer.calls, layer.values


def find_aliases(fused: FusedGraph) -> dict[str, str]:
    """Values that are other values' bytes in another shape.

    A graph output that would be a graph input's, a weight's or another output's bytes is copied instead.
    """
    graph = fused.graph
    fixed = {v.name for v in graph.inputs} | set(graph.weights)
    given = {v.name for v in graph.outputs}
    aliases: dict[str, str] = {}
    for g in fused.groups:
        if len(g.outputs) != 1 or any(n.op not in SAME_BYTES for n in g.nodes):
            continue
        out = g.outputs[0].name
        source = g.inputs[0].name
        while source in aliases:
            source = aliases[source]
        if out in given and _is_native(g.outputs[0]) and (source in fixed or source in given):
            continue
        aliases[out] = source
        if out in given:
            given.add(source)
    return aliases


def _work(task: tuple[Call, ...] | Node, reads: frozenset[str], makes: tuple[str, ...], graph: Graph) -> Work:
    """The task with what it depends on; a call mentions the dimensions of its operands and of its parameters."""
    read = symbols_of_types(graph.values[v].type for v in reads)
    made = symbols_of_types(graph.values[v].type for v in makes)
    if isinstance(task, Node):
        return Work(task, reads, makes, read | symbols_of_types(v.type for v in task.operands), made)
    return Work(task, reads, makes, read.union(made, *(symbols_of(x) for c in task for _, x in c.params)))


def _steps(run: list[Work], last: Mapping[str, int], at: int, graph: Graph) -> list[Step]:
    """The steps of the run number `at`; `last` is the last run that reads a value."""
    if run[0].on_host:
        return [HostStep(w.task) for w in run if isinstance(w.task, Node)]
    made = dict.fromkeys(v for w in run for v in w.makes)
    reads = dict.fromkeys(v for w in run for v in sorted(w.reads) if v not in made and v not in graph.weights)
    calls = tuple(c for w in run if not isinstance(w.task, Node) for c in w.task)
    return [RegionStep(calls, tuple(reads), tuple(v for v in made if last.get(v, at) > at))]


def _is_native(v: Value) -> bool:
    return isinstance(v.type, TensorType) and v.type.shape is not None and v.type.dtype.is_native


def _check_native(g: Group) -> None:
    for v in (*g.inputs, *g.outputs):
        if not _is_native(v):
            node = g.nodes[0]
            raise UnsupportedError(
                f"{node.op} of {v}: kernels compute on tensors of known rank and of f64 to f16, bf16, integers and bool",
                hint="import the node as opaque",
                node=node.origin[0] if node.origin else None,
                op=node.op,
            )
