// Causal attention over the block cache with an online softmax, in the order of cpu/attend.rs: blocks of 64 absolute
// positions ascending, positions ascending within. Scores stay in shared memory.
#include "batch.cuh"

struct Attend {
    const float* q; // [rows, heads * head_dim]
    float* dst;     // [rows, heads * head_dim]
    u64 layer_at;   // of this layer in a block, in halves
    int heads, kv_heads, head_dim, visible; // visible: which set of ranges
    float scale, softcap; // softcap 0: none
    int rows, unused;
    Acts acts;
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

// One head of one row. Threads: one per position of four blocks, then one for each two elements of the head.
template <int BATCH> __device__ __forceinline__ void attend(const Attend& p, const Inputs& in) {
    __shared__ __align__(16) float q[256], probability[ABREAST * KV_BLOCK], warp_max[8], block_sum[ABREAST], whole[256];
    wait_for_inputs();
    let_next_start();
    const int tid = threadIdx.x, lane = tid & 31, warp = tid / 32, head = blockIdx.y, n = p.head_dim;
    const u64* table = in.tables + in.rows[blockIdx.x].table;
    const u32* range = in.visible + ((size_t)p.visible * p.rows + blockIdx.x) * 2;
    const int from = range[0], to = range[1];
    const int kv_head = head / (p.heads / p.kv_heads);
    const size_t at = ((size_t)blockIdx.x * p.heads + head) * n;
    const u64 k_at = p.layer_at + (u64)kv_head * n * KV_BLOCK;
    const u64 v_at = p.layer_at + (u64)(p.kv_heads + kv_head) * n * KV_BLOCK;
    if (tid < n) q[tid] = p.q[at + tid];
    float max = -INFINITE, sum = 0.0f, out[2] = {0.0f, 0.0f};
    const int last = (to + KV_BLOCK - 1) / KV_BLOCK;
    for (int first = from / KV_BLOCK; first < last; first += ABREAST) {
        __syncthreads();
        const int block = first + tid / KV_BLOCK, position = block * KV_BLOCK + tid % KV_BLOCK;
        const bool seen = position >= from && position < to;
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
        float mine = max;
        for (int b = 0; b <= tid / KV_BLOCK; b++) {
            mine = warp_max[2 * b] > mine ? warp_max[2 * b] : mine;
            mine = warp_max[2 * b + 1] > mine ? warp_max[2 * b + 1] : mine;
        }
        probability[tid] = seen ? exp_contract(s - mine) : 0.0f;
        __syncthreads();
        if (tid < 16 * ABREAST) {
            const float* x = probability + tid / 16 * KV_BLOCK + tid % 16;
            float part = fold16((((0.0f + x[0]) + x[16]) + x[32]) + x[48]);
            if (tid % 16 == 0) block_sum[tid / 16] = part;
        }
        __syncthreads();
        for (int b = 0; b < ABREAST && first + b < last; b++) {
            float before = max;
            max = warp_max[2 * b] > max ? warp_max[2 * b] : max;
            max = warp_max[2 * b + 1] > max ? warp_max[2 * b + 1] : max;
            float difference = before - max;
            float keep = difference == -INFINITE ? 0.0f : exp_contract(difference);
            sum = sum * keep + block_sum[b];
            if (keep != 1.0f) {
                out[0] = out[0] * keep;
                out[1] = out[1] * keep;
            }
            if (2 * tid >= n) continue;
            const int begin = (first + b) * KV_BLOCK;
            const int j0 = from > begin ? from - begin : 0, j1 = to - begin < KV_BLOCK ? to - begin : KV_BLOCK;
            const u16* v = (const u16*)table[first + b] + v_at + 2 * tid;
            if (BATCH == 64 && j1 - j0 == KV_BLOCK) mix_whole(out, probability + b * KV_BLOCK, v, n);
            else mix<16>(out, probability + b * KV_BLOCK, v, n, j0, j1);
        }
    }
    if (2 * tid < n) {
        whole[2 * tid] = __fdiv_rn(out[0], sum);
        whole[2 * tid + 1] = __fdiv_rn(out[1], sum);
    }
    __syncthreads();
    if (tid < n) {
        p.dst[at + tid] = whole[tid];
        if (p.acts.steps) quantise(p.acts, blockIdx.x, (head * n + tid) / STEP, whole[tid]);
    }
}

// A few rows: long batches of loads, since little else runs. Grid: rows, heads.
extern "C" __global__ void __launch_bounds__(256) attend_few(const __grid_constant__ Attend p, const __grid_constant__ Inputs in) {
    attend<64>(p, in);
}

// Many rows: few registers, so that many heads run at once.
extern "C" __global__ void __launch_bounds__(256, 3) attend_many(const __grid_constant__ Attend p, const __grid_constant__ Inputs in) {
    attend<16>(p, in);
}
