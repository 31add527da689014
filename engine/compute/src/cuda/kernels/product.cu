// Matrix times quantised activations (cpu/tile.rs): exact integer dot products of 32 or 16 weights, combined in f32 in
// ascending order of k in runs of 256. Rows of up to four matrices that share an input are one launch.
#include "formats.cuh"
#include "vector.cuh"

struct Part {
    const u8* weights;
    const float* bias; // or null
    float* out;        // [columns, rows]
    float* add;        // or null: [columns, rows] to which the result is added
    int rows;
    int type;       // ggml's id
    int first_tile; // of the launch
    int run_bytes;  // of a run of a tile
};

// An RMS norm whose result nobody else reads: every block of threads computes it for itself.
struct Before {
    const float* x;      // [steps * 32], or null: the activations are in memory
    const float* weight; // or null
    float eps;
    int unused;
};

// The activation of one row of a gate and of its product with `up`: written, and quantised for who multiplies by it.
struct After {
    float* dst;
    Acts acts;
    int op; // as in rows.cu
    int unused;
};

struct Product {
    Part parts[4];
    int count;
    int steps; // of 32 weights in a row
    int columns;
    int unused;
    Acts acts;
    Before before;
    After after;
};

DEVICE void give(const Part& part, int row, int column, float sum) {
    if (row >= part.rows) return;
    const size_t at = (size_t)column * part.rows + row;
    if (part.bias) sum = sum + part.bias[row];
    part.out[at] = sum;
    if (part.add) part.add[at] = part.add[at] + sum;
}

DEVICE const Part& part_of(const Product& p, int tile) {
    int i = 0;
    while (i + 1 < p.count && tile >= p.parts[i + 1].first_tile) i++;
    return p.parts[i];
}

template <class F> DEVICE const u8* tile_at(const Part& part, int tile, int steps) {
    return part.weights + (size_t)(tile - part.first_tile) * (steps / F::STEPS) * F::CHUNK;
}

// Steps of a run, which is a sum of its own (cpu/tile.rs).
#define RUN_STEPS 8

// The run of a row of a tile that starts at `chunk`, in shared memory: `steps` of it, which begin at `quants`.
template <class F> DEVICE float sum_of_run(const u8* chunk, int row, const i8* quants, const Meta* meta, int steps) {
    float acc = 0.0f, d = half_to_float(*(const u16*)(chunk + 2 * row));
    float dmin = F::HAS_MIN ? half_to_float(*(const u16*)(chunk + 32 + 2 * row)) : 0.0f;
#pragma unroll 4
    for (int e = 0; e < RUN_STEPS; e++) {
        if (F::STEPS == 1 && e >= steps) break;
        if (F::STEPS == 1 && e > 0) {
            chunk += F::CHUNK;
            d = half_to_float(*(const u16*)(chunk + 2 * row));
            if (F::HAS_MIN) dmin = half_to_float(*(const u16*)(chunk + 32 + 2 * row));
        }
        const int within = F::STEPS == 1 ? 0 : e;
        u32 words[F::ROW_WORDS];
#pragma unroll
        for (int i = 0; i < F::ROW_WORDS; i++) {
            words[i] = *(const u32*)(chunk + F::QUANTS_AT + within * F::STEP_BYTES + 64 * i + 4 * row);
        }
        const int4 low = ((const int4*)quants)[2 * e], high = ((const int4*)quants)[2 * e + 1];
        const u32 by[8] = {(u32)low.x, (u32)low.y, (u32)low.z, (u32)low.w, (u32)high.x, (u32)high.y, (u32)high.z, (u32)high.w};
        const Meta m = meta[e];
#pragma unroll
        for (int h = 0; h < F::SUBS; h++) {
            const int at = 16 * (within * F::SUBS + h) + row;
            int dot = F::OFFSET == 0 ? 0 : -F::OFFSET * (F::SUBS == 1 ? m.sums[0] + m.sums[1] : m.sums[h]);
#pragma unroll
            for (int g = 8 / F::SUBS * h; g < 8 / F::SUBS * (h + 1); g++) dot = dp4a(group_of<F>(words, g), by[g], dot);
            float scale = d;
            if (F::KIND == U8_SCALES) scale = scale * (float)chunk[F::SCALES_AT + at];
            if (F::KIND == I8_SCALES) scale = scale * (float)(i8)chunk[F::SCALES_AT + at];
            acc = fmaf(scale * m.scale, (float)dot, acc);
            if (F::HAS_MIN) {
                const float min = F::MINIMA == U8_MINIMA ? dmin * (float)chunk[F::MINIMA_AT + at] : 0.0f - dmin;
                acc = fmaf(-min, F::SUBS == 1 ? m.scaled_sum : m.scale * (float)m.sums[h], acc);
            }
        }
    }
    return acc;
}

