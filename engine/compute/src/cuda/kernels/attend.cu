// Causal attention over the block cache with an online softmax, in the order of cpu/attend.rs: blocks of 64 absolute
// positions ascending, positions ascending within. Scores stay in shared memory.
#include "batch.cuh"

struct Attend {
    const float* q;    // [rows, heads * head_dim]
    float* dst;        // [rows, heads * head_dim]
    const u64* blocks; // address of each block of the cache
    u64 layer_at;      // of this layer in a block, in halves
    int heads, kv_heads, head_dim, visible; // visible: which set of ranges
    float scale, softcap; // softcap 0: none
    int rows, unused;
    Acts acts;
};

// Blocks of the cache whose scores are computed together.
#define ABREAST 4

// Grid: rows, heads. Threads: one per position of four blocks, then one per element of the head.
extern "C" __global__ void __launch_bounds__(256) attend_rows(const __grid_constant__ Attend p, const __grid_constant__ Inputs in) {
    __shared__ float q[256], probability[ABREAST * KV_BLOCK], warp_max[8], block_sum[ABREAST];
    wait_for_inputs();
    let_next_start();
    const int tid = threadIdx.x, lane = tid & 31, warp = tid / 32, head = blockIdx.y, n = p.head_dim;
    const Row row = in.rows[blockIdx.x];
    const u32* range = in.visible + ((size_t)p.visible * p.rows + blockIdx.x) * 2;
    const int from = range[0], to = range[1];
    const int kv_head = head / (p.heads / p.kv_heads);
    const size_t at = ((size_t)blockIdx.x * p.heads + head) * n;
    const u64 k_at = p.layer_at + (u64)kv_head * n * KV_BLOCK;
    const u64 v_at = p.layer_at + (u64)(p.kv_heads + kv_head) * n * KV_BLOCK;
    if (tid < n) q[tid] = p.q[at + tid];
    const float infinity = __int_as_float(0x7f800000);
    float max = -infinity, sum = 0.0f, out = 0.0f;
    const int last = (to + KV_BLOCK - 1) / KV_BLOCK;
    for (int first = from / KV_BLOCK; first < last; first += ABREAST) {
        __syncthreads();
        // Scores, a position each.
        const int block = first + tid / KV_BLOCK, position = block * KV_BLOCK + tid % KV_BLOCK;
        const bool seen = position >= from && position < to;
        float s = 0.0f;
        if (seen) {
            const u16* k = (const u16*)p.blocks[in.tables[row.table + block]] + k_at + tid % KV_BLOCK;
#pragma unroll 32
            for (int d = 0; d < n; d++) s = fmaf(q[d], half_to_float(k[d * KV_BLOCK]), s);
            s = s * p.scale;
            if (p.softcap != 0.0f) s = p.softcap * tanhf(__fdiv_rn(s, p.softcap));
        }
        // A NaN score does not win the maximum, but exp passes it on into the sum.
        float top = seen && s > -infinity ? s : -infinity;
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
            float keep = difference == -infinity ? 0.0f : exp_contract(difference);
            sum = sum * keep + block_sum[b];
            if (keep != 1.0f) out = out * keep;
            if (tid >= n) continue;
            const int begin = (first + b) * KV_BLOCK;
            const u16* v = (const u16*)p.blocks[in.tables[row.table + first + b]] + v_at + tid;
            const float* x = probability + b * KV_BLOCK;
            if (begin >= from && begin + KV_BLOCK <= to) {
                u16 values[KV_BLOCK];
#pragma unroll
                for (int j = 0; j < KV_BLOCK; j++) values[j] = v[j * n];
#pragma unroll
                for (int j = 0; j < KV_BLOCK; j++) out = fmaf(x[j], half_to_float(values[j]), out);
            } else {
                int j0 = from > begin ? from - begin : 0, j1 = to - begin < KV_BLOCK ? to - begin : KV_BLOCK;
#pragma unroll 8
                for (int j = j0; j < j1; j++) out = fmaf(x[j], half_to_float(v[j * n]), out);
            }
        }
    }
    if (tid < n) {
        float x = __fdiv_rn(out, sum);
        p.dst[at + tid] = x;
        if (p.acts.steps) quantise(p.acts, blockIdx.x, (head * n + tid) / STEP, x);
    }
}
