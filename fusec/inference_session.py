"""The calls that people write for onnxruntime, over a fusec session: change the import and keep the program."""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any

import numpy.typing as npt

from fusec.errors import UsageError, nearest
from fusec.ir.graph import Value
from fusec.ir.types import DType, MapType, OptionalType, SequenceType, TensorType, Type
from fusec.runtime.session import Session

_ORT_NAMES = {
    DType.F64: "double", DType.F32: "float", DType.F16: "float16", DType.BF16: "bfloat16", DType.I64: "int64",
    DType.I32: "int32", DType.I16: "int16", DType.I8: "int8", DType.U64: "uint64", DType.U32: "uint32",
    DType.U16: "uint16", DType.U8: "uint8", DType.BOOL: "bool", DType.STRING: "string", DType.C64: "complex64",
    DType.C128: "complex128", DType.F8E4M3FN: "float8e4m3fn", DType.F8E4M3FNUZ: "float8e4m3fnuz",
    DType.F8E5M2: "float8e5m2", DType.F8E5M2FNUZ: "float8e5m2fnuz", DType.F8E8M0: "float8e8m0",
    DType.F4E2M1: "float4e2m1", DType.I4: "int4", DType.U4: "uint4", DType.I2: "int2", DType.U2: "uint2",
}  # fmt: skip
PROVIDERS = ("CPUExecutionProvider",)
_ABSENT = {
    "io_binding": "run(None, feeds) copies nothing that it need not copy",
    "run_with_iobinding": "use run(None, feeds)",
    "run_with_ort_values": "use run(None, feeds) with numpy arrays",
    "run_async": "call run from a thread of your own: it is safe, and releases the interpreter's lock",
    "set_providers": "there is one provider, the CPU's",
    "end_profiling": "fusec profile shows where the time goes",
}
"""Members of onnxruntime's session that people call and that have no counterpart, and what to do instead."""


@dataclass(frozen=True, slots=True)
class NodeArg:
    """An input or output as onnxruntime describes it: `shape` holds ints, names of symbolic dimensions, or None."""

    name: str
    shape: list[int | str | None] | None
    type: str


@dataclass(frozen=True, slots=True)
class ModelMetadata:
    """What a model says about itself, under onnxruntime's names."""

    producer_name: str
    graph_name: str
    domain: str
    description: str
    graph_description: str
    version: int
    custom_metadata_map: dict[str, str]


class GraphOptimizationLevel(IntEnum):
    """onnxruntime's levels; fusec fuses at every level but the lowest."""

    ORT_DISABLE_ALL = 0
    ORT_ENABLE_BASIC = 1
    ORT_ENABLE_EXTENDED = 2
    ORT_ENABLE_LAYOUT = 3
    ORT_ENABLE_ALL = 99


class ExecutionMode(IntEnum):
    """onnxruntime's modes; the worker team makes no difference between them."""

    ORT_SEQUENTIAL = 0
    ORT_PARALLEL = 1


@dataclass(slots=True)
class SessionOptions:
    """The options that people set; what onnxruntime has not cannot be set here either.

    `intra_op_num_threads` is the number of workers (0: all cores). `graph_optimization_level` 0 compiles unfused, every
    other level fused. The rest is accepted where fusec has the behaviour already, and named in a warning where not.
    """

    intra_op_num_threads: int = 0
    inter_op_num_threads: int = 0
    graph_optimization_level: int = 99
    execution_mode: int = 0
    enable_profiling: bool = False
    enable_mem_pattern: bool = True
    enable_cpu_mem_arena: bool = True
    enable_mem_reuse: bool = True
    log_severity_level: int = 2
    log_verbosity_level: int = 0
    logid: str = ""
    optimized_model_filepath: str = ""
    profile_file_prefix: str = "onnxruntime_profile_"
    use_per_session_threads: bool = True
    use_deterministic_compute: bool = True
    free_dimensions: dict[str, int] = field(default_factory=dict)
    config_entries: dict[str, str] = field(default_factory=dict)

    def add_free_dimension_override_by_name(self, name: str, value: int) -> None:
        """Give a symbolic dimension a number."""
        self.free_dimensions[name] = value

    def add_session_config_entry(self, key: str, value: str) -> None:
        """Keep a configuration entry. Those that concern spinning are met by how workers wait; others warn."""
        if key not in ("session.intra_op.allow_spinning", "session.inter_op.allow_spinning"):
            warnings.warn(f"fusec ignores the session option {key!r}", stacklevel=2)
        self.config_entries[key] = value

    def get_session_config_entry(self, key: str) -> str:
        """A configuration entry that was kept. UsageError where there is none."""
        if key not in self.config_entries:
            raise UsageError(f"no session option {key!r} was set", hint=nearest(key, list(self.config_entries)))
        return self.config_entries[key]

    def register_custom_ops_library(self, path: str) -> None:
        """Refused: onnxruntime's libraries hold kernels for its own interface."""
        raise UsageError(
            f"{path!r} is a library for onnxruntime",
            hint="declare the operator with @fusec.elementwise, or as a plug-in",
        )

    def _warn(self) -> None:
        if self.enable_profiling:
            warnings.warn("fusec writes no profile of a session: see fusec profile", stacklevel=3)
        if self.optimized_model_filepath:
            warnings.warn("fusec writes no optimised .onnx: a session's save() writes a plan", stacklevel=3)


