//! Logits to a token. The random numbers are passed in, so the same seed gives the same tokens everywhere.
//!
//! Order, as llama.cpp's default chain: repetition penalty, top-k, top-p, min-p, temperature, draw.

use compute::Want;
use compute::backend::top_k;

/// How to choose tokens.
#[derive(Clone, Debug, PartialEq)]
pub struct Sampling {
    /// 0 takes the most likely token (greedy).
    pub temperature: f32,
    /// Only the k most likely; 0 is all.
    pub top_k: usize,
    /// Only the most likely whose probabilities sum up to p; 1 is all.
    pub top_p: f32,
    /// Only those at least this fraction as likely as the best; 0 is all.
    pub min_p: f32,
    /// Divides positive and multiplies negative logits of recent tokens (Keskar et al. 2019); 1 is off.
    pub repeat_penalty: f32,
    /// How many recent tokens the penalty looks at.
    pub repeat_last_n: usize,
    /// Of the random numbers.
    pub seed: u64,
}

impl Default for Sampling {
    fn default() -> Sampling {
        Sampling {
            temperature: 0.0,
            top_k: 40,
            top_p: 0.95,
            min_p: 0.05,
            repeat_penalty: 1.0,
            repeat_last_n: 64,
            seed: 0,
        }
    }
}

impl Sampling {
    /// Puts every value into its range; says what it changed.
    pub fn clamp(&mut self) -> Vec<String> {
        let mut warnings = Vec::new();
        let mut fix = |name: &str, x: &mut f32, low: f32, high: f32| {
            let was = *x;
            *x = if was.is_nan() { low } else { was.clamp(low, high) };
            if *x != was {
                warnings.push(format!("{name} {was} is outside {low}..{high}; using {x}"));
            }
        };
        fix("temperature", &mut self.temperature, 0.0, 2.0);
        fix("top-p", &mut self.top_p, 0.0, 1.0);
        fix("min-p", &mut self.min_p, 0.0, 1.0);
        fix("repeat-penalty", &mut self.repeat_penalty, 0.1, 10.0);
        warnings
    }
}

/// Chooses the tokens of one sequence.
pub struct Sampler {
    sampling: Sampling,
    random: SplitMix64,
}

impl Sampler {
    /// With its own random numbers, from the seed.
    pub fn new(sampling: Sampling) -> Sampler {
        //= F-PIPE-185
        Sampler { random: SplitMix64(sampling.seed), sampling } //= F-CPU-101
    }

    /// What it needs of each row.
    pub fn want(&self) -> Want {
        //= F-MATH-148
        let greedy = self.sampling.temperature == 0.0 && self.sampling.repeat_penalty == 1.0;
        if greedy { Want::Argmax } else { Want::Logits }
    }

    /// The next token, from all logits. `history` is the sequence so far.
    pub fn choose(&mut self, logits: &[f32], history: &[u32]) -> u32 {
        let candidates = self.candidates(logits, history);
        if self.sampling.temperature == 0.0 {
            return candidates.first().map_or(0, |c| c.0);
        }
        draw(&candidates, self.random.unit())
    }

    /// The tokens that may be drawn with their probabilities, best first.
    pub fn candidates(&self, logits: &[f32], history: &[u32]) -> Vec<(u32, f64)> {
        let s = &self.sampling;
        let mut logits = logits.to_vec();
        penalise(&mut logits, history, s.repeat_penalty, s.repeat_last_n);
        let k = match (s.temperature == 0.0, s.top_k) {
            (true, _) => 1,
            (false, 0) => logits.len(),
            (false, k) => k,
        };
        let mut best: Vec<(u32, f64)> = top_k(&logits, k).into_iter().map(|(t, x)| (t, f64::from(x))).collect();
        let probability = softmax(&best, 1.0);
        let mut sum = 0.0;
        let keep = probability.iter().position(|p| {
            sum += p;
            sum >= f64::from(s.top_p)
        });
        best.truncate(keep.map_or(best.len(), |n| n + 1));
        let floor = probability.first().map_or(0.0, |p| p * f64::from(s.min_p));
        let above = probability.iter().take_while(|&&p| p >= floor).count();
        best.truncate(above.max(1));
        let temperature = if s.temperature == 0.0 { 1.0 } else { f64::from(s.temperature) };
        let p = softmax(&best, temperature);
        best.iter().zip(p).map(|(&(t, _), p)| (t, p)).collect()
    }
}

