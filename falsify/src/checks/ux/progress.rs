//! The bar of a download.

use std::collections::BTreeSet;

use crate::desk::{BYTES, Desk, FILE, noise};
use crate::hub::Act::Drip;
use crate::hub::{GOOD, Hub, Manner, REPO};
use crate::screen::Screens;
use crate::subject::Subject;
use crate::verdict::{Attempt, Tally};

/// A progress bar on a terminal, none on a pipe.
pub fn f_ux_038(s: &Subject) -> Attempt {
    let mut t = Tally::new("apr pull from a slow server on a pseudo-terminal of 100 columns, and on a pipe");
    let hub = Hub::start(Manner { contents: |_| Drip(1 << 14), ..GOOD }, &[(FILE, noise(BYTES))])?;
    let name = format!("hf://{REPO}:Q8_0");
    let out = Desk::new(s, &hub)?.apr(&["pull", &name]).on_terminal().judged()?;
    let screens = Screens::replay(&out.stdout);
    let shares: Vec<u32> = screens.all.iter().filter_map(|s| share(s)).collect();
    t.hold(out.code() == Some(0), || out.refute("it ends well", out.out(), "exit code 0"))?;
    let grows = shares.windows(2).all(|w| w[0] <= w[1]) && shares.first() < shares.last();
    t.hold(grows, || out.refute("a bar with size and progress that grows", format!("{shares:?}"), "shares of 4.2 MB"))?;
    t.hold(share(&screens.last).is_none() && !screens.cursor_hidden, || {
        out.refute("the bar goes away", screens.last.clone(), "the path alone")
    })?;
    t.number("different shares shown", shares.iter().collect::<BTreeSet<_>>().len() as f64);
    let out = Desk::new(s, &hub)?.apr(&["pull", &name]).judged()?;
    let quiet = share(&out.err()).is_none() && !out.stderr.contains(&0x1b) && !out.err().contains('━');
    t.hold(out.code() == Some(0) && quiet, || out.refute("no bar on a pipe", out.err(), "none"))?;
    t.done()
}

/// The share of 4.2 MB that a line says is there.
fn share(text: &str) -> Option<u32> {
    let line = text.lines().find(|l| l.contains(" % of 4.2 MB") && l.contains('━') | l.contains('─'))?;
    line.split(" % of").next()?.rsplit(' ').next()?.parse().ok()
}
