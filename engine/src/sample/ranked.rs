//! Candidates that are put in order only as far as somebody looks: a vocabulary has a hundred thousand tokens, a draw
//! mostly ends among the first few, and sorting all of them costs more than a step of a small model.

/// A token and its logit.
pub(super) type Candidate = (u32, f64);

/// Tokens that may be drawn.
pub(super) struct Ranked {
    all: Vec<Candidate>,
    /// As many stand in order, best first, and none of the others is better.
    ordered: usize,
}

impl Ranked {
    /// The best `most` tokens of a row of logits. NaN is below everything.
    pub fn new(logits: &[f32], most: usize) -> Ranked {
        let number = |x: f32| if x.is_nan() { f64::NEG_INFINITY } else { f64::from(x) };
        let all = logits.iter().enumerate().map(|(i, &x)| (i as u32, number(x))).collect();
        let mut ranked = Ranked { all, ordered: 0 };
        ranked.truncate(most);
        ranked
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.all.len()
    }

    /// Number `i`, the best being 0.
    pub fn get(&mut self, i: usize) -> Candidate {
        self.order(i + 1);
        self.all[i]
    }

    /// The largest logit; 0 of nothing.
    pub fn best(&mut self) -> f64 {
        if self.all.is_empty() { 0.0 } else { self.get(0).1 }
    }

    /// Keeps the best `n`.
    pub fn truncate(&mut self, n: usize) {
        if n < self.all.len() {
            self.order(n);
            self.all.truncate(n);
        }
    }

    /// Drops the best `n`.
    pub fn drop_best(&mut self, n: usize) {
        self.order(n);
        self.all.drain(..n);
        self.ordered -= n;
    }

    /// Keeps those with a logit of at least `floor`.
    pub fn keep_from(&mut self, floor: f64) {
        self.all.retain(|c| c.1 >= floor);
        self.ordered = self.ordered.min(self.all.len());
    }

    /// Divides all logits by a positive number.
    pub fn divide(&mut self, by: f64) {
        self.all.iter_mut().for_each(|c| c.1 /= by);
    }

    /// All, in order.
    pub fn sorted(&mut self) -> &mut Vec<Candidate> {
        self.order(self.all.len());
        &mut self.all
    }

    /// All, to be changed in any way.
    pub fn change(&mut self, change: impl FnOnce(&mut Vec<Candidate>)) {
        change(self.sorted());
        self.ordered = 0;
    }

    /// Sum of `e^(logit - best)` over all: what probabilities are divided by.
    pub fn total(&mut self) -> f64 {
        let best = self.best();
        self.all.iter().map(|c| (c.1 - best).exp()).sum()
    }

    /// Probabilities, best first, as far as they are asked for.
    pub fn walk(&mut self) -> Walk<'_> {
        let (best, total) = (self.best(), self.total());
        Walk { ranked: self, at: 0, best, total }
    }

    /// Puts the first `n` in order, and some more, so that going on one by one is not slow.
    fn order(&mut self, n: usize) {
        if n <= self.ordered {
            return;
        }
        let n = n.max(256).max(4 * self.ordered).min(self.all.len());
        let better = |a: &Candidate, b: &Candidate| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0));
        let rest = &mut self.all[self.ordered..];
        let more = n - self.ordered;
        if more > 0 && more < rest.len() {
            rest.select_nth_unstable_by(more - 1, better);
        }
        rest[..more].sort_unstable_by(better);
        self.ordered = n;
    }
}

/// Candidates with their probabilities, best first.
pub(super) struct Walk<'r> {
    ranked: &'r mut Ranked,
    at: usize,
    best: f64,
    total: f64,
}

impl Iterator for Walk<'_> {
    type Item = (u32, f64);

    fn next(&mut self) -> Option<(u32, f64)> {
        if self.at == self.ranked.len() {
            return None;
        }
        let (token, logit) = self.ranked.get(self.at);
        self.at += 1;
        Some((token, (logit - self.best).exp() / self.total))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// However it is looked at: the order is that of a whole sort.
        #[test]
        fn the_order_is_that_of_a_sort(
            logits in prop::collection::vec(prop_oneof![-4f32..4.0, Just(f32::NAN), Just(1.0)], 1..2000),
            looks in prop::collection::vec(0usize..2000, 0..4),
            most in prop_oneof![Just(usize::MAX), 1usize..2000],
        ) {
            let mut want: Vec<Candidate> = logits
                .iter()
                .enumerate()
                .map(|(i, &x)| (i as u32, if x.is_nan() { f64::NEG_INFINITY } else { f64::from(x) }))
                .collect();
            want.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
            want.truncate(most);
            let mut ranked = Ranked::new(&logits, most);
            prop_assert_eq!(ranked.len(), want.len());
            for look in looks.into_iter().filter(|l| *l < want.len()) {
                prop_assert_eq!(ranked.get(look), want[look]);
            }
            prop_assert_eq!(&ranked.sorted()[..], &want[..]);
        }
    }
}
