// Matrix times several columns of quantised activations, on tensor cores: the arithmetic of product.cu, to the bit. A warp
// has one tile of sixteen rows at a time; its lane 4 g + t has rows g and g + 8, and columns 2 t and 2 t + 1 of a panel.
#include "formats.cuh"

// Where lane 4 g + t reads a tile: what is stored of rows g and g + 8, step by step.
template <class F> struct Place {
    const u8 *words, *scales, *head;
    int within; // of the chunk

    DEVICE Place(const u8* tile, int step, int g, int t) {
        const u8* chunk = chunk_of<F>(tile, step);
        within = step % F::STEPS;
        words = chunk + F::QUANTS_AT + within * F::STEP_BYTES + 4 * g;
        scales = chunk + F::SCALES_AT + within * 16 * F::SUBS + g;
        head = chunk + 2 * g;
    }
    DEVICE void go_on() {
        if (F::STEPS == 1) {
            words += F::CHUNK, head += F::CHUNK;
            return;
        }
        words += F::STEP_BYTES, scales += 16 * F::SUBS;
        if (++within < F::STEPS) return;
        within = 0, head += F::CHUNK;
        words += F::CHUNK - F::STEPS * F::STEP_BYTES, scales += F::CHUNK - F::STEPS * 16 * F::SUBS;
    }
};

// Scale and minimum of a chunk, of both rows, as stored.
template <class F> struct Head {
    u32 d[2], dmin[2];

    DEVICE void load(const u8* at) {
#pragma unroll
        for (int r = 0; r < 2; r++) {
            d[r] = __ldg((const u16*)(at + 16 * r));
            if (F::HAS_MIN) dmin[r] = __ldg((const u16*)(at + 32 + 16 * r));
        }
    }
};

// One step, as stored.
template <class F> struct Raw {
    u32 words[F::WORDS], scales[F::SUBS][2], minima[F::SUBS][2];
    Head<F> head; // of formats with a chunk a step

    DEVICE void load(const Place<F>& at, int t) {
        load_words<F>(words, at.words, 0, t);
#pragma unroll
        for (int r = 0; r < 2; r++) {
#pragma unroll
            for (int h = 0; h < F::SUBS; h++) {
                if (F::KIND != D_ONLY) scales[h][r] = __ldg(at.scales + 16 * h + 8 * r);
                if (F::MINIMA == U8_MINIMA) minima[h][r] = __ldg(at.scales + F::MINIMA_AT - F::SCALES_AT + 16 * h + 8 * r);
            }
        }
        if (F::STEPS == 1) head.load(at.head);
    }
};

// Four stored quants without what they have too much.
template <class F> DEVICE u32 without_offset(u32 q) { return F::OFFSET == 0 ? q : (q + 0x01010101u * (128 - F::OFFSET)) ^ 0x80808080u; }

// Adds one step of a tile times J panels. `head` is of its chunk; `columns` has the activations of two columns of each panel.
template <class F, int J, class Columns>
DEVICE void add_step(float (&acc)[J][4], const Raw<F>& raw, const Head<F>& head, const Columns& columns, int t) {
    u32 a[4];
    unpack<F>(a, raw.words, t);
    for (int i = 0; i < 4; i++) a[i] = without_offset<F>(a[i]);
    float scale[F::SUBS][2], min[F::SUBS][2];
#pragma unroll
    for (int r = 0; r < 2; r++) {
        const float d = half_to_float((u16)head.d[r]), dmin = F::HAS_MIN ? half_to_float((u16)head.dmin[r]) : 0.0f;
#pragma unroll
        for (int h = 0; h < F::SUBS; h++) {
            scale[h][r] = F::KIND == U8_SCALES ? d * (float)raw.scales[h][r] : F::KIND == I8_SCALES ? d * (float)(i8)raw.scales[h][r] : d;
            min[h][r] = F::MINIMA == U8_MINIMA ? dmin * (float)raw.minima[h][r] : 0.0f - dmin;
        }
    }
#pragma unroll
    for (int j = 0; j < J; j++) {
        const u32 b[2] = {columns.quants(j, 0), columns.quants(j, 1)};
        const float2 by = columns.scales(j);
#pragma unroll
        for (int h = 0; h < F::SUBS; h++) {
            float d[4];
            if (F::SUBS == 1) dot32(d, a, b); else dot16(d, a, b, h);
            const float2 sums = F::HAS_MIN ? columns.sums(j, F::SUBS == 1 ? -1 : h) : by;
#pragma unroll
            for (int i = 0; i < 4; i++) {
                acc[j][i] = fmaf(scale[h][i / 2] * (i & 1 ? by.y : by.x), d[i], acc[j][i]);
                if (F::HAS_MIN) acc[j][i] = fmaf(-min[h][i / 2], i & 1 ? sums.y : sums.x, acc[j][i]);
            }
        }
    }
}

