//! Saboteurs: subjects that are broken on purpose. A check that does not refute them is worth nothing.
//!
//! One file per kind, one entry per saboteur, all of them in [`ALL`]. A saboteur changes exactly the behaviour that
//! some claim names; one that merely crashes proves nothing unless the claim is that nothing crashes. Saboteurs know
//! subjects and no rows; rows name their saboteurs in `killed_by`.

pub mod evil_apr;
pub mod evil_backend;
pub mod evil_bundle;
pub mod evil_chat;
pub mod evil_check;
pub mod evil_folder;
pub mod evil_gpu;
pub mod evil_input;
pub mod evil_prompt;
pub mod evil_sampler;
pub mod evil_server;
pub mod evil_sources;
pub mod evil_speed;
pub mod evil_template;
pub mod evil_trace;
pub mod mutated_golden;
pub mod mutated_sources;
pub mod mutated_verdicts;
pub mod rewrite;
pub mod rewrite_cpu;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::subject::{Rewrite, Spoil, Subject};
use crate::suite::Record;

/// A way to break a subject.
pub struct Saboteur {
    /// As in `killed_by`.
    pub name: &'static str,
    /// What it does, for the matrix.
    pub does: &'static str,
    /// Its whole effect is a crash, and that is the claim it attacks.
    pub by_crash: bool,
    /// How.
    pub means: Means,
}

/// The kinds.
pub enum Means {
    /// Children are the wrapper `evil-apr`, which runs the real one and returns the exit code to end with.
    EvilApr(fn(evil_apr::Real) -> u8),
    /// In-process checks get every program rewritten.
    Rewrite(Rewrite),
    /// In-process checks get a backend that meddles with every step.
    EvilBackend(evil_backend::Evil),
    /// Samplers that checks take through [`crate::chance`] are meddled with.
    EvilSampler(evil_sampler::Meddle),
    /// The fixtures are a copy that was changed. Use [`edit`].
    EvilInput(fn(&Path) -> io::Result<()>),
    /// Files of the forge are changed after they are made. Use [`edit`]; leave those of other names alone.
    EvilForge(Spoil),
    /// The oracle's output is a copy that was changed. Use [`edit`].
    MutatedGolden(fn(&Path) -> io::Result<()>),
    /// The source tree is a copy that was changed. Use [`edit`].
    MutatedSources(fn(&Path) -> io::Result<()>),
    /// The verdicts of the other rows are changed.
    MutatedVerdicts(fn(&mut Vec<Record>)),
}

impl Means {
    /// For the matrix.
    pub fn kind(&self) -> &'static str {
        match self {
            Means::EvilApr(_) => "evil-apr",
            Means::Rewrite(_) => "rewrite",
            Means::EvilBackend(_) => "evil-backend",
            Means::EvilSampler(_) => "evil-sampler",
            Means::EvilInput(_) | Means::EvilForge(_) => "evil-input",
            Means::MutatedGolden(_) => "mutated-golden",
            Means::MutatedSources(_) => "mutated-sources",
            Means::MutatedVerdicts(_) => "mutated-verdicts",
        }
    }
}

/// Every saboteur, kind by kind.
pub static ALL: &[&[Saboteur]] = &[
    evil_apr::ALL,
    evil_backend::ALL,
    evil_check::ALL,
    evil_bundle::ALL,
    evil_chat::ALL,
    evil_folder::ALL,
    evil_gpu::ALL,
    evil_input::ALL,
    evil_prompt::ALL,
    evil_sampler::ALL,
    evil_server::ALL,
    evil_sources::ALL,
    evil_speed::ALL,
    evil_template::ALL,
    evil_trace::ALL,
    mutated_golden::ALL,
    mutated_sources::ALL,
    mutated_verdicts::ALL,
    rewrite::ALL,
    rewrite_cpu::ALL,
];

/// Every saboteur.
pub fn all() -> impl Iterator<Item = &'static Saboteur> {
    ALL.iter().flat_map(|kind| kind.iter())
}

