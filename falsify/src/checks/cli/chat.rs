//! F-CLI: `apr chat` and its flags.

use super::stays_on_cpu;
use crate::ask::{PROMPTS, printed};
use crate::screen::Screens;
use crate::subject::Subject;
use crate::talk::{chat, piped, typed};
use crate::verdict::{Attempt, Tally};

/// `apr chat model.gguf` enters interactive mode: it invites, answers, and invites again.
pub fn f_cli_004(s: &Subject) -> Attempt {
    let mut t = Tally::new("apr chat on a pseudo-terminal: two questions and /exit, each typed when the prompt came");
    let alone = printed(s, PROMPTS[0], &[])?;
    let seen = typed(s, &[PROMPTS[0], PROMPTS[0], "/exit"])?;
    seen.alive()?;
    t.hold(seen.code() == Some(0), || seen.refute("it leaves with code 0", format!("{:?}", seen.code()), "0"))?;
    let screens = Screens::replay(&seen.stdout);
    let times = screens.last.matches(alone.trim()).count();
    t.hold(times == 2, || seen.refute("both questions are answered", &*screens.last, alone.trim()))?;
    let invited = screens.last.lines().filter(|line| line.starts_with(">>>")).count();
    t.hold(invited == 3, || seen.refute("it invites before each line", &*screens.last, "three lines of >>>"))?;
    t.done()
}

/// `apr chat` has `--gpu`: it means what it means for `apr run`.
pub fn f_cli_013b(s: &Subject) -> Attempt {
    let mut t = Tally::new("apr chat --gpu beside apr run --gpu, where there is no GPU to be had");
    let model = s.model()?;
    let chat = chat(s, &["--gpu"])?.stdin("Hello!\n").judged()?;
    let run = s.apr(["run"]).args([model.as_os_str()]).args(["Hello!", "--gpu"]).judged()?;
    let (said, same) = ((chat.code(), chat.err()), (run.code(), run.err()));
    t.hold(said == same, || chat.refute("it ends as apr run --gpu does", format!("{said:?}"), format!("{same:?}")))?;
    let refused = chat.code() != Some(0) && chat.err().contains("GPU") && chat.stdout.is_empty();
    t.hold(refused, || chat.refute("without a GPU it is refused", chat.err(), "an error that says GPU"))?;
    t.done()
}

/// `apr chat` has `--no-gpu`: no GPU driver is opened during the chat.
pub fn f_cli_014b(s: &Subject) -> Attempt {
    let mut t = Tally::new("apr chat --no-gpu, with the loader's list of opened libraries");
    let run = chat(s, &["--no-gpu", "--verbose"])?.stdin(format!("{}\n", PROMPTS[0]));
    stays_on_cpu(&mut t, s, run)?;
    let both = piped(s, &[], &["--gpu", "--no-gpu"])?;
    t.hold(both.code() == Some(2), || both.refute("--gpu --no-gpu is refused", format!("{:?}", both.code()), "2"))?;
    t.done()
}
