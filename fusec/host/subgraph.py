"""A graph inside a host step, taken apart: what a plan has to compute, and outputs that are only handed on."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx

FEW_BYTES = 4096
"""A constant output of at most this size needs no plan to make it."""


@dataclass(frozen=True, eq=False)
class Output:
    """Where an output of a graph comes from: the value of this name (made inside, handed in or captured), or a constant."""

    name: str
    constant: npt.NDArray[Any] | None = None


@dataclass(frozen=True, eq=False)
class Parts:
    """`graph` holds the nodes that are needed for `made`, the names of the distinct outputs that must be computed; `read`
    are the names that those nodes read, from inside or outside.
    """

    graph: onnx.GraphProto
    outputs: tuple[Output, ...]
    made: list[str]
    read: frozenset[str]


def split(graph: onnx.GraphProto) -> Parts:
    """Look behind the copies that outputs often are, and leave out the nodes that nothing else needs."""
    makers = {o: n for n in graph.node for o in n.output if o}
    tensors = {t.name: t for t in graph.initializer}
    local = {*makers, *tensors, *(s.values.name for s in graph.sparse_initializer)}
    outputs = tuple(_behind(o.name, makers, tensors) for o in graph.output)
    made = list(dict.fromkeys(o.name for o in outputs if o.constant is None and o.name in local))
    kept = onnx.GraphProto()
    kept.CopyFrom(graph)
    del kept.node[:], kept.output[:], kept.input[:], kept.value_info[:]
    needed = set(made)
    nodes = []
    for n in reversed(graph.node):
        if needed.intersection(n.output):
            needed |= _names_read(n)
            nodes.append(n)
    kept.node.extend(reversed(nodes))
    for name in made:
        kept.output.add(name=name)
    return Parts(kept, outputs, made, frozenset(needed))


def _behind(name: str, makers: dict[str, onnx.NodeProto], tensors: dict[str, onnx.TensorProto]) -> Output:
    """The value that an output is a copy of."""
    seen = set[str]()
    while (n := makers.get(name)) is not None and n.op_type == "Identity" and n.domain in ("", "ai.onnx"):
        if name in seen:
            raise ValueError(f"{name!r} is a copy of itself")
        seen.add(name)
        name = n.input[0]
    tensor = tensors.get(name)
    if n is not None and n.op_type == "Constant" and n.domain in ("", "ai.onnx"):
        tensor = next((a.t for a in n.attribute if a.name == "value"), None)
    if tensor is None:
        return Output(name)
    array = onnx.numpy_helper.to_array(tensor) if len(tensor.SerializeToString()) <= FEW_BYTES else None
    if array is None or array.dtype.kind not in "biuf":
        return Output(name)
    array.flags.writeable = False
    return Output(name, array)


def all_nodes(graph: onnx.GraphProto) -> Iterator[onnx.NodeProto]:
    """The nodes of a graph and of the graphs inside it."""
    todo = list(graph.node)
    while todo:
        n = todo.pop()
        yield n
        todo.extend(inner for g in _subgraphs(n) for inner in g.node)


def count_nodes(graph: onnx.GraphProto) -> int:
    """How many nodes compute something."""
    return sum(n.op_type != "Constant" for n in all_nodes(graph))


def constant_sizes(graph: onnx.GraphProto) -> list[int]:
    """The numbers of elements of all constants."""
    tensors = [*graph.initializer, *(a.t for n in all_nodes(graph) for a in n.attribute if a.HasField("t"))]
    return [int(np.prod(t.dims)) for t in tensors]


def declared(types: Sequence[onnx.TypeProto]) -> list[tuple[np.dtype[Any], tuple[int, ...]]]:
    """The dtypes and shapes of declared types, 0 for sizes that they leave open."""
    out = []
    for t in types:
        kind = t.tensor_type
        dtype = onnx.helper.tensor_dtype_to_np_dtype(kind.elem_type) if kind.elem_type else np.dtype(np.float32)
        out.append((dtype, tuple(d.dim_value for d in kind.shape.dim)))
    return out


def has_graphs(node: onnx.NodeProto) -> bool:
    """Whether a node runs graphs of its own."""
    return any(True for _ in _subgraphs(node))


def _subgraphs(node: onnx.NodeProto) -> Iterator[onnx.GraphProto]:
    for a in node.attribute:
        if a.HasField("g"):
            yield a.g
        yield from a.graphs


def _names_read(node: onnx.NodeProto) -> set[str]:
    """The names that are read anywhere inside a node; one that an inner graph makes is never one from outside as well."""
    read = set(node.input)
    for g in _subgraphs(node):
        read.update(o.name for o in g.output)
        for n in all_nodes(g):
            read.update(n.input)
            read.update(o.name for inner in _subgraphs(n) for o in inner.output)
    return read - {""}
