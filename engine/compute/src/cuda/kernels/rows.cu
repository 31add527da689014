// Operations on single rows: embedding, norm, rotation, cache append, activation, residual, quantisation.
#include "batch.cuh"
#include "formats.cuh"
#include "vector.cuh"

// dst[row] = table[token] * scale. Grid: rows, pieces of 256 elements.
struct Embed {
    const u8* table;
    float* dst;
    int type, width;
    float scale;
    int unused;
};

template <class F> DEVICE float element(const u8* weights, int row, int k, int cols) {
    const u8* tile = weights + (size_t)(row / TILE) * (cols / STEP / F::STEPS) * F::CHUNK;
    int step = k / STEP, i = k % STEP, sub = step % F::STEPS * F::SUBS + i / (STEP / F::SUBS);
    const u8* chunk = chunk_of<F>(tile, step);
    float q = (float)quant_at<F>(planes_of<F>(tile, step), row % TILE, i);
    float x = scale_of<F>(chunk, sub, row % TILE) * (q - (float)F::OFFSET);
    return F::HAS_MIN ? x - min_of<F>(chunk, sub, row % TILE) : x;
}

extern "C" __global__ void embed_rows(const __grid_constant__ Embed p, const __grid_constant__ Inputs in) {
    let_next_start();
    wait_for_inputs();
    int k = blockIdx.y * blockDim.x + threadIdx.x;
    if (k >= p.width) return;
    size_t token = in.rows[blockIdx.x].token;
    float x = 0.0f;
    if (p.type == 0) x = ((const float*)p.table)[token * p.width + k];
    else if (p.type == 1) x = half_to_float(((const u16*)p.table)[token * p.width + k]);
    else if (p.type == 30) x = __uint_as_float((u32)((const u16*)p.table)[token * p.width + k] << 16);
    else {
#define BODY(F) x = element<F>(p.table, (int)token, k, p.width)
        WITH_FORMAT(p.type, BODY)
#undef BODY
    }
    p.dst[(size_t)blockIdx.x * p.width + k] = p.scale != 1.0f ? x * p.scale : x;
}

// [src += add;] dst = norm(src), quantised if somebody multiplies by it. Grid: rows, groups of `over` elements.
struct Norm {
    const float* add; // or null
    float* src;
    float* dst;
    const float* weight; // or null
    const float* bias;   // or null
    int width, over, layer;
    float eps;
    Acts acts;
};

// Weights of each thread that are read before the inputs are there.
#define NORM_AHEAD 8

extern "C" __global__ void __launch_bounds__(512) norm_rows(const __grid_constant__ Norm p) {
    extern __shared__ float group[];
    __shared__ float parts[SUM_PARTS];
    const int n = p.over;
    float weight[NORM_AHEAD];
#pragma unroll
    for (int j = 0; j < NORM_AHEAD; j++) {
        int i = threadIdx.x + j * blockDim.x;
        weight[j] = p.weight && i < n ? p.weight[i] : 0.0f;
    }
    let_next_start();
    wait_for_inputs();
    const size_t at = (size_t)blockIdx.x * p.width + (size_t)blockIdx.y * n;
    for (int i = threadIdx.x; i < n; i += blockDim.x) {
        float v = p.src[at + i];
        if (p.add) p.src[at + i] = v = v + p.add[at + i];
        group[i] = v;
    }
    __syncthreads();
    if (p.layer) {
        const float mean = __fdiv_rn(sum<PLAIN>(group, n, 1.0f, parts), (float)n);
        for (int i = threadIdx.x; i < n; i += blockDim.x) group[i] = group[i] - mean;
        __syncthreads();
    }
    const float scale = stable_scale(group, n, p.eps, parts);
    auto finish = [&](int i, float weight) {
        float v = group[i] * scale;
        if (p.weight) v = v * weight;
        if (p.bias) v = v + p.bias[i];
        p.dst[at + i] = v;
        if (p.acts.steps) quantise(p.acts, blockIdx.x, (blockIdx.y * n + i) / STEP, v);
    };
#pragma unroll
    for (int j = 0; j < NORM_AHEAD; j++) {
        int i = threadIdx.x + j * blockDim.x;
        if (i < n) finish(i, weight[j]);
    }
    for (int i = threadIdx.x + NORM_AHEAD * blockDim.x; i < n; i += blockDim.x) finish(i, p.weight ? p.weight[i] : 0.0f);
}

// dst = src | dst + src | act(src) * other | src * scale, quantised if somebody multiplies by it. `gather` takes the
// rows that want logits. Grid: rows, pieces of 256 elements.
struct Map {
    const float* src;
    const float* other;
    float* dst; // or null
    int width, op, gather;
    float scale;
    Acts acts;
};

