//! What a runner keeps on the device beside the KV cache: weights, and the buffers of a step.

use std::sync::Arc;

use super::driver::{Device, Memory, Pinned};
use super::plan::{Node, Plan, Work, is_packed};
use crate::cpu::tile;
use crate::error::Result;
use crate::program::{Op, Program, WeightId};

/// Columns in a panel of activations.
pub(super) const PANEL: usize = 8;
/// Weights in a step of a tile.
pub(super) const STEP: usize = 32;
/// Bytes of what is known of a block of activations.
pub(super) const ACT_META: usize = 16;
/// Weights on the device, by weight id. One allocation holds them all.
pub(super) struct Weights {
    pub memory: Memory,
    /// Of matrices and embedding tables.
    pub matrices: Vec<Option<u64>>,
    /// Of norm weights and biases, as f32.
    pub vectors: Vec<Option<u64>>,
}

/// Memory that depends on how many rows there are.
pub(super) struct Room {
    pub rows: usize,
    pub wanted: usize,
    /// By buffer id: `[rows, width]`.
    pub buffers: Vec<Memory>,
    /// By buffer id: quants and their scales, if a product reads the buffer.
    pub acts: Vec<Option<[Memory; 2]>>,
    /// Rows that want logits: `[wanted, width]`, quantised or not, and what comes of them.
    pub head: Memory,
    pub head_acts: Option<[Memory; 2]>,
    pub logits: Memory,
    pub pieces: Memory,
    /// `[wanted]` of the guard's numbers, where the host reads them.
    pub stats: Pinned,
}

/// Where blocks of threads that share one head leave what they have.
pub(super) struct Splits {
    pub rows: usize,
    /// Groups of blocks of the cache that one head may see.
    pub stride: usize,
    /// `[rows, heads, stride, head_dim]`: sums of each group.
    pub sums: Memory,
    /// `[rows, heads, stride]`: largest score and sum of exponentials.
    pub tops: Memory,
    /// `[rows, heads]`: who is done.
    pub arrived: Memory,
}

impl Splits {
    pub fn new(device: &Arc<Device>, program: &Program, rows: usize, stride: usize) -> Result<Splits> {
        let shape = |op: &Op| match op {
            Op::Attend { heads, layer, .. } => Some((*heads, program.kv[*layer].head_dim)),
            _ => None,
        };
        let shapes = || program.steps.iter().filter_map(|s| shape(&s.op));
        let (heads, wide) = (shapes().map(|s| s.0).max().unwrap_or(0), shapes().map(|s| s.0 * s.1).max().unwrap_or(0));
        let what = "sums of attention";
        Ok(Splits {
            rows,
            stride,
            sums: device.zeroed(4 * rows * stride * wide, what)?,
            tops: device.zeroed(8 * rows * stride * heads, what)?,
            arrived: device.zeroed(4 * rows * heads, what)?,
        })
    }
}

