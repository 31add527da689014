//! Where models come from: a hub on this machine, web addresses, the registry, the cache. What a name became is what
//! `apr pull` prints, and it is held against the bytes that the hub has.

use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::child::{Output, Run};
use crate::desk::{BYTES, Desk, FILE, noise, read, walk};
use crate::hub::Act::{Drip, Flip, SendOn, Serve};
use crate::hub::{GOOD, Hub, Manner, REPO, sha256};
use crate::subject::Subject;
use crate::verdict::{Attempt, Halt, Refutation, Tally, instrument};

const PROMPT: &str = "What is 2+2?";
/// What the model answers when it is opened by its path.
fn answer_of(s: &Subject, model: &Path) -> Result<String, Halt> {
    let out = s.apr(["run"]).args([model]).args([PROMPT, "--temperature", "0", "--no-gpu"]).judged()?;
    Ok(out.out())
}

/// hf:// URLs resolve: each form of a name is the file with the hash that the hub says.
pub fn f_int_285(s: &Subject) -> Attempt {
    let mut t = Tally::new("apr pull and apr run of hf:// names, from a hub on this machine");
    let (q8, q4) = (read(&s.fixture("q8_0")?)?, read(&s.fixture("q4_k_m")?)?);
    wrong_hash(&mut t, s, |_| format!("hf://{REPO}:Q8_0"))?;
    let files = [("README.md", b"hello".to_vec()), ("tiny-Q4_K_M.gguf", q4.clone()), ("tiny-Q8_0.gguf", q8.clone())];
    let hub = Hub::start(GOOD, &files)?;
    let commit = hub.commit();
    for (name, want) in [
        (format!("hf://{REPO}"), &q4),
        (format!("hf://{REPO}:Q8_0"), &q8),
        (format!("{REPO}:q8_0"), &q8),
        (format!("hf.co/{REPO}:Q4_K_M"), &q4),
        (format!("hf://{REPO}/tiny-Q8_0.gguf"), &q8),
        (format!("hf://{REPO}@{commit}/tiny-Q8_0.gguf"), &q8),
        (format!("https://huggingface.co/{REPO}/blob/main/tiny-Q8_0.gguf"), &q8),
    ] {
        Desk::new(s, &hub)?.stands_for(&mut t, &[&name], want)?;
    }
    let desk = Desk::new(s, &hub)?;
    let name = format!("hf://{REPO}:Q8_0");
    let out = desk.apr(&["run", &name, PROMPT, "--temperature", "0", "--no-gpu"]).judged()?;
    let want = answer_of(s, &s.fixture("q8_0")?)?;
    t.hold(out.out() == want, || out.refute("it answers as the file does", out.out(), want.clone()))?;
    // A branch moves on; what was pinned does not, and what did not change is not fetched again.
    let before = hub.sent();
    let other = noise(BYTES);
    hub.push(&"2".repeat(40), &[("tiny-Q2_K.gguf", other.clone())]);
    desk.stands_for(&mut t, &[&name], &q8)?;
    t.equal("bytes fetched of a file that a new commit did not change", &(hub.sent() - before), &0)?;
    desk.stands_for(&mut t, &[&format!("hf://{REPO}:Q2_K")], &other)?;
    desk.refused(&mut t, &["pull", &format!("hf://{REPO}@{commit}:Q8_0")], 5, "the hub answers with commit")?;
    // A folder of SafeTensors, and none of the programs beside it.
    let folder = s.fixtures.join("qwen2-tiny");
    let mut files = vec![("modeling_x.py", b"import os".to_vec()), ("pytorch_model.bin", b"pickle".to_vec())];
    for name in
        ["config.json", "generation_config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"]
    {
        files.push((name, read(&folder.join(name))?));
    }
    let tensors = Hub::start(GOOD, &files)?;
    let desk = Desk::new(s, &tensors)?;
    let out = desk.apr(&["run", &format!("hf://{REPO}"), PROMPT, "--temperature", "0", "--no-gpu"]).judged()?;
    let want = answer_of(s, &folder)?;
    t.hold(out.out() == want, || out.refute("it answers as the folder does", out.out() + &out.err(), want.clone()))?;
    let programs = tensors.seen().into_iter().find(|r| r.path.contains(".py") || r.path.contains(".bin"));
    t.hold(programs.is_none(), || out.refute("no program is fetched", format!("{programs:?}"), "none"))?;
    // A token is for the hub, not for whom it sends on to.
    let away =
        Manner { contents: |n| if n % 2 == 0 { SendOn("http://{other}/cdn/tiny-Q8_0.gguf") } else { Serve }, ..GOOD };
    let hub = Hub::start(away, &[("tiny-Q8_0.gguf", b"weights".to_vec())])?;
    let desk = Desk::new(s, &hub)?;
    let out = desk.apr(&["pull", "-q", &name]).env("HF_TOKEN", "hf_secret").judged()?;
    let (own, others): (Vec<_>, Vec<_>) = hub.seen().into_iter().partition(|r| !r.host.starts_with("localhost"));
    t.hold(!others.is_empty() && others.iter().all(|r| !r.token), || {
        out.refute("nobody else gets the token", format!("{others:?}{}", out.err()), "a request without it")
    })?;
    t.hold(!own.is_empty() && own.iter().all(|r| r.token), || {
        out.refute("the hub gets the token", format!("{own:?}"), "it")
    })?;
    // Names that lead elsewhere reach neither the disk nor the hub.
    let made = hub.connections();
    for bad in [
        "hf://../../x",
        "hf://a/b/../../c",
        "hf://user/repo/%2e%2e%2f",
        "hf://org/repo@../../main",
        "hf://org/repo/nul",
    ] {
        desk.refused(&mut t, &["pull", bad], 2, "is not the name of a model")?;
    }
    t.equal("connections for such names", &(hub.connections() - made), &0)?;
    t.done()
}

