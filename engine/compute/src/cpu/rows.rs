//! Kernels that work on one row: norms, activation, statistics of logits. A sum runs in 128 lanes, one for
//! each thread that a GPU gives to it.

use super::simd::{Kernel, LANES, Simd, exp};
use crate::program::{Act, NormKind};

/// Calls `f` with each full group of 16 (pointers in `$p`), and once more on padded copies for the tail.
#[inline(always)]
fn groups(n: usize) -> (usize, usize) {
    (n / LANES * LANES, n % LANES)
}

/// A normalisation of one vector.
pub struct Norm<'a> {
    /// RMS or mean-and-variance.
    pub kind: NormKind,
    /// In, and out.
    pub x: &'a mut [f32],
    /// As long as `x`.
    pub weight: Option<&'a [f32]>,
    /// As long as `x`.
    pub bias: Option<&'a [f32]>,
    /// Under the root.
    pub eps: f32,
}

impl Kernel for Norm<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self) {
        let n = self.x.len() as f32;
        if self.kind == NormKind::Layer {
            let mean = sum::<S>(self.x, |x| x) / n;
            for x in self.x.iter_mut() {
                *x -= mean;
            }
        }
        //= F-CPU-114
        let scale = stable_scale::<S>(self.x, n, self.eps);
        for x in self.x.iter_mut() {
            *x *= scale;
        }
        if let Some(w) = self.weight {
            for (x, w) in self.x.iter_mut().zip(w) {
                *x *= w;
            }
        }
        if let Some(b) = self.bias {
            for (x, b) in self.x.iter_mut().zip(b) {
                *x += b;
            }
        }
    }
}

/// `1 / sqrt(mean(x^2) + eps)`. Where the squares overflow, the vector is scaled down first.
#[inline(always)]
fn stable_scale<S: Simd>(x: &[f32], n: f32, eps: f32) -> f32 {
    let squares = sum::<S>(x, |x| x * x);
    if squares.is_finite() {
        return 1.0 / (squares / n + eps).sqrt();
    }
    let max = x.iter().fold(0f32, |m, v| if v.abs() > m { v.abs() } else { m });
    if !max.is_finite() {
        return f32::NAN;
    }
    let squares = sum::<S>(x, |x| (x / max) * (x / max));
    1.0 / (squares / n).sqrt() / max
}

/// Lanes of a sum.
const SUM_LANES: usize = 128;

/// Sum of `f` over a slice in the contract's order: lane l takes every k = l mod 128, ascending; 32 neighbouring lanes
/// are folded 16, 8, 4, 2, 1, and the four sums added by twos.
#[inline(always)]
fn sum<S: Simd>(x: &[f32], f: impl Fn(f32) -> f32) -> f32 {
    let mut lanes = [0f32; SUM_LANES];
    for group in x.chunks(SUM_LANES) {
        for (lane, &x) in lanes.iter_mut().zip(group) {
            *lane += f(x);
        }
    }
    let mut parts = [0f32; SUM_LANES / (2 * LANES)];
    for (part, lanes) in parts.iter_mut().zip(lanes.chunks_exact(2 * LANES)) {
        // SAFETY: inside `Isa::run`; there are twice 16 lanes.
        *part = unsafe { S::sum(S::add(S::load(lanes.as_ptr()), S::load(lanes.as_ptr().add(LANES)))) };
    }
    (parts[0] + parts[1]) + (parts[2] + parts[3])
}

/// `out = act(gate) * up`.
pub struct Gate<'a> {
    /// The activation.
    pub act: Act,
    /// In, and out.
    pub gate: &'a mut [f32],
    /// As long.
    pub up: &'a [f32],
}

impl Kernel for Gate<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self) {
        assert_eq!(self.gate.len(), self.up.len());
        let (whole, rest) = groups(self.gate.len());
        // SAFETY: inside `Isa::run`; groups lie inside both slices, the tail goes through arrays of 16.
        unsafe {
            for i in (0..whole).step_by(LANES) {
                let p = self.gate.as_mut_ptr().add(i);
                S::store(p, activate::<S>(self.act, S::load(p), S::load(self.up.as_ptr().add(i))));
            }
            if rest > 0 {
                let (mut g, mut u) = ([0f32; LANES], [0f32; LANES]);
                g[..rest].copy_from_slice(&self.gate[whole..]);
                u[..rest].copy_from_slice(&self.up[whole..]);
                let y = activate::<S>(self.act, S::load(g.as_ptr()), S::load(u.as_ptr()));
                S::store(g.as_mut_ptr(), y);
                self.gate[whole..].copy_from_slice(&g[..rest]);
            }
        }
    }
}

/// # Safety
/// Inside `Isa::run`.
#[inline(always)]
unsafe fn activate<S: Simd>(act: Act, x: S::F, up: S::F) -> S::F {
    // SAFETY: no pointers.
    unsafe {
        let one = S::splat(1.0);
        // Both are x times a sigmoid: GELU's tanh form is x * sigmoid(2 u).
        let u = match act {
            Act::Silu => x,
            Act::GeluTanh => {
                let cube = S::mul(S::mul(x, x), x);
                S::mul(S::fma(S::splat(0.044_715), cube, x), S::splat(1.595_769))
            }
        };
        S::mul(S::div(x, S::add(one, exp::<S>(S::sub(S::splat(0.0), u)))), up)
    }
}

/// The guard's numbers of a row of logits.
pub struct Stats<'a>(pub &'a [f32]);

/// What [`Stats`] finds.
pub struct LogitStats {
    /// No NaN, no infinity.
    pub finite: bool,
    /// Largest.
    pub max: f32,
    /// Lowest id with the largest.
    pub argmax: u32,
    /// `ln(sum(exp(x)))`.
    pub log_sum_exp: f32,
}

impl Kernel for Stats<'_> {
    type Output = LogitStats;
    #[inline(always)]
    fn run<S: Simd>(self) -> LogitStats {
        let x = self.0;
        let (whole, _) = groups(x.len());
        let finite = x.iter().fold(true, |ok, v| ok & v.is_finite());
        let max = x.iter().fold(f32::NEG_INFINITY, |m, &v| if v > m { v } else { m });
        let argmax = x.iter().position(|&v| v == max).unwrap_or(0) as u32;
        // SAFETY: inside `Isa::run`; groups lie inside the slice.
        //= F-CPU-115
        let sum = unsafe {
            let mut acc = S::splat(0.0);
            for i in (0..whole).step_by(LANES) {
                acc = S::add(acc, exp::<S>(S::sub(S::load(x.as_ptr().add(i)), S::splat(max))));
            }
            S::sum(acc)
        };
        let rest: f32 = x[whole..].iter().map(|v| (v - max).exp()).sum();
        LogitStats { finite, max, argmax, log_sum_exp: max + (sum + rest).ln() }
    }
}
