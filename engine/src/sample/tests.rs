//! Every step against its definition, and draws against their probabilities.

use super::settings::{Asked, Setting};
use super::*;

const LOGITS: [f32; 5] = [1.0, 3.0, 2.0, -1.0, 2.5];

fn sampler(s: Sampling) -> Sampler {
    Sampler::new(s, std::iter::empty())
}

fn ids(s: Sampling) -> Vec<u32> {
    sampler(s).candidates(&LOGITS, &[]).into_iter().map(|c| c.0).collect()
}

#[test]
fn each_filter_keeps_what_its_definition_says() {
    let all = Sampling::unfiltered(0);
    // p = .470 .285 .173 .064 .009 for tokens 1 4 2 0 3
    assert_eq!(ids(all.clone()), [1, 4, 2, 0, 3]);
    assert_eq!(ids(Sampling { top_k: 2, ..all.clone() }), [1, 4]);
    assert_eq!(ids(Sampling { top_p: 0.46, ..all.clone() }), [1]);
    assert_eq!(ids(Sampling { top_p: 0.5, ..all.clone() }), [1, 4]);
    assert_eq!(ids(Sampling { min_p: 0.5, ..all.clone() }), [1, 4]);
    // Entropy 1.23 nats; surprises .76 1.26 1.76 2.76 4.76: nearest first 4, 1, 2.
    assert_eq!(ids(Sampling { typical_p: 0.2, ..all.clone() }), [4]);
    assert_eq!(ids(Sampling { typical_p: 0.5, ..all.clone() }), [1, 4]);
    assert_eq!(ids(Sampling { temperature: 0.0, ..all.clone() }), [1]);
    assert_eq!(ids(Sampling { xtc_probability: 1.0, xtc_threshold: 0.1, ..all.clone() }), [2, 0, 3]);
    assert_eq!(ids(Sampling { xtc_probability: 1.0, xtc_threshold: 0.4, ..all }), [1, 4, 2, 0, 3]);
}

#[test]
fn penalties_move_the_choice() {
    let greedy = |s: Sampling, history: &[u32]| sampler(s).choose(&LOGITS, history);
    assert_eq!(greedy(Sampling { repeat_penalty: 2.0, ..Sampling::default() }, &[1, 1]), 4);
    assert_eq!(greedy(Sampling { presence_penalty: 0.6, ..Sampling::default() }, &[1]), 4);
    assert_eq!(greedy(Sampling { presence_penalty: 0.4, ..Sampling::default() }, &[1, 1, 1]), 1);
    assert_eq!(greedy(Sampling { frequency_penalty: 0.2, ..Sampling::default() }, &[1, 1, 1]), 4);
    assert_eq!(greedy(Sampling { logit_bias: vec![(3, 100.0)], ..Sampling::default() }, &[]), 3);
    assert_eq!(greedy(Sampling { repeat_penalty: 2.0, repeat_last_n: 1, ..Sampling::default() }, &[1, 0]), 1);
}

#[test]
fn dry_breaks_a_repetition_and_stops_at_breakers() {
    let s = Sampling { dry_multiplier: 1.0, dry_breakers: vec!["x".into()], ..Sampling::default() };
    // 2 3 was followed by 1; now 2 3 stands at the end.
    let history = [2, 3, 1, 0, 2, 3];
    assert_eq!(sampler(s.clone()).choose(&LOGITS, &history), 4);
    // Token 3 is a breaker: the repetition does not run across it.
    let vocabulary: [&[u8]; 5] = [b"a", b"b", b"c", b"x", b"d"];
    assert_eq!(Sampler::new(s, vocabulary.into_iter()).choose(&LOGITS, &history), 1);
}

#[test]
fn the_order_is_the_users() {
    let hot = Sampling { temperature: 2.0, min_p: 0.5, ..Sampling::unfiltered(0) };
    assert_eq!(ids(hot.clone()), [1, 4]);
    assert_eq!(ids(Sampling { order: Step::chain("temperature;min-p").unwrap(), ..hot.clone() }), [1, 4, 2]);
    assert_eq!(ids(Sampling { order: Vec::new(), ..hot }), [1, 4, 2, 0, 3]);
    assert!(Step::chain("top-k;magic").is_err());
    assert!(Step::chain("top-k;top-k").is_err());
}

#[test]
fn the_seed_decides() {
    let run = |seed| {
        let mut sampler = sampler(Sampling { temperature: 1.5, ..Sampling::unfiltered(seed) });
        (0..50).map(|_| sampler.choose(&LOGITS, &[])).collect::<Vec<_>>()
    };
    assert_eq!(run(1), run(1));
    assert_ne!(run(1), run(2));
}

/// Chi-square of 20,000 draws against the probabilities that the chain claims.
fn chi_square(s: Sampling) -> (f64, usize) {
    const N: usize = 20_000;
    let mut sampler = sampler(s);
    let expected = sampler.candidates(&LOGITS, &[]);
    let mut counts = [0f64; 5];
    for _ in 0..N {
        counts[sampler.choose(&LOGITS, &[]) as usize] += 1.0;
    }
    let n = N as f64;
    let drawn: f64 = expected.iter().map(|&(t, _)| counts[t as usize]).sum();
    assert_eq!(drawn, n, "a token was drawn that is no candidate");
    (expected.iter().map(|&(t, p)| (counts[t as usize] - p * n).powi(2) / (p * n)).sum(), expected.len() - 1)
}

