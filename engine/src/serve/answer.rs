//! From the fields of a request to answers: what all dialects share. A dialect says how its answers are spelled.

use std::sync::Arc;
use std::time::Instant;

use axum::body::Body;
use axum::http::{HeaderMap, HeaderValue, Response, StatusCode};
use serde_json::{Value, json};
use tokio::sync::mpsc;

use super::fields::{Fields, wrong};
use super::problem::{Answered, Problem, json_of};
use super::traced::{self, Level};
use super::{Served, Server, Working, body, door};
use crate::limits;
use crate::sample::settings::{Asked, Setting};
use crate::sample::{Sampling, Step};
use crate::scheduler::{Event, Request, Reuse, Ticket, Timings, Token, Usage};
use crate::session::Finish;
use crate::text::StopFinder;

/// What is wanted, understood and checked.
pub struct Wanted {
    /// Token ids of each prompt.
    pub prompts: Vec<Vec<u32>>,
    /// Answers to each.
    pub choices: usize,
    /// Everything but the prompt.
    pub request: Request,
    /// Piece by piece.
    pub stream: bool,
    /// A stream ends with its usage.
    pub include_usage: bool,
    /// With a trace of this depth.
    pub trace: Option<Level>,
    /// The caller's span.
    #[cfg(feature = "otel")]
    pub parent: Option<super::otel::Parent>,
}

/// An answer.
#[derive(Clone, Debug)]
pub struct Answer {
    /// Its text.
    pub text: String,
    /// Its tokens.
    pub tokens: Vec<Token>,
    /// Why it ended.
    pub finish: Finish,
    /// Tokens, counted.
    pub usage: Usage,
    /// Time.
    pub timings: Timings,
    /// What of the prompt was there already.
    pub reuse: Option<Reuse>,
}

/// How a dialect spells answers. Choices go into frames.
pub trait Spelling: Send + Sync + 'static {
    /// The choice of a whole answer.
    fn whole(&self, index: usize, answer: &Answer) -> Value;
    /// What a stream says first of a choice, if it says anything.
    fn opening(&self, index: usize) -> Option<Value>;
    /// Pieces of a choice: the text that tokens made certain. The answer so far has it too. A dialect may hold text back.
    fn piece(&self, index: usize, text: &str, tokens: &[Token], answer: &Answer) -> Vec<Value>;
    /// The end of a choice, after what was held back.
    fn closing(&self, index: usize, answer: &Answer) -> Vec<Value>;
    /// The object around choices. `usage` is there in a whole reply, and in the last frame of a stream that wants it.
    fn frame(&self, choices: Vec<Value>, usage: Option<Value>, chunk: bool) -> Value;
}

impl Wanted {
    /// Reads what all dialects share.
    pub fn read(served: &Served, fields: &Fields, headers: &HeaderMap, prompts: Vec<Vec<u32>>) -> Answered<Wanted> {
        let choices = fields.whole("n", 1, limits::CHOICES_MAX as u64)?.unwrap_or(1) as usize;
        if choices * prompts.len() > limits::CHOICES_MAX {
            let what = format!("{} answers at once; at most {}", choices * prompts.len(), limits::CHOICES_MAX);
            return Err(Problem::field("n", what));
        }
        let stops = fields.texts("stop")?; //= F-SERVE-243
        StopFinder::new(&stops).map_err(|e| Problem::field("stop", e.what).code("invalid_value"))?;
        let stream = fields.flag("stream")?.unwrap_or(false);
        let usage = match fields.object("stream_options")? {
            Some(_) if !stream => {
                return Err(Problem::field("stream_options", "'stream_options' needs 'stream': true"));
            }
            Some(options) => options.get("include_usage").cloned().unwrap_or(Value::Bool(false)),
            None => Value::Bool(false),
        };
        let include_usage =
            usage.as_bool().ok_or_else(|| wrong("stream_options.include_usage", &usage, "a boolean"))?;
        let trace = Level::asked(headers)?;
        if trace.is_some() && (stream || choices * prompts.len() > 1) {
            return Err(Problem::field("x-trace-level", "a traced request has one answer, and it is not streamed"));
        }
        let request = Request {
            sampling: sampling(served, fields)?,
            stops,
            logprobs: None,
            deadline: Some(served.timeout),
            ..Request::new(Vec::new())
        };
        Ok(Wanted {
            prompts,
            choices,
            request,
            stream,
            include_usage,
            trace,
            #[cfg(feature = "otel")]
            parent: super::otel::Parent::read(headers),
        })
    }