extern "C" __global__ void __launch_bounds__(256) map_rows(const __grid_constant__ Map p, const __grid_constant__ Inputs in) {
    let_next_start();
    wait_for_inputs();
    int k = blockIdx.y * blockDim.x + threadIdx.x;
    if (k >= p.width) return; // quantised rows are whole blocks, so whole warps leave
    size_t row = p.gather ? in.wanted[blockIdx.x] : blockIdx.x;
    size_t at = (size_t)blockIdx.x * p.width + k;
    float x = p.src[row * p.width + k];
    if (p.op == ADD) x = p.dst[at] + x;
    if (p.op == SCALE) x = x * p.scale;
    if (p.op == SILU || p.op == GELU) x = activate(p.op, x, p.other[at]);
    if (p.dst) p.dst[at] = x;
    if (p.acts.steps) quantise(p.acts, blockIdx.x, k / STEP, x);
}

// Rotates the pairs of a head.
DEVICE void turn(float* head, const float* turns, int pairs, int interleaved) {
    for (int i = threadIdx.x; i < pairs; i += blockDim.x) {
        int a = interleaved ? 2 * i : i, b = interleaved ? 2 * i + 1 : i + pairs;
        float c = turns[2 * i], s = turns[2 * i + 1], x = head[a], y = head[b];
        head[a] = x * c - y * s;
        head[b] = x * s + y * c;
    }
}

// What `Rope` says. Grid: rows, heads and then K/V heads.
extern "C" __global__ void rope_rows(const __grid_constant__ Rope p, const __grid_constant__ Inputs in) {
    let_next_start();
    wait_for_inputs();
    const Row row = in.rows[blockIdx.x];
    if ((int)blockIdx.y < p.heads) {
        float* head = p.q + ((size_t)blockIdx.x * p.heads + blockIdx.y) * p.head_dim;
        if (p.turns_q) turn(head, p.turns_q + (size_t)row.position * p.pairs_q * 2, p.pairs_q, p.interleaved_q);
        return;
    }
    int h = blockIdx.y - p.heads;
    size_t at = ((size_t)blockIdx.x * p.kv_heads + h) * p.head_dim;
    if (p.turns_k) turn(p.k + at, p.turns_k + (size_t)row.position * p.pairs_k * 2, p.pairs_k, p.interleaved_k);
    if (!p.v) return;
    __syncthreads();
    // K as [kv_head][dim][64], V as [kv_head][64][dim]
    u16* block = (u16*)in.tables[row.table + row.position / KV_BLOCK] + p.layer_at;
    int slot = row.position % KV_BLOCK, size = p.head_dim * KV_BLOCK;
    u16 *k = block + (size_t)h * size, *v = block + (size_t)(p.kv_heads + h) * size;
    for (int d = threadIdx.x; d < p.head_dim; d += blockDim.x) {
        k[d * KV_BLOCK + slot] = float_to_half(p.k[at + d]);
        v[slot * p.head_dim + d] = float_to_half(p.v[at + d]);
    }
}

// The guard's numbers of each row of logits. Grid: rows, pieces; then rows alone to put the pieces together.
struct Stats {
    float max;
    u32 argmax;
    float sum; // of exp(x - max)
    u32 finite;
};

DEVICE Stats merge(const Stats& a, const Stats& b) {
    bool take_b = b.max > a.max || (b.max == a.max && b.argmax < a.argmax);
    Stats s = take_b ? b : a;
    const Stats& o = take_b ? a : b;
    s.sum = s.sum + (o.sum == 0.0f ? 0.0f : o.sum * exp_contract(o.max - s.max));
    s.finite = a.finite & b.finite;
    return s;
}

DEVICE Stats merge_block(Stats s, Stats* room) {
    room[threadIdx.x] = s;
    __syncthreads();
    for (int half = blockDim.x / 2; half > 0; half /= 2) {
        if ((int)threadIdx.x < half) room[threadIdx.x] = merge(room[threadIdx.x], room[threadIdx.x + half]);
        __syncthreads();
    }
    return room[0];
}

extern "C" __global__ void __launch_bounds__(256) stats(const float* logits, Stats* pieces, int width) {
    __shared__ Stats room[256];
    let_next_start();
    wait_for_inputs();
    int each = (width + gridDim.y - 1) / gridDim.y, from = blockIdx.y * each;
    int to = from + each < width ? from + each : width;
    const float* x = logits + (size_t)blockIdx.x * width;
    Stats s = {-__int_as_float(0x7f800000), 0xffffffffu, 0.0f, 1};
    for (int i = from + threadIdx.x; i < to; i += 256) {
        Stats one = {x[i], (u32)i, 1.0f, is_finite(x[i]) ? 1u : 0u};
        s = merge(s, one);
    }
    s = merge_block(s, room);
    if (threadIdx.x == 0) pieces[(size_t)blockIdx.x * gridDim.y + blockIdx.y] = s;
}

extern "C" __global__ void __launch_bounds__(128) stats_merge(const Stats* pieces, Stats* out, int count) {
    __shared__ Stats room[128];
    let_next_start();
    wait_for_inputs();
    Stats s = {-__int_as_float(0x7f800000), 0xffffffffu, 0.0f, 1};
    if ((int)threadIdx.x < count) s = pieces[(size_t)blockIdx.x * count + threadIdx.x];
    s = merge_block(s, room);
    if (threadIdx.x == 0) {
        if (s.argmax == 0xffffffffu) s.argmax = 0;
        out[blockIdx.x] = s;
    }
}
