//! What happened in a run, stage by stage, with the numbers that went through: recorded while it happens, by a tap and
//! by the session's events. The document it becomes has the field names of AWS Step Functions ([`document`]).
//!
//! Stages follow each other without a gap: one begins when the one before it ended and its numbers were looked at. So
//! the durations are clock readings, and together with the time spent on looking they are the whole run.

mod chrome;
mod digest;
mod document;
mod replay;
mod sink;
mod tensor;

use std::time::{Instant, SystemTime};

use compute::backend::Tap;
use compute::{Interest, Output, Tag};
use serde_json::{Value, json};

pub use chrome::chrome;
pub use digest::Digest;
pub use document::{Run, document};
pub use replay::{Replay, replay};
pub use sink::{Sink, abandon, text};

use crate::api::TraceStep;
use crate::error::Result;
use crate::limits;
use crate::program::{Stage, tag, untag};
use crate::sample::Sampling;
use crate::session::{Event, Observer};
use tensor::summary;

impl TraceStep {
    /// Every step with the name it has in a trace.
    pub const ALL: &'static [(&'static str, TraceStep)] = &[
        ("TOKENIZE", TraceStep::Tokenize),
        ("EMBED", TraceStep::Embed),
        ("ATTENTION", TraceStep::Attention),
        ("FFN", TraceStep::Ffn),
        ("LM_HEAD", TraceStep::LmHead),
        ("SAMPLE", TraceStep::Sample),
        ("DECODE", TraceStep::Decode),
    ];

    /// Its name in a trace.
    pub fn name(self) -> &'static str {
        TraceStep::ALL.iter().find(|s| s.1 == self).map_or("", |s| s.0)
    }

    /// The step of that name, in upper or lower case.
    pub fn named(name: &str) -> Option<TraceStep> {
        TraceStep::ALL.iter().find(|s| s.0.eq_ignore_ascii_case(name)).map(|s| s.1)
    }
}

/// A stage that ran.
#[derive(Clone, Debug)]
struct Visit {
    step: TraceStep,
    /// Of [`TraceStep::Attention`] and [`TraceStep::Ffn`].
    layer: Option<usize>,
    /// How many tokens were chosen before: 0 is the prompt, all its chunks, up to the first token.
    iteration: usize,
    /// Microseconds since the trace began.
    entered_us: u64,
    exited_us: u64,
    input: Value,
    output: Value,
}

/// The recorder.
pub struct Trace {
    /// None is all of them.
    only: Option<Vec<TraceStep>>,
    /// Values of tensors beside their statistics.
    verbose: bool,
    began: SystemTime,
    clock: Instant,
    /// Where the stage that runs now began.
    at_us: u64,
    /// Time that was spent on looking.
    overhead_us: u64,
    iteration: usize,
    /// First position and number of rows of the step that runs.
    rows: (usize, usize),
    /// The rows' tokens.
    ids: Value,
    /// The token last chosen.
    token: u32,
    visits: Vec<Visit>,
    warnings: Vec<String>,
    sampling: Option<Sampling>,
}

impl Trace {
    /// A trace that begins now.
    pub fn new(only: Option<Vec<TraceStep>>, verbose: bool) -> Trace {
        Trace {
            only,
            verbose,
            began: SystemTime::now(),
            clock: Instant::now(),
            at_us: 0,
            overhead_us: 0,
            iteration: 0,
            rows: (0, 0),
            ids: Value::Null,
            token: 0,
            visits: Vec::new(),
            warnings: Vec::new(),
            sampling: None,
        }
    }

    /// What the trace has to see, of as many layers as there are. A stage is timed by the end of the one before, so
    /// either all of these are seen or none.
    pub fn interest(&self) -> Interest {
        let inside = [TraceStep::Embed, TraceStep::Attention, TraceStep::Ffn, TraceStep::LmHead];
        if !inside.iter().any(|s| self.wants(*s)) {
            return Interest::Nothing;
        }
        let ends = [Stage::AttentionAdd, Stage::FfnAdd];
        let blocks = (0..limits::LAYERS_MAX).flat_map(|l| ends.map(|stage| tag(l, stage)));
        Interest::Tags(std::iter::once(tag(0, Stage::Embed)).chain(blocks).collect())
    }

