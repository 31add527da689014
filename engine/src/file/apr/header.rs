//! The 64 bytes at the front: magic, version, flags, where the sections are, and a checksum over all of it.
//!
//! | offset | size | field |
//! |---|---|---|
//! | 0 | 4 | magic `APR\0` |
//! | 4 | 2 | version, major and minor: 2.0 |
//! | 6 | 2 | flags |
//! | 8 | 4 | tensors |
//! | 12 | 8 | offset of the metadata |
//! | 20 | 4 | bytes of the metadata, padding not counted |
//! | 24 | 8 | offset of the tensor index |
//! | 32 | 8 | offset of the tensor data |
//! | 40 | 4 | CRC-32 of bytes 0..40 and 44..64 |
//! | 44 | 20 | zeros |

use std::ops::Range;

use crate::error::{Error, Kind, Place, Result, quoted};
use crate::file::cursor::Cursor;
use crate::limits;

/// Bytes of a header.
pub const BYTES: usize = 64;
/// What the file begins with.
pub const MAGIC: &[u8; 4] = b"APR\0";
/// Where the checksum stands, which is not part of what it sums.
const CHECKSUM: Range<usize> = 40..44;

/// The bits that change how a file is read. The others (quantised, with a vocabulary, ...) are set or left out as
/// writers please; what they say is looked up where it stands.
pub mod flag {
    /// Everything behind the header is one LZ4 block.
    pub const LZ4: u16 = 1;
    /// Everything behind the header is one Zstandard frame.
    pub const ZSTD: u16 = 1 << 1;
    /// AES-256-GCM.
    pub const ENCRYPTED: u16 = 1 << 2;
    /// One of several files.
    pub const SHARDED: u16 = 1 << 4;
    /// Set by everything that apr-format writes, and by nothing else.
    pub const ROW_MAJOR: u16 = 1 << 10;
    /// Matrices are transposed.
    pub const COLUMN_MAJOR: u16 = 1 << 11;
}

/// A header whose checksum is right and whose sections follow each other.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Header {
    /// Bits of [`flag`].
    pub flags: u16,
    /// Entries of the index.
    pub tensors: usize,
    /// Where the JSON object is.
    pub metadata: Range<usize>,
    /// Where the index begins.
    pub index: usize,
    /// Where the tensor data begins. The index ends before it.
    pub data: usize,
}

impl Header {
    /// Whether this bit of [`flag`] is set.
    pub fn has(&self, flag: u16) -> bool {
        self.flags & flag != 0
    }

    /// Reads and checks a header.
    pub fn parse(bytes: &[u8]) -> Result<Header> {
        let mut c = Cursor::new(bytes);
        check_version(&mut c)?;
        let flags = c.u16("the flags")?;
        let tensors = c.u32("the number of tensors")?;
        let metadata = c.u64("the offset of the metadata")?;
        let metadata_bytes = c.u32("the size of the metadata")?;
        let index = c.u64("the offset of the tensor index")?;
        let data = c.u64("the offset of the tensor data")?;
        let stated = c.u32("the checksum of the header")?;
        c.take(20, "the reserved bytes of the header")?;
        //= F-APR-073
        if checksum(bytes) != stated {
            return Err(Error::malformed("the checksum of the header is wrong: the header is damaged")
                .at(Place::Byte(CHECKSUM.start as u64)));
        }
        check_flags(flags)?;
        if u64::from(tensors) > limits::TENSORS_MAX {
            let what = format!("more than {} tensors, the limit of this build", limits::TENSORS_MAX);
            return Err(Error::new(Kind::TooLarge, what).at(Place::Byte(8)));
        }
        let ends = metadata.checked_add(u64::from(metadata_bytes));
        let ordered = metadata >= BYTES as u64 && ends.is_some_and(|end| end <= index) && index <= data;
        if !ordered {
            let what = format!(
                "the sections do not follow each other: metadata at {metadata} ({metadata_bytes} bytes), index at \
                 {index}, data at {data}"
            );
            return Err(Error::malformed(what).at(Place::Byte(12)));
        }
        if data > limits::HEADER_BYTES_MAX {
            let what =
                format!("more than {} bytes before the tensor data, the limit of this build", limits::HEADER_BYTES_MAX);
            return Err(Error::new(Kind::TooLarge, what).at(Place::Byte(32)));
        }
        // All of them are below the limit now.
        let start = metadata as usize;
        Ok(Header {
            flags,
            tensors: tensors as usize,
            metadata: start..start + metadata_bytes as usize,
            index: index as usize,
            data: data as usize,
        })
    }

    /// The header as it stands in a file.
    pub fn to_bytes(&self) -> [u8; BYTES] {
        let mut out = [0; BYTES];
        let mut put = |at: usize, bytes: &[u8]| out[at..at + bytes.len()].copy_from_slice(bytes);
        put(0, MAGIC);
        put(4, &[2, 0]);
        put(6, &self.flags.to_le_bytes());
        put(8, &(self.tensors as u32).to_le_bytes());
        put(12, &(self.metadata.start as u64).to_le_bytes());
        put(20, &(self.metadata.len() as u32).to_le_bytes());
        put(24, &(self.index as u64).to_le_bytes());
        put(32, &(self.data as u64).to_le_bytes());
        let sum = checksum(&out);
        out[CHECKSUM].copy_from_slice(&sum.to_le_bytes());
        out
    }
}

