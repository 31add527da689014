// Causal attention over the block cache in the order of cpu/attend.rs: every block of 64 absolute positions is a sum of
// its own, positions ascending; the sums of four blocks, a group, and then of the groups are put together in ascending
// order. Scores stay in shared memory. A long context is split over several blocks of threads, each with groups of its
// own, the last of which puts their sums together.
#include "batch.cuh"
#include "formats.cuh"

struct Attend {
    const float* q; // [rows, heads * head_dim]
    float* dst;     // [rows, heads * head_dim]
    u64 layer_at;   // of this layer in a block, in halves
    int heads, kv_heads, head_dim, visible; // visible: which set of ranges
    float scale, softcap; // softcap 0: none
    int rows;
    int splits; // blocks of threads of one head; with one, the rest is not used
    Acts acts;
    float* sums;   // [rows, heads, stride, head_dim]: of each group
    float2* tops;  // [rows, heads, stride]: largest score, sum of exponentials
    u32* arrived;  // [rows, heads]: how many blocks of threads are done; 0 before and after
    int stride, unused;
};

// Blocks of the cache in a group, and its positions.
#define GROUP 4
#define GROUP_POSITIONS (GROUP * KV_BLOCK)
#define INFINITE __int_as_float(0x7f800000)

// q . k for the position of this thread, K as [dim][64]: a batch of loads, then their sum.
template <int BATCH> __device__ __forceinline__ float score(const float* q, const u16* k, int n) {
    float s = 0.0f;
    int d = 0;
    for (; d + BATCH <= n; d += BATCH) {
        u16 batch[BATCH];
#pragma unroll
        for (int i = 0; i < BATCH; i++) batch[i] = k[(d + i) * KV_BLOCK];
#pragma unroll
        for (int i = 0; i < BATCH; i += 4) {
            const float4 by = *(const float4*)(q + d + i);
            s = fmaf(by.x, half_to_float(batch[i]), s);
            s = fmaf(by.y, half_to_float(batch[i + 1]), s);
            s = fmaf(by.z, half_to_float(batch[i + 2]), s);
            s = fmaf(by.w, half_to_float(batch[i + 3]), s);
        }
    }
    for (; d < n; d++) s = fmaf(q[d], half_to_float(k[d * KV_BLOCK]), s);
    return s;
}

// Adds the positions of a block, all of them or `from..to`, to two neighbouring elements of the output, V as [64][dim].
__device__ __forceinline__ void mix_whole(float out[2], const float* p, const u16* v, int n) {
    u32 values[KV_BLOCK];
#pragma unroll
    for (int j = 0; j < KV_BLOCK; j++) values[j] = *(const u32*)(v + j * n);
#pragma unroll
    for (int j = 0; j < KV_BLOCK; j += 4) {
        const float4 by = *(const float4*)(p + j);
        const float each[4] = {by.x, by.y, by.z, by.w};
#pragma unroll
        for (int i = 0; i < 4; i++) {
            out[0] = fmaf(each[i], half_to_float((u16)values[j + i]), out[0]);
            out[1] = fmaf(each[i], half_to_float((u16)(values[j + i] >> 16)), out[1]);
        }
    }
}

template <int BATCH> __device__ __forceinline__ void mix(float out[2], const float* p, const u16* v, int n, int from, int to) {
    u32 now[BATCH], next[BATCH];
#pragma unroll
    for (int i = 0; i < BATCH; i++) next[i] = from + i < to ? *(const u32*)(v + (from + i) * n) : 0;
    for (int j = from; j < to; j += BATCH) {
#pragma unroll
        for (int i = 0; i < BATCH; i++) now[i] = next[i];
#pragma unroll
        for (int i = 0; i < BATCH; i++) {
            if (j + BATCH + i < to) next[i] = *(const u32*)(v + (j + BATCH + i) * n);
        }
#pragma unroll
        for (int i = 0; i < BATCH; i++) {
            if (j + i < to) {
                out[0] = fmaf(p[j + i], half_to_float((u16)now[i]), out[0]);
                out[1] = fmaf(p[j + i], half_to_float((u16)(now[i] >> 16)), out[1]);
            }
        }
    }
}

// What the blocks, or the groups, so far come to, for one element of the output.
struct Running {
    float max, sum, out;

