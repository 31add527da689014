//! The public API of the specification's section 5.3, as its callers write it, on the trained fixture.

use std::path::{Path, PathBuf};
use std::pin::pin;
use std::task::{Context, Poll, Waker};

use compute::cpu::{Cpu, isa::Isa};
use engine::chat::Chat;
use engine::sample::Sampling;
use engine::session::Loaded;
use engine::{ChatConfig, InferenceConfig, Kind, Options, ServeConfig, Silent, TraceConfig, run, run_inference, serve};

/// The smallest model among the fixtures, and the largest: the same one in another number format.
fn models() -> [PathBuf; 2] {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../fixtures");
    let files = std::fs::read_dir(folder).unwrap().map(|e| e.unwrap());
    let mut models: Vec<_> = files.filter(|e| e.path().extension().is_some_and(|x| x == "gguf")).collect();
    models.sort_by_key(|e| e.metadata().unwrap().len());
    [models[0].path(), models[models.len() - 1].path()]
}

fn model() -> PathBuf {
    models()[0].clone()
}

/// The futures of the API do their work in the first poll.
fn now<T>(future: impl Future<Output = T>) -> T {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(value) => value,
        Poll::Pending => panic!("still pending after one poll"),
    }
}

#[test]
fn the_literal_of_the_specification_compiles_and_answers() {
    // Section 5.2, with the field `verbose` that section 5.3 gives TraceConfig.
    let trace: Option<TraceConfig> = None;
    let config = InferenceConfig {
        model_path: model(),
        prompt: Some("What is 2+2?".into()),
        max_tokens: 32,
        temperature: 0.0,
        verbose: false,
        trace: trace.map(|t| TraceConfig { enabled: true, steps: t.steps, output: t.output, verbose: t.verbose }),
        gpu: false,
    };
    let result = now(run_inference(config)).unwrap();
    assert!(result.text.contains('4'), "{}", result.text);
    assert!(result.tokens_generated > 0 && result.duration_ms > 0.0 && result.tokens_per_second > 0.0);
    assert!(result.trace.is_none());
}

#[test]
fn what_cannot_be_honoured_is_refused() {
    let ask = |change: &dyn Fn(&mut InferenceConfig)| {
        let mut config = InferenceConfig { prompt: Some("hi".into()), ..InferenceConfig::new(model()) };
        change(&mut config);
        run(&config, &Options::default(), &mut Silent).map(|o| o.answer.text).unwrap_err().kind
    };
    if compute::cuda::Cuda::detect().is_err() {
        assert_eq!(ask(&|c| c.gpu = true), Kind::Unsupported);
    }
    assert_eq!(ask(&|c| c.prompt = None), Kind::Usage);
    assert_eq!(ask(&|c| c.model_path = "nowhere.gguf".into()), Kind::NotFound);
}

/// Drafts are taken and refused, and the answer is the one without them: greedy and drawn.
#[test]
fn drafts_change_no_token() {
    let text = "def add(a, b):\n    return a + b\n\ndef sub(a, b):\n    return a - b\n";
    let asked = [
        "Count from 1 to 40.".to_string(),
        format!("Write the code again:\n{text}"),
        format!("{text}{text}{text}def add(a, b):\n"),
    ];
    let (mut drafted, mut right) = (0, 0);
    for prompt in asked {
        for (temperature, raw) in [(0.0, true), (0.0, false), (0.8, true), (1.5, false)] {
            let answer = |draft_max| {
                let config = InferenceConfig {
                    prompt: Some(prompt.clone()),
                    max_tokens: 120,
                    temperature,
                    ..InferenceConfig::new(model())
                };
                let mut options = Options { raw, draft_max, ..Options::default() };
                options.sampling.seed = 7;
                run(&config, &options, &mut Silent).unwrap().answer
            };
            let plain = answer(0);
            assert_eq!(plain.drafted, (0, 0));
            for most in [1, 2, 7] {
                let with = answer(most);
                assert_eq!(with.tokens, plain.tokens, "{prompt:?} at {temperature}, {most} drafts");
                assert_eq!((with.text, with.finish), (plain.text.clone(), plain.finish));
                (drafted, right) = (drafted + with.drafted.0, right + with.drafted.1);
            }
        }
    }
    assert!(right > 0 && right < drafted, "{right} of {drafted} drafts were right");
}

