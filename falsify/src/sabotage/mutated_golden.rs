//! Saboteurs that change the oracle's stored output: a check that compares with it has to notice.

use super::Saboteur;

/// Every mutated golden file.
pub static ALL: &[Saboteur] = &[];
