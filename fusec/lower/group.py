"""One group becomes one call of a tile program."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

from fusec.errors import BugError
from fusec.ir.dim import Extent
from fusec.ir.graph import Graph
from fusec.kernels.kernel import Call
from fusec.lower.expand import expand
from fusec.lower.finish import assemble
from fusec.lower.merge_axes import merge_axes
from fusec.lower.parameters import parametrise
from fusec.lower.stages import make_stages
from fusec.rewrite.fused import Group
from fusec.tile.program import TileProgram
from fusec.tile.verify import verify_program


class Programs:
    """Programs by body: groups that compute the same share one program, and so one kernel."""

    def __init__(self) -> None:
        self.known: dict[TileProgram, TileProgram] = {}

    def intern(self, p: TileProgram, label: str) -> TileProgram:
        """The one program with the body of `p`; a new one is named after its number and the ops, and verified."""
        body = replace(p, name="")
        if body not in self.known:
            name = f"p{len(self.known):02d}_{short(label)}"
            new = replace(p, name=name)
            verify_program(new)
            self.known[body] = new
        return self.known[body]


def short(label: str) -> str:
    """The ops of a group as a name: repeats once, not too long."""
    parts = list(dict.fromkeys(label.split("+")))
    return "_".join(parts[:4]) + (f"_and_{len(parts) - 4}_more" if len(parts) > 4 else "")


def lower_group(
    group: Group, graph: Graph, programs: Programs | None = None, names: Callable[[str], str] = lambda v: v
) -> Call:
    """The program of a group and what it is applied to. `names` says which value owns the bytes of a value."""
    try:
        nodes = expand(group.nodes)
        staged = make_stages(group, nodes, graph, names)
        program = merge_axes(assemble(staged))
        program, params, renamed = parametrise(program)
    except BugError as e:
        raise BugError(f"lowering the group {group.label} ({group.nodes[-1].outputs[0]}): {e.message}") from e
    program = (programs or Programs()).intern(program, group.label)
    operands = staged.attempt.operands
    bound = {renamed[n]: v for n, v in operands.bound.items() if n in renamed}
    scalars = {renamed[n]: v for n, v in operands.scalars.items() if n in renamed}
    return Call(
        group.label,
        program,
        tuple(sorted(bound.items())),
        _sorted(params),
        tuple(sorted(scalars.items())),
        tuple(dict.fromkeys(o for n in group.nodes for o in n.origin)),
    )


def _sorted(params: Mapping[str, Extent]) -> tuple[tuple[str, Extent], ...]:
    return tuple(sorted(params.items()))