/// A file that is not what its hash says is refused, and nothing of it stays.
fn wrong_hash(t: &mut Tally, s: &Subject, name: impl Fn(&Hub) -> String) -> Result<(), Halt> {
    for bytes in [BYTES, 1000] {
        let hub = Hub::start(Manner { contents: |_| Flip, ..GOOD }, &[("tiny-Q8_0.gguf", noise(bytes))])?;
        let desk = Desk::new(s, &hub)?;
        let out = desk.refused(t, &["pull", &name(&hub)], 5, "has to be")?;
        let mut left = Vec::new();
        walk(&desk.home, &mut left);
        left.retain(|p| p.extension().is_none_or(|e| e != "lock"));
        t.hold(left.is_empty(), || out.refute("nothing of it stays", format!("{left:?}"), "no file"))?;
    }
    Ok(())
}

/// HTTP URLs work.
pub fn f_int_288(s: &Subject) -> Attempt {
    let mut t = Tally::new("apr pull and apr run of http:// addresses, from a server on this machine");
    let q8 = read(&s.fixture("q8_0")?)?;
    let hub = Hub::start(GOOD, &[("tiny-Q8_0.gguf", q8.clone()), ("small.gguf", b"small".to_vec())])?;
    let url = hub.url("tiny-Q8_0.gguf");
    let desk = Desk::new(s, &hub)?;
    desk.stands_for(&mut t, &[&url], &q8)?;
    desk.stands_for(&mut t, &[&hub.url("small.gguf")], b"small")?;
    desk.stands_for(&mut t, &[&format!("{url}?download=true")], &q8)?;
    desk.stands_for(&mut t, &[&format!("{url}#sha256={}", sha256(&q8))], &q8)?;
    let out = desk.apr(&["run", &url, PROMPT, "--temperature", "0", "--no-gpu"]).judged()?;
    let want = answer_of(s, &s.fixture("q8_0")?)?;
    t.hold(out.out() == want, || out.refute("it answers as the file does", out.out(), want.clone()))?;
    desk.refused(&mut t, &["pull", &hub.url("none.gguf")], 3, "answers 404")?;
    // What is no TLS is not taken for it.
    desk.refused(&mut t, &["pull", &url.replace("http://", "https://")], 9, "https://127.0.0.1")?;
    desk.refused(&mut t, &["pull", "http://user:secret@127.0.0.1/m.gguf"], 2, "password")?;
    let zero = "0".repeat(64);
    wrong_hash(&mut t, s, |hub| format!("{}#sha256={zero}", hub.url("tiny-Q8_0.gguf")))?;
    t.done()
}

