"""The driver's text, third part: what Python calls. Choose a program, start it, drive it to its end or to a deadline."""

from __future__ import annotations

RUN = """
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
  br i1 %mine, label %guard, label %alone
guard:
  ; both programs give the same bits, so the faster one is taken: on a crowded machine that may be the one-worker program
  %tickp = getelementptr i64, ptr %frame, i64 10
  %tick = load i64, ptr %tickp
  %tick1 = add i64 %tick, 1
  %tnp = getelementptr i64, ptr %teamed, i64 9
  %tn = load i64, ptr %tnp
  %snp = getelementptr i64, ptr %solo, i64 9
  %sn = load i64, ptr %snp
  %phase = and i64 %tick, 1023
  %sample = icmp eq i64 %phase, 8
  %known = icmp ne i64 %sn, 0
  %slower = icmp sgt i64 %tn, %sn
  %bad = and i1 %known, %slower
  %round = and i64 %tick, 31
  %rest = icmp ne i64 %round, 0
  %avoid = and i1 %bad, %rest
  %without = or i1 %sample, %avoid
  br i1 %without, label %spare, label %worth
spare:
  store i64 %tick1, ptr %tickp
  store atomic i64 0, ptr %busyp release, align 64
  br label %alone
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
  store i64 %tick1, ptr %tickp
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

; remember how long a run took, where there is a choice of programs: fast to improve, slow to get worse, so that one run
; that the system interrupted does not count for much
define internal void @note(ptr %frame, ptr %program, ptr %team) {
entry:
  %tp = getelementptr i64, ptr %frame, i64 1
  %teamed = load ptr, ptr %tp
  %single = icmp eq ptr %teamed, null
  br i1 %single, label %end, label %look
look:
  %now = call i64 @now(ptr %team)
  %startp = getelementptr i64, ptr %frame, i64 11
  %start = load i64, ptr %startp
  %took = sub i64 %now, %start
  %np = getelementptr i64, ptr %program, i64 9
  %old = load i64, ptr %np
  %first = icmp eq i64 %old, 0
  %double = shl i64 %old, 1
  %long = icmp sgt i64 %took, %double
  %capped = select i1 %long, i64 %double, i64 %took
  %more = sub i64 %capped, %old
  %better = icmp slt i64 %more, 0
  %half = sdiv i64 %more, 2
  %quarter = sdiv i64 %more, 4
  %step = select i1 %better, i64 %half, i64 %quarter
  %moved = add i64 %old, %step
  %new = select i1 %first, i64 %took, i64 %moved
  store i64 %new, ptr %np
  br label %end
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
  call void @note(ptr %frame, ptr %program, ptr %team)
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
  %tp = getelementptr i64, ptr %frame, i64 1
  %teamed = load ptr, ptr %tp
  %single = icmp eq ptr %teamed, null
  br i1 %single, label %start, label %clock
clock:
  %t = call i64 @now(ptr %team)
  %startp = getelementptr i64, ptr %frame, i64 11
  store i64 %t, ptr %startp
  br label %start
start:
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
