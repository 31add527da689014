//! What was typed: flags as clap reads them, nothing interpreted. `plan` says what they mean.

mod models;
mod own;
mod sampling;
mod serving;

use std::ffi::OsString;
use std::path::PathBuf;

use clap::builder::{PossibleValuesParser, TypedValueParser};
use clap::{ArgAction, Parser, Subcommand};
use engine::api::{CheckOptions, TraceConfig, TraceFormat, TraceStep};
use engine::speculate::DRAFT_MAX;

pub use models::{ListArgs, PullArgs, PushArgs, RmArgs, SourceArgs, TagArgs};
pub use own::{BenchArgs, CompletionsArgs, ConfigArgs, ConfigCommand, DoctorArgs, ManArgs, TuneArgs};
pub use serving::ServeArgs;

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
    Run(Box<RunArgs>),
    /// Verify a model in ten stages, from its tokenizer to its answers
    Check(CheckArgs),
    /// Run two models in step, and name the first operation at which they part
    Diff(DiffArgs),
    /// Talk with a model
    Chat(Box<ChatArgs>),
    /// Answer over HTTP: OpenAI's API and more
    Serve(Box<ServeArgs>),
    /// Run again what a trace recorded, and name the first event that differs
    Replay(ReplayArgs),
    /// Write a model in another container, bit for bit where that is possible
    Convert(ConvertArgs),
    /// Download a model, as it is now
    Pull(PullArgs),
    /// Models on this machine: downloaded, of the registry, of other programs
    List(ListArgs),
    /// Remove what was downloaded, or a name of the registry
    Rm(RmArgs),
    /// Give a model a name in the registry: pacha://name[:tag]
    Tag(TagArgs),
    /// Copy a model of the registry to another one, in a folder
    Push(PushArgs),
    /// Measure how fast a model runs here, beside what memory allows
    Bench(BenchArgs),
    /// Find out once how this machine runs a model fastest, and keep that for later runs
    Tune(TuneArgs),
    /// Look at this machine: what would run where, and what to do about it
    Doctor(DoctorArgs),
    /// Show what is set, and where: config file, environment
    Config(ConfigArgs),
    /// Print completions for a shell
    Completions(CompletionsArgs),
    /// Print the manual page, or write one for each command
    Man(ManArgs),
}

/// Flags of `apr convert`.
#[derive(Debug, clap::Args)]
pub struct ConvertArgs {
    /// Model: a file or folder (GGUF, SafeTensors, .apr), hf://org/repo, org/repo:QUANT, a URL, pacha://name, a short name
    pub input: PathBuf,
    /// File to write; for SafeTensors a folder, in HuggingFace's layout (`name/`)
    pub output: PathBuf,
    /// What to write [default: what the output is called]
    #[arg(long, value_name = "CONTAINER", value_parser = ["gguf", "apr", "safetensors"])]
    pub to: Option<String>,
    /// Replace the output if it is there already; of folders, only one that holds nothing but a model
    #[arg(short, long)]
    pub force: bool,
    /// One JSON object that says what was done
    #[arg(long)]
    pub json: bool,
    /// Say nothing but errors
    #[arg(short, long, action = ArgAction::SetTrue, conflicts_with = "json")]
    pub quiet: bool,
    /// How a model may be found
    #[command(flatten)]
    pub source: SourceArgs,
}

/// Flags of `apr run`.
#[derive(Debug, clap::Args)]
#[command(allow_negative_numbers = true)]
pub struct RunArgs {
    /// Model: a file or folder (GGUF, SafeTensors, .apr), hf://org/repo, org/repo:QUANT, a URL, pacha://name, a short name
    pub model: PathBuf, //= F-CLI-002
    /// The prompt, which may be empty; `-` or nothing reads it from standard input
    pub prompt: Option<OsString>,

    /// Most tokens to generate
    #[arg(short = 'n', long, value_name = "N", default_value_t = 512, value_parser = whole::<usize>)]
    pub max_tokens: usize, //= F-CLI-011
    /// End the answer before this text; may be given several times
    #[arg(long, value_name = "TEXT")]
    pub stop: Vec<String>,

    /// Worker threads [default: all cores]
    #[arg(long, value_name = "N", value_parser = whole::<usize>)]
    pub threads: Option<usize>, //= F-CPU-096
    /// Positions of context [default: what the model was made for]
    #[arg(short, long, value_name = "N", value_parser = whole::<usize>)]
    pub ctx_size: Option<usize>,
    /// Most tokens drafted and verified in one step; 0 is off. Changes no token
    #[arg(long, value_name = "N", default_value_t = DRAFT_MAX as u8, value_parser = clap::value_parser!(u8).range(0..=DRAFT_MAX as i64))]
    pub draft_max: u8,
    /// A smaller model of the same vocabulary, which drafts too. Changes no token
    #[arg(long, value_name = "MODEL")]
    pub draft: Option<PathBuf>,
    /// System message
    #[arg(long, value_name = "TEXT")]
    pub system: Option<String>,
    /// Give the prompt to the model as it is: no chat template, control tokens allowed
    #[arg(long)]
    pub raw: bool,