/// The saboteur with this name.
pub fn find(name: &str) -> Option<&'static Saboteur> {
    all().find(|s| s.name == name)
}

impl Saboteur {
    /// The broken subject. Its folders are copies in the healthy subject's scratch folder.
    pub fn apply(&self, healthy: &Subject) -> io::Result<Subject> {
        let mut s = healthy.clone();
        match self.means {
            Means::EvilApr(_) => s.evil = Some(self.name),
            Means::Rewrite(rewrite) => s.rewrite = Some(rewrite),
            Means::EvilBackend(evil) => s.evil_backend = Some(evil),
            Means::EvilSampler(evil) => s.evil_sampler = Some(evil),
            Means::EvilForge(spoil) => s.spoil = Some((self.name, spoil)),
            Means::EvilInput(change) => {
                s.fixtures = mirror(&healthy.fixtures, healthy.scratch_root(), self.name)?;
                change(&s.fixtures)?;
            }
            Means::MutatedGolden(change) => {
                s.golden = mirror(&healthy.golden, healthy.scratch_root(), self.name)?;
                change(&s.golden)?;
            }
            Means::MutatedSources(change) => {
                let root = healthy.sources.as_deref().ok_or_else(|| io::Error::other("no source tree"))?;
                let copy = mirror_sources(root, healthy.scratch_root(), self.name)?;
                change(&copy)?;
                s.sources = Some(copy);
            }
            Means::MutatedVerdicts(change) => {
                let mut verdicts = healthy.verdicts.as_deref().cloned().unwrap_or_default();
                change(&mut verdicts);
                s.verdicts = Some(Arc::new(verdicts));
            }
        }
        Ok(s)
    }
}

/// A copy of what is a source tree, so that it builds: no build output, no history.
fn mirror_sources(root: &Path, scratch: &Path, name: &str) -> io::Result<PathBuf> {
    let to = tempfile::Builder::new().prefix(name).tempdir_in(scratch)?.keep();
    for path in crate::tidy::tracked(root) {
        let (file, target) = (root.join(&path), to.join(&path));
        // A file that is deleted and not yet committed is still listed.
        if file.is_file() {
            std::fs::create_dir_all(target.parent().unwrap_or(&to))?;
            // Contents only: what is read-only in the tree is there to be changed.
            std::fs::write(target, std::fs::read(file)?)?;
        }
    }
    Ok(to)
}

/// A copy of a folder.
fn mirror(from: &Path, scratch: &Path, name: &str) -> io::Result<PathBuf> {
    let to = tempfile::Builder::new().prefix(name).tempdir_in(scratch)?.keep();
    copy_tree(from, &to)?;
    Ok(to)
}

fn copy_tree(from: &Path, to: &Path) -> io::Result<()> {
    for entry in std::fs::read_dir(from)? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            std::fs::create_dir(&target)?;
            copy_tree(&entry.path(), &target)?;
        } else {
            // Contents only: the copy of a read-only file is there to be changed.
            std::fs::write(&target, std::fs::read(entry.path())?)?;
        }
    }
    Ok(())
}

/// Changes the bytes of one file. A change that changes nothing is an error: such a saboteur would prove nothing.
pub fn edit(file: &Path, change: impl FnOnce(&mut Vec<u8>)) -> io::Result<()> {
    let before = std::fs::read(file)?;
    let mut after = before.clone();
    change(&mut after);
    if after == before {
        return Err(io::Error::other(format!("the sabotage of {} changed nothing", file.display())));
    }
    std::fs::write(file, after)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn names_are_unique_words() {
        let names: BTreeSet<&str> = all().map(|s| s.name).collect();
        assert_eq!(names.len(), all().count());
        assert!(names.iter().all(|n| n.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-')));
    }

    #[test]
    fn a_change_that_changes_nothing_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("f");
        std::fs::write(&file, "abc").unwrap();
        assert!(edit(&file, |_| ()).is_err());
        edit(&file, |b| b[0] ^= 1).unwrap();
        assert_eq!(std::fs::read(&file).unwrap(), b"`bc");
    }
}
