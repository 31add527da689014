//! Compressed files: the header as it is, then everything else as one LZ4 block behind its size, or as one Zstandard
//! frame. Offsets in the header are those of the file as it was before.
//!
//! This is what realizar reads. (apr-format has a flag for LZ4 and compresses nothing; such files are told apart by the
//! `{` of their metadata.) The checksum at the end, if there is one, is compressed with the rest and sums the file as
//! it was before. Both decoders are readers, so that nothing grows beyond what the index accounts for.

use std::io::{self, Read};

use ruzstd::decoding::{FrameDecoder, StreamingDecoder};

use super::header::{BYTES, Header, flag};
use super::index;
use crate::error::{Error, Kind, Place, Result};
use crate::limits;

/// The file as it was before compression, or `None` if it is not compressed. The index says how long it has to be, and
/// that is compared with what may be (`limits::COMPRESSION_RATIO_MAX`) before memory is asked for.
//= F-APR-067
pub fn inflated(header: &Header, bytes: &[u8]) -> Result<Option<Vec<u8>>> {
    if !is_compressed(header, bytes.get(header.metadata.clone())) {
        return Ok(None);
    }
    let stored = &bytes[BYTES..];
    let mut reader = decoder(header, stored)?;
    let mut image = bytes[..BYTES].to_vec();
    let may = (stored.len() as u64).saturating_mul(limits::COMPRESSION_RATIO_MAX) + BYTES as u64;
    let mut up_to = |image: &mut Vec<u8>, end: u64| -> Result<()> {
        if end > may {
            let what = format!(
                "{} compressed bytes cannot be {end}: that is more than {} times as much, the limit of this build",
                stored.len(),
                limits::COMPRESSION_RATIO_MAX
            );
            return Err(Error::new(Kind::TooLarge, what).at(Place::Byte(BYTES as u64)));
        }
        let missing = end.saturating_sub(image.len() as u64);
        (&mut reader).take(missing).read_to_end(image).map_err(|e| damaged(&e))?;
        Ok(())
    };
    up_to(&mut image, header.data as u64)?;
    if image.len() < header.data {
        return Err(Error::malformed("the compressed data ends before the tensors").at(Place::Byte(bytes.len() as u64)));
    }
    let entries = index::parse(&image[header.index..header.data], header.index, header.tensors)?;
    // A checksum may follow, and one byte more would be too many.
    let end = super::extent(header, &entries)?.padded.saturating_add(super::FOOTER as u64 + 1);
    up_to(&mut image, end)?;
    Ok(Some(image))
}

/// Whether what follows the header is compressed, and not merely said to be: `plain` is what stands where the metadata
/// is in a file that is not.
pub fn is_compressed(header: &Header, plain: Option<&[u8]>) -> bool {
    let object = plain.is_some_and(|bytes| bytes.starts_with(b"{\"") && bytes.ends_with(b"}"));
    (header.has(flag::LZ4) || header.has(flag::ZSTD)) && !object
}

/// A reader of what `stored` was before.
pub fn decoder<'a, R: Read + 'a>(header: &Header, stored: R) -> Result<Box<dyn Read + 'a>> {
    if header.has(flag::LZ4) {
        return Ok(Box::new(Lz4::new(stored)));
    }
    let mut frames = FrameDecoder::new();
    frames.set_max_window_size(limits::COMPRESSION_WINDOW_MAX);
    match StreamingDecoder::new_with_decoder(stored, frames) {
        Ok(frame) => Ok(Box::new(Zstd { frame })),
        Err(e) => Err(damaged(&e)),
    }
}

/// A Zstandard frame whose own checksum, if it has one, is compared at its end.
struct Zstd<R: Read> {
    frame: StreamingDecoder<R, FrameDecoder>,
}

impl<R: Read> Read for Zstd<R> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let n = self.frame.read(out)?;
        if n == 0 && !out.is_empty() {
            let frame = &self.frame.decoder;
            if frame.get_checksum_from_data().is_some_and(|stated| Some(stated) != frame.get_calculated_checksum()) {
                return Err(invalid("the checksum of the Zstandard frame is wrong"));
            }
        }
        Ok(n)
    }
}

pub(super) fn damaged(e: &dyn std::fmt::Display) -> Error {
    let text = e.to_string();
    // What some of these errors print is Rust's and not for people.
    let text = if text.contains(['{', '"']) { "it is no frame" } else { &text };
    let text: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(160).collect();
    Error::malformed(format!("the compressed data is damaged: {text}")).at(Place::Byte(BYTES as u64))
}

/// An LZ4 block behind its size, decoded as it is read. A block is a chain of sequences: literals, then a piece of what
/// came out before, at most 64 KiB back.
struct Lz4<R> {
    stored: R,
    /// Bytes that are still to come out, once the size was read.
    left: Option<u64>,
    /// What came out lately, from which matches are copied; `given` of it has been handed out.
    window: Vec<u8>,
    given: usize,
    state: State,
}

/// Where in a sequence the decoder stands.
#[derive(Clone, Copy)]
enum State {
    Token,
    Literals { left: u64, match_len: u8 },
    Match { left: u64, offset: usize },
}

/// How far back a match may reach.
const REACH: usize = 1 << 16;
/// Bytes that are decoded at once.
const STEP: usize = 1 << 16;

