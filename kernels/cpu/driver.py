"""The driver: LLVM IR text that runs a frame's rows on a team of workers. Compiled once, it knows no model.

Kernels are called through pointers that stand in the rows, so no symbol crosses objects; library functions (yield, clock,
futex) come as pointers in the team block for the same reason. All memory belongs to the runtime: the code has no state.

Every structure is made of 64-byte lines of 64-bit words; the classes below name the words and are all that the runtime
needs to know. What one worker writes and another polls has a line of its own.

How a run goes: `run` takes the team if it is free (else, or if waking it would not pay, the frame's one-worker program is
used), writes the addresses of inputs and outputs into argument blocks, hands the program to the helpers through their
mailboxes and walks worker 0's rows itself. A row waits until counters have reached thresholds, calls its kernel, and
stores its own worker's counter. Counters grow from run to run by a fixed stride and are never reset, so no run needs a
barrier to begin. `run` comes back early when a deadline has passed, so that Python can look at signals; `resume` goes on.
"""

from __future__ import annotations

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
    """Words of a worker's line in a program. DONE is the program's BASE once the worker has finished a run."""

    ROWS, COUNT, SCRATCH, COUNTER, ROW, TILE, DONE = range(7)


class Program:
    """Words of a program, two lines: one schedule in one frame.

    TABLE leads to a Worker line for each, PATCHES to pairs (address of a word in an argument block, position in IO),
    STATUS to STATUS_COUNT blocks of four words. Counters stand at BASE when a run starts, and end at most STRIDE above.
    """

    WORKERS, STRIDE, TABLE, PATCHES, PATCH_COUNT, BASE, FRAME, STATUS, STATUS_COUNT = range(9)
    WORDS = 16


class Frame:
    """Words of a frame, two lines; ABORT begins the second. OFFSET is where the objects in IO keep their data pointer,
    negative where IO holds the data pointers themselves.
    """

    SOLO, TEAMED, TEAM, WORTH, IO, OFFSET, ACTIVE, DEADLINE = range(8)
    ABORT, LAST = 8, 9
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
    text = _HEAD + _WALK + _TEAM + _RUN
    for name, value in values.items():
        text = text.replace(f"@{name}@", value)
    return Source(text, ENTRY, (), 0)


