// A region is one launch: every block walks its own rows of the task table. abi.py mirrors the structures.
#pragma once
#include "sync.cuh"

// What a tile body gets. `slots`: the argument block of the call; `io`: addresses of this run's inputs and outputs; `scratch`:
// global memory of the block; `shared`: dynamic shared memory. All 256 threads enter a body together and run one tile.
struct fx_task {
    const long long* slots;
    const long long* io;
    long long tile;
    char* scratch;
    char* shared;
};

// A run of tiles of one call: `slots` is an address, `waits` the first of `wait_count` entries in the table of waits, `signal`
// the counter that goes up by one when the tiles are done, or -1.
struct fx_row {
    long long kernel, slots, first, count, waits, wait_count, signal, spare;
};

// Over when counters[counter] >= epoch * totals[counter] + threshold.
struct fx_wait_entry {
    long long counter, threshold;
};

// `starts` has an entry per block and one more. Counters stand FX_LINE words apart and are never reset: `totals` says by how
// much each grows in a run, `epoch` how many runs there were. `exited` counts blocks that have left this run. `times` is null,
// or gets when each row's waits were over and its tiles done, then when each block came and left.
struct fx_frame {
    const fx_row* rows;
    const long long* starts;
    const fx_wait_entry* waits;
    fx_u64* counters;
    const long long* totals;
    const long long* io;
    char* scratch;
    long long scratch_stride;
    fx_u64 epoch, exited;
    const int* abort;
    long long* times;
};

// Word i of the argument block: an extent, or the bits of a scalar in its own type.
FX_DEVICE long long fx_word(const fx_task& task, int i) { return task.slots[i]; }

template <class T>
FX_DEVICE T fx_scalar(const fx_task& task, int i) {
    T out;
#ifdef FX_EMULATED
    memcpy(&out, task.slots + i, sizeof out);
#else
    out = *(const T*)(task.slots + i);
#endif
    return out;
}

// Word i as an address. An odd word 2 * k + 1 stands for entry k of `io`, so that no argument block changes between runs.
template <class T>
FX_DEVICE T* fx_pointer(const fx_task& task, int i) {
    long long word = task.slots[i];
    return (T*)(word & 1 ? task.io[word >> 1] : word);
}

// Announces what the block has written: every thread is done, then one thread adds. With bulk stores, the thread that issued
// them waits for them and calls fx_fence_async before.
FX_DEVICE void fx_publish(fx_u64* counter) {
    fx_barrier();
    if (fx_thread() == 0) fx_add_release(counter, 1);
}

// The barrier before a tile; true where somebody says so. The emulator looks for copies that the tile before has not waited for,
// and may fill the memory that it left with NaN, so that a tile that reads what it has not written shows.
FX_DEVICE bool fx_tile_barrier(bool yes, const fx_task& task, long long scratch_bytes) {
#ifdef FX_EMULATED
    return fx_rt_tile_barrier(yes, __LINE__, task.scratch, scratch_bytes) != 0;
#else
    return fx_barrier_any(yes);
#endif
}

// Walks this block's rows. `body(kernel, task)` is the switch over the module's tile bodies.
//
// Publishing: barrier (every thread's writes are before it), then one thread adds with release at gpu scope. Waiting: one thread
// per counter reads relaxed until it is reached and fences, then the barrier hands that on to the block. The barrier after the
// waits also keeps a tile's shared memory apart from the next one's.
template <class Body>
FX_DEVICE void fx_walk(fx_frame* frame, Body body) {
    const int thread = fx_thread(), block = fx_block();
    const fx_row* rows = frame->rows;
    const fx_u64 epoch = frame->epoch;
    const long long end = frame->starts[block + 1];
    long long* times = frame->times;
    long long* span = times ? times + 2 * (frame->starts[fx_blocks()] + block) : nullptr;
    if (span && thread == 0) span[0] = fx_clock();
    fx_task task;
    task.io = frame->io;
    task.scratch = frame->scratch + block * frame->scratch_stride;
    task.shared = fx_shared_memory();
    FX_NO_UNROLL for (long long r = frame->starts[block]; r < end; r++) {
        const fx_row row = rows[r];
        bool going = true;
        FX_NO_UNROLL for (int i = thread; i < row.wait_count; i += FX_THREADS) {
            const fx_wait_entry wait = frame->waits[row.waits + i];
            const fx_u64 threshold = epoch * frame->totals[wait.counter] + wait.threshold;
            going = fx_wait(frame->counters + wait.counter * FX_LINE, threshold, frame->abort) && going;
        }
        if (fx_tile_barrier(!going, task, frame->scratch_stride)) return;
        if (times && thread == 0) times[2 * r] = fx_clock();
        task.slots = (const long long*)row.slots;
        FX_NO_UNROLL for (long long i = 0; i < row.count; i++) {
            task.tile = row.first + i;
            if (i > 0) fx_tile_barrier(false, task, frame->scratch_stride);
            body((int)row.kernel, task);
        }
        if (row.signal >= 0) fx_publish(frame->counters + row.signal * FX_LINE);
        if (times && thread == 0) times[2 * r + 1] = fx_clock();
    }
    if (span && thread == 0) span[1] = fx_clock();
    fx_barrier();
    // the last block out ends the run; all others have read the epoch long before
    if (thread == 0 && fx_add_acquire_release(&frame->exited, 1) == (fx_u64)fx_blocks() - 1) {
        frame->exited = 0;
        frame->epoch = epoch + 1;
    }
}
