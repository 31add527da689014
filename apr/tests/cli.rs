//! The command line as snapshots: what a change to a flag or message changes for people.

use predicates::prelude::*;

const FIXTURES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../fixtures");

fn apr() -> assert_cmd::Command {
    let mut c = assert_cmd::Command::new(assert_cmd::cargo::cargo_bin!("apr"));
    c.current_dir(FIXTURES).env_clear().env("APR_CONFIG", "").env("APR_HOME", "no-such-home");
    c.timeout(std::time::Duration::from_secs(60));
    c
}

fn stdout(args: &[&str]) -> String {
    String::from_utf8(apr().args(args).assert().success().get_output().stdout.clone()).unwrap()
}

#[test]
fn help() {
    insta::assert_snapshot!("help", stdout(&["--help"]));
    insta::assert_snapshot!("run-help", stdout(&["run", "--help"]));
    insta::assert_snapshot!("serve-help", stdout(&["serve", "--help"]));
    insta::assert_snapshot!("convert-help", stdout(&["convert", "--help"]));
}

#[test]
fn errors_are_one_line_with_a_hint() {
    let stderr = |args: &[&str], code: i32| {
        let out = apr().args(args).assert().code(code).stdout(predicate::str::is_empty());
        String::from_utf8(out.get_output().stderr.clone()).unwrap()
    };
    insta::assert_snapshot!("error-not-found", stderr(&["run", "qwen2-tiny-q8_1.gguf", "hi"], 3));
    insta::assert_snapshot!("error-directory", stderr(&["run", "../golden", "hi"], 3));
    insta::assert_snapshot!("error-not-a-model", stderr(&["run", "INDEX.json", "hi"], 5));
    insta::assert_snapshot!("error-gpu", stderr(&["run", "qwen2-tiny-q8_0.gguf", "hi", "--gpu"], 6));
    insta::assert_snapshot!("error-source", stderr(&["run", "s3://bucket/model", "hi"], 6));
    insta::assert_snapshot!("error-name", stderr(&["run", "hf://org/../model", "hi"], 2));
    insta::assert_snapshot!("error-short-name", stderr(&["run", "qwen2.5-coder:0.5", "hi"], 3));
    insta::assert_snapshot!("error-repository", stderr(&["run", "Qwen/Qwen2.5-0.5B-Instruct-GGUF", "hi"], 3));
    insta::assert_snapshot!("error-offline", stderr(&["run", "qwen2.5-coder:0.5b", "hi", "--offline"], 3));
    insta::assert_snapshot!("error-registry", stderr(&["run", "pacha://coder:v1", "hi"], 3));
    insta::assert_snapshot!("error-context", stderr(&["run", "qwen2-tiny-q8_0.gguf", "hi", "--ctx-size", "5000"], 2));
    let convert = |more: &[&str]| stderr(&[&["convert", "qwen2-tiny-q4_k_m.gguf"], more].concat(), 2);
    insta::assert_snapshot!("error-convert-target", convert(&["tiny.bin"]));
    insta::assert_snapshot!("error-convert-taken", convert(&["INDEX.json", "--to", "apr"]));
}

/// Of two models, of the files of one: which.
#[test]
fn errors_name_the_file_that_they_are_about() {
    let folder = tempfile::tempdir().unwrap();
    let whole = std::fs::read(format!("{FIXTURES}/qwen2-tiny-q8_0.gguf")).unwrap();
    let bad = folder.path().join("bad.gguf");
    std::fs::write(&bad, &whole[..whole.len() / 2]).unwrap();
    let (bad, good, out) = (bad.to_str().unwrap(), "qwen2-tiny-q8_0.gguf", folder.path().join("out.apr"));
    let about = |words: &[&str], file: &str| {
        let named = predicate::str::contains(file).and(predicate::str::contains("its data ends"));
        apr().args(words).assert().code(5).stderr(named);
    };
    for words in [
        &["diff", bad, good][..],
        &["diff", good, bad],
        &["run", bad, "hi"],
        &["run", good, "hi", "--draft", bad],
        &["check", bad],
        &["convert", bad, out.to_str().unwrap()],
    ] {
        about(words, "bad.gguf': ");
    }
    let split = folder.path().join("split");
    std::fs::create_dir(&split).unwrap();
    for entry in std::fs::read_dir(format!("{FIXTURES}/qwen2-tiny")).unwrap().map(Result::unwrap) {
        std::fs::copy(entry.path(), split.join(entry.file_name())).unwrap();
    }
    let split = split.to_str().unwrap();
    std::fs::write(format!("{split}/tokenizer.json"), "{}").unwrap();
    apr().args(["run", split, "hi"]).assert().failure().stderr(predicate::str::contains("split': "));
    let cut = std::fs::read(format!("{split}/model.safetensors")).unwrap();
    std::fs::write(format!("{split}/model.safetensors"), &cut[..cut.len() / 2]).unwrap();
    let named = predicate::str::contains("split/model.safetensors': ").and(predicate::str::contains("split': ").not());
    apr().args(["run", split, "hi"]).assert().code(5).stderr(named);
    let said = apr().args(["run", bad, "hi", "--json"]).assert().code(5);
    let object: serde_json::Value = serde_json::from_slice(&said.get_output().stdout).unwrap();
    assert_eq!(object["error"]["file"], bad);
}

