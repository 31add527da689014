//! Steps that drop candidates. Each keeps at least one; probabilities are those of the candidates still there.

use super::ranked::Ranked;

/// The most likely whose probabilities sum up to p.
//= F-MATH-151
pub(super) fn top_p(c: &mut Ranked, p: f32) {
    if p < 1.0 {
        let mut sum = 0.0;
        let last = c.walk().position(|x| {
            sum += x.1;
            sum >= f64::from(p)
        });
        c.truncate(last.map_or(c.len(), |n| n + 1));
    }
}

/// Those at least `p` times as likely as the best.
pub(super) fn min_p(c: &mut Ranked, p: f32) {
    if p > 0.0 {
        // The best is never below: p is at most 1.
        let best = c.best();
        c.keep_from((best + f64::from(p).ln()).min(best));
    }
}

/// Those whose surprise is nearest to the entropy, up to probability p.
pub(super) fn typical(c: &mut Ranked, p: f32) {
    if p >= 1.0 {
        return;
    }
    let probability: Vec<f64> = c.walk().map(|x| x.1).collect();
    let surprise = |i: usize| if probability[i] > 0.0 { -probability[i].ln() } else { f64::INFINITY };
    let entropy: f64 =
        (0..c.len()).map(|i| if probability[i] > 0.0 { probability[i] * surprise(i) } else { 0.0 }).sum();
    let mut order: Vec<usize> = (0..c.len()).collect();
    order.sort_by(|&a, &b| (surprise(a) - entropy).abs().total_cmp(&(surprise(b) - entropy).abs()).then(a.cmp(&b)));
    let mut sum = 0.0;
    let last = order.iter().position(|&i| {
        sum += probability[i];
        sum > f64::from(p)
    });
    order.truncate(last.map_or(order.len(), |n| n + 1));
    c.change(|c| *c = order.into_iter().map(|i| c[i]).collect());
}

/// Drops all but the least likely of the candidates above the threshold, if `roll` says so and there are two.
pub(super) fn xtc(c: &mut Ranked, probability: f32, threshold: f32, roll: f64) {
    if probability <= 0.0 || threshold > 0.5 || c.len() < 2 || roll >= f64::from(probability) {
        return;
    }
    let above = c.walk().take_while(|x| x.1 >= f64::from(threshold)).count();
    if above >= 2 {
        c.drop_best(above - 1);
    }
}
