//! `/v1/chat/completions`: OpenAI's conversations.
//!
//! Messages reach the model through its chat template as content: what a user or a tool says is never read as control
//! tokens.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use axum::body::Body;
use axum::extract::Request;
use axum::http::{Method, Response};
use serde_json::{Value, json};

use super::answer::{self, Answer, Spelling, Wanted};
use super::fields::{Fields, wrong};
use super::logprobs::of_chat;
use super::problem::{Answered, Problem};
use super::route::{Route, field, needed};
use super::tools::{self, Calls, OPEN, Piece, Tools};
use super::{DEFAULT_TOKENS, Head, Served, Server};
use crate::grammar::{Grammar, schema};
use crate::limits;
use crate::scheduler::Token;
use crate::session::Finish;
use crate::text::Message;

/// The routes of this dialect.
pub static ROUTES: &[Route] = &[Route {
    method: Method::POST,
    path: "/v1/chat/completions",
    summary: "Answer a conversation, as OpenAI's API does",
    open: false,
    fields: &[
        needed("messages", "array", "Turns: role (system, developer, user, assistant, tool) and content"),
        field("max_completion_tokens", "integer", "Most tokens of an answer; max_tokens is its old name"),
        field("max_tokens", "integer", "The same"),
        field("logprobs", "boolean", "Tell the log-probability of each token"),
        field("top_logprobs", "integer", "And those of so many most likely ones"),
        field("tools", "array", "Functions that an answer may call, if the model's chat template knows of tools"),
        field("tool_choice", "", "auto, none, required, or the function that has to be called"),
        field("parallel_tool_calls", "boolean", "true: the model decides"),
        field("response_format", "object", "type: text, json_object or json_schema"),
    ],
    generates: true,
    call: |server, request| Box::pin(chat(server, request)),
}];

//= F-SERVE-236
async fn chat(server: Arc<Server>, request: Request) -> Answered<Response<Body>> {
    let working = server.work();
    let (wanted, spelling) = server
        .understand(request, |served, fields, headers| {
            let tools = Tools::read(fields)?;
            let template = served.handle.model().template.as_ref();
            let marked = template.is_ok_and(|t| t.as_ref().is_some_and(|t| t.says(OPEN)));
            let grammar = format(served, fields, tools.as_ref(), marked)?;
            let prompt = prompt(served, fields.needed("messages")?, tools.as_ref())?;
            let mut wanted = Wanted::read(served, fields, headers, vec![prompt])?;
            wanted.request.grammar = grammar;
            let alternatives = fields.whole("top_logprobs", 0, limits::TOP_LOGPROBS_MAX as u64)?;
            wanted.request.logprobs = match fields.flag("logprobs")? {
                Some(true) => Some(alternatives.unwrap_or(0) as usize),
                _ if alternatives.is_some() => {
                    return Err(Problem::field("top_logprobs", "'top_logprobs' needs 'logprobs': true"));
                }
                _ => None,
            };
            let limits = ["max_completion_tokens", "max_tokens"];
            let wanted = wanted.limited(served, fields, &limits, DEFAULT_TOKENS)?;
            let head = Head::new(served, fields, "chatcmpl-")?;
            Ok((wanted, Chat { head, tools, marked, calls: Mutex::default() }))
        })
        .await?;
    answer::reply(server, working, wanted, spelling).await
}

/// What an answer has to be, if it is not just text.
fn format(served: &Served, fields: &Fields, tools: Option<&Tools>, marked: bool) -> Answered<Option<Arc<Grammar>>> {
    let named = |at: &str, e: crate::Error| Problem { param: Some(at.into()), ..Problem::from(e) };
    let none = serde_json::Map::new();
    let format = fields.object("response_format")?.unwrap_or(&none);
    let kind = format.get("type").unwrap_or(&Value::Null);
    let grammar = match kind.as_str() {
        Some("text") => None,
        None if format.is_empty() => None,
        Some("json_object") => Some(schema::any_object()),
        Some("json_schema") => {
            let at = "response_format.json_schema.schema";
            let schema = format.get("json_schema").and_then(|s| s.get("schema"));
            let schema = schema.ok_or_else(|| Problem::field(at, format!("'{at}' is missing")))?;
            Some(schema::compile(schema).map_err(|e| named(at, e))?)
        }
        _ => {
            let known = "\"text\", \"json_object\" or \"json_schema\"";
            return Err(wrong("response_format.type", kind, known));
        }
    };
    let grammar = match (grammar, tools) {
        (Some(_), Some(_)) => {
            let what = "'response_format' beside 'tools' is not supported: an answer that has to be JSON calls no tool";
            return Err(Problem::field("response_format", what).code("unsupported_parameter"));
        }
        (None, Some(tools)) => tools.grammar(marked).map_err(|e| named("tools", e))?,
        (grammar, None) => grammar,
    };
    let grammar = grammar.map(Arc::new);
    // Whether the model can write it is known before it is asked.
    served.handle.model().course(grammar.as_ref())?;
    Ok(grammar)
}

