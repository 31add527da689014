//! What a check sees: a binary to watch, model files, oracle output, a scratch folder. Nothing else.
//!
//! The healthy subject and every sabotaged one are values of the same type, so the same check runs on all of them. A
//! check must reach the product through here only: a path it made up itself would escape the saboteurs.

use std::ffi::OsStr;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tempfile::TempDir;

use crate::child::Run;
use crate::forge;
use crate::sabotage::evil_backend::Evil;
use crate::sabotage::evil_sampler::Meddle;
use crate::suite::Record;
use crate::verdict::{Halt, fixture_weak, instrument};

/// A rewrite of a model's program, for checks that run the engine in this process.
pub type Rewrite = fn(&mut compute::Program);

/// A change of a forged file, given the name it was forged by.
pub type Spoil = fn(&str, &Path) -> std::io::Result<()>;

/// What is being tried.
#[derive(Clone)]
pub struct Subject {
    /// The `apr` binary that was built, or named by hand.
    pub real_apr: PathBuf,
    /// The wrapper that misbehaves.
    pub evil_apr: PathBuf,
    /// Folder of fixture models.
    pub fixtures: PathBuf,
    /// Folder of oracle output.
    pub golden: PathBuf,
    /// Folder of real weights.
    pub models: Option<PathBuf>,
    /// The root of the source tree, where there is one.
    pub sources: Option<PathBuf>,
    /// How the wrapper is to misbehave: children run it instead of `real_apr`.
    pub evil: Option<&'static str>,
    /// In-process checks apply this to every program they build. See [`Subject::rewritten`].
    pub rewrite: Option<Rewrite>,
    /// In-process checks run on a backend that does this. See [`crate::lab`].
    pub evil_backend: Option<Evil>,
    /// Samplers that a check draws with do this. See [`crate::chance`].
    pub evil_sampler: Option<Meddle>,
    /// Done to every file of the forge, by the saboteur of this name. See [`Subject::forged`].
    pub spoil: Option<(&'static str, Spoil)>,
    /// What became of the other rows of the same run, for the row that is computed from them.
    pub verdicts: Option<Arc<Vec<Record>>>,
    scratch: Arc<TempDir>,
}

/// What a subject is made of.
pub struct Paths {
    /// The binary to watch.
    pub apr: PathBuf,
    /// The misbehaving wrapper.
    pub evil_apr: PathBuf,
    /// Fixture models.
    pub fixtures: PathBuf,
    /// Oracle output.
    pub golden: PathBuf,
    /// Real weights.
    pub models: Option<PathBuf>,
    /// The root of the source tree.
    pub sources: Option<PathBuf>,
}

impl Subject {
    /// The healthy subject.
    pub fn healthy(paths: Paths) -> std::io::Result<Subject> {
        let Paths { apr, evil_apr, fixtures, golden, models, sources } = paths;
        let scratch = Arc::new(tempfile::Builder::new().prefix("falsify-").tempdir()?);
        Ok(Subject {
            real_apr: apr,
            evil_apr,
            fixtures,
            golden,
            models,
            sources,
            evil: None,
            rewrite: None,
            evil_backend: None,
            evil_sampler: None,
            spoil: None,
            verdicts: None,
            scratch,
        })
    }

    /// The same with another binary to watch, whoever broke it.
    pub fn with_apr(&self, apr: PathBuf) -> Subject {
        Subject { real_apr: apr, ..self.clone() }
    }

    /// The same with nothing that misbehaves between: where this system's own `apr` is the oracle of another one's.
    pub fn unspoilt(&self) -> Subject {
        Subject { evil: None, ..self.clone() }
    }

    /// `apr` with these arguments, in a small known environment. A saboteur's wrapper takes its place.
    pub fn apr<A: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = A>) -> Run {
        let run = match self.evil {
            None => Run::new(self.real_apr.as_os_str()),
            Some(how) => {
                Run::new(self.evil_apr.as_os_str()).env("APR_REAL", self.real_apr.as_os_str()).env("EVIL", how)
            }
        };
        run.args(args)
    }

    /// The fixture model of this quantisation, as in its file name: `q8_0`, `q4_k_m`, `f16`.
    pub fn fixture(&self, quantisation: &str) -> Result<PathBuf, Halt> {
        let wanted = format!("-{quantisation}.gguf");
        let mut found = list(&self.fixtures)?;
        found.retain(|p| p.file_name().is_some_and(|n| n.to_string_lossy().ends_with(&wanted)));
        match found.as_slice() {
            [one] => Ok(one.clone()),
            [] => Err(instrument(format!("no *{wanted} among the fixtures"))),
            many => Err(instrument(format!("{} files are called *{wanted}", many.len()))),
        }
    }