// Panels of `product_few`, its warps at most, and steps that are read ahead.
#define FEW_PANELS 2
#define FEW_WARPS 12
#define FEW_AHEAD 2

// What a lane needs for one step: weights, and activations from where they were written.
template <class F> struct Ahead {
    Raw<F> raw;
    u32 words[FEW_PANELS][2];
    Meta of[FEW_PANELS][2];

    DEVICE u32 quants(int j, int half) const { return words[j][half]; }
    DEVICE float2 scales(int j) const { return make_float2(of[j][0].scale, of[j][1].scale); }
    DEVICE float2 sums(int j, int half) const {
        if (half < 0) return make_float2(of[j][0].scaled_sum, of[j][1].scaled_sum);
        return make_float2(of[j][0].scale * (float)of[j][0].sums[half], of[j][1].scale * (float)of[j][1].sums[half]);
    }
    // `lane`: of quants and of what is known of them, the first of this lane in a step; `panel`: steps from panel to panel.
    DEVICE void load_columns(const u32* quants, const Meta* meta, int panel) {
#pragma unroll
        for (int j = 0; j < FEW_PANELS; j++) {
            const u32* from = quants + j * panel * (8 * STEP / 4);
            words[j][0] = from[0];
            words[j][1] = from[4];
            of[j][0] = meta[j * panel * 8];
            of[j][1] = meta[j * panel * 8 + 1];
        }
    }
};

// One tile times a few panels: each warp has runs of its own, which are then added in order. Shared: `[run][column][row]`.
template <class F> DEVICE void few(const Product& p, const Part& part, int tile, int first_panel, float* shared) {
    const int lane = threadIdx.x & 31, warp = threadIdx.x / 32, warps = blockDim.x / 32, g = lane / 4, t = lane & 3;
    const int runs = (p.steps + RUN_STEPS - 1) / RUN_STEPS, all = (p.columns + 7) / 8 - first_panel, width = FEW_PANELS * 8 * TILE;
    // A panel that is not there is read as the one before.
    const int panels = all < FEW_PANELS ? all : FEW_PANELS, panel = panels == FEW_PANELS ? p.steps : 0;
    const u8* weights = tile_at<F>(part, tile, p.steps);
    const size_t first = (size_t)first_panel * p.steps * 8;
    const u32* quants = (const u32*)(p.acts.quants + (first + g) * STEP) + t;
    const Meta* meta = p.acts.meta + first + 2 * t;
    Ahead<F> ahead[FEW_AHEAD];
    Head<F> head;
    let_next_start();
    for (int run = warp; run < runs; run += warps) {
        const int from = run * RUN_STEPS, to = from + RUN_STEPS < p.steps ? from + RUN_STEPS : p.steps;
        Place<F> at(weights, from, g, t);
        if (F::STEPS > 1) head.load(at.head);
#pragma unroll
        for (int i = 0; i < FEW_AHEAD; i++) {
            if (from + i < to) ahead[i].raw.load(at, t);
            at.go_on();
        }
        if (run == warp) wait_for_inputs();
#pragma unroll
        for (int i = 0; i < FEW_AHEAD; i++) {
            if (from + i < to) ahead[i].load_columns(quants + (from + i) * (8 * STEP / 4), meta + (from + i) * 8, panel);
        }
        float acc[FEW_PANELS][4];
        for (int j = 0; j < FEW_PANELS; j++) {
            for (int i = 0; i < 4; i++) acc[j][i] = 0.0f;
        }
#pragma unroll 1
        for (int step = from; step < to; step += FEW_AHEAD) {
#pragma unroll
            for (int i = 0; i < FEW_AHEAD; i++) {
                if (step + i < to) {
                    const Ahead<F> now = ahead[i];
                    const int later = step + i + FEW_AHEAD;
                    if (later < to) {
                        ahead[i].raw.load(at, t);
                        ahead[i].load_columns(quants + later * (8 * STEP / 4), meta + later * 8, panel);
                    }
                    at.go_on();
                    add_step<F, FEW_PANELS>(acc, now.raw, F::STEPS > 1 ? head : now.raw.head, now, t);
                }
            }
        }
        for (int j = 0; j < FEW_PANELS; j++) {
            for (int i = 0; i < 4; i++) shared[run * width + (8 * j + 2 * t + (i & 1)) * TILE + g + 8 * (i / 2)] = acc[j][i];
        }
    }
    __syncthreads();
    for (int i = threadIdx.x; i < panels * 8 * TILE; i += blockDim.x) {
        const int column = first_panel * 8 + i / TILE;
        float sum = 0.0f;
#pragma unroll 8
        for (int run = 0; run < runs; run++) sum = sum + shared[run * width + i];
        if (column < p.columns) give(part, (tile - part.first_tile) * TILE + i % TILE, column, sum);
    }
}