// Steps that a warp quantises at once.
#define ABREAST 8

// Activations of one column in shared memory, as products read them.
struct Staged {
    i8* quants; // [step][32]
    Meta* meta; // [step]
};

DEVICE Staged staged(float* at, int steps) {
    Meta* meta = (Meta*)at;
    Staged s = {(i8*)(meta + steps), meta};
    return s;
}

// Reads what a norm multiplies by, before its input is there: `room` has space for two vectors.
DEVICE void stage_early(const Product& p, float* room) {
    if (!p.before.x || !p.before.weight) return;
    for (int k = threadIdx.x; k < p.steps * STEP; k += blockDim.x) room[k] = __ldg(p.before.weight + k);
}

// Brings the activations into shared memory, or makes them there. Nothing of it comes from the first level cache, which
// may have read it too early.
DEVICE void stage(const Product& p, const Staged& s, float* room) {
    __shared__ float parts[SUM_PARTS];
    if (!p.before.x) {
        // Of eight columns the first: 32 bytes of 256.
#pragma unroll 4
        for (int i = threadIdx.x; i < p.steps * 2; i += blockDim.x)
            ((int4*)s.quants)[i] = __ldcg((const int4*)p.acts.quants + i / 2 * 16 + i % 2);
#pragma unroll 2
        for (int i = threadIdx.x; i < p.steps; i += blockDim.x)
            ((int4*)s.meta)[i] = __ldcg((const int4*)(p.acts.meta + i * 8));
    } else {
        float* x = room + p.steps * STEP;
#pragma unroll 2
        for (int i = threadIdx.x; i < p.steps * STEP / 4; i += blockDim.x) ((float4*)x)[i] = __ldcg((const float4*)p.before.x + i);
        __syncthreads();
        const float scale = stable_scale(x, p.steps * STEP, p.before.eps, parts);
        const int lane = threadIdx.x & 31, warps = blockDim.x / 32;
#pragma unroll 1
        for (int first = threadIdx.x / 32; first < p.steps; first += warps * ABREAST) {
            // Lane j knows the scale of step j of these, so that all of them are divided at once.
            float v[ABREAST];
            u32 bits = 0;
#pragma unroll
            for (int j = 0; j < ABREAST; j++) {
                const int step = first + warps * j;
                v[j] = step < p.steps ? x[step * STEP + lane] * scale : 0.0f;
                if (p.before.weight && step < p.steps) v[j] = v[j] * room[step * STEP + lane];
            }
#pragma unroll
            for (int j = 0; j < ABREAST; j++) {
                const u32 top = warp_max(__float_as_uint(v[j]) & 0x7fffffffu);
                if (lane == j) bits = top;
            }
            float inverse;
            Meta m;
            m.scale = quant_scale(bits, inverse);
            int sums = 0;
#pragma unroll
            for (int j = 0; j < ABREAST; j++) {
                const int q = (int)rintf(v[j] * __shfl_sync(0xffffffffu, inverse, j)), both = sum_halves(q);
                if (lane == j) sums = both;
                if (first + warps * j < p.steps) s.quants[(first + warps * j) * STEP + lane] = (i8)q;
            }
            m.sums[0] = low_half(sums), m.sums[1] = high_half(sums);
            m.scaled_sum = m.scale * (float)(m.sums[0] + m.sums[1]);
            if (lane < ABREAST && first + warps * lane < p.steps) s.meta[first + warps * lane] = m;
        }
    }
    __syncthreads();
}

// How the blocks of threads of `product_one` and `product_gated` divide their work.
struct Shape {
    int tiles; // of the launch
    int run;   // of a block
    int warps; // of a block that multiply
    int depth; // places that each of them has for weights
};