/// The ids of a conversation.
fn prompt(served: &Served, messages: &Value, tools: Option<&Tools>) -> Answered<Vec<u32>> {
    let model = served.handle.model();
    let list = messages.as_array().ok_or_else(|| wrong("messages", messages, "a list of messages"))?;
    if list.is_empty() {
        return Err(Problem::field("messages", "'messages' is empty; a conversation needs at least one"));
    }
    let turns: Vec<Message> = list.iter().enumerate().map(|(i, m)| message(i, m)).collect::<Answered<_>>()?;
    let template = model.template.as_ref().map_err(|e| Problem::from(e.clone()))?.as_ref().ok_or_else(|| {
        Problem::field("messages", "this model has no chat template; /v1/completions completes texts without one")
    })?;
    let about_messages = |e: crate::Error| Problem { param: Some("messages".into()), ..Problem::from(e) };
    //= F-PIPE-169
    let list = tools.map(|t| &t.list);
    let segments = template.render(&turns, list, true).map_err(about_messages)?;
    if list.is_some() && segments == template.render(&turns, None, true).map_err(about_messages)? {
        let what = "this model's chat template says nothing of tools: it would not know of them";
        return Err(Problem::field("tools", what).code("unsupported_parameter"));
    }
    model.tokenizer.encode(&segments).map_err(about_messages)
}

/// One turn. What is not text is refused, and not left out.
fn message(i: usize, value: &Value) -> Answered<Message> {
    let at = |name: &str| format!("messages[{i}].{name}");
    let map = value.as_object().ok_or_else(|| wrong(&format!("messages[{i}]"), value, "an object"))?;
    let there = |name: &str| map.get(name).filter(|v| !v.is_null());
    let text = |name: &str| match there(name) {
        None => Ok(None),
        Some(v) => v.as_str().map(|s| Some(s.to_string())).ok_or_else(|| wrong(&at(name), v, "a string")),
    };
    let role = match text("role")?.as_deref() {
        // OpenAI's newer name.
        Some("developer") => "system".to_string(),
        Some(role) if ["system", "user", "assistant", "tool"].contains(&role) => role.to_string(),
        Some(_) => return Err(wrong(&at("role"), &map["role"], "system, developer, user, assistant or tool")),
        None => return Err(Problem::field(&at("role"), format!("'{}' is missing", at("role")))),
    };
    let content = match there("content") {
        Some(Value::Array(parts)) => {
            let said = |part: &Value| {
                let text = part["text"].as_str().filter(|_| part["type"] == "text");
                text.map(str::to_string).ok_or_else(|| {
                    wrong(
                        &at("content"),
                        part,
                        "a string or a list of parts of type 'text': this model reads nothing else",
                    )
                })
            };
            Value::String(parts.iter().map(said).collect::<Answered<Vec<String>>>()?.concat())
        }
        Some(text @ Value::String(_)) => text.clone(),
        Some(other) => return Err(wrong(&at("content"), other, "a string or a list of parts")),
        // An assistant that calls tools says nothing beside.
        None if role == "assistant" && there("tool_calls").is_some() => Value::Null,
        None => return Err(Problem::field(&at("content"), format!("'{}' is missing", at("content")))),
    };
    Ok(Message {
        role,
        content,
        reasoning_content: text("reasoning_content")?.or(text("reasoning")?),
        tool_calls: there("tool_calls").map(|calls| tools::earlier(&at("tool_calls"), calls)).transpose()?,
        tool_call_id: text("tool_call_id")?,
        name: text("name")?,
    })
}

/// OpenAI's words for the end of an answer.
pub fn finish_reason(finish: Finish) -> &'static str {
    match finish {
        Finish::Eos | Finish::Stop => "stop",
        Finish::Length | Finish::Cancelled => "length",
    }
}

