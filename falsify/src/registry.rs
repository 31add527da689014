//! The rows of the checklist: data in `falsify/items/<PREFIX>.json`, embedded so that the suite can be moved.
//!
//! A row says what is claimed (byte for byte the specification's words), what is really tested, what would refute it
//! and who has been shown to refute it. This file reads rows; it knows neither checks nor verdicts.

use std::sync::OnceLock;

use serde::{Deserialize, Serialize};

/// One item of the checklist.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Row {
    /// `F-GGUF-041`, `F-CLI-013b`, `F-CRIT-005`.
    pub id: String,
    /// 1..=300; `013b` belongs to the point of its namesake; `F-CRIT` rows have none.
    pub point: Option<u16>,
    /// `I-A`; for `F-CRIT` rows `9`.
    pub section: String,
    /// What a failure means, 1 (cosmetic) to 4 (existential), by section 1.4.
    pub level: u8,
    /// The specification's words.
    pub claim: String,
    /// What is measured, with the corrections that the claim needs to be testable.
    pub tested_as: String,
    /// Observations that refute the row.
    pub refuted_if: Vec<String>,
    /// Capabilities of `capability.rs` without which the row cannot be attempted.
    pub needs: Vec<String>,
    /// The kind of test.
    pub how: How,
    /// What the answer is compared with.
    pub oracle: String,
    /// Where the product does it.
    pub code: Vec<String>,
    /// Saboteurs on which this row has to refute.
    pub killed_by: Vec<String>,
    /// When it runs.
    pub tier: Tier,
    /// Whether there is a check.
    pub status: Status,
}

/// The kind of test.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum How {
    /// A law over many generated inputs.
    Property,
    /// Equal to stored output of an oracle.
    Golden,
    /// Equal to another implementation, now.
    Differential,
    /// Equal to a reviewed text.
    Snapshot,
    /// A conversation by the rules of a protocol.
    Protocol,
    /// Many at once.
    Load,
    /// A measured speed or size.
    Perf,
    /// Read off the source or the build.
    Static,
    /// Runs on a given system or device.
    Environment,
}

/// When a row runs. `perf` and `nightly` rows are left out of `cargo test`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Tier {
    /// No file, no process.
    Pure,
    /// Reads fixtures or sources.
    File,
    /// Runs `apr`.
    Process,
    /// Talks to `apr serve`.
    Socket,
    /// Uses an accelerator.
    Device,
    /// Measures speed, alone on the machine.
    Perf,
    /// Too long for every day.
    Nightly,
}

impl Tier {
    /// The tiers of `cargo test`.
    pub const DAILY: &'static [Tier] = &[Tier::Pure, Tier::File, Tier::Process, Tier::Socket, Tier::Device];

    /// As in the rows.
    pub fn name(self) -> &'static str {
        match self {
            Tier::Pure => "pure",
            Tier::File => "file",
            Tier::Process => "process",
            Tier::Socket => "socket",
            Tier::Device => "device",
            Tier::Perf => "perf",
            Tier::Nightly => "nightly",
        }
    }

    /// How long a row may take before it counts as broken, generous on a slow machine.
    pub fn deadline_s(self) -> u64 {
        match self {
            Tier::Pure | Tier::File => 120,
            Tier::Process | Tier::Socket => 240,
            Tier::Device => 300,
            Tier::Perf => 1200,
            Tier::Nightly => 7200,
        }
    }
}

/// Whether a row has a check.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// It has one, and it must be attempted wherever its capabilities are present.
    Live,
    /// Not yet.
    Unwritten,
}

