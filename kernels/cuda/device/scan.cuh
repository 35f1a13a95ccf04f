// Running sums of a line by all threads of a block, a chunk at a time: each thread sums a few neighbouring elements, warps find
// what stands before each of their lanes with shuffles (Hillis and Steele, 1986), and a total per warp goes through shared memory.
// What a chunk adds up to is carried on to the next. The order of the additions depends on the length of the line alone.
#pragma once
#include "sync.cuh"

// load(i) is element i of `count`; store(i, value) takes the sum of `start` and all elements up to i, without element i itself
// where EXCLUSIVE. `join(a, b)` adds, and `join(start, x)` is x. `memory` is shared, with room for a T per warp.
template <class T, int ITEMS, bool EXCLUSIVE, class Load, class Store, class Join>
FX_DEVICE void fx_scan(
    char* memory, fx_int count, const T start, const Load& load, const Store& store, const Join& join) {
    T* totals = (T*)memory;
    T carry = start;
    FX_KEEP_LOOP for (fx_int base = 0; base < count; base += FX_THREADS * ITEMS) {
        const fx_int first = base + fx_thread() * ITEMS;
        T item[ITEMS];
        FX_UNROLL for (int i = 0; i < ITEMS; i++) item[i] = first + i < count ? load(first + i) : start;
        T upto = item[0];
        FX_UNROLL for (int i = 1; i < ITEMS; i++) upto = join(upto, item[i]);
        FX_UNROLL for (int by = 1; by < 32; by <<= 1) {
            const T other = fx_shuffle_up(upto, by);
            if (fx_lane() >= by) upto = join(other, upto);
        }
        if (fx_lane() == 31) totals[fx_warp()] = upto;
        const T lanes = fx_shuffle_up(upto, 1);
        fx_barrier();
        T before = carry;
        FX_UNROLL for (int w = 0; w < FX_WARPS; w++) {
            if (w == fx_warp()) before = carry;
            carry = join(carry, totals[w]);
        }
        if (fx_lane() > 0) before = join(before, lanes);
        FX_UNROLL for (int i = 0; i < ITEMS; i++) {
            const T after = join(before, item[i]);
            if (first + i < count) store(first + i, EXCLUSIVE ? before : after);
            before = after;
        }
        fx_barrier();
    }
}
