//! Logits to a token. The random numbers are passed in, so the same seed gives the same tokens everywhere.
//!
//! A sampler is a chain of [`Step`]s: some change logits, some drop candidates, the last one left draws. The default
//! order is llama.cpp's. A step whose parameter is at its neutral value does nothing, wherever it stands.

mod filters;
mod penalties;
mod ranked;
pub mod settings;

use compute::Want;

use crate::error::{Error, Kind, Place, Result, quoted};
use ranked::Ranked;

/// How to choose tokens.
#[derive(Clone, Debug, PartialEq)]
pub struct Sampling {
    /// 0 takes the most likely token (greedy).
    pub temperature: f32,
    /// Only the k most likely; 0 is all.
    pub top_k: usize,
    /// Only the most likely whose probabilities sum up to p (nucleus, Holtzman et al. 2020); 1 is all.
    pub top_p: f32,
    /// Only those at least this fraction as likely as the best; 0 is all.
    pub min_p: f32,
    /// Only those whose surprise is nearest to the entropy, up to probability p (Meister et al. 2023); 1 is all.
    pub typical_p: f32,
    /// How often to drop all but the least likely of the tokens above `xtc_threshold` ("exclude top choices"); 0 never.
    pub xtc_probability: f32,
    /// What counts as a top choice; above 0.5 there are never two.
    pub xtc_threshold: f32,
    /// Divides positive and multiplies negative logits of recent tokens (Keskar et al. 2019); 1 is off.
    pub repeat_penalty: f32,
    /// Taken off the logit of every recent token; 0 is off.
    pub presence_penalty: f32,
    /// Taken off the logit of a recent token for each time it occurs; 0 is off.
    pub frequency_penalty: f32,
    /// How many recent tokens these three look at.
    pub repeat_last_n: usize,
    /// "Don't repeat yourself": `multiplier * base^(length - allowed)` for what would prolong a repetition; 0 is off.
    pub dry_multiplier: f32,
    /// See `dry_multiplier`.
    pub dry_base: f32,
    /// Repetitions up to this length are free.
    pub dry_allowed_length: usize,
    /// How many recent tokens DRY looks at.
    pub dry_last_n: usize,
    /// Texts that a repetition does not run across.
    pub dry_breakers: Vec<String>,
    /// 2 is Mirostat 2 (Basu et al. 2021), in place of every filter; 0 is off.
    pub mirostat: usize,
    /// Its target surprise, in bits.
    pub mirostat_tau: f32,
    /// Its learning rate.
    pub mirostat_eta: f32,
    /// Added to the logits of these tokens before anything else.
    pub logit_bias: Vec<(u32, f32)>,
    /// What is done, in order.
    pub order: Vec<Step>,
    /// Of the random numbers.
    pub seed: u64,
}

/// One step of the chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Repeat, presence and frequency penalties.
    Penalties,
    /// DRY.
    Dry,
    /// Top-k.
    TopK,
    /// Locally typical sampling.
    TypicalP,
    /// Nucleus sampling.
    TopP,
    /// Min-p.
    MinP,
    /// Exclude top choices.
    Xtc,
    /// Temperature.
    Temperature,
}

impl Step {
    /// Names and steps, in the default order.
    pub const ALL: &'static [(&'static str, Step)] = &[
        ("penalties", Step::Penalties),
        ("dry", Step::Dry),
        ("top-k", Step::TopK),
        ("typical-p", Step::TypicalP),
        ("top-p", Step::TopP),
        ("min-p", Step::MinP),
        ("xtc", Step::Xtc),
        ("temperature", Step::Temperature),
    ];

    /// The names of a chain.
    pub fn names(chain: &[Step]) -> String {
        let name = |step: &Step| Step::ALL.iter().find(|s| s.1 == *step).map_or("", |s| s.0);
        chain.iter().map(name).collect::<Vec<_>>().join(";")
    }

    /// A chain from names separated by semicolons or commas. A step may stand there once.
    pub fn chain(text: &str) -> Result<Vec<Step>> {
        let mut chain = Vec::new();
        for name in text.split([';', ',']).map(str::trim).filter(|n| !n.is_empty()) {
            let refuse = |what: String| {
                let names: Vec<&str> = Step::ALL.iter().map(|s| s.0).collect();
                Error::new(Kind::Usage, what)
                    .at(Place::Flag("--samplers".into()))
                    .hint(format!("steps: {}", names.join(", ")))
            };
            // The names of llama.cpp too.
            let known = match name.replace('_', "-").as_str() {
                "typ-p" | "typical" => "typical-p".into(),
                "temp" => "temperature".into(),
                other => other.to_string(),
            };
            let step = Step::ALL.iter().find(|s| s.0 == known).map(|s| s.1);
            let step = step.ok_or_else(|| refuse(format!("no sampler is called {}", quoted(name))))?;
            if chain.contains(&step) {
                return Err(refuse(format!("{name} stands in the chain twice")));
            }
            chain.push(step);
        }
        Ok(chain)
    }
}

