//! `apr serve`: the model over HTTP. One file per dialect, each with its routes; [`ALL`] has them all.
//!
//! A request passes the door (`door`), is understood (`Server::understand`: parsed, laid out, encoded, on threads that
//! may block), goes to the scheduler (`answer`), and is spelled by its dialect. The engine below knows nothing of HTTP.

mod answer;
mod body;
mod chat;
mod completions;
mod connection;
mod door;
mod fields;
mod generate;
mod health;
mod logprobs;
mod metrics;
mod models;
mod openapi;
#[cfg(feature = "otel")]
mod otel;
mod problem;
mod route;
mod running;
mod tokens;
mod tools;
mod traced;

use std::net::{SocketAddr, TcpListener, ToSocketAddrs};
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use axum::extract::Request;
use axum::http::{HeaderMap, StatusCode};
use serde_json::{Value, json};
use tokio::sync::{Semaphore, oneshot, watch};
use tokio::time::sleep;

use crate::api::{ServeConfig, Wish};
use crate::error::{Error, Kind, Place, Result, quoted};
use crate::limits;
use crate::sample::Sampling;
use crate::scheduler::{Handle, Plan, Scheduler};
use crate::session::Understood;
use fields::Fields;
use problem::{Answered, Problem};
use route::Route;
pub use running::{Running, run_elsewhere, start};

/// Every route of every dialect.
static ALL: &[&[Route]] = &[
    chat::ROUTES,
    completions::ROUTES,
    generate::ROUTES,
    models::ROUTES,
    tokens::ROUTES,
    health::ROUTES,
    metrics::ROUTES,
    openapi::ROUTES,
];

/// Tokens of an answer where nobody says how many: as many as `apr run` makes.
const DEFAULT_TOKENS: usize = 512;

/// What [`ServeConfig`] leaves open.
#[derive(Clone, Debug)]
pub struct Options {
    /// Whoever has one of these may ask. None: everybody who reaches the server.
    pub api_keys: Vec<String>,
    /// Listen beyond this machine without a key.
    pub insecure: bool,
    /// Names by which the server may be called, beside addresses and `localhost`.
    pub allow_hosts: Vec<String>,
    /// Pages that may use the server from a browser; `*` is every page.
    pub cors_origins: Vec<String>,
    /// From a request's arrival in the queue to its last token.
    pub timeout: Duration,
    /// The model's name; that of its file if none.
    pub name: Option<String>,
    /// On the GPU if there is one.
    pub gpu_if_present: bool,
    /// Worker threads; all cores if none.
    pub threads: Option<usize>,
    /// On the CPU as [`crate::tune`] found it fastest, unless threads are asked for.
    pub tuned: bool,
    /// Positions of a sequence; the model's own if none.
    pub context: Option<usize>,
    /// How much is done at once.
    pub plan: Plan,
    /// A collector that is told of requests.
    #[cfg(feature = "otel")]
    pub otlp: Option<String>,
    /// Told to stop.
    pub shutdown: Shutdown,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            api_keys: Vec::new(),
            insecure: false,
            allow_hosts: Vec::new(),
            cors_origins: Vec::new(),
            timeout: Duration::from_secs(600),
            name: None,
            gpu_if_present: false,
            threads: None,
            tuned: false,
            context: None,
            plan: Plan::default(),
            #[cfg(feature = "otel")]
            otlp: None,
            shutdown: Shutdown::default(),
        }
    }
}

/// A switch that stops a server from any thread: running requests end, new ones are refused.
#[derive(Clone, Debug)]
pub struct Shutdown(Arc<watch::Sender<bool>>);

impl Default for Shutdown {
    fn default() -> Shutdown {
        Shutdown(Arc::new(watch::Sender::new(false)))
    }
}

impl Shutdown {
    /// Begins the end.
    pub fn begin(&self) {
        self.0.send_replace(true);
    }

    /// Whether it has begun.
    pub fn has_begun(&self) -> bool {
        *self.0.borrow()
    }

    async fn begun(&self) {
        // The sender is ours: the channel cannot close.
        let _ = self.0.subscribe().wait_for(|begun| *begun).await;
    }
}

/// What a server has to say to whoever started it.
#[derive(Debug)]
pub enum Notice<'a> {
    /// It listens; the model is being loaded.
    Listening {
        /// Where.
        address: SocketAddr,
        /// The model's name.
        model: &'a str,
        /// Whether requests need a key.
        key: bool,
    },
    /// The model is ready.
    Ready {
        /// What runs.
        backend: &'a str,
        /// Time to load.
        load_ms: f64,
    },
    /// It was told to stop, and so many requests are running.
    Draining(usize),
    /// Something that should be known.
    Warning(&'a str),
}

