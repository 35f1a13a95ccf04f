// Products of few rows with a matrix that stays in shared memory from tile to tile: the steps of a recurrent layer all multiply
// with the same weights. Persistent RNNs (Diamos et al., ICML 2016) keep them in registers; here the blocks of a launch run
// other tiles too, so they lie in shared memory, and a step reads them at its bandwidth instead of that of L2.
//
// A block keeps C columns of K rows, those of all gates side by side: element (k, c) is at k * C + c, with zeros up to a multiple
// of four rows. Each warp sums every eighth unit of four rows, a lane of it a vector of neighbouring columns; where a warp is wider than
// a row, groups of its lanes take units of their own. The order of the sum depends on C alone.
#pragma once
#include "product_gemv.cuh"

template <class T, int M, int C, int K>
struct fx_resident_product {
    static constexpr int V = 16 / (int)sizeof(T), VECTORS = C / V;
    static constexpr int GROUPS = VECTORS > 16 ? 1 : VECTORS > 8 ? 2 : VECTORS > 4 ? 4 : 8, PASSES = (VECTORS + 31) / 32;
    static constexpr int PITCH = (K + 3) / 4 * 4;
    static_assert(C % V == 0, "columns are whole vectors");

    // Each warp's part of the sums of M rows from `rows.start` on; `x` has room for M * PITCH, `parts` for FX_WARPS * M * C.
    template <class Left>
    static FX_MEMBER void multiply(float* x, float* parts, const T* kept, fx_range rows, const Left& left) {
        FX_UNROLL_4 for (int i = fx_thread(); i < M * PITCH; i += FX_THREADS) {
            const int m = i / PITCH, k = i % PITCH;
            x[i] = rows.start + m < rows.end && k < K ? left(rows.start + m, k) : 0.0f;
        }
        fx_barrier();
        const int group = GROUPS == 1 ? 0 : fx_lane() / VECTORS, own = fx_lane() - group * VECTORS;
        const bool works = group < GROUPS;
        FX_UNROLL for (int pass = 0; pass < PASSES; pass++) {
            const int vector = own + pass * 32;
            float sum[M][V];
            FX_UNROLL for (int m = 0; m < M; m++) FX_UNROLL for (int v = 0; v < V; v++) sum[m][v] = 0.0f;
            if (works && vector < VECTORS) {
                FX_UNROLL_2 for (int k = (fx_warp() * GROUPS + group) * 4; k < PITCH; k += FX_WARPS * GROUPS * 4) {
                    fx_vector<T, V> w[4];
                    FX_UNROLL for (int s = 0; s < 4; s++) w[s] = fx_load_vector<V>(kept + (k + s) * C + vector * V);
                    FX_UNROLL for (int m = 0; m < M; m++) {
                        const fx_vector<float, 4> a = fx_load_vector<4>(x + m * PITCH + k);
                        FX_UNROLL for (int s = 0; s < 4; s++)
                            FX_UNROLL for (int v = 0; v < V; v++) sum[m][v] += a.at[s] * fx_as_float(w[s].at[v]);
                    }
                }
            }
            if constexpr (GROUPS > 1) {
                FX_UNROLL for (int by = GROUPS / 2; by > 0; by /= 2)
                    FX_UNROLL for (int m = 0; m < M; m++)
                        FX_UNROLL for (int v = 0; v < V; v++) sum[m][v] += fx_shuffle_down(sum[m][v], by * VECTORS);
            }
            if (group == 0 && vector < VECTORS) {
                FX_UNROLL for (int m = 0; m < M; m++)
                    FX_UNROLL for (int v = 0; v < V; v++) parts[(fx_warp() * M + m) * C + vector * V + v] = sum[m][v];
            }
        }
        fx_barrier();
    }

    // Sum number i of M * C, once all parts are there.
    static FX_MEMBER float total(const float* parts, int i) {
        float out[2] = {0.0f, 0.0f};
        FX_UNROLL for (int w = 0; w < FX_WARPS; w++) out[w % 2] += parts[w * M * C + i];
        return out[0] + out[1];
    }
};

// All rows, M at a time: done(row, column, sum).
template <class T, int M, int C, int K, class Left, class Done>
FX_DEVICE void fx_product_resident(
    float* x, float* parts, const T* kept, fx_range rows, const Left& left, const Done& done) {
    using Product = fx_resident_product<T, M, C, K>;
    FX_KEEP_LOOP for (fx_int m = rows.start; m < rows.end; m += M) {
        Product::multiply(x, parts, kept, fx_range{m, rows.end}, left);
        const int count = (rows.end - m < M ? (int)(rows.end - m) : M) * C;
        FX_KEEP_LOOP for (int i = fx_thread(); i < count; i += FX_THREADS) done(m + i / C, i % C, Product::total(parts, i));
        if (m + M < rows.end) fx_barrier();
    }
}

// Brings one gate's columns of a matrix into what is kept: WIDTH of the C columns from `first` on. at(k, n) is the address of an
// element; columns from `columns.end` on are zeros, and rows from K on. `copies`: chunks of 16 bytes lie at multiples of 16.
template <class T, int C, int WIDTH, int K, class At>
FX_DEVICE void fx_keep_columns(T* kept, int first, fx_range columns, bool copies, const At& at) {
    constexpr int V = 16 / (int)sizeof(T), CHUNKS = WIDTH / V, PITCH = (K + 3) / 4 * 4;
    copies = copies && columns.end % V == 0;
    FX_UNROLL_4 for (int i = fx_thread(); i < PITCH * CHUNKS; i += FX_THREADS) {
        const int k = i / CHUNKS;
        const fx_int n = columns.start + i % CHUNKS * V;
        T* to = kept + k * C + first + i % CHUNKS * V;
        const bool exists = k < K && n < columns.end;
        if (copies) {
            fx_copy_async<16>(to, exists ? at(k, n) : at(0, columns.start), exists);
        } else {
            FX_UNROLL for (int v = 0; v < V; v++) to[v] = exists && n + v < columns.end ? *at(k, n + v) : T{};
        }
    }
}
