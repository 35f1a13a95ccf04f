// Products of at most M rows: B is read once, as fast as memory gives it, and everything else stays out of its way.
//
// A stands in shared memory as float, a chunk of the fold at a time. Each thread keeps two batches of B's 16-byte vectors in
// registers: one is multiplied while the other is on its way, so that 256 threads keep 64 KiB under way; memory of 3 TB/s with
// a latency of 700 ns needs 16 KiB per multiprocessor (Little's law). Threads that sum the same columns are merged in shared
// memory along a fixed tree, so results do not depend on the grid.
#pragma once
#include "product.cuh"

// Reads 16 bytes that are used once; CONSTANT: nothing in this launch writes them, so they need not pass through L1.
template <bool CONSTANT, class T, int N>
FX_DEVICE fx_vector<T, N> fx_load_once(const T* p, fx_number<N>) {
#ifndef FX_EMULATED
    if constexpr (CONSTANT && sizeof(T) * N == 16) {
        fx_vector<fx_u32, 4> w;
        asm("ld.global.nc.L1::no_allocate.v4.u32 {%0, %1, %2, %3}, [%4];"
            : "=r"(w.at[0]), "=r"(w.at[1]), "=r"(w.at[2]), "=r"(w.at[3])
            : "l"(p));
        return fx_bits<fx_vector<T, N>>(w);
    }
#endif
    return fx_load_vector<N>(p);
}

FX_DEVICE float fx_as_float(float x) { return x; }
FX_DEVICE float fx_as_float(fx_half x) { return fx_float(x); }
FX_DEVICE float fx_as_float(fx_bf16 x) { return fx_float(x); }

// Sums of `count` parts of `size` each, in place: part 0 has them in the end.
FX_DEVICE void fx_merge_parts(float* parts, int size, int count) {
    while (count > 1) {
        int half = (count + 1) / 2;
        for (int i = fx_thread(); i < (count - half) * size; i += FX_THREADS) parts[i] += parts[i + half * size];
        fx_barrier();
        count = half;
    }
}

template <int ROWS>
struct fx_gemv {
    static constexpr int M = ROWS, CHUNK = 8192 / M > 2048 ? 8192 / M : 2048;

    // Puts a chunk of A into shared memory, rows that do not exist as zeros, and zeros behind it up to whole vectors of B; then
    // all threads see it.
    template <class Left, class Fold>
    static FX_MEMBER void fill(float* x, const Left& left, fx_range rows, const Fold& fold, int length) {
        int padded = (length + 7) / 8 * 8;
        if constexpr (Left::heavy) {
            FX_KEEP_LOOP for (int m = 0; m < M; m++) {
                bool exists = rows.start + m < rows.end;
                const auto at = left.of(exists ? rows.start + m : rows.start);
                FX_UNROLL_4 for (int k = fx_thread(); k < padded; k += FX_THREADS)
                    x[m * CHUNK + k] = exists && k < length ? fx_as_float(left.value(at, fold, fold.k() + k)) : 0.0f;
            }
        } else {  // eight elements at once, so that their latencies overlap
            constexpr int UNITS = 8 / M;
            fx_functions<decltype(Left::of), M> functions(left.of, rows.start, 1, rows.end - 1);
            FX_KEEP_LOOP for (int k = fx_thread(); k < padded; k += UNITS * FX_THREADS) {
                float a[M][UNITS];
                fx_each<M>([&](auto m) {
                    constexpr int R = decltype(m)::value;
                    FX_UNROLL for (int u = 0; u < UNITS; u++) {
                        int at = k + u * FX_THREADS;
                        a[R][u] = 0.0f;
                        if (rows.start + R < rows.end && at < length)
                            a[R][u] = fx_as_float(left.value(functions.template get<R>(), fold, fold.k() + at));
                    }
                });
                FX_UNROLL for (int m = 0; m < M; m++)
                    FX_UNROLL for (int u = 0; u < UNITS; u++)
                        if (k + u * FX_THREADS < padded) x[m * CHUNK + k + u * FX_THREADS] = a[m][u];
            }
        }
        fx_barrier();
    }

    template <class Done>
    static FX_MEMBER void store(const float* sums, int pitch, fx_range rows, fx_int n, int width, const Done& done) {
        int height = rows.end - rows.start < M ? (int)(rows.end - rows.start) : M;
        for (int i = fx_thread(); i < height * width; i += FX_THREADS) {
            int m = M == 1 ? 0 : i / width, c = M == 1 ? i : i % width;
            done.one(rows.start + m, n + c, sums[m * pitch + c]);
        }
        fx_barrier();
    }

