// Sums and elementwise operations that several kernels share, in the order of cpu/rows.rs.
#pragma once
#include "formats.cuh"

// Lanes of a sum, and how many of them are folded together.
#define SUM_LANES 128
#define SUM_PARTS (SUM_LANES / 32)

// Sum over x[..n] of x, of x * x, or of (x / by) squared: lane l of 128 takes every k = l mod 128; 32 neighbours are
// folded 16, 8, 4, 2, 1, and the four sums added by twos. By a whole block of threads, which all get it; `parts` is
// theirs again after a barrier.
enum Summand { PLAIN, SQUARES, SCALED_SQUARES };
template <int WHAT> DEVICE float sum(const float* x, int n, float by, float parts[SUM_PARTS]) {
    for (int l = threadIdx.x; l < SUM_LANES; l += blockDim.x) {
        float acc = 0.0f;
#pragma unroll 12
        for (int k = l; k < n; k += SUM_LANES) {
            float v = WHAT == SCALED_SQUARES ? __fdiv_rn(x[k], by) : x[k];
            acc = acc + (WHAT == PLAIN ? v : v * v);
        }
        for (int half = 16; half > 0; half /= 2) acc = acc + __shfl_xor_sync(0xffffffffu, acc, half);
        if (l % 32 == 0) parts[l / 32] = acc;
    }
    __syncthreads();
    return (parts[0] + parts[1]) + (parts[2] + parts[3]);
}

// 1 / sqrt(mean(x * x) + eps). Where the squares overflow, the vector is scaled down first.
DEVICE float stable_scale(const float* x, int n, float eps, float parts[SUM_PARTS]) {
    float squares = sum<SQUARES>(x, n, 1.0f, parts);
    if (is_finite(squares)) return __fdiv_rn(1.0f, __fsqrt_rn(__fdiv_rn(squares, (float)n) + eps));
    float max = 0.0f;
    for (int i = 0; i < n; i++) max = fabsf(x[i]) > max ? fabsf(x[i]) : max;
    if (!is_finite(max)) return __int_as_float(0x7fc00000);
    __syncthreads();
    squares = sum<SCALED_SQUARES>(x, n, max, parts);
    return __fdiv_rn(__fdiv_rn(1.0f, __fsqrt_rn(__fdiv_rn(squares, (float)n))), max);
}

enum Elementwise { COPY = 0, ADD = 1, SILU = 2, GELU = 3, SCALE = 4 };

// act(x) * up, SILU or GELU.
DEVICE float activate(int op, float x, float up) {
    float u = x;
    if (op == GELU) u = fmaf(0.044715f, x * x * x, x) * 1.595769f;
    return __fdiv_rn(x, 1.0f + exp_contract(0.0f - u)) * up;
}
