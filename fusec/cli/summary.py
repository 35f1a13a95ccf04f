"""What verbs say about a plan: kernels, host steps, weights, memory, operators before and after."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from fusec.api import Stages
from fusec.cli.text import plural
from fusec.ir.graph import Node
from fusec.ir.requirement import summary
from fusec.knobs import format_bytes
from fusec.measure.feeds import choose_sizes
from fusec.plan.plan import HostStep, Plan, RegionStep
from fusec.runtime.session import Session
from fusec.trace import Trace

CONTROL = ("If", "Loop", "Scan")
"""Host steps that only decide which plan runs, and how often."""


def calls_of(plan: Plan) -> list[Any]:
    """All kernel calls in order."""
    return [c for s in plan.steps if isinstance(s, RegionStep) for c in s.calls]


def host_ops(plan: Plan) -> Counter[str]:
    """How often each operator runs as a host step."""
    return Counter(op_name(s.node) for s in plan.steps if isinstance(s, HostStep))


def op_name(node: Node) -> str:
    """The op of a node; an opaque node's ONNX operator, with its domain where that is not ONNX's own."""
    if node.op != "opaque":
        return node.op
    domain = str(node.attr("domain", ""))
    return f"{domain}::{node.attr('op_type')}" if domain else str(node.attr("op_type"))


def host_rows(plan: Plan) -> list[list[object]]:
    """Per operator and reason of host steps: operator, count, why, the first node."""
    seen: dict[tuple[str, str], list[object]] = {}
    for node in (s.node for s in plan.steps if isinstance(s, HostStep)):
        why = str(node.attr("why", "") or "-")
        row = seen.setdefault((op_name(node), why), [op_name(node), 0, why, ", ".join(node.origin[:1])])
        row[1] = int(str(row[1])) + 1
    return sorted(seen.values(), key=lambda r: (-int(str(r[1])), str(r[0])))


def weight_bytes(plan: Plan) -> int:
    """Bytes of all stored weights."""
    return sum(int(w.array.nbytes) for w in plan.weights.values())


def describe_plan(plan: Plan) -> list[str]:
    """A few lines for people."""
    calls, host = calls_of(plan), host_ops(plan)
    regions = sum(isinstance(s, RegionStep) for s in plan.steps)
    lines = [
        f"{plan.name or 'model'} on {plan.target}: {plural(len(calls), 'kernel')} ({plural(len(plan.kernels), 'program')}) "
        f"in {plural(regions, 'region')}, {plural(sum(host.values()), 'host step')}, "
        f"{format_bytes(weight_bytes(plan))} of weights",
        *(f"  input  {v}" for v in plan.inputs),
        *(f"  output {v}" for v in plan.outputs),
    ]
    if plan.requirements:
        lines.append(f"  sizes  {_sizes(plan)}")
    control = {op: n for op, n in host.most_common() if op in CONTROL}
    if control:
        lines.append(f"  host steps whose bodies are compiled when they run: {_counted(control)}")
    if other := {op: n for op, n in host.most_common() if op not in CONTROL}:
        lines.append(f"  host steps run on the reference implementation, slowly: {_counted(other)}")
    return lines


def _sizes(plan: Plan) -> str:
    """The bounds that a plan requires of its sizes, how many other conditions there are, and sizes that meet all, if found."""
    needed = summary(plan.requirements)
    bounds = [str(r) for r in needed if str(r.size) in r.symbols and not r.is_exact]
    others = len(needed) - len(bounds)
    if not others:
        return ", ".join(bounds)
    chosen = choose_sizes(sorted({s for r in needed for s in r.symbols}), plan.requirements)
    told = f"{', '.join([*bounds, plural(others, 'other condition')])} (see --nodes)"
    if not all(r.holds(chosen) for r in plan.requirements):
        return told
    return f"{told}, as met by {', '.join(f'{s}={n}' for s, n in chosen.items())}"


def body_lines(session: Session) -> list[str]:
    """What became of the bodies of host steps: how often they were compiled and ran, and why one could not."""
    lines = []
    for b in session.steps.bodies:
        if b.turns:
            lines.append(f"  {b.name} ran {plural(b.turns, 'time')} as {plural(b.compiles, 'plan')}")
        if b.why:
            lines.append(f"  {b.name} runs on the reference implementation: {b.why}")
    return lines


def body_documents(session: Session) -> list[dict[str, Any]]:
    """The same as data."""
    return [{"name": b.name, "runs": b.turns, "plans": b.compiles, "refused": b.why} for b in session.steps.bodies]


def _counted(ops: Mapping[str, int]) -> str:
    return ", ".join(f"{op} x{n}" for op, n in ops.items())


def op_rows(stages: Stages) -> list[list[object]]:
    """Operators as read, after the graph passes, and in how many kernels or host steps each ends up."""
    graph, fused = stages.graph, stages.fused
    read, left = _count(graph.nodes), _count(fused.graph.nodes)
    calls = Counter(op for c in calls_of(stages.plan) for op in set(c.label.split("+")))
    final = calls + host_ops(stages.plan)
    return [[op, read[op] or "-", left[op] or "-", final[op] or "-"] for op, _ in (read | left).most_common()]


def _count(nodes: Iterable[Node]) -> Counter[str]:
    return Counter(op_name(n) for n in nodes)


def memory_lines(plan: Plan, schedules: Sequence[tuple[str, Any]]) -> list[str]:
    """What working memory the regions need, for the sizes that their schedules were made for."""
    lines = [f"  weights        {format_bytes(weight_bytes(plan))}"]
    if schedules:
        arena = max(s.arena for _, s in schedules)
        scratch = max(s.scratch for _, s in schedules)
        lines.append(f"  activations    {format_bytes(arena)} in the arena of the largest region")
        lines.append(f"  per worker     {format_bytes(scratch)} of scratch memory")
    return lines


def plan_document(plan: Plan, trace: Trace | None = None) -> dict[str, Any]:
    """The same as data."""
    document: dict[str, Any] = {
        "name": plan.name,
        "target": str(plan.target),
        "inputs": [{"name": v.name, "type": str(v.type)} for v in plan.inputs],
        "outputs": [{"name": v.name, "type": str(v.type)} for v in plan.outputs],
        "requirements": [str(r) for r in summary(plan.requirements)],
        "regions": sum(isinstance(s, RegionStep) for s in plan.steps),
        "kernels": [{"label": c.label, "program": c.program.name, "nodes": list(c.origin)} for c in calls_of(plan)],
        "host_steps": dict(host_ops(plan)),
        "host_reasons": [dict(zip(("op", "count", "why", "first"), r, strict=True)) for r in host_rows(plan)],
        "weight_bytes": weight_bytes(plan),
        "numerics": dict(plan.numerics),
        "source_sha256": plan.source_sha256,
    }
    if trace is not None:
        document["stages_ms"] = {r.name: round(r.seconds * 1e3, 3) for r in trace.records if not r.within}
    return document
