//! The numbers of a [`Sampling`] by name: one table for flags, requests, what a model file recommends, and ranges.

use super::{Sampling, Step};
use crate::error::Result;
use crate::file::Metadata;

/// A number that can be set.
#[derive(Debug)]
pub struct Setting {
    /// As a flag without its dashes.
    pub name: &'static str,
    /// Its key in a GGUF file, after `general.sampling.`; empty if it has none.
    pub gguf: &'static str,
    /// The value that turns it off. A setting without one belongs to another.
    pub off: Option<f32>,
    /// Smallest and largest value.
    pub range: (f32, f32),
    /// Values are multiples of this; 0 is any number.
    pub step: f32,
    /// For people.
    pub help: &'static str,
    /// Reads it.
    pub get: fn(&Sampling) -> f32,
    /// Writes it.
    pub set: fn(&mut Sampling, f32),
}

/// `setting!("name" field: type, "key", off, low .. high / step, "help")`.
macro_rules! setting {
    ($name:literal $field:ident: $type:ty, $gguf:literal, $off:expr, $low:literal .. $high:literal / $step:literal, $help:literal) => {
        Setting {
            name: $name,
            gguf: $gguf,
            off: $off,
            range: ($low as f32, $high as f32),
            step: $step as f32,
            help: $help,
            get: |s| s.$field as f32,
            set: |s, x| s.$field = x as $type,
        }
    };
}

impl Setting {
    /// Every setting, in the order of the help.
    pub const ALL: &'static [Setting] = &[
        setting!("temperature" temperature: f32, "temp", None, 0 .. 2 / 0, "Randomness; 0 always takes the most likely token"),
        setting!("top-k" top_k: usize, "top_k", Some(0.0), 0 .. 16_777_216 / 1, "Draw from the K most likely tokens only; 0 is all"),
        setting!("top-p" top_p: f32, "top_p", Some(1.0), 0 .. 1 / 0, "Draw from the most likely tokens that make up P of the probability; 1 is all"),
        setting!("min-p" min_p: f32, "min_p", Some(0.0), 0 .. 1 / 0, "Draw from tokens at least P times as likely as the best; 0 is all"),
        setting!("typical-p" typical_p: f32, "", Some(1.0), 0 .. 1 / 0, "Draw from tokens of about expected surprise that make up P of the probability; 1 is all"),
        setting!("xtc-probability" xtc_probability: f32, "xtc_probability", Some(0.0), 0 .. 1 / 0, "How often to leave out all but the last of the top choices (XTC); 0 is never"),
        setting!("xtc-threshold" xtc_threshold: f32, "xtc_threshold", None, 0 .. 1 / 0, "Probability that makes a token a top choice"),
        setting!("repeat-penalty" repeat_penalty: f32, "penalty_repeat", Some(1.0), 0.1 .. 10 / 0, "Make recent tokens less likely; 1 is off"),
        setting!("presence-penalty" presence_penalty: f32, "", Some(0.0), -2 .. 2 / 0, "Take this off the logit of every recent token; 0 is off"),
        setting!("frequency-penalty" frequency_penalty: f32, "", Some(0.0), -2 .. 2 / 0, "Take this off for each time a recent token occurs; 0 is off"),
        setting!("repeat-last-n" repeat_last_n: usize, "penalty_last_n", None, 0 .. 16_777_216 / 1, "How many tokens are recent for these three"),
        setting!("dry-multiplier" dry_multiplier: f32, "", Some(0.0), 0 .. 100 / 0, "Strength of the penalty on repeated sequences (DRY); 0 is off"),
        setting!("dry-base" dry_base: f32, "", None, 1 .. 100 / 0, "Growth of that penalty with each token repeated"),
        setting!("dry-allowed-length" dry_allowed_length: usize, "", None, 0 .. 16_777_216 / 1, "Length of a repetition that costs nothing"),
        setting!("dry-last-n" dry_last_n: usize, "", None, 0 .. 16_777_216 / 1, "How many tokens DRY looks back"),
        setting!("mirostat" mirostat: usize, "mirostat", Some(0.0), 0 .. 2 / 2, "2 holds surprise at --mirostat-tau, in place of every filter; 0 is off"),
        setting!("mirostat-tau" mirostat_tau: f32, "mirostat_tau", None, 0 .. 100 / 0, "Surprise that Mirostat aims at, in bits"),
        setting!("mirostat-eta" mirostat_eta: f32, "mirostat_eta", None, 0 .. 1 / 0, "How fast Mirostat corrects itself"),
    ];

    /// The setting of that name.
    pub fn named(name: &str) -> Option<&'static Setting> {
        Setting::ALL.iter().find(|s| s.name == name)
    }

    /// Whether the value is one of those between which the setting goes in steps.
    pub fn takes(&self, x: f32) -> bool {
        self.step == 0.0 || x % self.step == 0.0
    }
}

