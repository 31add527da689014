//! The engine's public face, with the names and fields of the specification's section 5.3.
//!
//! The structs of the specification have exactly its fields, so that its literals compile; everything else stands in
//! [`Options`], whose default is what a caller who never heard of it wants.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Instant;

use compute::cpu::Cpu;
use compute::cpu::isa::Isa;
use compute::cuda::{Absent, Cuda};
use compute::plain::Plain;
use compute::{Backend, Interest};

use crate::chat;
pub use crate::check::CheckResult;
use crate::error::{Error, Kind, Place, Result};
use crate::guard;
use crate::knobs;
use crate::limits;
use crate::sample::Sampling;
use crate::sample::settings::Asked;
use crate::serve;
use crate::session::{Answer, Event, Finish, Generation, Loaded, Observer, PREFILL_CHUNK, Prompt, Session, Understood};
use crate::speculate::DRAFT_MAX;
use crate::term::{self, Terminal};
use crate::text;
use crate::trace::{self, Trace, Traced};
use crate::tune;
use crate::twin::{self, Comparison};

/// Configuration for inference.
#[derive(Clone, Debug)]
pub struct InferenceConfig {
    /// The model: a file, or a folder in HuggingFace's layout.
    pub model_path: PathBuf,
    /// The user's words.
    pub prompt: Option<String>,
    /// Most tokens to make.
    pub max_tokens: usize,
    /// 0 is greedy.
    pub temperature: f32,
    /// Details on standard error.
    pub verbose: bool,
    /// Record an execution trace.
    pub trace: Option<TraceConfig>,
    /// Use the GPU, or refuse to run.
    pub gpu: bool,
}

impl InferenceConfig {
    /// A model with everything else at its default: 512 tokens, greedy, quiet, CPU.
    pub fn new(model_path: impl Into<PathBuf>) -> InferenceConfig {
        InferenceConfig {
            model_path: model_path.into(),
            prompt: None,
            max_tokens: 512,
            temperature: 0.0,
            verbose: false,
            trace: None,
            gpu: false,
        }
    }
}

/// Trace configuration (AWS Step Functions parity).
#[derive(Clone, Debug, Default)]
pub struct TraceConfig {
    /// Whether to record.
    pub enabled: bool,
    /// Only these steps.
    pub steps: Option<Vec<TraceStep>>,
    /// Where to write; standard error if none.
    pub output: Option<PathBuf>,
    /// With tensor values.
    pub verbose: bool,
}

/// A step of the pipeline that a trace can show.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum TraceStep {
    /// Text to tokens.
    Tokenize,
    /// Tokens to vectors.
    Embed,
    /// Attention of a layer.
    Attention,
    /// Feed-forward part of a layer.
    Ffn,
    /// Vectors to logits.
    LmHead,
    /// Logits to a token.
    Sample,
    /// A token to text.
    Decode,
}

/// The form of a trace.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TraceFormat {
    /// Events as AWS Step Functions has them.
    #[default]
    Json,
    /// What Chromium's trace viewer and Perfetto open.
    Chrome,
}

/// A recorded trace.
#[derive(Clone, Debug, PartialEq)]
pub struct TraceOutput {
    /// The document.
    pub json: serde_json::Value,
}

/// Inference result.
#[derive(Clone, Debug)]
pub struct InferenceResult {
    /// The answer.
    pub text: String,
    /// Its tokens.
    pub tokens_generated: usize,
    /// From the call to the end of the answer, loading included.
    pub duration_ms: f64,
    /// Decoding speed.
    pub tokens_per_second: f64,
    /// If one was asked for.
    pub trace: Option<TraceOutput>,
}

/// Configuration of a chat.
#[derive(Clone, Debug)]
pub struct ChatConfig {
    /// The model file.
    pub model_path: PathBuf,
    /// System message.
    pub system: Option<String>,
    /// 0 is greedy.
    pub temperature: f32,
    /// Most tokens of each answer.
    pub max_tokens: usize,
    /// Use the GPU.
    pub gpu: bool,
}

/// Configuration of a server.
#[derive(Clone, Debug)]
pub struct ServeConfig {
    /// The model file.
    pub model_path: PathBuf,
    /// Address to listen on.
    pub host: String,
    /// Port to listen on.
    pub port: u16,
    /// Use the GPU.
    pub gpu: bool,
}

