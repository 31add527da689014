//! Text to tokens and back.

use axum::http::Method;
use serde_json::{Value, json};

use super::fields::wrong;
use super::problem::{Problem, json_of};
use super::route::{Route, field, needed};

/// The routes of this dialect.
pub static ROUTES: &[Route] = &[
    Route {
        method: Method::POST,
        path: "/tokenize",
        summary: "The tokens of a text",
        open: false,
        fields: &[
            needed("content", "string", "The text; 'prompt' and 'text' are other names"),
            field(
                "add_special",
                "boolean",
                "As a prompt of /v1/completions: control tokens are read, BOS is put in front",
            ),
        ],
        generates: false,
        call: |server, request| {
            Box::pin(async move {
                let understood = server.understand(request, |served, fields, _| {
                    let name = ["content", "prompt", "text"].into_iter().find(|n| fields.get(n).is_some());
                    let name = name.unwrap_or("content");
                    let value = fields.needed(name)?;
                    let text = value.as_str().ok_or_else(|| wrong(name, value, "a string"))?;
                    let tokenizer = &served.handle.model().tokenizer;
                    let special = fields.flag("add_special")?.unwrap_or(false);
                    let ids = if special { tokenizer.encode_raw(text) } else { tokenizer.encode_text(text) };
                    let ids = ids.map_err(|e| Problem { param: Some(name.into()), ..e.into() })?;
                    let pieces: Vec<Value> = ids
                        .iter()
                        .map(|id| String::from_utf8_lossy(tokenizer.token_bytes(*id).unwrap_or_default()).into())
                        .collect();
                    Ok(json!({"tokens": ids, "count": ids.len(), "pieces": pieces,
                        "max_model_len": served.handle.model().context}))
                });
                Ok(json_of(&understood.await?))
            })
        },
    },
    Route {
        method: Method::POST,
        path: "/detokenize",
        summary: "The text of tokens",
        open: false,
        fields: &[needed("tokens", "array", "Token ids")],
        generates: false,
        call: |server, request| {
            Box::pin(async move {
                let understood = server.understand(request, |served, fields, _| {
                    let value = fields.needed("tokens")?;
                    let list = value.as_array().ok_or_else(|| wrong("tokens", value, "a list of token ids"))?;
                    let tokenizer = &served.handle.model().tokenizer;
                    let vocab = tokenizer.vocab_size();
                    let id = |v: &Value| {
                        let known = v.as_u64().filter(|id| *id < vocab as u64).map(|id| id as u32);
                        known.ok_or_else(|| wrong("tokens", v, &format!("a list of token ids below {vocab}")))
                    };
                    let ids = list.iter().map(id).collect::<Result<Vec<u32>, Problem>>()?;
                    let text = String::from_utf8_lossy(&tokenizer.decode(&ids)).into_owned();
                    Ok(json!({"content": text, "prompt": text}))
                });
                Ok(json_of(&understood.await?))
            })
        },
    },
];
