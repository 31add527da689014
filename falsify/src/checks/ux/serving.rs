//! What a server says at its start.

use crate::http::Ask;
use crate::server::{PATIENCE, serve, shown};
use crate::subject::Subject;
use crate::verdict::{Attempt, Tally};

/// Server mode shows endpoint URLs and stopping instructions.
pub fn f_ux_034(s: &Subject) -> Attempt {
    let mut t = Tally::new("every URL that apr serve prints, asked; the words that say how to stop");
    let server = serve(s, &[])?;
    let said = server.child.err();
    let urls: Vec<(&str, &str)> = said
        .lines()
        .filter_map(|l| {
            let mut words = l.split_whitespace();
            let method = words.next().filter(|m| ["GET", "POST"].contains(m))?;
            Some((method, words.next()?))
        })
        .collect();
    for path in ["/v1/chat/completions", "/v1/completions", "/generate", "/v1/models", "/health", "/metrics"] {
        let there = urls.iter().any(|(_, url)| url.ends_with(path));
        t.hold(there, || server.refute("the URL of each endpoint is printed", &*said, path))?;
    }
    for (method, url) in urls {
        let parts = url.strip_prefix("http://").and_then(|u| u.split_once('/'));
        let address = parts.and_then(|(to, _)| to.parse().ok());
        let path = format!("/{}", parts.map_or("", |(_, path)| path));
        let reply = address.map(|to| Ask::post(&path, "").method(method).send(to, PATIENCE));
        // A POST without a body is answered with what is wrong with it.
        let status = if method == "GET" { 200 } else { 400 };
        let observed = format!("{:?}", reply.as_ref().map(|r| r.as_ref().map(shown)));
        let answers = matches!(reply, Some(Ok(r)) if r.status == status);
        t.hold(answers, || server.refute(&format!("{method} {url} answers"), observed, status.to_string()))?;
    }
    let stop = said.lines().any(|l| l.starts_with("Stop:") && l.contains("Ctrl+C"));
    t.hold(stop, || server.refute("it says how to stop", &*said, "Stop: Ctrl+C"))?;
    t.done()
}
