//! The CUDA backend: the arithmetic of the [`crate::cpu`] backend on an NVIDIA GPU, to the bit.
//!
//! # The numerics contract here
//!
//! Weights lie in the tiles of the CPU ([`crate::cpu::tile`]), activations are quantised by the same rule, dot products
//! of a block are exact integers, and blocks are combined in f32 in ascending order of k: by one lane per output, while
//! the others compute the next dot products. Norms, rotations, activations and the softmax are written in the CPU's
//! order with the CPU's `exp`, and nothing is contracted. Logits are therefore those of the CPU, bit for bit, for every
//! batch, every chunk and every device. Two numbers are not: the guard's log-sum-exp (a sum over the vocabulary, in
//! another fixed order), and a soft-capped score (`tanh` is the device library's).
//!
//! # What runs
//!
//! `prepare` uploads the tiles and makes a [`plan`]. A step is one upload (rows, block tables, ranges), its kernels, and
//! one download (the guard's numbers; logits where they were asked for). The kernels of a small batch are recorded once
//! as a graph. The KV cache stays on the device, in slabs of blocks of half-precision K and V.

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
