// A region is one launch: every block walks its own rows of the task table. abi.py mirrors the structures.
#pragma once
#include "sync.cuh"

#ifdef FX_EMULATED
#define FX_TASK_MEMBER inline
#else
#define FX_TASK_MEMBER __device__ __forceinline__
#endif

// What a tile body gets. `slots`: the argument block of the call; `io`: addresses of this run's inputs and outputs; `scratch`:
// global memory of the block; `shared`: dynamic shared memory. All 256 threads enter a body together and run one tile.
struct fx_task {
    const long long* slots;
    const long long* io;
    long long tile;
    char* scratch;
    char* shared;
};

// What stands in a block's shared memory from byte `start` on and is kept from tile to tile: the part of a weight that tiles
// with argument block `slots` and number `part` read. Nothing where `slots` is null. No schedule says what is kept: a body that
// keeps something compares, and the task loop forgets what another body may have written over.
struct fx_kept {
    const long long* slots;
    int part, start;

    FX_TASK_MEMBER bool is(const fx_task& task, int number) const { return slots == task.slots && part == number; }
};

// A run of tiles of one call: `slots` is an address, `waits` the first of `wait_count` entries in the table of waits, `signal`
// the counter that goes up by one when the tiles are done, or -1.
struct fx_row {
    long long kernel, slots, first, count, waits, wait_count, signal, spare;
};

// Over when counters[counter] >= epoch * total + threshold; `total` is by how much the counter grows in a run.
struct fx_wait_entry {
    long long counter, threshold, total, spare;
};

// `starts` has an entry per block and one more. The waits of a block's rows follow each other as the rows do. Counters stand
// FX_LINE words apart and are never reset: `epoch` is how many runs there were. `exited` counts blocks that have left this run.
// `times` is null, or gets when each row's waits were over and its tiles done, then when each block came and left.
struct fx_frame {
    const fx_row* rows;
    const long long* starts;
    const fx_wait_entry* waits;
    fx_u64* counters;
    const long long* io;
    char* scratch;
    long long scratch_stride;
    fx_u64 epoch, exited;
    const int* abort;
    long long* times;
};

// The same address, known to be one of global memory: loads and stores need not find out which memory it is in. NVRTC 13.0 does
// not come to an end where it sees through a chain of such addresses, hence the instruction, which it cannot see through.
template <class T>
FX_DEVICE T* fx_global(T* p) {
#ifdef FX_EMULATED
    return p;
#else
    fx_u64 at;
    asm("cvta.to.global.u64 %0, %1;" : "=l"(at) : "l"(p));
    return (T*)__cvta_global_to_generic(at);
#endif
}

// Word i of the argument block: an extent, or the bits of a scalar in its own type.
FX_DEVICE long long fx_word(const fx_task& task, int i) { return fx_global(task.slots)[i]; }

template <class T>
FX_DEVICE T fx_scalar(const fx_task& task, int i) {
    T out;
#ifdef FX_EMULATED
    memcpy(&out, task.slots + i, sizeof out);
#else
    out = *(const T*)fx_global(task.slots + i);
#endif
    return out;
}

// Word i as an address. An odd word 2 * k + 1 stands for entry k of `io`, so that no argument block changes between runs.
template <class T>
FX_DEVICE T* fx_pointer(const fx_task& task, int i) {
    long long word = fx_word(task, i);
    return fx_global((T*)(word & 1 ? fx_global(task.io)[word >> 1] : word));
}

// Announces what the block has written: every thread is done, then one thread adds. With bulk stores, the thread that issued
// them waits for them and calls fx_fence_async before.
FX_DEVICE void fx_publish(fx_u64* counter) {
    fx_barrier();
    if (fx_thread() == 0) fx_add_release(counter, 1);
}

// The barrier before a tile; true where somebody says so. The emulator looks for copies that the tile before has not waited for,
// and may fill the memory that it left with NaN, so that a tile that reads what it has not written shows: of shared memory all
// but what is kept.
FX_DEVICE bool fx_tile_barrier(bool yes, const fx_task& task, long long scratch_bytes, const fx_kept& kept) {
#ifdef FX_EMULATED
    return fx_rt_tile_barrier(yes, __LINE__, task.scratch, scratch_bytes, kept.slots ? kept.start : -1) != 0;
#else
    return fx_barrier_any(yes);
#endif
}

// Calls a body without telling the compiler which one. Where ptxas knows all that a kernel calls, it deals out registers to
// kernel and functions together, and then one large body makes the others spill; unknown functions are compiled one by one.
typedef void (*fx_body)(const fx_task);
FX_DEVICE void fx_call(fx_body body, const fx_task& task) {
#ifndef FX_EMULATED
    asm volatile("" : "+l"(body));
#endif
    FX_ABI body(task);
}