    __device__ __forceinline__ void take(float top, float part_sum, float part_out) {
        const float larger = top > max ? top : max;
        const float keep = exp_or_none(max - larger), add = exp_or_none(top - larger);
        sum = sum * keep + part_sum * add;
        out = fmaf(part_out, add, out * keep);
        max = larger;
    }
    __device__ __forceinline__ void take(const Running& later) { take(later.max, later.sum, later.out); }
    static __device__ __forceinline__ Running empty() { return {-INFINITE, 0.0f, 0.0f}; }
    static __device__ __forceinline__ float exp_or_none(float x) { return x == -INFINITE ? 0.0f : exp_contract(x); }
};

// Groups whose sums are read at once.
#define TOGETHER 8

// The last block of threads of a head takes what all of them left, in order. Whether this is it.
__device__ __forceinline__ bool put_together(const Attend& p, Running& all, size_t index, int n, int count, int* is_last) {
    const int tid = threadIdx.x;
    __threadfence();
    __syncthreads();
    if (tid == 0) {
        *is_last = atomicAdd(p.arrived + index, 1u) == (u32)p.splits - 1;
        if (*is_last) p.arrived[index] = 0;
    }
    __syncthreads();
    if (!*is_last) return false;
    __threadfence();
    for (int b = 0; tid < n && b < count; b += TOGETHER) {
        float2 top[TOGETHER];
        float out[TOGETHER];
#pragma unroll
        for (int i = 0; i < TOGETHER; i++) {
            const size_t place = index * p.stride + (b + i < count ? b + i : b);
            top[i] = __ldcg(p.tops + place);
            out[i] = __ldcg(p.sums + place * n + tid);
        }
#pragma unroll
        for (int i = 0; i < TOGETHER; i++) {
            if (b + i < count) all.take(top[i].x, top[i].y, out[i]);
        }
    }
    return true;
}

// One element of a group: taken at once, or left at `place` for the last block of threads.
DEVICE void give(const Attend& p, Running& all, const Running& sums, size_t place, int n) {
    if (p.splits == 1) {
        all.take(sums);
        return;
    }
    p.sums[place * n + threadIdx.x] = sums.out;
    if (threadIdx.x == 0) p.tops[place] = make_float2(sums.max, sums.sum);
}

// The groups that a block of threads has: `from .. to`, of `count`.
struct Groups {
    int first, count, begin, end;

    DEVICE Groups(int from, int to, int split, int splits) {
        first = from / GROUP_POSITIONS;
        count = (to + GROUP_POSITIONS - 1) / GROUP_POSITIONS - first;
        const int each = (count + splits - 1) / splits, last = (split + 1) * each;
        begin = first + split * each;
        end = first + (last < count ? last : count);
    }
};