    // B with neighbouring columns side by side: a thread sums V of them over every groups-th step of the fold.
    template <class Left, class Right, class Fold, class Done>
    static FX_MEMBER void across(
        char* shared, fx_range rows, fx_range columns, Fold fold, const Left& left, const Right& right, const Done& done) {
        using T = typename Right::element;
        constexpr int V = 16 / (int)sizeof(T), BATCH = M * V < 64 ? 8 : 4;  // the registers that the sums leave
        float* x = (float*)shared;
        for (fx_int n = columns.start; n < columns.end; n += FX_THREADS * V) {
            int width = columns.end - n < FX_THREADS * V ? (int)(columns.end - n) : FX_THREADS * V;
            int vectors = (width + V - 1) / V, groups = FX_THREADS / vectors, group = fx_thread() / vectors;
            fx_int column = n + fx_thread() % vectors * V;
            bool works = group < groups, whole = Right::in_memory && right.copies && columns.end % V == 0;
            fx_functions<decltype(Right::of), Right::in_memory ? 1 : V> functions(right.of, column, 1, columns.end - 1);
            float sum[M][V];
            FX_UNROLL for (int m = 0; m < M; m++) FX_UNROLL for (int v = 0; v < V; v++) sum[m][v] = 0.0f;
            fold.restart();
            fx_int chunks = fold.steps(CHUNK);
            for (fx_int c = 0; c < chunks; c++, fold.advance(CHUNK)) {
                int length = fold.depth() - fold.k() < CHUNK ? (int)(fold.depth() - fold.k()) : CHUNK;
                int end = works ? length : 0;
                fx_vector<T, V> first[BATCH], second[BATCH];
                auto load = [&](fx_vector<T, V>(&to)[BATCH], int from) {
                    if constexpr (Right::in_memory) {
                        if (whole) {
                            FX_UNROLL for (int u = 0; u < BATCH; u++) {
                                int k = from + u * groups;
                                const T* p = k < end ? functions.template get<0>()(fold, fold.k() + k) : nullptr;
                                if (p)
                                    to[u] = fx_load_once<Right::constant>(p, fx_number<V>());
                                else
                                    to[u] = {};
                            }
                            return;
                        }
                    }
                    FX_UNROLL for (int u = 0; u < BATCH; u++) {
                        int k = from + u * groups;
                        if (k >= end) continue;
                        if constexpr (Right::in_memory) {
                            const T* p = functions.template get<0>()(fold, fold.k() + k);
                            FX_UNROLL for (int v = 0; v < V; v++) to[u].at[v] = p && column + v < columns.end ? p[v] : T{};
                        } else {
                            fx_each<V>([&](auto v) {
                                constexpr int I = decltype(v)::value;
                                bool exists = column + I < columns.end;
                                to[u].at[I] = exists ? right.value(functions.template get<I>(), fold, fold.k() + k) : T{};
                            });
                        }
                    }
                };
                auto add = [&](const fx_vector<T, V>(&b)[BATCH], int from) {
                    FX_UNROLL for (int u = 0; u < BATCH; u++) {
                        if (from + u * groups >= end) break;
                        FX_UNROLL for (int m = 0; m < M; m++) {
                            float a = x[m * CHUNK + from + u * groups];
                            FX_UNROLL for (int v = 0; v < V; v++) sum[m][v] += a * fx_as_float(b[u].at[v]);
                        }
                    }
                };
                const int step = BATCH * groups;
                load(first, group);
                fill(x, left, rows, fold, length);
                FX_KEEP_LOOP for (int k = group; k < end; k += 2 * step) {
                    load(second, k + step);
                    add(first, k);
                    load(first, k + 2 * step);
                    add(second, k + step);
                }
                fx_barrier();
            }
            int pitch = vectors * V;
            if (works) {
                FX_UNROLL for (int m = 0; m < M; m++)
                    FX_UNROLL for (int v = 0; v < V; v++)
                        x[(group * M + m) * pitch + fx_thread() % vectors * V + v] = sum[m][v];
            }
            fx_barrier();
            fx_merge_parts(x, M * pitch, groups);
            store(x, pitch, rows, n, width, done);
        }
    }

