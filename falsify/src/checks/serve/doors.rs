//! Who may come in, from which page, by which name.

use serde_json::json;

use crate::http::Ask;
use crate::server::{serve, shown};
use crate::subject::Subject;
use crate::verdict::{Attempt, Tally};

const PAGE: &str = "https://app.example";

/// CORS headers configurable.
pub fn f_serve_245(s: &Subject) -> Attempt {
    let mut t = Tally::new("pages that were named, were not named, and look alike: plain requests and preflights");
    let asked = json!({"prompt": "x", "max_tokens": 1});
    let preflight = |page: &str| {
        Ask::get("/v1/completions")
            .method("OPTIONS")
            .header("Origin", page)
            .header("Access-Control-Request-Method", "POST")
    };
    let closed = serve(s, &["--api-key", "k"])?;
    let key = |ask: Ask| ask.header("Authorization", "Bearer k");
    for ask in [
        key(Ask::json("/v1/completions", &asked).header("Origin", PAGE)),
        Ask::get("/health").header("Origin", PAGE),
        preflight(PAGE),
    ] {
        let reply = closed.ask(&ask)?;
        let silent = !reply.headers.iter().any(|(name, _)| name.starts_with("access-control-"));
        t.hold(silent, || closed.refute("by default no page is allowed", format!("{:?}", reply.headers), "no header"))?;
    }
    let open = serve(s, &["--cors-origin", PAGE, "--cors-origin", "http://localhost:3000"])?;
    for page in [PAGE, "http://localhost:3000"] {
        for ask in [Ask::json("/v1/completions", &asked).header("Origin", page), preflight(page)] {
            let reply = open.ask(&ask)?;
            let right = reply.status < 300 && reply.header("access-control-allow-origin") == Some(page);
            let varies = reply.header("vary").is_some_and(|v| v.eq_ignore_ascii_case("origin"));
            t.hold(right && varies, || open.refute(&format!("{page} is allowed"), format!("{reply:?}"), page))?;
            let credentials = reply.header("access-control-allow-credentials");
            t.equal("and nobody's cookies", &credentials, &None)?;
        }
    }
    let told = open.ask(&preflight(PAGE))?;
    let lists = told.header("access-control-allow-headers").unwrap_or_default();
    t.hold(lists.contains("authorization") && lists.contains("content-type"), || {
        open.refute("a preflight allows the headers that clients send", lists, "authorization, content-type")
    })?;
    for page in
        ["https://evil.example", "null", "https://app.example.evil", "http://app.example", "https://APP.example:8443"]
    {
        for ask in [Ask::json("/v1/completions", &asked).header("Origin", page), preflight(page)] {
            let reply = open.ask(&ask)?;
            let none = reply.header("access-control-allow-origin").is_none();
            t.hold(none && reply.status == 403, || {
                open.refute(&format!("{page} is not allowed"), shown(&reply), "403")
            })?;
        }
    }
    let every = serve(s, &["--cors-origin", "*"])?;
    let reply = every.ask(&Ask::json("/v1/completions", &asked).header("Origin", PAGE))?;
    t.equal("a star is a star and no reflection", &reply.header("access-control-allow-origin"), &Some("*"))?;
    // The page that the server itself is needs no leave.
    let own = format!("http://{}", open.address);
    let reply = open.ask(&Ask::json("/v1/completions", &asked).header("Origin", &own))?;
    t.hold(reply.status == 200, || open.refute("its own page may ask", shown(&reply), "200"))?;
    t.done()
}
