//! A conversation with one model: turns are remembered, and a turn computes only what is new.
//!
//! The whole conversation is laid out by the chat template for every turn, as the model was taught; what the KV cache
//! holds of it already is kept. So the tokens of an answer are those that the whole conversation would get from an empty
//! cache. Where the context is full, the oldest turns are left out.

mod commands;
mod repl;

use std::path::Path;

use serde_json::{Value, json};

use crate::api::{ChatConfig, Options};
use crate::error::{Error, Kind, Place, Result, quoted, quoted_path};
use crate::guard;
use crate::limits;
use crate::sample::Sampling;
use crate::session::{Answer, Event, Finish, Generation, Loaded, Observer, Session};
use crate::text::Message;

pub use repl::run;

/// A conversation in the making.
pub struct Chat<'m> {
    session: Session<'m>,
    sampling: Sampling,
    options: Options,
    max_tokens: usize,
    /// System message, instead of the template's own.
    system: Option<String>,
    /// User and assistant in turns.
    messages: Vec<Message>,
    /// Turns at the beginning that no longer fit.
    left_out: usize,
    last: Option<Turn>,
}

/// A question with its answer.
#[derive(Clone, Debug)]
pub struct Turn {
    /// What was said.
    pub answer: Answer,
    /// Tokens of the whole conversation before it.
    pub tokens: usize,
    /// Those of them that were in the cache.
    pub cached: usize,
}

