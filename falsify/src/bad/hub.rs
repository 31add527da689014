//! Families 77 and 81: what a hub, a web server and what is between can do wrong to a download, and how it has to end.

use engine::Kind::{self, Malformed, Network, NotFound};

use crate::hub::Act::{self, *};
use crate::hub::{GOOD, Manner};

/// A way for a download to go wrong.
pub struct Trouble {
    /// What is wrong.
    pub what: &'static str,
    /// What the server does.
    pub manner: Manner,
    /// The file is asked for as of a plain web server, of which no hash is known.
    pub plain: bool,
    /// How it has to end.
    pub ends: Ends,
}

/// How a download has to end.
#[derive(Clone, Copy)]
pub enum Ends {
    /// With the whole file, after a line that says this and that it is tried again.
    Whole(&'static str),
    /// With nothing, an error of this kind that says this; after lines about other tries, or at once.
    Refused(Kind, &'static str, Tries),
}

/// Whether it is tried again.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Tries {
    /// It may pass.
    Several,
    /// It will not.
    One,
}

use Ends::{Refused, Whole};
use Tries::{One, Several};

const fn of_hub(what: &'static str, contents: fn(usize) -> Act, ends: Ends) -> Trouble {
    Trouble { what, manner: Manner { contents, ..GOOD }, plain: false, ends }
}

const fn of_api(what: &'static str, api: fn(usize) -> Act, ends: Ends) -> Trouble {
    Trouble { what, manner: Manner { api, ..GOOD }, plain: false, ends }
}

const fn of_web(what: &'static str, contents: fn(usize) -> Act, ends: Ends) -> Trouble {
    Trouble { what, manner: Manner { contents, ..GOOD }, plain: true, ends }
}

const HTML: &str = "Content-Type: text/html; charset=utf-8";

/// Every one. The first request for contents asks for one byte, the next for stretches.
pub static ALL: &[Trouble] = &[
    of_hub("cut once", |n| if n == 2 { Cut(100_000) } else { Serve }, Whole("was cut after 100000")),
    of_hub("cut always", |_| Cut(0), Refused(Network, "cut after 0", Several)),
    of_hub("cut in every stretch", |n| if n == 0 { Serve } else { Cut(300_000) }, Refused(Network, "was cut", Several)),
    of_hub("stalls once", |n| if n == 1 { Stall(50_000) } else { Serve }, Whole("not a byte came for 2 s after")),
    of_hub("closes without a word", |_| Close, Refused(Network, "closed the connection", Several)),
    of_hub("429 with a time to wait", |n| if n < 1 { Status(429, "Retry-After", "1") } else { Serve }, Whole("in 1 s")),
    of_hub("429 with a day to wait", |_| Status(429, "Retry-After", "86400"), Refused(Network, "86400 s", One)),
    of_hub("500 three times", |n| if n < 3 { Status(500, "X", "y") } else { Serve }, Whole("answers 500")),
    of_hub("503 always", |_| Status(503, "X", "y"), Refused(Network, "answers 503", Several)),
    of_hub("404", |_| Status(404, "X", "y"), Refused(NotFound, "answers 404", One)),
    of_hub("403", |_| Status(403, "X", "y"), Refused(Network, "terms", One)),
    of_hub("416 always", |_| Status(416, "X", "y"), Refused(Network, "answers 416", One)),
    of_hub("knows no ranges", |n| if n == 0 { WholeAlways } else { Serve }, Whole("")),
    of_hub("another range", |n| if n == 0 { Serve } else { OtherRange }, Refused(Network, "other bytes than", One)),
    of_hub("longer than announced", |_| Longer, Refused(Network, "were announced", One)),
    of_hub("a flipped bit", |_| Flip, Refused(Malformed, "SHA-256 is", One)),
    of_hub("a page for browsers", |_| Page(HTML, "<html>"), Refused(Network, "a page for a browser", One)),
    of_hub("compressed", |_| Page("Content-Encoding: gzip", "x"), Refused(Network, "compresses", One)),
    of_hub("in a circle", |_| SendOn("/cdn/m-Q8_0.gguf"), Refused(Network, "more than 10 times", One)),
    of_hub("sent on to a file", |_| SendOn("file:///etc/passwd"), Refused(Network, "only http and https", One)),
    of_hub("sent on into a cloud", |_| SendOn("http://169.254.169.254/x"), Refused(Network, "this network alone", One)),
    of_hub("sent on to ftp", |_| SendOn("ftp://localhost/x"), Refused(Network, "does not follow", One)),
    of_hub("changed on the way", |n| if n == 2 { Change } else { Serve }, Refused(Malformed, "SHA-256 is", One)),
    of_api("the hub says 401", |_| Status(401, "X", "y"), Refused(NotFound, "HF_TOKEN", One)),
    of_api("the hub says 500 twice", |n| if n < 2 { Status(500, "X", "y") } else { Serve }, Whole("answers 500")),
    of_api("the hub says no JSON", |_| Page("X: y", "hello"), Refused(Malformed, "not understood", One)),
    of_api("the hub says no commit", |_| Page("X: y", r#"{"sha":"../../x"}"#), Refused(Malformed, "is no commit", One)),
    of_api(
        "a file that leads elsewhere",
        |_| {
            Page(
                "X: y",
                r#"{"sha":"1111111111111111111111111111111111111111",
                    "siblings":[{"rfilename":"../../m-Q8_0.gguf","size":5}]}"#,
            )
        },
        Refused(Malformed, "leads elsewhere", One),
    ),
    of_api(
        "a hash that is none",
        |_| {
            Page(
                "X: y",
                r#"{"sha":"1111111111111111111111111111111111111111",
                    "siblings":[{"rfilename":"m-Q8_0.gguf","size":5,"lfs":{"sha256":"../x","size":5}}]}"#,
            )
        },
        Refused(Malformed, "is no SHA-256", One),
    ),
    of_web(
        "changed on the way, of a web server",
        |n| if n == 2 { Change } else { Serve },
        Whole("another than before"),
    ),
    of_web("without end", |_| Endless, Refused(Network, "does not say how long", One)),
];