    /// The model that most rows ask.
    pub fn model(&self) -> Result<PathBuf, Halt> {
        self.fixture("q8_0")
    }

    /// A model of the forge, made once per subject: a file, of a split model the first one, or a folder. A saboteur may
    /// spoil it.
    pub fn forged(&self, name: &str) -> Result<PathBuf, Halt> {
        let broken = |e: std::io::Error| instrument(format!("forging {name}: {e}"));
        let spoilt = self.spoil.map_or("sound".to_string(), |(who, _)| format!("by-{who}"));
        let kept = self.scratch.path().join("forged").join(spoilt);
        let file = kept.join(forge::file_name(name));
        let parts = forge::paths(name, &file).map_err(broken)?;
        if !parts.iter().all(|p| p.exists()) {
            // Another check may be making the same file: made aside, then moved into place.
            let aside = self.scratch()?;
            let draft = aside.join(forge::file_name(name));
            forge::write(name, &draft).map_err(broken)?;
            std::fs::create_dir_all(&kept).map_err(broken)?;
            for part in forge::paths(name, &draft).map_err(broken)? {
                if let Some((_, spoil)) = self.spoil {
                    spoil(name, &part).map_err(broken)?;
                }
                let place = kept.join(part.file_name().unwrap_or_default());
                // A folder cannot take the place of one that the other check has put there meanwhile.
                let placed = std::fs::rename(&part, &place);
                placed.or_else(|e| if place.exists() { Ok(()) } else { Err(e) }).map_err(broken)?;
            }
        }
        parts.into_iter().next().ok_or_else(|| instrument(format!("the forge made nothing for {name}")))
    }

    /// Refuses to go on unless the fixture model answers at least 90 % of at least 20 held-out prompts of this skill,
    /// in every form that rows run. `fixtures/skills.json` was measured when the model was made.
    pub fn needs_skill(&self, skill: &str) -> Result<(), Halt> {
        let file = self.fixtures.join("skills.json");
        let text = std::fs::read_to_string(&file).map_err(|e| instrument(format!("fixtures/skills.json: {e}")))?;
        let measured: serde_json::Value = serde_json::from_str(&text).map_err(instrument)?;
        let measured = &measured["skills"][skill];
        if measured["n"].as_u64().is_none_or(|n| n < 20) {
            return Err(fixture_weak(format!("{skill} was measured on fewer than 20 held-out prompts")));
        }
        for form in ["q8_0", "q4_k_m"] {
            let share = measured["accuracy"][form].as_f64().unwrap_or(0.0);
            if share < 0.9 {
                return Err(fixture_weak(format!("{skill} in {form}: {:.0} % of held-out prompts", share * 100.0)));
            }
        }
        Ok(())
    }

    /// Text of a file of the oracle's output.
    pub fn golden_text(&self, name: &str) -> Result<String, Halt> {
        std::fs::read_to_string(self.golden.join(name)).map_err(|e| instrument(format!("golden/{name}: {e}")))
    }

    /// The root of the source tree.
    pub fn sources(&self) -> Result<&Path, Halt> {
        self.sources.as_deref().ok_or_else(|| instrument("no source tree"))
    }

    /// The program after this subject's rewrite, if it has one.
    pub fn rewritten(&self, mut program: compute::Program) -> compute::Program {
        if let Some(rewrite) = self.rewrite {
            rewrite(&mut program);
        }
        program
    }

    /// A new empty folder that goes away with the subject.
    pub fn scratch(&self) -> Result<PathBuf, Halt> {
        let folder = tempfile::Builder::new().tempdir_in(self.scratch.path()).map_err(instrument)?;
        Ok(folder.keep())
    }

    /// The folder in which saboteurs lay out what they changed.
    pub fn scratch_root(&self) -> &Path {
        self.scratch.path()
    }
}

impl fmt::Debug for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Subject({}, evil {:?}, rewritten {})", self.real_apr.display(), self.evil, self.rewrite.is_some())
    }
}

/// Files of a folder, sorted.
pub fn list(folder: &Path) -> Result<Vec<PathBuf>, Halt> {
    let entries = std::fs::read_dir(folder).map_err(|e| instrument(format!("{}: {e}", folder.display())))?;
    let mut files: Vec<PathBuf> = entries.flatten().map(|e| e.path()).collect();
    files.sort();
    Ok(files)
}
