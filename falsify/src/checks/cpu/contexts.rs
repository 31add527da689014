//! F-CPU-105: thousands of positions.

use crate::lab::{Setup, open};
use crate::oracle;
use crate::subject::Subject;
use crate::verdict::{Attempt, Tally, instrument};

/// Handles long contexts (>2K tokens): llama.cpp's tokens at the end of prompts of thousands.
pub fn f_cpu_105(s: &Subject) -> Attempt {
    let mut t = Tally::new(
        "prompts of 2049 and 4000 random tokens on a forged Llama, of 1674 and 3432 words' tokens on the q8_0 fixture, and \
         16 and more tokens after each, against llama.cpp",
    );
    for (name, least) in [("llama-long-f16", 2048), ("qwen2-tiny-q8_0", 1024)] {
        let golden = oracle::golden(s, name)?.beyond(least);
        if golden.cases.len() != 2 {
            return Err(instrument(format!("{} golden cases of {name} beyond {least} tokens", golden.cases.len())));
        }
        let mut model = open(s, &golden.model(s)?, Setup::default())?;
        oracle::teacher_forced(&mut t, &mut model, &golden, golden.epsilon)?;
        oracle::free_running(&mut t, &mut model, &golden, golden.epsilon)?;
        for case in &golden.cases {
            t.number(&format!("{name}: tokens of prompt {}", case.name), case.prompt.len() as f64);
        }
    }
    t.done()
}
