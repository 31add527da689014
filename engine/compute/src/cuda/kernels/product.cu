// Matrix times quantised activations (cpu/tile.rs): exact integer dot products of 32 or 16 weights, combined in f32 in
// ascending order of k. Rows of up to four matrices that share an input are one launch.
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

// Steps that a warp of `product_one` takes at once.
#define PIECE 8

// The scales of a piece: lane 4 e + quad has those of step e and rows 4 quad ...
template <class F> struct Head {
    u32 d[2], dmin[2], scales[F::SUBS], minima[F::SUBS];

    DEVICE void load(const u8* tile, int step, int lane) {
        const u8* chunk = chunk_of<F>(tile, step);
        int quad = lane & 3;
        for (int i = 0; i < 2; i++) {
            d[i] = word_at(chunk + 8 * quad + 4 * i);
            if (F::HAS_MIN) dmin[i] = word_at(chunk + 32 + 8 * quad + 4 * i);
        }
        for (int h = 0; h < F::SUBS; h++) {
            int at = 16 * (step % F::STEPS * F::SUBS + h) + 4 * quad;
            if (F::KIND != D_ONLY) scales[h] = word_at(chunk + F::SCALES_AT + at);
            if (F::MINIMA == U8_MINIMA) minima[h] = word_at(chunk + F::MINIMA_AT + at);
        }
    }
    DEVICE float scale(int h, int i) const {
        float x = half_to_float((u16)(d[i / 2] >> (16 * (i % 2))));
        u32 s = F::KIND == D_ONLY ? 0 : scales[h] >> (8 * i) & 255;
        return F::KIND == U8_SCALES ? x * (float)s : F::KIND == I8_SCALES ? x * (float)(i8)s : x;
    }
    DEVICE float min(int h, int i) const {
        float x = half_to_float((u16)(dmin[i / 2] >> (16 * (i % 2))));
        return F::MINIMA == U8_MINIMA ? x * (float)(minima[h] >> (8 * i) & 255) : 0.0f - x;
    }
};

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

// Brings the activations into shared memory, or makes them there. `room` has space for the vector that is normed.
DEVICE void stage(const Product& p, const Staged& s, float* room) {
    __shared__ float result;
    const int lane = threadIdx.x & 31, warp = threadIdx.x / 32, warps = blockDim.x / 32;
    if (!p.before.x) {
        // Of eight columns the first: 32 bytes of 256.
        for (int i = threadIdx.x; i < 2 * p.steps; i += blockDim.x) {
            ((uint4*)s.quants)[i] = *(const uint4*)(p.acts.quants + (size_t)(i / 2) * 8 * STEP + i % 2 * 16);
        }
        for (int i = threadIdx.x; i < p.steps; i += blockDim.x) {
            ((uint4*)s.meta)[i] = *(const uint4*)(p.acts.meta + (size_t)i * 8);
        }
    } else {
        const int n = p.steps * STEP;
        float* weight = room + n;
        for (int i = threadIdx.x; i < n / 4; i += blockDim.x) {
            ((float4*)room)[i] = ((const float4*)p.before.x)[i];
            if (p.before.weight) ((float4*)weight)[i] = ((const float4*)p.before.weight)[i];
        }
        __syncthreads();
        if (warp == 0) {
            float scale = stable_scale(room, n, p.before.eps);
            if (lane == 0) result = scale;
        }
        __syncthreads();
        const float scale = result;
        for (int first = 4 * warp; first < p.steps; first += 4 * warps) {
            // Eight lanes have a step; those past the end do one again and keep it to themselves.
            const int own = first + lane / 8, step = own < p.steps ? own : p.steps - 1, at = step * STEP + 4 * (lane % 8);
            float4 v = *(const float4*)(room + at);
            v.x = v.x * scale, v.y = v.y * scale, v.z = v.z * scale, v.w = v.w * scale;
            if (p.before.weight) {
                const float4 w = *(const float4*)(weight + at);
                v.x = v.x * w.x, v.y = v.y * w.y, v.z = v.z * w.z, v.w = v.w * w.w;
            }
            Meta m;
            const u32 word = quantised_by_fours(v, m);
            if (own < p.steps) {
                *(u32*)(s.quants + at) = word;
                if (lane % 8 == 0) s.meta[step] = m;
            }
        }
    }
    __syncthreads();
}

