// Products of 16-bit floats on Hopper's tensor cores (sm_90a): two warpgroups multiply 64 rows each, straight from shared memory.
//
// Stages are core matrices without a swizzle, which both directions of A and B can have (PTX ISA, wgmma, "Matrix Descriptor
// Format"; CUTLASS calls the layout INTERLEAVE). They are written by cp.async or by ordinary stores, so that a window of a
// convolution or an expression needs no other path; each writer fences before the barrier that shows them to wgmma, which reads
// through another proxy. One multiplication stays under way across that barrier; what it reads is overwritten two steps later.
#pragma once
#include "hopper.cuh"
#include "product.cuh"
#if FX_ARCH >= 900

template <class T, int BN, int BK>
struct fx_hopper {
    template <class Left, class Right>
    struct core {
        using Sum = float;
        static constexpr int ROWS = 128, COLUMNS = BN, DEPTH = BK, SLICES = 1;
        static_assert(sizeof(T) == 2 && BK % 16 == 0, "16-bit elements, 16 steps at once");
        using LeftLoader = fx_loader<Left, ROWS, BK, -1>;
        using RightLoader = fx_loader<Right, BN, BK, -1>;

        float sum[BN / 2];

        // Sums begin at zero in each tile, not once: else ptxas keeps them alive around the loop over tasks.
        FX_MEMBER void clear() { FX_UNROLL for (int i = 0; i < BN / 2; i++) sum[i] = 0.0f; }

        // Core matrices follow each other along lines: along the sum where lines are rows, else along the rows.
        template <class Loader>
        static FX_MEMBER fx_u64 describe(const T* panel, int outer) {
            constexpr int NEXT = 128, DOWN = Loader::PER_LINE * 128;
            const char* start = (const char*)panel + outer / 8 * (Loader::ALONG ? DOWN : NEXT);
            return Loader::ALONG ? fx_descriptor(start, NEXT, DOWN) : fx_descriptor(start, DOWN, NEXT);
        }
        // What 16 steps of the sum add to a descriptor, whose addresses count 16 bytes.
        template <class Loader>
        static constexpr fx_u64 STEP = 2 * (Loader::ALONG ? 128 : Loader::PER_LINE * 128) / 16;

        FX_MEMBER void multiply(const T* left, const T* right) {
            fx_u64 a = describe<LeftLoader>(left, fx_thread() / 128 * 64), b = describe<RightLoader>(right, 0);
            fx_wgmma_fence();
            FX_UNROLL for (int q = 0; q < BK / 16; q++)
                fx_wgmma<T, BN, LeftLoader::ALONG ? 0 : 1, RightLoader::ALONG ? 0 : 1>(
                    sum, a + q * STEP<LeftLoader>, b + q * STEP<RightLoader>);
            fx_wgmma_commit();
        }

        FX_MEMBER void unload(float* tile, int pitch, int) {
            float* corner = tile + (fx_warp() * 16 + fx_lane() / 4) * pitch + fx_lane() % 4 * 2;
            FX_UNROLL for (int i = 0; i < BN / 2; i += 2) {
                fx_vector<float, 2> pair = {{sum[i], sum[i + 1]}};
                fx_store_vector<2>(corner + i / 2 % 2 * 8 * pitch + i / 4 * 8, pair);
            }
        }
    };
};

// One tile's sums. Stages i - 1 and i may be read while stage i + AHEAD is brought, so there are two more than that.
template <int STAGES, class Core, class Left, class Right, class Fold>
FX_DEVICE void fx_pipeline_wgmma(char* shared, Core& core, Left& left, Right& right, Fold fold) {
    using T = typename Left::T;
    constexpr int STAGE = Left::SIZE + Right::SIZE, AHEAD = STAGES - 2;
    static_assert(AHEAD >= 1, "a stage is brought while two are read");
    T* slots = (T*)shared;
    fold.restart();
    fx_int steps = fold.steps(Core::DEPTH);
    FX_UNROLL for (int s = 0; s < AHEAD; s++) {
        if (s < steps) {
            T* slot = slots + s * STAGE;
            left.fetch(slot, fold);
            right.fetch(slot + Left::SIZE, fold);
            left.put(slot);
            right.put(slot + Left::SIZE);
            fold.advance(Core::DEPTH);
        }
        fx_copy_async_commit();
    }
    int full = 0, free = AHEAD;
    FX_KEEP_LOOP for (fx_int i = 0; i < steps; i++) {
        fx_copy_async_wait<AHEAD - 1>();
        fx_fence_async_shared();
        fx_barrier();  // stage i is there, and every warp has seen the end of the multiplication two steps before
        T *slot = slots + full * STAGE, *next = slots + free * STAGE;
        core.multiply(slot, slot + Left::SIZE);
        if (i + AHEAD < steps) {
            left.fetch(next, fold);
            right.fetch(next + Left::SIZE, fold);
            fold.advance(Core::DEPTH);
            left.put(next);
            right.put(next + Left::SIZE);
        }
        fx_copy_async_commit();
        fx_wgmma_wait<1>();
        full = full + 1 == STAGES ? 0 : full + 1;
        free = free + 1 == STAGES ? 0 : free + 1;
    }
    fx_wgmma_wait<0>();
    fx_copy_async_wait<0>();
    fx_barrier();
}

template <class T, int BM, int BN, int BK, int STAGES, class Left, class Right, class Fold, class Done>
FX_DEVICE void fx_product_wgmma(
    char* shared, fx_range rows, fx_range columns, const Fold& fold, const Left& left, const Right& right, const Done& done) {
    using Core = typename fx_hopper<T, BN, BK>::template core<Left, Right>;
    static_assert(BM == Core::ROWS, "two warpgroups have 64 rows each");
    for (fx_int m = rows.start; m < rows.end; m += BM) {
        for (fx_int n = columns.start; n < columns.end; n += BN) {
            typename Core::LeftLoader a(left, m, rows.end);
            typename Core::RightLoader b(right, n, columns.end);
            Core core;
            core.clear();
            fx_pipeline_wgmma<STAGES>(shared, core, a, b, fold);
            fx_finish<BM, BN>(shared, core, fx_range{m, rows.end}, fx_range{n, columns.end}, done);
        }
    }
}
#endif
