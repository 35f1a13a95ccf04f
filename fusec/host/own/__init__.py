"""Our own numpy versions of ops that the onnx package's evaluator has wrong, very slow, or not at all."""

from __future__ import annotations

from fusec.host.evaluator import Compute
from fusec.host.own import contrib, convolve, normalise, pool, quantised, recurrent, resize, scatter, trees

IMPLEMENTATIONS: dict[tuple[str, str], Compute] = {
    **contrib.IMPLEMENTATIONS,
    **convolve.IMPLEMENTATIONS,
    **normalise.IMPLEMENTATIONS,
    **pool.IMPLEMENTATIONS,
    **quantised.IMPLEMENTATIONS,
    **recurrent.IMPLEMENTATIONS,
    **resize.IMPLEMENTATIONS,
    **scatter.IMPLEMENTATIONS,
    **trees.IMPLEMENTATIONS,
}
"""(domain, op) -> function of (inputs, attributes, opset, number of outputs)."""
