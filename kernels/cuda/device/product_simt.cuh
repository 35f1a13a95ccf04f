// Products without tensor cores: every thread keeps a block of sums, for any type that can be multiplied and added.
//
// With blocks of 8 by 8, 16 bytes of shared memory per operand feed 64 multiplications, which is what keeps the arithmetic and not
// shared memory busy (the register tiles of CUTLASS' SIMT kernels have this size). A tile that has fewer than 256 blocks is cut
// into slices of the fold instead: each group of threads sums its own part of every stage, and the parts are added in order at the
// end. Blocks of 4 by 4 make tiles small enough to be many where a product is small.
#pragma once
#include "product.cuh"

FX_DEVICE float fx_multiply_add(float a, float b, float c) {
#ifdef FX_EMULATED
    return __builtin_fmaf(a, b, c);
#else
    return __fmaf_rn(a, b, c);
#endif
}
FX_DEVICE double fx_multiply_add(double a, double b, double c) {
#ifdef FX_EMULATED
    return __builtin_fma(a, b, c);
#else
    return __fma_rn(a, b, c);
#endif
}
FX_DEVICE int fx_multiply_add(int a, int b, int c) { return (int)((fx_u32)a * (fx_u32)b + (fx_u32)c); }
FX_DEVICE fx_u32 fx_multiply_add(fx_u32 a, fx_u32 b, fx_u32 c) { return a * b + c; }
FX_DEVICE long long fx_multiply_add(long long a, long long b, long long c) {
    return (long long)((fx_u64)a * (fx_u64)b + (fx_u64)c);
}
FX_DEVICE fx_u64 fx_multiply_add(fx_u64 a, fx_u64 b, fx_u64 c) { return a * b + c; }

template <class T, int BM, int BN, int BK, int PARTS, int SIDE>
struct fx_simt {
    template <class Left, class Right>
    struct core {
        using Sum = T;
        static constexpr int ROWS = BM, COLUMNS = BN, DEPTH = BK, SLICES = PARTS;
        static constexpr int V = 16 / (int)sizeof(T), GROUP = FX_THREADS / PARTS, SHARE = BK / PARTS;
        static constexpr int DOWN = BM / SIDE, ACROSS = BN / SIDE;  // threads of a group
        static_assert(DOWN * ACROSS == GROUP && DOWN % 4 == 0 && ACROSS % 8 == 0, "a warp has 4 by 8 threads");
        // Steps of the fold whose fragments are in registers at once.
        static constexpr int UNIT = V / 2;
        static_assert(SHARE % V == 0, "a slice of a stage is a multiple of 16 bytes");
        using LeftLoader = fx_loader<Left, BM, BK, V>;
        using RightLoader = fx_loader<Right, BN, BK, V>;

        T sum[SIDE][SIDE];
        int slice, row, column;

        FX_MEMBER core() {
            int t = fx_thread() % GROUP, warp = t / 32, lane = t % 32;
            slice = fx_thread() / GROUP;
            row = warp / (ACROSS / 8) * 4 + lane / 8;
            column = warp % (ACROSS / 8) * 8 + lane % 8;
        }

        // Sums begin at zero in each tile, not once: else ptxas keeps them alive around the loop over tasks.
        FX_MEMBER void clear() {
            FX_UNROLL for (int i = 0; i < SIDE; i++) FX_UNROLL for (int j = 0; j < SIDE; j++) sum[i][j] = T{};
        }

        // Which of the tile's rows (or columns) a thread's i-th one is: lines along k are read one by one and interleaved, so
        // that a warp's addresses fall into different banks; across k a thread reads 16 bytes of neighbours.
        template <bool ALONG, int THREADS>
        static FX_MEMBER int place(int thread, int i) {
            return ALONG ? i * THREADS + thread : i / V * (THREADS * V) + thread * V + i % V;
        }

        // All addresses are constants apart from one, so that a load needs no arithmetic.
        template <class Loader, int THREADS>
        static FX_MEMBER void fragment(T (&x)[UNIT][SIDE], const T* first) {
            if constexpr (Loader::ALONG) {
                FX_UNROLL for (int i = 0; i < SIDE; i++) {
                    fx_vector<T, UNIT> line = fx_load_vector<UNIT>(first + place<true, THREADS>(0, i) * Loader::PITCH);
                    FX_UNROLL for (int v = 0; v < UNIT; v++) x[v][i] = line.at[v];
                }
            } else {
                FX_UNROLL for (int v = 0; v < UNIT; v++) {
                    FX_UNROLL for (int g = 0; g < SIDE; g += V) {
                        fx_vector<T, V> line = fx_load_vector<V>(first + v * Loader::PITCH + place<false, THREADS>(0, g));
                        FX_UNROLL for (int u = 0; u < V; u++) x[v][g + u] = line.at[u];
                    }
                }
            }
        }

        // Where a thread's fragments of a stage begin, and how far they move with a step of the fold.
        template <class Loader, int THREADS>
        static FX_MEMBER int origin(int thread, int k) {
            return Loader::ALONG ? place<true, THREADS>(thread, 0) * Loader::PITCH + k
                                 : k * Loader::PITCH + place<false, THREADS>(thread, 0);
        }
        template <class Loader>
        static constexpr int STRIDE = Loader::ALONG ? 1 : Loader::PITCH;

        FX_MEMBER void multiply(const T* left, const T* right) {
            left += origin<LeftLoader, DOWN>(row, slice * SHARE);
            right += origin<RightLoader, ACROSS>(column, slice * SHARE);
            // written out in full, the fragments of a whole stage would be loaded first and fill the registers
            if constexpr (Left::in_memory && Right::in_memory) {
                FX_UNROLL_2 for (int q = 0; q < SHARE; q += UNIT) step(left, right, q);
            } else {  // elements that are being computed need registers, too
                FX_KEEP_LOOP for (int q = 0; q < SHARE; q += UNIT) step(left, right, q);
            }
        }

        FX_MEMBER void step(const T* left, const T* right, int q) {
            T a[UNIT][SIDE], b[UNIT][SIDE];
            fragment<LeftLoader, DOWN>(a, left + q * STRIDE<LeftLoader>);
            fragment<RightLoader, ACROSS>(b, right + q * STRIDE<RightLoader>);
            FX_UNROLL for (int v = 0; v < UNIT; v++)
                FX_UNROLL for (int i = 0; i < SIDE; i++)
                    FX_UNROLL for (int j = 0; j < SIDE; j++) sum[i][j] = fx_multiply_add(a[v][i], b[v][j], sum[i][j]);
        }

        // Adds the sums of one slice to the tile in shared memory.
        FX_MEMBER void unload(T* tile, int pitch, int turn) {
            if (turn != slice) return;
            FX_UNROLL for (int i = 0; i < SIDE; i++) {
                T* line = tile + place<LeftLoader::ALONG, DOWN>(row, i) * pitch;
                FX_UNROLL for (int j = 0; j < SIDE; j++) {
                    T* p = line + place<RightLoader::ALONG, ACROSS>(column, j);
                    *p = turn == 0 ? sum[i][j] : (T)(*p + sum[i][j]);
                }
            }
        }
    };
};

template <class T, int BM, int BN, int BK, int SLICES, int STAGES, int SIDE, class Left, class Right, class Fold, class Done>
FX_DEVICE void fx_product_simt(
    char* shared, fx_range rows, fx_range columns, const Fold& fold, const Left& left, const Right& right, const Done& done) {
    fx_product<fx_simt<T, BM, BN, BK, SLICES, SIDE>::template core, STAGES>(shared, rows, columns, fold, left, right, done);
}