impl<R: Read> Lz4<R> {
    fn new(stored: R) -> Lz4<R> {
        Lz4 { stored, left: None, window: Vec::new(), given: 0, state: State::Token }
    }

    fn byte(&mut self) -> io::Result<u8> {
        let mut byte = [0];
        self.stored.read_exact(&mut byte)?;
        Ok(byte[0])
    }

    /// A length of four bits, continued in bytes for as long as they are 255.
    fn length(&mut self, nibble: u8) -> io::Result<u64> {
        let mut len = u64::from(nibble);
        if nibble == 15 {
            loop {
                let more = self.byte()?;
                len = len.saturating_add(more.into());
                if more != 255 {
                    break;
                }
            }
        }
        Ok(len)
    }

    /// Decodes until something can be handed out or nothing is left.
    fn fill(&mut self) -> io::Result<()> {
        let mut left = match self.left {
            Some(left) => left,
            None => {
                let mut size = [0; 4];
                self.stored.read_exact(&mut size)?;
                u32::from_le_bytes(size).into()
            }
        };
        if self.window.len() >= REACH + STEP {
            self.window.drain(..self.window.len() - REACH);
        }
        self.given = self.window.len();
        while left > 0 && self.given == self.window.len() {
            left -= self.sequence(left)?;
        }
        self.left = Some(left);
        Ok(())
    }

    /// One step of a sequence; gives the bytes that came out, at most `left`.
    fn sequence(&mut self, left: u64) -> io::Result<u64> {
        let before = self.window.len();
        self.state = match self.state {
            State::Token => {
                let token = self.byte()?;
                State::Literals { left: self.length(token >> 4)?, match_len: token & 15 }
            }
            State::Literals { left: 0, match_len } => {
                let offset = usize::from(u16::from_le_bytes([self.byte()?, self.byte()?]));
                if offset == 0 || offset > self.window.len() {
                    return Err(invalid("a match reaches back before the start"));
                }
                State::Match { left: self.length(match_len)?.saturating_add(4), offset }
            }
            State::Literals { left: n, match_len } => {
                let now = n.min(STEP as u64);
                if n > left {
                    return Err(invalid("more comes out than was announced"));
                }
                let got = (&mut self.stored).take(now).read_to_end(&mut self.window)?;
                if (got as u64) < now {
                    return Err(io::ErrorKind::UnexpectedEof.into());
                }
                State::Literals { left: n - now, match_len }
            }
            State::Match { left: 0, .. } => State::Token,
            State::Match { left: n, offset } => {
                if n > left {
                    return Err(invalid("more comes out than was announced"));
                }
                let now = n.min(STEP as u64);
                for _ in 0..now {
                    // It may overlap what it makes: that is how runs are written.
                    self.window.push(self.window[self.window.len() - offset]);
                }
                State::Match { left: n - now, offset }
            }
        };
        Ok((self.window.len() - before) as u64)
    }
}

fn invalid(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

impl<R: Read> Read for Lz4<R> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        if self.given == self.window.len() && !out.is_empty() {
            self.fill()?;
        }
        let ready = &self.window[self.given..];
        let n = ready.len().min(out.len());
        out[..n].copy_from_slice(&ready[..n]);
        self.given += n;
        Ok(n)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lz4(block: &[u8]) -> io::Result<Vec<u8>> {
        let mut out = Vec::new();
        Lz4::new(block).read_to_end(&mut out).map(|_| out)
    }

    #[test]
    fn literals_matches_and_runs() {
        // "abc", then 3 back for 9, then "x" as the last literals.
        assert_eq!(lz4(&[13, 0, 0, 0, 0x35, b'a', b'b', b'c', 3, 0, 0x10, b'x']).unwrap(), b"abcabcabcabcx");
        // A run of 300 from one byte: 4 + 15 + 255 + 26.
        assert_eq!(lz4(&[45, 1, 0, 0, 0x1f, b'z', 1, 0, 255, 26]).unwrap(), vec![b'z'; 301]);
        assert_eq!(lz4(&[0, 0, 0, 0]).unwrap(), b"");
    }

    #[test]
    fn runs_longer_than_a_step_come_out_whole() {
        let mut block = vec![0; 4];
        block.extend([0x1f, 7, 1, 0]);
        block.extend(std::iter::repeat_n(255, 4000));
        block.push(1);
        let n = 1 + 4 + 15 + 4000 * 255 + 1;
        block[..4].copy_from_slice(&(n as u32).to_le_bytes());
        assert_eq!(lz4(&block).unwrap(), vec![7; n]);
    }

    #[test]
    fn lies_are_refused() {
        for (block, why) in [
            (&[9, 0, 0, 0, 0x35, b'a', b'b', b'c', 4, 0][..], "reaches back too far"),
            (&[9, 0, 0, 0, 0x35, b'a', b'b', b'c', 0, 0], "reaches nowhere"),
            (&[5, 0, 0, 0, 0x35, b'a', b'b', b'c', 3, 0], "makes more than announced"),
            (&[2, 0, 0, 0, 0x30, b'a', b'b', b'c'], "has more than announced"),
            (&[4, 0, 0, 0, 0x30, b'a', b'b', b'c'], "has less than announced"),
            (&[255, 255, 255, 255, 0xff, 255, 255], "ends inside a length"),
            (&[1, 0], "ends inside the size"),
        ] {
            assert!(lz4(block).is_err(), "{why}");
        }
    }
}