#[test]
fn out_of_range_sampling_is_clamped_with_a_warning() {
    apr()
        .args(["run", "qwen2-tiny-q8_0.gguf", "What is 2+2?", "--temperature", "-1", "--top-p", "7"])
        .assert()
        .success()
        .stdout("2 + 2 = 4\n")
        .stderr(predicate::str::contains("temperature -1 is outside").and(predicate::str::contains("top-p 7")));
}

#[test]
fn two_models_part_on_the_backend_that_was_asked_for() {
    let models = ["diff", "qwen2-tiny-q8_0.gguf", "qwen2-tiny-q4_k_m.gguf", "--json"];
    let on_cpu: serde_json::Value = serde_json::from_str(&stdout(&[&models[..], &["--no-gpu"]].concat())).unwrap();
    assert!(on_cpu.to_string().contains("cpu"), "{on_cpu}");
    // No device, whatever this machine has.
    let refused = apr().args(models).arg("--gpu").env("CUDA_VISIBLE_DEVICES", "").assert().code(6);
    refused.stderr(predicate::str::contains("no GPU to run on"));
    apr().args(models).args(["--gpu", "--no-gpu"]).assert().code(2);
}

#[test]
fn a_folder_answers_like_a_file() {
    for model in ["qwen2-tiny", "qwen2-tiny/model.safetensors"] {
        apr().args(["run", model, "What is 2+2?", "--temperature", "0"]).assert().success().stdout("2 + 2 = 4\n");
    }
}

#[test]
fn json_is_one_object() {
    let out = stdout(&["run", "qwen2-tiny-q8_0.gguf", "What is 2+2?", "--json"]);
    let v: serde_json::Value = serde_json::from_str(&out).unwrap();
    assert_eq!(v["text"], "2 + 2 = 4");
    assert_eq!(v["finish_reason"], "stop");
    assert_eq!(v["tokens"].as_array().unwrap().len() as u64, v["tokens_generated"].as_u64().unwrap());
}

#[test]
fn json_tells_failures_too() {
    for (args, code, kind) in [
        (&["run", "no-such-model.gguf", "hi", "--json"][..], 3, "not-found"),
        (&["run", "qwen2-tiny-q8_0.gguf", "hi", "--json", "--frobnicate"], 2, "usage"),
        (&["run", "INDEX.json", "hi", "--json"], 5, "malformed"),
    ] {
        let out = apr().args(args).assert().code(code).stderr(predicate::str::starts_with("error: "));
        let v: serde_json::Value = serde_json::from_slice(&out.get_output().stdout).unwrap();
        assert_eq!((&v["error"]["kind"], &v["exit_code"]), (&kind.into(), &code.into()));
    }
}

#[test]
fn a_stop_sequence_ends_the_answer_and_is_not_part_of_it() {
    apr().args(["run", "qwen2-tiny-q8_0.gguf", "What is 2+2?", "--stop", "= 4"]).assert().success().stdout("2 + 2 \n");
}

/// A config file of these words, and the words that name it.
fn config(folder: &tempfile::TempDir, text: &str) -> std::path::PathBuf {
    let path = folder.path().join("config.toml");
    std::fs::write(&path, text).unwrap();
    path
}

#[test]
fn what_is_typed_counts_before_the_environment_before_the_file() {
    let folder = tempfile::tempdir().unwrap();
    let file = config(&folder, "json = true\nthreads = 1\n[run]\nmax-tokens = 3\n");
    let answer = |env: &[(&str, &str)], more: &[&str]| -> serde_json::Value {
        let mut c = apr();
        c.env("APR_CONFIG", &file).envs(env.iter().copied());
        let out = c.args(["run", "qwen2-tiny-q8_0.gguf", "What is 2+2?"]).args(more).assert().success();
        serde_json::from_slice(&out.get_output().stdout).unwrap()
    };
    let seen = answer(&[], &[]);
    assert_eq!((&seen["tokens_generated"], &seen["finish_reason"]), (&3.into(), &"length".into()));
    assert!(seen["backend"].as_str().unwrap().ends_with("1 thread)"), "{seen}");
    let seen = answer(&[("APR_ISA", "scalar")], &["--max-tokens", "2", "--threads", "2"]);
    assert_eq!((&seen["tokens_generated"], &seen["backend"]), (&2.into(), &"cpu (scalar, 2 threads)".into()));
}

