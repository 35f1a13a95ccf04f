// Matrix instructions by the lane maps of the PTX ISA: ldmatrix, stmatrix, mma.sync, and wgmma from its descriptors.
#pragma once
#include "async.h"

namespace fx {

inline float as_float(uint32_t u) {
    float f;
    memcpy(&f, &u, 4);
    return f;
}

inline float half_value(uint16_t h) {
    uint32_t sign = (uint32_t)(h & 0x8000) << 16, rest = h & 0x7fff;
    if (rest >= 0x7c00) return as_float(sign | 0x7f800000u | (rest & 0x3ff) << 13);
    if (rest < 0x400) return (sign ? -1.f : 1.f) * (float)rest * 5.9604644775390625e-8f;
    return as_float(sign | ((rest << 13) + (112u << 23)));
}

// One of the two values that a register holds.
inline float element(uint32_t word, int which, int kind) {
    uint16_t h = (uint16_t)(word >> 16 * which);
    return kind == 0 ? as_float((uint32_t)h << 16) : half_value(h);
}

// A 32-bit register as tf32: the tensor core ignores the 13 lowest bits.
inline float tf32_value(uint32_t word) { return as_float(word & 0xffffe000u); }

struct Fragment {
    float* c;
    const uint32_t *a, *b;
    int kind;
};

// PTX ISA, mma.m16n8k16 with 16-bit types: with g = lane / 4 and t = lane % 4, register r of A holds row g + 8 * (r & 1),
// columns 2 * t + 8 * (r >> 1) and the next; register r of B holds rows 2 * t + 8 * r and the next, column g; register i of C
// holds row g + 8 * (i >> 1), column 2 * t + (i & 1).
// mma.m16n8k8 with tf32: A row g + 8 * (r & 1), column t + 4 * (r >> 1); B row t + 4 * r, column g.
inline void multiply(void** lanes) {
    float a[16][16], b[16][8];
    const int kind = ((Fragment*)lanes[0])->kind, depth = kind == 2 ? 8 : 16;
    for (int lane = 0; lane < WARP; lane++) {
        const Fragment& f = *(Fragment*)lanes[lane];
        const int g = lane / 4, t = lane % 4;
        if (f.kind != kind) fail("lanes of one warp meet in different kinds of mma");
        for (int r = 0; r < 4; r++) {
            if (kind == 2) a[g + 8 * (r & 1)][t + 4 * (r >> 1)] = tf32_value(f.a[r]);
            else
                for (int h = 0; h < 2; h++) a[g + 8 * (r & 1)][2 * t + 8 * (r >> 1) + h] = element(f.a[r], h, kind);
        }
        for (int r = 0; r < 2; r++) {
            if (kind == 2) b[t + 4 * r][g] = tf32_value(f.b[r]);
            else
                for (int h = 0; h < 2; h++) b[2 * t + 8 * r + h][g] = element(f.b[r], h, kind);
        }
    }
    float c[16][8] = {};
    for (int i = 0; i < 16; i++)
        for (int k = 0; k < depth; k++)
            for (int j = 0; j < 8; j++) c[i][j] += a[i][k] * b[k][j];
    for (int lane = 0; lane < WARP; lane++)
        for (int i = 0; i < 4; i++) ((Fragment*)lanes[lane])->c[i] += c[lane / 4 + 8 * (i >> 1)][2 * (lane % 4) + (i & 1)];
}

struct Rows {
    uint32_t* registers;
    char* row;
    int count;
};

inline void check_row(const void* row, int lane_used) {
    if (lane_used && ((uintptr_t)row % 16 || !is_shared(row, 16))) fail("a matrix row is not 16 aligned bytes of shared memory");
}

// PTX ISA, wgmma, "Matrix Descriptor Format": start address, leading and stride offsets in 16 bytes, swizzle mode in the top bits.
// Where element (row along M or N, k) of an operand with `size`-byte elements lies, from the start of shared memory. Canonical
// layouts: rows of 16 bytes in groups of eight, which a swizzle of 32, 64 or 128 bytes moves by xor with address bits 7 and up.
struct Descriptor {
    uint32_t start, leading, stride;
    int span;  // 16-byte columns in a swizzled row: 1 for none, 2, 4 or 8
    explicit Descriptor(uint64_t d) {
        start = (uint32_t)(d & 0x3fff) << 4, leading = (uint32_t)(d >> 16 & 0x3fff) << 4, stride = (uint32_t)(d >> 32 & 0x3fff) << 4;
        const int modes[] = {1, 8, 4, 2};
        span = modes[d >> 62];
        if (span > 1 && start % (128 * span) / 128 != 0 && d >> 49 & 7) fail("wgmma: base offsets are not emulated");
    }
    uint32_t at(int row, int k, int size, bool transposed) const {
        const int per = 16 / size;  // elements in 16 bytes
        uint32_t address;
        if (!transposed) {  // the k direction is contiguous
            const int column = k / per;
            address = row / 8 * stride + row % 8 * (16 * span) + k % per * size;
            address += span == 1 ? column * leading : column % span * 16;
        } else {  // rows along M or N are contiguous
            const int column = row / per;
            address = k % 8 * (16 * span) + row % per * size;
            if (span == 1) address += column * stride + k / 8 * leading;
            else address += column % span * 16 + column / span * leading + k / 8 * stride;
        }
        address += start;
        return address ^ (address >> 7 & (uint32_t)(span - 1)) << 4;
    }
};

inline float operand(const Block& b, const Descriptor& d, int row, int k, const Product& p, bool transposed) {
    const int size = p.kind == 2 ? 4 : 2;
    uint32_t at = d.at(row, k, size, transposed);
    if (at + size > grid->shared) fail("wgmma reads outside the block's shared memory");
    note_read(b.shared + at, size);
    if (at % 16 == 0) check_fenced("wgmma", b, at, size);
    if (p.kind == 2) {
        uint32_t w;
        memcpy(&w, b.shared + at, 4);
        return tf32_value(w);
    }
    uint16_t h;
    memcpy(&h, b.shared + at, 2);
    return element(h, 0, p.kind);
}

// PTX ISA, "Matrix Fragments for wgmma": warp w of the warpgroup has rows 16 * w to 16 * w + 15, and within them register i of a
// lane holds row lane / 4 + 8 * (i >> 1 & 1), column 8 * (i >> 2) + 2 * (lane % 4) + (i & 1).
inline void execute(const Block& b, const Product& p) {
    static float a[64][16], bs[16][256], c[64][256];
    const int depth = p.kind == 2 ? 8 : 16;
    const Descriptor da(p.a), db(p.b);
    for (int m = 0; m < 64; m++)
        for (int k = 0; k < depth; k++) a[m][k] = operand(b, da, m, k, p, p.transposed & 1);
    for (int k = 0; k < depth; k++)
        for (int n = 0; n < p.n; n++) bs[k][n] = operand(b, db, n, k, p, p.transposed & 2);
    for (int m = 0; m < 64; m++) {
        for (int n = 0; n < p.n; n++) c[m][n] = 0;
        for (int k = 0; k < depth; k++)
            for (int n = 0; n < p.n; n++) c[m][n] += a[m][k] * bs[k][n];
    }
    for (int t = 0; t < 128; t++)
        for (int i = 0; i < p.n / 2; i++) {
            const int lane = t % 32, m = 16 * (t / 32) + lane / 4 + 8 * (i >> 1 & 1), n = 8 * (i >> 2) + 2 * (lane % 4) + (i & 1);
            p.accumulators[t][i] = (p.keep ? p.accumulators[t][i] : 0.f) + c[m][n];
        }
}

// Executes products that all 128 threads have issued, up to number `last`.
inline void execute_until(Block& b, WarpGroup& g, uint64_t last) {
    while (g.executed < last && !g.queue.empty() && g.queue.front().threads == 128) {
        acquire(&g);
        execute(b, g.queue.front());
        g.queue.erase(g.queue.begin());
        g.executed++;
        release_to(&g);
    }
}

inline WarpGroup& group_of(const Fiber* f) { return f->block->group[f->thread.thread / 128]; }

}  // namespace fx

