// The emulator: a launch is begun, run in slices of time, and ended. One launch runs at a time in a process' copy of this file.
#include "runtime.h"

#include <csignal>
#include <mutex>

#include "matrix.h"

#define FX_EXPORT extern "C" __attribute__((visibility("default")))

fx_rt_thread* fx_current;

namespace fx {

static std::mutex busy;
// Launches follow each other, and the race detector must know: threads start after the end of the launch before, whose place is
// another one than that for the end of their own.
static char ends[2];

static void run_thread() {
    Grid& g = *grid;
    arrived(g.main);
    acquire(&ends[g.number & 1]);
    g.entry(g.frame);
    release_to(&ends[~g.number & 1]);
    Fiber* f = g.current;
    if (is_waiting_for_copies(f)) fail("a thread leaves with asynchronous copies that it has not waited for");
    if (overran(g.slab.base + (f - g.fibers.data()) * STACK)) fail("a thread used more stack than the emulator has");
    f->waiting = EXITED;
    f->block->live--;
    g.live--;
    leave(true);
    ::abort();
}

// Wakes whoever's condition holds; true where there is one.
static bool check_polls() {
    std::vector<Fiber*>& polls = grid->polls;
    size_t kept = 0;
    for (Fiber* f : polls) {
        if (is_over(f)) wake(f);
        else polls[kept++] = f;
    }
    bool any = kept < polls.size();
    polls.resize(kept);
    return any;
}

static std::string describe(const Fiber* f) {
    std::string s = name(f) + " " + WAITING[f->waiting];
    if (f->waiting == AT_BARRIER) {
        const Barrier& b = *(const Barrier*)f->what;
        s += " " + std::to_string(f->value) + " at" + at_line(f->line) + ", where " + std::to_string(b.arrived) + " of " +
             std::to_string(b.need) + " are";
    } else if (f->waiting == ON_COUNTER) {
        s += ", which stands at " + std::to_string(*(const uint64_t*)f->what) + " and must reach " + std::to_string(f->value);
        const unsigned long long* counters = ((unsigned long long* const*)grid->frame)[3];
        ptrdiff_t n = ((const unsigned long long*)f->what - counters) / 16;
        if (n >= 0 && n < 1 << 24) s += " (number " + std::to_string(n) + ")";
    } else if (f->waiting == ON_MBARRIER) {
        MBarrier m{(unsigned long long*)f->what};
        s += " at byte " + std::to_string((const char*)f->what - f->block->shared) + " of shared memory, which lacks " +
             std::to_string(m.arrivals()) + " arrivals and " + std::to_string(m.bytes()) + " bytes";
    }
    return s;
}

static std::string deadlock() {
    Grid& g = *grid;
    std::string s = "deadlock: " + std::to_string(g.live) + " of " + std::to_string(g.fibers.size()) + " threads cannot go on";
    int shown = 0;
    for (const Block& b : g.blocks) {  // the first thread of every kind of wait, for a few blocks
        bool seen[EXITED] = {};
        for (int t = 0; t < THREADS && shown < 12; t++) {
            const Fiber& f = b.fibers[t];
            if (f.waiting == EXITED || seen[f.waiting]) continue;
            seen[f.waiting] = true, shown++;
            s += "; " + describe(&f);
        }
    }
    return s;
}

// Fatal signals of emulated code come back as failures: the fiber is dropped where it stands.
static volatile sig_atomic_t can_crash;
static void* volatile crash_address;
static volatile int crash_signal;
static const int SIGNALS[] = {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGABRT};
static struct sigaction before[5];

static void on_crash(int number, siginfo_t* info, void*) {
    if (!can_crash) {  // not ours: as if nobody had listened
        for (int i = 0; i < 5; i++) sigaction(SIGNALS[i], &before[i], nullptr);
        raise(number);
        return;
    }
    crash_address = info->si_addr, crash_signal = number;
    siglongjmp(rescue, 1);
}

struct CrashGuard {
    stack_t old = {};
    char* stack = nullptr;
    CrashGuard() {
#if !defined(FX_ASAN) && !defined(FX_TSAN)
        stack = (char*)malloc(64 << 10);
        stack_t mine = {};
        mine.ss_sp = stack, mine.ss_size = 64 << 10;
        sigaltstack(&mine, &old);
        struct sigaction act = {};
        act.sa_sigaction = on_crash, act.sa_flags = SA_SIGINFO | SA_ONSTACK | SA_NODEFER;
        for (int i = 0; i < 5; i++) sigaction(SIGNALS[i], &act, &before[i]);
#endif
    }
    ~CrashGuard() {
        if (!stack) return;
        can_crash = 0;
        for (int i = 0; i < 5; i++) sigaction(SIGNALS[i], &before[i], nullptr);
        sigaltstack(&old, nullptr);
        free(stack);
    }
};

static Outcome run(long long nanoseconds) {
    Grid& g = *grid;
    const long long until = fx_rt_clock() + nanoseconds;
#ifdef FX_TSAN
    g.main.tsan = __tsan_get_current_fiber();
#endif
    while (g.live > 0 && !g.failed) {
        g.budget = 20000;
        Fiber* f = next_ready();
        if (f) {
            enter(f);
            change(g.main, f->context);
            g.current = nullptr;
            if (fx_rt_clock() > until) return UNFINISHED;
            continue;
        }
        g.current = nullptr;
        const bool random = g.seed && !g.shuffled.empty();
        if (random && (chance() & 3) == 0 && !g.flights.empty()) land_one();
        if (check_polls() || random) continue;
        if (land_one()) continue;
        g.report = deadlock();
        g.failed = true;
    }
    if (!g.failed && !g.flights.empty()) g.failed = true, g.report = "bulk copies were in flight when the last thread left";
    return g.failed ? FAILED : DONE;
}

}  // namespace fx

