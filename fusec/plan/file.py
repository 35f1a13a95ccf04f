"""Plan files (`.fplan`): data and no code, checked by SHA-256 before anything is believed, the same bytes every time."""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from fusec.errors import PlanError, ResourceError, UsageError
from fusec.ir.graph import Metadata
from fusec.ir.types import DType, TensorType
from fusec.kernels.layout import Layout
from fusec.plan import container, tensors
from fusec.plan.check import check_plan
from fusec.plan.contents import kernels_from, programs_from, requirements_from, steps_from, to_records, value_from
from fusec.plan.plan import Plan, PlanWeight, layout_key
from fusec.plan.schema import (
    FEATURES,
    FORMAT,
    MAJOR,
    MINOR,
    Contents,
    Manifest,
    MetadataRecord,
    SectionRecord,
    ValueRecord,
    WeightRecord,
    decode,
    encode,
)
from fusec.target import Target

CHUNK = 4 << 20
MANIFEST, SEAL, CONTENTS, PROGRAMS, FUSED, WEIGHTS = (
    "manifest.json", "manifest.sha256", "contents.json", "programs.tile", "fused.graph", "weights.safetensors",
)  # fmt: skip
_SECTIONS = (CONTENTS, PROGRAMS, FUSED, WEIGHTS)

Pieces = Sequence[bytes | memoryview]


def save(plan: Plan, path: str | os.PathLike[str], *, force: bool = False) -> str:
    """Write a plan file and return its SHA-256.

    The file appears complete or not at all: it is written beside its place and renamed. An existing file is replaced only
    with `force` (UsageError otherwise). ResourceError where the disk refuses.
    """
    target = Path(path)
    if target.exists() and not force:
        raise UsageError(
            f"{target} exists already", hint="choose another name, or overwrite it with --force (force=True)"
        )
    if target.exists() and not target.is_file():
        # a directory, a pipe, a device: renaming onto it would fail, or take /dev/null away from everybody
        raise UsageError(f"cannot write {target}: it is {'a directory' if target.is_dir() else 'no regular file'}")
    if not target.parent.is_dir():
        raise UsageError(f"cannot write {target}: its directory does not exist")
    pieces = list(serialise(plan))
    digest = hashlib.sha256()
    temporary = None
    try:
        handle, temporary = tempfile.mkstemp(prefix=f".{target.name}.", suffix=".tmp", dir=target.parent)
        with os.fdopen(handle, "wb") as f:
            for piece in pieces:
                f.write(piece)
                digest.update(piece)
            f.flush()
            os.fsync(f.fileno())
        umask = os.umask(0)
        os.umask(umask)
        os.chmod(temporary, 0o666 & ~umask)
        os.replace(temporary, target)
    except OSError as e:
        raise ResourceError(f"cannot write {target}: {e.strerror}", path=str(target)) from e
    finally:
        if temporary is not None and os.path.exists(temporary):
            os.unlink(temporary)
    return digest.hexdigest()


def load(path: str | os.PathLike[str]) -> Plan:
    """Read and check a plan file. PlanError where it is not one, is damaged, or needs a newer fusec."""
    source = Path(path)
    try:
        if not source.is_file():
            what = "not a regular file" if source.exists() else "no such file"
            raise PlanError(f"{what}: {str(source)!r}", path=str(source))
        data = _read(source)
    except OSError as e:
        raise PlanError(f"cannot read {source}: {e.strerror}", path=str(source)) from e
    return deserialise(data)


def _read(source: Path) -> memoryview:
    """The whole file in private memory, not mapped: a file that changes or shrinks later cannot hurt, and this is no slower.

    The memory begins on a 64-byte boundary, as sections do in the file, so weights are used where they lie.
    """
    with source.open("rb") as f:
        size = os.fstat(f.fileno()).st_size
        room = np.empty(size + container.ALIGNMENT, np.uint8)
        start = -room.ctypes.data % container.ALIGNMENT
        data = room.data[start : start + size]
        if f.readinto(data) != size:
            raise PlanError(f"{source} changed while it was read", path=str(source))
    return data


