// What the matrix products of a block share: the fold, the sources of A and B, tiles in shared memory, the pipeline.
//
// A product is `sum over the fold of a(row, k) * b(k, column)` for a range of rows and one of columns. Where A and B come from
// is written by the emitter as lambdas, in two steps: what depends on a row (or column) alone is worked out once per tile and
// kept in a state; the rest is evaluated per element, or gives an address where 16 bytes can be copied without registers.
// The pipeline keeps some stages of BK steps of the fold under way: stage i + STAGES - 1 is asked for, then stage i multiplied.
#pragma once
#include "memory.cuh"

#ifdef FX_EMULATED
#define FX_MEMBER inline
#define FX_KEEP_LOOP
#define FX_UNROLL_2
#define FX_UNROLL_4
#else
#define FX_MEMBER __device__ __forceinline__
#define FX_KEEP_LOOP _Pragma("unroll 1")
#define FX_UNROLL_2 _Pragma("unroll 2")
#define FX_UNROLL_4 _Pragma("unroll 4")
#endif

// An expression of some type, for decltype.
template <class T>
T fx_value();

template <int I>
struct fx_number {
    static constexpr int value = I;
};
// Calls f with fx_number<0> to fx_number<N - 1>: a loop whose index is a constant.
template <int N, int I = 0, class F>
FX_DEVICE void fx_each(const F& f) {
    if constexpr (I < N) {
        f(fx_number<I>());
        fx_each<N, I + 1>(f);
    }
}

// A half-open range of rows or columns.
struct fx_range {
    fx_int start, end;
};

// Where a product is within its sum. at[TAPS] is the innermost index, extent[TAPS] the depth; the taps lie around it. Taps are
// counted up instead of being divided out of a running number, so that a window costs no division.
template <int TAPS>
struct fx_fold {
    fx_int extent[TAPS + 1];
    fx_int at[TAPS + 1];

    FX_MEMBER fx_int k() const { return at[TAPS]; }
    FX_MEMBER fx_int depth() const { return extent[TAPS]; }
    FX_MEMBER void restart() { FX_UNROLL for (int i = 0; i <= TAPS; i++) at[i] = 0; }
    FX_MEMBER fx_int steps(int by) const {
        fx_int count = (extent[TAPS] + by - 1) / by;
        FX_UNROLL for (int i = 0; i < TAPS; i++) count *= extent[i];
        return count;
    }
    FX_MEMBER void advance(int by) {
        at[TAPS] += by;
        if constexpr (TAPS > 0) {
            if (at[TAPS] < extent[TAPS]) return;
            at[TAPS] = 0;
            FX_UNROLL for (int i = TAPS - 1; i >= 0; i--) {
                if (++at[i] < extent[i] || i == 0) return;
                at[i] = 0;
            }
        }
    }
};

// Elements that are computed: `of(outer)` gives a function of (fold, k) that gives the element. What depends on the row (or
// column) alone is worked out when that function is made. Chunks run along k where ALONG_K, else across rows (or columns).
// HEAVY: so long an expression that it is not written out for each element of a chunk.
// Functions are kept by value: as references to one another they would stay objects on the stack in bodies of several stages.
template <class T, bool ALONG_K, bool HEAVY, class Of>
struct fx_computed {
    using element = T;
    static constexpr bool along_k = ALONG_K, heavy = HEAVY, in_memory = false;
    const Of of;
    static constexpr bool copies = false;

    template <class At, class Fold>
    static FX_MEMBER T value(const At& at, const Fold& fold, fx_int k) {
        return at(fold, k);
    }
};
template <class T, bool ALONG_K, bool HEAVY, class Of>
FX_DEVICE fx_computed<T, ALONG_K, HEAVY, Of> fx_computed_source(const Of& of) {
    return {of};
}

// Elements that lie in global memory as they are needed: the function gives an address, null for a zero. Along a chunk addresses
// follow each other; `copies` says that chunks begin at multiples of 16 bytes. `any` is an address that exists.
// CONSTANT: nothing in this launch writes them.
template <class T, bool ALONG_K, bool CONSTANT, class Of>
struct fx_stored {
    using element = T;
    static constexpr bool along_k = ALONG_K, constant = CONSTANT, heavy = false, in_memory = true;
    const Of of;
    const T* any;
    bool copies;