    /// The clock starts again: what came before (loading) is no part of the run.
    pub fn restart(&mut self) {
        (self.began, self.clock) = (SystemTime::now(), Instant::now());
    }

    fn wants(&self, step: TraceStep) -> bool {
        self.only.as_ref().is_none_or(|only| only.contains(&step))
    }

    /// Microseconds since the trace began.
    pub fn elapsed_us(&self) -> u64 {
        self.clock.elapsed().as_micros() as u64
    }

    /// The stage that ran until now was this one; the next begins when this returns.
    fn leave(&mut self, step: TraceStep, layer: Option<usize>, input: Value, output: impl FnOnce(&Trace) -> Value) {
        let exited_us = self.elapsed_us();
        if self.wants(step) {
            let output = output(self);
            let (iteration, entered_us) = (self.iteration, self.at_us);
            self.visits.push(Visit { step, layer, iteration, entered_us, exited_us, input, output });
        }
        self.at_us = self.elapsed_us();
        self.overhead_us += self.at_us - exited_us;
    }

    /// Where the rows stand, as the input of a stage.
    fn place(&self) -> Value {
        json!({"position": self.rows.0, "rows": self.rows.1})
    }

    fn logits(&mut self, output: &Output) {
        let Some(row) = output.rows.last().filter(|r| !r.values.is_empty()) else { return };
        let input = json!({"position": self.rows.0 + self.rows.1 - 1, "rows": 1});
        self.leave(TraceStep::LmHead, None, input, |t| {
            let mut value = summary(&row.values, 1, t.verbose);
            let best: Vec<Value> = compute::backend::top_k(&row.values, limits::TRACE_TOP)
                .into_iter()
                .map(|(token, logit)| json!({"token": token, "logit": tensor::number(logit)}))
                .collect();
            value["top"] = best.into();
            value
        });
    }
}

impl Tap for Trace {
    //= F-TRACE-205
    fn observe(&mut self, _: usize, tag: Tag, rows: usize, values: &[f32]) {
        let (step, layer) = match untag(tag) {
            Some((_, Stage::Embed)) => (TraceStep::Embed, None),
            Some((layer, Stage::AttentionAdd)) => (TraceStep::Attention, Some(layer)),
            Some((layer, Stage::FfnAdd)) => (TraceStep::Ffn, Some(layer)),
            _ => return,
        };
        let input = if step == TraceStep::Embed { self.ids.take() } else { self.place() };
        self.leave(step, layer, input, |t| summary(values, rows, t.verbose));
    }
}

//= F-TRACE-206
/// A trace between a run and who watches it: everything is passed on.
pub struct Traced<'a> {
    /// The recorder.
    pub trace: &'a mut Trace,
    /// Who watches.
    pub watcher: &'a mut dyn Observer,
}

impl Observer for Traced<'_> {
    fn event(&mut self, event: Event<'_>) -> Result<()> {
        let trace = &mut *self.trace;
        match &event {
            Event::Tokenized { text, ids } => {
                trace.leave(TraceStep::Tokenize, None, json!(text), |_| tensor::cut(ids));
            }
            Event::Step { position, ids } => {
                trace.rows = (*position, ids.len());
                trace.ids = tensor::cut(ids);
            }
            Event::Stepped(output) => trace.logits(output),
            Event::Chosen(token) => {
                trace.token = *token;
                let input = json!({"position": trace.rows.0 + trace.rows.1 - 1});
                trace.leave(TraceStep::Sample, None, input, |_| json!(token));
            }
            Event::Sampling(sampling) => trace.sampling = Some((*sampling).clone()),
            Event::Warning(text) => trace.warnings.push((*text).into()),
            _ => {}
        }
        let decoded = match &event {
            Event::Decoded(text) => Some(json!(text)),
            _ => None,
        };
        self.watcher.event(event)?;
        if let Some(text) = decoded {
            let trace = &mut *self.trace;
            trace.leave(TraceStep::Decode, None, json!(trace.token), |_| text);
            trace.iteration += 1;
        }
        Ok(())
    }

    fn tap(&mut self) -> Option<&mut dyn Tap> {
        Some(self.trace)
    }
}
