//! The kernels, and their arguments as `kernels/*.cu` declare them.

use std::sync::Arc;

use super::driver::{Device, Kernel, Module};
use super::images;
use crate::error::Result;

/// Dynamic shared memory that a kernel may ask for. Chips of 7.5 have 64 KiB, of which a kernel's own takes some.
pub(super) const SHARED: u32 = 62 << 10;
/// And as much of it as there is, up to a limit: products and the attention of one row are laid out by it.
const ONE_SHARED: u32 = 160 << 10;
pub(super) const ATTEND_ONE_SHARED: u32 = 64 << 10;

macro_rules! kernels {
    ($($name:ident $shared:expr),* $(,)?) => {
        /// All kernels of one image.
        pub(super) struct Kernels {
            $(pub $name: Kernel,)*
            /// Which image: `sm_90 by CUDA 12.9`.
            pub image: String,
            _module: Module,
        }

        impl Kernels {
            pub fn load(device: &Arc<Device>, only: Option<&str>) -> Result<Kernels> {
                let (module, image) = images::load(device, only)?;
                Ok(Kernels { $($name: module.kernel(stringify!($name), $shared)?,)* image, _module: module })
            }
        }
    };
}

kernels! {
    embed_rows 0, norm_rows SHARED, map_rows 0, rope_rows 0, attend_one ATTEND_ONE_SHARED, attend_few 0,
    attend_many 0, attend_tiles SHARED, product_one ONE_SHARED, product_gated ONE_SHARED, product_few SHARED,
    product_many SHARED, float_one 0, float_many 0, stats 0, stats_merge 0,
}

/// Arguments of kernels: plain numbers and addresses, no padding.
///
/// # Safety
/// Every byte of a value is initialised.
pub(super) unsafe trait Argument: Copy {
    /// The value as bytes.
    fn bytes(&self) -> &[u8] {
        // SAFETY: any value is as many readable, initialised bytes, which the trait promises.
        unsafe { std::slice::from_raw_parts(std::ptr::from_ref(self).cast(), size_of::<Self>()) }
    }
}

// SAFETY: plain numbers.
unsafe impl Argument for i32 {}
// SAFETY: plain numbers.
unsafe impl Argument for u64 {}

macro_rules! arguments {
    ($($(#[$doc:meta])* $name:ident [$size:literal] { $($field:ident: $type:ty),* $(,)? })*) => {
        $(
            $(#[$doc])*
            #[repr(C)]
            #[derive(Clone, Copy, Default)]
            pub(super) struct $name { $(pub $field: $type),* }
            // The fields fill the struct: no padding, and the size that the kernel expects.
            const _: () = assert!(size_of::<$name>() == $size && $size == 0 $(+ size_of::<$type>())*);
            // SAFETY: no padding, as asserted, and fields of plain numbers.
            unsafe impl Argument for $name {}
        )*
    };
}

arguments! {
    /// A row of the batch.
    Row [16] { token: u32, position: u32, table: u32, unused: u32 }
    /// What changes from step to step.
    Inputs [32] { rows: u64, tables: u64, visible: u64, wanted: u64 }
    /// Rows of one sequence that attend together.
    QueryTile [8] { first: u32, count: u32 }
    /// Quantised activations; no steps: nobody reads them.
    Acts [24] { quants: u64, meta: u64, steps: i32, unused: i32 }
    /// `embed_rows`.
    Embed [32] { table: u64, dst: u64, kind: i32, width: i32, scale: f32, unused: i32 }
    /// `norm_rows`.
    Norm [80] {
        add: u64, src: u64, dst: u64, weight: u64, bias: u64, width: i32, over: i32, layer: i32, eps: f32, acts: Acts,
    }
    /// `map_rows`.
    Map [64] { src: u64, other: u64, dst: u64, width: i32, op: i32, gather: i32, scale: f32, acts: Acts }
    /// `rope_rows`, `attend_one`.
    Rope [80] {
        q: u64, k: u64, v: u64, turns_q: u64, turns_k: u64, layer_at: u64, heads: i32, kv_heads: i32,
        head_dim: i32, pairs_q: i32, pairs_k: i32, interleaved_q: i32, interleaved_k: i32, unused: i32,
    }
    /// `attend_one`, `attend_few`, `attend_many`, `attend_tiles`.
    Attend [112] {
        q: u64, dst: u64, layer_at: u64, heads: i32, kv_heads: i32, head_dim: i32, visible: i32,
        scale: f32, softcap: f32, rows: i32, splits: i32, acts: Acts,
        sums: u64, tops: u64, arrived: u64, stride: i32, unused: i32,
    }
    /// One matrix of a product.
    Part [48] { weights: u64, bias: u64, out: u64, add: u64, rows: i32, kind: i32, first_tile: i32, run_bytes: i32 }
    /// A norm that a product does itself; no address: none.
    Before [24] { x: u64, weight: u64, eps: f32, unused: i32 }
    /// The activation of a gate.
    After [40] { dst: u64, acts: Acts, op: i32, unused: i32 }
    /// `product_one`, `product_gated`, `product_few`, `product_many`.
    Product [296] {
        parts: Parts, count: i32, steps: i32, columns: i32, unused: i32, acts: Acts, before: Before, after: After,
    }
    /// How blocks of threads of `product_one` and `product_gated` divide their work.
    Shape [16] { tiles: i32, run: i32, warps: i32, depth: i32 }
    /// `float_one`, `float_many`.
    FloatProduct [216] { parts: Parts, count: i32, cols: i32, columns: i32, unused: i32, x: u64 }
    /// What `stats_merge` gives for a row of logits.
    Stats [16] { max: f32, argmax: u32, sum: f32, finite: u32 }
}

/// The matrices of one launch.
pub(super) type Parts = [Part; 4];
