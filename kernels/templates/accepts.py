"""Whether a set of nodes can run as one kernel, and why not: the limits of lowering and of the templates, stated once.

A kernel is a map (pointwise work, views, gathers), a row program (reductions with pointwise work around them), a
contraction with what is done to its operands before and to its result after, or two contractions that meet in a panel.
A single node is always taken where its dtypes are native.
"""

from __future__ import annotations

from collections.abc import Sequence

from fusec.ir.dim import Extent, product
from fusec.ir.graph import Node, Value
from fusec.ir.types import TensorType
from fusec.kernels.backend import device
from fusec.ops.op import Kind
from fusec.rewrite.fused import Group, Verdict, kind_of
from fusec.target import Target

MAX_CONTRACTIONS = 2
"""A chain is two matrix products; attention is two by itself."""
PANEL_ELEMENTS = 1 << 16
"""Elements in a row of a panel between two contractions, or between one and a reduction: it stays in cache, rows and all."""
DEVICE_ROWS = 32
"""Rows of a task of a chain on a device with some hundred workers."""
DEVICE_TASKS = 64
"""Tasks that make enough of its workers busy."""
DEVICE_WEIGHTS, DEVICE_FLOPS = 128 << 10, 1_000_000
"""Weights and work of one task that take a single worker 2 us or so: as long as handing the panel on would."""
ASKS_ALL = frozenset(["concat", "pad", "windows", "gather", "gather_elements", "gather_nd"])
"""Ops that ask their inputs at places outside or read from memory: folds cannot be asked so."""


KEEPS_PLACES = frozenset(["transpose", "identity"])
"""Views whose elements lie at their own places of the input, so that an index outside is outside there, too."""


PLAIN_KINDS = frozenset([Kind.ELEMENTWISE, Kind.VIEW])
"""Kinds of nodes that are taken in any number, where nothing else is among them."""


SCATTERED_KINDS = PLAIN_KINDS | {Kind.GATHER}
"""Kinds of nodes that a scatter's group computes where it needs them."""


def accepts(nodes: Sequence[Node], outputs: Sequence[Value], target: Target | None = None) -> Verdict:
    """Whether nodes (in topological order) that store `outputs` can be one kernel."""
    if target is not None and (verdict := _shared_out(nodes, target)) is not None:
        return verdict
    for check in (_native, _scatters, _transforms, _contractions, _after_folds, _gathers, _reshapes, _panels):
        verdict = check(nodes, outputs)
        if not verdict.ok:
            return verdict
    return _outputs(nodes, outputs)


def accepts_group(group: Group, target: Target | None = None) -> Verdict:
    """The same of a group, which knows some of it already."""
    if not group.misfit and group.kinds <= PLAIN_KINDS:
        return _outputs(group.nodes, group.outputs)
    return accepts(group.nodes, group.outputs, target)


TAKEN = Verdict(True, "a template takes it")


def _native(nodes: Sequence[Node], _: Sequence[Value]) -> Verdict:
    for n in nodes:
        if n.op == "opaque":
            return Verdict(False, f"{n.op} runs on the host")
        for v in (*n.operands, *n.outputs):
            t = v.type
            if not isinstance(t, TensorType) or t.shape is None or not t.dtype.is_native:
                return Verdict(False, f"{v} is not what kernels compute on")
    return TAKEN


def _scatters(nodes: Sequence[Node], outputs: Sequence[Value]) -> Verdict:
    """A scatter takes what its updates are made of, and nothing behind it."""
    scatters = [n for n in nodes if n.op == "scatter"]
    if not scatters or len(nodes) == 1:
        return TAKEN
    if len(scatters) > 1 or scatters[0] is not nodes[-1] or [v.name for v in outputs] != [nodes[-1].outputs[0].name]:
        return Verdict(False, "a scatter's group ends in it")
    if any(kind_of(n.op) not in SCATTERED_KINDS for n in nodes[:-1]):
        return Verdict(False, "only what works element by element is computed where it is scattered")
    return TAKEN