/// pacha model registry works: add, list, resolve by name and version, remove.
pub fn f_int_284(s: &Subject) -> Attempt {
    let mut t = Tally::new("apr tag, list, run, pull and rm on a new registry");
    let hub = Hub::start(GOOD, &[])?;
    let desk = Desk::new(s, &hub)?;
    let (one, two) = (s.fixture("q8_0")?, s.fixture("q4_k_m")?);
    let done = |t: &mut Tally, words: &[&str]| -> Result<Output, Halt> {
        let out = desk.apr(words).judged()?;
        t.hold(out.code() == Some(0), || out.refute("it works", out.err(), "exit code 0"))?;
        Ok(out)
    };
    for (path, name) in [(&one, "coder:v1"), (&two, "coder:v2"), (&two, "coder")] {
        done(&mut t, &["tag", &path.to_string_lossy(), name])?;
    }
    let names = |t: &mut Tally| -> Result<Vec<String>, Halt> {
        let out = done(t, &["list", "--json", "--verify"])?;
        let json: Value = serde_json::from_str(&out.out()).unwrap_or_default();
        let all = json["models"].as_array().cloned().unwrap_or_default();
        Ok(all.iter().filter_map(|m| m["name"].as_str().map(String::from)).collect())
    };
    let listed = names(&mut t)?;
    t.equal(
        "names",
        &listed,
        &["pacha://coder:latest", "pacha://coder:v1", "pacha://coder:v2"].map(String::from).to_vec(),
    )?;
    let (first, second) = (read(&one)?, read(&two)?);
    for (name, want) in [("coder:v1", &first), ("coder:v2", &second), ("coder", &second), ("coder:latest", &second)] {
        desk.stands_for(&mut t, &[&format!("pacha://{name}")], want)?;
    }
    let out = done(&mut t, &["run", "pacha://coder:v1", PROMPT, "--temperature", "0", "--no-gpu"])?;
    let want = answer_of(s, &one)?;
    t.hold(out.out() == want, || out.refute("it answers as the file does", out.out(), want.clone()))?;
    // The same contents are there once; a name that goes away takes with it only what is nobody else's.
    let stored = || {
        let mut files = Vec::new();
        walk(&desk.home.join(".apr").join("pacha").join("objects"), &mut files);
        files.len()
    };
    t.equal("objects of two models under three names", &stored(), &2)?;
    done(&mut t, &["rm", "pacha://coder:v2"])?;
    desk.stands_for(&mut t, &["pacha://coder"], &second)?;
    done(&mut t, &["tag", "pacha://coder:v1", "coder"])?;
    desk.stands_for(&mut t, &["pacha://coder"], &first)?;
    done(&mut t, &["rm", "pacha://coder:v1", "pacha://coder"])?;
    let listed = names(&mut t)?;
    t.equal("names when all are removed", &listed, &Vec::new())?;
    desk.refused(&mut t, &["run", "pacha://coder:v1", PROMPT], 3, "the registry has no")?;
    for bad in ["../x", "a/b", "", "nul", "a:b:c"] {
        desk.refused(&mut t, &["tag", &one.to_string_lossy(), bad], 2, "cannot be the name")?;
    }
    t.equal("connections", &hub.connections(), &0)?;
    t.done()
}