# Structures are [N x i64]; `getelementptr i64, ptr %p, i64 K` addresses word K of the classes above.
_HEAD = """
@DECLARE@

; the floating-point mode of a thread: kept, set to what kernels are written for, put back
define internal void @save(ptr %mode) {
  @SAVE@
  ret void
}

define internal void @standard() {
  %mode = alloca i64, align 8
  @STANDARD@
  ret void
}

define internal void @restore(ptr %mode) {
  @RESTORE@
  ret void
}

define void @fusec_driver(ptr %table, i64 %first, i64 %count, ptr %scratch) {
  store ptr @run, ptr %table
  %t1 = getelementptr i64, ptr %table, i64 1
  store ptr @resume, ptr %t1
  %t2 = getelementptr i64, ptr %table, i64 2
  store ptr @worker, ptr %t2
  ret void
}

define internal i64 @now(ptr %team) noinline {
entry:
  %time = alloca [2 x i64], align 16
  %p = getelementptr i64, ptr %team, i64 6
  %clock = load ptr, ptr %p
  %none = icmp eq ptr %clock, null
  br i1 %none, label %never, label %read
read:
  %r = call i32 %clock(i32 1, ptr %time)
  %s = load i64, ptr %time
  %np = getelementptr i64, ptr %time, i64 1
  %n = load i64, ptr %np
  %ns = mul i64 %s, 1000000000
  %t = add i64 %ns, %n
  ret i64 %t
never:
  ret i64 0
}

; 2 where the deadline has passed, else 0; the first question in a call sets the deadline
define internal i64 @overdue(ptr %frame, ptr %team) noinline {
entry:
  %t = call i64 @now(ptr %team)
  %dp = getelementptr i64, ptr %frame, i64 7
  %d = load i64, ptr %dp
  %unset = icmp eq i64 %d, 0
  br i1 %unset, label %set, label %compare
set:
  %new = add i64 %t, @DEADLINE@
  store i64 %new, ptr %dp
  ret i64 0
compare:
  %late = icmp sgt i64 %t, %d
  %code = select i1 %late, i64 2, i64 0
  ret i64 %code
}

; the slow part of every wait: yield, then 3 where the run is aborted, 2 where the caller is overdue, else 0
define internal i64 @patience(ptr %frame, ptr %team, i64 %w) noinline {
entry:
  %yp = getelementptr i64, ptr %team, i64 4
  %yield = load ptr, ptr %yp
  %none = icmp eq ptr %yield, null
  br i1 %none, label %look, label %give
give:
  %r = call i32 %yield()
  br label %look
look:
  %ap = getelementptr i64, ptr %frame, i64 8
  %a = load atomic i64, ptr %ap monotonic, align 64
  %sp = getelementptr i64, ptr %team, i64 1
  %s = load atomic i64, ptr %sp monotonic, align 8
  %either = or i64 %a, %s
  %stopped = icmp ne i64 %either, 0
  br i1 %stopped, label %stop, label %go
stop:
  ret i64 3
go:
  %caller = icmp eq i64 %w, 0
  br i1 %caller, label %ask, label %on
ask:
  %code = call i64 @overdue(ptr %frame, ptr %team)
  ret i64 %code
on:
  ret i64 0
}

; wait until a 64-bit word has reached a value; 0, or what patience said
define internal i64 @await(ptr %counter, i64 %value, ptr %frame, ptr %team, i64 %w) {
entry:
  br label %spin
spin:
  %i = phi i64 [0, %entry], [%i1, %pause], [%i, %slow]
  %c = load atomic i64, ptr %counter acquire, align 8
  %there = icmp sge i64 %c, %value
  br i1 %there, label %yes, label %no
no:
  %fast = icmp slt i64 %i, @SPINS@
  br i1 %fast, label %pause, label %long
pause:
  %i1 = add i64 %i, 1
  @PAUSE@
  br label %spin
long:
  %code = call i64 @patience(ptr %frame, ptr %team, i64 %w)
  %going = icmp eq i64 %code, 0
  br i1 %going, label %slow, label %out
slow:
  br label %spin
out:
  ret i64 %code
yes:
  ret i64 0
}
"""

