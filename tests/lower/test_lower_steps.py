"""From a fused graph to steps: regions between host steps, aliases, shared programs."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from lower_check import apply, graph_of, value

from fusec.ir.dim import symbol
from fusec.ir.graph import Node, Value
from fusec.ir.types import DType, TensorType
from fusec.lower.lower import lower
from fusec.plan.plan import HostStep, RegionStep
from fusec.rewrite.fused import unfused


def host(name: str, *inputs: Value) -> Node:
    out = Value(name, TensorType(DType.F32, (4, 6)))
    return Node.make("opaque", inputs, (out,), op_type="Foo", domain="", proto=b"", opsets=())


def test_few_regions_between_host_steps() -> None:
    x = value("x", 4, 6)
    a = apply("relu", "a", x)
    h1 = host("h1", a.output)
    b = apply("neg", "b", h1.output)
    c = apply("exp", "c", x)  # needs no host step: runs in the first region, though it stands later
    h2 = host("h2", c.output)
    d = apply("add", "d", b.output, h2.output)
    low = lower(unfused(graph_of([a, h1, b, c, h2, d])))
    assert [len(s.calls) if isinstance(s, RegionStep) else s.node.op for s in low.steps] == [2, "opaque", "opaque", 2]
    first, last = low.steps[0], low.steps[-1]
    assert isinstance(first, RegionStep)
    assert isinstance(last, RegionStep)
    assert (first.inputs, first.outputs) == (("x",), ("a", "c"))
    assert (last.inputs, last.outputs) == (("h1", "h2"), ("d",))


def test_one_launch_per_op() -> None:
    x = value("x", 4, 6)
    a = apply("relu", "a", x)
    b = apply("relu", "b", a.output)
    low = lower(unfused(graph_of([a, b])), one_launch_per_op=True)
    assert [len(s.calls) for s in low.steps if isinstance(s, RegionStep)] == [1, 1]
    assert len(low.programs) == 1
    assert low.calls[0].program is low.calls[1].program


def test_reshapes_are_aliases_except_of_inputs_that_leave() -> None:
    x = value("x", 4, 6)
    a = apply("relu", "a", x)
    b = apply("reshape", "b", a.output, shape=(2, 12))
    c = apply("reshape", "c", x, shape=(24,))
    d = apply("neg", "d", b.output)
    e = apply("reshape", "e", d.output, shape=(24,))
    g = graph_of([a, b, c, d, e], [c.output, e.output])
    low = lower(unfused(g))
    assert dict(low.aliases) == {"b": "a", "e": "d"}
    (region,) = low.steps
    assert isinstance(region, RegionStep)
    assert set(region.outputs) == {"c", "d"}
    assert [dict(k.operands) for k in low.calls] == [{"x": "x", "y": "a"}, {"x": "x", "y": "c"}, {"x": "a", "y": "d"}]


def test_two_outputs_never_share_bytes() -> None:
    a = apply("relu", "a", value("x", 4, 6))
    b = apply("reshape", "b", a.output, shape=(24,))
    c = apply("reshape", "c", a.output, shape=(6, 4))
    assert not lower(unfused(graph_of([a, b, c], [a.output, b.output, c.output]))).aliases


def test_reshape_of_a_host_result_is_an_alias() -> None:
    h = host("h", value("x", 4, 6))
    b = apply("reshape", "b", h.output, shape=(24,))
    low = lower(unfused(graph_of([h, b, apply("neg", "c", b.output)])))
    assert low.aliases == {"b": "h"}
    assert [type(s) for s in low.steps] == [HostStep, RegionStep]


def test_a_call_waits_for_the_host_step_that_tells_its_dimensions() -> None:
    """`c` reads nothing of `h`, but only `h` knows how long it is."""
    k = symbol("_u0")
    x = value("x", 4, 6)
    h = Node.make(
        "opaque", [x], [Value("h", TensorType(DType.F32, (k, 6)))], op_type="Foo", domain="", proto=b"", opsets=()
    )
    b = apply("neg", "b", h.output)
    c = apply("expand", "c", Value("s", TensorType(DType.F32, ())), shape=(k,))
    d = apply("relu", "d", c.output)
    low = lower(unfused(graph_of([c, d, h, b])))
    assert [type(s) for s in low.steps] == [HostStep, RegionStep]
    apart = lower(unfused(graph_of([c, d, h, b])), one_launch_per_op=True)
    assert [type(s) for s in apart.steps] == [HostStep, RegionStep, RegionStep, RegionStep]


def test_a_symbol_that_no_host_step_tells_holds_nothing_up() -> None:
    """A host step whose result is only declared with a symbol cannot be waited for by what it reads."""
    k = symbol("late")
    a = apply("relu", "a", Value("x", TensorType(DType.F32, (k,))))
    h = Node.make("opaque", [a.output], [Value("h", TensorType(DType.F32, (k,)))], op_type="Foo")
    graph = graph_of([a, h])
    hidden = replace(graph, inputs=(Value("x", TensorType(DType.F32, (4,))),))
    assert [type(s) for s in lower(unfused(hidden)).steps] == [RegionStep, HostStep]