impl Default for Sampling {
    fn default() -> Sampling {
        Sampling {
            temperature: 0.0,
            top_k: 40,
            top_p: 0.95,
            min_p: 0.05,
            typical_p: 1.0,
            xtc_probability: 0.0,
            xtc_threshold: 0.1,
            repeat_penalty: 1.0,
            presence_penalty: 0.0,
            frequency_penalty: 0.0,
            repeat_last_n: 64,
            dry_multiplier: 0.0,
            dry_base: 1.75,
            dry_allowed_length: 2,
            dry_last_n: 1024,
            dry_breakers: ["\n", ":", "\"", "*"].map(String::from).to_vec(),
            mirostat: 0,
            mirostat_tau: 5.0,
            mirostat_eta: 0.1,
            logit_bias: Vec::new(),
            order: Step::ALL.iter().map(|s| s.1).collect(),
            seed: 0,
        }
    }
}

impl Sampling {
    /// Every likely token may be drawn: temperature 1 and no filter.
    pub fn unfiltered(seed: u64) -> Sampling {
        Sampling { temperature: 1.0, top_k: 0, top_p: 1.0, min_p: 0.0, seed, ..Sampling::default() }
    }

    /// Whether logits are looked at beyond the largest one.
    fn changes_logits(&self) -> bool {
        let on = |step| self.order.contains(&step);
        let penalised = self.repeat_penalty != 1.0 || self.presence_penalty != 0.0 || self.frequency_penalty != 0.0;
        !self.logit_bias.is_empty() || on(Step::Penalties) && penalised || on(Step::Dry) && self.dry_multiplier != 0.0
    }
}

/// Chooses the tokens of one sequence.
pub struct Sampler {
    sampling: Sampling,
    random: SplitMix64,
    /// Mirostat's limit on surprise, in bits.
    mu: f64,
    /// Tokens that a repetition does not run across, ascending.
    breakers: Vec<u32>,
}

