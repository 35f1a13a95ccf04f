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
extern "C" __attribute__((visibility("hidden"))) void fx_swap_stacks(void** save, void* load);
#ifdef __x86_64__
// System V x86-64 ABI, 3.2.1: rbx, rbp and r12 to r15 belong to the caller. The floating-point modes never change here.
asm(R"(
.text
.hidden fx_swap_stacks
.globl fx_swap_stacks
.type fx_swap_stacks, @function
fx_swap_stacks:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
.size fx_swap_stacks, .-fx_swap_stacks
)");
constexpr int SAVED = 6;
#else
// AAPCS64, 6.1: x19 to x29 and the low halves of v8 to v15 belong to the caller; x30 is where to return to.
asm(R"(
.text
.hidden fx_swap_stacks
.globl fx_swap_stacks
.type fx_swap_stacks, %function
fx_swap_stacks:
  sub sp, sp, #160
  stp x19, x20, [sp, #0]
  stp x21, x22, [sp, #16]
  stp x23, x24, [sp, #32]
  stp x25, x26, [sp, #48]
  stp x27, x28, [sp, #64]
  stp x29, x30, [sp, #80]
  stp d8, d9, [sp, #96]
  stp d10, d11, [sp, #112]
  stp d12, d13, [sp, #128]
  stp d14, d15, [sp, #144]
  mov x9, sp
  str x9, [x0]
  mov sp, x1
  ldp x19, x20, [sp, #0]
  ldp x21, x22, [sp, #16]
  ldp x23, x24, [sp, #32]
  ldp x25, x26, [sp, #48]
  ldp x27, x28, [sp, #64]
  ldp x29, x30, [sp, #80]
  ldp d8, d9, [sp, #96]
  ldp d10, d11, [sp, #112]
  ldp d12, d13, [sp, #128]
  ldp d14, d15, [sp, #144]
  add sp, sp, #160
  ret
.size fx_swap_stacks, .-fx_swap_stacks
)");
#endif
#endif

// Where a stack of control stands: a fiber's own, or the one that the emulator was called on.
struct Context {
#ifdef FX_PORTABLE_FIBERS
    ucontext_t saved;
#else
    void* sp = nullptr;
#endif
    char* stack = nullptr;  // its lowest byte; null for the caller's
    void* tsan = nullptr;
    void* fake = nullptr;
    const void* bottom = nullptr;  // of the caller's stack, as AddressSanitizer tells it
    size_t bytes = 0;
};

// Makes a context that starts in `run`, which never returns. `colour` spreads the tops of stacks over the sets of a cache.
inline void prepare(Context& c, char* stack, size_t colour, void (*run)()) {
    c.stack = stack;
    memcpy(stack, &CANARY, sizeof CANARY);
#ifdef FX_PORTABLE_FIBERS
    getcontext(&c.saved);
    c.saved.uc_stack.ss_sp = stack;
    c.saved.uc_stack.ss_size = STACK - colour % 64 * 64;
    c.saved.uc_link = nullptr;
    makecontext(&c.saved, run, 0);
#else
    char* top = stack + STACK - 64 - colour % 64 * 64;
#ifdef __x86_64__
    void** sp = (void**)top;
    *--sp = nullptr;  // keeps the stack 16-byte aligned at the function's entry, as a call would
    *--sp = (void*)run;
    for (int i = 0; i < SAVED; i++) *--sp = nullptr;
    c.sp = sp;
#else
    void** sp = (void**)(top - 160);
    memset(sp, 0, 160);
    sp[11] = (void*)run;
    c.sp = sp;
#endif
#endif
#ifdef FX_TSAN
    c.tsan = __tsan_create_fiber(0);
#endif
}

inline bool overran(const Context& c) { return memcmp(c.stack, &CANARY, sizeof CANARY) != 0; }

// Leaves `from` for `to`; returns when somebody comes back. No synchronisation is implied for the race detector.
inline void change(Context& from, Context& to, [[maybe_unused]] bool for_good = false) {
#ifdef FX_TSAN
    __tsan_switch_to_fiber(to.tsan, 1);
#endif
#ifdef FX_ASAN
    __sanitizer_start_switch_fiber(for_good ? nullptr : &from.fake, to.stack ? to.stack : to.bottom, to.stack ? STACK : to.bytes);
#endif
#ifdef FX_PORTABLE_FIBERS
    swapcontext(&from.saved, &to.saved);
#else
    fx_swap_stacks(&from.sp, to.sp);
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

inline void release(Context& c) {
#ifdef FX_TSAN
    if (c.tsan && c.stack) __tsan_destroy_fiber(c.tsan);
#endif
    c.tsan = nullptr;
}

// Stacks of a launch. One slab is kept for the next launch, since fresh pages cost more than a small launch does.
struct Slab {
    char* base = nullptr;
    size_t count = 0;
};
inline Slab spare;

inline Slab take_stacks(size_t count) {
    Slab s = spare;
    spare = {};
    if (s.base && s.count < count) munmap(s.base, s.count * STACK), s = {};
    if (!s.base) {
        void* p = mmap(nullptr, count * STACK, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        if (p == MAP_FAILED) return {};
        s = {(char*)p, count};
    }
    return s;
}

inline void give_stacks(Slab s) {
    if (!s.base) return;
#ifdef FX_ASAN
    __asan_unpoison_memory_region(s.base, s.count * STACK);
#endif
    if (spare.base) munmap(spare.base, spare.count * STACK);
    spare = s;
}

}  // namespace fx
