"""From a group to stages: which values are kept in locals, along which axes tiles are cut, and what each stage computes.

The output is the first stage made. It demands folds and stored values at some index; each of those is placed in turn, last
node first: as a fold inside the one stage that needs it, or as a stage of its own that fills a local. A dimension of a
local that everybody indexes by the same task axes is not stored at all beyond the tile; any other is kept as a whole, and
then no tile may cut it.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, field

from fusec.errors import BugError
from fusec.ir.dim import Dim, Extent, linear, substitute, symbols_of
from fusec.ir.expr import TRANSCENDENTAL, Expr, Index, Load, Prim, Ref, cast, prim, walk
from fusec.ir.graph import Graph, Node, Value
from fusec.ir.types import DType
from fusec.lower.convolve import conv_axes, conv_contracts, conv_product
from fusec.lower.draft import FOLDS, PRODUCTS, Again, Attempt, Axes, Choices, Demand, Draft, folded
from fusec.lower.element import Scope, broadcast, input_index
from fusec.lower.entries import Entry, axes_of, axis_symbol, literal
from fusec.lower.expand import INTERNAL
from fusec.lower.scatter import fill_scattered
from fusec.ops import op as ops
from fusec.ops.op import Kind
from fusec.rewrite.fused import Group
from fusec.tile.program import Fold, Statement, Store

ATTEMPTS = 500
KEPT = FOLDS.keys() | {"scatter"}
"""Ops whose results stages keep anyway, or make once."""
COSTLY = TRANSCENDENTAL | {"div", "sqrt", "mod", "rem", "floordiv"}
"""Primitives that are not worth repeating in several stages."""


@dataclass
class Staged:
    """What an attempt ended in: task axes and stages in order, with demands resolved."""

    attempt: Attempt
    task: list[str]
    stages: list[Draft]
    resolved: dict[str, Expr]


@dataclass
class Frame:
    """Where a value stands that is kept in a local: its index, the dimensions kept whole and their axes, and the task axes
    that the others share with the tile."""

    index: list[Entry] = field(default_factory=list)
    own: list[int] = field(default_factory=list)
    names: list[str] = field(default_factory=list)
    shared: dict[str, None] = field(default_factory=dict)


def make_stages(group: Group, nodes: tuple[Node, ...], graph: Graph, names: Callable[[str], str]) -> Staged:
    """Lower expanded nodes to stages, deciding anew until nothing has to change."""
    choices = Choices()
    for _ in range(ATTEMPTS):
        try:
            return Stages(group, nodes, graph, names, choices).build()
        except Again:
            continue
    raise BugError(f"lowering {group.label} does not come to an end")


def rank(v: Value) -> int:
    """The number of dimensions that are more than 1."""
    return sum(d != 1 for d in v.shape)


def contracts(node: Node) -> bool:
    """Whether a node is a matrix product in its innermost axes."""
    return node.op == "matmul" or (node.op == "conv" and conv_contracts(node))


class Stages:
    """One attempt."""

    def __init__(
        self, group: Group, nodes: tuple[Node, ...], graph: Graph, names: Callable[[str], str], choices: Choices
    ) -> None:
        self.choices, self.nodes = choices, nodes
        self.axes = Axes(choices)
        self.a = Attempt(graph, nodes, names, choices.stored, self.axes)
        self.order = {v.name: i for i, n in enumerate(nodes) for v in n.outputs}
        self.outputs = sorted(group.outputs, key=lambda v: (rank(v), self.order[v.name]))
        self.units = any(n.op in PRODUCTS for n in nodes)
        self.task: list[str] = []
        self.placed: list[Draft] = []
        self.resolved: dict[str, Expr] = {}
        self.tolerant: dict[Draft, frozenset[str]] = {}

    def build(self) -> Staged:
        """All stages, last node first."""
        last = self.output_stages()
        for node in reversed(self.nodes):
            v = node.outputs[0]
            if v.name in self.a.demands:
                self.place(node, v, self.a.demands[v.name])
            elif v.name in self.extra:
                self.place_unread(node, v)
        self.store_costly()
        return Staged(self.a, self.task, [*reversed(self.placed), *last], self.resolved)

    # --- outputs

    def output_stages(self) -> list[Draft]:
        """The stages that write the main output and those of its shape."""
        main, target = self.outputs[-1], self.outputs[-1]
        while len(self.outputs) == 1 and (node := self.a.maker.get(main.name)) and node.op in ("reshape", "identity"):
            (main,) = node.operands  # the same bytes: write them in the simpler shape
        same = [v for v in self.outputs[:-1] if v.shape == target.shape]
        self.extra = {v.name: v for v in self.outputs[:-1] if v.shape != target.shape}
        node = self.a.maker.get(main.name)
        joined = node is not None and node.op == "concat" and not same
        free = int(node.attr("axis")) if joined and node is not None else -1
        index, places = list[Entry](), list[list[str]]()
        for d, n in enumerate(main.shape):
            unit = self.units and d >= len(main.shape) - 2
            names, i = ([], 0) if d == free else self.axes.make(("out", main.name, d), n, unit)
            index.append(i)
            places.append(names)
        every = [n for names in places for n in names]
        self.task = [n for n in every if not self.axes.is_whole(n)]
        out = self.a.operands.get("output", target.name, main.dtype, main.shape)
        if joined and node is not None:
            return [s for j in range(len(node.operands)) for s in self.piece(node, j, out, index, places, free)]
        if node is not None and node.op == "dims" and node.attr("values") and not same:
            return [self.each_dim(node, out)]
        stage = Draft(every)
        scope = Scope(self.a, stage, False)
        stored = [(out, main)] + [(self.a.operands.get("output", v.name, v.dtype, main.shape), v) for v in same]
        stores: list[Statement] = [Store(o, tuple(index), scope.element(v, index)) for o, v in stored]
        stage.body, stage.stores = scope.body, stores
        return [stage]

    def piece(
        self, node: Node, j: int, out: str, index: list[Entry], places: list[list[str]], free: int
    ) -> list[Draft]:
        """A stage that writes the j-th part of a concat: no test, no element read in vain."""
        x = node.operands[j]
        start: Extent = 0
        for before in node.operands[:j]:
            start = start + before.shape[free]
        if x.shape[free] == 0:
            return []
        names, own = self.axes.make(("piece", f"{node.output.name}/{j}", free), x.shape[free], False)
        assert isinstance(own, int | Dim)
        stage = Draft([n for d, p in enumerate(places) for n in (names if d == free else p)])
        scope = Scope(self.a, stage, False)
        value = scope.element(x, [*index[:free], own, *index[free + 1 :]])
        stage.stores = [Store(out, (*index[:free], own + start, *index[free + 1 :]), value)]
        stage.body = scope.body
        return [stage]

    def each_dim(self, node: Node, out: str) -> Draft:
        """A stage that stores dimensions one by one."""
        self.task = []
        stage = Draft([])
        scope = Scope(self.a, stage, False)
        n = len(node.attr("values"))
        stage.stores = [Store(out, (j,), scope.element(node.output, (j,))) for j in range(n)]
        return stage

    def place_unread(self, node: Node, v: Value) -> None:
        """An output of another shape that no stage demands: keep it where it is computed, or give it a stage."""
        if v.name in self.a.seen:
            self.choices.stored.add(v.name)
            raise Again
        index = self.common_index(v, set())
        demand = Demand("", Draft(list(self.task)), True, index or v.shape, False, v.dtype)
        self.fill_local(node, v, [demand], self.a.folds(node), free=index is None)

    def common_index(self, v: Value, tried: set[str]) -> tuple[Entry, ...] | None:
        """Where the rest of the group stands in a value that it does not need itself: from what is made of or into it."""
        if v.name in self.a.seen:
            return self.a.seen[v.name]
        if v.name in tried:
            return None
        tried.add(v.name)
        node = self.a.maker.get(v.name)
        if node is not None and node.op in FOLDS and node.op not in PRODUCTS:
            whole, axes = self.common_index(node.operands[0], tried), folded(node)
            if whole is not None:
                kept = [(d, i) for d, i in enumerate(whole) if node.attr("keepdims") or d not in axes]
                return tuple(0 if d in axes else i for d, i in kept)
        same = [x for x in node.operands if x.shape == v.shape] if node is not None and self.pointwise(node) else []
        readers = [n for n in self.nodes if any(x.name == v.name for x in n.operands) and self.pointwise(n)]
        same += [n.output for n in readers if n.output.shape == v.shape]
        return next((i for x in same if (i := self.common_index(x, tried)) is not None), None)

    def pointwise(self, node: Node) -> bool:
        """Whether a node is elementwise."""
        return node.op in INTERNAL or ops.get(node.op).kind is Kind.ELEMENTWISE

    # --- folds and stored values

    def place(self, node: Node, v: Value, demands: list[Demand]) -> None:
        """Decide where a demanded value is computed."""
        if node.op == "scatter":
            fill_scattered(self, node, v, demands)
            return
        fold = node.op in FOLDS and self.a.folds(node)
        if fold and len(demands) == 1 and v.name not in self.extra and self.inline(node, demands[0]):
            return
        if fold and (later := self.absorbed(v)).name != v.name:
            self.choices.stored.add(later.name)
            raise Again
        self.fill_local(node, v, demands, fold)

    def inline(self, node: Node, d: Demand) -> bool:
        """Compute a fold inside the only stage that needs it, if that stage's points are the fold's own."""
        stage = d.stage
        if d.folding or d.guard or any(not isinstance(i, int | Dim) for i in d.index):
            return False
        covered = frozenset[str]().union(*(axes_of(i) for i in d.index))
        if not covered.issuperset(stage.axes):
            return False
        folds, at = self.fold_axes(node, stage.folds)
        if stage.folds and stage.folds != folds:
            return False
        scope = Scope(self.a, stage, True)
        fold = self.fold(scope, node, d.index, at, d.ref)
        stage.folds = folds
        stage.contracts |= contracts(node)
        stage.body = [*scope.body, fold, *stage.body]
        return True

    def fold_axes(self, node: Node, reuse: Sequence[str] = ()) -> tuple[list[str], dict[int, Entry]]:
        """The fold axes of a node, and where they stand in its (first) input; those of the stage where they are equal."""
        x = node.operands[0]
        if node.op == "conv":
            made = conv_axes(self.axes, node)
        else:
            dims = (len(x.shape) - 1,) if node.op == "matmul" else folded(node)
            product = node.op == "matmul"  # its fold stays one axis: that is what register tiles are made for
            made = [(d, *self.axes.make(("fold", node.output.name, d), x.shape[d], product, not product)) for d in dims]
        names = [n for _, names, _ in made for n in names]
        at: dict[int, Entry] = {d: i for d, _, i in made}
        if reuse and [self.axes.extents[n] for n in names] == [self.axes.extents[n] for n in reuse]:
            same: dict[str, Extent] = {n: axis_symbol(r) for n, r in zip(names, reuse, strict=True)}
            at = {d: substitute(i, same) if isinstance(i, int | Dim) else i for d, i in at.items()}
            names = list(reuse)
        return names, at

    def fold(self, scope: Scope, node: Node, index: Sequence[Entry], at: dict[int, Entry], name: str) -> Fold:
        """The Fold statement of a node at an index of its output; what its arguments need goes to the scope."""
        if node.op == "matmul":
            return Fold(name, "sum", (self.product(scope, node, index, next(iter(at.values()))),))
        if node.op == "conv":
            return Fold(name, "sum", (conv_product(scope, node, index, list(at.values())),))
        (x,) = node.operands
        e = scope.element(x, input_index(node, index, at))
        if node.op in ("argmax", "argmin"):
            (place,) = at.values()
            assert isinstance(place, int | Dim)
            return Fold(name, FOLDS[node.op], (e, Index(place)))
        monoid = FOLDS[node.op]
        if x.dtype is DType.BOOL:
            monoid = {"max": "any", "min": "all"}[monoid]
        return Fold(name, monoid, (e,))

    def product(self, scope: Scope, node: Node, index: Sequence[Entry], k: Entry) -> Prim:
        """One term of a matmul."""
        a, b = node.operands
        batch = index[:-2]
        shape = node.output.shape[:-2]
        left = scope.element(a, (*broadcast(batch, shape, a.shape[:-2]), index[-2], k))
        right = scope.element(b, (*broadcast(batch, shape, b.shape[:-2]), k, index[-1]))
        held = self.a.held_dtype(node.output)
        return prim("mul", cast(left, held), cast(right, held))

    def absorbed(self, v: Value) -> Value:
        """Follow a fold's result through pointwise work of its own shape that only it feeds: that end is what to keep."""
        while v.name not in {o.name for o in self.outputs} and self.a.uses[v.name] == 1:
            (reader,) = (n for n in self.nodes if any(x.name == v.name for x in n.operands))
            if (
                not self.pointwise(reader)
                or reader.output.shape != v.shape
                or reader.output.name == self.outputs[-1].name
            ):
                break
            v = reader.output
        return v

    def fill_local(self, node: Node, v: Value, demands: list[Demand], fold: bool, free: bool = False) -> None:
        """A stage of its own, which keeps the value in a local. `free`: it has no index in common with the others."""
        frame = self.frame(v, demands, range(len(v.shape)) if free else ())
        index, own = frame.index, frame.own
        task = [t for t in self.task if t in frame.shared]
        stage = Draft([*task, *frame.names])
        self.tolerate(node, v, stage, demands)
        scope = Scope(self.a, stage, False)
        held = self.a.held_dtype(v) if fold else v.dtype
        if fold:
            inner = Scope(self.a, stage, True)
            stage.folds, at = self.fold_axes(node)
            name = f"@{next(self.a.fresh)}"
            statement = self.fold(inner, node, index, at, name)
            self.resolved[name] = Ref(name, held)
            stage.body = [*inner.body, statement]
            stage.contracts = contracts(node)
            value: Expr = Ref(name, held)
        else:
            value = scope.element(v, index, compute=True)
            stage.body = scope.body
        extents = self.axes.extents
        kept = [d for d in own if v.shape[d] != 1 or axes_of(index[d])]
        here: tuple[Extent, ...] = tuple(axis_symbol(t) for t in task)
        local = ""
        if any(e.ref for e in demands):
            local = self.a.operands.local(held, (*(extents[t] for t in task), *(v.shape[d] for d in kept)))
            stage.stores.append(Store(local, (*here, *(index[d] for d in kept)), value))
        if v.name in self.extra:
            out = self.a.operands.get("output", v.name, v.dtype, v.shape)
            stage.stores.append(Store(out, tuple(index), cast(value, v.dtype)))
        for e in demands:
            fill = literal(0, held) if e.guard else None
            self.resolved[e.ref] = Load(local, (*here, *(e.index[d] for d in kept)), held, fill)
        self.placed.append(stage)

    def frame(self, v: Value, demands: list[Demand], whole: Collection[int]) -> Frame:
        """Which dimensions of a demanded value follow the task axes; those in `whole` never do."""
        out, again, cut = Frame(), False, set(self.task)
        for d, n in enumerate(v.shape):
            entries = {e.index[d] for e in demands}
            used = frozenset[str]().union(*(axes_of(i) for i in entries))
            plain = len(entries) == 1 and d not in whole and not any(e.guard for e in demands)
            (first, *_) = entries
            if v.name in self.extra and not self.covers(first, n, out.shared):
                plain = False  # an output is written as a whole, even if the others need a part of it
            if plain and used <= cut and isinstance(first, int | Dim):
                out.index.append(first)
                out.shared |= dict.fromkeys(sorted(used, key=self.task.index))
                continue
            for t in used & cut:
                self.axes.keep_whole(t)
                again = True
            made, i = self.axes.make(("own", v.name, d), n, self.units and d >= len(v.shape) - 2)
            out.index.append(i)
            out.own.append(d)
            out.names += made
        if again:
            raise Again
        return out

    def covers(self, index: Entry, n: Extent, taken: Iterable[str]) -> bool:
        """Whether an index runs through a dimension of `n`, each place once, along axes that no other dimension has taken."""
        if not isinstance(index, int | Dim):
            return False
        axes = [a for a in self.axes.extents if a in symbols_of(index)]
        parts = linear(index, axes)
        if parts is None or parts[0] != 0 or any(a in taken for a in axes):
            return False
        left = dict(parts[1])
        total: Extent = 1
        while left:
            inner = next((a for a, c in left.items() if c == total), None)
            if inner is None:
                return False
            del left[inner]
            total = total * self.axes.extents[inner]
        return total == n

    def tolerate(self, node: Node, v: Value, stage: Draft, demands: list[Demand]) -> None:
        """A stage that lacks a task axis is repeated for each tile along it: fine for row statistics of a contraction."""
        missing = [t for t in self.task if t not in stage.axes]
        statistic = all(n in self.task for n in stage.axes) and v.name not in self.extra
        cheap = statistic and not self.contains_product(node)
        kept: set[str] = set()
        for t in missing:
            if cheap and all(t in self.tolerant.get(d.stage, ()) or (d.folding and d.stage.contracts) for d in demands):
                kept.add(t)
            else:
                self.axes.keep_whole(t)
        if len(kept) < len(missing):
            raise Again
        self.tolerant[stage] = frozenset(kept)

    def contains_product(self, node: Node) -> bool:
        """Whether a matmul may end up in the stage of a node."""
        todo: list[Node] = [node]
        while todo:
            n = todo.pop()
            if n.op in PRODUCTS:
                return True
            if n is node or n.op not in FOLDS:
                makers = (self.a.maker.get(v.name) for v in n.operands if v.name not in self.choices.stored)
                todo += [m for m in makers if m is not None]
        return False

    # --- values worth keeping

    def store_costly(self) -> None:
        """Keep the last costly elementwise value that several stages would compute again."""
        for node in reversed(self.nodes):
            v = node.outputs[0]
            if v.name not in self.choices.stored and len(self.a.visits.get(v.name, ())) > 1 and self.costly(v):
                self.choices.stored.add(v.name)
                raise Again

    def costly(self, v: Value) -> bool:
        """Whether computing an element, down to loads, folds and stored values, takes a costly primitive."""
        todo, seen = [v], set[str]()
        while todo:
            x = todo.pop()
            node = self.a.maker.get(x.name)
            if node is None or x.name in seen or x.name in self.choices.stored or node.op in KEPT:
                continue
            seen.add(x.name)
            if any(isinstance(e, Prim) and e.name in COSTLY for e in self.body(node)):
                return True
            todo += node.operands
        return False

    def body(self, node: Node) -> list[Expr]:
        """Every part of what computes an element of a node."""
        refs = [None if x is None else Ref(f"&{j}", x.dtype) for j, x in enumerate(node.inputs)]
        if node.op in INTERNAL and refs[0] is not None:
            return list(walk(INTERNAL[node.op](refs[0], dict(node.attrs), (0,) * len(node.output.shape))))
        scalar = ops.get(node.op).scalar
        return [] if scalar is None else list(walk(scalar(refs, dict(node.attrs))))
