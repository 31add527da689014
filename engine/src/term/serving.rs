//! What `apr serve` says, on standard error: where it listens, how to ask it, how to stop it.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use super::{KEY, WARNING, note};
use crate::error::{Result, printable};
use crate::limits::MESSAGE_CHARS_MAX;
use crate::serve::{Notice, endpoints};

/// Says it.
pub fn serving(notice: Notice<'_>) -> Result<()> {
    match notice {
        Notice::Listening { address, model, key } => {
            note(&serves(address, model));
            listening(address, key);
        }
        Notice::Ready { backend, load_ms } => note(&format!("Ready after {load_ms:.0} ms on {backend}.")),
        Notice::Draining(0) => note("Stopping."),
        Notice::Draining(running) => {
            note(&format!("Stopping after {running} running requests; Ctrl+C again stops at once."));
        }
        Notice::Warning(text) => {
            note(&format!("{WARNING}warning:{WARNING:#} {}", printable(text, MESSAGE_CHARS_MAX)));
        }
    }
    Ok(())
}

/// What nobody can do without: where it is, and warnings.
pub fn serving_quietly(notice: Notice<'_>) -> Result<()> {
    match notice {
        Notice::Listening { address, model, .. } => note(&serves(address, model)),
        Notice::Warning(_) => serving(notice)?,
        _ => {}
    }
    Ok(())
}

fn serves(address: SocketAddr, model: &str) -> String {
    format!("Serving {} at {} (loading)", printable(model, MESSAGE_CHARS_MAX), base(address))
}

fn base(mut address: SocketAddr) -> String {
    if address.ip().is_unspecified() {
        address.set_ip(IpAddr::V4(Ipv4Addr::LOCALHOST));
    }
    format!("http://{address}")
}

/// Every URL can be pasted as it stands.
//= F-UX-034
fn listening(address: SocketAddr, key: bool) {
    let base = base(address);
    note("");
    for (method, path, summary) in endpoints() {
        note(&format!("  {method:<4} {base}{path}  {KEY}{summary}{KEY:#}"));
    }
    let header = if key { " -H 'Authorization: Bearer KEY'" } else { "" };
    let chat = r#"-d '{"messages":[{"role":"user","content":"Hi"}]}'"#;
    let key = if key { "KEY" } else { "none" };
    note("");
    note(&format!("Try:  curl {base}/v1/chat/completions{header} {chat}"));
    note(&format!("      OPENAI_BASE_URL={base}/v1 OPENAI_API_KEY={key}  {KEY}for clients of OpenAI's API{KEY:#}"));
    note("Stop: Ctrl+C; running requests end first");
    note("");
}
