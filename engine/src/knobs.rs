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
pub const ISA: Knob =
    Knob { name: "APR_ISA", help: "instruction set of the CPU kernels: avx512, avx2, neon or scalar [best available]" };

/// Image of the GPU kernels.
pub const CUDA_IMAGE: Knob = Knob {
    name: "APR_CUDA_IMAGE",
    help: "compiled form of the GPU kernels: sm_90, ptx_80 or ptx_70 [best for the device]",
};
/// A key for `apr serve`: on a command line every user of the machine could read it.
pub const API_KEY: Knob = Knob { name: "APR_API_KEY", help: "key that requests to apr serve have to bring" };

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
pub static ALL: &[&Knob] = &[&ISA, &CUDA_IMAGE, &API_KEY, &CONFIG, &XDG_CONFIG_HOME, &NO_COLOR, &CLICOLOR_FORCE, &TERM];

/// The value of a knob, if it is set to something.
pub fn read(knob: &Knob) -> Option<String> {
    std::env::var(knob.name).ok().filter(|v| !v.is_empty())
}

/// The config file, which need not exist; `None` where there is no place for one, or an empty variable wants none.
pub fn config_file() -> Option<PathBuf> {
    if let Some(named) = std::env::var_os(CONFIG.name) {
        return Some(PathBuf::from(named)).filter(|path| !path.as_os_str().is_empty());
    }
    // A relative path there is invalid and to be ignored (XDG Base Directory Specification).
    let xdg = read(&XDG_CONFIG_HOME).map(PathBuf::from).filter(|folder| folder.is_absolute());
    let folder = xdg.or_else(|| std::env::home_dir().map(|home| home.join(".config")))?;
    Some(folder.join("apr").join("config.toml"))
}

/// Whether the config file was named, so that it has to exist.
pub fn config_named() -> bool {
    std::env::var_os(CONFIG.name).is_some()
}
