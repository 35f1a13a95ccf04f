"""The driver's text, first part: the floating-point mode, the clock, waiting, and the walk over one worker's rows.

Structures are arrays of 64-bit words: `getelementptr i64, ptr %p, i64 K` addresses word K of the classes in driver.py.
Names between at signs are replaced per machine.

The walk does not fetch the weights of a worker's next row before it calls the kernel of this one. That was built and
measured with one worker, on and off in one process, as time without over time with it, beside the noise of without over
without (Zen 4, interleaved, busy machine). With the first 1 KiB of the next row's panel a batch of one gains nothing:
recommender_b1 1.00 (noise 1.00), mlp_784 0.99 (0.88 to 1.03), lstm_stack 1.01 (1.02); nor with 4 KiB: gpt2_decode 1.11 (1.18),
recommender_b1 0.97 (1.00); with 16 KiB that one has 0.92 (1.00). Within a call the kernels fetch the panel that follows in
memory (contract.py), which is that of most next rows.
"""

from __future__ import annotations

COMMON = """
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

MAY_GO_ON = """%aborted{0} = load atomic i64, ptr %abortp monotonic, align 64
  %stopped{0} = load atomic i64, ptr %stopp monotonic, align 8
  %ended{0} = or i64 %aborted{0}, %stopped{0}
  %clean{0} = icmp eq i64 %ended{0}, 0"""
"""Whether nobody has aborted the run or stopped the team; the names end in what is put in."""

WALK = """
; note the time in a word of a worker's table
define internal void @stamp(ptr %times, i64 %word, ptr %team) noinline {
  %t = call i64 @now(ptr %team)
  %p = getelementptr i64, ptr %times, i64 %word
  store i64 %t, ptr %p
  ret void
}

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
  %ep = getelementptr i64, ptr %line, i64 7
  %times = load ptr, ptr %ep
  %timed = icmp ne ptr %times, null
  %before = or i64 %row0, %tile0
  %fresh = icmp eq i64 %before, 0
  %opens = and i1 %timed, %fresh
  br i1 %opens, label %open, label %walk
open:
  call void @stamp(ptr %times, i64 0, ptr %team)
  br label %walk
walk:
  br label %next
next:
  %r = phi i64 [%row0, %walk], [%r1, %announced]
  %tile = phi i64 [%tile0, %walk], [0, %announced]
  %budget = phi i64 [@CHUNK@, %walk], [%budget2, %announced]
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
  %untouched = icmp eq i64 %tile, 0
  %starts = and i1 %timed, %untouched
  br i1 %starts, label %start0, label %started
start0:
  %r2 = shl i64 %r, 1
  %w1 = add i64 %r2, 2
  call void @stamp(ptr %times, i64 %w1, ptr %team)
  br label %started
started:
  @MAY_GO_ON@
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
  @MAY_GO_ON2@
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
  br i1 %timed, label %finish, label %finished
finish:
  %r3 = shl i64 %r, 1
  %w2 = add i64 %r3, 3
  call void @stamp(ptr %times, i64 %w2, ptr %team)
  br label %finished
finished:
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
""".replace("@MAY_GO_ON@", MAY_GO_ON.format("")).replace("@MAY_GO_ON2@", MAY_GO_ON.format("2"))
