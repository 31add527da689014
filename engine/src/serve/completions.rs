//! `/v1/completions`: OpenAI's older door. A prompt is completed as it is, and control tokens in it are control tokens.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::Request;
use axum::http::{Method, Response};
use serde_json::{Value, json};

use super::answer::{self, Answer, Spelling, Wanted};
use super::chat::finish_reason;
use super::fields::wrong;
use super::logprobs::of_completion;
use super::problem::{Answered, Problem};
use super::route::{Route, field, needed};
use super::{Head, Served, Server};
use crate::limits;
use crate::scheduler::Token;
use crate::session::{Finish, Prompt};

/// What OpenAI gives who does not say how much is wanted.
const OPENAI_DEFAULT_TOKENS: usize = 16;

/// The routes of this dialect.
pub static ROUTES: &[Route] = &[Route {
    method: Method::POST,
    path: "/v1/completions",
    summary: "Complete texts as they are, as OpenAI's API does",
    open: false,
    fields: &[
        needed("prompt", "", "A text, token ids, or a list of either: each gets its own answer, all in one batch"),
        field("max_tokens", "integer", "Most tokens of an answer [16]"),
        field("logprobs", "integer", "Tell the log-probability of each token, and of so many most likely ones"),
    ],
    generates: true,
    call: |server, request| Box::pin(complete(server, request)),
}];

//= F-SERVE-235
async fn complete(server: Arc<Server>, request: Request) -> Answered<Response<Body>> {
    let working = server.work();
    let (wanted, spelling) = server
        .understand(request, |served, fields, headers| {
            let prompts = prompts(served, fields.needed("prompt")?)?;
            let mut wanted = Wanted::read(served, fields, headers, prompts)?;
            let alternatives = fields.whole("logprobs", 0, limits::TOP_LOGPROBS_MAX as u64)?;
            wanted.request.logprobs = alternatives.map(|n| n as usize);
            let wanted = wanted.limited(served, fields, &["max_tokens"], OPENAI_DEFAULT_TOKENS)?;
            Ok((wanted, Completion { head: Head::new(served, fields, "cmpl-")? }))
        })
        .await?;
    answer::reply(server, working, wanted, spelling).await
}

/// A text, ids, texts, or lists of ids.
//= F-SERVE-238
fn prompts(served: &Served, prompt: &Value) -> Answered<Vec<Vec<u32>>> {
    let refuse = |v: &Value| wrong("prompt", v, "a string, a list of strings, token ids, or a list of lists of them");
    let one = |v: &Value| match v {
        Value::String(text) => text_ids(served, text),
        Value::Array(ids) if !ids.is_empty() && ids.iter().all(Value::is_number) => token_ids(served, ids),
        other => Err(refuse(other)),
    };
    match prompt {
        Value::Array(items) if !items.is_empty() && !items[0].is_number() => {
            if items.len() > limits::PROMPTS_MAX {
                let what = format!("{} prompts; at most {} at once", items.len(), limits::PROMPTS_MAX);
                return Err(Problem::field("prompt", what));
            }
            items.iter().map(one).collect()
        }
        single => Ok(vec![one(single)?]),
    }
}

fn text_ids(served: &Served, text: &str) -> Answered<Vec<u32>> {
    let prompt = Prompt { text, system: None, raw: true };
    served.handle.model().encode_prompt(&prompt).map_err(|e| Problem { param: Some("prompt".into()), ..e.into() })
}

fn token_ids(served: &Served, ids: &[Value]) -> Answered<Vec<u32>> {
    let vocab = served.handle.model().tokenizer.vocab_size() as u64;
    let id = |v: &Value| {
        let known = v.as_u64().filter(|id| *id < vocab).map(|id| id as u32);
        known.ok_or_else(|| wrong("prompt", v, &format!("of token ids below {vocab}")))
    };
    ids.iter().map(id).collect()
}

struct Completion {
    head: Head,
}

impl Completion {
    fn choice(&self, index: usize, text: &str, tokens: &[Token], at: usize, finish: Option<Finish>) -> Value {
        let logprobs = of_completion(&self.head.model.tokenizer, tokens, at);
        json!({"index": index, "text": text, "logprobs": logprobs, "finish_reason": finish.map(finish_reason)})
    }
}

impl Spelling for Completion {
    fn whole(&self, index: usize, answer: &Answer) -> Value {
        self.choice(index, &answer.text, &answer.tokens, 0, Some(answer.finish))
    }

    fn opening(&self, _: usize) -> Option<Value> {
        None
    }

    fn piece(&self, index: usize, text: &str, tokens: &[Token], answer: &Answer) -> Vec<Value> {
        let told = || answer.text.chars().count() - text.chars().count();
        let at = if tokens.iter().any(|t| t.logprobs.is_some()) { told() } else { 0 };
        vec![self.choice(index, text, tokens, at, None)]
    }

    fn closing(&self, index: usize, answer: &Answer) -> Vec<Value> {
        vec![self.choice(index, "", &[], 0, Some(answer.finish))]
    }

    fn frame(&self, choices: Vec<Value>, usage: Option<Value>, _: bool) -> Value {
        self.head.frame("text_completion", choices, usage)
    }
}
