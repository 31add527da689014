//! `/openapi.json`, made of the table of routes.

use axum::http::Method;
use serde_json::{Map, Value, json};

use super::problem::json_of;
use super::route::{Field, Route, all, field, get};
use crate::sample::settings::Setting;

/// The routes of this dialect.
pub static ROUTES: &[Route] =
    &[get("/openapi.json", "This description", false, |_, _| Box::pin(async { Ok(json_of(&description())) }))];

/// What every generating route takes beside its own.
const GENERATING: &[Field] = &[
    field("model", "string", "The model's id, if it is named at all"),
    field("stream", "boolean", "Server-sent events, the last one [DONE]"),
    field("stream_options", "object", "include_usage: a last event with the usage"),
    field("n", "integer", "Answers to each prompt"),
    field("stop", "", "A text or a list of texts that end the answer"),
    field("seed", "integer", "Of the random numbers; the header x-seed of a reply tells the one that was used"),
    field("logit_bias", "object", "Added to the logits of tokens, by id"),
    field("samplers", "string", "Steps of sampling in order, separated by semicolons"),
];

fn description() -> Value {
    let mut paths = Map::new();
    for route in all() {
        let mut operation = json!({
            "summary": route.summary,
            "responses": {
                "200": {"description": "The reply"},
                "default": {"description": "An error", "content": {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}}},
            },
        });
        if route.method == Method::POST {
            operation["requestBody"] =
                json!({"required": true, "content": {"application/json": {"schema": body(route)}}});
        }
        if route.path.contains("{*id}") {
            operation["parameters"] =
                json!([{"name": "id", "in": "path", "required": true, "schema": {"type": "string"}}]);
        }
        if route.open {
            operation["security"] = json!([]);
        }
        let mut methods = Map::new();
        methods.insert(route.method.as_str().to_lowercase(), operation);
        paths.insert(route.path.replace("{*id}", "{id}"), methods.into());
    }
    let error = json!({"type": "object", "required": ["error"], "properties": {"error": {"type": "object",
        "required": ["message", "type", "param", "code"], "properties": {"message": {"type": "string"},
        "type": {"type": "string"}, "param": {"type": ["string", "null"]}, "code": {"type": ["string", "integer", "null"]}}}}});
    json!({
        "openapi": "3.1.0",
        "info": {"title": "apr", "version": env!("CARGO_PKG_VERSION"), "description": "A language model on this machine"},
        "security": [{"key": []}],
        "paths": paths,
        "components": {"schemas": {"Error": error}, "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}}},
    })
}

fn body(route: &Route) -> Value {
    let of = |f: &Field| {
        let mut schema = json!({"description": f.help});
        if !f.kind.is_empty() {
            schema["type"] = f.kind.into();
        }
        (f.name.to_string(), schema)
    };
    let mut properties: Map<String, Value> = route.fields.iter().map(of).collect();
    if route.generates {
        properties.extend(GENERATING.iter().map(of));
        properties.extend(Setting::ALL.iter().map(|s| {
            let schema = json!({"type": if s.step == 1.0 { "integer" } else { "number" }, "minimum": s.range.0,
                "maximum": s.range.1, "description": s.help});
            (s.name.replace('-', "_"), schema)
        }));
    }
    let needed: Vec<&str> = route.fields.iter().filter(|f| f.needed).map(|f| f.name).collect();
    json!({"type": "object", "required": needed, "properties": properties})
}
