//! Bad inputs meet the engine and `apr`. Each has to be refused with the kind and at the place that its table names, in
//! one line, without a panic, in little memory and time. What checks of several prefixes ask of the tables in `bad`.

use std::io::Write;
use std::path::Path;
use std::sync::LazyLock;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use engine::session::{Event, Generation, Loaded, Observer, Prompt, Session, understand};
use engine::text::{ChatTemplate, Message, Segment, StopFinder};
use engine::{Error, Kind, Place};

use crate::ask::{LONG_PROMPTS, answered};
use crate::bad::{self, Bad};
use crate::child::{Exit, Output};
use crate::forge::gguf::Writer;
use crate::lab::{self, Setup, running};
use crate::subject::Subject;
use crate::verdict::{Halt, Refutation, Tally, instrument};

/// Memory that a refusal may take: 256 MB, with what the program takes for nothing at all among it.
const PEAK_BYTES_MAX: f64 = 256e6;
/// The same for files of less than a megabyte.
const SMALL_PEAK_BYTES_MAX: f64 = 64e6;
/// Time that a refusal may take, with patience for a busy machine.
const REFUSAL_MAX: Duration = Duration::from_secs(10);

/// What the engine makes of a file's bytes: everything that is checked before numbers are computed.
pub fn understood(bytes: Vec<u8>) -> engine::Result<()> {
    engine::file::gguf::parse(bytes.into()).and_then(understand).map(drop)
}

/// Every file of a table is refused by the engine, and every so-many-th by `apr`, the large ones all.
pub fn table(t: &mut Tally, s: &Subject, all: std::io::Result<Vec<Bad>>, every: usize) -> Result<(), Halt> {
    let all = all.map_err(instrument)?;
    let begun = t.tried();
    for (i, bad) in all.iter().enumerate() {
        by_engine(t, bad, understood(bad.bytes.clone()))?;
        if i % every == 0 || bad.bytes.len() > 1 << 20 {
            by_apr(t, s, bad)?;
        }
    }
    let name = all.first().map_or("none", |bad| bad.what.split([' ', ':']).next().unwrap_or_default());
    t.number(&format!("{name}: bad files refused with kind and place"), all.len() as f64);
    if t.tried() == begun { Err(instrument("a table of bad files is empty")) } else { Ok(()) }
}

/// The engine's answer to a bad file has its kind and place.
pub fn by_engine(t: &mut Tally, bad: &Bad, met: engine::Result<()>) -> Result<(), Halt> {
    let what = || format!("refused: {}", bad.what);
    let want = || format!("{:?} {}", bad.kind, bad.at);
    let Err(e) = met else {
        return Err(Refutation::new(what(), "accepted", want()).into());
    };
    let same = e.kind == bad.kind && e.at.as_ref() == Some(&bad.at);
    t.hold(same, || Refutation::new(what(), format!("{e:?}"), want()))
}

/// The same through `apr run`: the exit code of its kind, one line that names the place, little memory and time.
pub fn by_apr(t: &mut Tally, s: &Subject, bad: &Bad) -> Result<Output, Halt> {
    let file = s.scratch()?.join("bad.gguf");
    std::fs::write(&file, &bad.bytes).map_err(instrument)?;
    let out = s.apr(["run"]).args([file.as_os_str()]).args(["2+2?", "--max-tokens", "4"]).judged()?;
    // A file of no bytes has no place in it; everything else has.
    one_line(t, &out, &bad.what, bad.kind, if bad.bytes.is_empty() { "empty".into() } else { bad.at.to_string() })?;
    let small = bad.bytes.len() < 1 << 20;
    let (criterion, limit) = match small {
        true => ("peak resident bytes of apr on a small bad file", SMALL_PEAK_BYTES_MAX),
        false => ("peak resident bytes of apr on a large bad file", PEAK_BYTES_MAX),
    };
    t.at_most(criterion, out.peak_rss_bytes.unwrap_or_default() as f64, limit)?;
    let _ = std::fs::remove_file(&file);
    Ok(out)
}