_WALK = """
; walk a worker's rows from where its line says: 0 at the end, 2 overdue (the line knows where), 3 aborted
define internal i64 @walk(ptr %program, i64 %w, ptr %frame, ptr %team) {
entry:
  %tp = getelementptr i64, ptr %program, i64 2
  %table = load ptr, ptr %tp
  %w8 = shl i64 %w, 3
  %line = getelementptr i64, ptr %table, i64 %w8
  %rows = load ptr, ptr %line
  %np = getelementptr i64, ptr %line, i64 1
  %n = load i64, ptr %np
  %sp = getelementptr i64, ptr %line, i64 2
  %scratch = load ptr, ptr %sp
  %cp = getelementptr i64, ptr %line, i64 3
  %counter = load ptr, ptr %cp
  %rp = getelementptr i64, ptr %line, i64 4
  %row0 = load i64, ptr %rp
  %lp = getelementptr i64, ptr %line, i64 5
  %tile0 = load i64, ptr %lp
  %bp = getelementptr i64, ptr %program, i64 5
  %base = load i64, ptr %bp
  %abortp = getelementptr i64, ptr %frame, i64 8
  %stopp = getelementptr i64, ptr %team, i64 1
  %caller = icmp eq i64 %w, 0
  br label %next
next:
  %r = phi i64 [%row0, %entry], [%r1, %announced]
  %tile = phi i64 [%tile0, %entry], [0, %announced]
  %budget = phi i64 [@CHUNK@, %entry], [%budget2, %announced]
  %more = icmp slt i64 %r, %n
  br i1 %more, label %row, label %end
end:
  ret i64 0
row:
  %r8 = shl i64 %r, 3
  %rowp = getelementptr i64, ptr %rows, i64 %r8
  %kernel = load ptr, ptr %rowp
  %p1 = getelementptr i64, ptr %rowp, i64 1
  %slots = load ptr, ptr %p1
  %p2 = getelementptr i64, ptr %rowp, i64 2
  %first = load i64, ptr %p2
  %p3 = getelementptr i64, ptr %rowp, i64 3
  %count = load i64, ptr %p3
  %p4 = getelementptr i64, ptr %rowp, i64 4
  %waits = load ptr, ptr %p4
  %p5 = getelementptr i64, ptr %rowp, i64 5
  %nwaits = load i64, ptr %p5
  %p6 = getelementptr i64, ptr %rowp, i64 6
  %signal = load i64, ptr %p6
  %p7 = getelementptr i64, ptr %rowp, i64 7
  %cost = load i64, ptr %p7
  br label %wait
wait:
  %j = phi i64 [0, %row], [%j1, %waited]
  %pending = icmp slt i64 %j, %nwaits
  br i1 %pending, label %one, label %ready
one:
  %j2 = shl i64 %j, 1
  %wp = getelementptr i64, ptr %waits, i64 %j2
  %other = load ptr, ptr %wp
  %hp = getelementptr i64, ptr %wp, i64 1
  %threshold = load i64, ptr %hp
  %value = add i64 %base, %threshold
  %wcode = call i64 @await(ptr %other, i64 %value, ptr %frame, ptr %team, i64 %w)
  %wok = icmp eq i64 %wcode, 0
  br i1 %wok, label %waited, label %early
waited:
  %j1 = add i64 %j, 1
  br label %wait
early:
  store i64 %r, ptr %rp
  store i64 %tile, ptr %lp
  ret i64 %wcode
ready:
  %aborted = load atomic i64, ptr %abortp monotonic, align 64
  %stopped = load atomic i64, ptr %stopp monotonic, align 8
  %ended = or i64 %aborted, %stopped
  %clean = icmp eq i64 %ended, 0
  br i1 %clean, label %size, label %abort
abort:
  ret i64 3
size:
  %todo0 = sub i64 %count, %tile
  %whole = mul i64 %todo0, %cost
  %big = icmp sgt i64 %whole, @CHUNK@
  br i1 %big, label %divide, label %chunks
divide:
  %fit0 = sdiv i64 @CHUNK@, %cost
  %tiny = icmp slt i64 %fit0, 1
  %fit = select i1 %tiny, i64 1, i64 %fit0
  br label %chunks
chunks:
  %limit = phi i64 [%todo0, %size], [%fit, %divide]
  br label %chunk
chunk:
  %at = phi i64 [%tile, %chunks], [%at1, %again]
  %budget0 = phi i64 [%budget, %chunks], [%budget3, %again]
  %todo = sub i64 %count, %at
  %short = icmp slt i64 %todo, %limit
  %part = select i1 %short, i64 %todo, i64 %limit
  %start = add i64 %first, %at
  %none = icmp slt i64 %part, 1
  br i1 %none, label %called, label %call
call:
  call void %kernel(ptr %slots, i64 %start, i64 %part, ptr %scratch)
  br label %called
called:
  %at1 = add i64 %at, %part
  %spent = mul i64 %part, %cost
  %budget1 = sub i64 %budget0, %spent
  %last = icmp sge i64 %at1, %count
  br i1 %last, label %announce, label %between
between:
  %aborted2 = load atomic i64, ptr %abortp monotonic, align 64
  %stopped2 = load atomic i64, ptr %stopp monotonic, align 8
  %ended2 = or i64 %aborted2, %stopped2
  %clean2 = icmp eq i64 %ended2, 0
  br i1 %clean2, label %time, label %abort
time:
  br i1 %caller, label %check, label %again
check:
  %code = call i64 @overdue(ptr %frame, ptr %team)
  %intime = icmp eq i64 %code, 0
  br i1 %intime, label %again, label %leave
leave:
  store i64 %r, ptr %rp
  store i64 %at1, ptr %lp
  ret i64 %code
again:
  %budget3 = phi i64 [%budget1, %time], [@CHUNK@, %check]
  br label %chunk
announce:
  %r1 = add i64 %r, 1
  %silent = icmp slt i64 %signal, 0
  br i1 %silent, label %paid, label %tell
tell:
  %reached = add i64 %base, %signal
  store atomic i64 %reached, ptr %counter release, align 64
  br label %paid
paid:
  %rich = icmp sgt i64 %budget1, 0
  br i1 %rich, label %announced, label %poor
poor:
  br i1 %caller, label %check2, label %announced
check2:
  %code2 = call i64 @overdue(ptr %frame, ptr %team)
  %intime2 = icmp eq i64 %code2, 0
  br i1 %intime2, label %announced, label %leave2
leave2:
  store i64 %r1, ptr %rp
  store i64 0, ptr %lp
  ret i64 %code2
announced:
  %budget2 = phi i64 [%budget1, %paid], [@CHUNK@, %poor], [@CHUNK@, %check2]
  br label %next
}
"""

