// Sums and elementwise operations that several kernels share, in the order of cpu/rows.rs.
#pragma once
#include "formats.cuh"

// Sum over x[..n] of x, of x * x, or of (x / by) squared, in the order of cpu/rows.rs: lane l of 16 takes k = l mod 16,
// then the halves fold. First warp only.
enum Of16 { PLAIN, SQUARES, SCALED_SQUARES };
template <int WHAT> DEVICE float sum16(const float* x, int n, float by) {
    int l = threadIdx.x & 31;
    float acc = 0.0f;
    if (l < 16) {
#pragma unroll 8
        for (int k = l; k < n; k += 16) {
            float v = WHAT == SCALED_SQUARES ? __fdiv_rn(x[k], by) : x[k];
            acc = acc + (WHAT == PLAIN ? v : v * v);
        }
    }
    return __shfl_sync(0xffffffffu, fold16(acc), 0); // to the idle half too: all lanes go the same way
}

// 1 / sqrt(mean(x * x) + eps). Where the squares overflow, the vector is scaled down first.
DEVICE float stable_scale(const float* x, int n, float eps) {
    float sum = sum16<SQUARES>(x, n, 1.0f);
    if (is_finite(sum)) return __fdiv_rn(1.0f, __fsqrt_rn(__fdiv_rn(sum, (float)n) + eps));
    float max = 0.0f;
    for (int i = 0; i < n; i++) max = fabsf(x[i]) > max ? fabsf(x[i]) : max;
    if (!is_finite(max)) return __int_as_float(0x7fc00000);
    sum = sum16<SCALED_SQUARES>(x, n, max);
    return __fdiv_rn(__fdiv_rn(1.0f, __fsqrt_rn(__fdiv_rn(sum, (float)n))), max);
}

enum Elementwise { COPY = 0, ADD = 1, SILU = 2, GELU = 3, SCALE = 4 };

// act(x) * up, SILU or GELU.
DEVICE float activate(int op, float x, float up) {
    float u = x;
    if (op == GELU) u = fmaf(0.044715f, x * x * x, x) * 1.595769f;
    return __fdiv_rn(x, 1.0f + exp_contract(0.0f - u)) * up;
}
