// Hopper (sm_90a): mbarriers, bulk copies, wgmma. Empty for older levels.
//
// Who must fence: memory written by ordinary stores and then read by a bulk copy or by wgmma is written through another proxy, so
// every writer calls fx_fence_async (global) or fx_fence_async_shared before the barrier (PTX ISA, "Async proxy").
#pragma once
#include "mma.cuh"
#if FX_ARCH >= 900

// ---- mbarriers: 64-bit words of shared memory ----------------------------------------------------------------------------

// For one thread, before the block's first barrier: `count` arrivals complete a phase.
FX_DEVICE void fx_mbarrier_init(fx_u64* barrier, int count) {
#ifdef FX_EMULATED
    fx_rt_mbarrier_init(barrier, count);
#else
    asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(fx_shared_address(barrier)), "r"(count) : "memory");
#endif
}

// After the last fx_mbarrier_init of a thread: shows them to the async proxy.
FX_DEVICE void fx_mbarrier_init_fence() {
#ifndef FX_EMULATED
    asm volatile("fence.mbarrier_init.release.cluster;\nfence.proxy.async.shared::cta;" ::: "memory");
#endif
}

// Ends the life of a barrier, so that its memory can be used for other things or be initialised again.
FX_DEVICE void fx_mbarrier_retire(fx_u64* barrier) {
#ifdef FX_EMULATED
    *barrier = ~0ull;
#else
    asm volatile("mbarrier.inval.shared::cta.b64 [%0];" ::"r"(fx_shared_address(barrier)) : "memory");
#endif
}

FX_DEVICE void fx_mbarrier_arrive(fx_u64* barrier) {
#ifdef FX_EMULATED
    fx_rt_mbarrier_arrive(barrier, 0);
#else
    asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(fx_shared_address(barrier)) : "memory");
#endif
}

// Arrives, and tells how many bytes the bulk loads of this phase will bring.
FX_DEVICE void fx_mbarrier_expect(fx_u64* barrier, fx_u32 bytes) {
#ifdef FX_EMULATED
    fx_rt_mbarrier_arrive(barrier, bytes);
#else
    asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(fx_shared_address(barrier)), "r"(bytes)
                 : "memory");
#endif
}

// Waits until the phase of that parity (0 the first) is complete.
FX_DEVICE void fx_mbarrier_wait(fx_u64* barrier, fx_u32 parity) {
#ifdef FX_EMULATED
    fx_rt_mbarrier_wait(barrier, parity);
#else
    fx_u32 done;
    do {
        asm volatile(
            "{\n.reg .pred p;\nmbarrier.try_wait.parity.shared::cta.b64 p, [%1], %2;\nselp.b32 %0, 1, 0, p;\n}"
            : "=r"(done)
            : "r"(fx_shared_address(barrier)), "r"(parity)
            : "memory");
    } while (!done);
#endif
}

// ---- bulk copies: one thread moves many bytes; addresses and sizes are multiples of 16 (PTX ISA, cp.async.bulk) -------------

FX_DEVICE void fx_bulk_load(void* shared, const void* global, fx_u32 bytes, fx_u64* barrier) {
#ifdef FX_EMULATED
    fx_rt_bulk_load(shared, global, bytes, barrier);
#else
    asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::"r"(
                     fx_shared_address(shared)),
                 "l"(global), "r"(bytes), "r"(fx_shared_address(barrier))
                 : "memory");
#endif
}

FX_DEVICE void fx_bulk_store(void* global, const void* shared, fx_u32 bytes) {
#ifdef FX_EMULATED
    fx_rt_bulk_store(global, shared, bytes);
#else
    asm volatile("cp.async.bulk.global.shared::cta.bulk_group [%0], [%1], %2;" ::"l"(global), "r"(fx_shared_address(shared)),
                 "r"(bytes)
                 : "memory");
#endif
}

FX_DEVICE void fx_bulk_commit() {
#ifdef FX_EMULATED
    fx_rt_bulk_commit();
#else
    asm volatile("cp.async.bulk.commit_group;" ::: "memory");
#endif
}