impl Sampler {
    /// With its own random numbers, from the seed. `text_of` tells the texts of tokens, for DRY's breakers.
    pub fn new<'t>(sampling: Sampling, vocabulary: impl Iterator<Item = &'t [u8]>) -> Sampler {
        let breakers = match sampling.dry_multiplier {
            0.0 => Vec::new(),
            _ => penalties::breakers(&sampling.dry_breakers, vocabulary),
        };
        let mu = 2.0 * f64::from(sampling.mirostat_tau);
        //= F-PIPE-185
        let random = SplitMix64(sampling.seed); //= F-CPU-101
        Sampler { random, mu, breakers, sampling }
    }

    /// What it needs of each row.
    pub fn want(&self) -> Want {
        //= F-MATH-148
        let greedy = self.sampling.temperature == 0.0 && !self.sampling.changes_logits();
        if greedy { Want::Argmax } else { Want::Logits }
    }

    /// The next token, from all logits. `history` is the sequence so far.
    pub fn choose(&mut self, logits: &[f32], history: &[u32]) -> u32 {
        let mut left = self.left(logits, history);
        if left.len() == 0 {
            return 0;
        }
        if self.sampling.temperature == 0.0 {
            return left.get(0).0;
        }
        let (token, p) = draw(left.walk(), self.random.unit());
        if self.sampling.mirostat != 0 {
            let (tau, eta) = (f64::from(self.sampling.mirostat_tau), f64::from(self.sampling.mirostat_eta));
            self.mu -= eta * (-p.log2() - tau);
        }
        token
    }

    /// The tokens that may be drawn with their probabilities, best first.
    pub fn candidates(&mut self, logits: &[f32], history: &[u32]) -> Vec<(u32, f64)> {
        self.left(logits, history).walk().collect()
    }

    /// The tokens that may be drawn.
    fn left(&mut self, logits: &[f32], history: &[u32]) -> Ranked {
        let mut logits = logits.to_vec();
        for &(token, bias) in &self.sampling.logit_bias {
            if let Some(x) = logits.get_mut(token as usize) {
                *x += bias;
            }
        }
        let order = std::mem::take(&mut self.sampling.order);
        let mut candidates: Option<Ranked> = None;
        for &step in &order {
            self.apply(step, &mut logits, &mut candidates, history);
        }
        self.sampling.order = order;
        let mut left = candidates.unwrap_or_else(|| Ranked::new(&logits, self.first_k()));
        if self.sampling.mirostat != 0 && self.sampling.temperature != 0.0 {
            let limit = self.mu;
            let keep = left.walk().take_while(|x| -x.1.log2() <= limit).count().max(1);
            left.truncate(keep);
        }
        left
    }

    fn apply(&mut self, step: Step, logits: &mut [f32], candidates: &mut Option<Ranked>, history: &[u32]) {
        let s = &self.sampling;
        let (filters_on, k) = (s.mirostat == 0, self.first_k());
        match step {
            // Penalties change logits; after candidates were sorted they sort again.
            Step::Penalties | Step::Dry => {
                let change = |logits: &mut [f32], of: &dyn Fn(u32) -> Option<usize>| match step {
                    Step::Dry => penalties::dry(s, &self.breakers, history, logits, of),
                    _ => penalties::recent(s, history, logits, of),
                };
                match candidates {
                    None => change(logits, &|t| Some(t as usize)),
                    Some(c) => c.change(|c| {
                        let mut values: Vec<f32> = c.iter().map(|c| c.1 as f32).collect();
                        // Looked up for every token of the history: where each is must not be searched for.
                        let mut places: Vec<(u32, usize)> = c.iter().enumerate().map(|(i, c)| (c.0, i)).collect();
                        places.sort_unstable();
                        let of = |t| places.binary_search_by_key(&t, |p| p.0).ok().map(|at| places[at].1);
                        change(&mut values, &of);
                        c.iter_mut().zip(values).for_each(|(c, v)| c.1 = f64::from(v));
                    }),
                }
            }
            _ => {
                let c = candidates.get_or_insert_with(|| Ranked::new(logits, k));
                match step {
                    //= F-MATH-150
                    Step::TopK if s.top_k > 0 && filters_on => c.truncate(s.top_k),
                    Step::TypicalP if filters_on => filters::typical(c, s.typical_p),
                    Step::TopP if filters_on => filters::top_p(c, s.top_p),
                    Step::MinP if filters_on => filters::min_p(c, s.min_p),
                    Step::Xtc if filters_on && s.temperature != 0.0 => {
                        let roll = if s.xtc_probability > 0.0 { self.random.unit() } else { 1.0 };
                        filters::xtc(c, s.xtc_probability, s.xtc_threshold, roll);
                    }
                    //= F-PIPE-180
                    Step::Temperature if s.temperature != 0.0 => c.divide(f64::from(s.temperature)),
                    _ => {}
                }
            }
        }
    }

    /// How many candidates the chain can ever need.
    fn first_k(&self) -> usize {
        let s = &self.sampling;
        let k_comes_first = s.order.iter().find(|s| !matches!(s, Step::Penalties | Step::Dry)) == Some(&Step::TopK);
        match (s.temperature == 0.0, s.top_k) {
            (true, _) => 1,
            (false, k) if k > 0 && k_comes_first && s.mirostat == 0 => k,
            _ => usize::MAX,
        }
    }
}

/// The candidate whose part of the unit interval holds `u`, with its probability.
//= F-MATH-149
fn draw(candidates: impl Iterator<Item = (u32, f64)>, u: f64) -> (u32, f64) {
    let (mut sum, mut last) = (0.0, (0, 1.0));
    for (token, p) in candidates {
        sum += p;
        if u < sum {
            return (token, p);
        }
        // Rounding may leave a sliver above the sum: it belongs to the last that can be drawn at all.
        if p > 0.0 {
            last = (token, p);
        }
    }
    last
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
mod tests;
