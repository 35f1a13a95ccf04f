// Within a block: barriers, shuffles, votes. Between blocks: counters, waiting, publishing, fences, the clock.
#pragma once
#include "types.cuh"

#ifdef FX_EMULATED
FX_DEVICE int fx_thread() { return fx_current->thread; }
FX_DEVICE int fx_block() { return fx_current->block; }
FX_DEVICE int fx_blocks() { return fx_current->blocks; }
FX_DEVICE char* fx_shared_memory() { return fx_current->shared; }
#else
FX_DEVICE int fx_thread() { return (int)threadIdx.x; }
FX_DEVICE int fx_block() { return (int)blockIdx.x; }
FX_DEVICE int fx_blocks() { return (int)gridDim.x; }
extern __shared__ __align__(1024) char fx_dynamic_shared[];
FX_DEVICE char* fx_shared_memory() { return fx_dynamic_shared; }
#endif
FX_DEVICE int fx_lane() { return fx_thread() & 31; }
FX_DEVICE int fx_warp() { return fx_thread() >> 5; }

// ---- block ----------------------------------------------------------------------------------------------------------

FX_DEVICE void fx_barrier(FX_HERE) {
#ifdef FX_EMULATED
    fx_rt_barrier(0, FX_THREADS, line);
#else
    asm volatile("bar.sync 0;" ::: "memory");
#endif
}

// A named barrier (1 to 15) of `threads` threads, a multiple of 32: whole warps take part (PTX ISA, bar).
FX_DEVICE void fx_named_barrier(int id, int threads FX_AND_HERE) {
#ifdef FX_EMULATED
    fx_rt_barrier(id, threads, line);
#else
    asm volatile("bar.sync %0, %1;" ::"r"(id), "r"(threads) : "memory");
#endif
}

// Counts towards a named barrier without waiting at it: the producer's half of a hand-over.
FX_DEVICE void fx_named_arrive(int id, int threads FX_AND_HERE) {
#ifdef FX_EMULATED
    fx_rt_arrive(id, threads, line);
#else
    asm volatile("bar.arrive %0, %1;" ::"r"(id), "r"(threads) : "memory");
#endif
}

// A block barrier that tells every thread whether any of them said yes.
FX_DEVICE bool fx_barrier_any(bool yes FX_AND_HERE) {
#ifdef FX_EMULATED
    return fx_rt_barrier_any(yes, line) != 0;
#else
    int out;
    asm volatile(
        "{\n.reg .pred p, q;\nsetp.ne.b32 p, %1, 0;\nbar.red.or.pred q, 0, p;\nselp.b32 %0, 1, 0, q;\n}"
        : "=r"(out)
        : "r"((int)yes)
        : "memory");
    return out != 0;
#endif
}

// ---- warp: all 32 lanes take part, always -----------------------------------------------------------------------------

FX_DEVICE void fx_warp_barrier() {
#ifdef FX_EMULATED
    fx_rt_warp_barrier();
#else
    asm volatile("bar.warp.sync 0xffffffff;" ::: "memory");
#endif
}

FX_DEVICE fx_u32 fx_ballot(bool yes) {
#ifdef FX_EMULATED
    return fx_rt_ballot(yes);
#else
    fx_u32 out;
    asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, %1, 0;\nvote.sync.ballot.b32 %0, p, 0xffffffff;\n}"
                 : "=r"(out)
                 : "r"((int)yes));
    return out;
#endif
}
FX_DEVICE bool fx_any(bool yes) { return fx_ballot(yes) != 0; }
FX_DEVICE bool fx_all(bool yes) { return fx_ballot(yes) == 0xffffffffu; }

#ifndef FX_EMULATED
#define FX_SHUFFLE(mode, clamp)                                                            \
    fx_u32 y;                                                                              \
    asm volatile("shfl.sync." mode ".b32 %0, %1, %2, " clamp ", 0xffffffff;" : "=r"(y) : "r"(x), "r"(by)); \
    return y
FX_DEVICE fx_u32 fx_shuffle_idx_word(fx_u32 x, int by) { FX_SHUFFLE("idx", "0x1f"); }
FX_DEVICE fx_u32 fx_shuffle_xor_word(fx_u32 x, int by) { FX_SHUFFLE("bfly", "0x1f"); }
FX_DEVICE fx_u32 fx_shuffle_down_word(fx_u32 x, int by) { FX_SHUFFLE("down", "0x1f"); }
FX_DEVICE fx_u32 fx_shuffle_up_word(fx_u32 x, int by) { FX_SHUFFLE("up", "0x0"); }
#undef FX_SHUFFLE
#endif

// T is any plain type of up to 16 bytes; it travels in 32-bit words.
#ifdef FX_EMULATED
#define FX_SHUFFLED(mode, code)            \
    T y = x;                               \
    fx_rt_shuffle(&y, sizeof y, by, code); \
    return y
