"""What lowering a group decides and collects: axes, operands, stages in the making, and the demands between them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import count
from typing import Any

from fusec.ir.dim import Extent, exact_quotient
from fusec.ir.graph import Graph, Node, Value
from fusec.ir.types import DType
from fusec.lower.entries import Entry, axis_symbol
from fusec.tile.program import Operand, Statement

AxisKey = tuple[str, str, int]
"""What an axis runs over: ("out" | "own" | "fold" | "piece", value, dimension)."""


class Again(Exception):  # not an error: a decision changed
    """A decision changed: the group is lowered once more from the beginning."""


@dataclass
class Choices:
    """Decisions that outlive an attempt; each attempt that ends in `Again` adds one, so attempts come to an end.

    `splits`: an axis' dimension -> extents of the axes that replace it. `whole`: parts of output dimensions that no tile
    cuts, because another stage folds them or would be repeated for each tile. `stored`: elementwise values kept in a local.
    """

    splits: dict[AxisKey, tuple[Extent, ...]] = field(default_factory=dict)
    whole: set[tuple[AxisKey, tuple[Extent, ...], int]] = field(default_factory=set)
    stored: set[str] = field(default_factory=set)


@dataclass(frozen=True)
class AxisInfo:
    """One axis: what it runs over, which part of a split dimension it is, and whether it may be split (further)."""

    name: str
    key: AxisKey
    parts: tuple[Extent, ...]
    part: int
    divisible: bool

    @property
    def extent(self) -> Extent:
        """Its extent."""
        return self.parts[self.part]


class Axes:
    """The axes of one attempt."""

    def __init__(self, choices: Choices) -> None:
        self.choices = choices
        self.info: dict[str, AxisInfo] = {}
        self.extents: dict[str, Extent] = {}
        self.numbers = count()

    def make(self, key: AxisKey, extent: Extent, keep_unit: bool, divisible: bool = True) -> tuple[list[str], Entry]:
        """New axes for a dimension (several where it is split, none for an extent of 1) and the index they make."""
        if extent == 1 and not keep_unit:
            return [], 0
        parts = self.choices.splits.get(key, (extent,))
        names, index = list[str](), 0
        position: Extent = index
        for j, e in enumerate(parts):
            name = f"${next(self.numbers)}"
            self.info[name] = AxisInfo(name, key, parts, j, divisible)
            self.extents[name] = e
            names.append(name)
            position = position * e + axis_symbol(name)
        return names, position

    def split(self, name: str, inner: Extent) -> None:
        """Make an axis two, the inner one of extent `inner`; returns where the axis has to stay whole."""
        a = self.info[name]
        outer = exact_quotient(a.extent, inner)
        if not a.divisible or outer is None:
            return
        self.choices.splits[a.key] = (*a.parts[: a.part], outer, inner, *a.parts[a.part + 1 :])
        raise Again

    def is_whole(self, name: str) -> bool:
        """Whether an output axis is not to be cut into tiles."""
        a = self.info[name]
        return (a.key, a.parts, a.part) in self.choices.whole

    def keep_whole(self, name: str) -> None:
        """Do not cut an output axis into tiles."""
        a = self.info[name]
        self.choices.whole.add((a.key, a.parts, a.part))


@dataclass(eq=False)
class Draft:
    """A stage in the making. `body` may name values of other stages by Refs of the demands that stand for them."""

    axes: list[str]
    folds: list[str] = field(default_factory=list)
    body: list[Statement] = field(default_factory=list)
    stores: list[Statement] = field(default_factory=list)
    contracts: bool = False
    unplaced: bool = False


@dataclass(frozen=True, eq=False)
class Demand:
    """A stage needs one element of a value that another stage (or a fold of the same stage) computes."""

    ref: str
    stage: Draft
    folding: bool
    index: tuple[Entry, ...]
    guard: bool
    dtype: DType


@dataclass
class Operands:
    """The operands of the program: which graph value or number each stands for."""

    made: dict[str, Operand] = field(default_factory=dict)
    bound: dict[str, str] = field(default_factory=dict)
    scalars: dict[str, float | int | bool] = field(default_factory=dict)
    known: dict[tuple[object, ...], str] = field(default_factory=dict)

    def get(self, role: str, value: str, dtype: DType, shape: tuple[Extent, ...]) -> str:
        """The operand for a value of the graph, seen in a shape."""
        key = role, value, shape
        if key not in self.known:
            name = f"{role[0]}{len(self.made)}"
            self.known[key] = name
            self.made[name] = Operand(name, role, dtype, shape)
            self.bound[name] = value
        return self.known[key]

    def scalar(self, value: float | int | bool, dtype: DType) -> str:
        """The operand for a number."""
        key = "scalar", repr(value), dtype
        if key not in self.known:
            name = f"c{len(self.made)}"
            self.known[key] = name
            self.made[name] = Operand(name, "scalar", dtype, ())
            self.scalars[name] = value
        return self.known[key]

    def local(self, dtype: DType, shape: tuple[Extent, ...]) -> str:
        """A new local."""
        name = f"h{len(self.made)}"
        self.made[name] = Operand(name, "local", dtype, shape)
        return name


FOLDS = {"reduce_sum": "sum", "reduce_prod": "prod", "reduce_max": "max", "reduce_min": "min"}
FOLDS |= {"argmax": "argmax", "argmin": "argmin", "matmul": "sum", "conv": "sum"}
"""Ops that become a fold of a stage -> the fold."""
PRODUCTS = frozenset(["matmul", "conv"])
"""Ops that become a sum of products."""


@dataclass
class Attempt:
    """What all stages of one attempt share."""

    graph: Graph
    nodes: tuple[Node, ...]
    names: Callable[[str], str]
    stored: set[str]
    axes: Axes
    operands: Operands = field(default_factory=Operands)
    demands: dict[str, list[Demand]] = field(default_factory=dict)
    visits: dict[str, dict[int, Draft]] = field(default_factory=dict)
    seen: dict[str, tuple[Entry, ...]] = field(default_factory=dict)
    pixels: set[str] = field(default_factory=set)
    """Axes over the places where a convolution's windows stand."""
    fresh: Any = field(default_factory=count)

    def __post_init__(self) -> None:
        self.maker = {v.name: n for n in self.nodes for v in n.outputs}
        self.uses = Counter(v.name for n in self.nodes for v in n.operands)

    def held_dtype(self, v: Value) -> DType:
        """The dtype in which a demanded value is kept: products of small floats are summed in float32."""
        small = v.dtype in (DType.F16, DType.BF16)
        return DType.F32 if small and self.maker[v.name].op in PRODUCTS else v.dtype

    def folds(self, node: Node) -> bool:
        """Whether a node needs fold axes or a stage of its own: dimensions of 1 fold to themselves."""
        if node.op in PRODUCTS or node.op == "scatter":
            return True
        return node.op in FOLDS and any(node.operands[0].shape[a] != 1 for a in folded(node))


def folded(node: Node) -> tuple[int, ...]:
    """The input dimensions that a reduction folds."""
    if node.op in ("argmax", "argmin"):
        return (int(node.attr("axis")) % max(1, len(node.operands[0].shape)),)
    return tuple(node.attr("axes"))
