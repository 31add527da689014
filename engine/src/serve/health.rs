//! Is it there, is it ready: for whoever watches over the server. No key needed, and answered while it stops.

use std::sync::Arc;

use axum::body::Body;
use axum::http::{Response, StatusCode, header};
use axum::response::IntoResponse;
use serde_json::{Value, json};

use super::Server;
use super::problem::{Answered, Problem, json_of};
use super::route::{Route, get};

/// The routes of this dialect.
pub static ROUTES: &[Route] = &[
    get("/health", "200 once the model is loaded; 503 before, and while the server stops", true, |server, _| {
        Box::pin(async move { health(&server, "healthy") })
    }),
    get("/ready", "The same, for who tells liveness from readiness", true, |server, _| {
        Box::pin(async move { health(&server, "ready") })
    }),
    get("/", "One line, for people and probes", true, |_, _| {
        Box::pin(async { Ok(([(header::CONTENT_TYPE, "text/plain")], "apr is running\n").into_response()) })
    }),
];

/// llama.cpp's contract, which deployments know, with a word on top.
//= F-SERVE-232
fn health(server: &Arc<Server>, well: &str) -> Answered<Response<Body>> {
    let status = match server.model.get() {
        _ if server.draining() => "draining",
        None => "loading",
        Some(served) if served.handle.is_open() => return Ok(json_of(&json!({"status": well}))),
        Some(_) => "failed",
    };
    let what = match status {
        "loading" => "Loading model",
        "draining" => "the server is stopping",
        _ => "the engine has stopped",
    };
    let problem = Problem::new(StatusCode::SERVICE_UNAVAILABLE, what);
    let mut body = problem.json();
    body["error"]["code"] = Value::from(503);
    body["status"] = status.into();
    let mut reply = problem.into_response();
    *reply.body_mut() = Body::from(body.to_string());
    Ok(reply)
}