#[test]
fn draws_follow_the_probabilities() {
    // Critical values of chi-square at p = 0.001 for 0 to 4 degrees of freedom.
    const CRITICAL: [f64; 5] = [1e-9, 10.83, 13.82, 16.27, 18.47];
    let all = Sampling::unfiltered(7);
    for s in [
        all.clone(),
        Sampling { temperature: 0.5, ..all.clone() },
        Sampling { temperature: 1.7, ..all.clone() },
        Sampling { top_k: 3, ..all.clone() },
        Sampling { top_p: 0.9, ..all.clone() },
        Sampling { typical_p: 0.9, ..all },
    ] {
        let (chi2, freedom) = chi_square(s.clone());
        assert!(chi2 < CRITICAL[freedom], "chi-square {chi2} with {freedom} degrees of freedom: {s:?}");
    }
}

#[test]
fn xtc_happens_as_often_as_asked() {
    let mut s = sampler(Sampling { xtc_probability: 0.3, ..Sampling::unfiltered(3) });
    let excluded = (0..10_000).filter(|_| s.candidates(&LOGITS, &[]).len() == 3).count();
    // Five standard deviations.
    assert!((2771..3229).contains(&excluded), "{excluded} of 10,000");
}

#[test]
fn mirostat_steers_towards_its_target() {
    let flat: Vec<f32> = (0..200).map(|i| (i % 17) as f32 * 0.3).collect();
    for tau in [2.0f32, 4.0, 6.0] {
        let mut s = sampler(Sampling { mirostat: 2, mirostat_tau: tau, ..Sampling::unfiltered(11) });
        let mut surprise = 0.0;
        const N: usize = 4000;
        for _ in 0..N {
            let candidates = s.candidates(&flat, &[]);
            let token = s.choose(&flat, &[]);
            let p = candidates.iter().find(|c| c.0 == token).map_or(1.0, |c| c.1);
            surprise -= p.log2() / N as f64;
        }
        assert!((surprise - f64::from(tau)).abs() < 0.3, "mean surprise {surprise} bits, target {tau}");
    }
}

#[test]
fn nonsense_is_clamped_with_a_warning() {
    let mut s = Sampling { temperature: -1.0, top_p: 1.5, typical_p: f32::NAN, ..Sampling::default() };
    assert_eq!(s.clamp().len(), 3);
    assert_eq!((s.temperature, s.top_p, s.typical_p), (0.0, 1.0, 0.0));
}

#[test]
fn what_the_model_recommends_gives_way_to_what_is_asked() {
    use crate::file::{Metadata, Value};
    let entries = [("temp", Value::Float(0.7)), ("top_k", Value::Signed(20)), ("mirostat", Value::Unsigned(1))];
    let entries = entries.into_iter().map(|(k, v)| (format!("general.sampling.{k}"), v)).collect();
    let file = Metadata { entries };
    let mut s = Sampling::default();
    assert_eq!(s.recommended_by(&file).unwrap().len(), 1);
    let top_k = Setting::named("top-k").unwrap();
    let asked = Asked { values: vec![(top_k, -3.0)], seed: 9, ..Asked::default() };
    assert_eq!(s.asked(&asked), ["top-k -3 is outside 0..16777216; using 0"]);
    assert_eq!((s.temperature, s.top_k, s.seed), (0.7, 0, 9));
    assert_eq!(s.describe(), "temperature 0.7, top-p 0.95, min-p 0.05, seed 9");
    assert_eq!(Sampling::default().describe(), "greedy");
    let wrong = [("general.sampling.temp".to_string(), Value::String("hot".into()))].into_iter().collect();
    assert!(Sampling::default().recommended_by(&Metadata { entries: wrong }).is_err());
}

#[test]
fn every_setting_sets_what_it_gets() {
    for setting in Setting::ALL {
        let mut s = Sampling::default();
        let (low, high) = setting.range;
        for x in [low, high] {
            (setting.set)(&mut s, x);
            assert_eq!((setting.get)(&s), x, "{}", setting.name);
        }
        assert!((setting.get)(&Sampling::default()) >= low && (setting.get)(&Sampling::default()) <= high);
    }
}

#[test]
fn a_long_history_is_looked_up_and_not_searched_for() {
    let logits: Vec<f32> = (0..100_000).map(|i| (i % 977) as f32).collect();
    let history: Vec<u32> = (0..100_000).collect();
    let s = Sampling { presence_penalty: 0.5, repeat_last_n: 100_000, temperature: 1.0, ..Sampling::unfiltered(0) };
    let late = Sampling { order: Step::chain("temperature;penalties").unwrap(), ..s.clone() };
    let begun = std::time::Instant::now();
    let (early, late) = (sampler(s).candidates(&logits, &history), sampler(late).candidates(&logits, &history));
    assert_eq!(early, late);
    // Ten thousand million comparisons take longer.
    assert!(begun.elapsed() < std::time::Duration::from_secs(20), "{:?}", begun.elapsed());
}
