//! What the flags mean: the engine's configuration, with conflicts refused and the prompt found.

use std::io::{IsTerminal, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use apr_cli::source;
use engine::scheduler::Plan;
use engine::{ChatConfig, Error, InferenceConfig, Kind, Options, Result, ServeConfig, error, knobs, limits, serve};

use crate::args::{ChatArgs, RunArgs, ServeArgs};

/// Everything `engine` needs for one answer.
pub struct RunPlan {
    /// The specification's configuration.
    pub config: InferenceConfig,
    /// The rest.
    pub options: Options,
    /// Who had the model.
    pub source: String,
}

/// Works it out.
pub fn run(args: &RunArgs, cancel: Arc<AtomicBool>) -> Result<RunPlan> {
    if args.trace().is_some_and(|t| t.output.is_none()) && args.verbose {
        return Err(Error::new(Kind::Usage, "--trace and --verbose would both write to standard error")
            .hint("give the trace a file: --trace-output trace.json"));
    }
    let swapped = || args.prompt.as_ref().is_some_and(|words| Path::new(words).exists());
    let found = source::found(&args.model, &args.source.access(args.quiet)).map_err(|e| match e.kind {
        Kind::NotFound if swapped() => e.hint("the model comes before the prompt: apr run MODEL PROMPT"),
        _ => e,
    })?;
    let prompt = match args.prompt.as_deref() {
        Some(dash) if dash == "-" => read_prompt(args.raw)?,
        Some(text) => utf8(text.as_encoded_bytes().to_vec())?,
        None if std::io::stdin().is_terminal() => {
            return Err(Error::new(Kind::Usage, "no prompt")
                .hint("give one after the model, or pipe it in: echo 'What is 2+2?' | apr run MODEL"));
        }
        None => read_prompt(args.raw)?,
    };
    let config = InferenceConfig {
        prompt: Some(prompt),
        max_tokens: args.max_tokens,
        verbose: args.verbose,
        gpu: args.gpu, //= F-GPU-134
        trace: args.trace(),
        ..InferenceConfig::new(found.path)
    };
    let options = Options {
        sampling: args.sampling.asked.clone(),
        recommended: true,
        system: args.system.clone(),
        raw: args.raw,
        stops: args.stop.clone(),
        threads: args.threads,
        tuned: true,
        gpu_if_present: !args.no_gpu, //= F-GPU-134b
        context: args.ctx_size,
        draft_max: args.draft_max.into(),
        draft: drafting(args.draft.as_deref(), &args.source.access(args.quiet))?,
        trace_format: args.trace_format,
        cancel,
        ..Options::default()
    };
    Ok(RunPlan { config, options, source: found.place })
}

/// The same for a server.
pub fn serve(args: &ServeArgs) -> Result<(ServeConfig, serve::Options)> {
    let model_path = source::resolve(&args.model, &args.source.access(args.quiet))?;
    let config = ServeConfig { model_path, host: args.host.clone(), port: args.port, gpu: args.gpu };
    let options = serve::Options {
        // Those of the config file are not among the flags where the environment has one.
        api_keys: match args.api_key.is_empty() {
            true => knobs::read(&knobs::API_KEY).into_iter().collect(),
            false => args.api_key.clone(),
        },
        insecure: args.insecure,
        allow_hosts: args.allow_host.clone(),
        cors_origins: args.cors_origin.clone(),
        #[cfg(feature = "otel")]
        otlp: knobs::read(&knobs::OTLP),
        timeout: args.timeout,
        name: args.name.clone(),
        gpu_if_present: !args.no_gpu,
        threads: args.threads,
        tuned: true,
        context: args.ctx_size,
        plan: Plan { running_max: args.parallel, queue_max: args.queue, ..Plan::default() },
        ..serve::Options::default()
    };
    Ok((config, options))
}

/// Everything `engine` needs for a conversation.
pub struct ChatPlan {
    /// The specification's configuration.
    pub config: ChatConfig,
    /// The rest.
    pub options: Options,
}

/// Works it out.
pub fn chat(args: &ChatArgs, cancel: Arc<AtomicBool>) -> Result<ChatPlan> {
    let config = ChatConfig {
        model_path: source::resolve(&args.model, &args.source.access(args.quiet))?,
        system: args.system.clone(),
        temperature: 0.0,
        max_tokens: args.max_tokens,
        gpu: args.gpu,
    };
    let options = Options {
        sampling: args.sampling.asked.clone(),
        recommended: true,
        stops: args.stop.clone(),
        threads: args.threads,
        tuned: true,
        gpu_if_present: !args.no_gpu,
        context: args.ctx_size,
        draft_max: args.draft_max.into(),
        draft: drafting(args.draft.as_deref(), &args.source.access(args.quiet))?,
        cancel,
        ..Options::default()
    };
    Ok(ChatPlan { config, options })
}

/// The model that drafts.
fn drafting(model: Option<&Path>, access: &source::Access) -> Result<Option<PathBuf>> {
    model.map(|model| source::resolve(model, access)).transpose()
}

/// The prompt from standard input, without the newline that ends its last line unless it is meant to the byte.
fn read_prompt(raw: bool) -> Result<String> {
    let mut bytes = Vec::new();
    let limit = limits::PROMPT_BYTES_MAX as u64 + 1;
    std::io::stdin()
        .lock()
        .take(limit)
        .read_to_end(&mut bytes)
        .map_err(|e| Error::new(Kind::Unreadable, format!("cannot read the prompt from standard input: {e}")))?;
    let text = utf8(bytes)?;
    Ok(match text.strip_suffix('\n').filter(|_| !raw) {
        Some(line) => line.strip_suffix('\r').unwrap_or(line).to_string(),
        None => text,
    })
}

//= F-JID-265
fn utf8(prompt: Vec<u8>) -> Result<String> {
    error::utf8(prompt, "prompt")
}