/// `apr` refused: the exit code of this kind, nothing on standard output, one line that drives no terminal and says
/// this.
pub fn one_line(t: &mut Tally, out: &Output, what: &str, kind: Kind, says: impl AsRef<str>) -> Result<(), Halt> {
    let what = format!("apr refuses: {what}");
    let (err, code) = (out.err(), i32::from(kind.exit_code()));
    t.hold(out.code() == Some(code), || {
        out.refute(&what, format!("{:?}: {err}", out.code()), format!("exit code {code}"))
    })?;
    let text = err.trim_end();
    let drives = |c: char| c.is_control() || matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    let clean = text.lines().count() == 1 && out.stdout.is_empty() && !text.contains(drives);
    t.hold(clean, || out.refute(&what, text.escape_debug().to_string(), "one plain line on standard error"))?;
    let says = says.as_ref();
    t.hold(text.contains(says), || out.refute(&what, text, format!("{says:?} in the message")))?;
    t.hold(out.wall < REFUSAL_MAX, || out.refute(&what, format!("{:?}", out.wall), format!("{REFUSAL_MAX:?}")))
}

/// Families 20 and 21 on the tiny model: every cut is refused; every flipped bit gives a refusal with a place, or a
/// model that runs a token or is stopped.
pub fn damage(t: &mut Tally, s: &Subject) -> Result<(), Halt> {
    let (good, header) = bad::damage::good().map_err(instrument)?;
    for len in 0..good.len() {
        let met = engine::file::gguf::parse(good[..len].to_vec().into());
        let fits = met.as_ref().err().is_some_and(|e| bad::damage::fits_cut(len, header, e.kind, e.at.as_ref()));
        t.hold(fits, || {
            let seen = met.as_ref().map_or_else(|e| format!("{e:?}"), |_| "accepted".into());
            Refutation::new(
                format!("refused: damage 20: {len} of {} bytes", good.len()),
                seen,
                "malformed, with a place",
            )
        })?;
    }
    let (mut accepted, mut understood, mut flipped) = (0u32, 0u32, 0u32);
    let file = s.scratch()?.join("flipped.gguf");
    for (at, bit) in bad::damage::flips(header) {
        let mut bytes = good.clone();
        bytes[at] ^= bit;
        flipped += 1;
        let what = || format!("damage 21: bit {bit:#04x} of byte {at} is another");
        let met = engine::file::gguf::parse(bytes.clone().into());
        let met = met.and_then(|read| {
            accepted += 1;
            understand(read)
        });
        match met {
            Err(e) => {
                let fits = matches!(e.kind, Kind::Malformed | Kind::Unsupported | Kind::TooLarge) && e.at.is_some();
                t.hold(fits, || Refutation::new(what(), format!("{e:?}"), "a refusal of the file, with a place"))?;
            }
            Ok((model, ..)) => {
                drop(model);
                understood += 1;
                std::fs::write(&file, &bytes).map_err(instrument)?;
                let mut model = lab::open(s, &file, Setup { threads: 1, ..Setup::default() })?;
                let (_, met) = spoken(&mut model, 1);
                // The twelve tokens may no longer spell the prompt, and the numbers may be no numbers.
                let fits = met.as_ref().err().is_none_or(|e| matches!(e.kind, Kind::Inference | Kind::Unsupported));
                t.hold(fits, || Refutation::new(what(), format!("{met:?}"), "a token, or a refusal"))?;
            }
        }
    }
    t.number("damage: cuts", good.len() as f64);
    t.number("damage: flipped bits", f64::from(flipped));
    t.number("damage: flipped bits that left a readable file", f64::from(accepted));
    t.number("damage: flipped bits that left a model", f64::from(understood));
    Ok(())
}

/// What a model says.
struct Said(String);

impl Observer for Said {
    fn event(&mut self, event: Event<'_>) -> engine::Result<()> {
        if let Event::Text(text) = event {
            self.0.push_str(text);
        }
        Ok(())
    }
}

