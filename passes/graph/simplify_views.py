"""Views that show everything as it was, and chains of views that are one."""

from __future__ import annotations

from fusec.ir.dim import Extent
from fusec.ir.graph import Graph, Node, Value
from fusec.ops import op as ops
from fusec.ops.op import Kind
from fusec.passes.graph.sweep import Sweep, sweep
from fusec.rewrite.graph_pass import PassContext, graph_pass


@graph_pass("simplify-views")
def simplify_views(graph: Graph, _: PassContext) -> Graph:
    """Remove views that change nothing and merge views of views.

    before: a = transpose[perm=(1, 0)](x); b = transpose[perm=(1, 0)](a); y = reshape[shape=(6,)](b)
    after:  y = reshape[shape=(6,)](x)
    """
    broadcasting = {name: (_drop_expand,) for name in ops.declared() if ops.get(name).kind is Kind.ELEMENTWISE}
    return sweep(graph, {**broadcasting, **RULES})


def _identity(s: Sweep, n: Node) -> Value | None:
    """The value itself; an identity that gives an input or a constant the name of an output has to stay."""
    (x,) = n.operands
    names_output = n.output.name in s.graph.output_names
    if names_output and (s.maker(x) is None or x.name in s.graph.output_names):
        return None
    return x


def _unchanged(_: Sweep, n: Node) -> Value | None:
    """A reshape or expand to the shape that is there."""
    x = n.operands[0]
    return x if x.type == n.output.type else None


def _merge_reshapes(s: Sweep, n: Node) -> Value | None:
    inner = s.maker(n.operands[0], "reshape")
    if inner is None:
        return None
    s.absorb(inner)
    return s.emit("reshape", inner.operands[0], shape=n.attr("shape"))


def _merge_expands(s: Sweep, n: Node) -> Value | None:
    inner = s.maker(n.operands[0], "expand")
    if inner is None:
        return None
    s.absorb(inner)
    return s.emit("expand", inner.operands[0], shape=n.attr("shape"))


def _transpose(s: Sweep, n: Node) -> Value | None:
    """The identity permutation, a permutation of a permutation, and moves of dimensions of size 1, which are reshapes."""
    (x,) = n.operands
    perm: tuple[int, ...] = n.attr("perm")
    if perm == tuple(range(len(perm))):
        return x
    inner = s.maker(x, "transpose")
    if inner is not None:
        s.absorb(inner)
        return s.emit("transpose", inner.operands[0], perm=tuple(inner.attr("perm")[p] for p in perm))
    moved = [p for p in perm if x.shape[p] != 1]
    if moved == sorted(moved):
        return s.emit("reshape", x, shape=n.output.shape)
    return _transpose_back(s, n) or _transpose_through(s, n)


def _transpose_back(s: Sweep, n: Node) -> Value | None:
    """A transpose of the last dimensions, behind a reshape of the others, behind another such transpose.

    The two transposes meet and become one: exporters write k^T as a product over merged heads would need it.
    """
    (x,) = n.operands
    reshape = s.maker(x, "reshape")
    inner = s.maker(reshape.operands[0], "transpose") if reshape is not None else None
    if reshape is None or inner is None:
        return None
    perm, first = n.attr("perm"), inner.attr("perm")
    kept = _tail(perm)
    between, source = reshape.operands[0].shape, inner.operands[0]
    if kept < _tail(first) or len(between) < kept or between[len(between) - kept :] != x.shape[len(perm) - kept :]:
        return None
    lead, own = len(first) - kept, len(perm) - kept
    both = (*range(lead), *(first[lead + p - own] for p in perm[own:]))
    s.absorb(reshape, inner)
    turned = source if both == tuple(range(len(both))) else s.emit("transpose", source, perm=both)
    return s.emit("reshape", turned, shape=n.output.shape)


def _transpose_through(s: Sweep, n: Node) -> Value | None:
    """A transpose behind a reshape that only joins dimensions, behind another transpose that keeps these side by side.

    Pixels of a convolution become positions in a sequence this way: both transposes cancel.
    """
    (x,) = n.operands
    reshape = s.maker(x, "reshape")
    inner = s.maker(reshape.operands[0], "transpose") if reshape is not None else None
    if reshape is None or inner is None:
        return None
    first, (source,) = inner.attr("perm"), inner.operands
    groups = _joined(reshape.operands[0].shape, x.shape)
    places = None if groups is None else [[first[d] for d in group] for group in groups]
    if places is None or any(p != list(range(p[0], p[0] + len(p))) for p in places):
        return None
    order = sorted(range(len(places)), key=lambda g: places[g])
    joined = s.emit("reshape", source, shape=tuple(x.shape[g] for g in order))
    s.absorb(reshape, inner)
    perm = tuple(order.index(p) for p in n.attr("perm"))
    return joined if perm == tuple(range(len(perm))) else s.emit("transpose", joined, perm=perm)