struct Chat {
    head: Head,
    tools: Option<Tools>,
    /// The template puts calls between tags.
    marked: bool,
    /// What of each choice is found so far, in a stream.
    calls: Mutex<BTreeMap<usize, Calls>>,
}

impl Chat {
    fn logprobs(&self, tokens: &[Token]) -> Value {
        of_chat(&self.head.model.tokenizer, tokens)
    }

    fn delta(&self, index: usize, delta: Value, tokens: &[Token], finish: Option<&str>) -> Value {
        json!({"index": index, "delta": delta, "logprobs": self.logprobs(tokens), "finish_reason": finish})
    }

    /// What a stream says of pieces; the first one carries what is to be said of tokens. `made` is the number of calls,
    /// those of the pieces among them.
    fn deltas(&self, index: usize, pieces: Vec<Piece>, tokens: &[Token], made: usize) -> Vec<Value> {
        let calls = pieces.iter().filter(|p| matches!(p, Piece::Call(_))).count();
        let mut at = made - calls;
        let mut said: Vec<Value> = Vec::new();
        for piece in pieces {
            let delta = match piece {
                Piece::Text(text) => json!({"content": text}),
                Piece::Call(mut call) => {
                    call["index"] = at.into();
                    at += 1;
                    json!({"tool_calls": [call]})
                }
            };
            said.push(self.delta(index, delta, if said.is_empty() { tokens } else { &[] }, None));
        }
        if said.is_empty() && tokens.iter().any(|t| t.logprobs.is_some()) {
            said.push(self.delta(index, json!({}), tokens, None));
        }
        said
    }

    /// OpenAI's word for the end of an answer with so many calls.
    fn reason(finish: Finish, calls: usize) -> &'static str {
        match finish_reason(finish) {
            "stop" if calls > 0 => "tool_calls",
            reason => reason,
        }
    }
}

impl Spelling for Chat {
    fn whole(&self, index: usize, answer: &Answer) -> Value {
        let (mut text, mut calls) = (String::new(), Vec::new());
        match &self.tools {
            None => text.clone_from(&answer.text),
            Some(tools) => {
                let mut found = Calls::new(tools, self.marked);
                let mut pieces = found.push(&answer.text);
                pieces.extend(found.finish());
                for piece in pieces {
                    match piece {
                        Piece::Text(t) => text.push_str(&t),
                        Piece::Call(call) => calls.push(call),
                    }
                }
            }
        }
        let reason = Chat::reason(answer.finish, calls.len());
        let mut message = json!({"role": "assistant", "content": text, "refusal": null});
        if !calls.is_empty() {
            if text.is_empty() {
                message["content"] = Value::Null;
            }
            message["tool_calls"] = Value::Array(calls);
        }
        json!({
            "index": index,
            "message": message,
            "logprobs": self.logprobs(&answer.tokens),
            "finish_reason": reason,
        })
    }

    fn opening(&self, index: usize) -> Option<Value> {
        Some(self.delta(index, json!({"role": "assistant", "content": ""}), &[], None))
    }

    fn piece(&self, index: usize, text: &str, tokens: &[Token], _: &Answer) -> Vec<Value> {
        let Some(tools) = &self.tools else {
            return vec![self.delta(index, json!({"content": text}), tokens, None)];
        };
        let mut calls = self.calls.lock().unwrap_or_else(PoisonError::into_inner);
        let found = calls.entry(index).or_insert_with(|| Calls::new(tools, self.marked));
        let pieces = found.push(text);
        self.deltas(index, pieces, tokens, found.made)
    }

    fn closing(&self, index: usize, answer: &Answer) -> Vec<Value> {
        let found = self.calls.lock().unwrap_or_else(PoisonError::into_inner).remove(&index);
        let (pieces, made) = found.map_or((Vec::new(), 0), |mut found| (found.finish(), found.made));
        let mut said = self.deltas(index, pieces, &[], made);
        said.push(self.delta(index, json!({}), &[], Some(Chat::reason(answer.finish, made))));
        said
    }

    fn frame(&self, choices: Vec<Value>, usage: Option<Value>, chunk: bool) -> Value {
        self.head.frame(if chunk { "chat.completion.chunk" } else { "chat.completion" }, choices, usage)
    }
}
