"""Weights in files beside the model: read, never written, and never from outside the model's own folder."""

from __future__ import annotations

import hashlib
import os
import stat
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx

from fusec.errors import ModelError
from fusec.frontend.messages import clean, listing
from fusec.ir.types import DType

KEYS = ("location", "offset", "length", "checksum", "basepath")
"""What an external data record may say; anything else is refused."""


def read_external(
    t: onnx.TensorProto, expected: int, dtype: DType, folder: Path | None, where: str
) -> npt.NDArray[Any]:
    """The array behind an external tensor: a read-only map of the file where its offset is aligned, else a copy."""
    entries = _entries(t, where)
    if folder is None:
        raise ModelError(
            f"{where} has external data {clean(entries['location'])!r}, and the model came as bytes",
            hint="pass the path of the model file",
        )
    offset = _number(entries, "offset", 0, where)
    fd = open_inside(folder, entries["location"], where)
    try:
        size = os.fstat(fd).st_size
        length = _number(entries, "length", expected, where)
        if length != expected:
            raise ModelError(f"{where}: {dtype}{list(t.dims)} takes {expected} bytes, the record says {length}")
        if offset + length > size:
            raise ModelError(
                f"{where}: bytes {offset} to {offset + length} of {clean(entries['location'])!r}, which has {size}",
                hint="the data file is truncated or belongs to another model",
            )
        return _load(fd, offset, length, dtype, tuple(t.dims), entries.get("checksum", ""), where)
    finally:
        os.close(fd)


def open_inside(folder: Path, location: str, where: str) -> int:
    """A descriptor of a plain file inside `folder`. ModelError for anything else, before a byte is read.

    Every component is opened relative to its parent without following links, so nothing can be swapped in between.
    """
    shown = clean(location)
    parts = PurePosixPath(location).parts
    if "\0" in location or not parts or PurePosixPath(location).is_absolute() or PureWindowsPath(location).anchor:
        raise ModelError(
            f"{where}: external data at {shown!r}", hint="the location must be relative to the model's folder"
        )
    if ".." in parts:
        raise ModelError(
            f"{where}: external data at {shown!r} leaves the model's folder", hint="put the data beside it"
        )
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        for i, part in enumerate(parts):
            last = i == len(parts) - 1
            flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC | (0 if last else os.O_DIRECTORY)
            _refuse_special(fd, part, last, where, shown)
            inner = os.open(part, flags, dir_fd=fd)
            os.close(fd)
            fd = inner
        _check_opened(fd, where, shown)
    except OSError as e:
        os.close(fd)
        raise ModelError(f"{where}: cannot open external data {shown!r}: {e.strerror}") from None
    except ModelError:
        os.close(fd)
        raise
    return fd


def _refuse_special(parent: int, part: str, last: bool, where: str, shown: str) -> None:
    """Look before opening: opening a device or a FIFO may already do something."""
    mode = os.stat(part, dir_fd=parent, follow_symlinks=False).st_mode
    if stat.S_ISLNK(mode):
        raise ModelError(f"{where}: external data {shown!r} is a symbolic link", hint="replace the link by the file")
    if not (stat.S_ISREG(mode) if last else stat.S_ISDIR(mode)):
        raise ModelError(f"{where}: external data {shown!r} is not a regular file")


def _check_opened(fd: int, where: str, shown: str) -> None:
    info = os.fstat(fd)
    if not stat.S_ISREG(info.st_mode):
        raise ModelError(f"{where}: external data {shown!r} is not a regular file")
    if info.st_nlink > 1:
        raise ModelError(f"{where}: external data {shown!r} is a hard link", hint="copy the file instead of linking it")


def _entries(t: onnx.TensorProto, where: str) -> dict[str, str]:
    entries: dict[str, str] = {}
    for e in t.external_data:
        if e.key not in KEYS:
            raise ModelError(f"{where}: unknown key {clean(e.key)!r} of external data", hint=f"known: {listing(KEYS)}")
        if e.key in entries:
            raise ModelError(f"{where}: key {e.key!r} of external data stands twice")
        entries[e.key] = e.value
    if not entries.get("location"):
        raise ModelError(f"{where}: external data without a location")
    return entries


def _number(entries: dict[str, str], key: str, default: int, where: str) -> int:
    text = entries.get(key, "")
    if text == "":
        return default
    if not (text.isascii() and text.isdigit()) or len(text) > 19:
        raise ModelError(f"{where}: {key} of external data is {clean(text)!r}", hint="it must be a number >= 0")
    return int(text)


def _load(
    fd: int, offset: int, length: int, dtype: DType, shape: tuple[int, ...], checksum: str, where: str
) -> npt.NDArray[Any]:
    if dtype is DType.STRING or dtype.itemsize * int(np.prod(shape, dtype=np.int64)) != length:
        raise ModelError(
            f"{where}: external data of {dtype} is not supported", hint="store this tensor in the model file"
        )
    if length == 0:
        return np.zeros(shape, dtype.numpy)
    stored = dtype.numpy.newbyteorder("<") if dtype.itemsize > 1 and dtype.numpy.kind != "V" else dtype.numpy
    data = _read(fd, offset, length, where)
    if checksum and hashlib.sha1(data, usedforsecurity=False).hexdigest() != checksum.lower():
        raise ModelError(f"{where}: the checksum of its external data differs", hint="the data file was changed")
    return np.frombuffer(data, stored).astype(dtype.numpy, copy=False).reshape(shape)


def _read(fd: int, offset: int, length: int, where: str) -> bytearray:
    """Read, not map: a file that shrinks while mapped would kill the process."""
    data = bytearray(length)
    view, done = memoryview(data), 0
    while done < length:
        got = os.preadv(fd, [view[done : done + (64 << 20)]], offset + done)
        if got == 0:
            raise ModelError(f"{where}: its external data ended after {done} of {length} bytes")
        done += got
    return data
