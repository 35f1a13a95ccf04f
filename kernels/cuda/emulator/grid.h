// The grid: blocks with their threads as fibers on one operating-system thread, and who runs next.
//
// All blocks are alive at once, as in a cooperative launch. A fiber runs until it must wait; then the next one that can run goes
// on. Waits are conditions that the scheduler can check, so "nobody can run and nothing is in flight" is a proven deadlock.
#pragma once
#include <csetjmp>
#include <ctime>
#include <string>
#include <vector>

#include "fiber.h"
#include "runtime.h"

namespace fx {

constexpr int THREADS = 256, WARP = 32, WARPS = THREADS / WARP, BARRIERS = 16, GROUPS = THREADS / 128;

enum Waiting { RUNNING, AT_BARRIER, IN_WARP, ON_COUNTER, ON_MBARRIER, ON_PRODUCT, EXITED };
inline const char* const WAITING[] = {"ready", "at a barrier", "in a warp operation", "waiting for a counter",
                                      "waiting for an mbarrier", "waiting for wgmma", "exited"};

enum Outcome { DONE, UNFINISHED, FAILED };

struct Copy {
    void* to;
    const void* from;
    int bytes;
    bool valid;
    std::vector<char> staged;  // what a bulk store has read already
};
typedef std::vector<Copy> CopyGroup;

// What few threads use; made when it is needed.
struct Pending {
    CopyGroup copies, stores;                      // not committed yet
    std::vector<CopyGroup> groups, store_groups;  // committed, the oldest first
    uint64_t issued = 0;                           // products that this thread has issued
    std::vector<uint64_t> commits;                 // and how many those were at each commit
};

struct Block;
struct alignas(64) Fiber {  // what a switch touches comes first, within a line of the cache
    fx_rt_thread thread;
    Block* block;
    Fiber* next = nullptr;
    const void* what = nullptr;
    Context context;
    uint64_t value = 0;
    Waiting waiting = RUNNING;
    int line = 0, answer = 0;
    const int* abort = nullptr;
    Pending* pending = nullptr;
};

// Fibers in line, linked through `next`.
struct Line {
    Fiber *first = nullptr, *last = nullptr;
    void push(Fiber* f) {
        f->next = nullptr;
        if (last) last->next = f;
        else first = f;
        last = f;
    }
    Fiber* pop() {
        Fiber* f = first;
        first = f->next;
        if (!first) last = nullptr;
        return f;
    }
    void append(Line& other) {
        if (!other.first) return;
        if (last) last->next = other.first;
        else first = other.first;
        last = other.last;
        other = {};
    }
};

// What the race detector takes for the meeting itself: two, since the first to leave may arrive again before the last has left.
struct Meeting {
    char place[2];
    unsigned round = 0;
    const void* here() const { return &place[round & 1]; }
};

struct Barrier {
    int arrived = 0, need = 0, line = 0, any = 0;
    Meeting meeting;
    Line queue;
};
struct Warp {
    int arrived = 0, kind = 0;
    Meeting meeting;
    void* argument[WARP];
    Fiber* fiber[WARP];
};
struct Product {
    uint64_t a, b;
    int n, kind, transposed, keep, threads;
    float* accumulators[128];
};
struct WarpGroup {
    std::vector<Product> queue;  // not executed yet, the oldest first
    uint64_t executed = 0;
};
// Who wrote what through the generic proxy: per 16 bytes of shared memory the thread that a cp.async belonged to, plus one, and how
// often that thread had fenced by then (see fx_rt_fence_async). 0 where nobody did.
struct Proxies {
    struct Mark {
        uint32_t writer = 0, fences = 0;
    };
    std::vector<Mark> marks;
    uint32_t fences[THREADS] = {};
};
struct Block {
    Barrier barrier[BARRIERS];
    Proxies proxies;
    Warp warp[WARPS];
    WarpGroup group[GROUPS];
    Line ready;
    char* shared = nullptr;
    Fiber* fibers = nullptr;
    int live = THREADS;
};
struct Flight {
    void* to;
    const void* from;
    int bytes;
    unsigned long long* barrier;
};

struct Grid {
    Context main;
    std::vector<Block> blocks;
    std::vector<Fiber> fibers;
    Slab slab;
    size_t shared = 0, turn = 0, live = 0;
    std::vector<Fiber*> polls, shuffled;  // waiting for conditions; ready ones in random order
    std::vector<Flight> flights;          // bulk loads that have not landed
    Fiber* current = nullptr;
    void (*entry)(void*) = nullptr;
    void* frame = nullptr;
    unsigned number = 0;
    bool lazy = false, poison = false;
    uint64_t seed = 0, switches = 0;
    long budget = 0;
    bool failed = false;
    std::string report;
};
inline Grid* grid;
inline sigjmp_buf rescue;  // in `run`, for failures that no fiber can leave from

inline uint64_t chance() {  // xorshift64
    uint64_t& s = grid->seed;
    s ^= s << 13, s ^= s >> 7, s ^= s << 17;
    return s >> 11;
}

inline void acquire([[maybe_unused]] const void* p) {
#ifdef FX_TSAN
    __tsan_acquire((void*)p);
#endif
}
inline void release_to([[maybe_unused]] const void* p) {
#ifdef FX_TSAN
    __tsan_release((void*)p);
#endif
}
inline void note_read([[maybe_unused]] const void* p, [[maybe_unused]] size_t n) {
#ifdef FX_TSAN
    __tsan_read_range((void*)p, n);
#endif
}
inline void note_write([[maybe_unused]] void* p, [[maybe_unused]] size_t n) {
#ifdef FX_TSAN
    __tsan_write_range(p, n);
#endif
}

inline void wake(Fiber* f) {
    f->waiting = RUNNING;
    if (grid->seed) grid->shuffled.push_back(f);
    else f->block->ready.push(f);
}

#define FX_HOT __attribute__((always_inline)) inline

// The next fiber, null where the main context must look: none is ready in this turn, or it is time to look at the clock.
FX_HOT Fiber* next_ready() {
    Grid& g = *grid;
    if (--g.budget < 0) return nullptr;
    if (g.seed) {
        if (g.shuffled.empty() || (chance() & 15) == 0) return nullptr;
        size_t i = chance() % g.shuffled.size();
        Fiber* f = g.shuffled[i];
        g.shuffled[i] = g.shuffled.back();
        g.shuffled.pop_back();
        return f;
    }
    for (size_t n = g.blocks.size(); n > 0; n--) {
        Block& b = g.blocks[g.turn];
        if (b.ready.first) return b.ready.pop();
        if (++g.turn == g.blocks.size()) g.turn = 0;
    }
    return nullptr;
}

FX_HOT void enter(Fiber* f) {
    grid->current = f;
    grid->switches++;
    f->waiting = RUNNING;
    fx_current = &f->thread;
}

// Leaves the fiber that runs for the next one.
FX_HOT void leave(bool for_good = false) {
    Grid& g = *grid;
    Fiber *from = g.current, *to = g.failed ? nullptr : next_ready();
    if (to == from) return enter(to);
    if (to) enter(to);
    change(from->context, to ? to->context : g.main, for_good);
}

FX_HOT void wait_for(Waiting why, const void* what, uint64_t value = 0, int line = 0) {
    Fiber* f = grid->current;
    f->waiting = why, f->what = what, f->value = value, f->line = line;
    if (why >= ON_COUNTER) grid->polls.push_back(f);
    leave();
}

inline std::string name(const Fiber* f) {
    return "block " + std::to_string(f->thread.block) + " thread " + std::to_string(f->thread.thread);
}

// Ends the launch: the first reason is kept, and control never comes back to this fiber.
[[noreturn]] __attribute__((noinline, cold)) inline void fail(const std::string& why) {
    Grid& g = *grid;
    if (!g.failed) g.report = why + (g.current ? " (" + name(g.current) + ")" : "");
    g.failed = true;
    if (!g.current) siglongjmp(rescue, 2);
    leave(true);
    ::abort();
}

inline Pending& pending() {
    Fiber* f = grid->current;
    if (!f->pending) f->pending = new Pending;
    return *f->pending;
}

}  // namespace fx