    /// Sets the limit on tokens from the field that says it, and refuses prompts that leave no room for any.
    //= F-SERVE-241
    pub fn limited(mut self, served: &Served, fields: &Fields, names: &[&str], default: usize) -> Answered<Wanted> {
        let mut most = None;
        for name in names {
            let said = fields.whole(name, 1, limits::CONTEXT_MAX as u64)?;
            if let (Some(a), Some(b)) = (most, said)
                && a != b
            {
                return Err(Problem::field(name, format!("{} say different numbers", names.join(" and "))));
            }
            most = most.or(said);
        }
        self.request.max_tokens = most.map_or(default, |n| n as usize);
        let context = served.handle.model().context;
        for prompt in &self.prompts {
            let (has, asked) = (prompt.len(), self.request.max_tokens);
            // As OpenAI has it: what was asked for has to fit. The default takes what room there is.
            if has >= context || most.is_some() && has + asked > context {
                let wanted = if most.is_some() { format!("{asked} tokens of the answer") } else { "an answer".into() };
                let what = format!(
                    "this model's maximum context length is {context} tokens; the prompt has {has}, which leaves no room for {wanted}"
                );
                return Err(Problem::new(StatusCode::BAD_REQUEST, what).code("context_length_exceeded"));
            }
        }
        Ok(self)
    }
}

/// How tokens are to be chosen: what the model recommends, and on it what was asked for. What is out of range is
/// refused here, where the command line clamps it.
//= F-SERVE-242
fn sampling(served: &Served, fields: &Fields) -> Answered<Sampling> {
    let mut asked = Asked { seed: seed(fields)?, ..Asked::default() };
    for setting in Setting::ALL {
        let mut names = vec![setting.name.replace('-', "_")];
        if setting.name == "repeat-penalty" {
            names.push("repetition_penalty".into());
        }
        for name in names {
            let (low, high) = setting.range;
            if let Some(x) = fields.number(&name, low, high)? {
                if !setting.takes(x) {
                    return Err(Problem::field(&name, format!("'{name}' goes in steps of {}", setting.step)));
                }
                asked.values.push((setting, x));
            }
        }
    }
    if let Some(chain) = fields.text("samplers")? {
        asked.order = Some(Step::chain(chain).map_err(|e| Problem::field("samplers", e.what))?);
    }
    let vocab = served.handle.model().tokenizer.vocab_size();
    for (id, bias) in fields.object("logit_bias")?.into_iter().flatten() {
        let expected = format!("an object of numbers from -100 to 100 by token id, of which there are {vocab}");
        let refuse = || wrong("logit_bias", &json!({id: bias}), &expected);
        let token = id.parse::<u32>().ok().filter(|t| (*t as usize) < vocab).ok_or_else(refuse)?;
        let x = bias.as_f64().filter(|x| (-100.0..=100.0).contains(x)).ok_or_else(refuse)?;
        asked.logit_bias.push((token, x as f32));
    }
    let mut sampling = served.recommended.clone();
    sampling.asked(&asked);
    Ok(sampling)
}

/// The seed that was asked for, or one that nobody can guess: two who ask the same get different answers.
fn seed(fields: &Fields) -> Answered<u64> {
    let Some(value) = fields.get("seed") else {
        return Ok(u64::from_str_radix(&door::unique("")[..16], 16).unwrap_or_default());
    };
    let whole = value.as_u64().or(value.as_i64().map(i64::cast_unsigned));
    whole.ok_or_else(|| wrong("seed", value, "a whole number of 64 bits"))
}

