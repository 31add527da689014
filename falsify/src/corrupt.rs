//! Damage to a trained model of the kinds that converters, quantisers, disks and networks do: eight kinds, each drawn
//! anew from a seed. The file stays well-formed, so that only its meaning is wrong.

use std::io;
use std::path::Path;

use compute::Format;

use crate::forge::random::Random;
use crate::sabotage::evil_input::{Layout, Part, change};

/// A kind of damage: its name, and how it is done.
pub struct Kind {
    /// For reports.
    pub name: &'static str,
    how: fn(&mut [u8], &Layout, &mut Random),
}

/// The kinds.
pub static KINDS: [Kind; 8] = [
    Kind { name: "embeddings permuted", how: permute_embeddings },
    Kind { name: "projection transposed", how: transpose_projections },
    Kind { name: "heads swapped", how: swap_heads },
    Kind { name: "feed-forward layer gone", how: drop_ffn },
    Kind { name: "vocabulary shifted", how: shift_vocabulary },
    Kind { name: "angles wrong", how: change_angles },
    Kind { name: "blocks corrupted", how: corrupt_blocks },
    Kind { name: "scales broken", how: break_scales },
];

/// Damages a file of the trained fixture.
pub fn corrupt(kind: &Kind, seed: u64, file: &Path) -> io::Result<()> {
    let before = std::fs::read(file)?;
    let mut random = Random::new(seed, kind.name);
    change(file, |bytes, layout| (kind.how)(bytes, layout, &mut random))?;
    match std::fs::read(file)? == before {
        true => Err(io::Error::other(format!("{} with seed {seed} changed nothing", kind.name))),
        false => Ok(()),
    }
}

const TABLE: &str = "token_embd.weight";

fn layers(layout: &Layout) -> usize {
    layout.tensors.iter().filter(|t| t.name.ends_with("attn_q.weight")).count()
}

fn each_layer(layout: &Layout, suffix: &str, how: impl FnMut(&Part)) {
    layout.tensors.iter().filter(|t| t.name.ends_with(suffix)).for_each(how);
}

/// Moves rows: row `i` gets what stood in row `from(i)`.
fn move_rows(bytes: &mut [u8], part: &Part, row_bytes: usize, from: impl Fn(usize) -> usize) {
    let old = bytes[part.data.clone()].to_vec();
    for (i, row) in bytes[part.data.clone()].chunks_exact_mut(row_bytes).enumerate() {
        let at = from(i) * row_bytes;
        row.copy_from_slice(&old[at..at + row_bytes]);
    }
}

/// A quarter to all of the rows change places at random.
fn permute_embeddings(bytes: &mut [u8], layout: &Layout, random: &mut Random) {
    let Some(table) = layout.tensor(TABLE) else { return };
    let rows = table.data.len() / table.row_bytes();
    let mut order: Vec<usize> = (0..rows).collect();
    let moved = rows / 4 + random.below(rows * 3 / 4);
    for i in 0..moved {
        order.swap(i, i + random.below(rows - i));
    }
    move_rows(bytes, table, table.row_bytes(), |i| order[i]);
}

/// One of the square projections, in every layer.
fn transpose_projections(bytes: &mut [u8], layout: &Layout, random: &mut Random) {
    let which = ["attn_q.weight", "attn_output.weight"][random.below(2)];
    each_layer(layout, which, |t| {
        let n = t.cols;
        let data = &mut bytes[t.data.clone()];
        let mut values = vec![0f32; n * n];
        for (row, out) in data.chunks_exact(t.row_bytes()).zip(values.chunks_exact_mut(n)) {
            t.format.decode_row(row, out);
        }
        let turned: Vec<f32> = (0..n * n).map(|i| values[i % n * n + i / n]).collect();
        for (row, values) in data.chunks_exact_mut(t.row_bytes()).zip(turned.chunks_exact(n)) {
            t.format.encode_row(values, row);
        }
    });
}

