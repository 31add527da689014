//! JSON schemas of peers: each is refused or becomes a grammar, and every byte that the grammar lets through leads on.
#![no_main]

use std::sync::{Arc, OnceLock};

use engine::grammar::schema;
use engine::session::Understood;
use libfuzzer_sys::fuzz_target;

fn model() -> &'static Understood {
    static MODEL: OnceLock<Understood> = OnceLock::new();
    MODEL.get_or_init(|| {
        let model = concat!(env!("CARGO_MANIFEST_DIR"), "/../../fixtures/qwen2-tiny-q4_k_m.gguf");
        Understood::open(std::path::Path::new(model), None).expect("the fixture opens")
    })
}

fuzz_target!(|data: &[u8]| {
    let Ok(value) = serde_json::from_slice(data) else { return };
    let Ok(grammar) = schema::compile(&value) else { return };
    let tokenizer = &model().tokenizer;
    // A vocabulary that cannot spell it is an error of its own.
    let Ok(Some(mut course)) = model().course(Some(&Arc::new(grammar))) else { return };
    for turn in 0..24usize {
        if course.is_over() {
            return;
        }
        let mut logits = vec![0.0; tokenizer.vocab_size()];
        course.mask(&mut logits, tokenizer);
        let may: Vec<u32> = (0..logits.len() as u32).filter(|id| logits[*id as usize] == 0.0).collect();
        assert!(!may.is_empty(), "no token may come, and the answer is not over");
        let id = may[(turn * 7919 + data.len()) % may.len()];
        if tokenizer.is_end(id) {
            return;
        }
        course.take(tokenizer.token_bytes(id).expect("it has bytes"));
    }
});
