//! `/generate`: `apr run` over HTTP, with its words. The prompt goes through the chat template unless `raw` is true.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::Request;
use axum::http::{Method, Response};
use serde_json::{Value, json};

use super::answer::{self, Answer, Spelling, Wanted};
use super::chat::finish_reason;
use super::fields::wrong;
use super::problem::{Answered, Problem};
use super::route::{Route, field, needed};
use super::{DEFAULT_TOKENS, Head, Server};
use crate::scheduler::Token;
use crate::session::Prompt;

/// The routes of this dialect.
pub static ROUTES: &[Route] = &[Route {
    method: Method::POST,
    path: "/generate",
    summary: "Answer one prompt, as apr run does",
    open: false,
    fields: &[
        needed("prompt", "string", "The user's words"),
        field("system", "string", "System message"),
        field("raw", "boolean", "Complete the prompt as it is: no chat template, control tokens allowed"),
        field("max_tokens", "integer", "Most tokens of the answer [512]"),
    ],
    generates: true,
    call: |server, request| Box::pin(generate(server, request)),
}];

//= F-SERVE-234
async fn generate(server: Arc<Server>, request: Request) -> Answered<Response<Body>> {
    let working = server.work();
    let (wanted, spelling) = server
        .understand(request, |served, fields, headers| {
            let value = fields.needed("prompt")?;
            let text = value.as_str().ok_or_else(|| wrong("prompt", value, "a string"))?;
            let raw = fields.flag("raw")?.unwrap_or(false);
            let prompt = Prompt { text, system: fields.text("system")?, raw };
            let about_prompt = |e: crate::Error| Problem { param: Some("prompt".into()), ..e.into() };
            let ids = served.handle.model().encode_prompt(&prompt).map_err(about_prompt)?;
            if fields.whole("n", 1, 1)?.is_some_and(|n| n != 1) {
                return Err(Problem::field("n", "/generate gives one answer; /v1/completions gives several"));
            }
            let wanted = Wanted::read(served, fields, headers, vec![ids])?;
            let wanted = wanted.limited(served, fields, &["max_tokens"], DEFAULT_TOKENS)?;
            Ok((wanted, Generated { head: Head::new(served, fields, "gen-")? }))
        })
        .await?;
    answer::reply(server, working, wanted, spelling).await
}

struct Generated {
    head: Head,
}

/// One answer has no need of choices: the frame is the choice.
impl Spelling for Generated {
    fn whole(&self, _: usize, answer: &Answer) -> Value {
        json!({
            "text": answer.text,
            "tokens": answer.tokens.iter().map(|t| t.id).collect::<Vec<_>>(),
            "tokens_generated": answer.usage.completion_tokens,
            "prompt_tokens": answer.usage.prompt_tokens,
            "cached_tokens": answer.usage.cached_tokens,
            "cache": answer.reuse.map(|r| r.why.name()),
            "finish_reason": finish_reason(answer.finish),
            "queued_ms": answer.timings.queued_ms,
            "prefill_ms": answer.timings.prefill_ms,
            "decode_ms": answer.timings.decode_ms,
        })
    }

    fn opening(&self, _: usize) -> Option<Value> {
        None
    }

    fn piece(&self, _: usize, text: &str, tokens: &[Token], _: &Answer) -> Vec<Value> {
        vec![json!({"text": text, "tokens": tokens.iter().map(|t| t.id).collect::<Vec<_>>()})]
    }

    fn closing(&self, index: usize, answer: &Answer) -> Vec<Value> {
        let mut last = self.whole(index, answer);
        // A stream is put together by who reads it.
        last["text"] = "".into();
        last["tokens"] = json!([]);
        vec![last]
    }

    fn frame(&self, mut choices: Vec<Value>, usage: Option<Value>, _: bool) -> Value {
        let mut frame = choices.pop().unwrap_or_else(|| json!({}));
        frame["model"] = json!(self.head.name);
        if let Some(usage) = usage {
            frame["usage"] = usage;
        }
        frame
    }
}
