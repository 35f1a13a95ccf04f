"""External data is read from the model's folder, and nothing outside it is ever opened."""

from __future__ import annotations

import hashlib
import os
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto

sys.path.insert(0, str(Path(__file__).parent))
from onnx_models import F32, fails, info, model, node

from fusec.errors import ModelError
from fusec.frontend.read import read_model


def external(location: str, **keys: str) -> onnx.ModelProto:
    t = TensorProto(name="w", data_type=F32, dims=[2, 3], data_location=TensorProto.EXTERNAL)
    for key, value in {"location": location, **keys}.items():
        if value is not None:
            t.external_data.add(key=key, value=value)
    return model([node("Add", "x w", "y")], [info("x")], inits=[t])


def saved(folder: Path, m: onnx.ModelProto) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "m.onnx").write_bytes(m.SerializeToString())
    return folder / "m.onnx"


def test_external_data_is_read(tmp_path: Path) -> None:
    data = np.arange(8, dtype=np.float32)
    folder = tmp_path / "model"
    path = saved(folder, external("sub/w.bin", offset="8", length="24"))
    (folder / "sub").mkdir()
    (folder / "sub" / "w.bin").write_bytes(data.tobytes())
    g = read_model(path)
    np.testing.assert_array_equal(g.weights["w"].array, data[2:].reshape(2, 3))
    assert not g.weights["w"].array.flags.writeable or g.weights["w"].array.base is not None
    digest = hashlib.sha1(data[2:].tobytes()).hexdigest()
    assert read_model(saved(folder, external("sub/w.bin", offset="8", length="24", checksum=digest)))
    fails(ModelError, saved(folder, external("sub/w.bin", offset="8", length="24", checksum="0" * 40)), "checksum")
    fails(ModelError, external("sub/w.bin").SerializeToString(), "path of the model file")


ATTACKS = {
    "parent": ("../secret.bin", {}, "folder"),
    "deep parent": ("sub/../../secret.bin", {}, "folder"),
    "absolute": ("/etc/passwd", {}, "relative"),
    "windows": ("C:\\secret.bin", {}, "relative"),
    "proc": ("/proc/self/mem", {}, "relative"),
    "symlink": ("link.bin", {}, "symbolic link"),
    "symlinked folder": ("linked/secret.bin", {}, "symbolic link"),
    "hard link": ("hard.bin", {}, "hard link"),
    "fifo": ("fifo", {}, "not a regular file"),
    "folder": ("sub", {}, "not a regular file"),
    "missing": ("none.bin", {}, "cannot open"),
    "short": ("short.bin", {}, "has 8"),
    "negative offset": ("good.bin", {"offset": "-4"}, "offset"),
    "huge offset": ("good.bin", {"offset": "9" * 18}, "has 64"),
    "senseless offset": ("good.bin", {"offset": "1e3"}, "offset"),
    "huge length": ("good.bin", {"length": "9" * 18}, "24 bytes"),
    "short length": ("good.bin", {"length": "8"}, "24 bytes"),
    "unknown key": ("good.bin", {"__class__": "os"}, "__class__"),
    "no location": ("", {}, "location"),
    "nul": ("good.bin\0x", {}, "relative"),
}


@pytest.mark.parametrize("name", ATTACKS)
def test_external_data_attacks(name: str, tmp_path: Path) -> None:
    location, keys, word = ATTACKS[name]
    (tmp_path / "secret.bin").write_bytes(bytes(64))
    folder = tmp_path / "model"
    path = saved(folder, external(location, **keys))
    (folder / "good.bin").write_bytes(bytes(64))
    (folder / "short.bin").write_bytes(bytes(8))
    (folder / "sub").mkdir()
    (folder / "link.bin").symlink_to(tmp_path / "secret.bin")
    (folder / "linked").symlink_to(tmp_path)
    os.link(tmp_path / "secret.bin", folder / "hard.bin")
    os.mkfifo(folder / "fifo")
    opened: list[str] = []
    sys.addaudithook(lambda event, args: opened.append(str(args[0])) if event == "open" and active else None)
    active = True
    try:
        fails(ModelError, path, word)
    finally:
        active = False
    assert not any("secret" in o or "passwd" in o or "/proc" in o or "fifo" in o for o in opened)


def test_tensors_may_share_a_range(tmp_path: Path) -> None:
    m = external("w.bin")
    second = TensorProto()
    second.CopyFrom(m.graph.initializer[0])
    second.name = "v"
    m.graph.initializer.append(second)
    path = saved(tmp_path, m)
    (tmp_path / "w.bin").write_bytes(bytes(24))
    assert read_model(path).weights["w"].array.shape == (2, 3)
