"""Other runtimes as benchmark subjects, at equal threads and precision. They are optional and never used to compute."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import numpy.typing as npt

from fusec.errors import UsageError

Feeds = Mapping[str, npt.NDArray[Any]]


def has_onnxruntime() -> bool:
    """Whether onnxruntime is installed."""
    return find_spec("onnxruntime") is not None


def onnxruntime_session(model: bytes | str, threads: int, optimise: bool = True) -> Any:
    """An onnxruntime CPU session: telemetry and spinning off, `threads` workers, all optimisations or none.

    Spinning workers would slow whatever runs next in the process; without it two identical sessions, interleaved, agree
    within 5 %, and are not slower.
    """
    if not has_onnxruntime():
        raise UsageError("onnxruntime is not installed", hint="pip install 'fusec[bench]'")
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    ort: Any = import_module("onnxruntime")

    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    level = ort.GraphOptimizationLevel
    options.graph_optimization_level = level.ORT_ENABLE_ALL if optimise else level.ORT_DISABLE_ALL
    return ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def onnxruntime_subject(model: bytes | str, feeds: Feeds, threads: int) -> Callable[[], list[Any]]:
    """A call that runs a model on onnxruntime."""
    session, fixed = onnxruntime_session(model, threads), dict(feeds)
    return lambda: session.run(None, fixed)


def version() -> str:
    """The installed version of onnxruntime, or why there is none."""
    if not has_onnxruntime():
        return "not installed"
    from importlib.metadata import version as installed

    return installed("onnxruntime")