#[test]
fn a_config_file_that_is_none_is_refused_and_does_not_stand_in_the_way() {
    let folder = tempfile::tempdir().unwrap();
    let run = |text: &str, words: &[&str]| {
        let mut c = apr();
        c.env("APR_CONFIG", config(&folder, text)).args(words);
        c
    };
    let ask = ["run", "qwen2-tiny-q8_0.gguf", "hi"];
    run("treads = 1", &ask).assert().code(2).stderr(predicate::str::contains("did you mean 'threads'?"));
    run("[run]\nport = 5", &ask).assert().code(2).stderr(predicate::str::contains("run has no flag 'port'; serve has"));
    run("threads = 'many'", &ask).assert().code(2).stderr(predicate::str::contains("config.toml"));
    run("threads =", &ask).assert().code(5).stderr(predicate::str::contains("line 1"));
    run(&"#".repeat(100_000), &ask).assert().code(7).stderr(predicate::str::contains("65536 bytes"));
    run("treads = 1", &["config", "path"]).assert().success();
    run("treads = 1", &["--help"]).assert().success();
    run("treads = 1", &["doctor"]).assert().code(2).stdout(predicate::str::contains("did you mean"));
    let shown = run("threads = 7", &["config", "show", "--json"]).assert().success();
    let v: serde_json::Value = serde_json::from_slice(&shown.get_output().stdout).unwrap();
    assert!(v["values"].as_array().unwrap().iter().any(|v| v["key"] == "--threads" && v["value"] == "7"), "{v}");
}

#[test]
fn doctor_completions_and_manual_pages() {
    let seen: serde_json::Value = serde_json::from_str(&stdout(&["doctor", "--json"])).unwrap();
    let topics: Vec<&str> = seen["findings"].as_array().unwrap().iter().filter_map(|f| f["topic"].as_str()).collect();
    assert_eq!(
        topics,
        ["processor", "threads", "memory", "huge pages", "GPU", "what runs where", "models", "config file"]
    );
    for shell in ["bash", "zsh", "fish", "powershell", "elvish"] {
        let script = stdout(&["completions", shell]);
        assert!(script.contains("trace-format") && script.contains("max-tokens"), "{shell}: {script:.300}");
    }
    let folder = tempfile::tempdir().unwrap();
    stdout(&["man", "--dir", folder.path().to_str().unwrap()]);
    for page in ["apr.1", "apr-run.1", "apr-serve.1", "apr-config-show.1"] {
        let text = std::fs::read_to_string(folder.path().join(page)).unwrap();
        assert!(text.contains(".SH NAME"), "{page}");
    }
    assert!(stdout(&["man"]).contains("APR_CONFIG"));
}

#[test]
fn what_was_meant_is_said() {
    for (words, meant) in [
        (&["chek", "m"][..], "check"),
        (&["run", "m", "p", "--max-token", "3"], "--max-tokens"),
        (&["run", "m", "p", "--trace-format", "chrom"], "chrome"),
        (&["run", "m", "p", "--trace-steps", "embd"], "embed"),
        (&["convert", "a", "b", "--to", "safetensor"], "safetensors"),
        (&["completions", "bsh"], "bash"),
    ] {
        apr().args(words).assert().code(2).stderr(predicate::str::contains(meant));
    }
}

#[test]
fn a_model_that_drafts_is_counted_and_changes_nothing() {
    let ask = |more: &[&str]| {
        let words = ["run", "qwen2-tiny-q8_0.gguf", "Count from 1 to 30.", "--json", "--no-gpu"];
        serde_json::from_str::<serde_json::Value>(&stdout(&[&words, more].concat())).unwrap()
    };
    let (plain, with) = (ask(&["--draft-max", "0"]), ask(&["--draft", "qwen2-tiny-q4_k_m.gguf"]));
    assert_eq!(with["tokens"], plain["tokens"]);
    assert_eq!(plain["drafted_tokens"], 0);
    assert!(with["accepted_tokens"].as_u64().unwrap() > 0, "{with}");
    apr()
        .args(["run", "qwen2-tiny-q8_0.gguf", "Hi", "--draft", "qwen2-tiny-q4_k_m.gguf", "--draft-max", "0"])
        .assert()
        .code(2)
        .stderr(predicate::str::contains("--draft"));
}

