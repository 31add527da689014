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
    int unused;
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
    int run; // tiles of a block of `product_one`
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

// Steps of a run, which is a sum of its own (cpu/tile.rs), and of the pieces in which a thread reads it.
#define RUN_STEPS 8
#define PIECE 4

// Reads of weights that stay where they are written: before the wait for what was computed.
DEVICE u32 early_word(const u8* p) {
    u32 x;
    asm volatile("ld.global.nc.u32 %0, [%1];" : "=r"(x) : "l"(p));
    return x;
}
DEVICE u16 early_half(const u8* p) {
    u16 x;
    asm volatile("ld.global.nc.u16 %0, [%1];" : "=h"(x) : "l"(p));
    return x;
}
DEVICE u32 early_byte(const u8* p) {
    u32 x;
    asm volatile("ld.global.nc.u8 %0, [%1];" : "=r"(x) : "l"(p));
    return x;
}

// Four steps of one row, as they are stored.
template <class F> struct Piece {
    static const int HEADS = F::STEPS == 1 ? PIECE : 1;
    u32 words[PIECE][F::ROW_WORDS];
    u16 d[HEADS], dmin[HEADS];
    u32 scales[PIECE * F::SUBS], minima[PIECE * F::SUBS];

    // Steps `from ..` of a tile of which there are `steps`.
    DEVICE void load(const u8* tile, int from, int steps, int row) {
        const u8* chunk = chunk_of<F>(tile, from);
        const int within = F::STEPS == 1 ? 0 : from % F::STEPS;
#pragma unroll
        for (int e = 0; e < HEADS; e++) {
            if (F::STEPS > 1 || from + e < steps) {
                d[e] = early_half(chunk + e * F::CHUNK + 2 * row);
                if (F::HAS_MIN) dmin[e] = early_half(chunk + e * F::CHUNK + 32 + 2 * row);
            }
        }
#pragma unroll
        for (int e = 0; e < PIECE; e++) {
            if (F::STEPS > 1 || from + e < steps) {
                const u8* planes = chunk + F::QUANTS_AT + (F::STEPS == 1 ? e * F::CHUNK : (within + e) * F::STEP_BYTES);
#pragma unroll
                for (int i = 0; i < F::ROW_WORDS; i++) words[e][i] = early_word(planes + 64 * i + 4 * row);
            }
        }
#pragma unroll
        for (int s = 0; s < PIECE * F::SUBS; s++) {
            const int at = 16 * (within * F::SUBS + s) + row;
            if (F::KIND != D_ONLY) scales[s] = early_byte(chunk + F::SCALES_AT + at);
            if (F::MINIMA == U8_MINIMA) minima[s] = early_byte(chunk + F::MINIMA_AT + at);
        }
    }

    // Adds the products with the activations of steps `from ..`.
    DEVICE void add(float& acc, const i8* quants, const Meta* meta, int from, int steps) const {
#pragma unroll
        for (int e = 0; e < PIECE; e++) {
            if (F::STEPS == 1 && from + e >= steps) break;
            const int4* x = (const int4*)(quants + (from + e) * STEP);
            const int4 low = x[0], high = x[1];
            const u32 by[8] = {(u32)low.x, (u32)low.y, (u32)low.z, (u32)low.w, (u32)high.x, (u32)high.y, (u32)high.z, (u32)high.w};
            const Meta m = meta[from + e];
#pragma unroll
            for (int h = 0; h < F::SUBS; h++) {
                const int s = e * F::SUBS + h;
                int dot = F::OFFSET == 0 ? 0 : -F::OFFSET * (F::SUBS == 1 ? m.sums[0] + m.sums[1] : m.sums[h]);
#pragma unroll
                for (int g = 8 / F::SUBS * h; g < 8 / F::SUBS * (h + 1); g++) dot = dp4a(group_of<F>(words[e], g), by[g], dot);
                float scale = half_to_float(d[F::STEPS == 1 ? e : 0]);
                if (F::KIND == U8_SCALES) scale = scale * (float)scales[s];
                if (F::KIND == I8_SCALES) scale = scale * (float)(i8)scales[s];
                acc = fmaf(scale * m.scale, (float)dot, acc);
                if (F::HAS_MIN) {
                    const float of = half_to_float(dmin[F::STEPS == 1 ? e : 0]);
                    const float min = F::MINIMA == U8_MINIMA ? of * (float)minima[s] : 0.0f - of;
                    acc = fmaf(-min, F::SUBS == 1 ? m.scaled_sum : m.scale * (float)m.sums[h], acc);
                }
            }
        }
    }
};

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

// Reads what a norm multiplies by, before its input is there: `room` has space for a vector.
DEVICE void stage_early(const Product& p, float* room) {
    if (!p.before.x || !p.before.weight) return;
    for (int k = threadIdx.x; k < p.steps * STEP; k += blockDim.x) room[k] = __ldg(p.before.weight + k);
}

