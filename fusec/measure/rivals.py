"""Other runtimes as benchmark subjects: at their best settings, equal threads, float32. They are optional and never compute.

What is chosen for them: all optimisations, one stream, no telemetry, no spinning between runs (it would slow whatever runs
next in the process; without it two identical sessions, interleaved, agree within 5 % and are not slower), the shapes of
the inputs told beforehand, and of two ways to hand arrays over the one that is faster for the model.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import numpy as np
import numpy.typing as npt

from fusec.errors import UsageError
from fusec.measure.rounds import measure

Feeds = Mapping[str, npt.NDArray[Any]]
Subject = Callable[[], list[Any]]

TRIAL_ROUNDS = 7
TRIAL_SECONDS = 0.02
"""Of runs longer than this it makes no difference how arrays are handed over."""


def has_onnxruntime() -> bool:
    """Whether onnxruntime is installed."""
    return find_spec("onnxruntime") is not None


def has_openvino() -> bool:
    """Whether OpenVINO is installed."""
    return find_spec("openvino") is not None


def onnxruntime_session(
    model: bytes | str, threads: int, optimise: bool = True, dims: Mapping[str, int] | None = None
) -> Any:
    """An onnxruntime CPU session with `threads` workers, all optimisations or none; `dims` are those of named dimensions."""
    if not has_onnxruntime():
        raise UsageError("onnxruntime is not installed", hint="pip install 'fusec[bench]'")
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    ort: Any = import_module("onnxruntime")

    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    for name, size in (dims or {}).items():
        options.add_free_dimension_override_by_name(name, size)
    level = ort.GraphOptimizationLevel
    options.graph_optimization_level = level.ORT_ENABLE_ALL if optimise else level.ORT_DISABLE_ALL
    return ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def onnxruntime_subject(model: bytes | str, feeds: Feeds, threads: int) -> Subject:
    """A call that runs a model on onnxruntime: with plain arrays or with bound buffers, whichever is faster."""
    session, fixed = onnxruntime_session(model, threads), dict(feeds)
    if dims := _free_dims(session, feeds):
        session = onnxruntime_session(model, threads, dims=dims)

    def plain() -> list[Any]:
        return list(session.run(None, fixed))

    if any(v.dtype.kind not in "biuf" for v in fixed.values()):
        return plain
    ort: Any = import_module("onnxruntime")
    binding = session.io_binding()
    for name, array in fixed.items():
        binding.bind_ortvalue_input(name, ort.OrtValue.ortvalue_from_numpy(np.ascontiguousarray(array)))
    for output in session.get_outputs():
        binding.bind_output(output.name)

    def bound() -> list[Any]:
        session.run_with_iobinding(binding)
        return [v.numpy() for v in binding.get_outputs()]

    return _faster(plain, bound)


def _free_dims(session: Any, feeds: Feeds) -> dict[str, int]:
    """The named dimensions of the inputs, as the feeds fix them; none where they contradict each other."""
    found: dict[str, int] = {}
    for v in session.get_inputs():
        for d, n in zip(v.shape, feeds[v.name].shape, strict=False):
            if isinstance(d, str) and d.isidentifier() and found.setdefault(d, n) != n:
                return {}
    return found


def openvino_subject(model: bytes | str, feeds: Feeds, threads: int) -> Subject:
    """A call that runs a model on OpenVINO's CPU device: float32 forced, one stream, the shapes of the feeds.

    With arrays passed and returned without copies, or with tensors set beforehand, whichever is faster. RuntimeError where
    OpenVINO cannot read or compile the model.
    """
    if not has_openvino():
        raise UsageError("OpenVINO is not installed", hint="pip install 'fusec[rivals]'")
    ov: Any = import_module("openvino")
    core, fixed = ov.Core(), {k: np.ascontiguousarray(v) for k, v in feeds.items()}
    told = {
        "INFERENCE_PRECISION_HINT": "f32",
        "INFERENCE_NUM_THREADS": threads,
        "NUM_STREAMS": 1,
        "PERFORMANCE_HINT": "LATENCY",
    }
    graph = core.read_model(model)
    if graph.is_dynamic():
        try:
            graph.reshape({name: list(array.shape) for name, array in fixed.items()})
        except RuntimeError:
            graph = core.read_model(model)  # some graphs only pass with the shapes left open
    compiled = core.compile_model(graph, "CPU", told)
    count = len(compiled.outputs)
    passing, setting = compiled.create_infer_request(), compiled.create_infer_request()

    def passed() -> list[Any]:
        found = passing.infer(fixed, share_inputs=True, share_outputs=True)
        return [found[i] for i in range(count)]

    for name, array in fixed.items():
        setting.set_tensor(name, ov.Tensor(array, shared_memory=True))

    def preset() -> list[Any]:
        setting.start_async()
        setting.wait()
        return [setting.get_output_tensor(i).data for i in range(count)]

    return _faster(passed, preset)


def _faster(first: Subject, second: Subject) -> Subject:
    """The faster of two ways; the first one where the second fails."""
    try:
        second()
        start = time.perf_counter()
        first()
        if time.perf_counter() - start > TRIAL_SECONDS:
            return first
    except Exception:  # some values have no array to be bound to
        return first
    tried = measure({"first": first, "second": second}, rounds=TRIAL_ROUNDS, warmup_seconds=0.02)
    return second if tried.ratio("first", "second").median > 1 else first


RIVALS: dict[str, tuple[Callable[[], bool], Callable[[bytes | str, Feeds, int], Subject], str]] = {
    "onnxruntime": (has_onnxruntime, onnxruntime_subject, "fusec[bench]"),
    "openvino": (has_openvino, openvino_subject, "fusec[rivals]"),
}
"""Name -> whether it is installed, how to run a model on it, and what to install for it."""


def versions(names: Sequence[str] = tuple(RIVALS)) -> dict[str, str]:
    """The installed version of each rival; "not installed" where it is not."""
    from importlib.metadata import version

    return {n: version(n) if RIVALS[n][0]() else "not installed" for n in names}
