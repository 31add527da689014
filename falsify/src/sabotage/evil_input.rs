//! Saboteurs that change model files: a nibble, a vocabulary entry, a metadata value. The engine then really computes
//! something else, so a check that compares numbers or text has to notice.

use super::Saboteur;

/// Every evil input.
pub static ALL: &[Saboteur] = &[];
