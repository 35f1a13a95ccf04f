"""Passes over the graph: a named function from graph to graph, declared with a decorator and found by its name.

@graph_pass("drop-identity")
def drop_identity(graph: Graph, context: PassContext) -> Graph:
    \"\"\"Remove identities that name no output.\"\"\"
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from fusec.errors import BugError, UsageError
from fusec.ir.graph import Graph
from fusec.rewrite import registry
from fusec.target import Target
from fusec.trace import Trace

if TYPE_CHECKING:
    from fusec.knobs import Limits


@dataclass(frozen=True, slots=True)
class PassContext:
    """What a pass may know besides the graph.

    `limits` bounds what it may spend (`fold_bytes`, `max_nodes`). `selection` is what the user adds to and takes from the
    default passes: words such as `+merge-matmuls` and `-fuse-chain`.
    """

    target: Target
    limits: Limits
    trace: Trace = field(default_factory=Trace)
    selection: tuple[str, ...] = ()


Apply = Callable[[Graph, PassContext], Graph]


@dataclass(frozen=True, slots=True)
class Pass:
    """A pass: `apply` takes a valid graph and gives a valid graph, the same object where it changed nothing.

    Inputs and outputs keep their names and their order; every value keeps what it means.
    """

    name: str
    apply: Apply
    doc: str

    def __post_init__(self) -> None:
        check_name(self.name)

    def __call__(self, graph: Graph, context: PassContext) -> Graph:
        """Apply it, without the pipeline's verification."""
        return self.apply(graph, context)


def graph_pass(name: str) -> Callable[[Apply], Pass]:
    """Declare a function as the pass `name` (kebab-case). The first line of its docstring is its help text."""

    def declare(apply: Apply) -> Pass:
        return registry.register(Pass(name, apply, first_line(apply.__doc__)), apply.__module__)

    return declare


def check_name(name: str) -> None:
    """BugError where a pass name is not in kebab-case: names are typed on command lines."""
    if not re.fullmatch(r"[a-z][a-z0-9]*(-[a-z0-9]+)*", name):
        raise BugError(f"pass name {name!r} is not in kebab-case")


def first_line(doc: str | None) -> str:
    """The first line of a docstring, or nothing."""
    return (doc or "").strip().partition("\n")[0]


def get_graph_pass(name: str) -> Pass:
    """The graph pass of that name, loaded from its plug-in if need be. UsageError where there is none."""
    found = registry.get(name)
    if not isinstance(found, Pass):
        raise UsageError(f"{name!r} is a fusion pass, not a graph pass")
    return found