/// CRC-32 of a header without its checksum. `bytes` has at least [`BYTES`] bytes.
fn checksum(bytes: &[u8]) -> u32 {
    let mut crc = crc32fast::Hasher::new();
    crc.update(&bytes[..CHECKSUM.start]);
    crc.update(&bytes[CHECKSUM.end..BYTES]);
    crc.finalize()
}

//= F-APR-071
fn check_version(c: &mut Cursor<'_>) -> Result<()> {
    let unsupported = |what: String| {
        let hint = "version 2.0 is read; convert the file again with a current program";
        Error::new(Kind::Unsupported, what).at(Place::Byte(4)).hint(hint)
    };
    let magic = c.take(4, "the magic")?;
    if magic != MAGIC {
        // `APRN`, `APR1` and `APR2` stand in the sources of older programs; only the first was ever written.
        let name = quoted(&String::from_utf8_lossy(magic));
        return Err(match magic {
            b"APRN" => unsupported(format!(".apr version 1 (magic {name}) is not supported")),
            [b'A', b'P', b'R', _] => unsupported(format!(".apr files with the magic {name} are not supported")),
            _ => Error::malformed("not an .apr file: it does not begin with 'APR'").at(Place::Byte(0)),
        });
    }
    match (c.u8("the version")?, c.u8("the version")?) {
        (2, 0) => Ok(()),
        (major, minor) => Err(unsupported(format!(".apr version {major}.{minor} is not supported"))),
    }
}

fn check_flags(flags: u16) -> Result<()> {
    let refused = |what: &str, hint: &str| {
        Err(Error::new(Kind::Unsupported, what.to_string()).at(Place::Byte(6)).hint(hint.to_string()))
    };
    if flags & flag::COLUMN_MAJOR != 0 {
        return refused(
            "the file says that its matrices are column-major",
            "import the model again with a current program",
        );
    }
    if flags & flag::ENCRYPTED != 0 {
        return refused("encrypted .apr files are not supported", "decrypt it with the program that encrypted it");
    }
    if flags & flag::LZ4 != 0 && flags & flag::ZSTD != 0 {
        return Err(Error::malformed("the file says that it is compressed in two ways").at(Place::Byte(6)));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sound() -> Header {
        Header { flags: flag::ROW_MAJOR, tensors: 3, metadata: 64..100, index: 128, data: 320 }
    }

    /// The header with these bytes, and a checksum that is right for them.
    fn with(change: impl FnOnce(&mut [u8; BYTES])) -> [u8; BYTES] {
        let mut bytes = sound().to_bytes();
        change(&mut bytes);
        let sum = checksum(&bytes);
        bytes[CHECKSUM].copy_from_slice(&sum.to_le_bytes());
        bytes
    }

    #[test]
    fn what_is_written_is_read() {
        assert_eq!(Header::parse(&sound().to_bytes()).unwrap(), sound());
        assert!(Header::parse(&sound().to_bytes()[..63]).is_err());
    }

    #[test]
    fn every_bit_is_under_the_checksum() {
        for bit in 0..BYTES * 8 {
            let mut bytes = sound().to_bytes();
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert!(Header::parse(&bytes).is_err(), "bit {bit}");
        }
    }

    #[test]
    fn what_cannot_be_read_is_refused_by_name() {
        type Spoil = fn(&mut [u8; BYTES]);
        let refusals: [(Spoil, Kind, &str); 12] = [
            (|b| b[3] = b'N', Kind::Unsupported, "version 1"),
            (|b| b[3] = b'2', Kind::Unsupported, "'APR2'"),
            (|b| b[0] = b'G', Kind::Malformed, "not an .apr file"),
            (|b| b[4] = 1, Kind::Unsupported, "version 1.0"),
            (|b| b[5] = 1, Kind::Unsupported, "version 2.1"),
            (|b| b[7] |= 8, Kind::Unsupported, "column-major"),
            (|b| b[6] |= 4, Kind::Unsupported, "encrypted"),
            (|b| b[6] |= 3, Kind::Malformed, "two ways"),
            (|b| b[11] = 1, Kind::TooLarge, "tensors"),
            (|b| b[12..20].fill(0xff), Kind::Malformed, "follow each other"),
            (|b| b[12] = 0, Kind::Malformed, "follow each other"),
            (|b| b[36] = 1, Kind::TooLarge, "before the tensor data"),
        ];
        for (change, kind, word) in refusals {
            let e = Header::parse(&with(change)).unwrap_err();
            assert!(e.kind == kind && e.to_string().contains(word) && e.at.is_some(), "{e:?} lacks {word}");
        }
    }
}