// Tiles times one column. A warp has two runs of a tile at a time, a half of its threads each, a thread one row; they
// come into a ring of places of its own in shared memory, which is filled before the inputs are there. The runs of a row
// are then added in order. `place` says where tile `i` is (of two runs that follow each other, the weights do too),
// `early` reads what the result of a row needs besides, `store` takes it.
// Dynamic shared memory: activations; what `stage` needs; sums of runs; a barrier for each place; the places.
template <class Place, class Early, class Store>
DEVICE void one(const Product& p, const Shape& shape, float* shared, const Part& part, int tiles, Place place, Early early,
                Store store) {
    const int run_bytes = part.run_bytes, depth = shape.depth, tile_bytes = p.steps * run_bytes / RUN_STEPS;
    const int lane = threadIdx.x % 32, row = lane % TILE, warp = threadIdx.x / 32;
    const int runs = (p.steps + RUN_STEPS - 1) / RUN_STEPS, tasks = tiles * runs, pairs = warp < shape.warps ? (tasks + 1) / 2 : 0;
    const Staged acts = staged(shared, p.steps);
    float* vectors = shared + p.steps * (sizeof(Meta) + STEP) / 4;
    float* room = vectors + (p.before.x ? 2 * p.steps * STEP : 0);
    u64* barriers = (u64*)(room + shape.run * runs * TILE) + warp * depth;
    u8* ring = (u8*)(room + shape.run * runs * TILE) + (shape.warps * depth + 1) / 2 * 16 + warp * depth * 2 * run_bytes;
    // Bytes of the block's tiles before a run.
    auto offset = [&](int task) { return task / runs * tile_bytes + task % runs * run_bytes; };
    auto fetch = [&](int pair, int slot) {
        const int task = 2 * pair, end = task + 2 < tasks ? task + 2 : tasks;
        bring(ring + slot * 2 * run_bytes, place(task / runs) + task % runs * run_bytes, offset(end) - offset(task), barriers + slot);
    };
    for (int i = 0; i < depth && warp + i * shape.warps < pairs; i++) {
        prepare(barriers + i);
        fetch(warp + i * shape.warps, i);
    }
    let_next_start();
    stage_early(p, vectors);
    wait_for_inputs();
    const float first = (int)threadIdx.x < tiles * TILE ? early(threadIdx.x / TILE, row) : 0.0f;
    stage(p, acts, vectors);
#pragma unroll 1
    for (int pair = warp, slot = 0, phase = 0; pair < pairs; pair += shape.warps) {
        arrived(barriers + slot, phase);
        const int task = 2 * pair + lane / TILE, from = task % runs * RUN_STEPS;
        if (task < tasks) {
            const u8* chunk = ring + slot * 2 * run_bytes + offset(task) - offset(2 * pair);
            float sum = 0.0f;
#define BODY(F) sum = sum_of_run<F>(chunk, row, acts.quants + from * STEP, acts.meta + from, p.steps - from)
            WITH_FORMAT(part.type, BODY)
#undef BODY
            room[task * TILE + row] = sum;
        }
        __syncwarp();
        if (pair + depth * shape.warps < pairs) fetch(pair + depth * shape.warps, slot);
        slot = slot + 1 < depth ? slot + 1 : 0;
        phase ^= slot == 0;
    }
    __syncthreads();
    for (int i = threadIdx.x; i < tiles * TILE; i += blockDim.x) {
        const float* sums = room + i / TILE * runs * TILE + row;
        float sum = 0.0f;
#pragma unroll 4
        for (int r = 0; r < runs; r++) sum = sum + sums[r * TILE];
        store(i / TILE, row, sum, i < (int)blockDim.x ? first : early(i / TILE, row));
    }
}

// Tiles of one part, `run` of them by one block of threads.
extern "C" __global__ void __launch_bounds__(384, 2)
    product_one(const __grid_constant__ Product p, const __grid_constant__ Shape shape) {
    extern __shared__ __align__(16) float shared[];
    const int first = blockIdx.x * shape.run, count = shape.tiles - first < shape.run ? shape.tiles - first : shape.run;
    const Part& part = part_of(p, first);
    auto at = [&](int i, int row) { return (first + i - part.first_tile) * TILE + row; };
    one(p, shape, shared, part, count,
        [&](int i) { return part.weights + (size_t)(first + i - part.first_tile) * (p.steps * part.run_bytes / RUN_STEPS); },
        [&](int i, int row) { return part.add && at(i, row) < part.rows ? __ldcg(part.add + at(i, row)) : 0.0f; },
        [&](int i, int row, float sum, float add) {
            const int to = at(i, row);
            if (to >= part.rows) return;
            if (part.bias) sum = sum + part.bias[to];
            part.out[to] = sum;
            if (part.add) part.add[to] = add + sum;
        });
}