def serialise(plan: Plan) -> Pieces:
    """The bytes of a plan file, in pieces."""
    contents, programs = to_records(plan)
    bodies: dict[str, Pieces] = {
        CONTENTS: [encode(contents)],
        PROGRAMS: [programs.encode()],
        FUSED: [plan.fused.encode()],
        WEIGHTS: tensors.write([w.array for w in plan.weights.values()]),
    }
    manifest = encode(_manifest(plan, {n: _digest(n, p) for n, p in bodies.items()}))
    bodies = {MANIFEST: [manifest], SEAL: [hashlib.sha256(manifest).hexdigest().encode()], **bodies}
    sizes = {n: (sum(len(p) for p in pieces), _crc(pieces)) for n, pieces in bodies.items()}
    _, headers, trailer = container.layout(sizes)
    return [*(p for h, pieces in zip(headers, bodies.values(), strict=True) for p in (h, *pieces)), trailer]


def deserialise(data: memoryview) -> Plan:
    """A plan from the bytes of a plan file. PlanError where they are not what `serialise` makes."""
    entries = container.parse(data)
    manifest = read_manifest(data, entries)
    if list(entries) != [MANIFEST, SEAL, *_SECTIONS] or [s.name for s in manifest.sections] != list(_SECTIONS):
        raise PlanError("the plan file has other sections than its version defines")
    body = {e.name: data[e.offset : e.offset + e.size] for e in entries.values()}
    _check_sections(manifest.sections, body)
    contents = decode(body[CONTENTS], Contents, CONTENTS)
    programs = programs_from(_text(body, PROGRAMS))
    values = {v.name: v.type for v in map(value_from, contents.values)}
    plan = Plan(
        name=manifest.name,
        target=_target(manifest.target),
        inputs=tuple(map(value_from, manifest.inputs)),
        outputs=tuple(map(value_from, manifest.outputs)),
        values=values,
        aliases=contents.aliases,
        steps=steps_from(contents, programs),
        kernels=kernels_from(contents, programs),
        weights=_weights(contents.weights, tensors.read(body[WEIGHTS], WEIGHTS)),
        requirements=requirements_from(contents),
        numerics=manifest.numerics,
        fuse=manifest.fuse,
        passes=manifest.passes,
        fused=_text(body, FUSED),
        source_sha256=manifest.source_sha256,
        metadata=Metadata(**msgspec.structs.asdict(manifest.metadata)),
        from_file=True,
    )
    check_plan(plan)
    return plan


def _target(text: str) -> Target:
    try:
        return Target.parse(text)
    except UsageError as e:
        raise PlanError(f"the target of the plan file: {e}") from e


def _text(body: Mapping[str, memoryview], section: str) -> str:
    try:
        return str(body[section], "utf-8")
    except UnicodeDecodeError as e:
        raise PlanError(f"{section} of the plan file is not valid: {e}") from e


def read_manifest(data: memoryview, entries: Mapping[str, container.Entry]) -> Manifest:
    """The checked manifest alone: enough to say what a file is and whether this version can read it."""
    if MANIFEST not in entries or SEAL not in entries:
        raise PlanError("not a plan file: it has no manifest")
    raw, seal = (bytes(data[entries[n].offset : entries[n].offset + entries[n].size]) for n in (MANIFEST, SEAL))
    if container.crc32(raw) != entries[MANIFEST].crc or hashlib.sha256(raw).hexdigest().encode() != seal:
        raise PlanError("the manifest of the plan file is damaged")
    if container.crc32(seal) != entries[SEAL].crc:
        raise PlanError("the seal of the plan file is damaged")
    manifest = decode(raw, Manifest, MANIFEST)
    if manifest.format != FORMAT:
        raise PlanError(f"not a plan file: its format is {manifest.format!r}")
    if manifest.major != MAJOR:
        made = manifest.created_by.get("fusec", "an unknown version")
        raise PlanError(
            f"made by fusec {made} (schema {manifest.major}); this version reads schema {MAJOR}",
            hint="recompile from the model, or upgrade fusec",
        )
    if unknown := sorted(set(manifest.required_features) - set(FEATURES)):
        raise PlanError(
            f"the plan needs features that this version has not: {', '.join(unknown)}", hint="upgrade fusec"
        )
    return manifest


