"""A private, content-addressed store of compiled objects under the user's cache folder.

The cache is a convenience and never a reason to fail: where the folder cannot be used (read-only, full, somebody
else's), objects are kept in memory and one warning says why. Entries are checked by SHA-256 when they are read; a
damaged one is removed and counts as absent. Layout: `v1/<host>/<ab>/<sha256 of the key>`, each file a header, the
full key and the payload.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import platform
import stat
import struct
import sys
import tempfile
import threading
import time
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from fusec.errors import UsageError, nearest

MAGIC = b"fusecobj"
VERSION = 1
HEADER = struct.Struct("<8sIIQ32s")
"""magic, version, key length, payload length, SHA-256 of the payload."""
DEFAULT_LIMIT = 2 << 30
MODES = ("rw", "ro", "off")
STALE_SECONDS = 3600
"""Temporary files of writers that died are removed after this time."""


@dataclass(frozen=True, slots=True)
class CacheInfo:
    """What is in a cache: `directory` is None where objects are only kept in memory, and `why` says why."""

    directory: Path | None
    why: str
    mode: str
    entries: int
    bytes: int
    limit: int


def default_directory() -> Path:
    """The user's cache folder for fusec; FUSEC_CACHE_DIR, which the caller reads, comes before it."""
    import platformdirs

    return Path(platformdirs.user_cache_dir("fusec", appauthor=False))


def host_key() -> str:
    """The folder for this kind of machine. Keys name target and compiler in full; this only keeps a shared home tidy."""
    return f"{sys.platform}-{platform.machine() or 'unknown'}"


