//! Downloads where the way is wrong and not the file: certificates, proxies, and a disk that takes no more. What a hub
//! can do wrong is in the suite (`falsify/src/bad/hub.rs`).

mod server;

use std::path::{Path, PathBuf};

use predicates::prelude::*;
use server::{Authority, Door, Proxy, Server};

const SECRET: &str = "s3cr3t";

/// A user with an empty home.
struct User(tempfile::TempDir);

impl User {
    fn new() -> User {
        User(tempfile::tempdir().unwrap())
    }

    fn apr(&self) -> assert_cmd::Command {
        let mut c = assert_cmd::Command::new(assert_cmd::cargo::cargo_bin!("apr"));
        c.env_clear().env("APR_CONFIG", "").env("HOME", self.0.path()).env("HF_HUB_DOWNLOAD_TIMEOUT", "5");
        c.timeout(std::time::Duration::from_secs(120));
        c
    }

    /// Nothing of a model has its final name.
    fn has_nothing(&self) {
        let names = named(self.0.path());
        assert!(names.is_empty(), "{names:?}");
    }

    /// The one model there is, byte for byte.
    fn has(&self, bytes: &[u8]) {
        let names = named(self.0.path());
        assert_eq!(names.len(), 1, "{names:?}");
        assert!(std::fs::read(&names[0]).unwrap() == bytes);
    }
}

fn named(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap().map(Result::unwrap) {
        match entry.file_type().unwrap().is_dir() {
            true => found.extend(named(&entry.path())),
            false => found.extend(Some(entry.path()).filter(|p| p.extension().is_some_and(|e| e == "gguf"))),
        }
    }
    found
}

