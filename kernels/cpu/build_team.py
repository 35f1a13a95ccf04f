"""Build workers seen from the parent: start a few processes, hand them sources one at a time, collect objects."""

from __future__ import annotations

import contextlib
import json
import os
import queue
import struct
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO

from fusec.errors import CompileError
from fusec.kernels.cpu.build import binary, refusal
from fusec.kernels.cpu.build_worker import READY
from fusec.kernels.kernel import Binary, Source
from fusec.target import Target

START_SECONDS = 30.0
"""How long a worker may take to say that it is ready, on a machine that is busy with other things."""


class _LostError(Exception):
    """The worker died or is too slow."""


class _Worker:
    """One process and the two pipes to it."""

    def __init__(self) -> None:
        path = os.pathsep.join(p for p in sys.path if p)
        self.process = subprocess.Popen(
            [sys.executable, "-P", "-m", "fusec.kernels.cpu.build_worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={**os.environ, "PYTHONPATH": path},
        )
        self.late = False

    def compile(self, source: Source, level: str, timeout: float) -> tuple[bytes, str | None]:
        """The object and the error; _LostError where there is neither."""
        order = json.dumps({"level": level, "text": source.text}).encode()
        with self._limit(timeout):
            try:
                self._stdin.write(struct.pack("<Q", len(order)) + order)
                self._stdin.flush()
            except OSError as e:
                raise _LostError from e
            reply = json.loads(self.receive())
            return self.receive(), reply["error"]

    def is_ready(self) -> bool:
        """Wait for its greeting."""
        try:
            with self._limit(START_SECONDS):
                return self.receive() == READY
        except _LostError:
            return False

    def receive(self) -> bytes:
        """One message; _LostError at the end of the stream."""
        head = self._stdout.read(8)
        if len(head) < 8:
            raise _LostError
        (length,) = struct.unpack("<Q", head)
        body = self._stdout.read(length)
        if len(body) < length:
            raise _LostError
        return body

    def stop(self) -> None:
        """End the process, whatever it is doing."""
        with contextlib.suppress(OSError):
            self._stdin.close()
        self.process.kill()
        self.process.wait()
        self._stdout.close()

    @contextlib.contextmanager
    def _limit(self, seconds: float) -> Iterator[None]:
        timer = threading.Timer(seconds, self._kill)
        timer.daemon = True
        timer.start()
        try:
            yield
        finally:
            timer.cancel()

    def _kill(self) -> None:
        self.late = True
        self.process.kill()  # the reader sees the end of the stream

    @property
    def _stdin(self) -> IO[bytes]:
        assert self.process.stdin is not None
        return self.process.stdin

    @property
    def _stdout(self) -> IO[bytes]:
        assert self.process.stdout is not None
        return self.process.stdout


def build_in_processes(
    sources: Mapping[str, Source],
    names: Mapping[str, str],
    target: Target,
    workers: int,
    *,
    timeout: float,
    dump: Path | None = None,
) -> dict[str, Binary]:
    """Compile sources in `workers` processes. Those that no worker could be started for are left out of the result.

    CompileError where LLVM refuses a source, and where compiling it kills a worker or takes longer than `timeout`: it
    is not tried again here, because it would do the same to this process.
    """
    todo: queue.SimpleQueue[str] = queue.SimpleQueue()
    for key in sorted(sources, key=lambda k: -len(sources[k].text)):  # the longest first: they end together
        todo.put(key)
    made: dict[str, Binary] = {}
    errors: dict[str, CompileError] = {}
    running: list[_Worker] = []

    def serve(worker: _Worker) -> None:
        if not worker.is_ready():
            return
        while not errors:
            try:
                key = todo.get_nowait()
            except queue.Empty:
                return
            try:
                code, error = worker.compile(sources[key], target.level, timeout)
            except _LostError:
                how = f"takes longer than {timeout:g} s" if worker.late else "ends the compiler's process"
                errors[key] = refusal(names[key], sources[key], f"compiling it {how}", dump)
                return
            if error is None:
                made[key] = binary(sources[key], code)
            else:
                errors[key] = refusal(names[key], sources[key], error, dump)

    try:
        with contextlib.suppress(OSError):  # no more processes to be had: what is left is built in process
            for _ in range(min(workers, len(sources))):
                running.append(_Worker())  # noqa: PERF401 - those before a failure must be stopped too
        threads = [threading.Thread(target=serve, args=(w,), daemon=True) for w in running]
        for t in threads:
            t.start()
        for t in threads:
            t.join()
    finally:
        for worker in running:
            worker.stop()
    if errors:
        raise next(errors[key] for key in sources if key in errors)
    return made
