// Attention of many rows of one sequence (attend.cu has the order): a tile of 32 rows reads a block of the cache once, through
// shared memory. A warp has four rows; its lanes have two positions each for the scores, and then elements of the output.
#include "batch.cuh"
#include "formats.cuh"

// Rows of a tile, and of a warp.
#define TILE_QUERIES 32
#define WARP_QUERIES 4
#define TILE_THREADS (TILE_QUERIES / WARP_QUERIES * 32)

// Rows first .. first + count, all of one sequence.
struct QueryTile {
    u32 first, count;
};

// A block of the cache, and the rows' queries and weights. N elements of a head.
template <int N> struct TileRoom {
    u16 k[N * KV_BLOCK], v[KV_BLOCK * N];
    float q[TILE_QUERIES][N];
    float p[TILE_QUERIES][KV_BLOCK];
    int from[TILE_QUERIES], to[TILE_QUERIES]; // what each row sees
    float tops[TILE_QUERIES], sums[TILE_QUERIES];
};

template <int N> DEVICE void load_block(u16* to, const u16* from) {
    for (int i = threadIdx.x; i < N * KV_BLOCK / 8; i += TILE_THREADS) copy16(to + 8 * i, from + 8 * i);
    copies_end();
}

// Largest score and sum of exponentials so far.
struct Softmax {
    float max, sum;

    // Takes later ones in; what the output so far, and theirs, are to be multiplied by.
    DEVICE void take(float top, float part, float& keep, float& add) {
        const float larger = top > max ? top : max;
        keep = Running::exp_or_none(max - larger), add = Running::exp_or_none(top - larger);
        sum = sum * keep + part * add;
        max = larger;
    }
};

// Adds p[row][j] * v[j] for the positions of the block at `at`; SOME: each row only those that it sees.
template <int N, bool SOME> DEVICE void mix_rows(float (&part)[WARP_QUERIES][N / 32], const TileRoom<N>& room, int mine, int at) {
    const int lane = threadIdx.x & 31;
    int begin[WARP_QUERIES], end[WARP_QUERIES];
#pragma unroll
    for (int r = 0; r < WARP_QUERIES; r++) {
        if (SOME) begin[r] = room.from[mine + r] - at, end[r] = room.to[mine + r] - at;
    }
#pragma unroll 1
    for (int j = 0; j < KV_BLOCK; j += 4) {
        float by[WARP_QUERIES][4];
#pragma unroll
        for (int r = 0; r < WARP_QUERIES; r++) {
            const float4 four = *(const float4*)(room.p[mine + r] + j);
            by[r][0] = four.x, by[r][1] = four.y, by[r][2] = four.z, by[r][3] = four.w;
        }
#pragma unroll
        for (int i = 0; i < 4; i++) {
            float x[N / 32];
#pragma unroll
            for (int e = 0; e < N / 32; e++) x[e] = half_to_float(room.v[(j + i) * N + 32 * e + lane]);
#pragma unroll
            for (int r = 0; r < WARP_QUERIES; r++) {
                if (SOME && (j + i < begin[r] || j + i >= end[r])) continue;
#pragma unroll
                for (int e = 0; e < N / 32; e++) part[r][e] = fmaf(by[r][i], x[e], part[r][e]);
            }
        }
    }
}