class ObjectCache:
    """Bytes by key. Safe for many threads and processes at once; the last writer of equal content wins harmlessly."""

    def __init__(
        self, directory: str | os.PathLike[str] | None = None, *, mode: str = "rw", limit: int = DEFAULT_LIMIT
    ) -> None:
        if mode not in MODES:
            raise UsageError(f"unknown cache mode {mode!r}", hint=nearest(mode, MODES))
        self.mode = mode
        self.limit = limit
        self._memory: dict[str, bytes] = {}
        self._lock = threading.Lock()
        self._size: int | None = None
        self._why = "the cache is off" if mode == "off" else ""
        self._root: Path | None = None
        if mode != "off":
            self._open(Path(directory) if directory is not None else default_directory())

    @property
    def directory(self) -> Path | None:
        """Where entries are kept; None where in memory only."""
        return self._root

    def get(self, key: str) -> bytes | None:
        """The payload of a key, or None. A damaged entry is removed first."""
        held = self._memory.get(key)
        if held is not None or self._root is None:
            return held
        path = self._path(self._root, key)
        try:
            data = _read(path)
        except OSError:
            return None
        payload = _decode(data, key)
        if payload is None:
            self._remove(path)
        elif self.mode == "rw":
            self._touch(path)
        return payload

    def put(self, key: str, payload: bytes) -> None:
        """Keep a payload. Never fails: what cannot be written stays in memory."""
        if self.mode == "off":
            return
        if self._root is None or self.mode == "ro":
            self._memory[key] = payload
            return
        path = self._path(self._root, key)
        data = _encode(key, payload)
        try:
            _write(path, data)
        except OSError as e:
            self._memory[key] = payload
            self._warn_once(f"cannot write to the cache {self._root}: {e.strerror or e}")
            return
        self._grown(len(data))

    def info(self) -> CacheInfo:
        """Count what is there."""
        files = list(self._files())
        in_memory = sum(map(len, self._memory.values()))
        total = sum(s.st_size for _, s in files) + in_memory
        return CacheInfo(self._root, self._why, self.mode, len(files) + len(self._memory), total, self.limit)

    def clear(self) -> int:
        """Remove every entry, also those of other versions' writers in this layout; the number of entries removed."""
        count = len(self._memory)
        self._memory.clear()
        for path, _ in list(self._files(temporary=True)):
            count += self._remove(path)
        self._size = 0
        return count

    def verify(self) -> tuple[int, int]:
        """Read every entry and remove the damaged ones: (good, removed)."""
        good = bad = 0
        for path, _ in list(self._files()):
            try:
                whole = _decode(_read(path), None) is not None
            except OSError:
                whole = False
            good, bad = good + whole, bad + (not whole)
            if not whole:
                self._remove(path)
        return good, bad

    def evict(self, down_to: int) -> int:
        """Remove the entries used longest ago until at most `down_to` bytes are left; the bytes that are left."""
        now = time.time()
        files = []
        for path, s in self._files(temporary=True):
            if path.suffix != ".tmp":
                files.append((s.st_mtime, s.st_size, path))
            elif now - s.st_mtime > STALE_SECONDS:
                self._remove(path)
        left = sum(size for _, size, _ in files)
        for _, size, path in sorted(files, key=lambda f: (f[0], str(f[2]))):
            if left <= down_to:
                break
            self._remove(path)
            left -= size
        return left

    def _open(self, root: Path) -> None:
        try:
            why = _refusal(root, create=self.mode == "rw")
        except OSError as e:
            why = e.strerror or str(e)
        if why:
            self._warn_once(f"the cache {root} is not used: {why}")
        else:
            self._root = root

    def _path(self, root: Path, key: str) -> Path:
        name = hashlib.sha256(key.encode()).hexdigest()
        return root / f"v{VERSION}" / host_key() / name[:2] / name

    def _files(self, temporary: bool = False) -> Iterator[tuple[Path, os.stat_result]]:
        if self._root is None:
            return
        for path in sorted((self._root / f"v{VERSION}").glob("*/*/*")):
            try:
                s = path.lstat()
            except OSError:
                continue
            if stat.S_ISREG(s.st_mode) and (temporary or path.suffix != ".tmp"):
                yield path, s

    def _grown(self, by: int) -> None:
        with self._lock:
            if self._size is None:
                self._size = sum(s.st_size for _, s in self._files())
            else:
                self._size += by
            if self._size > self.limit:
                self._size = self.evict(self.limit * 9 // 10)

    def _touch(self, path: Path) -> None:
        with contextlib.suppress(OSError):  # only the order of eviction suffers
            os.utime(path)

    def _remove(self, path: Path) -> bool:
        try:
            path.unlink()
        except OSError:
            return False
        return True

    def _warn_once(self, why: str) -> None:
        with self._lock:
            first, self._why = not self._why, self._why or why
        if first:
            warnings.warn(f"{why}; compiled code is kept in memory only", RuntimeWarning, stacklevel=4)


def _refusal(root: Path, create: bool) -> str:
    """Why a folder must not be trusted with code; empty where it may. Makes it where it is missing."""
    if not root.is_absolute():
        return "it is not an absolute path (is HOME set?)"
    if create:
        root.mkdir(mode=0o700, parents=True, exist_ok=True)
    s = root.lstat()
    if stat.S_ISLNK(s.st_mode):
        return "it is a symbolic link"
    if not stat.S_ISDIR(s.st_mode):
        return "it is not a directory"
    if hasattr(os, "geteuid") and s.st_uid != os.geteuid():
        return "it belongs to another user"
    if os.name == "posix" and s.st_mode & 0o022:
        return f"its permissions are {stat.S_IMODE(s.st_mode):04o}: others may write to it (chmod go-w)"
    return ""


def _encode(key: str, payload: bytes) -> bytes:
    name = key.encode()
    return HEADER.pack(MAGIC, VERSION, len(name), len(payload), hashlib.sha256(payload).digest()) + name + payload


def _decode(data: bytes, key: str | None) -> bytes | None:
    """The payload of an entry's bytes where they are whole and, with `key`, are that key's; None otherwise."""
    if len(data) < HEADER.size:
        return None
    magic, version, key_length, length, digest = HEADER.unpack_from(data)
    if (magic, version) != (MAGIC, VERSION) or len(data) != HEADER.size + key_length + length:
        return None
    name, payload = data[HEADER.size : HEADER.size + key_length], data[HEADER.size + key_length :]
    if (key is not None and name != key.encode()) or hashlib.sha256(payload).digest() != digest:
        return None
    return payload


def _read(path: Path) -> bytes:
    fd = os.open(path, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0))
    with os.fdopen(fd, "rb") as f:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            return b""
        return f.read()


def _write(path: Path, data: bytes) -> None:
    """Write beside the name and rename, so that readers see all or nothing."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    fd, temporary = tempfile.mkstemp(dir=path.parent, prefix=path.name[:16], suffix=".tmp")
    try:
        with os.fdopen(fd, "wb") as f:
            f.write(data)
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