_TEAM = """
; a helper's life: spin, yield, park; work when the sequence moves; end when the team stops
define internal ptr @worker(ptr %box) {
entry:
  call void @standard()
  %parkedp = getelementptr i32, ptr %box, i64 1
  %progp = getelementptr i64, ptr %box, i64 1
  %idp = getelementptr i64, ptr %box, i64 2
  %w = load i64, ptr %idp
  %blockp = getelementptr i64, ptr %box, i64 3
  %team = load ptr, ptr %blockp
  %stopp = getelementptr i64, ptr %team, i64 1
  %spinp = getelementptr i64, ptr %team, i64 2
  %spins = load i64, ptr %spinp
  %yp = getelementptr i64, ptr %team, i64 3
  %yields = load i64, ptr %yp
  %yieldp = getelementptr i64, ptr %team, i64 4
  %yield = load ptr, ptr %yieldp
  %callp = getelementptr i64, ptr %team, i64 5
  %syscall = load ptr, ptr %callp
  %limit = add i64 %spins, %yields
  br label %idle
idle:
  %seen = phi i32 [0, %entry], [%s, %finished], [%seen, %parked]
  br label %look
look:
  %i = phi i64 [0, %idle], [%i1, %again]
  %s = load atomic i32, ptr %box acquire, align 64
  %new = icmp ne i32 %s, %seen
  br i1 %new, label %called, label %patient
patient:
  %i1 = add i64 %i, 1
  %spinning = icmp slt i64 %i, %spins
  br i1 %spinning, label %pause, label %tired
pause:
  @PAUSE@
  br label %again
tired:
  %yielding = icmp slt i64 %i, %limit
  br i1 %yielding, label %give, label %park
give:
  %y = call i32 %yield()
  br label %again
again:
  br label %look
park:
  store atomic i32 1, ptr %parkedp seq_cst, align 4
  fence seq_cst
  %f = call i64 (i64, ...) %syscall(i64 @FUTEX@, ptr %box, i32 128, i32 %seen, ptr null, ptr null, i32 0)
  store atomic i32 0, ptr %parkedp seq_cst, align 4
  br label %parked
parked:
  br label %idle
called:
  %stop = load atomic i64, ptr %stopp acquire, align 8
  %ends = icmp ne i64 %stop, 0
  br i1 %ends, label %end, label %work
end:
  ret ptr null
work:
  %program = load ptr, ptr %progp
  %framep = getelementptr i64, ptr %program, i64 6
  %frame = load ptr, ptr %framep
  %tablep = getelementptr i64, ptr %program, i64 2
  %table = load ptr, ptr %tablep
  %w8 = shl i64 %w, 3
  %line = getelementptr i64, ptr %table, i64 %w8
  %rowp = getelementptr i64, ptr %line, i64 4
  store i64 0, ptr %rowp
  %tilep = getelementptr i64, ptr %line, i64 5
  store i64 0, ptr %tilep
  %basep = getelementptr i64, ptr %program, i64 5
  %base = load i64, ptr %basep
  %code = call i64 @walk(ptr %program, i64 %w, ptr %frame, ptr %team)
  %donep = getelementptr i64, ptr %line, i64 6
  store atomic i64 %base, ptr %donep release, align 8
  br label %finished
finished:
  br label %idle
}

define internal void @wake(ptr %box, ptr %team) noinline {
  %callp = getelementptr i64, ptr %team, i64 5
  %syscall = load ptr, ptr %callp
  %f = call i64 (i64, ...) %syscall(i64 @FUTEX@, ptr %box, i32 129, i32 1, ptr null, ptr null, i32 0)
  ret void
}

; how many of helpers 1 .. workers-1 are parked; with `rouse` they are woken without work
define internal i64 @sleepers(ptr %team, i64 %workers, i1 %rouse) noinline {
entry:
  br label %next
next:
  %w = phi i64 [1, %entry], [%w1, %counted]
  %n = phi i64 [0, %entry], [%n1, %counted]
  %more = icmp slt i64 %w, %workers
  br i1 %more, label %ask, label %end
ask:
  %w8 = shl i64 %w, 3
  %at = add i64 %w8, 8
  %box = getelementptr i64, ptr %team, i64 %at
  %parkedp = getelementptr i32, ptr %box, i64 1
  %parked = load atomic i32, ptr %parkedp seq_cst, align 4
  %p = zext i32 %parked to i64
  %n1 = add i64 %n, %p
  %w1 = add i64 %w, 1
  %is = icmp ne i32 %parked, 0
  %do = and i1 %is, %rouse
  br i1 %do, label %wake, label %counted
wake:
  call void @wake(ptr %box, ptr %team)
  br label %counted
counted:
  br label %next
end:
  ret i64 %n
}

; hand a program to helpers 1 .. workers-1; only the parked cost a system call
define internal void @publish(ptr %team, ptr %program, i64 %workers) {
entry:
  br label %next
next:
  %w = phi i64 [1, %entry], [%w1, %told]
  %more = icmp slt i64 %w, %workers
  br i1 %more, label %tell, label %end
tell:
  %w8 = shl i64 %w, 3
  %at = add i64 %w8, 8
  %box = getelementptr i64, ptr %team, i64 %at
  %progp = getelementptr i64, ptr %box, i64 1
  store ptr %program, ptr %progp
  %old = atomicrmw add ptr %box, i32 1 seq_cst
  %parkedp = getelementptr i32, ptr %box, i64 1
  %parked = load atomic i32, ptr %parkedp seq_cst, align 4
  %w1 = add i64 %w, 1
  %is = icmp ne i32 %parked, 0
  br i1 %is, label %wake, label %told
wake:
  call void @wake(ptr %box, ptr %team)
  br label %told
told:
  br label %next
end:
  ret void
}
"""