    template <class At, class Fold>
    static FX_MEMBER T value(const At& at, const Fold& fold, fx_int k) {
        const T* p = at(fold, k);
        return p ? *p : T{};
    }
};
template <class T, bool ALONG_K, bool CONSTANT, class Of>
FX_DEVICE fx_stored<T, ALONG_K, CONSTANT, Of> fx_stored_source(const Of& of, const T* any, bool copies) {
    return {of, any, copies};
}

// N functions of neighbouring (or equally spaced) rows. Closures can be neither assigned nor left empty, hence no array.
template <class Of, int N>
struct fx_functions {
    decltype(fx_value<const Of&>()(fx_int())) first;
    fx_functions<Of, N - 1> rest;

    FX_MEMBER fx_functions(const Of& of, fx_int outer, int step, fx_int last)
        : first(of(outer < last ? outer : last)), rest(of, outer + step, step, last) {}
    template <int I>
    FX_MEMBER const auto& get() const {
        if constexpr (I == 0)
            return first;
        else
            return rest.template get<I - 1>();
    }
};
template <class Of>
struct fx_functions<Of, 0> {
    FX_MEMBER fx_functions(const Of&, fx_int, int, fx_int) {}
};

// Brings one operand's stages into shared memory: OUTER rows (or columns) by BK steps of the fold, in lines of PITCH elements
// along k or across it. A thread moves the same chunks of 16 bytes of every stage, so that it needs few functions. The rows
// (or columns) are those from `start` on; those from `stop` on are zeros.
//
// With a negative PAD a stage lies as wgmma reads it with a swizzle of 128 bytes: lines are cut into pieces of 128 bytes, whose
// chunk c lies at c ^ (line % 8), so that neither eight chunks of a line nor eight lines of a chunk meet in a bank.
template <class Source, int OUTER, int BK, int PAD>
struct fx_loader {
    using T = typename Source::element;
    static constexpr bool ALONG = Source::along_k;
    static constexpr int V = 16 / (int)sizeof(T);
    static constexpr int LINE = ALONG ? BK : OUTER, LINES = ALONG ? OUTER : BK;
    static constexpr bool SWIZZLED = PAD < 0;
    static constexpr int PIECE = 128 / (int)sizeof(T);  // elements of 128 bytes
    static constexpr int PITCH = LINE + (SWIZZLED ? 0 : PAD), SIZE = LINES * PITCH;
    static constexpr int PER_LINE = LINE / V, CHUNKS = LINES * PER_LINE, MINE = (CHUNKS + FX_THREADS - 1) / FX_THREADS;
    // 16-bit elements that cannot be copied are rare, and tensor cores need the registers
    static constexpr bool HOLDS = !Source::heavy && !(Source::in_memory && sizeof(T) < 4);
    static_assert(FX_THREADS % PER_LINE == 0, "a thread's chunks lie below each other");
    static_assert(!SWIZZLED || LINE % PIECE == 0, "lines are made of whole pieces");
    static_assert(!SWIZZLED || FX_THREADS / PER_LINE % 8 == 0, "a thread's chunks have one place within their pieces");
    static_assert(PITCH * sizeof(T) % 16 == 0, "lines begin at multiples of 16 bytes");

    const Source source;
    fx_int start, stop;
    bool copies;
    int line, along;  // of the first of this thread's chunks
    fx_functions<decltype(Source::of), ALONG ? MINE : Source::in_memory ? 1 : V> functions;
    fx_vector<T, V> held[HOLDS ? MINE : 1];

    FX_MEMBER fx_loader(const Source& from, fx_int first, fx_int end)
        : source(from),
          start(first),
          stop(end),
          copies(Source::in_memory && from.copies && (ALONG || end % V == 0)),
          line(fx_thread() / PER_LINE),
          along(fx_thread() % PER_LINE * V),
          functions(from.of, first + (ALONG ? line : along), ALONG ? FX_THREADS / PER_LINE : 1, end - 1) {}

    // Where a chunk lies within a stage: a piece of all lines after the other one where they are swizzled.
    static FX_MEMBER int offset(int line, int along) {
        if constexpr (!SWIZZLED) return line * PITCH + along;
        return (along / PIECE * LINES + line) * PIECE + (along % PIECE / V ^ line & 7) * V;
    }

