//! Downloads from a hub that misbehaves.

use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use crate::bad::hub::{ALL, Ends, Tries, Trouble};
use crate::child::Output;
use crate::desk::{BYTES, Desk, FILE, noise, read};
use crate::hub::{GOOD, Hub, REPO};
use crate::subject::Subject;
use crate::verdict::{Attempt, Halt, Refutation, Tally, instrument};

/// Network error logged: the address, the cause and whether it is tried again; nothing half is used later.
pub fn f_jid_279(s: &Subject) -> Attempt {
    let mut t = Tally::new("apr pull from a hub that misbehaves in each way of bad/hub.rs, and from none at all");
    let bytes = noise(BYTES);
    let next = AtomicUsize::new(0);
    // A few at a time: each waits more than it works.
    let some = || {
        let mut tried = Vec::new();
        while let Some(trouble) = ALL.get(next.fetch_add(1, Ordering::Relaxed)) {
            tried.push(in_trouble(s, trouble, &bytes));
        }
        tried
    };
    let tried: Vec<Result<Tally, Halt>> = thread::scope(|scope| {
        let threads: Vec<_> = (0..8).map(|_| scope.spawn(some)).collect();
        let broken = || vec![Err(instrument("a thread of the check broke"))];
        threads.into_iter().flat_map(|h| h.join().unwrap_or_else(|_| broken())).collect()
    });
    for one in tried {
        let held = one?.tried();
        (0..held).try_for_each(|_| t.hold(true, || Refutation::new("", "", "")))?;
    }
    // Nobody listens there.
    let gone = std::net::TcpListener::bind("127.0.0.1:0").and_then(|l| l.local_addr()).map_err(instrument)?;
    let hub = Hub::start(GOOD, &[])?;
    let desk = Desk::new(s, &hub)?;
    let out =
        desk.apr(&["pull", &format!("hf://{REPO}:Q8_0")]).env("HF_ENDPOINT", format!("http://{gone}")).judged()?;
    logged(&mut t, &out, &gone.to_string(), "refused", true)?;
    t.equal("exit code where nobody listens", &out.code(), &Some(9))?;
    t.number("ways to misbehave", ALL.len() as f64 + 1.0);
    t.done()
}

/// Lines of a log: where, what, and whether it is tried again.
fn logged(t: &mut Tally, out: &Output, address: &str, says: &str, again: bool) -> Result<(), Halt> {
    let lines = out.err();
    let line = |l: &str| l.contains(address) && l.contains(says);
    let error = lines.lines().any(|l| l.starts_with("error: ") && l.contains(address));
    let warned = lines.lines().any(|l| l.starts_with("warning: ") && line(l) && l.contains("trying again"));
    t.hold(error && lines.contains(says) && (warned || !again), || {
        out.refute("a failure is logged with its address, cause and tries", lines.clone(), format!("{address}: {says}"))
    })
}

fn in_trouble(s: &Subject, trouble: &Trouble, bytes: &[u8]) -> Result<Tally, Halt> {
    let mut t = Tally::new(trouble.what);
    let hub = Hub::start(trouble.manner, &[(FILE, bytes.to_vec())])?;
    let desk = Desk::new(s, &hub)?;
    let name = |hub: &Hub| if trouble.plain { hub.url(FILE) } else { format!("hf://{REPO}:Q8_0") };
    let out = desk.apr(&["pull", &name(&hub)]).judged()?;
    let refute = |criterion: &str, expected: &str| {
        let observed = format!("{}: {:?}: {}{}", trouble.what, out.code(), out.out(), out.err());
        out.refute(criterion, observed, expected)
    };
    match trouble.ends {
        Ends::Whole(says) => {
            t.hold(out.code() == Some(0), || refute("it ends well", "exit code 0"))?;
            let warned =
                out.err().lines().any(|l| l.starts_with("warning: ") && l.contains(says) && l.contains("http://"));
            t.hold(says.is_empty() || warned, || refute("the failure is logged", says))?;
            let came = read(Path::new(out.out().trim_end()))?;
            t.hold(came == hub.file(FILE), || refute("it is the file that the server has", "every byte"))?;
        }
        Ends::Refused(kind, says, tries) => {
            t.hold(out.code() == Some(i32::from(kind.exit_code())), || {
                refute("it is refused by its kind", kind.name())
            })?;
            // A name that leads elsewhere and the like are not of an address.
            let of_hub = out.err().lines().any(|l| l.starts_with("error: hf://"));
            let address = if of_hub { "hf://".into() } else { hub.endpoint() };
            logged(&mut t, &out, address.trim_end_matches('/'), says, tries == Tries::Several)?;
            t.hold(desk.models().is_empty(), || refute("nothing half has a name", "no model file"))?;
            // The same home, later, and a hub that does everything right.
            let good = Hub::start(GOOD, &[(FILE, bytes.to_vec())])?;
            Desk { hub: &good, ..desk }.stands_for(&mut t, &[&name(&good)], bytes)?;
        }
    }
    Ok(t)
}