/// What the structs of the specification leave open.
#[derive(Clone, Debug)]
pub struct Options {
    /// Sampling beyond the temperature, which [`InferenceConfig`] decides unless it is asked for here.
    pub sampling: Asked,
    /// Start from the sampling that the model file recommends, temperature included.
    pub recommended: bool,
    /// Instead of the template's system message.
    pub system: Option<String>,
    /// No chat template.
    pub raw: bool,
    /// Texts that end the answer.
    pub stops: Vec<String>,
    /// Worker threads; all cores if none.
    pub threads: Option<usize>,
    /// Run on the CPU as [`crate::tune`] found it fastest, unless threads are asked for.
    pub tuned: bool,
    /// Use a GPU where there is one that works, and the CPU where there is none.
    pub gpu_if_present: bool,
    /// Positions; the model's own if none.
    pub context: Option<usize>,
    /// Rows of the prompt that are run together.
    pub prefill_chunk: usize,
    /// Most tokens drafted for one step; 0 is none.
    pub draft_max: usize,
    /// A smaller model with the same vocabulary, which drafts too.
    pub draft: Option<PathBuf>,
    /// The form of a trace, if one is recorded.
    pub trace_format: TraceFormat,
    /// Set to stop: the answer so far is returned.
    pub cancel: Arc<AtomicBool>,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            sampling: Asked::default(),
            recommended: false,
            system: None,
            raw: false,
            stops: Vec::new(),
            threads: None,
            tuned: false,
            gpu_if_present: false,
            context: None,
            prefill_chunk: PREFILL_CHUNK,
            draft_max: DRAFT_MAX,
            draft: None,
            trace_format: TraceFormat::default(),
            cancel: Arc::default(),
        }
    }
}

/// All that [`run`] knows at the end.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// The answer.
    pub answer: Answer,
    /// What ran.
    pub backend: String,
    /// Time to open and prepare the model.
    pub load_ms: f64,
    /// The whole call.
    pub duration_ms: f64,
    /// Work done.
    pub counters: compute::backend::Counters,
    /// If one was asked for.
    pub trace: Option<TraceOutput>,
}

/// An observer that looks at nothing.
pub struct Silent;

impl Observer for Silent {
    fn event(&mut self, _: Event<'_>) -> Result<()> {
        Ok(())
    }
}

/// The CPU backend, as flags and environment ask for it. Names that cannot be honoured are refused.
pub fn backend(threads: Option<usize>) -> Result<Cpu> {
    let isa = match knobs::read(&knobs::ISA) {
        None => Isa::detect(),
        Some(name) => Isa::from_name(&name).ok_or_else(|| {
            let here: Vec<&str> = Isa::available().into_iter().map(Isa::name).collect();
            Error::new(Kind::Usage, format!("{}={name} cannot be had here", knobs::ISA.name))
                .hint(format!("this processor has: {}", here.join(", ")))
        })?,
    };
    //= F-CPU-096
    let threads = match threads {
        Some(n) if n == 0 || n > limits::THREADS_MAX => {
            return Err(Error::new(Kind::Usage, format!("{n} threads"))
                .at(Place::Flag("--threads".into()))
                .hint(format!("1 to {} are possible", limits::THREADS_MAX)));
        }
        Some(n) => n,
        None => std::thread::available_parallelism().map_or(1, usize::from), //= F-CPU-095
    };
    Ok(Cpu { isa, threads })
}