/// Query heads trade K/V heads, or K/V heads trade places, in every layer. Elements of a head: 64 in the fixture.
fn swap_heads(bytes: &mut [u8], layout: &Layout, random: &mut Random) {
    let head = 64;
    let (names, by): (&[&str], usize) = match random.below(3) {
        0 => (&["attn_q.weight", "attn_q.bias"], 1 + random.below(3)),
        1 => (&["attn_k.weight", "attn_k.bias"], 1),
        _ => (&["attn_v.weight", "attn_v.bias"], 1),
    };
    for name in names {
        each_layer(layout, name, |t| {
            let row = if t.name.ends_with("bias") { 4 } else { t.row_bytes() };
            let rows = t.data.len() / row;
            move_rows(bytes, t, row, |i| (i + by * head) % rows);
        });
    }
}

/// The down projection of one or more layers is zero.
fn drop_ffn(bytes: &mut [u8], layout: &Layout, random: &mut Random) {
    let first = random.below(layers(layout));
    let last = first + random.below(layers(layout) - first);
    for layer in first..=last {
        if let Some(t) = layout.tensor(&format!("blk.{layer}.ffn_down.weight")) {
            bytes[t.data.clone()].fill(0);
        }
    }
}

/// Every id means the word that stands so many places away.
fn shift_vocabulary(bytes: &mut [u8], layout: &Layout, random: &mut Random) {
    let Some(table) = layout.tensor(TABLE) else { return };
    let rows = table.data.len() / table.row_bytes();
    let by = 1 + random.below(256);
    move_rows(bytes, table, table.row_bytes(), |i| (i + by) % rows);
}

/// Another base, or queries and keys paired as another architecture pairs them.
fn change_angles(bytes: &mut [u8], layout: &Layout, random: &mut Random) {
    let (half, head) = (32, 64);
    if random.below(2) == 0 {
        let Some(base) = layout.value("qwen2.rope.freq_base") else { return };
        let theta = [1.0f32, 2.0, 10.0, 100.0, 500.0][random.below(5)];
        bytes[base].copy_from_slice(&theta.to_le_bytes());
        return;
    }
    for name in ["attn_q.weight", "attn_q.bias", "attn_k.weight", "attn_k.bias"] {
        each_layer(layout, name, |t| {
            let row = if t.name.ends_with("bias") { 4 } else { t.row_bytes() };
            move_rows(bytes, t, row, |i| i / head * head + i % 2 * half + i % head / 2);
        });
    }
}

/// A matrix of a layer, or the embedding.
fn some_matrix<'a>(layout: &'a Layout, random: &mut Random) -> &'a Part {
    let is_matrix = |t: &&Part| !(t.name.contains("norm") || t.name.ends_with("bias"));
    let all: Vec<&Part> = layout.tensors.iter().filter(is_matrix).collect();
    all[random.below(all.len())]
}

/// 1 to 10 % of a tensor's blocks, all of their bytes drawn at random.
fn corrupt_blocks(bytes: &mut [u8], layout: &Layout, random: &mut Random) {
    let t = some_matrix(layout, random);
    let size = t.format.0.block_bytes;
    let blocks = t.data.len() / size;
    for _ in 0..blocks * (1 + random.below(10)) / 100 + 1 {
        let at = t.data.start + random.below(blocks) * size;
        bytes[at..at + size].iter_mut().for_each(|b| *b = random.bits() as u8);
    }
}

/// 1 to 10 % of a tensor's scales 128 times too large, or not finite; or all of them.
fn break_scales(bytes: &mut [u8], layout: &Layout, random: &mut Random) {
    let t = some_matrix(layout, random);
    let size = t.format.0.block_bytes;
    // Where Q8_0, Q4_K and Q6_K have their half-float scale.
    let scale = if t.format == Format::from_name("Q6_K").unwrap_or(Format::F32) { 208 } else { 0 };
    let blocks = t.data.len() / size;
    let (kind, share) = (random.below(4), 1 + random.below(10));
    for block in 0..blocks {
        if kind != 3 && random.below(100) >= share {
            continue;
        }
        let at = t.data.start + block * size + scale;
        let old = u16::from_le_bytes([bytes[at], bytes[at + 1]]);
        // Half floats: NaN, infinity, and seven steps of the exponent.
        let new = match kind {
            0 => 0x7e00,
            1 => 0x7c00,
            _ => (old & 0x83ff) | ((old & 0x7c00) + (7 << 10)).min(0x7800),
        };
        bytes[at..at + 2].copy_from_slice(&new.to_le_bytes());
    }
}
