"""Bytes of a model: from a path, bytes or a ModelProto, with a helpful word about everything that is not a model."""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path

import onnx
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

from fusec.errors import ModelError, UsageError
from fusec.frontend.messages import clean

Source = str | os.PathLike[str] | bytes | onnx.ModelProto

_MAGIC: tuple[tuple[bytes, str, str | None], ...] = (
    (b"\x89PNG", "a PNG image", None),
    (b"\xff\xd8\xff", "a JPEG image", None),
    (b"PK\x03\x04", "a zip archive, such as a PyTorch .pt file", "export it with torch.onnx.export"),
    (b"\x89HDF", "an HDF5 file", "convert the Keras model with tf2onnx"),
    (b"\x1f\x8b", "a gzip archive", "unpack it first"),
    (b"ftrtx", "a TensorRT engine", None),
    (b"%PDF", "a PDF", None),
    (b"\x7fELF", "an ELF binary", None),
    (b"version https://git-lfs", "a Git LFS pointer", "fetch the file itself with `git lfs pull`"),
)
_LIMIT = 2**31 - 1
_LARGE = 1 << 24


@dataclass(frozen=True)
class Loaded:
    """A parsed model, the folder for its external data, and the SHA-256 of the very bytes that were parsed."""

    proto: onnx.ModelProto
    folder: Path | None
    digest: Callable[[], str]
    path: str

    @property
    def sha256(self) -> str:
        """The digest in hexadecimal, "" for a model that was given as an object; waits where it is still being made."""
        return self.digest()


def load_source(source: Source) -> Loaded:
    """Read and parse a model. ModelError that says what the file is instead, where it is not one."""
    if isinstance(source, onnx.ModelProto):
        return Loaded(source, None, str, "")
    if isinstance(source, bytes | bytearray | memoryview):
        return _parse(bytes(source), None, "")
    if not isinstance(source, str | os.PathLike):
        raise UsageError(f"a model is a path, bytes or an onnx.ModelProto, not {type(source).__name__}")
    path = os.fspath(source)
    if "\0" in path:
        raise ModelError(f"not a path: {clean(path)!r}")
    return _parse(read_file(path), Path(path).resolve().parent, path)


def read_file(path: str) -> bytes:
    """The bytes of a regular file that are needed once. ModelError for everything else, without waiting on a FIFO."""
    shown = clean(path)
    try:
        _require_regular(os.stat(path).st_mode, shown, path)  # opening a device may already do something
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        raise ModelError(f"no such file: {shown!r}", hint=_similar(path), path=path) from None
    except OSError as e:
        raise ModelError(f"cannot read {shown!r}: {e.strerror}", path=path) from None
    with os.fdopen(fd, "rb") as f:
        info = os.fstat(f.fileno())
        _require_regular(info.st_mode, shown, path)
        if info.st_size > _LIMIT:
            raise ModelError(
                f"{shown!r} has {info.st_size} bytes, a protobuf holds at most 2 GiB",
                hint="save the model with external data (onnx.save(..., save_as_external_data=True))",
                path=path,
            )
        return f.read(info.st_size)


def _require_regular(mode: int, shown: str, path: str) -> None:
    if not stat.S_ISREG(mode):
        kind = "a directory" if stat.S_ISDIR(mode) else "not a regular file"
        raise ModelError(f"{shown!r} is {kind}", hint="give the path of an .onnx file", path=path)


def _parse(data: bytes, folder: Path | None, path: str) -> Loaded:
    where = repr(clean(path)) if path else "the model"
    if not data:
        raise ModelError(f"{where} is empty", hint="was the download or the export cut off?", path=path or None)
    if data.startswith(b"PK\x03\x04") and data[30:43] == b"manifest.json":  # the name of a zip's first entry
        raise ModelError(
            f"{where} is a fusec plan, not an ONNX model",
            hint="it is compiled already: open it with fusec.load or `fusec run`",
            path=path or None,
        )
    for magic, kind, hint in _MAGIC:
        if data.startswith(magic):
            raise ModelError(f"{where} is {kind}, not an ONNX model", hint=hint, path=path or None)
    digest = _start_hashing(data)
    proto = onnx.ModelProto()
    try:
        proto.ParseFromString(data)
        meaningful = proto.ir_version > 0 or proto.HasField("graph")
    except (DecodeError, UnicodeDecodeError, ValueError, RuntimeError) as e:
        raise _not_protobuf(data, where, path, str(e)) from None
    if not meaningful or not proto.HasField("graph"):
        raise _not_protobuf(data, where, path, "it holds no graph")
    return Loaded(proto, folder, digest, path)


def _start_hashing(data: bytes) -> Callable[[], str]:
    """The SHA-256 of a file's bytes; of many of them it takes a second, so a thread makes it while they are parsed."""
    if len(data) < _LARGE:
        found = hashlib.sha256(data).hexdigest()
        return lambda: found
    executor = ThreadPoolExecutor(1, "fusec-hash")
    future = executor.submit(lambda: hashlib.sha256(data).hexdigest())
    executor.shutdown(wait=False)
    return future.result


def _not_protobuf(data: bytes, where: str, path: str, detail: str) -> ModelError:
    head = data[:4096].lstrip()
    text = _is_text(head)
    if text and head.startswith((b"{", b"[")):
        kind, hint = "JSON", "convert it with google.protobuf.json_format.Parse and save it as .onnx"
    elif text and (b"ir_version" in head or head.startswith(b"<")):
        kind, hint = "ONNX in text form", "convert it with onnx.parser.parse_model and save it as .onnx"
    elif text:
        kind, hint = "text", "give the path of an .onnx file"
    else:
        kind, hint = "", f"the file is damaged, truncated or no model: {clean(detail)} ({len(data)} bytes read)"
    looks = f" (it looks like {kind})" if kind else ""
    return ModelError(f"{where} is not an ONNX protobuf{looks}", hint=hint, path=path or None)


def _is_text(head: bytes) -> bool:
    try:
        text = head.decode("utf-8", "strict")
    except UnicodeDecodeError as e:
        text = head[: e.start].decode("utf-8") if len(head) - e.start < 4 else "\0"
    return all(c.isprintable() or c.isspace() for c in text)


def _similar(path: str) -> str | None:
    folder = Path(path).parent
    try:
        names = sorted(p.name for p in folder.iterdir())[:10_000]
    except OSError:
        return f"there is no folder {clean(str(folder))!r} either"
    close = get_close_matches(Path(path).name, names, n=1)
    return f"did you mean {clean(str(folder / close[0]))!r}?" if close else None