/// pacha:// URLs resolve, through a registry that somebody shares too.
pub fn f_int_286(s: &Subject) -> Attempt {
    let mut t = Tally::new("apr push into a folder, apr pull --from it, apr run of pacha:// names");
    let hub = Hub::start(GOOD, &[])?;
    let (ours, theirs) = (Desk::new(s, &hub)?, Desk::new(s, &hub)?);
    let (shared, model) = (s.scratch()?.join("shared"), s.fixture("q8_0")?);
    let shared_text = shared.to_string_lossy().into_owned();
    for words in [&["tag", &*model.to_string_lossy(), "coder:v1"][..], &["push", "coder:v1", &shared_text]] {
        let out = ours.apr(words).judged()?;
        t.hold(out.code() == Some(0), || out.refute("it works", out.err(), "exit code 0"))?;
    }
    let want = read(&model)?;
    let pull = ["pull", "pacha://coder:v1", "--from", &shared_text];
    theirs.stands_for(&mut t, &pull[1..], &want)?;
    theirs.stands_for(&mut t, &["pacha://coder:v1"], &want)?;
    let out = theirs.apr(&["run", "pacha://coder:v1", PROMPT, "--temperature", "0", "--no-gpu"]).judged()?;
    let answer = answer_of(s, &model)?;
    t.hold(out.out() == answer, || out.refute("it answers as the file does", out.out(), answer.clone()))?;
    // An object that is not what it is called.
    let mut objects = Vec::new();
    walk(&shared.join("objects"), &mut objects);
    let object = objects.first().ok_or_else(|| instrument("no object was pushed"))?;
    let mut bytes = read(object)?;
    *bytes.last_mut().ok_or_else(|| instrument("an empty object"))? ^= 1;
    std::fs::write(object, bytes).map_err(instrument)?;
    let third = Desk::new(s, &hub)?;
    let out = third.refused(&mut t, &pull, 5, "has to be")?;
    let mut left = Vec::new();
    walk(&third.home, &mut left);
    left.retain(|p| p.file_name().is_none_or(|n| n != "lock"));
    t.hold(left.is_empty(), || out.refute("nothing of it stays", format!("{left:?}"), "no file"))?;
    // The same of an object that is here already.
    walk(&theirs.home.join(".apr").join("pacha").join("objects"), &mut left);
    let object = left.first().ok_or_else(|| instrument("no object was pulled"))?;
    std::fs::write(object, b"something else").map_err(instrument)?;
    theirs.refused(&mut t, &["run", "pacha://coder:v1", PROMPT], 5, "is damaged")?;
    t.equal("connections", &hub.connections(), &0)?;
    t.done()
}

/// Model caching works: fetched once, whole under its name whatever happens, once for two who ask together.
pub fn f_int_289(s: &Subject) -> Attempt {
    let mut t = Tally::new("apr pull and apr run with an empty home; requests and bytes counted by the hub");
    let q8 = read(&s.fixture("q8_0")?)?;
    let name = format!("hf://{REPO}:Q8_0");
    let hub = Hub::start(GOOD, &[(FILE, q8.clone())])?;
    let desk = Desk::new(s, &hub)?;
    let path = desk.stands_for(&mut t, &[&name], &q8)?;
    let cache = desk.home.join(".apr").join("cache");
    t.hold(path.starts_with(&cache), || {
        Refutation::new("it lies in ~/.apr/cache", path.display().to_string(), "it does")
    })?;
    let made = hub.connections();
    let out = desk.apr(&["run", &name, PROMPT, "--temperature", "0", "--no-gpu"]).judged()?;
    t.hold(out.code() == Some(0), || out.refute("it answers", out.err(), "exit code 0"))?;
    t.equal("connections when it is used the second time", &(hub.connections() - made), &0)?;
    // What was changed on the disk is not used.
    std::fs::write(&path, b"GGUF, but shorter").map_err(instrument)?;
    let out = desk.apr(&["run", &name, PROMPT, "--temperature", "0", "--no-gpu"]).judged()?;
    t.hold(out.code() == Some(0) && hub.connections() > made, || {
        out.refute("a changed file is fetched again", out.err(), "it")
    })?;
    // Two at once.
    let slow = Hub::start(Manner { contents: |_| Drip(1 << 16), ..GOOD }, &[(FILE, noise(BYTES))])?;
    let desk = Desk::new(s, &slow)?;
    let mut both = [desk.apr(&["pull", &name]).start()?, desk.apr(&["pull", &name]).start()?];
    for one in &mut both {
        let exit = one.ends_within(Duration::from_secs(60));
        let said = (format!("{exit:?}: {}", one.err()), one.repro.clone());
        t.hold(matches!(exit, Some(crate::child::Exit::Code(0))), || {
            Refutation::new("both of two writers succeed", said.0, "exit code 0").repro(said.1)
        })?;
    }
    t.at_most("bytes sent to two at once, over the size", slow.sent() as f64 / BYTES as f64, 1.01)?;
    killed(&mut t, s, &name)?;
    t.done()
}