/// Loads a model and answers a prompt; what happens on the way is told to the observer.
pub fn run(config: &InferenceConfig, options: &Options, observer: &mut dyn Observer) -> Result<Outcome> {
    let start = Instant::now();
    let Some(asked) = config.trace.as_ref().filter(|t| t.enabled) else {
        let mut loaded = load(config, options, &Interest::Nothing, observer)?;
        let mut draft = load_draft(config.gpu, options, observer)?;
        let load_ms = start.elapsed().as_secs_f64() * 1e3;
        observer.event(Event::Loaded(&loaded, load_ms))?;
        return match answer(&mut loaded, draft.as_mut(), config, options, observer) {
            Ok(answer) => Ok(outcome(answer, &loaded, load_ms, start)),
            Err(e) => {
                drop(loaded);
                Err(explained(e, config, options))
            }
        };
    };
    if options.draft.is_some() {
        return Err(Error::new(
            Kind::Usage,
            "a traced run drafts nothing: a trace shows every token in a step of its own",
        )
        .at(Place::Flag("--draft".into()))
        .hint("leave one of them away; the tokens are the same"));
    }
    let sink = asked.output.as_deref().map(trace::Sink::open).transpose()?;
    let mut trace = Trace::new(asked.steps.clone(), asked.verbose);
    let mut loaded = load(config, options, &trace.interest(), observer)?;
    let load_ms = start.elapsed().as_secs_f64() * 1e3;
    observer.event(Event::Loaded(&loaded, load_ms))?;
    let mut digest = trace::Digest::begin(&loaded.model, &config.model_path)?;
    trace.restart();
    let answered = answer(&mut loaded, None, config, options, &mut Traced { trace: &mut trace, watcher: observer });
    let json = match options.trace_format {
        TraceFormat::Chrome => trace::chrome(&trace),
        TraceFormat::Json => {
            let stopped_us = trace.elapsed_us();
            let ended = answered.as_ref();
            let load_ms = Some(load_ms);
            // Whoever reads it may be in another folder.
            let model_path = std::path::absolute(&config.model_path).unwrap_or_else(|_| config.model_path.clone());
            let config = &InferenceConfig { model_path, ..config.clone() };
            let run =
                trace::Run { config, options, loaded: &loaded, sha256: digest.get()?, load_ms, stopped_us, ended };
            trace::document(&trace, &run)
        }
    };
    let output = TraceOutput { json };
    // A run that failed is traced too: that is when one wants to see it.
    match sink {
        Some(sink) => sink.write(&output.json)?,
        None => observer.event(Event::Trace(&output.json))?,
    }
    let answered = answered.map_err(|e| explained(e, config, options))?;
    Ok(Outcome { trace: Some(output), ..outcome(answered, &loaded, load_ms, start) })
}

fn outcome(answer: Answer, loaded: &Loaded, load_ms: f64, start: Instant) -> Outcome {
    Outcome {
        answer,
        backend: loaded.backend(),
        load_ms,
        duration_ms: start.elapsed().as_secs_f64() * 1e3,
        counters: loaded.counters(),
        trace: None,
    }
}

fn load(
    config: &InferenceConfig,
    options: &Options,
    interest: &Interest,
    observer: &mut dyn Observer,
) -> Result<Loaded> {
    let wish = Wish::of(config.gpu, options);
    let known = || Understood::open(&config.model_path, options.context);
    wish.open(&mut |warning| observer.event(Event::Warning(warning)), known, interest)
}

/// The model that drafts, where the other one runs.
fn load_draft(gpu: bool, options: &Options, observer: &mut dyn Observer) -> Result<Option<Loaded>> {
    let Some(path) = &options.draft else { return Ok(None) };
    if options.draft_max == 0 {
        return Err(Error::new(Kind::Usage, "a model that drafts, and no token to be drafted")
            .at(Place::Flag("--draft".into()))
            .hint("leave --draft-max 0 away"));
    }
    let wish = Wish::of(gpu, options);
    let warn = &mut |warning: &str| observer.event(Event::Warning(warning));
    let draft = wish.open(warn, || Understood::open(path, None), &Interest::Nothing)?;
    observer.event(Event::Draft(&draft))?;
    Ok(Some(draft))
}

/// Where a model is to run.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Wish {
    /// On the GPU or not at all.
    pub gpu: bool,
    /// On the GPU if there is one.
    pub gpu_if_present: bool,
    /// Worker threads of the CPU backend; all cores if none.
    pub threads: Option<usize>,
    /// As it was tuned, where nothing else is asked for.
    pub tuned: bool,
}

impl Wish {
    fn of(gpu: bool, options: &Options) -> Wish {
        let Options { gpu_if_present, threads, tuned, .. } = *options;
        Wish { gpu, gpu_if_present, threads, tuned }
    }