@dataclass(slots=True)
class RunOptions:
    """onnxruntime's options of one run: log levels and tags have no meaning here, and `terminate` is refused."""

    log_severity_level: int = 2
    log_verbosity_level: int = 0
    logid: str = ""
    only_execute_path_to_fetches: bool = False
    terminate: bool = False
    config_entries: dict[str, str] = field(default_factory=dict)

    def add_run_config_entry(self, key: str, value: str) -> None:
        """Keep a configuration entry; none has a meaning here."""
        warnings.warn(f"fusec ignores the run option {key!r}", stacklevel=2)
        self.config_entries[key] = value


class InferenceSession:
    """`onnxruntime.InferenceSession` in shape: `run(None, feeds)`, `get_inputs()`, `get_outputs()`."""

    def __init__(
        self,
        path_or_bytes: str | bytes | os.PathLike[str],
        sess_options: SessionOptions | None = None,
        providers: Sequence[str | tuple[str, dict[str, Any]]] | None = None,
        provider_options: Sequence[dict[str, Any]] | None = None,
    ) -> None:
        """Compile a model, or load a plan where the path ends in `.fplan`.

        `providers` must include the CPU's where it is given, since nothing falls back silently; provider options are
        refused (UsageError).
        """
        from fusec import api

        wanted = [p if isinstance(p, str) else p[0] for p in providers or PROVIDERS]
        if PROVIDERS[0] not in wanted:
            raise UsageError(f"no provider of {', '.join(wanted)} is here", hint=f"this version has {PROVIDERS[0]}")
        if any(provider_options or ()):
            raise UsageError("provider_options are not supported", hint="remove the argument")
        options = sess_options or SessionOptions()
        if not isinstance(options, SessionOptions):
            raise UsageError(
                f"sess_options is a {type(options).__module__}.{type(options).__name__}",
                hint="make a fusec.SessionOptions",
            )
        options._warn()
        self._options = options
        threads = options.intra_op_num_threads or None
        if isinstance(path_or_bytes, str | os.PathLike) and os.fspath(path_or_bytes).endswith(".fplan"):
            self._session = api.load(path_or_bytes, threads=threads)
        else:
            self._session = api.compile(
                path_or_bytes,
                threads=threads,
                fuse=int(options.graph_optimization_level) > 0,
                dims=options.free_dimensions,
            )
        self._outputs = [v.name for v in self._session.outputs]

    @property
    def session(self) -> Session:
        """The fusec session underneath."""
        return self._session

    def run(
        self,
        output_names: Sequence[str] | None,
        input_feed: Mapping[str, npt.ArrayLike],
        run_options: object | None = None,
    ) -> list[Any]:
        """Run and return the outputs in the order asked for; None asks for all.

        Of `run_options`, ours or onnxruntime's own, only `terminate` means something: it is refused (UsageError), for a
        run that was called off must not look like one that ended.

        Raises:
            InputError: the feeds do not fit the model's inputs, or an output name is unknown.
        """
        if getattr(run_options, "terminate", False):
            raise UsageError(
                "run_options.terminate is set, and fusec cannot stop a run from outside", hint="do not run"
            )
        return self._session.run_list(input_feed, output_names or self._outputs)

    def get_inputs(self) -> list[NodeArg]:
        """What must be fed."""
        return [_node_arg(v) for v in self._session.inputs]

    def get_outputs(self) -> list[NodeArg]:
        """What `run(None, ...)` returns."""
        return [_node_arg(v) for v in self._session.outputs]

    def get_overridable_initializers(self) -> list[NodeArg]:
        """Initialisers that could be fed: none, for weights are compiled into the plan."""
        return []

    def get_modelmeta(self) -> ModelMetadata:
        """What the model says about itself. A plan holds it too."""
        plan = self._session.plan
        m = plan.metadata
        return ModelMetadata(
            m.producer, plan.name, m.domain, m.description, m.graph_description, m.version, dict(m.custom)
        )

    def get_session_options(self) -> SessionOptions:
        """The options that the session was made with."""
        return self._options

    def get_providers(self) -> list[str]:
        """Where it runs."""
        return list(PROVIDERS)

    def __repr__(self) -> str:
        return f"InferenceSession({self._session!r})"

    def __getattr__(self, name: str) -> Any:
        if name in _ABSENT:
            raise UsageError(f"InferenceSession.{name} is not in fusec", hint=_ABSENT[name])
        raise AttributeError(f"InferenceSession has no attribute {name!r}", name=name, obj=self)

    def get_provider_options(self) -> dict[str, dict[str, str]]:
        """Options per provider: none."""
        return {p: {} for p in PROVIDERS}


def get_available_providers() -> list[str]:
    """The providers that a session accepts."""
    return list(PROVIDERS)


def _node_arg(v: Value) -> NodeArg:
    shape: list[int | str | None] | None = None
    if isinstance(v.type, TensorType) and v.type.shape is not None:
        shape = [d if isinstance(d, int) else str(d) for d in v.type.shape]
    return NodeArg(v.name, shape, _ort_type(v.type))


def _ort_type(t: Type) -> str:
    match t:
        case TensorType(dtype, _):
            return f"tensor({_ORT_NAMES[dtype]})"
        case SequenceType(element):
            return f"seq({_ort_type(element)})"
        case OptionalType(element):
            return f"optional({_ort_type(element)})"
        case MapType(key, value):
            return f"map({_ORT_NAMES[key]},{_ort_type(value)})"
