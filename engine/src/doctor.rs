//! What this machine has for `apr`, and what would run where: each finding with what to do about it.
//!
//! Nothing here fails: what cannot be looked at is itself a finding.

use serde_json::{Value, json};

use crate::api;
use crate::knobs;

/// How a finding stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// As it should be.
    Good,
    /// Something could be better, or is only worth knowing.
    Note,
    /// Something that was asked for will not work.
    Bad,
}

impl State {
    /// One word.
    pub fn name(self) -> &'static str {
        match self {
            State::Good => "good",
            State::Note => "note",
            State::Bad => "bad",
        }
    }
}

/// Something that was looked at.
#[derive(Clone, Debug)]
pub struct Finding {
    /// What.
    pub topic: &'static str,
    /// How it stands.
    pub state: State,
    /// What was found, in words.
    pub found: String,
    /// What to do, or that nothing is to be done.
    pub advice: String,
    /// The same as data.
    pub data: Value,
}

impl Finding {
    /// A finding.
    pub fn new(topic: &'static str, state: State, found: impl Into<String>, advice: &str, data: Value) -> Finding {
        Finding { topic, state, found: found.into(), advice: advice.into(), data }
    }

    /// As an object of `--json`.
    pub fn object(&self) -> Value {
        json!({
            "topic": self.topic, "state": self.state.name(), "found": self.found, "advice": self.advice,
            "data": self.data,
        })
    }
}

/// The advice where everything is well.
pub const NOTHING: &str = "nothing to do";

/// Looks at everything that concerns the engine.
pub fn examine() -> Vec<Finding> {
    vec![processor(), threads(), memory(), huge_pages(), gpu(), outcome()]
}

/// What the processor calls itself, or its architecture.
pub(crate) fn processor_name() -> String {
    let named = text("/proc/cpuinfo").and_then(|t| {
        let line = t.lines().find(|l| l.starts_with("model name"))?.split_once(':')?.1.trim().to_string();
        Some(line)
    });
    named.unwrap_or_else(|| std::env::consts::ARCH.to_string())
}

fn processor() -> Finding {
    let model = processor_name();
    let has = api::instruction_sets();
    let data = |chosen: Option<&str>| json!({"model": model, "instruction_sets": has, "chosen": chosen});
    let list = has.join(", ");
    match api::backend(None) {
        Err(e) => Finding::new("processor", State::Bad, e.to_string(), "unset it, or name one of those", data(None)),
        Ok(cpu) => {
            let chosen = cpu.isa.name();
            let found = format!("{model}; kernels for {list}; {chosen} is used");
            match (knobs::read(&knobs::ISA), chosen == has[0]) {
                (Some(_), false) => {
                    let advice = format!("{} asks for it; unset it for the fastest", knobs::ISA.name);
                    Finding::new("processor", State::Note, found, &advice, data(Some(chosen)))
                }
                _ if chosen == "scalar" => {
                    let advice = "expect a tenth of the speed: kernels exist for AVX2, AVX-512 VNNI and NEON";
                    Finding::new("processor", State::Note, found, advice, data(Some(chosen)))
                }
                _ => Finding::new("processor", State::Good, found, NOTHING, data(Some(chosen))),
            }
        }
    }
}

fn threads() -> Finding {
    let may = std::thread::available_parallelism();
    let online = text("/proc/cpuinfo").map(|t| t.lines().filter(|l| l.starts_with("processor")).count());
    match (may, online) {
        (Err(e), _) => {
            let found = format!("the number of cores is unknown ({e}); one thread is used");
            Finding::new("threads", State::Note, found, "--threads says how many", Value::Null)
        }
        (Ok(may), online) => {
            let data = json!({"usable": may, "online": online});
            let fewer = online.filter(|n| *n > may.get());
            match fewer {
                Some(n) => {
                    let found = format!("{may} of {n} cores may be used, so {may} threads are");
                    let advice = "an affinity mask or a cgroup holds the others back; that may be meant so";
                    Finding::new("threads", State::Note, found, advice, data)
                }
                None => Finding::new("threads", State::Good, format!("{may}, one for each core"), NOTHING, data),
            }
        }
    }
}

