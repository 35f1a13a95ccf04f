// The primitives of fusec/ir/expr.py as that file defines them, and the integer functions of index polynomials.
//
// Accuracy. f32 and f64 add, sub, mul, div, sqrt and the roundings are those of IEEE 754; products may be contracted into FMA.
// Transcendentals are CUDA's functions without fast math (CUDA C++ Programming Guide, Mathematical Functions), in units of the
// last place of f32 / f64 at most: exp 2 / 1, log 1 / 1, sin 2 / 2, cos 2 / 2, tan 4 / 2, asin 2 / 2, acos 2 / 2, atan 2 / 2,
// sinh 3 / 2, cosh 2 / 1, tanh 2 / 1, asinh 3 / 3, acosh 4 / 3, atanh 3 / 2, erf 2 / 2, pow 4 / 2. Emulated they are those of
// the C library. 16-bit floats are computed in float and rounded once.
#pragma once
#include "memory.cuh"

// ---- 16-bit floats as the floats they are

FX_DEVICE float fx_round_half(float x) { return fx_float(fx_to_half(x)); }
FX_DEVICE float fx_round_bf16(float x) { return fx_float(fx_to_bf16(x)); }

// ---- floats

FX_DEVICE float fx_abs(float x) { return fabsf(x); }
FX_DEVICE double fx_abs(double x) { return fabs(x); }
FX_DEVICE bool fx_isnan(float x) { return x != x; }
FX_DEVICE bool fx_isnan(double x) { return x != x; }
FX_DEVICE bool fx_isinf(float x) { return fabsf(x) == fx_bits<float>(0x7f800000u); }
FX_DEVICE bool fx_isinf(double x) { return fabs(x) == fx_bits<double>(0x7ff0000000000000ull); }

// NaN where either argument is NaN.
FX_DEVICE float fx_max(float x, float y) {
#ifdef FX_EMULATED
    return x != x || y != y ? fx_bits<float>(0x7fc00000u) : x > y ? x : y;
#else
    float z;
    asm("max.NaN.f32 %0, %1, %2;" : "=f"(z) : "f"(x), "f"(y));
    return z;
#endif
}
FX_DEVICE float fx_min(float x, float y) {
#ifdef FX_EMULATED
    return x != x || y != y ? fx_bits<float>(0x7fc00000u) : x < y ? x : y;
#else
    float z;
    asm("min.NaN.f32 %0, %1, %2;" : "=f"(z) : "f"(x), "f"(y));
    return z;
#endif
}
FX_DEVICE double fx_max(double x, double y) { return x != x ? x : y != y ? y : x > y ? x : y; }
FX_DEVICE double fx_min(double x, double y) { return x != x ? x : y != y ? y : x < y ? x : y; }

#define FX_REAL(name, f, d)                            \
    FX_DEVICE float fx_##name(float x) { return f(x); } \
    FX_DEVICE double fx_##name(double x) { return d(x); }
FX_REAL(floor, floorf, floor)
FX_REAL(ceil, ceilf, ceil)
FX_REAL(round, rintf, rint)
FX_REAL(trunc, truncf, trunc)
FX_REAL(exp, expf, exp)
FX_REAL(log, logf, log)
FX_REAL(sin, sinf, sin)
FX_REAL(cos, cosf, cos)
FX_REAL(tan, tanf, tan)
FX_REAL(asin, asinf, asin)
FX_REAL(acos, acosf, acos)
FX_REAL(atan, atanf, atan)
FX_REAL(sinh, sinhf, sinh)
FX_REAL(cosh, coshf, cosh)
FX_REAL(tanh, tanhf, tanh)
FX_REAL(asinh, asinhf, asinh)
FX_REAL(acosh, acoshf, acosh)
FX_REAL(atanh, atanhf, atanh)
FX_REAL(erf, erff, erf)
#undef FX_REAL

// Reciprocals, of a number and of its root, to a few digits: zero, infinity and NaN are right.
FX_DEVICE double fx_coarse_reciprocal(double x) {
#ifdef FX_EMULATED
    return fx_bits<double>(fx_bits<fx_u64>(1.0 / x) & ~0ull << 38);
#else
    double y;
    asm("rcp.approx.ftz.f64 %0, %1;" : "=d"(y) : "d"(x));
    return y;
#endif
}
FX_DEVICE double fx_coarse_rsqrt(double x) {
#ifdef FX_EMULATED
    return fx_bits<double>(fx_bits<fx_u64>(1.0 / sqrt(x)) & ~0ull << 38);
#else
    double y;
    asm("rsqrt.approx.ftz.f64 %0, %1;" : "=d"(y) : "d"(x));
    return y;
#endif
}

