"""The object cache under the faults that befall a folder in somebody's home: it never fails, and never gives damaged bytes."""

from __future__ import annotations

import contextlib
import errno
import multiprocessing
import os
import signal
import stat
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest

from fusec import cache as module
from fusec.cache import ObjectCache
from fusec.errors import UsageError


@contextlib.contextmanager
def one_warning(text: str = "in memory only") -> Iterator[None]:
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        yield
    assert [str(w.message) for w in seen if text in str(w.message)] == [str(w.message) for w in seen]
    assert len(seen) == 1, [str(w.message) for w in seen]


def entries(root: Path) -> list[Path]:
    return sorted(p for p in root.rglob("*") if p.is_file())


def works_in_memory(cache: ObjectCache) -> None:
    cache.put("k", b"v")
    cache.put("l", b"w")
    assert (cache.get("k"), cache.get("l"), cache.get("m")) == (b"v", b"w", None)


def test_round_trip_and_privacy(tmp_path: Path) -> None:
    root = tmp_path / "deep" / "fusec"
    ObjectCache(root).put("key", b"payload")
    assert ObjectCache(root).get("key") == b"payload"
    assert ObjectCache(root).get("other") is None
    assert stat.S_IMODE(root.stat().st_mode) == 0o700
    (entry,) = entries(root)
    assert entry.relative_to(root).parts[0] == "v1"
    assert stat.S_IMODE(entry.stat().st_mode) == 0o600


def test_keys_are_compared_in_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = ObjectCache(tmp_path / "c")
    monkeypatch.setattr(cache, "_path", lambda root, key: root / "v1" / "host" / "ab" / "same")
    cache.put("a", b"1")
    assert cache.get("a") == b"1"
    assert cache.get("b") is None


@pytest.mark.parametrize("damage", ["truncate", "empty", "garbage", "flip", "longer", "header"])
def test_damaged_entries_are_removed_and_rebuilt(tmp_path: Path, damage: str) -> None:
    cache = ObjectCache(tmp_path / "c")
    cache.put("key", b"payload" * 100)
    (entry,) = entries(tmp_path / "c")
    data = entry.read_bytes()
    bad = {
        "truncate": data[:-1],
        "empty": b"",
        "garbage": os.urandom(500),
        "flip": data[:300] + bytes([data[300] ^ 1]) + data[301:],
        "longer": data + b"x",
        "header": data[:20],
    }[damage]
    entry.write_bytes(bad)
    assert cache.get("key") is None
    assert not entry.exists()
    cache.put("key", b"new")
    assert cache.get("key") == b"new"


def test_verify_removes_what_is_damaged(tmp_path: Path) -> None:
    cache = ObjectCache(tmp_path / "c")
    for i in range(5):
        cache.put(f"k{i}", b"x" * i)
    entries(tmp_path / "c")[2].write_bytes(b"rubbish")
    assert cache.verify() == (4, 1)
    assert cache.verify() == (4, 0)
    info = cache.info()
    assert (info.entries, info.directory) == (4, tmp_path / "c")
    assert info.bytes == sum(p.stat().st_size for p in entries(tmp_path / "c"))
    assert cache.clear() == 4
    assert cache.info().entries == 0


def test_the_oldest_go_first(tmp_path: Path) -> None:
    cache = ObjectCache(tmp_path / "c", limit=10_000)
    for i in range(8):
        cache.put(f"k{i}", b"x" * 1000)
        path = cache._path(tmp_path / "c", f"k{i}")
        os.utime(path, (1000 + i, 1000 + i))
    assert cache.get("k0") is not None, "which makes it the youngest"
    cache.put("big", b"x" * 3000)
    assert cache.info().bytes <= 10_000
    assert cache.get("k0") is not None
    assert cache.get("k1") is None
    assert cache.get("big") is not None


def test_forgotten_temporary_files_are_removed(tmp_path: Path) -> None:
    cache = ObjectCache(tmp_path / "c")
    cache.put("k", b"v")
    old, young = (entries(tmp_path / "c")[0].with_suffix(f".{n}.tmp") for n in ("old", "young"))
    for p in (old, young):
        p.write_bytes(b"part")
    os.utime(old, (1, 1))
    cache.evict(1 << 30)
    assert not old.exists()
    assert young.exists()
    assert cache.info().entries == 1


def test_a_file_in_the_way(tmp_path: Path) -> None:
    (tmp_path / "c").write_text("not a directory")
    for path in (tmp_path / "c", tmp_path / "c" / "below"):
        with one_warning():
            cache = ObjectCache(path)
            works_in_memory(cache)


def test_a_symbolic_link(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir(mode=0o700)
    (tmp_path / "c").symlink_to(tmp_path / "real")
    with one_warning():
        works_in_memory(ObjectCache(tmp_path / "c"))
    assert not entries(tmp_path / "real")


@pytest.mark.parametrize("mode", [0o777, 0o770, 0o720, 0o702])
def test_others_may_write(tmp_path: Path, mode: int) -> None:
    (tmp_path / "c").mkdir()
    (tmp_path / "c").chmod(mode)
    with one_warning():
        works_in_memory(ObjectCache(tmp_path / "c"))
    assert not entries(tmp_path / "c")


def test_another_owner(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "c").mkdir(mode=0o700)
    monkeypatch.setattr(os, "geteuid", lambda: os.getuid() + 1)
    with one_warning():
        works_in_memory(ObjectCache(tmp_path / "c"))


def test_no_home(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "default_directory", lambda: Path("~/.cache/fusec"))
    with one_warning():
        works_in_memory(ObjectCache())
    assert not Path("~").exists()


def test_read_only_folder(tmp_path: Path) -> None:
    if os.geteuid() == 0:
        pytest.skip("root may write anywhere")
    (tmp_path / "c").mkdir(mode=0o500)
    with one_warning():
        works_in_memory(ObjectCache(tmp_path / "c"))


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EROFS, errno.EACCES, errno.EDQUOT])
@pytest.mark.parametrize("call", ["mkstemp", "replace"])
def test_writes_that_fail(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int, call: str) -> None:
    cache = ObjectCache(tmp_path / "c")
    cache.put("before", b"kept")

    def fail(*args: object, **kwargs: object) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(module.tempfile if call == "mkstemp" else module.os, call, fail)
    with one_warning():
        works_in_memory(cache)
    assert cache.get("before") == b"kept"
    assert len(entries(tmp_path / "c")) == 1, "nothing half-written stays"