/// A name of the registry is a name wherever a model is named, and one that is nearly right is told the right one.
#[test]
fn a_name_of_ones_own_works_in_every_command() {
    const MODEL: &str = "qwen2-tiny-q8_0.gguf";
    let (home, shared) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let shared = shared.path().to_str().unwrap();
    let apr = |words: &[&str]| {
        let mut c = apr();
        c.env("APR_HOME", home.path()).args(words);
        c
    };
    apr(&["tag", MODEL, "coder:v1"]).assert().success().stderr(predicate::str::contains("coder:v1 is 1 file, 4.6 MB"));
    apr(&["tag", MODEL, "qwen2.5-coder:0.5b"]).assert().success();
    let copy = home.path().join("copy.apr");
    for words in [
        &["run", "coder:v1", "What is 2+2?"][..],
        &["run", "qwen2.5-coder:0.5b", "What is 2+2?", "--offline"],
        &["chat", "coder:v1"],
        &["check", "coder:v1"],
        &["diff", "coder:v1", MODEL],
        &["convert", "coder:v1", copy.to_str().unwrap()],
        &["bench", "coder:v1", "--prompt", "8", "--decode", "4", "--repeat", "1"],
        &["tag", "coder:v1", "coder:v2"],
        &["pull", "coder:v1"],
        &["push", "coder:v1", shared],
        &["rm", "coder:v1"],
        &["pull", "coder:v1", "--from", shared],
        &["rm", "pacha://coder:v1"],
    ] {
        apr(words).write_stdin("What is 2+2?\n").assert().success();
    }
    for (words, meant) in [
        (&["run", "coder:v1", "hi"][..], "did you mean 'coder:v2'?"),
        (&["run", "codr:v2", "hi"], "did you mean 'coder:v2'?"),
        (&["rm", "coder"], "did you mean 'coder:v2'?"),
        (&["serve", "pacha://coder"], "did you mean 'pacha://coder:v2'?"),
        (&["pull", "coder:v9", "--from", shared], "did you mean 'pacha://coder:v1'?"),
    ] {
        apr(words).assert().code(3).stderr(predicate::str::contains(meant));
    }
    let nowhere = apr(&["pull", "x", "--from", "no-such-folder"]).assert().code(3);
    nowhere.stderr(predicate::str::contains("'no-such-folder' has no 'pacha://x:latest'; it is empty; apr push"));
    apr(&["pull", "hf://a/b", "--from", shared]).assert().code(2).stderr(predicate::str::contains("registry"));
    // A file of this name is what was meant.
    std::fs::write(home.path().join("coder:v2"), "nothing").unwrap();
    apr(&["run", "coder:v2", "hi"]).current_dir(home.path()).assert().code(5);
}

/// On a terminal, if this system has `script`: what it showed.
#[cfg(target_os = "linux")]
fn screen(command: &str) -> String {
    let mut c = assert_cmd::Command::new("script");
    let apr = assert_cmd::cargo::cargo_bin!("apr").to_str().unwrap().to_string();
    c.args(["-qec", &command.replace("apr", &apr), "/dev/null"]).current_dir(FIXTURES);
    c.env("APR_CONFIG", "").env("APR_HOME", "no-such-home").env("TERM", "xterm");
    c.timeout(std::time::Duration::from_secs(60));
    String::from_utf8(c.output().unwrap().stdout).unwrap()
}

#[cfg(target_os = "linux")]
#[test]
fn what_is_said_beside_an_answer_has_lines_of_its_own() {
    for command in [
        "apr run qwen2-tiny-q8_0.gguf hi -c 36 --no-gpu",
        "apr run qwen2-tiny-q8_0.gguf hi --no-gpu --trace",
        "apr run qwen2-tiny-q8_0.gguf hi --no-gpu --trace-output /dev/full",
    ] {
        let shown = screen(command);
        let stuck = ["warning:", "error:", "{"].iter().find(|word| {
            let line = shown.lines().find(|l| l.contains(*word)).unwrap_or_default();
            line.contains("help you")
        });
        assert!(shown.contains("help you") && stuck.is_none(), "{command}: {shown:?}");
    }
}