    /// Opens a model there. What is wrong with its file is said before a GPU is woken up; a GPU that is there and cannot
    /// be used is a warning where the CPU may do it too.
    pub fn open(
        self,
        warn: &mut dyn FnMut(&str) -> Result<()>,
        known: impl FnOnce() -> Result<Understood>,
        interest: &Interest,
    ) -> Result<Loaded> {
        let cpu = backend(self.threads)?; // wrong flags are wrong on a GPU too
        let known = Arc::new(known()?);
        let on = |backend: &dyn Backend| Loaded::prepare(known.clone(), backend, interest, |_| {});
        let settled = |warn: &mut dyn FnMut(&str) -> Result<()>| {
            let free = self.tuned && self.threads.is_none() && knobs::read(&knobs::ISA).is_none();
            if free { tune::settle(cpu, &known, warn) } else { Ok(cpu) }
        };
        if !self.gpu && !self.gpu_if_present {
            return on(&settled(warn)?);
        }
        //= F-GPU-116
        //= F-CLI-013
        let why = match Cuda::with_image(knobs::read(&knobs::CUDA_IMAGE).as_deref()) {
            Ok(cuda) => match on(&cuda) {
                Err(e) if !self.gpu && matches!(e.kind, Kind::TooLarge | Kind::Unsupported) => e.to_string(),
                opened => return opened,
            },
            Err(absent) if self.gpu => return Err(no_gpu(&absent)),
            // No GPU is what most machines have: no news.
            Err(Absent::NoDriver | Absent::NoDevice) => return on(&settled(warn)?),
            Err(absent) => absent.to_string(),
        };
        //= F-GPU-135 F-JID-276
        warn(&format!("not on the GPU: {why}; running on the CPU"))?;
        on(&settled(warn)?)
    }
}

/// Instruction sets that this processor has kernels for, fastest first.
pub fn instruction_sets() -> Vec<&'static str> {
    Isa::available().into_iter().map(Isa::name).collect()
}

/// The GPU that would be used with its free and total bytes; or why there is none, and what could be done about it.
pub fn gpu() -> std::result::Result<(String, usize, usize), (String, &'static str)> {
    let cuda = Cuda::with_image(knobs::read(&knobs::CUDA_IMAGE).as_deref());
    let cuda = cuda.map_err(|absent| (format!("there is no GPU to be had: {absent}"), missing(&absent)))?;
    let (free, total) = cuda.memory().map_err(|e| (e.to_string(), "nvidia-smi says whether the driver works"))?;
    Ok((cuda.describe(), free, total))
}

/// Why a run that is not on the GPU is not, for people who ask.
pub(crate) fn why_cpu(gpu_if_present: bool) -> String {
    if !gpu_if_present {
        return "no GPU was wanted".into();
    }
    match Cuda::with_image(knobs::read(&knobs::CUDA_IMAGE).as_deref()) {
        Err(absent) => format!("there is no GPU to be had: {absent}"),
        Ok(_) => "the GPU cannot run this model".into(),
    }
}

/// What to do about a GPU that is not to be had.
fn missing(absent: &Absent) -> &'static str {
    match absent {
        Absent::NoDriver => "install NVIDIA's driver",
        Absent::NoDevice => "nvidia-smi lists the devices; CUDA_VISIBLE_DEVICES may hide them",
        Absent::TooOld(_) => "update NVIDIA's driver",
        Absent::Broken(_) => "nvidia-smi says whether the driver works at all",
    }
}

//= F-GPU-136
fn no_gpu(absent: &Absent) -> Error {
    let missing = missing(absent);
    Error::new(Kind::Unsupported, format!("no GPU to run on: {absent}"))
        .at(Place::Flag("--gpu".into()))
        .hint(format!("{missing}, or leave the flag away to run on the CPU"))
}

fn answer(
    loaded: &mut Loaded,
    draft: Option<&mut Loaded>,
    config: &InferenceConfig,
    options: &Options,
    observer: &mut dyn Observer,
) -> Result<Answer> {
    let Some(words) = &config.prompt else {
        return Err(Error::new(Kind::Usage, "no prompt").hint("give one as the second argument, or pipe it in"));
    };
    let sampling = sampling(loaded, config, options, observer)?;
    let prompt = Prompt { text: words, system: options.system.as_deref(), raw: options.raw };
    if !options.raw && matches!(loaded.template, Ok(None)) {
        let warning = "the file has no chat template and its vocabulary is of none that is known; the prompt is completed as it is";
        observer.event(Event::Warning(warning))?;
    }
    let ids = loaded.encode_prompt(&prompt)?;
    if let Some(hint) = text::rare::hint(&loaded.tokenizer, words) {
        observer.event(Event::Warning(&hint))?;
    }
    observer.event(Event::Tokenized { text: words, ids: &ids })?;
    let generation = Generation {
        max_tokens: config.max_tokens,
        sampling,
        stops: options.stops.clone(),
        grammar: None,
        prefill_chunk: options.prefill_chunk,
        // A trace shows every token in a step of its own.
        draft_max: if config.trace.as_ref().is_some_and(|t| t.enabled) { 0 } else { options.draft_max },
    };
    let mut session = Session::new(loaded);
    if let Some(draft) = draft {
        session.drafted_by(draft)?;
    }
    let answer = session.generate(&ids, &generation, observer, &options.cancel)?;
    //= F-JID-271
    let whole = answer.prompt_tokens == ids.len();
    if !options.raw && whole && answer.finish == Finish::Eos && answer.tokens.is_empty() {
        observer.event(Event::Warning(guard::ENDED_AT_ONCE))?;
    }
    Ok(answer)
}

