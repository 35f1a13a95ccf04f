// Fibers: stacks of their own, switched by hand. A switch saves what a called function must keep, nothing else.
#pragma once
#include <sys/mman.h>

#include <cstdint>
#include <cstdlib>
#include <cstring>

#if defined(FX_UCONTEXT) || !(defined(__x86_64__) || defined(__aarch64__))
#define FX_PORTABLE_FIBERS 1
#include <ucontext.h>
#endif

#ifdef FX_TSAN
extern "C" {
void* __tsan_get_current_fiber(void);
void* __tsan_create_fiber(unsigned flags);
void __tsan_destroy_fiber(void* fiber);
void __tsan_switch_to_fiber(void* fiber, unsigned flags);
void __tsan_acquire(void* address);
void __tsan_release(void* address);
void __tsan_read_range(void* address, unsigned long bytes);
void __tsan_write_range(void* address, unsigned long bytes);
}
#endif
#ifdef FX_ASAN
extern "C" {
void __sanitizer_start_switch_fiber(void** fake_stack, const void* bottom, size_t bytes);
void __sanitizer_finish_switch_fiber(void* fake_stack, const void** bottom, size_t* bytes);
void __asan_unpoison_memory_region(void const volatile* address, size_t bytes);
}
#endif

namespace fx {

#if defined(FX_TSAN) || defined(FX_ASAN)
constexpr size_t STACK = 256 << 10;  // instrumented frames are larger
#else
constexpr size_t STACK = 64 << 10;
#endif
constexpr uint64_t CANARY = 0x5af3a9d1c0ffee11;

#ifndef FX_PORTABLE_FIBERS
// Saves where this stack of control stands and goes on where another one was saved. The code is in line: then every call of the
// runtime returns by the return address that the processor predicts from its own call, whichever fiber made it, as long as all
// come from one place; and an indirect jump is predicted by where it went before. Two switches by `ret` took 3 times as long.
__attribute__((always_inline)) inline void swap_stacks(void** save, void* load) {
#ifdef __x86_64__
    // built with -mno-red-zone: a push below the stack pointer must not hit anything
    asm volatile(
        "pushq %%rbp\n\tpushq %%rbx\n\tleaq 1f(%%rip), %%rax\n\tpushq %%rax\n\t"
        "movq %%rsp, (%0)\n\tmovq %1, %%rsp\n\tpopq %%rax\n\tjmp *%%rax\n"
        "1:\tpopq %%rbx\n\tpopq %%rbp\n"
        : "+D"(save), "+S"(load)
        :
        : "rax", "rcx", "rdx", "r8", "r9", "r10", "r11", "r12", "r13", "r14", "r15", "memory", "cc", "xmm0", "xmm1", "xmm2",
          "xmm3", "xmm4", "xmm5", "xmm6", "xmm7", "xmm8", "xmm9", "xmm10", "xmm11", "xmm12", "xmm13", "xmm14", "xmm15");
#else
    register void** x0 asm("x0") = save;
    register void* x1 asm("x1") = load;
    asm volatile(
        "stp x29, x19, [sp, #-32]!\n\tadr x9, 1f\n\tstr x9, [sp, #16]\n\t"
        "mov x10, sp\n\tstr x10, [x0]\n\tmov sp, x1\n\tldr x9, [sp, #16]\n\tbr x9\n"
        "1:\tldp x29, x19, [sp], #32\n"
        : "+r"(x0), "+r"(x1)
        :
        : "x2", "x3", "x4", "x5", "x6", "x7", "x8", "x9", "x10", "x11", "x12", "x13", "x14", "x15", "x16", "x17", "x20", "x21",
          "x22", "x23", "x24", "x25", "x26", "x27", "x28", "x30", "memory", "cc", "v0", "v1", "v2", "v3", "v4", "v5", "v6", "v7",
          "v8", "v9", "v10", "v11", "v12", "v13", "v14", "v15", "v16", "v17", "v18", "v19", "v20", "v21", "v22", "v23", "v24",
          "v25", "v26", "v27", "v28", "v29", "v30", "v31");
#endif
}
#endif

// Where a stack of control stands: a fiber's own, or the one that the emulator was called on.
struct Context {
#ifdef FX_PORTABLE_FIBERS
    ucontext_t saved;
#else
    void* sp = nullptr;
#endif
#ifdef FX_TSAN
    void* tsan = nullptr;
#endif
#ifdef FX_ASAN
    void* fake = nullptr;
    const void* bottom = nullptr;  // of the stack
    size_t bytes = 0;
#endif
};

// Makes a context that starts in `run`, which never returns. `colour` spreads the tops of stacks over the sets of a cache.
inline void prepare(Context& c, char* stack, size_t colour, void (*run)()) {
    memcpy(stack, &CANARY, sizeof CANARY);
    char* top = stack + STACK - 64 - colour % 64 * 64;
#ifdef FX_PORTABLE_FIBERS
    getcontext(&c.saved);
    c.saved.uc_stack.ss_sp = stack;
    c.saved.uc_stack.ss_size = top - stack;
    c.saved.uc_link = nullptr;
    makecontext(&c.saved, run, 0);
#else
    void** sp = (void**)top;
#ifdef __x86_64__
    sp[-2] = (void*)run;  // popped; the word above it stands where a call would have left its return address
    sp[-1] = nullptr;
    c.sp = sp - 2;
#else
    sp[-2] = (void*)run;
    c.sp = sp - 4;
#endif
#endif
#ifdef FX_TSAN
    c.tsan = __tsan_create_fiber(0);
#endif
#ifdef FX_ASAN
    c.bottom = stack, c.bytes = STACK;
#endif
}

inline bool overran(const char* stack) { return memcmp(stack, &CANARY, sizeof CANARY) != 0; }

// Leaves `from` for `to`; returns when somebody comes back. No synchronisation is implied for the race detector.
__attribute__((always_inline)) inline void change(Context& from, Context& to, [[maybe_unused]] bool for_good = false) {
#ifdef FX_TSAN
    __tsan_switch_to_fiber(to.tsan, 1);
#endif
#ifdef FX_ASAN
    __sanitizer_start_switch_fiber(for_good ? nullptr : &from.fake, to.bottom, to.bytes);
#endif
#ifdef FX_PORTABLE_FIBERS
    swapcontext(&from.saved, &to.saved);
#else
    swap_stacks(&from.sp, to.sp);
#endif
#ifdef FX_ASAN
    __sanitizer_finish_switch_fiber(from.fake, nullptr, nullptr);
#endif
}

// The first thing that a fiber does.
inline void arrived([[maybe_unused]] Context& caller) {
#ifdef FX_ASAN
    const void* bottom;
    size_t bytes;
    __sanitizer_finish_switch_fiber(nullptr, &bottom, &bytes);
    if (!caller.bottom) caller.bottom = bottom, caller.bytes = bytes;
#endif
}

inline void release([[maybe_unused]] Context& c) {
#ifdef FX_TSAN
    if (c.tsan) __tsan_destroy_fiber(c.tsan);
#endif
}

// Memory below the first stack that nobody may touch: the fibers start in order, so the first one to need more stack than there is
// faults here, before anything of the process is overwritten. A guard for each of thousands would cost more than a launch.
constexpr size_t GUARD = 4 << 20;

// Stacks of a launch. One slab is kept for the next launch, since fresh pages cost more than a small launch does.
struct Slab {
    char* base = nullptr;
    size_t count = 0;
};
inline Slab spare;

inline void drop(Slab s) { munmap(s.base - GUARD, GUARD + s.count * STACK); }

inline Slab take_stacks(size_t count) {
    Slab s = spare;
    spare = {};
    if (s.base && s.count < count) drop(s), s = {};
    if (!s.base) {
        const size_t bytes = GUARD + count * STACK;
        void* p = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        if (p == MAP_FAILED) return {};
        if (mprotect(p, GUARD, PROT_NONE)) {
            munmap(p, bytes);
            return {};
        }
        s = {(char*)p + GUARD, count};
    }
    return s;
}

inline void give_stacks(Slab s) {
    if (!s.base) return;
#ifdef FX_ASAN
    __asan_unpoison_memory_region(s.base, s.count * STACK);
#endif
    if (spare.base) drop(spare);
    spare = s;
}

}  // namespace fx
