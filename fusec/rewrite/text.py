"""The text form of fused graphs: that of graphs (`fusec.ir.text`) with the nodes in blocks, one per group, in order.

    graph mlp(x: f32[N, 128]) {
      weight w: f32[128, 4] = init("fc1.weight")
      weight b: f32[4] = init("fc1.bias") {0.5, -0.0, nan, 1e-05}
      group matmul+add (anchor=h) -> y {
        h: f32[N, 4] = matmul(x, w)
        y: f32[N, 4] = add(h, b)
      }
      return y
    }

    group   = "group" [label] "(" "anchor" "=" name ")" "->" name {"," name} "{" node {node} "}"

The label is for people. A node that several groups compute stands in each of them, word for word. The decisions are not
part of the text. `print_fused(parse_fused(t)) == t` for every text that `print_fused` wrote.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy.typing as npt

from fusec.ir.graph import Node, Value
from fusec.ir.parse import GraphParser
from fusec.ir.text import print_graph, print_name, print_node
from fusec.rewrite.fused import FusedGraph, Group

_BLOCK = re.compile(r"group\s*(?:[A-Za-z_][\w.+]*\s*)?\(", re.ASCII)
_LABEL = re.compile(r"(?:[A-Za-z_][\w.+]*)?", re.ASCII)


def print_fused(fused: FusedGraph) -> str:
    """The fused graph as text, one line per weight and node."""
    *head, last, end = print_graph(fused.graph.with_nodes(())).split("\n")
    return "\n".join([*head, *(line for g in fused.groups for line in _group(g)), last, end])


def parse_fused(text: str, weights: Mapping[str, npt.NDArray[Any]] | None = None) -> FusedGraph:
    """Read what `print_fused` wrote; `weights` holds the arrays that the text leaves out, by name.

    PlanError naming the line where the text is not a fused graph.
    """
    return _FusedParser(text, weights or {}).fused()


def _group(group: Group) -> list[str]:
    names = ", ".join(print_name(v.name) for v in group.outputs)
    head = f"  group {group.label} (anchor={print_name(group.anchor.outputs[0].name)}) -> {names} {{"
    return [head, *(f"    {print_node(n)}" for n in group.nodes), "  }"]


class _FusedParser(GraphParser):
    def __init__(self, text: str, arrays: Mapping[str, npt.NDArray[Any]]) -> None:
        super().__init__(text, arrays)
        self.nodes: dict[str, Node] = {}
        self.inside = False

    def fused(self) -> FusedGraph:
        groups: list[Group] = []
        whole = self.whole(lambda: groups.append(self.group()))
        nodes = {id(n): n for g in groups for n in g.nodes}
        return FusedGraph(replace(whole, nodes=tuple(nodes.values())), tuple(groups))

    def group(self) -> Group:
        self.blank()
        if not _BLOCK.match(self.text, self.at):
            self.fail(f"expected a group or 'return', found {self.next()}")
        self.word("group")
        self.blank()
        label = _LABEL.match(self.text, self.at)
        self.at = label.end() if label else self.at
        self.expect("(")
        self.word("anchor")
        self.expect("=")
        anchor = self.name()
        self.expect(")")
        self.expect("->")
        names = self.listed(self.name, "{")
        nodes = self.members()
        made = {v.name: v for n in nodes for v in n.outputs}
        for missing in (n for n in (anchor, *names) if n not in made):
            self.fail(f"the group does not make {missing!r}")
        found = next(n for n in nodes if any(v.name == anchor for v in n.outputs))
        return Group(tuple(nodes), found, tuple(made[n] for n in names))

    def members(self) -> list[Node]:
        self.inside = True
        nodes: list[Node] = []
        while not self.accept("}"):
            n = self.node()
            known = self.nodes.setdefault(n.outputs[0].name, n)
            if known != n:
                self.fail(f"{n.outputs[0].name!r} was made by another node before")
            nodes.append(known)
        self.inside = False
        if not nodes:
            self.fail("a group has at least one node")
        return nodes

    def declare(self, v: Value) -> Value:
        if self.inside and self.values.get(v.name) == v and v.name in self.nodes:
            return self.values[v.name]
        return super().declare(v)