// Grid: tiles, panels by `FEW_PANELS`.
extern "C" __global__ void __launch_bounds__(32 * FEW_WARPS) product_few(const __grid_constant__ Product p) {
    extern __shared__ __align__(16) float shared[];
    const Part& part = part_of(p, blockIdx.x);
#define BODY(F) few<F>(p, part, blockIdx.x, blockIdx.y * FEW_PANELS, shared)
    WITH_FORMAT(part.type, BODY)
#undef BODY
}

// Panels and tiles of a block of threads of `product_many`; one warp has a tile.
#define MANY_PANELS 4
#define MANY_TILES 8

// A run of activations of all panels, in shared memory. Halves of the columns of the upper four change places, so that
// a warp's lanes read from as many banks.
struct NearColumns {
    i8 quants_of[MANY_PANELS][RUN_STEPS][8][STEP];
    // Of two neighbouring columns: both scales, both scaled sums.
    float of[MANY_PANELS][RUN_STEPS][4][4];
};

// How a thread brings runs there: it has one place in a panel, and panels a few apart.
struct Bring {
    static const int THREADS = 32 * MANY_TILES, QUANTS = THREADS / (RUN_STEPS * 16), METAS = THREADS / (RUN_STEPS * 8);
    const i8* quants;
    const Meta* meta;
    int to_quants, to_meta, steps, quants_step, meta_step, quants_left, meta_left;

    DEVICE Bring(const Acts& acts, int first_panel, int panels) {
        const int i = threadIdx.x, column = i / 2 % 8, half = (i ^ column >> 2) & 1;
        steps = acts.steps, quants_step = i / 16 % RUN_STEPS, meta_step = i / 8 % RUN_STEPS;
        const size_t panel = (size_t)first_panel + i / (RUN_STEPS * 16), meta_panel = (size_t)first_panel + i / (RUN_STEPS * 8);
        quants = acts.quants + ((panel * steps + quants_step) * 8 + column) * STEP + 16 * (i & 1);
        meta = acts.meta + (meta_panel * steps + meta_step) * 8 + i % 8;
        quants_left = panels - i / (RUN_STEPS * 16), meta_left = panels - i / (RUN_STEPS * 8);
        to_quants = i / 16 * (8 * STEP) + column * STEP + 16 * half;
        to_meta = i / 8 * 16 + i % 8 / 2 * 4 + i % 2;
    }
    DEVICE void run(NearColumns& to, int run) const {
        if (run * RUN_STEPS + quants_step < steps) {
#pragma unroll
            for (int k = 0; k < MANY_PANELS / QUANTS; k++) {
                if (k * QUANTS >= quants_left) break;
                const i8* from = quants + (size_t)(k * QUANTS * steps + run * RUN_STEPS) * (8 * STEP);
                copy16(&to.quants_of[k * QUANTS][0][0][0] + to_quants, from);
            }
        }
        if (run * RUN_STEPS + meta_step < steps) {
#pragma unroll
            for (int k = 0; k < MANY_PANELS / METAS; k++) {
                if (k * METAS >= meta_left) break;
                const Meta* from = meta + (size_t)(k * METAS * steps + run * RUN_STEPS) * 8;
                float* at = &to.of[k * METAS][0][0][0] + to_meta;
                copy4(at, &from->scale);
                copy4(at + 2, &from->scaled_sum);
            }
        }
        copies_end();
    }
};

// One step of them, for one lane.
struct NearStep {
    const i8* quants_at; // of column g: the half that is first here
    const float* of_at;
    int other; // from there to the other half
    const Meta* far; // column 2 t of the first panel, where they were written
    int panel, panels; // from panel to panel there, and how many there are

    DEVICE u32 quants(int j, int half) const { return *(const u32*)(quants_at + j * (RUN_STEPS * 8 * STEP) + (half ? other : 0)); }
    DEVICE float2 scales(int j) const { return *(const float2*)(of_at + j * (RUN_STEPS * 16)); }
    DEVICE float2 sums(int j, int half) const {
        if (half < 0) return *(const float2*)(of_at + j * (RUN_STEPS * 16) + 2);
        const Meta* m = far + (j < panels ? j * panel : 0);
        return make_float2(m[0].scale * (float)m[0].sums[half], m[1].scale * (float)m[1].sums[half]);
    }
};