// The task in a function that got it by value: it shall see that `shared` is shared memory and no other.
FX_DEVICE fx_task fx_with_shared(const fx_task& task) {
    return {task.slots, task.io, task.tile, task.scratch, fx_shared_memory()};
}

// Writes the time into a word of the table of times, where there is one.
FX_DEVICE void fx_stamp(const fx_frame* frame, long long word) {
    if (frame->times && fx_thread() == 0) frame->times[word] = fx_clock();
}

// Tile i of a row as its body gets it.
FX_DEVICE fx_task fx_task_of(const fx_frame* frame, const fx_row& row, int i) {
    char* const scratch = frame->scratch + fx_block() * frame->scratch_stride;
    return {(const long long*)row.slots, frame->io, row.first + i, scratch, fx_shared_memory()};
}

// What the walk keeps in shared memory. Dynamic shared memory comes right behind it: nvJitLink does not look at what alignment that
// asks for, and swizzled products need 1024 bytes. `current` by turns, since some threads may still read the row before; `kept` is
// written by all threads alike, so that each reads what it has written.
struct alignas(1024) fx_of_block {
    fx_row current[2];
    fx_kept kept;
};

// Walks this block's rows. `body(kernel, task)` is the switch over the module's tile bodies, and `written(kernel)` says how many
// bytes of shared memory from its start on the body may write. `keep(kernel, task, kept)` brings what the tile keeps where it is
// not there yet; for the first tile of a row that happens before the waits, since weights wait for nobody.
//
// Publishing: barrier (every thread's writes are before it), then one thread adds with release at gpu scope. Waiting: one thread
// per counter reads relaxed until it is reached and fences, then the barrier hands that on to the block. The barrier after the
// waits also keeps a tile's shared memory apart from the next one's.
//
// What the walk must know after a tile it reads again from shared memory or the frame: what stayed in registers meanwhile, the
// bodies could not have.
template <class Body, class Written, class Keep>
FX_DEVICE void fx_walk(fx_frame* frame, Body body, Written written, Keep keep) {
    FX_OF_BLOCK fx_of_block own;
    fx_row(&current)[2] = own.current;
    fx_kept& kept = own.kept;
    kept = {nullptr, 0, 0};
    fx_stamp(frame, 2 * (frame->starts[fx_blocks()] + fx_block()));
    FX_NO_UNROLL for (int r = (int)frame->starts[fx_block()]; r < (int)frame->starts[fx_block() + 1]; r++) {
        {
            const fx_row row = frame->rows[r];
            const fx_task task = fx_task_of(frame, row, 0);
            if (FX_KEEPS_OF_BLOCK) current[r & 1] = row;
            keep((int)row.kernel, task, kept);
            bool going = true;
            FX_NO_UNROLL for (int i = fx_thread(); i < row.wait_count; i += FX_THREADS) {
                const fx_wait_entry wait = frame->waits[row.waits + i];
                const fx_u64 threshold = frame->epoch * wait.total + wait.threshold;
                going = fx_wait(frame->counters + wait.counter * FX_LINE, threshold, frame->abort) && going;
            }
            if (fx_tile_barrier(!going, task, frame->scratch_stride, kept)) return;
            // what the next row begins with comes while this one is computed: fences have dropped it from L1
            if (fx_thread() == 0) fx_prefetch(frame->rows + r + 1);
            if (fx_thread() == FX_THREADS - 1) fx_prefetch(frame->waits + row.waits + row.wait_count);
            fx_stamp(frame, 2 * r);
        }
        FX_NO_UNROLL for (int i = 0; i < (int)current[r & 1].count; i++) {
            const fx_task task = fx_task_of(frame, current[r & 1], i);
            if (i > 0) {
                keep((int)current[r & 1].kernel, task, kept);
                fx_tile_barrier(false, task, frame->scratch_stride, kept);
            }
            if (written((int)current[r & 1].kernel) > kept.start) kept.slots = nullptr;
            body((int)current[r & 1].kernel, task);
        }
        if (current[r & 1].signal >= 0) fx_publish(frame->counters + current[r & 1].signal * FX_LINE);
        fx_stamp(frame, 2 * r + 1);
    }
    fx_stamp(frame, 2 * (frame->starts[fx_blocks()] + fx_block()) + 1);
    fx_barrier();
    // the last block out ends the run; all others have read the epoch long before
    if (fx_thread() == 0 && fx_add_acquire_release(&frame->exited, 1) == (fx_u64)fx_blocks() - 1) {
        frame->exited = 0;
        frame->epoch++;
    }
}