    // Begins to bring a stage: copies go straight to the slot, anything else waits in registers for `put`.
    template <class Fold>
    FX_MEMBER void fetch(T* slot, const Fold& fold) {
        if constexpr (Source::in_memory) {
            if (copies) {
                each_chunk([&](auto j, int at) {
                    const T* p = address<decltype(j)::value>(fold, at);
                    fx_copy_async<16>(slot + offset(at, along), p ? p : source.any, p != nullptr);
                });
                return;
            }
        }
        each_chunk([&](auto j, int at) {
            constexpr int J = decltype(j)::value;
            fx_int k = fold.k() + (ALONG ? along : at), outer = start + (ALONG ? at : along);
            T* place = slot + offset(at, along);
            if constexpr (Source::heavy) {
                compute_heavy<J>(place, fold, outer, k);
            } else if constexpr (Source::in_memory && !HOLDS) {
                const T* p = address<J>(fold, at);
                fx_int left = ALONG ? fold.depth() - k : stop - outer;
                FX_UNROLL_4 for (int v = 0; v < V; v++) place[v] = p && v < left ? p[v] : T{};
            } else {
                fx_vector<T, V>& chunk = held[HOLDS ? J : 0];
                if constexpr (Source::in_memory) {
                    const T* p = address<J>(fold, at);
                    fx_int left = ALONG ? fold.depth() - k : stop - outer;
                    FX_UNROLL for (int v = 0; v < V; v++) chunk.at[v] = p && v < left ? p[v] : T{};
                } else {
                    fx_each<V>([&](auto v) {
                        constexpr int I = decltype(v)::value;
                        bool inside = k + (ALONG ? I : 0) < fold.depth() && outer + (ALONG ? 0 : I) < stop;
                        const auto& function = functions.template get<ALONG ? J : I>();
                        chunk.at[I] = inside ? source.value(function, fold, k + (ALONG ? I : 0)) : T{};
                    });
                }
                if constexpr (!HOLDS) fx_store_vector<V>(place, chunk);
            }
        });
    }

    // Calls f(fx_number<j>, line) for this thread's chunks.
    template <class F>
    FX_MEMBER void each_chunk(const F& f) const {
        fx_each<MINE>([&](auto j) {
            int at = line + decltype(j)::value * (FX_THREADS / PER_LINE);
            if (CHUNKS % FX_THREADS == 0 || at < LINES) f(j, at);
        });
    }

    // The address of a chunk, null where it is zeros.
    template <int J, class Fold>
    FX_MEMBER const T* address(const Fold& fold, int at) const {
        fx_int k = fold.k() + (ALONG ? along : at), outer = start + (ALONG ? at : along);
        return outer < stop && k < fold.depth() ? functions.template get<ALONG ? J : 0>()(fold, k) : nullptr;
    }

    template <int J, class Fold>
    FX_MEMBER void compute_heavy(T* place, const Fold& fold, fx_int outer, fx_int k) {
        FX_KEEP_LOOP for (int v = 0; v < V; v++) {
            T x = {};
            if (k < fold.depth() && outer < stop) {
                if constexpr (ALONG)
                    x = source.value(functions.template get<J>(), fold, k);
                else
                    x = source.value(source.of(outer), fold, k);
            }
            place[v] = x;
            (ALONG ? k : outer)++;
        }
    }

    // Writes what `fetch` holds in registers.
    FX_MEMBER void put(T* slot) {
        if constexpr (HOLDS) {
            if (Source::in_memory && copies) return;
            each_chunk([&](auto j, int at) { fx_store_vector<V>(slot + offset(at, along), held[decltype(j)::value]); });
        }
    }
};

// One tile's sums: the core multiplies stages; the sums end in `core`.
template <int STAGES, class Core, class Left, class Right, class Fold>
FX_DEVICE void fx_pipeline(char* shared, Core& core, Left& left, Right& right, Fold fold) {
    using T = typename Left::T;
    constexpr int STAGE = Left::SIZE + Right::SIZE;
    static_assert(STAGES >= 2, "a stage is filled while another one is multiplied");
    T* slots = (T*)shared;
    fold.restart();
    fx_int steps = fold.steps(Core::DEPTH);
    int full = 0, free = 0;
    // the first rounds only bring stages: written out in front of the loop they would make the code half as long again
    FX_KEEP_LOOP for (fx_int i = 1 - STAGES; i < steps; i++) {
        if (i >= 0) {
            fx_copy_async_wait<STAGES - 2>();
            fx_barrier();  // stage i is there for all threads, and all are done with the stage before, whose slot is free now
        }
        T *slot = slots + full * STAGE, *next = slots + free * STAGE;
        const bool more = i + STAGES - 1 < steps;
        if (more) {
            left.fetch(next, fold);
            right.fetch(next + Left::SIZE, fold);
            fold.advance(Core::DEPTH);
        }
        fx_copy_async_commit();
        if (i >= 0) {
            core.multiply(slot, slot + Left::SIZE);
            full = full + 1 == STAGES ? 0 : full + 1;
        }
        if (more) {
            left.put(next);
            right.put(next + Left::SIZE);
        }
        free = free + 1 == STAGES ? 0 : free + 1;
    }
    fx_copy_async_wait<0>();
    fx_barrier();
}