def test_a_full_disk(tmp_path: Path) -> None:
    mount = tmp_path / "small"
    mount.mkdir()
    made = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=64k,mode=700", "tmpfs", str(mount)], capture_output=True, check=False
    )
    if made.returncode:
        pytest.skip("no tmpfs to be had")
    try:
        cache = ObjectCache(mount)
        with one_warning():
            for i in range(4):
                cache.put(f"k{i}", bytes([i]) * 30_000)
        assert [cache.get(f"k{i}") for i in range(4)] == [bytes([i]) * 30_000 for i in range(4)]
        assert not [p for p in entries(mount) if p.suffix == ".tmp"]
    finally:
        subprocess.run(["umount", str(mount)], check=False)


def test_modes(tmp_path: Path) -> None:
    root = tmp_path / "c"
    ObjectCache(root).put("k", b"v")
    before = {p: p.stat().st_mtime_ns for p in entries(root)}
    reader = ObjectCache(root, mode="ro")
    reader.put("new", b"w")
    assert (reader.get("k"), reader.get("new")) == (b"v", b"w")
    assert {p: p.stat().st_mtime_ns for p in entries(root)} == before
    off = ObjectCache(root, mode="off")
    off.put("k", b"w")
    assert off.get("k") is None
    assert off.info().directory is None
    with pytest.raises(UsageError, match="rw"):
        ObjectCache(root, mode="wr")


def test_special_files_are_not_read(tmp_path: Path) -> None:
    cache = ObjectCache(tmp_path / "c")
    cache.put("k", b"v")
    (entry,) = entries(tmp_path / "c")
    entry.unlink()
    os.mkfifo(entry)
    assert cache.get("k") is None
    cache.put("k", b"v")
    other = tmp_path / "elsewhere"
    entry.rename(other)
    entry.symlink_to(other)
    assert cache.get("k") is None, "a link is not followed"


def _hammer(root: str, seed: int) -> None:
    cache = ObjectCache(root)
    for i in range(200):
        key = f"k{(i * 7 + seed) % 20}"
        payload = key.encode() * 500
        cache.put(key, payload)
        got = cache.get(key)
        assert got is None or got == payload


def test_many_threads(tmp_path: Path) -> None:
    threads = [threading.Thread(target=_hammer, args=(str(tmp_path / "c"), s)) for s in range(4)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert ObjectCache(tmp_path / "c").verify() == (20, 0)


def test_many_processes_killed_at_random(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    for round_ in range(10):
        workers = [context.Process(target=_hammer, args=(str(tmp_path / "c"), s)) for s in range(3)]
        for w in workers:
            w.start()
        time.sleep(0.01 * round_)
        for w in workers:
            os.kill(w.pid or 0, signal.SIGKILL)
        for w in workers:
            w.join()
    cache = ObjectCache(tmp_path / "c")
    _, bad = cache.verify()
    assert bad == 0
    _hammer(str(tmp_path / "c"), 0)


def test_importing_it_is_cheap() -> None:
    code = "import sys, fusec.cache; print('platformdirs' in sys.modules, 'numpy' in sys.modules)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.split() == ["False", "False"]


def test_no_flipped_bit_reaches_the_loader(tmp_path: Path) -> None:
    """A damaged object is rebuilt, whichever bit it is: LLVM would crash on it."""
    import random

    from fusec.ir.expr import Load
    from fusec.ir.types import DType
    from fusec.kernels.cpu.build import build_all
    from fusec.kernels.cpu.emit import class_key
    from fusec.kernels.kernel import Kernel, StageTiling, Tiling
    from fusec.target import host
    from fusec.tile.text import parse_program

    program = parse_program("program p(N)\ntask i: N\ninput x: f32[N]\noutput y: f32[N]\nstage i\n  y[i] = x[i] + x[i]")
    assert any(isinstance(x, Load) and x.dtype is DType.F32 for x in program.stages[0].loads())
    kernel = Kernel(program, Tiling((), (StageTiling("nest", "i"),)))
    cache, key = ObjectCache(tmp_path / "c"), class_key(kernel, host())
    good = build_all([kernel], host(), cache)[key]
    (entry,) = entries(tmp_path / "c")
    data, rng = entry.read_bytes(), random.Random(7)
    for _ in range(100):
        at, bit = rng.randrange(len(data)), rng.randrange(8)
        entry.write_bytes(data[:at] + bytes([data[at] ^ (1 << bit)]) + data[at + 1 :])
        fresh = ObjectCache(tmp_path / "c")
        assert all(fresh.get(name) is None for name in [key]), (at, bit)
        assert build_all([kernel], host(), fresh)[key] == good
        assert entry.read_bytes() == data
