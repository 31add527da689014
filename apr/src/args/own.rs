//! Flags of the commands about `apr` itself and this machine.

use std::path::PathBuf;

use clap::Subcommand;
use clap_complete::Shell;

/// Flags of `apr completions`.
#[derive(Debug, clap::Args)]
pub struct CompletionsArgs {
    /// Whose completions
    pub shell: Shell,
}

/// Flags of `apr man`.
#[derive(Debug, clap::Args)]
pub struct ManArgs {
    /// Write a page for every command to this folder
    #[arg(long, value_name = "DIR")]
    pub dir: Option<PathBuf>,
}

/// Flags of `apr doctor`.
#[derive(Debug, clap::Args)]
pub struct DoctorArgs {
    /// One JSON object instead of text
    #[arg(long)]
    pub json: bool,
}

/// Flags of `apr config`.
#[derive(Debug, clap::Args)]
pub struct ConfigArgs {
    /// What to do
    #[command(subcommand)]
    pub command: ConfigCommand,
}

/// What can be done with the config file.
#[derive(Debug, Subcommand)]
pub enum ConfigCommand {
    /// Every value that is set anywhere, and where
    Show {
        /// One JSON object instead of text
        #[arg(long)]
        json: bool,
    },
    /// Where the file is, or would be
    Path,
}

/// Flags of `apr tune`.
#[derive(Debug, clap::Args)]
pub struct TuneArgs {
    /// Model: a file or folder (GGUF, SafeTensors, .apr), hf://org/repo, org/repo:QUANT, a URL, pacha://name, a short name
    pub model: PathBuf,
    /// What was tried, and why the winner won
    #[arg(long)]
    pub explain: bool,
    /// Measure although it is known
    #[arg(long)]
    pub again: bool,
    /// How a model may be found
    #[command(flatten)]
    pub source: super::SourceArgs,
    /// One JSON object instead of text
    #[arg(long)]
    pub json: bool,
}

/// Flags of `apr bench`.
#[derive(Debug, clap::Args)]
pub struct BenchArgs {
    /// Model: a file or folder (GGUF, SafeTensors, .apr), hf://org/repo, org/repo:QUANT, a URL, pacha://name, a short name
    #[arg(required_unless_present = "machine")]
    pub model: Option<PathBuf>,
    /// Measure no model but what this machine can do at most: memory, 8-bit operations
    #[arg(long, conflicts_with_all = ["model", "prompt", "decode", "context", "batch", "repeat", "replay", "gpu"])]
    pub machine: bool,
    /// Tokens of the prompt
    #[arg(long, value_name = "N", default_value_t = 512, value_parser = count)]
    pub prompt: usize,
    /// Tokens to decode
    #[arg(long, value_name = "N", default_value_t = 64, value_parser = count)]
    pub decode: usize,
    /// Positions that the cache holds before decoding begins
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub context: usize,
    /// Sequences that are decoded together, as a server has them
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=64))]
    pub batch: u8,
    /// Rounds, of which the median counts; one more goes before them
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = count)]
    pub repeat: usize,
    /// Run the answers of a workload instead, whatever the model would say, with drafts and without
    #[arg(long, value_name = "FILE", conflicts_with_all = ["prompt", "context", "batch"])]
    pub replay: Option<PathBuf>,
    /// Worker threads [default: all cores]
    #[arg(long, value_name = "N", value_parser = super::whole::<usize>)]
    pub threads: Option<usize>,
    /// Run on the GPU or fail
    #[arg(long, conflicts_with = "no_gpu")]
    pub gpu: bool,
    /// Run on the CPU
    #[arg(long)]
    pub no_gpu: bool,
    /// How a model may be found
    #[command(flatten)]
    pub source: super::SourceArgs,
    /// One JSON object instead of text
    #[arg(long)]
    pub json: bool,
}

/// A million is more than any context holds.
fn count(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(n @ 1..=1_000_000) => Ok(n),
        _ => Err("1 to 1000000 are possible".into()),
    }
}