/// What a user asked for; everything else is the model's recommendation, or the default.
#[derive(Clone, Debug, Default)]
pub struct Asked {
    /// Numbers.
    pub values: Vec<(&'static Setting, f32)>,
    /// Order of the steps.
    pub order: Option<Vec<Step>>,
    /// Added to the logits of tokens.
    pub logit_bias: Vec<(u32, f32)>,
    /// Texts that a repetition does not run across, in place of the usual ones.
    pub dry_breakers: Option<Vec<String>>,
    /// Of the random numbers.
    pub seed: u64,
}

impl Sampling {
    /// Takes over what the file recommends (`general.sampling.*`); says what of it cannot be had.
    pub fn recommended_by(&mut self, file: &Metadata) -> Result<Vec<String>> {
        let mut warnings = Vec::new();
        for setting in Setting::ALL.iter().filter(|s| !s.gguf.is_empty()) {
            let key = format!("general.sampling.{}", setting.gguf);
            match file.float(&key)?.map(|x| x as f32) {
                Some(x) if setting.takes(x) => self.put(setting, x, &mut warnings),
                Some(x) => warnings.push(format!("the model recommends {key} = {x}, which there is not; left out")),
                None => {}
            }
        }
        if let Some(text) = file.string("general.sampling.sequence")? {
            match Step::chain(text) {
                Ok(order) => self.order = order,
                Err(e) => warnings.push(format!("the model recommends an order of samplers, but {}; left out", e.what)),
            }
        }
        Ok(warnings)
    }

    /// Does as asked, and puts every value into its range; says what it changed.
    pub fn asked(&mut self, asked: &Asked) -> Vec<String> {
        self.seed = asked.seed;
        self.logit_bias.clone_from(&asked.logit_bias);
        if let Some(order) = &asked.order {
            self.order.clone_from(order);
        }
        if let Some(breakers) = &asked.dry_breakers {
            self.dry_breakers.clone_from(breakers);
        }
        let mut warnings = Vec::new();
        for (setting, x) in &asked.values {
            self.put(setting, *x, &mut warnings);
        }
        warnings.extend(self.clamp());
        warnings
    }

    /// Puts every value into its range; says what it changed.
    pub fn clamp(&mut self) -> Vec<String> {
        let mut warnings = Vec::new();
        for setting in Setting::ALL {
            self.put(setting, (setting.get)(self), &mut warnings);
        }
        warnings
    }

    /// Stores the value, or the nearest that is in range: a field that counts could not hold another.
    fn put(&mut self, setting: &Setting, x: f32, warnings: &mut Vec<String>) {
        let (low, high) = setting.range;
        //= F-JID-266 F-JID-267 F-JID-268
        let inside = if x.is_nan() { low } else { x.clamp(low, high) };
        if inside != x {
            warnings.push(format!("{} {x} is outside {low}..{high}; using {inside}", setting.name));
        }
        (setting.set)(self, inside);
    }

    /// In words: what is on, in the order of the table.
    pub fn describe(&self) -> String {
        let default = Sampling::default();
        let shown = |s: &&Setting| match s.off {
            _ if s.name == "temperature" => true,
            Some(off) => (s.get)(self) != off,
            None => (s.get)(self) != (s.get)(&default),
        };
        // Without randomness only what changes logits matters.
        if self.temperature == 0.0 && !self.changes_logits() {
            return "greedy".into();
        }
        let mut words: Vec<String> =
            Setting::ALL.iter().filter(shown).map(|s| format!("{} {}", s.name, (s.get)(self))).collect();
        if !self.logit_bias.is_empty() {
            words.push(format!("logit-bias on {} tokens", self.logit_bias.len()));
        }
        if self.order != default.order {
            words.push(format!("order {}", Step::names(&self.order)));
        }
        words.push(format!("seed {}", self.seed));
        words.join(", ")
    }
}
