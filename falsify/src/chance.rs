//! Chance: what a sampler should draw by definition, and whether draws follow a distribution.
//!
//! The definitions are written from the papers, in f64, and share no code with the engine's sampler. [`Sampled`] is
//! the engine's, taken through the subject, so that a saboteur may meddle with it.

use engine::sample::{Sampler, Sampling};

use crate::forge::random::Random;
use crate::formula::softmax;
use crate::sabotage::evil_sampler::Meddle;
use crate::subject::Subject;
use crate::verdict::{Halt, Refutation, Tally};

/// The engine's sampler, as the subject has it.
pub struct Sampled {
    inner: Sampler,
    sampling: Sampling,
    evil: Option<Meddle>,
}

impl Sampled {
    /// With these settings.
    pub fn new(s: &Subject, sampling: &Sampling) -> Sampled {
        let mut used = sampling.clone();
        if let Some(evil) = s.evil_sampler {
            evil(sampling, &mut used, &mut [], &[]);
        }
        Sampled { inner: Sampler::new(used, std::iter::empty()), sampling: sampling.clone(), evil: s.evil_sampler }
    }

    /// The tokens that may be drawn with their probabilities, best first.
    pub fn candidates(&mut self, logits: &[f32], history: &[u32]) -> Vec<(u32, f64)> {
        let logits = self.meddled(logits, history);
        let mut all = self.inner.candidates(&logits, history);
        // What has no probability is no candidate.
        all.retain(|c| c.1 > 0.0);
        all
    }

    /// A draw.
    pub fn choose(&mut self, logits: &[f32], history: &[u32]) -> u32 {
        let logits = self.meddled(logits, history);
        self.inner.choose(&logits, history)
    }

    fn meddled(&self, logits: &[f32], history: &[u32]) -> Vec<f32> {
        let mut logits = logits.to_vec();
        if let Some(evil) = self.evil {
            evil(&self.sampling, &mut self.sampling.clone(), &mut logits, history);
        }
        logits
    }
}

// ---- what should be drawn

/// Every id, largest logit first, the lower id first among equals.
pub fn ranked(logits: &[f32]) -> Vec<u32> {
    let mut ids: Vec<u32> = (0..logits.len() as u32).collect();
    ids.sort_by(|&a, &b| logits[b as usize].total_cmp(&logits[a as usize]).then(a.cmp(&b)));
    ids
}

/// Probabilities of all ids at a temperature above 0.
pub fn probabilities(logits: &[f32], temperature: f64) -> Vec<f64> {
    softmax(&logits.iter().map(|&x| f64::from(x) / temperature).collect::<Vec<_>>())
}

/// The k best of all (Fan et al. 2018); 0 is all of them.
pub fn top_k(logits: &[f32], k: usize) -> Vec<u32> {
    let mut ids = ranked(logits);
    if k > 0 {
        ids.truncate(k);
    }
    ids
}

/// The smallest set of best ids whose probabilities reach p (Holtzman et al. 2020), and how near the sum came to p where
/// it was cut: an edge that f64 cannot tell is nobody's fault.
pub fn nucleus(logits: &[f32], p: f64) -> (Vec<u32>, f64) {
    let share = probabilities(logits, 1.0);
    let (mut sum, mut edge) = (0.0, f64::INFINITY);
    let mut ids = Vec::new();
    for id in ranked(logits) {
        ids.push(id);
        sum += share[id as usize];
        edge = edge.min((sum - p).abs());
        if sum >= p {
            break;
        }
    }
    (ids, edge)
}

/// Logits after the repetition penalty (Keskar et al. 2019): of each token in `seen`, once, divided if positive and
/// multiplied if not.
pub fn penalised(logits: &[f32], seen: &[u32], penalty: f32) -> Vec<f32> {
    let change = |(id, &x): (usize, &f32)| match (seen.contains(&(id as u32)), x > 0.0) {
        (false, _) => x,
        (true, true) => x / penalty,
        (true, false) => x * penalty,
    };
    logits.iter().enumerate().map(change).collect()
}

/// Candidates are exactly these ids, with probabilities in proportion to theirs among all.
pub fn are(t: &mut Tally, criterion: &str, seen: &[(u32, f64)], ids: &[u32], share: &[f64]) -> Result<(), Halt> {
    let mut got: Vec<u32> = seen.iter().map(|c| c.0).collect();
    let mut want = ids.to_vec();
    got.sort_unstable();
    want.sort_unstable();
    t.hold(got == want, || Refutation::new(criterion, format!("{got:?}"), format!("{want:?}")))?;
    let whole: f64 = ids.iter().map(|&id| share[id as usize]).sum();
    let off = seen.iter().map(|&(id, p)| (p - share[id as usize] / whole).abs()).fold(0.0, crate::formula::worse);
    t.hold(off <= 1e-9, || {
        Refutation::new(format!("{criterion}, in their proportions"), format!("off by {off}"), "at most 1e-9")
    })
}

// ---- whether it was drawn

