//! What every request passes before a route sees it: who may come in, by which name, from which page.
//!
//! A server on the loopback address is not private: any page in the user's browser can send requests to it, and a name
//! that an attacker's DNS turns into 127.0.0.1 makes them same-origin. So without an API key a request has to name the
//! server by an address, `localhost` or a name that was allowed, and must not come from a foreign page. With keys, the
//! key is the door.

use std::fmt::Write;
use std::future::{Future, poll_fn};
use std::hash::{BuildHasher, Hasher, RandomState};
use std::net::IpAddr;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;

use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, Response, StatusCode, Uri, header};
use axum::middleware::Next;
use axum::response::IntoResponse;
use sha2::{Digest, Sha256};

use super::problem::{Answered, Problem};
use super::{Server, route};
use crate::error::{printable, quoted};

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// The layer around all routes.
pub async fn admit(State(server): State<Arc<Server>>, request: Request, next: Next) -> Response<Body> {
    let id = request_id(request.headers());
    let origin = request.headers().get(header::ORIGIN).cloned();
    let path = request.uri().path().to_string();
    let preflight = request.method() == Method::OPTIONS
        && request.headers().contains_key(header::ACCESS_CONTROL_REQUEST_METHOD)
        && allowed_origin(&server, origin.as_ref()).is_some();
    let mut reply = match checked(&server, &request) {
        Err(problem) => problem.into_response(),
        Ok(()) if preflight => StatusCode::NO_CONTENT.into_response(),
        Ok(()) => survived(next.run(request)).await,
    };
    let allowed = allowed_origin(&server, origin.as_ref());
    let headers = reply.headers_mut();
    //= F-SERVE-245
    if let Some(origin) = allowed {
        headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin);
        headers.insert(header::VARY, HeaderValue::from_static("Origin"));
        headers.insert(header::ACCESS_CONTROL_EXPOSE_HEADERS, HeaderValue::from_static("x-request-id, x-seed"));
        if preflight {
            headers.insert(header::ACCESS_CONTROL_ALLOW_METHODS, HeaderValue::from_static("GET, POST"));
            let known = "authorization, content-type, x-api-key, x-request-id, x-trace-level";
            headers.insert(header::ACCESS_CONTROL_ALLOW_HEADERS, HeaderValue::from_static(known));
            headers.insert(header::ACCESS_CONTROL_MAX_AGE, HeaderValue::from_static("600"));
        }
    }
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(REQUEST_ID, id);
    if server.draining() {
        headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    server.counts.replied(route::of(&path).map_or("other", |r| r.path), reply.status().as_u16());
    reply
}

fn checked(server: &Server, request: &Request) -> Answered<()> {
    let headers = request.headers();
    let route = route::of(request.uri().path());
    let open = route.is_some_and(|r| r.open);
    let keys = &server.options.api_keys;
    if keys.is_empty() {
        named(server, headers, request.uri())?;
        same_page(server, headers)?;
    } else if !open && request.method() != Method::OPTIONS && !has_key(keys, headers) {
        let what = "no valid API key; send 'Authorization: Bearer KEY'";
        return Err(Problem::new(StatusCode::UNAUTHORIZED, what).code("invalid_api_key"));
    }
    if server.draining() && !open {
        return Err(Problem::new(StatusCode::SERVICE_UNAVAILABLE, "the server is stopping").code("draining"));
    }
    Ok(())
}

/// The name by which the server was called must be one that no attacker's DNS can own.
fn named(server: &Server, headers: &HeaderMap, uri: &Uri) -> Answered<()> {
    let refused = |what: String| {
        let hint = "name the server by its address, or start it with --allow-host NAME";
        Problem::new(StatusCode::FORBIDDEN, format!("{what}; {hint}")).code("host_not_allowed")
    };
    let mut hosts = headers.get_all(header::HOST).iter();
    let (first, second) = (hosts.next(), hosts.next());
    let host = match (first, second) {
        (Some(host), None) => host.to_str().map_err(|_| refused("the Host header is not text".into()))?,
        (None, _) => return Err(refused("a request needs a Host header".into())),
        (Some(_), Some(_)) => return Err(refused("a request has one Host header".into())),
    };
    // What stands in the request line is what HTTP goes by; both must be right.
    for host in [Some(host), uri.authority().map(|a| a.as_str())].into_iter().flatten() {
        let name = without_port(host);
        let address = name.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>().is_ok();
        let ours = || server.options.allow_hosts.iter().chain([&server.host]).any(|n| n.eq_ignore_ascii_case(name));
        if !(address || name.eq_ignore_ascii_case("localhost") || ours()) {
            return Err(refused(format!("this server is not called {}", quoted(name))));
        }
    }
    Ok(())
}

/// Whether a Host header can have this name.
pub fn is_host(name: &str) -> bool {
    let plain = |c: char| c.is_alphanumeric() || "-_.".contains(c);
    !name.is_empty() && (name.chars().all(plain) || name.trim_matches(['[', ']']).parse::<IpAddr>().is_ok())
}

/// Whether an Origin header can be this: a scheme, a host, perhaps a port, and nothing after it.
pub fn is_origin(text: &str) -> bool {
    let authority = |(scheme, rest): (&str, &str)| !scheme.is_empty() && is_host(without_port(rest));
    matches!(text, "*" | "null") || text.split_once("://").is_some_and(authority)
}

