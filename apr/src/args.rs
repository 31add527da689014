//! What was typed: flags as clap reads them, nothing interpreted. `plan` says what they mean.

mod sampling;

use std::path::PathBuf;

use clap::{ArgAction, Parser, Subcommand};

/// Run language models you can trust.
#[derive(Debug, Parser)]
//= F-CLI-007
//= F-CLI-008
#[command(name = "apr", version, about, max_term_width = 100, after_help = after_help())]
pub struct Args {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Answer one prompt
    Run(RunArgs),
    /// Write a model in another container, bit for bit where that is possible
    Convert(ConvertArgs),
}

/// Flags of `apr convert`.
#[derive(Debug, clap::Args)]
pub struct ConvertArgs {
    /// Model file (GGUF, .apr)
    pub input: PathBuf,
    /// File to write
    pub output: PathBuf,
    /// What to write [default: what the output is called]
    #[arg(long, value_name = "CONTAINER", value_parser = ["gguf", "apr"])]
    pub to: Option<String>,
    /// Replace the output if it is there already
    #[arg(short, long)]
    pub force: bool,
    /// One JSON object that says what was done
    #[arg(long)]
    pub json: bool,
    /// Say nothing but errors
    #[arg(short, long, action = ArgAction::SetTrue, conflicts_with = "json")]
    pub quiet: bool,
}

/// Flags of `apr run`.
#[derive(Debug, clap::Args)]
pub struct RunArgs {
    /// Model file (GGUF, .apr)
    pub model: PathBuf, //= F-CLI-002
    /// The prompt; `-` or nothing reads it from standard input
    pub prompt: Option<String>,

    /// Most tokens to generate
    #[arg(short = 'n', long, value_name = "N", default_value_t = 512)]
    pub max_tokens: usize, //= F-CLI-011
    /// End the answer before this text; may be given several times
    #[arg(long, value_name = "TEXT")]
    pub stop: Vec<String>,

    /// Worker threads [default: all cores]
    #[arg(long, value_name = "N")]
    pub threads: Option<usize>, //= F-CPU-096
    /// Positions of context [default: what the model was made for]
    #[arg(short, long, value_name = "N")]
    pub ctx_size: Option<usize>,
    /// System message
    #[arg(long, value_name = "TEXT")]
    pub system: Option<String>,
    /// Give the prompt to the model as it is: no chat template, control tokens allowed
    #[arg(long)]
    pub raw: bool,

    /// Run on the GPU or fail
    #[arg(long, conflicts_with = "no_gpu")]
    pub gpu: bool,
    /// Run on the CPU
    #[arg(long)]
    pub no_gpu: bool, //= F-CLI-014

    /// One JSON object instead of text
    #[arg(long)]
    pub json: bool,
    /// Say what is loaded, what runs and how fast, on standard error
    #[arg(short, long, action = ArgAction::SetTrue, conflicts_with = "quiet")]
    pub verbose: bool, //= F-CLI-009
    /// Say nothing but the answer and errors
    #[arg(short, long, action = ArgAction::SetTrue)]
    pub quiet: bool,

    /// How tokens are chosen
    #[command(flatten)]
    pub sampling: sampling::SamplingArgs,
}

/// Environment and exit codes, from the tables that the engine acts on.
fn after_help() -> String {
    let mut text = String::from("Environment:\n");
    for knob in engine::knobs::ALL {
        text.push_str(&format!("  {:<10} {}\n", knob.name, knob.help));
    }
    text.push_str("\nExit codes:\n    0 success\n");
    for kind in engine::Kind::ALL {
        text.push_str(&format!("  {:>3} {}\n", kind.exit_code(), kind.name()));
    }
    text
}
