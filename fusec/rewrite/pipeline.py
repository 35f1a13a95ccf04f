"""Run an ordered tuple of passes: verify after each, blame the guilty one by name, time it, dump what it made."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

from fusec.errors import ResourceError, UsageError, nearest
from fusec.ir.graph import Graph
from fusec.ir.verify import verify
from fusec.rewrite import registry
from fusec.rewrite.graph_pass import Pass, PassContext
from fusec.trace import IR


@dataclass(frozen=True, slots=True)
class FixPoint:
    """Passes that are repeated in order until none of them changes anything, or `limit` rounds are over."""

    name: str
    passes: tuple[Pass, ...]
    limit: int = 10


Pipeline = tuple[Pass | FixPoint, ...]


@dataclass(frozen=True, slots=True)
class Selection:
    """What a user adds to and takes from the default passes: words `+name` and `-name`."""

    add: tuple[str, ...] = ()
    drop: frozenset[str] = frozenset()

    @staticmethod
    def of(words: Iterable[str]) -> Selection:
        """Read words, each one or several separated by commas; names are checked, nothing is loaded. UsageError otherwise."""
        add: list[str] = []
        drop: set[str] = set()
        for word in (w.strip() for text in words for w in text.split(",")):
            if not word:
                continue
            if word[0] not in "+-":
                raise UsageError(f"pass selection {word!r} has no sign", hint=f"write +{word} or -{word}")
            if word[1:] not in registry.known():
                raise UsageError(f"unknown pass {word[1:]!r}", hint=nearest(word[1:], registry.known()))
            if word[0] == "+":
                add.append(word[1:])
            else:
                drop.add(word[1:])
        return Selection(tuple(dict.fromkeys(add)), frozenset(drop))


def select(pipeline: Pipeline, selection: Selection) -> Pipeline:
    """The pipeline without the dropped passes, added graph passes at its end. Names of fusion passes are skipped here."""
    kept: list[Pass | FixPoint] = []
    for step in pipeline:
        if isinstance(step, FixPoint):
            kept.append(replace(step, passes=tuple(p for p in step.passes if p.name not in selection.drop)))
        elif step.name not in selection.drop:
            kept.append(step)
    present = {p.name for p in flatten(tuple(kept))}
    added = (registry.get(name) for name in selection.add if name not in present)
    return (*kept, *(p for p in added if isinstance(p, Pass)))


T = TypeVar("T", bound=registry.Named)


def select_plain(passes: Sequence[T], selection: Selection, kind: type[T]) -> tuple[T, ...]:
    """As `select`, for a plain tuple of passes of one kind."""
    kept = [p for p in passes if p.name not in selection.drop]
    present = {p.name for p in kept}
    added = (registry.get(name) for name in selection.add if name not in present)
    return (*kept, *(p for p in added if isinstance(p, kind)))


def flatten(pipeline: Pipeline) -> tuple[Pass, ...]:
    """Every pass, in order, without the fix-points around them."""
    return tuple(p for step in pipeline for p in (step.passes if isinstance(step, FixPoint) else (step,)))


def run_pipeline(graph: Graph, passes: Pipeline, context: PassContext) -> Graph:
    """Run all passes. A pass that breaks the graph is a BugError that names it; a graph that grows past the limit of
    nodes is a ResourceError that names the pass."""
    for step in passes:
        if isinstance(step, Pass):
            graph, _ = _run(graph, step, context)
            continue
        with context.trace.stage(step.name) as counts:
            for _ in range(step.limit):
                before, counts["rounds"] = graph, counts.get("rounds", 0) + 1
                changes = 0
                for p in step.passes:
                    graph, changed = _run(graph, p, context)
                    changes += changed
                if graph is before or not changes:
                    break
    return graph


def _run(graph: Graph, p: Pass, context: PassContext) -> tuple[Graph, int]:
    with context.trace.stage(p.name) as counts:
        out = p.apply(graph, context)
        if out is graph:
            counts["changed"] = 0
            return graph, 0
        made, gone = count_changes(graph, out)
        changed = made + gone + _other_changes(graph, out)
        counts.update(changed=changed, made=made, gone=gone, nodes=len(out.nodes))
        verify(out, blame=p.name)
    if len(out.nodes) > context.limits.max_nodes:
        raise ResourceError(
            f"pass {p.name!r} makes a graph of {len(out.nodes)} nodes, more than the limit of {context.limits.max_nodes}",
            hint=f"raise the limit of nodes, or leave the pass out with -P -{p.name}",
        )
    if changed:
        context.trace.dump(p.name, "graph", lambda: str(out))
        context.trace.log(IR, lambda: f"# after {p.name}\n{out}")
    return (out, changed) if changed else (graph, 0)


def count_changes(before: Graph, after: Graph) -> tuple[int, int]:
    """How many nodes of `after` are new, and how many of `before` are gone. Equal nodes count as the same node."""
    old, new = {id(n) for n in before.nodes}, {id(n) for n in after.nodes}
    made = [n for n in after.nodes if id(n) not in old]
    gone = [n for n in before.nodes if id(n) not in new]
    if made and gone:
        same = set(made) & set(gone)
        return sum(n not in same for n in made), sum(n not in same for n in gone)
    return len(made), len(gone)


def _other_changes(before: Graph, after: Graph) -> int:
    return int(
        before.outputs != after.outputs
        or before.inputs != after.inputs
        or before.weights.keys() != after.weights.keys()
        or any(before.weights[k] is not w for k, w in after.weights.items())
    )