// What becomes of sums: a function of (row, column, sum), for vectors of neighbouring columns another one where `ready`.
template <class One>
struct fx_single {
    static constexpr int width = 1;
    const One one;
    static constexpr bool ready = false;
};
template <class One>
FX_DEVICE fx_single<One> fx_each_sum(const One& one) {
    return {one};
}
template <int WIDTH, class One, class Many>
struct fx_vectors {
    static constexpr int width = WIDTH;
    const One one;
    const Many many;
    bool ready;
};
template <int WIDTH, class One, class Many>
FX_DEVICE fx_vectors<WIDTH, One, Many> fx_vector_sums(const One& one, const Many& many, bool ready) {
    return {one, many, ready};
}

// N sums in pieces of 16 bytes at most.
template <int N, class S>
FX_DEVICE fx_vector<S, N> fx_load_sums(const S* p) {
    constexpr int PIECE = 16 / (int)sizeof(S) < N ? 16 / (int)sizeof(S) : N;
    fx_vector<S, N> out;
    FX_UNROLL for (int i = 0; i < N; i += PIECE) {
        fx_vector<S, PIECE> piece = fx_load_vector<PIECE>(p + i);
        FX_UNROLL for (int j = 0; j < PIECE; j++) out.at[i + j] = piece.at[j];
    }
    return out;
}

// Hands the sums on: through shared memory, so that neighbouring threads have neighbouring columns whatever the core's
// fragments look like, and so that the epilogue is written out once and not once per register.
template <int BM, int BN, class Core, class Done>
FX_DEVICE void fx_finish(char* shared, Core& core, fx_range rows, fx_range columns, const Done& done) {
    using S = typename Core::Sum;
    constexpr int PITCH = BN + 8;
    S* tile = (S*)shared;
    FX_KEEP_LOOP for (int s = 0; s < Core::SLICES; s++) {
        core.unload(tile, PITCH, s);
        fx_barrier();
    }
    fx_int height = rows.end - rows.start < BM ? rows.end - rows.start : BM;
    fx_int width = columns.end - columns.start < BN ? columns.end - columns.start : BN;
    if constexpr (Done::width > 1) {
        if (done.ready && width % Done::width == 0) {
            constexpr int W = Done::width, ACROSS = BN / W;
            int column = fx_thread() % ACROSS * W;
            if (column < width) {
                FX_UNROLL_4 for (int r = fx_thread() / ACROSS; r < height; r += FX_THREADS / ACROSS)
                    done.many(rows.start + r, columns.start + column, fx_load_sums<W>(tile + r * PITCH + column));
            }
            fx_barrier();
            return;
        }
    }
    static_assert(FX_THREADS % BN == 0, "a thread has one column");
    int column = fx_thread() % BN;
    if (column < width) {
        FX_UNROLL_4 for (int r = fx_thread() / BN; r < height; r += FX_THREADS / BN)
            done.one(rows.start + r, columns.start + column, tile[r * PITCH + column]);
    }
    fx_barrier();
}

// All tiles of a range of rows and columns, one after the other.
template <template <class, class> class Core, int STAGES, class Left, class Right, class Fold, class Done>
FX_DEVICE void fx_product(
    char* shared, fx_range rows, fx_range columns, const Fold& fold, const Left& left, const Right& right, const Done& done) {
    using Engine = Core<Left, Right>;
    for (fx_int m = rows.start; m < rows.end; m += Engine::ROWS) {
        for (fx_int n = columns.start; n < columns.end; n += Engine::COLUMNS) {
            typename Engine::LeftLoader a(left, m, rows.end);
            typename Engine::RightLoader b(right, n, columns.end);
            Engine core;
            core.clear();
            fx_pipeline<STAGES>(shared, core, a, b, fold);
            fx_finish<Engine::ROWS, Engine::COLUMNS>(shared, core, fx_range{m, rows.end}, fx_range{n, columns.end}, done);
        }
    }
}