/// The embedded files, in the order of the specification.
pub static FILES: &[(&str, &str)] = &[
    ("CLI", include_str!("../items/CLI.json")),
    ("UX", include_str!("../items/UX.json")),
    ("GGUF", include_str!("../items/GGUF.json")),
    ("APR", include_str!("../items/APR.json")),
    ("ST", include_str!("../items/ST.json")),
    ("CPU", include_str!("../items/CPU.json")),
    ("GPU", include_str!("../items/GPU.json")),
    ("MATH", include_str!("../items/MATH.json")),
    ("PIPE", include_str!("../items/PIPE.json")),
    ("TRACE", include_str!("../items/TRACE.json")),
    ("CHECK", include_str!("../items/CHECK.json")),
    ("SERVE", include_str!("../items/SERVE.json")),
    ("JID", include_str!("../items/JID.json")),
    ("INT", include_str!("../items/INT.json")),
    ("CRIT", include_str!("../items/CRIT.json")),
];

/// The JSON Schema of the row files.
pub static SCHEMA: &str = include_str!("../items/schema.json");

/// The specification.
pub static SPEC: &str = include_str!("../items/SPEC.txt");

/// Every row, in the order of the specification.
pub fn rows() -> &'static [Row] {
    static ROWS: OnceLock<Vec<Row>> = OnceLock::new();
    ROWS.get_or_init(|| {
        let parse = |(prefix, text): &(&str, &str)| -> Vec<Row> {
            serde_json::from_str(text).unwrap_or_else(|e| panic!("items/{prefix}.json: {e}"))
        };
        FILES.iter().flat_map(parse).collect()
    })
}

/// The row with this id.
pub fn find(id: &str) -> Option<&'static Row> {
    rows().iter().find(|r| r.id.eq_ignore_ascii_case(id))
}

impl Row {
    /// `f_gguf_041`: the name of its check.
    pub fn fn_name(&self) -> String {
        self.id.to_lowercase().replace('-', "_")
    }

    /// `GGUF`.
    pub fn prefix(&self) -> &str {
        self.id.split('-').nth(1).unwrap_or_default()
    }

    /// Whether this is one of the release-rejecting triggers of section 9.
    pub fn is_trigger(&self) -> bool {
        self.point.is_none()
    }
}

/// What the specification calls a section: `I-A` is `Basic Commands`, `9` are the triggers that reject a release.
pub fn section_title(id: &str) -> &'static str {
    let title = |line: &'static str| {
        let (name, title) = line.trim_start_matches('#').trim_start().split_once(": ")?;
        let is_it = line.starts_with("###") && name.trim_start_matches("Section ") == id;
        is_it.then(|| title.rsplit_once(" (").map_or(title, |(title, _)| title))
    };
    if id == "9" { "Triggers that reject a release" } else { SPEC.lines().find_map(title).unwrap_or_default() }
}

/// Id and claim of every item of the specification's checklist and triggers, struck-out ones left out.
pub fn claims_of(spec: &str) -> Vec<(String, String)> {
    let item = |line: &str| {
        let rest = line.strip_prefix("- [ ] **").or_else(|| line.strip_prefix("*   **"))?;
        let (id, claim) = rest.split_once("**: ")?;
        id.starts_with("F-").then(|| (id.to_string(), claim.to_string()))
    };
    spec.lines().filter_map(item).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn every_claim_is_the_specification_byte_for_byte() {
        let rows: Vec<(String, String)> = rows().iter().map(|r| (r.id.clone(), r.claim.clone())).collect();
        assert_eq!(rows, claims_of(SPEC));
    }

    #[test]
    fn every_section_has_its_title() {
        assert_eq!(section_title("I-B"), "Ollama-Style UX (Normal vs. Noisy)");
        assert_eq!(section_title("VI"), "Server (HTTP API)");
        assert!(rows().iter().all(|r| !section_title(&r.section).is_empty()));
    }

    #[test]
    fn there_are_304_rows_300_points_and_7_triggers() {
        let points: BTreeSet<u16> = rows().iter().filter_map(|r| r.point).collect();
        assert_eq!(points, (1..=300).collect());
        assert_eq!(rows().iter().filter(|r| !r.is_trigger()).count(), 304);
        assert_eq!(rows().iter().filter(|r| r.is_trigger()).count(), 7);
    }
}
