//! Environment variables: this table is all of them, and `apr --help` prints it.

/// One variable.
pub struct Knob {
    /// Its name.
    pub name: &'static str,
    /// One line for `--help`.
    pub help: &'static str,
}

/// Instruction set of the CPU backend.
pub const ISA: Knob =
    Knob { name: "APR_ISA", help: "instruction set of the CPU kernels: avx512, avx2 or scalar [best available]" };

/// Image of the GPU kernels.
pub const CUDA_IMAGE: Knob = Knob {
    name: "APR_CUDA_IMAGE",
    help: "compiled form of the GPU kernels: sm_90, ptx_80 or ptx_70 [best for the device]",
};
/// A key for `apr serve`: on a command line every user of the machine could read it.
pub const API_KEY: Knob = Knob { name: "APR_API_KEY", help: "key that requests to apr serve have to bring" };

/// Where spans of the server's requests are sent.
#[cfg(feature = "otel")]
pub const OTLP: Knob = Knob {
    name: "OTEL_EXPORTER_OTLP_ENDPOINT",
    help: "OpenTelemetry collector that apr serve tells of its requests: http://HOST:4318",
};

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
    &NO_COLOR,
    &CLICOLOR_FORCE,
    &TERM,
];

/// The value of a knob, if it is set to something.
pub fn read(knob: &Knob) -> Option<String> {
    std::env::var(knob.name).ok().filter(|v| !v.is_empty())
}
