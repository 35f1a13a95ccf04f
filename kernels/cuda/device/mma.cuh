// Matrix instructions of warps (sm_80): ldmatrix and mma.sync. All 32 lanes take part. Lane maps are those of the PTX ISA,
// "Matrix Fragments for mma.m16n8k16" and "mma.m16n8k8"; the emulator's matrix.h spells them out.
#pragma once
#include "memory.cuh"

// float as the 19 bits that tensor cores multiply; rounded to nearest, ties away from zero.
struct fx_tf32 {
    fx_u32 bits;
};

// What tensor cores multiply where elements are T.
template <class T>
struct fx_mma_kind {
    using type = T;
};
template <>
struct fx_mma_kind<float> {
    using type = fx_tf32;
};

FX_DEVICE fx_tf32 fx_to_tf32(float x) {
#ifdef FX_EMULATED
    fx_u32 u = fx_bits<fx_u32>(x);
    if ((u & 0x7f800000u) == 0x7f800000u) return {(u & 0x7fffffu) ? 0x7fffffffu : u};
    return {(u + 0x1000u) & 0xffffe000u};
#else
    fx_tf32 y;
    asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(y.bits) : "f"(x));
    return y;
#endif
}

// COUNT (1, 2 or 4) matrices of 8 rows of 16 bytes. Lane 8 * m + i gives the address of row i of matrix m, in shared memory and a
// multiple of 16; lanes from 8 * COUNT on may give anything. Register m of lane l: elements 2 * (l % 4) and the next of row l / 4.
template <int COUNT>
FX_DEVICE void fx_load_matrix(fx_u32 (&r)[COUNT], const void* row) {
    static_assert(COUNT == 1 || COUNT == 2 || COUNT == 4, "ldmatrix reads 1, 2 or 4 matrices");
#ifdef FX_EMULATED
    fx_rt_load_matrix(r, row, COUNT, 0);
#else
    const fx_u32 at = fx_shared_address(row);
    if constexpr (COUNT == 1)
        asm volatile("ldmatrix.sync.aligned.m8n8.x1.shared.b16 {%0}, [%1];" : "=r"(r[0]) : "r"(at) : "memory");
    if constexpr (COUNT == 2)
        asm volatile("ldmatrix.sync.aligned.m8n8.x2.shared.b16 {%0, %1}, [%2];" : "=r"(r[0]), "=r"(r[1]) : "r"(at) : "memory");
    if constexpr (COUNT == 4)
        asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                     : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                     : "r"(at)
                     : "memory");
#endif
}

// The same with every matrix transposed.
template <int COUNT>
FX_DEVICE void fx_load_matrix_transposed(fx_u32 (&r)[COUNT], const void* row) {
    static_assert(COUNT == 1 || COUNT == 2 || COUNT == 4, "ldmatrix reads 1, 2 or 4 matrices");
#ifdef FX_EMULATED
    fx_rt_load_matrix(r, row, COUNT, 1);
#else
    const fx_u32 at = fx_shared_address(row);
    if constexpr (COUNT == 1)
        asm volatile("ldmatrix.sync.aligned.m8n8.x1.trans.shared.b16 {%0}, [%1];" : "=r"(r[0]) : "r"(at) : "memory");
    if constexpr (COUNT == 2)
        asm volatile("ldmatrix.sync.aligned.m8n8.x2.trans.shared.b16 {%0, %1}, [%2];"
                     : "=r"(r[0]), "=r"(r[1])
                     : "r"(at)
                     : "memory");
    if constexpr (COUNT == 4)
        asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                     : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                     : "r"(at)
                     : "memory");
#endif
}

// c += a * b for 16 by 8 results in float: 16 steps of the sum for 16-bit types, 8 for tf32.
#ifdef FX_EMULATED
FX_DEVICE void fx_mma(float (&c)[4], const fx_u32 (&a)[4], const fx_u32 (&b)[2], fx_bf16*) { fx_rt_mma(c, a, b, 0); }
FX_DEVICE void fx_mma(float (&c)[4], const fx_u32 (&a)[4], const fx_u32 (&b)[2], fx_half*) { fx_rt_mma(c, a, b, 1); }
FX_DEVICE void fx_mma(float (&c)[4], const fx_u32 (&a)[4], const fx_u32 (&b)[2], fx_tf32*) { fx_rt_mma(c, a, b, 2); }
#else
#define FX_MMA(shape, type)                                                                                               \
    asm volatile("mma.sync.aligned." shape ".row.col.f32." type "." type ".f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, " \
                 "{%0, %1, %2, %3};"                                                                                      \
                 : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])                                                         \
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]))
FX_DEVICE void fx_mma(float (&c)[4], const fx_u32 (&a)[4], const fx_u32 (&b)[2], fx_bf16*) { FX_MMA("m16n8k16", "bf16"); }
FX_DEVICE void fx_mma(float (&c)[4], const fx_u32 (&a)[4], const fx_u32 (&b)[2], fx_half*) { FX_MMA("m16n8k16", "f16"); }
FX_DEVICE void fx_mma(float (&c)[4], const fx_u32 (&a)[4], const fx_u32 (&b)[2], fx_tf32*) { FX_MMA("m16n8k8", "tf32"); }
#undef FX_MMA
#endif

// T is fx_bf16, fx_half or fx_tf32; fragments are 32-bit registers (two 16-bit values, the one of the lower index below).
template <class T>
FX_DEVICE void fx_mma(float (&c)[4], const fx_u32 (&a)[4], const fx_u32 (&b)[2]) {
    fx_mma(c, a, b, (T*)nullptr);
}