    /// Run on the GPU or fail [default: on the GPU if there is one that works]
    #[arg(long, conflicts_with = "no_gpu")]
    pub gpu: bool,
    /// Run on the CPU
    #[arg(long)]
    pub no_gpu: bool, //= F-CLI-014

    /// One JSON object instead of text, on failure too
    #[arg(long)]
    pub json: bool,
    /// Say what is loaded, what runs and how fast, on standard error
    #[arg(short, long, action = ArgAction::SetTrue, conflicts_with = "quiet")]
    pub verbose: bool, //= F-CLI-009
    /// Say nothing but the answer and errors
    #[arg(short, long, action = ArgAction::SetTrue)]
    pub quiet: bool,
    /// How a model may be found
    #[command(flatten)]
    pub source: SourceArgs,

    /// Record what happens in each stage; the trace goes to standard error unless --trace-output says where
    #[arg(long, help_heading = "Tracing")]
    pub trace: bool, //= F-CLI-016
    /// Write the trace to this file
    #[arg(long, value_name = "FILE", help_heading = "Tracing")]
    pub trace_output: Option<PathBuf>, //= F-CLI-017
    /// Values of tensors too
    #[arg(long, help_heading = "Tracing")]
    pub trace_verbose: bool, //= F-CLI-018
    /// Only these stages: tokenize, embed, attention, ffn, lm_head, sample, decode
    #[arg(long, value_name = "LIST", value_delimiter = ',', value_parser = trace_step(), ignore_case = true)]
    #[arg(help_heading = "Tracing")]
    pub trace_steps: Option<Vec<TraceStep>>,
    /// `json` has the fields of AWS Step Functions, `chrome` is for Perfetto
    #[arg(long, value_name = "FORMAT", default_value = "json", value_parser = trace_format(), help_heading = "Tracing")]
    pub trace_format: TraceFormat,

    /// How tokens are chosen
    #[command(flatten)]
    pub sampling: sampling::SamplingArgs,
}

/// Flags of `apr chat`.
#[derive(Debug, clap::Args)]
#[command(allow_negative_numbers = true)]
pub struct ChatArgs {
    /// Model: a file or folder (GGUF, SafeTensors, .apr), hf://org/repo, org/repo:QUANT, a URL, pacha://name, a short name
    pub model: PathBuf,

    /// Most tokens of an answer
    #[arg(short = 'n', long, value_name = "N", default_value_t = 2048, value_parser = whole::<usize>)]
    pub max_tokens: usize,
    /// End an answer before this text; may be given several times
    #[arg(long, value_name = "TEXT")]
    pub stop: Vec<String>,

    /// Worker threads [default: all cores]
    #[arg(long, value_name = "N", value_parser = whole::<usize>)]
    pub threads: Option<usize>,
    /// Positions of context [default: what the model was made for]
    #[arg(short, long, value_name = "N", value_parser = whole::<usize>)]
    pub ctx_size: Option<usize>,
    /// Most tokens drafted and verified in one step; 0 is off. Changes no token
    #[arg(long, value_name = "N", default_value_t = DRAFT_MAX as u8, value_parser = clap::value_parser!(u8).range(0..=DRAFT_MAX as i64))]
    pub draft_max: u8,
    /// A smaller model of the same vocabulary, which drafts too. Changes no token
    #[arg(long, value_name = "MODEL")]
    pub draft: Option<PathBuf>,
    /// System message
    #[arg(long, value_name = "TEXT")]
    pub system: Option<String>,

    /// Run on the GPU or fail
    #[arg(long, conflicts_with = "no_gpu")]
    pub gpu: bool, //= F-CLI-013b
    /// Run on the CPU
    #[arg(long)]
    pub no_gpu: bool, //= F-CLI-014b

    /// Say what is loaded and what runs, on standard error
    #[arg(short, long, action = ArgAction::SetTrue, conflicts_with = "quiet")]
    pub verbose: bool,
    /// Say nothing but answers and errors
    #[arg(short, long, action = ArgAction::SetTrue)]
    pub quiet: bool,
    /// How a model may be found
    #[command(flatten)]
    pub source: SourceArgs,

    /// How tokens are chosen
    #[command(flatten)]
    pub sampling: sampling::SamplingArgs,
}

impl RunArgs {
    /// The trace that was asked for: any of its flags asks for one.
    pub fn trace(&self) -> Option<TraceConfig> {
        let chrome = self.trace_format == TraceFormat::Chrome;
        let asked =
            self.trace || self.trace_verbose || chrome || self.trace_output.is_some() || self.trace_steps.is_some();
        asked.then(|| TraceConfig {
            enabled: true,
            steps: self.trace_steps.clone(),
            output: self.trace_output.clone(),
            verbose: self.trace_verbose,
        })
    }
}

/// Values from a closed list: help, completions and "did you mean" know them.
fn trace_step() -> impl TypedValueParser<Value = TraceStep> {
    let names = ["tokenize", "embed", "attention", "ffn", "lm_head", "sample", "decode"];
    PossibleValuesParser::new(names).try_map(|name| TraceStep::named(&name).ok_or("no such stage"))
}

