//! What is known of a download that is not finished: which file it is of, and the hash of each block as it arrived.
//!
//! A line of JSON, then a line for each block, added after the block was written. The process or the machine may end at
//! any moment: a line that is not whole ends the journal, and a block that is not what its hash says is fetched again.

use std::fmt::Write;

use engine::limits;
use serde::{Deserialize, Serialize};

/// Bytes of a block.
pub const BLOCK: u64 = 1 << 20;

const VERSION: u32 = 1;

/// Which file a partial download is of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Head {
    version: u32,
    block: u64,
    /// Its size.
    pub bytes: u64,
    /// What the server calls this version of it.
    pub validator: Option<String>,
    /// What it has to be.
    pub sha256: Option<String>,
}

impl Head {
    /// A new one.
    pub fn new(bytes: u64, validator: Option<String>, sha256: Option<String>) -> Head {
        Head { version: VERSION, block: BLOCK, bytes, validator, sha256 }
    }

    /// Blocks of the file.
    pub fn blocks(&self) -> usize {
        usize::try_from(self.bytes.div_ceil(BLOCK)).unwrap_or(usize::MAX)
    }

    /// Whether what was kept of it can be told from another version of the file.
    pub fn is_certain(&self) -> bool {
        self.validator.is_some() || self.sha256.is_some()
    }

    /// The journal's first line.
    pub fn line(&self) -> String {
        // A struct of numbers and texts always becomes JSON.
        serde_json::to_string(self).unwrap_or_default() + "\n"
    }
}

/// The journal's line of a block.
pub fn line(block: usize, hash: &blake3::Hash) -> String {
    let mut text = String::new();
    let _ = writeln!(text, "{block} {}", hash.to_hex());
    text
}

/// Reads a journal back: blocks that arrived have a hash. Nothing if it is none.
pub fn parse(text: &[u8]) -> Option<(Head, Vec<Option<blake3::Hash>>)> {
    let mut lines = text.split_inclusive(|b| *b == b'\n');
    let head: Head = serde_json::from_slice(lines.next()?).ok()?;
    if head.version != VERSION || head.block != BLOCK || head.bytes == 0 || head.bytes > limits::DOWNLOAD_BYTES_MAX {
        return None;
    }
    let mut blocks = vec![None; head.blocks()];
    for line in lines {
        let Some((block, hash)) = entry(line) else { break };
        let Some(known) = blocks.get_mut(block) else { break };
        *known = Some(hash);
    }
    Some((head, blocks))
}

fn entry(line: &[u8]) -> Option<(usize, blake3::Hash)> {
    let line = std::str::from_utf8(line.strip_suffix(b"\n")?).ok()?;
    let (block, hash) = line.split_once(' ')?;
    Some((block.parse().ok()?, blake3::Hash::from_hex(hash).ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_torn_journal_keeps_what_is_whole() {
        let head = Head::new(3 * BLOCK + 1, Some("\"etag\"".into()), None);
        let hash = blake3::hash(b"x");
        let text = head.line() + &line(2, &hash) + &line(0, &hash);
        let (read, blocks) = parse(text.as_bytes()).unwrap();
        assert_eq!((read, blocks), (head.clone(), vec![Some(hash), None, Some(hash), None]));
        for cut in head.line().len()..text.len() {
            let (_, blocks) = parse(&text.as_bytes()[..cut]).unwrap();
            let whole = text[..cut].matches('\n').count() - 1;
            assert_eq!(blocks.iter().flatten().count(), whole, "cut at {cut}");
        }
        for bad in
            ["", "{}", "null\n", "{\"version\":2,\"block\":1048576,\"bytes\":1,\"validator\":null,\"sha256\":null}\n"]
        {
            assert!(parse(bad.as_bytes()).is_none(), "{bad}");
        }
        let outside = head.line() + &line(4, &hash) + &line(0, &hash);
        assert_eq!(parse(outside.as_bytes()).unwrap().1.iter().flatten().count(), 0);
    }
}