/// A host without its port; an IPv6 address stays in its brackets.
fn without_port(host: &str) -> &str {
    match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|b| b.is_ascii_digit()) && !name.is_empty() => name,
        _ => host,
    }
}

/// A browser says which page sends a request. Replies can be hidden from foreign ones, but not the work.
fn same_page(server: &Server, headers: &HeaderMap) -> Answered<()> {
    let Some(origin) = headers.get(header::ORIGIN) else { return Ok(()) };
    let own = |origin: &str| {
        let host = headers.get(header::HOST).and_then(|h| h.to_str().ok());
        origin.split_once("://").is_some_and(|(_, authority)| Some(authority) == host)
    };
    if origin.to_str().is_ok_and(own) || allowed_origin(server, Some(origin)).is_some() {
        return Ok(());
    }
    let shown = quoted(&String::from_utf8_lossy(origin.as_bytes()));
    let what = format!("requests from the page {shown} are not allowed; start the server with --cors-origin ORIGIN");
    Err(Problem::new(StatusCode::FORBIDDEN, what).code("origin_not_allowed"))
}

/// What `Access-Control-Allow-Origin` says, if it says anything: an origin that was named, never one that just asked.
fn allowed_origin(server: &Server, origin: Option<&HeaderValue>) -> Option<HeaderValue> {
    let origin = origin?;
    let named = server.options.cors_origins.iter().find(|o| *o == "*" || o.as_bytes() == origin.as_bytes())?;
    HeaderValue::from_str(named).ok()
}

/// Whether one of the keys was sent. Hashes of the same length are compared as a whole and with every key, so that the
/// time tells nothing about a key.
fn has_key(keys: &[String], headers: &HeaderMap) -> bool {
    let bearer = |v: &HeaderValue| {
        let (scheme, key) = v.as_bytes().split_at_checked(7)?;
        scheme.eq_ignore_ascii_case(b"bearer ").then(|| key.to_vec())
    };
    let sent = headers.get(header::AUTHORIZATION).and_then(bearer);
    let Some(sent) = sent.or_else(|| headers.get("x-api-key").map(|v| v.as_bytes().to_vec())) else { return false };
    let sent = Sha256::digest(&sent);
    let differs = |key: &String| Sha256::digest(key).iter().zip(&sent).fold(0, |bits, (a, b)| bits | (a ^ b));
    keys.iter().fold(false, |found, key| found | (differs(key) == 0))
}

/// The caller's own id if it is a harmless one, else a new one.
fn request_id(headers: &HeaderMap) -> HeaderValue {
    let fits = |v: &&HeaderValue| v.len() <= 128 && v.to_str().is_ok_and(|text| printable(text, 128) == text);
    headers
        .get(REQUEST_ID)
        .filter(fits)
        .cloned()
        .unwrap_or_else(|| HeaderValue::from_str(&unique("req-")).unwrap_or(HeaderValue::from_static("req")))
}

/// A word that nobody has had: 128 bits from the keys that the standard library draws for hash maps.
pub fn unique(prefix: &str) -> String {
    let mut word = String::from(prefix);
    for _ in 0..2 {
        let _ = write!(word, "{:016x}", RandomState::new().build_hasher().finish());
    }
    word
}

/// A reply whatever happens: a panic below is a bug of ours and not the end of the server.
async fn survived(reply: impl Future<Output = Response<Body>>) -> Response<Body> {
    let mut reply = pin!(reply);
    poll_fn(|cx| {
        catch_unwind(AssertUnwindSafe(|| reply.as_mut().poll(cx))).unwrap_or_else(|_| {
            let what = "internal error; this is a bug in apr: please report it, with the request that shows it";
            let problem = Problem::new(StatusCode::INTERNAL_SERVER_ERROR, what).code("internal_error");
            Poll::Ready(problem.into_response())
        })
    })
    .await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_taken_off_and_addresses_are_left_whole() {
        let hosts = [("a:80", "a"), ("a", "a"), ("[::1]:80", "[::1]"), ("[::1]", "[::1]"), (":80", ":80"), ("", "")];
        for (host, name) in hosts {
            assert_eq!(without_port(host), name);
        }
    }

    #[test]
    fn a_key_is_found_in_both_headers_and_only_if_it_is_one() {
        let keys = ["one".to_string(), "two".to_string()];
        let has = |name: &'static str, value: &'static str| {
            has_key(&keys, &HeaderMap::from_iter([(HeaderName::from_static(name), HeaderValue::from_static(value))]))
        };
        assert!(has("authorization", "Bearer one") && has("authorization", "bearer two") && has("x-api-key", "two"));
        assert!(!has("authorization", "Bearer on") && !has("authorization", "one") && !has("x-api-key", "one "));
        assert!(!has("authorization", "Bearer ") && !has_key(&keys, &HeaderMap::new()));
    }

    #[test]
    fn ids_are_kept_if_they_are_harmless() {
        let of = |v: &str| HeaderMap::from_iter([(REQUEST_ID, HeaderValue::from_str(v).unwrap())]);
        assert_eq!(request_id(&of("abc")), "abc");
        assert!(request_id(&of(&"x".repeat(129))).as_bytes().starts_with(b"req-"));
        assert_ne!(unique(""), unique(""));
    }

    #[test]
    fn a_panic_is_a_reply() {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let reply = runtime.block_on(survived(async { panic!("of a test, to be caught") }));
        assert_eq!(reply.status(), StatusCode::INTERNAL_SERVER_ERROR);
    }
}