extern "C" {
// Lane l gives the address of row l % 8 of matrix l / 8; lane l gets columns 2 * (l % 4) and the next of row l / 4 of each matrix
// (PTX ISA, ldmatrix), of its transpose where `transposed`.
void fx_rt_load_matrix(unsigned* registers, const void* row, int count, int transposed) {
    fx::Rows mine{registers, (char*)row, count};
    fx::check_row(row, fx::grid->current->thread.thread % 32 < 8 * count);
    if (fx::grid->current->thread.thread % 32 < 8 * count) fx::note_read(row, 16);
    fx::together(&mine, fx::LOAD_MATRIX + 16 * count + 256 * transposed, [transposed, count](void** lanes) {
        for (int l = 0; l < fx::WARP; l++)
            for (int m = 0; m < count; m++) {
                uint16_t pair[2];
                for (int h = 0; h < 2; h++) {
                    const int i = transposed ? 2 * (l % 4) + h : l / 4, j = transposed ? l / 4 : 2 * (l % 4) + h;
                    memcpy(&pair[h], ((fx::Rows*)lanes[8 * m + i])->row + 2 * j, 2);
                }
                ((fx::Rows*)lanes[l])->registers[m] = pair[0] | (uint32_t)pair[1] << 16;
            }
    });
}

void fx_rt_store_matrix(void* row, const unsigned* registers, int count, int transposed) {
    fx::Rows mine{(uint32_t*)registers, (char*)row, count};
    fx::check_row(row, fx::grid->current->thread.thread % 32 < 8 * count);
    if (fx::grid->current->thread.thread % 32 < 8 * count) fx::note_write(row, 16);
    fx::together(&mine, fx::STORE_MATRIX + 16 * count + 256 * transposed, [transposed, count](void** lanes) {
        for (int l = 0; l < fx::WARP; l++)
            for (int m = 0; m < count; m++)
                for (int h = 0; h < 2; h++) {
                    const int i = transposed ? 2 * (l % 4) + h : l / 4, j = transposed ? l / 4 : 2 * (l % 4) + h;
                    uint16_t value = (uint16_t)(((fx::Rows*)lanes[l])->registers[m] >> 16 * h);
                    memcpy(((fx::Rows*)lanes[8 * m + i])->row + 2 * j, &value, 2);
                }
    });
}

void fx_rt_mma(float* c, const unsigned* a, const unsigned* b, int kind) {
    fx::Fragment mine{c, a, b, kind};
    fx::together(&mine, fx::MMA, fx::multiply);
}

void fx_rt_wgmma(float* c, int n, unsigned long long a, unsigned long long b, int kind, int transposed, int keep) {
    fx::Fiber* f = fx::grid->current;
    fx::WarpGroup& g = fx::group_of(f);
    const uint64_t index = fx::pending().issued++ - g.executed;
    if (index >= g.queue.size()) g.queue.push_back({a, b, n, kind, transposed, keep, 0, {}});
    fx::Product& p = g.queue[index];
    if (p.a != a || p.b != b || p.n != n || p.kind != kind || p.transposed != transposed || p.keep != keep)
        fx::fail("threads of one warpgroup issue different wgmmas");
    p.accumulators[f->thread.thread % 128] = c;
    fx::release_to(&g);
    p.threads++;
    if (!fx::grid->lazy) fx::execute_until(*f->block, g, ~0ull);
}

void fx_rt_wgmma_commit() { fx::pending().commits.push_back(fx::pending().issued); }

void fx_rt_wgmma_wait(int groups) {
    fx::Fiber* f = fx::grid->current;
    std::vector<uint64_t>& commits = fx::pending().commits;
    if (commits.size() <= (size_t)groups) return;
    fx::WarpGroup& g = fx::group_of(f);
    const uint64_t need = commits[commits.size() - 1 - groups];
    commits.erase(commits.begin(), commits.end() - groups);
    fx::execute_until(*f->block, g, need);
    if (g.executed < need) fx::wait_for(fx::ON_PRODUCT, &g, need);
    fx::acquire(&g);
}
}
