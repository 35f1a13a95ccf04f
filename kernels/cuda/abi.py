"""The frame in device memory as Python writes it: the structures of device/tasks.cuh, word by word.

Everything is 64 bit. Tables are int64 arrays; the classes below name their words.
"""

from __future__ import annotations

THREADS = 256
"""Threads of a block, which is a worker."""
WARP = 32
WORD = 8
COUNTER_WORDS = 16
"""Words from one counter to the next: a line of 128 bytes each."""
SHARED_ALIGNMENT = 1024
SCRATCH_ALIGNMENT = 256
KEPT_ALIGNMENT = 128
"""Of what stays in shared memory from tile to tile."""
ENTRY = "fusec_region"
"""The kernel of a module: `void fusec_region(fx_frame* frame)`, launched cooperatively with THREADS threads a block."""
NO_SIGNAL = -1


class Row:
    """Words of a row: `count` tiles of one call from tile `first` on, what they wait for and what they announce.

    KERNEL: the position of the body in its module. SLOTS: the address of the argument block. WAITS: the first of WAIT_COUNT
    entries in the table of waits. SIGNAL: the counter that goes up by one when the tiles are done, or NO_SIGNAL.
    """

    KERNEL, SLOTS, FIRST, COUNT, WAITS, WAIT_COUNT, SIGNAL, SPARE = range(8)
    WORDS = 8


class Wait:
    """Words of a wait: over when `counters[COUNTER] >= epoch * TOTAL + THRESHOLD`.

    TOTAL is by how much the counter grows in a run.
    """

    COUNTER, THRESHOLD, TOTAL, SPARE = range(4)
    WORDS = 4


class Frame:
    """Words of a frame, the kernel's only argument.

    ROWS, WAITS, IO: addresses of tables. STARTS: a block's rows are those from STARTS[block] up to STARTS[block + 1]; the
    waits of rows follow each other as the rows do. COUNTERS: address of the counters, COUNTER_WORDS apart, never reset. EPOCH:
    how many runs there were; EXITED: blocks that have left this one; after a run that failed the host sets both and the
    counters to zero. SCRATCH: block b has SCRATCH_STRIDE bytes from SCRATCH + b * SCRATCH_STRIDE on. ABORT: address of an int32
    that ends a run where it is not zero. TIMES: null, or a table of `times_words` words.
    """

    ROWS, STARTS, WAITS, COUNTERS, IO, SCRATCH, SCRATCH_STRIDE, EPOCH, EXITED, ABORT, TIMES = range(11)
    WORDS = 11


def io_word(position: int) -> int:
    """What stands in an argument block for the address of an input or output of the run: an odd word."""
    return 2 * position + 1


def times_words(rows: int, blocks: int) -> int:
    """Words of the table of times.

    Row r: word 2 * r is when its waits were over, 2 * r + 1 when its tiles were done. Block b: word 2 * (rows + b) is when it
    came, the next one when it left. Nanoseconds of a clock that all blocks share.
    """
    return 2 * (rows + blocks)
