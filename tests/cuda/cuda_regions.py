"""Regions written by hand: rows, waits and argument blocks in a device's memory, to run bodies through the task loop."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from fusec.kernels.cuda import abi
from fusec.kernels.kernel import Source


@dataclass
class Rows:
    """`count` tiles of kernel `kernel` with argument block `arguments`; waits are (counter, threshold)."""

    kernel: int
    arguments: int
    first: int = 0
    count: int = 1
    waits: tuple[tuple[int, int], ...] = ()
    signal: int = abi.NO_SIGNAL


def body(name: str, text: str) -> Source:
    """A body from its statements."""
    return Source(f"FX_DEVICE void {name}(const fx_task& task) {{\n{text}\n}}", name, (), 0)


class Region:
    """A frame and what it leads to. `blocks` lists the rows of each block, `arguments` the words of each argument block."""

    def __init__(self, device, blocks, arguments, *, io=(), scratch=0, timed=False) -> None:
        self.device, self.blocks = device, len(blocks)
        self.held = []
        rows, waits, starts = [], [], [0]
        self.arguments = [self.memory(np.array(words or [0], np.int64)) for words in arguments]
        totals = dict[int, int]()
        for mine in blocks:
            for r in mine:
                rows.append(
                    [
                        r.kernel,
                        self.arguments[r.arguments].address,
                        r.first,
                        r.count,
                        len(waits),
                        len(r.waits),
                        r.signal,
                        0,
                    ]
                )
                waits += r.waits
                totals.setdefault(r.signal, 0)
                totals[r.signal] += 1
                for c, _ in r.waits:
                    totals.setdefault(c, 0)
            starts.append(len(rows))
        counters = max(totals, default=0) + 1
        self.row_count = len(rows)
        self.counters = self.memory(np.zeros(max(1, counters) * abi.COUNTER_WORDS, np.int64))
        self.times = self.memory(np.zeros(abi.times_words(len(rows), len(blocks)), np.int64)) if timed else None
        stride = -(-scratch // 256) * 256
        frame = np.zeros(abi.Frame.WORDS, np.int64)
        f = abi.Frame
        frame[f.ROWS] = self.put(np.array(rows, np.int64).reshape(-1, 8))
        frame[f.STARTS] = self.put(np.array(starts, np.int64))
        entries = [(c, n, totals[c], 0) for c, n in waits]
        frame[f.WAITS] = self.put(np.array(entries or [(0, 0, 0, 0)], np.int64))
        frame[f.COUNTERS] = self.counters.address
        frame[f.IO] = self.put(np.array(io or [0], np.int64))
        frame[f.SCRATCH] = self.put(np.zeros(max(1, stride * len(blocks)), np.uint8))
        frame[f.SCRATCH_STRIDE] = stride
        frame[f.ABORT] = device.abort_address
        frame[f.TIMES] = self.times.address if self.times else 0
        self.frame = self.memory(frame)

    def memory(self, array: np.ndarray) -> Any:
        """Device memory with an array's bytes, kept as long as the region."""
        m = self.device.allocate(array.nbytes)
        self.device.upload(m, 0, array)
        self.held.append(m)
        return m

    def put(self, array: np.ndarray) -> int:
        """The same, its address."""
        return self.memory(array).address

    def launch(self, module: Any, shared: int = 0) -> None:
        """Queue one run."""
        self.device.launch(module, self.frame.address, self.blocks, shared)

    def run(self, module: Any, shared: int = 0) -> None:
        """One run, to its end."""
        self.launch(module, shared)
        assert self.device.synchronise(60)


def read(device: Any, memory: Any, dtype: Any, shape: Any = -1) -> np.ndarray:
    """Device memory as an array."""
    return device.download(memory, 0, memory.nbytes).view(dtype).reshape(shape)
