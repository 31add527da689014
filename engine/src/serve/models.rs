//! Which model this is: OpenAI's list, with what other clients look for beside, and `/model` with everything.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::Request;
use axum::http::{Response, StatusCode};
use serde_json::{Map, Value, json};

use super::problem::{Answered, Problem, json_of};
use super::route::{Route, get};
use super::{Served, Server, unix_seconds};
use crate::error::quoted;
use crate::text::strftime;

/// The routes of this dialect.
pub static ROUTES: &[Route] = &[
    get("/v1/models", "The models of this server: one", false, |server, _| {
        Box::pin(async move {
            let id = &server.name;
            let list = json!({
                "object": "list", "data": [entry(&server)], "first_id": id, "last_id": id, "has_more": false,
            });
            Ok(json_of(&list))
        })
    }),
    get("/v1/models/{*id}", "One model", false, |server, request| Box::pin(async move { one(&server, &request) })),
    get("/model", "Everything about the model", false, |server, _| {
        Box::pin(async move { Ok(json_of(&model(&server, server.served()?))) })
    }),
    get("/version", "The server's version", false, |_, _| {
        Box::pin(async { Ok(json_of(&json!({"version": env!("CARGO_PKG_VERSION"), "engine": "apr"}))) })
    }),
];

/// There before the model is: clients list models to see whether they are connected.
fn entry(server: &Server) -> Value {
    let mut entry = json!({
        "id": server.name, "object": "model", "created": 0, "owned_by": "apr", "root": server.name, "parent": null,
        "type": "model", "display_name": server.name, "status": "loading",
    });
    if let Ok(served) = server.served() {
        let model = served.handle.model();
        entry["created"] = unix_seconds(served.loaded_at).into();
        entry["created_at"] = strftime("%Y-%m-%dT%H:%M:%SZ", served.loaded_at).into();
        entry["status"] = "loaded".into();
        entry["max_model_len"] = model.context.into();
        entry["meta"] = json!({"vocab_type": model.model.metadata.string("tokenizer.ggml.model").ok().flatten(),
            "n_vocab": model.tokenizer.vocab_size(), "n_ctx_train": model.model.hyper.context,
            "n_embd": model.model.hyper.hidden, "size": model.model.file_bytes});
    }
    entry
}

fn one(server: &Server, request: &Request) -> Answered<Response<Body>> {
    let asked = unescaped(request.uri().path().trim_start_matches("/v1/models/"));
    match asked == server.name {
        true => Ok(json_of(&entry(server))),
        false => {
            let what = format!("there is no model {} here; this server has {}", quoted(&asked), quoted(&server.name));
            Err(Problem::new(StatusCode::NOT_FOUND, what).code("model_not_found"))
        }
    }
}

/// A name from a path: `%2F` is a slash of the name.
fn unescaped(text: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = text.as_bytes();
    while let Some((&first, after)) = rest.split_first() {
        let hex = after.get(..2).filter(|h| first == b'%' && h.iter().all(u8::is_ascii_hexdigit));
        let byte = hex.and_then(|h| u8::from_str_radix(std::str::from_utf8(h).ok()?, 16).ok());
        bytes.push(byte.unwrap_or(first));
        rest = if byte.is_some() { &after[2..] } else { after };
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

//= F-SERVE-249
fn model(server: &Arc<Server>, served: &Served) -> Value {
    let known = served.handle.model();
    let (m, h) = (&known.model, &known.model.hyper);
    let formats: Map<String, Value> = m.formats().iter().map(|(f, n)| (f.to_string(), json!(n))).collect();
    json!({
        "id": server.name,
        "name": m.metadata.string("general.name").ok().flatten(),
        "file": server.path.file_name().map(|n| n.to_string_lossy()),
        "bytes": m.file_bytes,
        "format": m.format,
        "architecture": m.arch.name,
        "quantization": formats,
        "layers": h.layers,
        "hidden": h.hidden,
        "heads": h.heads,
        "kv_heads": h.kv_heads,
        "head_dim": h.head_dim,
        "ffn": h.ffn,
        "vocab": h.vocab,
        "context": known.context,
        "context_trained": h.context,
        "chat_template": known.layout(),
        "backend": served.handle.backend(),
        "load_ms": served.load_ms,
        "running_max": served.handle.plan().running_max,
        "queue_max": served.handle.plan().queue_max,
    })
}