/// Another file of the same model drafts, and the answer is the one without: greedy and drawn, in a chat too.
#[test]
fn a_model_that_drafts_changes_no_token() {
    let [_, other] = models();
    let (mut drafted, mut right) = (0, 0);
    for prompt in ["Count from 1 to 30.", "Write a Python function that adds two numbers.", "What is 12+30?"] {
        for (temperature, most) in [(0.0, 1), (0.0, 7), (0.7, 3), (1.5, 7)] {
            let answer = |draft: Option<PathBuf>, draft_max| {
                let config = InferenceConfig {
                    prompt: Some(prompt.into()),
                    max_tokens: 60,
                    temperature,
                    ..InferenceConfig::new(model())
                };
                let mut options = Options { draft, draft_max, ..Options::default() };
                options.sampling.seed = 11;
                run(&config, &options, &mut Silent).unwrap().answer
            };
            let (plain, with) = (answer(None, 0), answer(Some(other.clone()), most));
            assert_eq!(with.tokens, plain.tokens, "{prompt:?} at {temperature}, {most} drafts");
            assert_eq!((with.text, with.finish), (plain.text, plain.finish));
            (drafted, right) = (drafted + with.drafted.0, right + with.drafted.1);
        }
    }
    assert!(right > drafted / 3 && right < drafted, "{right} of {drafted} drafts were right");

    let says = |draft: bool| {
        let open = |path: &Path| Loaded::open(path, &Cpu { isa: Isa::detect(), threads: 2 }, None).unwrap();
        let (mut loaded, mut drafting) = (open(&model()), open(&other));
        let config = ChatConfig { model_path: model(), system: None, temperature: 0.0, max_tokens: 40, gpu: false };
        let mut chat = Chat::new(&mut loaded, &config, &Options::default(), Sampling::default()).unwrap();
        if draft {
            chat.drafted_by(&mut drafting).unwrap();
        }
        ["My name is Anna.", "What is my name?", "Count from 1 to 20."]
            .map(|said| chat.say(said, &mut Silent).unwrap().answer.clone())
            .map(|a| (a.tokens, a.drafted.0))
    };
    let (plain, with) = (says(false), says(true));
    assert_eq!(with.each_ref().map(|a| &a.0), plain.each_ref().map(|a| &a.0));
    assert!(with.iter().map(|a| a.1).sum::<usize>() > plain.iter().map(|a| a.1).sum(), "{with:?}");
}

/// What drafts nothing is said to draft nothing.
#[test]
fn a_draft_that_cannot_be_had_is_refused() {
    let ask = |change: &dyn Fn(&mut InferenceConfig, &mut Options)| {
        let mut config = InferenceConfig { prompt: Some("hi".into()), ..InferenceConfig::new(model()) };
        let mut options = Options { draft: Some(model()), ..Options::default() };
        change(&mut config, &mut options);
        run(&config, &options, &mut Silent).map(|o| o.answer.text).unwrap_err()
    };
    let kind = |change: &dyn Fn(&mut InferenceConfig, &mut Options)| ask(change).kind;
    assert_eq!(kind(&|_, o| o.draft_max = 0), Kind::Usage);
    assert_eq!(kind(&|_, o| o.draft = Some("nowhere.gguf".into())), Kind::NotFound);
    let traced = TraceConfig { enabled: true, ..TraceConfig::default() };
    assert_eq!(kind(&|c, _| c.trace = Some(traced.clone())), Kind::Usage);
}

#[test]
fn chunks_and_threads_change_no_token() {
    let config = InferenceConfig {
        prompt: Some("Write a Python function that adds two numbers.".into()),
        ..InferenceConfig::new(model())
    };
    let tokens = |threads, prefill_chunk| {
        let options = Options { threads: Some(threads), prefill_chunk, ..Options::default() };
        run(&config, &options, &mut Silent).unwrap().answer.tokens
    };
    let reference = tokens(1, 512);
    assert!(reference.len() > 5);
    for (threads, chunk) in [(1, 1), (2, 7), (3, 16), (4, 512)] {
        assert_eq!(tokens(threads, chunk), reference, "{threads} threads, chunks of {chunk}");
    }
}

