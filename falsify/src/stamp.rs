//! What a run was made with: product, suite, machine, oracles. A number without its stamp is a rumour.
//!
//! Everything here is asked of the system, and what cannot be had is absent rather than guessed.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;
use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::registry;
use crate::suite::Suite;

/// What a run was made with.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Stamp {
    /// When, ISO 8601.
    pub utc: String,
    /// SHA-256 of the watched binary.
    pub apr_sha256: String,
    /// Commit of the tree, if it is a git checkout.
    pub commit: Option<String>,
    /// Whether tracked files differ from that commit.
    pub dirty: Option<bool>,
    /// SHA-256 over the rows.
    pub items_sha256: String,
    /// `rustc -V`.
    pub rustc: Option<String>,
    /// Operating system and architecture.
    pub system: String,
    /// As the kernel names it.
    pub cpu: Option<String>,
    /// Instruction sets found.
    pub isa: BTreeSet<String>,
    /// Cores that this process may use.
    pub cores: usize,
    /// What the machine has of the vocabulary of needs.
    pub capabilities: Vec<String>,
    /// Names and versions of the oracles: who made the files of golden/INDEX.json.
    #[serde(default)]
    pub oracles: BTreeSet<String>,
    /// SHA-256 of fixtures/INDEX.json.
    pub fixtures_sha256: Option<String>,
    /// SHA-256 of golden/INDEX.json.
    pub golden_sha256: Option<String>,
}

impl Stamp {
    /// For this suite, now. `root` is the source tree, if there is one.
    pub fn now(suite: &Suite, root: Option<&Path>) -> Stamp {
        let s = &suite.subject;
        let golden = std::fs::read(s.golden.join("INDEX.json")).ok();
        let index: serde_json::Value =
            golden.as_deref().and_then(|b| serde_json::from_slice(b).ok()).unwrap_or_default();
        let git = |args: &[&str]| root.and_then(|r| text_of(Command::new("git").arg("-C").arg(r).args(args)));
        Stamp {
            utc: utc_now(),
            apr_sha256: suite.apr_sha256.clone(),
            commit: git(&["rev-parse", "HEAD"]),
            dirty: git(&["status", "--porcelain", "--untracked-files=no"]).map(|t| !t.is_empty()),
            items_sha256: sha256(
                registry::FILES.iter().flat_map(|(_, text)| text.bytes()).collect::<Vec<u8>>().as_slice(),
            ),
            rustc: text_of(Command::new("rustc").arg("-V")),
            system: format!("{} {}", suite.host.os, suite.host.arch),
            cpu: cpu_model(),
            isa: suite.host.isa.iter().map(|i| i.to_string()).collect(),
            cores: suite.host.cores,
            capabilities: suite.host.capabilities().into_iter().map(str::to_string).collect(),
            oracles: makers(&index),
            fixtures_sha256: sha256_of(&s.fixtures.join("INDEX.json")),
            golden_sha256: golden.as_deref().map(sha256),
        }
    }
}

impl Stamp {
    /// The machine in a few words.
    pub fn machine(&self) -> String {
        let isa: String = self.isa.iter().map(|i| format!(" {i}")).collect();
        let cpu = self.cpu.as_deref().map_or(String::new(), |cpu| format!("{cpu}, "));
        let gpu = if self.capabilities.iter().any(|c| c == "gpu") { ", GPU" } else { "" };
        format!("{cpu}{}, {} cores{isa}{gpu}", self.system, self.cores)
    }

    /// The commit as people write it, and whether the tree was changed since.
    pub fn commit(&self) -> String {
        let commit = self.commit.as_deref().map_or("no commit", |c| c.get(..12).unwrap_or(c));
        format!("{commit}{}", if self.dirty == Some(true) { ", changed since" } else { "" })
    }
}

/// Who made the files of an index.
fn makers(index: &serde_json::Value) -> BTreeSet<String> {
    let files = index["files"].as_array().into_iter().flatten();
    files.filter_map(|f| f["maker"].as_str()).map(str::to_string).collect()
}

/// SHA-256 in hexadecimal.
pub fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|b| format!("{b:02x}")).collect()
}

/// SHA-256 of a file.
pub fn sha256_of(file: &Path) -> Option<String> {
    std::fs::read(file).ok().map(|b| sha256(&b))
}

fn text_of(command: &mut Command) -> Option<String> {
    let out = command.output().ok().filter(|o| o.status.success())?;
    Some(String::from_utf8_lossy(&out.stdout).trim().to_string())
}

fn cpu_model() -> Option<String> {
    let info = std::fs::read_to_string("/proc/cpuinfo").ok()?;
    let line = info.lines().find(|l| l.starts_with("model name"))?;
    line.split_once(':').map(|(_, name)| name.trim().to_string())
}

fn utc_now() -> String {
    let s = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs());
    let (year, month, day) = civil(s / 86_400);
    format!("{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}Z", s / 3600 % 24, s / 60 % 60, s % 60)
}

/// Days since 1970-01-01 as year, month, day (Howard Hinnant's algorithm, for dates after the epoch).
fn civil(days: u64) -> (u64, u64, u64) {
    let z = days + 719_468;
    let (era, of_era) = (z / 146_097, z % 146_097);
    let year = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year + year / 4 - year / 100);
    let shifted = (5 * of_year + 2) / 153;
    let day = of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    (year + era * 400 + u64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_dates() {
        assert_eq!(civil(0), (1970, 1, 1));
        assert_eq!(civil(19_782), (2024, 2, 29));
        assert_eq!(civil(20_454), (2026, 1, 1));
    }

    #[test]
    fn sha256_is_sha256() {
        assert_eq!(&sha256(b"abc")[..16], "ba7816bf8f01cfea");
    }
}
