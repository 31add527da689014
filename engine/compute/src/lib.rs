//! Numbers for the `apr` engine: number formats, the vocabulary of programs, and the backends that run them.
//!
//! This is floor 0. It knows no model, no file format and no user: `engine` builds values of the vocabulary in
//! [`program`] and [`backend`], and reads [`backend::Output`]. Layers and stages are opaque [`program::Tag`]s here.
//!
//! All `unsafe` code of the project lives in this crate, in the files that `falsify tidy` lists. The rules are:
//! a kernel takes slices and checks their lengths once, at its safe door; an instruction set is reached only through
//! [`cpu::isa::Isa`], whose values exist only where the processor has it; every `unsafe` block says why it is sound.
//!
//! # The numerics contract
//!
//! *One matmul arithmetic per format.* Activations are quantised to int8 in blocks of 32; the dot product within a
//! block is exact in integers; blocks are combined in f32 in ascending order of k, in runs of 256. Vectors put output
//! rows into lanes, so nothing is ever reduced across lanes in an order that depends on the vector width. Single-token decode,
//! batched prefill, every thread count and every instruction set give the same bits, and so does a GPU. [`cpu`] and
//! [`cuda`] state the details.

pub mod backend;
pub mod cpu;
pub mod cuda;
pub mod error;
pub mod heap;
pub mod map;
pub mod plain;
pub mod program;
pub mod quant;

pub use backend::{Backend, Batch, Interest, Output, Row, RowOutput, Runner, Tap, Want};
pub use error::{Error, Result};
pub use map::Bytes;
pub use program::{BufferId, Op, Program, Tag, WeightId, WeightRef};
pub use quant::Format;