/// One server.
struct Server {
    options: Options,
    /// As in the configuration.
    host: String,
    path: PathBuf,
    wish: Wish,
    name: String,
    model: OnceLock<Served>,
    counts: metrics::Counts,
    held: body::Held,
    understanding: Semaphore,
    traced: traced::Prepared,
    #[cfg(feature = "otel")]
    exporter: Option<Arc<otel::Exporter>>,
    /// Generating requests under way.
    working: Arc<AtomicUsize>,
}

/// The model behind a server.
struct Served {
    handle: Handle,
    /// Sampling where a request asks for nothing: greedy, or what the model's file recommends.
    recommended: Sampling,
    timeout: Duration,
    name: String,
    loaded_at: SystemTime,
    load_ms: f64,
}

/// A generating request: the server does not end before it is dropped.
struct Working(Arc<AtomicUsize>);

impl Drop for Working {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Server {
    fn draining(&self) -> bool {
        self.options.shutdown.has_begun()
    }

    /// The model, once it is there.
    fn served(&self) -> Answered<&Served> {
        let loading = || Problem::new(StatusCode::SERVICE_UNAVAILABLE, "Loading model").code("loading");
        self.model.get().ok_or_else(loading)
    }

    fn work(&self) -> Working {
        self.working.fetch_add(1, Ordering::Relaxed);
        Working(Arc::clone(&self.working))
    }

    /// Reads a body and makes of it what `meaning` says, where blocking is allowed: templates and tokenizers take
    /// their time with long texts.
    async fn understand<T: Send + 'static>(
        self: &Arc<Server>,
        request: Request,
        meaning: fn(&Served, &Fields, &HeaderMap) -> Answered<T>,
    ) -> Answered<T> {
        self.served()?;
        let (head, body) = request.into_parts();
        let whole = self.held.read(&head.headers, body).await?;
        let _turn = self.understanding.acquire().await;
        let server = Arc::clone(self);
        let understood = tokio::task::spawn_blocking(move || {
            let honoured = route::of(head.uri.path()).map_or(&[][..], |r| r.fields);
            let fields = Fields::parse(&whole.bytes, honoured)?;
            drop(whole);
            meaning(server.served()?, &fields, &head.headers)
        });
        match understood.await {
            Ok(meant) => meant,
            // Passed on to where panics become replies.
            Err(e) if e.is_panic() => std::panic::resume_unwind(e.into_panic()),
            Err(e) => Err(Problem::new(StatusCode::INTERNAL_SERVER_ERROR, e.to_string())),
        }
    }
}

/// What frames of OpenAI's dialects begin with.
struct Head {
    id: String,
    created: u64,
    name: String,
    fingerprint: String,
    model: Arc<Understood>,
}

impl Head {
    /// For this request, which may name the model: a name that is not ours is another model, and refused.
    fn new(served: &Served, fields: &Fields, prefix: &str) -> Answered<Head> {
        if let Some(name) = fields.text("model")?.filter(|name| *name != served.name) {
            let what = format!("there is no model {} here; this server has {}", quoted(name), quoted(&served.name));
            let problem = Problem::new(StatusCode::NOT_FOUND, what).code("model_not_found");
            return Err(Problem { param: Some("model".into()), ..problem });
        }
        Ok(Head {
            id: door::unique(prefix),
            created: unix_seconds(SystemTime::now()),
            name: served.name.clone(),
            fingerprint: format!("apr-{}", env!("CARGO_PKG_VERSION")),
            model: Arc::clone(served.handle.model()),
        })
    }

    fn frame(&self, object: &str, choices: Vec<Value>, usage: Option<Value>) -> Value {
        let mut frame = json!({
            "id": self.id,
            "object": object,
            "created": self.created,
            "model": self.name,
            "system_fingerprint": self.fingerprint,
            "choices": choices,
        });
        if let Some(usage) = usage {
            frame["usage"] = usage;
        }
        frame
    }
}

