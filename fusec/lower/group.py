"""One group becomes one call of a tile program."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from fusec.errors import BugError
from fusec.ir.dim import Extent
from fusec.ir.graph import Graph, Value
from fusec.kernels.kernel import Call
from fusec.lower.element import repeated
from fusec.lower.expand import expand
from fusec.lower.finish import assemble
from fusec.lower.merge_axes import merge_axes
from fusec.lower.parameters import SMALL, parametrise
from fusec.lower.stages import make_stages
from fusec.lower.winograd import is_winograd, winograd_stages
from fusec.rewrite.fused import Group
from fusec.tile.program import TileProgram
from fusec.tile.verify import verify_program

POSITIONS = range(-64, 65)
"""Numbers of the places in a tile, which are the same for every layer."""

Binding = tuple[tuple[str, Extent], ...]
Scalars = tuple[tuple[str, float | int | bool], ...]


@dataclass(frozen=True)
class Pattern:
    """How groups of one structure are lowered: the program, and operands by the position of their bytes in the group."""

    program: TileProgram
    operands: tuple[tuple[str, int], ...]
    params: Binding
    scalars: Scalars


class Programs:
    """Programs by body: groups that compute the same share one program, and so one kernel.

    `patterns` are groups seen before, so that the layers of a model are lowered once.
    """

    def __init__(self) -> None:
        self.known: dict[TileProgram, TileProgram] = {}
        self.patterns: dict[Structure, Pattern] = {}

    def intern(self, p: TileProgram, label: str) -> TileProgram:
        """The one program with the body of `p`; a new one is named after its number and the ops, and verified."""
        body = replace(p, name="")
        if body not in self.known:
            new = replace(p, name=f"p{len(self.known):02d}_{short(label)}")
            verify_program(new)
            self.known[body] = new
        return self.known[body]


def short(label: str) -> str:
    """The ops of a group as a name: repeats once, not too long."""
    parts = list(dict.fromkeys(label.replace(".", "_").split("+")))  # ops of users have their domain in front
    return "_".join(parts[:4]) + (f"_and_{len(parts) - 4}_more" if len(parts) > 4 else "")


Structure = tuple[object, ...]
"""Everything that lowering a group depends on, with numbers in the place of names."""


def lower_group(
    group: Group, graph: Graph, programs: Programs | None = None, names: Callable[[str], str] = lambda v: v
) -> Call:
    """The program of a group and what it is applied to. `names` says which value owns the bytes of a value."""
    programs = programs or Programs()
    structure, roots = structure_of(group, graph, names)
    if structure not in programs.patterns:
        programs.patterns[structure] = _lower(group, graph, programs, names, roots)
    p = programs.patterns[structure]
    operands = tuple((operand, roots[at]) for operand, at in p.operands)
    origin = tuple(dict.fromkeys(o for n in group.nodes for o in n.origin))
    return Call(group.label, p.program, operands, p.params, p.scalars, origin)


def _lower(
    group: Group, graph: Graph, programs: Programs, names: Callable[[str], str], roots: Sequence[str]
) -> Pattern:
    try:
        winograd = is_winograd(group.nodes)
        make = winograd_stages if winograd else make_stages
        staged = make(group, expand(group.nodes), graph, names)
        merged = merge_axes(assemble(staged), staged.attempt.pixels)
        program, params, renamed = parametrise(merged, POSITIONS if winograd else SMALL)
    except BugError as e:
        raise BugError(f"lowering the group {group.label} ({group.nodes[-1].outputs[0]}): {e.message}") from e
    program = programs.intern(program, group.label)
    made = staged.attempt.operands
    operands = {renamed[n]: roots.index(v) for n, v in made.bound.items() if n in renamed}
    scalars = {renamed[n]: v for n, v in made.scalars.items() if n in renamed}
    return Pattern(
        program, tuple(sorted(operands.items())), tuple(sorted(params.items())), tuple(sorted(scalars.items()))
    )


def structure_of(group: Group, graph: Graph, names: Callable[[str], str]) -> tuple[Structure, list[str]]:
    """The structure of a group, and the owners of the bytes that it reads and writes, by their numbers."""
    numbers: dict[str, int] = {}
    roots: dict[str, int] = {}
    facts: list[object] = []

    def number(v: Value) -> int:
        if v.name not in numbers:
            numbers[v.name] = len(numbers)
            array = graph.array(v)
            one = repr(array.reshape(()).item()) if array is not None and array.size == 1 else None
            root = roots.setdefault(names(v.name), len(roots))
            facts.append((v.dtype, v.shape, array is None, one, repeated(array), root))
        return numbers[v.name]

    for n in group.nodes:
        ends = tuple(None if v is None else number(v) for v in n.inputs), tuple(number(v) for v in n.outputs)
        facts.append((n.op, repr(n.attrs), ends))
    facts.append(tuple(number(v) for v in group.outputs))
    return tuple(facts), list(roots)
