//! `apr check`: ten stages of a model, measured on the user's own file and on the backend that would run it.
//!
//! A short text goes through the model while a tap looks at every operation ([`inspect`]). What it sees is held against
//! the file's own numbers and against the formulas of the stages, written here a second time and the obvious way. Then
//! the weights are looked at for damage ([`weights`]) and the model is asked what every language model knows
//! ([`language`]): one that cannot go on counting talks garbage, whatever its tensors look like.
//!
//! What this cannot see: damage that leaves numbers plausible and the answers right. Only a checksum shows that.

mod attention;
mod decode;
mod embedding;
mod ffn;
mod head;
mod inspect;
mod language;
mod norm;
mod numbers;
mod projection;
mod rope;
mod tokens;
mod weights;

use std::fmt;

use crate::error::{Kind, Result};
use crate::session::Loaded;

/// A row of the table in section 3.1 of the specification.
#[derive(Debug, PartialEq, Eq)]
pub struct Stage {
    /// From 1.
    pub number: usize,
    /// What is checked.
    pub component: &'static str,
    /// Whether it has a softmax.
    pub softmax: bool,
    /// For people who are five.
    pub eli5: &'static str,
}

/// The stages, in order.
//= F-CHECK-224
pub static STAGES: [Stage; 10] = [
    Stage { number: 1, component: "Tokenizer", softmax: false, eli5: "Words → numbers" },
    Stage { number: 2, component: "Embedding", softmax: false, eli5: "Numbers → vectors" },
    Stage { number: 3, component: "Positional Encoding", softmax: false, eli5: "\"You are word #3\"" },
    Stage { number: 4, component: "Q/K/V Projection", softmax: false, eli5: "Make 3 question copies" },
    Stage { number: 5, component: "Attention Scores", softmax: true, eli5: "\"Who to look at?\"" },
    Stage { number: 6, component: "Feed-Forward (MLP)", softmax: false, eli5: "\"Think about it\"" },
    Stage { number: 7, component: "Layer Norm", softmax: false, eli5: "Keep numbers stable" },
    Stage { number: 8, component: "LM Head", softmax: false, eli5: "Vector → vocab scores" },
    Stage { number: 9, component: "Logits → Probs", softmax: true, eli5: "Scores → percentages" },
    Stage { number: 10, component: "Sampler/Decode", softmax: false, eli5: "Pick word, return" },
];

const TOKENIZER: usize = 0;
const EMBEDDING: usize = 1;
const POSITION: usize = 2;
const QKV: usize = 3;
const ATTENTION: usize = 4;
const FFN: usize = 5;
const NORM: usize = 6;
const HEAD: usize = 7;
const SOFTMAX: usize = 8;
const SAMPLER: usize = 9;

/// How a stage came out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Everything that was tried held.
    Passed,
    /// Something did not.
    Failed(Fault),
    /// It could not be tried; the text says why. Not a pass.
    NotAttempted(String),
}

/// What is wrong, where, and what to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// Seen and expected.
    pub what: String,
    /// Of the transformer.
    pub layer: Option<usize>,
    /// By its name in the file.
    pub tensor: Option<String>,
    /// The likely cause.
    pub hint: &'static str,
}

impl Fault {
    fn new(what: impl Into<String>, hint: &'static str) -> Fault {
        Fault { what: what.into(), layer: None, tensor: None, hint }
    }

    fn layer(mut self, layer: usize) -> Fault {
        self.layer = Some(layer);
        self
    }

    fn tensor(mut self, name: &str) -> Fault {
        self.tensor = Some(name.into());
        self
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(layer) = self.layer {
            write!(f, "layer {layer}: ")?;
        }
        if let Some(tensor) = &self.tensor {
            write!(f, "{}: ", crate::error::printable(tensor, crate::limits::QUOTED_CHARS_MAX))?;
        }
        write!(f, "{}; {}", self.what, self.hint)
    }
}