fn memory() -> Finding {
    let info = text("/proc/meminfo").unwrap_or_default();
    let kib = |key: &str| {
        let line = info.lines().find_map(|l| l.strip_prefix(key)?.strip_prefix(':'))?;
        line.trim().strip_suffix(" kB")?.parse::<u64>().ok()
    };
    let (Some(total), Some(free)) = (kib("MemTotal"), kib("MemAvailable")) else {
        let advice = "a model needs about 1.05 times its file, and its context";
        return Finding::new("memory", State::Note, "how much there is cannot be seen here", advice, Value::Null);
    };
    // Version 2 of control groups, then version 1.
    let groups = ["/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"];
    let group = groups.iter().find_map(|path| text(path)?.trim().parse::<u64>().ok());
    let group = group.map(|bytes| bytes / 1024).filter(|kib| *kib < total);
    let limits = text("/proc/self/limits").unwrap_or_default();
    let line = limits.lines().find_map(|l| l.strip_prefix("Max address space"));
    let space = line.and_then(|l| l.split_whitespace().next()?.parse::<u64>().ok()).map(|bytes| bytes / 1024);
    let gib = |kib: u64| format!("{:.1} GiB", kib as f64 / (1 << 20) as f64);
    let data = json!({
        "total_bytes": total * 1024, "available_bytes": free * 1024, "cgroup_bytes": group.map(|k| k * 1024),
        "address_space_bytes": space.map(|k| k * 1024),
    });
    let mut found = format!("{} of {} free", gib(free), gib(total));
    for (limit, what) in [(group, "a control group allows"), (space, "ulimit -v allows")] {
        if let Some(limit) = limit {
            found += &format!("; {what} {}", gib(limit));
        }
    }
    let (state, advice) = match group.is_some() || space.is_some() {
        true => (State::Note, "the limit counts: a model needs about 1.05 times its file, and its context"),
        false => (State::Good, "a model needs about 1.05 times its file, and its context"),
    };
    Finding::new("memory", state, found, advice, data)
}

fn huge_pages() -> Finding {
    const PATH: &str = "/sys/kernel/mm/transparent_hugepage/enabled";
    let Some(modes) = text(PATH) else {
        let found = "this system does not say whether it has them";
        return Finding::new("huge pages", State::Note, found, "reading weights may be somewhat slower", Value::Null);
    };
    let mode = modes.split_once('[').and_then(|(_, rest)| rest.split_once(']')).map_or("unknown", |(mode, _)| mode);
    let data = json!({ "transparent": mode });
    match mode {
        "always" | "madvise" => {
            Finding::new("huge pages", State::Good, format!("{mode}: weights are on them"), NOTHING, data)
        }
        _ => {
            let found = format!("{mode}: weights are on small pages, which costs up to a third of the speed");
            let advice = format!("as root: echo madvise > {PATH}");
            Finding::new("huge pages", State::Note, found, &advice, data)
        }
    }
}

fn gpu() -> Finding {
    match api::gpu() {
        Ok((device, free, total)) => {
            let gib = |bytes: usize| bytes as f64 / f64::from(1 << 30);
            let found = format!("{device}, {:.1} of {:.1} GiB free", gib(free), gib(total));
            let data = json!({"device": device, "free_bytes": free, "total_bytes": total});
            Finding::new("GPU", State::Good, found, "nothing to do; --no-gpu leaves it alone", data)
        }
        Err((why, advice)) => {
            let data = json!({"device": Value::Null, "why": why});
            Finding::new("GPU", State::Note, why, &format!("{advice}, or stay on the CPU"), data)
        }
    }
}

fn outcome() -> Finding {
    let cpu = api::backend(None).map(|cpu| format!("cpu ({}, {} threads)", cpu.isa.name(), cpu.threads));
    let (place, why) = match (api::gpu(), cpu) {
        (_, Err(e)) => {
            return Finding::new("what runs where", State::Bad, e.to_string(), "see processor", Value::Null);
        }
        (Ok((device, ..)), _) => {
            (device, "a model that does not fit there runs on the CPU, with a warning".to_string())
        }
        (Err((why, _)), Ok(cpu)) => (cpu, why),
    };
    let found = match api::gpu() {
        Ok(_) => format!("run, chat, serve and check run on {place}: {why}"),
        // Why no GPU does stands in its own line.
        Err(_) => format!("run, chat, serve and check run on {place}"),
    };
    let data = json!({"backend": place, "why": why});
    Finding::new("what runs where", State::Good, found, "--gpu, --no-gpu and --threads say otherwise", data)
}

fn text(path: &str) -> Option<String> {
    use std::io::Read;
    let mut text = String::new();
    // /proc has no sizes, so a limit of our own.
    std::fs::File::open(path).ok()?.take(4 << 20).read_to_string(&mut text).ok()?;
    Some(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_finding_says_what_and_what_to_do() {
        let all = examine();
        assert_eq!(all.len(), 6);
        for f in &all {
            assert!(!f.found.is_empty() && !f.advice.is_empty(), "{f:?}");
            assert_ne!(f.state, State::Bad, "{f:?}");
        }
        assert!(all[5].found.contains("cpu (") || all[5].found.contains("cuda ("), "{}", all[5].found);
    }
}
