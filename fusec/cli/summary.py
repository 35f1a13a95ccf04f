"""What verbs say about a plan and about how long its stages took."""

from __future__ import annotations

from collections import Counter
from typing import Any

from fusec.knobs import format_bytes
from fusec.plan.plan import HostStep, Plan, RegionStep
from fusec.trace import Trace


def stage_lines(trace: Trace) -> list[str]:
    """A line per outermost stage with its time."""
    return [f"  {r.name:<12}{r.seconds * 1e3:9.1f} ms" for r in trace.records if not r.within]


def calls_of(plan: Plan) -> list[Any]:
    """All kernel calls in order."""
    return [c for s in plan.steps if isinstance(s, RegionStep) for c in s.calls]


def host_ops(plan: Plan) -> Counter[str]:
    """How often each operator runs as a host step."""
    return Counter(str(s.node.attr("op_type", s.node.op)) for s in plan.steps if isinstance(s, HostStep))


def weight_bytes(plan: Plan) -> int:
    """Bytes of all stored weights."""
    return sum(int(w.array.nbytes) for w in plan.weights.values())


def describe_plan(plan: Plan) -> list[str]:
    """A few lines for people."""
    calls, host = calls_of(plan), host_ops(plan)
    regions = sum(isinstance(s, RegionStep) for s in plan.steps)
    lines = [
        f"{plan.name or 'model'} on {plan.target}: {len(calls)} kernels ({len(plan.kernels)} programs) in {regions} regions, "
        f"{sum(host.values())} host steps, {format_bytes(weight_bytes(plan))} of weights",
        *(f"  input  {v}" for v in plan.inputs),
        *(f"  output {v}" for v in plan.outputs),
    ]
    if host:
        names = ", ".join(f"{op} x{n}" for op, n in sorted(host.items()))
        lines.append(f"  host steps run on the reference implementation: {names}")
    return lines


def plan_document(plan: Plan, trace: Trace | None = None) -> dict[str, Any]:
    """The same as data."""
    document: dict[str, Any] = {
        "name": plan.name,
        "target": str(plan.target),
        "inputs": [{"name": v.name, "type": str(v.type)} for v in plan.inputs],
        "outputs": [{"name": v.name, "type": str(v.type)} for v in plan.outputs],
        "regions": sum(isinstance(s, RegionStep) for s in plan.steps),
        "kernels": [{"label": c.label, "program": c.program.name, "nodes": list(c.origin)} for c in calls_of(plan)],
        "host_steps": dict(host_ops(plan)),
        "weight_bytes": weight_bytes(plan),
        "numerics": dict(plan.numerics),
        "source_sha256": plan.source_sha256,
    }
    if trace is not None:
        document["stages_ms"] = {r.name: round(r.seconds * 1e3, 3) for r in trace.records if not r.within}
    return document