/// Answers as the request wants it: whole, in pieces, or with a trace.
//= F-SERVE-257
//= F-SERVE-258
pub async fn reply(
    server: Arc<Server>,
    working: Working,
    wanted: Wanted,
    spelling: impl Spelling,
) -> Answered<Response<Body>> {
    let seed = wanted.request.sampling.seed;
    let mut reply = if let Some(level) = wanted.trace {
        let (answer, trace) = traced::answer(&server, wanted, level).await?;
        let mut frame = spelling.frame(vec![spelling.whole(0, &answer)], Some(usage_of(&[&answer], 1)), false);
        frame["trace"] = trace;
        json_of(&frame)
    } else {
        let (stream, include_usage, choices) = (wanted.stream, wanted.include_usage, wanted.choices);
        let asking = Asking::submit(&server, working, wanted)?;
        if stream { streamed(asking, spelling, include_usage) } else { whole(asking, spelling, choices).await? }
    };
    if let Ok(seed) = HeaderValue::from_str(&seed.to_string()) {
        reply.headers_mut().insert("x-seed", seed);
    }
    Ok(reply)
}

/// Requests under way. Dropping it cancels them: it is dropped with the reply when the peer goes away.
struct Asking {
    server: Arc<Server>,
    events: mpsc::UnboundedReceiver<(usize, Event)>,
    /// By choice; none once it ended.
    tickets: Vec<Option<Ticket>>,
    answers: Vec<Answer>,
    choices: usize,
    began: Instant,
    #[cfg(feature = "otel")]
    span: super::otel::Span,
    _working: Working,
}

impl Asking {
    /// All of them or none.
    //= F-SERVE-239
    fn submit(server: &Arc<Server>, working: Working, wanted: Wanted) -> Answered<Asking> {
        let handle = &server.served()?.handle;
        #[cfg(feature = "otel")]
        let now = std::time::SystemTime::now();
        let (sender, events) = mpsc::unbounded_channel();
        let (mut tickets, mut answers) = (Vec::new(), Vec::new());
        for prompt in &wanted.prompts {
            for choice in 0..wanted.choices {
                let index = tickets.len();
                let mut request = Request { prompt: prompt.clone(), ..wanted.request.clone() };
                // What room there is differs from prompt to prompt.
                request.max_tokens = request.max_tokens.min(handle.model().context.saturating_sub(prompt.len()));
                request.sampling.seed = request.sampling.seed.wrapping_add(choice as u64);
                let (sender, server) = (sender.clone(), Arc::clone(server));
                let sink = move |event: Event| {
                    if let Event::Token(_) = event {
                        server.counts.token();
                    }
                    // Nobody listens any more: the ticket is gone too.
                    let _ = sender.send((index, event));
                };
                tickets.push(Some(handle.submit(request, sink)?));
                answers.push(Answer {
                    text: String::new(),
                    tokens: Vec::new(),
                    finish: Finish::Length,
                    usage: Usage { prompt_tokens: prompt.len(), ..Usage::default() },
                    timings: Timings::default(),
                    reuse: None,
                });
            }
        }
        let (server, choices) = (Arc::clone(server), wanted.choices);
        #[cfg(feature = "otel")]
        let span = super::otel::Span::begin(server.exporter.as_ref(), wanted.parent, &server.name, now);
        Ok(Asking {
            server,
            events,
            tickets,
            answers,
            choices,
            began: Instant::now(),
            #[cfg(feature = "otel")]
            span,
            _working: working,
        })
    }

    /// The next thing that happens; none when all answers are complete.
    async fn next(&mut self) -> Answered<Option<(usize, Event)>> {
        if self.tickets.iter().all(Option::is_none) {
            self.server.counts.finished(self.began.elapsed());
            #[cfg(feature = "otel")]
            self.span.end(&self.answers, None);
            return Ok(None);
        }
        let gone = || Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "the engine has stopped").code("engine_stopped");
        let (index, event) = self.events.recv().await.ok_or_else(gone)?;
        let answer = &mut self.answers[index];
        match &event {
            Event::Started(reuse) => answer.reuse = Some(*reuse),
            Event::Token(token) => {
                answer.text.push_str(&token.text);
                answer.tokens.push(token.clone());
            }
            Event::Done(done) => {
                answer.text.push_str(&done.text);
                (answer.finish, answer.usage, answer.timings) = (done.finish, done.usage, done.timings);
                self.tickets[index] = None;
            }
            Event::Failed(e) => {
                #[cfg(feature = "otel")]
                self.span.end(&self.answers, Some(&e.to_string()));
                return Err(e.clone().into());
            }
        }
        Ok(Some((index, event)))
    }
}