/// Ended at any moment, by a signal that nobody can catch: whole or not there, and the next one goes on.
fn killed(t: &mut Tally, s: &Subject, name: &str) -> Result<(), Halt> {
    let bytes = noise(BYTES);
    let hub = Hub::start(Manner { contents: |_| Drip(1 << 15), ..GOOD }, &[(FILE, bytes.clone())])?;
    let desk = Desk::new(s, &hub)?;
    let mut moments = [40u64, 90, 170, 260, 400, 650, 900, 1500, 1600, 1700].iter();
    let begun = Instant::now();
    while let Some(ms) = moments.next().filter(|_| begun.elapsed() < Duration::from_secs(40)) {
        let child = desk.apr(&["pull", name]).start()?;
        std::thread::sleep(Duration::from_millis(*ms));
        let repro = child.repro.clone();
        // Dropping it kills it and what it started.
        drop(child);
        for path in desk.models() {
            let came = read(&path)?;
            t.hold(came == bytes, || {
                let observed = format!("{} bytes of {} after {ms} ms", came.len(), bytes.len());
                Refutation::new("never a part under the final name", observed, "the whole or nothing")
                    .repro(repro.clone())
            })?;
        }
    }
    desk.stands_for(t, &[name], &bytes)?;
    // One that was ended late left most of it. Each of its connections loses the block that it is at.
    let bytes = noise(12 << 20);
    let hub = Hub::start(Manner { contents: |_| Drip(1 << 16), ..GOOD }, &[(FILE, bytes.clone())])?;
    let desk = Desk::new(s, &hub)?;
    let first = desk.apr(&["pull", name]).start()?;
    let patience = Instant::now();
    while hub.sent() < 10 << 20 && patience.elapsed() < Duration::from_secs(30) {
        std::thread::sleep(Duration::from_millis(2));
    }
    drop(first);
    // What was on its way when the first one died is counted before the second begins.
    std::thread::sleep(Duration::from_millis(200));
    let before = hub.sent();
    desk.stands_for(t, &[name], &bytes)?;
    let again = (hub.sent() - before) as f64 / bytes.len() as f64;
    t.at_most("share fetched again after ten of twelve megabytes had come", again, 0.6)
}

/// What other programs have downloaded is used where it is.
fn foreign(t: &mut Tally, desk: &Desk<'_>, want: &str) -> Result<(), Halt> {
    let (model, commit) = (desk.s.fixture("q8_0")?, "3".repeat(40));
    let q8 = read(&model)?;
    let digest = sha256(&q8);
    let manifest = serde_json::json!({"layers": [
        {"mediaType": "application/vnd.ollama.image.model", "digest": format!("sha256:{digest}")},
    ]})
    .to_string();
    let snapshot = format!(".cache/huggingface/hub/models--acme--face/snapshots/{commit}/x-Q8_0.gguf");
    let files: [(&str, &[u8]); 6] = [
        (".cache/huggingface/hub/models--acme--face/refs/main", commit.as_bytes()),
        (&snapshot, &q8),
        (".cache/llama.cpp/acme_cpp_x-Q8_0.gguf", &q8),
        (".lmstudio/models/acme/studio/x-Q8_0.gguf", &q8),
        (".ollama/models/manifests/registry.ollama.ai/library/tiny/1b", manifest.as_bytes()),
        (&format!(".ollama/models/blobs/sha256-{digest}"), &q8),
    ];
    for (name, bytes) in files {
        let path = desk.home.join(name);
        std::fs::create_dir_all(path.parent().unwrap_or(&path)).map_err(instrument)?;
        std::fs::write(&path, bytes).map_err(instrument)?;
    }
    let listed = desk.apr(&["list"]).judged()?;
    for (name, whose) in [
        ("hf://acme/face", "HuggingFace"),
        ("acme/cpp:Q8_0", "llama.cpp"),
        ("hf://acme/studio", "LM Studio"),
        ("tiny:1b", "Ollama"),
    ] {
        let out = desk.apr(&["run", name, PROMPT, "--temperature", "0", "--no-gpu", "--offline"]).judged()?;
        t.hold(out.out() == want, || out.refute("what others have is used", out.out() + &out.err(), want))?;
        t.hold(listed.out().contains(whose), || listed.refute("what others have is listed", listed.out(), whose))?;
    }
    Ok(())
}