// One head of one row, or a part of its positions. Threads: one per position of four blocks; the same sixty-four then
// sum up their block, and then there is one per element of the head.
template <int BATCH> __device__ __forceinline__ void attend(const Attend& p, const Inputs& in) {
    __shared__ __align__(16) float q[256], probability[GROUP_POSITIONS], part[GROUP][256];
    __shared__ float warp_max[8], block_sum[GROUP];
    __shared__ int is_last;
    let_next_start();
    wait_for_inputs();
    const int tid = threadIdx.x, lane = tid & 31, warp = tid / 32, mine = tid / KV_BLOCK, head = blockIdx.y, n = p.head_dim;
    const int row = blockIdx.x / p.splits, split = blockIdx.x % p.splits;
    const u64* table = in.tables + in.rows[row].table;
    const u32* range = in.visible + ((size_t)p.visible * p.rows + row) * 2;
    const int from = range[0], to = range[1];
    const int kv_head = head / (p.heads / p.kv_heads);
    const size_t index = (size_t)row * p.heads + head, at = index * n;
    const u64 k_at = p.layer_at + (u64)kv_head * n * KV_BLOCK;
    const u64 v_at = p.layer_at + (u64)(p.kv_heads + kv_head) * n * KV_BLOCK;
    if (tid < n) q[tid] = p.q[at + tid];
    Running all = Running::empty();
    const Groups groups(from, to, split, p.splits);
    for (int g = groups.begin; g < groups.end; g++) {
        __syncthreads();
        const int block = g * GROUP + mine, begin = block * KV_BLOCK, position = begin + tid % KV_BLOCK;
        const bool there = begin < to && begin + KV_BLOCK > from, seen = position >= from && position < to;
        float s = 0.0f;
        if (seen) {
            s = score<BATCH>(q, (const u16*)table[block] + k_at + tid % KV_BLOCK, n) * p.scale;
            if (p.softcap != 0.0f) s = p.softcap * tanhf(__fdiv_rn(s, p.softcap));
        }
        // A NaN score does not win the maximum, but exp passes it on into the sum.
        float top = seen && s > -INFINITE ? s : -INFINITE;
        for (int m = 16; m > 0; m /= 2) {
            float other = __shfl_xor_sync(0xffffffffu, top, m);
            top = other > top ? other : top;
        }
        if (lane == 0) warp_max[warp] = top;
        __syncthreads();
        top = warp_max[2 * mine + 1] > warp_max[2 * mine] ? warp_max[2 * mine + 1] : warp_max[2 * mine];
        probability[tid] = seen ? exp_contract(s - top) : 0.0f;
        __syncthreads();
        if (tid < 16 * GROUP) {
            const float* x = probability + tid / 16 * KV_BLOCK + tid % 16;
            float sum = fold16((((0.0f + x[0]) + x[16]) + x[32]) + x[48]);
            if (tid % 16 == 0) block_sum[tid / 16] = sum;
        }
        if (there) {
            const int j0 = from > begin ? from - begin : 0, j1 = to - begin < KV_BLOCK ? to - begin : KV_BLOCK;
            for (int d = 2 * (tid % KV_BLOCK); d < n; d += 2 * KV_BLOCK) {
                const u16* v = (const u16*)table[block] + v_at + d;
                float out[2] = {0.0f, 0.0f};
                if (BATCH == 64 && j1 - j0 == KV_BLOCK) mix_whole(out, probability + mine * KV_BLOCK, v, n);
                else mix<16>(out, probability + mine * KV_BLOCK, v, n, j0, j1);
                part[mine][d] = out[0];
                part[mine][d + 1] = out[1];
            }
        }
        __syncthreads();
        Running sums = Running::empty();
        for (int b = 0; b < GROUP; b++) {
            const int at = (g * GROUP + b) * KV_BLOCK;
            if (at >= to || at + KV_BLOCK <= from) continue;
            const float highest = warp_max[2 * b + 1] > warp_max[2 * b] ? warp_max[2 * b + 1] : warp_max[2 * b];
            if (tid < n) sums.take(highest, block_sum[b], part[b][tid]);
        }
        if (tid < n) give(p, all, sums, index * p.stride + g - groups.first, n);
    }
    if (p.splits > 1 && !put_together(p, all, index, n, groups.count, &is_last)) return;
    if (tid < n) {
        const float x = __fdiv_rn(all.out, all.sum);
        p.dst[at + tid] = x;
        if (p.acts.steps) quantise(p.acts, row, (head * n + tid) / STEP, x);
    }
}

// A few rows: long batches of loads, since little else runs. Grid: rows times splits, heads.
extern "C" __global__ void __launch_bounds__(256) attend_few(const __grid_constant__ Attend p, const __grid_constant__ Inputs in) {
    attend<64>(p, in);
}

// Many rows: few registers, so that many heads run at once.
extern "C" __global__ void __launch_bounds__(256, 3) attend_many(const __grid_constant__ Attend p, const __grid_constant__ Inputs in) {
    attend<16>(p, in);
}

// Blocks of the cache that `attend_one` takes at once, and positions that are read ahead of their sum.
#define PAIR 2
#define AHEAD 16

