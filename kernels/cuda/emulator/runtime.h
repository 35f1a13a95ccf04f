// What the primitives of ../device call where they are compiled for the CPU. runtime.cpp says how it works.
#pragma once
#include <stddef.h>
#include <stdint.h>

struct fx_rt_thread {
    int thread, block, blocks;
    char* shared;
};

extern "C" {
// the thread that runs; every call below may switch to another one, so nothing of it is kept across calls
extern fx_rt_thread* fx_current __attribute__((visibility("hidden")));

// Kinds of shuffles: 0 lane `by`, 1 lane ^ by, 2 lane + by, 3 lane - by.
void fx_rt_barrier(int id, int threads, int line);
void fx_rt_arrive(int id, int threads, int line);
int fx_rt_barrier_any(int yes, int line);
// `kept`: where shared memory begins that is kept for the tile, -1 where nothing is.
int fx_rt_tile_barrier(int yes, int line, void* scratch, long long scratch_bytes, int kept);
void fx_rt_warp_barrier();
unsigned fx_rt_ballot(int yes);
void fx_rt_shuffle(void* value, int bytes, int by, int kind);

unsigned long long fx_rt_add(unsigned long long* counter, unsigned long long by, int release, int acquire);
unsigned long long fx_rt_peek(const unsigned long long* counter);
int fx_rt_wait(const unsigned long long* counter, unsigned long long threshold, const int* abort);
int fx_rt_is_aborted(const int* abort);
long long fx_rt_clock();
void fx_rt_atomic_begin(void* p);
void fx_rt_atomic_end(void* p);

unsigned fx_rt_shared_address(const void* p);
void fx_rt_misaligned(int alignment);
void fx_rt_copy_async(void* shared, const void* global, int bytes, int valid);
void fx_rt_copy_async_commit();
void fx_rt_copy_async_wait(int groups);

void fx_rt_load_matrix(unsigned* registers, const void* row, int count, int transposed);
void fx_rt_store_matrix(void* row, const unsigned* registers, int count, int transposed);
// Kinds of products: 0 bf16, 1 f16, 2 tf32.
void fx_rt_mma(float* c, const unsigned* a, const unsigned* b, int kind);

void fx_rt_mbarrier_init(unsigned long long* barrier, unsigned count);
void fx_rt_mbarrier_arrive(unsigned long long* barrier, unsigned bytes);
void fx_rt_mbarrier_wait(unsigned long long* barrier, unsigned parity);
void fx_rt_bulk_load(void* shared, const void* global, unsigned bytes, unsigned long long* barrier);
void fx_rt_bulk_store(void* global, const void* shared, unsigned bytes);
void fx_rt_bulk_commit();
void fx_rt_bulk_wait(int groups, int read_only);
void fx_rt_fence_async();
void fx_rt_wgmma(float* c, int n, unsigned long long a, unsigned long long b, int kind, int transposed, int keep);
void fx_rt_wgmma_commit();
void fx_rt_wgmma_wait(int groups);
}
