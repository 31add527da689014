//! The compiled kernels that are part of this binary, and which of them a device gets.
//!
//! `scripts/kernels` makes `built.bin` from `kernels/`: a line that says what is inside, then the images one after the
//! other, each compressed by zstd. A device gets the machine code for its own compute capability if there is some that
//! its driver takes, else the newest PTX that it can run, which the driver compiles (and keeps for the next time).

use std::io::Read;
use std::sync::Arc;

use super::driver::{Device, Module};
use crate::error::{Error, Result};

static BUILT: &[u8] = include_bytes!("built.bin");

/// One image.
struct Image {
    /// `ptx_80` or `sm_90`.
    name: String,
    /// Version of the CUDA compiler that made it.
    compiler: String,
    compressed: &'static [u8],
}

impl Image {
    /// What the driver takes: machine code, or PTX that ends with a zero byte.
    fn bytes(&self) -> Result<Vec<u8>> {
        let failed = |e: String| broken(&format!("{}: {e}", self.name));
        let mut all = Vec::new();
        let mut decoder =
            ruzstd::decoding::StreamingDecoder::new(self.compressed).map_err(|e| failed(e.to_string()))?;
        decoder.read_to_end(&mut all).map_err(|e| failed(e.to_string()))?;
        Ok(all)
    }
}

/// The first line: `kernels <sha256 of the sources> <name>:<compiler>=<bytes> ...`.
struct Built {
    #[cfg_attr(not(test), allow(dead_code))] // its test is what it is for
    sources: String,
    images: Vec<Image>,
}

fn broken(what: &str) -> Error {
    Error::Device(format!("the kernels in this binary are broken: {what}"))
}

fn built() -> Result<Built> {
    let end = BUILT.iter().position(|&b| b == b'\n').ok_or_else(|| broken("no first line"))?;
    let line = String::from_utf8_lossy(&BUILT[..end]).into_owned();
    let mut words = line.split(' ').skip(1);
    let sources = words.next().unwrap_or_default().to_string();
    let mut at = end + 1;
    let mut images = Vec::new();
    for word in words {
        let (name, len) = word.split_once('=').ok_or_else(|| broken(word))?;
        let (name, compiler) = name.split_once(':').ok_or_else(|| broken(word))?;
        let len: usize = len.parse().map_err(|_| broken(word))?;
        let compressed = BUILT.get(at..at + len).ok_or_else(|| broken(word))?;
        at += len;
        images.push(Image { name: name.to_string(), compiler: compiler.to_string(), compressed });
    }
    Ok(Built { sources, images })
}

/// Loads the best image for a device. `only` names one instead (what the tests of old targets want).
pub(super) fn load(device: &Arc<Device>, only: Option<&str>) -> Result<(Module, String)> {
    let images = built()?.images;
    let number = |name: &str, kind: &str| name.strip_prefix(kind).and_then(|n| n.parse::<u32>().ok());
    //= F-GPU-117 F-GPU-118 F-GPU-119 F-GPU-138 F-GPU-139
    let mut candidates: Vec<&Image> = match only {
        Some(name) => images.iter().filter(|i| i.name == name).collect(),
        None => images
            .iter()
            .filter(|i| match (number(&i.name, "sm_"), number(&i.name, "ptx_")) {
                // Machine code runs on later minors of its major; PTX on everything later.
                (Some(n), _) => n / 10 == device.capability / 10 && n <= device.capability,
                (_, Some(n)) => n <= device.capability,
                _ => false,
            })
            .collect(),
    };
    let newest = |i: &Image| std::cmp::Reverse(number(&i.name, "sm_").or(number(&i.name, "ptx_")));
    candidates.sort_by_key(|i| (!i.name.starts_with("sm_"), newest(i)));
    let mut refused = Error::Device(format!("no kernels for compute capability {}", device.capability));
    for image in candidates {
        //= F-GPU-140
        match image.bytes().and_then(|bytes| Module::load(device, &bytes)) {
            Ok(module) => return Ok((module, format!("{} by CUDA {}", image.name, image.compiler))),
            Err(e) => refused = e,
        }
    }
    Err(refused)
}

#[cfg(test)]
mod tests {
    use super::*;
    use sha2::{Digest, Sha256};

    #[test]
    fn the_compiled_kernels_are_those_of_the_sources() {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/src/cuda/kernels");
        let mut files: Vec<_> = std::fs::read_dir(folder).unwrap().map(|f| f.unwrap().path()).collect();
        files.sort();
        let mut hash = Sha256::new();
        for file in files {
            hash.update(std::fs::read(&file).unwrap());
        }
        let now: String = hash.finalize().iter().map(|b| format!("{b:02x}")).collect();
        assert_eq!(built().unwrap().sources, now, "run scripts/kernels");
    }

    /// The kernels read what the CPU's packing wrote. The table of formats.cuh is read here by its own rule for `CHUNK`.
    #[test]
    fn a_chunk_is_as_long_as_the_packing_writes_it() {
        let source = include_str!("kernels/formats.cuh");
        let mut seen = 0;
        for line in source.lines().filter_map(|l| l.strip_prefix("template <> struct Of<")) {
            let (id, rest) = line.split_once('>').unwrap();
            let (_, fields) = rest.split_once("Format<").unwrap();
            let fields: Vec<&str> = fields.split_once('>').unwrap().0.split(", ").collect();
            let number = |i: usize| fields[i].parse::<usize>().unwrap();
            let (low, high, steps, subs) = (number(0), number(1), number(3), number(4));
            let scales = if fields[5] == "D_ONLY" { 0 } else { 16 * steps * subs };
            let (head, minima) = match fields[6] {
                "NO_MIN" => (32, 0),
                "ADDED" => (64, 0),
                _ => (64, 16 * steps * subs),
            };
            let spec = crate::quant::ALL.iter().find(|s| s.ggml_type.to_string() == id).unwrap();
            let packing = spec.kernels.packing.as_ref().unwrap();
            assert_eq!(packing.chunk_bytes, head + scales + minima + steps * 64 * (low + high), "{}", spec.name);
            seen += 1;
        }
        let packed = crate::quant::ALL.iter().filter(|s| s.kernels.packing.is_some() && s.ggml_type < 100).count();
        assert_eq!(seen, packed);
    }

    #[test]
    fn every_ptx_ends_with_a_zero_and_names_its_target() {
        let images = built().unwrap().images;
        assert!(images.iter().any(|i| i.name == "ptx_70") && images.iter().any(|i| i.name == "ptx_80"));
        for image in images.iter().filter(|i| i.name.starts_with("ptx_")) {
            let bytes = image.bytes().unwrap();
            let text = std::str::from_utf8(&bytes).unwrap();
            assert!(text.ends_with('\0'), "{}", image.name);
            assert!(text.contains(&format!("release {}", image.compiler)), "{}", image.name);
            assert!(text.contains(&format!(".target {}", image.name.replace("ptx", "sm"))), "{}", image.name);
        }
    }
}
