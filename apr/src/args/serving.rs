//! Flags of `apr serve`.

use std::path::PathBuf;
use std::time::Duration;

/// Flags of `apr serve`.
#[derive(Debug, clap::Args)]
pub struct ServeArgs {
    /// Model: a file or folder (GGUF, SafeTensors, .apr), hf://org/repo, org/repo:QUANT, a URL, pacha://name, a short name
    pub model: PathBuf,

    /// Port to listen on; 0 takes any that is free
    #[arg(short, long, value_name = "PORT", default_value_t = 8080, value_parser = port)]
    pub port: u16,
    /// Address to listen on
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1")]
    pub host: String,
    /// A request runs no longer than this
    #[arg(long, value_name = "SECONDS", default_value = "600", value_parser = seconds)]
    pub timeout: Duration, //= F-SERVE-240
    /// Requests that are answered at the same time
    #[arg(long, value_name = "N", default_value_t = 64, value_parser = super::whole::<usize>)]
    pub parallel: usize,
    /// Requests that wait; one more is told to come back later
    #[arg(long, value_name = "N", default_value_t = 512, value_parser = super::whole::<usize>)]
    pub queue: usize,
    /// The model's name for clients [default: the file's]
    #[arg(long, value_name = "NAME")]
    pub name: Option<String>,

    /// Worker threads [default: all cores]
    #[arg(long, value_name = "N", value_parser = super::whole::<usize>)]
    pub threads: Option<usize>,
    /// Positions of context [default: what the model was made for]
    #[arg(short, long, value_name = "N", value_parser = super::whole::<usize>)]
    pub ctx_size: Option<usize>,
    /// Run on the GPU or fail
    #[arg(long, conflicts_with = "no_gpu")]
    pub gpu: bool,
    /// Run on the CPU
    #[arg(long)]
    pub no_gpu: bool,

    /// Requests have to bring this key; may be given several times. Better: APR_API_KEY in the environment
    #[arg(long, value_name = "KEY", help_heading = "Who may ask")]
    pub api_key: Vec<String>,
    /// Listen beyond this machine without a key
    #[arg(long, help_heading = "Who may ask")]
    pub insecure: bool,
    /// The server may be called by this name; may be given several times. Addresses and localhost always work
    #[arg(long, value_name = "NAME", help_heading = "Who may ask")]
    pub allow_host: Vec<String>,
    /// Pages of this origin may use the server from a browser; may be given several times, `*` is every page
    #[arg(long, value_name = "ORIGIN", help_heading = "Who may ask")]
    pub cors_origin: Vec<String>,

    /// Say nothing but where it listens, warnings and errors
    #[arg(short, long)]
    pub quiet: bool,
    /// How a model may be found
    #[command(flatten)]
    pub source: super::SourceArgs,
}

fn seconds(text: &str) -> Result<Duration, String> {
    let seconds: f64 = text.parse().map_err(|_| "not a number")?;
    match Duration::try_from_secs_f64(seconds) {
        // A day is as good as for ever, and adds up with any clock.
        Ok(time) if (0.001..=86_400.0).contains(&seconds) => Ok(time),
        _ => Err("from 0.001 to 86400 seconds can be had".into()),
    }
}

fn port(text: &str) -> Result<u16, String> {
    text.parse().map_err(|_| "a number from 0 to 65535 is expected".into())
}
