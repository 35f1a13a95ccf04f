// Merging the states of a fold: of the lanes of a warp, of the warps of a block. Always in the same order.
#pragma once
#include "sync.cuh"

// The merge of all lanes' states, in every lane. `merge(s, t)` may not care which of the two came first.
template <class State, class Merge>
FX_DEVICE State fx_warp_merge(State state, const Merge& merge) {
    FX_UNROLL for (int by = 16; by > 0; by >>= 1) {
        const State other = fx_shuffle_xor(state, by);
        // the lower lane comes first, in both lanes of a pair: they get the same bits
        state = (fx_lane() & by) ? merge(other, state) : merge(state, other);
    }
    return state;
}

// The merge of all threads' states, in every thread. `memory` is shared, with room for a state per warp; the barriers inside
// keep one merge apart from the next one in the same memory.
template <class State, class Merge>
FX_DEVICE State fx_block_merge(State state, char* memory, const Merge& merge) {
    State* states = (State*)memory;
    state = fx_warp_merge(state, merge);
    if (fx_lane() == 0) states[fx_warp()] = state;
    fx_barrier();
    state = states[0];
    FX_UNROLL for (int w = 1; w < FX_WARPS; w++) state = merge(state, states[w]);
    fx_barrier();
    return state;
}

// The merge of the states of all warps, lane by lane, in every thread. `memory` is shared, with room for a state per thread.
template <class State, class Merge>
FX_DEVICE State fx_lane_merge(State state, char* memory, const Merge& merge) {
    State* states = (State*)memory;
    states[fx_thread()] = state;
    fx_barrier();
    state = states[fx_lane()];
    FX_UNROLL for (int w = 1; w < FX_WARPS; w++) state = merge(state, states[w * 32 + fx_lane()]);
    fx_barrier();
    return state;
}