#else
template <class T>
struct fx_words {
    fx_u32 word[(sizeof(T) + 3) / 4];
};
template <class T>
FX_DEVICE fx_words<T> fx_to_words(const T& x) {
    fx_words<T> w = {};
    memcpy(&w, &x, sizeof x);
    return w;
}
#define FX_SHUFFLED(mode, code)                                                                        \
    fx_words<T> w = fx_to_words(x);                                                                    \
    FX_UNROLL for (int i = 0; i < (int)(sizeof w / 4); i++) w.word[i] = fx_shuffle_##mode##_word(w.word[i], by); \
    T y;                                                                                               \
    memcpy(&y, &w, sizeof y);                                                                \
    return y
#endif

// The value of lane `by`.
template <class T>
FX_DEVICE T fx_shuffle(T x, int by) {
    FX_SHUFFLED(idx, 0);
}
// The value of the lane whose number differs in the bits of `by`.
template <class T>
FX_DEVICE T fx_shuffle_xor(T x, int by) {
    FX_SHUFFLED(xor, 1);
}
// The value of lane + by, the own one where there is no such lane.
template <class T>
FX_DEVICE T fx_shuffle_down(T x, int by) {
    FX_SHUFFLED(down, 2);
}
// The value of lane - by, the own one where there is no such lane.
template <class T>
FX_DEVICE T fx_shuffle_up(T x, int by) {
    FX_SHUFFLED(up, 3);
}
#undef FX_SHUFFLED

// ---- between blocks ---------------------------------------------------------------------------------------------------
// Counters are 64 bit, only grow, and every addition releases what the block did before. How the pieces make a proof is in
// tasks.cuh: barrier, then one thread adds; one thread waits, then barrier (PTX ISA, memory consistency model: causality
// order passes through the barriers of both blocks).

FX_DEVICE void fx_add_release(fx_u64* counter, fx_u64 by) {
#ifdef FX_EMULATED
    fx_rt_add(counter, by, 1, 0);
#else
    asm volatile("red.release.gpu.global.add.u64 [%0], %1;" ::"l"(counter), "l"(by) : "memory");
#endif
}

// Adds and returns what was there before; orders both ways.
FX_DEVICE fx_u64 fx_add_acquire_release(fx_u64* counter, fx_u64 by) {
#ifdef FX_EMULATED
    return fx_rt_add(counter, by, 1, 1);
#else
    fx_u64 old;
    asm volatile("atom.acq_rel.gpu.global.add.u64 %0, [%1], %2;" : "=l"(old) : "l"(counter), "l"(by) : "memory");
    return old;
#endif
}

FX_DEVICE fx_u64 fx_peek(const fx_u64* counter) {
#ifdef FX_EMULATED
    return fx_rt_peek(counter);
#else
    fx_u64 now;
    asm volatile("ld.relaxed.gpu.global.u64 %0, [%1];" : "=l"(now) : "l"(counter) : "memory");
    return now;
#endif
}

// The abort word is host memory mapped into the device: a read goes over the bus, so waiting threads look at it rarely.
FX_DEVICE bool fx_is_aborted(const int* abort) {
#ifdef FX_EMULATED
    return fx_rt_is_aborted(abort) != 0;
#else
    int now;
    asm volatile("ld.relaxed.sys.global.s32 %0, [%1];" : "=r"(now) : "l"(abort) : "memory");
    return now != 0;
#endif
}

FX_DEVICE void fx_fence() {
#ifndef FX_EMULATED
    asm volatile("fence.acq_rel.gpu;" ::: "memory");
#endif
}

// Waits until the counter has reached the threshold: false where the run was aborted meanwhile. Polls are relaxed, since an
// acquiring load would flush L1 each time; the one fence after them acquires.
FX_DEVICE bool fx_wait(const fx_u64* counter, fx_u64 threshold, const int* abort) {
#ifdef FX_EMULATED
    return fx_rt_wait(counter, threshold, abort) != 0;
#else
    for (int polls = 1; fx_peek(counter) < threshold; polls++) {
        if ((polls & 1023) == 0 && fx_is_aborted(abort)) return false;
        __nanosleep(polls < 32 ? 0 : 32);
    }
    fx_fence();
    return true;
#endif
}

// Asks for the line of an address to be brought into L1 and waits for nothing; the address need not exist.
FX_DEVICE void fx_prefetch(const void* p) {
#ifdef FX_EMULATED
    (void)p;
#else
    asm volatile("prefetch.global.L1 [%0];" ::"l"(p));
#endif
}

// Nanoseconds of a clock that all blocks share.
FX_DEVICE long long fx_clock() {
#ifdef FX_EMULATED
    return fx_rt_clock();
#else
    long long now;
    asm volatile("mov.u64 %0, %%globaltimer;" : "=l"(now)::"memory");
    return now;
#endif
}
