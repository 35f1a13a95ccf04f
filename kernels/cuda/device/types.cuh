// Scalar types and the few macros that let one text compile with NVRTC and, where FX_EMULATED is defined, with g++ or clang++.
// No CUDA header is used: NVRTC embeds none, and cooperative_groups.h alone would cost more time than a whole module.
//
// FX_ARCH is 800 or 900 on both paths; __CUDA_ARCH__ exists only on one of them.
#pragma once

#ifndef FX_ARCH
#define FX_ARCH 800
#endif

#define FX_THREADS 256
// Blocks that a multiprocessor must be able to hold: without a number ptxas saves registers for more and spills.
#ifndef FX_RESIDENT
#define FX_RESIDENT 1
#endif
#define FX_WARPS (FX_THREADS / 32)
#define FX_LINE 16  // 64-bit words from one counter to the next: 128 bytes, the unit in which L2 keeps apart what blocks update

#ifdef FX_EMULATED
#include <math.h>
#include <stdint.h>
#include <string.h>

#include "runtime.h"
#define FX_DEVICE static inline
#define FX_ABI
#define FX_NOINLINE static __attribute__((noinline))
#define FX_BODY(name) FX_NOINLINE void name
#define FX_OF_BLOCK
#define FX_KEEPS_OF_BLOCK true
#define FX_UNROLL
#define FX_NO_UNROLL
#define FX_HERE int line = __builtin_LINE()
#define FX_AND_HERE , int line = __builtin_LINE()
#define FX_KERNEL(name) extern "C" __attribute__((visibility("default"))) void name
#else
#define FX_DEVICE static __device__ __forceinline__
#if __CUDACC_VER_MAJOR__ >= 13  // what a function gives back unchanged: no more registers than the task loop needs
#define FX_ABI _Pragma("nv_abi preserve_n_data(8)")
#else
#define FX_ABI
#endif
#define FX_NOINLINE FX_ABI static __device__ __noinline__
#define FX_BODY(name) FX_ABI extern "C" __device__ __noinline__ void name  // linked with the kernel
#define FX_OF_BLOCK __shared__
#define FX_KEEPS_OF_BLOCK (threadIdx.x == 0)
#define FX_UNROLL _Pragma("unroll")
#define FX_NO_UNROLL _Pragma("unroll 1")
#define FX_HERE
#define FX_AND_HERE
#define FX_KERNEL(name) extern "C" __global__ void __launch_bounds__(FX_THREADS, FX_RESIDENT) name
#endif

#ifdef FX_WIDE  // some operand has 2^31 elements or more
typedef long long fx_int;
#else
typedef int fx_int;
#endif

typedef unsigned char fx_u8;
typedef unsigned short fx_u16;
typedef unsigned int fx_u32;
typedef unsigned long long fx_u64;

// 16-bit floats are their bits: arithmetic is done in float and rounded once.
struct fx_half {
    fx_u16 bits;
};
struct fx_bf16 {
    fx_u16 bits;
};

// Reinterprets bits; both types must be of one size.
template <class To, class From>
FX_DEVICE To fx_bits(From x) {
    static_assert(sizeof(To) == sizeof(From), "fx_bits keeps the size");
#ifdef FX_EMULATED
    To y;
    memcpy(&y, &x, sizeof y);
    return y;
#else
    return __builtin_bit_cast(To, x);
#endif
}

FX_DEVICE float fx_float(fx_bf16 x) { return fx_bits<float>((fx_u32)x.bits << 16); }

FX_DEVICE float fx_float(fx_half x) {
#ifdef FX_EMULATED
    fx_u32 sign = (fx_u32)(x.bits & 0x8000) << 16, rest = x.bits & 0x7fff;
    if (rest >= 0x7c00) return fx_bits<float>(sign | 0x7f800000u | (rest & 0x3ff) << 13);
    if (rest < 0x400) return fx_bits<float>(sign | fx_bits<fx_u32>((float)rest * 5.9604644775390625e-8f));  // times 2^-24
    return fx_bits<float>(sign | ((rest << 13) + (112u << 23)));
#else
    float y;
    asm("cvt.f32.f16 %0, %1;" : "=f"(y) : "h"(x.bits));
    return y;
#endif
}

// Round to nearest, ties to even; a NaN becomes the canonical one, as cvt does (PTX ISA, cvt).
FX_DEVICE fx_bf16 fx_to_bf16(float x) {
#ifdef FX_EMULATED
    fx_u32 u = fx_bits<fx_u32>(x);
    if ((u & 0x7fffffffu) > 0x7f800000u) return {0x7fff};
    return {(fx_u16)((u + 0x7fffu + (u >> 16 & 1)) >> 16)};
#else
    fx_bf16 y;
    asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(y.bits) : "f"(x));
    return y;
#endif
}

FX_DEVICE fx_half fx_to_half(float x) {
#ifdef FX_EMULATED
    fx_u32 u = fx_bits<fx_u32>(x), sign = u >> 16 & 0x8000, rest = u & 0x7fffffffu;
    if (rest > 0x7f800000u) return {0x7fff};
    if (rest >= 0x477ff000u) return {(fx_u16)(sign | 0x7c00)};  // 65520 and more round to infinity
    if (rest < 0x38800000u) {  // below 2^-14: adding a half makes the float unit round at the subnormal's last place
        fx_u32 y = fx_bits<fx_u32>(fx_bits<float>(rest) + 0.5f) - 0x3f000000u;
        return {(fx_u16)(sign | y)};
    }
    return {(fx_u16)(sign | (rest - (112u << 23) + 0xfffu + (rest >> 13 & 1)) >> 13)};
#else
    fx_half y;
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(y.bits) : "f"(x));
    return y;
#endif
}

// A double as the float that rounds to any narrower type as the double would: towards zero, then the last bit is set where
// something was lost (rounding to odd).
FX_DEVICE float fx_odd_float(double x) {
    float y = (float)x;
    if (!(x - x == 0.0)) return y;
    double back = (double)y;
    if (back == x) return y;
    fx_u32 u = fx_bits<fx_u32>(y);
    double size = x < 0 ? -x : x, near = back < 0 ? -back : back;
    if (near > size) u -= 1;
    return fx_bits<float>(u | 1);
}

FX_DEVICE fx_half fx_to_half(double x) { return fx_to_half(fx_odd_float(x)); }
FX_DEVICE fx_bf16 fx_to_bf16(double x) { return fx_to_bf16(fx_odd_float(x)); }

// Two values rounded and packed, the first one in the low half, as mma fragments hold them.
FX_DEVICE fx_u32 fx_pack(fx_half low, fx_half high) { return low.bits | (fx_u32)high.bits << 16; }
FX_DEVICE fx_u32 fx_pack(fx_bf16 low, fx_bf16 high) { return low.bits | (fx_u32)high.bits << 16; }

// N values moved by one instruction where N * sizeof(T) is a power of two up to 16; the address must be a multiple of that.
template <class T, int N>
struct alignas(sizeof(T) * N < 16 ? sizeof(T) * N : 16) fx_vector {
    T at[N];
};
