//! F-CRIT-001: `apr run`, `apr chat` and `apr serve`, each with its own model in each container.

use serde_json::json;

use crate::ask::{PROMPTS, answered};
use crate::server::serve_model;
use crate::subject::Subject;
use crate::verdict::{Attempt, Refutation, Tally};

/// Any modality fails to execute.
pub fn f_crit_001(s: &Subject) -> Attempt {
    let mut t = Tally::new("run, chat and serve on GGUF, SafeTensors and .apr, on every backend of this machine");
    let models =
        [("GGUF", s.model()?), ("SafeTensors", s.fixtures.join("qwen2-tiny")), (".apr", s.forged("apr-qwen2-f16")?)];
    let gpu = crate::capability::gpu_here();
    let backends: &[&str] = if gpu { &["--no-gpu", "--gpu"] } else { &["--no-gpu"] };
    for backend in backends {
        for (container, model) in &models {
            let flags = ["--temperature", "0", "--max-tokens", "16", backend];
            let run = s.apr(["run"]).args([model.as_os_str()]).args([PROMPTS[0]]).args(flags);
            let said = answered(run)?.out();
            t.hold(!said.trim().is_empty(), || {
                Refutation::new(format!("apr run, {container}"), "nothing", "an answer")
            })?;
            let chat = s.apr(["chat"]).args([model.as_os_str()]).args(flags).stdin(format!("{}\n", PROMPTS[0]));
            let chat = answered(chat)?;
            let same = chat.out().trim() == said.trim();
            t.hold(same, || chat.refute(&format!("apr chat, {container}: the answer of run"), chat.out(), &*said))?;
            let server = serve_model(s, model, &[backend])?;
            let messages = json!([{"role": "user", "content": PROMPTS[0]}]);
            let body = json!({"messages": messages, "temperature": 0, "max_tokens": 16});
            let reply = server.answer("/v1/chat/completions", &body)?.json();
            let text = reply["choices"][0]["message"]["content"].as_str().unwrap_or_default();
            t.hold(text.trim() == said.trim(), || {
                server.refute(&format!("apr serve, {container}: the answer of run"), text, &*said)
            })?;
        }
    }
    t.number("backends", backends.len() as f64);
    t.done()
}
