//! Flags of the commands that bring models and keep them, and the flag that all commands with a model share.

use std::path::PathBuf;

use apr_cli::source::Access;
use clap::ArgAction;

/// How a model may be found.
#[derive(Debug, clap::Args)]
pub struct SourceArgs {
    /// Make no connection: use what is on this machine
    #[arg(long)]
    pub offline: bool,
}

impl SourceArgs {
    /// For the sources.
    pub fn access(&self, quiet: bool) -> Access {
        Access::new(self.offline, quiet)
    }
}

/// Flags of `apr pull`.
#[derive(Debug, clap::Args)]
pub struct PullArgs {
    /// hf://org/repo[@revision][/file], org/repo:QUANT, a URL, a short name (qwen2.5-coder:0.5b) or pacha://name[:tag]
    pub model: PathBuf,
    /// Take it from the registry in this folder, where `apr push` put it
    #[arg(long, value_name = "DIR")]
    pub from: Option<PathBuf>,
    /// How a model may be found
    #[command(flatten)]
    pub source: SourceArgs,
    /// Say nothing but where it is, and errors
    #[arg(short, long, action = ArgAction::SetTrue)]
    pub quiet: bool,
}

/// Flags of `apr list`.
#[derive(Debug, clap::Args)]
pub struct ListArgs {
    /// Hash every file of the cache and the registry, and say which ones are damaged
    #[arg(long)]
    pub verify: bool,
    /// One JSON object
    #[arg(long)]
    pub json: bool,
}

/// Flags of `apr rm`.
#[derive(Debug, clap::Args)]
pub struct RmArgs {
    /// What `apr list` calls it: hf://org/repo, a URL, pacha://name[:tag]
    #[arg(required = true)]
    pub models: Vec<PathBuf>,
}

/// Flags of `apr tag`.
#[derive(Debug, clap::Args)]
pub struct TagArgs {
    /// Any model: a path, hf://org/repo, a URL, pacha://name[:tag], a short name
    pub model: PathBuf,
    /// What the registry is to call it: name[:tag]
    pub name: String,
    /// How a model may be found
    #[command(flatten)]
    pub source: SourceArgs,
}

/// Flags of `apr push`.
#[derive(Debug, clap::Args)]
pub struct PushArgs {
    /// What the registry calls it: name[:tag]
    pub name: String,
    /// Folder of another registry, which is made if it is not there; `apr pull --from DIR` takes it from there
    pub folder: PathBuf,
}