#[test]
fn a_trace_changes_nothing_and_can_be_replayed() {
    let ask = |trace, sampling: f32| {
        let config = InferenceConfig {
            prompt: Some("Write a Python function that adds two numbers.".into()),
            max_tokens: 24,
            temperature: sampling,
            trace,
            ..InferenceConfig::new(model())
        };
        run(&config, &Options::default(), &mut Silent).unwrap()
    };
    let wanted = TraceConfig { enabled: true, verbose: true, ..TraceConfig::default() };
    for temperature in [0.0, 1.0] {
        let traced = ask(Some(wanted.clone()), temperature);
        assert_eq!(traced.answer.tokens, ask(None, temperature).answer.tokens);
        let mut trace = traced.trace.unwrap().json;
        let again = |trace: &serde_json::Value| engine::trace::replay(trace, None, Options::default(), &mut Silent);
        let events = trace["events"].as_array().unwrap().len();
        let same = engine::trace::Replay { same: events, difference: None, other_model: false };
        assert_eq!(again(&trace).unwrap(), same);
        // Through text and back.
        assert_eq!(again(&serde_json::from_str(&engine::trace::text(&trace)).unwrap()).unwrap(), same);
        let list = trace["events"].as_array_mut().unwrap();
        let at = list.iter().position(|e| e["output"].get("statistics").is_some()).unwrap();
        list[at]["output"]["statistics"]["mean"] = serde_json::json!(1e9);
        let found = again(&trace).unwrap();
        assert_eq!(found.same, at);
        assert!(found.difference.unwrap().contains("output.statistics.mean was 1000000000"));
    }
}

#[test]
fn a_trace_has_no_gap() {
    let trace = Some(TraceConfig { enabled: true, ..TraceConfig::default() });
    let config = InferenceConfig { prompt: Some("What is 2+2?".into()), trace, ..InferenceConfig::new(model()) };
    let json = run(&config, &Options::default(), &mut Silent).unwrap().trace.unwrap().json;
    let summary = |name: &str| json["summary"][name].as_f64().unwrap();
    let told = summary("stages_ms") + summary("tracing_ms");
    assert!((told / summary("duration_ms") - 1.0).abs() < 0.05, "{}", json["summary"]);
}

#[test]
fn a_server_ends_when_it_is_told_to_when_nobody_waits_for_it_and_without_a_model() {
    let config = |path: PathBuf| ServeConfig { model_path: path, host: "127.0.0.1".into(), port: 0, gpu: false };
    let options = serve::Options::default();
    let shutdown = options.shutdown.clone();
    let until_ready = move |notice: serve::Notice<'_>| {
        if let serve::Notice::Ready { .. } = notice {
            shutdown.begin();
        }
        Ok(())
    };
    serve::run(&config(model()), &options, until_ready).unwrap();
    let missing = serve::start(config("nothing.gguf".into()), serve::Options::default(), |_| Ok(()));
    assert_eq!(missing.unwrap_err().kind, Kind::NotFound);
    let running = serve::start(config(model()), serve::Options::default(), |_| Ok(())).unwrap();
    let address = running.address();
    assert!(std::net::TcpStream::connect(address).is_ok());
    running.stop().unwrap();
    assert!(std::net::TcpStream::connect(address).is_err(), "it no longer listens");
    let nameless = serve::Options { name: Some(" ".into()), ..serve::Options::default() };
    assert_eq!(serve::start(config(model()), nameless, |_| Ok(())).unwrap_err().kind, Kind::Usage);
    let options = serve::Options::default();
    let shutdown = options.shutdown.clone();
    let mut future = Box::pin(serve::run_elsewhere(config(model()), options, |_| Ok(())));
    assert!(future.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
    drop(future);
    assert!(shutdown.has_begun());
}