// One row: rotations, cache append and attention in one kernel. Keys and values that earlier steps left in the cache are
// on their way to shared memory before the inputs of this one are there, where then this position's are put beside them.
// A thread of the first two warps has two neighbouring positions, later two neighbouring elements of the output: N of a
// head. Dynamic shared memory: keys and values of the blocks. Loops are kept short: see `one` in product.cu.
template <int N> DEVICE void attend_alone(const Attend& p, const Rope& r, const Inputs& in) {
    extern __shared__ __align__(16) u16 cached[];
    __shared__ __align__(16) float q[N], probability[PAIR * KV_BLOCK], part[PAIR][N];
    __shared__ __align__(16) u16 new_k[N], new_v[N];
    __shared__ float tops[PAIR], block_sum[PAIR];
    __shared__ u64 barriers[2 * PAIR];
    __shared__ int is_last;
    const int tid = threadIdx.x, lane = tid & 31, warp = tid / 32, head = blockIdx.y;
    const u64* table = in.tables + in.rows[0].table;
    const u32* range = in.visible + (size_t)p.visible * 2;
    const int from = range[0], to = range[1], newest = to - 1;
    const int sharing = p.heads / p.kv_heads, kv_head = head / sharing;
    const u64 k_at = p.layer_at + (u64)kv_head * N * KV_BLOCK, v_at = p.layer_at + (u64)(p.kv_heads + kv_head) * N * KV_BLOCK;
    const Groups groups(from, to, blockIdx.x, p.splits);
    const int blocks = (to + KV_BLOCK - 1) / KV_BLOCK, ahead = (groups.end * GROUP < blocks ? groups.end * GROUP : blocks);
    const int last = (ahead + PAIR - 1) / PAIR;
    auto there = [&](int block) { return block * KV_BLOCK < to && (block + 1) * KV_BLOCK > from; };
    u16 *keys = cached, *values = cached + PAIR * N * KV_BLOCK;
    // Warps 0 and 1 bring the keys of two blocks, 2 and 3 the values.
    auto load = [&](int pair) {
        const int block = pair * PAIR + warp % PAIR;
        if (!there(block)) return;
        const u16* at = (const u16*)table[block] + (warp < PAIR ? k_at : v_at);
        bring((u8*)(cached + warp * N * KV_BLOCK), (const u8*)at, N * KV_BLOCK * 2, barriers + warp);
    };
    int pair = groups.begin * (GROUP / PAIR), phase = 0;
    prepare(barriers + warp);
    if (pair < last) load(pair);
    let_next_start();
    // What is read later comes at least from the second level cache.
    for (int block = (pair + 1) * PAIR; block < last * PAIR && tid < N; block++) {
        if (!there(block)) continue;
        const u16* line = (const u16*)table[block] + tid * KV_BLOCK;
        asm volatile("prefetch.global.L2 [%0];" ::"l"(line + k_at));
        asm volatile("prefetch.global.L2 [%0];" ::"l"(line + v_at));
    }
    float turn_q[2] = {1.0f, 0.0f}, turn_k[2] = {1.0f, 0.0f};
    const size_t position = in.rows[0].position;
    for (int i = 0; i < 2; i++) {
        if (tid < r.pairs_q) turn_q[i] = r.turns_q[(position * r.pairs_q + tid) * 2 + i];
        if (tid < r.pairs_k) turn_k[i] = r.turns_k[(position * r.pairs_k + tid) * 2 + i];
    }
    // The elements of every position of a block that this thread sums up.
    const int d = 2 * (tid % KV_BLOCK), mixed = tid / KV_BLOCK;
    Running all = Running::empty(), sums = Running::empty();
    const float *my_q = p.q + head * N, *my_k = r.k + kv_head * N, *my_v = r.v + kv_head * N;
    auto inputs = [&]() {
        wait_for_inputs();
        // Pairs turn; what is not part of one stays.
        if (tid < r.pairs_q) {
            const int a = r.interleaved_q ? 2 * tid : tid, b = r.interleaved_q ? 2 * tid + 1 : tid + r.pairs_q;
            const float x = __ldcg(my_q + a), y = __ldcg(my_q + b);
            q[a] = x * turn_q[0] - y * turn_q[1];
            q[b] = x * turn_q[1] + y * turn_q[0];
        }
        if (tid < r.pairs_k) {
            const int a = r.interleaved_k ? 2 * tid : tid, b = r.interleaved_k ? 2 * tid + 1 : tid + r.pairs_k;
            const float x = __ldcg(my_k + a), y = __ldcg(my_k + b);
            new_k[a] = float_to_half(x * turn_k[0] - y * turn_k[1]);
            new_k[b] = float_to_half(x * turn_k[1] + y * turn_k[0]);
        }
        if (tid < N) {
            if (tid >= 2 * r.pairs_q) q[tid] = __ldcg(my_q + tid);
            if (tid >= 2 * r.pairs_k) new_k[tid] = float_to_half(__ldcg(my_k + tid));
            new_v[tid] = float_to_half(__ldcg(my_v + tid));
        }
        __syncthreads();
        if (head % sharing == 0 && blockIdx.x == 0 && tid < N) {
            u16* block = (u16*)table[newest / KV_BLOCK];
            block[k_at + (u64)tid * KV_BLOCK + newest % KV_BLOCK] = new_k[tid];
            block[v_at + (u64)(newest % KV_BLOCK) * N + tid] = new_v[tid];
        }
    };
    // The first turn is for nothing, before the inputs are there, with whatever is in shared memory: instructions that are
    // not in the multiprocessor's cache cost as much as the sums.
    bool real = false;
    if (pair >= last) wait_for_inputs();
#pragma unroll 1
    for (; pair < last; pair += real, real = true) {
        if (real && pair == groups.begin * (GROUP / PAIR)) inputs();
        if (real && there(pair * PAIR + warp % PAIR)) {
            arrived(barriers + warp, phase);
            phase ^= 1;
        }
        __syncthreads();
        if (real && newest / KV_BLOCK / PAIR == pair) { // the newest position is not in the cache yet
            const int block = newest / KV_BLOCK % PAIR, slot = newest % KV_BLOCK;
            if (tid < N) {
                keys[(block * N + tid) * KV_BLOCK + slot] = new_k[tid];
                values[(block * KV_BLOCK + slot) * N + tid] = new_v[tid];
            }
            __syncthreads();
        }
        if (warp < PAIR && there(pair * PAIR + warp)) {
            const int mine = (pair * PAIR + warp) * KV_BLOCK + 2 * lane;
            const u32* k = (const u32*)(keys + warp * N * KV_BLOCK) + lane;
            float s[2] = {0.0f, 0.0f};
#pragma unroll 4
            for (int i = 0; i < N; i += 4) {
                const float4 four = *(const float4*)(q + i);
                const float by[4] = {four.x, four.y, four.z, four.w};
#pragma unroll
                for (int c = 0; c < 4; c++) {
                    const u32 two = k[(i + c) * (KV_BLOCK / 2)];
                    s[0] = fmaf(by[c], half_to_float((u16)two), s[0]);
                    s[1] = fmaf(by[c], half_to_float((u16)(two >> 16)), s[1]);
                }
            }
            float top = -INFINITE;
            bool seen[2];
            for (int i = 0; i < 2; i++) {
                seen[i] = mine + i >= from && mine + i < to;
                s[i] = s[i] * p.scale;
                if (p.softcap != 0.0f) s[i] = p.softcap * tanhf(__fdiv_rn(s[i], p.softcap));
                if (seen[i] && s[i] > top) top = s[i];
            }
            for (int m = 16; m > 0; m /= 2) {
                const float other = __shfl_xor_sync(0xffffffffu, top, m);
                top = other > top ? other : top;
            }
            float* mine_p = probability + warp * KV_BLOCK;
            for (int i = 0; i < 2; i++) mine_p[2 * lane + i] = seen[i] ? exp_contract(s[i] - top) : 0.0f;
            __syncwarp();
            const float* x = mine_p + lane % 16;
            const float sum = fold16((((0.0f + x[0]) + x[16]) + x[32]) + x[48]);
            if (lane == 0) tops[warp] = top, block_sum[warp] = sum;
        }
        __syncthreads();
        if (real && warp < PAIR && pair + 1 < last) load(pair + 1);
        if (d < N && there(pair * PAIR + mixed)) {
            const int begin = (pair * PAIR + mixed) * KV_BLOCK;
            const int j0 = from > begin ? from - begin : 0, j1 = to - begin < KV_BLOCK ? to - begin : KV_BLOCK;
            float out[2] = {0.0f, 0.0f};
#pragma unroll 1
            for (int j = j0 / AHEAD * AHEAD; j < j1; j += AHEAD) {
                const u16* v = values + (mixed * KV_BLOCK + j) * N + d;
                const float* by = probability + mixed * KV_BLOCK + j;
#pragma unroll
                for (int i = 0; i < AHEAD; i++) {
                    const u32 value = *(const u32*)(v + i * N);
                    if (j + i < j0 || j + i >= j1) continue;
                    out[0] = fmaf(by[i], half_to_float((u16)value), out[0]);
                    out[1] = fmaf(by[i], half_to_float((u16)(value >> 16)), out[1]);
                }
            }
            part[mixed][d] = out[0];
            part[mixed][d + 1] = out[1];
        }
        __syncthreads();
        if (real && warp >= PAIR && pair + 1 < last) load(pair + 1);
#pragma unroll 1
        for (int b = 0; b < PAIR && tid < N; b++) {
            if (there(pair * PAIR + b)) sums.take(tops[b], block_sum[b], part[b][tid]);
        }
        if (pair % (GROUP / PAIR) == GROUP / PAIR - 1 || pair + 1 == last) {
            const int group = pair / (GROUP / PAIR);
            if (tid < N && (real || p.splits == 1)) give(p, all, sums, (size_t)head * p.stride + group - groups.first, N);
            sums = Running::empty();
        }
        if (!real) all = sums = Running::empty();
    }
    if (p.splits > 1 && !put_together(p, all, head, N, groups.count, &is_last)) return;
    if (tid < N) {
        const float x = __fdiv_rn(all.out, all.sum);
        p.dst[head * N + tid] = x;
        if (p.acts.steps) quantise(p.acts, 0, (head * N + tid) / STEP, x);
    }
}

extern "C" __global__ void __launch_bounds__(128) attend_one(
    const __grid_constant__ Attend p, const __grid_constant__ Rope r, const __grid_constant__ Inputs in) {
    if (p.head_dim == 64) attend_alone<64>(p, r, in);
    else attend_alone<128>(p, r, in);
}
