// Walks over the points of several axes, row-major: an index per axis that advance like the digits of a number, by a step that
// was taken apart once. So there are divisions at the start of a walk and none in its loop.
#pragma once
#include "types.cuh"

#ifdef FX_EMULATED
#define FX_DEVICE_MEMBER inline
#else
#define FX_DEVICE_MEMBER __device__ __forceinline__
#endif

template <int RANK>
struct fx_points {
    fx_int count[RANK];
    fx_int at[RANK];
    fx_int step[RANK];

    // From point number `first` on, every `by`-th one, among count[0] x count[1] x ... points.
    FX_DEVICE_MEMBER void start(fx_int first, fx_int by) {
        fx_u32 rest = (fx_u32)first, left = (fx_u32)by;
        bool empty = false;
        FX_UNROLL for (int k = RANK - 1; k > 0; k--) {
            empty = empty || count[k] <= 0;
            const fx_u32 n = count[k] <= 0 ? 1u : (fx_u32)count[k];
            at[k] = (fx_int)(rest % n);
            step[k] = (fx_int)(left % n);
            rest /= n;
            left /= n;
        }
        at[0] = empty ? count[0] : (fx_int)rest;
        step[0] = (fx_int)left;
    }
    FX_DEVICE_MEMBER bool going() const { return at[0] < count[0]; }
    FX_DEVICE_MEMBER void advance() {
        FX_UNROLL for (int k = RANK - 1; k > 0; k--) {
            at[k] += step[k];
            const bool carry = at[k] >= count[k];
            at[k] -= carry ? count[k] : 0;
            at[k - 1] += carry;
        }
        at[0] += step[0];
    }
};