/// --offline mode works: no connection at all, and what is cached is named.
pub fn f_int_290(s: &Subject) -> Attempt {
    let mut t = Tally::new("apr run and apr pull offline, by flag and by environment; connections counted by the hub");
    let q8 = read(&s.fixture("q8_0")?)?;
    let hub = Hub::start(GOOD, &[(FILE, q8.clone())])?;
    let desk = Desk::new(s, &hub)?;
    let (name, url) = (format!("hf://{REPO}:Q8_0"), hub.url(FILE));
    let ways: [(&[&str], Option<&str>); 3] =
        [(&["--offline"], None), (&[], Some("APR_OFFLINE")), (&[], Some("HF_HUB_OFFLINE"))];
    let offline = |words: &[&str], way: &(&[&str], Option<&str>)| {
        let run = desk.apr(words).args(way.0);
        way.1.map_or_else(|| desk.apr(words).args(way.0), |variable| run.env(variable, "1"))
    };
    for way in &ways {
        for words in
            [&["run", &name, PROMPT][..], &["run", &url, PROMPT], &["pull", &name], &["check", &url], &["chat", &name]]
        {
            let out = offline(words, way).judged()?;
            let refused = out.code() == Some(3) && out.err().contains("offline");
            t.hold(refused, || out.refute("what is not cached is refused", out.err(), "exit code 3 and the reason"))?;
        }
    }
    t.equal("connections with nothing cached", &hub.connections(), &0)?;
    desk.stands_for(&mut t, &[&name], &q8)?;
    let made = hub.connections();
    let want = answer_of(s, &s.fixture("q8_0")?)?;
    for way in &ways {
        let out = offline(&["run", &name, PROMPT, "--temperature", "0", "--no-gpu"], way).judged()?;
        t.hold(out.out() == want, || out.refute("what is cached is used", out.out() + &out.err(), want.clone()))?;
        let out = offline(&["run", &url, PROMPT], way).judged()?;
        let named = out.err().contains(&format!("cached: hf://{REPO}"));
        t.hold(named, || out.refute("what is cached is named", out.err(), format!("cached: hf://{REPO}")))?;
    }
    foreign(&mut t, &desk, &want)?;
    t.equal("connections with something cached", &(hub.connections() - made), &0)?;
    // Not even a look for a name server.
    if s.evil.is_none() && Path::new("/usr/bin/strace").exists() {
        let log = s.scratch()?.join("calls");
        let run = Run::new("/usr/bin/strace".as_ref()).args(["-f", "-qq", "-e", "trace=connect,sendto,socket", "-o"]);
        let run = run.args([log.as_os_str(), s.real_apr.as_os_str()]).args(["run", &url, PROMPT, "--offline"]);
        let out = run.env("HOME", &desk.home).judged()?;
        let calls = std::fs::read_to_string(&log).unwrap_or_default();
        let call = calls.lines().find(|l| l.contains("AF_INET"));
        t.hold(call.is_none(), || out.refute("no call of the network", call.unwrap_or_default(), "none"))?;
        t.note("strace saw no call of the network");
    }
    t.done()
}
