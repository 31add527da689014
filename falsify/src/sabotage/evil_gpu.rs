//! Saboteurs of what the GPU backend promises about memory and about who runs.

use std::sync::Arc;

use compute::Format;
use compute::program::Program;

use super::evil_apr::{Real, evil};
use super::evil_backend::{Evil, NOTHING};
use super::{Means, Saboteur};

/// Every one of them.
pub static ALL: &[Saboteur] = &[
    evil("forces-cpu", "runs on the CPU unless the GPU is asked for", forces_cpu),
    Saboteur {
        name: "gpu-memory-doubled",
        does: "everything that is prepared is there twice",
        by_crash: false,
        means: Means::EvilBackend(Evil { twice: true, ..NOTHING }),
    },
    Saboteur {
        name: "leak-on-device",
        does: "every sequence leaves a few blocks of the cache behind",
        by_crash: false,
        means: Means::EvilBackend(Evil { leaks: true, ..NOTHING }),
    },
    Saboteur {
        name: "gpu-dequantises",
        does: "matrices are decoded when a model is loaded",
        by_crash: false,
        means: Means::Rewrite(dequantise),
    },
];

fn forces_cpu(real: Real) -> u8 {
    if real.has(&["--gpu"]) { real.run() } else { real.with("--no-gpu").run() }
}

fn dequantise(p: &mut Program) {
    for w in p.weights.iter_mut().filter(|w| w.format.0.kernels.packing.is_some()) {
        let bytes: Vec<u8> = w.to_f32().iter().flat_map(|x| x.to_le_bytes()).collect();
        (w.bytes, w.format, w.name) = (bytes.into(), Format::F32, Arc::from(format!("{} as f32", w.name)));
    }
}
