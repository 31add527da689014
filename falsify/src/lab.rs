//! The engine in this process: opens models, runs tokens, watches operations. What numeric checks are made of.
//!
//! Every function takes the [`Subject`] or something opened through it, so that rewrites, evil backends and evil files
//! reach whatever a check looks at. An error of the engine where a healthy one has none is a refutation.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::AtomicBool;

use compute::backend::{NoTap, RowOutput, Tap};
use compute::cpu::{Cpu, isa::Isa};
use compute::cuda::Cuda;
use compute::plain::Plain;
use compute::{Backend, Interest, Tag, Want};
use engine::program::{Stage, untag};
use engine::sample::Sampling;
use engine::session::{Answer, Event, Generation, Loaded, Observer, PREFILL_CHUNK, Prompt, Session};
use engine::text::{Message, Segment};
use serde_json::Value;

use crate::sabotage::evil_backend::EvilBackend;
use crate::subject::Subject;
use crate::verdict::{Halt, Refutation, instrument};

/// How to open a model.
#[derive(Clone, Copy, Debug)]
pub struct Setup {
    /// Instruction set; the best one if none.
    pub isa: Option<&'static str>,
    /// Workers.
    pub threads: usize,
    /// The oracle backend instead of the CPU backend.
    pub oracle: bool,
    /// The CUDA backend instead of the CPU backend.
    pub gpu: bool,
    /// Show every operation to the tap of [`watch`].
    pub watched: bool,
    /// Positions; the model's own if none.
    pub context: Option<usize>,
}

impl Default for Setup {
    fn default() -> Setup {
        Setup { isa: None, threads: 2, oracle: false, gpu: false, watched: false, context: None }
    }
}

/// Opens a model as the subject would, or refutes.
pub fn open(s: &Subject, path: &Path, setup: Setup) -> Result<Loaded, Halt> {
    try_open(s, path, setup)?.map_err(|e| {
        Refutation::new("the engine opens the model", e.to_string(), format!("{} opens", path.display())).into()
    })
}

/// The error with which the engine refuses a file, or a refutation that it does not.
pub fn refusal(s: &Subject, path: &Path) -> Result<engine::Error, Halt> {
    match try_open(s, path, Setup::default())? {
        Err(error) => Ok(error),
        Ok(_) => Err(Refutation::new("the engine refuses the file", "it opened", "an error").into()),
    }
}

/// What the engine says to a file.
pub fn try_open(s: &Subject, path: &Path, setup: Setup) -> Result<engine::Result<Loaded>, Halt> {
    let interest = if setup.watched { Interest::Everything } else { Interest::Nothing };
    on_backend(s, setup, |backend| {
        Loaded::open_rewritten(path, backend, setup.context, &interest, |program| {
            if let Some(rewrite) = s.rewrite {
                rewrite(program);
            }
        })
    })
}

/// Hands `work` the backend that this setup names, meddled with as the subject says.
pub fn on_backend<T>(s: &Subject, setup: Setup, work: impl FnOnce(&dyn Backend) -> T) -> Result<T, Halt> {
    let isa = match setup.isa {
        None => Isa::detect(),
        Some(name) => Isa::from_name(name).ok_or_else(|| instrument(format!("this processor has no {name}")))?,
    };
    let cpu = Cpu { isa, threads: setup.threads };
    let cuda = if setup.gpu { Some(Cuda::detect().map_err(instrument)?) } else { None };
    let sound: &dyn Backend = match &cuda {
        Some(cuda) => cuda,
        None if setup.oracle => &Plain,
        None => &cpu,
    };
    Ok(match s.evil_backend {
        None => work(sound),
        Some(evil) => work(&EvilBackend { inner: sound, evil }),
    })
}

/// Ids of a user's prompt through the model's chat template.
pub fn chat_ids(model: &Loaded, prompt: &str) -> Result<Vec<u32>, Halt> {
    running("the prompt encodes", model.encode_prompt(&Prompt { text: prompt, system: None, raw: false }))
}

/// The value of an engine call that a healthy engine does without an error.
pub fn running<T>(what: &str, result: engine::Result<T>) -> Result<T, Halt> {
    result.map_err(|e| Refutation::new(what, e.to_string(), "no error").into())
}

/// Runs ids from position 0 in chunks; gives every row's output.
pub fn rows(model: &mut Loaded, ids: &[u32], chunk: usize, want: Want) -> Result<Vec<RowOutput>, Halt> {
    let mut session = Session::new(model);
    let mut out = Vec::new();
    for part in ids.chunks(chunk) {
        running("a step runs", session.feed(part, want, want, &mut NoTap))?;
        out.extend_from_slice(&session.output().rows);
    }
    Ok(out)
}

/// A greedy answer to prompt ids.
pub fn greedy(model: &mut Loaded, ids: &[u32], max_tokens: usize) -> Result<Answer, Halt> {
    answer(model, ids, max_tokens, Sampling::default(), PREFILL_CHUNK)
}

/// An answer to prompt ids.
pub fn answer(
    model: &mut Loaded,
    ids: &[u32],
    max_tokens: usize,
    sampling: Sampling,
    prefill_chunk: usize,
) -> Result<Answer, Halt> {
    let generation = Generation { max_tokens, sampling, stops: Vec::new(), grammar: None, prefill_chunk, draft_max: 0 };
    let never = AtomicBool::new(false);
    running("it generates", Session::new(model).generate(ids, &generation, &mut engine::Silent, &never))
}

