// Barriers, warp operations, counters.
#pragma once
#include "grid.h"

namespace fx {

inline std::string at_line(int line) { return " line " + std::to_string(line); }

[[noreturn]] __attribute__((noinline, cold)) inline void fail_at(const Barrier& b, int id, int threads, int line) {
    if (b.need == threads) fail("threads of one block stand at different barriers:" + at_line(b.line) + " and" + at_line(line));
    fail("barrier " + std::to_string(id) + " is reached with " + std::to_string(threads) + " threads at" + at_line(line) +
         " and with " + std::to_string(b.need) + " at" + at_line(b.line));
}

[[noreturn]] __attribute__((noinline, cold)) inline void fail_unwaited() {
    fail("a tile ends with asynchronous copies that it has not waited for");
}

inline bool is_waiting_for_copies(const Fiber* f) {
    const Pending* p = f->pending;
    return p && !(p->copies.empty() && p->groups.empty() && p->stores.empty() && p->store_groups.empty());
}

// Counts an arrival; true where it was the last one, and the others are awake.
FX_HOT bool arrive(Barrier& b, int id, int threads, int line, int yes) {
    if (b.arrived == 0) {
        b.need = threads, b.line = line, b.any = 0;
    } else if (b.need != threads || (id == 0 && b.line != line)) {  // named ones may meet from different lines
        fail_at(b, id, threads, line);
    }
    b.any |= yes;
    release_to(b.meeting.here());
    if (++b.arrived < b.need) return false;
    b.arrived = 0;
    b.meeting.round++;
    if (grid->seed || yes >= 0) {
        for (Fiber* f = b.queue.first; f;) {
            Fiber* next = f->next;
            f->answer = b.any;
            if (grid->seed) wake(f);
            else f->waiting = RUNNING;
            f = next;
        }
    }
    if (!grid->seed) grid->current->block->ready.append(b.queue);
    b.queue = {};
    return true;
}

FX_HOT int barrier(int id, int threads, int line, int yes) {
    Fiber* f = grid->current;
    Barrier& b = f->block->barrier[id];
    const void* here = b.meeting.here();
    int answer;
    if (arrive(b, id, threads, line, yes)) {
        answer = b.any;
    } else {
        b.queue.push(f);
        wait_for(AT_BARRIER, &b, id, line);
        answer = f->answer;
    }
    acquire(here);
    return answer;
}

[[noreturn]] __attribute__((noinline, cold)) inline void fail_kinds() {
    fail("lanes of one warp meet in different warp operations");
}

// Every lane leaves an argument; the last one does the operation for all.
template <class Operation>
FX_HOT void together(void* argument, int kind, Operation operation) {
    Fiber* f = grid->current;
    Warp& w = f->block->warp[f->thread.thread / WARP];
    if (w.arrived == 0) w.kind = kind;
    else if (w.kind != kind) fail_kinds();
    int lane = f->thread.thread % WARP;
    w.argument[lane] = argument;
    w.fiber[lane] = f;
    const void* here = w.meeting.here();
    release_to(here);
    if (++w.arrived < WARP) {
        wait_for(IN_WARP, &w, kind);
    } else {
        w.arrived = 0;
        w.meeting.round++;
        operation(w.argument);
        for (int i = 0; i < WARP; i++)
            if (i != lane) wake(w.fiber[i]);
    }
    acquire(here);
}

inline bool is_over(const Fiber* f) {
    switch (f->waiting) {
        case ON_COUNTER: return *(volatile const uint64_t*)f->what >= f->value || (f->abort && *(volatile const int*)f->abort);
        case ON_MBARRIER: return (*(volatile const uint64_t*)f->what >> 63) != f->value;
        case ON_PRODUCT: return ((const WarpGroup*)f->what)->executed >= f->value;
        default: return true;
    }
}

enum { WARP_BARRIER, BALLOT, SHUFFLE, LOAD_MATRIX, STORE_MATRIX, MMA };

struct Shuffle {
    char in[16], out[16];
    int by, kind, bytes;
};

}  // namespace fx

extern "C" {
void fx_rt_barrier(int id, int threads, int line) { fx::barrier(id, threads, line, -1); }

int fx_rt_barrier_any(int yes, int line) { return fx::barrier(0, fx::THREADS, line, yes != 0); }

int fx_rt_tile_barrier(int yes, int line, void* scratch, long long scratch_bytes, int kept) {
    fx::Fiber* f = fx::grid->current;
    fx::Block& b = *f->block;
    if (fx::is_waiting_for_copies(f)) fx::fail_unwaited();
    if (fx::grid->poison && b.barrier[0].arrived == fx::THREADS - 1) {
        memset(b.shared, 0xff, kept < 0 ? fx::grid->shared : kept);
        memset(scratch, 0xff, scratch_bytes);
    }
    return fx::barrier(0, fx::THREADS, line, yes != 0);
}

void fx_rt_arrive(int id, int threads, int line) {
    fx::arrive(fx::grid->current->block->barrier[id], id, threads, line, -1);
}

void fx_rt_warp_barrier() {
    fx::together(nullptr, fx::WARP_BARRIER, [](void**) {});
}

unsigned fx_rt_ballot(int yes) {
    struct Vote {
        int yes;
        unsigned all;
    } vote{yes, 0};
    fx::together(&vote, fx::BALLOT, [](void** votes) {
        unsigned all = 0;
        for (int i = 0; i < fx::WARP; i++) all |= (unsigned)(((Vote*)votes[i])->yes != 0) << i;
        for (int i = 0; i < fx::WARP; i++) ((Vote*)votes[i])->all = all;
    });
    return vote.all;
}

void fx_rt_shuffle(void* value, int bytes, int by, int kind) {
    fx::Shuffle s;
    s.by = by, s.kind = kind, s.bytes = bytes;
    memcpy(s.in, value, bytes);
    fx::together(&s, fx::SHUFFLE + 16 * kind + 256 * bytes, [](void** all) {
        for (int i = 0; i < fx::WARP; i++) {
            fx::Shuffle& to = *(fx::Shuffle*)all[i];
            int from = to.kind == 0 ? to.by & 31 : to.kind == 1 ? i ^ to.by : to.kind == 2 ? i + to.by : i - to.by;
            if (from < 0 || from >= fx::WARP) from = i;
            memcpy(to.out, ((fx::Shuffle*)all[from])->in, to.bytes);
        }
    });
    memcpy(value, s.out, bytes);
}

unsigned long long fx_rt_add(unsigned long long* counter, unsigned long long by, int release, int acquire) {
    if (release) fx::release_to(counter);
    unsigned long long old = *(volatile unsigned long long*)counter;
    *(volatile unsigned long long*)counter = old + by;
    if (acquire) fx::acquire(counter);
    return old;
}

unsigned long long fx_rt_peek(const unsigned long long* counter) { return *(volatile const unsigned long long*)counter; }

int fx_rt_wait(const unsigned long long* counter, unsigned long long threshold, const int* abort) {
    fx::Fiber* f = fx::grid->current;
    f->abort = abort;
    if (*(volatile const unsigned long long*)counter < threshold) fx::wait_for(fx::ON_COUNTER, counter, threshold);
    bool reached = *(volatile const unsigned long long*)counter >= threshold;
    fx::acquire(counter);
    return reached;
}

int fx_rt_is_aborted(const int* abort) { return abort && *(volatile const int*)abort; }

long long fx_rt_clock() {
    timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1000000000ll + t.tv_nsec;
}

void fx_rt_atomic_begin(void* p) { fx::acquire(p); }
void fx_rt_atomic_end(void* p) { fx::release_to(p); }
}
