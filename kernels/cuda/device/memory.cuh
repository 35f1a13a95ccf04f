// Reading and writing global and shared memory: vectors, cached and streaming loads, cp.async, atomics.
#pragma once
#include "sync.cuh"

// A GPU refuses an address that is not aligned as the vector is; processors hardly mind.
template <int N, class T>
FX_DEVICE void fx_check_vector(const T* p) {
#ifdef FX_EMULATED
    if ((fx_u64)p % alignof(fx_vector<T, N>) != 0) fx_rt_misaligned(alignof(fx_vector<T, N>));
#endif
}

// N values at once. The address must be aligned as the vector is; the type says which instruction comes out.
template <int N, class T>
FX_DEVICE fx_vector<T, N> fx_load_vector(const T* p) {
    fx_check_vector<N>(p);
    return *(const fx_vector<T, N>*)p;
}
template <int N, class T>
FX_DEVICE void fx_store_vector(T* p, const fx_vector<T, N>& x) {
    fx_check_vector<N>(p);
    *(fx_vector<T, N>*)p = x;
}

// Whether N values can be moved at once from an address.
template <int N, class T>
FX_DEVICE bool fx_is_aligned(const T* p) {
    return ((fx_u64)p & (sizeof(T) * N - 1)) == 0;
}

// ---- what no block writes during the launch: weights and inputs of the model -------------------------------------------
// Only for those: the read-only path (ld.global.nc) is not coherent with writes of the same launch (PTX ISA, ld.global.nc).

template <class T>
FX_DEVICE T fx_load_constant(const T* p) {
#ifdef FX_EMULATED
    return *p;
#else
    fx_u32 w[(sizeof(T) + 3) / 4];
    static_assert(sizeof(T) == 1 || sizeof(T) == 2 || sizeof(T) == 4 || sizeof(T) == 8 || sizeof(T) == 16, "a plain type");
    if constexpr (sizeof(T) == 1) asm("ld.global.nc.u8 %0, [%1];" : "=r"(w[0]) : "l"(p));
    if constexpr (sizeof(T) == 2) {
        fx_u16 h;
        asm("ld.global.nc.u16 %0, [%1];" : "=h"(h) : "l"(p));
        w[0] = h;
    }
    if constexpr (sizeof(T) == 4) asm("ld.global.nc.u32 %0, [%1];" : "=r"(w[0]) : "l"(p));
    if constexpr (sizeof(T) == 8) asm("ld.global.nc.v2.u32 {%0, %1}, [%2];" : "=r"(w[0]), "=r"(w[1]) : "l"(p));
    if constexpr (sizeof(T) == 16)
        asm("ld.global.nc.v4.u32 {%0, %1, %2, %3}, [%4];" : "=r"(w[0]), "=r"(w[1]), "=r"(w[2]), "=r"(w[3]) : "l"(p));
    T out;
    memcpy(&out, w, sizeof out);
    return out;
#endif
}

// ---- cp.async (PTX ISA, cp.async): global to shared memory without registers ----------------------------------------------
// Groups belong to the thread that commits them; a barrier after the wait shows the data to the other threads.

FX_DEVICE fx_u32 fx_shared_address(const void* p) {
#ifdef FX_EMULATED
    return fx_rt_shared_address(p);
#else
    return (fx_u32)__cvta_generic_to_shared(p);
#endif
}

// Copies BYTES (4, 8 or 16), or writes zeros where not `valid` and reads nothing. 16 bytes go past L1 (.cg), which other blocks'
// writes need; the smaller ones exist only as .ca, so they are for what the launch does not write.
template <int BYTES>
FX_DEVICE void fx_copy_async(void* shared, const void* global, bool valid = true) {
    static_assert(BYTES == 4 || BYTES == 8 || BYTES == 16, "cp.async moves 4, 8 or 16 bytes");
#ifdef FX_EMULATED
    fx_rt_copy_async(shared, global, BYTES, valid);
#else
    int size = valid ? BYTES : 0;
    if constexpr (BYTES == 16)
        asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(fx_shared_address(shared)), "l"(global), "r"(size)
                     : "memory");
    else
        asm volatile("cp.async.ca.shared.global [%0], [%1], %2, %3;" ::"r"(fx_shared_address(shared)), "l"(global), "n"(BYTES),
                     "r"(size)
                     : "memory");
#endif
}

FX_DEVICE void fx_copy_async_commit() {
#ifdef FX_EMULATED
    fx_rt_copy_async_commit();
#else
    asm volatile("cp.async.commit_group;" ::: "memory");
#endif
}

// Waits until at most N of the groups committed last are under way.
template <int N>
FX_DEVICE void fx_copy_async_wait() {
#ifdef FX_EMULATED
    fx_rt_copy_async_wait(N);
#else
    asm volatile("cp.async.wait_group %0;" ::"n"(N) : "memory");
#endif
}

// ---- atomics: relaxed, for the device; each returns what was there ----------------------------------------------------

#ifdef FX_EMULATED
template <class T, class Op>
FX_DEVICE T fx_atomic(T* p, Op op) {
    // one operating-system thread runs all fibers, so nothing can come between; the runtime tells the race detector
    fx_rt_atomic_begin(p);
    T old = *(volatile T*)p;
    *(volatile T*)p = op(old);
    fx_rt_atomic_end(p);
    return old;
}
template <class T>
FX_DEVICE T fx_atomic_add(T* p, T x) {
    return fx_atomic(p, [&](T old) { return (T)(old + x); });
}
FX_DEVICE int fx_atomic_max(int* p, int x) {
    return fx_atomic(p, [&](int old) { return old > x ? old : x; });
}
FX_DEVICE int fx_atomic_min(int* p, int x) {
    return fx_atomic(p, [&](int old) { return old < x ? old : x; });
}
FX_DEVICE fx_u64 fx_atomic_swap_if(fx_u64* p, fx_u64 expected, fx_u64 x) {
    return fx_atomic(p, [&](fx_u64 old) { return old == expected ? x : old; });
}
FX_DEVICE fx_u32 fx_atomic_swap_if(fx_u32* p, fx_u32 expected, fx_u32 x) {
    return fx_atomic(p, [&](fx_u32 old) { return old == expected ? x : old; });
}
#else
FX_DEVICE float fx_atomic_add(float* p, float x) { return atomicAdd(p, x); }
FX_DEVICE double fx_atomic_add(double* p, double x) { return atomicAdd(p, x); }
FX_DEVICE int fx_atomic_add(int* p, int x) { return atomicAdd(p, x); }
FX_DEVICE fx_u32 fx_atomic_add(fx_u32* p, fx_u32 x) { return atomicAdd(p, x); }
FX_DEVICE fx_u64 fx_atomic_add(fx_u64* p, fx_u64 x) { return atomicAdd(p, x); }
FX_DEVICE long long fx_atomic_add(long long* p, long long x) { return (long long)atomicAdd((fx_u64*)p, (fx_u64)x); }
FX_DEVICE int fx_atomic_max(int* p, int x) { return atomicMax(p, x); }
FX_DEVICE int fx_atomic_min(int* p, int x) { return atomicMin(p, x); }
FX_DEVICE fx_u64 fx_atomic_swap_if(fx_u64* p, fx_u64 expected, fx_u64 x) { return atomicCAS(p, expected, x); }
FX_DEVICE fx_u32 fx_atomic_swap_if(fx_u32* p, fx_u32 expected, fx_u32 x) { return atomicCAS(p, expected, x); }
#endif