impl<'m> Chat<'m> {
    /// An empty conversation. A model without a chat template holds none.
    pub fn new(loaded: &'m mut Loaded, config: &ChatConfig, options: &Options, sampling: Sampling) -> Result<Chat<'m>> {
        if loaded.template.as_ref().map_err(Clone::clone)?.is_none() {
            return Err(Error::new(Kind::Unsupported, "the model has no chat template")
                .at(Place::Key("tokenizer.chat_template".into()))
                .hint("`apr run --raw` completes a text"));
        }
        Ok(Chat {
            session: Session::new(loaded),
            sampling,
            options: options.clone(),
            max_tokens: config.max_tokens,
            system: config.system.clone(),
            messages: Vec::new(),
            left_out: 0,
            last: None,
        })
    }

    /// From now on another model drafts; it has to have the same vocabulary.
    pub fn drafted_by(&mut self, draft: &'m mut Loaded) -> Result<()> {
        self.session.drafted_by(draft)
    }

    /// Says something and gets an answer. A turn that fails leaves the conversation as it was.
    pub fn say(&mut self, text: &str, observer: &mut dyn Observer) -> Result<&Turn> {
        self.messages.push(Message::new("user", text));
        let left_out = self.left_out;
        let turn = self.answer(text, observer);
        match turn {
            Ok(turn) => {
                self.messages.push(Message::new("assistant", turn.answer.text.as_str()));
                Ok(self.last.insert(turn))
            }
            Err(e) => {
                self.messages.pop();
                self.left_out = left_out;
                Err(e)
            }
        }
    }

    //= F-PIPE-171
    fn answer(&mut self, text: &str, observer: &mut dyn Observer) -> Result<Turn> {
        let ids = self.fitting(observer)?;
        observer.event(Event::Tokenized { text, ids: &ids })?;
        // What does not fit is cut as a whole, whatever part of it is in the cache.
        let laid_out = ids.len();
        let ids = self.session.fit(&ids, 0, self.max_tokens, observer)?;
        // The last token is run again even if it is there: its output is what the answer begins with.
        let same = self.session.tokens().iter().zip(&ids).take_while(|(a, b)| a == b).count();
        let cached = same.min(ids.len() - 1);
        self.session.truncate(cached);
        let generation = Generation {
            max_tokens: self.max_tokens,
            sampling: self.sampling.clone(),
            stops: self.options.stops.clone(),
            grammar: None,
            prefill_chunk: self.options.prefill_chunk,
            draft_max: self.options.draft_max,
        };
        let answer = self.session.generate(&ids[cached..], &generation, observer, &self.options.cancel)?;
        // Of a prompt without its middle nothing follows about the model.
        if answer.finish == Finish::Eos && answer.tokens.is_empty() && ids.len() == laid_out {
            observer.event(Event::Warning(guard::ENDED_AT_ONCE))?;
        }
        Ok(Turn { answer, tokens: ids.len(), cached })
    }

    /// The conversation as token ids, without the turns at its beginning that leave no room for an answer.
    fn fitting(&mut self, observer: &mut dyn Observer) -> Result<Vec<u32>> {
        let context = self.session.context();
        let room = self.max_tokens.min(context / 4).max(1);
        let before = self.left_out;
        loop {
            let ids = self.ids()?;
            let more = self.messages.len() > self.left_out + 1;
            if ids.len() + room <= context || !more {
                if self.left_out > before {
                    let warning = format!(
                        "the context of {context} positions is full: the first {} messages are no longer in it",
                        self.left_out
                    );
                    observer.event(Event::Warning(&warning))?;
                }
                return Ok(ids);
            }
            // A question and its answer.
            self.left_out += 2;
        }
    }

    /// The conversation as token ids, ending where the assistant speaks.
    pub fn ids(&self) -> Result<Vec<u32>> {
        let system = self.system.as_deref().map(|text| Message::new("system", text));
        let said = self.messages.iter().skip(self.left_out).cloned();
        let messages: Vec<Message> = system.into_iter().chain(said).collect();
        self.session.known().encode_messages(&messages, None)
    }

    /// Forgets all turns.
    pub fn clear(&mut self) {
        self.messages.clear();
        self.left_out = 0;
    }

    /// Another system message, or the template's own.
    pub fn set_system(&mut self, text: Option<String>) {
        self.system = text;
    }

    /// The system message, if it is not the template's own.
    pub fn system(&self) -> Option<&str> {
        self.system.as_deref()
    }

    /// What was said so far, system message left out.
    pub fn messages(&self) -> &[Message] {
        &self.messages
    }

    /// The last turn.
    pub fn last(&self) -> Option<&Turn> {
        self.last.as_ref()
    }

    /// Tokens in the KV cache, and how many it may have.
    pub fn room(&self) -> (usize, usize) {
        (self.session.tokens().len(), self.session.context())
    }

    /// The conversation as JSON: the `messages` of OpenAI's requests.
    pub fn to_json(&self) -> Value {
        let one = |role: &str, content: &Value| json!({"role": role, "content": content});
        let system = self.system.as_ref().map(|text| one("system", &json!(text)));
        let said = self.messages.iter().map(|m| one(&m.role, &m.content));
        json!({ "messages": system.into_iter().chain(said).collect::<Vec<_>>() })
    }

    /// Goes on with a conversation that [`Chat::to_json`] wrote. Anything else is refused, and nothing is changed.
    pub fn restore(&mut self, saved: &Value) -> Result<()> {
        let wrong = |what: String| Error::malformed(what).at(Place::Key("messages".into()));
        let list = saved["messages"].as_array().ok_or_else(|| wrong("expected a list of messages".into()))?;
        let mut system = None;
        let mut messages = Vec::new();
        for (i, message) in list.iter().enumerate() {
            let (Some(role), Some(text)) = (message["role"].as_str(), message["content"].as_str()) else {
                return Err(wrong(format!("message {i} has no role or no text")));
            };
            let expected = if messages.len() % 2 == 0 { "user" } else { "assistant" };
            match role {
                "system" if i == 0 => system = Some(text.to_string()),
                role if role == expected => messages.push(Message::new(role, text)),
                role => return Err(wrong(format!("message {i} is of {}, expected {expected}", quoted(role)))),
            }
        }
        if messages.len() % 2 == 1 {
            return Err(wrong("the last question has no answer".into()));
        }
        self.system = system;
        self.messages = messages;
        self.left_out = 0;
        Ok(())
    }

    /// Writes the conversation to a file that is not there yet.
    pub fn save(&self, path: &Path) -> Result<()> {
        let failed = |e: std::io::Error| match e.kind() {
            std::io::ErrorKind::AlreadyExists => {
                Error::new(Kind::Usage, format!("{} is there already", quoted_path(path)))
            }
            _ => Error::new(Kind::Output, format!("cannot write {}: {e}", quoted_path(path))),
        };
        let mut file = std::fs::File::options().write(true).create_new(true).open(path).map_err(failed)?;
        std::io::Write::write_all(&mut file, format!("{:#}\n", self.to_json()).as_bytes()).map_err(failed)
    }

    /// Goes on with a conversation that was saved.
    pub fn load(&mut self, path: &Path) -> Result<()> {
        let mut text = String::new();
        let file = std::fs::File::open(path).map_err(|e| Error::from_io(&e, path))?;
        let mut bounded = std::io::Read::take(file, limits::PROMPT_BYTES_MAX as u64 * 2);
        std::io::Read::read_to_string(&mut bounded, &mut text).map_err(|e| Error::from_io(&e, path))?;
        let saved = serde_json::from_str(&text)
            .map_err(|e| Error::malformed(format!("{} is not JSON: {e}", quoted_path(path))))?;
        self.restore(&saved)
    }
}
