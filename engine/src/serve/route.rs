//! Routes as data: the router, `/openapi.json` and the hints of 404 and 405 are made from the same table.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::extract::Request;
use axum::http::{HeaderValue, Method, Response, StatusCode, header};
use axum::middleware::from_fn_with_state;
use axum::response::IntoResponse;
use axum::routing::{MethodFilter, on};

use super::problem::{Answered, Problem};
use super::{ALL, Server, door};
use crate::error::quoted;
use crate::similar;

/// What a handler comes to.
pub type Reply = Pin<Box<dyn Future<Output = Answered<Response<Body>>> + Send>>;

/// A route.
pub struct Route {
    /// GET (HEAD comes with it) or POST.
    pub method: Method,
    /// As axum writes it.
    pub path: &'static str,
    /// For people.
    pub summary: &'static str,
    /// Whoever watches over the server may ask without a key, and while it stops.
    pub open: bool,
    /// What its body may hold, beside what every generating route takes.
    pub fields: &'static [Field],
    /// It generates: the fields of sampling are its fields too.
    pub generates: bool,
    /// The handler.
    pub call: fn(Arc<Server>, Request) -> Reply,
}

/// A field of a body, for `/openapi.json`.
pub struct Field {
    /// Its name.
    pub name: &'static str,
    /// Its type, as JSON Schema names it; empty for several.
    pub kind: &'static str,
    /// Whether there is no request without it.
    pub needed: bool,
    /// For people.
    pub help: &'static str,
}

/// A field that may be left out.
pub const fn field(name: &'static str, kind: &'static str, help: &'static str) -> Field {
    Field { name, kind, needed: false, help }
}

/// A field that must be there.
pub const fn needed(name: &'static str, kind: &'static str, help: &'static str) -> Field {
    Field { needed: true, ..field(name, kind, help) }
}

/// A route that is read.
pub const fn get(
    path: &'static str,
    summary: &'static str,
    open: bool,
    call: fn(Arc<Server>, Request) -> Reply,
) -> Route {
    Route { method: Method::GET, path, summary, open, fields: &[], generates: false, call }
}

/// Every route.
pub fn all() -> impl Iterator<Item = &'static Route> {
    ALL.iter().flat_map(|routes| routes.iter())
}

/// The route that a path belongs to.
pub fn of(path: &str) -> Option<&'static Route> {
    all().find(|r| match r.path.split_once("{*") {
        Some((folder, _)) => path.strip_prefix(folder).is_some_and(|rest| !rest.is_empty()),
        None => path == r.path,
    })
}

/// The router, door and all.
pub fn router(server: &Arc<Server>) -> Router {
    let mut router = Router::new();
    for route in all() {
        let filter = if route.method == Method::GET { MethodFilter::GET } else { MethodFilter::POST };
        let (server, call) = (Arc::clone(server), route.call);
        let handler = move |request: Request| {
            let reply = call(Arc::clone(&server), request);
            async move { reply.await.unwrap_or_else(Problem::into_response) }
        };
        router = router.route(route.path, on(filter, handler));
    }
    router
        .fallback(no_route)
        .method_not_allowed_fallback(no_method)
        .layer(from_fn_with_state(Arc::clone(server), door::admit))
}

async fn no_route(request: Request) -> Response<Body> {
    let what = nowhere(request.uri().path());
    Problem::new(StatusCode::NOT_FOUND, what).code("no_such_route").into_response()
}

/// Says where the path may have been meant to lead.
fn nowhere(path: &str) -> String {
    let path = quoted(path);
    match similar::nearest(path.trim_matches('\''), all().map(|r| r.path)) {
        Some(near) => format!("there is no {path}; did you mean '{near}'?"),
        None => {
            let there: Vec<String> = all().map(|r| format!("{} {}", r.method, r.path)).collect();
            format!("there is no {path}; there are {}", there.join(", "))
        }
    }
}

async fn no_method(request: Request) -> Response<Body> {
    let path = request.uri().path();
    let allow = of(path).map_or("GET", |r| if r.method == Method::GET { "GET, HEAD" } else { "POST" });
    let what = format!("{} is not possible on {}; it takes {allow}", request.method(), quoted(path));
    let mut reply = Problem::new(StatusCode::METHOD_NOT_ALLOWED, what).code("method_not_allowed").into_response();
    reply.headers_mut().insert(header::ALLOW, HeaderValue::from_static(allow));
    reply
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn every_path_is_there_once_and_leads_to_its_route() {
        let paths: BTreeSet<&str> = all().map(|r| r.path).collect();
        assert_eq!(paths.len(), all().count());
        for route in all() {
            let asked = route.path.replace("{*id}", "a/b");
            assert_eq!(of(&asked).map(|r| r.path), Some(route.path));
        }
        for meant in ["/v1/chat/completions/", "/chat/completions", "/v1/chat/completion"] {
            assert!(nowhere(meant).ends_with("did you mean '/v1/chat/completions'?"), "{}", nowhere(meant));
        }
        assert!(nowhere("/favicon.ico").contains("POST /v1/chat/completions"));
        assert!(of("/v1/models/").is_none() && of("//v1//models").is_none() && of("/V1/models").is_none());
    }
}