// Two tiles of a gate and the same two of `up`: 32 elements of their product.
extern "C" __global__ void __launch_bounds__(192, 4)
    product_gated(const __grid_constant__ Product p, const __grid_constant__ Shape shape) {
    extern __shared__ __align__(16) float shared[];
    __shared__ float pairs[4][TILE];
    const int pair = blockIdx.x * 2;
    one(p, shape, shared, p.parts[0], 4,
        [&](int i) { return p.parts[i / 2].weights + (size_t)(pair + i % 2) * (p.steps * p.parts[0].run_bytes / RUN_STEPS); },
        [&](int i, int row) { return p.parts[i / 2].bias ? p.parts[i / 2].bias[(pair + i % 2) * TILE + row] : 0.0f; },
        [&](int i, int row, float sum, float bias) { pairs[i][row] = p.parts[i / 2].bias ? sum + bias : sum; });
    __syncthreads();
    const int lane = threadIdx.x;
    if (lane >= STEP) return;
    const float x = activate(p.after.op, pairs[lane / TILE][lane % TILE], pairs[2 + lane / TILE][lane % TILE]);
    p.after.dst[blockIdx.x * STEP + lane] = x;
    quantise(p.after.acts, 0, blockIdx.x, x);
}

// Float formats (cpu/tile.rs `multiply_float`): lane l of a half warp sums every k = l mod 16, then the halves fold.
template <int TYPE> DEVICE float float_at(const u8* row, int k) {
    if (TYPE == 0) return __ldg((const float*)row + k);
    u16 bits = __ldg((const u16*)row + k);
    return TYPE == 1 ? half_to_float(bits) : __uint_as_float((u32)bits << 16);
}

struct FloatProduct {
    Part parts[4];
    int count;
    int cols;
    int columns;
    int unused;
    const float* x; // [columns, cols]
};

template <int TYPE, int C> DEVICE void floats(const FloatProduct& p, const Part& part, int row, int first) {
    const int l = threadIdx.x & 15;
    bool alive = row < part.rows;
    const u8* weights = part.weights + (size_t)(alive ? row : 0) * p.cols * (TYPE == 0 ? 4 : 2);
    float acc[C];
    for (int c = 0; c < C; c++) acc[c] = 0.0f;
#pragma unroll 8
    for (int k = 0; k < p.cols; k += 16) {
        bool inside = k + l < p.cols;
        float w = inside ? float_at<TYPE>(weights, k + l) : 0.0f;
        for (int c = 0; c < C; c++) {
            bool exists = inside && first + c < p.columns;
            float x = exists ? p.x[(size_t)(first + c) * p.cols + k + l] : 0.0f;
            acc[c] = fmaf(w, x, acc[c]);
        }
    }
    for (int c = 0; c < C; c++) {
        float sum = fold16(acc[c]);
        if (l == 0 && first + c < p.columns) give(part, row, first + c, sum);
    }
}

// Sixteen rows of one part by eight warps, times one or eight columns.
template <int C> DEVICE void float_tile(const FloatProduct& p) {
    let_next_start();
    wait_for_inputs();
    int i = 0, tile = blockIdx.x;
    while (i + 1 < p.count && tile >= p.parts[i + 1].first_tile) i++;
    const Part& part = p.parts[i];
    int row = (tile - part.first_tile) * TILE + threadIdx.x / 16, first = blockIdx.y * C;
    if (part.type == 0) floats<0, C>(p, part, row, first);
    if (part.type == 1) floats<1, C>(p, part, row, first);
    if (part.type == 30) floats<30, C>(p, part, row, first);
}
extern "C" __global__ void __launch_bounds__(256) float_one(const __grid_constant__ FloatProduct p) { float_tile<1>(p); }
extern "C" __global__ void __launch_bounds__(256) float_many(const __grid_constant__ FloatProduct p) { float_tile<8>(p); }
