"""Our own numpy versions of ops that the onnx package's evaluator has wrong, very slow, or not at all."""

from __future__ import annotations

from fusec.host.evaluator import Compute

IMPLEMENTATIONS: dict[tuple[str, str], Compute] = {}
