//! Stage 10, first half: at temperature 0 the same prompt gives the same tokens, and with a seed too.

use std::sync::atomic::AtomicBool;

use super::{Fault, Notes, SAMPLER};
use crate::api::Silent;
use crate::error::Result;
use crate::sample::Sampling;
use crate::session::{Generation, Loaded, PREFILL_CHUNK, Session};

const TEXT: &str = "1, 2, 3, 4,";
const TOKENS: usize = 12;

pub fn check(loaded: &mut Loaded, notes: &mut Notes) -> Result<()> {
    for (name, sampling) in [("greedy", Sampling::default()), ("seeded", Sampling::unfiltered(7))] {
        let first = tokens(loaded, &sampling)?;
        let second = tokens(loaded, &sampling)?;
        let same = first.iter().zip(&second).take_while(|(a, b)| a == b).count();
        notes.hold(SAMPLER, first == second, || {
            let what = format!("two {name} runs differ after {same} tokens");
            Fault::new(what, "the backend or the sampler is not deterministic")
        });
        notes.hold(SAMPLER, first.iter().all(|id| (*id as usize) < loaded.tokenizer.vocab_size()), || {
            Fault::new("a token that stands for nothing was chosen", "vocabulary and weights are of different models")
        });
    }
    //= F-CHECK-221
    notes.say(SAMPLER, format!("{TOKENS} tokens twice the same, greedy and with a seed"));
    Ok(())
}

fn tokens(loaded: &mut Loaded, sampling: &Sampling) -> Result<Vec<u32>> {
    let ids = loaded.tokenizer.encode_raw(TEXT)?;
    let generation = Generation {
        max_tokens: TOKENS,
        sampling: sampling.clone(),
        stops: Vec::new(),
        grammar: None,
        prefill_chunk: PREFILL_CHUNK,
        draft_max: 0,
    };
    let answer = Session::new(loaded).generate(&ids, &generation, &mut Silent, &AtomicBool::new(false))?;
    Ok(answer.tokens)
}
