//! What is laid out: the turns of a conversation.

use minijinja::Value;
use serde::Deserialize;
use serde_json::Value as Json;

use super::origin::{self, Marking};
use crate::error::{Error, Kind, Result, quoted};
use crate::limits;

/// Who may speak.
const ROLES: &[&str] = &["system", "user", "assistant", "tool"];

/// One turn of a conversation, with the fields that OpenAI's messages and HuggingFace's templates share. A closed list:
/// what else a peer sends reaches no template.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct Message {
    /// `system`, `user`, `assistant` or `tool`.
    pub role: String,
    /// What was said: a text, a list of parts (`{"type": "text", "text": ..}`), or null beside calls of tools.
    pub content: Json,
    /// What an assistant thought before it spoke.
    pub reasoning_content: Option<String>,
    /// Tools that an assistant calls: `[{"id": .., "type": "function", "function": {"name": .., "arguments": ..}}]`.
    pub tool_calls: Option<Json>,
    /// Which call a tool answers.
    pub tool_call_id: Option<String>,
    /// Of the tool that answers.
    pub name: Option<String>,
}

impl Message {
    /// A turn of words alone.
    pub fn new(role: impl Into<String>, content: impl Into<String>) -> Message {
        Message { role: role.into(), content: Json::String(content.into()), ..Message::default() }
    }

    /// Every text in it but the role, which is one of four words.
    pub(super) fn texts(&self) -> Vec<&str> {
        let mut texts = origin::texts(&self.content);
        texts.extend(self.tool_calls.iter().flat_map(origin::texts));
        texts.extend(
            [&self.reasoning_content, &self.tool_call_id, &self.name].into_iter().flatten().map(String::as_str),
        );
        texts
    }

    /// What a template sees: only the fields that are there.
    pub(super) fn value(&self, marking: Marking) -> Value {
        let said = match &self.content {
            Json::String(text) => marking.text(text),
            content => origin::value(content, marking),
        };
        let mut pairs = vec![("role", Value::from(&*self.role)), ("content", said)];
        pairs.extend(self.reasoning_content.iter().map(|text| ("reasoning_content", marking.text(text))));
        pairs.extend(self.tool_calls.iter().map(|calls| ("tool_calls", origin::value(calls, marking))));
        pairs.extend(self.tool_call_id.iter().map(|id| ("tool_call_id", marking.text(id))));
        pairs.extend(self.name.iter().map(|name| ("name", marking.text(name))));
        Value::from_pairs(pairs)
    }
}

/// Refuses what is no conversation, before a template sees it.
pub(super) fn check(messages: &[Message], tools: Option<&Json>) -> Result<()> {
    let usage = |what: String| Error::new(Kind::Usage, what);
    if messages.is_empty() {
        return Err(usage("a conversation needs at least one message".into()));
    }
    if let Some(m) = messages.iter().find(|m| !ROLES.contains(&m.role.as_str())) {
        return Err(usage(format!("unknown role {}", quoted(&m.role))).hint(format!("known: {}", ROLES.join(", "))));
    }
    if messages.iter().any(|m| !matches!(m.content, Json::Null | Json::String(_) | Json::Array(_))) {
        return Err(usage("the content of a message is a text, a list of parts or null".into()));
    }
    let deep = |json: &Json| too_deep(json, limits::TEMPLATE_VALUE_DEPTH_MAX);
    if messages.iter().any(|m| deep(&m.content) || m.tool_calls.as_ref().is_some_and(deep)) || tools.is_some_and(deep) {
        return Err(usage(format!("tools or messages are nested deeper than {}", limits::TEMPLATE_VALUE_DEPTH_MAX)));
    }
    let texts = messages.iter().flat_map(Message::texts).chain(tools.map(origin::texts).unwrap_or_default());
    let bytes: usize = texts.map(str::len).sum();
    if bytes > limits::PROMPT_BYTES_MAX {
        let what = format!("the conversation has {bytes} bytes; at most {} are supported", limits::PROMPT_BYTES_MAX);
        return Err(Error::new(Kind::TooLarge, what));
    }
    Ok(())
}

fn too_deep(value: &Json, depth: usize) -> bool {
    match value {
        Json::Array(items) => depth == 0 || items.iter().any(|item| too_deep(item, depth - 1)),
        Json::Object(map) => depth == 0 || map.values().any(|item| too_deep(item, depth - 1)),
        _ => false,
    }
}