/// A home that cannot be told or not be entered stands in nobody's way.
#[test]
fn a_home_is_absolute_or_none() {
    let at = |home: Option<&str>, words: &[&str]| {
        let mut c = apr();
        c.env_remove("APR_CONFIG").env_remove("APR_HOME").args(words);
        home.map(|home| c.env("HOME", home));
        c
    };
    for home in [None, Some(""), Some("relative")] {
        at(home, &["run", "qwen2-tiny-q8_0.gguf", "hi"]).assert().success();
        at(home, &["list"]).assert().code(2).stderr(predicate::str::contains("APR_HOME"));
        at(home, &["config", "path"]).assert().stdout(predicate::str::contains("config.toml").not());
    }
}

#[test]
fn a_folder_is_not_searched_past_the_models_that_lie_in_it() {
    let both = predicate::str::contains("q8_0.gguf").and(predicate::str::contains("q4_k_m.gguf"));
    apr().args(["run", ".", "hi"]).assert().code(3).stderr(both);
}

#[test]
fn a_quiet_server_says_where_it_is_and_has_a_name() {
    use std::io::BufRead;
    apr().args(["serve", "qwen2-tiny-q8_0.gguf", "-p", "0", "--name", ""]).assert().code(2);
    let mut server = std::process::Command::new(assert_cmd::cargo::cargo_bin!("apr"))
        .args(["serve", "qwen2-tiny-q8_0.gguf", "-q", "-p", "0"])
        .current_dir(FIXTURES)
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    std::io::BufReader::new(server.stderr.take().unwrap()).read_line(&mut line).unwrap();
    server.kill().and_then(|()| server.wait()).unwrap();
    assert!(line.starts_with("Serving qwen2-tiny-q8_0 at http://127.0.0.1:"), "{line:?}");
}

/// What an impatient user gets wrong, and what he is told.
#[test]
fn mistakes_are_told_how_to_put_them_right() {
    const MODEL: &str = "qwen2-tiny-q8_0.gguf";
    for (words, code, told) in [
        (&["run", "hi", MODEL][..], 3, "apr run MODEL PROMPT"),
        (&["run", MODEL, "hi", "--max-tokens", "-5"], 2, "a whole number from 0 on is expected"),
        (&["run", MODEL, "hi", "--seed", "x"], 2, "a whole number from 0 on is expected"),
        (&["serve", MODEL, "--queue", "99999999999999999999"], 2, "too large a number"),
        (&["serve", MODEL, "-p", "70000"], 2, "a number from 0 to 65535 is expected"),
        (&["serve", MODEL, "-p", "0", "--parallel", "0"], 2, "1 to 1024 are possible"),
        (&["serve", MODEL, "-p", "0", "--allow-host", "http://llm.example"], 2, "without http:// and port"),
        (&["serve", MODEL, "-p", "0", "--allow-host", "llm.example:80"], 2, "without http:// and port"),
        (&["serve", MODEL, "-p", "0", "--cors-origin", "app.example"], 2, "https://app.example"),
        (&["serve", MODEL, "-p", "0", "--cors-origin", "https://app.example/"], 2, "https://app.example"),
        (&["rm", "nothing"], 3, "apr list shows"),
        (&["replay", MODEL], 5, "qwen2-tiny-q8_0.gguf': not a trace"),
    ] {
        apr().args(words).assert().code(code).stderr(predicate::str::contains(told));
    }
}