fn bytes() -> Vec<u8> {
    (0..3_000_000u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect()
}

#[test]
fn a_certificate_that_is_trusted_is_enough() {
    let (user, ours) = (User::new(), Authority::new("ours"));
    let server = Server::start(bytes(), Door::Tls(ours.signs("localhost", -1, 1)));
    let url = server.url("https", "localhost");
    user.apr().args(["pull", "-q", &url]).env("SSL_CERT_FILE", ours.file(user.0.path())).assert().success();
    user.has(&bytes());
}

#[test]
fn a_certificate_that_is_wrong_ends_a_download_before_anything_is_asked() {
    let (ours, theirs) = (Authority::new("ours"), Authority::new("theirs"));
    for (certificate, says, hint) in [
        (theirs.signs("localhost", -1, 1), "UnknownIssuer", "SSL_CERT_FILE names"),
        (Authority::itself("localhost"), "invalid peer certificate", "SSL_CERT_FILE names"),
        (ours.signs("other.example", -1, 1), "not valid for", "not the host that was asked for"),
        (ours.signs("localhost", -3, -2), "expired", "has to renew it"),
        (ours.signs("localhost", 2, 3), "not valid yet", "is this clock right?"),
    ] {
        let user = User::new();
        let server = Server::start(bytes(), Door::Tls(certificate));
        let trusted = ours.file(user.0.path());
        let refused = || {
            let once = predicate::str::contains("trying again").not();
            predicate::str::contains(says).and(predicate::str::contains(hint)).and(once)
        };
        let url = server.url("https", "localhost");
        user.apr().args(["pull", &url]).env("SSL_CERT_FILE", &trusted).assert().code(9).stderr(refused());
        // Whom the computer's owner trusts otherwise does not count, and the hub's token does not leave it.
        let mut hub = user.apr();
        hub.env("HF_ENDPOINT", server.url("https", "localhost").trim_end_matches("/m.gguf")).env("HF_TOKEN", SECRET);
        hub.args(["pull", "hf://org/repo/m.gguf"]).env("SSL_CERT_FILE", &trusted);
        hub.assert().code(9).stderr(refused().and(predicate::str::contains(SECRET).not()));
        assert_eq!(server.heard(), Vec::<String>::new());
        user.has_nothing();
    }
}

#[test]
fn the_built_in_authorities_do_not_know_ours() {
    let (user, ours) = (User::new(), Authority::new("ours"));
    let server = Server::start(bytes(), Door::Tls(ours.signs("localhost", -1, 1)));
    let url = server.url("https", "localhost");
    user.apr().args(["pull", &url]).assert().code(9).stderr(predicate::str::contains("UnknownIssuer"));
    // A file that names nobody is a mistake of its own, and not the server's.
    let empty = user.0.path().join("none.pem");
    std::fs::write(&empty, "no certificate\n").unwrap();
    let none = predicate::str::contains("SSL_CERT_FILE: there is no certificate in");
    user.apr().args(["pull", &url]).env("SSL_CERT_FILE", &empty).assert().code(5).stderr(none);
    user.has_nothing();
}

#[test]
fn a_proxy_is_gone_through() {
    let (user, ours) = (User::new(), Authority::new("ours"));
    let server = Server::start(bytes(), Door::Tls(ours.signs("models.invalid", -1, 1)));
    let proxy = Proxy::start(&server, "200 OK");
    let hub = server.url("https", "models.invalid");
    let run = || {
        let mut c = user.apr();
        c.args(["pull", "-q", &hub]).env("SSL_CERT_FILE", ours.file(user.0.path()));
        c.env("HTTPS_PROXY", proxy.url(&format!("me:{SECRET}@")));
        c
    };
    // No other way leads to a name that does not exist.
    run().assert().success();
    user.has(&bytes());
    let heard = proxy.heard();
    assert!(!heard.is_empty());
    for head in &heard {
        assert!(head.starts_with(&format!("CONNECT models.invalid:{} ", server.port())), "{head}");
        // me:s3cr3t
        assert!(head.contains("Proxy-Authorization: Basic bWU6czNjcjN0"), "{head}");
        assert!(!head.contains("m.gguf"), "{head}");
    }
    assert!(server.heard().iter().all(|head| !head.to_ascii_lowercase().contains("proxy-authorization")));
}

#[test]
fn each_scheme_has_its_proxy_and_no_proxy_has_the_last_word() {
    let server = Server::start(bytes(), Door::Plain);
    let proxy = Proxy::start(&server, "200 OK");
    let to = proxy.url("");
    let nowhere = "http://127.0.0.1:9";
    for (variables, through) in [
        (&[("HTTP_PROXY", to.as_str())][..], true),
        (&[("http_proxy", &to), ("HTTP_PROXY", nowhere)], true),
        (&[("ALL_PROXY", &to)], true),
        (&[("HTTP_PROXY", &to), ("ALL_PROXY", nowhere)], true),
        (&[("HTTPS_PROXY", nowhere)], false),
        (&[("HTTP_PROXY", nowhere), ("NO_PROXY", "a.example, 127.0.0.1")], false),
        (&[("ALL_PROXY", nowhere), ("no_proxy", "127.0.0.0/8")], false),
        (&[("ALL_PROXY", nowhere), ("NO_PROXY", "*")], false),
        (&[("HTTP_PROXY", &to), ("NO_PROXY", "b.example")], true),
    ] {
        let user = User::new();
        let before = proxy.heard().len();
        let mut c = user.apr();
        c.args(["pull", "-q", &server.url("http", "127.0.0.1")]).envs(variables.iter().copied());
        c.assert().success();
        user.has(&bytes());
        assert_eq!(proxy.heard().len() > before, through, "{variables:?}");
    }
}

#[test]
fn what_a_proxy_refuses_is_told_without_its_password() {
    let server = Server::start(bytes(), Door::Plain);
    let gone = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let (wants, broken) = (Proxy::start(&server, "407 Who"), Proxy::start(&server, "502 Bad"));
    let me = format!("me:{SECRET}@");
    let cases = [
        (wants.url(&me), 9, "the proxy wants a name and a password", false),
        (broken.url(&me), 9, "502", true),
        (format!("http://{me}{gone}"), 9, "through the proxy 127.0.0.1", true),
        (format!("socks5://{me}{gone}"), 6, "http_proxy names a proxy that is neither", false),
        (format!("http://{me}"), 2, "http_proxy is no address of a proxy", false),
    ];
    // Side by side: they wait more than they work.
    std::thread::scope(|scope| {
        for (proxy, code, says, again) in &cases {
            for json in [None, Some("--json")] {
                let url = server.url("http", "127.0.0.1");
                scope.spawn(move || {
                    let user = User::new();
                    let mut c = user.apr();
                    c.args(["run", &url, "hi"]).args(json).env("http_proxy", proxy);
                    let out = c.assert().code(*code).get_output().clone();
                    let told = String::from_utf8([out.stdout, out.stderr].concat()).unwrap();
                    assert!(told.contains(says) && !told.contains(SECRET), "{told}");
                    assert_eq!(told.contains("trying again"), *again, "{told}");
                    user.has_nothing();
                });
            }
        }
    });
    assert_eq!(server.heard(), Vec::<String>::new());
}

#[test]
fn a_disk_without_room_is_told_before_a_byte_is_fetched() {
    // A terabyte.
    for door in [Door::Announces(1 << 40), Door::AnnouncesWhole(1 << 40)] {
        let user = User::new();
        let server = Server::start(Vec::new(), door);
        let out = user.apr().args(["pull", &server.url("http", "127.0.0.1")]).assert().code(8);
        out.stderr(predicate::str::contains("1099511627776 bytes are to come"));
        user.has_nothing();
    }
}

/// What went wrong on the way stands in the object, and nowhere else where it is to stay quiet.
#[test]
fn the_object_has_the_warnings_of_a_download() {
    let model = std::fs::read(concat!(env!("CARGO_MANIFEST_DIR"), "/../fixtures/qwen2-tiny-q8_0.gguf")).unwrap();
    let (late, never) = (Server::start(model, Door::Late(1)), Server::start(Vec::new(), Door::Late(99)));
    for (server, command, code) in [(&late, "run", 0), (&never, "run", 9), (&never, "check", 9)] {
        let user = User::new();
        let mut c = user.apr();
        c.args([command, &server.url("http", "127.0.0.1"), "--json"]);
        c.args((command == "run").then_some(["What is 2+2?", "--quiet"]).into_iter().flatten());
        let out = c.assert().code(code).get_output().clone();
        let told: serde_json::Value = serde_json::from_slice(&out.stdout).unwrap();
        let warnings = told["warnings"].as_array().unwrap();
        assert!(
            warnings[0].as_str().unwrap().contains("503") && warnings[0].as_str().unwrap().contains("trying again")
        );
        assert!(!String::from_utf8(out.stderr).unwrap().contains("warning"));
        assert_eq!(told["text"] == "2 + 2 = 4", code == 0, "{told}");
    }
}

#[test]
fn verbose_says_who_had_the_model() {
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/../fixtures/qwen2-tiny-q8_0.gguf");
    let (user, server) = (User::new(), Server::start(std::fs::read(file).unwrap(), Door::Plain));
    let hub = user.0.path().join(".cache/huggingface/hub/models--org--tiny");
    let commit = "1".repeat(40);
    std::fs::create_dir_all(hub.join("snapshots").join(&commit)).unwrap();
    std::fs::create_dir_all(hub.join("refs")).unwrap();
    std::fs::write(hub.join("refs/main"), &commit).unwrap();
    std::fs::copy(file, hub.join("snapshots").join(&commit).join("m.gguf")).unwrap();
    user.apr().args(["tag", file, "tiny:v1"]).assert().success();
    let url = server.url("http", "127.0.0.1");
    for (model, source) in [
        (file, "local file"),
        (&url, "the web, just now"),
        (&url, "apr's cache"),
        ("hf://org/tiny", "HuggingFace's cache"),
        ("pacha://tiny:v1", "registry"),
    ] {
        let out = user.apr().args(["run", model, "What is 2+2?", "--verbose"]).assert().success();
        out.stderr(predicate::str::contains(format!("Source: {source}\n"))).stdout("2 + 2 = 4\n");
    }
    // What was used stands in `apr doctor`, a line for each folder.
    let out = user.apr().args(["doctor", "--json"]).assert().get_output().stdout.clone();
    let told: serde_json::Value = serde_json::from_slice(&out).unwrap();
    let caches = told["findings"].as_array().unwrap().iter().filter(|f| f["topic"] == "models").map(|f| &f["data"]);
    let bytes = std::fs::metadata(file).unwrap().len();
    let seen: Vec<_> = caches.map(|c| (c["whose"].clone(), c["models"].clone(), c["bytes"].clone())).collect();
    assert_eq!(seen, [("apr".into(), 2.into(), (2 * bytes).into()), ("HuggingFace".into(), 1.into(), bytes.into())]);
}

/// A limit on the size of files stands for a disk that is full: both end a write in its middle.
#[cfg(unix)]
#[test]
fn a_disk_that_is_full_leaves_nothing_under_a_final_name() {
    let whole = bytes();
    for door in [Door::Plain, Door::NoRanges] {
        let user = User::new();
        let server = Server::start(whole.clone(), door);
        let mut limited = assert_cmd::Command::new("sh");
        // Blocks of 512 or 1024 bytes, as the shell has it: 0.5 or 1 MB of 3.
        limited.args(["-c", r#"trap "" XFSZ; ulimit -f 1024; exec "$@""#, "sh"]);
        limited.arg(assert_cmd::cargo::cargo_bin!("apr")).args(["pull", &server.url("http", "127.0.0.1")]);
        limited.env("APR_CONFIG", "").env("HOME", user.0.path()).timeout(std::time::Duration::from_secs(60));
        let says = predicate::str::contains("cannot write").and(predicate::str::contains("ulimit -f"));
        limited.assert().code(8).stderr(says);
        user.has_nothing();
        // Later there is room.
        user.apr().args(["pull", "-q", &server.url("http", "127.0.0.1")]).assert().success();
        user.has(&whole);
    }
}
