//! Which instruction set runs: values that exist only where the processor has it, and the one dispatch point.

use super::simd::scalar::Scalar;
use super::simd::{Kernel, Simd};

#[cfg(target_arch = "aarch64")]
use super::simd::neon::Neon;
#[cfg(target_arch = "x86_64")]
use super::simd::{avx2::Avx2, avx512::Avx512};

/// An instruction set that this processor has. There is no way to make one that it has not: the field is private,
/// and the constructors look.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Isa(Level);

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Level {
    Scalar,
    #[cfg(target_arch = "x86_64")]
    Avx2,
    #[cfg(target_arch = "x86_64")]
    Avx512,
    #[cfg(target_arch = "aarch64")]
    Neon,
}

impl Isa {
    /// No instruction set beyond the compiler's baseline. Every processor has it.
    pub const SCALAR: Isa = Isa(Level::Scalar); //= F-CPU-094

    /// Names that [`Isa::from_name`] knows on this architecture, fastest first.
    pub const NAMES: &'static [&'static str] = if cfg!(target_arch = "x86_64") {
        &["avx512", "avx2", "scalar"]
    } else if cfg!(target_arch = "aarch64") {
        &["neon", "scalar"]
    } else {
        &["scalar"]
    };

    /// The fastest that this processor has.
    pub fn detect() -> Isa {
        Isa::available()[0]
    }

    /// All that this processor has, fastest first.
    pub fn available() -> Vec<Isa> {
        Isa::NAMES.iter().filter_map(|n| Isa::from_name(n)).collect()
    }

    /// By name; `None` if the name is unknown or the processor lacks it.
    pub fn from_name(name: &str) -> Option<Isa> {
        match name {
            "scalar" => Some(Isa::SCALAR),
            #[cfg(target_arch = "x86_64")]
            "avx2" => {
                let has = is_x86_feature_detected!("avx2")
                    && is_x86_feature_detected!("fma")
                    && is_x86_feature_detected!("f16c");
                has.then_some(Isa(Level::Avx2)) //= F-CPU-091
            }
            #[cfg(target_arch = "x86_64")]
            "avx512" => {
                let has = is_x86_feature_detected!("avx512f")
                    && is_x86_feature_detected!("avx512bw")
                    && is_x86_feature_detected!("avx512vl")
                    && is_x86_feature_detected!("avx512dq")
                    && is_x86_feature_detected!("avx512vnni");
                has.then_some(Isa(Level::Avx512)) //= F-CPU-092
            }
            #[cfg(target_arch = "aarch64")]
            "neon" => Some(Isa(Level::Neon)), //= F-CPU-093
            _ => None,
        }
    }

    /// One of [`Isa::NAMES`].
    pub fn name(self) -> &'static str {
        match self.0 {
            Level::Scalar => Scalar::NAME,
            #[cfg(target_arch = "x86_64")]
            Level::Avx2 => Avx2::NAME,
            #[cfg(target_arch = "x86_64")]
            Level::Avx512 => Avx512::NAME,
            #[cfg(target_arch = "aarch64")]
            Level::Neon => Neon::NAME,
        }
    }

    /// Activation columns that one pass over a matrix serves.
    pub fn columns(self) -> usize {
        match self.0 {
            Level::Scalar => Scalar::COLUMNS,
            #[cfg(target_arch = "x86_64")]
            Level::Avx2 => Avx2::COLUMNS,
            #[cfg(target_arch = "x86_64")]
            Level::Avx512 => Avx512::COLUMNS,
            #[cfg(target_arch = "aarch64")]
            Level::Neon => Neon::COLUMNS,
        }
    }

    /// Runs a kernel at this level. The one dispatch point.
    #[inline]
    pub fn run<K: Kernel>(self, kernel: K) -> K::Output {
        match self.0 {
            Level::Scalar => kernel.run::<Scalar>(),
            #[cfg(target_arch = "x86_64")]
            // SAFETY: a value with this level exists only if `from_name` found all features that `avx2` enables.
            Level::Avx2 => unsafe { avx2(kernel) },
            #[cfg(target_arch = "x86_64")]
            // SAFETY: likewise for `avx512`.
            Level::Avx512 => unsafe { avx512(kernel) },
            #[cfg(target_arch = "aarch64")]
            Level::Neon => kernel.run::<Neon>(), // part of the base architecture
        }
    }
}

/// Asks for bytes to be brought into the second-level cache.
#[inline]
pub fn fetch(bytes: &[u8]) {
    #[cfg(target_arch = "x86_64")]
    for line in bytes.chunks(64) {
        // SAFETY: a hint; it changes no value and cannot fault, and every x86-64 processor has it.
        unsafe { std::arch::x86_64::_mm_prefetch::<{ std::arch::x86_64::_MM_HINT_T1 }>(line.as_ptr().cast()) }
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = bytes;
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma,f16c")]
fn avx2<K: Kernel>(kernel: K) -> K::Output {
    kernel.run::<Avx2>()
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
fn avx512<K: Kernel>(kernel: K) -> K::Output {
    kernel.run::<Avx512>()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unknown_names_and_absent_sets_are_refused() {
        assert_eq!(Isa::from_name("sse9"), None);
        assert!(Isa::available().contains(&Isa::SCALAR));
        for isa in Isa::available() {
            assert_eq!(Isa::from_name(isa.name()), Some(isa));
        }
    }
}