// Tiles times one column, one tile after the other: `place` says where tile `i` is, `store` takes the sixteen results.
// All warps but the last compute dot products, a piece each, into shared memory; the last combines them in order, one
// segment behind: `[by | dot | min][sub][16]` and the sums of the activations.
template <class F, class Place, class Store>
DEVICE void one(const Product& p, float* room, const Staged& acts, int tiles, Place place, Store store) {
    const int lane = threadIdx.x & 31, warp = threadIdx.x / 32, producers = blockDim.x / 32 - 1;
    const int g = lane / 4, t = lane & 3;
    const int subs = producers * PIECE * F::SUBS, plane = subs * TILE;
    const int buffer = (F::HAS_MIN ? 3 : 2) * plane + (F::HAS_MIN ? subs : 0);
    const int pieces = (p.steps + PIECE - 1) / PIECE, segments = (pieces + producers - 1) / producers;
    u32 raw[PIECE][F::WORDS];
    Head<F> head;
    auto load = [&](int tile, int segment) {
        const u8* weights = place(tile);
        int first = (segment * producers + warp) * PIECE;
        if (first + lane / 4 < p.steps) head.load(weights, first + lane / 4, lane);
#pragma unroll
        for (int e = 0; e < PIECE; e++) {
            if (first + e < p.steps) load_words<F>(raw[e], planes_of<F>(weights, first + e), g, t);
        }
    };
    if (warp < producers) load(0, 0);
    wait_for_inputs();
    let_next_start();
    stage(p, acts, room);
    float acc = 0.0f;
    int tile = 0, segment = 0;           // of the producers
    int behind_tile = 0, behind = 0;     // of the last warp
    for (int turn = 0; turn <= tiles * segments; turn++) {
        if (warp < producers && turn < tiles * segments) {
            float* by = room + (turn & 1) * buffer;
            float *dot = by + plane, *min = dot + plane, *sums = min + plane;
            int first = (segment * producers + warp) * PIECE, at = warp * PIECE;
            int step = first + lane / 4;
            // What is read comes first: the compiler cannot move it over the writes to shared memory. Lane 4 e + t has
            // the activations that the product wants there for step e, and hands them round.
            Meta meta = {0.0f, 0.0f, {0, 0}};
            u32 x[2] = {0, 0};
            if (step < p.steps) {
                meta = acts.meta[step];
                for (int i = 0; i < 2; i++) x[i] = *(const u32*)(acts.quants + step * STEP + 16 * i + 4 * t);
            }
            if (step < p.steps) {
                for (int h = 0; h < F::SUBS; h++) {
                    int sub = (at + lane / 4) * F::SUBS + h;
                    for (int i = 0; i < 4; i++) {
                        by[sub * TILE + 4 * (lane & 3) + i] = head.scale(h, i) * meta.scale;
                        if (F::HAS_MIN) min[sub * TILE + 4 * (lane & 3) + i] = head.min(h, i);
                    }
                    if (F::HAS_MIN && (lane & 3) == 0)
                        sums[sub] = F::SUBS == 1 ? meta.scaled_sum : meta.scale * (float)meta.sums[h];
                }
            }
#pragma unroll
            for (int e = 0; e < PIECE; e++) {
                if (first + e >= p.steps) break;
                // Only the first of eight columns is looked at; what the others are multiplied by is of no matter.
                u32 a[4], b[2];
                unpack<F>(a, raw[e], t);
                for (int i = 0; i < 2; i++) b[i] = __shfl_sync(0xffffffffu, x[i], 4 * e + t);
                for (int h = 0; h < F::SUBS; h++) {
                    int d[4], off = 0;
                    if (F::SUBS == 1) dot32(d, a, b); else dot16(d, a, b, h);
                    if (F::OFFSET != 0) {
                        int sum = F::SUBS == 1 ? meta.sums[0] + meta.sums[1] : meta.sums[h];
                        off = F::OFFSET * __shfl_sync(0xffffffffu, sum, 4 * e);
                    }
                    if (t == 0) {
                        int sub = (at + e) * F::SUBS + h;
                        dot[sub * TILE + g] = (float)(d[0] - off);
                        dot[sub * TILE + g + 8] = (float)(d[2] - off);
                    }
                }
            }
            if (++segment == segments) segment = 0, tile++;
            if (tile < tiles) load(tile, segment);
        } else if (warp == producers && turn > 0 && lane < TILE) {
            const float* by = room + ((turn - 1) & 1) * buffer + lane;
            const float *dot = by + plane, *min = dot + plane, *sums = min + plane - lane;
            int rest = p.steps - behind * producers * PIECE;
            int count = (rest < producers * PIECE ? rest : producers * PIECE) * F::SUBS;
#pragma unroll 16
            for (int s = 0; s < count; s++) {
                acc = fmaf(by[s * TILE], dot[s * TILE], acc);
                if (F::HAS_MIN) acc = fmaf(-min[s * TILE], sums[s], acc);
            }
            if (++behind == segments) {
                store(behind_tile, lane, acc);
                acc = 0.0f;
                behind = 0, behind_tile++;
            }
        }
        __syncthreads();
    }
}

// Dynamic shared memory: the activations, then room for what `one` and `stage` need.
DEVICE float* room_of(const Product& p, float* shared) { return shared + p.steps * (sizeof(Meta) + STEP) / 4; }

// Tiles of one part, `run` of them by one block of threads.
extern "C" __global__ void __launch_bounds__(256, 3) product_one(const __grid_constant__ Product p, int tiles) {
    extern __shared__ __align__(16) float shared[];
    const int first = blockIdx.x * p.run, count = tiles - first < p.run ? tiles - first : p.run;
    const Part& part = part_of(p, first);
    auto store = [&](int i, int lane, float sum) { give(part, (first + i - part.first_tile) * TILE + lane, 0, sum); };
#define BODY(F) \
    one<F>(p, room_of(p, shared), staged(shared, p.steps), count, [&](int i) { return tile_at<F>(part, first + i, p.steps); }, store)
    WITH_FORMAT(part.type, BODY)
#undef BODY
}