/// Logits of every size and shape: normal ones of several widths, flat ones, ties, and one that leads.
pub fn logits(count: usize, name: &str) -> Vec<Vec<f32>> {
    let mut random = Random::new(150, name);
    let one = |i: usize| {
        let len = [1, 2, 3, 5, 16, 40, 100, 300][i % 8];
        let width = [0.0, 0.5, 1.0, 3.0, 10.0][i % 5];
        let mut row: Vec<f32> = (0..len).map(|_| width * random.normal()).collect();
        match i % 3 {
            // Quarters: many ties, and one zero only.
            1 => row.iter_mut().for_each(|x| *x = (*x * 4.0).round() / 4.0 + 0.0),
            2 => row[i % len] += 5.0,
            _ => {}
        }
        row
    };
    (0..count).map(one).collect()
}

/// Draws counted by id.
pub fn counted(draws: impl Iterator<Item = u32>, vocab: usize) -> Vec<f64> {
    let mut counts = vec![0.0; vocab];
    draws.for_each(|id| counts[id as usize] += 1.0);
    counts
}

/// A distribution that chance would miss this widely less often is refused.
pub const REFUSED_BELOW: f64 = 1e-6;

/// Counts of draws against probabilities, by Pearson's chi-squared. A cell that no draw may fall into must be empty.
pub fn follows(t: &mut Tally, criterion: &str, counts: &[f64], share: &[f64]) -> Result<(), Halt> {
    let draws: f64 = counts.iter().sum();
    let never = counts.iter().zip(share).position(|(&n, &p)| n > 0.0 && p == 0.0);
    t.hold(never.is_none(), || {
        Refutation::new(format!("{criterion}: nothing of probability 0 is drawn"), format!("{never:?}"), "none")
    })?;
    let p = chi_squared(counts, &share.iter().map(|p| p * draws).collect::<Vec<_>>());
    t.hold(p > REFUSED_BELOW, || {
        let shown = |x: &[f64]| format!("{:.1?}", &x[..x.len().min(12)]);
        let expected: Vec<f64> = share.iter().map(|p| p * draws).collect();
        let observed = format!("p = {p:.3e} in {draws} draws: {} beside {}", shown(counts), shown(&expected));
        Refutation::new(criterion, observed, format!("p > {REFUSED_BELOW}"))
    })?;
    Ok(())
}

/// The probability that chance alone deviates so much. Cells where fewer than five draws are expected are joined.
pub fn chi_squared(counts: &[f64], expected: &[f64]) -> f64 {
    let mut cells: Vec<(f64, f64)> = counts.iter().copied().zip(expected.iter().copied()).collect();
    cells.sort_by(|a, b| b.1.total_cmp(&a.1));
    let mut joined: Vec<(f64, f64)> = Vec::new();
    let mut rest = (0.0, 0.0);
    for (n, e) in cells {
        if e >= 5.0 {
            joined.push((n, e));
            continue;
        }
        rest = (rest.0 + n, rest.1 + e);
        if rest.1 >= 5.0 {
            joined.push(std::mem::take(&mut rest));
        }
    }
    match joined.last_mut() {
        Some(last) => *last = (last.0 + rest.0, last.1 + rest.1),
        None => joined.push(rest),
    }
    let chi2: f64 = joined.iter().filter(|c| c.1 > 0.0).map(|(n, e)| (n - e).powi(2) / e).sum();
    upper_gamma((joined.len() - 1) as f64 / 2.0, chi2 / 2.0)
}

/// The upper incomplete gamma function Q(a, x) for a in steps of a half, by its recurrence from Q(1/2, x) = erfc(sqrt x)
/// or Q(1, x) = e^-x (Abramowitz and Stegun 6.5.21).
fn upper_gamma(a: f64, x: f64) -> f64 {
    if a == 0.0 {
        return 1.0;
    }
    let (mut at, mut q, mut term) = if a.fract() == 0.0 {
        (1.0, (-x).exp(), x * (-x).exp())
    } else {
        // x^a e^-x / Gamma(a + 1) at a = 1/2.
        (0.5, erfc(x.sqrt()), 2.0 * (x / std::f64::consts::PI).sqrt() * (-x).exp())
    };
    while at < a {
        q += term;
        at += 1.0;
        term *= x / at;
    }
    q
}

/// The complementary error function for x >= 0, by its series or its continued fraction.
fn erfc(x: f64) -> f64 {
    let root_pi = std::f64::consts::PI.sqrt();
    if x < 2.0 {
        let mut term = x;
        let mut sum = x;
        for n in 1..60 {
            let n = f64::from(n);
            term *= -x * x / n;
            sum += term / (2.0 * n + 1.0);
        }
        return 1.0 - 2.0 / root_pi * sum;
    }
    let tail = (1..60).rev().fold(x, |below, n| x + f64::from(n) / 2.0 / below);
    (-x * x).exp() / root_pi / tail
}

