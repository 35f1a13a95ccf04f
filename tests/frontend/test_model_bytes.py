"""Bytes that are no model, or one of another version: a clear error of the right class, at once."""

from __future__ import annotations

import hashlib
import os
import sys
import time
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

sys.path.insert(0, str(Path(__file__).parent))
from onnx_models import fails, info, init, model, node, relu_model

from fusec.errors import FusecError, ModelError, UsageError
from fusec.frontend.read import read_model
from fusec.frontend.source import load_source
from fusec.ir.graph import Graph
from fusec.knobs import Limits


def test_missing_file_suggests_the_nearest(tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(b"x")
    error = fails(ModelError, tmp_path / "modle.onnx", "no such file", "did you mean", "model.onnx")
    assert error.path == str(tmp_path / "modle.onnx")
    fails(ModelError, tmp_path / "nowhere" / "m.onnx", "no such file", "no folder")


def test_directory_fifo_and_device_are_refused_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    start = time.monotonic()
    fails(ModelError, tmp_path, "is a directory")
    fails(ModelError, tmp_path / "fifo", "not a regular file")
    fails(ModelError, "/dev/zero", "not a regular file")
    assert time.monotonic() - start < 10


MAGIC = {
    b"": "is empty",
    b"\x89PNG\r\n\x1a\n" + bytes(64): "PNG",
    b"PK\x03\x04" + bytes(64): "zip archive",
    b"\x1f\x8b\x08" + bytes(64): "gzip",
    b"version https://git-lfs.github.com/spec/v1\n": "Git LFS",
    b"<ir_version: 8, opset_import: [ ''  : 17]>\nagraph (float[N] x) => (float[N] y) { y = Relu(x) }": "text form",
    b'{"irVersion": "8", "graph": {}}': "JSON",
    b"hello, I am a text file": "text",
    bytes(range(1, 250)) * 8: "not an ONNX protobuf",
}


@pytest.mark.parametrize(("data", "word"), MAGIC.items(), ids=list(MAGIC.values()))
def test_other_files_are_recognised(data: bytes, word: str, tmp_path: Path) -> None:
    (tmp_path / "m.onnx").write_bytes(data)
    fails(ModelError, tmp_path / "m.onnx", word)
    fails(ModelError, data, word)


def test_truncated_anywhere() -> None:
    data = model(
        [node("MatMul", "x w", "h"), node("Relu", "h", "y")],
        [info("x")],
        [info("y")],
        [init("w", np.ones((3, 3), "f"))],
    ).SerializeToString()
    for cut in np.linspace(1, len(data) - 1, 50).astype(int):
        with pytest.raises(FusecError):
            read_model(data[:cut])


def test_random_bytes_never_crash() -> None:
    r = np.random.default_rng(0)
    good = bytearray(relu_model().SerializeToString())
    for _ in range(300):
        data = bytearray(good)
        for _ in range(r.integers(1, 6)):
            data[r.integers(len(data))] = r.integers(256)
        try:
            assert isinstance(read_model(bytes(data)), Graph)
        except FusecError as e:
            assert e.exit_code in (3, 4, 9)


def test_over_two_gigabytes(tmp_path: Path) -> None:
    with open(tmp_path / "big.onnx", "wb") as f:
        f.truncate(2**31 + 5)  # sparse: takes no disk
    fails(ModelError, tmp_path / "big.onnx", "2 GiB", "external data")


def test_wrong_kind_of_source() -> None:
    fails(UsageError, 3, "int")


def test_newer_versions_are_refused_unless_allowed() -> None:
    newer = onnx.defs.onnx_opset_version() + 1
    m = model([node("Relu", "x", "y")], [info("x")], opset=newer)
    fails(ModelError, m, str(newer), str(newer - 1), "--allow-newer-opset")
    assert read_model(m, limits=Limits(allow_newer_opset=True)).nodes
    m = relu_model()
    m.ir_version = 99
    fails(ModelError, m, "99", "--allow-newer-opset")


def test_opset_imports() -> None:
    m = relu_model()
    del m.opset_import[:]
    fails(ModelError, m, "opset")
    m = relu_model()
    m.opset_import.append(helper.make_opsetid("ai.onnx", 11))
    fails(ModelError, m, "two versions")
    m = relu_model()
    m.opset_import.append(helper.make_opsetid("", 17))  # the same twice is harmless
    assert len(read_model(m).nodes) == 1
    fails(ModelError, model([node("Thing", "x", "y", domain="acme")], [info("x")]), "acme", "import")


def test_hash_is_of_the_bytes_that_were_parsed(tmp_path: Path) -> None:
    data = relu_model().SerializeToString()
    (tmp_path / "m.onnx").write_bytes(data)
    loaded = load_source(tmp_path / "m.onnx")
    (tmp_path / "m.onnx").write_bytes(b"changed")
    assert loaded.sha256 == hashlib.sha256(data).hexdigest()
    assert loaded.proto.graph.node[0].op_type == "Relu"
    assert read_model(data).source_sha256 == loaded.sha256
    assert read_model(relu_model()).source_sha256 == ""
    large = model([node("Add", "x w", "y")], [info("x")])
    large.graph.initializer.append(numpy_helper.from_array(np.ones(3 << 22, np.float32), "w"))  # hashed in a thread
    data = large.SerializeToString()
    assert load_source(data).sha256 == hashlib.sha256(data).hexdigest()


def test_unknown_and_repeated_protobuf_fields_are_ignored() -> None:
    data = relu_model().SerializeToString()
    unknown = b"\xfa\x3f\x03abc"  # field 1023, bytes
    assert len(read_model(data + unknown).nodes) == 1
    assert len(read_model(b"\x08\x08" + data).nodes) == 1  # ir_version twice: the last one counts