_RUN = """
; the program for this run: the team's if the team is there, free, and awake or worth waking; it is then ours
define internal ptr @choose(ptr %frame, ptr %team) {
entry:
  %solo = load ptr, ptr %frame
  %tp = getelementptr i64, ptr %frame, i64 1
  %teamed = load ptr, ptr %tp
  %single = icmp eq ptr %teamed, null
  br i1 %single, label %alone, label %ask
ask:
  %workers = load i64, ptr %teamed
  %present = load atomic i64, ptr %team acquire, align 64
  %enough = icmp sgt i64 %workers, %present
  br i1 %enough, label %alone, label %free
free:
  %busyp = getelementptr i64, ptr %team, i64 8
  %got = cmpxchg ptr %busyp, i64 0, i64 1 acquire monotonic
  %mine = extractvalue { i64, i1 } %got, 1
  br i1 %mine, label %worth, label %alone
worth:
  %wp = getelementptr i64, ptr %frame, i64 3
  %gain = load i64, ptr %wp
  %always = icmp ne i64 %gain, 0
  br i1 %always, label %take, label %awake
awake:
  %n = call i64 @sleepers(ptr %team, i64 %workers, i1 false)
  %none = icmp eq i64 %n, 0
  br i1 %none, label %take, label %rouse
rouse:
  ; too little work to wait for sleepers, but if calls come back to back the next one shall find them awake
  %t = call i64 @now(ptr %team)
  %lastp = getelementptr i64, ptr %team, i64 9
  %last = load i64, ptr %lastp
  store i64 %t, ptr %lastp
  %gap = sub i64 %t, %last
  %recent = icmp slt i64 %gap, @RECENT@
  %m = call i64 @sleepers(ptr %team, i64 %workers, i1 %recent)
  store atomic i64 0, ptr %busyp release, align 64
  br label %alone
take:
  ret ptr %teamed
alone:
  ret ptr %solo
}

; start this run: patch argument blocks, move the counters' base, rewind worker 0
define internal void @begin(ptr %frame, ptr %program) {
entry:
  %basep = getelementptr i64, ptr %program, i64 5
  %base0 = load i64, ptr %basep
  %stridep = getelementptr i64, ptr %program, i64 1
  %stride = load i64, ptr %stridep
  %base = add i64 %base0, %stride
  store i64 %base, ptr %basep
  %tablep = getelementptr i64, ptr %program, i64 2
  %line = load ptr, ptr %tablep
  %rowp = getelementptr i64, ptr %line, i64 4
  store i64 0, ptr %rowp
  %tilep = getelementptr i64, ptr %line, i64 5
  store i64 0, ptr %tilep
  %activep = getelementptr i64, ptr %frame, i64 6
  store ptr %program, ptr %activep
  %workers = load i64, ptr %program
  %usedp = getelementptr i64, ptr %frame, i64 9
  store i64 %workers, ptr %usedp
  %deadp = getelementptr i64, ptr %frame, i64 7
  store i64 0, ptr %deadp
  %iop = getelementptr i64, ptr %frame, i64 4
  %io = load ptr, ptr %iop
  %offsetp = getelementptr i64, ptr %frame, i64 5
  %offset = load i64, ptr %offsetp
  %direct = icmp slt i64 %offset, 0
  %patchesp = getelementptr i64, ptr %program, i64 3
  %patches = load ptr, ptr %patchesp
  %np = getelementptr i64, ptr %program, i64 4
  %n = load i64, ptr %np
  br label %next
next:
  %i = phi i64 [0, %entry], [%i1, %put]
  %more = icmp slt i64 %i, %n
  br i1 %more, label %patch, label %end
patch:
  %i2 = shl i64 %i, 1
  %pp = getelementptr i64, ptr %patches, i64 %i2
  %slot = load ptr, ptr %pp
  %kp = getelementptr i64, ptr %pp, i64 1
  %k = load i64, ptr %kp
  %vp = getelementptr i64, ptr %io, i64 %k
  %v = load ptr, ptr %vp
  br i1 %direct, label %put, label %array
array:
  %dp = getelementptr i8, ptr %v, i64 %offset
  %data = load ptr, ptr %dp
  br label %put
put:
  %address = phi ptr [%v, %patch], [%data, %array]
  store ptr %address, ptr %slot
  %i1 = add i64 %i, 1
  br label %next
end:
  ret void
}

; walk worker 0's rows, then wait for the helpers; what run and resume return
define internal i64 @drive(ptr %frame, ptr %program, ptr %team) {
entry:
  %mode = alloca i64, align 8
  call void @save(ptr %mode)
  call void @standard()
  %workers = load i64, ptr %program
  %basep = getelementptr i64, ptr %program, i64 5
  %base = load i64, ptr %basep
  %tablep = getelementptr i64, ptr %program, i64 2
  %table = load ptr, ptr %tablep
  %walked = call i64 @walk(ptr %program, i64 0, ptr %frame, ptr %team)
  %overdue = icmp eq i64 %walked, 2
  br i1 %overdue, label %leave, label %ours
ours:
  %rowp = getelementptr i64, ptr %table, i64 4
  %np = getelementptr i64, ptr %table, i64 1
  %n = load i64, ptr %np
  store i64 %n, ptr %rowp
  br label %next
next:
  %w = phi i64 [1, %ours], [%w1, %here]
  %more = icmp slt i64 %w, %workers
  br i1 %more, label %join, label %end
join:
  %w8 = shl i64 %w, 3
  %line = getelementptr i64, ptr %table, i64 %w8
  %donep = getelementptr i64, ptr %line, i64 6
  br label %poll
poll:
  ; an aborted run waits for its helpers all the same: they must not be inside a frame that is dropped
  %code = call i64 @await(ptr %donep, i64 %base, ptr %frame, ptr %team, i64 0)
  %w1 = add i64 %w, 1
  switch i64 %code, label %leave [ i64 0, label %here
                                   i64 3, label %hold ]
hold:
  %stopp = getelementptr i64, ptr %team, i64 1
  %stop = load atomic i64, ptr %stopp monotonic, align 8
  %gone = icmp ne i64 %stop, 0
  br i1 %gone, label %here, label %late
late:
  %overdue2 = call i64 @overdue(ptr %frame, ptr %team)
  %still = icmp eq i64 %overdue2, 0
  br i1 %still, label %poll, label %leave
here:
  br label %next
leave:
  call void @restore(ptr %mode)
  ret i64 2
end:
  %activep = getelementptr i64, ptr %frame, i64 6
  store ptr null, ptr %activep
  %single = icmp slt i64 %workers, 2
  br i1 %single, label %result, label %release
release:
  %busyp = getelementptr i64, ptr %team, i64 8
  store atomic i64 0, ptr %busyp release, align 64
  br label %result
result:
  %statusp = getelementptr i64, ptr %program, i64 7
  %blocks = load ptr, ptr %statusp
  %countp = getelementptr i64, ptr %program, i64 8
  %count = load i64, ptr %countp
  br label %block
block:
  %b = phi i64 [0, %result], [%b1, %read]
  %any = phi i64 [0, %result], [%any1, %read]
  %unread = icmp slt i64 %b, %count
  br i1 %unread, label %read, label %judge
read:
  %b4 = shl i64 %b, 2
  %blockp = getelementptr i64, ptr %blocks, i64 %b4
  %status = load i64, ptr %blockp
  %any1 = or i64 %any, %status
  %b1 = add i64 %b, 1
  br label %block
judge:
  %failed = icmp ne i64 %any, 0
  %f = zext i1 %failed to i64
  %abortp = getelementptr i64, ptr %frame, i64 8
  %flag = load atomic i64, ptr %abortp monotonic, align 64
  %flagged = icmp ne i64 %flag, 0
  %cut = icmp eq i64 %walked, 3
  %aborted = or i1 %flagged, %cut
  %final = select i1 %aborted, i64 3, i64 %f
  call void @restore(ptr %mode)
  ret i64 %final
}

define internal i64 @run(ptr %frame) {
entry:
  %teamp = getelementptr i64, ptr %frame, i64 2
  %team = load ptr, ptr %teamp
  %program = call ptr @choose(ptr %frame, ptr %team)
  call void @begin(ptr %frame, ptr %program)
  %workers = load i64, ptr %program
  call void @publish(ptr %team, ptr %program, i64 %workers)
  %code = call i64 @drive(ptr %frame, ptr %program, ptr %team)
  ret i64 %code
}

define internal i64 @resume(ptr %frame) {
entry:
  %teamp = getelementptr i64, ptr %frame, i64 2
  %team = load ptr, ptr %teamp
  %activep = getelementptr i64, ptr %frame, i64 6
  %program = load ptr, ptr %activep
  %deadp = getelementptr i64, ptr %frame, i64 7
  store i64 0, ptr %deadp
  %code = call i64 @drive(ptr %frame, ptr %program, ptr %team)
  ret i64 %code
}
"""