def _transforms(nodes: Sequence[Node], outputs: Sequence[Value]) -> Verdict:
    """Winograd's transforms work on whole tiles of pixels: only pointwise work on pixels joins, after the last of them."""
    transforms = [n for n in nodes if n.op.startswith("winograd")]
    if not transforms or len(nodes) == 1:
        return TAKEN
    (first, *more), pixels = transforms, nodes[0].outputs[0].shape
    if more or first.op != "winograd_output" or first is not nodes[0]:
        return Verdict(False, f"{transforms[-1].op} works on whole tiles, and takes nothing in front of it")
    if any(kind_of(n.op) is not Kind.ELEMENTWISE or n.outputs[0].shape != pixels for n in nodes[1:]):
        return Verdict(False, "only pointwise work on the pixels joins a transform")
    if any(v.name not in _descendants(nodes, {first.outputs[0].name}) for v in outputs):
        return Verdict(False, "every output must come from the transform")
    return TAKEN


def _contractions(nodes: Sequence[Node], _: Sequence[Value]) -> Verdict:
    products = [n for n in nodes if kind_of(n.op) is Kind.CONTRACTION]
    if len(nodes) == 1 or not products:
        return TAKEN
    weight = sum(2 if n.op == "attention" else 1 for n in products)
    if weight > MAX_CONTRACTIONS:
        return Verdict(False, f"{weight} contractions: a kernel has at most {MAX_CONTRACTIONS}")
    if len(products) == 2:
        first, second = products
        feeds = _descendants(nodes, {first.outputs[0].name})
        if second.operands[0].name not in feeds:
            return Verdict(False, "the second contraction does not read the first through its left operand")
        if second.operands[1].name in feeds:
            return Verdict(False, "the second contraction reads the first through its right operand")
    return TAKEN


