// Copies that happen later: cp.async groups, mbarriers, bulk copies.
//
// In lazy mode a copy happens only when somebody waits for it, so a missing wait reads stale data every time; in random orders half
// of them happen at once, so that memory that is still read is overwritten. Eagerly, all do. To the race detector the accesses
// happen where they are issued.
#pragma once
#include "sync.h"

namespace fx {

inline bool is_late() { return grid->lazy && (grid->seed == 0 || chance() & 1); }

inline bool is_shared(const void* p, size_t bytes) {
    const char* base = grid->current->block->shared;
    return (const char*)p >= base && (const char*)p + bytes <= base + grid->shared;
}

// Bulk copies and wgmma reach memory through the async proxy. What a thread wrote through the generic one they may see only after
// that thread's fence (PTX ISA, "Async proxy"). Of generic writes only those of cp.async are known here.
inline void mark_written(const void* shared) {
    const Fiber* f = grid->current;
    Proxies& p = f->block->proxies;
    p.marks.resize(grid->shared / 16 + 1);
    p.marks[((const char*)shared - f->block->shared) / 16] = {(uint32_t)f->thread.thread + 1, p.fences[f->thread.thread]};
}

inline void check_fenced(const char* what, const Block& b, size_t offset, size_t bytes) {
    const Proxies& p = b.proxies;
    if (p.marks.empty()) return;
    for (size_t i = offset / 16; i < (offset + bytes + 15) / 16; i++) {
        const Proxies::Mark m = p.marks[i];
        if (m.writer && p.fences[m.writer - 1] <= m.fences)
            fail(std::string(what) + " meets what thread " + std::to_string(m.writer - 1) +
                 " wrote by cp.async, with no fence between the proxies");
    }
}

inline void land(const Copy& c) {
    if (is_shared(c.to, c.bytes)) mark_written(c.to);
    if (!c.staged.empty()) memcpy(c.to, c.staged.data(), c.bytes);
    else if (c.valid) memcpy(c.to, c.from, c.bytes);
    else memset(c.to, 0, c.bytes);
}

// Lets all but the last `left` groups happen.
inline void settle(std::vector<CopyGroup>& groups, size_t left) {
    if (groups.size() <= left) return;
    size_t n = groups.size() - left;
    for (size_t i = 0; i < n; i++)
        for (const Copy& c : groups[i]) land(c);
    groups.erase(groups.begin(), groups.begin() + n);
}

inline void check_copy(const char* what, const void* shared, const void* global, unsigned bytes, unsigned alignment) {
    if (((uintptr_t)shared | (uintptr_t)global | bytes) % alignment != 0)
        fail(std::string(what) + ": an address or the size is not a multiple of " + std::to_string(alignment));
    if (!is_shared(shared, bytes)) fail(std::string(what) + ": outside the block's shared memory");
}

// An mbarrier as it lies in shared memory: from the lowest bit on, 32 of bytes to come, 15 of arrivals to come, 15 of arrivals
// per phase, a zero that poisoned memory does not have, and the phase.
struct MBarrier {
    unsigned long long* at;
    uint64_t word() const { return *(volatile unsigned long long*)at; }
    int bytes() const { return (int)(uint32_t)word(); }
    int arrivals() const { return (int)((int64_t)(word() << 17) >> 49); }
    void set(uint64_t phase, uint64_t expected, int arrivals, int bytes) {
        uint64_t low = (uint32_t)bytes | ((uint64_t)arrivals & 0x7fff) << 32;
        *(volatile unsigned long long*)at = low | expected << 47 | phase << 63;
    }
    void count(int arrived, int more_bytes) {
        uint64_t w = word(), phase = w >> 63, expected = w >> 47 & 0x7fff;
        if (w >> 62 & 1) fail("an mbarrier is used that was not initialised");
        int a = arrivals() - arrived, b = bytes() + more_bytes;
        if (a < 0) fail("an mbarrier got more arrivals than it was initialised for");
        if (a == 0 && b == 0) phase ^= 1, a = (int)expected;
        set(phase, expected, a, b);
    }
};

inline void land(const Flight& f) {
    memcpy(f.to, f.from, f.bytes);
    release_to(f.barrier);
    MBarrier{f.barrier}.count(0, -f.bytes);
}

// One bulk load lands; false where none is in flight.
inline bool land_one() {
    std::vector<Flight>& all = grid->flights;
    if (all.empty()) return false;
    size_t i = grid->seed ? chance() % all.size() : 0;
    Flight f = all[i];
    all.erase(all.begin() + i);
    land(f);
    return true;
}

}  // namespace fx