/// What a tap saw: `[rows, width]` of every operation's output, by layer and stage.
#[derive(Default)]
pub struct Seen {
    /// Rows of the batch.
    pub rows: usize,
    /// Values, row after row.
    pub values: BTreeMap<(usize, u16), Vec<f32>>,
    /// Logits of each row.
    pub outputs: Vec<RowOutput>,
}

impl Tap for Seen {
    fn observe(&mut self, _: usize, tag: Tag, rows: usize, values: &[f32]) {
        self.rows = rows;
        if let Some((layer, stage)) = untag(tag) {
            self.values.insert((layer, stage as u16), values.to_vec());
        }
    }
}

impl Seen {
    /// The output of a stage of a layer.
    pub fn of(&self, layer: usize, stage: Stage) -> Result<&[f32], Halt> {
        let found = self.values.get(&(layer, stage as u16)).map(Vec::as_slice);
        found.ok_or_else(|| {
            Refutation::new("the program has every stage", format!("no {stage:?} in layer {layer}"), "its output")
                .into()
        })
    }
}

impl Seen {
    /// One row of it.
    pub fn row(&self, layer: usize, stage: Stage, row: usize) -> Result<&[f32], Halt> {
        let all = self.of(layer, stage)?;
        let width = all.len() / self.rows.max(1);
        all.get(row * width..(row + 1) * width).ok_or_else(|| instrument(format!("{stage:?} has no row {row}")))
    }
}

/// Runs ids in one batch on a model that was opened `watched`, and keeps what every operation wrote.
pub fn watch(model: &mut Loaded, ids: &[u32]) -> Result<Seen, Halt> {
    let mut seen = Seen::default();
    let mut session = Session::new(model);
    // Non-finite numbers are what some checks look for: the guard's error is not a reason to stop here.
    let _guarded = session.feed(ids, Want::Logits, Want::Logits, &mut seen);
    seen.outputs = session.output().rows.clone();
    if seen.rows == 0 {
        return Err(instrument("the tap saw nothing: the model was not opened watched"));
    }
    Ok(seen)
}

/// The same in several batches, of so many ids each: what was seen of each, and where it began. The last part takes
/// what is left.
pub fn watch_parts(model: &mut Loaded, ids: &[u32], parts: &[usize]) -> Result<Vec<(usize, Seen)>, Halt> {
    let mut session = Session::new(model);
    let mut all = Vec::new();
    let mut start = 0;
    while start < ids.len() {
        let len = parts.get(all.len()).copied().unwrap_or(ids.len()).min(ids.len() - start);
        let mut seen = Seen::default();
        running("a step runs", session.feed(&ids[start..start + len], Want::Logits, Want::Logits, &mut seen))?;
        seen.outputs = session.output().rows.clone();
        if seen.rows != len {
            return Err(instrument(format!("the tap saw {} rows of {len}: was the model opened watched?", seen.rows)));
        }
        all.push((start, seen));
        start += len;
    }
    Ok(all)
}

/// Prose, code, numbers and several scripts: what numeric checks feed to models.
pub const PROBE: &str = "The quick brown fox counts: 1, 2, 3, 4, 5.\n\ndef add(a, b):\n    return a + b\n\nWhat is 17 + 25? \
    Paris is the capital of France; 東京は日本の首都です。 Привет, мир! Çok güzel, señor — naïve café. 🚀🌸\n\
    {\"name\": \"Ada\", \"age\": 36} and so the story of the lazy dog goes on with the fish in the water.\n";

/// The first `n` ids of [`PROBE`], which is repeated as needed.
pub fn probe(model: &Loaded, n: usize) -> Result<Vec<u32>, Halt> {
    let ids = running("the probe encodes", model.tokenizer.encode_text(PROBE))?;
    if ids.is_empty() {
        return Err(Refutation::new("text has tokens", "none", "some").into());
    }
    Ok(ids.into_iter().cycle().take(n).collect())
}

/// An observer that keeps the pieces of the answer.
struct Pieces(Vec<String>);

impl Observer for Pieces {
    fn event(&mut self, event: Event<'_>) -> engine::Result<()> {
        if let Event::Text(text) = event {
            self.0.push(text.to_string());
        }
        Ok(())
    }
}

/// A greedy answer, and the pieces in which it came.
pub fn in_pieces(model: &mut Loaded, ids: &[u32], max_tokens: usize) -> Result<(Vec<String>, Answer), Halt> {
    let mut pieces = Pieces(Vec::new());
    let generation = Generation {
        max_tokens,
        sampling: Sampling::default(),
        stops: Vec::new(),
        grammar: None,
        prefill_chunk: PREFILL_CHUNK,
        draft_max: 0,
    };
    let never = AtomicBool::new(false);
    let answer = Session::new(model).generate(ids, &generation, &mut pieces, &never);
    Ok((pieces.0, running("it generates", answer)?))
}

/// A conversation as JSON, through the model's template.
pub fn rendered(model: &Loaded, messages: &Value, tools: &Value, ask: bool) -> Result<Vec<Segment>, Halt> {
    let template = running("the file's template is read", model.template.as_ref().map_err(Clone::clone))?;
    let template = template.as_ref().ok_or_else(|| Refutation::new("the file's template is used", "none", "one"))?;
    let messages: Vec<Message> = serde_json::from_value(messages.clone()).map_err(instrument)?;
    let tools = Some(tools).filter(|t| !t.is_null());
    running("a conversation renders", template.render(&messages, tools, ask))
}

/// Scaffold and content in one piece.
pub fn text_of_segments(segments: &[Segment]) -> String {
    let text = |s: &Segment| match s {
        Segment::Scaffold(text) | Segment::Content(text) => text.clone(),
    };
    segments.iter().map(text).collect()
}