/// One stage and how it came out.
#[derive(Clone, Debug)]
pub struct Finding {
    /// The stage.
    pub stage: &'static Stage,
    /// The outcome.
    pub verdict: Verdict,
    /// What was measured, with numbers.
    pub measured: String,
}

/// What the ten-stage verification found.
#[derive(Clone, Debug)]
pub struct CheckResult {
    /// Container and version.
    pub format: String,
    /// What ran: backend, instruction set, threads.
    pub backend: String,
    /// One per stage, in order.
    pub stages: Vec<Finding>,
}

impl CheckResult {
    /// Stages that passed.
    pub fn passed(&self) -> usize {
        self.stages.iter().filter(|f| f.verdict == Verdict::Passed).count()
    }

    /// Whether all ten did.
    pub fn all_passed(&self) -> bool {
        self.passed() == STAGES.len() && self.stages.len() == STAGES.len()
    }
}

/// What the stages write down while they look: the first fault of each, and what was measured.
#[derive(Default)]
struct Notes {
    faults: [Option<Fault>; STAGES.len()],
    measured: [Vec<String>; STAGES.len()],
}

impl Notes {
    /// Keeps the first fault of a stage: what follows from it is noise.
    fn fail(&mut self, stage: usize, fault: Fault) {
        self.faults[stage].get_or_insert(fault);
    }

    fn hold(&mut self, stage: usize, holds: bool, fault: impl FnOnce() -> Fault) {
        if !holds {
            self.fail(stage, fault());
        }
    }

    fn say(&mut self, stage: usize, what: String) {
        self.measured[stage].push(what);
    }

    fn failed(&self) -> bool {
        self.faults.iter().any(Option::is_some)
    }
}

/// Runs the ten stages on a model that was prepared to show every operation.
//= F-CHECK-211
pub fn check(loaded: &mut Loaded) -> Result<CheckResult> {
    let mut notes = Notes::default();
    let mut untold = None;
    tokens::check(loaded, &mut notes);
    let learned = weights::check(&loaded.model, &mut notes);
    embedding::rows(loaded, &mut notes);
    rope::angles(&loaded.model, &mut notes);
    let ran = inspect::run(loaded, &mut notes).and_then(|()| {
        decode::check(loaded, &mut notes)?;
        // What a broken model says means nothing, and what an untrained one says neither.
        if notes.failed() {
            untold = Some("a stage failed: what the model says means nothing");
        } else if !learned {
            untold = Some("its weights look drawn at random: it has learned no language to be asked about");
        } else {
            language::ask(loaded)?.judge(&mut notes);
        }
        Ok(())
    });
    match ran {
        // Numbers that broke the run are a finding. Which stage they began at is noted above; if none was, they came
        // from decoding.
        Err(e) if matches!(e.kind, Kind::Inference) => {
            let hint = "the stages above say where it began";
            match notes.failed() {
                true => notes.fail(SAMPLER, Fault::new(e.what, hint)),
                false => notes.fail(SAMPLER, Fault::new(e.what, "the weights are damaged")),
            }
        }
        other => other?,
    }
    let Notes { faults, measured } = notes;
    let stages = STAGES.iter().zip(faults).zip(measured).map(|((stage, fault), measured)| {
        let untold = untold.filter(|_| stage.number == SAMPLER + 1);
        let verdict = match (fault, untold) {
            (Some(fault), _) => Verdict::Failed(fault),
            (None, Some(why)) => Verdict::NotAttempted(why.into()),
            (None, None) => Verdict::Passed,
        };
        Finding { stage, verdict, measured: measured.join("; ") }
    });
    // Whatever container the model came in: nothing above knows.
    //= F-CHECK-226
    //= F-CHECK-227
    //= F-CHECK-228
    Ok(CheckResult { format: loaded.model.format.clone(), backend: loaded.backend(), stages: stages.collect() })
}
