"""The op for everything else: one ONNX node that runs on the host between regions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy.typing as npt

from fusec.errors import BugError, UnsupportedError
from fusec.ir.types import Type
from fusec.ops.op import Attrs, Kind, Op, register


def _infer(_: Sequence[Type | None], attrs: Attrs) -> tuple[Type, ...]:
    raise BugError(f"the output types of an opaque {attrs.get('op_type')} are declared by the importer, never inferred")


def _reference(_: Sequence[npt.NDArray[Any] | None], attrs: Attrs) -> tuple[npt.NDArray[Any], ...]:
    raise UnsupportedError(
        f"{attrs.get('op_type')}: an opaque node runs on the host",
        op=str(attrs.get("op_type")),
        hint="give run_reference a function for opaque nodes, such as fusec.host.run.run_host",
    )


register(Op("opaque", Kind.OPAQUE, _infer, _reference))