/// What a model says to `ab` in so many tokens, and how it ended.
fn spoken(model: &mut Loaded, max_tokens: usize) -> (String, engine::Result<()>) {
    let mut said = Said(String::new());
    let met = model.encode_prompt(&Prompt { text: "ab", system: None, raw: true }).and_then(|ids| {
        let generation = Generation {
            max_tokens,
            sampling: Default::default(),
            stops: Vec::new(),
            grammar: None,
            prefill_chunk: 8,
            draft_max: 0,
        };
        Session::new(model).generate(&ids, &generation, &mut said, &AtomicBool::new(false)).map(drop)
    });
    (said.0, met)
}

/// Family 30: weights that are no numbers are stopped before a letter is said, on every backend and instruction set.
pub fn poisoned(t: &mut Tally, s: &Subject) -> Result<(), Halt> {
    let file = s.scratch()?.join("poisoned.gguf");
    let isas = compute::cpu::isa::Isa::available();
    let mut setups: Vec<Setup> =
        isas.iter().map(|isa| Setup { isa: Some(isa.name()), threads: 1, ..Setup::default() }).collect();
    setups.push(Setup { oracle: true, ..Setup::default() });
    let (mut tried, mut outcome) = (0u32, Ok(()));
    let each = |p: bad::weights::Poisoned| {
        p.file.write(&file)?;
        outcome = std::mem::replace(&mut outcome, Ok(())).and_then(|()| {
            setups.iter().try_for_each(|setup| {
                tried += 1;
                let opened = lab::try_open(s, &file, *setup)?;
                let (said, met) = opened.map_or_else(|e| (String::new(), Err(e)), |mut model| spoken(&mut model, 4));
                let stopped = said.is_empty() && met.as_ref().is_err_and(|e| e.kind == Kind::Inference);
                t.hold(stopped, || {
                    let backend = setup.isa.unwrap_or("plain");
                    Refutation::new(
                        format!("stopped: {}, {backend}", p.what),
                        format!("{said:?}, {met:?}"),
                        "an error, no text",
                    )
                })
            })
        });
        Ok(())
    };
    bad::weights::poisoned(each).map_err(instrument)?;
    outcome?;
    t.number("weights: poisoned models stopped", f64::from(tried));
    Ok(())
}

/// Families 31, 32 and 34: paths at which no model stands, tensors behind 4 GiB, other files under a model's name.
pub fn paths(t: &mut Tally, s: &Subject) -> Result<(), Halt> {
    let folder = s.scratch()?;
    for place in bad::files::places(&folder).map_err(instrument)? {
        let e = refused(place.what, engine::file::open(&place.path))?;
        t.equal(&format!("files 32: {}", place.what), &e.kind, &place.kind)?;
        if place.path.as_os_str().is_empty() {
            continue;
        }
        let out = s.apr(["run"]).args([place.path.as_os_str()]).args(["2+2?"]).judged()?;
        one_line(t, &out, &format!("files 32: {}", place.what), place.kind, "")?;
    }
    let (w, last) = bad::files::behind_4_gib().map_err(instrument)?;
    let path = folder.join("large.gguf");
    w.write(&path).map_err(instrument)?;
    running("a file of more than 4 GiB opens", engine::file::open(&path))?;
    let file = std::fs::OpenOptions::new().write(true).open(&path).map_err(instrument)?;
    let len = file.metadata().and_then(|meta| file.set_len(meta.len() - 1)).map_err(instrument);
    len?;
    let e = refused("files 31: a byte short behind 4 GiB", engine::file::open(&path))?;
    t.equal("files 31: a byte short behind 4 GiB", &e.at, &Some(Place::Tensor(last.into())))?;
    let out = s.apr(["run"]).args([path.as_os_str()]).args(["2+2?"]).judged()?;
    one_line(t, &out, "files 31: a byte short behind 4 GiB", Kind::Malformed, last)?;
    t.at_most(
        "peak resident bytes of apr on 5 GiB",
        out.peak_rss_bytes.unwrap_or_default() as f64,
        SMALL_PEAK_BYTES_MAX,
    )
}