template <int N> DEVICE void attend_tile(const Attend& p, const Inputs& in, const QueryTile* tiles, int count, TileRoom<N>& room) {
    let_next_start();
    wait_for_inputs();
    // The last tiles see most: they begin.
    const QueryTile tile = tiles[count - 1 - blockIdx.x];
    const int head = blockIdx.y, lane = threadIdx.x & 31, mine = threadIdx.x / 32 * WARP_QUERIES;
    const u64* table = in.tables + in.rows[tile.first].table;
    const u32* ranges = in.visible + ((size_t)p.visible * p.rows + tile.first) * 2;
    const int kv_head = head / (p.heads / p.kv_heads);
    const u64 k_at = p.layer_at + (u64)kv_head * N * KV_BLOCK, v_at = p.layer_at + (u64)(p.kv_heads + kv_head) * N * KV_BLOCK;
    for (int i = threadIdx.x; i < TILE_QUERIES * N; i += TILE_THREADS) {
        const int r = i / N;
        room.q[r][i % N] = r < (int)tile.count ? p.q[((size_t)(tile.first + r) * p.heads + head) * N + i % N] : 0.0f;
    }
    int lowest = 0x7fffffff, highest = 0;
    for (int r = 0; r < (int)tile.count; r++) {
        lowest = min(lowest, (int)ranges[2 * r]);
        highest = max(highest, (int)ranges[2 * r + 1]);
    }
    if (threadIdx.x < TILE_QUERIES) {
        const bool exists = threadIdx.x < tile.count;
        room.from[threadIdx.x] = exists ? ranges[2 * threadIdx.x] : 0;
        room.to[threadIdx.x] = exists ? ranges[2 * threadIdx.x + 1] : 0;
    }
    const int first = lowest / KV_BLOCK, end = (highest + KV_BLOCK - 1) / KV_BLOCK;
    float all[WARP_QUERIES][N / 32], group[WARP_QUERIES][N / 32];
#pragma unroll
    for (int r = 0; r < WARP_QUERIES; r++) {
#pragma unroll
        for (int e = 0; e < N / 32; e++) all[r][e] = group[r][e] = 0.0f;
    }
    // Lane r knows these of row r.
    const int own = mine + lane % WARP_QUERIES;
    Softmax of_all = {-INFINITE, 0.0f}, of_group = {-INFINITE, 0.0f};
    load_block<N>(room.k, (const u16*)table[first] + k_at);
    load_block<N>(room.v, (const u16*)table[first] + v_at);
    for (int block = first; block < end; block++) {
        const int at = block * KV_BLOCK;
        copies_wait<1>();
        __syncthreads();
        // Scores of positions 2 lane and 2 lane + 1.
        float s[WARP_QUERIES][2];
#pragma unroll
        for (int r = 0; r < WARP_QUERIES; r++) s[r][0] = s[r][1] = 0.0f;
#pragma unroll 2
        for (int d = 0; d < N; d += 4) {
            float q[WARP_QUERIES][4];
#pragma unroll
            for (int r = 0; r < WARP_QUERIES; r++) {
                const float4 four = *(const float4*)(room.q[mine + r] + d);
                q[r][0] = four.x, q[r][1] = four.y, q[r][2] = four.z, q[r][3] = four.w;
            }
#pragma unroll
            for (int i = 0; i < 4; i++) {
                const u32 pair = *(const u32*)(room.k + (d + i) * KV_BLOCK + 2 * lane);
                const float x = half_to_float((u16)pair), y = half_to_float((u16)(pair >> 16));
#pragma unroll
                for (int r = 0; r < WARP_QUERIES; r++) {
                    s[r][0] = fmaf(q[r][i], x, s[r][0]);
                    s[r][1] = fmaf(q[r][i], y, s[r][1]);
                }
            }
        }
        // Weights of what each row sees, and what they sum up to.
#pragma unroll
        for (int r = 0; r < WARP_QUERIES; r++) {
            const int begin = room.from[mine + r] - at, stop = room.to[mine + r] - at;
            float top = -INFINITE;
            bool seen[2];
#pragma unroll
            for (int i = 0; i < 2; i++) {
                float x = s[r][i] * p.scale;
                if (p.softcap != 0.0f) x = p.softcap * tanhf(__fdiv_rn(x, p.softcap));
                s[r][i] = x;
                seen[i] = 2 * lane + i >= begin && 2 * lane + i < stop;
                // A NaN score does not win the maximum, but exp passes it on into the sum.
                top = seen[i] && x > top ? x : top;
            }
            for (int m = 16; m > 0; m /= 2) {
                const float other = __shfl_xor_sync(0xffffffffu, top, m);
                top = other > top ? other : top;
            }
            if (lane == 0) room.tops[mine + r] = top;
            const float2 weights = {seen[0] ? exp_contract(s[r][0] - top) : 0.0f, seen[1] ? exp_contract(s[r][1] - top) : 0.0f};
            *(float2*)(room.p[mine + r] + 2 * lane) = weights;
        }
        __syncwarp();
#pragma unroll
        for (int r = 0; r < WARP_QUERIES; r += 2) {
            const int row = mine + r + lane / 16;
            const float* x = room.p[row] + lane % 16;
            const float sum = fold16((((0.0f + x[0]) + x[16]) + x[32]) + x[48]);
            if (lane % 16 == 0) room.sums[row] = sum;
        }
        // K of the next block may come, and V of this one must be there.
        __syncthreads();
        if (block + 1 < end) load_block<N>(room.k, (const u16*)table[block + 1] + k_at);
        else copies_end();
        copies_wait<1>();
        __syncthreads();
        float part[WARP_QUERIES][N / 32];
#pragma unroll
        for (int r = 0; r < WARP_QUERIES; r++) {
#pragma unroll
            for (int e = 0; e < N / 32; e++) part[r][e] = 0.0f;
        }
        const bool whole = at >= room.from[mine] && at >= room.from[mine + WARP_QUERIES - 1]
            && at + KV_BLOCK <= room.to[mine] && at + KV_BLOCK <= room.to[mine + WARP_QUERIES - 1];
        if (whole) mix_rows<N, false>(part, room, mine, at);
        else mix_rows<N, true>(part, room, mine, at);
        // A group ends with its last block, or with the last that somebody sees.
        const int from = room.from[own], to = room.to[own];
        const bool ends = (block + 1) % GROUP == 0 || block + 1 == end;
        const bool seen = from < at + KV_BLOCK && to > at;
        const bool group_seen = ends && from < at + KV_BLOCK && to > block / GROUP * GROUP_POSITIONS;
        float keep = 1.0f, add = 0.0f, all_keep = 1.0f, all_add = 0.0f;
        if (seen) of_group.take(room.tops[own], room.sums[own], keep, add);
        if (group_seen) {
            of_all.take(of_group.max, of_group.sum, all_keep, all_add);
            of_group.max = -INFINITE, of_group.sum = 0.0f;
        }
        const u32 takes = __ballot_sync(0xffffffffu, seen), groups_end = __ballot_sync(0xffffffffu, group_seen);
#pragma unroll
        for (int r = 0; r < WARP_QUERIES; r++) {
            if (takes >> r & 1) {
                const float k = __shfl_sync(0xffffffffu, keep, r), a = __shfl_sync(0xffffffffu, add, r);
#pragma unroll
                for (int e = 0; e < N / 32; e++) group[r][e] = fmaf(part[r][e], a, group[r][e] * k);
            }
            if (groups_end >> r & 1) {
                const float k = __shfl_sync(0xffffffffu, all_keep, r), a = __shfl_sync(0xffffffffu, all_add, r);
#pragma unroll
                for (int e = 0; e < N / 32; e++) all[r][e] = fmaf(group[r][e], a, all[r][e] * k), group[r][e] = 0.0f;
            }
        }
        __syncthreads();
        if (block + 1 < end) load_block<N>(room.v, (const u16*)table[block + 1] + v_at);
        else copies_end();
    }
#pragma unroll
    for (int r = 0; r < WARP_QUERIES; r++) {
        if (mine + r >= (int)tile.count) break;
        const int row = tile.first + mine + r;
        const float sum = __shfl_sync(0xffffffffu, of_all.sum, r);
#pragma unroll
        for (int e = 0; e < N / 32; e++) {
            const float x = __fdiv_rn(all[r][e], sum);
            p.dst[((size_t)row * p.heads + head) * N + 32 * e + lane] = x;
            if (p.acts.steps) quantise(p.acts, row, head * (N / STEP) + e, x);
        }
    }
}

// Grid: tiles, heads.
extern "C" __global__ void __launch_bounds__(TILE_THREADS, 2)
    attend_tiles(const __grid_constant__ Attend p, const __grid_constant__ Inputs in, const QueryTile* tiles, int count) {
    extern __shared__ __align__(16) float shared[];
    if (p.head_dim == 128) attend_tile<128>(p, in, tiles, count, *(TileRoom<128>*)shared);
    if (p.head_dim == 64) attend_tile<64>(p, in, tiles, count, *(TileRoom<64>*)shared);
}