/// Method, path and summary of every route that stands for itself, for people.
pub fn endpoints() -> impl Iterator<Item = (&'static str, &'static str, &'static str)> {
    let plain = |r: &&'static Route| r.path != "/" && !r.path.contains('{');
    route::all().filter(plain).map(|r| (r.method.as_str(), r.path, r.summary))
}

fn unix_seconds(at: SystemTime) -> u64 {
    at.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

/// Serves until `options.shutdown` begins, then until running requests have ended. What is to be said is told to
/// `notice`, from several threads.
//= F-SERVE-231
pub fn run(
    config: &ServeConfig,
    options: &Options,
    notice: impl Fn(Notice<'_>) -> Result<()> + Send + Sync + 'static,
) -> Result<()> {
    let listener = listen(config, options)?;
    let network = |e: std::io::Error| Error::new(Kind::Network, format!("cannot serve: {e}"));
    let address = listener.local_addr().map_err(network)?;
    let name = options.name.clone().unwrap_or_else(|| {
        config.model_path.file_stem().map_or("model".into(), |stem| stem.to_string_lossy().into_owned())
    });
    let server = Arc::new(Server {
        options: options.clone(),
        host: config.host.clone(),
        path: config.model_path.clone(),
        wish: Wish {
            gpu: config.gpu,
            gpu_if_present: options.gpu_if_present,
            threads: options.threads,
            tuned: options.tuned,
        },
        name,
        model: OnceLock::new(),
        counts: metrics::Counts::default(),
        held: body::Held::default(),
        understanding: Semaphore::new(limits::UNDERSTOOD_AT_ONCE),
        traced: traced::Prepared::default(),
        #[cfg(feature = "otel")]
        exporter: options.otlp.as_deref().map(otel::Exporter::start).transpose()?.map(Arc::new),
        working: Arc::default(),
    });
    // A second thread that looks for work is woken by every token, and costs a small machine more than it does.
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(if cores > 4 { 2 } else { 1 })
        .max_blocking_threads(limits::UNDERSTOOD_AT_ONCE + 4)
        .thread_name("http")
        .enable_all()
        .build()
        .map_err(network)?;
    let ended = runtime.block_on(serve(Arc::clone(&server), listener, address, Arc::new(notice)));
    // A request that cannot be stopped (a traced step) is not worth waiting for.
    runtime.shutdown_timeout(Duration::from_millis(200));
    ended
}

/// The socket, if it may be opened.
//= F-SERVE-246
//= F-SERVE-247
fn listen(config: &ServeConfig, options: &Options) -> Result<TcpListener> {
    let (host, port) = (config.host.trim_start_matches('[').trim_end_matches(']'), config.port);
    let flag = |what: String, flag: &str| Error::new(Kind::Usage, what).at(Place::Flag(flag.into()));
    if options.name.as_ref().is_some_and(|name| name.trim().is_empty()) {
        return Err(flag("an empty name is none".into(), "--name").hint("leave it away and the file's name is used"));
    }
    // One that can match nothing would be found out by who stands before a closed door.
    if let Some(host) = options.allow_hosts.iter().find(|h| !door::is_host(h)) {
        return Err(flag(format!("{} is not the name of a host", quoted(host)), "--allow-host")
            .hint("the name alone, without http:// and port: llm.example"));
    }
    if let Some(origin) = options.cors_origins.iter().find(|o| !door::is_origin(o)) {
        return Err(flag(format!("{} is not the origin of a page", quoted(origin)), "--cors-origin")
            .hint("as browsers send it: https://app.example, http://localhost:3000, or * for every page"));
    }
    options.plan.check()?;
    let addresses = (host, port).to_socket_addrs();
    let address = addresses.ok().and_then(|mut a| a.next());
    let address = address.ok_or_else(|| flag(format!("{} is no address of this machine", quoted(host)), "--host"))?;
    if !address.ip().is_loopback() && options.api_keys.is_empty() && !options.insecure {
        return Err(flag(format!("{address} can be reached from other machines, and there is no key"), "--host")
            .hint("give --api-key KEY, or --insecure if everybody may use it"));
    }
    if let Some(key) = options.api_keys.iter().find(|k| k.is_empty() || k.contains(|c: char| c.is_control())) {
        return Err(flag(format!("{} is no key", quoted(key)), "--api-key"));
    }
    TcpListener::bind(address).map_err(|e| {
        let error = Error::new(Kind::Network, format!("cannot listen on {address}: {e}"));
        match e.kind() {
            std::io::ErrorKind::AddrInUse => error.hint("another program does; choose another --port, or 0 for any"),
            _ => error,
        }
    })
}

type Told = Arc<dyn Fn(Notice<'_>) -> Result<()> + Send + Sync>;

async fn serve(server: Arc<Server>, listener: TcpListener, address: SocketAddr, notice: Told) -> Result<()> {
    let network = |e: std::io::Error| Error::new(Kind::Network, format!("cannot serve: {e}"));
    listener.set_nonblocking(true).map_err(network)?;
    let listener = tokio::net::TcpListener::from_std(listener).map_err(network)?;
    let (closing, closed) = watch::channel(false);
    let room = Arc::new(Semaphore::new(limits::CONNECTIONS_MAX));
    let app = route::router(&server);
    let accepting = tokio::spawn(connection::accept(listener, app, closed, Arc::clone(&room)));
    notice(Notice::Listening { address, model: &server.name, key: !server.options.api_keys.is_empty() })?;
    if !address.ip().is_loopback() && server.options.api_keys.is_empty() {
        notice(Notice::Warning("everybody who reaches this address can use the model (--insecure)"))?;
    }
    // Loading runs on a thread of its own, so that health is answered meanwhile and a stop need not wait for it.
    let (sender, loaded) = oneshot::channel();
    let loading = Arc::clone(&server);
    let told = Arc::clone(&notice);
    let load = move || drop(sender.send(load(&loading, &*told)));
    std::thread::Builder::new().name("load".into()).spawn(load).map_err(network)?;
    let stopped = server.options.shutdown.clone();
    let stop = tokio::spawn(async move { stopped.begun().await });
    let mut loaded = std::pin::pin!(loaded);
    let mut stop = std::pin::pin!(stop);
    let mut failed = Ok(());
    let mut is_loading = true;
    // Until it is told to stop, or the model turns out to be none.
    std::future::poll_fn(|cx| {
        use std::future::Future;
        use std::task::Poll;
        if is_loading && let Poll::Ready(done) = loaded.as_mut().poll(cx) {
            is_loading = false;
            failed = done.unwrap_or_else(|_| Err(Error::new(Kind::Internal, "loading ended without a model")));
            if failed.is_err() {
                return Poll::Ready(());
            }
        }
        stop.as_mut().poll(cx).map(drop)
    })
    .await;
    failed?;
    drain(&server, &*notice).await;
    // No more connections; those that are there leave with the reply that they are in.
    accepting.abort();
    let _ = accepting.await;
    closing.send_replace(true);
    connection::all_gone(&room, tokio::time::Instant::now() + Duration::from_secs(2)).await;
    Ok(())
}

/// Opens the model and starts its scheduler.
fn load(server: &Server, notice: &(dyn Fn(Notice<'_>) -> Result<()> + Send + Sync)) -> Result<()> {
    let start = Instant::now();
    let options = &server.options;
    let mut warn = |warning: &str| notice(Notice::Warning(warning));
    let known = || Understood::open(&server.path, options.context);
    let loaded = server.wish.open(&mut warn, known, &compute::Interest::Nothing)?;
    let mut recommended = Sampling { temperature: 0.0, ..Sampling::default() };
    for warning in recommended.recommended_by(&loaded.model.metadata)? {
        notice(Notice::Warning(&warning))?;
    }
    if matches!(loaded.template, Ok(None)) {
        notice(Notice::Warning("the file has no chat template and its vocabulary is of none that is known: no chat"))?;
    }
    let handle = Scheduler::start(loaded, options.plan.clone())?;
    let load_ms = start.elapsed().as_secs_f64() * 1e3;
    let backend = handle.backend().to_string();
    let (timeout, name, loaded_at) = (options.timeout, server.name.clone(), SystemTime::now());
    let served = Served { handle, recommended, timeout, name, loaded_at, load_ms };
    // Nobody else sets it.
    let _ = server.model.set(served);
    notice(Notice::Ready { backend: &backend, load_ms })
}

/// Lets running requests end, while health says that the server is going.
//= F-SERVE-248
async fn drain(server: &Server, notice: &(dyn Fn(Notice<'_>) -> Result<()> + Send + Sync)) {
    let working = || server.working.load(Ordering::Relaxed);
    // A terminal that is gone must not keep requests from ending.
    let _ = notice(Notice::Draining(working()));
    let until = Instant::now() + limits::DRAIN_TIME;
    while working() > 0 && Instant::now() < until {
        sleep(Duration::from_millis(5)).await;
    }
    // What is still running is told so.
    if let Some(served) = server.model.get() {
        served.handle.stop();
    }
}
