// Products on Hopper's tensor cores (sm_90a), of 16-bit floats, and of float as tf32 where a plan allows that: two warpgroups
// multiply 64 rows each, straight from shared memory. Of float they leave out the last 13 bits (PTX ISA, wgmma.mma_async, .tf32),
// and both operands must have their lines along the sum.
//
// Stages are lines of 128 bytes with the 128-byte swizzle (PTX ISA, wgmma, "Canonical Layouts"). Weights lie in global memory as
// the stages want them, so that one thread brings a stage of B by one bulk copy, which completes on an mbarrier. What is not
// packed is brought by all threads, with cp.async or ordinary stores, so that a window of a convolution or an expression needs no
// other path; each writer fences before the barrier that shows it to wgmma, which reads through another proxy.
//
// There is no warp that only copies: all tasks of a kernel share 256 threads, whose 255 registers hold the sums, and the one
// thread has two instructions per stage. One multiplication stays under way across the barrier of a step, so that the tensor
// cores have work while warps meet; what it reads is overwritten two steps later.
#pragma once
#include "hopper.cuh"
#include "product.cuh"
#if FX_ARCH >= 900

// Weights in blocks of 64 lines (columns) of 128 bytes along k: `of(n)` gives a function of (fold, k) that gives the address of a
// block, for multiples of 64 and of the line. Blocks of neighbouring columns follow each other; those that hold the last columns
// and the last k are whole.
template <class T, class Of>
struct fx_packed {
    using element = T;
    const Of& of;
};
template <class T, class Of>
FX_DEVICE fx_packed<T, Of> fx_packed_source(const Of& of) {
    return {of};
}

// Brings an operand's stages with all threads; see fx_loader.
template <class Source, int OUTER, int BK>
struct fx_stage_loader : fx_loader<Source, OUTER, BK, -1> {
    static constexpr bool BULK = false;
    using fx_loader<Source, OUTER, BK, -1>::fx_loader;
};

// Brings them with one thread. Columns from `stop` rounded up to a block on are not brought, and what is summed for them is not used.
template <class T, class Of, int OUTER, int BK>
struct fx_stage_loader<fx_packed<T, Of>, OUTER, BK> {
    static constexpr bool BULK = true, ALONG = true;
    static constexpr int BLOCK = 64, SIZE = OUTER * BK;
    static_assert(BK * sizeof(T) == 128 && OUTER % BLOCK == 0, "a stage is made of whole blocks");

    decltype(fx_value<const Of&>()(fx_int())) at;
    fx_u32 bytes;

    FX_MEMBER fx_stage_loader(const fx_packed<T, Of>& from, fx_int first, fx_int stop)
        : at(from.of(first)),
          bytes((fx_u32)(stop - first < OUTER ? (stop - first + BLOCK - 1) / BLOCK * BLOCK : OUTER) * 128) {}

    template <class Fold>
    FX_MEMBER void fetch(T* slot, const Fold& fold, fx_u64* full) const {
        if (fx_thread() != 0) return;
        fx_mbarrier_expect(full, bytes);
        fx_bulk_load(slot, at(fold, fold.k()), bytes, full);
    }
};

template <class T, int BN, int BK>
struct fx_hopper {
    template <class Left, class Right>
    struct core {
        using Sum = float;
        using Element = T;
        static constexpr int ROWS = 128, COLUMNS = BN, DEPTH = BK, SLICES = 1;
        static_assert(BK * sizeof(T) == 128, "a stage is 128 bytes of the sum");
        using Kind = typename fx_mma_kind<T>::type;
        using LeftLoader = fx_stage_loader<Left, ROWS, BK>;
        using RightLoader = fx_stage_loader<Right, BN, BK>;

        float sum[BN / 2];

        // Sums begin at zero in each tile, not once: else ptxas keeps them alive around the loop over tasks.
        FX_MEMBER void clear() { FX_UNROLL for (int i = 0; i < BN / 2; i++) sum[i] = 0.0f; }

        // PTX ISA, wgmma, "Strides": with lines along the sum, eight lines are 1024 bytes (stride), and the leading offset is not
        // used. With lines along rows, eight steps of the sum are 1024 bytes, and the next 64 rows come after all steps (leading).
        template <class Loader>
        static FX_MEMBER fx_u64 describe(const T* panel, int outer) {
            return fx_descriptor(panel + outer * BK, Loader::ALONG ? 16 : 128 * BK, 1024, FX_SWIZZLE_128);
        }
        // What one instruction's steps of the sum add to a descriptor, whose addresses count 16 bytes: 32 bytes of a line, which
        // the swizzle allows since it is made of address bits, or 16 lines.
        template <class Loader>
        static constexpr fx_u64 STEP = Loader::ALONG ? 2 : 128;

        FX_MEMBER void multiply(const T* left, const T* right) {
            fx_u64 a = describe<LeftLoader>(left, fx_thread() / 128 * 64), b = describe<RightLoader>(right, 0);
            fx_wgmma_fence();
            FX_UNROLL for (int q = 0; q < 4; q++)
                fx_wgmma<Kind, BN, LeftLoader::ALONG ? 0 : 1, RightLoader::ALONG ? 0 : 1>(
                    sum, a + q * STEP<LeftLoader>, b + q * STEP<RightLoader>);
            fx_wgmma_commit();
        }

