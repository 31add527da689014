//! A running `apr serve` and questions to it. What an answer should be is no affair of this file.

use std::net::SocketAddr;
use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::child::background::Background;
use crate::http::{Ask, Reply};
use crate::subject::Subject;
use crate::verdict::{Halt, Refutation, instrument};

/// How long a reply may take, on a slow machine that does other things too.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// A server that is killed when it is dropped.
pub struct Server {
    /// Its process.
    pub child: Background,
    /// Where it says that it listens.
    pub address: SocketAddr,
}

/// Starts `apr serve` on the main fixture with these flags, and waits until it is ready.
pub fn serve(s: &Subject, flags: &[&str]) -> Result<Server, Halt> {
    serve_model(s, &s.model()?, flags)
}

/// The same with another model.
pub fn serve_model(s: &Subject, model: &Path, flags: &[&str]) -> Result<Server, Halt> {
    let mut server = listening(s, model, flags)?;
    server.ready()?;
    Ok(server)
}

/// Starts it and waits until it says where it listens, which is before the model is loaded. `--port 0` unless the flags
/// say another.
pub fn listening(s: &Subject, model: &Path, flags: &[&str]) -> Result<Server, Halt> {
    let run = s.apr(["serve"]).args([model.as_os_str()]).args(flags);
    let run = if flags.contains(&"--port") { run } else { run.args(["--port", "0"]) };
    let mut child = run.start()?;
    let until = Instant::now() + PATIENCE;
    loop {
        let said = child.err();
        let url = said.split_once(" at http://").and_then(|(_, rest)| rest.split([' ', '/', '\n']).next());
        if let Some(address) = url.and_then(|u| u.parse().ok()) {
            return Ok(Server { child, address });
        }
        if let Some(exit) = child.ended() {
            let observed = format!("{exit:?}: {}", said.trim());
            return Err(Refutation::new("apr serve says where it listens", observed, "a line with a URL")
                .repro(child.repro.clone())
                .into());
        }
        if Instant::now() > until {
            return Err(instrument(format!("apr serve said nothing of a URL: {said}")));
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}

impl Server {
    /// Waits until it says that it is ready.
    pub fn ready(&mut self) -> Result<(), Halt> {
        let until = Instant::now() + PATIENCE;
        while Instant::now() < until {
            if let Some(exit) = self.child.ended() {
                let observed = format!("{exit:?}: {}", self.child.err().trim());
                return Err(self.refute("the server keeps running", observed, "no end").into());
            }
            match Ask::get("/health").send(self.address, PATIENCE) {
                Ok(reply) if reply.status == 200 => return Ok(()),
                _ => std::thread::sleep(Duration::from_millis(2)),
            }
        }
        Err(self.refute("the server becomes healthy", self.child.err(), "200 at /health").into())
    }

    /// Sends a request. No reply refutes: a server answers everybody.
    pub fn ask(&self, ask: &Ask) -> Result<Reply, Halt> {
        let reply = ask.send(self.address, PATIENCE);
        let refuted =
            |e: std::io::Error| self.refute(&format!("{} is answered", ask.shown()), e.to_string(), "a reply");
        reply.map_err(|e| refuted(e).into())
    }

    /// GET.
    pub fn get(&self, path: &str) -> Result<Reply, Halt> {
        self.ask(&Ask::get(path))
    }

    /// GET of JSON that has to be answered with 200.
    pub fn answer_get(&self, path: &str) -> Result<Value, Halt> {
        let reply = self.get(path)?;
        match reply.status {
            200 => Ok(reply.json()),
            _ => Err(self.refute(&format!("{path} answers"), shown(&reply), "200").into()),
        }
    }

    /// POST of JSON.
    pub fn post(&self, path: &str, body: &Value) -> Result<Reply, Halt> {
        self.ask(&Ask::json(path, body))
    }

    /// POST of JSON that has to be answered with 200.
    pub fn answer(&self, path: &str, body: &Value) -> Result<Reply, Halt> {
        let reply = self.post(path, body)?;
        match reply.status {
            200 => Ok(reply),
            _ => Err(self.refute(&format!("{path} answers {body}"), shown(&reply), "200").into()),
        }
    }

    /// A refutation that says which server it is of.
    pub fn refute(&self, criterion: &str, observed: impl Into<String>, expected: impl Into<String>) -> Refutation {
        Refutation::new(criterion, observed, expected).repro(self.child.repro.clone())
    }

    /// The value of a sample of `/metrics`, by its name with labels.
    pub fn metric(&self, name: &str) -> Result<f64, Halt> {
        let page = self.get("/metrics")?.text();
        let value = page.lines().find_map(|l| l.strip_prefix(name)?.strip_prefix(' ')?.trim().parse().ok());
        value.ok_or_else(|| self.refute(&format!("/metrics has {name}"), "it has not", "a number").into())
    }
}

/// Status and the beginning of a reply, for refutations.
pub fn shown(reply: &Reply) -> String {
    format!("{} {}", reply.status, reply.text().chars().take(300).collect::<String>())
}
