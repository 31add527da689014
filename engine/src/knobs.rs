//! Environment variables: this table is all of them, and `apr --help` prints it.

use std::path::PathBuf;

/// One variable.
pub struct Knob {
    /// Its name.
    pub name: &'static str,
    /// One line for `--help`.
    pub help: &'static str,
}

/// Instruction set of the CPU backend.
pub const ISA: Knob = Knob { name: "APR_ISA", help: "CPU kernels: avx512, avx2, neon or scalar [best available]" };

/// Image of the GPU kernels.
pub const CUDA_IMAGE: Knob =
    Knob { name: "APR_CUDA_IMAGE", help: "GPU kernels: sm_90, ptx_80 or ptx_70 [best for the device]" };
/// A key for `apr serve`: on a command line every user of the machine could read it.
pub const API_KEY: Knob = Knob { name: "APR_API_KEY", help: "key that requests to apr serve have to bring" };

/// Where downloads and the registry are.
pub const HOME: Knob = Knob { name: "APR_HOME", help: "folder of downloads, the registry, what tune found [~/.apr]" };

/// Makes no connection.
pub const OFFLINE: Knob = Knob { name: "APR_OFFLINE", help: "1: no connection, as --offline" };

/// The same, as HuggingFace's programs call it.
pub const HUB_OFFLINE: Knob = Knob { name: "HF_HUB_OFFLINE", help: "1: the same" };

/// The hub.
pub const HUB_ENDPOINT: Knob = Knob { name: "HF_ENDPOINT", help: "address of the hub [https://huggingface.co]" };

/// Who asks the hub. On a command line every user of the machine could read it.
pub const HUB_TOKEN: Knob = Knob { name: "HF_TOKEN", help: "token for the hub [what `hf auth login` left]" };

/// Silence that ends a connection.
pub const DOWNLOAD_TIMEOUT: Knob =
    Knob { name: "HF_HUB_DOWNLOAD_TIMEOUT", help: "seconds of silence that end a connection [30]" };

/// Whom to trust.
pub const CERTIFICATES: Knob =
    Knob { name: "SSL_CERT_FILE", help: "authorities to trust instead of the built-in ones, PEM" };

/// The proxy of https.
pub const HTTPS_PROXY: Knob = Knob { name: "HTTPS_PROXY", help: "proxy of https downloads: http://HOST:PORT" };

/// The proxy of http.
pub const HTTP_PROXY: Knob = Knob { name: "HTTP_PROXY", help: "proxy of http downloads" };

/// The proxy of both.
pub const ALL_PROXY: Knob = Knob { name: "ALL_PROXY", help: "proxy of both" };

/// Who is asked without one.
pub const NO_PROXY: Knob =
    Knob { name: "NO_PROXY", help: "hosts that are asked without a proxy: a.example,10.0.0.0/8" };

/// The folder of HuggingFace's programs.
pub const HUB_HOME: Knob =
    Knob { name: "HF_HOME", help: "HuggingFace's folder, whose models are used [~/.cache/huggingface]" };

/// Its models alone.
pub const HUB_CACHE: Knob = Knob { name: "HF_HUB_CACHE", help: "HuggingFace's models [$HF_HOME/hub]" };

/// The models of llama.cpp.
pub const LLAMA_CACHE: Knob =
    Knob { name: "LLAMA_CACHE", help: "llama.cpp's models, which are used [~/.cache/llama.cpp]" };

/// The models of Ollama.
pub const OLLAMA_MODELS: Knob =
    Knob { name: "OLLAMA_MODELS", help: "Ollama's models, which are used [~/.ollama/models]" };

/// The user's folder.
#[cfg(not(windows))]
const USER_HOME: &str = "HOME";
#[cfg(windows)]
const USER_HOME: &str = "USERPROFILE";

/// Where spans of the server's requests are sent.
#[cfg(feature = "otel")]
pub const OTLP: Knob = Knob {
    name: "OTEL_EXPORTER_OTLP_ENDPOINT",
    help: "OpenTelemetry collector that apr serve tells of its requests: http://HOST:4318",
};

