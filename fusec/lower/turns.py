"""The order of calls and host nodes: runs of each kind in turns, as few as dependencies allow.

A call depends on the values that it reads and on the dimensions that it mentions: where only a host node's result tells
how large a dimension is, every call that mentions it comes later, even one that reads nothing of that node.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

from fusec.errors import BugError
from fusec.ir.graph import Node
from fusec.kernels.kernel import Call


@dataclass(frozen=True, eq=False)
class Work:
    """Calls that stay together or a host node, the values that it reads and makes, and the dimension symbols of its types.

    `symbols` are those that must have a number before it starts; a host node's outputs may mention others, `shown`.
    """

    task: tuple[Call, ...] | Node
    reads: frozenset[str]
    makes: tuple[str, ...]
    symbols: frozenset[str]
    shown: frozenset[str] = frozenset()

    @property
    def on_host(self) -> bool:
        """Whether it runs in Python."""
        return isinstance(self.task, Node)


def in_turns(work: Sequence[Work], there: Collection[str], known: Collection[str]) -> list[list[Work]]:
    """Runs of calls and of host nodes in turns, each as long as it can be: few regions, each started as one launch.

    `there` are the values that exist before, `known` the symbols that the inputs' shapes determine.
    """
    teller: dict[str, Work] = {}
    for w in work:
        for s in w.shown.difference(known):
            teller.setdefault(s, w)
    pending = [(w, _waits_for(w, teller)) for w in work]
    made = set(there)
    done = set[int]()
    out: list[list[Work]] = []
    host = stalled = False
    while pending:
        run, rest = list[Work](), list[tuple[Work, frozenset[int]]]()
        for w, tellers in pending:
            if w.on_host == host and w.reads <= made and tellers <= done:
                run.append(w)
                made.update(w.makes)
                done.add(id(w))
            else:
                rest.append((w, tellers))
        if run:
            out.append(run)
        elif stalled:
            if not any(tellers for _, tellers in rest):
                raise BugError(f"{len(rest)} steps wait for each other", hint="is the graph in a topological order?")
            rest = [(w, frozenset()) for w, _ in rest]  # whoever tells the symbol needs a value that is named after it
        stalled = not run and not stalled
        pending, host = rest, not host
    return out


def _waits_for(w: Work, teller: dict[str, Work]) -> frozenset[int]:
    """The host nodes that tell its dimensions; a symbol that nobody tells is only another name for something."""
    tellers: Iterable[Work] = (teller[s] for s in w.symbols if s in teller)
    return frozenset(id(t) for t in tellers if t is not w)
