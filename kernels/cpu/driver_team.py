"""The driver's text, second part: the life of a helper thread, and how work is handed to it."""

from __future__ import annotations

TEAM = """
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
