"""The reference interpreter: runs a graph node by node with numpy. Slow and plain; every other way to run is judged by it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, MutableMapping, Sequence
from typing import Any

import numpy as np

from fusec.errors import FusecError, InputError, UnsupportedError, nearest
from fusec.ir.dim import Dim, evaluate, symbol
from fusec.ir.graph import Graph, Node, Value
from fusec.ir.requirement import check_known
from fusec.ir.types import DType, TensorType

OpaqueFn = Callable[[Node, "list[Any]"], "Sequence[Any]"]
"""Runs an opaque node: the node and its inputs (None for absent ones) to its outputs."""


def run_reference(
    graph: Graph, feeds: Mapping[str, Any], opaque: OpaqueFn | None = None, *, every: bool = False
) -> dict[str, Any]:
    """The outputs by name, or every value where `every` is set.

    Symbols are bound by the shapes of the inputs, fresh ones by what opaque nodes return. InputError where the feeds are
    not the graph's inputs, or of sizes that do not meet its requirements; UnsupportedError for an opaque node without `opaque`.
    """
    env: dict[str, int] = {}
    values: dict[str, Any] = {name: w.array for name, w in graph.weights.items()}
    for v in graph.inputs:
        if v.name not in feeds:
            raise InputError(f"input {v.name!r} is missing", input=v.name, hint=nearest(v.name, list(feeds)))
        values[v.name] = _checked(v, feeds[v.name])
        bind(v, values[v.name], env)
    waiting = check_known(graph.requirements, env)
    last = {} if every else _last_readers(graph)
    for i, n in enumerate(graph.nodes):
        for v, result in zip(n.outputs, _run(n, [v and values[v.name] for v in n.inputs], env, opaque), strict=True):
            values[v.name] = result
            bind(v, result, env)
        if waiting and n.op == "opaque":
            waiting = check_known(waiting, env)
        for name in last.get(i, ()):
            del values[name]
    return values if every else {v.name: values[v.name] for v in graph.outputs}


def bind(value: Value, array: Any, env: MutableMapping[str, int]) -> None:
    """Learn symbols from the shape of an array. InputError where it contradicts the type or what was learnt before."""
    if not isinstance(value.type, TensorType) or value.type.shape is None or not isinstance(array, np.ndarray):
        return
    shape = value.type.shape
    if array.ndim != len(shape):
        raise InputError(f"{value.name!r} must be {value.type}, got shape {list(array.shape)}", input=value.name)
    for d, n in zip(shape, array.shape):
        if isinstance(d, Dim) and len(d.symbols) == 1:
            (name,) = d.symbols
            if d == symbol(name):
                env.setdefault(name, n)
    for d, n in zip(shape, array.shape):
        known = not isinstance(d, Dim) or d.symbols <= env.keys()
        if known and evaluate(d, env) != n:
            raise InputError(
                f"{value.name!r} must be {value.type}, got shape {list(array.shape)}: {d} is {evaluate(d, env)}",
                input=value.name,
            )


def evaluate_attrs(node: Node, env: Mapping[str, int]) -> dict[str, Any]:
    """The attributes as a dictionary, symbolic dimensions replaced by their values."""
    return {k: _evaluated(v, env) for k, v in node.attrs}


def _evaluated(x: Any, env: Mapping[str, int]) -> Any:
    if isinstance(x, Dim):
        return evaluate(x, env)
    return tuple(_evaluated(y, env) for y in x) if isinstance(x, tuple) else x


def _run(n: Node, args: list[Any], env: Mapping[str, int], opaque: OpaqueFn | None) -> Sequence[Any]:
    from fusec.ops import op as ops  # ops are made of ir, so this import waits for the first use

    if n.op == "identity":
        return args  # also of sequences and maps, which numpy cannot hold
    if n.op == "opaque":
        if opaque is None:
            what = str(n.attr("op_type"))
            raise UnsupportedError(f"nobody runs the opaque node {n.outputs[0].name!r} ({what})", op=what)
        return opaque(n, args)
    try:
        with np.errstate(all="ignore"):
            return ops.get(n.op).reference(args, evaluate_attrs(n, env))
    except FusecError as e:
        e.node = e.node or n.outputs[0].name
        raise


def _checked(v: Value, given: Any) -> Any:
    if not isinstance(v.type, TensorType):
        return given
    array = np.asarray(given)
    if DType.of(array.dtype) is not v.type.dtype:
        raise InputError(f"input {v.name!r} must be {v.type}, got {array.dtype}{list(array.shape)}", input=v.name)
    return array


def _last_readers(graph: Graph) -> dict[int, list[str]]:
    """Node position -> the values that nobody reads after it."""
    last = {v.name: i for i, n in enumerate(graph.nodes) for v in (*n.outputs, *n.operands)}
    out: dict[int, list[str]] = {}
    for name, i in last.items():
        if name not in graph.output_names:
            out.setdefault(i, []).append(name)
    return out