// Quotient and root of floats without a call: what ptxas makes of them ends in subroutines, and a function that calls one may not
// have products under way (module.py). In doubles, with Newton's steps and one for what is left over: 52 digits, and no quotient
// of floats is nearer to the middle between two floats than 49 of them tell apart, no root nearer than 50; where it is the
// middle, among subnormals, doubles hold it exactly.
FX_DEVICE float fx_quotient_inline(float x, float y) {
    const double a = x, b = y, coarse = fx_coarse_reciprocal(b), about = a * coarse;
    double r = coarse;
    r = fma(r, fma(-b, r, 1.0), r);
    r = fma(r, fma(-b, r, 1.0), r);
    const double q = a * r;
    const bool is_plain = about != 0.0 && fabs(about) < fx_bits<double>(0x7ff0000000000000ull);
    return (float)(is_plain ? fma(r, fma(-b, q, a), q) : about);
}
FX_DEVICE float fx_root_inline(float x) {
    const double a = x;
    double r = fx_coarse_rsqrt(a);
    r = fma(0.5 * r, fma(-a * r, r, 1.0), r);
    r = fma(0.5 * r, fma(-a * r, r, 1.0), r);
    const double s = a * r;
    return x == 0.0f || x == fx_bits<float>(0x7f800000u) ? x : (float)fma(fma(-s, s, a), 0.5 * r, s);
}

#if defined(FX_NO_CALLS) && !defined(FX_EMULATED)
FX_DEVICE float fx_div(float x, float y) { return fx_quotient_inline(x, y); }
FX_DEVICE float fx_sqrt(float x) { return fx_root_inline(x); }
#else
FX_DEVICE float fx_div(float x, float y) { return x / y; }
FX_DEVICE float fx_sqrt(float x) { return sqrtf(x); }
#endif
FX_DEVICE double fx_div(double x, double y) { return x / y; }
FX_DEVICE double fx_sqrt(double x) { return sqrt(x); }

FX_DEVICE float fx_pow(float x, float y) { return powf(x, y); }
FX_DEVICE double fx_pow(double x, double y) { return pow(x, y); }
FX_DEVICE float fx_floordiv(float x, float y) { return floorf(fx_div(x, y)); }
FX_DEVICE double fx_floordiv(double x, double y) { return floor(x / y); }
FX_DEVICE float fx_rem(float x, float y) { return fmodf(x, y); }
FX_DEVICE double fx_rem(double x, double y) { return fmod(x, y); }

// The remainder with the divisor's sign; a zero has it, too.
template <class T>
FX_DEVICE T fx_floored(T rest, T y, T zero) {
    if (rest == 0) return zero;
    return (rest < 0) != (y < 0) ? rest + y : rest;
}
FX_DEVICE float fx_mod(float x, float y) { return fx_floored(fmodf(x, y), y, copysignf(0.0f, y)); }
FX_DEVICE double fx_mod(double x, double y) { return fx_floored(fmod(x, y), y, copysign(0.0, y)); }

// ---- integers: arithmetic wraps, in the unsigned type of at least 32 bits

template <class T>
struct fx_integer {
    static constexpr int bits = 8 * sizeof(T);
    static constexpr bool is_signed = (T)-1 < (T)0;
    static constexpr T least = is_signed ? (T)(1ull << (bits - 1)) : (T)0;
    static constexpr T most = (T)~least;
};
template <bool Long>
struct fx_unsigned {
    typedef fx_u32 type;
};
template <>
struct fx_unsigned<true> {
    typedef fx_u64 type;
};
template <class T>
using fx_wrapping = typename fx_unsigned<(sizeof(T) > 4)>::type;

template <class T>
FX_DEVICE T fx_add(T x, T y) { return (T)((fx_wrapping<T>)x + (fx_wrapping<T>)y); }
template <class T>
FX_DEVICE T fx_sub(T x, T y) { return (T)((fx_wrapping<T>)x - (fx_wrapping<T>)y); }
template <class T>
FX_DEVICE T fx_mul(T x, T y) { return (T)((fx_wrapping<T>)x * (fx_wrapping<T>)y); }
template <class T>
FX_DEVICE T fx_neg(T x) { return (T)((fx_wrapping<T>)0 - (fx_wrapping<T>)x); }
template <class T>
FX_DEVICE T fx_abs(T x) { return x < 0 ? fx_neg(x) : x; }
template <class T>
FX_DEVICE T fx_max(T x, T y) { return x > y ? x : y; }
template <class T>
FX_DEVICE T fx_min(T x, T y) { return x < y ? x : y; }
template <class T>
FX_DEVICE T fx_bitand(T x, T y) { return (T)(x & y); }
template <class T>
FX_DEVICE T fx_bitor(T x, T y) { return (T)(x | y); }
template <class T>
FX_DEVICE T fx_bitxor(T x, T y) { return (T)(x ^ y); }
template <class T>
FX_DEVICE T fx_bitnot(T x) { return (T)~x; }