// Waits until all but N of this thread's groups of stores are written: then others may be told.
template <int N>
FX_DEVICE void fx_bulk_wait() {
#ifdef FX_EMULATED
    fx_rt_bulk_wait(N, 0);
#else
    asm volatile("cp.async.bulk.wait_group %0;" ::"n"(N) : "memory");
#endif
}

// Waits until all but N groups have read their shared memory: then it may be written again.
template <int N>
FX_DEVICE void fx_bulk_wait_read() {
#ifdef FX_EMULATED
    fx_rt_bulk_wait(N, 1);
#else
    asm volatile("cp.async.bulk.wait_group.read %0;" ::"n"(N) : "memory");
#endif
}

FX_DEVICE void fx_fence_async() {
#ifdef FX_EMULATED
    fx_rt_fence_async();
#else
    asm volatile("fence.proxy.async;" ::: "memory");
#endif
}

FX_DEVICE void fx_fence_async_shared() {
#ifdef FX_EMULATED
    fx_rt_fence_async();
#else
    asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
#endif
}

// ---- wgmma: 128 threads multiply from shared memory --------------------------------------------------------------------------

// How rows of 16 bytes lie within groups of eight (PTX ISA, wgmma, "Matrix Descriptor Format").
enum fx_swizzle { FX_PLAIN = 0, FX_SWIZZLE_128 = 1, FX_SWIZZLE_64 = 2, FX_SWIZZLE_32 = 3 };

// Without a swizzle an operand is made of core matrices: 8 rows of 16 bytes, 128 contiguous bytes. Where the direction of the sum is
// contiguous, `leading` is the byte distance of core matrices along it and `stride` along the rows; where the rows' direction is
// contiguous (transposed), `leading` is along the sum and `stride` along the rows. With a swizzle and the sum contiguous, `stride` is
// the distance of groups of 8 rows and `leading` means nothing.
FX_DEVICE fx_u64 fx_descriptor(const void* start, fx_u32 leading, fx_u32 stride, fx_swizzle swizzle = FX_PLAIN) {
    const fx_u64 at = fx_shared_address(start);
    return (at & 0x3ffff) >> 4 | (fx_u64)((leading & 0x3ffff) >> 4) << 16 | (fx_u64)((stride & 0x3ffff) >> 4) << 32 |
           (fx_u64)swizzle << 62;
}

// Before the first fx_wgmma, and after ordinary code has touched the accumulators.
FX_DEVICE void fx_wgmma_fence() {
#ifndef FX_EMULATED
    asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
#endif
}

FX_DEVICE void fx_wgmma_commit() {
#ifdef FX_EMULATED
    fx_rt_wgmma_commit();
#else
    asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
#endif
}

// Waits until all but N groups are done: then their accumulators may be read and their shared memory written.
template <int N>
FX_DEVICE void fx_wgmma_wait() {
#ifdef FX_EMULATED
    fx_rt_wgmma_wait(N);
#else
    asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(N) : "memory");
#endif
}

// Registers of a warpgroup: fewer for one that only copies, more for those that multiply (PTX ISA, setmaxnreg).
template <int REGISTERS>
FX_DEVICE void fx_more_registers() {
#ifndef FX_EMULATED
    asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(REGISTERS));
#endif
}
template <int REGISTERS>
FX_DEVICE void fx_fewer_registers() {
#ifndef FX_EMULATED
    asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(REGISTERS));
#endif
}

template <class T>
struct fx_wgmma_kind;
template <>
struct fx_wgmma_kind<fx_bf16> {
    static constexpr int value = 0;
};
template <>
struct fx_wgmma_kind<fx_half> {
    static constexpr int value = 1;
};
template <>
struct fx_wgmma_kind<fx_tf32> {
    static constexpr int value = 2;
};