/// Finds out where numbers that broke a run began: the same once more, with every operation looked at.
fn explained(error: Error, config: &InferenceConfig, options: &Options) -> Error {
    struct Looking(guard::Beginning);
    impl Observer for Looking {
        fn event(&mut self, _: Event<'_>) -> Result<()> {
            Ok(())
        }
        fn tap(&mut self) -> Option<&mut dyn compute::backend::Tap> {
            Some(&mut self.0)
        }
    }
    if error.kind != Kind::Inference {
        return error;
    }
    let mut looking = Looking(guard::Beginning::default());
    // That it fails again is the point.
    let _failed = load(config, options, &Interest::Everything, &mut Silent)
        .and_then(|mut loaded| answer(&mut loaded, None, config, options, &mut looking));
    looking.0.explain(error)
}

/// The default, what the model recommends if that is wanted, and what was asked for, in this order.
fn sampling(
    loaded: &Loaded,
    config: &InferenceConfig,
    options: &Options,
    observer: &mut dyn Observer,
) -> Result<Sampling> {
    let mut sampling = Sampling { temperature: config.temperature, ..Sampling::default() };
    let mut warnings = loaded.model.warnings.clone();
    if options.recommended {
        warnings.extend(sampling.recommended_by(&loaded.model.metadata)?);
    }
    warnings.extend(sampling.asked(&options.sampling));
    for warning in warnings {
        observer.event(Event::Warning(&warning))?;
    }
    let vocab = loaded.tokenizer.vocab_size();
    if let Some((token, _)) = sampling.logit_bias.iter().find(|(token, _)| *token as usize >= vocab) {
        return Err(Error::new(Kind::Usage, format!("no token {token}"))
            .at(Place::Flag("--logit-bias".into()))
            .hint(format!("the vocabulary has {vocab} tokens")));
    }
    observer.event(Event::Sampling(&sampling))?;
    Ok(sampling)
}

/// Run model inference with Ollama-style UX: a spinner while loading, then the answer on standard output as it comes.
///
/// The work is done inside the first poll and takes as long as it takes: from an asynchronous program call it where
/// blocking is allowed.
pub async fn run_inference(config: InferenceConfig) -> Result<InferenceResult> {
    run_on_terminal(&config, &Options::default(), Terminal::new(config.verbose)).map(|o| InferenceResult {
        text: o.answer.text.clone(),
        tokens_generated: o.answer.tokens.len(),
        duration_ms: o.duration_ms,
        tokens_per_second: o.answer.tokens_per_second(),
        trace: o.trace,
    })
}

/// [`run_inference`] with options, on a terminal that the caller has set up.
pub fn run_on_terminal(config: &InferenceConfig, options: &Options, mut terminal: Terminal) -> Result<Outcome> {
    terminal.loading(&config.model_path, options);
    let result = run(config, options, &mut terminal);
    term::clear();
    match result {
        Ok(outcome) => {
            terminal.done(&outcome)?;
            Ok(outcome)
        }
        // The message begins a line of its own.
        Err(e) => terminal.line_end().and(Err(e)),
    }
}

/// Start interactive chat session: reads lines from standard input and answers them, until somebody leaves.
///
/// As with [`run_inference`], the work is done inside the first poll.
pub async fn run_chat(config: ChatConfig) -> Result<()> {
    chat::run(&config, &Options::default(), Terminal::new(false))
}

/// The model of a chat, and the one that drafts for it.
pub(crate) fn open_chat(
    config: &ChatConfig,
    options: &Options,
    observer: &mut dyn Observer,
) -> Result<(Loaded, Option<Loaded>)> {
    let loaded = load(&of_chat(config), options, &Interest::Nothing, observer)?;
    Ok((loaded, load_draft(config.gpu, options, observer)?))
}

