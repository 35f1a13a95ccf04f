"""What verbs say about recurrent layers on a device: whose weights stay in shared memory, and why those of others do not."""

from __future__ import annotations

from typing import Any

from fusec.cli.summary import calls_of
from fusec.cli.text import plural
from fusec.kernels import backend
from fusec.knobs import format_bytes
from fusec.plan.plan import Plan


def layer_documents(plan: Plan) -> list[dict[str, Any]]:
    """Per program with recurrent weights: its layers, whether weights are resident, and how much a block keeps, or why not.

    Empty on targets whose workers have no memory of their own.
    """
    if backend.device(plan.target.kind) is None:
        return []
    from fusec.kernels.cuda.known import with_known
    from fusec.kernels.cuda.resident_shape import residents
    from fusec.tiling.device.resident import is_recurrent, resident_choices

    out = []
    programs = {c.program.name: c.program for c in calls_of(plan) if is_recurrent(c.program)}
    for name, program in programs.items():
        calls = [c for c in calls_of(plan) if c.program.name == name]
        kept = [with_known(k) for k in plan.kernels[name] if k.keeps]
        why = [c.why for c in resident_choices(program, plan.target, [dict(c.params) for c in calls]) if c.why]
        layer: dict[str, Any] = {
            "program": name,
            "layers": [", ".join(c.origin) for c in calls],
            "resident": bool(kept),
            "why_not": "" if kept else why[0] if why else "the plan was tiled without",
        }
        if kept:
            shapes = residents(kept[0].program, kept[0].tiling)
            layer["columns"] = shapes[0].width
            layer["bytes"] = sum(s.kept for s in shapes)
        out.append(layer)
    return out


def layer_rows(plan: Plan) -> list[list[object]]:
    """The same for people: program, layers, where their weights are, the first node."""
    rows: list[list[object]] = []
    for x in layer_documents(plan):
        where = f"read again at every step: {x['why_not']}"
        if x["resident"]:
            where = f"in shared memory, {plural(x['columns'], 'column')} and {format_bytes(x['bytes'])} a block"
        rows.append([x["program"], len(x["layers"]), where, x["layers"][0]])
    return rows