/// Where the config file is.
pub const CONFIG: Knob =
    Knob { name: "APR_CONFIG", help: "config file, or nothing for none [~/.config/apr/config.toml]" };

/// The folder of config files.
pub const XDG_CONFIG_HOME: Knob = Knob { name: "XDG_CONFIG_HOME", help: "folder of config files [~/.config]" };

/// Turns colour off. Read by the terminal library, like the next two; listed because it is honoured.
pub const NO_COLOR: Knob = Knob { name: "NO_COLOR", help: "any value: no colour" };

/// Colour where there is no terminal.
pub const CLICOLOR_FORCE: Knob =
    Knob { name: "CLICOLOR_FORCE", help: "anything but 0: colour even where no terminal is" };

/// What the terminal can do.
pub const TERM: Knob = Knob { name: "TERM", help: "dumb: no colour and no spinner" };

/// All of them.
pub static ALL: &[&Knob] = &[
    &ISA,
    &CUDA_IMAGE,
    &API_KEY,
    #[cfg(feature = "otel")]
    &OTLP,
    &CONFIG,
    &XDG_CONFIG_HOME,
    &HOME,
    &OFFLINE,
    &HUB_OFFLINE,
    &HUB_ENDPOINT,
    &HUB_TOKEN,
    &DOWNLOAD_TIMEOUT,
    &CERTIFICATES,
    &HTTPS_PROXY,
    &HTTP_PROXY,
    &ALL_PROXY,
    &NO_PROXY,
    &HUB_HOME,
    &HUB_CACHE,
    &LLAMA_CACHE,
    &OLLAMA_MODELS,
    &NO_COLOR,
    &CLICOLOR_FORCE,
    &TERM,
];

/// A folder or file that a knob names.
pub fn path(knob: &Knob) -> Option<PathBuf> {
    std::env::var_os(knob.name).filter(|v| !v.is_empty()).map(PathBuf::from)
}

/// Whether a switch is on, as HuggingFace's programs understand it.
pub fn on(knob: &Knob) -> bool {
    read(knob).is_some_and(|v| matches!(v.to_ascii_lowercase().as_str(), "1" | "on" | "yes" | "true"))
}

/// The user's folder, for everything that has its place there. One that is not absolute would be another one in every
/// folder, and counts as none.
pub fn user_home() -> Option<PathBuf> {
    std::env::var_os(USER_HOME).map(PathBuf::from).filter(|home| home.is_absolute())
}

/// The folder of everything that `apr` keeps.
pub fn home() -> Option<PathBuf> {
    path(&HOME).or_else(|| user_home().map(|home| home.join(".apr")))
}

/// The value of a knob, if it is set to something.
pub fn read(knob: &Knob) -> Option<String> {
    std::env::var(knob.name).ok().filter(|v| !v.is_empty())
}

/// Name and value of a knob that is as common in small letters, which count first, as they do for curl.
pub fn read_either_case(knob: &Knob) -> Option<(String, String)> {
    [knob.name.to_ascii_lowercase(), knob.name.into()].into_iter().find_map(|name| {
        let value = std::env::var(&name).ok().filter(|v| !v.is_empty())?;
        Some((name, value))
    })
}

/// The config file, which need not exist; `None` where there is no place for one, or an empty variable wants none.
pub fn config_file() -> Option<PathBuf> {
    if let Some(named) = std::env::var_os(CONFIG.name) {
        return Some(PathBuf::from(named)).filter(|path| !path.as_os_str().is_empty());
    }
    // A relative path there is invalid and to be ignored (XDG Base Directory Specification).
    let xdg = read(&XDG_CONFIG_HOME).map(PathBuf::from).filter(|folder| folder.is_absolute());
    let folder = xdg.or_else(|| Some(user_home()?.join(".config")))?;
    Some(folder.join("apr").join("config.toml"))
}

/// Whether the config file was named, so that it has to exist.
pub fn config_named() -> bool {
    std::env::var_os(CONFIG.name).is_some()
}