/// Decodes vectors, repacks matrices, and puts all of them into one allocation.
pub(super) fn upload(device: &Arc<Device>, program: &Program) -> Result<Weights> {
    /// What becomes of a weight.
    #[derive(Clone, Copy, PartialEq)]
    enum Role {
        Unused,
        Matrix,
        Vector(f32),
    }
    let mut roles = vec![Role::Unused; program.weights.len()];
    for step in &program.steps {
        let mut vector = |id: Option<WeightId>, offset: f32| {
            if let Some(id) = id {
                roles[id.0 as usize] = Role::Vector(offset);
            }
        };
        match step.op {
            Op::Norm { weight, bias, offset, .. } => {
                vector(weight, offset);
                vector(bias, 0.0);
            }
            Op::MatMul { bias, weight, .. } => {
                vector(bias, 0.0);
                roles[weight.0 as usize] = Role::Matrix;
            }
            Op::Embed { table: w, .. } | Op::Logits { weight: w, .. } => roles[w.0 as usize] = Role::Matrix,
            _ => {}
        }
    }
    let mut total = 0usize;
    let mut places = Vec::new();
    for (w, role) in program.weights.iter().zip(&roles) {
        places.push(total as u64);
        let bytes = match role {
            Role::Unused => 0,
            Role::Vector(_) => 4 * w.rows * w.cols,
            Role::Matrix => tile::packed_bytes(w.format.0, w.rows, w.cols).unwrap_or(w.bytes.len()),
        };
        total += bytes.next_multiple_of(256);
    }
    //= F-GPU-137
    let memory = device.zeroed(total, "the weights")?;
    let mut weights = Weights { matrices: vec![None; roles.len()], vectors: vec![None; roles.len()], memory };
    let mut packed = Vec::new();
    for (i, (w, role)) in program.weights.iter().zip(&roles).enumerate() {
        let address = weights.memory.address() + places[i];
        match role {
            Role::Unused => {}
            Role::Vector(offset) => {
                let values: Vec<u8> = w.to_f32().iter().flat_map(|x| (x + offset).to_le_bytes()).collect();
                weights.memory.write(places[i] as usize, &values)?;
                weights.vectors[i] = Some(address);
            }
            Role::Matrix => {
                match tile::packed_bytes(w.format.0, w.rows, w.cols) {
                    None => weights.memory.write(places[i] as usize, &w.bytes)?,
                    Some(bytes) => {
                        packed.resize(bytes, 0);
                        tile::pack(w.format.0, &w.bytes, w.rows, w.cols, &mut packed);
                        weights.memory.write(places[i] as usize, &packed)?;
                    }
                }
                w.bytes.release_pages();
                weights.matrices[i] = Some(address);
            }
        }
    }
    Ok(weights)
}

/// Whether a product reads the buffer quantised.
fn is_quantised(plan: &Plan, buffer: usize) -> bool {
    plan.nodes.iter().any(|n| matches!(n.work, Work::Product { src, packed: true, .. } if src == buffer))
}

/// Quants and scales of `[columns, width]` activations.
pub(super) fn acts_for(device: &Arc<Device>, columns: usize, width: usize) -> Result<[Memory; 2]> {
    let blocks = columns.next_multiple_of(PANEL) * (width / STEP);
    Ok([device.zeroed(blocks * STEP, "activations")?, device.zeroed(blocks * ACT_META, "activations")?])
}

impl Room {
    /// Bytes of buffers and activations for each row.
    pub fn row_bytes(program: &Program, plan: &Plan) -> usize {
        let acts = |id: usize, width: usize| if is_quantised(plan, id) { width / STEP * (STEP + ACT_META) } else { 0 };
        program.buffers.iter().enumerate().map(|(id, &width)| 4 * width + acts(id, width)).sum()
    }

    pub fn new(device: &Arc<Device>, program: &Program, plan: &Plan, rows: usize, wanted: usize) -> Result<Room> {
        let acts =
            |(id, &width): (usize, &usize)| is_quantised(plan, id).then(|| acts_for(device, rows, width)).transpose();
        let acts = program.buffers.iter().enumerate().map(acts).collect::<Result<_>>()?;
        let (mut hidden, mut vocab, mut head_acts) = (0, 0, None);
        if let Some(Node { work: Work::Logits { src, weight, .. }, .. }) = plan.nodes.last() {
            (hidden, vocab) = (program.buffers[*src], program.w(*weight).rows);
            if is_packed(program, *weight) {
                head_acts = Some(acts_for(device, wanted, hidden)?);
            }
        }
        let buffer = |rows: usize, width: usize| device.zeroed(4 * rows * width, "buffers of a step");
        Ok(Room {
            rows,
            wanted,
            buffers: program.buffers.iter().map(|&w| buffer(rows, w)).collect::<Result<_>>()?,
            acts,
            head: buffer(wanted, hidden)?,
            head_acts,
            logits: buffer(wanted, vocab)?,
            pieces: device.zeroed(16 * wanted * stats_pieces(vocab), "statistics")?,
            stats: Pinned::new(device, 16 * wanted)?,
        })
    }
}

/// Blocks of threads that look at one row of logits.
pub(super) fn stats_pieces(vocab: usize) -> usize {
    vocab.div_ceil(2048).clamp(1, 128)
}