#ifndef FX_EMULATED
#define FX_ACC8(i) \
    "+f"(c[i]), "+f"(c[i + 1]), "+f"(c[i + 2]), "+f"(c[i + 3]), "+f"(c[i + 4]), "+f"(c[i + 5]), "+f"(c[i + 6]), "+f"(c[i + 7])
#define FX_ACC32(i) FX_ACC8(i), FX_ACC8(i + 8), FX_ACC8(i + 16), FX_ACC8(i + 24)
#define FX_LIST16 \
    "{%0, %1, %2, %3, %4, %5, %6, %7}, %8, %9, p, 1, 1"
#define FX_KEEP16 "setp.ne.b32 p, %10, 0;\n"
#define FX_ACC16_ALL FX_ACC8(0)
#define FX_FLIP16 ", %11, %12;\n}"
#define FX_LIST32 \
    "{%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15}, %16, %17, p, 1, 1"
#define FX_KEEP32 "setp.ne.b32 p, %18, 0;\n"
#define FX_ACC32_ALL FX_ACC8(0), FX_ACC8(8)
#define FX_FLIP32 ", %19, %20;\n}"
#define FX_LIST64 \
    "{%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, %16, %17, %18, %19, %20, %21, %22, %23, " \
    "%24, %25, %26, %27, %28, %29, %30, %31}, %32, %33, p, 1, 1"
#define FX_KEEP64 "setp.ne.b32 p, %34, 0;\n"
#define FX_ACC64_ALL FX_ACC32(0)
#define FX_FLIP64 ", %35, %36;\n}"
#define FX_LIST96 \
    "{%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, %16, %17, %18, %19, %20, %21, %22, %23, " \
    "%24, %25, %26, %27, %28, %29, %30, %31, %32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47}, %48, %49, p, 1, 1"
#define FX_KEEP96 "setp.ne.b32 p, %50, 0;\n"
#define FX_ACC96_ALL FX_ACC32(0), FX_ACC8(32), FX_ACC8(40)
#define FX_FLIP96 ", %51, %52;\n}"
#define FX_LIST128 \
    "{%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, %16, %17, %18, %19, %20, %21, %22, %23, " \
    "%24, %25, %26, %27, %28, %29, %30, %31, %32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, " \
    "%48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63}, %64, %65, p, 1, 1"
#define FX_KEEP128 "setp.ne.b32 p, %66, 0;\n"
#define FX_ACC128_ALL FX_ACC32(0), FX_ACC32(32)
#define FX_FLIP128 ", %67, %68;\n}"
#define FX_LIST192 \
    "{%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, %16, %17, %18, %19, %20, %21, %22, %23, " \
    "%24, %25, %26, %27, %28, %29, %30, %31, %32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, " \
    "%48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63, %64, %65, %66, %67, %68, %69, %70, %71, " \
    "%72, %73, %74, %75, %76, %77, %78, %79, %80, %81, %82, %83, %84, %85, %86, %87, %88, %89, %90, %91, %92, %93, %94, %95}, %96, %97, p, 1, 1"
#define FX_KEEP192 "setp.ne.b32 p, %98, 0;\n"
#define FX_ACC192_ALL FX_ACC32(0), FX_ACC32(32), FX_ACC32(64)
#define FX_FLIP192 ", %99, %100;\n}"
#define FX_LIST256 \
    "{%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, %16, %17, %18, %19, %20, %21, %22, %23, " \
    "%24, %25, %26, %27, %28, %29, %30, %31, %32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, " \
    "%48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63, %64, %65, %66, %67, %68, %69, %70, %71, " \
    "%72, %73, %74, %75, %76, %77, %78, %79, %80, %81, %82, %83, %84, %85, %86, %87, %88, %89, %90, %91, %92, %93, %94, %95, " \
    "%96, %97, %98, %99, %100, %101, %102, %103, %104, %105, %106, %107, %108, %109, %110, %111, %112, %113, %114, %115, %116, %117, %118, %119, " \
    "%120, %121, %122, %123, %124, %125, %126, %127}, %128, %129, p, 1, 1"
