"""fusec compiles ONNX models into persistent-thread kernels that fuse across matrix products.

    import fusec
    session = fusec.compile("model.onnx")
    outputs = session.run({"x": x})

Every name below is loaded on first use, so that `import fusec` costs next to nothing.
"""

from __future__ import annotations

import sys
from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from fusec.api import compile, load
    from fusec.errors import (
        CheckFailed,
        CompileError,
        ExecutionError,
        FusecError,
        InputError,
        ModelError,
        PlanError,
        ResourceError,
        UnsupportedError,
        UsageError,
    )
    from fusec.inference_session import (
        ExecutionMode,
        GraphOptimizationLevel,
        InferenceSession,
        RunOptions,
        SessionOptions,
        get_available_providers,
    )
    from fusec.ir.graph import Graph
    from fusec.knobs import Limits
    from fusec.ops.custom import elementwise, where
    from fusec.runtime.session import Session
    from fusec.target import Target

_HOMES = {
    "compile": "fusec.api",
    "load": "fusec.api",
    "Session": "fusec.runtime.session",
    "InferenceSession": "fusec.inference_session",
    "SessionOptions": "fusec.inference_session",
    "RunOptions": "fusec.inference_session",
    "GraphOptimizationLevel": "fusec.inference_session",
    "ExecutionMode": "fusec.inference_session",
    "get_available_providers": "fusec.inference_session",
    "Graph": "fusec.ir.graph",
    "Limits": "fusec.knobs",
    "elementwise": "fusec.ops.custom",
    "where": "fusec.ops.custom",
    "Target": "fusec.target",
    "CheckFailed": "fusec.errors",
    "CompileError": "fusec.errors",
    "ExecutionError": "fusec.errors",
    "FusecError": "fusec.errors",
    "InputError": "fusec.errors",
    "ModelError": "fusec.errors",
    "PlanError": "fusec.errors",
    "ResourceError": "fusec.errors",
    "UnsupportedError": "fusec.errors",
    "UsageError": "fusec.errors",
}

__all__ = [
    "CheckFailed",
    "CompileError",
    "ExecutionError",
    "ExecutionMode",
    "FusecError",
    "Graph",
    "GraphOptimizationLevel",
    "InferenceSession",
    "InputError",
    "Limits",
    "ModelError",
    "PlanError",
    "ResourceError",
    "RunOptions",
    "Session",
    "SessionOptions",
    "Target",
    "UnsupportedError",
    "UsageError",
    "__version__",
    "compile",
    "elementwise",
    "get_available_providers",
    "load",
    "where",
]


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module 'fusec' has no attribute {name!r}", name=name, obj=sys.modules[__name__])
    value = getattr(import_module(home), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