    // B with neighbours along k side by side: the lanes of a warp share a column, and several warps where columns are few.
    template <class Left, class Right, class Fold, class Done>
    static FX_MEMBER void along(
        char* shared, fx_range rows, fx_range columns, Fold fold, const Left& left, const Right& right, const Done& done) {
        using T = typename Right::element;
        constexpr int V = 16 / (int)sizeof(T), WIDEST = 256, BATCH = 4;
        float *x = (float*)shared, *sums = x + M * CHUNK;
        for (fx_int n = columns.start; n < columns.end; n += WIDEST) {
            int width = columns.end - n < WIDEST ? (int)(columns.end - n) : WIDEST;
            int slices = width >= FX_WARPS ? 1 : width > 4 ? 1 : width > 2 ? 2 : width > 1 ? 4 : 8;
            int slice = fx_warp() % slices, span = slices * 32 * V;
            for (int i = fx_thread(); i < slices * M * width; i += FX_THREADS) sums[i] = 0.0f;
            fold.restart();
            fx_int chunks = fold.steps(CHUNK);
            if (chunks == 0) fx_barrier();  // nothing is filled: the zeros of all threads are the sums
            for (fx_int c = 0; c < chunks; c++, fold.advance(CHUNK)) {
                int length = fold.depth() - fold.k() < CHUNK ? (int)(fold.depth() - fold.k()) : CHUNK;
                fill(x, left, rows, fold, length);
                FX_KEEP_LOOP for (int column = fx_warp() / slices; column < width; column += FX_WARPS / slices) {
                    const auto at = right.of(n + column);
                    float sum[M];
                    FX_UNROLL for (int m = 0; m < M; m++) sum[m] = 0.0f;
                    fx_vector<T, V> first[BATCH], second[BATCH];
                    auto load = [&](fx_vector<T, V>(&to)[BATCH], int from) {
                        FX_UNROLL for (int u = 0; u < BATCH; u++) {
                            int k = from + u * span;
                            if constexpr (Right::in_memory) {
                                const T* p = k < length ? at(fold, fold.k() + k) : nullptr;
                                if (right.copies && p) {
                                    to[u] = fx_load_once<Right::constant>(p, fx_number<V>());
                                } else {
                                    FX_UNROLL for (int v = 0; v < V; v++) to[u].at[v] = p && k + v < length ? p[v] : T{};
                                }
                            } else {
                                FX_UNROLL for (int v = 0; v < V; v++)
                                    to[u].at[v] = k + v < length ? right.value(at, fold, fold.k() + k + v) : T{};
                            }
                        }
                    };
                    auto add = [&](const fx_vector<T, V>(&b)[BATCH], int from) {
                        FX_UNROLL for (int u = 0; u < BATCH; u++) {
                            int k = from + u * span;
                            if (k >= length) break;
                            FX_UNROLL for (int m = 0; m < M; m++) {
                                FX_UNROLL for (int q = 0; q < V; q += 4) {
                                    fx_vector<float, 4> a = fx_load_vector<4>(x + m * CHUNK + k + q);
                                    FX_UNROLL for (int v = 0; v < 4; v++) sum[m] += a.at[v] * fx_as_float(b[u].at[q + v]);
                                }
                            }
                        }
                    };
                    const int begin = (slice * 32 + fx_lane()) * V, step = BATCH * span;
                    load(first, begin);
                    FX_KEEP_LOOP for (int k = begin; k < length; k += 2 * step) {
                        load(second, k + step);
                        add(first, k);
                        load(first, k + 2 * step);
                        add(second, k + step);
                    }
                    FX_UNROLL for (int m = 0; m < M; m++) {
                        FX_UNROLL for (int by = 16; by > 0; by /= 2) sum[m] += fx_shuffle_xor(sum[m], by);
                        if (fx_lane() == 0) sums[(slice * M + m) * width + column] += sum[m];
                    }
                }
                fx_barrier();
            }
            fx_merge_parts(sums, M * width, slices);
            store(sums, width, rows, n, width, done);
        }
    }
};

template <int M, class Left, class Right, class Fold, class Done>
FX_DEVICE void fx_product_gemv(
    char* shared, fx_range rows, fx_range columns, const Fold& fold, const Left& left, const Right& right, const Done& done) {
    for (fx_int m = rows.start; m < rows.end; m += M) {
        fx_range part = {m, rows.end < m + M ? rows.end : m + M};
        if constexpr (Right::along_k)
            fx_gemv<M>::along(shared, part, columns, fold, left, right, done);
        else
            fx_gemv<M>::across(shared, part, columns, fold, left, right, done);
    }
}
