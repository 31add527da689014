// The numerics contract on the device: every function here gives the bits of its namesake in the cpu backend.
// Compiled without contraction (-fmad=false): a fused multiply-add is one only where fmaf is written.
#pragma once

typedef unsigned char u8;
typedef signed char i8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long long u64;

// Weights under one activation scale, and in one step of a tile.
#define STEP 32
// Output rows in a tile.
#define TILE 16
// Positions in a block of the KV cache.
#define KV_BLOCK 64

#if defined(__CUDACC__)

// Programmatic dependent launch: nothing but weights is read before `wait_for_inputs`, and every kernel calls it.
__device__ __forceinline__ void wait_for_inputs() {
#if __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}

__device__ __forceinline__ void let_next_start() {
#if __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}

__device__ __forceinline__ float half_to_float(u16 h) {
    float f;
    asm("cvt.f32.f16 %0, %1;" : "=f"(f) : "h"(h));
    return f;
}

__device__ __forceinline__ u16 float_to_half(float f) {
    u16 h;
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(h) : "f"(f));
    return h;
}

__device__ __forceinline__ bool is_finite(float x) { return (__float_as_uint(x) & 0x7f800000u) != 0x7f800000u; }

// cpu/simd/mod.rs `exp`.
__device__ __forceinline__ float exp_contract(float x) {
    float poison = x * 0.0f;
    x = x > -87.3f ? x : -87.3f;
    x = x < 88.3f ? x : 88.3f;
    float n = rintf(x * 1.44269504088896340736f);
    float r = fmaf(-n, 0.6933594f, x);
    r = fmaf(-n, -2.1219444e-4f, r);
    float p = 1.9875691e-4f;
    p = fmaf(p, r, 1.3981999e-3f);
    p = fmaf(p, r, 8.333452e-3f);
    p = fmaf(p, r, 4.1665796e-2f);
    p = fmaf(p, r, 1.6666665e-1f);
    p = fmaf(p, r, 0.5f);
    float y = fmaf(p, r * r, r) + 1.0f;
    return y * __int_as_float(((int)n + 127) << 23) + poison;
}

// Sum of sixteen neighbouring lanes, halves folded: 8, 4, 2, 1. All of them get it.
__device__ __forceinline__ float fold16(float v) {
    for (int half = 8; half > 0; half /= 2) v = v + __shfl_xor_sync(0xffffffffu, v, half);
    return v;
}

__device__ __forceinline__ u32 warp_max(u32 v) {
#if __CUDA_ARCH__ >= 800
    return __reduce_max_sync(0xffffffffu, v);
#else
    for (int half = 16; half > 0; half /= 2) v = max(v, __shfl_xor_sync(0xffffffffu, v, half));
    return v;
#endif
}

__device__ __forceinline__ int warp_sum(int v) {
#if __CUDA_ARCH__ >= 800
    return __reduce_add_sync(0xffffffffu, v);
#else
    for (int half = 16; half > 0; half /= 2) v += __shfl_xor_sync(0xffffffffu, v, half);
    return v;
#endif
}

// What a product needs to know of a block of 32 quantised activations.
struct Meta {
    float scale;
    float scaled_sum; // scale * (sums[0] + sums[1])
    int sums[2];      // of each half
};

// Activations as products read them: panels of eight columns, `quants[panel][step][8][32]`, `meta[panel][step][8]`.
struct Acts {
    i8* quants;
    Meta* meta;
    int steps; // 0: nobody reads them
    int unused;
};

// Scale of a block from the bits of its largest magnitude: bits without the sign are ordered as magnitudes are, and
// infinities and NaN are the largest. And what quants are values times.
__device__ __forceinline__ float quant_scale(u32 bits, float& inverse) {
    const bool finite = bits < 0x7f800000u;
    const float amax = __uint_as_float(bits);
    inverse = finite && amax > 0.0f ? __fdiv_rn(127.0f, amax) : 0.0f;
    inverse = is_finite(inverse) ? inverse : 0.0f;
    return finite ? __fdiv_rn(amax, 127.0f) : __int_as_float(0x7fc00000);
}

// Sums of the quants of both halves of a warp, in one word: that of sixteen is below 2^12.
__device__ __forceinline__ int sum_halves(int q) { return warp_sum((threadIdx.x & 16) ? q * 65536 : q); }
__device__ __forceinline__ int low_half(int sums) { return (short)sums; }
__device__ __forceinline__ int high_half(int sums) { return (sums - (short)sums) >> 16; }

// Quantises one block of 32, one value per lane of a warp (cpu/acts.rs `Quantise`): the lane's quant, and what is to be
// known of all of them.
__device__ __forceinline__ int quantised(float x, Meta& m) {
    float inverse;
    const float scale = quant_scale(warp_max(__float_as_uint(x) & 0x7fffffffu), inverse);
    const int q = (int)rintf(x * inverse), sums = sum_halves(q), low = low_half(sums), high = high_half(sums);
    m.scale = scale;
    m.scaled_sum = scale * (float)(low + high);
    m.sums[0] = low;
    m.sums[1] = high;
    return q;
}

// The same into memory.
__device__ __forceinline__ void quantise(const Acts& acts, int column, int step, float x) {
    const int lane = threadIdx.x & 31;
    Meta m;
    const int q = quantised(x, m);
    size_t at = ((size_t)(column / 8) * acts.steps + step) * 8 + column % 8;
    acts.quants[at * STEP + lane] = (i8)q;
    if (lane == 0) acts.meta[at] = m;
}

__device__ __forceinline__ int dp4a(u32 a, u32 b, int c) {
    int d;
    asm("dp4a.s32.s32 %0, %1, %2, %3;" : "=r"(d) : "r"(a), "r"(b), "r"(c));
    return d;
}

#if __CUDA_ARCH__ < 800
// What the tensor cores' s8 product gives, for chips whose tensor cores have none: half of 32 weights. Kept small, not
// fast: it is called from every format.
__device__ __noinline__ int4 dot16_plain(u32 row, u32 row8, u32 b) {
    int t = threadIdx.x & 3;
    int4 d = make_int4(0, 0, 0, 0);
#pragma unroll 1
    for (int n = 0; n < 8; n++) {
        u32 w = __shfl_sync(0xffffffffu, b, 4 * n + t);
        int p = dp4a(row, w, 0), p8 = dp4a(row8, w, 0);
        p += __shfl_xor_sync(0xffffffffu, p, 1);
        p += __shfl_xor_sync(0xffffffffu, p, 2);
        p8 += __shfl_xor_sync(0xffffffffu, p8, 1);
        p8 += __shfl_xor_sync(0xffffffffu, p8, 2);
        if (n == 2 * t) d.x = p, d.z = p8;
        if (n == 2 * t + 1) d.y = p, d.w = p8;
    }
    return d;
}
#endif

// The integers that the tensor cores add to: as bits of a float 1.5 * 2^23, so that a sum below 2^22 is the float that
// differs from it by just that, and no conversion is needed.
#define SUM_BITS 0x4b400000
__device__ __forceinline__ float sum_of(int bits) { return __int_as_float(bits) - 12582912.0f; }

// Exact dot products of 16 rows and 8 columns. Lane 4 g + t holds in `a` quants 4 t.. of rows g and g + 8, then quants
// 16 + 4 t.. of the same, in `b` the same quants of column g; it gets rows g and g + 8 times columns 2 t and 2 t + 1.
__device__ __forceinline__ void dot32(float d[4], const u32 a[4], const u32 b[2]) {
#if __CUDA_ARCH__ >= 800
    int s[4];
    asm("mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%10,%10,%10,%10};"
        : "=r"(s[0]), "=r"(s[1]), "=r"(s[2]), "=r"(s[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]), "r"(SUM_BITS));
    for (int i = 0; i < 4; i++) d[i] = sum_of(s[i]);
#else
    int4 low = dot16_plain(a[0], a[1], b[0]), high = dot16_plain(a[2], a[3], b[1]);
    d[0] = (float)(low.x + high.x);
    d[1] = (float)(low.y + high.y);
    d[2] = (float)(low.z + high.z);
    d[3] = (float)(low.w + high.w);
#endif
}

// The same over 16 weights: the first half of the fragments, or with `h` the second.
__device__ __forceinline__ void dot16(float d[4], const u32 a[4], const u32 b[2], int h) {
#if __CUDA_ARCH__ >= 800
    int s[4];
    asm("mma.sync.aligned.m16n8k16.row.col.s32.s8.s8.s32 {%0,%1,%2,%3}, {%4,%5}, {%6}, {%7,%7,%7,%7};"
        : "=r"(s[0]), "=r"(s[1]), "=r"(s[2]), "=r"(s[3])
        : "r"(a[2 * h]), "r"(a[2 * h + 1]), "r"(b[h]), "r"(SUM_BITS));
    for (int i = 0; i < 4; i++) d[i] = sum_of(s[i]);
#else
    int4 half = dot16_plain(a[2 * h], a[2 * h + 1], b[h]);
    d[0] = (float)half.x;
    d[1] = (float)half.y;
    d[2] = (float)half.z;
    d[3] = (float)half.w;
#endif
}

// Sixteen bytes into shared memory, without waiting where the chip can.
__device__ __forceinline__ void copy16(void* to, const void* from) {
#if __CUDA_ARCH__ >= 800
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"((u32)__cvta_generic_to_shared(to)), "l"(from) : "memory");
#else
    *(int4*)to = *(const int4*)from;
#endif
}
__device__ __forceinline__ void copy4(void* to, const void* from) {
#if __CUDA_ARCH__ >= 800
    asm volatile("cp.async.ca.shared.global [%0], [%1], 4;" ::"r"((u32)__cvta_generic_to_shared(to)), "l"(from) : "memory");
#else
    *(u32*)to = *(const u32*)from;
#endif
}
__device__ __forceinline__ void copies_end() {
#if __CUDA_ARCH__ >= 800
    asm volatile("cp.async.commit_group;" ::: "memory");
#endif
}
// Waits until at most `LATER` of the groups that ended last are under way.
template <int LATER> __device__ __forceinline__ void copies_wait() {
#if __CUDA_ARCH__ >= 800
    asm volatile("cp.async.wait_group %0;" ::"n"(LATER) : "memory");
#endif
}

#endif
