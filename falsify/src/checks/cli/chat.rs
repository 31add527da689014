//! F-CLI: `apr chat` and its flags.

use super::stays_on_cpu;
use crate::ask::{LONG_PROMPTS, PROMPTS, printed};
use crate::screen::Screens;
use crate::subject::Subject;
use crate::talk::{INVITATION, chat, piped, typed};
use crate::verdict::{Attempt, Halt, Tally};

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

/// Ctrl+C in a chat stops the answer in the making and keeps the conversation; part of F-CLI-019.
pub fn stops_an_answer(t: &mut Tally, s: &Subject) -> Result<(), Halt> {
    let whole = printed(s, LONG_PROMPTS[0], &["--max-tokens", "48"])?;
    let begins = whole.split_whitespace().next().unwrap_or_default().to_string();
    let step = |text: &str, keys: &str| (text.to_string(), keys.as_bytes().to_vec());
    let enter = |line: &str| format!("{line}\r");
    const CTRL_C: &str = "\x03";
    let steps = [
        step(INVITATION, &enter(LONG_PROMPTS[0])),
        step(&begins, CTRL_C),
        step(INVITATION, &enter(PROMPTS[0])),
        step(INVITATION, &enter("/exit")),
    ];
    // Slow enough that the answer is not over before the key is pressed.
    let run = chat(s, &["--threads", "1"])?.env("APR_ISA", "scalar");
    let seen = run.typed(steps.into()).on_terminal().output()?;
    seen.alive()?;
    let left = seen.code() == Some(0);
    t.hold(left, || seen.refute("a chat goes on after Ctrl+C", format!("{:?}", seen.exit), "exit code 0 by /exit"))?;
    let screen = Screens::replay(&seen.stdout).last;
    t.hold(screen.contains("stopped"), || seen.refute("it says that it stopped", &*screen, "stopped"))?;
    // The fence that opens a program is also the line that closes it.
    let cut = whole.lines().max_by_key(|line| line.len()).is_some_and(|line| !screen.contains(line.trim()));
    t.hold(cut, || seen.refute("the answer is cut short", &*screen, "not its longest line"))?;
    let next = screen.split(PROMPTS[0]).last().unwrap_or_default();
    let answered = next.split(INVITATION.trim()).next().is_some_and(|answer| !answer.trim().is_empty());
    t.hold(answered, || seen.refute("the next question is answered", &*screen, "an answer"))
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