extern "C" {
__attribute__((cold)) void fx_rt_misaligned(int alignment) {
    fx::fail("a vector is moved at an address that is not a multiple of " + std::to_string(alignment));
}
unsigned fx_rt_shared_address(const void* p) {
    ptrdiff_t offset = (const char*)p - fx::grid->current->block->shared;
    if (offset < 0 || (size_t)offset > fx::grid->shared) fx::fail("an address that should be in shared memory is not");
    return (unsigned)offset;
}

void fx_rt_copy_async(void* shared, const void* global, int bytes, int valid) {
    fx::check_copy("cp.async", shared, valid ? global : nullptr, bytes, bytes);
    if (valid) fx::note_read(global, bytes);
    fx::note_write(shared, bytes);
#ifdef FX_ASAN
    if (valid) (void)*(volatile const char*)global, (void)*((volatile const char*)global + bytes - 1);
#endif
    fx::Copy copy{shared, global, bytes, valid != 0, {}};
    if (fx::is_late()) fx::pending().copies.push_back(copy);
    else fx::land(copy);
}

void fx_rt_copy_async_commit() {
    if (!fx::grid->lazy) return;
    fx::Pending& p = fx::pending();
    p.groups.emplace_back();
    p.groups.back().swap(p.copies);
}

void fx_rt_copy_async_wait(int groups) {
    if (fx::grid->lazy) fx::settle(fx::pending().groups, groups);
}

void fx_rt_mbarrier_init(unsigned long long* barrier, unsigned count) {
    if (count == 0 || count > 0x3fff || (uintptr_t)barrier % 8) fx::fail("mbarrier.init: a bad count or address");
    fx::MBarrier{barrier}.set(0, count, (int)count, 0);
}

void fx_rt_mbarrier_arrive(unsigned long long* barrier, unsigned bytes) {
    fx::release_to(barrier);
    fx::MBarrier{barrier}.count(0, (int)bytes);
    fx::MBarrier{barrier}.count(1, 0);
}

void fx_rt_mbarrier_wait(unsigned long long* barrier, unsigned parity) {
    if (*(volatile unsigned long long*)barrier >> 62 & 1) fx::fail("an mbarrier is waited for that was not initialised");
    if (*(volatile unsigned long long*)barrier >> 63 == parity) fx::wait_for(fx::ON_MBARRIER, barrier, parity);
    fx::acquire(barrier);
}

void fx_rt_bulk_load(void* shared, const void* global, unsigned bytes, unsigned long long* barrier) {
    fx::check_copy("cp.async.bulk", shared, global, bytes, 16);
    fx::note_read(global, bytes);
    fx::note_write(shared, bytes);
    fx::check_fenced("cp.async.bulk", *fx::grid->current->block, fx_rt_shared_address(shared), bytes);
    fx::release_to(barrier);
    fx::Flight flight{shared, global, (int)bytes, barrier};
    if (fx::is_late()) fx::grid->flights.push_back(flight);
    else fx::land(flight);
}

void fx_rt_bulk_store(void* global, const void* shared, unsigned bytes) {
    fx::check_copy("cp.async.bulk", shared, global, bytes, 16);
    fx::note_read(shared, bytes);
    fx::note_write(global, bytes);
    fx::Copy copy{global, shared, (int)bytes, true, {}};
    if (fx::grid->lazy) fx::pending().stores.push_back(copy);
    else fx::land(copy);
}

void fx_rt_bulk_commit() {
    if (!fx::grid->lazy) return;
    fx::Pending& p = fx::pending();
    p.store_groups.emplace_back();
    p.store_groups.back().swap(p.stores);
}

void fx_rt_bulk_wait(int groups, int read_only) {
    if (!fx::grid->lazy) return;
    std::vector<fx::CopyGroup>& all = fx::pending().store_groups;
    if (!read_only) return fx::settle(all, groups);
    for (size_t i = 0; i + groups < all.size(); i++)  // shared memory has been read, global memory need not be written yet
        for (fx::Copy& c : all[i])
            if (c.staged.empty()) c.staged.assign((const char*)c.from, (const char*)c.from + c.bytes);
}

void fx_rt_fence_async() {
    const fx::Fiber* f = fx::grid->current;
    f->block->proxies.fences[f->thread.thread]++;
}
}