def _joined(fine: tuple[Extent, ...], coarse: tuple[Extent, ...]) -> list[list[int]] | None:
    """Which dimensions of a shape each one of a coarser shape joins; None where it is anything else."""
    out: list[list[int]] = []
    at = 0
    for d in coarse:
        group, size = [at], fine[at] if at < len(fine) else None
        at += 1
        while size is not None and size != d and at < len(fine):
            group.append(at)
            size = size * fine[at]
            at += 1
        if size != d:
            return None
        out.append(group)
    return out if at == len(fine) else None


def _tail(perm: tuple[int, ...]) -> int:
    """How many of the last dimensions a permutation moves among themselves, the others staying where they are."""
    fixed = next((i for i, p in enumerate(perm) if p != i), len(perm))
    return len(perm) - fixed


def _slice(s: Sweep, n: Node) -> Value | None:
    """The whole of it, and a slice of a slice."""
    (x,) = n.operands
    starts, sizes, steps = (n.attr(a) for a in ("starts", "sizes", "steps"))
    if sizes == x.shape and not any(starts_elsewhere(a) for a in starts) and set(steps) <= {1}:
        return x
    inner = s.maker(x, "slice")
    if inner is None:
        return None
    s.absorb(inner)
    first, stride = inner.attr("starts"), inner.attr("steps")
    return s.emit(
        "slice",
        inner.operands[0],
        starts=tuple(a + b * k for a, b, k in zip(first, starts, stride)),
        sizes=sizes,
        steps=tuple(a * b for a, b in zip(stride, steps)),
    )


def starts_elsewhere(start: Extent) -> bool:
    """Whether a start is not known to be 0."""
    return not isinstance(start, int) or start != 0


def _concat(s: Sweep, n: Node) -> Value | None:
    """One part alone, parts without elements, and parts that are concatenations along the same axis."""
    axis = n.attr("axis")
    parts: list[Value] = []
    for v in n.operands:
        inner = s.maker(v, "concat")
        if inner is not None and inner.attr("axis") == axis and s.readers(v) == 1:
            s.absorb(inner)
            parts += inner.operands
        else:
            parts.append(v)
    kept = [v for v in parts if v.shape[axis] != 0] or parts[:1]
    if len(kept) == 1:
        return kept[0]
    return s.emit("concat", *kept, axis=axis) if tuple(kept) != n.operands else None


def _pad(_: Sweep, n: Node) -> Value | None:
    """No padding at all."""
    nothing = all(isinstance(p, int) and p == 0 for p in (*n.attr("before"), *n.attr("after")))
    return n.operands[0] if nothing else None


def _gather(s: Sweep, n: Node) -> Value | None:
    """One constant index -> a slice, which fuses as a view; only where the index is known to be inside."""
    x, indices = n.operands
    index, axis = s.array(indices), n.attr("axis")
    size = x.shape[axis]
    if index is None or index.size != 1 or not isinstance(size, int) or not -size <= int(index.flat[0]) < size:
        return None
    rank = len(x.shape)
    at = int(index.flat[0]) % size
    part = s.emit(
        "slice",
        x,
        starts=tuple(at if i == axis else 0 for i in range(rank)),
        sizes=tuple(1 if i == axis else d for i, d in enumerate(x.shape)),
        steps=(1,) * rank,
    )
    return part if part.shape == n.output.shape else s.emit("reshape", part, shape=n.output.shape)


def _drop_expand(s: Sweep, n: Node) -> Value | None:
    """Elementwise ops broadcast by themselves; an expand before one goes where the result has its shape anyway."""
    expands = {v.name: e for v in n.operands if (e := s.maker(v, "expand")) is not None}
    if not expands:
        return None
    for name, e in expands.items():
        inputs = [e.operands[0] if v is not None and v.name == name else v for v in n.inputs]
        (inferred,) = ops.get(n.op).infer([None if v is None else v.type for v in inputs], dict(n.attrs))
        if inferred == n.output.type and _says_each_dim(n, inputs):
            s.absorb(e)
            return s.emit(n.op, *inputs, **dict(n.attrs))
    return None


def _says_each_dim(n: Node, inputs: list[Value | None]) -> bool:
    """Whether each dimension of the result stands in some input as it is, so that nothing is assumed to be equal."""
    shape = n.output.shape
    tails = [v.shape for v in inputs if v is not None]
    return all(
        d == 1 or any(len(t) >= back and t[-back] == d for t in tails) for back, d in enumerate(reversed(shape), 1)
    )


RULES = {
    "identity": (_identity,),
    "reshape": (_unchanged, _merge_reshapes),
    "expand": (_unchanged, _merge_expands),
    "transpose": (_transpose,),
    "slice": (_slice,),
    "concat": (_concat,),
    "pad": (_pad,),
    "gather": (_gather,),
}
