//! Tests of the config file: what it may hold, and what it adds to a command line.

use clap::CommandFactory;
use proptest::prelude::*;

use super::*;

fn added(config: &str, typed: &[&str]) -> Vec<String> {
    let config = Config::parse(config).unwrap();
    let words: Vec<OsString> = typed.iter().map(OsString::from).collect();
    let matches = Args::command().try_get_matches_from(&words).unwrap();
    config.added_to(words, &matches).into_iter().map(|w| w.into_string().unwrap()).collect()
}

#[test]
fn values_become_flags_of_the_commands_that_have_them() {
    let config = "threads = 3\nport = 9000\ntemperature = -0.5\nno-gpu = true\n[chat]\nthreads = 1\nverbose = false\n";
    assert_eq!(
        added(config, &["apr", "run", "m.gguf", "hi"]),
        ["apr", "run", "--no-gpu", "--temperature=-0.5", "--threads=3", "m.gguf", "hi"]
    );
    assert_eq!(added(config, &["apr", "chat", "m"])[2..], ["--no-gpu", "--temperature=-0.5", "--threads=1", "m"]);
    assert_eq!(added(config, &["apr", "serve", "m"])[2..], ["--no-gpu", "--port=9000", "--threads=3", "m"]);
    assert_eq!(added(config, &["apr", "replay", "t"])[2..], ["--threads=3", "t"]);
}

#[test]
fn what_is_typed_counts_first() {
    assert_eq!(added("threads = 3", &["apr", "run", "m", "--threads", "5"]), ["apr", "run", "m", "--threads", "5"]);
    // A flag that conflicts with the file's is typed.
    assert_eq!(added("no-gpu = true", &["apr", "run", "m", "--gpu"]), ["apr", "run", "m", "--gpu"]);
    assert_eq!(added("gpu = true", &["apr", "run", "m", "--no-gpu"]), ["apr", "run", "m", "--no-gpu"]);
    assert_eq!(added("stop = ['a', 'b']", &["apr", "run", "m"])[2..], ["--stop=a", "--stop=b", "m"]);
}

#[test]
fn what_is_no_setting_is_refused_with_what_was_meant() {
    for (text, kind, said) in [
        ("treads = 3", Kind::Usage, "did you mean 'threads'?"),
        ("[chatt]\nthreads = 1", Kind::Usage, "did you mean 'chat'?"),
        ("[serve]\nports = 1", Kind::Usage, "did you mean 'port'?"),
        ("help = true", Kind::Usage, "no flag is called 'help'"),
        ("gpu = 3", Kind::Usage, "true or false"),
        ("threads = [1]", Kind::Usage, "a text or a number"),
        ("threads = ", Kind::Malformed, "line 1"),
        ("a = 1\na = 2", Kind::Malformed, "line 2"),
    ] {
        let e = Config::parse(text).unwrap_err();
        let message = format!("{e} {}", e.hint.clone().unwrap_or_default());
        assert!(e.kind == kind && message.contains(said), "{text:?}: {message}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn any_text_is_read_or_refused(text in "[a-z\\[\\]={}\"'.,\\-0-9\n #\u{0}\u{ff}]{0,200}") {
        if let Err(e) = Config::parse(&text) {
            prop_assert!(matches!(e.kind, Kind::Usage | Kind::Malformed), "{e}");
        }
    }

    #[test]
    fn every_number_arrives(n in any::<i64>(), x in any::<f64>().prop_filter("a number", |x| x.is_finite())) {
        let config = Config::parse(&format!("seed = {n}\ntemperature = {x:?}")).unwrap();
        let values: Vec<_> = config.values().map(|(_, key, v)| (key.to_string(), v[0].clone())).collect();
        prop_assert_eq!(&values[0], &("seed".to_string(), n.to_string()));
        prop_assert_eq!(values[1].1.parse::<f64>().unwrap(), x);
    }
}
