//! The suite's environment variables, in one table. Nothing else in `falsify` reads the environment for a setting,
//! and variables for `apr` itself are set on child processes only.

use std::path::PathBuf;

/// Name and meaning of every variable; `falsify --help` prints it.
pub static TABLE: &[(&str, &str)] = &[
    ("FALSIFY_APR", "the apr binary to watch (default: built in release from this tree)"),
    ("FALSIFY_EVIL_APR", "the evil-apr binary (default: beside the suite's own)"),
    ("FALSIFY_FIXTURES", "folder of model files (default: fixtures/)"),
    ("FALSIFY_GOLDEN", "folder of oracle output (default: golden/)"),
    ("FALSIFY_MODELS", "folder of real weights on which the same rows run too (default: none)"),
    ("FALSIFY_OUT", "where cargo test writes its report (default: target/falsify)"),
    ("FALSIFY_DAMAGES", "damaged models of each kind that F-CRIT-005 tries (default: 2)"),
    ("FALSIFY_SOAK_S", "seconds that F-SERVE-253 keeps a server busy (default: 600)"),
    ("FALSIFY_GATE", "1: exit 1 also when the release gate is not met"),
];

/// A folder or file named by a variable of the table.
pub fn path(name: &str) -> Option<PathBuf> {
    debug_assert!(TABLE.iter().any(|(n, _)| *n == name), "{name} is not in the table");
    std::env::var_os(name).filter(|v| !v.is_empty()).map(PathBuf::from)
}

/// How many damages of each kind were asked for.
pub fn damages() -> Option<u64> {
    path("FALSIFY_DAMAGES")?.to_str()?.parse().ok()
}

/// How long a server is kept busy, in seconds.
pub fn soak_s() -> u64 {
    path("FALSIFY_SOAK_S").and_then(|v| v.to_str()?.parse().ok()).unwrap_or(600)
}

/// Whether a switch of the table is on.
pub fn on(name: &str) -> bool {
    path(name).is_some_and(|v| v.as_os_str() != "0")
}
