// Causal attention over the block cache in the order of cpu/attend.rs: every block of 64 absolute positions is a sum of
// its own, positions ascending, and the sums are put together in ascending order. Scores stay in shared memory. A long
// context is split over several blocks of threads, the last of which puts their sums together.
#include "batch.cuh"

struct Attend {
    const float* q; // [rows, heads * head_dim]
    float* dst;     // [rows, heads * head_dim]
    u64 layer_at;   // of this layer in a block, in halves
    int heads, kv_heads, head_dim, visible; // visible: which set of ranges
    float scale, softcap; // softcap 0: none
    int rows;
    int splits; // blocks of threads of one head; with one, the rest is not used
    Acts acts;
    float* sums;   // [rows, heads, stride, head_dim]: of each block of the cache
    float2* tops;  // [rows, heads, stride]: largest score, sum of exponentials
    u32* arrived;  // [rows, heads]: how many blocks of threads are done; 0 before and after
    int stride, unused;
};

// Blocks of the cache whose scores are computed together.
#define ABREAST 4
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

// What the blocks so far come to, for one element of the output.
struct Running {
    float max, sum, out;

    __device__ __forceinline__ void take(float top, float part_sum, float part_out) {
        const float larger = top > max ? top : max;
        const float keep = exp_or_none(max - larger), add = exp_or_none(top - larger);
        sum = sum * keep + part_sum * add;
        out = fmaf(part_out, add, out * keep);
        max = larger;
    }
    static __device__ __forceinline__ float exp_or_none(float x) { return x == -INFINITE ? 0.0f : exp_contract(x); }
};

// Blocks whose sums are read at once.
#define TOGETHER 8

// One head of one row, or a part of its positions. Threads: one per position of four blocks; the same sixty-four then
// sum up their block, and then there is one per element of the head.
template <int BATCH> __device__ __forceinline__ void attend(const Attend& p, const Inputs& in) {
    __shared__ __align__(16) float q[256], probability[ABREAST * KV_BLOCK], part[ABREAST][256];
    __shared__ float warp_max[8], block_sum[ABREAST];
    __shared__ int is_last;
    wait_for_inputs();
    let_next_start();
    const int tid = threadIdx.x, lane = tid & 31, warp = tid / 32, group = tid / KV_BLOCK, head = blockIdx.y, n = p.head_dim;
    const int row = blockIdx.x / p.splits, split = blockIdx.x % p.splits;
    const u64* table = in.tables + in.rows[row].table;
    const u32* range = in.visible + ((size_t)p.visible * p.rows + row) * 2;
    const int from = range[0], to = range[1];
    const int kv_head = head / (p.heads / p.kv_heads);
    const size_t index = (size_t)row * p.heads + head, at = index * n;
    const u64 k_at = p.layer_at + (u64)kv_head * n * KV_BLOCK;
    const u64 v_at = p.layer_at + (u64)(p.kv_heads + kv_head) * n * KV_BLOCK;
    if (tid < n) q[tid] = p.q[at + tid];
    Running all = {-INFINITE, 0.0f, 0.0f};
    const int first = from / KV_BLOCK, count = (to + KV_BLOCK - 1) / KV_BLOCK - first;
    const int each = ((count + p.splits - 1) / p.splits + ABREAST - 1) / ABREAST * ABREAST;
    const int end = (split + 1) * each < count ? (split + 1) * each : count;
    for (int four = split * each; four < end; four += ABREAST) {
        __syncthreads();
        const int block = first + four + group, begin = block * KV_BLOCK, position = begin + tid % KV_BLOCK;
        const bool there = four + group < end, seen = there && position >= from && position < to;
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
        const float mine = warp_max[2 * group + 1] > warp_max[2 * group] ? warp_max[2 * group + 1] : warp_max[2 * group];
        probability[tid] = seen ? exp_contract(s - mine) : 0.0f;
        __syncthreads();
        if (tid < 16 * ABREAST) {
            const float* x = probability + tid / 16 * KV_BLOCK + tid % 16;
            float sum = fold16((((0.0f + x[0]) + x[16]) + x[32]) + x[48]);
            if (tid % 16 == 0) block_sum[tid / 16] = sum;
        }
        if (there) {
            const int j0 = from > begin ? from - begin : 0, j1 = to - begin < KV_BLOCK ? to - begin : KV_BLOCK;
            for (int d = 2 * (tid % KV_BLOCK); d < n; d += 2 * KV_BLOCK) {
                const u16* v = (const u16*)table[block] + v_at + d;
                float out[2] = {0.0f, 0.0f};
                if (BATCH == 64 && j1 - j0 == KV_BLOCK) mix_whole(out, probability + group * KV_BLOCK, v, n);
                else mix<16>(out, probability + group * KV_BLOCK, v, n, j0, j1);
                part[group][d] = out[0];
                part[group][d + 1] = out[1];
            }
        }
        __syncthreads();
        for (int b = 0; b < ABREAST && four + b < end; b++) {
            const float highest = warp_max[2 * b + 1] > warp_max[2 * b] ? warp_max[2 * b + 1] : warp_max[2 * b];
            if (p.splits == 1) {
                if (tid < n) all.take(highest, block_sum[b], part[b][tid]);
            } else {
                const size_t place = index * p.stride + four + b;
                if (tid < n) p.sums[place * n + tid] = part[b][tid];
                if (tid == 0) p.tops[place] = make_float2(highest, block_sum[b]);
            }
        }
    }
    if (p.splits > 1) {
        __threadfence();
        __syncthreads();
        if (tid == 0) {
            is_last = atomicAdd(p.arrived + index, 1u) == (u32)p.splits - 1;
            if (is_last) p.arrived[index] = 0;
        }
        __syncthreads();
        if (!is_last) return;
        __threadfence();
        if (tid < n) {
            for (int b = 0; b < count; b += TOGETHER) {
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
        }
    }
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