/// Recent tokens become less likely, each once.
fn penalise(logits: &mut [f32], history: &[u32], penalty: f32, last_n: usize) {
    if penalty == 1.0 {
        return;
    }
    let mut recent = history[history.len().saturating_sub(last_n)..].to_vec();
    recent.sort_unstable();
    recent.dedup();
    for t in recent {
        if let Some(x) = logits.get_mut(t as usize) {
            *x = if *x > 0.0 { *x / penalty } else { *x * penalty };
        }
    }
}

fn softmax(candidates: &[(u32, f64)], temperature: f64) -> Vec<f64> {
    let max = candidates.first().map_or(0.0, |c| c.1);
    let e: Vec<f64> = candidates.iter().map(|c| ((c.1 - max) / temperature).exp()).collect();
    let sum: f64 = e.iter().sum();
    e.into_iter().map(|x| x / sum).collect()
}

/// The candidate whose part of the unit interval holds `u`.
fn draw(candidates: &[(u32, f64)], u: f64) -> u32 {
    let mut sum = 0.0;
    for &(token, p) in candidates {
        sum += p;
        if u < sum {
            return token;
        }
    }
    candidates.last().map_or(0, |c| c.0)
}

/// SplitMix64 (Steele, Lea and Flood 2014): small, portable, good enough to draw tokens with.
struct SplitMix64(u64);

impl SplitMix64 {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// In `[0, 1)`, 53 bits.
    fn unit(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1u64 << 53) as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOGITS: [f32; 5] = [1.0, 3.0, 2.0, -1.0, 2.5];

    fn ids(s: Sampling) -> Vec<u32> {
        Sampler::new(s).candidates(&LOGITS, &[]).into_iter().map(|c| c.0).collect()
    }

    #[test]
    fn each_filter_keeps_what_its_definition_says() {
        let all = Sampling { temperature: 1.0, top_k: 0, top_p: 1.0, min_p: 0.0, ..Sampling::default() };
        assert_eq!(ids(all.clone()), [1, 4, 2, 0, 3]);
        assert_eq!(ids(Sampling { top_k: 2, ..all.clone() }), [1, 4]);
        // p = .497 .302 .183 .. at temperature 1 after normalisation
        assert_eq!(ids(Sampling { top_p: 0.5, ..all.clone() }), [1, 4]);
        assert_eq!(ids(Sampling { min_p: 0.5, ..all.clone() }), [1, 4]);
        assert_eq!(ids(Sampling { temperature: 0.0, ..all }), [1]);
    }

    #[test]
    fn the_penalty_moves_the_choice() {
        let s = Sampling { repeat_penalty: 2.0, ..Sampling::default() };
        assert_eq!(Sampler::new(s).choose(&LOGITS, &[1, 1]), 4);
    }

    #[test]
    fn the_seed_decides() {
        let s = |seed| Sampling { temperature: 1.5, top_k: 0, top_p: 1.0, min_p: 0.0, seed, ..Sampling::default() };
        let run = |seed| {
            let mut sampler = Sampler::new(s(seed));
            (0..50).map(|_| sampler.choose(&LOGITS, &[])).collect::<Vec<_>>()
        };
        assert_eq!(run(1), run(1));
        assert_ne!(run(1), run(2));
    }

    #[test]
    fn draws_follow_the_probabilities() {
        let s = Sampling { temperature: 1.0, top_k: 0, top_p: 1.0, min_p: 0.0, ..Sampling::default() };
        let mut sampler = Sampler::new(s);
        let expected = sampler.candidates(&LOGITS, &[]);
        let mut counts = [0f64; 5];
        const N: usize = 20_000;
        for _ in 0..N {
            counts[sampler.choose(&LOGITS, &[]) as usize] += 1.0;
        }
        let chi2: f64 =
            expected.iter().map(|&(t, p)| (counts[t as usize] - p * N as f64).powi(2) / (p * N as f64)).sum();
        assert!(chi2 < 18.5, "chi-square {chi2} with 4 degrees of freedom (p = 0.001)");
    }

    #[test]
    fn nonsense_is_clamped_with_a_warning() {
        let mut s = Sampling { temperature: -1.0, top_p: 1.5, ..Sampling::default() };
        assert_eq!(s.clamp().len(), 2);
        assert_eq!((s.temperature, s.top_p), (0.0, 1.0));
    }
}
