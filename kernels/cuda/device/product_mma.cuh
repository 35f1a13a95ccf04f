// Products on tensor cores by mma.sync (sm_80): 16-bit floats, and float rounded to tf32 where a plan allows that.
//
// A warp has WM rows and as many columns as make its share of the block's tile; fragments come by ldmatrix from lines whose
// padding of 16 bytes puts eight of them into different banks. 4-byte elements that lie across k have no such instruction: they
// are read one by one, and lines padded by 8 elements keep those reads apart. Sums are float.
#pragma once
#include "mma.cuh"
#include "product.cuh"

template <class T, int BM, int BN, int BK, int PARTS, int WM>
struct fx_tensor {
    template <class Left, class Right>
    struct core {
        using Sum = float;
        static constexpr int ROWS = BM, COLUMNS = BN, DEPTH = BK, SLICES = PARTS;
        static constexpr bool WIDE = sizeof(T) == 4;
        static constexpr int STEP = WIDE ? 8 : 16, SHARE = BK / PARTS, HALF = STEP / 2;
        static constexpr int DOWN = BM / WM, ACROSS = FX_WARPS / PARTS / DOWN, WN = BN / ACROSS, MS = WM / 16, NS = WN / 8;
        static_assert(DOWN * ACROSS * PARTS == FX_WARPS && WN % 16 == 0 && SHARE % STEP == 0, "warps share the tile evenly");
        using LeftLoader = fx_loader<Left, BM, BK, WIDE ? (Left::along_k ? 4 : 8) : 8>;
        using RightLoader = fx_loader<Right, BN, BK, WIDE ? (Right::along_k ? 4 : 8) : 8>;

        float sum[MS][NS][4];
        int slice, row, column;

        FX_MEMBER core() {
            int warp = fx_warp() % (FX_WARPS / PARTS);
            slice = fx_warp() / (FX_WARPS / PARTS);
            row = warp / ACROSS * WM;
            column = warp % ACROSS * WN;
        }

        // Sums begin at zero in each tile, not once: else ptxas keeps them alive around the loop over tasks.
        FX_MEMBER void clear() {
            FX_UNROLL for (int i = 0; i < MS; i++)
                FX_UNROLL for (int j = 0; j < NS; j++) FX_UNROLL for (int q = 0; q < 4; q++) sum[i][j][q] = 0.0f;
        }

        // Two by two matrices of 8 lines from (line, along) on. Register 2 * i + j is the one i down and j along; TURNED: the
        // other way round. Transposed ones stand for lines across k.
        template <class Loader, bool TURNED>
        static FX_MEMBER void matrices(fx_u32 (&r)[4], const T* panel, int outer, int k) {
            constexpr int SPAN = WIDE ? 4 : 8;
            int lane = fx_lane(), within = lane % 8, second = lane / 8 % 2, third = lane / 16;
            int down = TURNED ? third : second, beside = TURNED ? second : third;
            if constexpr (Loader::ALONG) {
                fx_load_matrix<4>(r, panel + (outer + within + 8 * down) * Loader::PITCH + k + SPAN * beside);
            } else {
                fx_load_matrix_transposed<4>(r, panel + (k + within + 8 * beside) * Loader::PITCH + outer + 8 * down);
            }
        }

        // The same for 4-byte elements across k.
        template <class Loader, bool TURNED>
        static FX_MEMBER void elements(fx_u32 (&r)[4], const T* panel, int outer, int k) {
            FX_UNROLL for (int q = 0; q < 4; q++) {
                int down = TURNED ? q / 2 : q % 2, beside = TURNED ? q % 2 : q / 2;
                r[q] = fx_bits<fx_u32>(
                    panel[(k + fx_lane() % 4 + 4 * beside) * Loader::PITCH + outer + fx_lane() / 4 + 8 * down]);
            }
        }

        template <class Loader, bool TURNED>
        static FX_MEMBER void fragment(fx_u32 (&r)[4], const T* panel, int outer, int k) {
            if constexpr (WIDE) {
                if constexpr (Loader::ALONG)
                    matrices<Loader, TURNED>(r, panel, outer, k);
                else
                    elements<Loader, TURNED>(r, panel, outer, k);
                FX_UNROLL for (int q = 0; q < 4; q++) r[q] = fx_to_tf32(fx_bits<float>(r[q])).bits;
            } else {
                matrices<Loader, TURNED>(r, panel, outer, k);
            }
        }

        FX_MEMBER void multiply(const T* left, const T* right) {
            if constexpr (MS * NS <= 16) {
                FX_UNROLL for (int q = 0; q < SHARE; q += STEP) step(left, right, slice * SHARE + q);
            } else {  // fragments of two steps would not leave enough registers
                FX_KEEP_LOOP for (int q = 0; q < SHARE; q += STEP) step(left, right, slice * SHARE + q);
            }
        }

        FX_MEMBER void step(const T* left, const T* right, int k) {
            fx_u32 a[MS][4], b[NS / 2][4];
            FX_UNROLL for (int i = 0; i < MS; i++) fragment<LeftLoader, false>(a[i], left, row + 16 * i, k);
            FX_UNROLL for (int j = 0; j < NS / 2; j++) fragment<RightLoader, true>(b[j], right, column + 16 * j, k);
            FX_UNROLL for (int i = 0; i < MS; i++)
                FX_UNROLL for (int j = 0; j < NS; j++) {
                    fx_u32 pair[2] = {b[j / 2][j % 2 * 2], b[j / 2][j % 2 * 2 + 1]};
                    fx_mma<typename fx_mma_kind<T>::type>(sum[i][j], a[i], pair);
                }
        }

        // Adds the sums of one slice to the tile in shared memory.
        FX_MEMBER void unload(float* tile, int pitch, int turn) {
            if (turn != slice) return;
            FX_UNROLL for (int i = 0; i < MS; i++)
                FX_UNROLL for (int j = 0; j < NS; j++)
                    FX_UNROLL for (int h = 0; h < 2; h++) {
                        int m = row + 16 * i + 8 * h + fx_lane() / 4, n = column + 8 * j + fx_lane() % 4 * 2;
                        fx_vector<float, 2> pair = {{sum[i][j][2 * h], sum[i][j][2 * h + 1]}};
                        if (turn > 0) {
                            fx_vector<float, 2> before = fx_load_vector<2>(tile + m * pitch + n);
                            FX_UNROLL for (int v = 0; v < 2; v++) pair.at[v] += before.at[v];
                        }
                        fx_store_vector<2>(tile + m * pitch + n, pair);
                    }
        }
    };
};

template <class T, int BM, int BN, int BK, int SLICES, int STAGES, int WM, class Left, class Right, class Fold, class Done>
FX_DEVICE void fx_product_mma(
    char* shared, fx_range rows, fx_range columns, const Fold& fold, const Left& left, const Right& right, const Done& done) {
    fx_product<fx_tensor<T, BM, BN, BK, SLICES, WM>::template core, STAGES>(shared, rows, columns, fold, left, right, done);
}
