// Attention whose positions go by in blocks: what becomes of a block of scores between its two products.
//
// `held` are the scores of a block of positions, a line of `pitch` floats for each row. Per row, `top` is the largest score so
// far, `total` the sum of the powers e^(score - top), and `shrink` what earlier sums must be multiplied by where `top` grew.
#pragma once
#include "folds.cuh"
#include "math.cuh"

// The largest score of a row that has seen nothing: minus infinity.
FX_DEVICE float fx_stream_none() { return fx_bits<float>(0xff800000u); }

// Nothing is seen yet. All threads; a barrier must follow.
FX_DEVICE void fx_stream_start(float* sums, long long size, float* top, float* total, int rows) {
    for (long long i = fx_thread(); i < size; i += FX_THREADS) sums[i] = 0.0f;
    for (int r = fx_thread(); r < rows; r += FX_THREADS) {
        top[r] = fx_stream_none();
        total[r] = 0.0f;
    }
}

// Scores become powers, a warp per row. CLEAN: where a power is NaN the product with the values reads 0, the total does not.
// A NaN score is left out of the largest and turns up in the sum. Barriers must stand before and after.
template <bool CLEAN>
FX_DEVICE void fx_stream_powers(float* held, int pitch, int rows, int count, float* top, float* total, float* shrink) {
    const float none = fx_stream_none();
    for (int r = fx_warp(); r < rows; r += FX_WARPS) {
        float* line = held + r * pitch;
        float largest = none;
        for (int c = fx_lane(); c < count; c += 32) largest = line[c] > largest ? line[c] : largest;
        FX_UNROLL for (int by = 16; by > 0; by >>= 1) {
            const float other = fx_shuffle_xor(largest, by);
            largest = other > largest ? other : largest;
        }
        const float old = top[r], now = largest > old ? largest : old, base = now == none ? 0.0f : now;
        float sum = 0.0f;
        for (int c = fx_lane(); c < count; c += 32) {
            const float power = expf(line[c] - base);
            sum += power;
            line[c] = CLEAN && power != power ? 0.0f : power;
        }
        FX_UNROLL for (int by = 16; by > 0; by >>= 1) sum += fx_shuffle_xor(sum, by);
        fx_warp_barrier();
        if (fx_lane() == 0) {
            const float less = expf(old - base);
            top[r] = now;
            total[r] = total[r] * less + sum;
            shrink[r] = CLEAN && less != less ? 0.0f : less;
        }
    }
}

// A row that saw nothing has no sum: its total is NaN.
FX_DEVICE float fx_stream_total(float top, float total) { return top == fx_stream_none() ? fx_bits<float>(0x7fc00000u) : total; }