/// How a chat chooses tokens.
pub(crate) fn chat_sampling(
    loaded: &Loaded,
    config: &ChatConfig,
    options: &Options,
    observer: &mut dyn Observer,
) -> Result<Sampling> {
    sampling(loaded, &of_chat(config), options, observer)
}

/// What a chat and a single answer have in common.
fn of_chat(config: &ChatConfig) -> InferenceConfig {
    InferenceConfig {
        max_tokens: config.max_tokens,
        temperature: config.temperature,
        gpu: config.gpu,
        ..InferenceConfig::new(&config.model_path)
    }
}

/// Start HTTP inference server. Runs until the future is dropped or the server fails, on threads of its own: any executor
/// will do.
pub async fn run_serve(config: ServeConfig) -> Result<()> {
    serve::run_elsewhere(config, serve::Options::default(), term::serving).await
}

/// Run 10-stage pipeline verification, on the backend that [`run`] would use.
pub fn check_model(path: &Path) -> Result<CheckResult> {
    check_on(path, &backend(None)?, None)
}

/// Which backends [`check`] measures on.
#[derive(Clone, Debug, Default)]
pub struct CheckOptions {
    /// Worker threads; all cores if none.
    pub threads: Option<usize>,
    /// On the GPU or not at all.
    pub gpu: bool,
    /// On the GPU if there is one.
    pub gpu_if_present: bool,
    /// On every backend of this build, the oracle too.
    pub all_backends: bool,
}

impl CheckOptions {
    fn wish(&self) -> Wish {
        Wish { gpu: self.gpu, gpu_if_present: self.gpu_if_present, threads: self.threads, tuned: false }
    }
}

/// Ten stages on the backend that [`run`] would use with these options, or on all of them.
pub fn check(path: &Path, options: &CheckOptions) -> Result<Vec<CheckResult>> {
    let known = || Understood::open(path, None);
    let mut loaded = options.wish().open(&mut |_| Ok(()), known, &Interest::Everything)?; //= F-CHECK-229
    let first = crate::check::check(&mut loaded)?;
    drop(loaded);
    if !options.all_backends {
        return Ok(vec![first]);
    }
    //= F-CHECK-230
    let cpu = backend(options.threads)?;
    let others: &[&dyn Backend] = if first.backend.starts_with("cpu") { &[&Plain] } else { &[&cpu, &Plain] };
    let others = others.iter().map(|backend| check_on(path, *backend, None));
    std::iter::once(Ok(first)).chain(others).collect()
}

/// How far the outputs of two backends may be apart: activations in int8 add up over the layers.
const BACKENDS_APART: f64 = 0.1;

/// A model in step on the backend that [`check`] uses with these options and on the oracle.
pub fn beside_the_oracle(path: &Path, options: &CheckOptions) -> Result<Comparison> {
    let known = || Understood::open(path, None);
    let mut loaded = options.wish().open(&mut |_| Ok(()), known, &Interest::Everything)?;
    let mut oracle = Loaded::open_rewritten(path, &Plain, None, &Interest::Everything, |_| {})?;
    twin::compare(&mut loaded, &mut oracle, twin::TEXT, BACKENDS_APART)
}

/// Two models in step on the backend that [`check`] uses with these options. Where one of them cannot be on the GPU,
/// neither is: what parts then would be the backends.
pub fn diff(a: &Path, b: &Path, options: &CheckOptions, limit: f64) -> Result<Comparison> {
    let open =
        |path: &Path, wish: Wish| wish.open(&mut |_| Ok(()), || Understood::open(path, None), &Interest::Everything);
    let wish = options.wish();
    let (mut first, mut second) = (open(a, wish)?, open(b, wish)?);
    let on_cpu = |loaded: &Loaded| loaded.backend().starts_with("cpu");
    if on_cpu(&first) != on_cpu(&second) {
        let cpu = Wish { gpu: false, gpu_if_present: false, ..wish };
        drop((first, second));
        (first, second) = (open(a, cpu)?, open(b, cpu)?);
    }
    twin::compare(&mut first, &mut second, twin::TEXT, limit)
}

/// The same on a backend of the caller's choice.
pub fn check_on(path: &Path, backend: &dyn Backend, context: Option<usize>) -> Result<CheckResult> {
    let mut loaded = Loaded::open_rewritten(path, backend, context, &Interest::Everything, |_| {})?;
    crate::check::check(&mut loaded)
}
