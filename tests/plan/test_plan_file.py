"""Plan files: the same bytes, the same answers, and every kind of damage found (faults 44 to 49 and 51)."""

from __future__ import annotations

import itertools
import os
from pathlib import Path

import numpy as np
import pytest

import fusec
from bench.models.architectures import mlp
from fusec.errors import PlanError, UsageError
from fusec.plan.container import parse
from fusec.plan.file import deserialise, save, serialise


@pytest.fixture(scope="module")
def built():
    return mlp([8, 16, 4], batch=2)


@pytest.fixture(scope="module")
def session(built):
    return fusec.compile(built.model(), threads=1)


@pytest.fixture(scope="module")
def data(session) -> bytes:
    return b"".join(serialise(session.plan))


def test_round_trip_gives_the_same_bits(built, session, tmp_path: Path) -> None:
    save(session.plan, tmp_path / "m.fplan")
    loaded = fusec.load(tmp_path / "m.fplan", threads=1)
    want = session.run(built.feeds)
    got = loaded.run(built.feeds)
    assert list(got) == list(want)
    assert all(np.array_equal(got[k], want[k]) for k in want)


def test_same_model_same_bytes(built, data: bytes) -> None:
    assert b"".join(serialise(fusec.compile(built.model(), threads=2).plan)) == data


def test_serialise_and_deserialise_are_inverse(data: bytes) -> None:
    assert b"".join(serialise(deserialise(memoryview(data)))) == data


def test_entries_are_aligned_and_readable_by_other_tools(data: bytes, tmp_path: Path) -> None:
    import zipfile

    from safetensors.numpy import load

    assert all(e.offset % 64 == 0 for e in parse(memoryview(data)).values())
    path = tmp_path / "m.zip"
    path.write_bytes(data)
    with zipfile.ZipFile(path) as z:
        assert z.testzip() is None
        tensors = load(z.read("weights.safetensors"))
    assert {k for k in tensors if not k.startswith("__pad")}


def test_every_flipped_byte_of_the_structure_is_found(data: bytes) -> None:
    """All headers, the manifest, the directory; and a bit in the middle of everything else."""
    for offset in itertools.chain(range(0, 4096, 7), range(4096, len(data), 97), range(len(data) - 400, len(data))):
        damaged = bytearray(data)
        damaged[offset] ^= 1 << (offset % 8)
        with pytest.raises(PlanError):
            deserialise(memoryview(bytes(damaged)))


def test_random_bit_flips_are_found(data: bytes) -> None:
    rng = np.random.default_rng(0)
    for offset, bit in zip(rng.integers(0, len(data), 200), rng.integers(0, 8, 200), strict=True):
        damaged = bytearray(data)
        damaged[offset] ^= 1 << int(bit)
        with pytest.raises(PlanError):
            deserialise(memoryview(bytes(damaged)))


