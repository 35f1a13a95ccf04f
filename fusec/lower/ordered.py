"""Running sums: one call, whose tasks walk their lines from one end to the other and carry what they have so far.

    task o: O, j: J                                       lines side by side
    local c: f32[1, O, J]
    stage o, j
      c[0, o, j] = 0.0
    stage o, n: N, j
      old = c[index(0), o, j]
      new = old + x[o, n, j]
      y[o, n, j] = new
      c[index(0), o, j] = new

The carry is written at a place that counts as read from memory, so that the points along n follow each other. A line whose
elements lie next to each other is taken a block at a time: the sum inside a block is one of the elements up to each place,
the carry is the same for all places of the block, and only adding to it waits for the block before.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from fusec.ir.dim import Extent, floordiv, product, symbol
from fusec.ir.expr import Const, Expr, Index, Load, Ref, cast, prim
from fusec.ir.graph import Graph, Node, Value
from fusec.kernels.kernel import Call
from fusec.lower.group import Programs
from fusec.ops.ordered import NEUTRAL
from fusec.ops.recurrent import wide
from fusec.rewrite.fused import Group
from fusec.tile.program import Axis, Fold, Let, Operand, Stage, Store, TileProgram

O, N, J = (symbol(n) for n in "ONJ")  # noqa: E741 - lines outside, elements of a line, lines inside
o, n, j, b, e, p = (symbol(s) for s in "onjbep")
BLOCK = 8
"""Elements of a block: a vector of float32 with AVX2. Larger ones add more inside than they save outside."""


def lower_running(group: Group, graph: Graph, programs: Programs, root: Callable[[str], str]) -> tuple[Call, ...]:
    """The call of a running sum or product. `root` says which value owns the bytes of a value."""
    (node,) = group.nodes
    (x,), y, sizes = node.operands, node.outputs[0], lines(node)
    made = _Running(node, role_of(x, graph))
    program = made.along_lines() if sizes["J"] == 1 else made.side_by_side()
    params = {k: v for k, v in sizes.items() if k in program.params}
    return (call(node, programs.intern(program, node.op), {"x": root(x.name), "y": root(y.name)}, params),)


class _Running:
    """The programs of one node."""

    def __init__(self, node: Node, role: str) -> None:
        (x,) = node.operands
        self.role, self.dtype, self.held = role, x.dtype, wide(x.dtype)
        self.exclusive, self.reverse = bool(node.attr("exclusive")), bool(node.attr("reverse"))
        self.fn = str(node.attr("fn"))
        start = NEUTRAL[self.fn]
        self.start = Const(float(start) if self.held.is_float else start, self.held)

    def side_by_side(self) -> TileProgram:
        """A step of all lines of a tile at a time."""
        axes = (Axis("o", O), Axis("j", J))
        first = Stage(("o", "j"), (), (Store("c", (0, o, j), self.start),))
        step = self.step(("o", Axis("n", N), "j"), n, (j,))
        return self.program(axes, (O, N, J), (1, O, J), (first, step))

    def along_lines(self) -> TileProgram:
        """Blocks of a line, then what is left of it."""
        blocks = floordiv(N, BLOCK)
        place = BLOCK - 1 - p if self.reverse else p  # so that places next to each other are written in one go
        inside = prim("lt" if self.exclusive else "le", Index(e), Index(place))
        x = self.load(b * BLOCK + e)
        chosen = prim("where", inside, x, self.start)
        old, before, total = (Ref(name, self.held) for name in ("old", "before", "total"))
        here = (Index(0), o, p)
        block = (
            Let("old", Load("c", here, self.held)),
            Fold("before", self.fn, (chosen,)),
            Fold("total", self.fn, (x,)),
            Store("y", (o, self.at(b * BLOCK + place)), cast(self.join(old, before), self.dtype)),
            Store("c", here, self.join(old, total)),
        )
        places = Axis("p", BLOCK)
        stages = (
            Stage(("o", places), (), (Store("c", (0, o, p), self.start),)),
            Stage(("o", Axis("b", blocks), places), (Axis("e", BLOCK),), block),
            self.step(("o", Axis("n", N - blocks * BLOCK)), blocks * BLOCK + n, (0,)),
        )
        return self.program((Axis("o", O),), (O, N), (1, O, BLOCK), stages)

    def step(self, axes: tuple[str | Axis, ...], at: Extent, column: tuple[Extent, ...]) -> Stage:
        """One element of each line."""
        inner = column if column != (0,) else ()
        here = (Index(0), o, *column)
        old, new = Ref("old", self.held), Ref("new", self.held)
        body = (
            Let("old", Load("c", here, self.held)),
            Let("new", self.join(old, self.load(at, *inner))),
            Store("y", (o, self.at(at), *inner), cast(old if self.exclusive else new, self.dtype)),
            Store("c", here, new),
        )
        return Stage(axes, (), body)

    def load(self, at: Extent, *inner: Extent) -> Expr:
        return cast(Load("x", (o, self.at(at), *inner), self.dtype), self.held)

    def at(self, place: Extent) -> Extent:
        """Where the element is that comes at a place of the order."""
        return N - 1 - place if self.reverse else place

    def join(self, a: Expr, b: Expr) -> Expr:
        return prim("add" if self.fn == "sum" else "mul", a, b)

    def program(
        self, axes: tuple[Axis, ...], shape: tuple[Extent, ...], carried: tuple[Extent, ...], stages: tuple[Stage, ...]
    ) -> TileProgram:
        operands = (
            Operand("x", self.role, self.dtype, shape),
            Operand("c", "local", self.held, carried),
            Operand("y", "output", self.dtype, shape),
        )
        return TileProgram("", ("O", "N", "J")[: len(shape)], axes, operands, stages)


def lines(node: Node) -> dict[str, Extent]:
    """What a node's axis makes of its first input: lines outside, elements of a line, lines inside."""
    shape, axis = node.operands[0].shape, int(node.attr("axis"))
    return {"O": product(shape[:axis]), "N": shape[axis], "J": product(shape[axis + 1 :])}


def role_of(v: Value, graph: Graph) -> str:
    """The role of an operand that is only read."""
    return "weight" if v.name in graph.weights else "input"


def call(node: Node, program: TileProgram, operands: Mapping[str, str], params: Mapping[str, Extent]) -> Call:
    """A program bound to values and sizes."""
    return Call(node.op, program, tuple(sorted(operands.items())), tuple(sorted(params.items())), (), node.origin)