/// Where a draw stands in its distribution: uniform in the unit interval if draws follow it (the randomised probability
/// integral transform), so that draws from different distributions can be judged together.
pub fn place(share: &[f64], drawn: usize, random: &mut Random) -> f64 {
    let p = share[drawn];
    let above: f64 = share.iter().enumerate().filter(|&(i, &q)| q > p || q == p && i < drawn).map(|c| c.1).sum();
    above + p * (random.bits() >> 11) as f64 / (1u64 << 53) as f64
}

/// Places counted in sixteen equal cells, and the share of each.
pub fn spread(places: &[f64]) -> (Vec<f64>, Vec<f64>) {
    let mut counts = vec![0.0; 16];
    for &u in places {
        counts[((u * 16.0) as usize).min(15)] += 1.0;
    }
    (counts, vec![1.0 / 16.0; 16])
}

/// How surprising a draw was beyond the entropy of its distribution, and the variance of that (nats).
pub fn surprise(share: &[f64], drawn: usize) -> (f64, f64) {
    let logs: Vec<f64> = share.iter().map(|&p| if p > 0.0 { -p.ln() } else { 0.0 }).collect();
    let entropy: f64 = share.iter().zip(&logs).map(|(p, s)| p * s).sum();
    let variance = share.iter().zip(&logs).map(|(p, s)| p * (s - entropy).powi(2)).sum();
    (logs[drawn] - entropy, variance)
}

/// Draws from many distributions are as surprising as they should be: the score test for temperature, which moves
/// exactly this sum (Rao 1948).
pub fn as_surprising(t: &mut Tally, criterion: &str, draws: &[(f64, f64)]) -> Result<(), Halt> {
    let (off, variance) = draws.iter().fold((0.0, 0.0), |(o, v), d| (o + d.0, v + d.1));
    let z = off / variance.sqrt();
    let p = erfc(z.abs() / 2f64.sqrt());
    t.number(&format!("{criterion}: standard deviations off"), z);
    t.hold(p > REFUSED_BELOW, || {
        let seen = format!("{z:.2} standard deviations in {} draws, p = {p:.3e}", draws.len());
        Refutation::new(criterion, seen, format!("p > {REFUSED_BELOW}"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tails_are_those_of_the_tables() {
        // Critical values of chi-squared at 0.05 and 0.001.
        for (freedom, at_5_percent, at_1_permille) in
            [(1.0, 3.841, 10.828), (2.0, 5.991, 13.816), (5.0, 11.070, 20.515), (10.0, 18.307, 29.588)]
        {
            assert!((upper_gamma(freedom / 2.0, at_5_percent / 2.0) - 0.05).abs() < 1e-4, "{freedom}");
            assert!((upper_gamma(freedom / 2.0, at_1_permille / 2.0) - 0.001).abs() < 1e-5, "{freedom}");
        }
        assert!((erfc(0.5) - 0.479_500_122).abs() < 1e-9 && (erfc(3.0) - 2.209_049_7e-5).abs() < 1e-11);
    }

    #[test]
    fn a_wrong_distribution_is_refused_and_the_right_one_is_not() {
        let share = [0.5, 0.25, 0.125, 0.125];
        assert!(chi_squared(&[510.0, 245.0, 120.0, 125.0], &share.map(|p| 1000.0 * p)) > 0.5);
        assert!(chi_squared(&[400.0, 300.0, 150.0, 150.0], &share.map(|p| 1000.0 * p)) < 1e-6);
        let mut random = Random::new(1, "places");
        let draw = |random: &mut Random| [0, 0, 0, 0, 1, 1, 2, 3][random.below(8)];
        let draws: Vec<(f64, f64)> = (0..4000).map(|_| surprise(&share, draw(&mut random))).collect();
        assert!(as_surprising(&mut Tally::new("x"), "right", &draws).is_ok());
        // Half of the second cell's draws go to the first.
        let cold = |random: &mut Random| [0, 0, 0, 0, 0, 1, 2, 3][random.below(8)];
        let draws: Vec<(f64, f64)> = (0..4000).map(|_| surprise(&share, cold(&mut random))).collect();
        assert!(as_surprising(&mut Tally::new("x"), "wrong", &draws).is_err());
        let places: Vec<f64> = (0..4000).map(|_| place(&share, draw(&mut random), &mut random)).collect();
        let (counts, even) = spread(&places);
        assert!(chi_squared(&counts, &even.iter().map(|p| p * 4000.0).collect::<Vec<_>>()) > 1e-4);
    }

    #[test]
    fn definitions_on_a_small_example() {
        let logits = [1.0, 3.0, 2.0, -1.0, 3.0];
        assert_eq!(ranked(&logits), [1, 4, 2, 0, 3]);
        assert_eq!(top_k(&logits, 2), [1, 4]);
        assert_eq!(top_k(&logits, 0).len(), 5);
        // p = .394 .394 .145 .053 .007
        assert_eq!(nucleus(&logits, 0.5).0, [1, 4]);
        assert_eq!(nucleus(&logits, 0.0).0, [1]);
        assert_eq!(penalised(&logits, &[0, 3, 3], 2.0), [0.5, 3.0, 2.0, -2.0, 3.0]);
    }
}