async fn whole(mut asking: Asking, spelling: impl Spelling, choices: usize) -> Answered<Response<Body>> {
    while asking.next().await?.is_some() {}
    let spelled = asking.answers.iter().enumerate().map(|(i, a)| spelling.whole(i, a)).collect();
    let usage = usage_of(&asking.answers.iter().collect::<Vec<_>>(), choices);
    Ok(json_of(&spelling.frame(spelled, Some(usage), false)))
}

//= F-SERVE-237
fn streamed(asking: Asking, spelling: impl Spelling, include_usage: bool) -> Response<Body> {
    // A reader who is slow holds up nobody but himself: the scheduler's events wait in a channel of their own. The
    // connection's own task spells them: on two cores each further task that a token wakes costs the model.
    let (pieces, receiver) = mpsc::channel(16);
    let telling = async move {
        let told = tell(asking, spelling, include_usage, &pieces).await;
        let last = match told {
            Ok(()) => "[DONE]".into(),
            Err(problem) => problem.json().to_string(),
        };
        let _ = pieces.send(format!("data: {last}\n\n")).await;
    };
    body::events(receiver, telling)
}

async fn tell(
    mut asking: Asking,
    spelling: impl Spelling,
    include_usage: bool,
    pieces: &mpsc::Sender<String>,
) -> Answered<()> {
    let say = async |choices: Vec<Value>, usage: Option<Value>| {
        let mut frame = spelling.frame(choices, usage, true);
        if include_usage && frame["usage"].is_null() {
            frame["usage"] = Value::Null;
        }
        // A reader who left drops the receiver, and with it this.
        let _ = pieces.send(format!("data: {frame}\n\n")).await;
    };
    // Tokens of each choice that were told: one without a text of its own is told with the next that has some.
    let mut told = vec![0; asking.answers.len()];
    while let Some((index, event)) = asking.next().await? {
        match event {
            Event::Started(_) => {
                if let Some(opening) = spelling.opening(index) {
                    say(vec![opening], None).await;
                }
            }
            Event::Token(token) if token.text.is_empty() && token.logprobs.is_none() => {}
            Event::Token(token) => {
                let answer = &asking.answers[index];
                let new = &answer.tokens[std::mem::replace(&mut told[index], answer.tokens.len())..];
                for piece in spelling.piece(index, &token.text, new, answer) {
                    say(vec![piece], None).await;
                }
            }
            Event::Done(done) => {
                let answer = &asking.answers[index];
                let new = &answer.tokens[told[index]..];
                let mut last = match done.text.is_empty() && new.is_empty() {
                    true => Vec::new(),
                    false => spelling.piece(index, &done.text, new, answer),
                };
                last.extend(spelling.closing(index, answer));
                for piece in last {
                    say(vec![piece], None).await;
                }
            }
            // `next` made an error of it.
            Event::Failed(_) => {}
        }
    }
    if include_usage {
        say(Vec::new(), Some(usage_of(&asking.answers.iter().collect::<Vec<_>>(), asking.choices))).await;
    }
    Ok(())
}

/// The usage of a whole reply. A prompt counts once, however many answers it got.
fn usage_of(answers: &[&Answer], choices: usize) -> Value {
    let prompts: usize = answers.iter().step_by(choices).map(|a| a.usage.prompt_tokens).sum();
    let cached: usize = answers.iter().step_by(choices).map(|a| a.usage.cached_tokens).sum();
    let completion: usize = answers.iter().map(|a| a.usage.completion_tokens).sum();
    json!({
        "prompt_tokens": prompts,
        "completion_tokens": completion,
        "total_tokens": prompts + completion,
        "prompt_tokens_details": {"cached_tokens": cached},
        "completion_tokens_details": {"reasoning_tokens": 0},
    })
}