fn refused<T>(what: &str, met: engine::Result<T>) -> Result<Error, Halt> {
    met.err().ok_or_else(|| Refutation::new(format!("refused: {what}"), "accepted", "an error").into())
}

/// Family 33: a model file that is written to while it is in use. The engine notices at the next step; `apr` says only
/// what the file said before, then ends with an error or by the system's SIGBUS.
pub fn changed_in_use(t: &mut Tally, s: &Subject) -> Result<(), Halt> {
    let path = s.scratch()?.join("changing.gguf");
    let good = bad::tiny().and_then(|w| w.to_bytes()).map_err(instrument)?;
    for how in ["a byte shorter", "written again"] {
        std::fs::write(&path, &good).map_err(instrument)?;
        let mut model = lab::open(s, &path, Setup::default())?;
        running("a model runs", spoken(&mut model, 2).1)?;
        // File systems tell time in ticks.
        std::thread::sleep(Duration::from_millis(50));
        let file = std::fs::OpenOptions::new().write(true).open(&path);
        let change = file.and_then(|mut file| match how {
            "a byte shorter" => file.set_len(good.len() as u64 - 1),
            _ => file.write_all(&good),
        });
        change.map_err(instrument)?;
        let (said, met) = spoken(&mut model, 2);
        let stopped = said.is_empty() && met.as_ref().is_err_and(|e| e.kind == Kind::Unreadable);
        t.hold(stopped, || {
            Refutation::new(format!("files 33: noticed: {how}"), format!("{said:?}, {met:?}"), "an error, no text")
        })?;
    }
    let copy = |name: &str| {
        let to = path.with_file_name(name);
        std::fs::copy(s.model()?, &to).map_err(instrument)?;
        Ok::<_, Halt>(to)
    };
    let run = |path: &Path| {
        s.apr(["run"]).args([path.as_os_str()]).args([LONG_PROMPTS[0], "--threads", "1", "--temperature", "0"])
    };
    let whole = answered(run(&copy("whole.gguf")?))?;
    let mut ends = [0u32; 3];
    for delay in [2, 5, 10, 20, 40, 80, 160] {
        let file = copy("cut.gguf")?;
        let cut = file.clone();
        let cutter = std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(delay));
            std::fs::OpenOptions::new().write(true).open(cut)?.set_len(0)
        });
        let out = run(&file).output()?;
        cutter.join().map_err(|_| instrument("the cutter panicked"))?.map_err(instrument)?;
        // On Linux, and on other Unixes.
        const SIGBUS: [i32; 2] = [7, 10];
        let end = match out.exit {
            Exit::Code(0) if out.stdout == whole.stdout => 0,
            Exit::Code(4 | 5) => 1,
            Exit::Signal(n) if SIGBUS.contains(&n) => 2,
            _ => {
                let seen = format!("{:?}: {} {}", out.exit, out.out(), out.err());
                return Err(out
                    .refute("files 33: a file cut while in use: an error or SIGBUS", seen, "no other end")
                    .into());
            }
        };
        ends[end] += 1;
        // The line end behind an answer belongs to its end.
        let said = out.out();
        t.hold(whole.out().starts_with(said.trim_end()), || {
            out.refute("files 33: what was said before is the answer's beginning", &*said, whole.out())
        })?;
    }
    for (end, n) in ["answers in time", "errors", "ends by SIGBUS"].iter().zip(ends) {
        t.number(&format!("files 33: cut while in use: {end}"), f64::from(n));
    }
    Ok(())
}