def test_truncation_and_additions_are_found(data: bytes) -> None:
    entries = parse(memoryview(data)).values()
    for length in {0, 1, 30, *(e.offset for e in entries), *(e.offset + e.size for e in entries), len(data) - 1}:
        with pytest.raises(PlanError):
            deserialise(memoryview(data[:length]))
    for more in (b"\0", b"PK\x05\x06", data):
        with pytest.raises(PlanError):
            deserialise(memoryview(data + more))
    with pytest.raises(PlanError):
        deserialise(memoryview(b"x" + data))


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"PK",
        b"PK\x03\x04",
        b"\x89PNG\r\n\x1a\n" + bytes(64),
        b"hello" * 100,
        os.urandom(4096),
        b"PK\x05\x06" + bytes(18),
    ],
    ids=["empty", "two bytes", "one header", "png", "text", "random", "empty zip"],
)
def test_other_files_are_refused(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "m.fplan"
    path.write_bytes(content)
    with pytest.raises(PlanError):
        fusec.load(path)


def test_foreign_zip_files_are_refused(tmp_path: Path) -> None:
    import zipfile

    for name, method in (("../evil", zipfile.ZIP_STORED), ("manifest.json", zipfile.ZIP_DEFLATED)):
        path = tmp_path / "m.fplan"
        with zipfile.ZipFile(path, "w") as z:
            z.writestr(name, "x" * 1000, method)
        with pytest.raises(PlanError):
            fusec.load(path)


def test_missing_file_and_folder(tmp_path: Path) -> None:
    for path in (tmp_path / "none.fplan", tmp_path):
        with pytest.raises(PlanError):
            fusec.load(path)


def test_an_existing_file_is_kept_unless_forced(session, tmp_path: Path) -> None:
    path = tmp_path / "m.fplan"
    path.write_bytes(b"mine")
    with pytest.raises(UsageError, match="exists"):
        save(session.plan, path)
    assert path.read_bytes() == b"mine"
    save(session.plan, path, force=True)
    assert path.read_bytes()[:2] == b"PK"
    assert os.listdir(tmp_path) == ["m.fplan"]


def rebuilt(data: bytes, change) -> bytes:
    """The same plan with a changed manifest, every hash made right again: what a newer writer would leave."""
    import hashlib

    import msgspec

    from fusec.plan import container

    view = memoryview(data)
    entries = container.parse(view)
    bodies = {e.name: bytes(view[e.offset : e.offset + e.size]) for e in entries.values()}
    manifest = msgspec.json.decode(bodies["manifest.json"])
    change(manifest)
    bodies["manifest.json"] = msgspec.json.encode(manifest)
    bodies["manifest.sha256"] = hashlib.sha256(bodies["manifest.json"]).hexdigest().encode()
    _, headers, trailer = container.layout({n: (len(b), container.crc32(b)) for n, b in bodies.items()})
    return b"".join(p for h, b in zip(headers, bodies.values(), strict=True) for p in (h, b)) + trailer


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda m: m.update(major=99, created_by={"fusec": "9.1"}), "made by fusec 9.1"),
        (lambda m: m.update(required_features=["time-travel"]), "time-travel"),
        (lambda m: m.update(format="other"), "not a plan"),
        (lambda m: m.update(unknown=1), "unknown"),
        (lambda m: m.update(major="1"), "major"),
        (lambda m: m["sections"].pop(), "sections"),
        (lambda m: m["sections"][0].update(size=1), "bytes"),
        (lambda m: m["inputs"][0].update(type="f32[)"), "type"),
    ],
)
def test_other_versions_and_contradictions(data: bytes, change, message: str) -> None:
    with pytest.raises(PlanError, match=message):
        deserialise(memoryview(rebuilt(data, change)))


def nested(depth: int) -> list:
    out: list = []
    for _ in range(depth):
        out = [out]
    return out


def test_deeply_nested_json_is_refused(data: bytes) -> None:
    with pytest.raises(PlanError):
        deserialise(memoryview(rebuilt(data, lambda m: m.update(notes=nested(90)))))


def test_a_plan_for_another_host_recompiles(built, tmp_path: Path) -> None:
    plan = fusec.compile(built.model(), device="cpu:generic", threads=1).plan
    save(plan, tmp_path / "m.fplan")
    from fusec.target import runs_here

    if not runs_here("generic"):
        pytest.skip("no x86-64")
    got = fusec.load(tmp_path / "m.fplan", threads=1).run(built.feeds)
    want = fusec.compile(built.model(), threads=1).run(built.feeds)
    assert all(np.allclose(got[k], want[k], atol=1e-5) for k in want)


def test_a_file_that_changes_after_loading_does_not_hurt(built, session, tmp_path: Path) -> None:
    path = tmp_path / "m.fplan"
    save(session.plan, path)
    loaded = fusec.load(path, threads=1)
    os.truncate(path, 10)
    assert all(np.isfinite(v).all() for v in loaded.run(built.feeds).values())
