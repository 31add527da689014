//! The command line as snapshots: what a change to a flag or message changes for people.

use predicates::prelude::*;

const FIXTURES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../fixtures");

fn apr() -> assert_cmd::Command {
    let mut c = assert_cmd::Command::new(assert_cmd::cargo::cargo_bin!("apr"));
    c.current_dir(FIXTURES).env_clear().env("APR_HOME", "no-such-home").timeout(std::time::Duration::from_secs(60));
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