/// Supervisors tell an end that they asked for from Ctrl+C; `nohup` means what it says.
#[cfg(target_os = "linux")]
#[test]
fn the_exit_code_says_which_signal_it_was() {
    use std::process::{Command, Stdio};
    let apr = assert_cmd::cargo::cargo_bin!("apr").to_str().unwrap();
    let ended = |before: &[&str], signals: &[&str]| {
        let words = [before, &[apr, "chat", "qwen2-tiny-q8_0.gguf", "--quiet"]].concat();
        let mut c = Command::new(words[0]);
        c.args(&words[1..]).current_dir(FIXTURES).env("APR_CONFIG", "");
        // Somebody who says nothing.
        let mut child = c.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        let _silence = child.stdin.take();
        let status = format!("/proc/{}/status", child.id());
        let until = std::time::Instant::now() + std::time::Duration::from_secs(30);
        // SIGTERM is the 15th bit.
        while !std::fs::read_to_string(&status).unwrap().lines().any(|l| {
            let mask = l.strip_prefix("SigBlk:").and_then(|m| u64::from_str_radix(m.trim(), 16).ok());
            mask.is_some_and(|m| m >> 14 & 1 == 1)
        }) {
            assert!(std::time::Instant::now() < until, "signals are never watched for");
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
        for signal in signals {
            assert!(Command::new("kill").args([*signal, &child.id().to_string()]).status().unwrap().success());
            std::thread::sleep(std::time::Duration::from_millis(200));
        }
        let until = std::time::Instant::now() + std::time::Duration::from_secs(30);
        loop {
            if let Some(status) = child.try_wait().unwrap() {
                return status.code();
            }
            if std::time::Instant::now() > until {
                child.kill().unwrap();
                child.wait().unwrap();
                panic!("{signals:?} did not end it");
            }
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
    };
    // Whoever runs this may have told its children to ignore signals, as nohup does.
    let plainly = ["env", "--default-signal"];
    assert_eq!(ended(&plainly, &["-TERM"]), Some(143));
    assert_eq!(ended(&plainly, &["-INT"]), Some(130));
    assert_eq!(ended(&plainly, &["-HUP"]), Some(143));
    assert_eq!(ended(&["nohup"], &["-HUP", "-INT"]), Some(130), "it outlives its terminal");
}

/// A trace is replayed from any folder; where it cannot be, what is to be done is said.
#[test]
fn a_trace_is_replayed_anywhere() {
    let folder = tempfile::tempdir().unwrap();
    let trace = folder.path().join("t.json");
    let trace = trace.to_str().unwrap();
    stdout(&["run", "qwen2-tiny-q8_0.gguf", "What is 2+2?", "--no-gpu", "--trace-output", trace]);
    let replay = |more: &[&str]| {
        let mut c = apr();
        c.current_dir(folder.path()).args([&["replay", trace], more].concat());
        c
    };
    replay(&[]).assert().success().stdout(predicate::str::contains("every one the same"));
    let recorded: serde_json::Value = serde_json::from_slice(&std::fs::read(trace).unwrap()).unwrap();
    let edit = |edit: fn(&mut serde_json::Value)| {
        let mut other = recorded.clone();
        edit(&mut other);
        std::fs::write(trace, other.to_string()).unwrap();
    };
    edit(|t| t["model"]["sha256"] = "0".into());
    replay(&[]).assert().success().stderr(predicate::str::contains("SHA-256 is another"));
    let said = replay(&["--json"]).assert().success();
    let object: serde_json::Value = serde_json::from_slice(&said.get_output().stdout).unwrap();
    assert_eq!((&object["difference"], &object["other_model"]), (&serde_json::Value::Null, &true.into()));
    edit(|t| t["events"][3]["name"] = "other".into());
    let said = replay(&["--json"]).assert().code(1);
    let object: serde_json::Value = serde_json::from_slice(&said.get_output().stdout).unwrap();
    assert!(object["same_events"] == 3 && object["difference"].as_str().unwrap().contains("event 4"), "{object}");
    edit(|t| t["model"]["path"] = "gone.gguf".into());
    replay(&[]).assert().code(3).stderr(predicate::str::contains("--model says where it is now"));
    let here = format!("{FIXTURES}/qwen2-tiny-q8_0.gguf");
    replay(&["--model", &here]).assert().success();
    edit(|t| *t = serde_json::json!({"traceEvents": []}));
    replay(&[]).assert().code(6).stderr(predicate::str::contains("--trace-format json"));
}

/// What was tuned is used, counts less than what is typed, and changes no token; what is damaged is said and done without.
#[test]
fn tuning_is_kept_and_changes_no_token() {
    const MODEL: &str = "qwen2-tiny-q8_0.gguf";
    let home = tempfile::TempDir::new().unwrap();
    let file = home.path().join("tune.json");
    let said = |words: &[&str], isa: Option<&str>| {
        let mut c = apr();
        c.env("APR_HOME", home.path()).args(words).args(["--json"]);
        isa.map(|isa| c.env("APR_ISA", isa));
        serde_json::from_slice::<serde_json::Value>(&c.assert().success().get_output().stdout).unwrap()
    };
    let run = |more: &[&str], isa| said(&[&["run", MODEL, "Count from 1 to 20.", "--no-gpu"], more].concat(), isa);
    let untuned = run(&[], None);

    let tuned = said(&["tune", MODEL], None);
    assert_eq!((&tuned["measured_now"], &tuned["tried"][0]["decode"].as_array().unwrap().len()), (&true.into(), &6));
    assert!(!tuned["why"].as_str().unwrap().is_empty(), "{tuned}");
    let again = said(&["tune", MODEL], None);
    assert_eq!((&again["measured_now"], &again["tried"]), (&false.into(), &tuned["tried"]), "it is measured once");
    let explained = apr().env("APR_HOME", home.path()).args(["tune", MODEL, "--explain"]).assert().success();
    explained.stdout(predicate::str::contains("why: ").and(predicate::str::contains("prefill")));

    // A machine on which three threads of the plain kernels won.
    let mut kept: serde_json::Value = serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap();
    kept["tuned"][0]["best"] = serde_json::json!({"isa": "scalar", "threads": 3});
    std::fs::write(&file, kept.to_string()).unwrap();
    let with = run(&[], None);
    assert_eq!((&with["backend"], &with["tokens"]), (&"cpu (scalar, 3 threads)".into(), &untuned["tokens"]));
    assert!(!run(&["--threads", "2"], None)["backend"].as_str().unwrap().contains("scalar"));
    let typed = run(&[], Some("scalar"))["backend"].clone();
    let threes = |backend: &serde_json::Value| backend.to_string().contains(", 3 threads");
    assert!(typed.to_string().contains("scalar") && threes(&typed) == threes(&untuned["backend"]), "{typed}");
    // Of another model it says nothing.
    let other = said(&["run", "qwen2-tiny-q4_k_m.gguf", "Hi", "--no-gpu"], None);
    assert_eq!(other["backend"], untuned["backend"]);

    for damaged in ["{", "{\"tuned\": 3}", &kept.to_string().replace("scalar\"", "sse9\"")] {
        std::fs::write(&file, damaged).unwrap();
        let with = run(&[], None);
        assert_eq!((&with["backend"], &with["tokens"]), (&untuned["backend"], &untuned["tokens"]), "{damaged}");
        assert!(with["warnings"][0].as_str().unwrap().contains("not tuned"), "{with}");
    }
    std::fs::write(&file, "{").unwrap();
    apr().env("APR_HOME", home.path()).args(["tune", MODEL]).assert().code(5);
    assert_eq!(said(&["tune", MODEL, "--again"], None)["measured_now"], true);
    apr().env("APR_HOME", home.path()).env("APR_ISA", "scalar").args(["tune", MODEL]).assert().code(2);
}

#[test]
fn bench_measures_the_machine_and_a_batch() {
    let v: serde_json::Value =
        serde_json::from_str(&stdout(&["bench", "--machine", "--threads", "2", "--json"])).unwrap();
    let peaks = v["peaks"].as_array().unwrap();
    assert_eq!(peaks.iter().map(|p| p["threads"].as_u64().unwrap()).collect::<Vec<_>>(), [1, 2]);
    for key in ["small_page_bytes_per_second", "huge_page_bytes_per_second", "int8_operations_per_second"] {
        assert!(peaks.iter().all(|p| p[key].as_f64().unwrap() > 1e8), "{v}");
    }
    apr().args(["bench"]).assert().code(2);
    apr().args(["bench", "qwen2-tiny-q8_0.gguf", "--machine"]).assert().code(2);
    let words = ["bench", "qwen2-tiny-q8_0.gguf", "--prompt", "8", "--decode", "8", "--context", "70", "--repeat", "1"];
    let v = |batch| {
        serde_json::from_str::<serde_json::Value>(&stdout(&[&words[..], &["--batch", batch, "--json"]].concat()))
            .unwrap()
    };
    let (one, four) = (v("1"), v("4"));
    assert!(four["decode_tokens_per_second"]["median"].as_f64().unwrap() > 0.0);
    let bytes = |v: &serde_json::Value| v["weight_bytes_per_token"].as_u64().unwrap();
    assert_eq!(bytes(&four), bytes(&one) / 4, "a pass over the weights serves all of a batch");
}

#[test]
fn bench_replays_a_workload() {
    let workload = concat!(env!("CARGO_MANIFEST_DIR"), "/../falsify/workloads/edits.json");
    let words = ["bench", "qwen2-tiny-q8_0.gguf", "--replay", workload, "--decode", "60", "--repeat", "1", "--json"];
    let v: serde_json::Value = serde_json::from_str(&stdout(&words)).unwrap();
    let tasks = v["tasks"].as_array().unwrap();
    let sum = |edit: bool, key: &str| {
        tasks.iter().filter(|t| t["edit"] == edit).map(|t| t[key].as_u64().unwrap()).sum::<u64>()
    };
    assert!(sum(true, "accepted_tokens") > 100 && sum(false, "accepted_tokens") < 20, "{v}");
    assert!(v["edits"]["ratio"].as_f64().unwrap() > 0.0 && v["fresh"]["ratio"].as_f64().unwrap() > 0.0);
    apr().args(["bench", "qwen2-tiny-q8_0.gguf", "--replay", "INDEX.json"]).assert().code(5);
}

#[test]
fn bench_says_how_fast_and_the_floor() {
    let words = ["bench", "qwen2-tiny-q8_0.gguf", "--prompt", "32", "--decode", "8", "--repeat", "1", "--json"];
    let v: serde_json::Value = serde_json::from_str(&stdout(&words)).unwrap();
    for key in ["prefill_tokens_per_second", "decode_tokens_per_second"] {
        assert!(v[key]["median"].as_f64().unwrap() > 0.0, "{v}");
    }
    assert!(v["decode_floor_tokens_per_second"].as_f64().unwrap() > 0.0 && v["weight_bytes_per_token"] != 0, "{v}");
    apr().args(["bench", "qwen2-tiny-q8_0.gguf", "--context", "999999"]).assert().code(2);
}

#[test]
fn a_chat_outlives_what_cannot_be_saved_or_read() {
    let chat = |said: &[u8]| {
        let mut c = apr();
        c.args(["chat", "qwen2-tiny-q8_0.gguf", "--temperature", "0"]).write_stdin(said);
        let out = c.assert().success().get_output().clone();
        (String::from_utf8(out.stdout).unwrap(), String::from_utf8(out.stderr).unwrap())
    };
    let (out, err) = chat(b"What is 2+2?\n/save no-such-folder/x.json\nWhat is 2+2?\n");
    assert_eq!(out, "2 + 2 = 4\n2 + 2 = 4\n", "{err}");
    assert!(err.contains("cannot write 'no-such-folder/x.json'"), "{err}");
    let (out, err) = chat(b"a\xff\nWhat is 2+2?\n");
    assert_eq!(out, "2 + 2 = 4\n", "{err}");
    assert!(err.contains("not valid UTF-8 from its byte 1 on"), "{err}");
    let (out, err) = chat(b"\"\"\"\nWhat is 2+2?\n\"\"\"\n\"\"\"\nfoo\n");
    assert_eq!(out, "2 + 2 = 4\n", "{err}");
    assert!(err.contains("no closing"), "{err}");
}

#[test]
fn keys_are_not_shown_and_the_environment_replaces_those_of_the_file() {
    let folder = tempfile::tempdir().unwrap();
    let file = config(&folder, "max-tokens = 9\n[serve]\napi-key = \"\"\n");
    let mut show = apr();
    let shown = show.env("APR_CONFIG", &file).args(["config", "show"]).assert().success();
    let shown = String::from_utf8(shown.get_output().stdout.clone()).unwrap();
    assert!(shown.contains("--api-key of serve           (set)") && shown.contains("9"), "{shown}");
    // An empty key is refused before a port is looked at, and this port is taken.
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    let serve = |env: &[(&str, &str)]| {
        let mut c = apr();
        c.env("APR_CONFIG", &file).envs(env.iter().copied());
        c.args(["serve", "qwen2-tiny-q8_0.gguf", "--port", &port]);
        c.assert()
    };
    serve(&[]).code(2).stderr(predicate::str::contains("'' is no key"));
    serve(&[("APR_API_KEY", "new")]).code(9).stderr(predicate::str::contains("cannot listen"));
}

#[test]
fn what_is_not_there_or_not_fetched_is_said() {
    let folder = tempfile::tempdir().unwrap();
    let mut list = apr();
    list.env("APR_HOME", folder.path()).arg("list");
    list.assert().success().stdout("").stderr(predicate::str::contains("nothing is here yet"));
    let pull = |env: &str, more: &[&str], code: i32| {
        let mut c = apr();
        c.env("APR_HOME", folder.path()).env("HF_HUB_DOWNLOAD_TIMEOUT", env);
        c.args(["pull", "http://127.0.0.1:9/a.gguf"]).args(more);
        c.assert().code(code)
    };
    pull("30", &["--offline"], 3).stderr(predicate::str::contains("was not fetched: --offline"));
    pull("abc", &[], 2).stderr(predicate::str::contains("'abc' is no number of seconds from 0.05 to 3600"));
}

#[test]
fn a_limit_that_would_find_everything_equal_is_none() {
    for limit in ["nan", "inf", "-1", "x"] {
        let mut c = apr();
        c.args(["diff", "qwen2-tiny-q8_0.gguf", "qwen2-tiny-q8_0.gguf", "--limit", limit]);
        c.assert().code(2).stderr(predicate::str::contains("a number from 0 on"));
    }
}

#[test]
fn a_folder_can_be_traced() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("t.json");
    let mut c = apr();
    c.args(["run", "qwen2-tiny", "What is 2+2?", "--trace-output"]).arg(&file).assert().success();
    let trace: serde_json::Value = serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap();
    assert_eq!(trace["model"]["sha256"].as_str().unwrap().len(), 64);
}
