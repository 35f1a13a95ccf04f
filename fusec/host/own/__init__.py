"""Our own numpy versions of ops that the onnx package's evaluator has wrong, very slow, or not at all."""

from __future__ import annotations

from fusec.host.compute import Compute
from fusec.host.own.contrib import IMPLEMENTATIONS as CONTRIB
from fusec.host.own.convolve import IMPLEMENTATIONS as CONVOLVE
from fusec.host.own.normalise import IMPLEMENTATIONS as NORMALISE
from fusec.host.own.pool import IMPLEMENTATIONS as POOL
from fusec.host.own.quantised import IMPLEMENTATIONS as QUANTISED
from fusec.host.own.recurrent import IMPLEMENTATIONS as RECURRENT
from fusec.host.own.resize import IMPLEMENTATIONS as RESIZE
from fusec.host.own.scatter import IMPLEMENTATIONS as SCATTER
from fusec.host.own.select import IMPLEMENTATIONS as SELECT
from fusec.host.own.trees import IMPLEMENTATIONS as TREES

IMPLEMENTATIONS: dict[tuple[str, str], Compute] = {
    **CONTRIB,
    **CONVOLVE,
    **NORMALISE,
    **POOL,
    **QUANTISED,
    **RECURRENT,
    **RESIZE,
    **SCATTER,
    **SELECT,
    **TREES,
}
"""(domain, op) -> function of (inputs, attributes, opset, number of outputs)."""