/// Family 50: long texts of one kind come back, and ten times the text takes about ten times the time.
pub fn long_texts(t: &mut Tally, model: &Loaded) -> Result<(), Halt> {
    /// n log n is 12, and some patience for a busy machine. Anything quadratic gives a hundred.
    const GROWTH_MAX: f64 = 25.0;
    let mut worst: f64 = 0.0;
    for (name, make) in bad::text::LONG {
        let timed = |letters: usize| {
            let text = make(letters);
            let begun = thread_time();
            let ids = running("a long text encodes", model.tokenizer.encode_text(&text))?;
            Ok::<_, Halt>((thread_time() - begun, text, ids))
        };
        let (_, text, ids) = timed(2000)?;
        let back = String::from_utf8_lossy(&model.tokenizer.decode(&ids)).into_owned();
        // Letters taken apart come back composed: then the same ids must come out again.
        let again = running("it encodes again", model.tokenizer.encode_text(&back))?;
        let same = back == text || again == ids;
        t.hold(same, || Refutation::new(format!("text 50: {name} comes back"), &*back, &*text))?;
        // Neighbours on the machine take caches too, and only ever add time: a slow long run may be tried again.
        // As many letters in short texts as in the long one: the clock of a thread that runs alone goes in steps of some
        // milliseconds.
        let mut short = f64::INFINITY;
        for _ in 0..2 {
            let mut all = Duration::ZERO;
            for _ in 0..10 {
                all += timed(50_000)?.0;
            }
            short = short.min(all.as_secs_f64() / 10.0);
        }
        let short = short.max(0.000_5);
        let mut growth = f64::INFINITY;
        for _ in 0..4 {
            if growth > GROWTH_MAX {
                growth = growth.min(timed(500_000)?.0.as_secs_f64() / short);
            }
        }
        let seen = || format!("{growth:.1} times {short} s");
        t.hold(growth <= GROWTH_MAX, || {
            Refutation::new(format!("text 50: ten times {name}: ten times the time"), seen(), format!("{GROWTH_MAX}"))
        })?;
        worst = worst.max(growth);
    }
    t.number("text 50: largest growth of time for ten times the text", worst);
    t.number("text 50: kinds of long text", bad::text::LONG.len() as f64);
    Ok(())
}

/// The time that this thread has had a processor, which a busy machine does not change; elsewhere than on Linux, time.
fn thread_time() -> Duration {
    static BEGUN: LazyLock<Instant> = LazyLock::new(Instant::now);
    let on_cpu = std::fs::read_to_string("/proc/thread-self/schedstat").ok();
    let nanoseconds = on_cpu.and_then(|text| text.split(' ').next()?.parse().ok());
    nanoseconds.map_or_else(|| BEGUN.elapsed(), Duration::from_nanos)
}

/// Family 52: stop sequences that cannot be are refused, odd ones end a text where a search of the whole would.
pub fn stops(t: &mut Tally, s: &Subject) -> Result<(), Halt> {
    for (what, stops) in bad::text::stops() {
        let e = refused(what, StopFinder::new(&stops))?;
        t.equal(&format!("text 52: {what}"), &e.kind, &Kind::Usage)?;
        let flags = stops.iter().take(100).flat_map(|stop| ["--stop", stop.as_str()]);
        let out = s.apr(["run"]).args([s.model()?.as_os_str()]).args(["2+2?"]).args(flags).judged()?;
        one_line(t, &out, &format!("text 52: {what}"), Kind::Usage, "stop sequence")?;
    }
    for stops in bad::text::odd_stops() {
        let text = format!("aaab {} e\u{301} \u{1f680}\u{fffd}\n\nend", stops.concat().replace('b', "c"));
        for piece in 1..5 {
            let mut finder = running("odd stop sequences are taken", StopFinder::new(&stops))?;
            let letters: Vec<char> = text.chars().collect();
            let mut out = String::new();
            let mut stopped = false;
            for part in letters.chunks(piece) {
                let (emitted, found) = finder.push(&part.iter().collect::<String>());
                out += &emitted;
                stopped = found;
            }
            out += &finder.finish();
            let ends = stops.iter().filter_map(|stop| text.find(stop.as_str()).map(|at| (at + stop.len(), at)));
            let want = ends.min().map_or((text.clone(), false), |(_, at)| (text[..at].to_string(), true));
            t.equal("text 52: the text ends where the first stop sequence is complete", &(out, stopped), &want)?;
        }
    }
    Ok(())
}

