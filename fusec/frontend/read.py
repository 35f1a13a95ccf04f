"""The first stage: a model file, its bytes or a ModelProto become a Graph."""

from __future__ import annotations

import gc
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy.typing as npt
import onnx

from fusec.errors import FusecError, ModelError, UsageError, nearest
from fusec.frontend.attributes import type_of
from fusec.frontend.builder import Builder
from fusec.frontend.functions import make_inliner
from fusec.frontend.importer import Importer
from fusec.frontend.messages import clean
from fusec.frontend.source import Loaded, Source, load_source
from fusec.frontend.symbols import SymbolTable
from fusec.frontend.validate import check_graph, check_imports, check_text, check_versions
from fusec.ir.dim import Extent
from fusec.ir.graph import Graph, Metadata
from fusec.ir.types import TensorType, Type
from fusec.knobs import Limits


def read_model(
    source: Source,
    *,
    limits: Limits | None = None,
    dims: Mapping[str, int] | None = None,
    shapes: Mapping[str, Sequence[int]] | None = None,
    constants: Mapping[str, npt.NDArray[Any]] | None = None,
    assume: bool = True,
) -> Graph:
    """Read an ONNX model.

    `dims` fixes named dimensions (`{"N": 1}`), `shapes` whole inputs (`{"x": (1, 3)}`); `constants` are inputs that become
    weights, in the body of a host step, which is itself not split into steps by rank. Without `assume` no sizes of different
    symbols are taken to be equal where they may broadcast, and no symbolic position to count from the start: what depends on
    that is a host step. Raises ModelError where the model is not valid, UnsupportedError naming every op that nothing here
    can run, ResourceError where a limit is passed.
    """
    return read_loaded(load_source(source), limits, dims, shapes, constants, assume)


def read_loaded(
    loaded: Loaded,
    limits: Limits | None = None,
    dims: Mapping[str, int] | None = None,
    shapes: Mapping[str, Sequence[int]] | None = None,
    constants: Mapping[str, npt.NDArray[Any]] | None = None,
    assume: bool = True,
) -> Graph:
    """The graph of a model that `load_source` gave; callers that need its SHA-256 load it themselves."""
    try:
        with no_collection():
            builder = Builder(limits or Limits(), SymbolTable(given=_checked_dims(dict(dims or {}))), assume)
            return _read(loaded, builder, dict(shapes or {}), constants)
    except FusecError as e:
        e.path = e.path or loaded.path or None
        raise
    except UnicodeDecodeError:
        raise ModelError("the model holds text that is not UTF-8", hint="the file is damaged") from None


def _read(
    loaded: Loaded,
    builder: Builder,
    shapes: dict[str, Sequence[int]],
    constants: Mapping[str, npt.NDArray[Any]] | None,
) -> Graph:
    model, limits = loaded.proto, builder.limits
    check_text(model)
    versions = check_versions(model, limits)
    order = check_graph(model.graph)
    check_imports(model.graph.node, versions, {f.domain for f in model.functions})
    inliner = make_inliner(model, limits)
    importer = Importer(builder, inliner, loaded.folder, may_defer=constants is None)
    importer.add_initializers(model.graph)
    for name, array in (constants or {}).items():
        builder.add_weight(name, array)
    _add_inputs(builder, model.graph, shapes)
    unknown = sorted(set(builder.symbols.given) - builder.symbols.used)
    if unknown:
        raise UsageError(
            f"the model has no dimension {clean(unknown[0])!r}", hint=nearest(unknown[0], builder.symbols.names)
        )
    importer.run(order, versions, {o.name for o in model.graph.output})
    importer.refusals.raise_if_any()
    graph = builder.finish(clean(model.graph.name), [o.name for o in model.graph.output], _all_names(model.graph))
    return replace(graph, source_sha256=loaded.sha256, metadata=_metadata(model))


def _metadata(model: onnx.ModelProto) -> Metadata:
    custom = {p.key: p.value for p in model.metadata_props}
    return Metadata(
        model.producer_name, model.domain, model.doc_string, model.graph.doc_string, model.model_version, custom
    )


@contextmanager
def no_collection() -> Iterator[None]:
    """Without the garbage collector: an import makes objects by the million that all stay, and each round visits them."""
    if not gc.isenabled():  # by the caller's choice, or another thread's import is under way
        yield
        return
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def _checked_dims(dims: dict[str, int]) -> dict[str, int]:
    for name, size in dims.items():
        if isinstance(size, bool) or not isinstance(size, int) or size < 0:
            raise UsageError(f"dimension {clean(name)!r} cannot be {size!r}", hint="give a whole number >= 0")
    return dims


def _add_inputs(builder: Builder, graph: onnx.GraphProto, shapes: dict[str, Sequence[int]]) -> None:
    """Declare the inputs. An initialiser that is listed as an input too (IR 3) is a weight."""
    declared = [i for i in graph.input if i.name not in builder.weights]
    for name in shapes:
        if name not in {i.name for i in declared}:
            raise UsageError(f"the model has no input {clean(name)!r}", hint=nearest(name, [i.name for i in declared]))
    for i in declared:
        if i.name in shapes:
            _fix_shape(i.name, type_of(i.type, builder.symbols, i.name), tuple(shapes[i.name]), builder.symbols)
    for i in declared:
        t = type_of(i.type, builder.symbols, i.name)
        if i.name in shapes:
            t = TensorType(t.dtype, tuple(shapes[i.name])) if isinstance(t, TensorType) else t
        builder.add_input(i.name, t)


def _fix_shape(name: str, t: Type, shape: tuple[int, ...], symbols: SymbolTable) -> None:
    """Fix the symbols of an input's shape. ModelError where the caller's shape contradicts the declared one."""
    if not isinstance(t, TensorType):
        raise UsageError(f"input {clean(name)!r} is {t} and has no shape to fix")
    declared: tuple[Extent, ...] = shape if t.shape is None else t.shape
    fits = len(declared) == len(shape) and all(not isinstance(d, int) or d == s for d, s in zip(declared, shape))
    if not fits:
        raise ModelError(
            f"input {clean(name)!r} is declared {t}, the shape asked for is {list(shape)}", input=clean(name)
        )
    for d, size in zip(declared, shape):
        symbols.fix(d, size, clean(name))


def _all_names(graph: onnx.GraphProto) -> set[str]:
    return {o for n in graph.node for o in n.output} | {o.name for o in graph.output}