// Begins a launch. `seed` 0 is the fixed order of fibers; `lazy` delays asynchronous copies until they are waited for.
FX_EXPORT void* fx_emulator_begin(void (*entry)(void*), void* frame, int blocks, long long shared, long long seed,
                                int lazy, int poison) {
    using namespace fx;
    const size_t threads = (size_t)blocks * THREADS;
    Grid* made = new Grid;
    Grid& g = *made;
    {
        std::lock_guard<std::mutex> lock(busy);
        g.slab = take_stacks(threads);
    }
    if (!g.slab.base) {
        delete made;
        return nullptr;
    }
    g.entry = entry, g.frame = frame, g.shared = shared, g.seed = seed, g.lazy = lazy, g.poison = poison, g.live = threads;
    g.blocks.resize(blocks);
    g.fibers.resize(threads);
    std::lock_guard<std::mutex> lock(busy);
    static unsigned count;
    g.number = count++;
    grid = made;
    for (int i = 0; i < blocks; i++) {
        Block& b = g.blocks[i];
        b.fibers = &g.fibers[(size_t)i * THREADS];
        // exactly the size that was asked for, so that AddressSanitizer sees an overrun of one byte
        if (posix_memalign((void**)&b.shared, 1024, shared ? shared : 1)) b.shared = nullptr;
        for (int t = 0; t < THREADS; t++) {
            Fiber& f = b.fibers[t];
            f.block = &b;
            f.thread = {t, i, blocks, b.shared};
            prepare(f.context, g.slab.base + ((size_t)i * THREADS + t) * STACK, t, run_thread);
            wake(&f);
        }
    }
    // all ones is a NaN in every type of float, and an index that no operand has
    for (Block& b : g.blocks) memset(b.shared, 0xff, shared);
    return made;
}

// Runs for about that long: 0 done, 1 not yet, 2 failed (see fx_emulator_report).
FX_EXPORT int fx_emulator_run(void* launch, long long nanoseconds) {
    using namespace fx;
    std::lock_guard<std::mutex> lock(busy);
    grid = (Grid*)launch;
    CrashGuard guard;
    const int back = sigsetjmp(rescue, 0);
    if (back == 0) {
        can_crash = 1;
        return run(nanoseconds);
    }
    Grid& g = *grid;
    if (back == 1 && !g.failed) {
        char text[80];
        snprintf(text, sizeof text, "signal %d at address %p", crash_signal, crash_address);
        g.report = std::string(text) + (g.current ? " (" + name(g.current) + ")" : "");
    }
    g.failed = true;
    return FAILED;
}

FX_EXPORT const char* fx_emulator_report(void* launch) { return ((fx::Grid*)launch)->report.c_str(); }

FX_EXPORT unsigned long long fx_emulator_switches(void* launch) { return ((fx::Grid*)launch)->switches; }

FX_EXPORT void fx_emulator_end(void* launch) {
    using namespace fx;
    std::lock_guard<std::mutex> lock(busy);
    Grid* g = (Grid*)launch;
    for (Fiber& f : g->fibers) {
        release(f.context);
        delete f.pending;
    }
    for (Block& b : g->blocks) free(b.shared);
    give_stacks(g->slab);
    delete g;
}

// Memory that AddressSanitizer watches where it is there.
FX_EXPORT void* fx_emulator_allocate(size_t bytes) {
    void* p = nullptr;
    return posix_memalign(&p, 256, bytes ? bytes : 1) ? nullptr : p;
}
FX_EXPORT void fx_emulator_free(void* p) { free(p); }
