//! Python's verdict on answers that should be Python functions: do they parse, have the signature that was asked for,
//! and compute what a reference computes. `python.py` judges, in a process of its own with few rights.

use std::ffi::OsStr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::child::Run;
use crate::subject::Subject;
use crate::verdict::{Halt, instrument};

const JUDGE: &str = include_str!("python.py");

/// A function that was asked for.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Function {
    /// Its name.
    pub name: String,
    /// Its parameters, in order.
    pub parameters: Vec<String>,
    /// A function that does the same, as text.
    pub reference: String,
    /// Arguments to try, each a tuple as Python writes it.
    pub arguments: Vec<String>,
}

/// What became of an answer.
#[derive(Clone, Debug, Deserialize)]
pub struct Judged {
    /// It holds a function and Python parses it.
    pub parses: bool,
    /// Name, parameters and a returned value are as asked.
    pub signature: bool,
    /// It gives the reference's results.
    pub agrees: bool,
    /// Argument tuples that were compared.
    pub compared: u32,
    /// What is wrong.
    pub why: String,
}

#[derive(Serialize)]
struct Case<'a> {
    answer: &'a str,
    #[serde(flatten)]
    function: &'a Function,
}

/// Answers whose verdicts are known (it parses, has the signature, agrees): each run judges them beside the others, so
/// that a judge who nods everything through is found out. Those that parse, have the signature and do not agree are
/// what must not be run.
const KNOWN: &[(&str, [bool; 3])] = &[
    ("def plus(a, b):\n    return b + a", [true, true, true]),
    ("def plus(a, b):\n    return a - b", [true, true, false]),
    ("def plus(b, a):\n    return a + b", [true, false, false]),
    ("def plus(a, b):\n    print(a + b)", [true, false, false]),
    ("def plus(a, b)\n    return a + b", [false, false, false]),
    ("x = 1", [false, false, false]),
    ("def plus(a, b):\n    import os\n    return a + b", [true, true, false]),
    ("def plus(a, b):\n    return a.__add__(b)", [true, true, false]),
    ("def plus(a, b):\n    return open('x') and a + b", [true, true, false]),
    ("def plus(a, b):\n    return '{0.__class__}'.format(a) and a + b", [true, true, false]),
    ("def plus(a, b):\n    while True: pass\n    return a + b", [true, true, false]),
];

/// Judges answers, each with what was asked for.
pub fn judge(s: &Subject, answers: &[(&str, &Function)]) -> Result<Vec<Judged>, Halt> {
    let plus = Function {
        name: "plus".into(),
        parameters: vec!["a".into(), "b".into()],
        reference: "def add(a, b):\n    return a + b".into(),
        arguments: vec!["(2, 3)".into(), "(-1, 1)".into()],
    };
    let known: Vec<String> = KNOWN.iter().map(|(code, _)| format!("```python\n{code}\n```")).collect();
    let mut cases: Vec<Case<'_>> = answers.iter().map(|&(answer, function)| Case { answer, function }).collect();
    cases.extend(known.iter().map(|answer| Case { answer, function: &plus }));
    let file = s.scratch()?.join("judge.py");
    std::fs::write(&file, JUDGE).map_err(instrument)?;
    let run = Run::new(OsStr::new("python3")).args(["-I", "-S"]).args([file.as_os_str()]);
    let run = run.stdin(serde_json::to_vec(&cases).map_err(instrument)?).deadline(Duration::from_secs(90));
    let out = run.output()?;
    let judged: Result<Vec<Judged>, _> = serde_json::from_slice(&out.stdout);
    let mut judged = match judged {
        Ok(judged) if judged.len() == cases.len() => judged,
        _ => return Err(instrument(format!("python3 gave no verdicts ({:?}): {}", out.exit, out.err()))),
    };
    for (seen, (code, want)) in judged.split_off(answers.len()).iter().zip(KNOWN) {
        if [seen.parses, seen.signature, seen.agrees] != *want {
            return Err(instrument(format!("the judge is wrong about {code:?}: {seen:?}")));
        }
    }
    Ok(judged)
}
