//! Saboteurs of the sampler: they change its settings when it is made, and the logits before each draw. What a wrong
//! sampler would draw, the real one then draws.

use engine::sample::Sampling;

use super::{Means, Saboteur};
use crate::chance::nucleus;

/// Given what was asked: what the sampler is made with, the logits that it is shown (none while it is made), and the
/// tokens so far.
pub type Meddle = fn(&Sampling, &mut Sampling, &mut [f32], &[u32]);

/// An entry.
const fn evil(name: &'static str, does: &'static str, how: Meddle) -> Saboteur {
    Saboteur { name, does, by_crash: false, means: Means::EvilSampler(how) }
}

/// Every one of them.
pub static ALL: &[Saboteur] = &[
    evil("temperature-stuck", "draws at temperature 1 whatever was asked, 0 apart", |asked, used, _, _| {
        used.temperature = if asked.temperature == 0.0 { 0.0 } else { 1.0 };
    }),
    evil("top-k-off-by-one", "top-k keeps one token more", |asked, used, _, _| {
        used.top_k = if asked.top_k == 0 { 0 } else { asked.top_k + 1 };
    }),
    evil("top-p-excludes-last", "top-p drops the token that reaches p", |asked, used, logits, _| {
        used.top_p = 1.0;
        if asked.top_p < 1.0 && !logits.is_empty() {
            let (kept, _) = nucleus(logits, f64::from(asked.top_p));
            let kept = &kept[..(kept.len() - 1).max(1)];
            for (id, x) in logits.iter_mut().enumerate() {
                if !kept.contains(&(id as u32)) {
                    *x = f32::NEG_INFINITY;
                }
            }
        }
    }),
    evil("penalty-adds", "the logarithm of the repetition penalty is taken off", |asked, used, logits, history| {
        used.repeat_penalty = 1.0;
        let recent = &history[history.len().saturating_sub(asked.repeat_last_n)..];
        for (id, x) in logits.iter_mut().enumerate() {
            if recent.contains(&(id as u32)) {
                *x -= asked.repeat_penalty.ln();
            }
        }
    }),
];
