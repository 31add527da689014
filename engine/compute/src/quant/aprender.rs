//! The INT4 and INT8 of `.apr` files, and K-quants whose rows were padded: numbers that are not whole blocks row by row.
//!
//! They are no [`Format`] of their own. A file that holds them is turned, when it is opened, into a format that has
//! exactly the same values: INT4 becomes Q4_0 where rows are whole blocks (the same scale and the same nibbles in
//! another order), everything else F32. Layouts are those of the crate `apr-format` 0.72 (`add_q4_tensor`,
//! `add_q8_tensor`) and of aprender-quant's `quantize_q4_k_matrix`.

use super::{Format, f16_at};

/// Weights of an INT4 block.
pub const INT4_BLOCK: usize = 32;
/// Bytes of an INT4 block: an f16 scale, then byte i with weight 2i in the low nibble and 2i + 1 in the high one.
pub const INT4_BYTES: usize = 18;

/// Bytes of `n` weights in INT4: blocks of the flattened tensor, the last one filled up.
pub fn int4_bytes(n: usize) -> Option<usize> {
    n.div_ceil(INT4_BLOCK).checked_mul(INT4_BYTES)
}

/// Bytes of `n` weights in INT8: one f32 scale for all of them, then as many i8.
pub fn int8_bytes(n: usize) -> Option<usize> {
    n.checked_add(4)
}

/// INT4 blocks as Q4_0 blocks of the same values: the scale stays, the nibbles change places.
pub fn int4_to_q4_0(blocks: &[u8]) -> Vec<u8> {
    rearranged(blocks, |from, to| {
        for i in 0..16 {
            // Q4_0 has weight i low and weight i + 16 high in byte i.
            to[i] = nibble(from, i) | nibble(from, i + 16) << 4;
        }
    })
}

/// Q4_0 blocks as INT4 blocks of the same values.
pub fn q4_0_to_int4(blocks: &[u8]) -> Vec<u8> {
    rearranged(blocks, |from, to| {
        let weight = |i: usize| if i < 16 { from[i] & 15 } else { from[i - 16] >> 4 };
        for i in 0..16 {
            to[i] = weight(2 * i) | weight(2 * i + 1) << 4;
        }
    })
}

fn rearranged(blocks: &[u8], nibbles: impl Fn(&[u8], &mut [u8])) -> Vec<u8> {
    let mut out = blocks.to_vec();
    for (from, to) in blocks.chunks_exact(INT4_BYTES).zip(out.chunks_exact_mut(INT4_BYTES)) {
        nibbles(&from[2..], &mut to[2..]);
    }
    out
}

/// Weight `i` of an INT4 block without its scale.
fn nibble(b: &[u8], i: usize) -> u8 {
    b[i / 2] >> (4 * (i % 2)) & 15
}

/// `n` INT4 weights: `scale * (q - 8)`, exact in f32.
pub fn decode_int4(blocks: &[u8], n: usize) -> Vec<f32> {
    let weights = blocks.chunks_exact(INT4_BYTES).flat_map(|b| {
        let scale = f16_at(b, 0);
        (0..INT4_BLOCK).map(move |i| scale * (f32::from(nibble(&b[2..], i)) - 8.0))
    });
    weights.take(n).collect()
}

/// INT8 weights: `scale * q`, rounded once to f32, which is their definition.
pub fn decode_int8(bytes: &[u8]) -> Vec<f32> {
    let Some((scale, weights)) = bytes.split_first_chunk::<4>() else { return Vec::new() };
    let scale = f32::from_le_bytes(*scale);
    weights.iter().map(|&q| scale * f32::from(q as i8)).collect()
}

/// Rows of `cols` weights, each of which was filled up to whole blocks of `format`; the filling is dropped.
pub fn decode_padded_rows(format: Format, bytes: &[u8], cols: usize) -> Vec<f32> {
    let padded = cols.next_multiple_of(format.0.block_len);
    let row_bytes = padded / format.0.block_len * format.0.block_bytes;
    let mut row = vec![0.0; padded];
    let mut out = Vec::with_capacity(bytes.len() / row_bytes * cols);
    for coded in bytes.chunks_exact(row_bytes) {
        format.decode_row(coded, &mut row);
        out.extend_from_slice(&row[..cols]);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Blocks of every nibble, with scales at the edges of f16.
    fn blocks() -> Vec<u8> {
        let scales = [0x3c00u16, 0x0001, 0x7bff, 0x8400, 0x2e66];
        let block = |(i, scale): (usize, &u16)| {
            let nibbles = (0..16u8).map(move |b| b.wrapping_mul(37).wrapping_add(i as u8 * 11));
            scale.to_le_bytes().into_iter().chain(nibbles).collect::<Vec<u8>>()
        };
        scales.iter().enumerate().flat_map(block).collect()
    }

    #[test]
    fn int4_and_q4_0_have_the_same_values_and_go_back() {
        let int4 = blocks();
        let n = int4.len() / INT4_BYTES * INT4_BLOCK;
        let q4_0 = int4_to_q4_0(&int4);
        assert_ne!(q4_0, int4);
        assert_eq!(q4_0_to_int4(&q4_0), int4);
        let mut values = vec![0.0; n];
        Format::from_name("Q4_0").unwrap().decode_row(&q4_0, &mut values);
        assert_eq!(values, decode_int4(&int4, n));
        assert_eq!(decode_int4(&int4, n - 3), values[..n - 3]);
    }

    #[test]
    fn values_are_those_of_the_layout() {
        // scale 1, weights -8, -7, .. : 0x10 is 0 low and 1 high.
        let int4: Vec<u8> = [0, 0x3c].into_iter().chain((0..16).map(|i| i % 8 * 0x22 + 0x10)).collect();
        assert_eq!(decode_int4(&int4, 5), [-8.0, -7.0, -6.0, -5.0, -4.0]);
        let int8 = [&0.5f32.to_le_bytes()[..], &[0x80, 0x7f, 0, 0xff]].concat();
        assert_eq!(decode_int8(&int8), [-64.0, 63.5, 0.0, -0.5]);
        assert_eq!((int4_bytes(33), int8_bytes(33), int8_bytes(usize::MAX)), (Some(36), Some(37), None));
    }

    #[test]
    fn the_filling_of_padded_rows_is_dropped() {
        let q8_0 = Format::from_name("Q8_0").unwrap();
        let mut bytes = vec![0; 2 * 34];
        let row = |sign: f32| (0..32).map(|i| sign * i as f32).collect::<Vec<f32>>();
        q8_0.encode_row(&row(1.0), &mut bytes[..34]);
        q8_0.encode_row(&row(-1.0), &mut bytes[34..]);
        let values = decode_padded_rows(q8_0, &bytes, 30);
        assert_eq!(values.len(), 60);
        assert!((values[29] - 29.0).abs() < 0.2 && (values[30] - 0.0).abs() < 0.2 && (values[59] + 29.0).abs() < 0.2);
    }
}