#define FX_KEEP256 "setp.ne.b32 p, %130, 0;\n"
#define FX_ACC256_ALL FX_ACC32(0), FX_ACC32(32), FX_ACC32(64), FX_ACC32(96)
#define FX_FLIP256 ", %131, %132;\n}"

// tf32 has no transposed form
#define FX_WGMMA(n)                                                                                                        \
    template <class T, int FLIP_A, int FLIP_B>                                                                             \
    FX_DEVICE void fx_wgmma_issue(float (&c)[n / 2], fx_u64 a, fx_u64 b, int keep) {                                       \
        if constexpr (fx_wgmma_kind<T>::value == 0)                                                                        \
            asm volatile("{\n.reg .pred p;\n" FX_KEEP##n "wgmma.mma_async.sync.aligned.m64n" #n "k16.f32.bf16.bf16 "        \
                         FX_LIST##n FX_FLIP##n                                                                             \
                         : FX_ACC##n##_ALL                                                                                 \
                         : "l"(a), "l"(b), "r"(keep), "n"(FLIP_A), "n"(FLIP_B));                                           \
        else if constexpr (fx_wgmma_kind<T>::value == 1)                                                                   \
            asm volatile("{\n.reg .pred p;\n" FX_KEEP##n "wgmma.mma_async.sync.aligned.m64n" #n "k16.f32.f16.f16 "          \
                         FX_LIST##n FX_FLIP##n                                                                             \
                         : FX_ACC##n##_ALL                                                                                 \
                         : "l"(a), "l"(b), "r"(keep), "n"(FLIP_A), "n"(FLIP_B));                                           \
        else                                                                                                               \
            asm volatile("{\n.reg .pred p;\n" FX_KEEP##n "wgmma.mma_async.sync.aligned.m64n" #n "k8.f32.tf32.tf32 "         \
                         FX_LIST##n ";\n}"                                                                                 \
                         : FX_ACC##n##_ALL                                                                                 \
                         : "l"(a), "l"(b), "r"(keep));                                                                     \
    }
FX_WGMMA(16)
FX_WGMMA(32)
FX_WGMMA(64)
FX_WGMMA(96)
FX_WGMMA(128)
FX_WGMMA(192)
FX_WGMMA(256)
#undef FX_WGMMA
#endif

// c = a * b, plus c where `keep`: 64 rows by N columns per warpgroup, 16 steps of the sum for 16-bit types, 8 for tf32; N is 16, 32,
// 64, 96, 128, 192 or 256. Both operands are described; FLIP_A or FLIP_B 1 says that rows, not the sum, are contiguous. Warp w of the
// warpgroup gets rows 16 * w and on: register i of a lane is row lane / 4 + 8 * (i / 2 % 2), column 8 * (i / 4) + 2 * (lane % 4) + i % 2.
template <class T, int N, int FLIP_A = 0, int FLIP_B = 0>
FX_DEVICE void fx_wgmma(float (&c)[N / 2], fx_u64 a, fx_u64 b, bool keep = true) {
    static_assert(fx_wgmma_kind<T>::value != 2 || (FLIP_A == 0 && FLIP_B == 0), "tf32 operands cannot be transposed");
#ifdef FX_EMULATED
    fx_rt_wgmma(c, N, a, b, fx_wgmma_kind<T>::value, FLIP_A + 2 * FLIP_B, keep);
#else
    fx_wgmma_issue<T, FLIP_A, FLIP_B>(c, a, b, (int)keep);
#endif
}

// Four matrices from registers to shared memory: the inverse of fx_load_matrix<4>.
FX_DEVICE void fx_store_matrix(void* row, const fx_u32 (&r)[4]) {
#ifdef FX_EMULATED
    fx_rt_store_matrix(row, r, 4, 0);
#else
    asm volatile("stmatrix.sync.aligned.m8n8.x4.shared.b16 [%0], {%1, %2, %3, %4};" ::"r"(fx_shared_address(row)), "r"(r[0]),
                 "r"(r[1]), "r"(r[2]), "r"(r[3])
                 : "memory");
#endif
}
#endif