/// Families 53 to 59: hostile templates are refused when they are read or when they run, harmless ones do what they
/// say, users' words give no control tokens, and senseless conversations are refused.
pub fn templates(t: &mut Tally, s: &Subject) -> Result<(), Halt> {
    const KEY: &str = "tokenizer.chat_template";
    let with = |source: &str| -> Result<Vec<u8>, Halt> {
        let mut w: Writer = bad::tiny().map_err(instrument)?;
        w.replace(KEY, source);
        w.to_bytes().map_err(instrument)
    };
    let render = |bytes: Vec<u8>, messages: &[Message]| -> engine::Result<String> {
        let (_, _, template) = engine::file::gguf::parse(bytes.into()).and_then(understand)?;
        let template: ChatTemplate = template?.ok_or_else(|| Error::new(Kind::Inference, "no template"))?;
        Ok(lab::text_of_segments(&template.render(messages, None, true)?))
    };
    let hello = [Message::new("user", "hello")];
    for (i, hostile) in bad::template::hostile().enumerate() {
        let bytes = with(&hostile.source)?;
        let begun = Instant::now();
        let e = refused(hostile.what, render(bytes.clone(), &hello))?;
        let place = e.kind == Kind::Usage || e.at == Some(Place::Key(KEY.into()));
        t.hold(e.kind == hostile.kind && place, || {
            Refutation::new(
                format!("template {}", hostile.what),
                format!("{e:?}"),
                format!("{:?} in {KEY}", hostile.kind),
            )
        })?;
        t.at_most("template: seconds until a hostile template is stopped", begun.elapsed().as_secs_f64(), 20.0)?;
        if i % 3 == 0 {
            let at = e.at.unwrap_or(Place::Key("refuses the conversation".into()));
            let says = if let Place::Key(key) = &at { key.clone() } else { at.to_string() };
            let path = s.scratch()?.join("template.gguf");
            std::fs::write(&path, bytes).map_err(instrument)?;
            let out = s.apr(["run"]).args([path.as_os_str()]).args(["ab"]).judged()?;
            one_line(t, &out, &format!("template {}", hostile.what), hostile.kind, says)?;
            t.at_most(
                "template: peak resident bytes of apr",
                out.peak_rss_bytes.unwrap_or_default() as f64,
                PEAK_BYTES_MAX,
            )?;
        }
    }
    for (what, source, want) in bad::template::HARMLESS {
        let text = running("a harmless template renders", render(with(source)?, &hello))?;
        t.equal(&format!("template {what}"), &*text, *want)?;
    }
    let plain = with("{% for m in messages %}{{ m.content }}{% endfor %}")?;
    for (what, messages, kind) in bad::template::senseless() {
        let e = refused(what, render(plain.clone(), &messages))?;
        let one_line = !e.to_string().contains(char::is_control);
        t.hold(e.kind == kind && one_line, || {
            Refutation::new(format!("template {what}"), format!("{e:?}"), format!("{kind:?}"))
        })?;
    }
    let markers = "{% for m in messages %}<|im_start|>{{ m.content }}<|im_end|>{% endfor %}";
    let (_, words, template) =
        running("it is a model", engine::file::gguf::parse(with(markers)?.into()).and_then(understand))?;
    let template = running("the template is read", template)?;
    let template = template.ok_or_else(|| Refutation::new("the file's template is used", "none", "one"))?;
    for text in crate::texts::HOSTILE {
        let segments = running("it renders", template.render(&[Message::new("user", *text)], None, false))?;
        let scaffold =
            segments.iter().filter_map(|p| if let Segment::Scaffold(text) = p { Some(&**text) } else { None });
        t.equal(
            "template 53: the scaffold is the template's own",
            &*scaffold.collect::<String>(),
            "<|im_start|><|im_end|>",
        )?;
        // The tiny vocabulary cannot spell most texts; what it does spell has two control tokens.
        if let Ok(ids) = words.encode(&segments) {
            let controls = ids.iter().filter(|id| words.is_control(**id)).count();
            t.equal("template 53: two control tokens", &controls, &2)?;
        }
    }
    t.number("templates: hostile ones stopped", bad::template::hostile().count() as f64);
    Ok(())
}
