//! Gets a suite ready: finds the tree, builds `apr` once in release unless one is named, finds the evil twin.
//!
//! Used by the command line and by `cargo test`. It works without a tree and without cargo as long as everything is
//! named, so the suite can be carried to another machine.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::capability::Host;
use crate::knobs;
use crate::registry::Tier;
use crate::stamp;
use crate::subject::{Paths, Subject};
use crate::suite::Suite;

/// What was named by hand; the rest comes from the environment's table or from the tree.
#[derive(Clone, Debug, Default)]
pub struct Named {
    /// The binary to watch.
    pub apr: Option<PathBuf>,
    /// Fixture models.
    pub fixtures: Option<PathBuf>,
    /// Oracle output.
    pub golden: Option<PathBuf>,
    /// Real weights.
    pub models: Option<PathBuf>,
}

/// The root of the source tree around the working directory, if there is one.
pub fn root() -> Option<PathBuf> {
    let here = std::env::current_dir().ok()?;
    here.ancestors().find(|d| d.join("falsify/items/SPEC.txt").is_file()).map(Path::to_path_buf)
}

/// A suite for these tiers.
pub fn suite(named: Named, tiers: &[Tier]) -> Result<Suite, String> {
    let root = root();
    let pick = |named: Option<PathBuf>, knob: &str, in_tree: &str| {
        named.or_else(|| knobs::path(knob)).or_else(|| root.as_ref().map(|r| r.join(in_tree)))
    };
    let need = |found: Option<PathBuf>, what: &str| found.ok_or_else(|| format!("no source tree here; name {what}"));
    let fixtures = need(pick(named.fixtures, "FALSIFY_FIXTURES", "fixtures"), "--fixtures")?;
    let golden = need(pick(named.golden, "FALSIFY_GOLDEN", "golden"), "--golden")?;
    let models = named.models.or_else(|| knobs::path("FALSIFY_MODELS"));
    let apr = match named.apr.or_else(|| knobs::path("FALSIFY_APR")) {
        Some(path) => path,
        None => build(&need(root.clone(), "--apr")?)?,
    };
    let apr = apr.canonicalize().map_err(|e| format!("{}: {e}", apr.display()))?;
    let apr_sha256 = stamp::sha256_of(&apr).ok_or_else(|| format!("cannot read {}", apr.display()))?;
    let host = Host::here(&fixtures, &golden, models.as_deref(), root.as_deref());
    let paths = Paths { apr: apr.clone(), evil_apr: evil_apr()?, fixtures, golden, models, sources: root.clone() };
    let mut subject = Subject::healthy(paths).map_err(|e| format!("no scratch folder: {e}"))?;
    subject.real_apr = aside(&apr, subject.scratch_root()).map_err(|e| format!("{}: {e}", apr.display()))?;
    Ok(Suite { subject, host, tiers: tiers.to_vec(), apr_sha256, named_apr: apr, root })
}

/// A copy, so that what is watched stays what it is: some rows build, and cargo puts that in the same place.
fn aside(apr: &Path, scratch: &Path) -> std::io::Result<PathBuf> {
    let folder = scratch.join("watched");
    std::fs::create_dir_all(&folder)?;
    let copy = folder.join(apr.file_name().unwrap_or_default());
    std::fs::copy(apr, &copy)?;
    Ok(copy)
}

/// Builds the `apr` of this tree and says where cargo put it.
fn build(root: &Path) -> Result<PathBuf, String> {
    eprintln!("falsify: building apr (release)");
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let out = Command::new(cargo)
        .current_dir(root)
        .args(["build", "--release", "-p", "apr-cli", "--message-format=json-render-diagnostics"])
        .stderr(Stdio::inherit())
        .output()
        .map_err(|e| format!("cannot run cargo: {e}; name a binary with --apr"))?;
    if !out.status.success() {
        return Err("apr does not build".into());
    }
    let messages = String::from_utf8_lossy(&out.stdout).into_owned();
    let artifact = |line: &str| {
        let message: serde_json::Value = serde_json::from_str(line).ok()?;
        (message["target"]["name"] == "apr").then(|| message["executable"].as_str().map(PathBuf::from))?
    };
    messages.lines().find_map(artifact).ok_or_else(|| "cargo built no binary called apr".into())
}

/// The wrapper lies beside this program, or one folder up from a test program.
fn evil_apr() -> Result<PathBuf, String> {
    if let Some(named) = knobs::path("FALSIFY_EVIL_APR") {
        return Ok(named);
    }
    let me = std::env::current_exe().map_err(|e| e.to_string())?;
    let name = format!("evil-apr{}", std::env::consts::EXE_SUFFIX);
    let beside = me.ancestors().skip(1).take(2).map(|d| d.join(&name)).find(|p| p.is_file());
    beside.ok_or_else(|| "evil-apr is not beside this program; name it in FALSIFY_EVIL_APR".into())
}