fn trace_format() -> impl TypedValueParser<Value = TraceFormat> {
    let named = |name: String| if name == "chrome" { TraceFormat::Chrome } else { TraceFormat::Json };
    PossibleValuesParser::new(["json", "chrome"]).map(named)
}

/// Flags of `apr replay`.
#[derive(Debug, clap::Args)]
pub struct ReplayArgs {
    /// A trace that `apr run --trace-output` wrote
    pub trace: PathBuf,
    /// Run it on this model instead of the one the trace names
    #[arg(long, value_name = "MODEL")]
    pub model: Option<PathBuf>,
    /// One JSON object instead of text, on failure too
    #[arg(long)]
    pub json: bool,
    /// How a model may be found
    #[command(flatten)]
    pub source: SourceArgs,
    /// Worker threads [default: all cores]
    #[arg(long, value_name = "N", value_parser = whole::<usize>)]
    pub threads: Option<usize>,
}

/// Flags of `apr check`.
#[derive(Debug, clap::Args)]
pub struct CheckArgs {
    /// Model: a file or folder (GGUF, SafeTensors, .apr), hf://org/repo, org/repo:QUANT, a URL, pacha://name, a short name
    pub model: PathBuf,
    /// On every backend of this build, not only on the one that `run` uses
    #[arg(long)]
    pub all_backends: bool,
    /// Also in step with the oracle backend, operation by operation; slow on a large model
    #[arg(long)]
    pub deep: bool,
    /// Worker threads [default: all cores]
    #[arg(long, value_name = "N", value_parser = whole::<usize>)]
    pub threads: Option<usize>,
    /// Run on the GPU or fail
    #[arg(long, conflicts_with = "no_gpu")]
    pub gpu: bool,
    /// Run on the CPU
    #[arg(long)]
    pub no_gpu: bool,
    /// One JSON object instead of the table, on failure too
    #[arg(long)]
    pub json: bool,
    /// What every stage measured
    #[arg(short, long)]
    pub verbose: bool,
    /// How a model may be found
    #[command(flatten)]
    pub source: SourceArgs,
}

impl CheckArgs {
    /// For the engine.
    pub fn options(&self) -> CheckOptions {
        CheckOptions {
            threads: self.threads,
            gpu: self.gpu,
            gpu_if_present: !self.no_gpu,
            all_backends: self.all_backends,
        }
    }
}

/// Flags of `apr diff`.
#[derive(Debug, clap::Args)]
pub struct DiffArgs {
    /// Model: a file or folder (GGUF, SafeTensors, .apr), hf://org/repo, org/repo:QUANT, a URL, pacha://name, a short name
    pub first: PathBuf,
    /// The same model in another container or number format
    pub second: PathBuf,
    /// How far apart outputs may be: length of the difference over length
    #[arg(long, value_name = "X", default_value_t = 0.2, allow_negative_numbers = true, value_parser = distance)]
    pub limit: f64,
    /// Worker threads [default: all cores]
    #[arg(long, value_name = "N", value_parser = whole::<usize>)]
    pub threads: Option<usize>,
    /// Run both on the GPU or fail
    #[arg(long, conflicts_with = "no_gpu")]
    pub gpu: bool,
    /// Run both on the CPU
    #[arg(long)]
    pub no_gpu: bool,
    /// One JSON object instead of text
    #[arg(long)]
    pub json: bool,
    /// Every operation
    #[arg(short, long)]
    pub verbose: bool,
    /// How a model may be found
    #[command(flatten)]
    pub source: SourceArgs,
}

impl DiffArgs {
    /// For the engine.
    pub fn options(&self) -> CheckOptions {
        CheckOptions { threads: self.threads, gpu: self.gpu, gpu_if_present: !self.no_gpu, all_backends: false }
    }
}

/// A number that counts something.
fn whole<T: std::str::FromStr>(text: &str) -> Result<T, String> {
    let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    text.parse().map_err(|_| if digits { "too large a number" } else { "a whole number from 0 on is expected" }.into())
}

/// How far apart two things may be: anything else would make all of them equal, or none.
fn distance(text: &str) -> Result<f64, String> {
    let x = text.parse::<f64>().ok().filter(|x| x.is_finite() && *x >= 0.0);
    x.ok_or_else(|| "a number from 0 on is expected".into())
}

/// Whether JSON was asked for, for errors that come before or instead of parsed flags.
pub fn json_typed() -> bool {
    std::env::args_os().take_while(|a| a != "--").any(|a| a == "--json")
}

/// Environment and exit codes, from the tables that the engine acts on.
fn after_help() -> String {
    let mut text = String::from("Environment:\n");
    for knob in engine::knobs::ALL {
        text.push_str(&format!("  {:<23} {}\n", knob.name, knob.help));
    }
    text.push_str("\nExit codes:\n    0 success\n");
    for kind in engine::Kind::ALL {
        text.push_str(&format!("  {:>3} {}\n", kind.exit_code(), kind.name()));
    }
    text
}
