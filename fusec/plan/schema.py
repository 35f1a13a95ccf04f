"""The typed JSON of a plan file: manifest and contents, read by msgspec with unknown fields refused."""

from __future__ import annotations

from typing import TypeVar

import msgspec

from fusec.errors import PlanError

FORMAT = "fusec-plan"
MAJOR, MINOR = 1, 0
FEATURES: tuple[str, ...] = ()
"""Features that a plan may require and this version knows."""


class Struct(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """Base of all: closed records."""


class ValueRecord(Struct, frozen=True):
    """A value: name and type as text."""

    name: str
    type: str


class SectionRecord(Struct, frozen=True):
    """An entry of the container: its SHA-256, and for weights one per 4 MiB, so that two threads can check them."""

    name: str
    size: int
    sha256: str
    chunks: list[str] = []


class MetadataRecord(Struct, frozen=True):
    """A Metadata."""

    producer: str
    domain: str
    description: str
    graph_description: str
    version: int
    custom: dict[str, str]


class Manifest(Struct, frozen=True):
    """What the file is and what it holds."""

    format: str
    major: int
    minor: int
    required_features: list[str]
    created_by: dict[str, str]
    name: str
    source_sha256: str
    metadata: MetadataRecord
    target: str
    inputs: list[ValueRecord]
    outputs: list[ValueRecord]
    numerics: dict[str, str]
    fuse: bool
    passes: str
    sections: list[SectionRecord]


class StageRecord(Struct, frozen=True):
    """A StageTiling."""

    template: str
    lane: str
    rows: int
    vectors: int


class KernelRecord(Struct, frozen=True):
    """A Tiling; the guard is [parameter, low, high or -1] or empty."""

    tile: list[tuple[str, str]]
    stages: list[StageRecord]
    layouts: list[tuple[str, str]]
    guard: list[str | int]


class CallRecord(Struct, frozen=True):
    """A Call; scalars are written as text, since JSON has neither Inf nor NaN."""

    label: str
    program: str
    operands: list[tuple[str, str]]
    params: list[tuple[str, str]]
    scalars: list[tuple[str, str]]
    origin: list[str]


class StepRecord(Struct, frozen=True):
    """A region (calls, inputs, outputs) or, where `host` is text, the graph of one opaque node."""

    calls: list[CallRecord] = []
    inputs: list[str] = []
    outputs: list[str] = []
    host: str = ""


class WeightRecord(Struct, frozen=True):
    """A stored weight: tensor `index` of weights.safetensors is `name` in `layout`."""

    name: str
    type: str
    layout: str
    recipe: str
    index: int


class RequirementRecord(Struct, frozen=True):
    """A Requirement."""

    size: str
    least: int
    exact: bool
    what: str
    origin: list[str]
    excuses: list[str] = []


class Contents(Struct, frozen=True):
    """Everything but the weights' bytes, the tile programs and the fused graph."""

    values: list[ValueRecord]
    aliases: dict[str, str]
    steps: list[StepRecord]
    kernels: dict[str, list[KernelRecord]]
    weights: list[WeightRecord]
    requirements: list[RequirementRecord]


T = TypeVar("T", bound=Struct)


def decode(data: bytes | memoryview, kind: type[T], section: str) -> T:
    """Parse strictly. PlanError names the section and the field."""
    try:
        return msgspec.json.decode(data, type=kind, strict=True)
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError) as e:
        raise PlanError(f"{section} of the plan file is not valid: {e}") from e


def encode(record: Struct) -> bytes:
    """Canonical bytes: fields in order of declaration, mappings sorted."""
    return msgspec.json.encode(record, order="deterministic")