def _shared_out(nodes: Sequence[Node], target: Target) -> Verdict | None:
    """On a device a chain is refused where its rows make too few tasks for so many workers, unless it is short."""
    contractions = [n for n in nodes if kind_of(n.op) is Kind.CONTRACTION]
    if len(contractions) < 2 or device(target.kind) is None:
        return None
    if any(n.op == "conv" for n in contractions):
        return Verdict(False, "no template for a device keeps a convolution's pixels for another one")
    products = [n for n in contractions if n.op == "matmul"]
    if len(products) < 2:
        return None
    shapes = [n.outputs[0].shape for n in products] + [n.operands[1].shape for n in products]
    if not all(isinstance(d, int) for shape in shapes for d in shape):
        return None
    rows = product(products[-1].outputs[0].shape[:-1])
    weights = sum(_known(product(n.operands[1].shape)) * n.outputs[0].dtype.itemsize for n in products)
    flops = sum(2 * _known(product((*n.outputs[0].shape, n.operands[0].shape[-1]))) for n in products)
    tasks = max(1, -(-_known(rows) // DEVICE_ROWS))
    if tasks >= DEVICE_TASKS or (weights <= DEVICE_WEIGHTS and flops <= tasks * DEVICE_FLOPS):
        return None
    return Verdict(False, f"{rows} rows make {tasks} tasks, too few to share among a device's workers")


def _known(x: Extent) -> int:
    return x if isinstance(x, int) else 1


def _after_folds(nodes: Sequence[Node], _: Sequence[Value]) -> Verdict:
    """Folds are computed once per row or tile, so nothing behind them may ask for elements at arbitrary places."""
    folds = {v.name for n in nodes if _folds(n) for v in n.outputs}
    behind = _descendants(nodes, folds)
    for n in nodes:
        if n.op in ASKS_ALL and any(v.name in behind for v in n.operands):
            return Verdict(False, f"{n.op} asks a fold's result at places that no tile of it holds")
    return TAKEN


def _gathers(nodes: Sequence[Node], _: Sequence[Value]) -> Verdict:
    """What is gathered from has the table's own range: an index outside is noticed where it is loaded, and only there."""
    maker = {v.name: n for n in nodes for v in n.outputs}
    todo = [n.operands[0] for n in nodes if kind_of(n.op) is Kind.GATHER]
    seen: set[str] = set()
    while todo:
        v = todo.pop()
        n = maker.get(v.name)
        if n is None or v.name in seen:
            continue
        seen.add(v.name)
        same_bytes = n.op == "reshape" and n.operands[0].name not in maker
        if kind_of(n.op) in (Kind.ELEMENTWISE, Kind.GATHER) or n.op in KEEPS_PLACES or same_bytes:
            todo += n.operands
        else:
            return Verdict(False, f"an index outside of {v} would not be noticed behind its {n.op}")
    return TAKEN


def _reshapes(nodes: Sequence[Node], outputs: Sequence[Value]) -> Verdict:
    """In a contraction's group an index must stay affine without cutting its columns or its sum in two."""
    if not any(kind_of(n.op) is Kind.CONTRACTION for n in nodes):
        return TAKEN
    made = {v.name for n in nodes for v in n.outputs}
    for n in nodes:
        if n.op != "reshape":
            continue
        x, out = n.operands[0], n.outputs[0]
        last = len(outputs) == 1 and out.name == outputs[0].name
        if x.name in made and not last and not splits(x.shape, out.shape):
            return Verdict(
                False, f"the reshape of {x.type} to {out.type} merges dimensions inside a contraction's group"
            )
    return TAKEN


def _panels(nodes: Sequence[Node], _: Sequence[Value]) -> Verdict:
    """What a contraction leaves for another fold is kept whole, per row."""
    for n in nodes:
        if kind_of(n.op) is not Kind.CONTRACTION or len(nodes) == 1:
            continue
        columns = n.outputs[0].shape[-1]
        after = _descendants(nodes, {n.outputs[0].name})
        folded = any(_folds(m) and any(v.name in after for v in m.operands) for m in nodes if m is not n)
        if folded and isinstance(columns, int) and columns > PANEL_ELEMENTS:
            return Verdict(False, f"a panel of {columns} columns is more than {PANEL_ELEMENTS}")
    return TAKEN


def _outputs(nodes: Sequence[Node], outputs: Sequence[Value]) -> Verdict:
    """Every output has the main one's shape, or lies on the way to it, or is folded from what it needs, too."""
    if len(outputs) < 2:
        return TAKEN
    order = {v.name: i for i, n in enumerate(nodes) for v in n.outputs}
    main = max(outputs, key=lambda v: (sum(d != 1 for d in v.shape), order[v.name]))
    others = [v for v in outputs if v.shape != main.shape]
    needed = _ancestors(nodes, main.name) if others else set()
    for v in others:
        if not _has_index(nodes, v, needed):
            return Verdict(False, f"{v} has no index in common with {main}")
    products = {v.name for n in nodes if kind_of(n.op) is Kind.CONTRACTION for v in n.outputs}
    reached = _descendants(nodes, products) if products else set()
    for v in outputs if products else ():
        if v.name not in reached:
            return Verdict(False, f"{v} leaves a contraction's group without coming from its result")
    return TAKEN


def _has_index(nodes: Sequence[Node], v: Value, needed: set[str]) -> bool:
    if v.name in needed:
        return True
    node = next((n for n in nodes if any(v.name == o.name for o in n.outputs)), None)
    if node is None:
        return False
    kind = kind_of(node.op)
    if kind is Kind.REDUCTION:
        return _has_index(nodes, node.operands[0], needed)
    same = [x for x in node.operands if x.shape == v.shape]
    return kind is Kind.ELEMENTWISE and any(_has_index(nodes, x, needed) for x in same)


def splits(coarse: Sequence[object], fine: Sequence[object]) -> bool:
    """Whether a reshape only cuts dimensions: each of the old ones is a product of neighbouring new ones."""
    old, new = [d for d in coarse if d != 1], [d for d in fine if d != 1]
    at = 0
    for d in old:
        for end in range(at + 1, len(new) + 1):
            if product(new[at:end]) == d:  # type: ignore[arg-type]
                at = end
                break
        else:
            return False
    return at == len(new)


def _folds(n: Node) -> bool:
    return kind_of(n.op) in (Kind.REDUCTION, Kind.CONTRACTION)


def _descendants(nodes: Sequence[Node], start: set[str]) -> set[str]:
    """The names in `start` and those of all values that are computed from them."""
    out = set(start)
    for n in nodes:
        if any(v.name in out for v in n.operands):
            out.update(v.name for v in n.outputs)
    return out


def _ancestors(nodes: Sequence[Node], end: str) -> set[str]:
    """The name `end` and those of all values that it is computed from."""
    out = {end}
    for n in reversed(nodes):
        if any(v.name in out for v in n.outputs):
            out.update(v.name for v in n.operands)
    return out