// Brings the activations into shared memory, or makes them there.
DEVICE void stage(const Product& p, const Staged& s, const float* room) {
    __shared__ float parts[SUM_PARTS];
    if (!p.before.x) {
        // Of eight columns the first: 32 bytes of 256.
        for (int i = threadIdx.x; i < p.steps * 2; i += blockDim.x)
            ((int4*)s.quants)[i] = ((const int4*)p.acts.quants)[i / 2 * 16 + i % 2];
        for (int i = threadIdx.x; i < p.steps; i += blockDim.x) s.meta[i] = p.acts.meta[i * 8];
    } else {
        const float scale = stable_scale(p.before.x, p.steps * STEP, p.before.eps, parts);
        const int lane = threadIdx.x & 31, warps = blockDim.x / 32;
        for (int first = threadIdx.x / 32; first < p.steps; first += warps * ABREAST) {
            // Lane j knows the scale of step j of these, so that all of them are divided at once.
            float v[ABREAST];
            u32 bits = 0;
#pragma unroll
            for (int j = 0; j < ABREAST; j++) {
                const int step = first + warps * j;
                v[j] = step < p.steps ? p.before.x[step * STEP + lane] * scale : 0.0f;
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

// Tiles times one column: sixteen threads, one a row, have a run of a tile; the runs are then added in order. `place`
// says where tile `i` is, `store` takes its rows.
template <class F, class Place, class Store>
DEVICE void one(const Product& p, float* room, const Staged& acts, int tiles, Place place, Store store) {
    const int row = threadIdx.x % TILE, runs = (p.steps + RUN_STEPS - 1) / RUN_STEPS, tasks = tiles * runs;
    const int workers = blockDim.x / TILE;
    int task = threadIdx.x / TILE, run = task % runs;
    Piece<F> first, second;
    let_next_start();
    if (task < tasks) {
        const u8* tile = place(task / runs);
        first.load(tile, run * RUN_STEPS, p.steps, row);
        second.load(tile, run * RUN_STEPS + PIECE, p.steps, row);
    }
    stage_early(p, room);
    wait_for_inputs();
    stage(p, acts, room);
    while (task < tasks) {
        const int next = task + workers, next_run = next % runs, from = run * RUN_STEPS;
        const u8* tile = next < tasks ? place(next / runs) : 0;
        float acc = 0.0f;
        first.add(acc, acts.quants, acts.meta, from, p.steps);
        if (tile) first.load(tile, next_run * RUN_STEPS, p.steps, row);
        second.add(acc, acts.quants, acts.meta, from + PIECE, p.steps);
        if (tile) second.load(tile, next_run * RUN_STEPS + PIECE, p.steps, row);
        room[task * TILE + row] = acc;
        task = next;
        run = next_run;
    }
    __syncthreads();
    for (int i = threadIdx.x; i < tiles * TILE; i += blockDim.x) {
        const float* sums = room + i / TILE * runs * TILE + row;
        float sum = 0.0f;
#pragma unroll 8
        for (int r = 0; r < runs; r++) sum = sum + sums[r * TILE];
        store(i / TILE, row, sum);
    }
}

// Dynamic shared memory: the activations, then room for what `one` and `stage` need.
DEVICE float* room_of(const Product& p, float* shared) { return shared + p.steps * (sizeof(Meta) + STEP) / 4; }

// Tiles of one part, `run` of them by one block of threads.
extern "C" __global__ void __launch_bounds__(320, 2) product_one(const __grid_constant__ Product p, int tiles) {
    extern __shared__ __align__(16) float shared[];
    const int first = blockIdx.x * p.run, count = tiles - first < p.run ? tiles - first : p.run;
    const Part& part = part_of(p, first);
    auto store = [&](int i, int row, float sum) { give(part, (first + i - part.first_tile) * TILE + row, 0, sum); };
#define BODY(F) \
    one<F>(p, room_of(p, shared), staged(shared, p.steps), count, [&](int i) { return tile_at<F>(part, first + i, p.steps); }, store)
    WITH_FORMAT(part.type, BODY)
#undef BODY
}

// Two tiles of a gate and the same two of `up`: 32 elements of their product.
extern "C" __global__ void __launch_bounds__(192, 3) product_gated(const __grid_constant__ Product p) {
    extern __shared__ __align__(16) float shared[];
    __shared__ float pairs[4][TILE];
    const int pair = blockIdx.x * 2;
    auto store = [&](int i, int row, float sum) {
        const Part& part = p.parts[i / 2];
        if (part.bias) sum = sum + part.bias[(pair + i % 2) * TILE + row];
        pairs[i][row] = sum;
    };
#define BODY(F) \
    one<F>(p, room_of(p, shared), staged(shared, p.steps), 4, \
           [&](int i) { return tile_at<F>(p.parts[i / 2], p.parts[i / 2].first_tile + pair + i % 2, p.steps); }, store)
    WITH_FORMAT(p.parts[0].type, BODY)
#undef BODY
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
