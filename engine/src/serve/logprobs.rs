//! Log-probabilities as OpenAI spells them: one way for chat, an older one for completions.

use serde_json::{Map, Value, json};

use crate::scheduler::Token;
use crate::text::Tokenizer;

/// A token as text: bytes that are no character on their own become the replacement character.
fn text(tokenizer: &Tokenizer, id: u32) -> String {
    String::from_utf8_lossy(tokenizer.token_bytes(id).unwrap_or_default()).into_owned()
}

/// `choices[].logprobs` of a chat; null if none were asked for.
pub fn of_chat(tokenizer: &Tokenizer, tokens: &[Token]) -> Value {
    let one = |id: u32, logprob: f32| {
        let bytes = tokenizer.token_bytes(id).unwrap_or_default();
        json!({"token": text(tokenizer, id), "logprob": logprob, "bytes": bytes})
    };
    let content: Option<Vec<Value>> = tokens
        .iter()
        .map(|token| {
            let probs = token.logprobs.as_ref()?;
            let mut entry = one(token.id, probs.chosen);
            entry["top_logprobs"] = probs.top.iter().map(|&(id, p)| one(id, p)).collect();
            Some(entry)
        })
        .collect();
    match content {
        Some(content) if !content.is_empty() => json!({"content": content, "refusal": null}),
        _ => Value::Null,
    }
}

/// `choices[].logprobs` of a completion. Offsets count characters of the answer.
pub fn of_completion(tokenizer: &Tokenizer, tokens: &[Token], mut offset: usize) -> Value {
    let (mut texts, mut chosen, mut tops, mut offsets) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for token in tokens {
        let Some(probs) = &token.logprobs else { return Value::Null };
        let word = text(tokenizer, token.id);
        // Several tokens may be one text; the likeliest of them comes first and stays.
        let mut top = Map::new();
        for &(id, p) in &probs.top {
            top.entry(text(tokenizer, id)).or_insert(json!(p));
        }
        top.entry(word.clone()).or_insert(json!(probs.chosen));
        chosen.push(json!(probs.chosen));
        tops.push(Value::Object(top));
        offsets.push(offset);
        offset += word.chars().count();
        texts.push(word);
    }
    match texts.is_empty() {
        true => Value::Null,
        false => json!({"tokens": texts, "token_logprobs": chosen, "top_logprobs": tops, "text_offset": offsets}),
    }
}
