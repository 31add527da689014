//! The CUDA backend: the arithmetic of the [`crate::cpu`] backend on an NVIDIA GPU, to the bit.
//!
//! # The numerics contract here
//!
//! Weights lie in the tiles of the CPU ([`crate::cpu::tile`]), activations are quantised by the same rule, dot products
//! of a block are exact integers, and blocks are combined in f32 in ascending order of k within runs of 256, which a
//! thread has each. Norms, rotations, activations and the softmax are written in the CPU's
//! order with the CPU's `exp`, and nothing is contracted. Logits are therefore those of the CPU, bit for bit, for every
//! batch, every chunk and every device. Two numbers are not: the guard's log-sum-exp (a sum over the vocabulary, in
//! another fixed order), and a soft-capped score (`tanh` is the device library's).
//!
//! # What runs
//!
//! `prepare` uploads the tiles and makes a [`plan`]. A step is one upload (rows, block tables, ranges), its kernels, and
//! one download (the guard's numbers; logits where they were asked for). The kernels of a small batch are recorded once
//! as a graph. The KV cache stays on the device, in slabs of blocks of half-precision K and V.
//!
//! A single row takes five kernels a layer: a product norms its input itself where nobody else reads it, adds its result
//! to the residual, and turns a gate into activations for the next product; attention rotates and appends. Attention over
//! a long context is shared out over blocks of threads, and the last of them puts their sums together in order. Every
//! kernel lets the next start at once: that one reads weights and what earlier steps left in the cache, and then waits.
//!
//! Several rows go through the tensor cores: exact sums of 8-bit products, which are turned into the float with the same
//! value by adding them to 1.5 * 2^23. Up to where they fill the device, warps share the runs of a tile of weights; more
//! rows share the weights that a warp has unpacked, and read activations from shared memory, a run ahead. Rows of one
//! sequence attend in tiles of 32, which read a block of the cache once.
//!
//! Tried on one H100 and dropped: asking for later weights by bulk prefetches into the second level cache (7 % slower: a
//! kernel seems not to end before they do); tensor cores for a single row with one warp adding up (11 us a kernel);
//! blocks of 640 threads, so that all runs of a long row are read at once (faster alone, slower in a graph: the next
//! kernel finds no registers).

pub mod driver;
mod images;
mod kernels;
mod plan;
mod runner;
mod storage;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use crate::backend::{Backend, Interest, Runner};
use crate::error::Result;
use crate::program::Program;
pub use driver::Absent;
use driver::Device;
use kernels::Kernels;

/// The backend: one device with the kernels loaded.
#[derive(Clone)]
pub struct Cuda {
    device: Arc<Device>,
    kernels: Arc<Kernels>,
}

impl Cuda {
    /// The first device, or why there is none.
    pub fn detect() -> std::result::Result<Cuda, Absent> {
        Cuda::with_image(None)
    }

    /// The first device with one particular image of the kernels, `ptx_70` for example: what the driver makes of it.
    pub fn with_image(only: Option<&str>) -> std::result::Result<Cuda, Absent> {
        let device = Device::open(0)?;
        let kernels = Kernels::load(&device, only).map_err(|e| Absent::Broken(e.to_string()))?;
        Ok(Cuda { device, kernels: Arc::new(kernels) })
    }

    /// Device, driver and image, for people.
    pub fn describe(&self) -> String {
        let d = &self.device;
        let (major, minor) = (d.driver / 1000, d.driver % 1000 / 10);
        format!("cuda ({}, {}, driver CUDA {major}.{minor})", d.name, self.kernels.image)
    }

    /// Free and total bytes of the device.
    pub fn memory(&self) -> Result<(usize, usize)> {
        self.device.enter()?;
        self.device.memory()
    }
}

//= F-GPU-132 F-GPU-133
impl Backend for Cuda {
    fn name(&self) -> &'static str {
        "cuda"
    }

    fn prepare(&self, program: &Program, interest: &Interest) -> Result<Box<dyn Runner>> {
        program.validate()?;
        self.device.enter()?;
        Ok(Box::new(runner::CudaRunner::new(self, program, interest)?))
    }
}
