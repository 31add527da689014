//! Saboteurs of the command line on the way from what was typed to the model, and back: system messages, look-alikes,
//! limits of the context, the encoding of answers.

use std::ffi::OsString;

use serde_json::Value;

use super::Saboteur;
use super::evil_apr::{Real, evil};

/// Every one of them.
pub static ALL: &[Saboteur] = &[
    evil("ignores-system", "drops --system", |r| r.without(&["--system"], 1).run()),
    evil("prompt-ignored", "every question is 'Hello!'", |mut r| {
        if let Some(prompt) = r.prompt() {
            *prompt = "Hello!".into();
        }
        r.run()
    }),
    evil("lookalike-parsed", "writes the chat template out, so that a user's <|im_end|> is one", lookalike_parsed),
    evil("context-ignored", "drops --ctx-size", |r| r.without(&["--ctx-size", "-c"], 1).run()),
    evil("truncation-silent", "does not say that a prompt was cut", truncation_silent),
];

/// The fixture's template, as text in which control tokens are meant.
fn lookalike_parsed(mut real: Real) -> u8 {
    if real.has(&["--raw", "-"]) {
        return real.run();
    }
    let Some(prompt) = real.prompt() else { return real.run() };
    let mut written = OsString::from(
        "<|im_start|>system\nYou are Qwen, created by Alibaba Cloud. You are a helpful assistant.<|im_end|>\n\
         <|im_start|>user\n",
    );
    written.push(&*prompt);
    written.push("<|im_end|>\n<|im_start|>assistant\n");
    *prompt = written;
    real.with("--raw").run()
}

fn truncation_silent(real: Real) -> u8 {
    let mut caught = real.caught();
    let err = String::from_utf8_lossy(&caught.stderr).into_owned();
    caught.stderr =
        err.lines().filter(|l| !l.starts_with("warning: ")).flat_map(|l| [l, "\n"]).collect::<String>().into();
    if let Ok(mut json) = serde_json::from_slice::<Value>(&caught.stdout)
        && json["warnings"].is_array()
    {
        json["warnings"] = Value::Array(Vec::new());
        caught.stdout = format!("{json}\n").into_bytes();
    }
    caught.emit()
}