        // After the last wait: the compiler does not know that sums come with it, and could read registers ahead of it.
        FX_MEMBER void settle() {
#ifndef FX_EMULATED
            FX_UNROLL for (int i = 0; i < BN / 2; i++) asm volatile("" : "+f"(sum[i])::"memory");
#endif
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

// The stages of a product, one after the other over all its tiles. Stages i - 1 and i may be read while stage i + AHEAD is brought,
// so there are two more than that. `full` has an mbarrier per stage, for bulk copies.
template <int STAGES, class Core>
struct fx_ring {
    using T = typename Core::Element;
    using Left = typename Core::LeftLoader;
    using Right = typename Core::RightLoader;
    static constexpr int STAGE = Left::SIZE + Right::SIZE, AHEAD = STAGES - 2;
    static_assert(AHEAD >= 1, "a stage is brought while two are read");
    static constexpr int BYTES = STAGES * STAGE * (int)sizeof(T);

    T* slots;
    fx_u64* full;
    int now;       // the stage of this step
    fx_u32 phase;  // of its mbarrier: how often the ring went round, modulo 2

    FX_MEMBER fx_ring(char* shared) : slots((T*)shared), full((fx_u64*)(shared + BYTES)), now(0), phase(0) {
        if constexpr (Right::BULK) {
            if (fx_thread() == 0) {
                FX_UNROLL for (int i = 0; i < STAGES; i++) fx_mbarrier_init(full + i, 1);
                fx_mbarrier_init_fence();
            }
        }
    }
    // The memory is somebody else's next; all threads have waited for their last stage.
    FX_MEMBER void retire() {
        if constexpr (Right::BULK) {
            if (fx_thread() == 0) {
                FX_UNROLL for (int i = 0; i < STAGES; i++) fx_mbarrier_retire(full + i);
            }
        }
    }

    template <class Fold>
    FX_MEMBER void bring(int by, Left& left, Right& right, Fold& fold) {
        const int at = now + by < STAGES ? now + by : now + by - STAGES;
        T* slot = slots + at * STAGE;
        left.fetch(slot, fold);
        if constexpr (Right::BULK)
            right.fetch(slot + Left::SIZE, fold, full + at);
        else
            right.fetch(slot + Left::SIZE, fold);
        left.put(slot);
        if constexpr (!Right::BULK) right.put(slot + Left::SIZE);
        fold.advance(Core::DEPTH);
    }

    // One tile's sums.
    template <class Fold>
    FX_MEMBER void sum(Core& core, Left& left, Right& right, Fold fold) {
        fold.restart();
        const fx_int steps = fold.steps(Core::DEPTH);
        // what lay here was written and read through the generic proxy; bulk copies write through the other one
        fx_fence_async_shared();
        fx_barrier();
        FX_KEEP_LOOP for (int s = 0; s < AHEAD; s++) {
            if (s < steps) bring(s, left, right, fold);
            fx_copy_async_commit();
        }
        FX_KEEP_LOOP for (fx_int i = 0; i < steps; i++) {
            fx_copy_async_wait<AHEAD - 1>();
            fx_fence_async_shared();
            fx_barrier();  // what threads brought is there, and every warp has seen the end of the multiplication two steps before
            if constexpr (Right::BULK) fx_mbarrier_wait(full + now, phase);
            core.multiply(slots + now * STAGE, slots + now * STAGE + Left::SIZE);
            if (i + AHEAD < steps) bring(AHEAD, left, right, fold);
            fx_copy_async_commit();
            fx_wgmma_wait<1>();
            if (++now == STAGES) now = 0, phase ^= 1;
        }
        fx_wgmma_wait<0>();
        core.settle();
        fx_copy_async_wait<0>();
        fx_barrier();
    }
};

template <class T, int BM, int BN, int BK, int STAGES, class Left, class Right, class Fold, class Done>
FX_DEVICE void fx_product_wgmma(
    char* shared, fx_range rows, fx_range columns, const Fold& fold, const Left& left, const Right& right, const Done& done) {
    using Core = typename fx_hopper<T, BN, BK>::template core<Left, Right>;
    using Ring = fx_ring<STAGES, Core>;
    static_assert(BM == Core::ROWS, "two warpgroups have 64 rows each");
    static_assert(BM * (BN + 8) * (int)sizeof(float) <= Ring::BYTES, "sums are handed on through the stages, beside the mbarriers");
    Ring ring(shared);
    for (fx_int m = rows.start; m < rows.end; m += BM) {
        for (fx_int n = columns.start; n < columns.end; n += BN) {
            typename Core::LeftLoader a(left, m, rows.end);
            typename Core::RightLoader b(right, n, columns.end);
            Core core;
            core.clear();
            ring.sum(core, a, b, fold);
            fx_finish<BM, BN>(shared, core, fx_range{m, rows.end}, fx_range{n, columns.end}, done);
        }
    }
    ring.retire();
}
#endif