// Rows `row` and `row + 8`, columns `column ..` by twos of J panels.
template <int J> DEVICE void give_panels(const Part& part, int row, int column, int columns, const float (&sums)[J][4]) {
#pragma unroll
    for (int r = 0; r < 2; r++, row += 8) {
        if (row >= part.rows) return;
        const float bias = part.bias ? part.bias[row] : 0.0f;
        const size_t first = (size_t)column * part.rows + row;
        float *out = part.out + first, *add = part.add + first;
#pragma unroll
        for (int j = 0; j < J; j++) {
#pragma unroll
            for (int i = 0; i < 2; i++) {
                if (column + 8 * j + i >= columns) continue;
                const int at = (8 * j + i) * part.rows;
                const float sum = part.bias ? sums[j][2 * r + i] + bias : sums[j][2 * r + i];
                out[at] = sum;
                if (part.add) add[at] = add[at] + sum;
            }
        }
    }
}

// Tiles of one part, one a warp, times panels that all of them read from shared memory, run by run.
template <class F> DEVICE void many(const Product& p, const Part& part, int tile, int first_panel, NearColumns* shared) {
    const int lane = threadIdx.x & 31, g = lane / 4, t = lane & 3, runs = (p.steps + RUN_STEPS - 1) / RUN_STEPS;
    // A warp without a tile computes another's in vain.
    const int last = part.first_tile + (part.rows + TILE - 1) / TILE - 1;
    Place<F> at(tile_at<F>(part, tile < last ? tile : last, p.steps), 0, g, t);
    Raw<F> next;
    Head<F> head, next_head;
    let_next_start();
    next.load(at, t);
    if (F::STEPS > 1) next_head.load(at.head);
    wait_for_inputs();
    const int all = (p.columns + 7) / 8 - first_panel, panels = all < MANY_PANELS ? all : MANY_PANELS;
    const Bring bring(p.acts, first_panel, panels);
    bring.run(shared[0], 0);
    float sums[MANY_PANELS][4];
    for (int j = 0; j < MANY_PANELS; j++) {
        for (int i = 0; i < 4; i++) sums[j][i] = 0.0f;
    }
    const int upper = g >> 2, quants_at = g * STEP + 16 * upper + 4 * t;
    for (int run = 0; run < runs; run++) {
        const NearColumns& columns = shared[run & 1];
        if (run + 1 < runs) bring.run(shared[~run & 1], run + 1);
        else copies_end();
        copies_wait<1>();
        __syncthreads();
        float acc[MANY_PANELS][4];
        for (int j = 0; j < MANY_PANELS; j++) {
            for (int i = 0; i < 4; i++) acc[j][i] = 0.0f;
        }
        if (F::STEPS > 1) {
            head = next_head;
            if (run + 1 < runs) next_head.load(at.head + F::CHUNK);
        }
        const int steps = p.steps - run * RUN_STEPS < RUN_STEPS ? p.steps - run * RUN_STEPS : RUN_STEPS;
        const bool is_last = run + 1 == runs;
#pragma unroll 1
        for (int step = 0; step < steps; step++) {
            const Raw<F> now = next;
            at.go_on();
            if (!is_last || step + 1 < steps) next.load(at, t);
            const Meta* far = p.acts.meta + ((size_t)first_panel * p.steps + run * RUN_STEPS + step) * 8 + 2 * t;
            const NearStep near = {
                &columns.quants_of[0][step][0][0] + quants_at, &columns.of[0][step][t][0], upper ? -16 : 16, far, p.steps * 8, panels};
            // Panels that are not there are computed in vain.
            add_step<F, MANY_PANELS>(acc, now, F::STEPS > 1 ? head : now.head, near, t);
        }
        for (int j = 0; j < MANY_PANELS; j++) {
            for (int i = 0; i < 4; i++) sums[j][i] = sums[j][i] + acc[j][i];
        }
        __syncthreads();
    }
    if (tile <= last) give_panels<MANY_PANELS>(part, (tile - part.first_tile) * TILE + g, first_panel * 8 + 2 * t, p.columns, sums);
}

// Grid: blocks of tiles, each of one part; panels by `MANY_PANELS`.
extern "C" __global__ void __launch_bounds__(32 * MANY_TILES, 3) product_many(const __grid_constant__ Product p) {
    extern __shared__ __align__(16) float shared[];
    int block = blockIdx.x, i = 0;
    for (; i + 1 < p.count; i++) {
        const int blocks = (p.parts[i + 1].first_tile - p.parts[i].first_tile + MANY_TILES - 1) / MANY_TILES;
        if (block < blocks) break;
        block -= blocks;
    }
    const Part& part = p.parts[i];
    const int tile = part.first_tile + block * MANY_TILES + threadIdx.x / 32;
#define BODY(F) many<F>(p, part, tile, blockIdx.y * MANY_PANELS, (NearColumns*)shared)
    WITH_FORMAT(part.type, BODY)
#undef BODY
}
