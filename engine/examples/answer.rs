//! Asks a model one question, with events instead of a terminal: `cargo run --release --example answer MODEL PROMPT`.

use std::io::Write;

use engine::session::{Event, Observer};
use engine::{InferenceConfig, Options, Result, run};

/// Prints text as it comes.
struct Printer;

impl Observer for Printer {
    fn event(&mut self, event: Event<'_>) -> Result<()> {
        let mut out = std::io::stdout().lock();
        if let Event::Text(text) = event {
            // An example: a closed pipe ends the run quietly at the end.
            let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
        }
        Ok(())
    }
}

fn main() -> Result<()> {
    let mut args = std::env::args().skip(1);
    let model = args.next().unwrap_or_else(|| "model.gguf".into());
    let config = InferenceConfig { prompt: args.next(), ..InferenceConfig::new(model) };
    let outcome = run(&config, &Options::default(), &mut Printer)?;
    let line = format!("\n{} tokens on {}\n", outcome.answer.tokens.len(), outcome.backend);
    let _ = std::io::stderr().lock().write_all(line.as_bytes());
    Ok(())
}