// The least value divided by -1 is itself; a divisor of 0 gives 0.
template <class T>
FX_DEVICE bool fx_overflows(T x, T y) { return fx_integer<T>::is_signed && y == (T)-1 && x == fx_integer<T>::least; }
template <class T>
FX_DEVICE T fx_div(T x, T y) { return y == 0 ? (T)0 : fx_overflows(x, y) ? x : (T)(x / y); }
template <class T>
FX_DEVICE T fx_rem(T x, T y) { return y == 0 || fx_overflows(x, y) ? (T)0 : (T)(x % y); }
template <class T>
FX_DEVICE T fx_mod(T x, T y) {
    const T rest = fx_rem(x, y);
    return rest != 0 && (rest < 0) != (y < 0) ? (T)(rest + y) : rest;
}
template <class T>
FX_DEVICE T fx_floordiv(T x, T y) {
    const T rest = fx_rem(x, y);
    return (T)(fx_div(x, y) - (rest != 0 && (rest < 0) != (y < 0) ? 1 : 0));
}

// By the width or more, or by a negative number: nothing of x is left but its sign.
template <class T>
FX_DEVICE bool fx_is_shift(T by) { return (fx_u64)by < (fx_u64)fx_integer<T>::bits; }
template <class T>
FX_DEVICE T fx_shl(T x, T by) { return fx_is_shift(by) ? (T)((fx_wrapping<T>)x << (int)by) : (T)0; }
template <class T>
FX_DEVICE T fx_shr(T x, T by) { return fx_is_shift(by) ? (T)(x >> (int)by) : x < 0 ? (T)-1 : (T)0; }

// Square and multiply; a negative exponent gives the truncated quotient 1 / x^n, 0 for x = 0.
template <class T>
FX_DEVICE T fx_pow(T x, T exponent) {
    if (exponent < 0) return x == 1 ? x : fx_integer<T>::is_signed && x == (T)-1 ? ((exponent & 1) ? x : (T)1) : (T)0;
    T out = 1;
    for (fx_u64 left = (fx_u64)exponent; left != 0; left >>= 1) {
        if (left & 1) out = fx_mul(out, x);
        x = fx_mul(x, x);
    }
    return out;
}

// ---- casts

// A float as an integer: towards zero, saturated outside the range, 0 for NaN.
template <class To, class From>
FX_DEVICE To fx_truncate(From x) {
    typedef fx_integer<To> I;
    const From end = (From)2 * (From)(1ull << (I::bits - I::is_signed - 1));
    const From begin = I::is_signed ? -end : (From)0;
    if (!(x > begin)) return x == x ? I::least : (To)0;
    return x >= end ? I::most : (To)x;
}

// ---- indices

template <class T>
FX_DEVICE T fx_least(T x, T y) { return x < y ? x : y; }
template <class T>
FX_DEVICE T fx_most(T x, T y) { return x > y ? x : y; }
FX_DEVICE bool fx_is_below(int i, int size) { return (fx_u32)i < (fx_u32)size; }
FX_DEVICE bool fx_is_below(long long i, long long size) { return (fx_u64)i < (fx_u64)size; }

// Quotients rounded down (or up) and remainders of that; a divisor below 1 counts as 1, it belongs to an empty loop. `plain`:
// neither argument is negative.
FX_DEVICE int fx_quotient_plain(int x, int y) { return (int)((fx_u32)x / (fx_u32)fx_most(y, 1)); }
FX_DEVICE int fx_remainder_plain(int x, int y) { return (int)((fx_u32)x % (fx_u32)fx_most(y, 1)); }
FX_DEVICE long long fx_quotient_plain(long long x, long long y) { return (long long)((fx_u64)x / (fx_u64)fx_most(y, 1ll)); }
FX_DEVICE long long fx_remainder_plain(long long x, long long y) { return (long long)((fx_u64)x % (fx_u64)fx_most(y, 1ll)); }
template <class T>
FX_DEVICE T fx_quotient(T x, T y) {
    y = fx_most(y, (T)1);
    return x / y - (x % y < 0);
}
template <class T>
FX_DEVICE T fx_remainder(T x, T y) {
    y = fx_most(y, (T)1);
    const T rest = x % y;
    return rest < 0 ? rest + y : rest;
}
template <class T>
FX_DEVICE T fx_quotient_up(T x, T y) { return -fx_quotient(-x, y); }

// The first index that is out of range goes to the status block: code 1 and the index.
FX_DEVICE void fx_report(long long* status, long long index) {
    if (fx_atomic_swap_if((fx_u64*)status, 0ull, 1ull) == 0) status[2] = index;
}
