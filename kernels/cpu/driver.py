"""The driver: LLVM IR text that runs a frame's rows on a team of workers. Compiled once, it knows no model.

Kernels are called through pointers that stand in the rows, so no symbol crosses objects; library functions (yield, clock,
futex) come as pointers in the team block for the same reason. All memory belongs to the runtime: the code has no state.

Every structure is made of 64-byte lines of 64-bit words; the classes below name the words and are all that the runtime
needs to know. What one worker writes and another polls has a line of its own.

How a run goes: `run` takes the team if it is free (else, or if waking it would not pay, or if it was slower lately, the
frame's one-worker program is used), writes the addresses of inputs and outputs into argument blocks, hands the program to
the helpers through their mailboxes and walks worker 0's rows itself. A row waits until counters have reached thresholds,
calls its kernel, and stores its own worker's counter. Counters grow from run to run by a fixed stride and are never reset,
so no run needs a barrier to begin. `run` comes back early when a deadline has passed, so that Python can look at signals;
`resume` goes on.
"""

from __future__ import annotations

from fusec.kernels.cpu.driver_run import RUN
from fusec.kernels.cpu.driver_team import TEAM
from fusec.kernels.cpu.driver_walk import COMMON, WALK
from fusec.kernels.kernel import Source

WORD = 8
LINE = 64

ENTRY = "fusec_driver"
"""The one symbol: `void fusec_driver(i64* table)` fills the table with the addresses of run, resume and worker."""

DONE, FAILED, UNFINISHED, ABORTED = 0, 1, 2, 3
"""What `run` and `resume` return. FAILED: the status block says why. UNFINISHED: call `resume`. ABORTED: drop the frame."""

DEADLINE_NS = 200_000_000
"""After this long in one foreign call, control goes back to Python for a moment."""
CHUNK_COST = 50_000_000
"""The most cost units (see Row.COST) that one call of a kernel may have; it bounds how late a deadline is noticed."""
SPINS = 2000
"""Pauses before a waiting worker starts to yield."""
YIELDS = 100
"""Yields before an idle helper parks."""
RECENT_NS = 100_000
"""Calls that follow each other within this time wake a parked team for the next one, however small they are."""


class Row:
    """Words of a row, one line: a run of tiles of one call, what it waits for and what it announces."""

    KERNEL, SLOTS, FIRST, COUNT, WAITS, WAIT_COUNT, SIGNAL, COST = range(8)


class Worker:
    """Words of a worker's line in a program. DONE is the program's BASE once the worker has finished a run.

    TIMES is null, or leads to a table that the worker fills with times in nanoseconds of CLOCK: when it began the run, an
    unused word, and for every row when its waits were over and when its tiles were done.
    """

    ROWS, COUNT, SCRATCH, COUNTER, ROW, TILE, DONE, TIMES = range(8)


class Program:
    """Words of a program, two lines: one schedule in one frame.

    TABLE leads to a Worker line for each, PATCHES to pairs (address of a word in an argument block, position in IO),
    STATUS to STATUS_COUNT blocks of four words. TOOK is about how many nanoseconds it takes, 0 before it ran. Counters
    stand at BASE when a run starts, and end at most STRIDE above.
    """

    WORKERS, STRIDE, TABLE, PATCHES, PATCH_COUNT, BASE, FRAME, STATUS, STATUS_COUNT, TOOK = range(10)
    WORDS = 16


class Frame:
    """Words of a frame, two lines; ABORT begins the second. OFFSET is where the objects in IO keep their data pointer,
    negative where IO holds the data pointers themselves. LAST is the number of workers of the last run, TICK counts the
    times that both programs could be chosen.
    """

    SOLO, TEAMED, TEAM, WORTH, IO, OFFSET, ACTIVE, DEADLINE = range(8)
    ABORT, LAST, TICK, START = 8, 9, 10, 11
    WORDS = 16


class Team:
    """Words of the team block: what rarely changes, then BUSY in a line of its own, then a mailbox line per helper.

    WORKERS is how many a program may have: the helpers and the caller. YIELD, SYSCALL and CLOCK are functions of the C
    library, null where the system has none.
    """

    WORKERS, STOP, SPINS, YIELDS, YIELD, SYSCALL, CLOCK = range(7)
    BUSY, RECENT = 8, 9
    MAILBOX = 16


class Mailbox:
    """A helper's line: SEQUENCE holds two 32-bit words, the futex word and whether the helper is parked."""

    SEQUENCE, PROGRAM, WORKER, BLOCK = range(4)


_MACHINES = {
    "x86": {
        "PAUSE": 'call void asm sideeffect "pause", "~{memory}"()',
        "FUTEX": "202",
        "DECLARE": "declare void @llvm.x86.sse.stmxcsr(ptr)\ndeclare void @llvm.x86.sse.ldmxcsr(ptr)",
        "SAVE": "call void @llvm.x86.sse.stmxcsr(ptr %mode)",
        # 0x1f80: round to nearest, all exceptions masked, no flush to zero, subnormals are numbers
        "STANDARD": "store i32 8064, ptr %mode\n  call void @llvm.x86.sse.ldmxcsr(ptr %mode)",
        "RESTORE": "call void @llvm.x86.sse.ldmxcsr(ptr %mode)",
    },
    "arm": {
        "PAUSE": 'call void asm sideeffect "isb", "~{memory}"()',
        "FUTEX": "98",
        "DECLARE": "",
        "SAVE": '%now = call i64 asm sideeffect "mrs $0, fpcr", "=r"()\n  store i64 %now, ptr %mode',
        "STANDARD": 'call void asm sideeffect "msr fpcr, $0", "r"(i64 0)',
        "RESTORE": '%kept = load i64, ptr %mode\n  call void asm sideeffect "msr fpcr, $0", "r"(i64 %kept)',
    },
}


def driver_source(level: str) -> Source:
    """The driver for an instruction level. It takes no slots; its entry has the shape of a kernel's."""
    values = dict(_MACHINES["arm" if level == "neon" else "x86"])
    values |= {"SPINS": str(SPINS), "CHUNK": str(CHUNK_COST), "DEADLINE": str(DEADLINE_NS), "RECENT": str(RECENT_NS)}
    text = COMMON + WALK + TEAM + RUN
    for name, value in values.items():
        text = text.replace(f"@{name}@", value)
    return Source(text, ENTRY, (), 0)