def _manifest(plan: Plan, sections: Mapping[str, SectionRecord]) -> Manifest:
    from fusec import __version__

    return Manifest(
        format=FORMAT,
        major=MAJOR,
        minor=MINOR,
        required_features=[],
        created_by={"fusec": __version__},
        name=plan.name,
        source_sha256=plan.source_sha256,
        metadata=MetadataRecord(**asdict(plan.metadata)),
        target=str(plan.target),
        inputs=[ValueRecord(v.name, str(v.type)) for v in plan.inputs],
        outputs=[ValueRecord(v.name, str(v.type)) for v in plan.outputs],
        numerics=dict(plan.numerics),
        fuse=plan.fuse,
        passes=plan.passes,
        sections=list(sections.values()),
    )


def _digest(name: str, pieces: Pieces) -> SectionRecord:
    whole = hashlib.sha256()
    for p in pieces:
        whole.update(p)
    size = sum(len(p) for p in pieces)
    chunks = []
    if name == WEIGHTS:
        joined = memoryview(b"".join(pieces))
        chunks = [hashlib.sha256(joined[i : i + CHUNK]).hexdigest() for i in range(0, size, CHUNK)]
    return SectionRecord(name, size, whole.hexdigest(), chunks)


def _crc(pieces: Pieces) -> int:
    import zlib

    crc = 0
    for p in pieces:
        crc = zlib.crc32(p, crc)
    return crc


def _check_sections(sections: Sequence[SectionRecord], body: Mapping[str, memoryview]) -> None:
    """Compare every section with its SHA-256: weights by chunks in two threads (hashlib releases the GIL)."""
    for s in sections:
        if s.size != len(body[s.name]):
            raise PlanError(f"{s.name} of the plan file has {len(body[s.name])} bytes, its manifest says {s.size}")
    jobs: list[tuple[str, memoryview, str]] = []
    for s in sections:
        data = body[s.name]
        parts = [data[i : i + CHUNK] for i in range(0, len(data), CHUNK)]
        if s.chunks and len(s.chunks) != len(parts):
            raise PlanError(f"{s.name} of the plan file has {len(parts)} chunks, its manifest says {len(s.chunks)}")
        jobs += (
            [(s.name, p, h) for p, h in zip(parts, s.chunks, strict=True)] if s.chunks else [(s.name, data, s.sha256)]
        )
    with ThreadPoolExecutor(2) as pool:
        for (name, _, expected), got in zip(
            jobs, pool.map(lambda j: hashlib.sha256(j[1]).hexdigest(), jobs), strict=True
        ):
            if got != expected:
                raise PlanError(f"{name} of the plan file is damaged: its SHA-256 differs", hint="recompile the model")


def _weights(records: Sequence[WeightRecord], arrays: Sequence[npt.NDArray[Any]]) -> dict[tuple[str, str], PlanWeight]:
    if [r.index for r in records] != list(range(len(arrays))):
        raise PlanError("the weights of the plan file do not match their list")
    out = {}
    for r, array in zip(records, arrays, strict=True):
        value = value_from(ValueRecord(r.name, r.type))
        if not isinstance(value.type, TensorType) or not value.type.is_static:
            raise PlanError(f"weight {r.name!r} of the plan file has the type {value.type}")
        try:
            layout = Layout.parse(r.layout)
            physical = tuple(int(d) for d in layout.shape(value.shape) if isinstance(d, int))
            stored = array if DType.of(array.dtype) is value.dtype else array.view(value.dtype.numpy)
            out[r.name, layout_key(layout)] = PlanWeight(value, layout, stored.reshape(physical), r.recipe)
        except (ValueError, IndexError) as e:
            raise PlanError(f"weight {r.name!r} of the plan file: {e}") from e
    return out
