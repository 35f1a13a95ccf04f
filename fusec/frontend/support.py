"""What nothing here can run, collected over the whole model so that one error names it all."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import onnx

from fusec.errors import UnsupportedError
from fusec.frontend.messages import clean
from fusec.frontend.scope import subgraphs
from fusec.host.run import refusal


@dataclass
class Refusals:
    """Kinds of nodes without any implementation: kind -> (count, first node, why)."""

    kinds: dict[str, tuple[int, str, str]] = field(default_factory=dict)
    _verdicts: dict[tuple[str, str, int], str | None] = field(default_factory=dict)

    def check(self, node: onnx.NodeProto, versions: Mapping[str, int], origin: str) -> bool:
        """Whether a node can run as a host step; what cannot is written down. Subgraphs are looked into."""
        todo, fine = [node], True
        while todo:
            n = todo.pop()
            todo.extend(inner for g in subgraphs(n) for inner in g.node)
            domain = "" if n.domain == "ai.onnx" else n.domain
            key = (domain, n.op_type, versions.get(domain, 1))
            if key not in self._verdicts:
                self._verdicts[key] = refusal(*key)
            why = self._verdicts[key]
            if why is not None:
                fine = False
                kind = f"{clean(domain)}::{clean(n.op_type)}" if domain else clean(n.op_type)
                count, first, _ = self.kinds.get(kind, (0, clean(n.name or origin), ""))
                self.kinds[kind] = (count + 1, first, why)
        return fine

    def raise_if_any(self) -> None:
        """UnsupportedError listing every kind with its count and first node."""
        if not self.kinds:
            return
        lines = [f"{kind} ({count}x, first {first!r}: {why})" for kind, (count, first, why) in self.kinds.items()]
        kind, (_, first, _) = next(iter(self.kinds.items()))
        raise UnsupportedError(
            f"{len(lines)} kind{'s' * (len(lines) > 1)} of operator cannot run: " + "; ".join(lines),
            hint="declare elementwise functions with @fusec.elementwise, or install a package with entry points `fusec.onnx`",
            node=first,
            op=kind,
        )