// Two tiles of a gate and the same two of `up`: 32 elements of their product.
extern "C" __global__ void __launch_bounds__(256, 3) product_gated(const __grid_constant__ Product p) {
    extern __shared__ __align__(16) float shared[];
    __shared__ float pairs[4][TILE];
    const int pair = blockIdx.x * 2;
    auto store = [&](int i, int lane, float sum) {
        const Part& part = p.parts[i / 2];
        if (part.bias) sum = sum + part.bias[(pair + i % 2) * TILE + lane];
        pairs[i][lane] = sum;
    };
#define BODY(F) \
    one<F>(p, room_of(p, shared), staged(shared, p.steps), 4, \
           [&](int i) { return tile_at<F>(p.parts[i / 2], p.parts[i / 2].first_tile + pair + i % 2, p.steps); }, store)
    WITH_FORMAT(p.parts[0].type, BODY)
#undef BODY
    const int lane = threadIdx.x;
    if (lane >= STEP) return;
    const float x = activate(p.after.op, pairs[lane / TILE][lane % TILE], pairs[2 + lane / TILE][lane % TILE]);
    p.after.dst[blockIdx.x * STEP + lane] = x;
    quantise(p.after.acts, 0, blockIdx.x, x);
}

// One tile times J panels of eight columns, by one warp: sums stay in registers.
template <class F, int J> DEVICE void many(const Product& p, const Part& part, int tile, int first_panel) {
    const int lane = threadIdx.x & 31, g = lane / 4, t = lane & 3;
    const int panels = (p.columns + 7) / 8 - first_panel;
    const u8* weights = tile_at<F>(part, tile, p.steps);
    u32 next[F::WORDS];
    load_words<F>(next, planes_of<F>(weights, 0), g, t);
    wait_for_inputs();
    let_next_start();
    float acc[J][4];
    for (int j = 0; j < J; j++) acc[j][0] = acc[j][1] = acc[j][2] = acc[j][3] = 0.0f;
    for (int step = 0; step < p.steps; step++) {
        u32 a[4];
        unpack<F>(a, next, t);
        const u8* chunk = chunk_of<F>(weights, step);
        float scale[F::SUBS][2], min[F::SUBS][2];
        for (int h = 0; h < F::SUBS; h++) {
            for (int r = 0; r < 2; r++) {
                int sub = step % F::STEPS * F::SUBS + h;
                scale[h][r] = scale_of<F>(chunk, sub, g + 8 * r);
                min[h][r] = min_of<F>(chunk, sub, g + 8 * r);
            }
        }
        if (step + 1 < p.steps) load_words<F>(next, planes_of<F>(weights, step + 1), g, t);
#pragma unroll
        for (int j = 0; j < J; j++) {
            if (j >= panels) break;
            size_t at = ((size_t)(first_panel + j) * p.steps + step) * 8;
            u32 b[2] = {*(const u32*)(p.acts.quants + (at + g) * STEP + 4 * t),
                        *(const u32*)(p.acts.quants + (at + g) * STEP + 16 + 4 * t)};
            Meta meta[2] = {p.acts.meta[at + 2 * t], p.acts.meta[at + 2 * t + 1]};
            for (int h = 0; h < F::SUBS; h++) {
                int d[4];
                if (F::SUBS == 1) dot32(d, a, b); else dot16(d, a, b, h);
                for (int i = 0; i < 4; i++) {
                    const Meta& m = meta[i & 1];
                    int off = F::OFFSET * (F::SUBS == 1 ? m.sums[0] + m.sums[1] : m.sums[h]);
                    acc[j][i] = fmaf(scale[h][i / 2] * m.scale, (float)(d[i] - off), acc[j][i]);
                    if (F::HAS_MIN) {
                        float sum = F::SUBS == 1 ? m.scaled_sum : m.scale * (float)m.sums[h];
                        acc[j][i] = fmaf(-min[h][i / 2], sum, acc[j][i]);
                    }
                }
            }
        }
    }
    for (int j = 0; j < J; j++) {
        for (int i = 0; i < 4; i++) {
            int row = (tile - part.first_tile) * TILE + g + 8 * (i / 2), column = (first_panel + j) * 8 + 2 * t + (i & 1);
            if (column < p.columns) give(part, row, column, acc[j][i]);
        }
    }
}

// Four tiles, one a warp, times 32 columns.
extern "C" __global__ void __launch_bounds__(128) product_many(const __grid_constant__ Product p, int tiles) {
    int tile = blockIdx.x * 4 + threadIdx.x / 32;
    if (tile >= tiles) {
        wait_for_inputs();
        return;
    }
    const Part& part = part_of(p, tile);
#define BODY(F) many<F, 4>(p, part, tile, blockIdx.y * 4)
    WITH_FORMAT(part.type, BODY)
#undef BODY
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
    wait_for_inputs();
    let_next_start();
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
